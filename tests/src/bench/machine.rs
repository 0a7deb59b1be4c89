//! The machine: what it is, and how busy it is.

use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

/// Ticks per second of the times in `/proc`: fixed on Linux for user space.
const TICKS: f64 = 100.0;

/// A moment, to be compared with a later one.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    at: Instant,
    /// Seconds in which a CPU did nothing for us: idle, waiting for disks, taken by the host.
    unused: f64,
    cpus: f64,
}

impl Moment {
    /// Now.
    ///
    /// # Errors
    ///
    /// `/proc/stat` cannot be read.
    pub fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
        let unused = unused(&text).context("/proc/stat has no line of all CPUs")?;
        Ok(Self {
            at: Instant::now(),
            unused,
            cpus: cpus(&text) as f64,
        })
    }

    /// CPU seconds of the whole machine since this moment: interrupts and other programs too.
    ///
    /// Measured as what was not idle, because the kernel measures idle time, and samples the rest
    /// at its timer ticks only.
    ///
    /// # Errors
    ///
    /// As [`Self::now`].
    pub fn busy_seconds(&self) -> Result<f64> {
        let now = Self::now()?;
        let wall = now.at.duration_since(self.at).as_secs_f64();
        Ok((wall * self.cpus - (now.unused - self.unused)).max(0.0))
    }
}

/// The share of all CPUs that is in use while nothing is measured, 0 to 1.
///
/// # Errors
///
/// As [`Moment::now`].
pub fn background() -> Result<f64> {
    const WINDOW: Duration = Duration::from_secs(1);
    let before = Moment::now()?;
    thread::sleep(WINDOW);
    let busy = before.busy_seconds()?;
    Ok(busy / before.at.elapsed().as_secs_f64() / before.cpus)
}

/// Columns idle, iowait and steal of the first line, in seconds.
fn unused(stat: &str) -> Option<f64> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<f64> = fields
        .split_whitespace()
        .map_while(|field| field.parse().ok())
        .collect();
    Some((ticks.get(3)? + ticks.get(4)? + ticks.get(7)?) / TICKS)
}

fn cpus(stat: &str) -> usize {
    let lines = stat.lines().skip(1);
    lines.take_while(|line| line.starts_with("cpu")).count()
}

/// The machine and how busy it was, in a few lines of Markdown. `background`: the share of the CPUs
/// that other programs used before the run; `None` if there was more than one.
pub fn circumstances(background: Option<f64>) -> String {
    let run = background.map_or_else(
        || "the scenarios are of several runs; the peers of each took turns in one".to_owned(),
        |share| {
            let percent = share * 100.0;
            format!("other programs used {percent:.0} % of the CPUs before the run")
        },
    );
    format!("{}- {run}\n", description())
}

/// The machine in a few lines of Markdown.
fn description() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let field = |name: &str| {
        cpu.lines()
            .find_map(|line| line.strip_prefix(name)?.trim().strip_prefix(':'))
            .unwrap_or(" unknown")
            .trim()
            .to_owned()
    };
    let virtual_machine = cpu
        .lines()
        .any(|line| line.starts_with("flags") && line.contains(" hypervisor"));
    let memory = read("/proc/meminfo");
    let kib: u64 = memory
        .lines()
        .next()
        .and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .unwrap_or(0);
    let os = read("/etc/os-release");
    let os = os
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .unwrap_or("unknown");
    let kernel = read("/proc/sys/kernel/osrelease");
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "- CPU: {} (family {}, model {}), {} cores{}",
        field("model name"),
        field("cpu family"),
        field("model"),
        cpus(&read("/proc/stat")),
        if virtual_machine {
            " of a virtual machine"
        } else {
            ""
        },
    );
    let _ = writeln!(text, "- memory: {:.0} GiB", kib as f64 / 1024.0 / 1024.0);
    let _ = writeln!(
        text,
        "- Linux {}, {}",
        kernel.split('-').next().unwrap_or_default().trim(),
        os.trim_matches('"')
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  100 2 300 4000 50 6 70 8 0 0\ncpu0 1 2 3\ncpu1 1 2 3\nintr 5\n";

    #[test]
    fn idle_waiting_and_stolen_time_is_unused() {
        assert_eq!(unused(STAT), Some(40.58));
        assert_eq!(cpus(STAT), 2);
        assert_eq!(unused("intr 5\n"), None);
    }

    #[test]
    fn the_description_has_its_three_lines() {
        assert_eq!(description().lines().count(), 3);
    }
}
