//! What listeners of the proxy paths have of their own, and the section `workers`.

use super::{elements, network, number, or, size, time, time_or_zero};
use crate::config::decode::{At, Field};
use crate::config::defaults::{http as defaults, text};
use crate::config::fault::Code;
use crate::config::file::http as file;
use crate::config::file::scalar::{Network, Time};
use crate::config::model::http::{
    Accelerate, AccessLog, Forwarded, Http2, HttpTimeouts, Limits, LogFormat, SecurityHeaders,
    Splice, Workers,
};
use crate::config::report::{Draft, Place, Report};
use ipnet::IpNet;
use std::time::Duration;

/// The section `workers`.
pub(super) fn workers(report: &Report<'_>, field: &Field<file::Workers>) -> Workers {
    let Some(keys) = field.value() else {
        return Workers::default();
    };
    Workers {
        count: keys
            .count
            .given()
            .map(|_| number(report, &keys.count, 1..=1024, 1)),
        drain_timeout: time_or_zero(report, &keys.drain_timeout, defaults::WORKER_DRAIN),
        busy_poll: busy_poll(report, &keys.busy_poll),
    }
}

fn busy_poll(report: &Report<'_>, field: &Field<Time>) -> Duration {
    let Some(at) = field.given() else {
        return Duration::ZERO;
    };
    if at.value.0 > defaults::LONGEST_BUSY_POLL {
        let draft = Draft::new(Code::InvalidValue, format!("`{}` is too long", at.value))
            .expected(format!("at most `{}`", text(defaults::LONGEST_BUSY_POLL)));
        report.error(Place::Value(at.node), draft);
    }
    at.value.0
}

/// The section `limits` of an HTTP listener.
pub(super) fn limits(report: &Report<'_>, field: &Field<file::Limits>) -> Limits {
    let Some(keys) = field.value() else {
        return Limits::default();
    };
    let default = defaults::LIMITS;
    let limits = Limits {
        fields: number(report, &keys.fields, 1..=10_000, default.fields),
        head_bytes: size(report, &keys.head, 1 << 10..=1 << 20, default.head_bytes),
        target_bytes: size(report, &keys.target, 128..=1 << 20, default.target_bytes),
        body_bytes: keys.body.value().map_or(default.body_bytes, |body| body.0),
        connections: or(&keys.connections, default.connections),
    };
    if limits.target_bytes > limits.head_bytes {
        let node = keys.target.given().map(|at| at.node);
        let node = node.or(keys.head.given().map(|at| at.node));
        let text = crate::config::defaults::size;
        let draft = Draft::new(
            Code::Conflict,
            format!(
                "a target of {} does not fit in a head of {}",
                text(limits.target_bytes.into()),
                text(limits.head_bytes.into())
            ),
        )
        .expected("`target` at most as large as `head`")
        .fix("raise `head`, or lower `target`");
        report.error(node.map_or(Place::Whole, Place::Value), draft);
    }
    limits
}

/// The section `timeouts` of an HTTP listener.
pub(super) fn timeouts(report: &Report<'_>, field: &Field<file::Timeouts>) -> HttpTimeouts {
    let default = defaults::HTTP_TIMEOUTS;
    let Some(keys) = field.value() else {
        return default;
    };
    HttpTimeouts {
        head: time(report, &keys.head, default.head),
        body_idle: time(report, &keys.body_idle, default.body_idle),
        body_rate: or(&keys.body_rate, default.body_rate),
        idle: time(report, &keys.idle, default.idle),
        write: time(report, &keys.write, default.write),
        linger: time_or_zero(report, &keys.linger, default.linger),
    }
}

/// The section `http2`.
pub(super) fn http2(report: &Report<'_>, field: &Field<file::Http2>) -> Http2 {
    let default = defaults::HTTP2;
    let Some(keys) = field.value() else {
        return default;
    };
    if let Some(at) = keys.only.given()
        && at.value
        && !or(&keys.enabled, default.enabled)
    {
        let draft = Draft::new(Code::Conflict, "nothing would be served")
            .expected("`only: true` with `enabled: true`")
            .fix("remove `enabled: false`, or `only`");
        report.error(Place::Value(at.node), draft);
    }
    Http2 {
        enabled: or(&keys.enabled, default.enabled),
        only: or(&keys.only, default.only),
        max_streams: number(report, &keys.max_streams, 1..=10_000, default.max_streams),
        stream_window_bytes: size(
            report,
            &keys.stream_window,
            64 << 10..=16 << 20,
            default.stream_window_bytes,
        ),
        connection_window_bytes: size(
            report,
            &keys.connection_window,
            64 << 10..=256 << 20,
            default.connection_window_bytes,
        ),
        max_frame_bytes: size(
            report,
            &keys.max_frame,
            16 << 10..=1 << 20,
            default.max_frame_bytes,
        ),
        max_resets: number(report, &keys.max_resets, 1..=u32::MAX, default.max_resets),
        max_control_frames: number(
            report,
            &keys.max_control_frames,
            1..=u32::MAX,
            default.max_control_frames,
        ),
        abuse_window: time(report, &keys.abuse_window, default.abuse_window),
    }
}

