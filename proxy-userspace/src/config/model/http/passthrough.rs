//! TLS that is passed on without being decrypted.

use super::HostMatch;
use std::time::Duration;

/// Who gets which connection of a listener that passes TLS on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passthrough {
    /// Rules: see `routing::ServerNames` for the precedence.
    pub names: Vec<NameRule>,
    /// From the connection's begin to the end of the client's first message.
    pub hello_timeout: Duration,
}

/// Connections for one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameRule {
    /// Server names, any of which matches; empty for all, and for none at all.
    pub hosts: Vec<HostMatch>,
    /// Application protocols, any of which the client offers; empty for all.
    pub alpn: Vec<String>,
    /// Name of the service, which exists.
    pub service: String,
}
