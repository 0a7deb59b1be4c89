//! What the programs on sockets (`target/ebpf/sock`) and their user space agree on.
//!
//! These maps belong to one process: they are not pinned, a new process makes its own, and so a
//! change here does not change [`crate::ABI_VERSION`].

use crate::addr::Addr;
use core::mem::size_of;

/// Programs of the object.
pub mod program {
    /// Looks at every TCP connection of a cgroup when it is established (sock_ops).
    pub const TRACK: &str = "sluice_track";
    /// Decides for each message of an accelerated socket which way it goes (sk_msg).
    pub const REDIRECT: &str = "sluice_redirect";
}

/// Names of the maps.
pub mod map {
    /// One element: [`super::Offsets`]. User space writes before programs run.
    pub const OFFSETS: &str = "sock_offsets";
    /// Storage of [`super::End`] in sockets. User space marks listeners and outgoing sockets of the
    /// daemon; accepted ones inherit the mark; the kernel fills in the rest.
    pub const ENDS: &str = "sock_ends";
    /// Socket hash by socket cookie: both ends of accelerated connections. The kernel adds, and
    /// sockets leave by themselves. When full, connections stay plain and are counted.
    pub const SOCKETS: &str = "sock_sockets";
    /// LRU hash of [`super::Connection`] → [`super::Half`]: the opening end waits for the accepting
    /// one. Kernel only; what is pushed out stays plain.
    pub const WAITING: &str = "sock_waiting";
    /// LRU hash of the opening end's cookie → [`super::Half`] of the accepting one. Kernel only.
    pub const FOUND: &str = "sock_found";
    /// Hash of [`super::ListenerKey`] → `u32` flags: where the daemon accepts accelerated
    /// connections. User space writes; when full the listener stays plain.
    pub const LISTENERS: &str = "sock_listeners";
    /// Hash: cookie of the writing end → `u32` index of its [`super::Leg`]. User space writes; when
    /// full a tunnel's octets go through the daemon.
    pub const JOINED: &str = "sock_joined";
    /// Array of [`super::Leg`], which user space has in its memory. It writes all but the counts.
    pub const LEGS: &str = "sock_legs";
    /// Per-CPU array of `u64` by [`super::Count`]. Kernel writes.
    pub const COUNTS: &str = "sock_counts";
}

/// Most sockets in the socket hash: two for each accelerated connection. Default.
pub const SOCKETS: u32 = 65_536;
/// Connections between the establishment of one end and the other.
pub const WAITING: u32 = 8192;
/// Addresses and ports of accelerated listeners.
pub const LISTENERS: u32 = 4096;

/// Directions of tunnels that are joined at once: two for each tunnel.
pub const LEGS: u32 = 16_384;

/// Octets that may wait at an end before the daemon's next write is held up.
pub const QUEUE_OCTETS: u32 = 1 << 20;

/// Octets that may wait at the reading end of a joined tunnel before a message goes through the daemon.
/// That is dearer for as long as the writer does not pause; TCP by itself would hold more.
pub const DIRECT_OCTETS: u32 = 4 << 20;

/// Octets of receive buffer of an end of the daemon below which what others write to it goes by TCP.
/// A quarter of it is for what comes past TCP. The rest must hold what TCP brings while that quarter
/// is full: it drops what does not fit, and sends it again only after a fifth of a second or more.
pub const LEAST_BUFFER: u32 = 4 << 20;

/// Octets that may always wait at an end of the daemon before a message takes the way by TCP. Who
/// has read fewer since the socket was empty, and then reads less than was asked for, has emptied
/// it: there is nothing that came by TCP behind it.
pub const LEAST_ROOM: u32 = LEAST_BUFFER / 4;

/// Key of [`map::SOCKETS`] for a socket that was shut down for writing. What is held up is sent to
/// it, and so its writer is told `EPIPE` and can write again later. A verdict to drop would stay
/// with the writer's socket for ever (`tcp_bpf_send_verdict` does not clear it).
pub const SINK: u64 = 0;

/// Where the kernel keeps what helpers do not tell, in octets from a `struct tcp_sock`. User space
/// reads them from the running kernel's type information.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    /// `skc_cookie`, eight octets.
    pub cookie: u32,
    /// `sk_rmem_alloc`: octets that wait to be read, by whichever way they came.
    pub queued: u32,
    /// `sk_rcvbuf`.
    pub room: u32,
    /// `copied_seq`: the next octet of the TCP stream that the application has not read.
    pub copied_seq: u32,
    /// `write_seq`: the next octet of the TCP stream that the application writes.
    pub write_seq: u32,
    /// `skc_state`, one octet.
    pub state: u32,
    /// `sk_socket`: the `struct socket`, once there is one.
    pub socket: u32,
    /// In that its file.
    pub file: u32,
    /// In that its flags, four octets.
    pub file_flags: u32,
    /// 1 while new connections are accelerated.
    pub is_on: u32,
    /// 1 once a tunnel was joined: only then ends are looked up.
    pub joins: u32,
}

