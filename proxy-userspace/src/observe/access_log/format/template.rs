//! Lines from a template with nginx's variables.
//!
//! What a variable writes is what nginx writes, octet by octet: also which of them say `-` where
//! there is nothing, and which then say nothing. Where our heads keep less than nginx's, a value
//! may be missing: the fields of one connection (`$http_connection`) are not in them.

use super::super::{Attempt, End, Record, Side, Traffic, end};
use super::{escape, number};
use crate::config::log_template::{LogEscape, LogPart, LogTemplate, LogVariable};
use crate::message::{FieldRef, Fields, Length, Name, RequestHead};
use crate::observe::calendar::Calendar;
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use std::time::Duration;

/// Appends the line without its end.
pub(super) fn line(
    template: &LogTemplate,
    record: &Record<'_>,
    calendar: &mut Calendar,
    out: &mut Vec<u8>,
) {
    let mut line = Line {
        record,
        calendar,
        escape: template.escape,
        out,
    };
    for part in &template.parts {
        match part {
            LogPart::Text(text) => line.out.extend_from_slice(text.as_bytes()),
            LogPart::Variable(variable) => line.variable(variable),
        }
    }
}

/// Envoy's flags: what ended the exchange, and what else happened to it.
pub(super) fn response_flags(record: &Record<'_>, out: &mut Vec<u8>) {
    let begin = out.len();
    let ended_by_backend = record.end.side() == Side::Backend;
    let flags = [
        (record.end.envoy_flag(), record.end.envoy_flag() != "-"),
        ("URX", ended_by_backend && record.retries() > 0),
        ("DI", record.fault_delayed),
    ];
    for (flag, _) in flags.into_iter().filter(|(_, set)| *set) {
        if out.len() > begin {
            out.push(b',');
        }
        out.extend_from_slice(flag.as_bytes());
    }
    if out.len() == begin {
        out.push(b'-');
    }
}

struct Line<'a, 'r> {
    record: &'a Record<'r>,
    calendar: &'a mut Calendar,
    escape: LogEscape,
    out: &'a mut Vec<u8>,
}

