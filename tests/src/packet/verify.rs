//! Checks every length and checksum of a frame, through tunnels and into quoted packets.
//!
//! Exact bytes show that a rewrite did what was meant; this shows that what was meant is a valid
//! packet. It also judges frames nobody wrote down: those of the mutation tests and of replays.

use super::wire::{ethertype, internet_checksum, protocol, pseudo_checksum};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A header that was found and is consistent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layer {
    /// Ethernet and VLAN tags; octets of header.
    Link(usize),
    /// IPv4 or IPv6.
    Ip {
        /// Source.
        src: IpAddr,
        /// Destination.
        dst: IpAddr,
        /// TTL or hop limit.
        ttl: u8,
        /// Type of service or traffic class.
        tos: u8,
        /// What follows, after extension headers.
        protocol: u8,
        /// True for any fragment.
        fragment: bool,
        /// Octets of the packet.
        length: usize,
    },
    /// TCP or UDP.
    Ports {
        /// Source port.
        src: u16,
        /// Destination port.
        dst: u16,
    },
    /// ICMP or ICMPv6.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
    },
    /// Not looked into.
    Opaque,
}

/// What is wrong with a frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The header named is cut.
    #[error("{0} header is cut")]
    Cut(&'static str),
    /// A length field contradicts the frame.
    #[error("{0} length {1} does not fit {2} octets")]
    Length(&'static str, usize, usize),
    /// A checksum is wrong.
    #[error("{0} checksum {1:#06x} should be {2:#06x}")]
    Checksum(&'static str, u16, u16),
    /// A field has an impossible value.
    #[error("{0}")]
    Field(&'static str),
}

/// Checks a frame, and says which headers it has. UDP to `gue_port` is looked into as GUE
/// variant 1, and over IPv6 may lack its checksum (RFC 6936).
///
/// # Errors
///
/// The first [`Fault`], from the outside in.
pub fn verify(frame: &[u8], gue_port: u16) -> Result<Vec<Layer>, Fault> {
    let mut walk = Walk {
        layers: Vec::new(),
        gue_port,
    };
    let mut offset = 12;
    loop {
        let kind = word(frame, offset, "Ethernet")?;
        offset += 2;
        match kind {
            ethertype::VLAN | ethertype::SERVICE_VLAN => offset += 2,
            ethertype::IPV4 | ethertype::IPV6 => {
                walk.layers.push(Layer::Link(offset));
                walk.ip(&frame[offset..], Trailer::Padding)?;
                return Ok(walk.layers);
            }
            _ => {
                walk.layers.push(Layer::Link(offset));
                walk.layers.push(Layer::Opaque);
                return Ok(walk.layers);
            }
        }
    }
}

/// What may follow the octets that an IP length counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trailer {
    /// Nothing: a packet in a tunnel.
    None,
    /// Ethernet padding: a short frame's, which stays behind when a tunnel makes it longer.
    Padding,
    /// The packet may be cut: a quoted one.
    Cut,
}

struct Walk {
    layers: Vec<Layer>,
    gue_port: u16,
}

impl Walk {
    fn ip(&mut self, packet: &[u8], trailer: Trailer) -> Result<(), Fault> {
        match packet.first().map(|octet| octet >> 4) {
            Some(4) => self.v4(packet, trailer),
            Some(6) => self.v6(packet, trailer),
            Some(_) => Err(Fault::Field("IP version is neither 4 nor 6")),
            None => Err(Fault::Cut("IP")),
        }
    }

    fn v4(&mut self, packet: &[u8], trailer: Trailer) -> Result<(), Fault> {
        let header = usize::from(packet[0] & 15) * 4;
        if header < 20 || packet.len() < header {
            return Err(Fault::Cut("IPv4"));
        }
        let total = usize::from(word(packet, 2, "IPv4")?);
        let body = bounded("IPv4", packet, total, trailer)?;
        check("IPv4", &packet[..header], 10, internet_checksum)?;
        let fragment_word = word(packet, 6, "IPv4")?;
        let (src, dst) = (v4_at(packet, 12), v4_at(packet, 16));
        let fragment = fragment_word & 0x3fff != 0;
        self.layers.push(Layer::Ip {
            src,
            dst,
            ttl: packet[8],
            tos: packet[1],
            protocol: packet[9],
            fragment,
            length: total,
        });
        let whole = body.len() == total && !fragment;
        let rest = body.get(header..).ok_or(Fault::Cut("IPv4"))?;
        self.transport(src, dst, packet[9], rest, whole)
    }

    fn v6(&mut self, packet: &[u8], trailer: Trailer) -> Result<(), Fault> {
        if packet.len() < 40 {
            return Err(Fault::Cut("IPv6"));
        }
        let total = 40 + usize::from(word(packet, 4, "IPv6")?);
        let body = bounded("IPv6", packet, total, trailer)?;
        let (src, dst) = (v6_at(packet, 8), v6_at(packet, 24));
        let (mut next, mut offset, mut fragment) = (packet[6], 40, false);
        while is_extension(next) {
            let octets = body
                .get(offset..offset + 8)
                .ok_or(Fault::Cut("IPv6 extension"))?;
            let units = usize::from(octets[1]);
            offset += match next {
                protocol::FRAGMENT => 8,
                protocol::AUTHENTICATION => 4 * (units + 2),
                _ => 8 * (units + 1),
            };
            let is_fragment = next == protocol::FRAGMENT;
            next = octets[0];
            if is_fragment && (octets[2] != 0 || octets[3] & !6 != 0) {
                fragment = true;
                break;
            }
        }
        self.layers.push(Layer::Ip {
            src,
            dst,
            ttl: packet[7],
            tos: ((u16::from(packet[0]) << 8 | u16::from(packet[1])) >> 4) as u8,
            protocol: next,
            fragment,
            length: total,
        });
        let whole = body.len() == total && !fragment;
        let rest = body.get(offset..).ok_or(Fault::Cut("IPv6 extension"))?;
        self.transport(src, dst, next, rest, whole)
    }

    fn transport(
        &mut self,
        src: IpAddr,
        dst: IpAddr,
        number: u8,
        body: &[u8],
        whole: bool,
    ) -> Result<(), Fault> {
        if !whole {
            self.layers.push(Layer::Opaque);
            return Ok(());
        }
        match number {
            protocol::TCP => {
                if body.len() < 20 || usize::from(body[12] >> 4) * 4 > body.len() {
                    return Err(Fault::Cut("TCP"));
                }
                check("TCP", body, 16, |b| pseudo_checksum(src, dst, number, b[0]))?;
                self.ports(body)
            }
            protocol::UDP => self.udp(src, dst, body),
            protocol::ICMP if src.is_ipv4() => {
                check("ICMP", body, 2, internet_checksum)?;
                self.icmp(body, matches!(body[0], 3 | 4 | 5 | 11 | 12))
            }
            protocol::ICMPV6 if src.is_ipv6() => {
                check("ICMPv6", body, 2, |b| {
                    pseudo_checksum(src, dst, number, b[0])
                })?;
                self.icmp(body, body[0] < 128)
            }
            protocol::IPIP | protocol::IPV6 => {
                let version = if number == protocol::IPIP { 4 } else { 6 };
                if body.first().is_some_and(|octet| octet >> 4 != version) {
                    return Err(Fault::Field(
                        "the inner version contradicts the protocol number",
                    ));
                }
                self.ip(body, Trailer::None)
            }
            _ => {
                self.layers.push(Layer::Opaque);
                Ok(())
            }
        }
    }

    fn udp(&mut self, src: IpAddr, dst: IpAddr, body: &[u8]) -> Result<(), Fault> {
        let length = usize::from(word(body, 4, "UDP")?);
        if length != body.len() {
            return Err(Fault::Length("UDP", length, body.len()));
        }
        let tunnel = word(body, 2, "UDP")? == self.gue_port;
        if word(body, 6, "UDP")? != 0 {
            // A transmitted 0xffff stands for a computed 0: both sum to "correct".
            check("UDP", body, 6, |b| {
                match pseudo_checksum(src, dst, protocol::UDP, b[0]) {
                    0 => 0xffff,
                    checksum => checksum,
                }
            })?;
        } else if src.is_ipv6() && !tunnel {
            return Err(Fault::Field("UDP over IPv6 lacks its checksum"));
        }
        self.ports(body)?;
        if tunnel && length > 8 {
            return self.ip(&body[8..], Trailer::None);
        }
        Ok(())
    }

    fn ports(&mut self, body: &[u8]) -> Result<(), Fault> {
        self.layers.push(Layer::Ports {
            src: word(body, 0, "TCP")?,
            dst: word(body, 2, "TCP")?,
        });
        Ok(())
    }

    fn icmp(&mut self, body: &[u8], error: bool) -> Result<(), Fault> {
        if body.len() < 8 {
            return Err(Fault::Cut("ICMP"));
        }
        self.layers.push(Layer::Icmp {
            kind: body[0],
            code: body[1],
        });
        if error {
            self.ip(&body[8..], Trailer::Cut)
        } else {
            Ok(())
        }
    }
}

/// True for the numbers of extension headers that have the usual format.
pub const fn is_extension(number: u8) -> bool {
    matches!(
        number,
        protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::FRAGMENT
            | protocol::AUTHENTICATION
            | protocol::DESTINATION
            | protocol::MOBILITY
            | protocol::HIP
            | protocol::SHIM6
    )
}

/// The octets that belong to the packet.
fn bounded<'a>(
    what: &'static str,
    packet: &'a [u8],
    total: usize,
    trailer: Trailer,
) -> Result<&'a [u8], Fault> {
    let fits = match trailer {
        Trailer::None => total == packet.len(),
        Trailer::Padding => total <= packet.len(),
        Trailer::Cut => total >= packet.len(),
    };
    if fits {
        Ok(&packet[..total.min(packet.len())])
    } else {
        Err(Fault::Length(what, total, packet.len()))
    }
}

