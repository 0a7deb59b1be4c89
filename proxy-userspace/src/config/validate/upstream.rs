//! What services mean to the proxy paths.

use super::backends::{Backends, Used, labels};
use super::fields::{field_name, is_token, not_empty};
use super::outlier::{outlier, weights_by_latency};
use super::{number, or, time, time_or_zero};
use crate::config::decode::{At, Field};
use crate::config::fault::Code;
use crate::config::file::service::Service;
use crate::config::file::upstream as file;
use crate::config::model::http::{
    BackendProtocol, Balance, BalancePolicy, HashOn, ProxyVersion, StickyCookie, Upstream,
};
use crate::config::report::{Draft, Place, Report};
use std::time::Duration;

/// The keys of a service that are about proxying.
pub(super) fn upstream(
    report: &Report<'_>,
    keys: &Service,
    backends: &Backends,
    used: Used,
) -> Upstream {
    let default = Upstream::default();
    let mut upstream = Upstream {
        accelerate: super::http::accelerate(&keys.accelerate),
        protocol: match or(&keys.protocol, file::BackendProtocol::Auto) {
            file::BackendProtocol::H1 => BackendProtocol::H1,
            file::BackendProtocol::H2 => BackendProtocol::H2,
            file::BackendProtocol::Auto => BackendProtocol::Auto,
        },
        tls: super::backend_tls::tls(report, &keys.tls),
        balance: balance(report, &keys.balance),
        sticky_cookie: sticky_cookie(report, &keys.sticky_cookie),
        send_proxy: keys.send_proxy.value().map(|version| match version {
            file::ProxyVersion::V1 => ProxyVersion::V1,
            file::ProxyVersion::V2 => ProxyVersion::V2,
        }),
        names: backends.names.clone(),
        traits: backends.traits.clone(),
        subset: labels(&keys.subset),
        zone: keys.zone.value().map(|zone| zone.0.clone()),
        resilience: super::resilience::resilience(report, keys),
        outlier: outlier(report, &keys.outlier),
        steer_by_latency: weights_by_latency(
            report,
            &keys.steer_by_latency,
            used.in_kernel && (used.in_proxies || keys.at_connect.given().is_some()),
        ),
        ..default
    };
    if let Some(keys) = keys.timeouts.value() {
        upstream.connect_timeout = time(report, &keys.connect, upstream.connect_timeout);
        upstream.response_timeout = time(report, &keys.response, upstream.response_timeout);
        upstream.idle_timeout = time(report, &keys.idle, upstream.idle_timeout);
    }
    connections(report, &keys.connections, &mut upstream);
    nobody(report, keys, &upstream);
    super::backend_tls::nameless(report, &keys.tls, &upstream);
    upstream
}

fn connections(report: &Report<'_>, field: &Field<file::Connections>, upstream: &mut Upstream) {
    let Some(keys) = field.value() else { return };
    let most = 1_000_000;
    upstream.max_connections = or(&keys.max, upstream.max_connections);
    upstream.queue = number(report, &keys.queue, 0..=most, upstream.queue);
    upstream.queue_timeout = time(report, &keys.queue_timeout, upstream.queue_timeout);
    upstream.max_idle = number(report, &keys.max_idle, 0..=most, upstream.max_idle);
    upstream.keepalive = time_or_zero(report, &keys.keepalive, upstream.keepalive);
    upstream.max_streams = number(report, &keys.max_streams, 1..=10_000, upstream.max_streams);
    let default = Upstream::default();
    let queue = keys.queue.given().map(|at| at.node);
    let queue_timeout = keys.queue_timeout.given().map(|at| at.node);
    if let Some(node) = queue.or(queue_timeout)
        && !upstream.is_capped()
        // What is printed with all defaults has these, too.
        && (upstream.queue, upstream.queue_timeout) != (default.queue, default.queue_timeout)
    {
        report.warn(
            Place::Key(node),
            "requests never wait, because the number of connections has no limit",
            "add `max` to `connections`, or remove this key",
        );
    }
}

/// Labels that no backend has leave nobody to serve.
fn nobody(report: &Report<'_>, keys: &Service, upstream: &Upstream) {
    let Some(at) = keys.subset.given() else {
        return;
    };
    let fixed = upstream.traits.iter();
    let named = upstream.names.iter().map(|named| &named.traits);
    let mut all = fixed.chain(named).peekable();
    let wanted = &upstream.subset;
    if all.peek().is_some()
        && !all.any(|traits| wanted.iter().all(|label| traits.labels.contains(label)))
    {
        report.warn(
            Place::Key(at.node),
            "no backend has these labels: all requests are answered with 503",
            "give backends these `labels`, or remove `subset`",
        );
    }
}

