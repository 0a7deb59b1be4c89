//! Hosts and the wires between them.
//!
//! ```text
//!             one-armed                                  two-armed
//!
//!   client   balancer   web-1 …                 client            balancer          web-1 …
//!    eth0      eth0      eth0                    eth0         eth0     eth1       eth0    ret0
//!     └─────────┴─────────┘                       └────────────┘        └──────────┘       │
//!         one segment                             client side          backend side        │
//!                                                       └──────────────────────────────────┘
//!                                                        only for direct server return
//! ```
//!
//! Client and backends are in different subnets in both, so that traffic between them passes the
//! balancer unless a return path is given. Segments are bridges in a namespace of their own.
//! Every host has an IPv4 and an IPv6 address, and clients route the VIPs to the balancer.
//!
//! Two facts about veth shape the set-up. A frame that XDP transmits reaches the peer at once only
//! if the peer has an XDP program too: ports that face a balancer have one. And a local stack leaves checksums and segmentation to the device, which
//! veth in turn leaves undone, so that XDP would send on wrong checksums and giant frames: hosts
//! and ports do both in software.

use crate::bpf::{self, Attached};
use crate::netns::Netns;
use anyhow::Result;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The balancer's address on the client side.
pub const BALANCER_CLIENT_V4: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
/// The balancer's address on the client side.
pub const BALANCER_CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 1);
/// The balancer's address on the backend side.
pub const BALANCER_BACKEND_V4: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 1);
/// The balancer's address on the backend side.
pub const BALANCER_BACKEND_V6: Ipv6Addr = Ipv6Addr::new(0xfd02, 0, 0, 0, 0, 0, 0, 1);
/// A further address of the balancer on the backend side, meant as source of `full-nat`.
pub const SNAT_V4: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 100);
/// A further address of the balancer on the backend side, meant as source of `full-nat`.
pub const SNAT_V6: Ipv6Addr = Ipv6Addr::new(0xfd02, 0, 0, 0, 0, 0, 0, 0x100);
/// How many addresses the client has in each family.
pub const CLIENT_ADDRESSES: u8 = 8;

/// The VIPs that clients route to the balancer: `192.0.2.0/24`.
pub const fn vip_v4(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, host)
}

/// The VIPs that clients route to the balancer: `2001:db8::/64`.
pub const fn vip_v6(host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host as u16)
}

/// The client's addresses, `index` below [`CLIENT_ADDRESSES`].
pub const fn client_v4(index: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 1, 0, 10 + index)
}

/// The client's addresses, `index` below [`CLIENT_ADDRESSES`].
pub const fn client_v6(index: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 0x10 + index as u16)
}

/// How many interfaces the balancer has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// One, `eth0`: packets leave by the interface on which they arrived.
    #[default]
    OneArmed,
    /// `eth0` towards clients and `eth1` towards backends.
    TwoArmed,
}

/// How a backend's packets reach the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReturnPath {
    /// The balancer is the backends' default gateway.
    #[default]
    ThroughBalancer,
    /// Backends have an address in the client's subnet.
    Direct,
    /// Not at all: backends know their own subnet only.
    None,
}

/// What to build.
#[derive(Clone, Debug)]
pub struct TopologySpec {
    /// The balancer's interfaces.
    pub shape: Shape,
    /// The way back.
    pub return_path: ReturnPath,
    /// Number of backends, at most 200.
    pub backends: usize,
    /// MTU of the balancer's and the backends' interfaces on the backend side; needs
    /// [`Shape::TwoArmed`].
    pub backend_mtu: Option<u32>,
    /// VLAN tag that all hosts use.
    pub vlan: Option<u16>,
    /// The balancer transmits by XDP, for which the ports that face it get a program.
    pub xdp: bool,
}

impl Default for TopologySpec {
    fn default() -> Self {
        Self {
            shape: Shape::default(),
            return_path: ReturnPath::default(),
            backends: 3,
            backend_mtu: None,
            vlan: None,
            xdp: true,
        }
    }
}

/// A backend's host.
#[derive(Debug)]
pub struct Node {
    /// `web-1` and so on.
    pub name: String,
    /// Its namespace.
    pub netns: Netns,
    /// Its address on the backend side.
    pub v4: Ipv4Addr,
    /// Its address on the backend side.
    pub v6: Ipv6Addr,
}

