//! Outlier policy in simulated time.

use super::*;
use crate::config::model::outlier::{FailurePercentage, Outlier, Slowness, SuccessRate};
use proptest::prelude::*;

const S: Duration = Duration::from_secs(1);

fn rules() -> Outlier {
    Outlier {
        jitter: 0.0,
        success_rate: Some(SuccessRate {
            stdev_factor: 1.9,
            min_hosts: 5,
            min_requests: 100,
        }),
        ..Outlier::default()
    }
}

fn hosts(count: u32) -> Vec<Host> {
    let host = |id| Host { id, is_well: true };
    (0..count).map(host).collect()
}

fn row() -> Evidence {
    Evidence::Row(Detector::Consecutive5xx, 5)
}

/// A window of so many answers of this latency, and so many failures.
fn window(answered: u64, latency: Duration, failed: u64) -> Window {
    Window {
        timed: answered,
        latency_ns: latency.as_nanos() as u64 * answered,
        untimed: 0,
        failed,
    }
}

struct World {
    pool: Pool,
    rules: Outlier,
    hosts: Vec<Host>,
    now: Duration,
}

impl World {
    fn new(rules: Outlier, count: u32) -> Self {
        let mut world = Self {
            pool: Pool::default(),
            rules,
            hosts: hosts(count),
            now: S,
        };
        assert!(world.tick().is_empty(), "the first interval has begun");
        world
    }

    fn tick(&mut self) -> Vec<Change> {
        let interval = self.rules.interval;
        let rules = Some(&self.rules);
        self.pool
            .tick(rules, interval, 1, &self.hosts, self.now, || 0)
    }

    fn suspect(&mut self, id: u32) -> Option<ChangeKind> {
        let Self {
            pool, rules, hosts, ..
        } = self;
        let change = pool.suspect(rules, hosts, id, row(), self.now, 0);
        change.map(|change| change.kind)
    }

    /// An interval in which each backend did this.
    fn interval(&mut self, of: impl Fn(u32) -> Window) -> Vec<Change> {
        for id in 0..self.hosts.len() as u32 {
            self.pool.observe(id, &of(id));
        }
        self.now += self.rules.interval;
        self.tick()
    }

    fn ejections(&mut self, of: impl Fn(u32) -> Window) -> Vec<u32> {
        let changes = self.interval(of);
        let ejected = |change: &Change| matches!(change.kind, ChangeKind::Ejected(_));
        let ejected = changes.iter().filter(|change| ejected(change));
        ejected.map(|change| change.host).collect()
    }
}

#[test]
fn an_ejection_grows_with_each_repetition_and_shrinks_while_all_is_well() {
    let mut world = World::new(rules(), 3);
    let time = |world: &mut World| {
        let Some(ChangeKind::Ejected(ejected)) = world.suspect(1) else {
            panic!("not ejected");
        };
        assert_eq!(ejected.since, world.now);
        assert!(world.suspect(1).is_none(), "once");
        world.now = ejected.until;
        let returned = Change {
            host: 1,
            kind: ChangeKind::Returned,
        };
        assert!(world.tick().contains(&returned));
        ejected.until - ejected.since
    };
    assert_eq!(time(&mut world), 30 * S);
    // An interval of which it was out for a part is not to its credit.
    assert_eq!(time(&mut world), 60 * S);
    assert_eq!(time(&mut world), 90 * S);
    for _ in 0..2 {
        world.interval(|_| Window::default());
    }
    assert_eq!(time(&mut world), 60 * S);
    for _ in 0..40 {
        assert!(time(&mut world) <= world.rules.max_ejection_time);
    }
}

