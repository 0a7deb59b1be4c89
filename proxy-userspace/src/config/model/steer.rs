//! Steering: which listener gets what comes to addresses and ports that nobody is bound to.
//!
//! What is looked up here is what the kernel looks up (`proxy_common::steer`), so that the order of
//! precedence is decided once:
//!
//! 1. a single port, by the longest prefix of the address;
//! 2. a range of ports, by the longest prefix of the address whose ranges have the port.
//!
//! The kernel looks for steered sockets before it looks for bound ones. So that a wide prefix takes
//! nothing from a listener beside it, what listeners are bound to is steered as well, as a single
//! port of one address or of all: it is then found by the same order. The same holds for
//! `admin.listen`, which is left to the ordinary lookup.

use super::Config;
use super::http::{HttpListener, StreamListener};
use crate::types::Protocol;
use ipnet::IpNet;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// What a listener gets besides what it is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steer {
    /// Addresses and prefixes.
    pub addresses: Vec<IpNet>,
    /// Ports of all of them; ranges do not overlap.
    pub ports: Vec<PortRange>,
    /// What happens while nobody serves the listener.
    pub on_failure: OnFailure,
}

/// What becomes of a connection or datagram whose listener has no socket, because the daemon is
/// gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// Refused: no other socket gets it.
    Closed,
    /// Left to the ordinary lookup: it is for whoever is bound there.
    Open,
}

impl OnFailure {
    /// The word in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
        }
    }
}

/// Ports that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortRange {
    /// The first.
    pub first: u16,
    /// The last, at least `first`.
    pub last: u16,
}

impl PortRange {
    /// One port.
    pub const fn one(port: u16) -> Self {
        Self {
            first: port,
            last: port,
        }
    }

    /// The port, if it is one.
    pub fn single(self) -> Option<u16> {
        (self.first == self.last).then_some(self.first)
    }

    /// True if it has the port.
    pub fn has(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.single() {
            Some(port) => write!(f, "{port}"),
            None => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

/// Name of what `admin.listen` is bound to; no listener can have it.
pub const ADMIN: &str = "(admin)";

/// Who gets something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steered {
    /// Name of the listener, or [`ADMIN`].
    pub name: String,
    /// The protocol.
    pub protocol: Protocol,
    /// What happens while it has no socket.
    pub on_failure: OnFailure,
    /// True if it has bindings of its own, besides what it is bound to.
    pub is_steered: bool,
}

/// Ranges of ports, and the index of who gets them; they do not overlap.
pub type Ranges = Vec<(PortRange, usize)>;

/// All bindings of a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bindings {
    /// Who gets something.
    pub steered: Vec<Steered>,
    /// Single ports: protocol, prefix and port, and the index of who gets them.
    pub ports: HashMap<(Protocol, IpNet, u16), usize>,
    /// Ranges of ports by protocol and prefix, with those of shorter prefixes for the ports that the
    /// own ones have not.
    pub ranges: BTreeMap<(Protocol, IpNet), Ranges>,
    /// Bindings that the file has: one for each address or prefix and each port or range.
    pub count: usize,
}

/// The binding that is for an address and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Index of who gets it.
    pub index: usize,
    /// The prefix that decided.
    pub prefix: IpNet,
    /// The ports.
    pub ports: PortRange,
}

impl Found {
    /// True if it is what a socket with this address is bound to.
    pub fn is_of(&self, bound: SocketAddr) -> bool {
        self.prefix == own_prefix(bound.ip()) && self.ports == PortRange::one(bound.port())
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { prefix, ports, .. } = self;
        let word = match ports.single() {
            Some(_) => "port",
            None => "ports",
        };
        write!(f, "`steer`: {prefix}, {word} {ports}")
    }
}

impl Bindings {
    /// The bindings of a configuration; none if nothing is steered.
    pub fn of(config: &Config) -> Self {
        let http = config.http_listeners.iter().map(Listening::http);
        let streams = config.stream_listeners.iter().map(Listening::stream);
        let mut all: Vec<_> = http.chain(streams).collect();
        all.extend(config.admin.listen.map(Listening::admin));
        Self::build(&all)
    }

