//! Kernel programs of a few instructions, written out, for what the harness needs of the kernel.
//!
//! They do not come from sluice's own object, so that the harness works without it.

use anyhow::{Context, Result};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::{io, mem};

/// Commands of bpf(2).
const BPF_MAP_CREATE: i32 = 0;
const BPF_MAP_UPDATE_ELEM: i32 = 2;
const BPF_PROG_LOAD: i32 = 5;
const BPF_PROG_ATTACH: i32 = 8;
const BPF_LINK_CREATE: i32 = 28;
/// Types of maps and programs.
const BPF_MAP_TYPE_SOCKMAP: u32 = 15;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_PROG_TYPE_SK_SKB: u32 = 14;
/// Where programs are attached.
const BPF_SK_SKB_STREAM_VERDICT: u32 = 5;
const BPF_XDP: u32 = 37;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
/// `BPF_ALU64 | BPF_MOV | BPF_K`.
const MOVE_IMMEDIATE: u8 = 0xb7;
/// `BPF_JMP | BPF_CALL`.
const CALL: u8 = 0x85;
/// `BPF_LD | BPF_IMM | BPF_DW`, of two instructions; with this source it is a map's descriptor.
const LOAD_WIDE: u8 = 0x18;
const IS_MAP: u8 = 1;
/// `BPF_JMP | BPF_EXIT`.
const EXIT: u8 = 0x95;
/// Helper number of `bpf_skb_vlan_push`.
const SKB_VLAN_PUSH: i32 = 18;
/// Helper number of `bpf_skb_vlan_pop`.
const SKB_VLAN_POP: i32 = 19;
/// Helper number of `bpf_sk_redirect_map`.
const SK_REDIRECT_MAP: i32 = 52;
/// `TCX_PASS`.
const TCX_PASS: i32 = 0;
/// `XDP_PASS`.
const XDP_PASS: i32 = 2;
/// EtherType of an 802.1Q tag.
const ETH_P_8021Q: u16 = 0x8100;

/// The programs on a device; dropping it removes them.
#[derive(Debug)]
pub struct Attached {
    _links: Vec<OwnedFd>,
}

/// Lets everything pass at `device`. To be called inside its namespace.
///
/// A frame that XDP transmits on a veth device (`XDP_TX`) is put into the peer's ring, but the
/// peer is woken only if it has an XDP program itself; receive offload (GRO) makes the ring but
/// not the wake-up, so that frames wait there until something else comes along.
///
/// # Errors
///
/// There is no such device, or the kernel refuses the program.
pub fn pass_everything(device: &str) -> Result<Attached> {
    let pass = [
        instruction(MOVE_IMMEDIATE, 0, XDP_PASS),
        instruction(EXIT, 0, 0),
    ];
    Ok(Attached {
        _links: vec![attach(&pass, device, BPF_PROG_TYPE_XDP, BPF_XDP)?],
    })
}

/// Tags everything that the stack sends on `device` with VLAN `id`, and removes the tag from
/// everything that it receives, on kernels without the 8021q module too. To be called inside the
/// device's namespace.
///
/// The programs sit at tcx, so XDP sees frames before the tag is removed, and frames that XDP
/// sends are not tagged: to an XDP program the wire looks exactly as behind a trunk port. The
/// device must not insert tags itself (`ethtool -K DEVICE txvlan off`), else the tag travels over
/// veth beside the frame, where XDP does not see it.
///
/// # Errors
///
/// As [`pass_everything`].
pub fn speak_vlan(device: &str, id: u16) -> Result<Attached> {
    let push = [
        instruction(MOVE_IMMEDIATE, 2, i32::from(ETH_P_8021Q.to_be())),
        instruction(MOVE_IMMEDIATE, 3, i32::from(id)),
        instruction(CALL, 0, SKB_VLAN_PUSH),
        instruction(MOVE_IMMEDIATE, 0, TCX_PASS),
        instruction(EXIT, 0, 0),
    ];
    let pop = [
        instruction(CALL, 0, SKB_VLAN_POP),
        instruction(MOVE_IMMEDIATE, 0, TCX_PASS),
        instruction(EXIT, 0, 0),
    ];
    let tcx = BPF_PROG_TYPE_SCHED_CLS;
    Ok(Attached {
        _links: vec![
            attach(&push, device, tcx, BPF_TCX_EGRESS)?,
            attach(&pop, device, tcx, BPF_TCX_INGRESS)?,
        ],
    })
}

