//! The key `mesh` of a listener.

use super::http::networks;
use super::passthrough;
use super::together::Sections;
use super::{elements, mapped, need, or, time};
use crate::config::decode::{At, Field};
use crate::config::defaults::mesh as defaults;
use crate::config::fault::Code;
use crate::config::file::listener::Listener;
use crate::config::file::mesh as file;
use crate::config::file::scalar::{Address, CgroupPath, Network, PortRange as FileRange};
use crate::config::file::steer as steer_file;
use crate::config::model::mesh::{Direction, Mesh, Selection, Unmatched};
use crate::config::model::steer::{OnFailure, PortRange};
use crate::config::report::{Draft, Place, Report};
use crate::config::yaml::NodeId;
use ipnet::IpNet;
use proxy_common::redirect::{CHOSEN, LISTENERS, PREFIXES, RANGES, USERS};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

/// The key `mesh` of a listener that is bound to this address.
pub(super) fn mesh(
    report: &Report<'_>,
    field: &Field<file::Mesh>,
    bound: Option<SocketAddr>,
) -> Option<Mesh> {
    let at = field.given()?;
    let keys = &at.value;
    need(report, at.node, "cgroups", "[/shop.slice]", &keys.cgroups);
    let cgroups = cgroups(report, &keys.cgroups);
    let direction = match or(&keys.direction, file::Direction::Outbound) {
        file::Direction::Outbound => Direction::Outbound,
        file::Direction::Inbound => Direction::Inbound,
    };
    if !matches!(keys.direction, Field::Bad) {
        of_direction(report, keys, direction);
    }
    let sources = keys.sources.value();
    let sources = sources.map(|keys| Selection {
        only: of_family(report, &keys.only, bound),
        except: of_family(report, &keys.except, bound),
    });
    let destinations = keys.destinations.value();
    let destinations = destinations.map(|keys| Selection {
        only: of_family(report, &keys.only, bound),
        except: of_family(report, &keys.except, bound),
    });
    let ports = keys.ports.given().map(|at| {
        let ports = Selection {
            only: ranges(&at.value.only),
            except: ranges(&at.value.except),
        };
        if ports.only.len() + ports.except.len() > RANGES {
            let draft = Draft::new(Code::Limit, "there are too many ranges of ports")
                .expected(format!("at most {RANGES} in `only` and `except`"));
            report.error(Place::Value(at.node), draft);
        }
        ports
    });
    let users = keys.users.value().map(|keys| Selection {
        only: elements(&keys.only).map(|at| at.value).collect(),
        except: elements(&keys.except).map(|at| at.value).collect(),
    });
    let opaque = match keys.opaque.given() {
        Some(_) => ranges(&keys.opaque),
        None => defaults::OPAQUE.map(PortRange::one).to_vec(),
    };
    Some(Mesh {
        cgroups,
        direction,
        destinations: destinations.unwrap_or_default(),
        sources: sources.unwrap_or_default(),
        ports: ports.unwrap_or_default(),
        users: users.unwrap_or_default(),
        reach: reach(report, &keys.reach, bound),
        on_failure: match keys.on_failure.value() {
            Some(steer_file::OnFailure::Open) => OnFailure::Open,
            Some(steer_file::OnFailure::Closed) | None => OnFailure::Closed,
        },
        unmatched: match or(&keys.unmatched, file::Unmatched::Passthrough) {
            file::Unmatched::Passthrough => Unmatched::Passthrough,
            file::Unmatched::Refuse => Unmatched::Refuse,
        },
        detect: time(report, &keys.detect, defaults::DETECT),
        opaque,
        names: passthrough::names(report, &keys.names),
    })
}

/// Notes keys that do not go with the direction.
fn of_direction(report: &Report<'_>, keys: &file::Mesh, direction: Direction) {
    let nodes = match direction {
        Direction::Inbound => [
            ("destinations", keys.destinations.given().map(|at| at.node)),
            ("users", keys.users.given().map(|at| at.node)),
            ("reach", keys.reach.given().map(|at| at.node)),
        ],
        Direction::Outbound => [
            ("sources", keys.sources.given().map(|at| at.node)),
            ("", None),
            ("", None),
        ],
    };
    for (key, node) in nodes {
        let Some(node) = node else { continue };
        let fix = match key {
            "sources" => "write `direction: inbound`, or say `destinations`",
            "destinations" => "say `sources` and `ports`, or use two listeners",
            _ => "remove it, or use two listeners",
        };
        let message = format!("`{key}` does not go with what is {}", direction.name());
        let draft = Draft::new(Code::Conflict, message).fix(fix);
        report.error(Place::Key(node), draft);
    }
}

/// Notes keys of the listener that `mesh` does not go with.
pub(super) fn stray(report: &Report<'_>, keys: &Listener) {
    let Some(mesh) = keys.mesh.given() else {
        return;
    };
    let (tls, redirect) = (keys.tls.given().is_some(), !keys.https_redirect.is_absent());
    let header = !keys.proxy_protocol_from.is_absent();
    let direction = or(&mesh.value.direction, file::Direction::Outbound);
    let steers = keys.steer.given().is_some() && direction == file::Direction::Inbound;
    for (is_given, key, why) in [
        (
            tls,
            "tls",
            "what programs encrypt is for the server that they dialled",
        ),
        (
            redirect,
            "https_redirect",
            "programs have not dialled this listener",
        ),
        (
            steers,
            "steer",
            "what is steered here would be taken for what was on its way to a program",
        ),
        (
            header,
            "proxy_protocol_from",
            "the kernel says whose connections they are",
        ),
    ] {
        if is_given {
            let draft = Draft::new(
                Code::Conflict,
                format!("`mesh` does not go with `{key}`: {why}"),
            )
            .fix(format!("remove `{key}`, or use two listeners"));
            report.error(Place::Key(mesh.node), draft);
        }
    }
}

