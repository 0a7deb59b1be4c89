//! Balancing at connect(): unmodified programs in a cgroup dial VIPs and get backends.
//!
//! Everything is on one host without a network: backends have addresses of the loopback interface, and
//! nobody has the VIPs or a route to them. So whoever reaches one was balanced at connect().

#[path = "connect/datagrams.rs"]
mod datagrams;
#[path = "connect/gray.rs"]
mod gray;
#[path = "connect/life.rs"]
mod life;
#[path = "connect/loss.rs"]
mod loss;
#[path = "connect/scene.rs"]
mod scene;
#[path = "connect/streams.rs"]
mod streams;

pub(crate) use scene::{Scene, counted, listener, service};
