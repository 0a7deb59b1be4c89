//! Changes to plain packets, whose headers are at constant offsets: as [`super::nat`] and
//! [`super::encap`], with what an [`Adjacency`] has prepared, in as few and as wide stores as
//! possible.

use crate::packet::Frame;
use crate::xdp::fast::Plain;
use aya_ebpf::helpers::bpf_xdp_adjust_head;
use proxy_common::checksum::{finish, update};
use proxy_common::service::{Mode, protocol};
use proxy_common::settings::Adjacency;

/// Writes both MAC addresses.
#[inline(always)]
pub fn link(head: *mut u8, to: &Adjacency) {
    // SAFETY: the caller has checked that the frame holds more than twelve octets.
    unsafe {
        head.cast::<u64>().write_unaligned(to.template[0]);
        let rest = to.template[1] as u32;
        head.add(8).cast::<u32>().write_unaligned(rest);
    }
}

/// True where an IPv6 packet would go into an IPv4 tunnel.
#[inline(always)]
pub fn is_impossible<const IPV6: bool>(to: &Adjacency) -> bool {
    IPV6 && to.grow != 0 && to.grow < 40
}

/// Puts the packet into its tunnel. `None` if the outer header is IPv4 and the packet is not, or
/// if there is no room in front.
#[inline(always)]
pub fn encapsulate<const IPV6: bool>(
    frame: Frame,
    packet: &Plain,
    to: &Adjacency,
    hash: u64,
) -> Option<()> {
    if is_impossible::<IPV6>(to) {
        return None;
    }
    let outer_v4 = to.grow < 40;
    // SAFETY: the context is valid.
    if unsafe { bpf_xdp_adjust_head(frame.ctx(), -i32::from(to.grow)) } != 0 {
        return None;
    }
    if outer_v4 {
        outer_v4_header(frame, packet, to, hash)
    } else {
        outer_v6_header::<IPV6>(frame, packet, to, hash)
    }
}

/// The flow's part of the outer source address, in memory order.
#[inline(always)]
fn spread(to: &Adjacency, hash: u64) -> u64 {
    u64::from(((hash >> 8) as u32 & to.spread_mask).to_be())
}

/// Octets of link header, IPv4 header and UDP header.
const OUTER_V4: usize = 14 + 20 + 8;

#[inline(always)]
fn outer_v4_header(frame: Frame, packet: &Plain, to: &Adjacency, hash: u64) -> Option<()> {
    // The packet inside is longer than the header of UDP, which may be missing.
    let at = frame.head::<[u8; OUTER_V4]>()?.cast::<u64>();
    let tos = u64::from(packet.tos);
    let total = u64::from((packet.length as u16 + u16::from(to.grow)).to_be());
    let fragment = u64::from((u16::from(packet.dont_fragment) << 14).to_be());
    let source = spread(to, hash);
    let sum = u64::from(to.sum) + (tos << 8) + total + fragment + source;
    let checksum = u64::from(finish(sum));
    let words = &to.template;
    // SAFETY: `head` has checked the bounds.
    unsafe {
        at.write_unaligned(words[0]);
        at.add(1).write_unaligned(words[1] | tos << 56);
        at.add(2).write_unaligned(words[2] | total | fragment << 32);
        at.add(3)
            .write_unaligned(words[3] | checksum | source << 16);
        if to.mode == Mode::DsrIpip.code() {
            at.add(4).cast::<u16>().write_unaligned(words[4] as u16);
        } else {
            let (port, length) = udp(packet, hash);
            at.add(4)
                .write_unaligned(words[4] | port << 16 | length << 48);
            at.add(5).cast::<u16>().write_unaligned(0);
        }
    }
    Some(())
}

/// Octets of link header, IPv6 header and UDP header.
const OUTER_V6: usize = 14 + 40 + 8;

