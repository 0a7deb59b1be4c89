//! All backends under check: their states, when each is probed next, and what follows from an
//! outcome. Pure: the time is an argument and the random numbers come from a given seed, so a
//! fleet can be simulated without a runtime. [`mod@super::monitor`] drives it.

use super::checks::{BackendName, Check};
use super::outcome::{Failure, Outcome};
use super::probe::Target;
use super::schedule::{self, Queue, Slot};
use super::sealed::ProbeTls;
use super::state::{Change, Need, Rules, State, Streak, Tally, Transition, Verdict};
use crate::config::model::HealthCheck;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Names one backend under one check: a changed check gets a new id, so that the outcome of a
/// probe that was sent under the old one is recognised and dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(u64);

/// A probe to be made. [`Table::finish`] must be told its outcome.
#[derive(Clone, Debug)]
pub struct Job {
    /// What to give back with the outcome.
    pub id: Id,
    /// Where the probe goes.
    pub target: Target,
    /// What it asks.
    pub check: Arc<HealthCheck>,
    /// TLS that it speaks, if any.
    pub tls: Option<ProbeTls>,
}

/// What a reload did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Backends that were not under check.
    pub added: usize,
    /// Backends whose check, target or server changed.
    pub changed: usize,
    /// Backends that go on as if nothing had happened.
    pub kept: usize,
    /// Backends that are no longer under check.
    pub removed: usize,
}

/// The health of one backend, to be shown.
#[derive(Clone, Debug)]
pub struct BackendHealth {
    /// Whose it is.
    pub name: BackendName,
    /// Where its probes go.
    pub target: Target,
    /// Whether it may take traffic, and if not, why.
    pub verdict: Verdict,
    /// Since when, on the monitor's clock.
    pub since: Duration,
    /// Results in a row.
    pub streak: Streak,
    /// Damping penalty.
    pub penalty: f64,
    /// All probes so far.
    pub tally: Tally,
    /// How long the last passed probe took.
    pub last_latency: Option<Duration>,
    /// The last failure and when it was, on the monitor's clock.
    pub last_failure: Option<(Duration, Failure)>,
    /// The last transitions, oldest first.
    pub history: Arc<[Transition]>,
    /// When the next probe is due, on the monitor's clock; `None` while one runs.
    pub next_probe: Option<Duration>,
}

/// All backends under check.
#[derive(Debug)]
pub struct Table {
    entries: HashMap<Id, Entry>,
    /// Service → backend → id: two levels, so that a look-up needs no owned key.
    ids: HashMap<Arc<str>, HashMap<Arc<str>, Id>>,
    /// In the order of the configuration.
    order: Vec<Id>,
    queue: Queue<Id>,
    next_id: u64,
    random: fastrand::Rng,
}

#[derive(Debug)]
struct Entry {
    name: BackendName,
    server: (IpAddr, Option<u16>),
    target: Target,
    check: Arc<HealthCheck>,
    tls: Option<ProbeTls>,
    rules: Rules,
    state: State,
    place: Place,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Waiting(Slot),
    Running { started: Duration },
}

