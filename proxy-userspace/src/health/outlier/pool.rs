//! Who of a service is ejected, why, and until when.

use super::detect::{self, ALIKE};
use super::network::{self, Network, Path, Seen};
use super::{Change, ChangeKind, Evidence, Spared, Window};
use crate::config::model::outlier::{Detector, Outlier, Slowness};
use std::collections::BTreeMap;
use std::time::Duration;

/// A backend that may be given clients, by a number that names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its number.
    pub id: u32,
    /// Its active checks, if there are any, say that it is well.
    pub is_well: bool,
}

/// An ejection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ejected {
    /// Since when.
    pub since: Duration,
    /// Until when.
    pub until: Duration,
    /// Why.
    pub evidence: Evidence,
    /// How many ejections, lately, this one is.
    pub times: u32,
}

/// What is known of one backend.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Record {
    /// What it did since the interval began.
    window: Window,
    /// What the kernel told of its connections since then.
    network: Network,
    /// The same since they are counted, as of the last time that it was told.
    told: Network,
    pub(super) path: Path,
    /// The last mean round trip in nanoseconds.
    round_trip: Option<f64>,
    /// Smoothed mean latency in nanoseconds.
    pub(super) latency: Option<f64>,
    /// Intervals since there were enough requests to know it by.
    pub(super) age: u32,
    /// Intervals in a row in which it was slow.
    pub(super) slow: u32,
    /// Ejections, less the intervals in which it was well.
    pub(super) times: u32,
    /// It was out for a part of the interval.
    was_out: bool,
    /// The interval in which it was last found and not ejected.
    spared: Option<u64>,
    pub(super) ejected: Option<Ejected>,
}

/// The backends of one service.
#[derive(Debug, Default)]
pub struct Pool {
    records: BTreeMap<u32, Record>,
    interval_ends: Option<Duration>,
    rounds: u64,
}

/// Intervals for which a latency is believed without new requests.
const OLDEST: u32 = 6;

/// What the newest interval weighs in a smoothed latency.
const NEWEST: f64 = 0.5;

impl Pool {
    /// Forgets backends that are gone.
    pub fn retain(&mut self, mut is_known: impl FnMut(u32) -> bool) {
        self.records.retain(|id, _| is_known(*id));
    }

    /// Adds what a backend did.
    pub fn observe(&mut self, id: u32, window: &Window) {
        self.records.entry(id).or_default().window.add(window);
    }

    /// Adds what the kernel has told of connections to a backend since the last call. `told` counts
    /// from the backend's beginning.
    pub fn observe_network(&mut self, id: u32, told: &Network) -> Network {
        let record = self.records.entry(id).or_default();
        let new = told.since(&record.told);
        record.told = *told;
        record.network.add(&new);
        record.round_trip = new.round_trip().or(record.round_trip);
        new
    }

    /// The mean round trip in nanoseconds, as it was last told.
    pub fn round_trip(&self, id: u32) -> Option<f64> {
        self.records.get(&id)?.round_trip
    }

    /// What the network adds to a backend's answers, and what it would if nothing was the matter
    /// with this backend in particular: in nanoseconds, where known.
    pub fn delay(&self, id: u32) -> Option<(f64, f64)> {
        let paths = self.records.iter().map(|(id, record)| (*id, record.path));
        network::usual_delay(&paths.collect::<Vec<_>>(), id)
    }

    /// What is known of a backend.
    pub(super) fn record(&self, id: u32) -> Option<&Record> {
        self.records.get(&id)
    }

    /// Takes a backend as known so.
    pub(super) fn put(&mut self, id: u32, record: Record) {
        self.records.insert(id, record);
    }

    /// The ejection of a backend, if it is ejected.
    pub fn ejected(&self, id: u32) -> Option<&Ejected> {
        self.records.get(&id)?.ejected.as_ref()
    }

    /// Smoothed latency of a backend in nanoseconds, as of the last interval that had enough
    /// requests, if that is not long ago.
    pub fn latency(&self, id: u32) -> Option<f64> {
        self.records.get(&id)?.latency
    }

    /// Intervals that have ended.
    pub fn rounds(&self) -> u64 {
        self.rounds
    }

