//! A simulated service: requests arrive at a steady rate, backends work on many at once, and one
//! is slow. What matters is how much of the traffic each policy gives to the slow one.

use super::*;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

const MS: Nanos = 1_000_000;

/// Share of the requests, after a second of learning, that the last of `latencies` gets; and the
/// mean latency in ms.
fn simulate(policy: BalancePolicy, latencies: &[Nanos]) -> (f64, f64) {
    let service = service(spec(policy, &vec![1; latencies.len()]));
    // End, backend, begin.
    let mut running: BinaryHeap<Reverse<(Nanos, usize, Nanos)>> = BinaryHeap::new();
    let (mut slow, mut sum, mut counted) = (0u32, 0, 0u32);
    for i in 0..20_000u64 {
        let now = S + i * MS / 2;
        while let Some(&Reverse((end, slot, begin))) = running.peek() {
            if end > now {
                break;
            }
            running.pop();
            let backends = service.backends();
            backends[slot].latency().observe(end - begin, end);
            service.release(&backends[slot]);
        }
        let ask = Ask { now, ..ask(i) };
        let slot = service.pick(&ask).expect("somebody").slot() as usize;
        running.push(Reverse((now + latencies[slot], slot, now)));
        if now > 2 * S {
            counted += 1;
            sum += latencies[slot];
            slow += u32::from(slot == latencies.len() - 1);
        }
    }
    let mean = sum as f64 / f64::from(counted) / MS as f64;
    (f64::from(slow) / f64::from(counted), mean)
}

#[test]
fn policies_that_watch_load_or_latency_leave_the_slow_one_alone() {
    let latencies = [5 * MS, 5 * MS, 5 * MS, 5 * MS, 100 * MS];
    let (blind, blind_mean) = simulate(BalancePolicy::RoundRobin, &latencies);
    assert!((blind - 0.2).abs() < 0.001, "{blind}");
    for (policy, most) in [
        (BalancePolicy::LeastRequests, 0.06),
        (BalancePolicy::TwoChoices, 0.1),
        (BalancePolicy::PeakEwma, 0.02),
    ] {
        let (share, mean) = simulate(policy.clone(), &latencies);
        assert!(share < most, "{policy:?} gave it {share}");
        assert!(
            mean < blind_mean * 0.7,
            "{policy:?}: {mean} ms, blind {blind_mean} ms"
        );
    }
}

#[test]
fn without_a_slow_one_all_get_alike() {
    for policy in [
        BalancePolicy::LeastRequests,
        BalancePolicy::TwoChoices,
        BalancePolicy::PeakEwma,
    ] {
        let (share, _) = simulate(policy.clone(), &[5 * MS; 5]);
        assert!((share - 0.2).abs() < 0.03, "{policy:?} gave it {share}");
    }
}

#[test]
fn averages_believe_peaks_at_once_and_forget_them_with_time() {
    let service = service(spec(BalancePolicy::PeakEwma, &[1]));
    let backend = &service.backends()[0];
    let latency = backend.latency();
    assert!(latency.average(S) == 0.0);
    latency.observe(MS, S);
    latency.observe(80 * MS, S + MS);
    assert!(latency.average(S + MS) >= 80e6);
    let mut before = f32::MAX;
    for second in 2..60 {
        latency.observe(MS, second * S);
        let now = latency.average(second * S);
        assert!(now <= before);
        before = now;
    }
    assert!(before < 2e6, "{before}");
    // A clock that is a little behind does not turn decay into growth, nor into oblivion.
    assert!(latency.average(58 * S) == before);
    latency.observe_failure(60 * S);
    assert!(latency.average(60 * S) > 1e9);
    // Time alone heals, or nobody would ever ask again.
    assert!(latency.average(300 * S) < 1e6);
}

#[test]
fn an_unknown_backend_is_tried_but_not_flooded() {
    let service = service(spec(BalancePolicy::PeakEwma, &[1; 2]));
    let backends = service.backends();
    backends[0].latency().observe(10 * MS, S);
    let first: Vec<u32> = (0..6)
        .map(|i| service.pick(&ask(i)).expect("somebody").slot())
        .collect();
    assert_eq!(
        first.iter().filter(|slot| **slot == 1).count(),
        1,
        "{first:?}"
    );
}

#[test]
fn idle_connections_are_found_and_counted() {
    let service = service(spec(BalancePolicy::RoundRobin, &[1]));
    let backend = &service.backends()[0];
    assert!(backend.try_connect(2) && backend.try_connect(2));
    assert!(!backend.try_connect(2));
    backend.pooled();
    assert_eq!((backend.connections(), backend.idle()), (2, 1));
    assert!(!backend.is_idle_wanted());
    backend.ask_for_idle();
    assert!(backend.is_idle_wanted());
    assert!(
        !backend.is_idle_wanted(),
        "one was asked for, one is closed"
    );
    backend.unpooled();
    backend.disconnect();
    assert!(backend.try_connect(2));
}
