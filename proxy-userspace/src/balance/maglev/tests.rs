use super::*;
use proptest::prelude::*;
use std::time::Instant;

/// Servers 10.x.y.z:8080; the same numbers give the same servers.
fn server(number: u32, weight: u16) -> Member {
    let [_, b, c, d] = number.to_be_bytes();
    Member {
        addr: Addr::v4([10, b, c, d]),
        port: 8080,
        weight,
    }
}

fn equal(count: u32) -> Vec<Member> {
    (1..=count).map(|n| server(n, 1)).collect()
}

/// Each slot's server, so that rings of different lists can be compared.
fn servers(members: &[Member], size: u32) -> Vec<(Addr, u16)> {
    let ring = ring(members, size).unwrap();
    let of = |&index: &u16| members[usize::from(index)];
    ring.iter().map(of).map(|m| (m.addr, m.port)).collect()
}

fn slots_of(members: &[Member], size: u32) -> Vec<u32> {
    let mut counts = vec![0; members.len()];
    for index in ring(members, size).unwrap() {
        counts[usize::from(index)] += 1;
    }
    counts
}

/// Share of the slots of all other members that move when member `gone` is removed; `before` is
/// the ring with it.
fn disruption(members: &[Member], before: &[(Addr, u16)], gone: usize) -> f64 {
    let removed = (members[gone].addr, members[gone].port);
    let mut rest = members.to_vec();
    rest.remove(gone);
    let after = servers(&rest, before.len() as u32);
    let others = before
        .iter()
        .zip(&after)
        .filter(|(old, _)| **old != removed);
    let (moved, all) = others.fold((0, 0), |(moved, all), (old, new)| {
        (moved + u32::from(old != new), all + 1)
    });
    f64::from(moved) / f64::from(all)
}

#[test]
fn equal_weights_get_equal_shares_to_a_slot() {
    for (count, size) in [
        (1, 2),
        (3, 7),
        (10, 1009),
        (100, 10_007),
        (100, 65_537),
        (655, 65_537),
    ] {
        for slots in slots_of(&equal(count), size) {
            assert!((size / count..=size / count + 1).contains(&slots));
        }
    }
}

#[test]
fn shares_follow_weights_to_a_slot() {
    let members: Vec<Member> = (1..=100)
        .map(|n| server(n, 1 + (n * n % 13) as u16))
        .collect();
    let total: u32 = members.iter().map(|m| u32::from(m.weight)).sum();
    for (member, slots) in members.iter().zip(slots_of(&members, 65_537)) {
        let share = f64::from(member.weight) * 65_537.0 / f64::from(total);
        assert!(
            (f64::from(slots) - share).abs() < 1.0,
            "{slots} slots for {share}"
        );
    }
}

#[test]
fn extreme_weights_are_exact_too() {
    let members = [server(1, u16::MAX), server(2, 1), server(3, u16::MAX)];
    assert_eq!(slots_of(&members, 65_537), [32_768, 1, 32_768]);
}

#[test]
fn weight_zero_takes_no_slot_and_disturbs_nobody() {
    let mut members = equal(10);
    let before = servers(&members, 1009);
    members.insert(4, server(99, 0));
    assert_eq!(servers(&members, 1009), before);
    assert_eq!(ring(&[server(1, 0)], 7), Ok(Vec::new()));
    assert_eq!(ring(&[], 7), Ok(Vec::new()));
}

#[test]
fn more_members_than_slots_leave_some_without() {
    let slots = slots_of(&equal(20), 7);
    assert_eq!(slots.iter().sum::<u32>(), 7);
    assert!(slots.iter().all(|&n| n <= 1));
}

#[test]
fn sizes_that_are_not_prime_are_refused() {
    for size in [0, 1, 4, 65_536, 1_000_000, 1_000_033, u32::MAX] {
        assert_eq!(ring(&equal(3), size), Err(RingError::Size(size)));
    }
    for size in [2, 3, 251, 65_537, 1_000_003] {
        assert_eq!(check_size(size), Ok(()));
    }
}

#[test]
fn too_many_members_are_refused() {
    let members = vec![server(1, 1); MAX_MEMBERS + 1];
    assert_eq!(ring(&members, 7), Err(RingError::Members(MAX_MEMBERS + 1)));
}

