//! The driver program, seen from user space.

use crate::packet::rig::{Action, XdpMd};
use anyhow::{Context, Result, ensure};
use aya::maps::{Array, ProgramArray};
use aya::programs::{ProgramFd, TestRun as _, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use nix::sys::time::TimeValLike as _;
use nix::time::{ClockId, clock_gettime};
use proxy_common::bench::{self, TEMPLATE_WORDS};
use std::path::PathBuf;
use std::time::Instant;

/// Environment variable that names the driver's object, instead of `target/ebpf/bench_driver`.
pub const OBJECT_VARIABLE: &str = "SLUICE_BENCH_OBJECT";

/// The loaded driver and baselines.
pub struct Driver {
    ebpf: Ebpf,
    ingress: u32,
    frame: Vec<u8>,
}

/// How the driver varies the flow from packet to packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vary {
    /// How many flows, a power of two up to 2^30.
    pub flows: u32,
    /// From one flow to the next: odd, so that every flow has its turn.
    pub step: u32,
}

impl Driver {
    /// Loads the driver's object; frames arrive on `ingress`.
    ///
    /// # Errors
    ///
    /// When the object is not built, or privileges are missing.
    pub fn load(ingress: u32) -> Result<Self> {
        let path = std::env::var_os(OBJECT_VARIABLE).map_or_else(
            || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/ebpf/bench_driver"),
            PathBuf::from,
        );
        ensure!(
            path.exists(),
            "{} is missing: run `cargo xtask build-ebpf`",
            path.display()
        );
        let mut ebpf = EbpfLoader::new()
            .load_file(&path)
            .with_context(|| format!("loading {}", path.display()))?;
        for (name, program) in ebpf.programs_mut() {
            let program: &mut Xdp = program.try_into()?;
            program
                .load()
                .with_context(|| format!("loading program {name}"))?;
        }
        Ok(Self {
            ebpf,
            ingress,
            frame: Vec::new(),
        })
    }

    /// A program of the driver's object.
    ///
    /// # Errors
    ///
    /// When it has none of this name.
    pub fn program(&self, name: &str) -> Result<&Xdp> {
        let program = self
            .ebpf
            .program(name)
            .with_context(|| format!("no program {name}"))?;
        Ok(program.try_into()?)
    }

    /// As [`Self::program`], to attach it.
    ///
    /// # Errors
    ///
    /// As [`Self::program`].
    pub fn program_mut(&mut self, name: &str) -> Result<&mut Xdp> {
        let program = self
            .ebpf
            .program_mut(name)
            .with_context(|| format!("no program {name}"))?;
        Ok(program.try_into()?)
    }

    /// Sets the program that is measured.
    ///
    /// # Errors
    ///
    /// When the kernel finds it incompatible with the driver.
    pub fn aim(&mut self, target: &ProgramFd) -> Result<()> {
        let map = self
            .ebpf
            .map_mut(bench::TARGET_MAP)
            .context("the driver's program array")?;
        ProgramArray::try_from(map)?
            .set(0, target, 0)
            .context("setting the measured program")
    }

    /// Sets the frame, and how its flow varies. Counting starts at flow `first`.
    ///
    /// # Errors
    ///
    /// When the frame is shorter than the template.
    pub fn send(&mut self, frame: &[u8], vary: Option<Vary>, first: u32) -> Result<()> {
        ensure!(
            frame.len() >= 8 * TEMPLATE_WORDS,
            "the frame is shorter than the template"
        );
        let mut driver = bench::Driver {
            length: frame.len() as u32,
            next: first,
            ..Default::default()
        };
        for (word, octets) in driver.template.iter_mut().zip(frame.as_chunks::<8>().0) {
            *word = u64::from_ne_bytes(*octets);
        }
        let vary = vary.unwrap_or(Vary { flows: 1, step: 1 });
        driver.step = vary.step;
        driver.mask = vary.flows - 1;
        let v6 = frame[12..14] == [0x86, 0xdd];
        (driver.address_offset, driver.port_offset) = if v6 { (36, 54) } else { (28, 34) };
        let map = self
            .ebpf
            .map_mut(bench::DRIVER_MAP)
            .context("the driver's map")?;
        Array::try_from(map)?.set(0, driver, 0)?;
        self.frame = frame.to_vec();
        Ok(())
    }

    /// Number of the next flow.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn next(&self) -> Result<u32> {
        let map = self
            .ebpf
            .map(bench::DRIVER_MAP)
            .context("the driver's map")?;
        let driver: bench::Driver = Array::try_from(map)?.get(&0, 0)?;
        Ok(driver.next)
    }

    /// Runs the driver this often; gives nanoseconds per packet and the last action.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the run.
    pub fn run(&self, repeat: u32) -> Result<(f64, Action)> {
        let context = XdpMd::new(self.frame.len() as u32, self.ingress).octets();
        let program = self.program(bench::program::DRIVER)?;
        let start = cpu_time_ns()?;
        let result = program.test_run(TestRunOptions {
            data_in: Some(&self.frame),
            ctx_in: Some(&context),
            repeat,
            ..TestRunOptions::default()
        })?;
        let spent = cpu_time_ns()? - start;
        Ok((
            spent as f64 / f64::from(repeat),
            Action::from_code(result.return_value),
        ))
    }

    /// Sends real frames (`BPF_F_TEST_XDP_LIVE_FRAMES`): what the program sends is transmitted.
    /// Gives packets per second of wall time.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the run.
    pub fn run_live(&self, repeat: u32) -> Result<f64> {
        /// Frames that the kernel keeps in flight; its default.
        const BATCH: u32 = 64;
        let context = XdpMd::new(self.frame.len() as u32, self.ingress).octets();
        let program = self.program(bench::program::DRIVER)?;
        let start = Instant::now();
        program.test_run(TestRunOptions {
            data_in: Some(&self.frame),
            ctx_in: Some(&context),
            repeat,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::default()
        })?;
        Ok(f64::from(repeat) / start.elapsed().as_secs_f64())
    }
}

fn cpu_time_ns() -> Result<i64> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.num_nanoseconds())
}
