//! Turns captured packets into a pcapng file: pairs what arrived with what left, filters, and
//! writes both sides with the verdict as a comment.
//!
//! Packets that XDP sends back or redirects never reach the taps of `tcpdump`; this is the way to
//! see them.

use super::events::CapturedPacket;
use super::host;
use super::pcapng::{Direction, Packet, Writer};
use proxy_common::event::{CAPTURE_OCTETS, direction};
use proxy_common::reason::Reason;
use std::collections::HashMap;
use std::io::{self, Write};
use std::net::IpAddr;

/// XDP actions (`enum xdp_action`).
mod action {
    pub(super) const DROP: u8 = 1;
    pub(super) const PASS: u8 = 2;
    pub(super) const TX: u8 = 3;
    pub(super) const REDIRECT: u8 = 4;
}

/// Names for the numbers in captured packets.
pub trait Names {
    /// Name of an interface.
    fn interface(&self, ifindex: u32) -> Option<String>;
    /// Name of a service.
    fn service(&self, id: u16) -> Option<String>;
    /// Name of a backend.
    fn backend(&self, id: u16) -> Option<String>;
}

/// Which packets to write: all terms must hold. Host and port are looked for on both sides of the
/// balancer, inside and outside of a tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CaptureFilter {
    host: Option<IpAddr>,
    port: Option<u16>,
    service: Option<u16>,
    reason: Option<Reason>,
}

/// A filter expression could not be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// A word is none of the keywords.
    #[error("`{0}` is not one of: host ADDRESS, port NUMBER, service NAME, reason NAME, and")]
    Keyword(String),
    /// A keyword without its value.
    #[error("`{0}` needs a value")]
    Missing(&'static str),
    /// A value that its keyword cannot take.
    #[error("`{value}` is not {expected}")]
    Value {
        /// What was written.
        value: String,
        /// What can be.
        expected: String,
    },
}

impl CaptureFilter {
    /// Parses such as `host 192.0.2.1 and port 80 and service web and reason denied`; `and` may be
    /// left out, and the empty expression accepts everything.
    ///
    /// # Errors
    ///
    /// [`FilterError`] for the first word that is wrong.
    pub fn parse(
        text: &str,
        service_id: impl Fn(&str) -> Option<u16>,
    ) -> Result<Self, FilterError> {
        let mut filter = Self::default();
        let mut words = text.split_whitespace();
        while let Some(word) = words.next() {
            let mut value = |keyword| words.next().ok_or(FilterError::Missing(keyword));
            match word {
                "and" => {}
                "host" => filter.host = Some(parse_as(value("host")?, "an IP address")?),
                "port" => filter.port = Some(parse_as(value("port")?, "a port")?),
                "service" => {
                    let name = value("service")?;
                    let id = service_id(name);
                    filter.service = Some(id.ok_or_else(|| wrong(name, "a known service"))?);
                }
                "reason" => {
                    let name = value("reason")?;
                    let found = Reason::ALL.iter().find(|reason| reason.name() == name);
                    let found = found.ok_or_else(|| wrong(name, &reason_names()))?;
                    filter.reason = Some(*found);
                }
                other => return Err(FilterError::Keyword(other.to_owned())),
            }
        }
        Ok(filter)
    }

    fn accepts(&self, pair: &Pair) -> bool {
        let verdict = pair.verdict();
        let is = |wanted: Option<u16>, found: u16| wanted.is_none_or(|wanted| wanted == found);
        let header = verdict.map(|packet| &packet.header);
        is(self.service, header.map_or(0, |header| header.service))
            && is(
                self.reason.map(|reason| reason as u16),
                header.map_or(0, |header| header.reason),
            )
            && pair
                .sides()
                .any(|side| self.accepts_ends(&ends(&side.data)))
    }

    /// Do host and port hold for one of these headers? With both, for one and the same.
    fn accepts_ends(&self, headers: &[Ends]) -> bool {
        if self.host.is_none() && self.port.is_none() {
            return true;
        }
        headers.iter().any(|ends| {
            self.host.is_none_or(|host| ends.addresses.contains(&host))
                && self.port.is_none_or(|port| ends.ports.contains(&port))
        })
    }
}

fn wrong(value: &str, expected: &str) -> FilterError {
    FilterError::Value {
        value: value.to_owned(),
        expected: expected.to_owned(),
    }
}

fn parse_as<T: std::str::FromStr>(value: &str, expected: &str) -> Result<T, FilterError> {
    value.parse().map_err(|_| wrong(value, expected))
}

fn reason_names() -> String {
    let names: Vec<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
    format!("one of: {}", names.join(", "))
}

/// Addresses and ports of one IP header and what follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ends {
    addresses: [IpAddr; 2],
    ports: Vec<u16>,
}