/// Balancers of different releases must agree: this ring must never change. If it has to, raise
/// `ABI_VERSION`, so that a running data plane is not taken for one with the new rings.
#[test]
fn the_ring_is_the_same_in_every_release() {
    let mut members: Vec<Member> = (1..=4).map(|n| server(n, n as u16)).collect();
    members.push(Member {
        addr: Addr::v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
        port: 443,
        weight: 3,
    });
    let expected = [
        2, 3, 0, 4, 3, 4, 3, 4, 1, 1, 3, 1, 1, 1, 3, 4, 4, 3, 3, 3, 0, 4, 4, 3, 2, 2, 2, 2, 3, 2, 2,
    ];
    assert_eq!(ring(&members, 31).unwrap(), expected);
}

/// The bound of the requirements is 1.5 %. What is measured is about 0.3 % for equal weights and
/// for mixed ones.
#[test]
fn removing_or_adding_one_of_100_moves_few_other_slots() {
    let mixed = (1..=100)
        .map(|n| server(n, 1 + (n * 7 % 10) as u16))
        .collect();
    for (what, members) in [("equal", equal(100)), ("mixed", mixed)] {
        // Adding is removing, seen backwards: the slots that move are the same.
        let before = servers(&members, 65_537);
        let gone = (0..100).step_by(5);
        let all: Vec<f64> = gone
            .map(|gone| disruption(&members, &before, gone))
            .collect();
        let worst = all.iter().copied().fold(0.0, f64::max);
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        println!(
            "{what}: {:.3} % on average, {:.3} % at worst",
            mean * 100.0,
            worst * 100.0
        );
        assert!(worst < 0.015, "{what}: {worst}");
        assert!(mean < 0.005, "{what}: {mean}");
    }
}

#[test]
fn a_changed_weight_moves_few_other_slots() {
    let members: Vec<Member> = (1..=100).map(|n| server(n, 100)).collect();
    let mut changed = members.clone();
    changed[17].weight = 50;
    let it = (changed[17].addr, changed[17].port);
    let (before, after) = (servers(&members, 65_537), servers(&changed, 65_537));
    let moved = before
        .iter()
        .zip(&after)
        .filter(|(old, new)| old != new && **old != it && **new != it);
    let moved = moved.count();
    assert!(moved * 1000 < 65_537 * 15, "{moved} slots");
}

#[test]
fn large_rings_are_filled_in_time() {
    for count in [1, 100, 4096, 65_535] {
        let members = equal(count);
        let start = Instant::now();
        let ring = ring(&members, 65_537).unwrap();
        println!("{count} members: {:?}", start.elapsed());
        assert_eq!(ring.len(), 65_537);
    }
    let weights: Vec<Member> = (1..=4096).map(|n| server(n, n as u16)).collect();
    let start = Instant::now();
    assert_eq!(ring(&weights, 65_537).unwrap().len(), 65_537);
    println!("4096 members of different weights: {:?}", start.elapsed());
}

fn some_members(
    count: std::ops::Range<usize>,
    weights: std::ops::RangeInclusive<u16>,
) -> impl Strategy<Value = Vec<Member>> {
    let member = (0u32..1 << 24, weights).prop_map(|(number, weight)| server(number, weight));
    proptest::collection::vec(member, count).prop_map(|mut members| {
        members.sort_by_key(|m| m.addr);
        members.dedup_by_key(|m| m.addr);
        members
    })
}

fn some_size() -> impl Strategy<Value = u32> {
    prop::sample::select(vec![2, 3, 13, 251, 1021, 4093, 10_007])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_slot_is_filled_and_every_share_is_right(members in some_members(1..60, 0..=9), size in some_size()) {
        let total: u64 = members.iter().map(|m| u64::from(m.weight)).sum();
        let counts = slots_of(&members, size);
        prop_assert_eq!(counts.iter().sum::<u32>(), if total == 0 { 0 } else { size });
        for (member, slots) in members.iter().zip(counts) {
            let floor = (u64::from(member.weight) * u64::from(size)).checked_div(total).unwrap_or(0) as u32;
            prop_assert!((floor..=floor + 1).contains(&slots));
        }
    }

    #[test]
    fn the_order_of_the_list_does_not_matter(members in some_members(1..40, 0..=9), size in some_size(), seed: u64) {
        let mut shuffled = members.clone();
        shuffled.sort_by_key(|m| mix(seed ^ identity(m)));
        if members.iter().any(|m| m.weight > 0) {
            prop_assert_eq!(servers(&members, size), servers(&shuffled, size));
        }
    }
}

proptest! {
    // Each case builds two rings of default size, which is slow without optimisation.
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn random_sets_of_100_keep_the_disruption_bound(members in some_members(100..101, 1..=4), gone in 0usize..90) {
        prop_assume!(members.len() > 90);
        let moved = disruption(&members, &servers(&members, 65_537), gone);
        prop_assert!(moved < 0.015, "{moved}");
    }
}
