//! What the programs of sidecar-less redirection (`target/ebpf/redirect`) and their user space
//! agree on. What workloads open:
//!
//! ```text
//!  connect()                 chosen cgroup? excluded? listener there?   ─▶ goes to the listener
//!      └ origin in the socket's storage: where it was to go, and who opened it
//!  its handshake completes   WAITING[server, both sequence numbers] = origin
//!  the daemon's completes    takes it from there into the accepted socket's storage
//!  accept()                  the daemon reads its socket's storage
//! ```
//!
//! The two ends find each other by the sequence numbers that both have drawn at random, so who a
//! connection is from can neither be claimed nor mistaken, whatever addresses are on the way. What
//! is kept of a connection is in its two sockets and goes with them; [`map::WAITING`] has an entry
//! from the moment at which the opening end has the server's answer until the server has the
//! client's.
//!
//! What others open to workloads:
//!
//! ```text
//!  listen()    whose cgroup?                          LISTENING[address, port] = chosen cgroup
//!  a SYN       is that port a workload's? excluded?   ─▶ gets the listener's socket (sk_lookup)
//! ```
//!
//! The daemon's own connections to workloads are told from others by their two addresses, which are
//! entered before the SYN is sent ([`map::DIALS`]).
//!
//! These maps are pinned, for redirection outlives a daemon that is killed: [`REDIRECT_ABI`] says
//! which version they are of.

use crate::addr::Addr;
use core::mem::size_of;

/// Version of every layout and meaning in this module.
pub const REDIRECT_ABI: u32 = 2;

/// Programs of the object; their names are cut to 15 octets in the kernel.
pub mod program {
    /// What a workload connects to over IPv4 (cgroup connect4).
    pub const CONNECT4: &str = "mesh_connect4";
    /// Over IPv6, or over IPv4 by a socket of IPv6 (cgroup connect6).
    pub const CONNECT6: &str = "mesh_connect6";
    /// Tells a workload the peer that it dialled (cgroup getpeername4).
    pub const PEER4: &str = "mesh_peer4";
    /// As [`PEER4`], for sockets of IPv6.
    pub const PEER6: &str = "mesh_peer6";
    /// Carries what is known of a connection from one end to the other (sock_ops).
    pub const MEET: &str = "mesh_meet";
    /// Notes who listens where, and what the daemon dials (sock_ops).
    pub const HEAR: &str = "mesh_hear";
    /// What arrives at a workload's port (sk_lookup).
    pub const ARRIVE: &str = "mesh_arrive";
    /// Those that are attached to each chosen cgroup whose connections are redirected as they are
    /// opened; [`MEET`] is at the root then.
    pub const WORKLOADS: [&str; 4] = [CONNECT4, CONNECT6, PEER4, PEER6];
    /// All of them. [`HEAR`], at the root, and [`ARRIVE`], at the daemon's network namespace, are for
    /// connections that arrive.
    pub const ALL: [&str; 7] = [CONNECT4, CONNECT6, PEER4, PEER6, MEET, HEAR, ARRIVE];
}

/// Names of the maps.
pub mod map {
    /// One element: [`super::MeshState`]. User space writes.
    pub const STATE: &str = "mesh_state";
    /// Hash of [`super::ChosenKey`] → number of the set. User space writes; a configuration that
    /// does not fit is refused.
    pub const CHOSEN: &str = "mesh_chosen";
    /// Array of [`super::MeshSet`]. User space writes.
    pub const SETS: &str = "mesh_sets";
    /// Trie of set and prefix → 1 for redirected, 0 for not. User space writes, likewise.
    pub const PREFIXES: &str = "mesh_prefixes";
    /// Hash of [`super::UserKey`] → 1 for redirected, 0 for not. User space writes, likewise.
    pub const USERS: &str = "mesh_users";
    /// The listening socket of each set. User space adds; a socket leaves by itself when it is
    /// closed, also because its process was killed: that is how the kernel side knows.
    pub const SOCKETS: &str = "mesh_sockets";
    /// Hash of a process id → 1: whose connections are never redirected. User space writes.
    pub const DAEMONS: &str = "mesh_daemons";
    /// Storage of [`super::Origin`] in sockets: of workloads, and of the daemon's accepted ones.
    /// The kernel writes, user space reads; it goes with the socket.
    pub const ORIGINS: &str = "mesh_origins";
    /// LRU hash of [`super::Meeting`] → [`super::Origin`]. Kernel only; where one is pushed out,
    /// the connection is taken for one that was made to the listener itself, and counted as such.
    pub const WAITING: &str = "mesh_waiting";
    /// Per-CPU array of [`super::MeshStats`], by set. Kernel writes.
    pub const STATS: &str = "mesh_stats";
    /// Hash of [`super::ListeningKey`] → [`super::Listening`]: ports of workloads. The kernel adds
    /// at listen(); user space compares with the sockets that there are, adds what listened before,
    /// and removes what has gone. One that finds no room is counted, and is not redirected: user space
    /// leaves out the highest ports, each with all that listen there.
    pub const LISTENING: &str = "mesh_listening";
    /// LRU hash of [`super::Dial`] → 1: connections of the daemon to workloads, from their first
    /// SYN until the workload's end is established. Kernel only. One that was refused stays until its addresses
    /// are used again, or it is pushed out.
    pub const DIALS: &str = "mesh_dials";
    /// All of them.
    pub const ALL: [&str; 12] = [
        STATE, CHOSEN, SETS, PREFIXES, USERS, SOCKETS, DAEMONS, ORIGINS, WAITING, STATS, LISTENING,
        DIALS,
    ];
}

