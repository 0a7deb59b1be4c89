//! Aims health probes to VIPs at their backends: the program that recognises them on their way out, and the route
//! that takes them there.
//!
//! A probe to a VIP is a connection of this host's stack, marked with its backend's id. The stack
//! must be willing to send it, and the ordinary routes are no help: the VIP may have none, it may be
//! in this host's own network, where nobody answers ARP for it, or it may be an address of this very
//! host. So marked packets get a routing table of their own, whose one route leads to the loopback
//! interface, which asks for no neighbour:
//!
//! ```text
//! ip rule add pref 51 fwmark 0x51050000/0xffff0000 lookup 20741 proto kernel
//! ip route add default dev lo scope link table 20741 proto kernel
//! ip -6 rule …; ip -6 route add local default dev lo table 20741 proto kernel
//! ```
//!
//! On its way out of loopback, `sluice_probe` gives a probe its headers and redirects it. The
//! program is on the balancer's interfaces as well: if somebody removes the rule, a probe that
//! follows an ordinary route is aimed there, instead of being answered by any backend. The
//! protocol `kernel` keeps systemd-networkd from removing what it did not make.
//!
//! All of it is there only while a check targets a VIP: other hosts' routing is left alone, and
//! need not be new enough (links to egress are from Linux 6.6 on).

use super::load::{DataPlane, LoadError};
use super::netlink::{Netlink, NetlinkError};
use super::object::pin_program;
use super::pins::{self, Pins};
use super::sys;
use crate::config::model::Interface;
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use proxy_common::backend::PROBE_MARK;
use proxy_common::maps::program;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// The loopback interface.
pub const LOOPBACK: &str = "lo";
/// Routing table of probes: the mark's high half.
pub const TABLE: u32 = PROBE_MARK >> 16;
/// Bits of the mark that tell a probe.
const MARK_MASK: u32 = 0xffff_0000;
/// Priority of the rule: before other rules that administrators and VPNs make.
pub const RULE_PRIORITY: u32 = 51;

