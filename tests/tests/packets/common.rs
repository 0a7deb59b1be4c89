//! What the suites share: the ends of the flows they use, and the check of one frame.

use proxy_common::maps::DEFAULT_GUE_PORT;
use proxy_common::reason::Reason;
use proxy_tests::packet::build::Packet;
use proxy_tests::packet::netns;
use proxy_tests::packet::rig::{Action, Outcome, Rig, cpus};
use proxy_tests::packet::service::Served;
use proxy_tests::packet::verify::verify;
use proxy_tests::packet::wire::Link;

/// The ends of a flow, in one address family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    /// A client behind the gateway.
    pub(crate) client: &'static str,
    /// The VIP with its port.
    pub(crate) vip: &'static str,
    /// A backend on the balancer's second link, with a port of its own.
    pub(crate) backend: &'static str,
    /// The same backend with the VIP's port.
    pub(crate) same_port: &'static str,
    /// A second backend on that link, with the VIP's port.
    pub(crate) second: &'static str,
    /// A host on the clients' link, with the VIP's port.
    pub(crate) north: &'static str,
    /// A backend behind a gateway, with the VIP's port.
    pub(crate) routed: &'static str,
    /// A backend behind a route with an MTU of 1400, with the VIP's port.
    pub(crate) narrow: &'static str,
    /// A backend that has no neighbour entry.
    pub(crate) silent: &'static str,
    /// A backend whose route is a black hole.
    pub(crate) lost: &'static str,
    /// A source of full-nat.
    pub(crate) source: &'static str,
}

/// IPv4.
pub(crate) const V4: Ends = Ends {
    client: "198.51.100.7:40000",
    vip: "203.0.113.1:80",
    backend: "10.1.0.2:8080",
    same_port: "10.1.0.2:80",
    second: "10.1.0.3:80",
    north: "192.0.2.10:80",
    routed: "10.2.0.2:80",
    narrow: "10.3.0.2:80",
    silent: "10.1.0.77:80",
    lost: "10.9.0.2:80",
    source: "10.1.0.100",
};

/// IPv6.
pub(crate) const V6: Ends = Ends {
    client: "[2001:db8:c::7]:40000",
    vip: "[2001:db8:f::1]:80",
    backend: "[fd00:1::2]:8080",
    same_port: "[fd00:1::2]:80",
    second: "[fd00:1::3]:80",
    north: "[2001:db8:2::a]:80",
    routed: "[fd00:2::2]:80",
    narrow: "[fd00:3::2]:80",
    silent: "[fd00:1::77]:80",
    lost: "[fd00:9::2]:80",
    source: "fd00:1::100",
};

/// Both families.
pub(crate) const BOTH: [Ends; 2] = [V4, V6];

impl Ends {
    /// A TCP segment (ACK) from the client to the VIP.
    pub(crate) fn tcp(&self) -> Packet {
        Packet::tcp(self.client, self.vip).payload(b"GET / HTTP/1.1\r\n\r\n")
    }

    /// A UDP datagram from the client to the VIP.
    pub(crate) fn udp(&self) -> Packet {
        Packet::udp(self.client, self.vip).payload(b"a question of odd length")
    }

    /// The client's address without its port.
    pub(crate) fn client_address(&self) -> String {
        address_of(self.client)
    }

    /// The VIP without its port.
    pub(crate) fn vip_address(&self) -> String {
        address_of(self.vip)
    }
}

/// The address of `address:port`.
pub(crate) fn address_of(end: &str) -> String {
    let end: std::net::SocketAddr = end.parse().expect("an address with a port");
    end.ip().to_string()
}

/// A rig with small maps.
#[track_caller]
pub(crate) fn rig() -> Rig {
    Rig::new().unwrap_or_else(|error| panic!("{error:#}"))
}

/// Link header of what the balancer sends to a backend on its second link.
pub(crate) fn to_backend(last: u8) -> Link {
    Link::new(netns::backend(last), netns::SOUTH)
}