impl Table {
    /// An empty table that lets `max_running` probes run at once. Equal seeds give equal
    /// schedules.
    pub fn new(max_running: usize, seed: u64) -> Self {
        Self {
            entries: HashMap::new(),
            ids: HashMap::new(),
            order: Vec::new(),
            queue: Queue::new(max_running),
            next_id: 0,
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// Makes these the checks, in this order. Of several for one name the first counts.
    ///
    /// A backend whose check, target and server are what they were goes on undisturbed. One whose
    /// check or target changed begins its rows anew and keeps verdict, penalty and history. One
    /// whose server changed keeps its history only, and is unknown until it is probed.
    pub fn reconcile(&mut self, checks: Vec<Check>, now: Duration) -> Reconciled {
        let mut before = std::mem::take(&mut self.ids);
        let mut done = Reconciled::default();
        let mut fresh = Vec::new();
        self.order.clear();
        for check in checks {
            if self.id(&check.name.service, &check.name.backend).is_some() {
                continue;
            }
            let known = before
                .get_mut(&check.name.service)
                .and_then(|backends| backends.remove(&check.name.backend));
            let name = check.name.clone();
            let id = match known.and_then(|id| self.entries.remove(&id).map(|entry| (id, entry))) {
                Some((id, entry)) if entry.agrees_with(&check) => {
                    done.kept += 1;
                    self.entries.insert(id, entry);
                    id
                }
                Some((id, entry)) => {
                    done.changed += 1;
                    self.unqueue(id, &entry);
                    let id = self.insert(entry.changed_to(check, now));
                    fresh.push(id);
                    id
                }
                None => {
                    done.added += 1;
                    let id = self.insert(Entry::new(check, now));
                    fresh.push(id);
                    id
                }
            };
            self.order.push(id);
            self.ids
                .entry(name.service)
                .or_default()
                .insert(name.backend, id);
        }
        for id in before.into_values().flat_map(HashMap::into_values) {
            if let Some(entry) = self.entries.remove(&id) {
                done.removed += 1;
                self.unqueue(id, &entry);
            }
        }
        self.spread(&fresh, now);
        done
    }

    /// Takes out a probe that is to start now, if one is due and there is room.
    pub fn start(&mut self, now: Duration) -> Option<Job> {
        while let Some(id) = self.queue.start(now) {
            let Some(entry) = self.entries.get_mut(&id) else {
                self.queue.finished();
                continue;
            };
            entry.place = Place::Running { started: now };
            return Some(Job {
                id,
                target: entry.target,
                check: entry.check.clone(),
                tls: entry.tls.clone(),
            });
        }
        None
    }

    /// Takes in the outcome of a started probe and plans the next. Returns the backend's name and
    /// what the data plane must be told, if anything.
    pub fn finish(
        &mut self,
        id: Id,
        outcome: Outcome,
        now: Duration,
    ) -> Option<(BackendName, Change)> {
        self.queue.finished();
        // Absent: the backend is gone or its check has changed while the probe ran.
        let entry = self.entries.get_mut(&id)?;
        let Place::Running { started } = entry.place else {
            return None;
        };
        let was = entry.state.verdict();
        let change = entry.state.observe(&entry.rules, outcome, now);
        let interval = entry.check.interval;
        let (gap, urgent) = match entry.state.need(&entry.rules) {
            Need::Confirm(row) => (schedule::confirm_gap(interval, row), true),
            Need::Steady if was == Verdict::Unknown => {
                (schedule::scatter_gap(interval, self.random.f64()), false)
            }
            Need::Steady => (
                schedule::steady_gap(interval, entry.check.jitter, self.random.f64()),
                false,
            ),
        };
        let slot = Slot {
            due: started.saturating_add(gap).max(now),
            urgent,
        };
        entry.place = Place::Waiting(slot);
        self.queue.insert(id, slot);
        change.map(|change| (entry.name.clone(), change))
    }

    /// When [`Self::start`] next has something to start, if no probe ends before.
    pub fn next_due(&self) -> Option<Duration> {
        self.queue.next_due()
    }

    /// The verdict on a backend; `None` if it is not under check.
    pub fn verdict(&self, service: &str, backend: &str) -> Option<Verdict> {
        let id = self.id(service, backend)?;
        Some(self.entries.get(&id)?.state.verdict())
    }

    /// How many probes run.
    pub fn running(&self) -> usize {
        self.queue.running()
    }

    /// The health of every backend, in the order of the configuration.
    pub fn backends(&self, now: Duration) -> Vec<BackendHealth> {
        self.order
            .iter()
            .filter_map(|id| Some(self.entries.get(id)?.health(now)))
            .collect()
    }

    fn id(&self, service: &str, backend: &str) -> Option<Id> {
        self.ids.get(service)?.get(backend).copied()
    }

    fn insert(&mut self, entry: Entry) -> Id {
        let id = Id(self.next_id);
        self.next_id += 1;
        self.entries.insert(id, entry);
        id
    }

    fn unqueue(&mut self, id: Id, entry: &Entry) {
        if let Place::Waiting(slot) = entry.place {
            self.queue.remove(id, slot);
        }
    }

    /// Plans the first probes of these backends.
    fn spread(&mut self, fresh: &[Id], now: Duration) {
        let is_known = |entry: &Entry| entry.state.verdict() != Verdict::Unknown;
        for known in [false, true] {
            let ids: Vec<Id> = fresh
                .iter()
                .copied()
                .filter(|id| {
                    self.entries
                        .get(id)
                        .is_some_and(|entry| is_known(entry) == known)
                })
                .collect();
            for (index, id) in ids.iter().enumerate() {
                let Some(entry) = self.entries.get_mut(id) else {
                    continue;
                };
                let random = self.random.f64();
                let interval = entry.check.interval;
                let delay = schedule::first_delay(known, index, ids.len(), interval, random);
                let slot = Slot {
                    due: now.saturating_add(delay),
                    urgent: !known,
                };
                entry.place = Place::Waiting(slot);
                self.queue.insert(*id, slot);
            }
        }
    }
}

impl Entry {
    fn new(check: Check, now: Duration) -> Self {
        Self {
            state: State::new(check.adopted, now),
            name: check.name,
            server: check.server,
            target: check.target,
            rules: Rules::from(&*check.health),
            check: check.health,
            tls: check.tls,
            // Replaced by `spread` before anyone looks.
            place: Place::Running { started: now },
        }
    }

    fn agrees_with(&self, check: &Check) -> bool {
        self.server == check.server
            && self.target == check.target
            && self.tls == check.tls
            && (Arc::ptr_eq(&self.check, &check.health) || self.check == check.health)
    }

    fn changed_to(self, check: Check, now: Duration) -> Self {
        let mut state = self.state;
        if self.server == check.server {
            state.restart();
        } else {
            state.moved(now);
        }
        Self {
            state,
            ..Self::new(check, now)
        }
    }

    fn health(&self, now: Duration) -> BackendHealth {
        BackendHealth {
            name: self.name.clone(),
            target: self.target,
            verdict: self.state.verdict(),
            since: self.state.since(),
            streak: self.state.streak(),
            penalty: self.state.penalty(&self.rules, now),
            tally: *self.state.tally(),
            last_latency: self.state.last_latency(),
            last_failure: self.state.last_failure().cloned(),
            history: self.state.history().clone(),
            next_probe: match self.place {
                Place::Waiting(slot) => Some(slot.due),
                Place::Running { .. } => None,
            },
        }
    }
}

#[cfg(test)]
mod tests;
