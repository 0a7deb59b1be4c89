//! The test harness: packets, namespaces, origins and clients. The suites are this package's
//! targets.
//!
//! # Namespaces
//!
//! A namespace suite sets its stage in a few lines: a [`stage::Stage`] is a [`topology::Topology`]
//! (client, balancer, backends, each in its own network namespace), an [`origin::Origin`] on each
//! backend, and a [`daemon::Daemon`] (the built `sluice`) in the balancer's namespace.
//!
//! ```no_run
//! use proxy_tests::{path::Path, stage::Stage};
//!
//! # fn main() -> anyhow::Result<()> {
//! let stage = Stage::new(Path::NAT_V4).start()?;
//! let answer = stage.client().get(stage.web(), "/name")?;
//! assert_eq!(answer.status, 200);
//! # Ok(())
//! # }
//! ```
//!
//! Everything is undone when its value is dropped, after a panic too. What a killed test process
//! leaves behind is removed by the next one ([`netns::sweep_stale`]).
//!
//! Suites need root. Without it they skip and say so, or fail when `SLUICE_REQUIRE_PRIVILEGED=1`
//! ([`privilege`]).

pub mod alone;
#[cfg(feature = "bench")]
pub mod bench;
pub mod bpf;
pub mod certificates;
pub mod cgroup;
pub mod chromium;
pub mod client;
pub mod command;
pub mod config;
pub mod connection;
pub mod daemon;
pub mod family;
pub mod http;
pub mod http2;
pub mod kernel;
pub mod load;
pub mod losses;
pub mod netns;
pub mod origin;
pub mod packet;
pub mod path;
pub mod pattern;
pub mod privilege;
pub mod python;
pub mod stage;
pub mod topology;
pub mod turns;
pub mod vectors;
pub mod wait;
