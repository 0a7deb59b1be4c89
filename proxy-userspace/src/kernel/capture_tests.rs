use super::*;
use proxy_common::event::CaptureHeader;

struct Static;

impl Names for Static {
    fn interface(&self, ifindex: u32) -> Option<String> {
        (ifindex == 3).then(|| "eth0".to_owned())
    }
    fn service(&self, id: u16) -> Option<String> {
        (id == 7).then(|| "web".to_owned())
    }
    fn backend(&self, _: u16) -> Option<String> {
        None
    }
}

/// An Ethernet frame with IPv4 and the first octets of TCP, ports 4242 and 80.
fn frame(vlan: bool) -> Vec<u8> {
    let mut frame = vec![0u8; 12];
    if vlan {
        frame.extend([0x81, 0, 0, 100]);
    }
    frame.extend([0x08, 0]);
    frame.extend(ipv4([192, 0, 2, 1], [198, 51, 100, 1], 6));
    frame.extend([0x10, 0x92, 0, 80, 0, 0, 0, 0]);
    frame
}

fn ipv4(source: [u8; 4], target: [u8; 4], protocol: u8) -> Vec<u8> {
    let mut header = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
    header.extend(source);
    header.extend(target);
    header
}

/// The same in an IPIP tunnel from 10.0.0.1 to 10.0.0.2.
fn tunnelled() -> Vec<u8> {
    let mut packet = vec![0u8; 12];
    packet.extend([0x08, 0]);
    packet.extend(ipv4([10, 0, 0, 1], [10, 0, 0, 2], 4));
    packet.extend(&frame(false)[14..]);
    packet
}

fn record(side: u8, time_ns: u64, cpu: u32, data: Vec<u8>) -> CapturedPacket {
    CapturedPacket {
        header: CaptureHeader {
            time_ns,
            length: data.len() as u32,
            captured: data.len() as u32,
            ifindex: 3,
            direction: side,
            cpu,
            ..CaptureHeader::default()
        },
        data,
    }
}

fn verdict(time_ns: u64, cpu: u32, reason: Reason, code: u8, data: Vec<u8>) -> CapturedPacket {
    let mut packet = record(direction::OUT, time_ns, cpu, data);
    packet.header.reason = reason as u16;
    packet.header.action = code;
    packet.header.service = 7;
    packet.header.backend = 9;
    packet
}

fn parse(text: &str) -> Result<CaptureFilter, FilterError> {
    CaptureFilter::parse(text, |name| (name == "web").then_some(7))
}

/// Writes a packet that arrived and left in a tunnel; returns how many sides were written.
fn written(filter: &str) -> u64 {
    let mut file = Vec::new();
    let mut writer = CaptureWriter::new(&mut file, parse(filter).unwrap()).unwrap();
    let out = verdict(5, 0, Reason::Encapsulated, action::TX, tunnelled());
    writer
        .push(record(direction::IN, 5, 0, frame(false)), &Static)
        .unwrap();
    writer.push(out, &Static).unwrap();
    writer.finish(&Static).unwrap()
}

#[test]
fn both_sides_of_a_forwarded_packet_are_written() {
    assert_eq!(written(""), 2);
}

#[test]
fn filters_look_at_both_sides_and_into_tunnels() {
    for (filter, sides) in [
        ("host 192.0.2.1", 2),
        ("host 10.0.0.2", 2),
        ("host 10.0.0.9", 0),
        ("port 80 and service web", 2),
        ("port 81", 0),
        ("reason encapsulated", 2),
        ("reason denied", 0),
        ("host 10.0.0.2 port 80", 0),
    ] {
        assert_eq!(written(filter), sides, "{filter}");
    }
}

#[test]
fn wrong_filters_are_explained() {
    assert_eq!(parse("hots 1"), Err(FilterError::Keyword("hots".into())));
    assert_eq!(parse("host"), Err(FilterError::Missing("host")));
    assert!(parse("port 70000").is_err());
    assert!(parse("service nosuch").is_err());
    let text = parse("reason bad").unwrap_err().to_string();
    assert!(text.contains("denied"), "{text}");
}

#[test]
fn vlan_tags_are_skipped() {
    let found = ends(&frame(true));
    assert_eq!(found[0].ports, [4242, 80]);
    assert_eq!(ends(&frame(true)[..13]), []);
}

#[test]
fn gue_is_looked_into_and_other_datagrams_are_not() {
    let inner = {
        let mut inner = frame(false)[14..].to_vec();
        inner[3] = inner.len() as u8;
        inner
    };
    let datagram = |length: usize| {
        let mut packet = vec![0u8; 12];
        packet.extend([0x08, 0]);
        packet.extend(ipv4([10, 0, 0, 1], [10, 0, 0, 2], 17));
        packet.extend([0xc0, 0, 0x17, 0xc0, 0, length as u8, 0, 0]);
        packet.extend(&inner);
        packet
    };
    assert_eq!(ends(&datagram(8 + inner.len())).len(), 2);
    assert_eq!(ends(&datagram(9 + inner.len())).len(), 1);
}

#[test]
fn no_frame_length_makes_the_filter_panic() {
    let whole = tunnelled();
    for length in 0..whole.len() {
        let _ = ends(&whole[..length]);
    }
}

#[test]
fn a_dropped_packet_is_written_once() {
    let mut file = Vec::new();
    let mut writer = CaptureWriter::new(&mut file, CaptureFilter::default()).unwrap();
    let arrived = record(direction::IN, 5, 1, frame(false));
    let dropped = verdict(5, 1, Reason::DropDenied, action::DROP, frame(false));
    writer.push(arrived, &Static).unwrap();
    writer.push(dropped, &Static).unwrap();
    assert_eq!(writer.finish(&Static).unwrap(), 1);
    let text = String::from_utf8_lossy(&file).into_owned();
    assert!(
        text.contains("drop: denied, service web, backend 9"),
        "{text}"
    );
    assert!(text.contains("eth0 (in)"), "{text}");
}

#[test]
fn records_of_other_packets_and_cpus_are_not_paired() {
    let mut pairing = Pairing::default();
    assert_eq!(pairing.push(record(direction::IN, 5, 0, vec![])), []);
    assert_eq!(pairing.push(record(direction::IN, 5, 1, vec![])), []);
    let other = verdict(6, 0, Reason::Direct, action::TX, vec![]);
    let pairs = pairing.push(other);
    assert_eq!(pairs.len(), 2);
    assert!(pairs[0].outbound.is_none() && pairs[1].inbound.is_none());
    let own = verdict(5, 1, Reason::Direct, action::TX, vec![]);
    assert!(pairing.push(own)[0].inbound.is_some());
}
