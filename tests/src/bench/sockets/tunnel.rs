//! Octets through a proxy that passes on TCP: many at a time, and few.

use super::http::PEERS;
use super::{Contender, Per, Scenario};
use crate::bench::l7::origin::{HUGE, HUGE_PATH, SMALL};
use crate::bench::l7::scenario::{Back, Job, get};

pub(super) fn scenarios() -> Vec<Scenario> {
    let contenders = |name| {
        let contender = |peer| Contender::peer(peer, name, Job::from(Back::Tcp));
        PEERS.into_iter().map(contender).collect()
    };
    vec![
        Scenario {
            name: "tunnel",
            about: "64 MiB at a time over a TCP proxy, 4 connections kept",
            traffic: get(HUGE_PATH, HUGE),
            connections: 4,
            per: Per::Gibibyte(HUGE),
            contenders: contenders("tunnel"),
        },
        Scenario {
            name: "tunnel_get",
            about: "small GET over a TCP proxy, 64 connections kept",
            traffic: get("/", SMALL),
            connections: 64,
            per: Per::Request,
            contenders: contenders("tunnel_get"),
        },
    ]
}
