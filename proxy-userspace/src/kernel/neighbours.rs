//! Keeps the next hops to backends resolved, and finds the addresses that tunnels start from.
//!
//! XDP can look a neighbour up but not resolve one, and packets that it forwards do not keep an
//! entry fresh. So the addresses of all backends are handed to the kernel every few seconds as if
//! a packet were sent to them: it resolves what is missing and confirms what has become stale.

use super::netlink::{Netlink, NetlinkError, Route};
use netlink_packet_route::neighbour::NeighbourState;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

/// How often [`Neighbours::refresh`] should be called.
pub const REFRESH_INTERVAL: Duration = Duration::from_secs(3);

/// The discard port (RFC 863): where a datagram goes whose only purpose is to have the kernel
/// resolve the next hop.
const DISCARD_PORT: u16 = 9;

/// What a neighbour entry needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// It is confirmed.
    Nothing,
    /// It can be used, but should be confirmed.
    Confirm,
    /// It cannot be used yet.
    Resolve,
}

/// Judges an entry. RFC 4861 §7.3.2 calls entries usable up to and including PROBE.
fn need(state: Option<NeighbourState>) -> Need {
    match state {
        Some(NeighbourState::Reachable | NeighbourState::Permanent | NeighbourState::Noarp) => {
            Need::Nothing
        }
        Some(NeighbourState::Stale) => Need::Confirm,
        // The kernel is at it.
        Some(NeighbourState::Delay | NeighbourState::Probe) => Need::Nothing,
        _ => Need::Resolve,
    }
}

/// How a refresh went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NeighbourReport {
    /// Backends whose next hop can be used.
    pub resolved: usize,
    /// Backends whose next hop is being resolved.
    pub pending: Vec<IpAddr>,
    /// Backends that there is no route to.
    pub unroutable: Vec<IpAddr>,
}

/// The backends whose next hops are kept.
#[derive(Debug, Default)]
pub struct Neighbours {
    backends: BTreeSet<IpAddr>,
}

impl Neighbours {
    /// Replaces the backends.
    pub fn set(&mut self, backends: impl IntoIterator<Item = IpAddr>) {
        self.backends = backends.into_iter().collect();
    }

    /// Resolves and confirms what needs it. Takes some 50 µs per backend.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::Socket`]; what concerns one backend only is in the report.
    pub fn refresh(&self) -> Result<NeighbourReport, NetlinkError> {
        let mut netlink = Netlink::open()?;
        let mut report = NeighbourReport::default();
        let mut asked = BTreeSet::new();
        for &backend in &self.backends {
            let route = match netlink.route(backend) {
                Ok(route) => route,
                Err(error @ NetlinkError::Socket { .. }) => return Err(error),
                Err(_) => {
                    report.unroutable.push(backend);
                    continue;
                }
            };
            if route.local {
                report.resolved += 1;
                continue;
            }
            let state = netlink
                .neighbour(route.ifindex, route.next_hop)
                .unwrap_or_default();
            let need = need(state);
            if need == Need::Resolve {
                report.pending.push(backend);
            } else {
                report.resolved += 1;
            }
            // Many backends may be behind one gateway.
            if need != Need::Nothing && asked.insert((route.ifindex, route.next_hop)) {
                ask(&mut netlink, &route);
            }
        }
        Ok(report)
    }
}

/// Has the kernel resolve a next hop; a datagram does it where netlink is not allowed to.
fn ask(netlink: &mut Netlink, route: &Route) {
    if let Err(error) = netlink.resolve(route.ifindex, route.next_hop) {
        tracing::debug!(%error, next_hop = %route.next_hop, "asking by datagram instead");
        if let Err(error) = send_datagram(route.next_hop) {
            tracing::debug!(%error, next_hop = %route.next_hop, "cannot ask for a neighbour");
        }
    }
}

fn send_datagram(to: IpAddr) -> std::io::Result<()> {
    let any: IpAddr = match to {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    UdpSocket::bind(SocketAddr::new(any, 0))?
        .send_to(&[], SocketAddr::new(to, DISCARD_PORT))
        .map(drop)
}

/// The address that this host would send from to reach `to`: the source of a tunnel's outer
/// header where none is configured.
///
/// # Errors
///
/// [`NetlinkError`] if there is no route; `Ok(None)` if the route names no source.
pub fn source_for(to: IpAddr) -> Result<Option<IpAddr>, NetlinkError> {
    Ok(Netlink::open()?.route(to)?.source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_entries_are_confirmed_and_missing_ones_resolved() {
        assert_eq!(need(None), Need::Resolve);
        assert_eq!(need(Some(NeighbourState::Failed)), Need::Resolve);
        assert_eq!(need(Some(NeighbourState::Incomplete)), Need::Resolve);
        assert_eq!(need(Some(NeighbourState::Stale)), Need::Confirm);
        assert_eq!(need(Some(NeighbourState::Reachable)), Need::Nothing);
        assert_eq!(need(Some(NeighbourState::Permanent)), Need::Nothing);
    }

    #[test]
    fn this_hosts_own_addresses_need_no_neighbour() {
        let mut neighbours = Neighbours::default();
        neighbours.set(["127.0.0.1".parse().unwrap()]);
        let report = neighbours.refresh().unwrap();
        assert_eq!((report.resolved, report.pending.len()), (1, 0));
    }

    #[test]
    fn the_source_towards_loopback_is_loopback() {
        let source = source_for("127.0.0.5".parse().unwrap()).unwrap();
        assert!(source.is_some_and(|source| source.is_loopback()));
    }
}
