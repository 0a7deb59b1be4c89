use super::*;
use proptest::prelude::*;

const INTERVAL: Duration = Duration::from_secs(5);

fn slot(millis: u64, urgent: bool) -> Slot {
    Slot {
        due: Duration::from_millis(millis),
        urgent,
    }
}

#[test]
fn jitter_shortens_the_interval_and_never_extends_it() {
    assert_eq!(steady_gap(INTERVAL, 0.0, 0.99), INTERVAL);
    assert_eq!(steady_gap(INTERVAL, 0.2, 0.0), INTERVAL);
    assert_eq!(steady_gap(INTERVAL, 0.2, 0.5), Duration::from_millis(4500));
    assert_eq!(steady_gap(INTERVAL, 1.0, 1.0), INTERVAL / 8);
    assert_eq!(steady_gap(INTERVAL, f64::NAN, 0.5), INTERVAL);
}

#[test]
fn first_probe_of_a_single_new_backend_is_due_at_once() {
    assert_eq!(first_delay(false, 0, 1, INTERVAL, 0.9), Duration::ZERO);
}

#[test]
fn first_probes_of_many_new_backends_spread_over_a_moment() {
    let last = first_delay(false, 4095, 4096, INTERVAL, 0.5);
    assert!(
        last > Duration::from_millis(400) && last < Duration::from_millis(410),
        "{last:?}"
    );
    // Traffic waits for them, so never longer than a tenth of the interval.
    let last = first_delay(false, 99_999, 100_000, INTERVAL, 0.5);
    assert!(last <= INTERVAL / 10);
}

#[test]
fn first_probes_of_known_backends_spread_evenly_over_the_interval() {
    let mut in_slice = [0; 64];
    let mut random = fastrand::Rng::with_seed(1);
    for index in 0..4096 {
        let delay = first_delay(true, index, 4096, INTERVAL, random.f64());
        in_slice[(delay.as_secs_f64() / INTERVAL.as_secs_f64() * 64.0) as usize] += 1;
    }
    assert_eq!(in_slice, [64; 64]);
}

#[test]
fn queue_starts_what_is_due_in_order_and_nothing_else() {
    let mut queue = Queue::new(10);
    queue.insert('b', slot(20, false));
    queue.insert('a', slot(10, false));
    queue.insert('c', slot(30, false));
    assert_eq!(queue.next_due(), Some(Duration::from_millis(10)));
    let now = Duration::from_millis(20);
    assert_eq!(
        [queue.start(now), queue.start(now), queue.start(now)],
        [Some('a'), Some('b'), None]
    );
    assert_eq!(queue.next_due(), Some(Duration::from_millis(30)));
    assert_eq!((queue.running(), queue.len()), (2, 1));
}

#[test]
fn full_queue_starts_nothing_until_a_probe_ends() {
    let mut queue = Queue::new(1);
    queue.insert('a', slot(0, false));
    queue.insert('b', slot(0, false));
    assert_eq!(queue.start(INTERVAL), Some('a'));
    assert_eq!((queue.start(INTERVAL), queue.next_due()), (None, None));
    queue.finished();
    assert_eq!(queue.next_due(), Some(Duration::ZERO));
    assert_eq!(queue.start(INTERVAL), Some('b'));
}

#[test]
fn limit_zero_counts_as_one() {
    let mut queue = Queue::new(0);
    queue.insert('a', slot(0, false));
    assert_eq!(queue.start(Duration::ZERO), Some('a'));
}

#[test]
fn urgent_probes_go_first_once_they_are_due() {
    let mut queue = Queue::new(10);
    queue.insert('s', slot(10, false));
    queue.insert('u', slot(20, true));
    assert_eq!(queue.start(Duration::from_millis(15)), Some('s'));
    queue.insert('t', slot(10, false));
    assert_eq!(queue.start(Duration::from_millis(20)), Some('u'));
    assert_eq!(queue.start(Duration::from_millis(20)), Some('t'));
}

#[test]
fn removed_backend_is_not_started() {
    let mut queue = Queue::new(10);
    queue.insert('a', slot(0, true));
    assert!(
        !queue.remove('a', slot(0, false)),
        "it is in the other lane"
    );
    assert!(queue.remove('a', slot(0, true)));
    assert_eq!(queue.start(INTERVAL), None);
    assert!(queue.is_empty());
}

proptest! {
    /// The last of a row starts less than an interval after the first, so that it ends within
    /// the interval if probes are answered in the remaining share.
    #[test]
    fn confirming_row_fits_into_one_interval(
        interval in 1_000u64..600_000_000,
        needed in 1u32..100,
    ) {
        let interval = Duration::from_micros(interval);
        let gap = confirm_gap(interval, needed);
        if interval >= MIN_GAP * needed {
            prop_assert!(gap * (needed - 1) < interval);
            prop_assert!(gap * needed <= interval);
        } else {
            prop_assert_eq!(gap, MIN_GAP);
        }
    }

    #[test]
    fn no_gap_exceeds_the_interval_or_falls_below_the_shortest(
        interval in 0u64..600_000,
        jitter in -1.0f64..2.0,
        random in 0.0f64..1.0,
    ) {
        let interval = Duration::from_millis(interval);
        for gap in [steady_gap(interval, jitter, random), scatter_gap(interval, random)] {
            prop_assert!(gap >= MIN_GAP && gap <= interval.max(MIN_GAP));
        }
        prop_assert!(steady_gap(interval, jitter, random) >= interval / 8);
    }

    #[test]
    fn first_delays_rise_with_the_index_and_stay_in_their_window(
        count in 1usize..5000,
        known in any::<bool>(),
        random in 0.0f64..1.0,
    ) {
        let mut last = Duration::ZERO;
        for index in 0..count {
            let delay = first_delay(known, index, count, INTERVAL, random);
            prop_assert!(delay >= last && delay <= INTERVAL);
            last = delay;
        }
    }

    #[test]
    fn queue_starts_each_once_and_never_more_than_the_limit(
        slots in prop::collection::vec((0u64..1000, any::<bool>()), 1..200),
        limit in 1usize..20,
    ) {
        let mut queue = Queue::new(limit);
        for (key, (due, urgent)) in slots.iter().enumerate() {
            queue.insert(key, slot(*due, *urgent));
        }
        let mut started = vec![false; slots.len()];
        let mut now = Duration::ZERO;
        while let Some(due) = queue.next_due() {
            now = now.max(due);
            while let Some(key) = queue.start(now) {
                prop_assert!(!std::mem::replace(&mut started[key], true));
                prop_assert!(slots[key].0 <= now.as_millis() as u64);
            }
            prop_assert!(queue.running() <= limit);
            while queue.running() > 0 {
                queue.finished();
            }
        }
        prop_assert!(started.iter().all(|started| *started));
    }
}
