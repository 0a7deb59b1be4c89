//! Each policy does what its name says, over all weights.

use super::*;
use proptest::prelude::*;

fn weights() -> impl Strategy<Value = Vec<u16>> {
    prop::collection::vec(1u16..=20, 1..12)
}

fn expected(weights: &[u16], index: usize) -> f64 {
    f64::from(weights[index]) / weights.iter().map(|w| f64::from(*w)).sum::<f64>()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_period_of_round_robin_has_the_exact_shares(weights in weights(), start in 0..1000u64) {
        let service = service(spec(BalancePolicy::RoundRobin, &weights));
        for random in 0..start {
            pick(&service, &ask(random)).expect("somebody");
        }
        let period: u64 = weights.iter().map(|w| u64::from(*w)).sum();
        let shares = shares(&service, period);
        for index in 0..weights.len() {
            let share = share(&shares, &format!("b{index}"));
            prop_assert!((share - expected(&weights, index)).abs() < 1e-9);
        }
    }

    /// Without load, all but the latency policies share by weight.
    #[test]
    fn an_idle_service_is_shared_by_weight(weights in weights(), salt in any::<u64>()) {
        for policy in [BalancePolicy::LeastRequests, BalancePolicy::Random] {
            let service = service(spec(policy, &weights));
            let mut counts = vec![0.0; weights.len()];
            for i in 0..20_000u64 {
                let backend = service.pick(&ask(salt.wrapping_add(i))).expect("somebody");
                service.release(&backend);
                counts[backend.slot() as usize] += 1.0;
            }
            for (index, count) in counts.iter().enumerate() {
                let due = expected(&weights, index) * 20_000.0;
                // Six standard deviations of a draw.
                prop_assert!((count - due).abs() < 6.0 * due.sqrt() + 2.0, "{count} of {due}");
            }
        }
    }

    /// Requests that do not end go where there is most room for the weight.
    #[test]
    fn under_load_requests_in_progress_follow_the_weights(
        weights in weights(),
        salt in any::<u64>(),
    ) {
        for (policy, tolerance) in [
            (BalancePolicy::LeastRequests, 0.01),
            (BalancePolicy::TwoChoices, 0.15),
        ] {
            let service = service(spec(policy, &weights));
            for i in 0..4000u64 {
                service.pick(&ask(salt.wrapping_add(i))).expect("somebody");
            }
            for backend in service.backends() {
                let due = expected(&weights, backend.slot() as usize) * 4000.0;
                let off = (f64::from(backend.in_flight()) - due).abs();
                prop_assert!(off <= due * tolerance + 4.0, "{backend:?}: {due}");
            }
        }
    }

    #[test]
    fn least_requests_never_takes_a_busier_one(
        weights in weights(),
        load in prop::collection::vec(0u32..50, 12),
        random in any::<u64>(),
    ) {
        let service = service(spec(BalancePolicy::LeastRequests, &weights));
        let backends = service.backends();
        for (backend, load) in backends.iter().zip(load) {
            (0..load).for_each(|_| assert!(backend.try_begin()));
        }
        let chosen = service.pick(&ask(random)).expect("somebody");
        service.release(&chosen);
        let load = |b: &BackendState| {
            f64::from(b.in_flight()) / f64::from(weights[b.slot() as usize])
        };
        let least = backends.iter().map(|b| load(b)).fold(f64::MAX, f64::min);
        prop_assert!(load(&chosen) <= least + 1e-9);
    }

    #[test]
    fn two_choices_never_take_the_busiest(random in any::<u64>(), busiest in 0usize..8) {
        for policy in [BalancePolicy::TwoChoices, BalancePolicy::PeakEwma] {
            let service = service(spec(policy, &[1; 8]));
            let backends = service.backends();
            for (i, backend) in backends.iter().enumerate() {
                backend.latency().observe(1_000_000, S);
                (0..if i == busiest { 9 } else { 3 }).for_each(|_| assert!(backend.try_begin()));
            }
            let chosen = service.pick(&ask(random)).expect("somebody");
            prop_assert_ne!(chosen.slot() as usize, busiest);
        }
    }

    #[test]
    fn hashes_share_keys_by_weight(weights in prop::collection::vec(1u16..=4, 2..8)) {
        for (policy, tolerance) in [
            (BalancePolicy::Maglev(HashOn::Source), 0.02),
            (BalancePolicy::Ring(HashOn::Source), 0.4),
        ] {
            let service = service(spec(policy, &weights));
            let mut counts = vec![0.0; weights.len()];
            for key in 0..40_000u32 {
                let owner = owner(&service, key);
                counts[owner] += 1.0;
            }
            for (index, count) in counts.iter().enumerate() {
                let due = expected(&weights, index) * 40_000.0;
                let off = (count - due).abs();
                prop_assert!(off < due * tolerance + 6.0 * due.sqrt(), "{count} of {due}");
            }
        }
    }

    /// Only the keys of the one that goes may move, and next to nobody else's.
    #[test]
    fn a_lost_backend_moves_few_other_keys(count in 3usize..20, lost in 0usize..3) {
        for (policy, others) in [
            (BalancePolicy::Maglev(HashOn::Source), 0.05),
            (BalancePolicy::Ring(HashOn::Source), 0.0),
        ] {
            let service = service(spec(policy, &vec![1; count]));
            let before: Vec<usize> = (0..5000).map(|key| owner(&service, key)).collect();
            service.set_healthy(&format!("b{lost}"), false, S);
            let mut moved = 0;
            for (key, before) in before.iter().enumerate() {
                let after = owner(&service, key as u32);
                prop_assert_ne!(after, lost);
                moved += u32::from(*before != lost && *before != after);
            }
            prop_assert!(f64::from(moved) <= 5000.0 * others, "{moved} keys moved");
            service.set_healthy(&format!("b{lost}"), true, 2 * S);
            for (key, before) in before.iter().enumerate() {
                prop_assert_eq!(owner(&service, key as u32), *before);
            }
        }
    }
}

