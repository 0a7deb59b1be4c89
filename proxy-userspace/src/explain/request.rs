//! What becomes of an HTTP request.

use super::mesh;
use super::octets::{self, OctetsExplained};
use super::rules::{self, RuleExplained, list, text};
use super::service::{self, ServiceExplained, hashed};
use super::tls::{self, TlsExplained};
use super::{ExplainError, Flow, Layer};
use crate::config::model::Config;
use crate::config::model::http::{
    Action, FieldEdits, HttpListener, Redirect, Route, SecurityHeaders, Split,
};
use crate::config::model::steer::Bindings;
use crate::files::Site;
use crate::http::peer::Peer;
use crate::http::{admission, forwarded};
use crate::message::h1::{HeadLimits, parse_request};
use crate::message::{Method, Name, Refusal, RequestHead};
use crate::routing::{self, CompiledRewrite, Considered, Found, Query, Shares, Verdict, hash_key};
use crate::types::Protocol;
use serde::Serialize;
use std::net::{IpAddr, SocketAddr};

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Method.
    pub method: String,
    /// A URL with `http://` or `https://`, or a target as in a request line.
    pub target: String,
    /// `HTTP/1.1` or `HTTP/1.0`.
    pub version: String,
    /// Fields; `Host` is made from the target where there is none.
    pub fields: Vec<(String, String)>,
    /// Who connects to the listener.
    pub source: IpAddr,
    /// The cgroup of the program that asks, where the connection is redirected.
    pub workload: Option<String>,
    /// Name of the listener, where the target does not tell.
    pub listener: Option<String>,
    /// Seconds since the epoch, for files that were changed since.
    pub now: u64,
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RequestExplained {
    /// Method, host and path as they are matched.
    pub request: String,
    /// The client: who connects, or whom trusted proxies name.
    pub client: IpAddr,
    /// Who serves.
    pub layer: Layer,
    /// The listener's name.
    pub listener: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Other listeners that could be meant.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub other_listeners: Vec<String>,
    /// What TLS makes of its connection; `None` where there is none on either side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsExplained>,
    /// Which way octets go; `None` where that is as by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub octets: Option<OctetsExplained>,
    /// The request is refused before routes are looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
    /// Rules that come before the one that serves, in the order of precedence, and that one. If
    /// none serves, all.
    pub considered: Vec<RuleExplained>,
    /// Rules for other hosts, which were not considered any further.
    pub other_hosts: usize,
    /// Whose connections come here from elsewhere, and what becomes of what no route matches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mesh: Option<String>,
    /// What the route does; `None` if no route matches (404).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<RouteExplained>,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// The status.
    pub status: u16,
    /// The reason, as metrics and logs have it.
    pub reason: &'static str,
}

/// What a route does with a request.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RouteExplained {
    /// Its name.
    pub name: String,
    /// What is answered here, if no backend answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// What keeps a client with one of several services.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sticky: Option<String>,
    /// The services, one of which answers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<ServiceExplained>,
    /// Method, host and target as the backend sees them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forwarded: Option<String>,
    /// What is done to messages on the way, in this order.
    pub filters: Vec<String>,
}

/// Explains a request.
///
/// # Errors
///
/// [`ExplainError`].
pub fn explain_request(config: &Config, asked: &Asked) -> Result<RequestExplained, ExplainError> {
    let (listener, other_listeners) = listener(config, asked)?;
    let peer = Peer::new(SocketAddr::new(asked.source, 0), listener.address, 0);
    let mut head = RequestHead::default();
    let mut explained = RequestExplained {
        request: format!("{} {}", asked.method, asked.target),
        client: peer.ip(),
        layer: Layer::UserSpace,
        listener: listener.name.clone(),
        address: listener.address,
        other_listeners,
        tls: None,
        octets: octets::explain(
            listener.accelerate,
            listener.splice,
            None,
            listener.tls.is_some(),
        ),
        refused: None,
        considered: Vec::new(),
        other_hosts: 0,
        mesh: listener.mesh.as_ref().map(mesh::describe),
        route: None,
    };
    if let Err(refusal) = read(asked, listener, &mut head) {
        explained.refused = Some(Refused {
            status: refusal.status(),
            reason: refusal.label(),
        });
        return Ok(explained);
    }
    let client = forwarded::real_client(&head, &listener.forwarded, &peer);
    explained.client = client;
    explained.request = format!(
        "{} {}{}",
        text(head.method.as_bytes()),
        text(head.authority()),
        text(head.target())
    );
    let workload = asked.workload.as_deref();
    let query = query(&head, client, workload);
    let all = routing::explain(&listener.name, &config.routes, &query)?;
    let is_elsewhere =
        |one: &Considered| one.verdict == Verdict::Differs(routing::Difference::Host);
    let serving = all
        .iter()
        .position(|one| matches!(one.verdict, Verdict::Matches(_)));
    let shown = serving.map_or(all.len(), |at| at + 1);
    let considered = all[..shown].iter().filter(|one| !is_elsewhere(one));
    explained.considered = considered
        .map(|one| rules::describe(one, &config.routes, &head, (client, workload)))
        .collect();
    explained.other_hosts = all.iter().filter(|one| is_elsewhere(one)).count();
    if let Some(Verdict::Matches(found)) = serving.map(|at| all[at].verdict) {
        let around = Around {
            config,
            listener,
            head: &head,
            client,
            now: asked.now,
        };
        explained.route = Some(around.route(&config.routes[found.route], &found)?);
    }
    let services = explained.route.iter().flat_map(|route| &route.services);
    let services = services.filter_map(|service| config.service(&service.name));
    let name = server_name(&asked.target);
    explained.tls = tls::explain(listener.tls.as_ref(), services, name);
    Ok(explained)
}

