//! First stage: what is this frame?
//!
//! Follows Ethernet, up to two VLAN tags (IEEE 802.1Q, 802.1ad), IPv4 with options, IPv6 with
//! extension headers (RFC 8200 §4) and the ports of TCP and UDP. Nothing is assumed of lengths:
//! a frame that ends too early is dropped with a reason that says where.

use crate::packet::{Frame, ether, forget};
use crate::verdict::{Stage, end};
use proxy_common::addr::Addr;
use proxy_common::flow::FlowKey;
use proxy_common::reason::Reason;
use proxy_common::service::protocol;

/// Whether a packet is whole.
pub mod fragment {
    pub const NONE: u8 = 0;
    /// The first of several: it has the ports.
    pub const FIRST: u8 = 1;
    /// A later one: it has no ports.
    pub const LATER: u8 = 2;
}

/// What the later stages know of a packet.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Packet {
    /// The tuple as it arrived. Ports are 0 where there are none.
    pub key: FlowKey,
    /// Offset of the IP header.
    pub l3: u64,
    /// Offset of the transport header.
    pub l4: u64,
    /// Octets of IP packet.
    pub length: u32,
    /// Identification of a fragment.
    pub fragment_id: u32,
    /// One of [`fragment`].
    pub fragment: u8,
    /// 1 for IPv6.
    pub v6: u8,
    /// Type of service or traffic class.
    pub tos: u8,
    /// Flags of a TCP segment.
    pub tcp_flags: u8,
    /// 1 where IPv4's "don't fragment" is set.
    pub dont_fragment: u8,
    /// ICMP type.
    pub icmp_type: u8,
    /// ICMP code.
    pub icmp_code: u8,
    /// Zero.
    pub _pad: u8,
}

#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Ipv4Header {
    version_ihl: u8,
    tos: u8,
    total: u16,
    id: u16,
    fragment: u16,
    ttl: u8,
    protocol: u8,
    checksum: u16,
    src: [u8; 4],
    dst: [u8; 4],
}

#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Ipv6Header {
    version_class_label: u32,
    payload: u16,
    next: u8,
    hop_limit: u8,
    src: Addr6,
    dst: Addr6,
}

#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Addr6([u64; 2]);

/// Offset beyond which no transport header is looked for. Direct access to the frame ends at 511,
/// and an ICMP error's quote, 48 octets behind, must still be reachable with its checksum.
const FURTHEST_TRANSPORT: u64 = 420;

/// IPv6 extension headers that are followed at most.
const MAX_EXTENSIONS: u32 = 8;

/// Parses a frame down to its ports.
#[inline(always)]
pub fn packet(frame: Frame, packet: &mut Packet) -> Stage<()> {
    let (ethertype, l3) = ethernet(frame)?;
    match ethertype {
        ether::IPV4 => *packet = ipv4(frame, l3)?,
        ether::IPV6 => *packet = ipv6(frame, l3)?,
        _ => return end(Reason::PassNotIp),
    }
    forget();
    if packet.fragment != fragment::LATER {
        transport(frame, packet)?;
    }
    Ok(())
}

/// Ethertype of the payload and its offset.
#[inline(always)]
fn ethernet(frame: Frame) -> Stage<(u16, usize)> {
    let Some(mut ethertype) = frame.read::<u16>(12) else {
        return end(Reason::DropTruncatedEthernet);
    };
    let mut l3 = ether::LEN;
    for _ in 0..2 {
        if ethertype != ether::VLAN && ethertype != ether::QINQ {
            break;
        }
        let Some(inner) = frame.read::<u16>(l3 + 2) else {
            return end(Reason::DropTruncatedVlan);
        };
        ethertype = inner;
        l3 += 4;
    }
    Ok((ethertype, l3))
}

