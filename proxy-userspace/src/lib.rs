//! sluice: an eBPF-accelerated L4/L7 load balancer, as a library and the binary `sluice`.
//!
//! A module may use only modules on **earlier lines** of this list, or inside its own folder;
//! `cargo xtask tidy` checks it.

pub mod admin;
pub mod balance;
pub mod cli;
pub mod config;
pub mod health;
pub mod kernel;
pub mod observe;
pub mod runtime;
pub mod types;