/// The section `forwarded`.
pub(super) fn forwarded(report: &Report<'_>, field: &Field<file::Forwarded>) -> Forwarded {
    let default = Forwarded::default();
    let Some(keys) = field.value() else {
        return default;
    };
    if let Some(at) = keys.via.given()
        && !is_pseudonym(&at.value)
    {
        let draft = Draft::new(
            Code::InvalidValue,
            format!("`{}` cannot be a name in `Via`", at.value),
        )
        .expected("a host name, perhaps with a port, or another word without blanks");
        report.error(Place::Value(at.node), draft);
    }
    Forwarded {
        trusted: networks(report, &keys.trusted),
        x_forwarded: or(&keys.x_forwarded, default.x_forwarded),
        x_real_ip: or(&keys.x_real_ip, default.x_real_ip),
        forwarded: or(&keys.forwarded, default.forwarded),
        via: keys.via.value().cloned(),
        request_id: or(&keys.request_id, default.request_id),
    }
}

/// RFC 9110 §7.6.3: a host, perhaps with a port, or a token.
fn is_pseudonym(text: &str) -> bool {
    super::fields::is_token(&text.replace([':', '[', ']'], ""))
}

/// A list of prefixes, each once.
pub(super) fn networks(report: &Report<'_>, field: &Field<Vec<Field<Network>>>) -> Vec<IpNet> {
    let mut networks = Vec::new();
    for at in elements(field) {
        let net = network(report, at);
        if networks.contains(&net) {
            report.warn(
                Place::Value(at.node),
                format!("`{net}` is in this list already"),
                "remove one of the two",
            );
        } else {
            networks.push(net);
        }
    }
    networks
}

/// The key `access_log`.
pub(super) fn access_log(report: &Report<'_>, field: &Field<file::AccessLog>) -> Option<AccessLog> {
    let at = field.given()?;
    match &at.value {
        file::AccessLog::To(to) => Some(AccessLog::new(to.0.clone())),
        file::AccessLog::Keys(keys) => {
            let to = super::need(report, at.node, "to", "stdout", &keys.to);
            let format = keys.format.given().map(|at| format(report, at));
            let log = AccessLog::new(to?.value.0.clone());
            Some(AccessLog {
                format: format.unwrap_or(LogFormat::Json),
                share: keys.share.value().map_or(log.share, |share| share.0),
                ..log
            })
        }
    }
}

fn format(report: &Report<'_>, at: &At<String>) -> LogFormat {
    let text = at.value.as_str();
    match text {
        "json" => LogFormat::Json,
        "combined" => LogFormat::Combined,
        "common" => LogFormat::Common,
        "haproxy" => LogFormat::Haproxy,
        _ if text.contains('$') => LogFormat::Template(text.to_owned()),
        _ => {
            let words = ["json", "combined", "common", "haproxy"];
            let draft = Draft::new(
                Code::InvalidValue,
                format!("`{text}` is neither a format nor a template with variables"),
            )
            .expected("`json`, `combined`, `common`, `haproxy`, or a template with `$variables`")
            .did_you_mean(text, words);
            report.error(Place::Value(at.node), draft);
            LogFormat::Json
        }
    }
}

/// The key `accelerate`.
pub(super) fn accelerate(field: &Field<file::Accelerate>) -> Accelerate {
    match field.value() {
        None | Some(file::Accelerate::Off) => Accelerate::Off,
        Some(file::Accelerate::Auto) => Accelerate::Auto,
        Some(file::Accelerate::On) => Accelerate::On,
    }
}

/// The key `splice`.
pub(super) fn splice(field: &Field<file::Splice>) -> Splice {
    match field.value() {
        Some(file::Splice::Off) => Splice::Off,
        Some(file::Splice::Pipe) => Splice::Pipe,
        None | Some(file::Splice::Auto) => Splice::Auto,
    }
}

/// The key `security_headers`.
pub(super) fn security(word: file::SecurityHeaders) -> SecurityHeaders {
    match word {
        file::SecurityHeaders::Off => SecurityHeaders::Off,
        file::SecurityHeaders::Basic => SecurityHeaders::Basic,
        file::SecurityHeaders::Strict => SecurityHeaders::Strict,
        file::SecurityHeaders::Api => SecurityHeaders::Api,
    }
}