    pub(crate) fn build(all: &[Listening<'_>]) -> Self {
        let is_used = |protocol| {
            let mut steering = all.iter().filter(|one| one.steer.is_some());
            steering.any(|one| one.protocol == protocol)
        };
        let mut bindings = Self::default();
        let mut own: BTreeMap<(Protocol, IpNet), Ranges> = BTreeMap::new();
        for listening in all.iter().filter(|one| is_used(one.protocol)) {
            let index = bindings.steered.len();
            bindings.steered.push(listening.steered());
            let protocol = listening.protocol;
            if let Some((prefix, port)) = listening.own() {
                bindings
                    .ports
                    .entry((protocol, prefix, port))
                    .or_insert(index);
            }
            let Some(steer) = listening.steer else {
                continue;
            };
            bindings.count += steer.addresses.len() * steer.ports.len();
            for &prefix in &steer.addresses {
                for &range in &steer.ports {
                    match range.single() {
                        Some(port) => {
                            let key = (protocol, prefix, port);
                            bindings.ports.entry(key).or_insert(index);
                        }
                        None => own
                            .entry((protocol, prefix))
                            .or_default()
                            .push((range, index)),
                    }
                }
            }
        }
        bindings.ranges = nested(own);
        bindings
    }

    /// The binding that is for an address and port, if there is one.
    pub fn find(&self, protocol: Protocol, address: SocketAddr) -> Option<Found> {
        let (ip, port) = (address.ip(), address.port());
        let prefixes = || covering(ip).map(move |prefix| (protocol, prefix));
        let by_port = prefixes().find_map(|(protocol, prefix)| {
            let index = *self.ports.get(&(protocol, prefix, port))?;
            Some(Found {
                index,
                prefix,
                ports: PortRange::one(port),
            })
        });
        by_port.or_else(|| {
            // The longest prefix has what the shorter ones have.
            let key = prefixes().find(|key| self.ranges.contains_key(key))?;
            let mut ranges = self.ranges.get(&key)?.iter();
            let &(ports, index) = ranges.find(|(range, _)| range.has(port))?;
            Some(Found {
                index,
                prefix: key.1,
                ports,
            })
        })
    }

    /// Whether a listener takes connections at more than one address and port of its own.
    pub fn is_steered(&self, name: &str) -> bool {
        let mut steered = self.steered.iter().filter(|one| one.is_steered);
        steered.any(|one| one.name == name)
    }
}

impl Config {
    /// True if something is steered to a listener.
    pub fn steers(&self) -> bool {
        let mut http = self.http_listeners.iter();
        let mut streams = self.stream_listeners.iter();
        http.any(|one| one.steer.is_some()) || streams.any(|one| one.steer.is_some())
    }
}

/// Prefixes that an address is in, the longest first.
fn covering(ip: IpAddr) -> impl Iterator<Item = IpNet> {
    let longest = IpNet::from(ip).max_prefix_len();
    (0..=longest)
        .rev()
        .filter_map(move |length| Some(IpNet::new(ip, length).ok()?.trunc()))
}

/// Lays the ranges of shorter prefixes under those of longer ones.
fn nested(own: BTreeMap<(Protocol, IpNet), Ranges>) -> BTreeMap<(Protocol, IpNet), Ranges> {
    let mut done: BTreeMap<(Protocol, IpNet), Ranges> = BTreeMap::new();
    // The prefixes around the present one, the shortest first: the order of the map is that of
    // their first addresses, and of two that have the same the shorter comes first.
    let mut around: Vec<(Protocol, IpNet)> = Vec::new();
    for (key, mut ranges) in own {
        while let Some(&(protocol, outer)) = around.last()
            && !(protocol == key.0 && outer.contains(&key.1))
        {
            around.pop();
        }
        ranges.sort_unstable();
        let below = around.last().and_then(|outer| done.get(outer));
        let laid = below.map_or_else(|| ranges.clone(), |below| over(&ranges, below));
        done.insert(key, laid);
        around.push(key);
    }
    done
}

/// The ranges on top, and those below for the ports that are left.
fn over(top: &Ranges, below: &Ranges) -> Ranges {
    let mut all = top.clone();
    for &(range, index) in below {
        let mut first = u32::from(range.first);
        let last = u32::from(range.last);
        let mut left = |first: u32, end: u32| {
            if first < end {
                // Both are ports, `end` is one further.
                let range = PortRange {
                    first: first as u16,
                    last: (end - 1) as u16,
                };
                all.push((range, index));
            }
        };
        for (taken, _) in top {
            let (from, to) = (u32::from(taken.first), u32::from(taken.last));
            if to < first || from > last {
                continue;
            }
            left(first, from);
            first = first.max(to + 1);
        }
        left(first, last + 1);
    }
    all.sort_unstable();
    all
}

/// A listener, as far as it matters here.
#[derive(Clone, Copy)]
pub(crate) struct Listening<'c> {
    pub(crate) name: &'c str,
    pub(crate) protocol: Protocol,
    pub(crate) address: SocketAddr,
    pub(crate) steer: Option<&'c Steer>,
}

