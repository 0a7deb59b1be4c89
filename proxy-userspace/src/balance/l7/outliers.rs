//! Passive health of a service: what workers report, and who is ejected for it.
//!
//! A report is two or three atomic operations. Only when a row of failures is as long as the rules
//! allow is anything locked: then the backend is ejected on the spot, by the worker that saw it.

use super::backend::BackendState;
use super::news::{Note, What};
use super::selection::Member;
use super::service::ServiceState;
use super::{Nanos, ServiceSpec};
use crate::config::model::outlier::Outlier;
use crate::health::outlier::{Change, ChangeKind, Evidence, Host, Outcome, Pool, rows};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The judge of a service's backends, the same one after a reload.
#[derive(Debug, Default)]
pub(super) struct Outliers {
    /// Locked after the members, never before.
    pool: Mutex<Pool>,
    /// Raised with each ejection and return. A connection that still holds an older configuration
    /// may eject, and the newer one must follow.
    version: AtomicU64,
}

impl Outliers {
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Somebody is ejected, or returns.
    pub(super) fn raise(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn pool(&self) -> &Mutex<Pool> {
        &self.pool
    }
}

/// What intervals last where there are no rules.
const INTERVAL: Duration = Duration::from_secs(10);

/// A backend and its smoothed latency in nanoseconds, if known.
pub type KnownLatency = (Arc<BackendState>, Option<f64>);

/// A backend, what the network adds to its answers, and what it usually would: in nanoseconds, if
/// known.
pub type KnownDelay = (Arc<BackendState>, Option<(f64, f64)>);

impl ServiceState {
    /// Takes note of what became of an attempt at a backend. `random` is drawn only if a row of
    /// failures is full.
    #[inline]
    pub fn report(
        &self,
        backend: &Arc<BackendState>,
        outcome: Outcome,
        now: Nanos,
        random: impl FnOnce() -> u64,
    ) {
        if let Some(failures) = backend.report(outcome)
            && let Some(rules) = &self.spec().outlier
        {
            self.judge(backend, rules, failures, now, random);
        }
    }

    /// Ejects a backend whose row of failures is full.
    #[cold]
    fn judge(
        &self,
        backend: &Arc<BackendState>,
        rules: &Outlier,
        failures: [u16; 3],
        now: Nanos,
        random: impl FnOnce() -> u64,
    ) {
        let full = rows(rules)
            .into_iter()
            .zip(failures)
            .position(|((_, most), row)| most > 0 && u32::from(row) >= most);
        let Some(full) = full else { return };
        // Where it cannot be ejected now, the next look is after as many failures again.
        backend.forget_rows();
        let (detector, most) = rows(rules)[full];
        let evidence = Evidence::Row(detector, most);
        let members = self.members().lock();
        let change = self.outliers().pool.lock().suspect(
            rules,
            &hosts(&members),
            backend.slot(),
            evidence,
            Duration::from_nanos(now),
            random(),
        );
        self.apply(&members, change.as_slice(), now);
    }

    /// Compares the backends when an interval is over, and ends ejections whose time is over.
    pub fn watch_outliers(&self, now: Nanos, random: impl FnMut() -> u64) {
        let spec = self.spec();
        let members = self.members().lock();
        let changes = {
            let mut pool = self.outliers().pool.lock();
            let slots: BTreeSet<u32> = members.iter().map(|m| m.state.slot()).collect();
            pool.retain(|slot| slots.contains(&slot));
            for member in members.iter() {
                let state = &member.state;
                pool.observe(state.slot(), &state.take_window());
                let seen = pool.observe_network(state.slot(), &state.network());
                if let Some(delay) = seen.delay() {
                    state.saw_delay(delay, now);
                }
            }
            let rules = spec.outlier.as_ref();
            pool.tick(
                rules,
                rules.map_or(INTERVAL, |rules| rules.interval),
                min_timed(spec),
                &hosts(&members),
                Duration::from_nanos(now),
                random,
            )
        };
        self.apply(&members, &changes, now);
        if self.published() != self.outliers().version() {
            self.publish_members(&members, now);
        }
    }

    /// Smoothed latencies of the backends in nanoseconds, where known, and the number of intervals
    /// that they come from.
    pub fn latencies(&self) -> (u64, Vec<KnownLatency>) {
        let members = self.members().lock();
        let pool = self.outliers().pool.lock();
        let of = |member: &Member| {
            let latency = pool.latency(member.state.slot());
            (Arc::clone(&member.state), latency)
        };
        (pool.rounds(), members.iter().map(of).collect())
    }

    /// What the network adds to each backend's answers and what it usually would, in nanoseconds,
    /// where known.
    pub fn delays(&self) -> Vec<KnownDelay> {
        let members = self.members().lock();
        let pool = self.outliers().pool.lock();
        let of = |member: &Member| (Arc::clone(&member.state), pool.delay(member.state.slot()));
        members.iter().map(of).collect()
    }

    /// The mean round trip to a backend in nanoseconds, when it was last seen.
    pub fn round_trip(&self, backend: &BackendState) -> Option<f64> {
        self.outliers().pool.lock().round_trip(backend.slot())
    }

    /// Those who are ejected.
    pub fn ejected(&self) -> Vec<Arc<BackendState>> {
        let members = self.members().lock();
        let out = members.iter().filter(|member| member.state.is_ejected());
        out.map(|member| Arc::clone(&member.state)).collect()
    }

    /// Why a backend is ejected, and until when, if it is.
    pub fn ejection(&self, backend: &BackendState) -> Option<crate::health::outlier::Ejected> {
        let pool = self.outliers().pool.lock();
        pool.ejected(backend.slot()).copied()
    }

    fn apply(&self, members: &[Member], changes: &[Change], now: Nanos) {
        let mut is_news = false;
        for change in changes {
            let found = members.iter().find(|m| m.state.slot() == change.host);
            let Some(Member { state, .. }) = found else {
                continue;
            };
            is_news |= match change.kind {
                ChangeKind::Ejected(_) => state.set_ejected(true, now),
                ChangeKind::Returned => state.set_ejected(false, now),
                ChangeKind::Spared(..) => false,
            };
            self.news().push(Note {
                service: self.name().into(),
                at: now,
                what: What::Outlier(Arc::clone(state), change.kind),
            });
        }
        if is_news {
            self.outliers().raise();
            self.publish_members(members, now);
        }
    }
}

/// Those who may be given clients.
fn hosts(members: &[Member]) -> Vec<Host> {
    let in_play = members.iter().filter(|member| member.is_in_play());
    in_play
        .map(|member| Host {
            id: member.state.slot(),
            is_well: member.state.is_passing(),
        })
        .collect()
}

/// Answers in an interval from which a latency is known.
fn min_timed(spec: &ServiceSpec) -> u32 {
    let slowness = spec.outlier.as_ref().and_then(|rules| rules.latency);
    let slowness = slowness.map(|slowness| slowness.min_requests);
    slowness
        .into_iter()
        .chain(spec.weighed_from)
        .min()
        .unwrap_or(1)
}
