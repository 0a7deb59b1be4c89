//! The whole stage of a namespace suite: hosts, origins, decapsulation, daemon.

use crate::client::Client;
use crate::config::{self, BACKEND_ECHO_PORT, BACKEND_WEB_PORT, ECHO_PORT, WEB_PORT};
use crate::daemon::{Daemon, Decapsulator};
use crate::losses::{self, TcpCounters};
use crate::origin::Origin;
use crate::path::Path;
use crate::topology::{ReturnPath, Shape, Topology, TopologySpec, vip_v4, vip_v6};
use anyhow::{Result, ensure};
use proxy_common::service::Mode;
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};

/// What to set up; see [`Stage::new`].
pub struct StageSpec {
    path: Path,
    topology: TopologySpec,
    edits: Vec<Edit>,
    extra_tcp_ports: Vec<u16>,
    extra_udp_ports: Vec<u16>,
    extra_vips: Vec<IpAddr>,
    daemon_args: Vec<String>,
}

/// A change of the configuration before the daemon sees it.
type Edit = Box<dyn FnOnce(&mut Value)>;

impl StageSpec {
    /// The balancer's interfaces.
    pub fn shape(mut self, shape: Shape) -> Self {
        self.topology.shape = shape;
        self
    }

    /// How many backends.
    pub fn backends(mut self, count: usize) -> Self {
        self.topology.backends = count;
        self
    }

    /// Two arms, and this MTU between the balancer and the backends.
    pub fn backend_mtu(mut self, mtu: u32) -> Self {
        self.topology.shape = Shape::TwoArmed;
        self.topology.backend_mtu = Some(mtu);
        self
    }

    /// All hosts behind this VLAN tag.
    pub fn vlan(mut self, id: u16) -> Self {
        self.topology.vlan = Some(id);
        self
    }

    /// Changes the configuration.
    pub fn config(mut self, edit: impl FnOnce(&mut Value) + 'static) -> Self {
        self.edits.push(Box::new(edit));
        self
    }

    /// Origins also listen here.
    pub fn tcp_ports(mut self, ports: &[u16]) -> Self {
        self.extra_tcp_ports.extend(ports);
        self
    }

    /// Backends' UDP echoes also listen here, at the backends' own addresses.
    pub fn udp_ports(mut self, ports: &[u16]) -> Self {
        self.extra_udp_ports.extend(ports);
        self
    }

    /// Backends have these VIPs too.
    pub fn vips(mut self, vips: &[IpAddr]) -> Self {
        self.extra_vips.extend(vips);
        self
    }

    /// Further arguments of `sluice run`.
    pub fn daemon_args(mut self, args: &[&str]) -> Self {
        self.daemon_args
            .extend(args.iter().map(|&arg| arg.to_owned()));
        self
    }

    /// Sets everything up but the daemon.
    ///
    /// # Errors
    ///
    /// Missing privileges or kernel features.
    pub fn build(self) -> Result<Stage> {
        let topology = Topology::build(&self.topology)?;
        let path = self.path;
        let vip = vip(path);
        let mut tcp_ports = vec![WEB_PORT, BACKEND_WEB_PORT];
        tcp_ports.extend(self.extra_tcp_ports);
        let mut origins = Vec::new();
        for node in &topology.backends {
            let own = node.address(path.backend_is_v6());
            let mut udp = vec![SocketAddr::new(own, BACKEND_ECHO_PORT)];
            let extra = self.extra_udp_ports.iter();
            udp.extend(extra.map(|&port| SocketAddr::new(own, port)));
            for &vip in &self.extra_vips {
                add_vip(&node.netns, vip)?;
            }
            if path.mode.is_dsr() {
                add_vip(&node.netns, vip)?;
                udp.push(SocketAddr::new(vip, ECHO_PORT));
            }
            origins.push(Origin::start(&node.netns, &node.name, &tcp_ports, &udp)?);
        }
        if path.mode == Mode::Local {
            add_vip(&topology.balancer, vip)?;
            let udp = [SocketAddr::new(vip, ECHO_PORT)];
            let origin = Origin::start(&topology.balancer, "balancer", &tcp_ports, &udp)?;
            origins.push(origin);
        }
        let mut config = config::config(path, &topology, vip);
        for edit in self.edits {
            edit(&mut config);
        }
        Ok(Stage {
            config,
            path,
            vip,
            daemon_args: self.daemon_args,
            quiet: false,
            daemon: None,
            decapsulators: Vec::new(),
            origins,
            topology,
        })
    }

    /// Sets everything up, the daemon too, and waits until it is ready and all backends are up.
    ///
    /// # Errors
    ///
    /// As [`Self::build`], or the daemon does not become ready.
    pub fn start(self) -> Result<Stage> {
        let mut stage = self.build()?;
        stage.start_decapsulators()?;
        stage.start_daemon()?;
        Ok(stage)
    }
}

/// The VIP of a path.
fn vip(path: Path) -> IpAddr {
    if path.client_is_v6() {
        vip_v6(0x10).into()
    } else {
        vip_v4(10).into()
    }
}

/// Gives a host the VIP, on loopback.
fn add_vip(host: &crate::netns::Namespace, vip: IpAddr) -> Result<()> {
    match vip {
        IpAddr::V4(vip) => host.ip(&format!("addr add {vip}/32 dev lo")),
        IpAddr::V6(vip) => host.ip(&format!("addr add {vip}/128 dev lo nodad")),
    }
}

