use super::super::outcome::FailureKind;
use super::super::testing::{address, check, health_check, pass, refuse};
use super::*;
use std::collections::BTreeMap;
use std::net::SocketAddr;

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

/// A table, a clock, and servers that answer after `latency`.
struct Fleet {
    table: Table,
    now: Duration,
    latency: Duration,
    running: BTreeMap<(Duration, Id), Job>,
    /// Starts of probes, in order.
    started: Vec<(Duration, SocketAddr)>,
    changes: Vec<(Duration, BackendName, bool)>,
    dead: Vec<SocketAddr>,
}

impl Fleet {
    fn new(max_running: usize) -> Self {
        Self {
            table: Table::new(max_running, 7),
            now: Duration::ZERO,
            latency: MILLI,
            running: BTreeMap::new(),
            started: Vec::new(),
            changes: Vec::new(),
            dead: Vec::new(),
        }
    }

    fn reconcile(&mut self, checks: Vec<Check>) -> Reconciled {
        self.table.reconcile(checks, self.now)
    }

    /// Lets the simulation go on until `end`.
    fn run_until(&mut self, end: Duration) {
        loop {
            while let Some(job) = self.table.start(self.now) {
                self.started.push((self.now, job.target.address));
                self.running.insert((self.now + self.latency, job.id), job);
            }
            let ends = self.running.first_key_value().map(|((at, _), _)| *at);
            let Some(next) = ends.into_iter().chain(self.table.next_due()).min() else {
                break;
            };
            if next > end {
                break;
            }
            self.now = self.now.max(next);
            while let Some(entry) = self.running.first_entry() {
                if entry.key().0 > self.now {
                    break;
                }
                let job = entry.remove();
                let dead = self.dead.contains(&job.target.address);
                let outcome = if dead { refuse() } else { pass() };
                if let Some((name, change)) = self.table.finish(job.id, outcome, self.now) {
                    self.changes.push((self.now, name, change.up));
                }
            }
        }
        self.now = end;
    }

    fn verdict(&self, index: usize) -> Option<Verdict> {
        self.table.verdict("web", &format!("b{index}"))
    }

    fn health(&self, index: usize) -> BackendHealth {
        let name = format!("b{index}");
        let mut all = self.table.backends(self.now).into_iter();
        all.find(|health| *health.name.backend == *name)
            .expect("it is under check")
    }

    /// The starts of the probes of one server.
    fn starts(&self, index: usize) -> Vec<Duration> {
        let of_it =
            |(at, target): &(Duration, SocketAddr)| (*target == address(index)).then_some(*at);
        self.started.iter().filter_map(of_it).collect()
    }
}

fn fleet_of(count: usize, health: HealthCheck) -> (Fleet, Arc<HealthCheck>) {
    let health = Arc::new(health);
    let mut fleet = Fleet::new(10_000);
    fleet.reconcile((0..count).map(|index| check(index, &health)).collect());
    (fleet, health)
}

#[test]
fn new_backend_is_probed_at_once_and_up_after_one_probe() {
    let (mut fleet, _) = fleet_of(1, health_check());
    assert_eq!(fleet.verdict(0), Some(Verdict::Unknown));
    fleet.run_until(MILLI);
    assert_eq!(
        fleet.changes,
        [(MILLI, BackendName::new("web", "b0"), true)]
    );
    assert_eq!(fleet.verdict(0), Some(Verdict::Up));
}

#[test]
fn failure_is_confirmed_by_faster_probes_within_one_interval() {
    let (mut fleet, _) = fleet_of(1, health_check());
    fleet.run_until(10 * SECOND);
    let died = fleet.now;
    fleet.dead.push(address(0));
    fleet.changes.clear();
    fleet.run_until(20 * SECOND);
    let first_failure = fleet.starts(0).into_iter().find(|at| *at >= died).unwrap();
    assert!(first_failure - died <= SECOND);
    let (told, _, up) = fleet.changes[0].clone();
    assert!(!up);
    assert!(
        told - first_failure <= SECOND,
        "told {:?} after the failure",
        told - first_failure
    );
    assert_eq!(fleet.changes.len(), 1);
}

#[test]
fn probes_of_one_backend_never_overlap_even_when_they_outlast_the_interval() {
    let (mut fleet, _) = fleet_of(1, health_check());
    fleet.latency = 3 * SECOND;
    fleet.run_until(59 * SECOND);
    for pair in fleet.starts(0).windows(2) {
        assert!(pair[1] - pair[0] >= 3 * SECOND);
    }
    assert_eq!(fleet.starts(0).len(), 20);
}

