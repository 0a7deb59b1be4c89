//! Whether this host takes packets to what is steered.
//!
//! Steering chooses a socket for packets that have reached the host's stack. Those to addresses that
//! no interface has reach it by a `local` route only, and where there is none they are forwarded or
//! dropped long before. Whether a host takes an address is its administrator's decision, so the route
//! is not made here, but its absence is told.

use crate::config::model::Config;
use crate::kernel::netlink::Netlink;
use ipnet::IpNet;
use std::fmt;

/// Prefixes that are looked at: each costs a question.
const LOOKED_AT: usize = 64;

/// A steered prefix whose packets do not reach the stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Whose.
    pub listener: String,
    /// The prefix.
    pub prefix: IpNet,
}

impl Missing {
    /// The command that mends it.
    pub fn remedy(&self) -> String {
        let family = match self.prefix {
            IpNet::V4(_) => "ip",
            IpNet::V6(_) => "ip -6",
        };
        format!("{family} route add local {} dev lo", self.prefix)
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { listener, prefix } = self;
        write!(
            f,
            "this host does not take packets to {prefix}, which is steered to listener `{listener}`"
        )
    }
}

/// The steered prefixes whose packets do not reach the stack, of the first ones of a configuration.
/// None where the routes cannot be asked for.
pub fn missing(config: &Config) -> Vec<Missing> {
    let steered = steered(config);
    if steered.is_empty() {
        return Vec::new();
    }
    let Ok(mut netlink) = Netlink::open() else {
        return Vec::new();
    };
    let mut is_taken = |one: &Missing| {
        // The first address of a prefix may be one that only broadcasts have.
        let host = one.prefix.hosts().next().unwrap_or(one.prefix.addr());
        netlink.route(host).is_ok_and(|route| route.local)
    };
    let mut missing = steered;
    missing.retain(|one| !is_taken(one));
    missing
}

/// The first steered prefixes. All addresses are those that the host has, whichever these are.
fn steered(config: &Config) -> Vec<Missing> {
    let http = config.http_listeners.iter();
    let http = http.map(|one| (&one.name, &one.steer));
    let streams = config.stream_listeners.iter();
    let streams = streams.map(|one| (&one.name, &one.steer));
    let prefixes = http.chain(streams).flat_map(|(name, steer)| {
        let addresses = steer.iter().flat_map(|steer| &steer.addresses);
        addresses.map(|prefix| Missing {
            listener: name.clone(),
            prefix: *prefix,
        })
    });
    let prefixes = prefixes.filter(|one| one.prefix.prefix_len() > 0);
    prefixes.take(LOOKED_AT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_is_a_command_of_the_family() {
        let missing = |prefix: &str| Missing {
            listener: "web".to_owned(),
            prefix: prefix.parse().expect("a prefix"),
        };
        let remedy = missing("192.0.2.0/24").remedy();
        assert_eq!(remedy, "ip route add local 192.0.2.0/24 dev lo");
        let remedy = missing("2001:db8::/32").remedy();
        assert_eq!(remedy, "ip -6 route add local 2001:db8::/32 dev lo");
    }
}
