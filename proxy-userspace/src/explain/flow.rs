//! What becomes of a flow: which listener, in which layer, and which backend.
//!
//! Packets meet the kernel part first, which asks its maps in this order (`proxy-ebpf`'s
//! `xdp/service.rs`): the exact address with the port, with all ports, then the longest prefix
//! with the port, and with all ports. What is nothing to it goes to this host's stack, where
//! listeners of the proxies may have sockets, or something is steered to them.

use super::Layer;
use super::now::ServiceNow;
use super::octets::{self, OctetsExplained};
use super::rules::list;
use super::sockets::{self, DialExplained};
use super::tls::{self, TlsExplained};
use crate::balance::maglev;
use crate::config::model::http::{HttpListener, Passthrough, StreamListener};
use crate::config::model::steer::Bindings;
use crate::config::model::{Backend, Config, Guard, Listener, Service};
use crate::routing::{NameFound, NameMissing, ServerNames};
use crate::types::{PortMatch, Protocol};
use ipnet::IpNet;
use proxy_common::addr::Addr;
use proxy_common::flow::FlowKey;
use proxy_common::hash::{ring_slot, selection_hash, source_hash};
use proxy_common::service::Selection;
use serde::Serialize;
use std::cmp::Reverse;
use std::net::{IpAddr, SocketAddr};

/// A 5-tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The client; port 0 if it is not known.
    pub source: SocketAddr,
    /// What it addresses.
    pub destination: SocketAddr,
}

/// What a client of TLS says first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// Whom it wants.
    pub server_name: Option<String>,
    /// The protocols that it offers, in its order.
    pub alpn: Vec<String>,
}

/// What becomes of a new flow.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FlowExplained {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The client.
    pub source: SocketAddr,
    /// What it addresses.
    pub destination: SocketAddr,
    /// Who serves.
    pub layer: Layer,
    /// The listener's name; `None` if there is none for this destination.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    /// What makes it the listener: `address and port`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    /// Listeners of the kernel part that would take it if this one did not, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hidden: Vec<String>,
    /// What the guard says of the client; `None` where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guard: Option<Judged>,
    /// Why nobody gets it, although a listener takes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// What TLS makes of it; `None` where there is none on either side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsExplained>,
    /// What becomes of it if a workload of this host dials it; `None` if nothing else does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_connect: Option<DialExplained>,
    /// Which way octets go; `None` where that is as by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub octets: Option<OctetsExplained>,
    /// The service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<FlowService>,
}

/// What the guard says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Judged {
    /// False: its packets are dropped.
    pub passes: bool,
    /// Why.
    pub because: String,
}

/// The service of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlowService {
    /// Its name.
    pub name: String,
    /// Forwarding mode, in the kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// How a backend is chosen.
    pub selection: String,
    /// Backends that take new flows when all are healthy: name and weight.
    pub candidates: Vec<(String, u16)>,
    /// The backend, where the flow alone decides and all are healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub choice: Option<String>,
    /// What the choice depends on.
    pub choice_by: String,
    /// As it is at the moment, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub now: Option<ServiceNow>,
}

/// Explains a flow.
pub fn explain_flow(config: &Config, flow: &Flow) -> FlowExplained {
    explain_tls(config, flow, &Hello::default())
}

/// Explains a flow whose client begins with this, should it come to a listener that looks at it.
pub fn explain_tls(config: &Config, flow: &Flow, hello: &Hello) -> FlowExplained {
    let mut found: Vec<(&Listener, Rank)> = config
        .listeners
        .iter()
        .filter_map(|listener| Some((listener, Rank::of(listener, flow)?)))
        .collect();
    found.sort_by_key(|(_, rank)| *rank);
    let mut explained = FlowExplained {
        protocol: flow.protocol.to_string(),
        source: flow.source,
        destination: flow.destination,
        layer: Layer::Host,
        listener: None,
        because: None,
        hidden: Vec::new(),
        guard: None,
        refused: None,
        tls: None,
        at_connect: None,
        octets: None,
        service: None,
    };
    let Some((listener, rank)) = found.first() else {
        proxied(config, flow, hello, &mut explained);
        return explained;
    };
    // Without the kernel part, who does not dial on this host finds nobody.
    explained.layer = match config.balances_packets() {
        true => Layer::Kernel,
        false => Layer::Sockets,
    };
    explained.listener = Some(listener.name.clone());
    explained.because = Some(rank.words().to_owned());
    let hidden = found[1..].iter();
    explained.hidden = hidden.map(|(listener, _)| listener.name.clone()).collect();
    explained.guard = judge(config, listener, flow.source.ip());
    let service = config.service(&listener.service);
    explained.at_connect = service.and_then(|service| sockets::dialled(config, service));
    explained.service = service.map(|service| in_kernel(config, service, flow));
    explained
}

/// The order in which the packet path asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    is_prefix: bool,
    all_ports: bool,
    /// The longest first; among exact addresses all are equal.
    length: Reverse<u8>,
}

