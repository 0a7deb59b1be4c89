//! The sections `l4` and `guard`.

use super::{Names, elements, need, network, number, or, time};
use crate::config::decode::{At, Field};
use crate::config::defaults;
use crate::config::fault::Code;
use crate::config::file::l4 as file;
use crate::config::file::scalar::{Network, Path};
use crate::config::model::{AttachMode, Guard, Interface, KernelLog, L4};
use crate::config::report::{Draft, Place, Report};
use crate::config::yaml::NodeId;
use ipnet::IpNet;
use proxy_common::maps::capacity;
use std::collections::HashMap;
use std::path::PathBuf;

/// The section `l4`. It, or its interfaces, may be absent where nothing is balanced in the kernel.
pub(super) fn l4(
    report: &Report<'_>,
    root: NodeId,
    field: &Field<file::L4>,
    needed: bool,
) -> Option<L4> {
    if needed {
        need(report, root, "l4", "{interfaces: [eth0]}", field);
    }
    field.given().map(|at| section(report, at, needed))
}

/// False if packets of no interface are to be looked at; true if that cannot be told.
pub(super) fn names_interfaces(field: &Field<file::L4>) -> bool {
    let interfaces = match field {
        Field::Absent => return false,
        Field::Bad => return true,
        Field::Given(at) => &at.value.interfaces,
    };
    match interfaces {
        Field::Absent => false,
        Field::Bad => true,
        Field::Given(list) => !list.value.is_empty(),
    }
}

fn section(report: &Report<'_>, at: &At<file::L4>, needed: bool) -> L4 {
    let keys = &at.value;
    let (tunnel_source_v4, tunnel_source_v6, gue_port) = tunnel(report, &keys.tunnel);
    L4 {
        interfaces: interfaces(report, at.node, &keys.interfaces, needed),
        pin_dir: path(&keys.pin_dir, defaults::PIN_DIR),
        flow_capacity: number(
            report,
            &keys.flow_capacity,
            64..=67_108_864,
            defaults::FLOW_CAPACITY,
        ),
        backend_capacity: number(
            report,
            &keys.backend_capacity,
            2..=capacity::MAX_BACKENDS,
            defaults::BACKEND_CAPACITY,
        ),
        tunnel_source_v4,
        tunnel_source_v6,
        gue_port,
        selection_seed: or(&keys.selection_seed, defaults::SELECTION_SEED),
        route_ttl: time(report, &keys.route_ttl, defaults::ROUTE_TTL),
        icmp_per_second: or(&keys.icmp_per_second, defaults::ICMP_PER_SECOND),
        sample_every: or(&keys.sample_every, defaults::SAMPLE_EVERY),
        kernel_log: match or(&keys.kernel_log, file::KernelLog::Off) {
            file::KernelLog::Off => KernelLog::Off,
            file::KernelLog::Drops => KernelLog::Drops,
            file::KernelLog::All => KernelLog::All,
        },
    }
}

pub(super) fn path(field: &Field<Path>, default: &str) -> PathBuf {
    field
        .value()
        .map_or_else(|| PathBuf::from(default), |path| path.0.clone())
}

fn interfaces(
    report: &Report<'_>,
    l4: NodeId,
    field: &Field<Vec<Field<file::Interface>>>,
    needed: bool,
) -> Vec<Interface> {
    if needed
        && let Some(list) = need(report, l4, "interfaces", "[eth0]", field)
        && list.value.is_empty()
    {
        let draft = Draft::new(Code::InvalidValue, "no interface is given")
            .expected("at least one interface")
            .fix("name the interface on which clients' packets arrive; `ip link` lists them");
        report.error(Place::Value(list.node), draft);
    }
    let mut names = Names::default();
    elements(field)
        .filter_map(|at| {
            let interface = interface(report, at)?;
            names
                .add(report, "interface", &interface.name, at.node)
                .then_some(interface)
        })
        .collect()
}

