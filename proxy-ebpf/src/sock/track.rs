//! Which connections stay on this host, and are the daemon's: decided when they are established.
//!
//! The opening end comes first, and enters the socket hash there and then: later would be too late,
//! for whoever waits in a blocking read would not hear of what comes past TCP. So it must be likely
//! that the connection is one of ours: the socket is marked as the daemon's, or goes to an address
//! where the daemon accepts. Whoever connects with a descriptor that blocks will probably read so,
//! too, and is left alone: in the socket hash a blocking read may fail with `EAGAIN`, because the
//! kernel's `tcp_bpf_recvmsg` takes whatever wakes it for data. The accepting end knows for certain. The two find each other by their
//! addresses and their first sequence numbers, which no other connection has, and only if neither
//! has sent anything with its handshake.

use super::maps::{ENDS, FOUND, LISTENERS, OFFSETS, SOCKETS, WAITING};
use super::{count, read};
use aya_ebpf::bindings::{
    BPF_ANY, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, bpf_sock_ops,
};
use aya_ebpf::helpers::generated::{
    bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_sock_hash_update,
};
use core::ffi::c_void;
use proxy_common::addr::Addr;
use proxy_common::sock::{Connection, Count, End, Half, ListenerKey, end_flag};

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

/// The opening end.
#[inline(always)]
fn opened(ops: *mut bpf_sock_ops) -> Option<()> {
    let sides = Sides::of(ops);
    if !sides.stay_here() || !is_on() {
        return None;
    }
    // SAFETY: the kernel passes a valid context.
    let sk: *mut c_void = unsafe { (*ops).__bindgen_anon_2.sk }.cast();
    if sk.is_null() {
        return None;
    }
    // SAFETY: the verifier knows the socket.
    let marked = unsafe { ENDS.get(sk) };
    let netns = netns(ops);
    let flags = match marked {
        // SAFETY: the value is the socket's own, and its socket is locked.
        Some(end) => unsafe { (*end).flags },
        None if is_listener(&sides, netns) => {
            if blocks(sk)? {
                count(Count::Blocking, 1);
                return None;
            }
            0
        }
        None => return None,
    };
    let half = enter(ops, sk, flags, sides.send_next)?;
    let connection = Connection {
        client: sides.local,
        server: sides.remote,
        netns,
        client_seq: sides.send_next,
        server_seq: sides.receive_next,
        client_port: sides.local_port,
        server_port: sides.remote_port,
    };
    WAITING.insert(connection, half, u64::from(BPF_ANY)).ok()
}

/// The accepting end.
#[inline(always)]
fn accepted(ops: *mut bpf_sock_ops) -> Option<()> {
    let sides = Sides::of(ops);
    if !sides.stay_here() || !is_on() {
        return None;
    }
    let connection = Connection {
        client: sides.remote,
        server: sides.local,
        netns: netns(ops),
        client_seq: sides.receive_next,
        server_seq: sides.send_next,
        client_port: sides.remote_port,
        server_port: sides.local_port,
    };
    // SAFETY: nobody else changes the entry: the connection has one accepting end.
    let opener = *unsafe { WAITING.get(connection) }?;
    let _ = WAITING.remove(connection);
    // SAFETY: the kernel passes a valid context.
    let sk: *mut c_void = unsafe { (*ops).__bindgen_anon_2.sk }.cast();
    if sk.is_null() {
        return None;
    }
    // SAFETY: the verifier knows the socket.
    let flags = match unsafe { ENDS.get(sk) } {
        // SAFETY: the value is the socket's own, and its socket is locked.
        Some(end) => unsafe { (*end).flags },
        None => 0,
    };
    if (flags | opener.flags as u32) & end_flag::OURS == 0 {
        return None;
    }
    let half = enter(ops, sk, flags, sides.send_next)?;
    // SAFETY: the verifier knows the socket.
    let end = unsafe { ENDS.get(sk) }?;
    // SAFETY: the value is the socket's own, and its socket is locked.
    unsafe {
        (*end).peer = opener.sock;
        (*end).peer_flags = opener.flags as u32;
        (*end).peer_cookie = opener.cookie;
    }
    FOUND.insert(opener.cookie, half, u64::from(BPF_ANY)).ok()?;
    count(Count::Connections, 1);
    Some(())
}

