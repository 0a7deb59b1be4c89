//! Active health: whether each backend may take traffic, found out by asking it.
//!
//! ```text
//!   config ──checks.rs──▶ Vec<Check> ──reconcile──▶ table.rs ◀──▶ state.rs     one backend
//!                                                      ▲     ◀──▶ schedule.rs  when to probe
//!                                                      │          (all pure)
//!   probe/ ◀── runs ── monitor.rs ◀── start, finish ───┘
//!                          └──▶ HealthChange ──▶ the data plane's planner
//! ```
//!
//! Everything that decides is pure, with the time (a [`Duration`](std::time::Duration) since the
//! monitor was made, its *clock*) and the random numbers as arguments; only `probe` and `monitor`
//! touch the world.
//!
//! # Use
//!
//! ```no_run
//! use proxy_userspace::config::model::Config;
//! use proxy_userspace::health::{self, Known, Named, NetProber, Options, Seals};
//!
//! # async fn example(config: &Config, stop: tokio::sync::oneshot::Receiver<()>) -> Result<(), health::CheckError> {
//! let (monitor, driver, mut changes) = health::monitor(NetProber, Options::default());
//! // `known` tells what a running data plane already does with a backend, and the probe's mark.
//! let checks = health::checks(config, &Named::default(), &Seals::default(), |_, _| Known::default())?;
//! monitor.reconcile(checks);
//! // Plan the kernel now, from `monitor.is_up(service, backend)`; `None` means unchecked, so up.
//! let watch = async {
//!     while let Some(change) = changes.recv().await {
//!         println!("{} is {}: {}", change.name, change.verdict, change.reason);
//!     }
//! };
//! tokio::join!(driver.run(async { drop(stop.await) }), watch);
//! # Ok(()) }
//! ```
//!
//! On a reload: `reconcile` with the new checks, then plan. Backends are told apart by the names
//! of service and backend. `snapshot` gives all that status pages and metrics show.
//!
//! # Guarantees
//!
//! - A verdict turns only by `rise` passes or `fall` failures in a row; a new backend's first
//!   probe decides, and until then it takes no traffic (`state.rs` says why).
//! - A probe's finding reaches the channel within one interval, if probes end in time
//!   (`schedule.rs`).
//! - A backend that flaps is held down, but never longer than [`damping::longest_hold`].
//! - A probe ends by its timeout and takes bounded memory, whatever its peer does (`probe/`).
//! - A probe that this host could not make is no evidence against a backend.

mod checks;
pub mod damping;
pub mod monitor;
mod outcome;
pub mod outlier;
pub mod probe;
pub mod schedule;
mod sealed;
pub mod state;
pub mod table;
#[cfg(test)]
mod testing;
pub mod weights;

pub use checks::{BackendName, Check, CheckError, Known, Named, checks};
pub use monitor::{Driver, HealthChange, Monitor, Options, Snapshot, monitor};
pub use outcome::{Failure, FailureKind, Outcome, Passed};
pub use probe::{NetProber, Prober, Target};
pub use sealed::{ProbeTls, SealError, Seals};
pub use state::{Reason, Streak, Tally, Transition, Verdict};
pub use table::{BackendHealth, Reconciled, Table};