#[test]
fn adopted_backend_is_not_touched_by_its_first_probe() {
    let health = Arc::new(health_check());
    let mut fleet = Fleet::new(10);
    fleet.dead.push(address(0));
    fleet.reconcile(vec![Check {
        adopted: Some(true),
        ..check(0, &health)
    }]);
    assert_eq!(fleet.verdict(0), Some(Verdict::Up));
    fleet.run_until(4 * SECOND);
    assert_eq!(fleet.changes.len(), 1);
    assert!(fleet.health(0).tally.failed[FailureKind::Refused.index()] >= 3);
}

#[test]
fn unchanged_backend_goes_on_undisturbed_through_a_reload() {
    let (mut fleet, health) = fleet_of(2, health_check());
    fleet.run_until(10 * SECOND + 500 * MILLI);
    let before = fleet.health(0);
    // An equal check in another allocation is unchanged too; so is another place in the file.
    let equal = Arc::new((*health).clone());
    let done = fleet.reconcile(vec![check(1, &health), check(0, &equal)]);
    assert_eq!(
        done,
        Reconciled {
            kept: 2,
            ..Reconciled::default()
        }
    );
    let after = fleet.health(0);
    assert_eq!(after.next_probe, before.next_probe);
    assert_eq!(after.tally, before.tally);
    assert_eq!(after.streak, before.streak);
    assert_eq!(after.history, before.history);
    let names: Vec<_> = fleet
        .table
        .backends(fleet.now)
        .iter()
        .map(|health| health.name.to_string())
        .collect();
    assert_eq!(names, ["web/b1", "web/b0"]);
}

#[test]
fn reload_does_not_lose_the_probe_in_flight_of_an_unchanged_backend() {
    let (mut fleet, health) = fleet_of(1, health_check());
    let job = fleet.table.start(Duration::ZERO).expect("due at once");
    fleet.reconcile(vec![check(0, &health)]);
    assert!(
        fleet.table.start(SECOND).is_none(),
        "a second probe would overlap"
    );
    assert!(fleet.table.finish(job.id, pass(), MILLI).is_some());
}

#[test]
fn changed_check_begins_anew_and_keeps_verdict_and_history() {
    let (mut fleet, health) = fleet_of(1, health_check());
    fleet.run_until(10 * SECOND);
    fleet.dead.push(address(0));
    fleet.run_until(11 * SECOND);
    let history = fleet.health(0).history;
    let changed = Arc::new(HealthCheck {
        fall: 7,
        ..(*health).clone()
    });
    let done = fleet.reconcile(vec![check(0, &changed)]);
    assert_eq!(
        done,
        Reconciled {
            changed: 1,
            ..Reconciled::default()
        }
    );
    assert_eq!(fleet.health(0).streak, Streak::default());
    assert_eq!(fleet.health(0).history, history);
    assert_eq!(fleet.table.queue.len(), 1, "it does not wait twice");
    assert!(fleet.health(0).next_probe.unwrap() <= fleet.now + SECOND);
}

#[test]
fn backend_that_moves_to_another_server_is_unknown_until_probed() {
    let (mut fleet, health) = fleet_of(1, health_check());
    fleet.run_until(10 * SECOND);
    let moved = Check {
        server: (address(9).ip(), Some(80)),
        target: Target::new(address(9)),
        ..check(0, &health)
    };
    fleet.reconcile(vec![moved]);
    assert_eq!(fleet.verdict(0), Some(Verdict::Unknown));
    fleet.run_until(10 * SECOND + MILLI);
    assert_eq!(fleet.verdict(0), Some(Verdict::Up));
    assert_eq!(fleet.starts(9).len(), 1);
}

#[test]
fn backend_that_moves_behind_a_vip_is_unknown_although_its_probes_go_to_the_same_address() {
    let (mut fleet, health) = fleet_of(1, health_check());
    fleet.run_until(10 * SECOND);
    fleet.reconcile(vec![Check {
        server: (address(9).ip(), Some(80)),
        ..check(0, &health)
    }]);
    assert_eq!(fleet.verdict(0), Some(Verdict::Unknown));
}

#[test]
fn outcome_of_a_probe_under_the_old_check_is_dropped() {
    let (mut fleet, health) = fleet_of(1, health_check());
    let stale = fleet.table.start(Duration::ZERO).expect("due at once");
    let changed = Arc::new(HealthCheck {
        rise: 5,
        ..(*health).clone()
    });
    fleet.reconcile(vec![check(0, &changed)]);
    assert!(fleet.table.finish(stale.id, refuse(), MILLI).is_none());
    assert_eq!(fleet.verdict(0), Some(Verdict::Unknown));
    assert_eq!(fleet.table.running(), 0, "its place is free again");
}

