//! The section `listeners`.

use super::{
    Judged, Listeners, Names, elements, host_address, l4, need, network, number, or, proxies,
};
use crate::config::decode::{At, Field};
use crate::config::fault::Code;
use crate::config::file::listener as file;
use crate::config::model::{Budget, Guard, Listener};
use crate::config::report::{Draft, Place, Report};
use crate::config::yaml::NodeId;
use crate::types::{PortMatch, Protocol};
use ipnet::IpNet;
use std::collections::HashMap;

/// Most new flows per second or at once: above, the spacing of flows is no longer measurable.
const BUDGET_MOST: u32 = 1_000_000;

/// The section `listeners`.
pub(super) fn listeners<'f>(
    report: &Report<'_>,
    field: &'f Field<Vec<Field<file::Listener>>>,
) -> Listeners<'f> {
    let mut names = Names::default();
    let mut taken = HashMap::new();
    let mut listeners = Listeners::default();
    for at in elements(field) {
        let keys = &at.value;
        if let Some(name) = need(report, at.node, "name", "web", &keys.name) {
            names.add(report, "listener", &name.value.0, name.node);
        }
        let kind = need(report, at.node, "kind", "http", &keys.kind).map(|kind| kind.value);
        if let Some(kind) = kind {
            proxies::stray(report, keys, kind);
        }
        match kind {
            Some(file::ListenerKind::Http) => {
                let listener = proxies::http(report, at);
                listeners.http.extend(judged(listener, at));
            }
            Some(file::ListenerKind::Tcp | file::ListenerKind::TlsPassthrough) => {
                let listener = proxies::stream(report, at, Protocol::Tcp);
                listeners.stream.extend(judged(listener, at));
            }
            Some(file::ListenerKind::Udp) => {
                let listener = proxies::stream(report, at, Protocol::Udp);
                listeners.stream.extend(judged(listener, at));
            }
            // What it lacks depends on what it was meant to be.
            None if matches!(keys.kind, Field::Bad) => {}
            Some(file::ListenerKind::L4) | None => {
                let listener = listener(report, at);
                if let Some(listener) = &listener {
                    claim(report, at, listener, &mut taken);
                }
                listeners.l4.extend(judged(listener, at));
            }
        }
    }
    listeners
}

fn judged<M>(model: Option<M>, file: &At<file::Listener>) -> Option<Judged<'_, M, file::Listener>> {
    model.map(|model| Judged { model, file })
}

/// One l4 listener; `None` if what the other rules need is missing.
fn listener(report: &Report<'_>, at: &At<file::Listener>) -> Option<Listener> {
    let keys = &at.value;
    let address = need(report, at.node, "address", "192.0.2.10", &keys.address);
    let vip = address.map(|address| vip(report, address));
    let port = need(report, at.node, "port", "80", &keys.port);
    let service = need(report, at.node, "service", "NAME", &keys.service);
    let guard = guard(report, &keys.guard);
    Some(Listener {
        name: keys.name.value()?.0.clone(),
        vip: vip?,
        port: port?.value.0.map_or(PortMatch::All, PortMatch::One),
        protocol: match or(&keys.protocol, file::TransportProtocol::Tcp) {
            file::TransportProtocol::Tcp => Protocol::Tcp,
            file::TransportProtocol::Udp => Protocol::Udp,
        },
        service: service?.value.0.clone(),
        guard,
    })
}

fn vip(report: &Report<'_>, address: &At<crate::config::file::scalar::Network>) -> IpNet {
    let vip = network(report, address);
    if vip.prefix_len() == vip.max_prefix_len() {
        host_address(report, address.node, vip.addr());
    } else if vip.addr().is_multicast() || vip.prefix_len() == 0 {
        let draft = Draft::new(Code::InvalidValue, format!("`{vip}` cannot be a VIP"))
            .expected("an address or prefix of hosts, longer than `/0`");
        report.error(Place::Value(address.node), draft);
    } else if covers_mapped(vip) {
        let draft = Draft::new(
            Code::InvalidValue,
            format!("`{vip}` contains `::ffff:0:0/96`, the IPv4 addresses in IPv6 form"),
        )
        .fix("give a longer prefix, such as `2000::/3`");
        report.error(Place::Value(address.node), draft);
    }
    vip
}

/// True for an IPv6 prefix that contains, besides others, the form in which the data plane holds
/// IPv4 addresses.
fn covers_mapped(vip: IpNet) -> bool {
    let mapped = std::net::Ipv4Addr::UNSPECIFIED.to_ipv6_mapped();
    matches!(vip, IpNet::V6(vip) if vip.prefix_len() < 96 && vip.contains(&mapped))
}

fn guard(report: &Report<'_>, field: &Field<file::ListenerGuard>) -> Guard {
    let Some(keys) = field.value() else {
        return Guard::default();
    };
    let (allow, deny) = l4::sources(report, &keys.allow, &keys.deny);
    let budget = keys.budget.given().and_then(|at| {
        let per_second = need(report, at.node, "per_second", "100", &at.value.per_second);
        let rate = number(report, &at.value.per_second, 1..=BUDGET_MOST, 1);
        let burst = number(report, &at.value.burst, 1..=BUDGET_MOST, rate);
        per_second.map(|_| Budget {
            per_second: rate,
            burst,
        })
    });
    Guard {
        allow,
        deny,
        budget,
    }
}

/// What a packet is matched by.
type Claim = (IpNet, PortMatch, Protocol);

/// Notes a second listener for the same address, port and protocol.
fn claim(
    report: &Report<'_>,
    at: &At<file::Listener>,
    listener: &Listener,
    taken: &mut HashMap<Claim, (String, NodeId)>,
) {
    let key = (listener.vip, listener.port, listener.protocol);
    if let Some((first, node)) = taken.get(&key) {
        let node_of_address = at
            .value
            .address
            .given()
            .map_or(at.node, |address| address.node);
        let draft = Draft::new(
            Code::Conflict,
            format!(
                "listener `{first}` in line {} has the address `{}`, port {} and protocol {} already",
                report.line(*node),
                shown(listener.vip),
                listener.port,
                listener.protocol,
            ),
        )
        .fix("change one of the two, or put the backends of both into one service");
        report.error(Place::Value(node_of_address), draft);
        return;
    }
    taken.insert(key, (listener.name.clone(), at.node));
}

/// A prefix, or the address alone if it is one.
pub(super) fn shown(vip: IpNet) -> String {
    if vip.prefix_len() == vip.max_prefix_len() {
        vip.addr().to_string()
    } else {
        vip.to_string()
    }
}