fn interface(report: &Report<'_>, at: &At<file::Interface>) -> Option<Interface> {
    match &at.value {
        file::Interface::Name(name) => Some(Interface {
            name: name.0.clone(),
            attach: AttachMode::Auto,
        }),
        file::Interface::Keys(keys) => {
            let name = need(report, at.node, "name", "eth0", &keys.name)?;
            Some(Interface {
                name: name.value.0.clone(),
                attach: match or(&keys.attach, file::Attach::Auto) {
                    file::Attach::Auto => AttachMode::Auto,
                    file::Attach::Native => AttachMode::Native,
                    file::Attach::Generic => AttachMode::Generic,
                },
            })
        }
    }
}

fn tunnel(
    report: &Report<'_>,
    field: &Field<file::Tunnel>,
) -> (Option<ipnet::Ipv4Net>, Option<ipnet::Ipv6Net>, u16) {
    let Some(keys) = field.value() else {
        return (None, None, defaults::GUE_PORT);
    };
    let wrong_family = |at: &At<Network>, family: &str| {
        let draft = Draft::new(
            Code::InvalidValue,
            format!("`{}` is not an {family} address or prefix", at.value.0),
        )
        .expected(format!("an {family} address or prefix"));
        report.error(Place::Value(at.node), draft);
    };
    let v4 = keys
        .source_v4
        .given()
        .and_then(|at| match network(report, at) {
            IpNet::V4(source) => Some(source),
            IpNet::V6(_) => {
                wrong_family(at, "IPv4");
                None
            }
        });
    let v6 = keys
        .source_v6
        .given()
        .and_then(|at| match network(report, at) {
            IpNet::V6(source) => Some(source),
            IpNet::V4(_) => {
                wrong_family(at, "IPv6");
                None
            }
        });
    let port = number(report, &keys.gue_port, 1..=u16::MAX, defaults::GUE_PORT);
    (v4, v6, port)
}

/// The section `guard`.
pub(super) fn guard(report: &Report<'_>, field: &Field<file::GlobalGuard>) -> Guard {
    let Some(keys) = field.value() else {
        return Guard::default();
    };
    let (allow, deny) = sources(report, &keys.allow, &keys.deny);
    Guard {
        allow,
        deny,
        budget: None,
    }
}

/// The lists `allow` and `deny` of a guard.
pub(super) fn sources(
    report: &Report<'_>,
    allow: &Field<Vec<Field<Network>>>,
    deny: &Field<Vec<Field<Network>>>,
) -> (Vec<IpNet>, Vec<IpNet>) {
    let mut seen = HashMap::new();
    let allow = prefixes(report, "allow", allow, &mut seen);
    let deny = prefixes(report, "deny", deny, &mut seen);
    (allow, deny)
}

fn prefixes(
    report: &Report<'_>,
    list: &'static str,
    field: &Field<Vec<Field<Network>>>,
    seen: &mut HashMap<IpNet, (&'static str, NodeId)>,
) -> Vec<IpNet> {
    let mut prefixes = Vec::new();
    for at in elements(field) {
        let prefix = network(report, at);
        match seen.get(&prefix) {
            None => {
                seen.insert(prefix, (list, at.node));
                prefixes.push(prefix);
            }
            Some((first, node)) if *first == list => report.warn(
                Place::Value(at.node),
                format!(
                    "`{prefix}` is in this list already, in line {}",
                    report.line(*node)
                ),
                "remove one of the two",
            ),
            Some((first, node)) => {
                let draft = Draft::new(
                    Code::Conflict,
                    format!(
                        "`{prefix}` is also in `{first}`, in line {}",
                        report.line(*node)
                    ),
                )
                .fix(
                    "remove one of the two; a longer prefix makes an exception from a shorter one",
                );
                report.error(Place::Value(at.node), draft);
            }
        }
    }
    prefixes
}