impl Node {
    /// Its address of one family.
    pub fn address(&self, v6: bool) -> IpAddr {
        if v6 { self.v6.into() } else { self.v4.into() }
    }

    /// Pulls the host's cable, or plugs it in again.
    ///
    /// # Errors
    ///
    /// `ip` fails.
    pub fn set_link(&self, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        self.netns.ip(&format!("link set eth0 {state}"))
    }
}

/// The hosts, all wired up. Dropping it removes them.
#[derive(Debug)]
pub struct Topology {
    /// Where clients run.
    pub client: Netns,
    /// Where the daemon runs.
    pub balancer: Netns,
    /// Where origins run.
    pub backends: Vec<Node>,
    /// The balancer's interfaces, the client side's first.
    pub balancer_devices: Vec<&'static str>,
    /// Interface on which backends receive.
    pub backend_device: &'static str,
    _programs: Vec<Attached>,
    _switch: Netns,
}

/// The bridge on the client side; the only one when one-armed.
const CLIENT_SIDE: &str = "br0";
/// The bridge on the backend side.
const BACKEND_SIDE: &str = "br1";

impl Topology {
    /// Builds the hosts and the wires.
    ///
    /// # Errors
    ///
    /// Missing privileges or kernel features.
    pub fn build(spec: &TopologySpec) -> Result<Self> {
        let switch = Netns::create("switch")?;
        let mut bridges = String::new();
        for bridge in [CLIENT_SIDE, BACKEND_SIDE] {
            // Snooping would drop neighbour solicitations until it knows the groups.
            writeln!(
                bridges,
                "link add name {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
                 link set {bridge} up"
            )?;
        }
        switch.ip(&bridges)?;
        let mut wiring = Wiring {
            switch: &switch,
            vlan: spec.vlan,
            programs: Vec::new(),
        };

        let client = client(&mut wiring)?;
        let (balancer, balancer_devices) = balancer(&mut wiring, spec)?;
        let backends = (0..spec.backends)
            .map(|index| backend(&mut wiring, spec, index))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            client,
            balancer,
            backends,
            balancer_devices,
            backend_device: "eth0",
            _programs: wiring.programs,
            _switch: switch,
        })
    }
}

/// The wires so far.
struct Wiring<'a> {
    switch: &'a Netns,
    vlan: Option<u16>,
    programs: Vec<Attached>,
}

/// One wire from a host to a bridge.
struct Wire<'a> {
    device: &'a str,
    port: String,
    bridge: &'a str,
    mtu: Option<u32>,
    addresses: Vec<String>,
    /// The host transmits by XDP.
    to_balancer: bool,
}

impl Wiring<'_> {
    /// Plugs a wire into a host.
    fn plug(&mut self, host: &Netns, wire: &Wire<'_>) -> Result<()> {
        let Wire {
            device,
            port,
            bridge,
            ..
        } = wire;
        self.switch.ip(&format!(
            "link add name {port} type veth peer name {device} netns {}\n\
             link set {port} master {bridge} up\n",
            host.name(),
        ))?;
        let mut lines = String::new();
        if let Some(mtu) = wire.mtu {
            writeln!(lines, "link set {device} mtu {mtu}")?;
        }
        writeln!(lines, "link set {device} up")?;
        for address in &wire.addresses {
            let nodad = if address.contains(':') { " nodad" } else { "" };
            writeln!(lines, "addr add {address} dev {device}{nodad}")?;
        }
        host.ip(&lines)?;

        let mut software = vec!["tx", "off", "tso", "off", "gso", "off"];
        if self.vlan.is_some() {
            software.extend(["txvlan", "off", "rxvlan", "off"]);
        }
        host.offloads(device, &software)?;
        self.switch.offloads(port, &software)?;
        if wire.to_balancer {
            let program = self.switch.run(|| bpf::pass_everything(port))?;
            self.programs.push(program);
        }
        if let Some(id) = self.vlan {
            let programs = host.run(|| bpf::speak_vlan(device, id))?;
            self.programs.push(programs);
        }
        Ok(())
    }
}

