//! Headers as octets: each function wraps a body in one header and computes its checksum.
//!
//! Written by hand, apart from the code under test and apart from any packet library, because the
//! suites need what libraries refuse to build: bad lengths, odd options, cut headers, every kind
//! of extension header. `tests/oracle.rs` compares the regular cases with etherparse.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IP protocol numbers (IANA) that frames here use.
pub mod protocol {
    pub use proxy_common::service::protocol::*;
    /// Hop-by-hop options (RFC 8200 §4.3).
    pub const HOP_BY_HOP: u8 = 0;
    /// Routing header (RFC 8200 §4.4).
    pub const ROUTING: u8 = 43;
    /// Fragment header (RFC 8200 §4.5).
    pub const FRAGMENT: u8 = 44;
    /// Authentication header (RFC 4302).
    pub const AUTHENTICATION: u8 = 51;
    /// No next header (RFC 8200 §4.7).
    pub const NO_NEXT: u8 = 59;
    /// Destination options (RFC 8200 §4.6).
    pub const DESTINATION: u8 = 60;
    /// Mobility header (RFC 6275).
    pub const MOBILITY: u8 = 135;
    /// Host identity protocol (RFC 7401).
    pub const HIP: u8 = 139;
    /// Shim6 (RFC 5533).
    pub const SHIM6: u8 = 140;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

/// EtherTypes that frames here use.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// Customer VLAN tag (IEEE 802.1Q).
    pub const VLAN: u16 = 0x8100;
    /// Service VLAN tag (IEEE 802.1ad).
    pub const SERVICE_VLAN: u16 = 0x88a8;
}

/// A MAC address.
pub type Mac = [u8; 6];

/// The link header of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Destination.
    pub dst: Mac,
    /// Source.
    pub src: Mac,
    /// VLAN tags, outermost first: tag protocol and tag control information.
    pub vlans: Vec<(u16, u16)>,
}

impl Link {
    /// A link header without VLAN tags.
    pub const fn new(dst: Mac, src: Mac) -> Self {
        Self {
            dst,
            src,
            vlans: Vec::new(),
        }
    }

    /// The same with a further, inner VLAN tag.
    #[must_use]
    pub fn vlan(mut self, tag_protocol: u16, control: u16) -> Self {
        self.vlans.push((tag_protocol, control));
        self
    }

    /// A frame that carries an IP packet; the EtherType follows from its version.
    pub fn frame(&self, packet: &[u8]) -> Vec<u8> {
        let version = packet.first().map_or(4, |octet| octet >> 4);
        let kind = if version == 6 {
            ethertype::IPV6
        } else {
            ethertype::IPV4
        };
        self.frame_of(kind, packet)
    }

    /// A frame of any EtherType.
    pub fn frame_of(&self, kind: u16, body: &[u8]) -> Vec<u8> {
        let mut frame = [self.dst, self.src].concat();
        for (tag_protocol, control) in &self.vlans {
            frame.extend(tag_protocol.to_be_bytes());
            frame.extend(control.to_be_bytes());
        }
        frame.extend(kind.to_be_bytes());
        frame.extend(body);
        frame
    }

    /// Octets of the header.
    pub fn len(&self) -> usize {
        14 + 4 * self.vlans.len()
    }

    /// Never: a link header has at least 14 octets.
    pub const fn is_empty(&self) -> bool {
        false
    }
}

/// An IPv4 header (RFC 791).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct V4 {
    /// Source.
    pub src: Ipv4Addr,
    /// Destination.
    pub dst: Ipv4Addr,
    /// Type of service.
    pub tos: u8,
    /// Identification.
    pub id: u16,
    /// Flags and fragment offset as one word, host byte order.
    pub fragment: u16,
    /// Time to live.
    pub ttl: u8,
    /// Options, a multiple of four octets.
    pub options: Vec<u8>,
}

/// "Don't fragment" in [`V4::fragment`].
pub const DONT_FRAGMENT: u16 = 0x4000;
/// "More fragments" in [`V4::fragment`].
pub const MORE_FRAGMENTS: u16 = 0x2000;