/// Sets: a listener's connections, and which. One that changes gets another number.
pub const SETS: u32 = 64;
/// Most listeners that connections are redirected to, so that all of them can change at once.
pub const LISTENERS: u32 = SETS / 2;
/// Most chosen cgroups, each counted once for each family.
pub const CHOSEN: u32 = 8192;
/// Most prefixes of all sets.
pub const PREFIXES: u32 = 16_384;
/// Most users of all sets.
pub const USERS: u32 = 4096;
/// Most processes of the daemon at once: one, or two while one takes over.
pub const DAEMONS: u32 = 8;
/// Connections between the establishment of one end and the other.
pub const WAITING: u32 = 16_384;
/// Ports of workloads.
pub const LISTENING: u32 = 16_384;
/// Connections of the daemon to workloads that are not established yet.
pub const DIALS: u32 = 16_384;
/// Ranges of ports of a set.
pub const RANGES: usize = 32;
/// How many cgroups above the workload's own are looked at.
pub const DEPTH: i32 = 16;

/// What holds for all sets.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MeshState {
    /// Device of the daemon's PID namespace, as the kernel numbers devices.
    pub pidns_device: u64,
    /// Its inode.
    pub pidns_inode: u64,
    /// The daemon's network namespace.
    pub netns: u64,
    /// [`REDIRECT_ABI`].
    pub abi: u32,
    /// 1 if what arrives is redirected, at any listener.
    pub hears: u32,
}

const _: () = assert!(size_of::<MeshState>() == 3 * 8 + 2 * 4);

/// A chosen cgroup.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChosenKey {
    /// Its id: the inode of its folder.
    pub cgroup: u64,
    /// 4 or 6: the family of what is connected to.
    pub family: u32,
    /// [`OUTBOUND`] or [`INBOUND`].
    pub direction: u32,
}

/// Of what workloads open.
pub const OUTBOUND: u32 = 0;
/// Of what others open to workloads.
pub const INBOUND: u32 = 1;

const _: () = assert!(size_of::<ChosenKey>() == 8 + 2 * 4);

/// Where a set's connections go, and which.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MeshSet {
    /// The listener's address in the daemon's network namespace.
    pub local: Addr,
    /// Its address for other namespaces; unspecified if they have none.
    pub reach: Addr,
    /// Its port, host order.
    pub port: u32,
    /// See [`set_flag`].
    pub flags: u32,
    /// How many ranges there are; the rest is zero.
    pub count: u32,
    /// Zero.
    pub _pad: u32,
    /// Ranges of ports; the first that has a port decides.
    pub ranges: [MeshRange; RANGES],
    /// The listener's name, ended by zeros; for people and for the next daemon.
    pub name: [u8; 64],
}

const _: () = assert!(size_of::<MeshSet>() == 2 * 16 + 4 * 4 + RANGES * 8 + 64);

impl Default for MeshSet {
    fn default() -> Self {
        Self {
            local: Addr::UNSPECIFIED,
            reach: Addr::UNSPECIFIED,
            port: 0,
            flags: 0,
            count: 0,
            _pad: 0,
            ranges: [MeshRange::default(); RANGES],
            name: [0; 64],
        }
    }
}

/// A range of ports.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MeshRange {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
    /// 1 if they are redirected, 0 if not.
    pub is_in: u32,
}

const _: () = assert!(size_of::<MeshRange>() == 2 * 2 + 4);

