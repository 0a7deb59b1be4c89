//! Tunnels to backends: IP in IP (RFC 2003, RFC 2473) and GUE variant 1
//! (draft-ietf-intarea-gue §4: UDP, then the inner IP packet at once).
//!
//! The outer header copies the traffic class, so that ECN and DSCP survive, and IPv4's "don't
//! fragment". The outer source may be a prefix: its host bits, and the UDP source port of GUE,
//! carry the flow's hash, so that receivers spread flows over their queues while one flow stays
//! in order. UDP checksums are zero, which RFC 6935 allows for tunnels over IPv6 as well: the
//! inner packet has its own.
//!
//! Health probes take the same tunnels by another program ([`crate::tc`]), so what the headers
//! hold is apart from how they are written.

use super::ethertype;
use super::nat::finish;
use crate::packet::{Frame, ether};
use crate::verdict::{Stage, end};
use crate::xdp::forward;
use crate::xdp::parse::Packet;
use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::helpers::bpf_xdp_adjust_head;
use proxy_common::backend::Backend;
use proxy_common::checksum::sum64;
use proxy_common::reason::Reason;
use proxy_common::service::protocol;
use proxy_common::settings::CachedRoute;

/// Hop limit of outer headers.
pub const HOP_LIMIT: u8 = 64;
/// Octets of a UDP header.
const UDP: usize = 8;

/// Octets that the tunnel adds.
#[inline(always)]
pub fn overhead(backend: &Backend, gue: bool) -> usize {
    let ip = if backend.addr.is_v4() { 20 } else { 40 };
    if gue { ip + UDP } else { ip }
}

/// Puts the packet into a tunnel and gives the XDP action. Without a route the frame keeps its
/// MAC addresses and goes to the stack, which resolves the next hop and forwards it.
#[inline(always)]
pub fn encapsulate(
    frame: Frame,
    packet: &Packet,
    backend: &Backend,
    route: Option<&CachedRoute>,
    hash: u64,
    gue: bool,
) -> Stage<u32> {
    let outer_v4 = backend.addr.is_v4();
    if outer_v4 && packet.v6 != 0 {
        return end(Reason::DropFamily);
    }
    let grow = overhead(backend, gue);
    let l2 = make_room(frame, packet, route, grow)?;
    let ip_at = l2;
    let written = if outer_v4 {
        frame.write(ip_at - 2, outer_v4_header(packet, backend, hash, gue))
    } else {
        frame.write(ip_at - 2, outer_v6_header(packet, backend, hash, gue))
    };
    if written.is_none() {
        return end(Reason::DropInternal);
    }
    if gue {
        let ip = if outer_v4 { 20 } else { 40 };
        if frame
            .write(ip_at + ip, udp_header(packet, backend, hash))
            .is_none()
        {
            return end(Reason::DropInternal);
        }
    }
    Ok(route.map_or(XDP_PASS, |route| forward::action(frame, route)))
}

/// Grows the frame's head and writes the link header; gives the new offset of the IP header.
#[inline(always)]
fn make_room(
    frame: Frame,
    packet: &Packet,
    route: Option<&CachedRoute>,
    grow: usize,
) -> Stage<usize> {
    match route {
        Some(route) if packet.l3 as usize == ether::LEN => {
            adjust(frame, grow as i32)?;
            if forward::write_macs(frame, route).is_none() {
                return end(Reason::DropInternal);
            }
            Ok(ether::LEN)
        }
        _ => make_room_for_link(frame, packet, route, grow),
    }
}

/// As [`make_room`], where the frame has VLAN tags or keeps its MAC addresses.
#[inline(always)]
fn make_room_for_link(
    frame: Frame,
    packet: &Packet,
    route: Option<&CachedRoute>,
    grow: usize,
) -> Stage<usize> {
    let l2 = packet.l3 as usize;
    let keeps_tags = route.is_none_or(|route| route.ifindex == frame.ifindex());
    let link = frame.read::<[u64; 2]>(0);
    let tail = frame.read::<[u8; 6]>(16);
    let (Some(link), Some(tail)) = (link, tail) else {
        return end(Reason::DropInternal);
    };
    let new_l2 = if keeps_tags { l2 } else { ether::LEN };
    adjust(frame, grow as i32 + new_l2 as i32 - l2 as i32)?;
    let written = frame.write(0, link).and_then(|()| frame.write(16, tail));
    let written = match route {
        Some(route) => written.and_then(|()| forward::write_macs(frame, route)),
        None => written,
    };
    match written {
        Some(()) => Ok(new_l2),
        None => end(Reason::DropInternal),
    }
}