#[test]
fn the_last_one_that_is_well_stays_and_so_do_those_beyond_the_share() {
    let mut world = World::new(rules(), 3);
    world.hosts[0].is_well = false;
    assert!(matches!(world.suspect(1), Some(ChangeKind::Ejected(_))));
    let spared = |kind| match kind {
        Some(ChangeKind::Spared(_, spared)) => spared,
        other => panic!("{other:?}"),
    };
    assert_eq!(spared(world.suspect(2)), Spared::MaxEjected);
    assert_eq!(world.suspect(2), None, "said once in an interval");
    world.rules.max_ejected = 1.0;
    world.interval(|_| Window::default());
    assert_eq!(spared(world.suspect(2)), Spared::LastOne);
    world.hosts[0].is_well = true;
    assert!(matches!(world.suspect(2), Some(ChangeKind::Ejected(_))));
    assert_eq!(spared(world.suspect(0)), Spared::LastOne);

    let mut world = World::new(rules(), 1);
    assert_eq!(spared(world.suspect(0)), Spared::LastOne);
    let mut world = World::new(rules(), 10);
    world.rules.max_ejected = 0.0;
    assert_eq!(spared(world.suspect(0)), Spared::MaxEjected);
    world.rules.max_ejected = 0.01;
    assert!(matches!(world.suspect(0), Some(ChangeKind::Ejected(_))));
    world.rules.enforce = [0.0; Detector::ALL.len()];
    assert_eq!(spared(world.suspect(1)), Spared::NotEnforced);
}

#[test]
fn when_the_others_fail_their_checks_the_ejected_return() {
    let mut world = World::new(rules(), 3);
    world.suspect(1);
    world.hosts[0].is_well = false;
    assert!(world.tick().is_empty());
    world.hosts[2].is_well = false;
    let kinds: Vec<_> = world.tick().iter().map(|change| change.kind).collect();
    assert_eq!(kinds, [ChangeKind::Returned]);
}

#[test]
fn without_rules_everybody_returns() {
    let mut world = World::new(rules(), 3);
    world.suspect(1);
    let changes = world
        .pool
        .tick(None, 10 * S, 1, &world.hosts, world.now, || 0);
    let kinds: Vec<_> = changes.iter().map(|change| change.kind).collect();
    assert_eq!(kinds, [ChangeKind::Returned]);
    assert!(world.pool.ejected(1).is_none());
}

#[test]
fn success_rate_finds_who_is_far_below_the_mean() {
    let ms = Duration::from_millis(1);
    let mut world = World::new(rules(), 6);
    let of = |id| {
        window(
            if id == 3 { 150 } else { 200 },
            ms,
            if id == 3 { 50 } else { 0 },
        )
    };
    assert_eq!(world.ejections(of), [3]);

    // One failure in ten thousand is far off in deviations, but nothing in itself.
    let mut world = World::new(rules(), 6);
    let of = |id| window(10_000, ms, u64::from(id == 3));
    assert!(world.ejections(of).is_empty());
    // All are alike, and all are bad.
    let mut world = World::new(rules(), 6);
    assert!(world.ejections(|_| window(100, ms, 100)).is_empty());
}

#[test]
fn failure_percentage_goes_by_itself() {
    let mut rules = rules();
    rules.failure_percentage = Some(FailurePercentage {
        threshold: 0.5,
        min_hosts: 2,
        min_requests: 10,
    });
    let mut world = World::new(rules, 4);
    let ms = Duration::from_millis(1);
    assert_eq!(
        world.ejections(|id| window(10, ms, if id == 0 { 10 } else { 9 })),
        [0]
    );
}

