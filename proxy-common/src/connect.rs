//! Balancing at connect(): what the programs on cgroups (`target/ebpf/connect`) and their user space
//! agree on.
//!
//! A **VIP** is a protocol, an address or prefix, and a port or all ports; three tables hold them, and
//! are asked in the order of the packet path: the exact address before prefixes, of each one port
//! before all. A VIP leads to a **service**, and `connect_tables` has a table of each: its first
//! element says how many slots follow and how the service is used ([`Header`]), the others are the
//! slots of an alias table (Vose): one is drawn at random, and a second number tells which of its two
//! backends is meant. So backends get exactly their shares, however many there are, in two lookups. A
//! table is never edited but replaced as a whole: a socket is given a backend by the old one or the new
//! one.
//!
//! What a socket was given is kept **in the socket** (socket storage), and goes with it. For a TCP socket
//! that is too dear (two pieces of memory for each connection): it has a **row** of a table, which its
//! cookie tells, from connect() until it is released, and keeps in itself what it was given only where
//! another socket has that row. So nothing is pushed out, and nothing is lost where the table is full.
//! The cookies of sockets that are to be told when their backend goes away are in a table of their own,
//! which they leave when they are released; what a socket was given says whether it is in there, so that
//! no other one pays for looking.
//!
//! TCP sockets of services that ask for it ([`flag::WATCH`]) are **watched**: what the kernel counts of
//! each is added up per backend ([`Facts`]), when it opens, when it ends, and whenever user space has
//! those that are open gone through.

use crate::addr::Addr;
use core::mem::size_of;

/// Version of what is in these maps; others are not adopted.
pub const CONNECT_ABI: u32 = 3;

/// Services that may have a table.
pub const SERVICES: u32 = 1024;
/// Backends of all of them together; number 0 is nobody.
pub const BACKENDS: u32 = 16_384;
/// Entries of each table of VIPs.
pub const VIPS: u32 = 8192;
/// Sockets that are to be told when their backend goes away.
pub const SOCKETS: u32 = 1 << 18;
/// Rows for TCP sockets, a power of two: 2 MiB.
pub const ROWS: u32 = 1 << 15;
/// Clients and services whose affinity is remembered.
pub const AFFINITIES: u32 = 65_536;
/// Destinations of a socket that is not connected whose backends are remembered at a time.
pub const PAIRS: usize = 4;
/// Processes whose sockets are left alone: a daemon and its successor.
pub const OWNERS: usize = 2;
/// A tick of this object's clock is two to the power of it in nanoseconds, as on the packet path.
pub const TICK_SHIFT: u32 = 20;

/// Programs, named as they are pinned.
pub mod program {
    /// connect() of an IPv4 socket.
    pub const CONNECT4: &str = "sluice_connect4";
    /// connect() of an IPv6 socket.
    pub const CONNECT6: &str = "sluice_connect6";
    /// sendto() with an IPv4 address.
    pub const SENDMSG4: &str = "sluice_sendmsg4";
    /// sendto() with an IPv6 address.
    pub const SENDMSG6: &str = "sluice_sendmsg6";
    /// recvfrom() of an IPv4 socket.
    pub const RECVMSG4: &str = "sluice_recvmsg4";
    /// recvfrom() of an IPv6 socket.
    pub const RECVMSG6: &str = "sluice_recvmsg6";
    /// getpeername() of an IPv4 socket.
    pub const PEER4: &str = "sluice_peer4";
    /// getpeername() of an IPv6 socket.
    pub const PEER6: &str = "sluice_peer6";
    /// A socket is released.
    pub const RELEASE: &str = "sluice_release";
    /// A TCP socket dials, opens, ends.
    pub const WATCH: &str = "sluice_watch";
    /// Goes through the sockets that are watched.
    pub const LOOK: &str = "sluice_look";
}