fn cgroups(report: &Report<'_>, field: &Field<Vec<Field<CgroupPath>>>) -> Vec<String> {
    if let Some(at) = field.given()
        && at.value.is_empty()
    {
        let draft = Draft::new(Code::InvalidValue, "nothing is redirected of no cgroups")
            .expected("at least one path")
            .fix("remove `mesh` for an ordinary listener");
        report.error(Place::Value(at.node), draft);
    }
    let mut all: Vec<String> = Vec::new();
    for at in elements(field) {
        let path = &at.value.0;
        if all.contains(path) {
            let message = format!("`{path}` is in this list already");
            report.warn(Place::Value(at.node), message, "remove one of the two");
        } else {
            all.push(path.clone());
        }
    }
    all
}

fn ranges(field: &Field<Vec<Field<FileRange>>>) -> Vec<PortRange> {
    let ranges = elements(field).map(|at| {
        let (first, last) = at.value.0;
        PortRange { first, last }
    });
    ranges.collect()
}

/// Prefixes of the family of the listener's own address.
fn of_family(
    report: &Report<'_>,
    field: &Field<Vec<Field<Network>>>,
    bound: Option<SocketAddr>,
) -> Vec<IpNet> {
    for at in elements(field) {
        family(report, at.node, at.value.0.addr(), bound);
    }
    networks(report, field)
}

fn family(report: &Report<'_>, node: NodeId, address: IpAddr, bound: Option<SocketAddr>) {
    let Some(bound) = bound.filter(|bound| bound.is_ipv4() != address.is_ipv4()) else {
        return;
    };
    let (is, other) = match bound.is_ipv4() {
        true => ("IPv4", "an IPv6 one, such as `\"::1\"`"),
        false => ("IPv6", "an IPv4 one, such as `127.0.0.1`"),
    };
    let draft = Draft::new(
        Code::Conflict,
        format!("`{address}` is for another family than the listener, whose address is of {is}"),
    )
    .expected(format!("addresses of {is}"))
    .fix(format!("add a listener whose `address` is {other}"));
    report.error(Place::Value(node), draft);
}

fn reach(report: &Report<'_>, field: &Field<Address>, bound: Option<SocketAddr>) -> Option<IpAddr> {
    let at = field.given()?;
    let address = at.value.0;
    mapped(report, at.node, address);
    family(report, at.node, address, bound);
    let listens = bound.is_none_or(|bound| bound.ip().is_unspecified() || bound.ip() == address);
    let problem = if address.is_unspecified() || address.is_multicast() {
        Some("is no address of a host".to_owned())
    } else if address.is_loopback() {
        Some("is another one in each network namespace".to_owned())
    } else if !listens {
        let bound = bound.map(|bound| bound.ip().to_string());
        Some(format!(
            "is not where the listener listens, which is {}",
            bound.unwrap_or_default()
        ))
    } else {
        None
    };
    if let Some(problem) = problem {
        let draft = Draft::new(Code::InvalidValue, format!("`{address}` {problem}"))
            .expected("an address of this host that other namespaces have a route to")
            .fix("have the listener listen on `0.0.0.0` or `\"::\"`, and write one of its addresses here");
        report.error(Place::Value(at.node), draft);
    }
    Some(address)
}

/// Rules about all listeners together: a cgroup is one listener's, and the kernel's tables have
/// room.
pub(super) fn check(report: &Report<'_>, all: &Sections<'_, '_>) {
    let mut taken: HashMap<(&str, bool, Direction), &At<Listener>> = HashMap::new();
    let (mut sets, mut chosen, mut prefixes, mut users) = (0, 0, 0, 0);
    let mut last = None;
    for listener in &all.listeners.http {
        let Some(mesh) = &listener.model.mesh else {
            continue;
        };
        let is_v4 = listener.model.address.is_ipv4();
        let written = listener.file.value.mesh.value();
        let written = written.into_iter().flat_map(|mesh| elements(&mesh.cgroups));
        for at in written {
            let Some(other) = taken.insert((&at.value.0, is_v4, mesh.direction), listener.file)
            else {
                continue;
            };
            if std::ptr::eq(other, listener.file) {
                continue;
            }
            let draft = Draft::new(
                Code::Conflict,
                format!(
                    "the listener in line {} has the cgroup `{}` already, for the same family and \
                     direction",
                    report.line(other.node),
                    at.value.0
                ),
            )
            .expected("each cgroup at one listener of IPv4 and one of IPv6 for each direction")
            .fix("remove it from one of the two");
            report.error(Place::Value(at.node), draft);
        }
        sets += 1;
        chosen += mesh.cgroups.len();
        // With those that are left out unless they are named.
        prefixes += mesh.destinations.only.len() + mesh.destinations.except.len() + 2;
        prefixes += mesh.sources.only.len() + mesh.sources.except.len();
        users += mesh.users.only.len() + mesh.users.except.len();
        last = listener.file.value.mesh.given();
    }
    let Some(last) = last else { return };
    for (is, most, what) in [
        (sets, LISTENERS, "listeners with `mesh`"),
        (chosen, CHOSEN, "cgroups"),
        // Those before and those after a change are there at the same time.
        (
            prefixes,
            PREFIXES / 2,
            "prefixes of destinations and sources",
        ),
        (users, USERS / 2, "users"),
    ] {
        if is > most as usize {
            let draft = Draft::new(Code::Limit, format!("there are too many {what}"))
                .expected(format!("at most {most} at all listeners"));
            report.error(Place::Key(last.node), draft);
        }
    }
}