/// Bits of [`MeshSet::flags`].
pub mod set_flag {
    /// The set is in use.
    pub const USED: u32 = 1;
    /// While nobody listens, connections go where they were to go; else they are refused.
    pub const FAILS_OPEN: u32 = 2;
    /// Ports that no range has are not redirected.
    pub const ONLY_PORTS: u32 = 4;
    /// Users that are not named are not redirected.
    pub const ONLY_USERS: u32 = 8;
    /// Destinations that no prefix has are not redirected.
    pub const ONLY_PREFIXES: u32 = 16;
}

/// A user of a set.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserKey {
    /// Number of the set.
    pub set: u32,
    /// User id, as in the initial user namespace.
    pub user: u32,
}

const _: () = assert!(size_of::<UserKey>() == 2 * 4);

/// Key of [`map::PREFIXES`], behind the length.
#[repr(C, packed(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixKey {
    /// Number of the set.
    pub set: u32,
    /// Address.
    pub addr: [u8; 16],
}

const _: () = assert!(size_of::<PrefixKey>() == 4 + 16);

/// The same with its length, as user space writes it.
#[repr(C, packed(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MeshPrefix {
    /// Bits of the key that count.
    pub bits: u32,
    /// The key.
    pub key: PrefixKey,
}

const _: () = assert!(size_of::<MeshPrefix>() == 4 + 20);

/// Bits of a key before its address.
pub const PREFIX_FIXED_BITS: u32 = 32;

/// Where a connection was to go, and whose it is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Address that the workload dialled.
    pub addr: Addr,
    /// Id of the cgroup of the process that did; 0 in the storage of a socket that is not
    /// redirected any more.
    pub cgroup: u64,
    /// Cookie of its network namespace.
    pub netns: u64,
    /// Port that was dialled, host order.
    pub port: u32,
    /// Its process id, as in the initial PID namespace.
    pub pid: u32,
    /// Its user id, as in the initial user namespace.
    pub user: u32,
    /// Number of the set that it was redirected by; with [`ACCEPTED`] in the daemon's end.
    pub set: u32,
}

const _: () = assert!(size_of::<Origin>() == 16 + 2 * 8 + 4 * 4);

/// Bit of [`Origin::set`] at the daemon's end, whose peer is who it is.
pub const ACCEPTED: u32 = 1 << 31;

/// A connection to the daemon, as both its ends see it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meeting {
    /// The listener's address. The client's is left out, for it may be translated on the way.
    pub server: Addr,
    /// The client's next sequence number.
    pub client_seq: u32,
    /// The server's next sequence number.
    pub server_seq: u32,
    /// The listener's port, host order.
    pub server_port: u32,
    /// Zero.
    pub _pad: u32,
}

const _: () = assert!(size_of::<Meeting>() == 16 + 4 * 4);

/// Where a socket listens.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListeningKey {
    /// Its address: that of IPv6 that is unspecified stands for all of both families.
    pub addr: Addr,
    /// Its port, host order.
    pub port: u32,
    /// Zero.
    pub _pad: u32,
}

const _: () = assert!(size_of::<ListeningKey>() == 16 + 2 * 4);

/// Whose socket it is. All zero where it is nobody's who is chosen, at an address of its own beside
/// a workload's socket for all addresses.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listening {
    /// Id of the workload's cgroup.
    pub cgroup: u64,
    /// Id of the nearest cgroup that is chosen for IPv4; 0 if none is.
    pub chosen4: u64,
    /// The same for IPv6.
    pub chosen6: u64,
}

const _: () = assert!(size_of::<Listening>() == 3 * 8);

/// Both ends of a connection that the daemon opens.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dial {
    /// The daemon's address.
    pub client: Addr,
    /// The workload's.
    pub server: Addr,
    /// The daemon's port, host order.
    pub client_port: u32,
    /// The workload's.
    pub server_port: u32,
}

const _: () = assert!(size_of::<Dial>() == 2 * 16 + 2 * 4);

/// What became of the connections of a set's cgroups.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MeshStats {
    /// Redirected.
    pub redirected: u64,
    /// Not, by a rule.
    pub excluded: u64,
    /// Refused, as nobody listened.
    pub refused: u64,
    /// Went where they were to go, as nobody listened.
    pub passed: u64,
    /// Had no way to the listener from their network namespace; refused or passed as well.
    pub unreachable: u64,
    /// Found no room for their origin; refused or passed as well.
    pub full: u64,
}

const _: () = assert!(size_of::<MeshStats>() == 6 * 8);

crate::map_value!(
    MeshState,
    ChosenKey,
    MeshSet,
    UserKey,
    PrefixKey,
    MeshPrefix,
    Origin,
    Meeting,
    ListeningKey,
    Listening,
    Dial,
    MeshStats,
);
