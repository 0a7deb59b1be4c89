//! The section `services[].health`.

use super::{backend_tls, elements, number, time};
use crate::config::decode::{At, Field};
use crate::config::defaults;
use crate::config::fault::Code;
use crate::config::file::health as file;
use crate::config::model::{
    CheckTls, Damping, GrpcProbe, HealthCheck, HttpProbe, Probe, ProbeTarget, Service,
};
use crate::config::report::{Draft, Place, Report};
use proxy_common::service::Mode;
use std::time::Duration;

/// Most successes or failures in a row; more is surely a mistake.
const ROW_MOST: u32 = 1000;

/// The section `health` of a service with this mode.
pub(super) fn health(
    report: &Report<'_>,
    field: &Field<file::Health>,
    mode: Mode,
) -> Option<HealthCheck> {
    let at = field.given()?;
    let keys = &at.value;
    if mode == Mode::Local {
        let draft = Draft::new(Code::Conflict, "mode `local` has no backends to check")
            .fix("remove `health`");
        report.error(Place::Key(at.node), draft);
    }
    let check = HealthCheck {
        probe: probe(report, at)?,
        target: target(report, &keys.target, mode),
        port: keys
            .port
            .given()
            .map(|_| number(report, &keys.port, 1..=u16::MAX, 1)),
        interval: time(report, &keys.interval, defaults::INTERVAL),
        timeout: time(report, &keys.timeout, defaults::TIMEOUT),
        jitter: keys
            .jitter
            .value()
            .map_or(defaults::JITTER, |share| share.0),
        rise: number(report, &keys.rise, 1..=ROW_MOST, defaults::RISE),
        fall: number(report, &keys.fall, 1..=ROW_MOST, defaults::FALL),
        damping: damping(report, &keys.damping),
        tls: tls(report, &keys.tls),
        server_name: (keys.server_name.given()).map(|at| backend_tls::server_name(report, at)),
    };
    names(report, keys);
    timing(report, at, &check);
    Some(check)
}

fn tls(report: &Report<'_>, field: &Field<file::CheckTls>) -> CheckTls {
    let Some(at) = field.given() else {
        return CheckTls::Service;
    };
    let keys = match &at.value {
        file::CheckTls::Word(file::CheckTlsWord::Off) => return CheckTls::Off,
        file::CheckTls::Keys(keys) => keys,
    };
    if let Some(alpn) = keys.alpn.given() {
        let draft = Draft::new(Code::Conflict, "the kind of the check says what is offered")
            .fix("remove it");
        report.error(Place::Key(alpn.node), draft);
    }
    let tls = backend_tls::keys(report, at.node, keys);
    if tls.by_host
        && let Some(name) = keys.server_name.given()
    {
        let draft = Draft::new(
            Code::InvalidValue,
            "a check has no request whose host it is",
        )
        .expected("a name such as `app.internal`, or an address");
        report.error(Place::Value(name.node), draft);
    }
    CheckTls::Own(Box::new(tls))
}

/// A check's name is given once, and only where there is TLS.
fn names(report: &Report<'_>, keys: &file::Health) {
    let Some(name) = keys.server_name.given() else {
        return;
    };
    let conflict = match keys.tls.value() {
        Some(file::CheckTls::Word(file::CheckTlsWord::Off)) => "with `tls: off` there is no name",
        Some(file::CheckTls::Keys(keys)) if keys.server_name.given().is_some() => {
            "`tls` of this check has a `server_name` already"
        }
        _ => return,
    };
    let draft = Draft::new(Code::Conflict, conflict).fix("remove one of the two");
    report.error(Place::Key(name.node), draft);
}