#[test]
fn outcome_for_a_removed_backend_is_dropped() {
    let (mut fleet, _) = fleet_of(1, health_check());
    let stale = fleet.table.start(Duration::ZERO).expect("due at once");
    let done = fleet.reconcile(vec![]);
    assert_eq!(
        done,
        Reconciled {
            removed: 1,
            ..Reconciled::default()
        }
    );
    assert!(fleet.table.finish(stale.id, pass(), MILLI).is_none());
    assert_eq!((fleet.table.running(), fleet.verdict(0)), (0, None));
    assert_eq!(fleet.table.next_due(), None);
}

#[test]
fn removed_backend_that_waits_is_never_probed_again() {
    let (mut fleet, health) = fleet_of(2, health_check());
    fleet.run_until(3 * SECOND);
    fleet.reconcile(vec![check(1, &health)]);
    let before = fleet.starts(0).len();
    fleet.run_until(10 * SECOND);
    assert_eq!(fleet.starts(0).len(), before);
    assert!(fleet.starts(1).len() >= 8);
}

#[test]
fn second_check_for_the_same_name_is_ignored() {
    let health = Arc::new(health_check());
    let mut fleet = Fleet::new(10);
    let done = fleet.reconcile(vec![check(0, &health), check(0, &health)]);
    assert_eq!(
        done,
        Reconciled {
            added: 1,
            ..Reconciled::default()
        }
    );
    assert_eq!(fleet.table.backends(fleet.now).len(), 1);
}

#[test]
fn fleet_of_4096_is_decided_in_a_moment_and_leaves_lockstep_after_one_interval() {
    let interval = 5 * SECOND;
    let (mut fleet, _) = fleet_of(
        4096,
        HealthCheck {
            interval,
            ..health_check()
        },
    );
    fleet.run_until(interval / 10 + 2 * MILLI);
    assert_eq!(fleet.changes.len(), 4096);
    assert!(fleet.changes.iter().all(|(_, _, up)| *up));

    // A fair share of a hundredth of the interval is 41 probes; without the scatter it would be
    // 500 ten times and 0 ninety times. The seed is fixed, so this either holds or does not.
    fleet.started.clear();
    let from = fleet.now + interval;
    fleet.run_until(from + interval);
    let mut in_slice = [0; 100];
    for (at, _) in fleet.started.iter().filter(|(at, _)| *at >= from) {
        let slice = (*at - from).as_secs_f64() / interval.as_secs_f64() * 100.0;
        in_slice[(slice as usize).min(99)] += 1;
    }
    assert!(
        in_slice.iter().all(|probes| (10..=85).contains(probes)),
        "{in_slice:?}"
    );
}

#[test]
fn fleet_that_does_not_answer_is_bounded_and_still_decided() {
    let health = Arc::new(health_check());
    let mut fleet = Fleet::new(100);
    fleet.latency = 200 * MILLI;
    fleet.dead = (0..1000).map(address).collect();
    fleet.reconcile((0..1000).map(|index| check(index, &health)).collect());
    // Ten rounds of a hundred, after a spread of a tenth of the interval.
    fleet.run_until(10 * 200 * MILLI + SECOND / 10);
    assert_eq!(fleet.changes.len(), 1000);
    let mut ends: Vec<_> = fleet
        .started
        .iter()
        .map(|(at, _)| *at + fleet.latency)
        .collect();
    ends.sort();
    for (start, _) in &fleet.started {
        let before = fleet
            .started
            .iter()
            .filter(|(other, _)| other <= start)
            .count();
        let ended = ends.partition_point(|end| end <= start);
        assert!(before - ended <= 100);
    }
}

#[test]
fn new_backends_are_decided_before_steady_ones_when_there_are_too_many() {
    let health = Arc::new(health_check());
    let mut fleet = Fleet::new(1);
    fleet.latency = 100 * MILLI;
    let known = |index| Check {
        adopted: Some(true),
        ..check(index, &health)
    };
    fleet.reconcile((0..100).map(known).collect());
    fleet.run_until(5 * SECOND);
    let added = fleet.now;
    fleet.reconcile((0..100).map(known).chain([check(200, &health)]).collect());
    fleet.run_until(added + 200 * MILLI);
    assert_eq!(fleet.verdict(200), Some(Verdict::Up));
}
