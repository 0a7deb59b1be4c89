//! Whole packets, described by what they are; a changed copy is the expected output.
//!
//! ```
//! use proxy_tests::packet::build::Packet;
//! let sent = Packet::tcp("198.51.100.7:40000", "203.0.113.1:80").syn();
//! let expected = sent.clone().to("10.1.0.2:8080").ttl(63);
//! assert_ne!(sent.bytes(), expected.bytes());
//! ```

use super::wire::{Extension, Icmp, Link, MORE_FRAGMENTS, Tcp, Udp, V4, V6, protocol};
use proxy_common::tcp::flag;
use std::net::{IpAddr, SocketAddr};

/// An IP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The IP header.
    pub ip: Ip,
    /// What it carries.
    pub body: Body,
    /// What the transport carries.
    pub payload: Vec<u8>,
}

/// An IP header of either version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ip {
    /// IPv4.
    V4(V4),
    /// IPv6.
    V6(V6),
}

/// What follows the IP header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// TCP.
    Tcp(Tcp),
    /// UDP.
    Udp(Udp),
    /// ICMP or ICMPv6, as the IP header's version demands.
    Icmp(Icmp),
    /// Any other protocol: the payload follows the IP header at once.
    Other(u8),
}

impl Packet {
    /// A TCP segment with the ACK flag; addresses as `198.51.100.7:40000` or `[2001:db8::7]:40000`.
    pub fn tcp(src: &str, dst: &str) -> Self {
        let (src, dst) = (socket(src), socket(dst));
        let tcp = Tcp {
            src_port: src.port(),
            dst_port: dst.port(),
            sequence: 0x0102_0304,
            acknowledgement: 0x0506_0708,
            flags: flag::ACK,
            window: 0x7210,
            options: Vec::new(),
        };
        Self {
            ip: Ip::between(src.ip(), dst.ip()),
            body: Body::Tcp(tcp),
            payload: Vec::new(),
        }
    }

    /// A UDP datagram with a checksum.
    pub fn udp(src: &str, dst: &str) -> Self {
        let (src, dst) = (socket(src), socket(dst));
        let udp = Udp {
            src_port: src.port(),
            dst_port: dst.port(),
            checksum: true,
        };
        Self {
            ip: Ip::between(src.ip(), dst.ip()),
            body: Body::Udp(udp),
            payload: Vec::new(),
        }
    }

    /// An ICMP or ICMPv6 message.
    pub fn icmp(src: &str, dst: &str, kind: u8, code: u8, rest: [u8; 4]) -> Self {
        let icmp = Icmp { kind, code, rest };
        let ip = Ip::between(address(src), address(dst));
        Self {
            ip,
            body: Body::Icmp(icmp),
            payload: Vec::new(),
        }
    }

    /// An echo request with identifier 0x1234, sequence 7.
    pub fn echo(src: &str, dst: &str) -> Self {
        let kind = if address(src).is_ipv4() { 8 } else { 128 };
        Self::icmp(src, dst, kind, 0, [0x12, 0x34, 0, 7]).payload(b"echo payload")
    }

    /// A packet of another protocol.
    pub fn other(src: &str, dst: &str, protocol: u8) -> Self {
        let ip = Ip::between(address(src), address(dst));
        Self {
            ip,
            body: Body::Other(protocol),
            payload: vec![0xa5; 24],
        }
    }

    /// Fragmentation needed, or packet too big, quoting `packet`.
    pub fn too_big(src: &str, dst: &str, mtu: u16, packet: &[u8]) -> Self {
        let [high, low] = mtu.to_be_bytes();
        let (kind, code) = if address(src).is_ipv4() {
            (3, 4)
        } else {
            (2, 0)
        };
        Self::icmp(src, dst, kind, code, [0, 0, high, low]).payload(packet)
    }

    /// With this payload.
    #[must_use]
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// With these TCP flags.
    #[must_use]
    pub fn flags(mut self, flags: u8) -> Self {
        if let Body::Tcp(tcp) = &mut self.body {
            tcp.flags = flags;
        }
        self
    }

    /// As a SYN.
    #[must_use]
    pub fn syn(self) -> Self {
        self.flags(flag::SYN)
    }

    /// As a FIN with ACK.
    #[must_use]
    pub fn fin(self) -> Self {
        self.flags(flag::FIN | flag::ACK)
    }

    /// As a reset.
    #[must_use]
    pub fn rst(self) -> Self {
        self.flags(flag::RST)
    }

    /// From another address and port.
    #[must_use]
    pub fn from(mut self, src: &str) -> Self {
        let src = socket(src);
        self.ip.set_src(src.ip());
        match &mut self.body {
            Body::Tcp(tcp) => tcp.src_port = src.port(),
            Body::Udp(udp) => udp.src_port = src.port(),
            Body::Icmp(_) | Body::Other(_) => {}
        }
        self
    }

    /// To another address and port.
    #[must_use]
    pub fn to(mut self, dst: &str) -> Self {
        let dst = socket(dst);
        self.ip.set_dst(dst.ip());
        match &mut self.body {
            Body::Tcp(tcp) => tcp.dst_port = dst.port(),
            Body::Udp(udp) => udp.dst_port = dst.port(),
            Body::Icmp(_) | Body::Other(_) => {}
        }
        self
    }

    /// With this time to live or hop limit.
    #[must_use]
    pub fn ttl(mut self, ttl: u8) -> Self {
        match &mut self.ip {
            Ip::V4(ip) => ip.ttl = ttl,
            Ip::V6(ip) => ip.hop_limit = ttl,
        }
        self
    }

