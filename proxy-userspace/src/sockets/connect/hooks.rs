//! The programs and where they are attached.

use super::maps::MAPS;
use crate::kernel::load::LoadError;
use crate::kernel::object::{duplicate, named, object_error, offer, program_error};
use aya::programs::{CgroupSock, CgroupSockAddr, Iter, ProgramError, SockOps};
use aya::{Btf, Ebpf, EbpfLoader};
use proxy_common::connect::program;
use std::os::fd::OwnedFd;
use std::path::Path;

/// The object built by `cargo xtask build-ebpf`; empty if it was not.
pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/connect.bpf.o"));

/// A program and the moment at which the kernel asks it.
pub(super) struct Hook {
    /// Name of the program.
    pub(super) program: &'static str,
    /// Name of the moment, in the names of pins.
    pub(super) name: &'static str,
    /// `enum bpf_attach_type`.
    pub(super) attach_type: u32,
}

const fn hook(program: &'static str, name: &'static str, attach_type: u32) -> Hook {
    Hook {
        program,
        name,
        attach_type,
    }
}

/// All of them. First those that only read what the later ones write down, so that no socket has an
/// address that nobody translates back.
pub(super) const HOOKS: [Hook; 9] = [
    hook(program::RELEASE, "release", 34),
    hook(program::PEER4, "peer4", 29),
    hook(program::PEER6, "peer6", 30),
    hook(program::RECVMSG4, "recvmsg4", 19),
    hook(program::RECVMSG6, "recvmsg6", 20),
    hook(program::SENDMSG4, "sendmsg4", 14),
    hook(program::SENDMSG6, "sendmsg6", 15),
    hook(program::CONNECT4, "connect4", 10),
    hook(program::CONNECT6, "connect6", 11),
];

/// Where sockets are watched that ask for it.
pub(super) static WATCH: Hook = hook(program::WATCH, "watch", 3);

/// The programs that watch sockets.
pub(super) struct Watchers {
    /// For [`WATCH`].
    pub(super) watch: OwnedFd,
    /// An iterator over the storage of sockets.
    pub(super) look: OwnedFd,
}

fn open(folder: &Path) -> Result<Ebpf, LoadError> {
    let mut loader = EbpfLoader::new();
    // The programs ask for no relocation against the kernel's types.
    loader.btf(None);
    MAPS.pin_in(folder, &mut loader);
    loader.load(OBJECT).map_err(object_error)
}

/// Loads the programs that watch sockets, with maps that are pinned in a folder.
pub(super) fn load_watchers(folder: &Path) -> Result<Watchers, LoadError> {
    let mut ebpf = open(folder)?;
    let watch: &mut SockOps = named(&mut ebpf, program::WATCH)?;
    offer(program::WATCH, || watch.load())?;
    let watch = duplicate(program::WATCH, watch.fd())?;
    // The kernel knows an iterator by its number among its types.
    let types = Btf::from_sys_fs();
    let types = types.map_err(|error| program_error(program::LOOK)(ProgramError::Btf(error)))?;
    let look: &mut Iter = named(&mut ebpf, program::LOOK)?;
    offer(program::LOOK, || look.load("bpf_sk_storage_map", &types))?;
    let look = duplicate(program::LOOK, look.fd())?;
    Ok(Watchers { watch, look })
}

/// Loads the programs with the maps that are pinned in a folder, or new ones; in the order of
/// [`HOOKS`].
pub(super) fn load(folder: &Path) -> Result<Vec<OwnedFd>, LoadError> {
    let mut ebpf = open(folder)?;
    let load = |hook: &Hook| {
        if hook.program == program::RELEASE {
            let program: &mut CgroupSock = named(&mut ebpf, hook.program)?;
            offer(hook.program, || program.load())?;
            return duplicate(hook.program, program.fd());
        }
        let program: &mut CgroupSockAddr = named(&mut ebpf, hook.program)?;
        offer(hook.program, || program.load())?;
        duplicate(hook.program, program.fd())
    };
    HOOKS.iter().map(load).collect()
}