/// Names of the maps.
pub mod map {
    /// One element: [`super::State`]. User space writes.
    pub const STATE: &str = "connect_state";
    /// One element: [`super::Owners`]. User space writes, and the kernel what it is told.
    pub const OWNERS: &str = "connect_owners";
    /// Hash of [`super::VipKey`] → `u32`, a service. User space writes; when full, the configuration
    /// is not followed.
    pub const VIPS: &str = "connect_vips";
    /// LPM trie of [`super::VipPrefix`] → `u32`, a service. As `connect_vips`.
    pub const PREFIXES: &str = "connect_prefix";
    /// Array of maps by service: each an array of [`super::Element`]. User space swaps in new ones.
    pub const TABLES: &str = "connect_tables";
    /// Array of [`super::Name`] by service. User space writes and reads: it says whose a table is.
    pub const NAMES: &str = "connect_names";
    /// Array of [`super::Backend`] by number. User space writes.
    pub const BACKENDS: &str = "connect_backend";
    /// Array of [`super::Open`] by number of the backend. Both sides change it atomically.
    pub const OPEN: &str = "connect_open";
    /// Array of [`super::Row`] by a socket's cookie, see [`super::row_of`]. Kernel only. Where a row is
    /// another socket's, `connect_peers` is used.
    pub const ROWS: &str = "connect_rows";
    /// Storage of [`super::Peer`] in connected sockets that have no row. Kernel only.
    pub const PEERS: &str = "connect_peers";
    /// Storage of [`super::Talks`] in sockets that are not connected. Kernel only.
    pub const TALKS: &str = "connect_talks";
    /// Hash of socket cookies → [`super::Told`]. The kernel writes and removes; when full, the socket
    /// is balanced, but not told of its backend's loss, and counted.
    pub const SOCKETS: &str = "connect_sockets";
    /// LRU hash of [`super::AffinityKey`] → [`super::Affinity`]. Kernel only.
    pub const AFFINITY: &str = "connect_affine";
    /// Per-CPU array of [`super::ServiceStats`] by service. Kernel writes.
    pub const SERVICE_STATS: &str = "connect_stats";
    /// Per-CPU array of `u64` by number of the backend: sockets and destinations of sockets that it was
    /// given to. Kernel writes.
    pub const BACKEND_STATS: &str = "connect_given";
    /// One element: [`super::Layout`]. User space writes.
    pub const LAYOUT: &str = "connect_layout";
    /// Storage of [`super::Seen`] in TCP sockets that are watched. Kernel only. Where there is no room
    /// for it, the socket is not watched, and counted.
    pub const SEEN: &str = "connect_seen";
    /// Array of [`super::Facts`] by number of the backend. The kernel adds, atomically; user space
    /// clears those of a number that is given to another backend.
    pub const FACTS: &str = "connect_facts";
}

/// The element of `connect_state`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// [`CONNECT_ABI`].
    pub abi: u32,
    /// See [`kinds`].
    pub kinds: u32,
}

const _: () = assert!(size_of::<State>() == 4 + 4);

/// The element of `connect_owners`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owners {
    /// Cookie of a socket by whose connect() the process that does it becomes the first owner; 0 for
    /// none.
    pub introduction: u64,
    /// Process ids whose sockets are left alone; 0 for none.
    pub processes: [u32; OWNERS],
}

const _: () = assert!(size_of::<Owners>() == 8 + 4 * OWNERS);

/// Bits of [`State::kinds`]: which tables have entries, so that the others are not asked.
pub mod kinds {
    /// One address and port.
    pub const PORT: u32 = 1;
    /// One address, all ports.
    pub const ALL_PORTS: u32 = 2;
    /// A prefix and one port.
    pub const PREFIX_PORT: u32 = 4;
    /// A prefix, all ports.
    pub const PREFIX_ALL_PORTS: u32 = 8;
}

/// Key of `connect_vips`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VipKey {
    /// Address.
    pub addr: Addr,
    /// Port in network byte order; 0 for all.
    pub port_be: u16,
    /// IP protocol.
    pub protocol: u8,
    /// 4 or 6: `::/1` is not for IPv4 addresses, whose mapped form it contains.
    pub family: u8,
    /// Zero.
    pub _pad: u32,
}

const _: () = assert!(size_of::<VipKey>() == 16 + 2 + 1 + 1 + 4);

impl VipKey {
    /// The key of an address; port 0 is all ports.
    #[inline(always)]
    pub const fn new(addr: Addr, port_be: u16, protocol: u8) -> Self {
        Self {
            addr,
            port_be,
            protocol,
            family: family(&addr),
            _pad: 0,
        }
    }
}