/// What a check cannot know without TLS of the service, or where every request has its own name.
pub(super) fn with_service(report: &Report<'_>, field: &Field<file::Health>, service: &Service) {
    let (Some(at), Some(check)) = (field.given(), &service.health) else {
        return;
    };
    if check.tls != CheckTls::Service {
        return;
    }
    let Some(tls) = &service.upstream.tls else {
        if let Some(name) = at.value.server_name.given() {
            let draft = Draft::new(
                Code::Conflict,
                "this check speaks no TLS, so it has no name",
            )
            .fix("remove it, or add `tls: {}` to the check or to the service");
            report.error(Place::Key(name.node), draft);
        }
        return;
    };
    if tls.by_host && tls.verify && check.server_name.is_none() && check.probe.host().is_none() {
        let draft = Draft::new(
            Code::MissingKey,
            "with `server_name: host` it is not known whose certificate a check has to see",
        )
        .expected("`server_name` here")
        .fix("add `server_name`, or `host` to an HTTP check");
        report.error(Place::Key(at.node), draft);
    }
}

/// Exactly one of `tcp`, `http` and `grpc`.
fn probe(report: &Report<'_>, at: &At<file::Health>) -> Option<Probe> {
    match (&at.value.tcp, &at.value.http) {
        (Field::Absent, Field::Absent) if at.value.grpc.is_absent() => {
            let draft = Draft::new(Code::MissingKey, "it is not said what to check")
                .expected("`tcp`, `http` or `grpc`")
                .fix("add `tcp: {}`, `http: {path: /healthz}` or `grpc: {}`");
            report.error(Place::Key(at.node), draft);
            None
        }
        (Field::Absent, Field::Absent) => at.value.grpc.given().map(|at| grpc(report, at)),
        _ if !at.value.grpc.is_absent() => {
            let draft = Draft::new(Code::Conflict, "`grpc` is given with another check")
                .expected("one of `tcp`, `http` and `grpc`")
                .fix("keep `grpc`, which opens a TCP connection anyway");
            report.error(Place::Key(at.node), draft);
            None
        }
        (Field::Given(_) | Field::Bad, Field::Given(_) | Field::Bad) => {
            let draft = Draft::new(Code::Conflict, "both `tcp` and `http` are given")
                .expected("one of them")
                .fix("remove `tcp`: an HTTP check opens a TCP connection anyway");
            report.error(Place::Key(at.node), draft);
            None
        }
        (Field::Given(_), _) => Some(Probe::Tcp),
        (_, Field::Given(keys)) => Some(Probe::Http(http(report, keys))),
        (Field::Bad, _) | (_, Field::Bad) => None,
    }
}

fn grpc(report: &Report<'_>, at: &At<file::GrpcCheck>) -> Probe {
    let keys = &at.value;
    let word = |field, expected| {
        text(report, field, expected, |text| {
            text.chars().all(|c| c.is_ascii_graphic())
        })
    };
    Probe::Grpc(GrpcProbe {
        service: word(&keys.service, "a service's name, without spaces").unwrap_or_default(),
        authority: word(&keys.authority, "a host name, without spaces"),
    })
}

