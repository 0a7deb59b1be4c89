//! The packet builder against etherparse: where both can build a packet, it is the same octets.

use etherparse::{
    IpFragOffset, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder, SlicedPacket, TransportSlice,
};
use proxy_common::tcp::flag;
use proxy_tests::packet::build::{Ip, Packet};
use proxy_tests::packet::wire::{Extension, Link, ethertype, protocol};

const LINK: Link = Link::new([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
const PAYLOAD: &[u8] = b"octets of odd length!";

fn v4() -> (Packet, Packet) {
    let ends = ("198.51.100.7:40000", "203.0.113.1:80");
    (
        Packet::tcp(ends.0, ends.1).payload(PAYLOAD),
        Packet::udp(ends.0, ends.1).payload(PAYLOAD),
    )
}

fn v6() -> (Packet, Packet) {
    let ends = ("[2001:db8::7]:40000", "[2001:db8:1::1]:80");
    (
        Packet::tcp(ends.0, ends.1).payload(PAYLOAD),
        Packet::udp(ends.0, ends.1).payload(PAYLOAD),
    )
}

fn v4_header() -> Ipv4Header {
    let mut header =
        Ipv4Header::new(0, 64, IpNumber::TCP, [198, 51, 100, 7], [203, 0, 113, 1]).unwrap();
    header.dont_fragment = true;
    header.fragment_offset = IpFragOffset::ZERO;
    header
}

#[test]
fn tcp_over_ipv4_is_the_same() {
    let builder = PacketBuilder::ethernet2(LINK.src, LINK.dst)
        .ip(etherparse::IpHeaders::Ipv4(v4_header(), Default::default()))
        .tcp(40_000, 80, 0x0102_0304, 0x7210)
        .ack(0x0506_0708);
    let mut expected = Vec::new();
    builder.write(&mut expected, PAYLOAD).unwrap();
    assert_eq!(v4().0.frame(&LINK), expected);
}

#[test]
fn udp_over_ipv6_with_a_vlan_tag_is_the_same() {
    let ip = Ipv6Header {
        hop_limit: 64,
        source: "2001:db8::7"
            .parse::<std::net::Ipv6Addr>()
            .unwrap()
            .octets(),
        destination: "2001:db8:1::1"
            .parse::<std::net::Ipv6Addr>()
            .unwrap()
            .octets(),
        ..Ipv6Header::default()
    };
    let builder = PacketBuilder::ethernet2(LINK.src, LINK.dst)
        .single_vlan(0x123.try_into().unwrap())
        .ip(etherparse::IpHeaders::Ipv6(ip, Default::default()))
        .udp(40_000, 80);
    let mut expected = Vec::new();
    builder.write(&mut expected, PAYLOAD).unwrap();
    assert_eq!(v6().1.frame(&LINK.vlan(ethertype::VLAN, 0x123)), expected);
}

/// etherparse reads what was written, and computes the same checksum.
#[test]
fn what_is_built_is_read_back() {
    for packet in [v4().0, v4().1, v6().0, v6().1] {
        for decorated in [packet.clone(), decorate(packet)] {
            let frame = decorated.frame(&LINK);
            let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
            let payload = match sliced.transport.expect("a transport header") {
                TransportSlice::Tcp(tcp) => {
                    assert_eq!((tcp.source_port(), tcp.destination_port()), (40_000, 80));
                    assert!(tcp.ack() && !tcp.syn());
                    tcp.payload().to_vec()
                }
                TransportSlice::Udp(udp) => {
                    assert_eq!((udp.source_port(), udp.destination_port()), (40_000, 80));
                    udp.payload().to_vec()
                }
                other => panic!("{other:?}"),
            };
            assert_eq!(payload, PAYLOAD);
        }
    }
    assert_eq!(flag::ACK, 0x10);
}

/// With options or extension headers.
fn decorate(packet: Packet) -> Packet {
    match packet.ip {
        Ip::V4(_) => packet.options(&[1; 8]),
        Ip::V6(_) => packet
            .extension(Extension::generic(protocol::HOP_BY_HOP, 1))
            .extension(Extension::routing(4, 2))
            .extension(Extension::authentication(4))
            .extension(Extension::generic(protocol::DESTINATION, 0)),
    }
}