fn balance(report: &Report<'_>, field: &Field<file::Balance>) -> Balance {
    match field.value() {
        None => Balance::default(),
        Some(file::Balance::Policy(word)) => Balance {
            policy: policy(*word, HashOn::Source),
            ..Balance::default()
        },
        Some(file::Balance::Keys(keys)) => {
            let word = or(&keys.policy, file::Policy::RoundRobin);
            let on = keys.hash_on.given().and_then(|at| hash_on(report, at));
            let hashes = matches!(word, file::Policy::Maglev | file::Policy::Ring);
            if let Some(at) = keys.hash_on.given()
                && !hashes
                && !matches!(keys.policy, Field::Bad)
            {
                let draft = Draft::new(Code::Conflict, "this policy hashes nothing")
                    .expected("`hash_on` only with `policy: maglev` or `policy: ring`")
                    .fix("add `policy: maglev`, or remove `hash_on`");
                report.error(Place::Key(at.node), draft);
            }
            let default = Balance::default();
            Balance {
                policy: policy(word, on.unwrap_or(HashOn::Source)),
                panic_threshold: keys
                    .panic_threshold
                    .value()
                    .map_or(default.panic_threshold, |share| share.0),
                slow_start: time_or_zero(report, &keys.slow_start, default.slow_start),
            }
        }
    }
}

fn policy(word: file::Policy, on: HashOn) -> BalancePolicy {
    match word {
        file::Policy::RoundRobin => BalancePolicy::RoundRobin,
        file::Policy::LeastRequests => BalancePolicy::LeastRequests,
        file::Policy::TwoChoices => BalancePolicy::TwoChoices,
        file::Policy::PeakEwma => BalancePolicy::PeakEwma,
        file::Policy::Random => BalancePolicy::Random,
        file::Policy::Maglev => BalancePolicy::Maglev(on),
        file::Policy::Ring => BalancePolicy::Ring(on),
    }
}

/// What is hashed.
pub(super) fn hash_on(report: &Report<'_>, at: &At<file::HashOn>) -> Option<HashOn> {
    let keys = match &at.value {
        file::HashOn::Word(file::HashWord::Source) => return Some(HashOn::Source),
        file::HashOn::Word(file::HashWord::Path) => return Some(HashOn::Path),
        file::HashOn::Keys(keys) => keys,
    };
    let there = [
        ("field", !keys.field.is_absent()),
        ("cookie", !keys.cookie.is_absent()),
        ("query", !keys.query.is_absent()),
    ];
    let place = Place::Value(at.node);
    super::exactly_one(report, place, "what to hash", "cookie: session", &there)?;
    if let Some(at) = keys.field.given() {
        let name = at.value.0.to_ascii_lowercase();
        field_name(
            report,
            Place::Value(at.node),
            &name,
            "hash another field, a cookie, or the source",
        );
        return Some(HashOn::Field(name));
    }
    if let Some(at) = keys.cookie.given() {
        if !is_token(&at.value.0) {
            let draft = Draft::new(
                Code::InvalidValue,
                format!("`{}` is not the name of a cookie", at.value.0),
            )
            .expected("letters, digits, `-` and `_`");
            report.error(Place::Value(at.node), draft);
        }
        return Some(HashOn::Cookie(at.value.0.clone()));
    }
    not_empty(report, &keys.query, "the name of a parameter").map(HashOn::Query)
}

fn sticky_cookie(report: &Report<'_>, field: &Field<file::StickyCookie>) -> Option<StickyCookie> {
    let at = field.given()?;
    let keys = match &at.value {
        file::StickyCookie::Name(name) => return Some(StickyCookie::new(name.0.clone())),
        file::StickyCookie::Keys(keys) => keys,
    };
    let name = super::need(report, at.node, "name", "backend", &keys.name);
    let mut cookie = StickyCookie::new(name?.value.0.clone());
    cookie.max_age = keys
        .max_age
        .given()
        .map(|_| time(report, &keys.max_age, Duration::ZERO));
    if let Some(at) = keys.max_age.given()
        && at.value.0.subsec_nanos() != 0
    {
        let draft = Draft::new(
            Code::InvalidValue,
            format!("`{}` is no whole number of seconds", at.value),
        )
        .expected("whole seconds, the unit of cookies");
        report.error(Place::Value(at.node), draft);
    }
    if let Some(path) = keys.path.value() {
        cookie.path.clone_from(&path.0);
    }
    if let Some(at) = keys.path.given()
        && at.value.0.contains(';')
    {
        let draft = Draft::new(
            Code::InvalidValue,
            format!("`{}` has a semicolon, which would end the path", at.value.0),
        )
        .expected("a path without `;`");
        report.error(Place::Value(at.node), draft);
    }
    cookie.secure = or(&keys.secure, cookie.secure);
    cookie.http_only = or(&keys.http_only, cookie.http_only);
    if let Some(at) = keys.same_site.given() {
        let word = match at.value {
            file::SameSite::Strict => "Strict",
            file::SameSite::Lax => "Lax",
            file::SameSite::None => "None",
        };
        cookie.same_site = Some(word.to_owned());
        if at.value == file::SameSite::None && !cookie.secure {
            let draft = Draft::new(
                Code::Conflict,
                "browsers drop cookies with `same_site: none` that are not secure",
            )
            .fix("add `secure: true`, or use `same_site: lax`");
            report.error(Place::Value(at.node), draft);
        }
    }
    Some(cookie)
}
