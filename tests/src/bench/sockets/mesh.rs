//! A hop that a mesh adds between two workloads on one host: two sidecars, one on each side, as meshes
//! have them, or one daemon for both.
//!
//! The sidecars are told of by their addresses: nothing is redirected to them by a packet filter, which
//! would add to their cost.

use super::{Contender, Per, Ready, Scenario, Started};
use crate::bench::l7::origin::{Origin, SMALL};
use crate::bench::l7::peer::{Peer, Running, Start};
use crate::bench::l7::scenario::{PLAIN, get};
use anyhow::Result;

const NAME: &str = "mesh";

pub(super) fn scenario() -> Scenario {
    Scenario {
        name: NAME,
        about: "small GET from one workload to another, 64 connections kept",
        traffic: get("/", SMALL),
        connections: 64,
        per: Per::Request,
        contenders: vec![
            Contender::peer(Peer::Direct, NAME, PLAIN),
            Contender::peer(Peer::Sluice, NAME, PLAIN),
            Contender {
                name: "envoy-pair".to_owned(),
                start: Box::new(sidecars),
            },
        ],
    }
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
        _held: Box::new((outbound, inbound)),
    }))
}