/// Puts a socket into the socket hash.
#[inline(always)]
fn enter(ops: *mut bpf_sock_ops, sk: *mut c_void, flags: u32, first_seq: u32) -> Option<Half> {
    // SAFETY: the kernel passes a valid context.
    let mut cookie = unsafe { bpf_get_socket_cookie(ops.cast()) };
    let mut first = End::default();
    // SAFETY: the verifier knows the socket.
    let end = unsafe { ENDS.get_or_make(sk, &mut first) }?;
    // SAFETY: the value is the socket's own, and its socket is locked.
    unsafe {
        *end = End {
            cookie,
            sock: sk as u64,
            flags,
            first_seq,
            ..End::default()
        };
    }
    let (map, key) = (&raw const SOCKETS, &raw mut cookie);
    // SAFETY: the map is one of sockets by such keys.
    let entered =
        unsafe { bpf_sock_hash_update(ops, map.cast_mut().cast(), key.cast(), u64::from(BPF_ANY)) };
    if entered != 0 {
        count(Count::Full, 1);
        return None;
    }
    Some(Half {
        cookie,
        sock: sk as u64,
        flags: u64::from(flags),
    })
}

/// True if the descriptor of a socket blocks, or if that cannot be known.
#[inline(always)]
fn blocks(sk: *mut c_void) -> Option<bool> {
    const NONBLOCK: u32 = 0o4000;
    let offsets = OFFSETS.get(0)?;
    let mut first = End::default();
    // SAFETY: the verifier knows the socket.
    let end = unsafe { ENDS.get_or_make(sk, &mut first) }?;
    // SAFETY: the value is the socket's own, and its socket is locked. What is read from a map is a
    // number to the verifier, to which offsets may be added.
    let sock = unsafe {
        (*end).sock = sk as u64;
        (&raw const (*end).sock).read_volatile()
    };
    let socket = read::<u64>(sock, offsets.socket);
    let file = socket.and_then(|socket| read::<u64>(socket, offsets.file));
    let flags = file.and_then(|file| read::<u32>(file, offsets.file_flags));
    Some(flags.is_none_or(|flags| flags & NONBLOCK == 0))
}

fn is_on() -> bool {
    OFFSETS.get(0).is_some_and(|offsets| offsets.is_on != 0)
}

#[inline(always)]
fn netns(ops: *mut bpf_sock_ops) -> u64 {
    // SAFETY: the kernel passes a valid context.
    unsafe { bpf_get_netns_cookie(ops.cast()) }
}

/// True if the daemon accepts where this connection goes to.
#[inline(always)]
fn is_listener(sides: &Sides, netns: u64) -> bool {
    let mut key = ListenerKey {
        addr: sides.remote,
        netns,
        port: sides.remote_port,
        _pad: 0,
    };
    // SAFETY: only whether there is an entry is asked.
    if unsafe { LISTENERS.get(key) }.is_some() {
        return true;
    }
    key.addr = Addr::UNSPECIFIED;
    // SAFETY: as above.
    unsafe { LISTENERS.get(key) }.is_some()
}

/// What a socket knows of itself.
struct Sides {
    local: Addr,
    remote: Addr,
    local_port: u32,
    remote_port: u32,
    send_next: u32,
    receive_next: u32,
}

impl Sides {
    #[inline(always)]
    fn of(ops: *mut bpf_sock_ops) -> Self {
        // SAFETY: the kernel passes a valid context, whose fields it reads one by one.
        let ops = unsafe { &*ops };
        let (local, remote) = if ops.family == IPV4 {
            (
                Addr::v4(ops.local_ip4.to_ne_bytes()),
                Addr::v4(ops.remote_ip4.to_ne_bytes()),
            )
        } else {
            (whole(&ops.local_ip6), whole(&ops.remote_ip6))
        };
        Self {
            local,
            remote,
            local_port: ops.local_port,
            remote_port: u32::from_be(ops.remote_port),
            send_next: ops.snd_nxt,
            receive_next: ops.rcv_nxt,
        }
    }

    /// True if the other end can only be in this network namespace: a packet to an own address
    /// does not leave, nor does one to 127.0.0.0/8.
    #[inline(always)]
    fn stay_here(&self) -> bool {
        self.local == self.remote || (is_loopback(&self.local) && is_loopback(&self.remote))
    }
}

#[inline(always)]
fn is_loopback(addr: &Addr) -> bool {
    addr.is_v4() && addr.low32()[0] == 127
}

#[inline(always)]
fn whole(quarters: &[u32; 4]) -> Addr {
    // Volatile: the kernel gives out each quarter by itself, and refuses wider loads.
    // SAFETY: the array is part of a valid context.
    let quarter = |index: usize| u64::from(unsafe { (&raw const quarters[index]).read_volatile() });
    Addr::from_words([quarter(0) | quarter(1) << 32, quarter(2) | quarter(3) << 32])
}
