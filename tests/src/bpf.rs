//! Kernel programs of a few instructions, written out, for what the harness needs of the kernel.
//!
//! They do not come from sluice's own object, so that the harness works without it.

use anyhow::{Context, Result, ensure};
use libbpf_rs::libbpf_sys::{
    BPF_ANY, BPF_MAP_TYPE_SOCKMAP, BPF_PROG_TYPE_SCHED_CLS, BPF_PROG_TYPE_SK_SKB,
    BPF_PROG_TYPE_XDP, BPF_SK_SKB_STREAM_VERDICT, BPF_TCX_EGRESS, BPF_TCX_INGRESS, BPF_XDP,
    bpf_attach_type, bpf_insn, bpf_link_create, bpf_map_create, bpf_map_update_elem,
    bpf_prog_attach, bpf_prog_load, bpf_prog_load_opts, bpf_prog_type,
};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

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
    // SAFETY: the name is a C string, and null options mean "none".
    let map = unsafe {
        bpf_map_create(
            BPF_MAP_TYPE_SOCKMAP,
            c"sluice_test".as_ptr(),
            4,
            4,
            2,
            ptr::null(),
        )
    };
    let map = owned(map).context("cannot make a socket map")?;
    let mut load = instruction(LOAD_WIDE, 2, map.as_raw_fd());
    load.set_src_reg(IS_MAP);
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
    // SAFETY: plain numbers.
    let done = unsafe { bpf_prog_attach(program.as_raw_fd(), map.as_raw_fd(), place, 0) };
    ensure!(done >= 0, io::Error::from_raw_os_error(-done));
    for (key, socket) in [(0u32, from.as_fd()), (1, to.as_fd())] {
        let value = socket.as_raw_fd() as u32;
        let (key, value) = (&raw const key, &raw const value);
        // SAFETY: key and value have the sizes that the map was made with.
        let done = unsafe {
            bpf_map_update_elem(map.as_raw_fd(), key.cast(), value.cast(), BPF_ANY.into())
        };
        ensure!(done >= 0, io::Error::from_raw_os_error(-done));
    }
    Ok([map, program])
}

/// One instruction with a destination register and an immediate.
fn instruction(code: u8, register: u8, imm: i32) -> bpf_insn {
    let mut instruction = bpf_insn {
        code,
        imm,
        ..bpf_insn::default()
    };
    instruction.set_dst_reg(register);
    instruction
}

/// Loads a program and attaches it; the returned link keeps it there.
fn attach(
    instructions: &[bpf_insn],
    device: &str,
    kind: bpf_prog_type,
    place: bpf_attach_type,
) -> Result<OwnedFd> {
    let index = nix::net::if_::if_nametoindex(device).with_context(|| device.to_owned())?;
    let program = load_program(instructions, kind, place)?;
    let index = i32::try_from(index).context("interface index")?;
    // SAFETY: plain numbers, and null options mean "none".
    let fd = unsafe { bpf_link_create(program.as_raw_fd(), index, place, ptr::null()) };
    owned(fd).with_context(|| format!("cannot attach a program of the harness to {device}"))
}

fn load_program(
    instructions: &[bpf_insn],
    kind: bpf_prog_type,
    place: bpf_attach_type,
) -> Result<OwnedFd> {
    let mut options = bpf_prog_load_opts {
        sz: size_of::<bpf_prog_load_opts>() as _,
        expected_attach_type: place,
        ..bpf_prog_load_opts::default()
    };
    // SAFETY: the name and the licence are C strings, the instructions are a slice with its
    // length, the options know their size; libbpf keeps none of the pointers.
    let fd = unsafe {
        bpf_prog_load(
            kind,
            c"sluice_test".as_ptr(),
            c"Dual MIT/GPL".as_ptr(),
            instructions.as_ptr(),
            instructions.len() as _,
            &raw mut options,
        )
    };
    owned(fd).context("cannot load a program of the harness")
}

/// Takes ownership of a descriptor that libbpf returned; negative is an errno.
fn owned(fd: i32) -> Result<OwnedFd> {
    ensure!(fd >= 0, io::Error::from_raw_os_error(-fd));
    // SAFETY: libbpf just opened it for us and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