const fn family(addr: &Addr) -> u8 {
    if addr.is_v4() { 4 } else { 6 }
}

/// What a key of `connect_prefix` says after the length of its prefix.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PrefixKey {
    /// Port in network byte order; 0 for all.
    pub port_be: u16,
    /// IP protocol.
    pub protocol: u8,
    /// 4 or 6.
    pub family: u8,
    /// The address, mapped form for IPv4 (so a /24 has 96 + 24 bits).
    pub addr: [u8; 16],
}

const _: () = assert!(size_of::<PrefixKey>() == 2 + 1 + 1 + 16);

/// Bits before the address in a [`PrefixKey`].
pub const PREFIX_KEY_FIXED_BITS: u32 = 32;

impl PrefixKey {
    /// The key of an address; port 0 is all ports.
    #[inline(always)]
    pub const fn new(addr: Addr, port_be: u16, protocol: u8) -> Self {
        Self {
            port_be,
            protocol,
            family: family(&addr),
            addr: addr.octets,
        }
    }
}

/// A key of `connect_prefix`, as user space writes it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VipPrefix {
    /// Bits of the key that have to match.
    pub bits: u32,
    /// They, and zeros.
    pub key: PrefixKey,
}

const _: () = assert!(size_of::<VipPrefix>() == 4 + 20);

/// Element of a service's table: the first is a [`Header`], the others are [`Slot`]s.
pub type Element = [u32; 6];

/// How a service is used.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Slots that follow; 0 if nobody can take a new socket.
    pub slots: u32,
    /// See [`flag`].
    pub flags: u32,
    /// Ticks for which an affinity is kept without a new socket.
    pub affinity_ticks: u32,
    /// Ticks for which a socket that is not connected keeps its backend without a datagram.
    pub udp_ticks: u32,
    /// Zeros.
    pub _pad: [u32; 2],
}

const _: () = assert!(size_of::<Header>() == size_of::<Element>());

/// Bits of [`Header::flags`].
pub mod flag {
    /// While nobody can take a new socket: it goes to the VIP itself. Else it is refused.
    pub const PASS: u32 = 1;
    /// Sockets are to be told when their backend goes away.
    pub const TELL: u32 = 2;
    /// A client keeps its backend.
    pub const AFFINITY: u32 = 4;
    /// Of two backends that are drawn, the one with fewer sockets for its weight.
    pub const TWO_CHOICES: u32 = 8;
    /// What the kernel knows of TCP sockets is added up per backend.
    pub const WATCH: u32 = 16;
}

/// A slot of an alias table.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// The slot's own backend is meant by numbers below it.
    pub threshold: u32,
    /// Its own backend.
    pub own: u32,
    /// Who is meant by the others.
    pub alias: u32,
    /// Zeros.
    pub _pad: [u32; 3],
}

const _: () = assert!(size_of::<Slot>() == size_of::<Element>());

impl Header {
    /// As an element of a table.
    pub const fn element(self) -> Element {
        let [a, b] = self._pad;
        [
            self.slots,
            self.flags,
            self.affinity_ticks,
            self.udp_ticks,
            a,
            b,
        ]
    }

    /// From the first element of a table.
    #[inline(always)]
    pub const fn of(element: &Element) -> Self {
        Self {
            slots: element[0],
            flags: element[1],
            affinity_ticks: element[2],
            udp_ticks: element[3],
            _pad: [element[4], element[5]],
        }
    }
}

impl Slot {
    /// As an element of a table.
    pub const fn element(self) -> Element {
        let [a, b, c] = self._pad;
        [self.threshold, self.own, self.alias, a, b, c]
    }

    /// From an element of a table.
    #[inline(always)]
    pub const fn of(element: &Element) -> Self {
        Self {
            threshold: element[0],
            own: element[1],
            alias: element[2],
            _pad: [element[3], element[4], element[5]],
        }
    }

    /// The backend that a number means.
    #[inline(always)]
    pub const fn pick(&self, number: u32) -> u32 {
        if number < self.threshold {
            self.own
        } else {
            self.alias
        }
    }
}

/// Element of `connect_names`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    /// Name of the service, ended by zeros; all zeros if nobody has the number.
    pub name: [u8; 64],
}