#[inline(always)]
fn ipv4(frame: Frame, l3: usize) -> Stage<Packet> {
    let Some(header) = frame.at::<Ipv4Header>(l3) else {
        return end(Reason::DropTruncatedIp);
    };
    // SAFETY: `at` has checked the bounds; the type is packed and made of integers.
    let header = unsafe { &*header };
    let header_len = usize::from(header.version_ihl & 0xf) * 4;
    if header.version_ihl >> 4 != 4 || header_len < 20 {
        return end(Reason::DropBadIpHeader);
    }
    let length = u16::from_be(header.total);
    if usize::from(length) < header_len || usize::from(length) + l3 > frame_len(frame, length, l3) {
        return end(Reason::DropBadIpLength);
    }
    let flags = u16::from_be(header.fragment);
    let fragment = match (flags & 0x1fff, flags & 0x2000) {
        (0, 0) => fragment::NONE,
        (0, _) => fragment::FIRST,
        _ => fragment::LATER,
    };
    let packet = Packet {
        key: FlowKey::new(
            Addr::v4(header.src),
            Addr::v4(header.dst),
            0,
            0,
            header.protocol,
        ),
        l3: l3 as u64,
        l4: (l3 + header_len) as u64,
        length: u32::from(length),
        fragment_id: u32::from(header.id),
        fragment,
        v6: 0,
        tos: header.tos,
        tcp_flags: 0,
        dont_fragment: (flags >> 14 & 1) as u8,
        icmp_type: 0,
        icmp_code: 0,
        _pad: 0,
    };
    Ok(packet)
}

/// Length of the frame. A frame in several buffers needs a helper's answer; it is asked only when
/// the first buffer is too short for the packet.
#[inline(always)]
fn frame_len(frame: Frame, length: u16, l3: usize) -> usize {
    let direct = frame.len();
    if direct >= usize::from(length) + l3 {
        return direct;
    }
    // SAFETY: the context is valid.
    unsafe { aya_ebpf::helpers::bpf_xdp_get_buff_len(frame.ctx()) as usize }
}

#[inline(always)]
fn ipv6(frame: Frame, l3: usize) -> Stage<Packet> {
    let Some(header) = frame.at::<Ipv6Header>(l3) else {
        return end(Reason::DropTruncatedIp);
    };
    // SAFETY: `at` has checked the bounds; the type is packed and made of integers.
    let header = unsafe { &*header };
    let first = u32::from_be(header.version_class_label);
    if first >> 28 != 6 {
        return end(Reason::DropBadIpHeader);
    }
    let payload = u16::from_be(header.payload);
    if usize::from(payload) + 40 + l3 > frame_len(frame, payload, l3 + 40) {
        return end(Reason::DropBadIpLength);
    }
    let mut packet = Packet {
        key: FlowKey::new(
            Addr::from_words(header.src.0),
            Addr::from_words(header.dst.0),
            0,
            0,
            header.next,
        ),
        l3: l3 as u64,
        l4: (l3 + 40) as u64,
        length: u32::from(payload) + 40,
        fragment_id: 0,
        fragment: fragment::NONE,
        v6: 1,
        tos: (first >> 20) as u8,
        tcp_flags: 0,
        dont_fragment: 1,
        icmp_type: 0,
        icmp_code: 0,
        _pad: 0,
    };
    if is_extension(packet.key.protocol) {
        let found = extensions(frame.ctx(), packet.l4, u64::from(packet.key.protocol));
        let found = Extensions::unpack(found);
        if found.failure != 0 {
            return match found.failure {
                1 => end(Reason::DropTruncatedExtension),
                _ => end(Reason::DropTooManyExtensions),
            };
        }
        if u64::from(found.offset) > FURTHEST_TRANSPORT {
            return end(Reason::DropTooManyExtensions);
        }
        packet.l4 = u64::from(found.offset);
        packet.key.protocol = found.next;
        packet.fragment = found.fragment;
        if found.fragment != fragment::NONE {
            packet.fragment_id = frame
                .load::<u32>(usize::from(found.fragment_at) + 4)
                .unwrap_or(0);
        }
    }
    Ok(packet)
}

/// What lies behind a chain of extension headers, packed into one word as a function's result.
struct Extensions {
    /// 0, 1 (truncated) or 2 (too many).
    failure: u8,
    next: u8,
    fragment: u8,
    offset: u16,
    fragment_at: u16,
}

