//! Which services the addresses of listeners of kind `l4` stand for, to those who dial them through
//! the mesh.

use crate::config::model::{Config, Listener, Service};
use crate::types::{PortMatch, Protocol};
use ipnet::IpNet;
use proxy_common::service::Mode;
use std::collections::HashMap;
use std::net::SocketAddr;

/// The VIPs.
#[derive(Debug, Default)]
pub struct Vips(Vec<Vip>);

#[derive(Debug)]
struct Vip {
    net: IpNet,
    port: PortMatch,
    /// The service's number in the snapshot of which this is.
    service: usize,
}

impl Vips {
    pub(super) fn new(config: &Config, services: &HashMap<&str, usize>) -> Self {
        let all = listeners(config).filter_map(|listener| {
            Some(Vip {
                net: listener.vip,
                port: listener.port,
                service: services.get(&*listener.service).copied()?,
            })
        });
        let mut all: Vec<Vip> = all.collect();
        all.sort_by_key(|vip| std::cmp::Reverse(vip.precedence()));
        Self(all)
    }

    /// The number of the service whose VIP this is.
    pub fn service(&self, dialled: SocketAddr) -> Option<usize> {
        let found = self.0.iter().find(|vip| vip.has(dialled));
        found.map(|vip| vip.service)
    }
}

impl Vip {
    fn has(&self, dialled: SocketAddr) -> bool {
        let port = self.port.number();
        self.net.contains(&dialled.ip()) && (port == 0 || port == dialled.port())
    }

    /// As in the packet path: addresses before prefixes, ports before all of them, and of prefixes
    /// the longest.
    fn precedence(&self) -> (bool, bool, u8) {
        let is_one = self.net.prefix_len() == self.net.max_prefix_len();
        (is_one, self.port.number() != 0, self.net.prefix_len())
    }
}

/// Names of the services whose VIPs programs of the mesh may dial.
pub(super) fn services(config: &Config) -> impl Iterator<Item = &str> {
    listeners(config).map(|listener| listener.service.as_str())
}

/// The listeners whose services can be served here: over TCP, with backends that are dialled by
/// address and port.
fn listeners(config: &Config) -> impl Iterator<Item = &Listener> {
    let is_tcp = |listener: &&Listener| listener.protocol == Protocol::Tcp;
    let all = config.listeners.iter().filter(is_tcp);
    all.filter(|listener| {
        config
            .service(&listener.service)
            .is_some_and(can_be_dialled)
    })
}

fn can_be_dialled(service: &Service) -> bool {
    let mut backends = service.backends.iter();
    service.mode != Mode::Local && backends.all(|backend| backend.port.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vip(net: &str, port: u16, service: usize) -> Vip {
        Vip {
            net: net.parse().expect("a prefix"),
            port: match port {
                0 => PortMatch::All,
                port => PortMatch::One(port),
            },
            service,
        }
    }

    #[test]
    fn the_nearest_vip_is_meant() {
        let mut all = vec![
            vip("192.0.2.0/24", 0, 0),
            vip("192.0.2.0/28", 0, 1),
            vip("192.0.2.0/24", 80, 2),
            vip("192.0.2.1/32", 0, 3),
            vip("192.0.2.1/32", 80, 4),
            vip("2001:db8::1/128", 80, 5),
        ];
        all.sort_by_key(|vip| std::cmp::Reverse(vip.precedence()));
        let vips = Vips(all);
        for (dialled, wanted) in [
            ("192.0.2.1:80", Some(4)),
            ("192.0.2.1:81", Some(3)),
            ("192.0.2.2:80", Some(2)),
            ("192.0.2.2:81", Some(1)),
            ("192.0.2.99:81", Some(0)),
            ("192.0.3.1:80", None),
            ("[2001:db8::1]:80", Some(5)),
            ("[2001:db8::1]:81", None),
        ] {
            let dialled: SocketAddr = dialled.parse().expect("an address");
            assert_eq!(vips.service(dialled), wanted, "{dialled}");
        }
    }
}
