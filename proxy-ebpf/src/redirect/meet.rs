//! How what is known at one end of a connection comes to the other.
//!
//! The opening end is established first: only then does it send what establishes the accepting one.
//! So the entry is there when it is looked for, and the daemon's socket has it before it is
//! accepted.

use super::maps::{ORIGINS, WAITING};
use aya_ebpf::bindings::{
    BPF_ANY, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, bpf_sock_ops,
};
use core::ffi::c_void;
use proxy_common::addr::Addr;
use proxy_common::redirect::{ACCEPTED, Meeting, Origin};

/// What the kernel takes for "go on".
const DONE: u32 = 1;
/// `AF_INET`.
const IPV4: u32 = 2;

/// Runs on each event of a TCP socket.
#[inline(always)]
pub fn run(ops: *mut bpf_sock_ops) -> u32 {
    // SAFETY: the kernel passes a valid context.
    let op = unsafe { (*ops).op };
    if op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB {
        opened(ops);
    } else if op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB {
        accepted(ops);
    }
    DONE
}

/// The workload's end.
#[inline(always)]
fn opened(ops: *mut bpf_sock_ops) -> Option<()> {
    let sk = socket(ops)?;
    // SAFETY: the verifier knows the socket.
    let origin = unsafe { ORIGINS.get(sk) }?;
    // SAFETY: the value is the socket's own, and its socket is locked.
    let origin: Origin = unsafe { *origin };
    if origin.cgroup == 0 {
        return None;
    }
    // SAFETY: the kernel passes a valid context, whose fields are read one by one.
    let fields = unsafe { &*ops };
    let meeting = Meeting {
        server: match fields.family {
            IPV4 => Addr::v4(fields.remote_ip4.to_ne_bytes()),
            _ => whole(&fields.remote_ip6),
        },
        client_seq: fields.snd_nxt,
        server_seq: fields.rcv_nxt,
        server_port: u32::from_be(fields.remote_port),
        _pad: 0,
    };
    WAITING.insert(meeting, origin, u64::from(BPF_ANY)).ok()
}

/// The daemon's end.
#[inline(always)]
fn accepted(ops: *mut bpf_sock_ops) -> Option<()> {
    // SAFETY: the kernel passes a valid context, whose fields are read one by one.
    let fields = unsafe { &*ops };
    let meeting = Meeting {
        server: match fields.family {
            IPV4 => Addr::v4(fields.local_ip4.to_ne_bytes()),
            _ => whole(&fields.local_ip6),
        },
        client_seq: fields.rcv_nxt,
        server_seq: fields.snd_nxt,
        server_port: fields.local_port,
        _pad: 0,
    };
    // SAFETY: nobody else changes the entry: the connection has one accepting end.
    let origin = *unsafe { WAITING.get(meeting) }?;
    let _ = WAITING.remove(meeting);
    let sk = socket(ops)?;
    // SAFETY: the verifier knows the socket.
    let place = unsafe { ORIGINS.get_or_make(sk) }?;
    // SAFETY: the value is the socket's own, and its socket is locked.
    unsafe {
        *place = Origin {
            set: origin.set | ACCEPTED,
            ..origin
        }
    };
    Some(())
}

#[inline(always)]
fn socket(ops: *mut bpf_sock_ops) -> Option<*mut c_void> {
    // SAFETY: the kernel passes a valid context.
    let sk: *mut c_void = unsafe { (*ops).__bindgen_anon_2.sk }.cast();
    (!sk.is_null()).then_some(sk)
}

#[inline(always)]
pub fn whole(quarters: &[u32; 4]) -> Addr {
    // Volatile: the kernel gives out each quarter by itself, and refuses wider loads.
    // SAFETY: the array is part of a valid context.
    let quarter = |index: usize| u64::from(unsafe { (&raw const quarters[index]).read_volatile() });
    Addr::from_words([quarter(0) | quarter(1) << 32, quarter(2) | quarter(3) << 32])
}
