//! Sockets and what stands before the protocols proper.

pub mod proxy_protocol;