fn query<'a>(head: &'a RequestHead, source: IpAddr, workload: Option<&'a str>) -> Query<'a> {
    Query {
        host: head.host(),
        path: head.path(),
        method: &head.method,
        fields: &head.fields,
        query: head.query(),
        source,
        workload,
    }
}

/// Reads the request as the listener would.
fn read(asked: &Asked, listener: &HttpListener, head: &mut RequestHead) -> Result<(), Refusal> {
    let (authority, target) = match split_url(&asked.target) {
        Some((_, authority, path)) => (authority.to_owned(), path.to_owned()),
        None => (listener.address.to_string(), asked.target.clone()),
    };
    let mut octets = format!("{} {target} {}\r\n", asked.method, asked.version);
    let is_host = |name: &str| name.eq_ignore_ascii_case("host");
    if !asked.fields.iter().any(|(name, _)| is_host(name)) {
        octets.push_str(&format!("Host: {authority}\r\n"));
    }
    for (name, value) in &asked.fields {
        octets.push_str(&format!("{name}: {value}\r\n"));
    }
    octets.push_str("\r\n");
    let limits = HeadLimits {
        fields: listener.limits.fields,
        head_bytes: listener.limits.head_bytes,
        target_bytes: listener.limits.target_bytes,
    };
    parse_request(octets.as_bytes(), &limits, head)?.ok_or(Refusal::HeadTooLong)?;
    admission::check(head, listener.limits.body_bytes)?;
    admission::normalise(head, |_| {})
}

/// Scheme, authority, and path with query of a URL.
fn split_url(url: &str) -> Option<(&str, &str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    Some((scheme, authority, if path.is_empty() { "/" } else { path }))
}

/// The name that a client of this URL asks for: none for an address (RFC 6066 §3).
fn server_name(url: &str) -> Option<&str> {
    let (_, authority, _) = split_url(url)?;
    let host = authority
        .rsplit_once(':')
        .map_or(authority, |(host, _)| host);
    (!host.starts_with('[') && host.parse::<IpAddr>().is_err()).then_some(host)
}

/// Address and port that a URL names: the address, if it is none but a name.
fn destination(url: &str) -> Option<(Option<IpAddr>, u16)> {
    let (scheme, authority, _) = split_url(url)?;
    let usual = if scheme.eq_ignore_ascii_case("https") {
        443
    } else {
        80
    };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (authority, usual),
    };
    let host = host.trim_matches(['[', ']']);
    Some((host.parse().ok(), port))
}

/// The TCP connection by which a request for a URL would come, if the URL names an address. The
/// client's port is not known: 0.
pub fn connection(asked: &Asked) -> Option<Flow> {
    let (address, port) = destination(&asked.target)?;
    Some(Flow {
        protocol: Protocol::Tcp,
        source: SocketAddr::new(asked.source, 0),
        destination: SocketAddr::new(address?, port),
    })
}