impl Rank {
    /// `None` if the listener does not take the flow.
    fn of(listener: &Listener, flow: &Flow) -> Option<Self> {
        let takes_port = match listener.port {
            PortMatch::All => true,
            PortMatch::One(port) => port == flow.destination.port(),
        };
        let destination = flow.destination.ip().to_canonical();
        let takes =
            listener.protocol == flow.protocol && takes_port && listener.vip.contains(&destination);
        takes.then(|| Self {
            is_prefix: listener.vip.prefix_len() < listener.vip.max_prefix_len(),
            all_ports: listener.port == PortMatch::All,
            length: Reverse(listener.vip.prefix_len()),
        })
    }

    const fn words(self) -> &'static str {
        match (self.is_prefix, self.all_ports) {
            (false, false) => "its address and port",
            (false, true) => "its address, with all ports",
            (true, false) => "its prefix and port",
            (true, true) => "its prefix, with all ports",
        }
    }
}

/// Who has a socket for the flow, in the stack.
fn proxied(config: &Config, flow: &Flow, hello: &Hello, explained: &mut FlowExplained) {
    let wanted = SocketAddr::new(
        flow.destination.ip().to_canonical(),
        flow.destination.port(),
    );
    let bindings = Bindings::of(config);
    let steered = bindings.find(flow.protocol, wanted);
    let takes = |name: &str, address: SocketAddr| match &steered {
        // The kernel looks for these first.
        Some(found) => bindings.steered[found.index].name == name,
        None => {
            let (bound, ip) = (address.ip(), wanted.ip());
            address.port() == wanted.port()
                && (bound == ip || (bound.is_unspecified() && bound.is_ipv4() == ip.is_ipv4()))
        }
    };
    let because = |address: SocketAddr| match &steered {
        Some(found) if !found.is_of(address) => found.to_string(),
        _ => "its address and port".to_owned(),
    };
    let streams = config.stream_listeners.iter();
    let mut streams =
        streams.filter(|one| one.protocol == flow.protocol && takes(&one.name, one.address));
    if let Some(listener) = streams.next() {
        explained.layer = Layer::UserSpace;
        explained.listener = Some(listener.name.clone());
        explained.because = Some(because(listener.address));
        let service = match &listener.passthrough {
            None => listener.service.as_deref(),
            Some(names) => named(listener, names, hello, explained),
        };
        let service = service.and_then(|name| config.service(name));
        explained.service = service.map(in_user_space);
        let name = hello.server_name.as_deref();
        explained.tls = match &listener.passthrough {
            Some(_) => Some(tls::passed_on()),
            None => tls::explain(listener.tls.as_ref(), service.into_iter(), name),
        };
        if listener.protocol == Protocol::Tcp {
            let is_sealed =
                listener.tls.is_some() || service.is_some_and(|it| it.upstream.tls.is_some());
            let (accelerate, splice) = (listener.accelerate, listener.splice);
            explained.octets = octets::explain(accelerate, splice, service, is_sealed);
        }
        return;
    }
    let is_http =
        |one: &&HttpListener| flow.protocol == Protocol::Tcp && takes(&one.name, one.address);
    if let Some(listener) = config.http_listeners.iter().find(is_http) {
        explained.layer = Layer::UserSpace;
        explained.listener = Some(listener.name.clone());
        let because = because(listener.address);
        explained.because = Some(format!("{because}; routes decide by request"));
        let name = hello.server_name.as_deref();
        explained.tls = tls::explain(listener.tls.as_ref(), std::iter::empty(), name);
        let (accelerate, splice) = (listener.accelerate, listener.splice);
        explained.octets = octets::explain(accelerate, splice, None, listener.tls.is_some());
    }
}

/// The service that the client's first message chooses.
fn named<'c>(
    listener: &'c StreamListener,
    names: &'c Passthrough,
    hello: &Hello,
    explained: &mut FlowExplained,
) -> Option<&'c str> {
    let name = hello.server_name.as_ref().map(|name| {
        let name = name.to_ascii_lowercase();
        name.strip_suffix('.').unwrap_or(&name).to_owned()
    });
    let rules = ServerNames::build(names, listener.service.is_some());
    let protocols = hello.alpn.iter().map(String::as_bytes);
    let asked = match (&name, hello.alpn.is_empty()) {
        (Some(name), true) => format!("the server name `{name}`"),
        (None, true) => "no server name".to_owned(),
        (Some(name), false) => format!("`{name}` with {}", hello.alpn.join(", ")),
        (None, false) => format!("no server name, with {}", hello.alpn.join(", ")),
    };
    let alert = match rules.find(name.as_deref(), protocols) {
        Ok(NameFound { rule: None, .. }) => {
            let because = format!("its address and port; none of `names` is for {asked}");
            explained.because = Some(because);
            return listener.service.as_deref();
        }
        Ok(NameFound {
            rule: Some(rule), ..
        }) => {
            let because = format!("its address and port; `names[{rule}]` is for {asked}");
            explained.because = Some(because);
            return Some(&names.names.get(rule)?.service);
        }
        Err(NameMissing::Name) => "unrecognized_name",
        Err(NameMissing::Protocol) => "no_application_protocol",
    };
    explained.refused = Some(format!(
        "none of `names` is for {asked}, and there is no `service`: alert {alert}"
    ));
    None
}