#[test]
fn slowness_must_last() {
    let mut rules = rules();
    rules.latency = Some(Slowness {
        factor: 3.0,
        intervals: 3,
        min_hosts: 3,
        min_requests: 10,
    });
    let mut world = World::new(rules, 4);
    let slow = |id| {
        let latency = Duration::from_millis(if id == 2 { 100 } else { 10 });
        window(50, latency, 0)
    };
    let even = |_| window(50, Duration::from_millis(10), 0);
    // One bad interval fades away before it has lasted long enough.
    for of in [&even as &dyn Fn(u32) -> Window, &slow, &even, &even, &even] {
        assert!(world.ejections(of).is_empty());
    }
    assert!(world.ejections(slow).is_empty());
    assert!(world.ejections(slow).is_empty());
    assert_eq!(world.ejections(slow), [2]);
    // Microseconds are no matter, nor are few requests.
    let mut world = World::new(world.rules, 4);
    let few = |id| window(9, Duration::from_secs(u64::from(id == 3)), 0);
    for _ in 0..20 {
        assert!(world.ejections(few).is_empty());
    }
    let mut world = World::new(world.rules, 4);
    let tiny = |id| window(50, Duration::from_micros(if id == 1 { 900 } else { 50 }), 0);
    for _ in 0..20 {
        assert!(world.ejections(tiny).is_empty());
    }
}

#[test]
fn evidence_says_its_numbers() {
    let text = Evidence::Latency {
        own: Duration::from_millis(840),
        median: Duration::from_millis(150),
        intervals: 3,
    };
    assert_eq!(
        text.to_string(),
        "latency 840.000 ms, 5.6 times the others' 150.000 ms, for 3 intervals"
    );
    assert_eq!(row().to_string(), "5 answers of 5xx in a row");
}

/// Something that happens in a simulation.
#[derive(Clone, Debug)]
enum Step {
    /// Time goes by, in milliseconds.
    Wait(u64),
    /// A row is full.
    Row(u32),
    /// A backend has answered, and failed, so often.
    Did(u32, u64, u64, u64),
    /// Active checks say so.
    Well(u32, bool),
}

fn step(hosts: u32) -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..20_000u64).prop_map(Step::Wait),
        (0..hosts).prop_map(Step::Row),
        (0..hosts, 0..300u64, 0..300u64, 1..500u64)
            .prop_map(|(id, ok, failed, ms)| Step::Did(id, ok, failed, ms)),
        (0..hosts, any::<bool>()).prop_map(|(id, well)| Step::Well(id, well)),
    ]
}

fn any_rules() -> impl Strategy<Value = Outlier> {
    (0.0..=1.0, 0.0..=1.0, 1..60u64, 1..300u64, any::<bool>()).prop_map(
        |(max_ejected, jitter, base, most, all)| Outlier {
            max_ejected,
            jitter,
            base_ejection_time: Duration::from_secs(base),
            max_ejection_time: Duration::from_secs(most.max(base)),
            failure_percentage: all.then_some(FailurePercentage {
                threshold: 0.5,
                min_hosts: 2,
                min_requests: 50,
            }),
            latency: all.then_some(Slowness {
                factor: 2.0,
                intervals: 2,
                min_hosts: 2,
                min_requests: 50,
            }),
            success_rate: rules().success_rate,
            ..Outlier::default()
        },
    )
}