/// Health probes to VIPs cannot be aimed at their backends.
#[derive(Debug, thiserror::Error)]
pub enum AimError {
    /// The program cannot be attached.
    #[error(
        "cannot aim health probes on `{interface}`: checks with `target: vip` need Linux 6.6 \
         (links to egress); use `target: backend`"
    )]
    Attach {
        /// The interface.
        interface: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// There is no such interface.
    #[error("cannot aim health probes: there is no interface `{0}`")]
    NoInterface(String),
    /// Rule or route cannot be made.
    #[error(
        "cannot route health probes to loopback (table {TABLE}): checks with `target: vip` need \
         policy routing and an interface `lo` that is up; use `target: backend`"
    )]
    Route(#[source] NetlinkError),
    /// Interfaces could not be read.
    #[error("cannot read the interfaces")]
    Interfaces(#[source] NetlinkError),
    /// Pins could not be handled.
    #[error(transparent)]
    Load(#[from] LoadError),
}

impl DataPlane {
    /// Aims the health probes that leave by loopback or by these interfaces, or, with `None`,
    /// stops that. Repairs what somebody else removed, and may be called as often as wanted.
    ///
    /// # Errors
    ///
    /// [`AimError`]; balancing is not affected.
    pub fn aim_probes(&mut self, interfaces: Option<&[Interface]>) -> Result<(), AimError> {
        let Some(interfaces) = interfaces else {
            return Ok(remove(&self.pins)?);
        };
        pin_program(&self.pins, program::PROBE, &self.balancer.probe)?;
        pins::make_dir(&self.pins.probe_links())?;
        let names = interfaces.iter().map(|one| one.name.as_str());
        let names: Vec<&str> = [LOOPBACK].into_iter().chain(names).collect();
        let mut netlink = Netlink::open().map_err(AimError::Interfaces)?;
        let existing = netlink.interfaces().map_err(AimError::Interfaces)?;
        for name in &names {
            let found = existing.iter().find(|found| found.name == *name);
            let index = found.map(|found| found.index);
            let index = index.ok_or_else(|| AimError::NoInterface((*name).to_owned()))?;
            link_one(&self.pins, self.balancer.probe.as_fd(), name, index)?;
        }
        unlink_others(&self.pins, &names)?;
        let loopback = existing.iter().find(|found| found.name == LOOPBACK);
        route_probes(&mut netlink, loopback.map_or(1, |found| found.index))
    }
}

/// Updates or makes the link of one interface.
fn link_one(
    pins: &Pins,
    program: BorrowedFd<'_>,
    name: &str,
    ifindex: u32,
) -> Result<(), AimError> {
    let path = pins.probe_link(name);
    let attach_error = |source| AimError::Attach {
        interface: name.to_owned(),
        source,
    };
    if let Ok(link) = sys::open_pinned(&path)
        && let Ok(info) = sys::link_info(link.as_fd())
        && info.ifindex == ifindex
    {
        let current = sys::program_id(program).map_err(attach_error)?;
        if info.program_id == current || sys::link_update(link.as_fd(), program).is_ok() {
            return Ok(());
        }
    }
    unlink_one(pins, name)?;
    let link = sys::link_egress(program, ifindex).map_err(attach_error)?;
    sys::pin(link.as_fd(), &path).map_err(|source| LoadError::Path {
        call: "pin",
        path,
        source,
    })?;
    tracing::info!(
        interface = name,
        "aiming health probes to VIPs at their backends"
    );
    Ok(())
}

fn unlink_one(pins: &Pins, name: &str) -> Result<(), LoadError> {
    pins::remove_link(&pins.probe_link(name))
}

fn unlink_others(pins: &Pins, wanted: &[&str]) -> Result<(), LoadError> {
    for name in linked(pins)? {
        if !wanted.contains(&name.as_str()) {
            unlink_one(pins, &name)?;
        }
    }
    Ok(())
}

fn linked(pins: &Pins) -> Result<Vec<String>, LoadError> {
    pins.probed_interfaces().map_err(|source| LoadError::Path {
        call: "read",
        path: pins.probe_links(),
        source,
    })
}

/// Ends that: rule and route first, so that no probe reaches a loopback interface that
/// does not aim it. Nothing is touched where nothing was ever aimed.
pub(crate) fn remove(pins: &Pins) -> Result<(), LoadError> {
    if !pins.probe_links().exists() {
        return Ok(());
    }
    if let Err(error) = Netlink::open().and_then(|mut netlink| unroute_probes(&mut netlink)) {
        // They concern marked packets only.
        tracing::warn!(%error, table = TABLE, "rule or route of health probes cannot be removed");
    }
    unlink_others(pins, &[])?;
    pins::remove_pin(&pins.program(program::PROBE))?;
    pins::remove_dir(&pins.probe_links())
}

/// Both families, with what they need to reach loopback.
const FAMILIES: [AddressFamily; 2] = [AddressFamily::Inet, AddressFamily::Inet6];

fn route_probes(netlink: &mut Netlink, loopback: u32) -> Result<(), AimError> {
    for family in FAMILIES {
        let made = netlink
            .add(RouteNetlinkMessage::NewRoute(route(family, loopback)))
            .and_then(|()| netlink.add(RouteNetlinkMessage::NewRule(rule(family))));
        match made {
            Ok(()) => {}
            // No such family on this host: no VIP of it either.
            Err(error)
                if family == AddressFamily::Inet6
                    && matches!(
                        error.errno(),
                        Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::EACCES)
                    ) =>
            {
                tracing::debug!(%error, "no IPv6 here");
            }
            Err(error) => return Err(AimError::Route(error)),
        }
    }
    Ok(())
}

fn unroute_probes(netlink: &mut Netlink) -> Result<(), NetlinkError> {
    let loopback = netlink.interface(LOOPBACK)?.map_or(1, |found| found.index);
    for family in FAMILIES {
        let removed = netlink
            .remove(RouteNetlinkMessage::DelRule(rule(family)))
            .and_then(|()| netlink.remove(RouteNetlinkMessage::DelRoute(route(family, loopback))));
        if family == AddressFamily::Inet {
            removed?;
        }
    }
    Ok(())
}

fn rule(family: AddressFamily) -> RuleMessage {
    let mut rule = RuleMessage::default();
    rule.header.family = family;
    rule.header.action = RuleAction::ToTable;
    rule.attributes = vec![
        RuleAttribute::Priority(RULE_PRIORITY),
        RuleAttribute::FwMark(PROBE_MARK),
        RuleAttribute::FwMask(MARK_MASK),
        RuleAttribute::Table(TABLE),
        RuleAttribute::Protocol(RouteProtocol::Kernel),
    ];
    rule
}

/// The route to everything by loopback. IPv6 refuses that but for local addresses; IPv4 has it of
/// the ordinary type, since a local one would cost every packet that this host receives a second
/// look at the routes.
fn route(family: AddressFamily, loopback: u32) -> RouteMessage {
    let v6 = family == AddressFamily::Inet6;
    let mut route = RouteMessage::default();
    route.header = RouteHeader {
        address_family: family,
        protocol: RouteProtocol::Kernel,
        scope: if v6 {
            RouteScope::Universe
        } else {
            RouteScope::Link
        },
        kind: if v6 {
            RouteType::Local
        } else {
            RouteType::Unicast
        },
        ..RouteHeader::default()
    };
    route.attributes = vec![RouteAttribute::Table(TABLE), RouteAttribute::Oif(loopback)];
    route
}
