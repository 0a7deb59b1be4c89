//! The calls of bpf(2) that aya 0.14 keeps private or lacks: pins, information, and XDP links
//! without aya's silent fall-back to netlink (whose attachments cannot be pinned). Maps are in
//! [`super::handle`].
//!
//! Everything here is a thin, typed wrapper around one command.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read as _};
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// Commands of bpf(2) (`enum bpf_cmd`).
pub(super) mod cmd {
    pub(crate) const MAP_CREATE: libc::c_int = 0;
    pub(crate) const MAP_LOOKUP: libc::c_int = 1;
    pub(crate) const MAP_UPDATE: libc::c_int = 2;
    pub(crate) const MAP_DELETE: libc::c_int = 3;
    pub(crate) const MAP_NEXT_KEY: libc::c_int = 4;
    pub(crate) const PROG_LOAD: libc::c_int = 5;
    pub(crate) const OBJ_PIN: libc::c_int = 6;
    pub(crate) const OBJ_GET: libc::c_int = 7;
    pub(crate) const PROG_BY_ID: libc::c_int = 13;
    pub(crate) const MAP_BY_ID: libc::c_int = 14;
    pub(crate) const OBJ_INFO: libc::c_int = 15;
    pub(crate) const LOOKUP_BATCH: libc::c_int = 24;
    pub(crate) const UPDATE_BATCH: libc::c_int = 26;
    pub(crate) const LINK_CREATE: libc::c_int = 28;
    pub(crate) const LINK_UPDATE: libc::c_int = 29;
    pub(crate) const ITER_CREATE: libc::c_int = 33;
    pub(crate) const LINK_DETACH: libc::c_int = 34;
}

/// `BPF_MAP_TYPE_ARRAY`.
pub(crate) const MAP_TYPE_ARRAY: u32 = 2;
/// `BPF_F_INNER_MAP`: an inner array whose size may differ from its siblings'.
pub(crate) const INNER_MAP_FLAG: u32 = 0x1000;
/// `BPF_F_MMAPABLE`: an array that can be mapped into memory.
pub(crate) const MMAPABLE_FLAG: u32 = 0x400;
/// `BPF_XDP`, the attach type of XDP programs and links.
const ATTACH_XDP: u32 = 37;
/// `BPF_SK_LOOKUP`, the attach type of programs that choose sockets.
const ATTACH_SK_LOOKUP: u32 = 36;
/// `BPF_TCX_EGRESS`, the attach type of links to what leaves an interface.
const ATTACH_TCX_EGRESS: u32 = 47;
/// `XDP_FLAGS_SKB_MODE`: generic.
pub(crate) const XDP_SKB_MODE: u32 = 1 << 1;
/// `XDP_FLAGS_DRV_MODE`: native.
pub(crate) const XDP_DRV_MODE: u32 = 1 << 2;

/// Waits until every run of a program that began before this call has ended.
///
/// Programs run inside an RCU read-side section, and `membarrier(2)` waits for a grace period. It
/// refuses on hosts with `nohz_full` CPUs; then a sleep has to do that is far longer than a packet's
/// way, though a virtual CPU may in theory be away for longer.
pub(crate) fn wait_for_running_programs() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    const FAR_LONGER_THAN_A_PACKET: Duration = Duration::from_millis(100);
    // SAFETY: the call takes three integers and touches no memory.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result < 0 {
        std::thread::sleep(FAR_LONGER_THAN_A_PACKET);
    }
}

/// Calls bpf(2) with an attribute of the kernel's layout.
pub(super) fn bpf<A>(command: libc::c_int, attr: &mut A) -> io::Result<RawFd> {
    // SAFETY: `attr` is a live, exclusively borrowed `repr(C)` value whose size is given; the
    // kernel treats the fields it does not get as zero. Pointers in it come from live borrows of
    // the callers below, which outlast the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<A>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        // Descriptors fit an `int`.
        Ok(result as RawFd)
    }
}

/// Calls a command that yields a descriptor.
pub(super) fn bpf_fd<A>(command: libc::c_int, attr: &mut A) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(super) fn address<T>(value: &T) -> u64 {
    std::ptr::from_ref(value) as u64
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
}

#[repr(C)]
#[derive(Default)]
struct PathAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Pins an object (map, program, link) at a path of a bpffs.
pub(crate) fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = PathAttr {
        path: path.as_ptr() as u64,
        fd: fd.as_raw_fd() as u32,
        flags: 0,
    };
    bpf(cmd::OBJ_PIN, &mut attr).map(drop)
}

/// Opens a pinned object.
pub(crate) fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = PathAttr {
        path: path.as_ptr() as u64,
        ..PathAttr::default()
    };
    bpf_fd(cmd::OBJ_GET, &mut attr)
}

