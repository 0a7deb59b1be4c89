//! The spans of connections: packet, accept, TLS, tunnel.
//!
//! ```text
//! packet (the first, if the packet path saw it)
//!   └─ accept (from that packet to the accept)
//!        ├─ TLS handshake
//!        ├─ tunnel, or
//!        └─ the server span of the first request, which its worker exports
//! ```
//!
//! A worker does not know whether the packet path has seen the first packet, and the packet path does not
//! know whether a worker will accept it: whoever hears of both puts them together. The first packet of
//! a flow waits here for a moment; if nobody accepts, and it did not go to this host's stack, it is a
//! trace by itself.

use super::stages::{Packet, Tls, Tunnel};
use super::{Note, Stage};
use crate::observe::trace::{ConnectionSpan, ConnectionTrace, Fact, SpanKind};
use proxy_common::hash::mix;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// How long a packet waits for its accept: as long as a client waits before it sends another SYN.
const WAIT: Duration = Duration::from_secs(1);

/// Packets that wait.
const WAITING: usize = 4096;

/// How long an accept waits for its packet: both are told at once, by two ways of which neither is always
/// the faster.
const LATE: Duration = Duration::from_millis(250);

/// Puts the spans of connections together.
#[derive(Debug, Default)]
pub struct Assembler {
    packets: HashMap<u64, Note>,
    order: VecDeque<(Duration, u64)>,
    /// Accepts whose packet has not been told yet, if there is one.
    accepts: VecDeque<Note>,
}

/// Which spans of a connection are which, so that each has an id of its own.
const PACKET: u64 = 1;
const TLS: u64 = 2;
const TUNNEL: u64 = 3;

impl Assembler {
    /// Takes what was noted of a flow whose spans are exported; appends those that are complete.
    pub fn take(&mut self, note: &Note, out: &mut Vec<ConnectionSpan>) {
        if let Stage::Packet(packet) = &note.stage {
            if !opens(note, packet) {
                return;
            }
            let waiting = (self.accepts.iter()).position(|accept| accept.flow.id == note.flow.id);
            if let Some(accept) = waiting.and_then(|at| self.accepts.remove(at)) {
                accepted(&accept, Some(note), out);
            } else if self.packets.len() < WAITING {
                let is_first = !self.packets.contains_key(&note.flow.id);
                if is_first {
                    self.packets.insert(note.flow.id, note.clone());
                    self.order.push_back((note.at, note.flow.id));
                }
            }
            return;
        }
        let Some(connection) = note.trace else { return };
        match &note.stage {
            Stage::Accept(_) => match self.packets.remove(&note.flow.id) {
                None if self.accepts.len() < WAITING => self.accepts.push_back(note.clone()),
                opening => accepted(note, opening.as_ref(), out),
            },
            Stage::Tls(tls) => out.push(tls_span(note, tls, connection)),
            Stage::Tunnel(tunnel) => out.push(tunnel_span(note, tunnel, connection)),
            _ => {}
        }
    }

    /// Time has passed: appends the spans of accepts without a packet, and of packets that nobody
    /// accepted.
    pub fn tick(&mut self, now: Duration, out: &mut Vec<ConnectionSpan>) {
        let is_late = |note: &mut Note| now.saturating_sub(note.at) >= LATE;
        while let Some(accept) = self.accepts.pop_front_if(is_late) {
            accepted(&accept, None, out);
        }
        while let Some((at, id)) = self.order.front().copied() {
            if now.saturating_sub(at) < WAIT {
                return;
            }
            self.order.pop_front();
            let is_it = self.packets.get(&id).is_some_and(|note| note.at == at);
            let Some(opening) = self.packets.remove(&id).filter(|_| is_it) else {
                continue;
            };
            if matches!(&opening.stage, Stage::Packet(packet) if packet.verdict != "pass") {
                let random = [mix(opening.at.as_nanos() as u64), mix(id)];
                let connection = ConnectionTrace::new(opening.flow, random);
                out.push(packet_span(&opening, connection.trace, connection.span));
            }
        }
    }
}

/// The spans of a connection that was accepted, and of the packet that opened it, if that was seen.
fn accepted(note: &Note, opening: Option<&Note>, out: &mut Vec<ConnectionSpan>) {
    let (Some(connection), Stage::Accept(accept)) = (note.trace, &note.stage) else {
        return;
    };
    let parent = opening.map(|opening| {
        let span = packet_span(opening, connection.trace, child(connection, PACKET));
        let id = span.id;
        out.push(span);
        id
    });
    let mut span = begin(note, connection.trace, connection.span, "accept");
    span.parent = parent;
    span.began_at = opening.map_or(note.at, |it| it.at.min(note.at));
    span.text("sluice.listener", &accept.listener);
    span.number("sluice.worker", accept.worker as i64);
    out.push(span);
}

