//! The network's outliers, in simulated time.

use super::network::{Path, Seen, strained, usual_delay};
use super::*;
use crate::config::model::outlier::{NetworkQuality, Outlier};
use proptest::prelude::*;
use std::collections::BTreeMap;

const MS: u64 = 1_000_000;

fn quality() -> NetworkQuality {
    NetworkQuality {
        loss: 0.05,
        rtt: Duration::from_millis(50),
        zero_windows: 0.5,
        deviations: 3.0,
        intervals: 2,
        min_hosts: 3,
        min_segments: 50,
    }
}

/// An interval of so many segments, of which so many were sent again.
fn lossy(segments: u64, retransmits: u64) -> Network {
    Network {
        segments,
        retransmits,
        looks: 10,
        timed: 10,
        rtt_ns: 10 * MS,
        ..Network::default()
    }
}

/// An interval of such round trips.
fn away(rtt_ms: u64) -> Network {
    Network {
        rtt_ns: 10 * rtt_ms * MS,
        ..lossy(1000, 0)
    }
}

/// An interval in which the window was zero at so many of ten looks.
fn stuffed(zero_windows: u64) -> Network {
    Network {
        zero_windows,
        ..lossy(1000, 0)
    }
}

struct World {
    pool: Pool,
    rules: Outlier,
    hosts: Vec<Host>,
    told: BTreeMap<u32, Network>,
    now: Duration,
}

impl World {
    fn new(count: u32, quality: NetworkQuality) -> Self {
        let rules = Outlier {
            jitter: 0.0,
            network: Some(quality),
            ..Outlier::default()
        };
        let host = |id| Host { id, is_well: true };
        let mut world = Self {
            pool: Pool::default(),
            rules,
            hosts: (0..count).map(host).collect(),
            told: BTreeMap::new(),
            now: Duration::from_secs(1),
        };
        assert!(world.tick().is_empty());
        world
    }

    fn tick(&mut self) -> Vec<Change> {
        let (rules, interval) = (Some(&self.rules), self.rules.interval);
        self.pool
            .tick(rules, interval, 1, &self.hosts, self.now, || 0)
    }

    /// An interval; those who are ejected in it, and why.
    fn interval(&mut self, of: impl Fn(u32) -> Network) -> Vec<(u32, Evidence)> {
        for host in &self.hosts {
            let is_out = self.pool.ejected(host.id).is_some();
            let told = self.told.entry(host.id).or_default();
            if !is_out {
                told.add(&of(host.id));
            }
            self.pool.observe_network(host.id, told);
        }
        self.now += self.rules.interval;
        let changes = self.tick().into_iter();
        let ejected = changes.filter_map(|change| match change.kind {
            ChangeKind::Ejected(ejected) => Some((change.host, ejected.evidence)),
            _ => None,
        });
        ejected.collect()
    }

    fn never(&mut self, intervals: u32, of: impl Fn(u32) -> Network) {
        for _ in 0..intervals {
            assert_eq!(self.interval(&of), []);
        }
    }
}

#[test]
fn one_that_loses_is_out_after_two_intervals_and_back_after_its_time() {
    let mut world = World::new(3, quality());
    let gray = |id| lossy(1000, if id == 1 { 180 } else { 2 });
    world.never(1, gray);
    let ejected = world.interval(gray);
    let [(1, evidence)] = ejected[..] else {
        panic!("{ejected:?}")
    };
    assert_eq!(evidence.detector(), Detector::Network);
    assert_eq!(
        evidence.to_string(),
        "18.0 % of 1000 segments were sent again, 0.2 % to the others, for 2 intervals"
    );
    // 30 s are three intervals; then it is well, and stays.
    world.never(20, |_| lossy(1000, 2));
    assert!(world.pool.ejected(1).is_none());
}

#[test]
fn an_interval_that_is_well_breaks_the_row() {
    let mut world = World::new(3, quality());
    for _ in 0..5 {
        world.never(1, |id| lossy(1000, if id == 1 { 180 } else { 0 }));
        world.never(1, |_| lossy(1000, 0));
    }
}

#[test]
fn a_network_that_is_bad_for_all_makes_no_outlier() {
    let mut world = World::new(4, quality());
    world.never(10, |id| lossy(1000, 200 + 20 * u64::from(id)));
    world.never(10, |id| Network {
        zero_windows: 8,
        ..away(300 + u64::from(id))
    });
}