impl Extensions {
    #[inline(always)]
    fn pack(&self) -> u64 {
        u64::from(self.failure)
            | u64::from(self.next) << 8
            | u64::from(self.fragment) << 16
            | u64::from(self.offset) << 24
            | u64::from(self.fragment_at) << 40
    }

    #[inline(always)]
    fn unpack(word: u64) -> Self {
        Self {
            failure: word as u8,
            next: (word >> 8) as u8,
            fragment: (word >> 16) as u8,
            offset: (word >> 24) as u16,
            fragment_at: (word >> 40) as u16,
        }
    }
}

/// Headers of RFC 8200 §4.1 that may stand before the transport: hop-by-hop options, routing,
/// fragment, authentication, destination options, mobility, HIP and shim6.
#[inline(always)]
fn is_extension(next: u8) -> bool {
    matches!(next, 0 | 43 | 44 | 51 | 60 | 135 | 139 | 140)
}

/// Follows extension headers. A function of its own: few packets have any.
#[inline(never)]
fn extensions(ctx: *mut aya_ebpf::bindings::xdp_md, start: u64, first: u64) -> u64 {
    let frame = Frame::new(ctx);
    let mut found = Extensions {
        failure: 0,
        next: first as u8,
        fragment: 0,
        offset: start as u16,
        fragment_at: 0,
    };
    for _ in 0..MAX_EXTENSIONS {
        if !is_extension(found.next) || found.fragment == fragment::LATER {
            return found.pack();
        }
        let Some([next, length, high, low]) = frame.load::<[u8; 4]>(usize::from(found.offset))
        else {
            found.failure = 1;
            return found.pack();
        };
        let octets = match found.next {
            44 => {
                let offset_flags = u16::from_be_bytes([high, low]);
                found.fragment_at = found.offset;
                found.fragment = match (offset_flags & 0xfff8, offset_flags & 1) {
                    (0, 0) => fragment::NONE,
                    (0, _) => fragment::FIRST,
                    _ => fragment::LATER,
                };
                8
            }
            51 => (u16::from(length) + 2) * 4,
            _ => (u16::from(length) + 1) * 8,
        };
        found.next = next;
        found.offset += octets;
    }
    if is_extension(found.next) && found.fragment != fragment::LATER {
        found.failure = 2;
    }
    found.pack()
}

/// Ports, TCP flags, ICMP type. Everything else has no ports and keeps zeros.
#[inline(always)]
fn transport(frame: Frame, packet: &mut Packet) -> Stage<()> {
    let l4 = packet.l4 as usize;
    let header = match packet.key.protocol {
        protocol::TCP => 20,
        protocol::UDP | protocol::ICMP | protocol::ICMPV6 => 8,
        _ => return Ok(()),
    };
    // The frame may be longer than the packet: what stands behind its end is padding.
    if packet.l4 - packet.l3 + header > u64::from(packet.length) {
        return end(Reason::DropTruncatedTransport);
    }
    match packet.key.protocol {
        protocol::TCP => {
            let Some(header) = frame.at::<[u8; 20]>(l4) else {
                return end(Reason::DropTruncatedTransport);
            };
            // SAFETY: `at` has checked the bounds.
            let header = unsafe { &*header };
            if header[12] < 0x50 {
                return end(Reason::DropBadTransport);
            }
            packet
                .key
                .set_ports([header[0], header[1], header[2], header[3]]);
            packet.tcp_flags = header[13];
        }
        protocol::UDP => {
            let Some(header) = frame.at::<[u8; 8]>(l4) else {
                return end(Reason::DropTruncatedTransport);
            };
            // SAFETY: `at` has checked the bounds.
            let header = unsafe { &*header };
            packet
                .key
                .set_ports([header[0], header[1], header[2], header[3]]);
        }
        protocol::ICMP | protocol::ICMPV6 => {
            let Some([kind, code, ..]) = frame.read::<[u8; 8]>(l4) else {
                return end(Reason::DropTruncatedTransport);
            };
            packet.icmp_type = kind;
            packet.icmp_code = code;
        }
        _ => {}
    }
    Ok(())
}
