//! Drives the [`Table`]: sleeps until a probe is due, runs it, tells of changes.
//!
//! ```text
//!   reload ──reconcile──▶ ┌─────────┐ ──start──▶ probes in flight
//!   admin ◀──snapshot──── │  Table  │ ◀─finish── (futures of one task)
//!                         └─────────┘ ──change─▶ channel ──▶ whoever plans the data plane
//! ```
//!
//! The table sits behind a mutex that is held for a look or an edit, never across an await, so
//! [`Monitor`] may be used from any thread, and what [`Monitor::reconcile`] did is seen by the
//! next [`Monitor::snapshot`]. All probes are futures of the one task that runs
//! [`Driver::run`]: nothing is spawned, so that dropping that future ends them all.
//!
//! **Changes** go through an unbounded channel: a slow receiver must not delay probes. It cannot
//! grow without end, because a backend changes at most once in `rise` or `fall` probes, and
//! damping limits even that. A receiver should take what has gathered (`recv_many`) and plan once.
//! A change may be overtaken by a reload that removed its backend; the receiver ignores names it
//! does not know, and reads [`Monitor::is_up`] when it plans anew.

use super::checks::{BackendName, Check};
use super::outcome::Outcome;
use super::probe::Prober;
use super::state::{Change, Reason, Verdict};
use super::table::{BackendHealth, Id, Reconciled, Table};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};

/// A backend began or ceased to be fit for traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthChange {
    /// Whose change.
    pub name: BackendName,
    /// Whether it may take traffic from now on.
    pub up: bool,
    /// The new verdict.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// When, on the monitor's clock.
    pub at: Duration,
}

/// The health of all backends at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When it was taken, on the monitor's clock: subtract a time from it for an age.
    pub taken_at: Duration,
    /// The same moment on the wall clock.
    pub wall: SystemTime,
    /// Every backend under check, in the order of the configuration.
    pub backends: Vec<BackendHealth>,
    /// Probes in flight.
    pub running: usize,
}

impl Snapshot {
    /// The wall-clock time of a moment of the monitor's clock.
    pub fn wall_time(&self, at: Duration) -> SystemTime {
        let age = self.taken_at.saturating_sub(at);
        self.wall.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

/// Settings of the monitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Probes in flight at most. Each holds a file descriptor.
    pub max_running: usize,
    /// Seed of jitter and spread; balancers of one fleet should differ.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_running: 512,
            seed: fastrand::u64(..),
        }
    }
}

/// A handle on the running health checks; clones share them.
#[derive(Clone, Debug)]
pub struct Monitor {
    shared: Arc<Shared>,
}

/// Runs the health checks of a [`Monitor`].
#[derive(Debug)]
pub struct Driver<P> {
    shared: Arc<Shared>,
    prober: P,
    changes: mpsc::UnboundedSender<HealthChange>,
}

#[derive(Debug)]
struct Shared {
    table: Mutex<Table>,
    /// The table has changed under the driver.
    edited: Notify,
    epoch: Instant,
}

/// A monitor without checks, what runs it, and where its changes arrive.
///
/// The monitor's clock starts now.
pub fn monitor<P: Prober>(
    prober: P,
    options: Options,
) -> (Monitor, Driver<P>, mpsc::UnboundedReceiver<HealthChange>) {
    let (changes, receiver) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared {
        table: Mutex::new(Table::new(options.max_running, options.seed)),
        edited: Notify::new(),
        epoch: Instant::now(),
    });
    (
        Monitor {
            shared: shared.clone(),
        },
        Driver {
            shared,
            prober,
            changes,
        },
        receiver,
    )
}

impl Monitor {
    /// Makes these the checks; see [`Table::reconcile`] for what is kept. Takes effect at once,
    /// also for [`Self::is_up`]; whoever plans the data plane should do so afterwards.
    pub fn reconcile(&self, checks: Vec<Check>) -> Reconciled {
        let done = self
            .shared
            .table
            .lock()
            .reconcile(checks, self.shared.now());
        self.shared.edited.notify_one();
        done
    }

    /// Whether a backend may take traffic; `None` if it is not under check (then it may).
    pub fn is_up(&self, service: &str, backend: &str) -> Option<bool> {
        self.verdict(service, backend).map(Verdict::is_up)
    }

    /// The verdict on a backend; `None` if it is not under check.
    pub fn verdict(&self, service: &str, backend: &str) -> Option<Verdict> {
        self.shared.table.lock().verdict(service, backend)
    }

    /// The health of all backends, to be shown. Copies a few hundred bytes for each.
    pub fn snapshot(&self) -> Snapshot {
        let taken_at = self.shared.now();
        let table = self.shared.table.lock();
        Snapshot {
            taken_at,
            wall: SystemTime::now(),
            backends: table.backends(taken_at),
            running: table.running(),
        }
    }
}

impl Shared {
    /// The monitor's clock: time since it was made.
    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }
}

impl<P: Prober> Driver<P> {
    /// Probes until `stop` is ready or nobody receives changes any more. Probes in flight are
    /// dropped then: their connections close.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has the same effect as `stop`.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        let mut probes = FuturesUnordered::new();
        loop {
            self.start_due(&probes);
            let next = self.shared.table.lock().next_due();
            // A moment too far off to be counted never comes.
            let next = next.and_then(|due| self.shared.epoch.checked_add(due));
            let due = async {
                match next {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = &mut stop => return,
                () = self.changes.closed() => return,
                Some((id, outcome)) = probes.next() => self.finish(id, outcome),
                () = self.shared.edited.notified() => {}
                () = due => {}
            }
        }
    }

    /// Starts every probe that is due and has room.
    fn start_due(&self, probes: &FuturesUnordered<RunningProbe>) {
        let mut table = self.shared.table.lock();
        let now = self.shared.now();
        while let Some(job) = table.start(now) {
            let id = job.id;
            let probe = self.prober.probe(job.target, job.check, job.tls);
            probes.push(Box::pin(async move { (id, probe.await) }));
        }
    }

    fn finish(&self, id: Id, outcome: Outcome) {
        let now = self.shared.now();
        let change = self.shared.table.lock().finish(id, outcome, now);
        let Some((
            name,
            Change {
                up,
                verdict,
                reason,
                at,
            },
        )) = change
        else {
            return;
        };
        if up {
            tracing::info!(backend = %name, %verdict, %reason, "backend is up");
        } else {
            tracing::warn!(backend = %name, %verdict, %reason, "backend is not up");
        }
        // Nobody receives only while the daemon ends, and `run` sees that itself.
        let _ = self.changes.send(HealthChange {
            name,
            up,
            verdict,
            reason,
            at,
        });
    }
}

type RunningProbe = Pin<Box<dyn Future<Output = (Id, Outcome)> + Send>>;

#[cfg(test)]
mod tests;