impl Default for Name {
    fn default() -> Self {
        Self { name: [0; 64] }
    }
}

/// A server.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backend {
    /// Address.
    pub addr: Addr,
    /// Port in network byte order; 0 keeps the one that was dialled.
    pub port_be: u16,
    /// See [`state`].
    pub state: u16,
    /// Its service.
    pub service: u16,
    /// Weight.
    pub weight: u16,
    /// Raised when the number goes to another backend: what still refers to the former one is told
    /// apart.
    pub epoch: u32,
    /// An operator's drain, one of [`crate::backend::drain`]: only so that a new process knows of it.
    pub drain: u32,
}

const _: () = assert!(size_of::<Backend>() == 16 + 2 * 4 + 4 + 4);

/// Values of [`Backend::state`].
pub mod state {
    /// Nobody.
    pub const ABSENT: u16 = 0;
    /// Takes new sockets.
    pub const UP: u16 = 1;
    /// Takes no new ones and keeps those that it has.
    pub const DRAINING: u16 = 2;
    /// Takes none.
    pub const DOWN: u16 = 3;
}

/// Sockets that a backend has.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Open {
    /// Those that have been connected and not been released.
    pub sockets: u64,
}

/// What a connected socket was given.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// What the workload dialled.
    pub vip: Addr,
    /// What it got.
    pub backend: Addr,
    /// Port of the VIP, network byte order.
    pub vip_port_be: u16,
    /// Port of the backend, network byte order.
    pub backend_port_be: u16,
    /// Number of the backend; 0 if this is empty.
    pub id: u32,
    /// Its epoch.
    pub epoch: u32,
    /// 1 if the socket is in `connect_sockets`. Always 0 of one that is not connected.
    pub is_told: u32,
}

const _: () = assert!(size_of::<Peer>() == 2 * 16 + 2 + 2 + 3 * 4);

/// A row of `connect_rows`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Cookie of the socket that has it; 0 for none.
    pub cookie: u64,
    /// What that was given.
    pub peer: Peer,
    /// 1 once a socket has found it taken: those that it is not of are to be asked themselves.
    pub is_shared: u64,
}

// A line of a CPU's cache.
const _: () = assert!(size_of::<Row>() == 8 + 48 + 8);

/// The row of a socket with this cookie. Cookies count up, so that sockets of about the same time have
/// different ones.
#[inline(always)]
pub const fn row_of(cookie: u64) -> u32 {
    cookie as u32 & (ROWS - 1)
}

/// What a socket that is not connected was given for its latest destinations.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Talks {
    /// They, in no order.
    pub pairs: [Peer; PAIRS],
    /// When each was given or last used, in ticks.
    pub ticks: [u32; PAIRS],
    /// The one that is replaced next.
    pub next: u32,
    /// Zero.
    pub _pad: u32,
}

const _: () = assert!(size_of::<Talks>() == PAIRS * (48 + 4) + 4 + 4);

/// A socket that is to be told when its backend goes away.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Cookie of its network namespace.
    pub netns: u64,
    /// Number of the backend.
    pub id: u32,
    /// Its epoch.
    pub epoch: u32,
    /// Port of the backend, network byte order.
    pub port_be: u16,
    /// IP protocol.
    pub protocol: u8,
    /// 4 or 6: the family of the socket, which may be 6 although the address is an IPv4 one.
    pub family: u8,
    /// Zero.
    pub _pad: u32,
}

const _: () = assert!(size_of::<Told>() == 8 + 4 + 4 + 2 + 1 + 1 + 4);

/// Whose affinity to which service.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AffinityKey {
    /// Id of the cgroup.
    pub client: u64,
    /// The service.
    pub service: u32,
    /// Zero.
    pub _pad: u32,
}

const _: () = assert!(size_of::<AffinityKey>() == 8 + 4 + 4);

/// What a client was given last.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Affinity {
    /// Number of the backend.
    pub id: u32,
    /// Its epoch.
    pub epoch: u32,
    /// When, in ticks.
    pub ticks: u32,
    /// Zero.
    pub _pad: u32,
}

const _: () = assert!(size_of::<Affinity>() == 4 * 4);