    /// A row of failures is full, or a detector has found something: ejects the backend, if that
    /// may be. `None` if it is ejected already, or if that it is spared was said in this interval.
    /// `random`: 64 bits.
    pub fn suspect(
        &mut self,
        rules: &Outlier,
        hosts: &[Host],
        id: u32,
        evidence: Evidence,
        now: Duration,
        random: u64,
    ) -> Option<Change> {
        if self.ejected(id).is_some() {
            return None;
        }
        let change = |kind| Some(Change { host: id, kind });
        // One draw decides whether, and an independent one how long.
        let (whether, how_long) = (draw(random), draw(proxy_common::hash::mix(random)));
        if let Some(spared) = self.spared(rules, hosts, id, &evidence, whether) {
            // Once per interval: when all fail, this comes with every few requests.
            let round = Some(self.rounds);
            let before = &mut self.records.entry(id).or_default().spared;
            if std::mem::replace(before, round) == round {
                return None;
            }
            return change(ChangeKind::Spared(evidence, spared));
        }
        let record = self.records.entry(id).or_default();
        record.times = record.times.saturating_add(1);
        record.slow = 0;
        record.path.forget_rows();
        let time = ejection_time(rules, record.times, how_long);
        let ejected = Ejected {
            since: now,
            until: now.saturating_add(time),
            evidence,
            times: record.times,
        };
        record.ejected = Some(ejected);
        change(ChangeKind::Ejected(ejected))
    }

    /// Ends ejections whose time is over (all, without rules, or where nobody else is well), and compares the backends when an
    /// interval of `interval` is over.
    pub fn tick(
        &mut self,
        rules: Option<&Outlier>,
        interval: Duration,
        min_timed: u32,
        hosts: &[Host],
        now: Duration,
        mut random: impl FnMut() -> u64,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        // The others may have failed their checks since.
        let is_in = |host: &Host| host.is_well && self.ejected(host.id).is_none();
        let is_nobody_left = !hosts.iter().any(is_in);
        let wells: Vec<u32> = hosts.iter().filter(|h| h.is_well).map(|h| h.id).collect();
        for (&host, record) in &mut self.records {
            let is_needed = is_nobody_left && wells.contains(&host);
            let is_over =
                |ejected: &mut Ejected| rules.is_none() || is_needed || ejected.until <= now;
            if record.ejected.take_if(is_over).is_some() {
                // What it did before says nothing about it now.
                record.window = Window::default();
                record.network = Network::default();
                record.latency = None;
                record.was_out = true;
                let kind = ChangeKind::Returned;
                changes.push(Change { host, kind });
            }
        }
        let ends = *self
            .interval_ends
            .get_or_insert(now.saturating_add(interval));
        // A shorter interval of a new configuration holds at once.
        if now < ends && ends <= now.saturating_add(interval) {
            return changes;
        }
        self.interval_ends = Some(now.saturating_add(interval));
        self.rounds += 1;
        self.smooth(min_timed);
        if let Some(rules) = rules {
            let findings = self.findings(rules, hosts);
            self.forgive(&findings);
            for (id, evidence) in findings {
                changes.extend(self.suspect(rules, hosts, id, evidence, now, random()));
            }
        }
        for record in self.records.values_mut() {
            record.window = Window::default();
            record.network = Network::default();
        }
        changes
    }

    /// Why this backend cannot be ejected now, if so.
    fn spared(
        &self,
        rules: &Outlier,
        hosts: &[Host],
        id: u32,
        evidence: &Evidence,
        draw: f64,
    ) -> Option<Spared> {
        if draw >= rules.enforced(evidence.detector()) {
            return Some(Spared::NotEnforced);
        }
        let is_out = |host: &Host| self.ejected(host.id).is_some();
        let out = hosts.iter().filter(|host| is_out(host)).count();
        let share = (rules.max_ejected * hosts.len() as f64).floor() as usize;
        let most = if rules.max_ejected > 0.0 {
            share.max(1)
        } else {
            0
        };
        if out >= most {
            return Some(Spared::MaxEjected);
        }
        let mut others = hosts.iter().filter(|host| host.id != id);
        let is_left = others.any(|host| host.is_well && !is_out(host));
        (!is_left).then_some(Spared::LastOne)
    }

    fn smooth(&mut self, min_timed: u32) {
        for record in self.records.values_mut() {
            let network = record.network;
            record.path.learn(&network, OLDEST);
            let Window {
                timed, latency_ns, ..
            } = record.window;
            if timed == 0 || timed < u64::from(min_timed) {
                record.age = record.age.saturating_add(1);
                if record.age > OLDEST {
                    record.latency = None;
                }
                continue;
            }
            record.age = 0;
            let mean = latency_ns as f64 / timed as f64;
            let before = record.latency.unwrap_or(mean);
            record.latency = Some(before + NEWEST * (mean - before));
        }
    }

