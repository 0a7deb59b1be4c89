//! A host that speaks through a VLAN tag, on kernels without the 8021q module too.
//!
//! Two programs of a few instructions push the tag on what the host's stack sends and pop it from
//! what the host receives. They sit at tcx, so XDP sees frames before they are popped, and frames
//! that XDP sends are not pushed: to an XDP program the wire looks exactly as behind a trunk port.

use anyhow::{Context, Result, ensure};
use libbpf_rs::libbpf_sys::{
    BPF_PROG_TYPE_SCHED_CLS, BPF_TCX_EGRESS, BPF_TCX_INGRESS, bpf_attach_type, bpf_insn,
    bpf_link_create, bpf_prog_load,
};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

/// `BPF_ALU64 | BPF_MOV | BPF_K`.
const MOVE_IMMEDIATE: u8 = 0xb7;
/// `BPF_JMP | BPF_CALL`.
const CALL: u8 = 0x85;
/// `BPF_JMP | BPF_EXIT`.
const EXIT: u8 = 0x95;
/// Helper number of `bpf_skb_vlan_push`.
const SKB_VLAN_PUSH: i32 = 18;
/// Helper number of `bpf_skb_vlan_pop`.
const SKB_VLAN_POP: i32 = 19;
/// `TCX_PASS`.
const PASS: i32 = 0;
/// EtherType of an 802.1Q tag.
const ETH_P_8021Q: u16 = 0x8100;

/// The links that keep a device tagged; dropping it makes the device plain again.
#[derive(Debug)]
pub struct TaggedDevice {
    _egress: OwnedFd,
    _ingress: OwnedFd,
}

impl TaggedDevice {
    /// Tags everything that the stack sends on `device` with VLAN `id`, and removes the tag from
    /// everything that it receives. To be called inside the device's namespace.
    ///
    /// The device must not insert tags itself (`ethtool -K DEVICE txvlan off`), else the tag
    /// travels over veth beside the frame, where XDP does not see it.
    ///
    /// # Errors
    ///
    /// There is no such device, or the kernel refuses the programs.
    pub fn attach(device: &str, id: u16) -> Result<Self> {
        let index =
            nix::net::if_::if_nametoindex(device).with_context(|| format!("no device {device}"))?;
        let push = [
            instruction(MOVE_IMMEDIATE, 2, i32::from(ETH_P_8021Q.to_be())),
            instruction(MOVE_IMMEDIATE, 3, i32::from(id)),
            instruction(CALL, 0, SKB_VLAN_PUSH),
            instruction(MOVE_IMMEDIATE, 0, PASS),
            instruction(EXIT, 0, 0),
        ];
        let pop = [
            instruction(CALL, 0, SKB_VLAN_POP),
            instruction(MOVE_IMMEDIATE, 0, PASS),
            instruction(EXIT, 0, 0),
        ];
        Ok(Self {
            _egress: attach(&push, index, BPF_TCX_EGRESS)?,
            _ingress: attach(&pop, index, BPF_TCX_INGRESS)?,
        })
    }
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
fn attach(instructions: &[bpf_insn], index: u32, place: bpf_attach_type) -> Result<OwnedFd> {
    // SAFETY: the name and the licence are C strings, the instructions are a slice with its
    // length, and null options mean "none"; libbpf keeps none of the pointers.
    let fd = unsafe {
        bpf_prog_load(
            BPF_PROG_TYPE_SCHED_CLS,
            c"sluice_vlan".as_ptr(),
            c"Dual MIT/GPL".as_ptr(),
            instructions.as_ptr(),
            instructions.len() as _,
            ptr::null_mut(),
        )
    };
    let program = owned(fd).context("cannot load the VLAN program")?;
    let index = i32::try_from(index).context("interface index")?;
    // SAFETY: plain numbers, and null options mean "none".
    let fd = unsafe { bpf_link_create(program.as_raw_fd(), index, place, ptr::null()) };
    owned(fd).context("cannot attach the VLAN program")
}

/// Takes ownership of a descriptor that libbpf returned; negative is an errno.
fn owned(fd: i32) -> Result<OwnedFd> {
    ensure!(fd >= 0, io::Error::from_raw_os_error(-fd));
    // SAFETY: libbpf just opened it for us and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
