//! HAProxy's `httplog` and, for connections, `tcplog`: what follows the syslog header.
//!
//! The fields are in its manual, "HTTP log format" and "TCP log format". A route's name takes no
//! place in them; the listener stands for the frontend, the service for the backend, and the
//! backend for the server.

use super::super::{Record, Traffic, end};
use super::{escape, number};
use crate::message::RequestHead;
use crate::observe::calendar::Calendar;
use std::time::Duration;

pub(super) fn line(record: &Record<'_>, calendar: &mut Calendar, out: &mut Vec<u8>) {
    let http = record.traffic == Traffic::Http;
    number::address(record.client.ip(), out);
    out.push(b':');
    number::decimal(record.client.port().into(), out);
    out.extend_from_slice(b" [");
    date(record.times.began_at(), calendar, out);
    out.extend_from_slice(b"] ");
    text(record.listener, out);
    out.push(b' ');
    // Where no service was chosen, HAProxy names the frontend again.
    text(record.service.unwrap_or(record.listener), out);
    out.push(b'/');
    text(
        record.last_attempt().map_or("<NOSRV>", |last| last.backend),
        out,
    );
    out.push(b' ');
    timers(record, out);
    if http {
        out.push(b' ');
        match record.status {
            0 => out.extend_from_slice(b"-1"),
            status => number::decimal(status.into(), out),
        }
    }
    out.push(b' ');
    number::decimal(record.sent.all(), out);
    if http {
        for cookie in record.cookies {
            out.push(b' ');
            match cookie {
                Some(cookie) => escape::haproxy(cookie, out),
                None => out.push(b'-'),
            }
        }
    }
    out.push(b' ');
    let flags = end::haproxy_flags(
        record.end,
        record.phase,
        record.sticky_request,
        record.sticky_response,
    );
    out.extend_from_slice(if http { &flags } else { &flags[..2] });
    counts(record, out);
    if http {
        out.extend_from_slice(b" \"");
        request_line(record, out);
        out.push(b'"');
    }
}

/// `06/Feb/2009:12:14:14.655`
fn date(at: Duration, calendar: &mut Calendar, out: &mut Vec<u8>) {
    out.extend_from_slice(&calendar.clf(at.as_secs())[..20]);
    out.push(b'.');
    number::padded(at.subsec_millis().into(), 3, out);
}

/// `TR/Tw/Tc/Tr/Ta`, or `Tw/Tc/Tt`; -1 for what was not reached.
fn timers(record: &Record<'_>, out: &mut Vec<u8>) {
    let times = &record.times;
    let all = [
        times.request_head,
        times.queue,
        times.connect,
        times.response_head,
    ];
    let shown = match record.traffic {
        Traffic::Http => &all[..],
        Traffic::Tcp | Traffic::Udp => &all[1..3],
    };
    for time in shown {
        match time {
            Some(time) => number::millis(*time, out),
            None => out.extend_from_slice(b"-1"),
        }
        out.push(b'/');
    }
    number::millis(times.total, out);
}

/// `actconn/feconn/beconn/srv_conn/retries srv_queue/backend_queue`, with blanks before both.
fn counts(record: &Record<'_>, out: &mut Vec<u8>) {
    let counts = &record.counts;
    let retries = u32::try_from(record.retries()).unwrap_or(u32::MAX);
    let all = [
        (b' ', counts.process),
        (b'/', counts.listener),
        (b'/', counts.service),
        (b'/', counts.backend),
        (b'/', retries),
        (b' ', counts.backend_queue),
        (b'/', counts.service_queue),
    ];
    let redispatched = redispatched(record);
    for (index, (before, count)) in all.into_iter().enumerate() {
        out.push(before);
        if index == 4 && redispatched {
            out.push(b'+');
        }
        number::decimal(count.into(), out);
    }
}

/// True if the last attempt went to another backend than the first one.
fn redispatched(record: &Record<'_>) -> bool {
    match record.attempts {
        [first, .., last] => first.address != last.address,
        _ => false,
    }
}

/// The request line. HAProxy has none where it did not understand the head.
fn request_line(record: &Record<'_>, out: &mut Vec<u8>) {
    let Some(head) = record.request else {
        return out.extend_from_slice(b"<BADREQ>");
    };
    escape::haproxy(head.method.as_bytes(), out);
    out.push(b' ');
    if head.version == crate::message::Version::Http2 {
        absolute(head, out);
    }
    escape::haproxy(record.target(), out);
    out.push(b' ');
    out.extend_from_slice(head.version.name().as_bytes());
}

/// Scheme and authority, which HAProxy puts before the path of an HTTP/2 request.
fn absolute(head: &RequestHead, out: &mut Vec<u8>) {
    out.extend_from_slice(head.scheme.name().as_bytes());
    out.extend_from_slice(b"://");
    escape::haproxy(head.authority(), out);
}

/// A name of the configuration.
fn text(name: &str, out: &mut Vec<u8>) {
    escape::haproxy(name.as_bytes(), out);
}