/// Link header of what the balancer sends through the second link's gateway.
pub(crate) fn to_south_gateway() -> Link {
    Link::new(netns::SOUTH_GATEWAY, netns::SOUTH)
}

/// Link header of what the balancer sends to a host on the clients' link.
pub(crate) fn to_north(last: u8) -> Link {
    Link::new(netns::north_host(last), netns::NORTH)
}

/// Link header of what the balancer sends to the clients' gateway.
pub(crate) fn to_client() -> Link {
    Link::new(netns::GATEWAY, netns::NORTH)
}

/// Runs a frame; whatever is sent must be a valid frame, nothing may be aborted, and exactly one
/// reason is counted.
#[track_caller]
pub(crate) fn run(rig: &mut Rig, frame: &[u8]) -> Outcome {
    let outcome = rig.run(frame).unwrap_or_else(|error| panic!("{error:#}"));
    assert_ne!(outcome.action, Action::Aborted, "aborted:\n{}", hex(frame));
    let _one = outcome.reason();
    let sent = matches!(outcome.action, Action::Tx | Action::Redirect);
    if sent && let Err(fault) = verify(&outcome.frame, DEFAULT_GUE_PORT) {
        panic!("{fault} in\n{}\nfrom\n{}", hex(&outcome.frame), hex(frame));
    }
    outcome
}

/// The live flows of all backends of a service.
pub(crate) fn live(rig: &Rig, served: &Served) -> i64 {
    let backends = served.backends.iter();
    backends.map(|id| rig.live(*id).unwrap()).sum()
}

/// Runs a frame and compares everything: action, reason, octets.
#[track_caller]
pub(crate) fn expect(rig: &mut Rig, frame: &[u8], action: Action, reason: Reason, expected: &[u8]) {
    let outcome = run(rig, frame);
    assert_eq!(
        (outcome.action, outcome.reason()),
        (action, reason),
        "\n{}",
        hex(frame)
    );
    same(&outcome.frame, expected);
}

/// Runs a frame that must be refused or passed unchanged.
#[track_caller]
pub(crate) fn refuse(rig: &mut Rig, frame: &[u8], reason: Reason) {
    let outcome = run(rig, frame);
    let action = match reason.outcome() {
        proxy_common::reason::Outcome::Pass => Action::Pass,
        proxy_common::reason::Outcome::Drop => Action::Drop,
        proxy_common::reason::Outcome::Forward => panic!("{reason:?} sends the packet"),
    };
    assert_eq!(
        (outcome.action, outcome.reason()),
        (action, reason),
        "\n{}",
        hex(frame)
    );
    if action == Action::Pass {
        same(&outcome.frame, frame);
    }
}

/// Compares two frames and shows where they differ.
#[track_caller]
pub(crate) fn same(found: &[u8], expected: &[u8]) {
    if found == expected {
        return;
    }
    let at = found.iter().zip(expected).position(|(a, b)| a != b);
    panic!(
        "frames differ {} (lengths {} and {})\nfound\n{}\nexpected\n{}",
        at.map_or("in length".into(), |at| format!("at octet {at}")),
        found.len(),
        expected.len(),
        hex(found),
        hex(expected)
    );
}

/// Octets as text, sixteen a line.
pub(crate) fn hex(octets: &[u8]) -> String {
    let line = |(index, line): (usize, &[u8])| {
        let octets: Vec<String> = line.iter().map(|octet| format!("{octet:02x}")).collect();
        format!("  {:04x}  {}", index * 16, octets.join(" "))
    };
    octets
        .chunks(16)
        .enumerate()
        .map(line)
        .collect::<Vec<_>>()
        .join("\n")
}

/// Moves the test to the next CPU. With one CPU there is nothing to test.
pub(crate) fn move_on(rig: &mut Rig) -> bool {
    let count = cpus().unwrap() as usize;
    if count < 2 {
        println!("one CPU only: nothing to test");
        return false;
    }
    rig.cpu = (rig.cpu + 1) % count;
    netns::pin_to_cpu(rig.cpu).unwrap();
    true
}
