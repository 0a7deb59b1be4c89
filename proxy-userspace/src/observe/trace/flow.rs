//! Requests as a part of their client's flow.
//!
//! A flow is traced, or not, from its first packet on (see [`proxy_common::trace`]). Its id is the first
//! half of the id of each trace that begins with one of its requests, so that whoever has one finds
//! the other. The first request of a connection goes on with the connection's own trace; the
//! later ones, of which there may be thousands, begin traces of their own and refer to it.

use std::net::SocketAddr;

/// A flow that is traced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Its id, the same in the packet path.
    pub id: u64,
    /// What it was judged by: it is traced at every threshold above this.
    pub rank: u32,
}

/// The trace that begins with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionTrace {
    /// The trace: the flow's id, then a number that is the connection's own, since tuples come again.
    pub trace: [u8; 16],
    /// The span of the accept.
    pub span: [u8; 8],
}

/// The flow of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traced {
    /// Which.
    pub flow: Flow,
    /// The client and our end, as the first packet had them.
    pub ends: (SocketAddr, SocketAddr),
    /// The request on its connection, from 1.
    pub number: u64,
    /// The trace of its connection, if spans of the flow are exported.
    pub connection: Option<ConnectionTrace>,
}

impl ConnectionTrace {
    /// That of a flow; `random` makes what is the connection's own.
    pub fn new(flow: Flow, random: [u64; 2]) -> Self {
        let mut trace = [0; 16];
        trace[..8].copy_from_slice(&flow.id.to_be_bytes());
        trace[8..].copy_from_slice(&random[0].to_be_bytes());
        Self {
            trace,
            // Zero is no id.
            span: random[1].max(1).to_be_bytes(),
        }
    }
}