/// The IP headers of a frame, outermost first: the frame's own and that of a tunnel's content.
fn ends(frame: &[u8]) -> Vec<Ends> {
    let mut found = Vec::new();
    let Some(mut packet) = network_layer(frame) else {
        return found;
    };
    // Two tunnels in each other are more than the balancer makes.
    for _ in 0..3 {
        let Some((ends, inner)) = ip_ends(packet) else {
            break;
        };
        found.push(ends);
        match inner {
            Some(inner) => packet = inner,
            None => break,
        }
    }
    found
}

/// What follows the Ethernet header and up to two VLAN tags.
fn network_layer(frame: &[u8]) -> Option<&[u8]> {
    let mut at = 12;
    for _ in 0..3 {
        let kind = u16::from_be_bytes(*frame.get(at..)?.first_chunk()?);
        match kind {
            0x8100 | 0x88a8 => at += 4,
            0x0800 | 0x86dd => return frame.get(at + 2..),
            _ => return None,
        }
    }
    None
}

/// The ends of an IP packet, and the packet in it if it is a tunnel.
fn ip_ends(packet: &[u8]) -> Option<(Ends, Option<&[u8]>)> {
    let (addresses, protocol, payload) = match packet.first()? >> 4 {
        4 => {
            let length = usize::from(packet[0] & 15) * 4;
            let source: [u8; 4] = *packet.get(12..)?.first_chunk()?;
            let target: [u8; 4] = *packet.get(16..)?.first_chunk()?;
            let addresses = [source.into(), target.into()];
            (addresses, packet[9], packet.get(length..)?)
        }
        6 => {
            let source: [u8; 16] = *packet.get(8..)?.first_chunk()?;
            let target: [u8; 16] = *packet.get(24..)?.first_chunk()?;
            let addresses = [source.into(), target.into()];
            (addresses, packet[6], packet.get(40..)?)
        }
        _ => return None,
    };
    let mut ends = Ends {
        addresses,
        ports: Vec::new(),
    };
    let inner = match protocol {
        6 | 17 => {
            if let Some(&[a, b, c, d]) = payload.first_chunk() {
                ends.ports = vec![u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])];
            }
            (protocol == 17).then(|| gue_content(payload)).flatten()
        }
        4 | 41 => Some(payload),
        _ => None,
    };
    Some((ends, inner))
}

/// The IP packet right behind a UDP header (GUE variant 1), told from other content by its length.
fn gue_content(datagram: &[u8]) -> Option<&[u8]> {
    let word = |octets: &[u8], at: usize| {
        let octets: [u8; 2] = *octets.get(at..)?.first_chunk()?;
        Some(usize::from(u16::from_be_bytes(octets)))
    };
    let room = word(datagram, 4)?.checked_sub(8)?;
    let inner = datagram.get(8..)?;
    let length = match inner.first()? >> 4 {
        4 => word(inner, 2)?,
        6 => word(inner, 4)? + 40,
        _ => return None,
    };
    (length == room).then_some(inner)
}

/// Both sides of one packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Pair {
    inbound: Option<CapturedPacket>,
    outbound: Option<CapturedPacket>,
}

impl Pair {
    /// The record that knows the verdict.
    fn verdict(&self) -> Option<&CapturedPacket> {
        self.outbound.as_ref()
    }

    fn sides(&self) -> impl Iterator<Item = &CapturedPacket> {
        self.inbound.iter().chain(&self.outbound)
    }

    /// Did the packet leave, or leave changed? Else its outbound side repeats the inbound one.
    fn left(&self) -> bool {
        self.outbound
            .as_ref()
            .is_some_and(|packet| match packet.header.action {
                action::TX | action::REDIRECT => true,
                action::PASS => self
                    .inbound
                    .as_ref()
                    .is_none_or(|inbound| inbound.data != packet.data),
                _ => false,
            })
    }
}

/// Joins the two records of each packet. A CPU finishes one packet before the next.
#[derive(Debug, Default)]
struct Pairing {
    waiting: HashMap<u32, CapturedPacket>,
}

impl Pairing {
    /// Takes a record; returns the pairs that are complete now (an inbound record whose other half
    /// was lost comes alone).
    fn push(&mut self, packet: CapturedPacket) -> Vec<Pair> {
        let cpu = packet.header.cpu;
        if packet.header.direction == direction::IN {
            let lonely = self.waiting.insert(cpu, packet);
            return lonely.map(alone).into_iter().collect();
        }
        match self.waiting.remove(&cpu) {
            Some(inbound) if inbound.header.time_ns == packet.header.time_ns => vec![Pair {
                inbound: Some(inbound),
                outbound: Some(packet),
            }],
            lonely => lonely
                .map(alone)
                .into_iter()
                .chain([Pair {
                    inbound: None,
                    outbound: Some(packet),
                }])
                .collect(),
        }
    }
}