impl<'r> Line<'_, 'r> {
    /// Long because it is one flat table: what each variable writes.
    fn variable(&mut self, variable: &LogVariable) {
        use LogVariable as V;
        let record = self.record;
        let times = &record.times;
        match variable {
            V::RemoteAddr => number::address(record.real_client, self.out),
            V::RemotePort => self.number(record.client.port().into()),
            V::ConnectionAddr => number::address(record.client.ip(), self.out),
            V::RemoteUser => self.remote_user(),
            V::TimeLocal => {
                let text = self.calendar.clf(times.ended_at.as_secs());
                self.out.extend_from_slice(text);
            }
            V::TimeIso8601 => {
                let text = self.calendar.iso(times.ended_at.as_secs());
                self.out.extend_from_slice(text);
            }
            V::Msec => number::seconds_millis(times.ended_at, self.out),
            V::Request => self.request_line(),
            V::RequestMethod => self.of_head(|head| Some(head.method.as_bytes())),
            V::RequestUri => self.of_head(|_| Some(record.target())),
            V::Uri => self.of_head(|head| Some(head.path())),
            V::Args => self.of_head(|_| query(record.target()).and_then(nonempty)),
            V::IsArgs => {
                let has_query = query(record.target()).is_some_and(|query| !query.is_empty());
                self.plain(if has_query { "?" } else { "" });
            }
            V::RequestLength => self.number(record.received.all()),
            V::RequestTime => number::seconds_millis(times.total, self.out),
            V::RequestCompletion => {
                // Of a response, also one that tells of a failure.
                let left = matches!(record.end, End::ClientClosed | End::ClientTimeout);
                let whole = record.status != 0 && !left;
                self.plain(if whole { "OK" } else { "" });
            }
            V::RequestId => self.nonempty(record.request_id),
            V::Scheme => self.plain(match record.tls {
                Some(_) => "https",
                None => "http",
            }),
            V::Https => self.plain(if record.tls.is_some() { "on" } else { "" }),
            V::SslProtocol
            | V::SslCipher
            | V::SslServerName
            | V::SslSessionReused
            | V::SslClientSDn
            | V::SslClientVerify => self.of_tls(variable),
            V::ServerAddr => number::address(record.server.ip(), self.out),
            V::ServerPort => self.number(record.server.port().into()),
            V::Listener => self.value(Some(record.listener.as_bytes())),
            V::Workload => self.value(record.workload.map(str::as_bytes)),
            V::Protocol => self.plain(match record.traffic {
                Traffic::Http | Traffic::Tcp => "TCP",
                Traffic::Udp => "UDP",
            }),
            V::ServerProtocol => self.of_head(|head| Some(head.version.name().as_bytes())),
            V::Host => self.host(),
            V::Status => number::padded(status(record).into(), 3, self.out),
            V::BodyBytesSent => self.number(record.sent.body),
            V::BytesSent => self.number(record.sent.all()),
            V::BodyBytesClf => match record.sent.body {
                0 => self.out.push(b'-'),
                octets => self.number(octets),
            },
            V::Connection => self.number(record.connection),
            V::ConnectionRequests => self.number(record.connection_requests),
            V::ContentLength => self.length(record.request.map(|head| head.length)),
            V::SentContentLength => self.sent_length(),
            V::ContentType => self.request_field(Name::ContentType.spelled()),
            V::HttpHost => self.of_head(|head| nonempty(head.authority())),
            V::HttpUpgrade => self.of_head(|head| nonempty(&head.protocol)),
            V::UpstreamAddr => self.attempts(|line, attempt| {
                number::socket(attempt.address, line.out);
            }),
            V::UpstreamStatus => self.attempts(|line, attempt| match upstream_status(attempt) {
                0 => line.out.push(b'-'),
                status => line.number(status.into()),
            }),
            V::UpstreamConnectTime => self.attempts(|line, attempt| line.time(attempt.connect)),
            V::UpstreamHeaderTime => self.attempts(|line, attempt| line.time(attempt.head)),
            V::UpstreamResponseTime => {
                self.attempts(|line, attempt| line.time(Some(attempt.total)));
            }
            V::UpstreamResponseLength => {
                self.attempts(|line, attempt| line.number(attempt.received.body));
            }
            V::UpstreamBytesReceived => {
                self.attempts(|line, attempt| line.number(attempt.received.all()));
            }
            V::UpstreamBytesSent => self.attempts(|line, attempt| line.number(attempt.sent)),
            V::Backend => self.value(record.last_attempt().map(|last| last.backend.as_bytes())),
            V::Service => self.value(record.service.map(str::as_bytes)),
            V::Route => self.value(record.route.map(str::as_bytes)),
            V::Retries => self.number(record.retries() as u64),
            V::QueueTime => self.time(times.queue),
            V::Flags => {
                let (end, phase) = (record.end, record.phase);
                let flags =
                    end::haproxy_flags(end, phase, record.sticky_request, record.sticky_response);
                self.out.extend_from_slice(&flags);
            }
            V::ResponseFlags => response_flags(record, self.out),
            V::End => self.plain(record.end.label()),
            V::EndedBy => self.plain(record.end.side().label()),
            V::Refusal => {
                self.value(
                    record
                        .refusal
                        .map(|(_, refusal)| refusal.label().as_bytes()),
                );
            }
            V::TraceId => match record.trace {
                Some((trace, _)) => number::hex(&trace, self.out),
                None => self.value(None),
            },
            V::SpanId => match record.trace {
                Some((_, span)) => number::hex(&span, self.out),
                None => self.value(None),
            },
            // As nginx: nothing where the client said nothing, `-` where nobody listened.
            V::PrereadServerName => self.value(record.preread.map(|preread| {
                let name = preread.server_name;
                name.unwrap_or_default().as_bytes()
            })),
            V::PrereadProtocols => self.value(record.preread.map(|preread| preread.protocols)),
            V::PrereadVersion => {
                self.value(record.preread.map(|preread| preread.version.as_bytes()));
            }
            V::RequestField(name) => self.request_field(name),
            V::ResponseField(name) => {
                self.field(record.response.map(|head| &head.fields), name, b", ");
            }
            V::Cookie(name) => self.cookie(name.as_bytes()),
            V::Argument(name) => self.of_head(|_| argument(record.target(), name.as_bytes())),
        }
    }

    /// A value that a client may have chosen, or what stands for none.
    fn value(&mut self, value: Option<&[u8]>) {
        match value {
            Some(value) => self.escaped(value),
            None if self.escape == LogEscape::Default => self.out.push(b'-'),
            None => {}
        }
    }

    fn escaped(&mut self, value: &[u8]) {
        match self.escape {
            LogEscape::Default => escape::nginx(value, self.out),
            LogEscape::Json => escape::nginx_json(value, self.out),
            LogEscape::None => self.out.extend_from_slice(value),
        }
    }

    fn nonempty(&mut self, value: &[u8]) {
        self.value(nonempty(value));
    }

    /// A variable of a sealed connection.
    fn of_tls(&mut self, variable: &LogVariable) {
        use LogVariable as V;
        let value = self.record.tls.as_ref().and_then(|tls| match variable {
            V::SslProtocol => Some(tls.version),
            V::SslCipher => Some(tls.cipher),
            V::SslServerName => tls.server_name,
            V::SslSessionReused => Some(if tls.is_resumed { "r" } else { "." }),
            V::SslClientSDn => tls.client_subject,
            V::SslClientVerify => Some(tls.verify()),
            _ => None,
        });
        self.value(value.map(str::as_bytes));
    }

    /// Text of our own, which needs no escaping.
    fn plain(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    fn number(&mut self, number: u64) {
        number::decimal(number, self.out);
    }

    fn time(&mut self, time: Option<Duration>) {
        match time {
            Some(time) => number::seconds_millis(time, self.out),
            None => self.out.push(b'-'),
        }
    }

    fn of_head(&mut self, value: impl Fn(&'r RequestHead) -> Option<&'r [u8]>) {
        self.value(self.record.request.and_then(value));
    }

    fn request_line(&mut self) {
        let record = self.record;
        let Some(head) = record.request else {
            return self.nonempty(record.first_line);
        };
        self.escaped(head.method.as_bytes());
        self.out.push(b' ');
        self.escaped(record.target());
        self.out.push(b' ');
        self.plain(head.version.name());
    }

    fn host(&mut self) {
        let host = self.record.request.map_or(&[][..], RequestHead::host);
        let host = nonempty(host).unwrap_or(self.record.listener.as_bytes());
        self.value(Some(host));
    }

    fn length(&mut self, length: Option<Length>) {
        match length {
            Some(Length::Exact(octets)) => self.number(octets),
            _ => self.value(None),
        }
    }

    fn sent_length(&mut self) {
        let described = self.record.response.and_then(|head| head.described_length);
        let length = self.record.response.map(|head| head.length);
        self.length(described.map(Length::Exact).or(length));
    }

    fn request_field(&mut self, name: &str) {
        let between: &[u8] = if name.eq_ignore_ascii_case("cookie") {
            b"; "
        } else {
            b", "
        };
        self.field(self.record.request.map(|head| &head.fields), name, between);
    }

    /// All values of a field, as nginx joins them.
    fn field(&mut self, fields: Option<&Fields>, name: &str, between: &[u8]) {
        let known = Name::of(name.as_bytes());
        let is_it = |field: &FieldRef<'_>| {
            field.name == known
                && (known != Name::Other || field.spelled.eq_ignore_ascii_case(name.as_bytes()))
        };
        let mut found = false;
        let fields = fields.filter(|fields| known == Name::Other || fields.contains(known));
        for field in fields.into_iter().flat_map(Fields::iter).filter(is_it) {
            if found {
                self.escaped(between);
            }
            self.escaped(field.value);
            found = true;
        }
        if !found {
            self.value(None);
        }
    }

    fn cookie(&mut self, name: &[u8]) {
        let fields = self.record.request.map(|head| &head.fields);
        let value = fields
            .into_iter()
            .flat_map(|fields| fields.all(Name::Cookie))
            .find_map(|cookies| cookie(cookies, name));
        self.value(value);
    }

    /// Something of each attempt, as nginx lists them.
    fn attempts(&mut self, mut each: impl FnMut(&mut Self, &Attempt<'_>)) {
        let attempts = self.record.attempts;
        if attempts.is_empty() {
            return self.value(None);
        }
        for (index, attempt) in attempts.iter().enumerate() {
            if index > 0 {
                self.out.extend_from_slice(b", ");
            }
            each(self, attempt);
        }
    }

    fn remote_user(&mut self) {
        let authorization = self
            .record
            .request
            .and_then(|head| head.fields.get(Name::Authorization));
        let encoded = authorization.and_then(basic_credentials);
        let Some(user_length) = encoded.and_then(user_length) else {
            return self.value(None);
        };
        let mut left = user_length;
        each_decoded(encoded.unwrap_or_default(), |decoded| {
            let part = &decoded[..left.min(decoded.len())];
            self.escaped(part);
            left -= part.len();
        });
    }
}

fn nonempty(value: &[u8]) -> Option<&[u8]> {
    (!value.is_empty()).then_some(value)
}

/// nginx's word for a client that did not wait is 499.
fn status(record: &Record<'_>) -> u16 {
    match record.status {
        0 if record.end == End::ClientClosed => 499,
        status => status,
    }
}

/// nginx's status of an attempt without an answer is the one that it would give a client.
fn upstream_status(attempt: &Attempt<'_>) -> u16 {
    match (attempt.status, attempt.end) {
        (0, End::ConnectTimeout | End::BackendTimeout) => 504,
        (0, end) if end.side() == Side::Backend => 502,
        (status, _) => status,
    }
}

fn query(target: &[u8]) -> Option<&[u8]> {
    let question_mark = target.iter().position(|&octet| octet == b'?')?;
    Some(&target[question_mark + 1..])
}

/// Value of a parameter of the query, as it stands there.
fn argument<'t>(target: &'t [u8], name: &[u8]) -> Option<&'t [u8]> {
    query(target)?
        .split(|&octet| octet == b'&')
        .find_map(|pair| named_value(pair, name))
}

