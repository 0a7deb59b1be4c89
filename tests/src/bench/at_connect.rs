//! What balancing at connect() costs: requests per second to a backend by its VIP, and by its own
//! address.
//!
//! - `direct_kept`, `connect_kept`: over connections that are kept;
//! - `direct_new`, `connect_new`: over a new connection each, so that each request has its connect().
//!
//! `wrk` and nginx are on one host, as a workload and a server beside it are. The rows of a pair take
//! turns in rounds; the ratio is the median of the rounds' ratios, each of two runs that were
//! neighbours.

use super::median;
use super::report::Row;
use super::wrk::{Load, Outcome};
use crate::alone::Process;
use crate::cgroup::Cgroup;
use crate::daemon::Daemon;
use crate::netns::Netns;
use crate::wait;
use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Time of each run.
    pub time: Duration,
    /// Rounds, odd.
    pub rounds: usize,
}

impl Effort {
    /// For numbers that are published.
    pub const FULL: Self = Self {
        time: Duration::from_secs(5),
        rounds: 7,
    };
    /// For a look.
    pub const QUICK: Self = Self {
        time: Duration::from_secs(1),
        rounds: 3,
    };
}

const VIP: &str = "192.0.2.10:80";
const BACKEND: &str = "10.1.0.1:8080";
/// Connections at a time.
const CONNECTIONS: u32 = 32;

/// The rows: needs root, a built `sluice`, nginx and wrk.
///
/// # Errors
///
/// Something is missing or fails.
pub fn rows(effort: Effort) -> Result<Vec<Row>> {
    let scene = Scene::set()?;
    let mut rows = Vec::new();
    for (name, close) in [("kept", false), ("new", true)] {
        let run = |by_vip: bool| scene.run(by_vip, close, effort.time);
        // The first ones warm up.
        run(false)?;
        run(true)?;
        let (mut direct, mut balanced, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..effort.rounds {
            // Whoever comes first has the machine as the one before has left it.
            let (one, other) = match round % 2 {
                0 => (run(false)?, run(true)?),
                _ => {
                    let balanced = run(true)?;
                    (run(false)?, balanced)
                }
            };
            direct.push(one);
            balanced.push(other);
            ratios.push(other / one);
        }
        let baseline = format!("direct_{name}");
        rows.push(row(baseline.clone(), &direct, None));
        let ratio = Some((baseline, median(&ratios)));
        rows.push(row(format!("connect_{name}"), &balanced, ratio));
    }
    Ok(rows)
}

fn row(id: String, rounds: &[f64], ratio: Option<(String, f64)>) -> Row {
    let (baseline, ratio) = ratio.unzip();
    Row {
        id,
        value: median(rounds),
        unit: "requests/s",
        baseline,
        ratio,
    }
}

/// A host with a server, a workload's cgroup, and a daemon that balances it.
struct Scene {
    // In the order in which they are to go.
    _server: Process,
    _daemon: Daemon,
    workload: Cgroup,
    folder: TempDir,
    host: Netns,
}

impl Scene {
    fn set() -> Result<Self> {
        let host = Netns::create("bench")?;
        host.ip("addr add 10.1.0.1/32 dev lo\n")?;
        let folder = tempfile::tempdir()?;
        let server = nginx(&host, folder.path())?;
        let workload = Cgroup::create("bench")?;
        let config = json!({
            "connect": {"cgroups": [workload.path()]},
            "listeners": [
                {"name": "web", "kind": "l4", "address": "192.0.2.10", "port": 80, "service": "web"},
            ],
            "services": [{"name": "web", "backends": [BACKEND], "at_connect": {}}],
        });
        let mut daemon = Daemon::start(&host, &config)?;
        daemon.set_quiet();
        Ok(Self {
            _server: server,
            _daemon: daemon,
            workload,
            folder,
            host,
        })
    }

    /// Requests per second.
    fn run(&self, by_vip: bool, close: bool, time: Duration) -> Result<f64> {
        let to: SocketAddr = if by_vip { VIP } else { BACKEND }.parse()?;
        let load = Load {
            to,
            path: "/",
            connections: CONNECTIONS,
            close,
            time,
        };
        // Both are in the cgroup: the direct one meets the programs, too, as any workload does.
        let mut command = self.host.command("wrk");
        self.workload.put(&mut command)?;
        let Outcome {
            requests, seconds, ..
        } = load.run(&mut command, self.folder.path())?;
        ensure!(seconds > 0.0, "wrk took no time");
        Ok(requests as f64 / seconds)
    }
}

/// A server that answers from memory: one process, so that none is left when it is killed.
fn nginx(host: &Netns, folder: &Path) -> Result<Process> {
    let file = folder.join("nginx.conf");
    let text = format!(
        "daemon off;\nmaster_process off;\npid {0}/pid;\nerror_log {0}/error.log;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n  access_log off;\n  keepalive_requests 100000000;\n  \
         server {{ listen {BACKEND} backlog=4096; location / {{ return 200 ok; }} }}\n}}\n",
        folder.display()
    );
    std::fs::write(&file, text)?;
    let mut command = host.command("nginx");
    let child = command.arg("-c").arg(&file).arg("-p").arg(folder).spawn();
    let process = Process(child.context("nginx cannot be started")?);
    let address: SocketAddr = BACKEND.parse()?;
    wait::until("nginx listens", || {
        Ok(host.run(|| TcpStream::connect(address).is_ok()))
    })?;
    Ok(process)
}