fn alone(inbound: CapturedPacket) -> Pair {
    Pair {
        inbound: Some(inbound),
        outbound: None,
    }
}

/// Writes captured packets that pass a filter to a pcapng file.
pub struct CaptureWriter<W> {
    writer: Writer<W>,
    filter: CaptureFilter,
    pairing: Pairing,
    interfaces: HashMap<(u32, Direction), u32>,
    clock_offset: u64,
    packets: u64,
}

impl<W: Write> CaptureWriter<W> {
    /// Begins a file.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn new(out: W, filter: CaptureFilter) -> io::Result<Self> {
        let application = concat!("sluice ", env!("CARGO_PKG_VERSION"));
        Ok(Self {
            writer: Writer::new(out, application)?,
            filter,
            pairing: Pairing::default(),
            interfaces: HashMap::new(),
            clock_offset: host::wall_clock_offset(),
            packets: 0,
        })
    }

    /// Takes a record, and writes the packets that it completes.
    ///
    /// # Errors
    ///
    /// Those of the output.
    pub fn push(&mut self, packet: CapturedPacket, names: &impl Names) -> io::Result<()> {
        for pair in self.pairing.push(packet) {
            self.write_pair(&pair, names)?;
        }
        Ok(())
    }

    /// Packets written so far.
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// Flushes the output; returns how many packets were written.
    ///
    /// # Errors
    ///
    /// Those of the output.
    pub fn finish(&mut self, names: &impl Names) -> io::Result<u64> {
        let waiting = std::mem::take(&mut self.pairing.waiting);
        for packet in waiting.into_values() {
            self.write_pair(&alone(packet), names)?;
        }
        self.writer.flush()?;
        Ok(self.packets)
    }

    fn write_pair(&mut self, pair: &Pair, names: &impl Names) -> io::Result<()> {
        if !self.filter.accepts(pair) {
            return Ok(());
        }
        let comment = pair.verdict().map_or_else(
            || "verdict not captured".to_owned(),
            |packet| comment(packet, names),
        );
        if let Some(packet) = &pair.inbound {
            self.write(packet, Direction::Inbound, &comment, names)?;
        }
        match &pair.outbound {
            Some(packet) if pair.left() => {
                self.write(packet, Direction::Outbound, &comment, names)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn write(
        &mut self,
        packet: &CapturedPacket,
        direction: Direction,
        comment: &str,
        names: &impl Names,
    ) -> io::Result<()> {
        let interface = self.interface(packet.header.ifindex, direction, names)?;
        self.writer.packet(&Packet {
            interface,
            time_ns: packet.header.time_ns.wrapping_add(self.clock_offset),
            length: packet.header.length,
            data: &packet.data,
            direction,
            comment,
        })?;
        self.packets += 1;
        Ok(())
    }

    /// Number of an interface in the file; described when it is first met.
    fn interface(
        &mut self,
        ifindex: u32,
        direction: Direction,
        names: &impl Names,
    ) -> io::Result<u32> {
        if let Some(number) = self.interfaces.get(&(ifindex, direction)) {
            return Ok(*number);
        }
        let name = names
            .interface(ifindex)
            .unwrap_or_else(|| format!("if{ifindex}"));
        let side = match direction {
            Direction::Inbound => "in",
            Direction::Outbound => "out",
        };
        let number = self
            .writer
            .interface(&format!("{name} ({side})"), CAPTURE_OCTETS as u32)?;
        self.interfaces.insert((ifindex, direction), number);
        Ok(number)
    }
}

/// The verdict in words, such as `forward: encapsulated, service web, backend web-1`.
fn comment(packet: &CapturedPacket, names: &impl Names) -> String {
    let header = &packet.header;
    let mut text = match Reason::from_code(header.reason) {
        Some(reason) => format!("{}: {}", reason.outcome().name(), reason.name()),
        None => format!("{}: reason {}", action_name(header.action), header.reason),
    };
    let mut push = |what: &str, id: u16, name: Option<String>| {
        if id != 0 {
            let name = name.unwrap_or_else(|| id.to_string());
            text.push_str(&format!(", {what} {name}"));
        }
    };
    push("service", header.service, names.service(header.service));
    push("backend", header.backend, names.backend(header.backend));
    text
}

const fn action_name(code: u8) -> &'static str {
    match code {
        action::DROP => "drop",
        action::PASS => "pass",
        action::TX => "transmit",
        action::REDIRECT => "redirect",
        _ => "aborted",
    }
}

#[cfg(test)]
#[path = "capture_tests.rs"]
mod tests;