/// Value of a cookie in a `Cookie` field.
fn cookie<'f>(cookies: &'f [u8], name: &[u8]) -> Option<&'f [u8]> {
    cookies
        .split(|&octet| octet == b';')
        .find_map(|pair| named_value(pair.trim_ascii_start(), name))
}

/// The value of `name=value`; names are compared without regard to case, as nginx does.
fn named_value<'p>(pair: &'p [u8], name: &[u8]) -> Option<&'p [u8]> {
    let (own, rest) = pair.split_at_checked(name.len())?;
    let value = rest.strip_prefix(b"=")?;
    own.eq_ignore_ascii_case(name).then_some(value)
}

/// What follows `Basic`.
fn basic_credentials(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = authorization.split_at_checked(6)?;
    scheme
        .eq_ignore_ascii_case(b"basic ")
        .then(|| rest.trim_ascii_start())
}

/// Octets of the decoded credentials before the colon; `None` if they are no credentials, or there
/// is no user.
fn user_length(encoded: &[u8]) -> Option<usize> {
    let (mut before, mut colon) = (0, None);
    let valid = each_decoded(encoded, |decoded| {
        if colon.is_none() {
            colon = decoded
                .iter()
                .position(|&octet| octet == b':')
                .map(|at| before + at);
        }
        before += decoded.len();
    });
    colon.filter(|&length| valid && length > 0)
}

/// Decodes Base64 piece by piece on the stack. False if it is not Base64.
fn each_decoded(encoded: &[u8], mut each: impl FnMut(&[u8])) -> bool {
    const PIECE: usize = 256;
    let mut decoded = [0; PIECE / 4 * 3];
    for piece in encoded.chunks(PIECE) {
        match BASE64.decode_slice(piece, &mut decoded) {
            Ok(length) => each(&decoded[..length]),
            Err(_) => return false,
        }
    }
    true
}

/// As nginx reads it: with padding or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);
