//! What becomes of an HTTP request.

mod listener;
mod route;
mod url;

use self::listener::listener;
use self::route::Around;
use self::url::{destination, server_name, split_url};
use super::mesh;
use super::octets::{self, OctetsExplained};
use super::rules::{self, RuleExplained, text};
use super::service::ServiceExplained;
use super::tls::{self, TlsExplained};
use super::{ExplainError, Flow, Layer};
use crate::config::model::Config;
use crate::config::model::http::HttpListener;
use crate::http::peer::Peer;
use crate::http::{admission, forwarded};
use crate::message::h1::{HeadLimits, parse_request};
use crate::message::{Refusal, RequestHead};
use crate::routing::{self, Considered, Query, Verdict};
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
