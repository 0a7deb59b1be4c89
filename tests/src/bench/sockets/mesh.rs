//! A hop that a mesh adds between two workloads on one host: two sidecars, one on each side, as meshes
//! have them, or one daemon for both.
//!
//! The daemon is not told of: the load runs in a cgroup whose connections the kernel redirects, and
//! dials the origin. The sidecars are told of by their addresses: nothing is redirected to them by a
//! packet filter, which would add to their cost.

use super::{Contender, Per, Ready, Scenario, Started};
use crate::bench::l7::origin::{Origin, SMALL};
use crate::bench::l7::peer::{Peer, Running, Start, free_port, workplace};
use crate::bench::l7::scenario::{PLAIN, get};
use crate::cgroup::Cgroup;
use crate::daemon;
use crate::netns::with_own_bpffs;
use anyhow::{Context, Result};
use serde_json::json;
use std::fs;
use std::process::Command;

pub(super) const NAME: &str = "mesh";

pub(super) fn scenario() -> Scenario {
    let redirected = |how: How| Contender {
        name: how.name().to_owned(),
        start: Box::new(move |origin| redirected(origin, how)),
    };
    Scenario {
        name: NAME,
        about: "small GET from one workload to another, 64 connections kept",
        traffic: get("/", SMALL),
        connections: 64,
        per: Per::Request,
        contenders: vec![
            Contender::peer(Peer::Direct, NAME, PLAIN),
            redirected(How::Plain),
            redirected(How::Accelerated),
            redirected(How::Busy),
            Contender {
                name: "envoy-pair".to_owned(),
                start: Box::new(sidecars),
            },
        ],
    }
}

/// How the daemon does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Plain,
    /// Past TCP.
    Accelerated,
    /// Past TCP, and without sleeping between requests.
    Busy,
}

impl How {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => Peer::Sluice.name(),
            Self::Accelerated => Peer::Accelerated.name(),
            Self::Busy => "sluice-busy",
        }
    }
}

/// One daemon, to which the kernel redirects what the load opens.
fn redirected(origin: &Origin, how: How) -> Result<Started> {
    let folder = workplace().join("run/sockets-mesh").join(how.name());
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let listen = free_port()?;
    let workload = Cgroup::create("load")?;
    let switch = if how == How::Plain { "off" } else { "on" };
    let busy_poll = if how == How::Busy { "1ms" } else { "0s" };
    let config = json!({
        "workers": {"count": 1, "busy_poll": busy_poll},
        "admin": {"socket": folder.join("admin.sock")},
        "listeners": [{
            "name": "mesh",
            "kind": "http",
            "address": listen.ip().to_string(),
            "port": listen.port(),
            "accelerate": switch,
            "mesh": {
                "cgroups": [workload.path()],
                "destinations": {"only": [origin.h1.ip().to_string()]},
                "ports": {"only": [origin.h1.port()]},
            },
        }],
        "routes": [{"name": "all", "service": "origin"}],
        "services": [{
            "name": "origin",
            "backends": [origin.h1.to_string()],
            "accelerate": switch,
        }],
    });
    // JSON is YAML, which is what it reads.
    let file = folder.join("sluice.yaml");
    fs::write(&file, serde_json::to_string_pretty(&config)?)?;
    let mut command = Command::new(daemon::sluice()?);
    command.arg("run").arg("--config").arg(file);
    with_own_bpffs(&mut command);
    let running = Running::start(how.name(), command, listen, &folder)?;
    Ok(Started::Ready(Ready {
        address: origin.h1,
        trees: running.tree.iter().cloned().collect(),
        forwards: true,
        workload: Some(workload),
        _held: Box::new(running),
    }))
}

/// The one of the origin, and before it that of the clients.
fn sidecars(origin: &Origin) -> Result<Started> {
    let start = |place: &str, target| {
        let folder = format!("sockets-{NAME}-{place}");
        Ok::<_, anyhow::Error>(match Peer::Envoy.start_towards(&folder, PLAIN, target)? {
            Start::Running(mut running) => {
                running.find_processes()?;
                Ok(running)
            }
            Start::Cannot(why) => Err(why),
        })
    };
    let inbound: Running = match start("inbound", origin.h1)? {
        Ok(running) => running,
        Err(why) => return Ok(Started::Cannot(why)),
    };
    let outbound: Running = match start("outbound", inbound.address)? {
        Ok(running) => running,
        Err(why) => return Ok(Started::Cannot(why)),
    };
    let trees = [&outbound, &inbound].map(|running| running.tree.clone());
    Ok(Started::Ready(Ready {
        address: outbound.address,
        trees: trees.into_iter().flatten().collect(),
        forwards: true,
        workload: None,
        _held: Box::new((outbound, inbound)),
    }))
}