impl<'c> Listening<'c> {
    pub(crate) fn http(listener: &'c HttpListener) -> Self {
        Self {
            name: &listener.name,
            protocol: Protocol::Tcp,
            address: listener.address,
            steer: listener.steer.as_ref(),
        }
    }

    pub(crate) fn stream(listener: &'c StreamListener) -> Self {
        Self {
            name: &listener.name,
            protocol: listener.protocol,
            address: listener.address,
            steer: listener.steer.as_ref(),
        }
    }

    fn admin(address: SocketAddr) -> Self {
        Self {
            name: ADMIN,
            protocol: Protocol::Tcp,
            address,
            steer: None,
        }
    }

    fn steered(self) -> Steered {
        Steered {
            name: self.name.to_owned(),
            protocol: self.protocol,
            // Where nothing but its own address is steered, that is as if nothing were.
            on_failure: self.steer.map_or(OnFailure::Open, |steer| steer.on_failure),
            is_steered: self.steer.is_some(),
        }
    }

    /// What it is bound to.
    fn own(self) -> Option<(IpNet, u16)> {
        let ip = self.address.ip();
        let prefix = own_prefix(ip);
        (self.address.port() != 0).then_some((prefix, self.address.port()))
    }
}

/// The addresses that a socket which is bound to this one has.
pub fn own_prefix(ip: IpAddr) -> IpNet {
    match ip.is_unspecified() {
        // An unspecified address of no length is valid.
        true => IpNet::new(ip, 0).unwrap_or_else(|_| IpNet::from(ip)),
        false => IpNet::from(ip),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steer(addresses: &[&str], ports: &[(u16, u16)]) -> Steer {
        let parse = |text: &&str| text.parse().expect("a prefix");
        let ports = ports.iter();
        Steer {
            addresses: addresses.iter().map(parse).collect(),
            ports: ports
                .map(|&(first, last)| PortRange { first, last })
                .collect(),
            on_failure: OnFailure::Closed,
        }
    }

    fn listening<'c>(name: &'c str, address: &str, steer: Option<&'c Steer>) -> Listening<'c> {
        Listening {
            name,
            protocol: Protocol::Tcp,
            address: address.parse().expect("an address"),
            steer,
        }
    }

    fn who<'b>(bindings: &'b Bindings, address: &str) -> Option<&'b str> {
        let address = address.parse().expect("an address");
        let found = bindings.find(Protocol::Tcp, address)?;
        Some(&bindings.steered[found.index].name)
    }

    #[test]
    fn exact_comes_before_prefix_before_range_before_wildcard() {
        let exact = steer(&["192.0.2.7/32"], &[(80, 80)]);
        let prefix = steer(&["192.0.2.0/24"], &[(80, 80)]);
        let range = steer(&["192.0.2.7/32"], &[(1, 65535)]);
        let wide = steer(&["0.0.0.0/0"], &[(8000, 8999)]);
        let all = [
            listening("wide", "127.0.0.1:4", Some(&wide)),
            listening("range", "127.0.0.1:3", Some(&range)),
            listening("prefix", "127.0.0.1:2", Some(&prefix)),
            listening("exact", "127.0.0.1:1", Some(&exact)),
        ];
        let bindings = Bindings::build(&all);
        assert_eq!(who(&bindings, "192.0.2.7:80"), Some("exact"));
        assert_eq!(who(&bindings, "192.0.2.8:80"), Some("prefix"));
        assert_eq!(who(&bindings, "192.0.2.7:8500"), Some("range"));
        assert_eq!(who(&bindings, "192.0.2.8:8500"), Some("wide"));
        assert_eq!(who(&bindings, "192.0.2.8:9000"), None);
        assert_eq!(who(&bindings, "[2001:db8::1]:8500"), None);
        assert_eq!(who(&bindings, "127.0.0.1:2"), Some("prefix"));
        assert_eq!(bindings.count, 4);
    }

    #[test]
    fn a_longer_prefix_leaves_the_ports_that_it_has_not_to_shorter_ones() {
        let wide = steer(&["10.0.0.0/8"], &[(100, 199), (300, 65535)]);
        let narrow = steer(&["10.1.0.0/16"], &[(150, 349)]);
        let other = steer(&["10.0.0.0/16", "10.1.2.0/24"], &[(1, 2)]);
        let all = [
            listening("other", "127.0.0.1:3", Some(&other)),
            listening("narrow", "127.0.0.1:2", Some(&narrow)),
            listening("wide", "127.0.0.1:1", Some(&wide)),
        ];
        let bindings = Bindings::build(&all);
        for (address, wanted) in [
            ("10.1.0.1:149", Some("wide")),
            ("10.1.0.1:150", Some("narrow")),
            ("10.1.0.1:349", Some("narrow")),
            ("10.1.0.1:350", Some("wide")),
            ("10.1.0.1:65535", Some("wide")),
            ("10.2.0.1:200", None),
            ("10.1.2.3:1", Some("other")),
            ("10.1.2.3:200", Some("narrow")),
            ("10.0.9.9:150", Some("wide")),
            ("10.0.9.9:2", Some("other")),
        ] {
            assert_eq!(who(&bindings, address), wanted, "{address}");
        }
    }

    #[test]
    fn what_others_are_bound_to_stays_theirs() {
        let wide = steer(&["0.0.0.0/0"], &[(1, 65535)]);
        let all = [
            listening("wide", "127.0.0.1:9", Some(&wide)),
            listening("web", "0.0.0.0:80", None),
            listening("api", "192.0.2.1:8080", None),
            Listening::admin("127.0.0.1:9999".parse().expect("an address")),
        ];
        let bindings = Bindings::build(&all);
        assert_eq!(who(&bindings, "10.0.0.1:80"), Some("web"));
        assert_eq!(who(&bindings, "192.0.2.1:8080"), Some("api"));
        assert_eq!(who(&bindings, "192.0.2.2:8080"), Some("wide"));
        assert_eq!(who(&bindings, "127.0.0.1:9999"), Some(ADMIN));
        assert!(bindings.is_steered("wide") && !bindings.is_steered("web"));
    }

    #[test]
    fn without_steering_there_is_nothing() {
        let all = [listening("web", "0.0.0.0:80", None)];
        assert_eq!(Bindings::build(&all), Bindings::default());
    }

    /// Against the order of precedence, said once more and slowly.
    #[test]
    fn random_bindings_are_found_as_the_order_says() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..200 {
            let steers: Vec<Steer> = (0..6)
                .map(|_| {
                    let length = random.u8(24..=32);
                    let ip = std::net::Ipv4Addr::new(10, 0, 0, random.u8(..));
                    let prefix = IpNet::new(ip.into(), length).expect("a length").trunc();
                    let first = random.u16(1..40);
                    let last = first + if random.bool() { 0 } else { random.u16(1..20) };
                    Steer {
                        addresses: vec![prefix],
                        ports: vec![PortRange { first, last }],
                        on_failure: OnFailure::Open,
                    }
                })
                .collect();
            let names: Vec<String> = (0..6).map(|index| format!("l{index}")).collect();
            let all: Vec<_> = (names.iter().zip(&steers))
                .map(|(name, steer)| listening(name, "127.0.0.1:0", Some(steer)))
                .collect();
            let overlaps = (0..6).any(|a| (0..a).any(|b| clash(&steers[a], &steers[b])));
            if overlaps {
                continue;
            }
            let bindings = Bindings::build(&all);
            for _ in 0..50 {
                let ip = std::net::Ipv4Addr::new(10, 0, 0, random.u8(..));
                let address = SocketAddr::new(ip.into(), random.u16(1..60));
                let fits = |steer: &&Steer| {
                    steer.addresses[0].contains(&address.ip()) && steer.ports[0].has(address.port())
                };
                let best = steers.iter().filter(fits).max_by_key(|steer| {
                    let is_single = steer.ports[0].single().is_some();
                    (is_single, steer.addresses[0].prefix_len())
                });
                let found = bindings.find(Protocol::Tcp, address);
                let found = found.map(|found| &steers[found.index]);
                assert_eq!(found, best, "{address} of {steers:?}");
            }
        }
    }

    fn clash(one: &Steer, other: &Steer) -> bool {
        let (a, b) = (one.ports[0], other.ports[0]);
        one.addresses == other.addresses
            && a.single().is_some() == b.single().is_some()
            && a.first <= b.last
            && b.first <= a.last
    }
}