fn in_user_space(service: &Service) -> FlowService {
    FlowService {
        name: service.name.clone(),
        mode: None,
        selection: service.upstream.balance.policy.name().to_owned(),
        candidates: candidates(service),
        choice: None,
        choice_by: "the policy, by connection".to_owned(),
        now: None,
    }
}

fn candidates(service: &Service) -> Vec<(String, u16)> {
    let backends = service.backends.iter();
    backends
        .filter(|backend| backend.weight > 0)
        .map(|backend| (backend.name.clone(), backend.weight))
        .collect()
}

fn in_kernel(config: &Config, service: &Service, flow: &Flow) -> FlowService {
    let candidates = candidates(service);
    let seed = config.data_plane().selection_seed;
    let (source, destination) = (addr(flow.source.ip()), addr(flow.destination.ip()));
    let key = FlowKey::new(
        source,
        destination,
        flow.source.port().to_be(),
        flow.destination.port().to_be(),
        flow.protocol.number(),
    );
    let (hash, choice_by) = match service.selection {
        Selection::Maglev if flow.source.port() == 0 => {
            (None, "hash of the flow, to which the client's port belongs")
        }
        Selection::Maglev => (Some(selection_hash(&key, seed)), "hash of the flow"),
        Selection::SourceAffinity => (
            Some(source_hash(&source, seed)),
            "hash of the client's address, unless the client has a backend already",
        ),
        Selection::TwoChoices => (None, "of two that the flow's hash draws, the less busy"),
    };
    let choice = hash.and_then(|hash| on_ring(service, hash));
    let choice = choice.map(|backend| backend.name.clone());
    FlowService {
        name: service.name.clone(),
        mode: Some(service.mode.name().to_owned()),
        selection: service.selection.name().to_owned(),
        choice_by: if candidates.is_empty() {
            "this host serves it".to_owned()
        } else {
            choice_by.to_owned()
        },
        candidates,
        choice,
        now: None,
    }
}

/// The backend in the slot of the ring that a hash leads to, with all backends up.
fn on_ring(service: &Service, hash: u32) -> Option<&Backend> {
    let up: Vec<&Backend> = (service.backends.iter())
        .filter(|backend| backend.weight > 0)
        .collect();
    let members: Vec<maglev::Member> = up
        .iter()
        .map(|backend| maglev::Member {
            addr: addr(backend.address),
            port: backend.port.unwrap_or(0),
            weight: backend.weight,
        })
        .collect();
    let ring = maglev::ring(&members, service.ring_size).ok()?;
    let slot = ring_slot(hash, u32::try_from(ring.len()).ok()?) as usize;
    up.get(usize::from(*ring.get(slot)?)).copied()
}

fn addr(ip: IpAddr) -> Addr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => Addr::v4(ip.octets()),
        IpAddr::V6(ip) => Addr::v6(ip.octets()),
    }
}

/// What the guard says of a client: the listener's rules before those for all.
fn judge(config: &Config, listener: &Listener, client: IpAddr) -> Option<Judged> {
    let client = client.to_canonical();
    let default_deny = !listener.guard.allow.is_empty();
    let verdict = |passes, because: String| Some(Judged { passes, because });
    if let Some((is_allowed, net)) = decide(&listener.guard, client) {
        let word = if is_allowed { "allows" } else { "denies" };
        return verdict(is_allowed, format!("the listener {word} {net}"));
    }
    match decide(&config.guard, client) {
        Some((false, net)) => return verdict(false, format!("the guard of all denies {net}")),
        Some((true, net)) if !default_deny => {
            return verdict(true, format!("the guard of all allows {net}"));
        }
        _ => {}
    }
    if default_deny {
        let allowed = list(&listener.guard.allow);
        return verdict(
            false,
            format!("the listener allows {allowed} and nobody else"),
        );
    }
    let is_guarded = !(listener.guard.deny.is_empty()
        && config.guard.allow.is_empty()
        && config.guard.deny.is_empty());
    if is_guarded {
        return verdict(true, "no rule is about the client".to_owned());
    }
    None
}

/// The longest prefix of both lists decides; a denial before an allowance of the same prefix.
fn decide(guard: &Guard, client: IpAddr) -> Option<(bool, IpNet)> {
    let allowed = guard.allow.iter().map(|net| (true, net));
    let denied = guard.deny.iter().map(|net| (false, net));
    let found = allowed
        .chain(denied)
        .filter(|(_, net)| net.contains(&client));
    found
        .max_by_key(|(is_allowed, net)| (net.prefix_len(), !is_allowed))
        .map(|(is_allowed, net)| (is_allowed, *net))
}
