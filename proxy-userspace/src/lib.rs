//! sluice: an eBPF-accelerated L4/L7 load balancer, as a library and the binary `sluice`.
//!
//! The modules stand in layers, lowest first, one group of lines each. A module may use only
//! modules of **earlier groups**, or inside its own folder; `cargo xtask tidy` checks it.

pub mod types;

pub mod message;

pub mod certificates;

pub mod config;

pub mod files;
pub mod trust;

pub mod health;

pub mod balance;
pub mod condemn;
pub mod resilience;
pub mod routing;

pub mod kernel;

pub mod sockets;

pub mod privileges;

pub mod observe;

pub mod net;
pub mod tls;

pub mod acme;
pub mod stapling;

pub mod filter;

pub mod upstream;

pub mod http;

pub mod stream;

pub mod explain;

pub mod admin;

pub mod runtime;

pub mod cli;