#[test]
fn few_segments_say_nothing() {
    let mut world = World::new(3, quality());
    world.never(5, |id| lossy(49, if id == 1 { 20 } else { 0 }));
    // And of sixty, five lost are chance where others lose one of twenty-five.
    world.never(5, |id| lossy(60, if id == 1 { 6 } else { 2 }));
}

#[test]
fn with_fewer_hosts_than_asked_nothing_is_compared() {
    let mut world = World::new(2, quality());
    world.never(5, |id| lossy(1000, if id == 1 { 500 } else { 0 }));
    let two = NetworkQuality {
        min_hosts: 2,
        ..quality()
    };
    let mut world = World::new(2, two);
    world.never(1, |id| lossy(1000, if id == 1 { 500 } else { 0 }));
    assert_eq!(
        world
            .interval(|id| lossy(1000, if id == 1 { 500 } else { 0 }))
            .len(),
        1
    );
}

#[test]
fn one_whose_way_grew_longer_is_out_and_one_far_away_is_not() {
    let mut world = World::new(3, quality());
    let usual = |id| away(if id == 2 { 90 } else { 1 });
    world.never(20, usual);
    let later = |id| away(if id == 1 { 82 } else { 1 });
    // The one far away has come nearer, which is no offence either.
    world.never(1, later);
    let ejected = world.interval(later);
    let [(1, evidence)] = ejected[..] else {
        panic!("{ejected:?}")
    };
    assert_eq!(
        evidence.to_string(),
        "round trips of 82.000 ms instead of 1.000 ms, for 2 intervals"
    );
    // All together: nobody.
    let mut world = World::new(3, quality());
    world.never(5, usual);
    world.never(5, |id| away(if id == 2 { 190 } else { 101 }));
}

#[test]
fn a_longer_way_becomes_the_usual_one_in_time() {
    let mut world = World::new(
        3,
        NetworkQuality {
            loss: 0.0,
            ..quality()
        },
    );
    world.rules.enforce = [0.0; Detector::ALL.len()];
    world.never(5, |_| away(1));
    world.never(130, |id| away(if id == 1 { 82 } else { 1 }));
    world.rules.enforce = [1.0; Detector::ALL.len()];
    world.never(5, |id| away(if id == 1 { 82 } else { 1 }));
}

#[test]
fn one_that_takes_nothing_is_out() {
    let mut world = World::new(3, quality());
    world.never(3, |id| stuffed(if id == 1 { 4 } else { 0 }));
    world.never(1, |id| stuffed(if id == 1 { 9 } else { 1 }));
    let ejected = world.interval(|id| stuffed(if id == 1 { 9 } else { 1 }));
    let [(1, evidence)] = ejected[..] else {
        panic!("{ejected:?}")
    };
    assert_eq!(
        evidence.to_string(),
        "its window was zero at 9 of 10 looks, for 2 intervals"
    );
}

#[test]
fn what_is_not_to_be_looked_at_is_not() {
    let off = NetworkQuality {
        loss: 0.0,
        rtt: Duration::ZERO,
        zero_windows: 0.0,
        ..quality()
    };
    let mut world = World::new(3, off);
    world.never(2, |_| away(1));
    world.never(5, |id| match id {
        1 => Network {
            zero_windows: 10,
            retransmits: 900,
            ..away(900)
        },
        _ => away(1),
    });
}

#[test]
fn a_successor_knows_how_long_the_way_was() {
    let mut world = World::new(3, quality());
    world.never(2, |_| away(1));
    let carried = world.pool.carried(1, world.now).expect("worth telling");
    let text = serde_json::to_string(&carried).expect("json");
    let carried: Carried = serde_json::from_str(&text).expect("the same");
    let mut after = World::new(3, quality());
    after.pool.inherit(1, &carried, after.now);
    let gray = |id| away(if id == 1 { 82 } else { 1 });
    after.never(1, gray);
    assert_eq!(after.interval(gray).len(), 1);
}

