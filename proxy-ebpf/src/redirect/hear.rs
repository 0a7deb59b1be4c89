//! Who listens where, and what the daemon dials.
//!
//! Sees the TCP sockets of the whole host, and notes those of the daemon's network namespace alone:
//! there the lookups are that ask for it. What listened before this was attached, and what has
//! stopped since, is put right by user space.

use super::maps::{DIALS, LISTENING, STATE, listening};
use super::meet::whole;
use super::rules::count;
use super::who::{chosen, is_daemon};
use aya_ebpf::bindings::{
    BPF_ANY, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_TCP_CONNECT_CB,
    BPF_SOCK_OPS_TCP_LISTEN_CB, bpf_sock_ops,
};
use aya_ebpf::helpers::generated::{bpf_get_current_cgroup_id, bpf_get_netns_cookie};
use proxy_common::addr::Addr;
use proxy_common::redirect::{Dial, INBOUND, Listening, ListeningKey};

/// What the kernel takes for "go on".
const DONE: u32 = 1;
/// `AF_INET`.
const IPV4: u32 = 2;

/// Runs on each event of a TCP socket.
#[inline(always)]
pub fn run(ops: *mut bpf_sock_ops) -> u32 {
    // SAFETY: the kernel passes a valid context.
    let op = unsafe { (*ops).op };
    match op {
        BPF_SOCK_OPS_TCP_LISTEN_CB => drop(listens(ops)),
        BPF_SOCK_OPS_TCP_CONNECT_CB => drop(dials(ops)),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => drop(has_come(ops)),
        _ => {}
    }
    DONE
}

/// A socket begins to listen.
#[inline(always)]
fn listens(ops: *mut bpf_sock_ops) -> Option<()> {
    let state = STATE.get(0).filter(|state| state.hears != 0)?;
    // SAFETY: the kernel passes a valid context.
    let netns = unsafe { bpf_get_netns_cookie(ops.cast()) };
    let addr = local(ops);
    if netns != state.netns || addr.is_of_one_host() {
        return None;
    }
    // SAFETY: as above.
    let port = unsafe { (*ops).local_port };
    let key = ListeningKey {
        addr,
        port,
        _pad: 0,
    };
    let is_daemon = is_daemon(state);
    let of = |is_meant: bool, family: u32| match is_meant && !is_daemon {
        true => chosen(family, INBOUND),
        false => None,
    };
    let is_v4 = addr.is_v4();
    let chosen4 = of(is_v4 || addr == Addr::UNSPECIFIED, 4);
    let chosen6 = of(!is_v4, 6);
    let Some((_, set)) = chosen4.or(chosen6) else {
        return stranger(key);
    };
    let value = Listening {
        // SAFETY: a plain call.
        cgroup: unsafe { bpf_get_current_cgroup_id() },
        chosen4: chosen4.map_or(0, |it| it.0),
        chosen6: chosen6.map_or(0, |it| it.0),
    };
    if LISTENING.insert(key, value, u64::from(BPF_ANY)).is_err() {
        count(set, |stats| stats.full += 1);
    }
    Some(())
}

/// A socket that nobody has chosen: it must be known only where it could be taken for a workload's.
#[inline(always)]
fn stranger(key: ListeningKey) -> Option<()> {
    listening(&key.addr, key.port, key.addr.is_v4())?;
    let nobody = Listening::default();
    LISTENING.insert(key, nobody, u64::from(BPF_ANY)).ok()
}

/// A socket is about to send its SYN, perhaps to a workload.
#[inline(always)]
fn dials(ops: *mut bpf_sock_ops) -> Option<()> {
    let state = STATE.get(0).filter(|state| state.hears != 0)?;
    let dial = dial(ops);
    listening(&dial.server, dial.server_port, dial.server.is_v4())?;
    if is_daemon(state) {
        return DIALS.insert(dial, 1u32, u64::from(BPF_ANY)).ok();
    }
    // Of a connection of the daemon that was refused; the addresses are another's now.
    DIALS.remove(dial).ok()
}

/// The workload's end is established, and nothing is looked up for it any more. At the opening end it
/// would be too early: where SYNs are answered by cookies, what follows is looked up like a SYN.
#[inline(always)]
fn has_come(ops: *mut bpf_sock_ops) -> Option<()> {
    STATE.get(0).filter(|state| state.hears != 0)?;
    let own = dial(ops);
    let dial = Dial {
        client: own.server,
        server: own.client,
        client_port: own.server_port,
        server_port: own.client_port,
    };
    DIALS.remove(dial).ok()
}

/// A socket's ends, as those of a connection that it opens.
#[inline(always)]
fn dial(ops: *mut bpf_sock_ops) -> Dial {
    // SAFETY: the kernel passes a valid context, whose fields are read one by one.
    let fields = unsafe { &*ops };
    Dial {
        client: local(ops),
        server: match fields.family {
            IPV4 => Addr::v4(fields.remote_ip4.to_ne_bytes()),
            _ => whole(&fields.remote_ip6),
        },
        client_port: fields.local_port,
        server_port: u32::from_be(fields.remote_port),
    }
}

#[inline(always)]
fn local(ops: *mut bpf_sock_ops) -> Addr {
    // SAFETY: the kernel passes a valid context, whose fields are read one by one.
    let fields = unsafe { &*ops };
    match fields.family {
        IPV4 => Addr::v4(fields.local_ip4.to_ne_bytes()),
        _ => whole(&fields.local_ip6),
    }
}
