//! Octets through a proxy that passes on TCP.

use super::http::PEERS;
use super::{Contender, Per, Scenario};
use crate::bench::l7::origin::{HUGE, HUGE_PATH};
use crate::bench::l7::scenario::{Back, Job, get};

pub(super) fn scenario() -> Scenario {
    let job = Job::from(Back::Tcp);
    let contender = |peer| Contender::peer(peer, "tunnel", job);
    Scenario {
        name: "tunnel",
        about: "64 MiB at a time over a TCP proxy, 4 connections kept",
        traffic: get(HUGE_PATH, HUGE),
        connections: 4,
        per: Per::Gibibyte(HUGE),
        contenders: PEERS.into_iter().map(contender).collect(),
    }
}
