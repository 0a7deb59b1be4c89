//! Requests through a reverse proxy.

use super::{Contender, Per, Scenario};
use crate::bench::l7::origin::{LARGE, LARGE_PATH, SMALL};
use crate::bench::l7::peer::Peer;
use crate::bench::l7::scenario::{PLAIN, get};

/// Who takes part here and in [`super::tunnel`].
pub(super) const PEERS: [Peer; 5] = [
    Peer::Direct,
    Peer::Sluice,
    Peer::Accelerated,
    Peer::Nginx,
    Peer::Haproxy,
];

pub(super) fn scenarios() -> Vec<Scenario> {
    let contenders = |name| {
        let contender = |peer| Contender::peer(peer, name, PLAIN);
        PEERS.into_iter().map(contender).collect()
    };
    vec![
        Scenario {
            name: "get",
            about: "small GET, 64 connections kept",
            traffic: get("/", SMALL),
            connections: 64,
            per: Per::Request,
            contenders: contenders("get"),
        },
        Scenario {
            name: "body_1m",
            about: "answers of 1 MiB, 16 connections kept",
            traffic: get(LARGE_PATH, LARGE),
            connections: 16,
            per: Per::Request,
            contenders: contenders("body_1m"),
        },
    ]
}
