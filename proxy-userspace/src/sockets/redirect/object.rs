//! The object with the programs, loaded.

use super::links::Program;
use crate::kernel::load::LoadError;
use crate::kernel::object::{duplicate, named, object_error, offer};
use crate::sockets::pinned::PinnedMaps;
use aya::EbpfLoader;
use aya::programs::{CgroupSockAddr, SkLookup, SockOps};
use proxy_common::redirect::{MeshState, REDIRECT_ABI, map, program};
use std::path::Path;

/// The object built by `cargo xtask build-ebpf`; empty if it was not.
pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/redirect.bpf.o"));

/// Its maps.
pub(super) const MAPS: PinnedMaps<MeshState> = PinnedMaps {
    all: &map::ALL,
    state: map::STATE,
    is_ours: |state| state.abi == REDIRECT_ABI,
};

/// Loads the programs with the maps that are pinned in a folder, or are going to be; without one,
/// with maps that nobody keeps.
pub(super) fn load(folder: Option<&Path>) -> Result<Vec<Program>, LoadError> {
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    if let Some(folder) = folder {
        MAPS.pin_in(folder, &mut loader);
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
