//! The kernel object: its maps made or opened, its programs loaded and pinned.

use super::layout::{Capacities, SHAPES};
use super::load::LoadError;
use super::pins::{self, Pins};
use super::sys;
use aya::maps::{MapError, ProgramArray};
use aya::programs::{ProgramError, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader};
use proxy_common::maps::{self, program};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// The kernel object built by `cargo xtask build-ebpf`; empty if it was not.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sluice.bpf.o"));

/// Lines of the verifier's log that an error shows: its last ones say what it refused.
const VERIFIER_LINES: usize = 24;

/// Parses the object and makes its maps, or opens those that are pinned in the directory.
pub(crate) fn load_object(
    object: &[u8],
    directory: &Path,
    sizes: &Capacities,
) -> Result<Ebpf, LoadError> {
    let mut loader = EbpfLoader::new();
    // The programs ask for no relocation against the kernel's types; reading those takes 0.1 s.
    loader.btf(None);
    for shape in SHAPES {
        loader.map_pin_path(shape.name, directory.join(shape.name));
    }
    for (name, entries) in sizes.overrides() {
        loader.map_max_entries(name, entries);
    }
    loader.load(object).map_err(object_error)
}

pub(crate) fn object_error(error: EbpfError) -> LoadError {
    LoadError::Object(Box::new(error))
}

/// Loads one program of an object.
pub(crate) fn load_program(ebpf: &mut Ebpf, name: &'static str) -> Result<OwnedFd, LoadError> {
    let program_error = |source| match source {
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
    };
    let program: &mut Xdp = ebpf
        .program_mut(name)
        .ok_or(LoadError::MissingProgram(name))?
        .try_into()
        .map_err(|_| LoadError::MissingProgram(name))?;
    program.load().map_err(program_error)?;
    let fd = program.fd().map_err(program_error)?;
    fd.as_fd()
        .try_clone_to_owned()
        .map_err(|source| program_error(ProgramError::IOError(source)))
}

/// Loads the balancer: its first program, and the later ones into the program array that it hands
/// packets on through.
///
/// The array belongs to this load alone and is pinned, because the kernel empties an array that no
/// process and no pin holds. The array of the load before stays pinned as `stages_old`, since its
/// programs run until the links are switched.
pub(crate) fn load_balancer(ebpf: &mut Ebpf, directory: &Path) -> Result<OwnedFd, LoadError> {
    // Before its array is taken out: the object's instructions name maps by descriptor.
    let balance = load_program(ebpf, program::BALANCE)?;
    for name in program::STAGES {
        load_program(ebpf, name)?;
    }
    let missing = || LoadError::MissingProgram(program::BALANCE);
    let stages = ebpf.take_map(maps::STAGES).ok_or_else(missing)?;
    let mut stages = ProgramArray::try_from(stages).map_err(map_error)?;
    for (index, name) in (0..).zip(program::STAGES) {
        let stage: &Xdp = ebpf
            .program(name)
            .ok_or(LoadError::MissingProgram(name))?
            .try_into()
            .map_err(|_| LoadError::MissingProgram(name))?;
        let fd = stage.fd().map_err(|source| LoadError::Program {
            program: name,
            source: Box::new(source),
        })?;
        stages.set(index, fd, 0).map_err(map_error)?;
    }
    let (path, old) = (
        directory.join(maps::STAGES),
        directory.join(format!("{}_old", maps::STAGES)),
    );
    pins::remove_pin(&old)?;
    let error = |path: &Path| {
        let path = path.to_owned();
        move |source| LoadError::Path {
            call: "pin",
            path,
            source,
        }
    };
    if path.exists() {
        std::fs::rename(&path, &old).map_err(error(&old))?;
    }
    stages
        .pin(&path)
        .map_err(|source| error(&path)(std::io::Error::other(source)))?;
    Ok(balance)
}

fn map_error(source: MapError) -> LoadError {
    object_error(EbpfError::MapError(source))
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Pins a program under its name, in place of what was there.
pub(crate) fn pin_program(
    pins: &Pins,
    name: &'static str,
    program: &OwnedFd,
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
