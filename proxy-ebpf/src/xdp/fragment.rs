//! Fragments: the first one teaches where the later ones go.
//!
//! Only the first fragment has the ports. Its tuple is kept by source, destination,
//! identification and protocol; a later fragment takes the ports from there and follows the same
//! flow. A later fragment that overtakes its first one is dropped and counted: the sender's
//! transport repeats it, as after any loss.

use crate::maps::FRAGMENTS;
use crate::verdict::{Stage, end};
use crate::xdp::parse::{Packet, fragment};
use proxy_common::flow::{FRAGMENT_TICKS, Fragment, FragmentKey, ticks_since};
use proxy_common::reason::Reason;

/// Remembers a first fragment, or completes a later one's tuple.
#[inline(never)]
pub fn follow(packet: &mut Packet, now: u64) -> u64 {
    let now = now as u32;
    let key = FragmentKey {
        src: packet.key.src,
        dst: packet.key.dst,
        id: packet.fragment_id,
        protocol: u32::from(packet.key.protocol),
    };
    if packet.fragment == fragment::FIRST {
        let first = Fragment {
            first_seen: now,
            src_port_be: packet.key.src_port_be,
            dst_port_be: packet.key.dst_port_be,
        };
        // A full map forgets the datagram seen longest ago.
        let _ = FRAGMENTS.insert(key, first, 0);
        return 0;
    }
    let Some(first) = FRAGMENTS.get_ptr(key) else {
        return 1;
    };
    // SAFETY: the element may be reused while it is read; a wrong port then leads to no flow.
    let first = unsafe { first.read() };
    if ticks_since(first.first_seen, now) > FRAGMENT_TICKS {
        return 1;
    }
    packet.key.src_port_be = first.src_port_be;
    packet.key.dst_port_be = first.dst_port_be;
    0
}

/// Runs [`follow`] for fragments and lets whole packets through.
#[inline(always)]
pub fn stage(packet: &mut Packet, now: u32) -> Stage<()> {
    if packet.fragment == fragment::NONE || follow(packet, u64::from(now)) == 0 {
        return Ok(());
    }
    end(Reason::DropFragmentUnknown)
}
