//! Who balances, each as its users would set it up for two backends and nothing else: no log, no
//! health checks, all CPUs.

use super::arena::listens;
use crate::bench::process::Process;
use crate::bpf::{self, Attached};
use crate::command::run_with_input;
use crate::daemon::Daemon;
use crate::netns::Namespace;
use anyhow::Result;
use serde_json::json;
use std::fmt::{self, Write as _};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

/// Who stands between client and backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contender {
    /// Nobody: the client asks one backend.
    Direct,
    /// Nobody, but the way leads over the balancer's host, whose kernel forwards.
    Routed,
    /// As [`Self::Routed`], behind an XDP program that passes everything: what XDP alone costs on
    /// a veth device.
    RoutedXdp,
    /// This balancer, mode `nat`.
    Sluice,
    /// nginx's `stream` module.
    Nginx,
    /// HAProxy, `mode tcp`.
    Haproxy,
    /// The kernel's address translation.
    Nftables,
}

/// A started contender.
#[derive(Debug)]
pub(super) enum Balancer {
    /// Removed with its value.
    #[expect(dead_code, reason = "held to be dropped")]
    Daemon(Box<Daemon>),
    /// Ended with its value.
    #[expect(dead_code, reason = "held to be dropped")]
    Process(Process),
    /// Detached with its value.
    #[expect(dead_code, reason = "held to be dropped")]
    Program(Attached),
    /// Rules in the host's kernel; gone with the host.
    Rules,
}

impl Contender {
    pub(super) const ALL: [Self; 7] = [
        Self::Direct,
        Self::Routed,
        Self::RoutedXdp,
        Self::Sluice,
        Self::Nginx,
        Self::Haproxy,
        Self::Nftables,
    ];

    /// Its name in row ids.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Routed => "routed",
            Self::RoutedXdp => "routed_xdp",
            Self::Sluice => "sluice",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Nftables => "nftables",
        }
    }

    /// Starts it on `host`, for connections to `vip`.
    pub(super) fn start(
        self,
        host: &Namespace,
        vip: SocketAddr,
        backends: &[SocketAddr],
        folder: &Path,
    ) -> Result<Option<Balancer>> {
        Ok(match self {
            Self::Direct | Self::Routed => None,
            Self::RoutedXdp => {
                let program = host.run(|| bpf::pass_everything("eth0"))?;
                Some(Balancer::Program(program))
            }
            Self::Sluice => Some(Balancer::Daemon(Box::new(sluice(host, vip, backends)?))),
            Self::Nftables => {
                nftables(host, vip, backends)?;
                Some(Balancer::Rules)
            }
            Self::Nginx | Self::Haproxy => {
                host.ip(&format!("addr add {}/32 dev lo", vip.ip()))?;
                let file = folder.join(format!("{self}.cfg"));
                let mut command = host.command(self.name());
                if self == Self::Nginx {
                    fs::write(&file, nginx(vip, backends, folder))?;
                    command.arg("-e").arg(folder.join("nginx.error")).arg("-c");
                } else {
                    fs::write(&file, haproxy(vip, backends))?;
                    command.args(["-db", "-f"]);
                }
                command.arg(&file);
                let log = folder.join(format!("{self}.log"));
                let mut process = Process::start(self.name(), &mut command, &log)?;
                process.wait_until(|| listens(host, vip))?;
                Some(Balancer::Process(process))
            }
        })
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

fn sluice(host: &Namespace, vip: SocketAddr, backends: &[SocketAddr]) -> Result<Daemon> {
    let backends: Vec<String> = backends.iter().map(SocketAddr::to_string).collect();
    let config = json!({
        "l4": { "interfaces": ["eth0"] },
        "listeners": [{
            "name": "web", "kind": "l4", "address": vip.ip(), "port": vip.port(), "service": "web",
        }],
        "services": [{ "name": "web", "mode": "nat", "backends": backends }],
    });
    let mut daemon = Daemon::start(host, &config)?;
    daemon.set_quiet();
    Ok(daemon)
}

fn nginx(vip: SocketAddr, backends: &[SocketAddr], folder: &Path) -> String {
    let at = folder.display();
    let mut text = format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n\
         daemon off; worker_processes auto;\n\
         pid {at}/nginx.pid; error_log {at}/nginx.error;\n\
         events {{ worker_connections 8192; }}\n\
         stream {{\n  upstream web {{\n"
    );
    for backend in backends {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "    server {backend};");
    }
    let _ = write!(
        text,
        "  }}\n  server {{ listen {vip} reuseport backlog=4096; proxy_pass web; }}\n}}\n"
    );
    text
}

fn haproxy(vip: SocketAddr, backends: &[SocketAddr]) -> String {
    let mut text = format!(
        "global\n  maxconn 4096\n\
         defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
         frontend web\n  bind {vip} backlog 4096\n  default_backend web\n\
         backend web\n  balance roundrobin\n"
    );
    for (index, backend) in backends.iter().enumerate() {
        let _ = writeln!(text, "  server web-{} {backend}", index + 1);
    }
    text
}

/// Destination translation, the backends in turn.
fn nftables(host: &Namespace, vip: SocketAddr, backends: &[SocketAddr]) -> Result<()> {
    let choices: Vec<String> = backends
        .iter()
        .enumerate()
        .map(|(index, backend)| format!("{index} : {} . {}", backend.ip(), backend.port()))
        .collect();
    let rules = format!(
        "add table ip web\n\
         add chain ip web arrive {{ type nat hook prerouting priority dstnat; }}\n\
         add rule ip web arrive ip daddr {} tcp dport {} dnat ip to numgen inc mod {} map {{ {} }}\n",
        vip.ip(),
        vip.port(),
        backends.len(),
        choices.join(", ")
    );
    run_with_input(host.command("nft").args(["-f", "-"]), &rules)?;
    // Ended connections stay in the table for two minutes by default, and all runs together have
    // more of them than it holds.
    host.sysctl("net/netfilter/nf_conntrack_tcp_timeout_time_wait", "5")
}