    /// What the detectors of intervals find, each backend once.
    fn findings(&mut self, rules: &Outlier, hosts: &[Host]) -> Vec<(u32, Evidence)> {
        let in_play = |host: &&Host| self.ejected(host.id).is_none();
        let windows: Vec<(u32, Window)> = hosts
            .iter()
            .filter(in_play)
            .filter_map(|host| Some((host.id, self.records.get(&host.id)?.window)))
            .collect();
        let mut found = Vec::new();
        if let Some(rate) = &rules.success_rate {
            found.extend(detect::success_rate(&windows, rate));
        }
        if let Some(failures) = &rules.failure_percentage {
            found.extend(detect::failure_percentage(&windows, failures));
        }
        if let Some(slowness) = &rules.latency {
            found.extend(self.slow(&windows, slowness));
        }
        if let Some(quality) = &rules.network {
            let seen: Vec<Seen> = windows
                .iter()
                .filter_map(|(id, _)| Some((*id, self.records.get(id)?)))
                .map(|(id, record)| Seen {
                    id,
                    network: record.network,
                    lowest: record.path.lowest(),
                })
                .collect();
            let mut paths: BTreeMap<u32, &mut Path> = self
                .records
                .iter_mut()
                .map(|(id, record)| (*id, &mut record.path))
                .collect();
            found.extend(network::strained(&seen, quality, |id| paths.remove(&id)));
        }
        // The first finding that is enforced speaks for the others.
        found.sort_by_key(|(id, evidence)| (*id, rules.enforced(evidence.detector()) <= 0.0));
        found.dedup_by_key(|(id, _)| *id);
        found
    }

    /// Backends that were slower than the others for long enough.
    fn slow(&mut self, windows: &[(u32, Window)], rules: &Slowness) -> Vec<(u32, Evidence)> {
        let enough = |window: &Window| window.timed >= u64::from(rules.min_requests);
        let latencies: Vec<(u32, f64)> = windows
            .iter()
            .filter(|(_, window)| enough(window))
            .filter_map(|(id, _)| Some((*id, self.latency(*id)?)))
            .collect();
        let mut found = Vec::new();
        for (id, _) in windows {
            let own = latencies.iter().find(|(known, _)| known == id);
            let median = detect::median_of_others(&latencies, *id);
            let is_comparable = latencies.len() >= rules.min_hosts as usize;
            let slow = own.zip(median).filter(|((_, own), median)| {
                let gap = own - median;
                is_comparable && *own > rules.factor * median && gap >= ALIKE.as_nanos() as f64
            });
            let Some(record) = self.records.get_mut(id) else {
                continue;
            };
            let Some(((_, own), median)) = slow else {
                record.slow = 0;
                continue;
            };
            record.slow += 1;
            if record.slow >= rules.intervals {
                let evidence = Evidence::Latency {
                    own: Duration::from_nanos(*own as u64),
                    median: Duration::from_nanos(median as u64),
                    intervals: record.slow,
                };
                found.push((*id, evidence));
            }
        }
        found
    }

    /// Counts an interval in the favour of those who were well in it.
    fn forgive(&mut self, findings: &[(u32, Evidence)]) {
        for (id, record) in &mut self.records {
            let is_found = findings.iter().any(|(found, _)| found == id);
            let was_out = std::mem::take(&mut record.was_out);
            if record.ejected.is_none() && !was_out && !is_found {
                record.times = record.times.saturating_sub(1);
            }
        }
    }
}

/// How long the n-th ejection takes.
fn ejection_time(rules: &Outlier, times: u32, draw: f64) -> Duration {
    let longest = rules.max_ejection_time.max(rules.base_ejection_time);
    let time = rules.base_ejection_time.saturating_mul(times).min(longest);
    time.saturating_add(time.mul_f64((rules.jitter * draw).clamp(0.0, 1.0)))
}

/// Evenly from 0..1.
fn draw(random: u64) -> f64 {
    (random >> 11) as f64 / (1_u64 << 53) as f64
}

/// The row that is too long, of each detector that counts rows, the one that says most first; 0 for
/// none.
pub fn rows(rules: &Outlier) -> [(Detector, u32); 3] {
    [
        (
            Detector::ConnectFailures,
            rules.consecutive_connect_failures,
        ),
        (Detector::GatewayErrors, rules.consecutive_gateway_errors),
        (Detector::Consecutive5xx, rules.consecutive_5xx),
    ]
}