#[inline(always)]
fn outer_v6_header<const IPV6: bool>(
    frame: Frame,
    packet: &Plain,
    to: &Adjacency,
    hash: u64,
) -> Option<()> {
    let at = frame.head::<[u8; OUTER_V6]>()?.cast::<u64>();
    let gue = to.mode == Mode::DsrGue.code();
    let class = u64::from((u16::from(packet.tos) << 4).to_be());
    let inner = if IPV6 { protocol::IPV6 } else { protocol::IPIP };
    let next = if gue { 0 } else { u64::from(inner) << 32 };
    let payload = packet.length as u16 + u16::from(to.grow) - 40;
    let payload = u64::from(payload.to_be());
    let words = &to.template;
    // SAFETY: `head` has checked the bounds.
    unsafe {
        at.write_unaligned(words[0]);
        at.add(1).write_unaligned(words[1] | class << 48);
        at.add(2).write_unaligned(words[2] | payload << 16 | next);
        at.add(3).write_unaligned(words[3]);
        at.add(4).write_unaligned(words[4] | spread(to, hash) << 16);
        at.add(5).write_unaligned(words[5]);
        if gue {
            let (port, length) = udp(packet, hash);
            at.add(6).write_unaligned(words[6] | port << 48);
            let rest = words[7] | length << 16;
            at.add(7).cast::<u32>().write_unaligned(rest as u32);
            at.add(7).cast::<u16>().add(2).write_unaligned(0);
        } else {
            at.add(6).cast::<u32>().write_unaligned(words[6] as u32);
            let rest = (words[6] >> 32) as u16;
            at.add(6).cast::<u16>().add(2).write_unaligned(rest);
        }
    }
    Some(())
}

/// The flow's part of GUE's source port, and its length, in memory order.
#[inline(always)]
fn udp(packet: &Plain, hash: u64) -> (u64, u64) {
    let port = ((hash >> 8) as u16).to_be();
    let length = (packet.length as u16 + 8).to_be();
    (u64::from(port), u64::from(length))
}

/// Offset of the hop limit.
const fn hop_at(ipv6: bool) -> usize {
    if ipv6 { 21 } else { 22 }
}

/// True while a packet may be sent on by a router.
#[inline(always)]
pub fn has_hops<const IPV6: bool>(head: *const u8) -> bool {
    // SAFETY: the caller has checked the header's bounds.
    unsafe { head.add(hop_at(IPV6)).read() > 1 }
}

/// Translates the destination (`nat`) and writes the MAC addresses. `None` if the hop limit is at
/// its end.
#[inline(always)]
pub fn translate<const IPV6: bool>(head: *mut u8, packet: &Plain, to: &Adjacency) -> Option<()> {
    if !has_hops::<IPV6>(head) {
        return None;
    }
    let (hop_at, l4) = (hop_at(IPV6), if IPV6 { 54 } else { 34 });
    let [a, b] = packet.key.dst.words();
    let (c, d) = (to.template[2], to.template[3]);
    let old_port = packet.key.dst_port_be;
    let port = if to.port_be == 0 {
        old_port
    } else {
        to.port_be
    };
    let mut change = half_change(b >> 32, d >> 32);
    // SAFETY: the caller has checked the headers' bounds.
    unsafe {
        let hop = head.add(hop_at);
        hop.write(hop.read() - 1);
        if IPV6 {
            change += half_change(b & LOW, d & LOW)
                + half_change(a & LOW, c & LOW)
                + half_change(a >> 32, c >> 32);
            head.add(38).cast::<u64>().write_unaligned(c);
            head.add(46).cast::<u64>().write_unaligned(d);
        } else {
            head.add(30).cast::<u32>().write_unaligned((d >> 32) as u32);
            // One less in the hop limit, the low octet of its word in memory order.
            let sum = head.add(24).cast::<u16>();
            sum.write(update(sum.read(), change + 0xfffe));
        }
        head.add(l4 + 2).cast::<u16>().write(port);
    }
    change += u64::from(!old_port) + u64::from(port);
    transport(head, l4, packet.key.protocol, change);
    link(head, to);
    Some(())
}

const LOW: u64 = 0xffff_ffff;

/// The change of four octets as a sum for [`update`].
#[inline(always)]
fn half_change(old: u64, new: u64) -> u64 {
    (old ^ LOW) + new
}

/// Brings the transport's checksum up to date.
#[inline(always)]
fn transport(head: *mut u8, l4: usize, next: u8, change: u64) {
    // SAFETY: the caller has checked the headers' bounds.
    unsafe {
        if next == protocol::TCP {
            let sum = head.add(l4 + 16).cast::<u16>();
            sum.write(update(sum.read(), change));
            return;
        }
        let sum = head.add(l4 + 6).cast::<u16>();
        let old = sum.read();
        // Zero means that the sender computed none (RFC 768), so a computed zero is sent as ones.
        if old != 0 {
            let new = update(old, change);
            sum.write(if new == 0 { 0xffff } else { new });
        }
    }
}
