//! Suites with real clients, real servers and the built `sluice`, in network namespaces.
//!
//! They need root and a built binary (`cargo xtask build`); see [`proxy_tests::privilege`] and
//! [`proxy_tests::daemon::sluice`]. Each test makes its own hosts, so all run in parallel.

#[path = "netns/support.rs"]
#[macro_use]
mod support;

#[path = "netns/accelerated.rs"]
mod accelerated;

#[path = "netns/condemned.rs"]
mod condemned;

#[path = "netns/connect.rs"]
mod connect;

#[path = "netns/control.rs"]
mod control;

#[path = "netns/examples.rs"]
mod examples;

#[path = "netns/failover.rs"]
mod failover;

#[path = "netns/forwarding.rs"]
mod forwarding;

#[path = "netns/full.rs"]
mod full;

#[path = "netns/gray.rs"]
mod gray;

#[path = "netns/guard.rs"]
mod guard;

#[path = "netns/kinds.rs"]
mod kinds;

#[path = "netns/lifecycle.rs"]
mod lifecycle;

#[path = "netns/limits.rs"]
mod limits;

#[path = "netns/mesh.rs"]
mod mesh;

#[path = "netns/mesh_failure.rs"]
mod mesh_failure;

#[path = "netns/mesh_full.rs"]
mod mesh_full;

#[path = "netns/mesh_inbound.rs"]
mod mesh_inbound;

#[path = "netns/mesh_tls.rs"]
mod mesh_tls;

#[path = "netns/mesh_vips.rs"]
mod mesh_vips;

#[path = "netns/nginx.rs"]
mod nginx;

#[path = "netns/observe.rs"]
mod observe;

#[path = "netns/outlier.rs"]
mod outlier;

#[path = "netns/probes.rs"]
mod probes;

#[path = "netns/selection.rs"]
mod selection;

#[path = "netns/shapes.rs"]
mod shapes;

#[path = "netns/steer.rs"]
mod steer;

#[path = "netns/traced.rs"]
mod traced;

#[path = "netns/upgrade.rs"]
mod upgrade;