    /// With this type of service or traffic class.
    #[must_use]
    pub fn tos(mut self, tos: u8) -> Self {
        match &mut self.ip {
            Ip::V4(ip) => ip.tos = tos,
            Ip::V6(ip) => ip.class = tos,
        }
        self
    }

    /// With the IPv4 "don't fragment" flag set or not.
    #[must_use]
    pub fn dont_fragment(mut self, set: bool) -> Self {
        if let Ip::V4(ip) = &mut self.ip {
            ip.fragment = if set { super::wire::DONT_FRAGMENT } else { 0 };
        }
        self
    }

    /// With IPv4 options, a multiple of four octets.
    #[must_use]
    pub fn options(mut self, options: &[u8]) -> Self {
        if let Ip::V4(ip) = &mut self.ip {
            ip.options = options.to_vec();
        }
        self
    }

    /// With a further IPv6 extension header.
    #[must_use]
    pub fn extension(mut self, extension: Extension) -> Self {
        if let Ip::V6(ip) = &mut self.ip {
            ip.extensions.push(extension);
        }
        self
    }

    /// With a UDP checksum of 0.
    #[must_use]
    pub fn without_checksum(mut self) -> Self {
        if let Body::Udp(udp) = &mut self.body {
            udp.checksum = false;
        }
        self
    }

    /// The transport's octets: header, payload, checksum.
    pub fn transport(&self) -> Vec<u8> {
        let (src, dst) = (self.ip.src(), self.ip.dst());
        match &self.body {
            Body::Tcp(tcp) => tcp.segment(src, dst, &self.payload),
            Body::Udp(udp) => udp.datagram(src, dst, &self.payload),
            Body::Icmp(icmp) => icmp.message(src, dst, &self.payload),
            Body::Other(_) => self.payload.clone(),
        }
    }

    /// The packet's octets, from the IP header on.
    pub fn bytes(&self) -> Vec<u8> {
        self.ip.packet(self.protocol(), &self.transport())
    }

    /// The packet in a frame.
    pub fn frame(&self, link: &Link) -> Vec<u8> {
        link.frame(&self.bytes())
    }

    /// The packet in fragments of at most `size` octets of payload (a multiple of eight).
    pub fn fragments(&self, size: usize, id: u32) -> Vec<Vec<u8>> {
        let transport = self.transport();
        let last = transport.len().div_ceil(size) - 1;
        let pieces = transport.chunks(size).enumerate();
        pieces
            .map(|(index, piece)| {
                let (offset, more) = (index * size, index != last);
                match self.ip.clone() {
                    Ip::V4(mut ip) => {
                        ip.id = id as u16;
                        ip.fragment = (offset / 8) as u16 | if more { MORE_FRAGMENTS } else { 0 };
                        ip.packet(self.protocol(), piece)
                    }
                    Ip::V6(mut ip) => {
                        ip.extensions.push(Extension::fragment(offset, more, id));
                        ip.packet(self.protocol(), piece)
                    }
                }
            })
            .collect()
    }

    /// Number of the protocol that follows the IP header and its extensions.
    pub const fn protocol(&self) -> u8 {
        match (&self.body, &self.ip) {
            (Body::Tcp(_), _) => protocol::TCP,
            (Body::Udp(_), _) => protocol::UDP,
            (Body::Icmp(_), Ip::V4(_)) => protocol::ICMP,
            (Body::Icmp(_), Ip::V6(_)) => protocol::ICMPV6,
            (Body::Other(number), _) => *number,
        }
    }
}

impl Ip {
    /// A plain header between two addresses of one family.
    pub fn between(src: IpAddr, dst: IpAddr) -> Self {
        match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => Self::V4(V4::new(src, dst)),
            (IpAddr::V6(src), IpAddr::V6(dst)) => Self::V6(V6::new(src, dst)),
            _ => panic!("addresses of two families in one packet"),
        }
    }

    /// Source.
    pub const fn src(&self) -> IpAddr {
        match self {
            Self::V4(ip) => IpAddr::V4(ip.src),
            Self::V6(ip) => IpAddr::V6(ip.src),
        }
    }

    /// Destination.
    pub const fn dst(&self) -> IpAddr {
        match self {
            Self::V4(ip) => IpAddr::V4(ip.dst),
            Self::V6(ip) => IpAddr::V6(ip.dst),
        }
    }

    /// The packet with this body.
    pub fn packet(&self, protocol: u8, body: &[u8]) -> Vec<u8> {
        match self {
            Self::V4(ip) => ip.packet(protocol, body),
            Self::V6(ip) => ip.packet(protocol, body),
        }
    }

    fn set_src(&mut self, src: IpAddr) {
        match (self, src) {
            (Self::V4(ip), IpAddr::V4(src)) => ip.src = src,
            (Self::V6(ip), IpAddr::V6(src)) => ip.src = src,
            _ => panic!("the new source is of the other family"),
        }
    }

    fn set_dst(&mut self, dst: IpAddr) {
        match (self, dst) {
            (Self::V4(ip), IpAddr::V4(dst)) => ip.dst = dst,
            (Self::V6(ip), IpAddr::V6(dst)) => ip.dst = dst,
            _ => panic!("the new destination is of the other family"),
        }
    }
}

/// Parses an address; tests only.
pub fn address(text: &str) -> IpAddr {
    text.parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Parses an address with port; tests only.
pub fn socket(text: &str) -> SocketAddr {
    text.parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}