proptest! {
    #[test]
    fn whatever_happens_some_stay_and_all_return(
        rules in any_rules(),
        steps in prop::collection::vec(step(7), 1..120),
        seed in any::<u64>(),
    ) {
        let mut world = World::new(rules, 7);
        let mut random = fastrand::Rng::with_seed(seed);
        for step in steps {
            let out_before = out(&world);
            let changes = match step {
                Step::Wait(ms) => {
                    world.now += Duration::from_millis(ms);
                    let World { pool, rules, hosts, now } = &mut world;
                    pool.tick(Some(rules), rules.interval, 1, hosts, *now, || random.u64(..))
                }
                Step::Row(id) => {
                    let World { pool, rules, hosts, now } = &mut world;
                    let draw = random.u64(..);
                    pool.suspect(rules, hosts, id, row(), *now, draw).into_iter().collect()
                }
                Step::Did(id, ok, failed, ms) => {
                    world.pool.observe(id, &window(ok, Duration::from_millis(ms), failed));
                    Vec::new()
                }
                Step::Well(id, well) => {
                    world.hosts[id as usize].is_well = well;
                    Vec::new()
                }
            };
            for change in &changes {
                let ChangeKind::Ejected(ejected) = change.kind else { continue };
                let rules = &world.rules;
                let longest = rules.max_ejection_time.max(rules.base_ejection_time).mul_f64(1.0 + rules.jitter);
                let took = ejected.until - ejected.since;
                prop_assert!(took >= rules.base_ejection_time && took <= longest + S);
                let mut left = world.hosts.iter().filter(|host| {
                    host.is_well && world.pool.ejected(host.id).is_none()
                });
                prop_assert!(left.next().is_some(), "nobody is left");
                let least = match ejected.evidence {
                    Evidence::SuccessRate { requests, .. } => requests >= 100,
                    Evidence::FailurePercentage { requests, .. } => requests >= 50,
                    _ => true,
                };
                prop_assert!(least, "judged by too few: {:?}", ejected.evidence);
            }
            let most = (world.rules.max_ejected * 7.0).floor().max(1.0) as usize;
            prop_assert!(out(&world) <= most.max(out_before));
        }
        // Time alone brings everybody back.
        world.now += world.rules.max_ejection_time.mul_f64(2.0) + S;
        world.tick();
        world.now += world.rules.interval * 2;
        world.tick();
        let still = (0..7).filter_map(|id| world.pool.ejected(id));
        prop_assert!(still.clone().all(|ejected| ejected.since + world.rules.interval * 2 >= world.now));
    }
}

fn out(world: &World) -> usize {
    (0..7)
        .filter(|id| world.pool.ejected(*id).is_some())
        .count()
}

#[test]
fn another_process_goes_on_with_an_ejection_by_its_own_clock() {
    let mut world = World::new(rules(), 3);
    assert!(matches!(world.suspect(1), Some(ChangeKind::Ejected(_))));
    world.now += 10 * S;
    assert_eq!(world.pool.carried(0, world.now), None, "nothing is known");
    let carried = world.pool.carried(1, world.now).expect("ejected");
    let text = serde_json::to_string(&carried).expect("written");
    let told: Carried = serde_json::from_str(&text).expect("read");

    let mut successor = World::new(rules(), 3);
    successor.now = 100_000 * S;
    successor.pool.inherit(1, &told, successor.now);
    let ejected = *successor.pool.ejected(1).expect("still ejected");
    assert_eq!(ejected.until, successor.now + 20 * S);
    assert_eq!(ejected.since, successor.now - 10 * S);
    assert_eq!((ejected.times, ejected.evidence), (1, row()));
    successor.now = ejected.until;
    let rules = &successor.rules;
    let back = successor.pool.tick(
        Some(rules),
        rules.interval,
        1,
        &successor.hosts,
        successor.now,
        || 0,
    );
    assert!(back.iter().any(|it| it.kind == ChangeKind::Returned));
    let Some(ChangeKind::Ejected(again)) = successor.suspect(1) else {
        panic!("not ejected");
    };
    assert_eq!(again.times, 2, "it is known what it did before");
}

#[test]
fn another_process_goes_on_with_latencies_and_believes_no_nonsense() {
    let mut world = World::new(rules(), 3);
    let ms = Duration::from_millis;
    world.interval(|id| window(200, ms(1 + u64::from(id)), 0));
    let mut successor = Pool::default();
    for id in 0..3 {
        let carried = world.pool.carried(id, world.now).expect("known");
        successor.inherit(id, &carried, S);
        assert_eq!(successor.latency(id), world.pool.latency(id));
    }
    for nonsense in ["-1.0", "1e999"] {
        let text = format!("{{\"latency\": {nonsense}}}");
        if let Ok(carried) = serde_json::from_str::<Carried>(&text) {
            successor.inherit(0, &carried, S);
            assert_eq!(successor.latency(0), None);
        }
    }
}