/// Hosts, origins and daemon. Dropping it undoes everything.
#[derive(Debug)]
pub struct Stage {
    /// What the daemon is or will be started with.
    pub config: Value,
    /// Which way packets take.
    pub path: Path,
    vip: IpAddr,
    daemon_args: Vec<String>,
    quiet: bool,
    // In the order in which they are to be dropped.
    daemon: Option<Daemon>,
    decapsulators: Vec<Decapsulator>,
    /// One on each backend; for `local` one on the balancer, the last.
    pub origins: Vec<Origin>,
    /// The hosts.
    pub topology: Topology,
}

impl Stage {
    /// A one-armed stage with three backends for this path, with the return path that its mode
    /// needs: through the balancer (`nat`), none (`full-nat`), direct (the DSR modes).
    #[expect(
        clippy::new_ret_no_self,
        reason = "the specification is where a stage begins"
    )]
    pub fn new(path: Path) -> StageSpec {
        let return_path = match path.mode {
            Mode::Nat => ReturnPath::ThroughBalancer,
            Mode::FullNat | Mode::Local => ReturnPath::None,
            Mode::DsrL2 | Mode::DsrIpip | Mode::DsrGue => ReturnPath::Direct,
        };
        StageSpec {
            path,
            topology: TopologySpec {
                return_path,
                backends: if path.mode == Mode::Local { 0 } else { 3 },
                ..TopologySpec::default()
            },
            edits: Vec::new(),
            extra_tcp_ports: Vec::new(),
            extra_udp_ports: Vec::new(),
            extra_vips: Vec::new(),
            daemon_args: Vec::new(),
        }
    }

    /// Starts `sluice decap` on every backend, if the mode has tunnels.
    ///
    /// # Errors
    ///
    /// One of them does not attach.
    pub fn start_decapsulators(&mut self) -> Result<()> {
        if self.path.is_tunnel() {
            let device = self.topology.backend_device;
            for node in &self.topology.backends {
                self.decapsulators
                    .push(Decapsulator::start(&node.netns, device)?);
            }
        }
        Ok(())
    }

    /// Starts the daemon with [`Self::config`] and waits until it is ready and no backend is down.
    ///
    /// # Errors
    ///
    /// It does not become ready.
    pub fn start_daemon(&mut self) -> Result<()> {
        let args: Vec<&str> = self.daemon_args.iter().map(String::as_str).collect();
        let daemon = Daemon::prepare(&self.topology.balancer, &self.config, &args)?;
        let daemon = self.daemon.insert(daemon);
        daemon.run()?;
        daemon.wait_until("every backend is up", |view| {
            let mut backends = view.services.iter().flat_map(|service| &service.backends);
            backends.all(|backend| backend.state == "up")
        })
    }

    /// The daemon.
    ///
    /// # Panics
    ///
    /// If it was never started.
    pub fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("the stage has a daemon")
    }

    /// The daemon, to kill it or to start it again.
    ///
    /// # Panics
    ///
    /// If it was never started.
    pub fn daemon_mut(&mut self) -> &mut Daemon {
        self.daemon.as_mut().expect("the stage has a daemon")
    }

    /// Checks that no packet was lost so far: the balancer dropped none and left none to the stack,
    /// and the client had to send no SYN again.
    ///
    /// # Errors
    ///
    /// Says how many of which kind were.
    pub fn expect_no_loss(&self) -> Result<()> {
        let lost = losses::lost(self.daemon().pin_dir())?;
        ensure!(lost.is_empty(), "the balancer lost packets: {lost:?}");
        let tcp = TcpCounters::read(&self.topology.client)?;
        ensure!(tcp.syns_sent_again() == 0, "packets were lost:{tcp}");
        Ok(())
    }

    /// What became of packets, as far as counters tell.
    fn print_losses(&self) {
        if let Ok(tcp) = TcpCounters::read(&self.topology.client) {
            println!("--- the client's TCP:{tcp}");
        }
        if let Some(Ok(lost)) = self.daemon.as_ref().map(|d| losses::lost(d.pin_dir())) {
            println!("--- dropped or left to the stack: {lost:?}");
        }
    }

    /// Keeps daemon and decapsulators from printing their logs at the end.
    pub fn set_quiet(&mut self) {
        self.quiet = true;
        if let Some(daemon) = &mut self.daemon {
            daemon.set_quiet();
        }
        for decapsulator in &mut self.decapsulators {
            decapsulator.set_quiet();
        }
    }

    /// The client, with its first address.
    pub fn client(&self) -> Client {
        Client::new(&self.topology.client)
    }

    /// The VIP.
    pub fn vip(&self) -> IpAddr {
        self.vip
    }

    /// Address and port of the TCP service.
    pub fn web(&self) -> SocketAddr {
        SocketAddr::new(self.vip, WEB_PORT)
    }

    /// Address and port of the UDP echo.
    pub fn echo(&self) -> SocketAddr {
        SocketAddr::new(self.vip, ECHO_PORT)
    }

    /// The origin with this name.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn origin(&mut self, name: &str) -> &mut Origin {
        self.origins
            .iter_mut()
            .find(|origin| origin.name() == name)
            .expect("an origin with this name")
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Rust's test runner shows it only when the test fails.
        if !self.quiet {
            self.print_losses();
        }
    }
}