/// What became of those who dialled a service's VIPs: per CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceStats {
    /// Calls of connect() that got a backend.
    pub connected: u64,
    /// Destinations of sockets that are not connected which got a backend.
    pub opened: u64,
    /// Datagrams of those sockets.
    pub datagrams: u64,
    /// Refused, for there was no backend.
    pub refused: u64,
    /// Left to go to the VIP, for there was no backend.
    pub passed: u64,
    /// Balanced, but the socket has no room to remember it: its peer's name is the backend's, it is
    /// not told of a loss, or it is not watched.
    pub unrecorded: u64,
}

const _: () = assert!(size_of::<ServiceStats>() == 6 * 8);

/// Where the running kernel keeps what TCP counts: octets from the start of a `struct tcp_sock`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// 1 if the others are known.
    pub is_known: u32,
    /// `data_segs_out`.
    pub segments: u32,
    /// `total_retrans`.
    pub retransmits: u32,
    /// `delivered`.
    pub delivered: u32,
    /// `rcv_ooopack`.
    pub disordered: u32,
    /// `srtt_us`, in eighths of a microsecond.
    pub round_trip: u32,
    /// `write_seq`: behind the last octet that was written.
    pub written: u32,
    /// `snd_una`: the first octet that was not acknowledged.
    pub acknowledged: u32,
    /// `snd_wnd`.
    pub window: u32,
    /// `sk_err`.
    pub error: u32,
}

const _: () = assert!(size_of::<Layout>() == 10 * 4);

/// What was seen of a TCP socket when it was last looked at.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Its address in the kernel.
    pub sock: u64,
    /// When it dialled, in nanoseconds of the kernel's clock.
    pub dialled: u64,
    /// Number of its backend; 0 if it is not watched.
    pub id: u32,
    /// Its epoch.
    pub epoch: u32,
    /// 1 once the connection is open.
    pub is_open: u32,
    /// The counts of [`Layout`], each as it was.
    pub segments: u32,
    /// See there.
    pub retransmits: u32,
    /// See there.
    pub delivered: u32,
    /// See there.
    pub disordered: u32,
    /// Zero.
    pub _pad: u32,
}

const _: () = assert!(size_of::<Seen>() == 2 * 8 + 8 * 4);

/// What was seen of all watched sockets of a backend.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Segments sent that carry octets or open the connection, those sent again among them.
    pub segments: u64,
    /// Segments sent again.
    pub retransmits: u64,
    /// Segments of the other end that came out of order.
    pub disordered: u64,
    /// Looks at a connection on which something moved or waited.
    pub looks: u64,
    /// Of those, where the other end's window was zero while octets waited.
    pub zero_windows: u64,
    /// Of those, where there was a new round trip.
    pub timed: u64,
    /// Those round trips together, in microseconds.
    pub round_trips_us: u64,
    /// Connections that were opened.
    pub opened: u64,
    /// What opening them took, together, in nanoseconds.
    pub opening_ns: u64,
    /// Connections that could not be opened, and that was not for want of patience.
    pub failed: u64,
}

const _: () = assert!(size_of::<Facts>() == 10 * 8);

crate::map_value!(
    State,
    Owners,
    VipKey,
    PrefixKey,
    VipPrefix,
    Header,
    Slot,
    Name,
    Backend,
    Open,
    Peer,
    Row,
    Talks,
    Told,
    AffinityKey,
    Affinity,
    ServiceStats,
    Layout,
    Seen,
    Facts
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_of_a_table_are_read_back() {
        let header = Header {
            slots: 3,
            flags: flag::TELL,
            affinity_ticks: 7,
            udp_ticks: 9,
            _pad: [0; 2],
        };
        assert_eq!(Header::of(&header.element()), header);
        let slot = Slot {
            threshold: 1 << 31,
            own: 4,
            alias: 5,
            _pad: [0; 3],
        };
        assert_eq!(Slot::of(&slot.element()), slot);
        assert_eq!((slot.pick(0), slot.pick(1 << 31)), (4, 5));
    }

    #[test]
    fn keys_know_their_family() {
        assert_eq!(VipKey::new(Addr::v4([192, 0, 2, 1]), 80, 6).family, 4);
        assert_eq!(PrefixKey::new(Addr::UNSPECIFIED, 80, 6).family, 6);
    }
}