/// Compares the checksum at `offset` with that of the octets around it.
fn check(
    what: &'static str,
    octets: &[u8],
    offset: usize,
    compute: impl Fn(&[&[u8]]) -> u16,
) -> Result<(), Fault> {
    let found = word(octets, offset, what)?;
    let mut blank = octets.to_vec();
    blank[offset..offset + 2].fill(0);
    let right = compute(&[&blank]);
    if found == right {
        Ok(())
    } else {
        Err(Fault::Checksum(what, found, right))
    }
}

fn word(octets: &[u8], offset: usize, what: &'static str) -> Result<u16, Fault> {
    match octets.get(offset..offset + 2) {
        Some(&[high, low]) => Ok(u16::from_be_bytes([high, low])),
        _ => Err(Fault::Cut(what)),
    }
}

fn v4_at(packet: &[u8], offset: usize) -> IpAddr {
    let octets: [u8; 4] = std::array::from_fn(|i| packet[offset + i]);
    Ipv4Addr::from(octets).into()
}

fn v6_at(packet: &[u8], offset: usize) -> IpAddr {
    let octets: [u8; 16] = std::array::from_fn(|i| packet[offset + i]);
    Ipv6Addr::from(octets).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::build::Packet;
    use crate::packet::wire::{Extension, Link};

    const LINK: Link = Link::new([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);

    fn samples() -> Vec<Packet> {
        let quoted = Packet::tcp("203.0.113.1:80", "198.51.100.7:4000").bytes();
        vec![
            Packet::tcp("198.51.100.7:40000", "203.0.113.1:80").payload(b"odd"),
            Packet::udp("198.51.100.7:40000", "203.0.113.1:53").payload(b"question"),
            Packet::tcp("[2001:db8::7]:40000", "[2001:db8:1::1]:80"),
            Packet::udp("[2001:db8::7]:40000", "[2001:db8:1::1]:53")
                .extension(Extension::generic(protocol::HOP_BY_HOP, 0))
                .extension(Extension::authentication(4)),
            Packet::echo("198.51.100.7", "203.0.113.1"),
            Packet::echo("2001:db8::7", "2001:db8:1::1"),
            Packet::too_big("198.51.100.7", "203.0.113.1", 1400, &quoted),
        ]
    }

    #[test]
    fn what_the_builder_makes_is_valid() {
        for packet in samples() {
            for link in [LINK, LINK.vlan(ethertype::VLAN, 7)] {
                let frame = packet.frame(&link);
                let layers = verify(&frame, 6080);
                assert!(layers.is_ok(), "{packet:?}: {layers:?}");
            }
        }
    }

    #[test]
    fn a_flipped_bit_in_anything_covered_is_found() {
        for packet in samples() {
            let frame = packet.frame(&LINK);
            for octet in 14..frame.len() {
                if is_not_covered(&packet, octet - 14) {
                    continue;
                }
                let mut broken = frame.clone();
                broken[octet] ^= 0x10;
                assert!(verify(&broken, 6080).is_err(), "{packet:?}, octet {octet}");
            }
        }
    }

    /// Octets of an IPv6 packet that no checksum covers, or that make it another protocol's.
    fn is_not_covered(packet: &Packet, offset: usize) -> bool {
        let before = packet.bytes().len() - packet.transport().len();
        packet.ip.src().is_ipv6()
            && (offset < 4 || offset == 6 || offset == 7 || (40..before).contains(&offset))
    }

    #[test]
    fn a_wrong_quote_is_found() {
        let mut quoted = Packet::tcp("203.0.113.1:80", "198.51.100.7:4000").bytes();
        quoted[16] ^= 1;
        let error = Packet::too_big("198.51.100.7", "203.0.113.1", 1400, &quoted);
        assert!(matches!(
            verify(&error.frame(&LINK), 6080),
            Err(Fault::Checksum("IPv4", ..))
        ));
    }
}