#[test]
fn what_the_network_adds_is_held_against_what_it_usually_adds() {
    let mut world = World::new(3, quality());
    assert_eq!(world.pool.delay(1), None);
    world.never(1, |id| away(if id == 2 { 90 } else { 1 }));
    let ms = |world: &World, id| {
        let (own, usual) = world.pool.delay(id).expect("known");
        ((own / 1e6).round() as u64, (usual / 1e6).round() as u64)
    };
    assert_eq!(ms(&world, 2), (90, 90));
    // A tenth sent again costs 20 ms on the average.
    world.never(1, |id| match id {
        1 => lossy(1000, 100),
        2 => away(90),
        _ => away(1),
    });
    assert_eq!(ms(&world, 1), (21, 1));
    // The others have gained 0 and 20.
    assert_eq!(ms(&world, 2), (90, 100));
    // What is old is not known any more.
    world.never(7, |_| Network::default());
    assert_eq!(world.pool.delay(1), None);
}

/// Evenly from 0..1, of a seed.
fn random(seed: &mut u64) -> f64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    (proxy_common::hash::mix(*seed) >> 11) as f64 / (1_u64 << 53) as f64
}

/// All lose alike, each segment for itself: what chance alone finds in so many intervals.
fn found_by_chance(loss: f64, hosts: u32, segments: u64, intervals_in_a_row: u32) -> usize {
    let mut seed = 1;
    let rules = NetworkQuality {
        intervals: intervals_in_a_row,
        ..quality()
    };
    let mut paths: BTreeMap<u32, Path> = (0..hosts).map(|id| (id, Path::default())).collect();
    let mut found = 0;
    for _ in 0..2000 / hosts {
        let draw = |id| {
            let lost = (0..segments).filter(|_| random(&mut seed) < loss).count();
            Seen {
                id,
                network: lossy(segments, lost as u64),
                lowest: None,
            }
        };
        let seen: Vec<Seen> = (0..hosts).map(draw).collect();
        let mut known: BTreeMap<u32, &mut Path> =
            paths.iter_mut().map(|(id, path)| (*id, path)).collect();
        found += strained(&seen, &rules, |id| known.remove(&id)).len();
    }
    found
}

#[test]
fn chance_is_no_outlier() {
    for loss in [0.002, 0.01, 0.03, 0.1, 0.2, 0.4] {
        for (hosts, segments) in [(3, 50), (3, 500), (7, 60), (20, 50)] {
            let once = found_by_chance(loss, hosts, segments, 1);
            assert!(once <= 20, "{once} of 2000: {loss}, {hosts}, {segments}");
            let twice = found_by_chance(loss, hosts, segments, 2);
            assert!(twice <= 1, "{twice} of 2000: {loss}, {hosts}, {segments}");
        }
    }
}

proptest! {
    /// Whatever is seen: no panic, nobody is found who was not seen, and never more than half.
    #[test]
    fn anything_may_be_seen(
        counts in prop::collection::vec(prop::array::uniform6(any::<u64>()), 0..8),
        lowest in prop::collection::vec(prop::option::of(0.0..1e12), 8),
    ) {
        let seen: Vec<Seen> = (0..)
            .zip(&counts)
            .map(|(id, &[segments, retransmits, looks, zero_windows, timed, rtt_ns])| Seen {
                id,
                network: Network {
                    segments, retransmits, looks, zero_windows, timed, rtt_ns, disordered: 0,
                },
                lowest: lowest[id as usize],
            })
            .collect();
        let mut paths: BTreeMap<u32, Path> =
            seen.iter().map(|one| (one.id, Path::with_lowest(one.lowest))).collect();
        for one in &seen {
            paths.entry(one.id).or_default().learn(&one.network, 6);
        }
        let listed: Vec<(u32, Path)> = paths.iter().map(|(id, path)| (*id, *path)).collect();
        for (id, _) in &listed {
            if let Some((own, usual)) = usual_delay(&listed, *id) {
                prop_assert!(own.is_finite() && usual.is_finite());
            }
        }
        let mut known: BTreeMap<u32, &mut Path> =
            paths.iter_mut().map(|(id, path)| (*id, path)).collect();
        let rules = NetworkQuality { intervals: 1, ..quality() };
        for (id, _) in strained(&seen, &rules, |id| known.remove(&id)) {
            prop_assert!(seen.iter().any(|one| one.id == id));
        }
    }
}