const _: () = assert!(size_of::<Offsets>() == 11 * 4);

/// An end of a connection, in its socket's storage.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// Cookie of this socket; 0 if it is only marked.
    pub cookie: u64,
    /// Where the kernel keeps it.
    pub sock: u64,
    /// Cookie of the other end; 0 while it is not known.
    pub peer_cookie: u64,
    /// Where the kernel keeps that. Read with care: the other end may be gone.
    pub peer: u64,
    /// Octets that this end has sent past TCP.
    pub octets: u64,
    /// See [`end_flag`].
    pub flags: u32,
    /// Those of the other end, once it is known.
    pub peer_flags: u32,
    /// The sequence number of the first octet that this end sends by TCP.
    pub first_seq: u32,
    /// The index of this end's leg and one more; 0 while none is known.
    pub leg: u32,
}

const _: () = assert!(size_of::<End>() == 5 * 8 + 4 * 4);

/// One direction of a tunnel between two other processes of this host, past the daemon as well:
/// what one of them writes goes to the other's queue.
///
/// `passed` makes it safe. All that the writing end has sent towards the daemon, by either way, is
/// counted by the kernel; how much of that the daemon has passed on is said here. Only while the
/// two are equal is nothing on the long way, and only then a message takes the short one. Nobody
/// but the writing end, whose socket is locked, can make them differ.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leg {
    /// Cookie of the end that writes; 0 while the leg is not in use. Written last, cleared first.
    pub from: u64,
    /// Cookie of the end that reads.
    pub to: u64,
    /// Where the kernel keeps that. Read with care: it may be gone.
    pub to_sock: u64,
    /// Cookie of the daemon's socket towards it.
    pub via: u64,
    /// Where the kernel keeps that.
    pub via_sock: u64,
    /// Octets of the writing end that the daemon has passed on, or that were meant for it. Compared
    /// modulo 2^32.
    pub passed: u64,
    /// Octets that went past the daemon. The kernel counts.
    pub octets: u64,
    /// When the first of them did, in ns of the coarse monotonic clock; 0 for never.
    pub first_at: u64,
    /// When the last one did.
    pub last_at: u64,
}

const _: () = assert!(size_of::<Leg>() == LEG_WORDS * 8);

/// Words of a [`Leg`], in the order of its fields.
pub const LEG_WORDS: usize = 9;

/// Bits of [`End::flags`].
pub mod end_flag {
    /// The daemon's socket: its writes may be held up instead of mixed with what TCP brings, and it
    /// reads until there is nothing, even after a short read.
    pub const OURS: u32 = 1;
}

/// A connection as both its ends see it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// Address of the end that opened it.
    pub client: Addr,
    /// Address of the end that accepted it.
    pub server: Addr,
    /// Network namespace.
    pub netns: u64,
    /// The client's next sequence number, which both know: neither has sent anything yet.
    pub client_seq: u32,
    /// The server's next sequence number.
    pub server_seq: u32,
    /// The client's port, host order.
    pub client_port: u32,
    /// The server's port, host order.
    pub server_port: u32,
}

const _: () = assert!(size_of::<Connection>() == 2 * 16 + 8 + 4 * 4);

/// One end, told to the other.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Half {
    /// Cookie of the socket.
    pub cookie: u64,
    /// Where the kernel keeps it.
    pub sock: u64,
    /// See [`end_flag`].
    pub flags: u64,
}

const _: () = assert!(size_of::<Half>() == 3 * 8);

/// Where the daemon accepts accelerated connections.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListenerKey {
    /// Address, unspecified for every address.
    pub addr: Addr,
    /// Network namespace.
    pub netns: u64,
    /// Port, host order.
    pub port: u32,
    /// Zero.
    pub _pad: u32,
}

const _: () = assert!(size_of::<ListenerKey>() == 16 + 8 + 4 + 4);

/// What the kernel side counts.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Connections whose ends found each other.
    Connections = 0,
    /// Ends that found no room in the socket hash.
    Full = 1,
    /// Messages that went past TCP.
    Messages = 2,
    /// Octets of those.
    Octets = 3,
    /// Messages that went by TCP because what TCP had brought was not read yet.
    Behind = 4,
    /// Messages that went by TCP because the daemon had not read what waited.
    Overflow = 5,
    /// Writes of the daemon that were held up because the other end had not read what waited.
    Held = 6,
    /// Messages to an end that has gone.
    Gone = 7,
    /// Opening ends that stayed plain because their descriptor blocks: a blocking read may fail
    /// with `EAGAIN` in such a socket.
    Blocking = 8,
    /// Messages of tunnels that went past the daemon.
    Direct = 9,
    /// Octets of those.
    DirectOctets = 10,
    /// Messages of joined tunnels that went through the daemon, as something was still on its way.
    Detour = 11,
    /// Messages of joined tunnels that went through the daemon, as much waited at the reading end.
    Crowded = 12,
}

/// Elements of the counts.
pub const COUNTS: u32 = 13;

crate::map_value!(Offsets, End, Leg, Connection, Half, ListenerKey);