impl V4 {
    /// A plain header: no options, TTL 64, DF set.
    pub const fn new(src: Ipv4Addr, dst: Ipv4Addr) -> Self {
        Self {
            src,
            dst,
            tos: 0,
            id: 0,
            fragment: DONT_FRAGMENT,
            ttl: 64,
            options: Vec::new(),
        }
    }

    /// The packet: this header, then `body`.
    pub fn packet(&self, protocol: u8, body: &[u8]) -> Vec<u8> {
        let header = 20 + self.options.len();
        let mut packet = vec![0x40 | (header / 4) as u8, self.tos];
        packet.extend(((header + body.len()) as u16).to_be_bytes());
        packet.extend(self.id.to_be_bytes());
        packet.extend(self.fragment.to_be_bytes());
        packet.extend([self.ttl, protocol, 0, 0]);
        packet.extend(self.src.octets());
        packet.extend(self.dst.octets());
        packet.extend(&self.options);
        let checksum = internet_checksum(&[&packet]);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        packet.extend(body);
        packet
    }
}

/// An IPv6 header (RFC 8200) with its extension headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct V6 {
    /// Source.
    pub src: Ipv6Addr,
    /// Destination.
    pub dst: Ipv6Addr,
    /// Traffic class.
    pub class: u8,
    /// Flow label, 20 bits.
    pub label: u32,
    /// Hop limit.
    pub hop_limit: u8,
    /// Extension headers in order.
    pub extensions: Vec<Extension>,
}

/// An IPv6 extension header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    /// Its own number.
    pub number: u8,
    /// Its octets; the first is overwritten with the number of what follows.
    pub octets: Vec<u8>,
}

impl Extension {
    /// A header in the format of RFC 6564: next header, length in 8-octet units without the first,
    /// then padding (PadN where it is an options header).
    pub fn generic(number: u8, units: u8) -> Self {
        let mut octets = vec![0; 8 * (usize::from(units) + 1)];
        octets[1] = units;
        if matches!(number, protocol::HOP_BY_HOP | protocol::DESTINATION) {
            octets[2] = 1;
            octets[3] = (octets.len() - 4) as u8;
        }
        Self { number, octets }
    }

    /// A routing header of the given type with no segments left.
    pub fn routing(kind: u8, units: u8) -> Self {
        let mut extension = Self::generic(protocol::ROUTING, units);
        extension.octets[2] = kind;
        extension
    }

    /// An authentication header: its length counts 4-octet units, less two (RFC 4302 §2.2).
    pub fn authentication(words: u8) -> Self {
        let mut octets = vec![0; 4 * (usize::from(words) + 2)];
        octets[1] = words;
        Self {
            number: protocol::AUTHENTICATION,
            octets,
        }
    }

    /// A fragment header; `offset` is in octets, a multiple of eight.
    pub fn fragment(offset: usize, more: bool, id: u32) -> Self {
        let mut octets = vec![0; 2];
        octets.extend((offset as u16 | u16::from(more)).to_be_bytes());
        octets.extend(id.to_be_bytes());
        Self {
            number: protocol::FRAGMENT,
            octets,
        }
    }
}

impl V6 {
    /// A plain header: no extensions, hop limit 64.
    pub const fn new(src: Ipv6Addr, dst: Ipv6Addr) -> Self {
        Self {
            src,
            dst,
            class: 0,
            label: 0,
            hop_limit: 64,
            extensions: Vec::new(),
        }
    }

    /// The packet: this header, its extensions, then `body`.
    pub fn packet(&self, next: u8, body: &[u8]) -> Vec<u8> {
        let mut chain = Vec::new();
        let numbers: Vec<u8> = self
            .extensions
            .iter()
            .map(|extension| extension.number)
            .chain([next])
            .collect();
        for (extension, following) in self.extensions.iter().zip(&numbers[1..]) {
            let start = chain.len();
            chain.extend(&extension.octets);
            chain[start] = *following;
        }
        let word = 0x6000_0000 | u32::from(self.class) << 20 | (self.label & 0xf_ffff);
        let mut packet = word.to_be_bytes().to_vec();
        packet.extend(((chain.len() + body.len()) as u16).to_be_bytes());
        packet.extend([numbers[0], self.hop_limit]);
        packet.extend(self.src.octets());
        packet.extend(self.dst.octets());
        packet.extend(chain);
        packet.extend(body);
        packet
    }
}