fn owner(service: &ServiceState, key: u32) -> usize {
    let ask = Ask {
        key: Some(hash_key(&key.to_le_bytes())),
        ..ask(0)
    };
    let backend = service.pick(&ask).expect("somebody");
    service.release(&backend);
    backend.slot() as usize
}

#[test]
fn rings_do_not_depend_on_the_order_of_backends() {
    for policy in [
        BalancePolicy::Maglev(HashOn::Source),
        BalancePolicy::Ring(HashOn::Source),
    ] {
        let one = spec(policy, &[1, 2, 3, 4]);
        let mut other = one.clone();
        other.backends.reverse();
        let (one, other) = (service(one), service(other));
        for key in 0..2000u32 {
            let ask = Ask {
                key: Some(hash_key(&key.to_le_bytes())),
                ..ask(0)
            };
            assert_eq!(pick(&one, &ask), pick(&other, &ask));
        }
    }
}

#[test]
fn workers_together_keep_the_shares_of_round_robin() {
    let service = service(spec(BalancePolicy::RoundRobin, &[5, 1, 1, 3]));
    let mut counts = [0u32; 4];
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut counts = [0u32; 4];
                    for random in 0..2500 {
                        let backend = service.pick(&ask(random)).expect("somebody");
                        service.release(&backend);
                        counts[backend.slot() as usize] += 1;
                    }
                    counts
                })
            })
            .collect();
        for worker in workers {
            let of_worker = worker.join().expect("no panic");
            for (sum, count) in counts.iter_mut().zip(of_worker) {
                *sum += count;
            }
        }
    });
    // 10 000 turns are 1000 periods, whoever took them.
    assert_eq!(counts, [5000, 1000, 1000, 3000]);
    assert!(service.backends().iter().all(|b| b.in_flight() == 0));
}

#[test]
fn who_is_passed_over_loses_the_turn_to_all_others() {
    let mut spec = spec(BalancePolicy::RoundRobin, &[1; 4]);
    spec.backends[0].limit = 1;
    let service = service(spec);
    let first = &service.backends()[0];
    assert!(first.try_begin());
    let shares = shares(&service, 9000);
    for name in ["b1", "b2", "b3"] {
        assert!(
            (share(&shares, name) - 1.0 / 3.0).abs() < 0.01,
            "{shares:?}"
        );
    }
}
