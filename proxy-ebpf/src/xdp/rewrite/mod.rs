//! Changes to the packet: translation (`nat`), tunnels (`encap`), MAC addresses only (`leave`), and
//! all three for packets whose headers are where they mostly are (`plain`).

pub mod encap;
pub mod nat;
pub mod plain;

use crate::packet::{Frame, ether};
use crate::verdict::{Stage, end};
use crate::xdp::forward;
use crate::xdp::parse::Packet;
use aya_ebpf::helpers::bpf_xdp_adjust_head;
use proxy_common::reason::Reason;
use proxy_common::settings::CachedRoute;

/// Sends a frame whose IP packet is ready on its route, and gives the XDP action.
///
/// VLAN tags stay where the frame goes back out of its interface (a one-armed balancer on a
/// trunk); on another interface they would name another VLAN, so they are removed.
#[inline(always)]
pub fn leave(frame: Frame, packet: &Packet, route: &CachedRoute) -> Stage<u32> {
    let untagged = packet.l3 as usize == ether::LEN;
    if !untagged && route.ifindex != frame.ifindex() {
        untag(frame, packet)?;
    }
    if forward::write_macs(frame, route).is_none() {
        return end(Reason::DropInternal);
    }
    Ok(forward::action(frame, route))
}

/// Removes the VLAN tags. The frame then starts with room for MAC addresses and the ethertype.
#[inline(always)]
fn untag(frame: Frame, packet: &Packet) -> Stage<()> {
    let surplus = packet.l3 as i32 - ether::LEN as i32;
    // SAFETY: the context is valid.
    if unsafe { bpf_xdp_adjust_head(frame.ctx(), surplus) } != 0 {
        return end(Reason::DropHeadroom);
    }
    match frame.write(12, ethertype(packet.v6)) {
        Some(()) => Ok(()),
        None => end(Reason::DropInternal),
    }
}

/// Ethertype of an IP packet.
#[inline(always)]
pub fn ethertype(v6: u8) -> u16 {
    if v6 == 0 { ether::IPV4 } else { ether::IPV6 }
}