/// A TCP header (RFC 9293).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// Flag octet.
    pub flags: u8,
    /// Window.
    pub window: u16,
    /// Options, a multiple of four octets.
    pub options: Vec<u8>,
}

impl Tcp {
    /// The segment with its checksum over the pseudo-header.
    pub fn segment(&self, src: IpAddr, dst: IpAddr, payload: &[u8]) -> Vec<u8> {
        let mut segment = Vec::new();
        segment.extend(self.src_port.to_be_bytes());
        segment.extend(self.dst_port.to_be_bytes());
        segment.extend(self.sequence.to_be_bytes());
        segment.extend(self.acknowledgement.to_be_bytes());
        segment.push(((20 + self.options.len()) / 4) as u8 * 16);
        segment.push(self.flags);
        segment.extend(self.window.to_be_bytes());
        segment.extend([0; 4]);
        segment.extend(&self.options);
        segment.extend(payload);
        let checksum = pseudo_checksum(src, dst, protocol::TCP, &segment);
        segment[16..18].copy_from_slice(&checksum.to_be_bytes());
        segment
    }
}

/// A UDP header (RFC 768).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Udp {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// False leaves the checksum 0, "not computed" (IPv4, and tunnels over IPv6).
    pub checksum: bool,
}

impl Udp {
    /// The datagram; a computed checksum of 0 is sent as 0xffff.
    pub fn datagram(&self, src: IpAddr, dst: IpAddr, payload: &[u8]) -> Vec<u8> {
        let mut datagram = Vec::new();
        datagram.extend(self.src_port.to_be_bytes());
        datagram.extend(self.dst_port.to_be_bytes());
        datagram.extend(((8 + payload.len()) as u16).to_be_bytes());
        datagram.extend([0; 2]);
        datagram.extend(payload);
        if self.checksum {
            let checksum = match pseudo_checksum(src, dst, protocol::UDP, &datagram) {
                0 => 0xffff,
                checksum => checksum,
            };
            datagram[6..8].copy_from_slice(&checksum.to_be_bytes());
        }
        datagram
    }
}

/// An ICMP (RFC 792) or ICMPv6 (RFC 4443) header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Icmp {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// The four octets after the checksum: identifier and sequence, MTU, unused, …
    pub rest: [u8; 4],
}

impl Icmp {
    /// The message. ICMPv6 covers the pseudo-header, ICMP does not.
    pub fn message(&self, src: IpAddr, dst: IpAddr, body: &[u8]) -> Vec<u8> {
        let mut message = vec![self.kind, self.code, 0, 0];
        message.extend(self.rest);
        message.extend(body);
        let checksum = match src {
            IpAddr::V4(_) => internet_checksum(&[&message]),
            IpAddr::V6(_) => pseudo_checksum(src, dst, protocol::ICMPV6, &message),
        };
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
        message
    }
}

/// The Internet checksum (RFC 1071) over the parts, each of even length but the last.
///
/// Big-endian words in a 32-bit sum: on purpose not the way the code under test does it.
pub fn internet_checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            if sum > 0xffff {
                sum = (sum & 0xffff) + 1;
            }
        }
    }
    !(sum as u16)
}

/// The checksum over the pseudo-header (RFC 9293 §3.1, RFC 8200 §8.1) and the body.
pub fn pseudo_checksum(src: IpAddr, dst: IpAddr, protocol: u8, body: &[u8]) -> u16 {
    let mut header = Vec::new();
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            header.extend(src.octets());
            header.extend(dst.octets());
            header.extend([0, protocol]);
            header.extend((body.len() as u16).to_be_bytes());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            header.extend(src.octets());
            header.extend(dst.octets());
            header.extend((body.len() as u32).to_be_bytes());
            header.extend([0, 0, 0, protocol]);
        }
        _ => panic!("addresses of two families in one packet"),
    }
    internet_checksum(&[&header, body])
}