/// The listener that is meant, and others that could be.
fn listener<'c>(
    config: &'c Config,
    asked: &Asked,
) -> Result<(&'c HttpListener, Vec<String>), ExplainError> {
    let all = &config.http_listeners;
    let names = || match all.as_slice() {
        [] => "is configured".to_owned(),
        some => {
            let named = some
                .iter()
                .map(|one| format!("`{}` at {}", one.name, one.address));
            list(&named.collect::<Vec<_>>())
        }
    };
    if let Some(name) = &asked.listener {
        let found = all.iter().find(|one| one.name == *name);
        let missing =
            || ExplainError::NoListener(format!("is called `{name}`: there is {}", names()));
        return Ok((found.ok_or_else(missing)?, Vec::new()));
    }
    let wanted = destination(&asked.target);
    let mut found: Vec<&HttpListener> = match wanted {
        None => all.iter().collect(),
        Some((address, port)) => at(config, address, port),
    };
    // A name that leads here by way of another port, or of another proxy.
    if let ([], [only]) = (found.as_slice(), all.as_slice()) {
        found.push(only);
    }
    found.sort_by_key(|one| one.address.is_ipv6() != asked.source.is_ipv6());
    match found.as_slice() {
        [] if all.is_empty() => Err(ExplainError::NoListener(names())),
        [] => Err(ExplainError::Listeners(format!(
            "none listens at the port of {}; choose one of {}",
            asked.target,
            names()
        ))),
        // Without a port, only those of both families that share one are as good as one.
        [first, rest @ ..]
            if wanted.is_none()
                && rest
                    .iter()
                    .any(|one| one.address.port() != first.address.port()) =>
        {
            Err(ExplainError::Listeners(format!(
                "choose one of {}",
                names()
            )))
        }
        [first, rest @ ..] => Ok((first, rest.iter().map(|one| one.name.clone()).collect())),
    }
}

/// The listeners that connections to an address and port may come to.
fn at(config: &Config, address: Option<IpAddr>, port: u16) -> Vec<&HttpListener> {
    let all = config.http_listeners.iter();
    let Some(address) = address else {
        // A name may be of any address.
        let has_port = |one: &&HttpListener| {
            let steered = one.steer.iter().flat_map(|steer| &steer.ports);
            one.address.port() == port || steered.into_iter().any(|range| range.has(port))
        };
        return all.filter(has_port).collect();
    };
    let bindings = Bindings::of(config);
    let wanted = SocketAddr::new(address.to_canonical(), port);
    match bindings.find(Protocol::Tcp, wanted) {
        // The kernel looks for these first.
        Some(found) => {
            let name = &bindings.steered[found.index].name;
            all.filter(|one| one.name == *name).collect()
        }
        None => all
            .filter(|one| one.address.port() == port && takes(one.address.ip(), address))
            .collect(),
    }
}

fn takes(bound: IpAddr, address: IpAddr) -> bool {
    bound == address || (bound.is_unspecified() && bound.is_ipv4() == address.is_ipv4())
}

/// What the explanation of a route needs.
struct Around<'a> {
    config: &'a Config,
    listener: &'a HttpListener,
    head: &'a RequestHead,
    client: IpAddr,
    now: u64,
}

