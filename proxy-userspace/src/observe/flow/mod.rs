//! One flow from its first packet to its status: what became of it at each stage, under one id.
//!
//! The packet path and the proxies decide by the same keyed hash of the client's tuple which flows
//! are traced, and name them by it (see [`proxy_common::trace`]): nothing is handed from one to the
//! other. What they note is brought together here.
//!
//! ```text
//! packet path ─ring buffer─▶ ┐
//!                            ├─ Note ─▶ Joiner, one per observer ─▶ FlowStage, all of a flow's together
//! worker ─FlowTap::note────▶ ┘     └──▶ Assembler ─▶ spans of the connection ─▶ SpanQueue
//!            └ full: counted, dropped
//! ```
//!
//! Where no flow is traced this costs a worker one look at a number for each connection and each
//! request. Whether and what is noted, what an observer wants and what is shown together are pure.

mod assemble;
mod filter;
mod join;
mod stage;
mod tap;
#[cfg(test)]
mod tests;

/// What an observer is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// A stage of a flow that it wants.
    Stage(Box<FlowStage>),
    /// So many stages could not be told: it, or whoever brings them, was too slow.
    Missed(u64),
}

pub use assemble::Assembler;
pub use filter::{DEFAULT_SAMPLE, Filter, FilterError, ObserveQuery};
pub use join::Joiner;
pub use stage::{FlowStage, Note, Noted, Stage, exchange, protocol_name};
pub use tap::{FlowReceiver, FlowTap};
pub mod stages {
    //! What is told of each stage.
    pub use super::stage::{Accept, Attempt, Packet, Proxy, Request, Route, Status, Tls, Tunnel};
}