fn http(report: &Report<'_>, at: &At<file::HttpCheck>) -> HttpProbe {
    let keys = &at.value;
    let method = text(
        report,
        &keys.method,
        "a method such as `GET` or `HEAD`",
        |text| {
            text.chars()
                .all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+.^_`|~-".contains(c))
        },
    )
    .unwrap_or_else(|| defaults::METHOD.to_owned());
    let path = text(
        report,
        &keys.path,
        "a path that begins with `/`, without spaces",
        |text| text.starts_with('/') && text.chars().all(|c| c.is_ascii_graphic()),
    )
    .unwrap_or_else(|| defaults::PATH.to_owned());
    let host = text(report, &keys.host, "a host name, without spaces", |text| {
        text.chars().all(|c| c.is_ascii_graphic())
    });
    let body_contains = text(report, &keys.body_contains, "some text", |_| true);
    if let Some(body) = keys.body_contains.given()
        && method == "HEAD"
    {
        let draft =
            Draft::new(Code::Conflict, "an answer to `HEAD` has no body").fix("use `method: GET`");
        report.error(Place::Value(body.node), draft);
    }
    HttpProbe {
        method,
        path,
        host,
        statuses: statuses(report, keys),
        body_contains,
    }
}

/// Text that is not empty and passes `good`.
fn text(
    report: &Report<'_>,
    field: &Field<String>,
    expected: &str,
    good: fn(&str) -> bool,
) -> Option<String> {
    let at = field.given()?;
    if at.value.is_empty() || !good(&at.value) {
        let draft = Draft::new(
            Code::InvalidValue,
            format!("`{}` is not valid here", at.value),
        )
        .expected(expected);
        report.error(Place::Value(at.node), draft);
    }
    Some(at.value.clone())
}

fn statuses(report: &Report<'_>, keys: &file::HttpCheck) -> Vec<(u16, u16)> {
    let Some(list) = keys.status.given() else {
        return vec![defaults::STATUS];
    };
    if list.value.is_empty() {
        let draft = Draft::new(Code::InvalidValue, "no status counts as success")
            .expected("at least one status, such as `[200]`")
            .fix("remove `status` for 200 to 399");
        report.error(Place::Value(list.node), draft);
    }
    elements(&keys.status).map(|at| at.value.0).collect()
}

fn target(report: &Report<'_>, field: &Field<file::CheckTarget>, mode: Mode) -> ProbeTarget {
    let Some(at) = field.given() else {
        return ProbeTarget::Backend;
    };
    match at.value {
        file::CheckTarget::Backend => ProbeTarget::Backend,
        file::CheckTarget::Vip => {
            if !mode.is_dsr() {
                let draft = Draft::new(
                    Code::Conflict,
                    format!("mode `{}` cannot check through the VIP", mode.name()),
                )
                .expected("`backend`; `vip` is for the modes `dsr-l2`, `dsr-ipip` and `dsr-gue`")
                .fix("remove `target`");
                report.error(Place::Value(at.node), draft);
            }
            ProbeTarget::Vip
        }
    }
}

fn timing(report: &Report<'_>, at: &At<file::Health>, check: &HealthCheck) {
    // Shorter intervals are faults of their own.
    if check.timeout >= check.interval && check.interval >= Duration::from_millis(2) {
        let keys = &at.value;
        let node = keys
            .timeout
            .given()
            .or(keys.interval.given())
            .map_or(at.node, |time| time.node);
        let draft = Draft::new(
            Code::Conflict,
            format!(
                "a check may take {}, but the next begins after {}",
                defaults::text(check.timeout),
                defaults::text(check.interval)
            ),
        )
        .expected("`timeout` less than `interval`")
        .fix(format!(
            "write `timeout: {}`",
            defaults::text(check.interval / 2)
        ));
        report.error(Place::Value(node), draft);
    }
}

fn damping(report: &Report<'_>, field: &Field<file::Damping>) -> Damping {
    let Some(at) = field.given() else {
        return defaults::DAMPING;
    };
    let keys = &at.value;
    let positive = |field: &Field<f64>, default: f64| match field.given() {
        Some(at) if at.value <= 0.0 => {
            let draft = Draft::new(Code::InvalidValue, format!("{} is out of range", at.value))
                .expected("a number above 0");
            report.error(Place::Value(at.node), draft);
            default
        }
        Some(at) => at.value,
        None => default,
    };
    let damping = Damping {
        half_life: time(report, &keys.half_life, defaults::DAMPING.half_life),
        suppress: positive(&keys.suppress, defaults::DAMPING.suppress),
        reuse: positive(&keys.reuse, defaults::DAMPING.reuse),
    };
    if damping.reuse >= damping.suppress {
        let node = keys
            .reuse
            .given()
            .or(keys.suppress.given())
            .map_or(at.node, |number| number.node);
        let draft = Draft::new(
            Code::Conflict,
            format!(
                "`reuse` is {}, `suppress` is {}",
                damping.reuse, damping.suppress
            ),
        )
        .expected("`reuse` less than `suppress`");
        report.error(Place::Value(node), draft);
    }
    damping
}