/// What the kernel says about a map (`struct bpf_map_info`, its first fields).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MapInfo {
    pub(crate) map_type: u32,
    pub(crate) id: u32,
    pub(crate) key_size: u32,
    pub(crate) value_size: u32,
    pub(crate) max_entries: u32,
    pub(crate) flags: u32,
    name: [u8; 16],
}

/// What the kernel says about a link to an interface or a network namespace (`struct bpf_link_info`, its first fields).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LinkInfo {
    pub(crate) link_type: u32,
    pub(crate) id: u32,
    pub(crate) program_id: u32,
    _pad: u32,
    /// 0 once the interface has gone. Of a link to a network namespace, that one's inode; of one to a
    /// cgroup, the lower half of that one's id.
    pub(crate) ifindex: u32,
    /// Of a link to a cgroup, the upper half of its id.
    high: u32,
}

impl LinkInfo {
    /// Of a link to a cgroup, that one's id; 0 once it has gone.
    pub(crate) fn cgroup(&self) -> u64 {
        u64::from(self.high) << 32 | u64::from(self.ifindex)
    }
}

/// What the kernel says about a program (`struct bpf_prog_info`, its first fields).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ProgramInfo {
    program_type: u32,
    id: u32,
    _before_name: [u64; 7],
    name: [u8; 16],
}

const _: () = assert!(size_of::<MapInfo>() == 6 * 4 + 16);
const _: () = assert!(size_of::<LinkInfo>() == 24);
const _: () = assert!(size_of::<ProgramInfo>() == 64 + 16);

/// Fills the first octets of the kernel's information about an object.
pub(super) fn info<T>(fd: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    #[repr(C)]
    struct InfoAttr {
        fd: u32,
        length: u32,
        info: u64,
    }
    let mut attr = InfoAttr {
        fd: fd.as_raw_fd() as u32,
        length: size_of::<T>() as u32,
        info: std::ptr::from_mut(info) as u64,
    };
    bpf(cmd::OBJ_INFO, &mut attr).map(drop)
}

fn name_of(name: &[u8; 16]) -> String {
    let length = name.iter().position(|&octet| octet == 0).unwrap_or(16);
    String::from_utf8_lossy(&name[..length]).into_owned()
}

/// Information about a link.
pub(crate) fn link_info(fd: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut link = LinkInfo::default();
    info(fd, &mut link)?;
    Ok(link)
}

#[repr(C)]
#[derive(Default)]
pub(super) struct IdAttr {
    id: u32,
    next: u32,
    flags: u32,
}

pub(super) fn id_attr(id: u32) -> IdAttr {
    IdAttr {
        id,
        ..IdAttr::default()
    }
}

/// The kernel's id of a program; never used again for another while the machine runs.
pub(crate) fn program_id(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut program = ProgramInfo::default();
    info(fd, &mut program)?;
    Ok(program.id)
}

/// Name of a loaded program.
pub(crate) fn program_name(id: u32) -> io::Result<String> {
    let fd = bpf_fd(cmd::PROG_BY_ID, &mut id_attr(id))?;
    let mut program = ProgramInfo::default();
    info(fd.as_fd(), &mut program)?;
    Ok(name_of(&program.name))
}

/// Attaches an XDP program by a link; `mode` is one of the `XDP_*_MODE` flags or 0.
pub(crate) fn link_xdp(program: BorrowedFd<'_>, ifindex: u32, mode: u32) -> io::Result<OwnedFd> {
    link(program, ifindex, ATTACH_XDP, mode)
}

/// Attaches a classifier by a link to what leaves an interface, behind the programs that are there
/// (Linux 6.6).
pub(crate) fn link_egress(program: BorrowedFd<'_>, ifindex: u32) -> io::Result<OwnedFd> {
    link(program, ifindex, ATTACH_TCX_EGRESS, 0)
}

/// Attaches a program that chooses sockets by a link to a network namespace, behind those that are
/// there.
pub(crate) fn link_namespace(
    program: BorrowedFd<'_>,
    namespace: BorrowedFd<'_>,
) -> io::Result<OwnedFd> {
    link(program, namespace.as_raw_fd() as u32, ATTACH_SK_LOOKUP, 0)
}

/// Attaches a program on sockets by a link to a cgroup and all below it, behind those that are there.
pub(crate) fn link_cgroup(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    link(program, cgroup.as_raw_fd() as u32, attach_type, 0)
}

/// As [`link_cgroup`], before programs that are attached otherwise, be it here or below (Linux 6.17).
/// Where the kernel knows no such order it is behind those that are there.
pub(crate) fn link_cgroup_first(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    /// `BPF_F_PREORDER`.
    const PREORDER: u32 = 1 << 6;
    let cgroup = cgroup.as_raw_fd() as u32;
    match link(program, cgroup, attach_type, PREORDER) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            link(program, cgroup, attach_type, 0)
        }
        other => other,
    }
}

