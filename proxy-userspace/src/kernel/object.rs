//! The kernel object: its maps made or opened, its programs loaded and pinned.

use super::handle::MapHandle;
use super::layout::{Capacities, SHAPES};
use super::load::LoadError;
use super::log;
use super::pins::{self, Pins};
use super::store::StoreError;
use super::sys;
use crate::config::model::{KernelLog, L4};
use aya::maps::Map;
use aya::programs::{Program, ProgramError, ProgramFd, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader};
use proxy_common::maps::{self, program};
use std::io;
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

/// The kernel object built by `cargo xtask build-ebpf`; empty if it was not.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sluice.bpf.o"));

/// As [`OBJECT`], with a log of what becomes of packets.
pub(crate) static LOGGING_OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sluice-log.bpf.o"));

/// How often a program is offered to the kernel before an interruption counts as a failure.
const ATTEMPTS: u32 = 5;

/// Lines of the verifier's log that an error shows: its last ones say what it refused.
const VERIFIER_LINES: usize = 24;

/// The object that a configuration asks for.
pub(crate) fn object_for(l4: &L4) -> &'static [u8] {
    match l4.kernel_log {
        KernelLog::Off => OBJECT,
        KernelLog::Drops | KernelLog::All => LOGGING_OBJECT,
    }
}

/// Parses the object and makes its maps, or opens those that are pinned in the directory.
pub(crate) fn load_object(
    object: &[u8],
    directory: &Path,
    sizes: &Capacities,
    log: KernelLog,
) -> Result<Ebpf, LoadError> {
    let level = log::level(log);
    let mut loader = EbpfLoader::new();
    // The programs ask for no relocation against the kernel's types; reading those takes 0.1 s.
    loader.btf(None);
    for shape in SHAPES {
        loader.map_pin_path(shape.name, directory.join(shape.name));
    }
    if let Some(level) = &level {
        loader.override_global(aya_log::LEVEL, level, true);
    }
    for (name, entries) in sizes.overrides() {
        loader.map_max_entries(name, entries);
    }
    loader.load(object).map_err(object_error)
}

pub(crate) fn object_error(error: EbpfError) -> LoadError {
    LoadError::Object(Box::new(error))
}

/// Loads one XDP program of an object.
pub(crate) fn load_program(ebpf: &mut Ebpf, name: &'static str) -> Result<OwnedFd, LoadError> {
    let program: &mut Xdp = named(ebpf, name)?;
    offer(name, || program.load())?;
    duplicate(name, program.fd())
}

/// As [`load_program`], for a program on packets that leave.
fn load_classifier(ebpf: &mut Ebpf, name: &'static str) -> Result<OwnedFd, LoadError> {
    let program: &mut SchedClassifier = named(ebpf, name)?;
    offer(name, || program.load())?;
    duplicate(name, program.fd())
}

/// The object's program of this name, if it is of the type wanted.
pub(crate) fn named<'e, P>(ebpf: &'e mut Ebpf, name: &'static str) -> Result<P, LoadError>
where
    P: TryFrom<&'e mut Program>,
{
    let program = ebpf.program_mut(name);
    let program = program.ok_or(LoadError::MissingProgram(name))?;
    program
        .try_into()
        .map_err(|_| LoadError::MissingProgram(name))
}

/// Offers a program to the kernel, again if it was interrupted.
pub(crate) fn offer(
    name: &'static str,
    mut load: impl FnMut() -> Result<(), ProgramError>,
) -> Result<(), LoadError> {
    let mut attempts = 1;
    while let Err(error) = load() {
        if attempts == ATTEMPTS || !is_interruption(&error) {
            return Err(program_error(name)(error));
        }
        attempts += 1;
    }
    Ok(())
}

pub(crate) fn duplicate(
    name: &'static str,
    fd: Result<&ProgramFd, ProgramError>,
) -> Result<OwnedFd, LoadError> {
    fd.and_then(|fd| {
        let copy = fd.as_fd().try_clone_to_owned();
        copy.map_err(ProgramError::IOError)
    })
    .map_err(program_error(name))
}

pub(crate) fn program_error(name: &'static str) -> impl Fn(ProgramError) -> LoadError {
    move |source| match source {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => LoadError::Refused {
            program: name,
            log: last_lines(&verifier_log.to_string(), VERIFIER_LINES),
            source: io_error,
        },
        source => LoadError::Program {
            program: name,
            source: Box::new(source),
        },
    }
}

/// True where the verifier stopped because a signal waits for this thread: it says nothing of the
/// program then.
fn is_interruption(error: &ProgramError) -> bool {
    matches!(error, ProgramError::LoadError { io_error, .. }
        if matches!(io_error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted))
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// The balancer's program, and what keeps the programs behind it.
pub(crate) struct Balancer {
    /// The program that is attached.
    pub(crate) program: OwnedFd,
    /// Its program array. The kernel empties such an array when no process and no pin refers to it
    /// any more, even while a program still does: it must be pinned for as long as a link uses
    /// this program, and not one moment less.
    pub(crate) stages: MapHandle,
    /// Aims health probes to VIPs at their backends, see [`super::aim`].
    pub(crate) probe: OwnedFd,
}

/// Loads the balancer's programs and chains them.
pub(crate) fn load_balancer(ebpf: &mut Ebpf) -> Result<Balancer, LoadError> {
    let stages = own_map(ebpf, maps::STAGES)?;
    for (index, name) in (0u32..).zip(program::STAGES) {
        let stage = load_program(ebpf, name)?;
        stages
            .set(&index, &stage.as_raw_fd())
            .map_err(store_error("update", maps::STAGES))?;
    }
    let program = load_program(ebpf, program::BALANCE)?;
    let probe = load_classifier(ebpf, program::PROBE)?;
    Ok(Balancer {
        program,
        stages,
        probe,
    })
}

/// A map of the object that is not adopted but belongs to this load of it.
pub(crate) fn own_map(ebpf: &Ebpf, name: &'static str) -> Result<MapHandle, LoadError> {
    let error = store_error("open", name);
    let data = match ebpf.map(name) {
        Some(
            Map::Array(data)
            | Map::ProgramArray(data)
            | Map::HashMap(data)
            | Map::LruHashMap(data)
            | Map::PerCpuArray(data)
            | Map::SockHash(data)
            | Map::SockMap(data)
            | Map::SkStorage(data),
        ) => data,
        _ => return Err(error(io::ErrorKind::NotFound.into())),
    };
    data.fd()
        .as_fd()
        .try_clone_to_owned()
        .and_then(MapHandle::new)
        .map_err(error)
}

fn store_error(call: &'static str, map: &'static str) -> impl Fn(io::Error) -> LoadError {
    move |source| LoadError::Store(StoreError { call, map, source })
}

/// Pins a program under its name, in place of what was there.
pub(crate) fn pin_program(
    pins: &Pins,
    name: &'static str,
    program: impl AsFd,
) -> Result<(), LoadError> {
    let (path, fresh) = (pins.program(name), pins.program(&format!("{name}_next")));
    pins::remove_pin(&fresh)?;
    let error = |path: &Path| {
        let path = path.to_owned();
        move |source| LoadError::Path {
            call: "pin",
            path,
            source,
        }
    };
    sys::pin(program.as_fd(), &fresh).map_err(error(&fresh))?;
    std::fs::rename(&fresh, &path).map_err(error(&path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_of_a_verifier_log_is_shown() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc");
        assert_eq!(last_lines("", 2), "");
    }
}
