//! The hosts of one contender: a client, a balancer, two backends, all on one segment.

use super::contender::{Balancer, Contender};
use crate::bench::process::Process;
use crate::netns::Namespace;
use crate::topology::{Node, Topology, TopologySpec, vip_v4};
use anyhow::Result;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// Port of the VIP.
const PORT: u16 = 80;
/// Port of the backends.
const BACKEND_PORT: u16 = 8080;
/// Addresses in a subnet that client and first backend share, for the way without balancer.
const DIRECT: [&str; 2] = ["10.3.0.1", "10.3.0.2"];

/// Hosts, servers and the contender. Dropping it undoes everything.
pub(super) struct Arena {
    pub(super) contender: Contender,
    /// Whom the client asks.
    pub(super) target: SocketAddr,
    // In the order in which they are to be dropped.
    _balancer: Option<Balancer>,
    _backends: Vec<Process>,
    topology: Topology,
    folder: TempDir,
}

impl Arena {
    pub(super) fn build(contender: Contender) -> Result<Self> {
        let spec = TopologySpec {
            backends: 2,
            // Nobody else shall pay for the program.
            xdp: contender == Contender::Sluice,
            ..TopologySpec::default()
        };
        let topology = Topology::build(&spec)?;
        let folder = TempDir::new()?;
        let backends = topology
            .backends
            .iter()
            .map(|node| serve(node, folder.path()))
            .collect::<Result<Vec<_>>>()?;
        // So many short connections need more ports than the default range has.
        for host in [&topology.client, &topology.balancer] {
            host.sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
        }
        let vip = SocketAddr::from((vip_v4(10), PORT));
        let servers: Vec<SocketAddr> = topology
            .backends
            .iter()
            .map(|node| SocketAddr::from((node.v4, BACKEND_PORT)))
            .collect();
        let balancer = contender.start(&topology.balancer, vip, &servers, folder.path())?;
        let target = match contender {
            Contender::Direct => direct(&topology)?,
            Contender::Routed | Contender::RoutedXdp => servers[0],
            _ => vip,
        };
        Ok(Self {
            contender,
            target,
            _balancer: balancer,
            _backends: backends,
            topology,
            folder,
        })
    }

    /// A command on the client's host.
    pub(super) fn client(&self, program: &str) -> Command {
        self.topology.client.command(program)
    }

    /// Where files go.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// Gives client and first backend addresses in a common subnet; that of the backend is returned.
fn direct(topology: &Topology) -> Result<SocketAddr> {
    let [client, backend] = DIRECT;
    let add = |host: &Namespace, address| host.ip(&format!("addr add {address}/24 dev eth0"));
    add(&topology.client, client)?;
    add(&topology.backends[0].netns, backend)?;
    Ok(SocketAddr::new(backend.parse()?, BACKEND_PORT))
}

/// A server that answers with a few octets and does as little as a server can: nginx, one process.
fn serve(node: &Node, folder: &Path) -> Result<Process> {
    let root = folder.join(&node.name);
    std::fs::create_dir(&root)?;
    let at = root.display();
    let config = root.join("nginx.conf");
    let text = format!(
        "daemon off; master_process off; pid {at}/pid; error_log {at}/error;\n\
         events {{ worker_connections 8192; }}\n\
         http {{\n\
           access_log off; keepalive_requests 1000000000; tcp_nodelay on;\n\
           client_body_temp_path {at}/body; proxy_temp_path {at}/proxy;\n\
           fastcgi_temp_path {at}/fastcgi; uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;\n\
           server {{ listen {BACKEND_PORT} backlog=4096; location / {{ return 200 \"{}\\n\"; }} }}\n\
         }}\n",
        node.name
    );
    std::fs::write(&config, text)?;
    let mut command = node.netns.command("nginx");
    command
        .arg("-e")
        .arg(root.join("error"))
        .arg("-c")
        .arg(&config);
    let mut process = Process::start(&node.name, &mut command, &root.join("log"))?;
    let address = SocketAddr::from((node.v4, BACKEND_PORT));
    process.wait_until(|| listens(&node.netns, address))?;
    Ok(process)
}

/// True if somebody in this namespace accepts connections there.
pub(super) fn listens(host: &Namespace, address: SocketAddr) -> bool {
    host.run(|| TcpStream::connect(address).is_ok())
}
