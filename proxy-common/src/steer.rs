//! Steering: which listener's socket gets what comes to an address and port that nobody is bound
//! to.
//!
//! A **binding** is a protocol, a prefix of addresses and one or several ports of one listener. Two
//! tries hold them, and the order in which they are asked is the order of precedence:
//!
//! 1. `steer_ports`: one port, by the longest prefix. A whole address is the longest.
//! 2. `steer_prefixes`: by the longest prefix a list of port ranges, in `steer_ranges`. The lists of
//!    shorter prefixes are laid under those of longer ones by user space, so that the longest alone
//!    has to be looked at; and lists that are alike are held once, however many prefixes have them.
//!
//! So a lookup is at most two walks of a trie and two elements of arrays, whatever the number of
//! bindings, and a hundred thousand of them are a hundred thousand entries.
//!
//! A binding names its listener by a **group**: an index of `steer_groups`, and of one socket in
//! `steer_sockets` for each of two **generations**. Which of the two is asked is told by
//! `steer_state` alone. So a process puts all its sockets in the half that nobody looks at, and then
//! takes over every group by one write. One socket stands for a listener's: the kernel goes on to
//! choose among the sockets that share its address (`SO_REUSEPORT`) by a hash of the connection, as
//! it does for what is not steered, so both ways lead to the same worker, and a worker more or less
//! changes nothing here.

use crate::addr::Addr;
use core::mem::size_of;

/// Version of what is in these maps; others are not adopted.
pub const STEER_ABI: u32 = 1;

/// Listeners that may have bindings.
pub const GROUPS: u32 = 1024;

/// Generations that `steer_sockets` has room for: the one in force and the next.
pub const GENERATIONS: u32 = 2;

/// Entries of each trie.
pub const BINDINGS: u32 = 1 << 18;

/// Lists of port ranges: half of them may be in force, the others are for what replaces them.
pub const RANGE_LISTS: u32 = 4096;

/// Ranges of one list.
pub const RANGES: usize = 32;

/// The element of the counters for what no binding is for.
pub const UNMATCHED: u32 = GROUPS;

/// What a key of `steer_ports` and `steer_prefixes` says after the length of its prefix.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SteerKey {
    /// IP protocol.
    pub protocol: u8,
    /// 4 or 6: `::/0` is not for IPv4 addresses, whose mapped form it contains.
    pub family: u8,
    /// The port in network byte order; zero in `steer_prefixes`.
    pub port: [u8; 2],
    /// The address, mapped form for IPv4 (so a /24 has 96 + 24 bits).
    pub addr: [u8; 16],
}

const _: () = assert!(size_of::<SteerKey>() == 1 + 1 + 2 + 16);

/// A key of `steer_ports` and `steer_prefixes`, as user space writes it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SteerPrefix {
    /// Bits of the key that have to match.
    pub bits: u32,
    /// They, and zeros.
    pub key: SteerKey,
}

const _: () = assert!(size_of::<SteerPrefix>() == 4 + 20);

/// Bits before the address in a [`SteerKey`].
pub const STEER_KEY_FIXED_BITS: u32 = 32;

impl SteerKey {
    /// The key of an address and port. An IPv6 prefix whose address is that of a mapped one is none.
    #[inline(always)]
    pub const fn new(protocol: u8, port: u16, addr: Addr) -> Self {
        Self {
            protocol,
            family: if addr.is_v4() { 4 } else { 6 },
            port: port.to_be_bytes(),
            addr: addr.octets,
        }
    }
}

/// Ports of one group.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SteerRange {
    /// The first.
    pub first: u16,
    /// The last, which is one of them.
    pub last: u16,
    /// Whose.
    pub group: u16,
    /// Zero.
    pub _pad: u16,
}

const _: () = assert!(size_of::<SteerRange>() == 4 * 2);

/// Element of `steer_ranges`: ranges that do not overlap, in any order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SteerRanges {
    /// How many there are.
    pub count: u32,
    /// Zero.
    pub _pad: u32,
    /// They, and zeros.
    pub ranges: [SteerRange; RANGES],
}

const _: () = assert!(size_of::<SteerRanges>() == 4 + 4 + RANGES * 8);

/// Element of `steer_groups`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SteerGroup {
    /// The listener's name, ended by zeros; all zeros if nobody has the group.
    pub name: [u8; 64],
    /// 1: what comes while the listener has no socket is looked up as if it had no binding. 0: it
    /// is refused.
    pub fails_open: u32,
    /// Zero.
    pub _pad: u32,
}

const _: () = assert!(size_of::<SteerGroup>() == 64 + 4 + 4);

impl Default for SteerGroup {
    fn default() -> Self {
        Self {
            name: [0; 64],
            fails_open: 0,
            _pad: 0,
        }
    }
}

/// The element of `steer_state`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SteerState {
    /// [`STEER_ABI`].
    pub abi: u32,
    /// Raised by each process that takes over, and by each change of sockets.
    pub generation: u32,
}

const _: () = assert!(size_of::<SteerState>() == 4 + 4);

/// Where `steer_sockets` has a group's socket of a generation.
#[inline(always)]
pub const fn socket_index(generation: u32, group: u32) -> u32 {
    (generation % GENERATIONS) * GROUPS + group % GROUPS
}

/// What became of lookups: per CPU, by group.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SteerStats {
    /// They got the listener's socket. In the element [`UNMATCHED`]: no binding was for them.
    pub steered: u64,
    /// Refused, for there was no socket.
    pub refused: u64,
    /// Left to the ordinary lookup, for there was no socket.
    pub passed: u64,
    /// The kernel did not take the socket; treated as if there were none, and counted there, too.
    pub failed: u64,
}

const _: () = assert!(size_of::<SteerStats>() == 4 * 8);

crate::map_value!(
    SteerKey,
    SteerPrefix,
    SteerRange,
    SteerRanges,
    SteerGroup,
    SteerState,
    SteerStats
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_have_sockets_of_their_own() {
        assert_eq!(socket_index(0, 7), 7);
        assert_eq!(socket_index(1, 7), GROUPS + 7);
        assert_eq!(socket_index(2, 7), 7);
        assert_eq!(socket_index(u32::MAX, GROUPS - 1), 2 * GROUPS - 1);
    }

    #[test]
    fn a_key_has_its_port_in_network_order() {
        let key = SteerKey::new(6, 0x1234, Addr::v4([192, 0, 2, 1]));
        assert_eq!(key.port, [0x12, 0x34]);
        assert_eq!(key.addr[12..], [192, 0, 2, 1]);
        assert_eq!(key.family, 4);
        assert_eq!(SteerKey::new(6, 80, Addr::UNSPECIFIED).family, 6);
    }
}
