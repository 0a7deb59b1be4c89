//! The object with the programs, loaded.

use super::links::Program;
use crate::kernel::load::LoadError;
use crate::kernel::object::{duplicate, named, object_error, offer};
use aya::EbpfLoader;
use aya::programs::{CgroupSockAddr, SkLookup, SockOps};
use proxy_common::redirect::{map, program};
use std::path::Path;

/// The object built by `cargo xtask build-ebpf`; empty if it was not.
pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/redirect.bpf.o"));

/// Loads the programs with the maps that are pinned in a folder, or are going to be; without one,
/// with maps that nobody keeps.
pub(super) fn load(folder: Option<&Path>) -> Result<Vec<Program>, LoadError> {
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    for (name, folder) in map::ALL.into_iter().flat_map(|name| Some((name, folder?))) {
        loader.map_pin_path(name, folder.join(name));
    }
    let mut ebpf = loader.load(OBJECT).map_err(object_error)?;
    let mut programs = Vec::new();
    for name in program::ALL {
        let fd = match name {
            program::MEET | program::HEAR => {
                let events: &mut SockOps = named(&mut ebpf, name)?;
                offer(name, || events.load())?;
                duplicate(name, events.fd())?
            }
            program::ARRIVE => {
                let lookups: &mut SkLookup = named(&mut ebpf, name)?;
                offer(name, || lookups.load())?;
                duplicate(name, lookups.fd())?
            }
            _ => {
                let address: &mut CgroupSockAddr = named(&mut ebpf, name)?;
                offer(name, || address.load())?;
                duplicate(name, address.fd())?
            }
        };
        programs.push(Program { name, fd });
    }
    Ok(programs)
}