fn link(
    program: BorrowedFd<'_>,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct LinkCreateAttr {
        program: u32,
        ifindex: u32,
        attach_type: u32,
        flags: u32,
    }
    let mut attr = LinkCreateAttr {
        program: program.as_raw_fd() as u32,
        ifindex,
        attach_type,
        flags,
    };
    bpf_fd(cmd::LINK_CREATE, &mut attr)
}

/// Puts another program behind a link, between two packets.
pub(crate) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = [link.as_raw_fd() as u32, program.as_raw_fd() as u32, 0, 0];
    bpf(cmd::LINK_UPDATE, &mut attr).map(drop)
}

/// Detaches a link at once, whoever else still holds it.
pub(crate) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = link.as_raw_fd() as u32;
    bpf(cmd::LINK_DETACH, &mut attr).map(drop)
}

/// Links an iterator to a map, through whose elements it is to go.
pub(crate) fn link_iterator(program: BorrowedFd<'_>, map: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    /// `BPF_TRACE_ITER`.
    const ATTACH_ITERATOR: u32 = 28;
    #[repr(C)]
    struct LinkCreateAttr {
        program: u32,
        target: u32,
        attach_type: u32,
        flags: u32,
        info: u64,
        info_length: u32,
        _pad: u32,
    }
    let map = map.as_raw_fd() as u32;
    let mut attr = LinkCreateAttr {
        program: program.as_raw_fd() as u32,
        target: 0,
        attach_type: ATTACH_ITERATOR,
        flags: 0,
        info: address(&map),
        info_length: size_of_val(&map) as u32,
        _pad: 0,
    };
    bpf_fd(cmd::LINK_CREATE, &mut attr)
}

/// Has an iterator that prints nothing go through everything once.
pub(crate) fn iterate(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = [link.as_raw_fd() as u32, 0];
    let mut all = File::from(bpf_fd(cmd::ITER_CREATE, &mut attr)?);
    loop {
        match all.read(&mut [0; 64]) {
            Ok(0) => return Ok(()),
            // After a million elements the kernel asks for another call.
            Err(error) if error.raw_os_error() != Some(libc::EAGAIN) => return Err(error),
            Ok(_) | Err(_) => {}
        }
    }
}

/// Makes a map only to see whether the kernel can. `inner` is the template of a map of maps.
pub(crate) fn probe_map(
    map_type: u32,
    sizes: (u32, u32),
    max_entries: u32,
    inner: Option<BorrowedFd<'_>>,
) -> io::Result<OwnedFd> {
    let inner = inner.map_or(0, |fd| fd.as_raw_fd() as u32);
    let mut attr = [map_type, sizes.0, sizes.1, max_entries, 0, inner];
    bpf_fd(cmd::MAP_CREATE, &mut attr)
}

/// Loads the smallest XDP program, which passes everything, to see whether it can be attached.
pub(crate) fn load_pass() -> io::Result<OwnedFd> {
    /// `BPF_PROG_TYPE_XDP`.
    const PROGRAM_TYPE_XDP: u32 = 6;
    /// `XDP_PASS`.
    const PASS: i32 = 2;
    load_constant(PROGRAM_TYPE_XDP, ATTACH_XDP, PASS)
}

/// Loads the smallest classifier, which leaves everything to the next.
pub(crate) fn load_next() -> io::Result<OwnedFd> {
    /// `BPF_PROG_TYPE_SCHED_CLS`.
    const PROGRAM_TYPE_CLASSIFIER: u32 = 3;
    /// `TC_ACT_UNSPEC`.
    const NEXT: i32 = -1;
    load_constant(PROGRAM_TYPE_CLASSIFIER, 0, NEXT)
}

/// Loads a program that only returns a number.
fn load_constant(program_type: u32, attach_type: u32, result: i32) -> io::Result<OwnedFd> {
    /// `r0 = result`, without the number, in the kernel's instruction encoding.
    const MOVE: u64 = 0xb7;
    /// `exit`.
    const EXIT: u64 = 0x95;
    #[repr(C)]
    struct LoadAttr {
        program_type: u32,
        instruction_count: u32,
        instructions: u64,
        license: u64,
        log: [u32; 2],
        log_buffer: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
        ifindex: u32,
        attach_type: u32,
    }
    const _: () = assert!(size_of::<LoadAttr>() == 72);
    let instructions = [u64::from(result.cast_unsigned()) << 32 | MOVE, EXIT];
    let mut attr = LoadAttr {
        program_type,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"Dual MIT/GPL".as_ptr() as u64,
        log: [0; 2],
        log_buffer: 0,
        kernel_version: 0,
        flags: 0,
        name: *b"sluice_check\0\0\0\0",
        ifindex: 0,
        attach_type,
    };
    bpf_fd(cmd::PROG_LOAD, &mut attr)
}