#[inline(always)]
fn adjust(frame: Frame, grow: i32) -> Stage<()> {
    // SAFETY: the context is valid.
    if unsafe { bpf_xdp_adjust_head(frame.ctx(), -grow) } != 0 {
        return end(Reason::DropHeadroom);
    }
    Ok(())
}

/// Ethertype and outer IPv4 header, written at once.
#[repr(C, packed)]
#[derive(Clone, Copy)]
pub struct OuterV4 {
    ethertype: u16,
    version_ihl: u8,
    tos: u8,
    total_be: u16,
    id: u16,
    fragment_be: u16,
    ttl: u8,
    protocol: u8,
    checksum: u16,
    src: u32,
    dst: u32,
}

/// What stands from the ethertype to the inner packet, or to the UDP header of GUE.
#[inline(always)]
pub fn outer_v4_header(packet: &Packet, backend: &Backend, hash: u64, gue: bool) -> OuterV4 {
    let dst = u32::from_ne_bytes(backend.addr.low32());
    let src = spread(backend, hash);
    let next = if gue { protocol::UDP } else { protocol::IPIP };
    let total = (packet.length as u16 + overhead(backend, gue) as u16).to_be();
    let fragment_be = (u16::from(packet.dont_fragment) << 14).to_be();
    let sum = u64::from(u16::from_ne_bytes([0x45, packet.tos]))
        + u64::from(total)
        + u64::from(fragment_be)
        + u64::from(u16::from_ne_bytes([HOP_LIMIT, next]))
        + sum64(u64::from(src) << 32 | u64::from(dst));
    OuterV4 {
        ethertype: ether::IPV4,
        version_ihl: 0x45,
        tos: packet.tos,
        total_be: total,
        id: 0,
        fragment_be,
        ttl: HOP_LIMIT,
        protocol: next,
        checksum: finish(sum),
        src,
        dst,
    }
}

/// Ethertype and outer IPv6 header, written at once.
#[repr(C, packed)]
#[derive(Clone, Copy)]
pub struct OuterV6 {
    ethertype: u16,
    version_class_label_be: u32,
    payload_be: u16,
    next: u8,
    hop_limit: u8,
    src: [u64; 2],
    dst: [u64; 2],
}

/// As [`outer_v4_header`].
#[inline(always)]
pub fn outer_v6_header(packet: &Packet, backend: &Backend, hash: u64, gue: bool) -> OuterV6 {
    let inner = if packet.v6 == 0 {
        protocol::IPIP
    } else {
        protocol::IPV6
    };
    let (next, payload) = if gue {
        (protocol::UDP, packet.length + UDP as u32)
    } else {
        (inner, packet.length)
    };
    let [src_high, src_low] = backend.encap_src.words();
    let src_low = src_low & 0xffff_ffff | u64::from(spread(backend, hash)) << 32;
    OuterV6 {
        ethertype: ethertype(1),
        version_class_label_be: (6 << 28 | u32::from(packet.tos) << 20).to_be(),
        payload_be: (payload as u16).to_be(),
        next,
        hop_limit: HOP_LIMIT,
        src: [src_high, src_low],
        dst: backend.addr.words(),
    }
}

/// The last 32 bits of the outer source, in memory order: the configured ones, and the flow's
/// hash under the mask.
#[inline(always)]
fn spread(backend: &Backend, hash: u64) -> u32 {
    let configured = u32::from_ne_bytes(backend.encap_src.low32());
    configured | ((hash >> 8) as u32 & backend.encap_src_mask).to_be()
}

/// Header of UDP.
#[repr(C, packed)]
#[derive(Clone, Copy)]
pub struct Udp {
    src_be: u16,
    dst_be: u16,
    length_be: u16,
    checksum: u16,
}

/// GUE's own header.
#[inline(always)]
pub fn udp_header(packet: &Packet, backend: &Backend, hash: u64) -> Udp {
    Udp {
        // The dynamic range (RFC 6335 §6).
        src_be: (0xc000 | (hash >> 8) as u16).to_be(),
        dst_be: backend.gue_port_be,
        length_be: (packet.length as u16 + UDP as u16).to_be(),
        checksum: 0,
    }
}
