//! Lines for the daemon's log about what became of packets, by aya-log.
//!
//! In the object with the feature `log` only: the library's map is of a kind that other loaders
//! refuse, and the calls cost programs that are verified and run millions of times a second. The
//! lines are numbers, which user space gives their names.

use crate::verdict::Verdict;
use crate::xdp::parse::Packet;
use aya_ebpf::bindings::xdp_action::XDP_DROP;
use aya_log_ebpf::{info, warn};

/// Tells of a packet that was understood: drops as warnings, all else for information.
#[inline(never)]
pub fn verdict(packet: &Packet, verdict: u64) -> u64 {
    let Verdict { action, reason, .. } = Verdict::unpack(verdict);
    let key = &packet.key;
    let (source, destination) = (key.src.octets, key.dst.octets);
    let (from, to) = (u16::from_be(key.src_port_be), u16::from_be(key.dst_port_be));
    let protocol = key.protocol;
    if action == XDP_DROP {
        warn!(
            &(),
            "{} {} {:i} {} {:i} {}", reason, protocol, source, from, destination, to
        );
    } else {
        info!(
            &(),
            "{} {} {:i} {} {:i} {}", reason, protocol, source, from, destination, to
        );
    }
    0
}

/// Tells of a packet of which nothing is known.
#[inline(never)]
pub fn unknown(verdict: u64) -> u64 {
    let Verdict { action, reason, .. } = Verdict::unpack(verdict);
    if action == XDP_DROP {
        warn!(&(), "{}", reason);
    } else {
        info!(&(), "{}", reason);
    }
    0
}
