//! One JSON object a line. Times are in seconds, sizes in octets; what is not known is left out.
//!
//! Members are added in later versions, never renamed.

use super::super::{Attempt, End, Record, Side, Traffic, end};
use super::template::response_flags;
use super::{escape, number};
use crate::message::{Name, RequestHead};
use crate::observe::calendar::Calendar;
use std::time::Duration;

pub(super) fn line(record: &Record<'_>, calendar: &mut Calendar, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"time\":\"");
    let at = record.times.ended_at;
    out.extend_from_slice(calendar.utc(at.as_secs()));
    out.push(b'.');
    number::padded(at.subsec_micros().into(), 6, out);
    out.extend_from_slice(b"Z\"");

    let mut object = Object(out);
    object.text("traffic", record.traffic.label().as_bytes());
    object.text("listener", record.listener.as_bytes());
    object.optional("route", record.route.map(str::as_bytes));
    object.optional("service", record.service.map(str::as_bytes));
    object.socket("client", record.client);
    object.address("real_client", record.real_client);
    object.socket("server", record.server);
    object.optional("workload", record.workload.map(str::as_bytes));
    object.number("connection", record.connection);
    if let Some(preread) = &record.preread {
        object.optional("tls_server_name", preread.server_name.map(str::as_bytes));
        object.nonempty("tls_alpn", preread.protocols);
        object.nonempty("tls_version", preread.version.as_bytes());
    }
    if record.traffic == Traffic::Http {
        object.number("connection_requests", record.connection_requests);
        request(record, &mut object);
        if record.status != 0 {
            object.number("status", record.status.into());
        }
    }
    object.number("received_bytes", record.received.all());
    object.number("received_body_bytes", record.received.body);
    object.number("sent_bytes", record.sent.all());
    object.number("sent_body_bytes", record.sent.body);
    times(record, &mut object);
    attempts(record, &mut object);
    how_it_ended(record, &mut object);
    if let Some(tls) = &record.tls {
        object.text("tls_version", tls.version.as_bytes());
        object.text("tls_cipher", tls.cipher.as_bytes());
        object.optional("tls_server_name", tls.server_name.map(str::as_bytes));
        object.optional("tls_client_subject", tls.client_subject.map(str::as_bytes));
    }
    object.nonempty("request_id", record.request_id);
    if let Some((trace, span)) = &record.trace {
        object.hex("trace_id", trace);
        object.hex("span_id", span);
    }
    object.0.push(b'}');
}

fn request(record: &Record<'_>, object: &mut Object<'_>) {
    let Some(head) = record.request else {
        return object.nonempty("first_line", record.first_line);
    };
    object.text("method", head.method.as_bytes());
    object.text("scheme", head.scheme.name().as_bytes());
    object.text("host", head.authority());
    object.text("target", record.target());
    object.text("version", head.version.name().as_bytes());
    field(head, "user_agent", Name::UserAgent, object);
    field(head, "referer", Name::Referer, object);
}

fn field(head: &RequestHead, member: &str, name: Name, object: &mut Object<'_>) {
    object.optional(member, head.fields.get(name));
}

fn times(record: &Record<'_>, object: &mut Object<'_>) {
    let times = &record.times;
    object.seconds("duration", Some(times.total));
    object.seconds("idle_time", Some(times.idle));
    object.seconds("head_time", times.request_head);
    object.seconds("queue_time", times.queue);
    object.seconds("connect_time", times.connect);
    object.seconds("response_time", times.response_head);
}

fn attempts(record: &Record<'_>, object: &mut Object<'_>) {
    let Some(last) = record.last_attempt() else {
        return;
    };
    object.text("backend", last.backend.as_bytes());
    object.number("attempts", record.attempts.len() as u64);
    object.member("upstream");
    object.0.push(b'[');
    for (index, attempt) in record.attempts.iter().enumerate() {
        if index > 0 {
            object.0.push(b',');
        }
        one_attempt(attempt, object);
    }
    object.0.push(b']');
}

fn one_attempt(attempt: &Attempt<'_>, object: &mut Object<'_>) {
    object.0.extend_from_slice(b"{\"backend\":\"");
    escape::json(attempt.backend.as_bytes(), object.0);
    object.0.push(b'"');
    object.socket("address", attempt.address);
    object.boolean("reused", attempt.reused);
    if attempt.status != 0 {
        object.number("status", attempt.status.into());
    }
    if attempt.end != End::Complete {
        object.text("end", attempt.end.label().as_bytes());
    }
    object.seconds("connect_time", attempt.connect);
    object.seconds("head_time", attempt.head);
    object.seconds("duration", Some(attempt.total));
    object.number("sent_bytes", attempt.sent);
    object.number("received_bytes", attempt.received.all());
    object.0.push(b'}');
}

fn how_it_ended(record: &Record<'_>, object: &mut Object<'_>) {
    object.text("end", record.end.label().as_bytes());
    object.text("ended_by", record.end.side().label().as_bytes());
    if record.end.side() != Side::Nobody {
        object.text("phase", record.phase.label().as_bytes());
    }
    let flags = end::haproxy_flags(
        record.end,
        record.phase,
        record.sticky_request,
        record.sticky_response,
    );
    object.text("flags", &flags);
    object.member("response_flags");
    object.0.push(b'"');
    response_flags(record, object.0);
    object.0.push(b'"');
    let refusal = record
        .refusal
        .map(|(_, refusal)| refusal.label().as_bytes());
    object.optional("refusal", refusal);
}

/// An object whose first member is written.
struct Object<'a>(&'a mut Vec<u8>);

impl Object<'_> {
    fn member(&mut self, name: &str) {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    fn text(&mut self, name: &str, value: &[u8]) {
        self.member(name);
        self.0.push(b'"');
        escape::json(value, self.0);
        self.0.push(b'"');
    }

    fn optional(&mut self, name: &str, value: Option<&[u8]>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }

    fn nonempty(&mut self, name: &str, value: &[u8]) {
        self.optional(name, (!value.is_empty()).then_some(value));
    }

    fn number(&mut self, name: &str, value: u64) {
        self.member(name);
        number::decimal(value, self.0);
    }

    fn boolean(&mut self, name: &str, value: bool) {
        self.member(name);
        self.0
            .extend_from_slice(if value { b"true" } else { b"false" });
    }

    fn seconds(&mut self, name: &str, value: Option<Duration>) {
        if let Some(value) = value {
            self.member(name);
            number::seconds_micros(value, self.0);
        }
    }

    fn socket(&mut self, name: &str, value: std::net::SocketAddr) {
        self.member(name);
        self.0.push(b'"');
        number::socket(value, self.0);
        self.0.push(b'"');
    }

    fn address(&mut self, name: &str, value: std::net::IpAddr) {
        self.member(name);
        self.0.push(b'"');
        number::address(value, self.0);
        self.0.push(b'"');
    }

    fn hex(&mut self, name: &str, value: &[u8]) {
        self.member(name);
        self.0.push(b'"');
        number::hex(value, self.0);
        self.0.push(b'"');
    }
}
