//! What becomes of a request or of a flow under a configuration, and why. Pure but for folders of
//! files, which are looked into, and certificates, which are read.
//!
//! It decides nothing by itself. A request is read by the parser that reads those of clients, its
//! path is normalised, its route found and its key hashed by the very functions of the engine; a
//! backend that depends on a hash is asked of the balancer. For flows of the kernel part the ring
//! is built as the planner builds it, and the slot is computed by the function that the packet
//! path has; only the order in which the packet path asks its maps is told anew, see [`flow`].
//!
//! What an explanation cannot know is what only the moment decides: draws, turns, loads, health.
//! It says so, and names who is in the running. What a daemon says of itself can be added
//! ([`RequestExplained::tell_now`]).

pub mod flow;
mod mesh;
mod now;
mod octets;
pub mod request;
mod rules;
mod service;
mod sockets;
mod tls;

pub use flow::{Flow, FlowExplained, Hello};
pub use now::{BackendNow, ServiceNow};
pub use octets::OctetsExplained;
pub use request::{Asked, RequestExplained, connection, explain_request};
pub use rules::RuleExplained;
pub use service::{Candidate, ServiceExplained};
pub use sockets::DialExplained;
pub use tls::TlsExplained;

/// There is nothing to explain.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// No listener takes the request.
    #[error("no HTTP listener {0}")]
    NoListener(String),
    /// Several listeners could be meant.
    #[error("several HTTP listeners: {0}")]
    Listeners(String),
    /// The routes cannot be looked up.
    #[error(transparent)]
    Router(#[from] crate::routing::RouterError),
    /// A rewrite is not valid.
    #[error(transparent)]
    Pattern(#[from] crate::types::PatternError),
}

/// Who serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// The kernel part: each packet, before the network stack sees it.
    Kernel,
    /// Calls of connect() of this host's workloads, before there is a packet.
    Sockets,
    /// The proxy in user space.
    UserSpace,
    /// This host's own stack: nothing of this configuration concerns it.
    Host,
}

#[cfg(test)]
mod tests;
