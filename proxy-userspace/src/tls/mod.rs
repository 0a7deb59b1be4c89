//! TLS as a server speaks it: which certificate a client gets, how sessions are resumed, whose
//! certificates are believed.
//!
//! All of it is compiled from a listener's settings when a configuration comes into force, and
//! shared by all workers. Whatever of it cannot be used refuses the configuration.

mod authentication;
mod resolve;
mod server;
mod sessions;
#[cfg(test)]
mod tests;
mod tickets;

pub use crate::certificates::CertificateView;
pub use resolve::Because;
pub use server::{ServerSide, TlsError, alpn};
pub use sessions::{CarriedSessions, SessionKeeper};
pub use tickets::TicketKeys;
