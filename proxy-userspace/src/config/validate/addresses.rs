//! Addresses that two of the file's sockets want.

use super::listeners::shown;
use super::together::Sections;
use crate::config::decode::At;
use crate::config::fault::Code;
use crate::config::file::listener;
use crate::config::report::{Draft, Place, Report};
use crate::config::yaml::NodeId;
use crate::types::{PortMatch, Protocol};
use proxy_common::service::Mode;
use std::collections::HashMap;
use std::net::SocketAddr;

/// A socket that a listener of the proxy paths opens.
struct Socket<'a> {
    name: &'a str,
    address: SocketAddr,
    protocol: Protocol,
    node: NodeId,
}

/// Applies every rule.
pub(super) fn check(report: &Report<'_>, all: &Sections<'_, '_>) {
    let sockets = sockets(all);
    let mut taken: HashMap<(SocketAddr, Protocol), &Socket<'_>> = HashMap::new();
    for socket in &sockets {
        if let Some(first) = taken.get(&(socket.address, socket.protocol)) {
            let draft = Draft::new(
                Code::Conflict,
                format!(
                    "listener `{}` in line {} listens on `{}` already",
                    first.name,
                    report.line(first.node),
                    socket.address
                ),
            )
            .fix("change one of the two; routes tell hosts and paths of one listener apart");
            report.error(Place::Value(socket.node), draft);
            continue;
        }
        taken.insert((socket.address, socket.protocol), socket);
        admin(report, all, socket);
        hidden(report, all, socket);
    }
}

fn sockets<'a>(all: &Sections<'a, '_>) -> Vec<Socket<'a>> {
    let http = all.listeners.http.iter().map(|listener| Socket {
        name: &listener.model.name,
        address: listener.model.address,
        protocol: Protocol::Tcp,
        node: node(listener.file),
    });
    let stream = all.listeners.stream.iter().map(|listener| Socket {
        name: &listener.model.name,
        address: listener.model.address,
        protocol: listener.model.protocol,
        node: node(listener.file),
    });
    let mut sockets: Vec<_> = http.chain(stream).collect();
    // In the order of the file, so that the later of two is told.
    sockets.sort_by_key(|socket| socket.node.0);
    sockets
}

fn node(at: &At<listener::Listener>) -> NodeId {
    let address = at.value.address.given();
    address.map_or(at.node, |address| address.node)
}

/// The admin endpoint listens, too.
fn admin(report: &Report<'_>, all: &Sections<'_, '_>, socket: &Socket<'_>) {
    if socket.protocol == Protocol::Tcp && all.admin.listen == Some(socket.address) {
        let draft = Draft::new(
            Code::Conflict,
            format!("`admin.listen` is `{}`, too", socket.address),
        )
        .fix("change one of the two");
        report.error(Place::Value(socket.node), draft);
    }
}

/// Packets that are balanced in the kernel never reach a socket of this host.
fn hidden(report: &Report<'_>, all: &Sections<'_, '_>, socket: &Socket<'_>) {
    let local = |service: &str| {
        let mut services = all.services.iter().map(|service| &service.model);
        services.any(|it| it.name == service && it.mode == Mode::Local)
    };
    let hides = all.listeners.l4.iter().find(|listener| {
        let listener = &listener.model;
        listener.vip.contains(&socket.address.ip())
            && listener.protocol == socket.protocol
            && match listener.port {
                PortMatch::All => true,
                PortMatch::One(port) => port == socket.address.port(),
            }
            && !local(&listener.service)
    });
    if let Some(listener) = hides {
        let draft = Draft::new(
            Code::Conflict,
            format!(
                "listener `{}` takes the packets for `{}` and port {} in the kernel, so that none \
                 arrive here",
                listener.model.name,
                shown(listener.model.vip),
                listener.model.port,
            ),
        )
        .fix("change one of the two, or give that listener a service of mode `local`");
        report.error(Place::Value(socket.node), draft);
    }
}