/// True if this may be the first packet of its flow.
fn opens(note: &Note, packet: &Packet) -> bool {
    use proxy_common::service::protocol;
    packet.between.is_none()
        && match note.protocol {
            protocol::TCP => packet.flags == "syn" || packet.verdict == "drop",
            _ => true,
        }
}

/// The id of another span of a connection.
fn child(connection: ConnectionTrace, which: u64) -> [u8; 8] {
    let own = u64::from_be_bytes(connection.span);
    mix(own.wrapping_add(which)).max(1).to_be_bytes()
}

/// A span of no length with what all have.
fn begin(note: &Note, trace: [u8; 16], id: [u8; 8], name: &str) -> ConnectionSpan {
    let (client, server) = note.ends;
    let mut span = ConnectionSpan {
        trace,
        id,
        parent: None,
        name: name.to_owned(),
        kind: SpanKind::Internal,
        attributes: Vec::new(),
        error: None,
        began_at: note.at,
        ended_at: note.at,
    };
    span.text(
        "sluice.flow.id",
        &super::stage::hex(&note.flow.id.to_be_bytes()),
    );
    span.text("network.transport", &super::protocol_name(note.protocol));
    let family = if client.ip().to_canonical().is_ipv4() {
        "ipv4"
    } else {
        "ipv6"
    };
    span.text("network.type", family);
    span.text(
        "network.peer.address",
        &client.ip().to_canonical().to_string(),
    );
    span.number("network.peer.port", client.port().into());
    span.text(
        "network.local.address",
        &server.ip().to_canonical().to_string(),
    );
    span.number("network.local.port", server.port().into());
    span
}

fn packet_span(note: &Note, trace: [u8; 16], id: [u8; 8]) -> ConnectionSpan {
    let mut span = begin(note, trace, id, "packet");
    let Stage::Packet(packet) = &note.stage else {
        return span;
    };
    span.text("network.interface.name", &packet.interface);
    span.text("sluice.verdict", &packet.verdict);
    span.text("sluice.reason", &packet.reason);
    span.optional("sluice.service", packet.service.as_deref());
    span.optional("sluice.backend", packet.backend.as_deref());
    span.optional("sluice.mode", packet.mode.as_deref());
    if packet.verdict == "drop" {
        span.fail(&packet.reason);
    }
    span
}

fn tls_span(note: &Note, tls: &Tls, connection: ConnectionTrace) -> ConnectionSpan {
    let mut span = begin(
        note,
        connection.trace,
        child(connection, TLS),
        "TLS handshake",
    );
    span.parent = Some(connection.span);
    span.began_at = note.at.saturating_sub(Duration::from_secs_f64(tls.seconds));
    span.text("sluice.listener", &tls.listener);
    span.attributes
        .push(("tls.established", Fact::Bool(tls.error.is_none())));
    if let Some(version) = tls.version.strip_prefix("TLSv") {
        span.text("tls.protocol.name", "tls");
        span.text("tls.protocol.version", version);
        span.text("tls.cipher", &tls.cipher);
        span.attributes
            .push(("tls.resumed", Fact::Bool(tls.resumed)));
    }
    span.optional("tls.client.server_name", tls.server_name.as_deref());
    span.optional("tls.next_protocol", tls.alpn.as_deref());
    if let Some(error) = &tls.error {
        span.fail(error);
    }
    span
}

fn tunnel_span(note: &Note, tunnel: &Tunnel, connection: ConnectionTrace) -> ConnectionSpan {
    let mut span = begin(note, connection.trace, child(connection, TUNNEL), "tunnel");
    span.parent = Some(connection.span);
    span.kind = SpanKind::Server;
    span.began_at = note
        .at
        .saturating_sub(Duration::from_secs_f64(tunnel.seconds));
    span.text("sluice.listener", &tunnel.listener);
    span.optional("sluice.service", tunnel.service.as_deref());
    span.optional("tls.client.server_name", tunnel.server_name.as_deref());
    span.optional("sluice.refusal", tunnel.refusal.as_deref());
    span.number("sluice.received_bytes", tunnel.received_bytes as i64);
    span.number("sluice.sent_bytes", tunnel.sent_bytes as i64);
    if tunnel.is_failure {
        span.fail(&tunnel.end);
    }
    if tunnel.end != "complete" {
        span.text("sluice.end", &tunnel.end);
    }
    span
}
