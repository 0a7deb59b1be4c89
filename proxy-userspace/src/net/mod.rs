//! Sockets and what stands before the protocols proper.

pub mod dns;
pub mod proxy_protocol;