impl Around<'_> {
    fn route(&self, route: &Route, found: &Found) -> Result<RouteExplained, ExplainError> {
        let mut explained = RouteExplained {
            name: route.name.clone(),
            filters: self.filters(route),
            ..RouteExplained::default()
        };
        match &route.action {
            Action::Forward(split) => {
                let head = self.sent_on(route, found)?;
                self.services(route, split, &head, &mut explained);
                let (method, host) = (text(head.method.as_bytes()), text(head.authority()));
                explained.forwarded = Some(format!("{method} {host}{}", text(head.target())));
            }
            Action::Redirect(redirect) => {
                explained.answer = Some(self.redirect(redirect, found)?);
            }
            Action::Respond(fixed) => explained.answer = Some(fixed.status.to_string()),
            Action::Files(files) => {
                let root = files.root.display();
                explained.answer = Some(match Site::open(files) {
                    Ok(site) => {
                        let status = site.answer(self.head, self.now, 0).head.status;
                        format!("{status}, from the files below {root}")
                    }
                    Err(error) => format!("the folder {root} cannot be opened: {error}"),
                });
            }
        }
        Ok(explained)
    }

    /// The services, one of which gets the request. A split is kept by the request as it came, a
    /// backend by the request as it is sent on.
    fn services(
        &self,
        route: &Route,
        split: &Split,
        sent_on: &RequestHead,
        explained: &mut RouteExplained,
    ) {
        let retries = route.retries.as_ref();
        let came = query(self.head, self.client, None);
        let sum: f64 = split
            .targets
            .iter()
            .map(|(_, weight)| f64::from(*weight))
            .sum();
        let key = split.sticky.as_ref().and_then(|on| hash_key(on, &came));
        let shares = Shares::new(split.targets.iter().map(|(_, weight)| *weight));
        let drawn = key.and_then(|key| shares.choose(key));
        explained.sticky = split.sticky.as_ref().map(hashed);
        for (index, (name, weight)) in split.targets.iter().enumerate() {
            let is_drawn = drawn.is_none_or(|drawn| drawn == index);
            if *weight == 0 || !is_drawn {
                continue;
            }
            let is_only = split.targets.len() == 1 || drawn.is_some();
            let share = (!is_only).then(|| f64::from(*weight) / sum);
            let query = query(sent_on, self.client, None);
            let service = service::explain(name, share, retries, self.config, &query);
            explained.services.extend(service);
        }
        if explained.services.is_empty() {
            explained.answer = Some("503: no service has a weight".to_owned());
        }
    }

    /// The head that the backend sees, less what it is told about the client.
    fn sent_on(&self, route: &Route, found: &Found) -> Result<RequestHead, ExplainError> {
        let mut head = self.head.clone();
        if let Some(host) = &route.rewrite.host {
            head.set_authority(host.as_bytes());
        }
        if let Some(path) = &route.rewrite.path {
            let mut new = Vec::new();
            CompiledRewrite::new(path)?.apply(self.head.path(), found.prefix_len, &mut new);
            head.set_path(&new);
        }
        Ok(head)
    }

    fn redirect(&self, redirect: &Redirect, found: &Found) -> Result<String, ExplainError> {
        let path = redirect
            .path
            .as_ref()
            .map(CompiledRewrite::new)
            .transpose()?;
        let mut to = Vec::new();
        let before = self.head.path();
        routing::location(
            redirect,
            path.as_ref(),
            self.head,
            before,
            found.prefix_len,
            &mut to,
        );
        Ok(format!("{} to {}", redirect.status, text(&to)))
    }

    /// What is done on the way, the request's part first.
    fn filters(&self, route: &Route) -> Vec<String> {
        let mut filters = Vec::new();
        if let Some(fault) = &route.fault {
            if let Some((delay, share)) = fault.delay {
                filters.push(format!(
                    "fault: {} of requests wait {delay:?}",
                    percent(share)
                ));
            }
            if let Some((status, share)) = fault.abort {
                filters.push(format!(
                    "fault: {} of requests get {status}",
                    percent(share)
                ));
            }
        }
        filters.extend(edits("request headers", &route.request_fields));
        if matches!(route.action, Action::Forward(_)) {
            filters.extend(self.told());
            if self.head.fields.contains(Name::MaxForwards)
                && matches!(self.head.method, Method::Trace | Method::Options)
            {
                filters.push("Max-Forwards is counted".to_owned());
            }
        }
        if let Some(mirror) = &route.mirror {
            let (share, service) = (percent(mirror.share), &mirror.service);
            filters.push(format!(
                "mirror: {share} of requests are copied to {service}"
            ));
        }
        if let Some(timeout) = route.timeout {
            filters.push(format!("timeout: the whole exchange, {timeout:?}"));
        }
        filters.extend(edits("response headers", &route.response_fields));
        let compression = route.compression.as_ref();
        let compression = compression.or(self.listener.compression.as_ref());
        if let Some(compression) = compression.filter(|it| !it.codings.is_empty()) {
            let codings = compression.codings.iter().map(|coding| coding.word());
            let codings: Vec<&str> = codings.collect();
            filters.push(format!("compression: {}", codings.join(", ")));
        }
        let preset = route
            .security_headers
            .unwrap_or(self.listener.security_headers);
        if preset != SecurityHeaders::Off {
            filters.push(format!("security headers: {}", preset.name()));
        }
        filters
    }

    /// What the backend is told about the client.
    fn told(&self) -> Option<String> {
        let settings = &self.listener.forwarded;
        let names = [
            (
                settings.x_forwarded,
                "X-Forwarded-For, -Proto, -Host, -Port",
            ),
            (settings.x_real_ip, "X-Real-IP"),
            (settings.forwarded, "Forwarded"),
            (settings.via.is_some(), "Via"),
            (settings.request_id, "X-Request-ID"),
        ];
        let names = names.iter().filter(|(is_on, _)| *is_on);
        let names: Vec<&str> = names.map(|(_, name)| *name).collect();
        (!names.is_empty()).then(|| format!("the backend is told: {}", names.join(", ")))
    }
}

fn edits(what: &str, edits: &FieldEdits) -> Option<String> {
    let removed = edits.remove.iter().map(|name| format!("-{name}"));
    let set = edits.set.iter().map(|(name, _)| format!("={name}"));
    let added = edits.add.iter().map(|(name, _)| format!("+{name}"));
    let all: Vec<String> = removed.chain(set).chain(added).collect();
    (!all.is_empty()).then(|| format!("{what}: {}", all.join(" ")))
}

fn percent(share: f64) -> String {
    format!("{} %", (share * 1e6).round() / 1e4)
}