fn client(wiring: &mut Wiring<'_>) -> Result<Netns> {
    let host = Netns::create("client")?;
    let mut addresses = Vec::new();
    for index in 0..CLIENT_ADDRESSES {
        addresses.push(format!("{}/24", client_v4(index)));
        addresses.push(format!("{}/64", client_v6(index)));
    }
    wiring.plug(
        &host,
        &Wire {
            device: "eth0",
            port: "client".to_owned(),
            bridge: CLIENT_SIDE,
            mtu: None,
            addresses,
            to_balancer: false,
        },
    )?;
    // Of several addresses of a subnet IPv6 may choose any; the tests want to know which.
    host.ip(&format!(
        "route add default via {BALANCER_CLIENT_V4} src {}\n\
         route add default via {BALANCER_CLIENT_V6} src {}\n",
        client_v4(0),
        client_v6(0)
    ))?;
    Ok(host)
}

fn balancer(wiring: &mut Wiring<'_>, spec: &TopologySpec) -> Result<(Netns, Vec<&'static str>)> {
    let host = Netns::create("balancer")?;
    // The FIB lookup of XDP answers only on interfaces that forward.
    host.sysctl("net/ipv4/ip_forward", "1")?;
    host.sysctl("net/ipv6/conf/all/forwarding", "1")?;
    let client_side = vec![
        format!("{BALANCER_CLIENT_V4}/24"),
        format!("{BALANCER_CLIENT_V6}/64"),
    ];
    let backend_side = vec![
        format!("{BALANCER_BACKEND_V4}/24"),
        format!("{SNAT_V4}/24"),
        // The second source of examples/l4-full-nat.yaml.
        "10.2.0.101/24".to_owned(),
        format!("{BALANCER_BACKEND_V6}/64"),
        format!("{SNAT_V6}/64"),
    ];
    let arm = |device, bridge, mtu, addresses| Wire {
        device,
        port: format!("lb-{device}"),
        bridge,
        mtu,
        addresses,
        to_balancer: spec.xdp,
    };
    match spec.shape {
        Shape::OneArmed => {
            let addresses = [client_side, backend_side].concat();
            wiring.plug(&host, &arm("eth0", CLIENT_SIDE, None, addresses))?;
            Ok((host, vec!["eth0"]))
        }
        Shape::TwoArmed => {
            wiring.plug(&host, &arm("eth0", CLIENT_SIDE, None, client_side))?;
            let wire = arm("eth1", BACKEND_SIDE, spec.backend_mtu, backend_side);
            wiring.plug(&host, &wire)?;
            Ok((host, vec!["eth0", "eth1"]))
        }
    }
}

fn backend(wiring: &mut Wiring<'_>, spec: &TopologySpec, index: usize) -> Result<Node> {
    let number = u8::try_from(index + 1)?;
    let name = format!("web-{number}");
    let host = Netns::create(&name)?;
    // A VIP on loopback must not be answered for on the wire, nor used to ask for others.
    host.sysctl("net/ipv4/conf/all/arp_ignore", "1")?;
    host.sysctl("net/ipv4/conf/all/arp_announce", "2")?;
    let v4 = Ipv4Addr::new(10, 2, 0, 20 + number);
    let v6 = Ipv6Addr::new(0xfd02, 0, 0, 0, 0, 0, 0, 0x20 + u16::from(number));
    let mut addresses = vec![format!("{v4}/24"), format!("{v6}/64")];
    let on_client_side = vec![
        format!("10.1.0.{}/24", 20 + number),
        format!("fd01::{:x}/64", 0x20 + u16::from(number)),
    ];
    let direct = spec.return_path == ReturnPath::Direct;
    if direct && spec.shape == Shape::OneArmed {
        addresses.extend(on_client_side.clone());
    }
    let wire = |device, bridge, mtu, addresses| Wire {
        device,
        port: format!("{name}-{device}"),
        bridge,
        mtu,
        addresses,
        to_balancer: false,
    };
    match spec.shape {
        Shape::OneArmed => wiring.plug(&host, &wire("eth0", CLIENT_SIDE, None, addresses))?,
        Shape::TwoArmed => {
            let to_backends = wire("eth0", BACKEND_SIDE, spec.backend_mtu, addresses);
            wiring.plug(&host, &to_backends)?;
            if direct {
                wiring.plug(&host, &wire("ret0", CLIENT_SIDE, None, on_client_side))?;
            }
        }
    }
    if spec.return_path == ReturnPath::ThroughBalancer {
        host.ip(&format!(
            "route add default via {BALANCER_BACKEND_V4}\n\
             route add default via {BALANCER_BACKEND_V6}\n"
        ))?;
    }
    Ok(Node {
        name,
        netns: host,
        v4,
        v6,
    })
}
