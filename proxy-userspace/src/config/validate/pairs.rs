//! Rules about a listener and the service that answers there: can the mode do what both say?

use super::listeners::shown;
use super::{Judged, family};
use crate::config::decode::Field;
use crate::config::fault::Code;
use crate::config::file;
use crate::config::model::{Listener, Service};
use crate::config::report::{Draft, Place, Report};
use crate::config::yaml::NodeId;
use crate::types::PortMatch;
use proxy_common::service::Mode;
use std::net::IpAddr;

/// Longest IPv6 prefix of a VIP that NAT cannot carry: answers know 32 bits of the VIP.
const NAT_V6_PREFIX: u8 = 96;

/// A listener and the service that answers there.
pub(super) struct Pair<'a, 'f> {
    pub(super) listener: &'a Judged<'f, Listener, file::listener::Listener>,
    pub(super) service: &'a Judged<'f, Service, file::service::Service>,
}

impl Pair<'_, '_> {
    /// Applies every rule about the two.
    pub(super) fn check(&self, report: &Report<'_>) {
        self.prefix(report);
        self.all_ports(report);
        let nodes = self
            .service
            .file
            .value
            .backends
            .value()
            .into_iter()
            .flatten()
            .filter_map(Field::given);
        for at in nodes {
            let (endpoint, node) = match &at.value {
                file::service::Backend::Endpoint(endpoint) => (endpoint, at.node),
                file::service::Backend::Keys(keys) => match keys.address.given() {
                    Some(address) => (&address.value, address.node),
                    None => continue,
                },
            };
            if self.service.model.mode != Mode::Local {
                self.family(report, node, endpoint.0.address);
                self.port(report, node, endpoint.0.port);
                self.not_itself(report, node, endpoint.0.address);
            }
        }
    }

    /// Answers carry only the last 32 bits of the VIP.
    fn prefix(&self, report: &Report<'_>) {
        let vip = self.listener.model.vip;
        let too_short = vip.addr().is_ipv6() && vip.prefix_len() < NAT_V6_PREFIX;
        if too_short && self.service.model.mode.is_nat() {
            let node = self
                .listener
                .file
                .value
                .address
                .given()
                .map_or(self.listener.file.node, |at| at.node);
            let draft = Draft::new(
                Code::Conflict,
                format!("mode `{}` cannot serve the prefix `{vip}`: answers remember 32 bits of the VIP", self.service.model.mode.name()),
            )
            .expected("an IPv6 prefix of `/96` or longer")
            .fix("use a longer prefix, or a DSR mode");
            report.error(Place::Value(node), draft);
        }
    }

    fn all_ports(&self, report: &Report<'_>) {
        let translated = self.service.model.mode == Mode::Nat
            && self.listener.model.port == PortMatch::All
            && self
                .service
                .model
                .backends
                .iter()
                .any(|backend| backend.port.is_some());
        if translated {
            let node = self
                .listener
                .file
                .value
                .port
                .given()
                .map_or(self.listener.file.node, |at| at.node);
            report.warn(
                Place::Value(node),
                format!(
                    "service `{}` sends all ports to one port: two connections from one client port to two ports of the VIP cannot be told apart",
                    self.service.model.name
                ),
                "leave the port out at the backends, or use mode `full-nat`",
            );
        }
    }

    fn family(&self, report: &Report<'_>, node: NodeId, backend: IpAddr) {
        let vip = self.listener.model.vip.addr();
        let mode = self.service.model.mode;
        let carried = match mode {
            Mode::Nat | Mode::FullNat | Mode::DsrL2 => vip.is_ipv4() == backend.is_ipv4(),
            Mode::DsrIpip | Mode::DsrGue => vip.is_ipv4() || backend.is_ipv6(),
            Mode::Local => true,
        };
        if carried {
            return;
        }
        let draft = Draft::new(
            Code::Conflict,
            format!(
                "mode `{}` cannot carry packets for the {} address `{}` of listener `{}` to an {} backend",
                mode.name(),
                family(vip),
                shown(self.listener.model.vip),
                self.listener.model.name,
                family(backend),
            ),
        )
        .expected(format!("an {} backend", family(vip)));
        let draft = if vip.is_ipv4() {
            draft.fix("give the backend's IPv4 address, or use mode `dsr-ipip` or `dsr-gue`, which carry IPv4 in IPv6")
        } else {
            draft.fix("give the backend's IPv6 address")
        };
        report.error(Place::Value(node), draft);
    }

    fn port(&self, report: &Report<'_>, node: NodeId, port: Option<u16>) {
        let Some(port) = port else { return };
        if !self.service.model.mode.is_dsr() || self.listener.model.port == PortMatch::One(port) {
            return;
        }
        let draft = Draft::new(
            Code::Conflict,
            format!(
                "mode `{}` cannot translate ports: listener `{}` has port {}, this backend {port}",
                self.service.model.mode.name(),
                self.listener.model.name,
                match self.listener.model.port {
                    PortMatch::All => "`all`".to_owned(),
                    PortMatch::One(port) => port.to_string(),
                },
            ),
        );
        let draft = match self.listener.model.port {
            PortMatch::All => draft.fix(
                "leave the port out here, or use mode `nat` or `full-nat`, which translate ports",
            ),
            PortMatch::One(port) => draft.fix(format!(
                "serve port {port} at the backend, or use mode `nat` or `full-nat`, which translate ports"
            )),
        };
        report.error(Place::Value(node), draft);
    }

    fn not_itself(&self, report: &Report<'_>, node: NodeId, backend: IpAddr) {
        if self.listener.model.vip.prefix_len() > 0 && self.listener.model.vip.contains(&backend) {
            let draft = Draft::new(
                Code::Conflict,
                format!("the backend `{backend}` lies in the address of listener `{}`: packets would come back here", self.listener.model.name),
            )
            .fix("give the backend's own address");
            report.error(Place::Value(node), draft);
        }
    }
}