/// Has the kernel send what comes to a socket out of another one (`sk_skb`, a verdict on the stream),
/// for as long as what it returns lives.
///
/// # Errors
///
/// The kernel refuses the map, the program or a socket.
pub fn redirect_stream(from: &impl AsFd, to: &impl AsFd) -> Result<[OwnedFd; 2]> {
    let map = MapCreate {
        kind: BPF_MAP_TYPE_SOCKMAP,
        key_size: 4,
        value_size: 4,
        max_entries: 2,
    };
    let map = owned(bpf(BPF_MAP_CREATE, &map)).context("cannot make a socket map")?;
    let mut load = instruction(LOAD_WIDE, 2, map.as_raw_fd());
    load.registers |= IS_MAP << 4;
    let verdict = [
        load,
        instruction(0, 0, 0),
        instruction(MOVE_IMMEDIATE, 3, 1),
        instruction(MOVE_IMMEDIATE, 4, 0),
        instruction(CALL, 0, SK_REDIRECT_MAP),
        instruction(EXIT, 0, 0),
    ];
    let place = BPF_SK_SKB_STREAM_VERDICT;
    let program = load_program(&verdict, BPF_PROG_TYPE_SK_SKB, place)?;
    let attach = ProgramAttach {
        target: map.as_raw_fd(),
        program: program.as_raw_fd(),
        place,
    };
    bpf(BPF_PROG_ATTACH, &attach).context("cannot attach a verdict to a socket map")?;
    for (key, socket) in [(0u32, from.as_fd()), (1, to.as_fd())] {
        let value = socket.as_raw_fd();
        let update = MapUpdate {
            map: map.as_raw_fd(),
            key: &raw const key as u64,
            value: &raw const value as u64,
            flags: 0,
            ..MapUpdate::default()
        };
        bpf(BPF_MAP_UPDATE_ELEM, &update).context("cannot put a socket into a map")?;
    }
    Ok([map, program])
}

/// `struct bpf_insn`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Instruction {
    code: u8,
    /// Destination in the lower half, source in the upper one.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// One instruction with a destination register and an immediate.
const fn instruction(code: u8, register: u8, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: register,
        offset: 0,
        immediate,
    }
}

/// The beginning of `union bpf_attr` for [`BPF_MAP_CREATE`].
#[derive(Debug)]
#[repr(C)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

/// The same for [`BPF_MAP_UPDATE_ELEM`].
#[derive(Debug, Default)]
#[repr(C)]
struct MapUpdate {
    map: i32,
    unused: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The same for [`BPF_PROG_LOAD`].
#[derive(Debug, Default)]
#[repr(C)]
struct ProgramLoad {
    kind: u32,
    count: u32,
    instructions: u64,
    licence: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    place: u32,
}

/// The same for [`BPF_PROG_ATTACH`].
#[derive(Debug)]
#[repr(C)]
struct ProgramAttach {
    target: i32,
    program: i32,
    place: u32,
}

/// The same for [`BPF_LINK_CREATE`].
#[derive(Debug)]
#[repr(C)]
struct LinkCreate {
    program: i32,
    interface: u32,
    place: u32,
    flags: u32,
}

/// bpf(2): what it returns, a descriptor or zero.
fn bpf<A>(command: i32, attributes: &A) -> io::Result<i32> {
    let size = mem::size_of::<A>();
    // SAFETY: the kernel reads as much as it is told the size of, has zeros for what is behind, and
    // keeps nothing of what is pointed to; addresses in it are of values that outlive the call.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size) };
    match i32::try_from(done) {
        Ok(done @ 0..) => Ok(done),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Loads a program and attaches it; the returned link keeps it there.
fn attach(instructions: &[Instruction], device: &str, kind: u32, place: u32) -> Result<OwnedFd> {
    let interface = nix::net::if_::if_nametoindex(device).with_context(|| device.to_owned())?;
    let program = load_program(instructions, kind, place)?;
    let link = LinkCreate {
        program: program.as_raw_fd(),
        interface,
        place,
        flags: 0,
    };
    owned(bpf(BPF_LINK_CREATE, &link))
        .with_context(|| format!("cannot attach a program of the harness to {device}"))
}

fn load_program(instructions: &[Instruction], kind: u32, place: u32) -> Result<OwnedFd> {
    let mut load = ProgramLoad {
        kind,
        count: u32::try_from(instructions.len())?,
        instructions: instructions.as_ptr() as u64,
        licence: c"Dual MIT/GPL".as_ptr() as u64,
        place,
        ..ProgramLoad::default()
    };
    load.name[..11].copy_from_slice(b"sluice_test");
    owned(bpf(BPF_PROG_LOAD, &load)).context("cannot load a program of the harness")
}

/// Takes ownership of a descriptor that the kernel returned.
fn owned(fd: io::Result<i32>) -> Result<OwnedFd> {
    // SAFETY: the kernel just opened it for us and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd?) })
}
