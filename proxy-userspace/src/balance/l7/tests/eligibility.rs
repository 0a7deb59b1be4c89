//! Who is in, who is out, and in which order: tiers, zones, limits, drains, panic, slow start.

use super::*;
use proptest::prelude::*;

/// All backends that a service gives out.
fn given(service: &ServiceState) -> Vec<String> {
    shares(service, 2000).into_keys().collect()
}

fn down(service: &ServiceState, names: &[&str]) {
    for name in names {
        assert_eq!(service.set_healthy(name, false, S), Some(true), "{name}");
    }
}

#[test]
fn the_down_the_draining_and_the_weightless_get_nothing() {
    for policy in all_policies() {
        let service = service(spec(policy, &[1, 1, 0, 1, 1]));
        down(&service, &["b0"]);
        assert_eq!(service.set_draining("b1", true, S), Some(true));
        assert_eq!(service.set_weight("b3", Some(0), S), Some(true));
        assert_eq!(given(&service), ["b4"]);
        service.set_healthy("b0", true, S);
        service.set_draining("b1", false, S);
        service.set_weight("b2", Some(1), S);
        service.set_weight("b3", None, S);
        assert_eq!(given(&service), ["b0", "b1", "b2", "b3", "b4"]);
        assert_eq!(service.set_healthy("b0", true, S), Some(false));
        assert_eq!(service.set_healthy("nobody", true, S), None);
    }
}

#[test]
fn with_nobody_there_is_no_backend() {
    for policy in all_policies() {
        for weights in [&[][..], &[0, 0]] {
            let service = service(spec(policy.clone(), weights));
            assert_eq!(pick(&service, &ask(1)), Err(Unavailable::NoBackend));
        }
        let service = service(spec(policy, &[1]));
        down(&service, &["b0"]);
        assert_eq!(pick(&service, &ask(1)), Err(Unavailable::NoBackend));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever is full, tried or down: nobody of those is chosen, and somebody is if there is
    /// somebody else.
    #[test]
    fn nobody_is_chosen_who_cannot_take_the_request(
        state in prop::collection::vec(0u8..5, 1..10),
        random in any::<u64>(),
    ) {
        for policy in all_policies() {
            let mut spec = spec(policy, &vec![1; state.len()]);
            spec.queue = 1;
            spec.backends.iter_mut().for_each(|backend| backend.limit = 2);
            let service = service(spec);
            let mut tried = Tried::default();
            for (backend, state) in service.backends().iter().zip(&state) {
                match state {
                    0 => down(&service, &[backend.name()]),
                    1 => (0..2).for_each(|_| assert!(backend.try_begin())),
                    2 if tried.count() < 8 => tried.add(backend.slot()),
                    2 => down(&service, &[backend.name()]),
                    _ => assert!(backend.try_begin()),
                }
            }
            let ask = Ask { tried: &tried, ..ask(random) };
            match service.pick(&ask) {
                Ok(backend) => prop_assert!(state[backend.slot() as usize] > 2),
                Err(why) => {
                    prop_assert!(state.iter().all(|state| *state <= 2));
                    let expected = if state.contains(&1) {
                        Unavailable::Busy
                    } else if state.contains(&2) && tried.count() > 0 {
                        Unavailable::Tried
                    } else {
                        Unavailable::NoBackend
                    };
                    prop_assert_eq!(why, expected);
                }
            }
        }
    }
}

#[test]
fn limits_hold_under_contention() {
    for policy in all_policies() {
        let mut spec = spec(policy, &[1; 3]);
        spec.backends
            .iter_mut()
            .for_each(|backend| backend.limit = 5);
        let service = service(spec);
        let begun: usize = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|worker| {
                    let service = &service;
                    scope.spawn(move || {
                        (0..20)
                            .filter(|i| service.pick(&ask(worker * 100 + i)).is_ok())
                            .count()
                    })
                })
                .collect();
            workers
                .into_iter()
                .map(|w| w.join().expect("no panic"))
                .sum()
        });
        assert_eq!(begun, 15);
        assert!(service.backends().iter().all(|b| b.in_flight() == 5));
    }
}

#[test]
fn retries_go_elsewhere_until_all_have_been_tried() {
    for policy in all_policies() {
        let service = service(spec(policy, &[3, 1, 1, 1]));
        let mut tried = Tried::default();
        for _ in 0..4 {
            let ask = Ask {
                key: Some(42),
                tried: &tried,
                ..ask(9)
            };
            let backend = service.pick(&ask).expect("somebody");
            assert!(!tried.contains(backend.slot()));
            tried.add(backend.slot());
        }
        let ask = Ask {
            tried: &tried,
            ..ask(9)
        };
        assert_eq!(pick(&service, &ask), Err(Unavailable::Tried));
    }
}

#[test]
fn a_tier_is_used_when_those_before_it_have_nobody_left() {
    let mut spec = spec(BalancePolicy::RoundRobin, &[1; 4]);
    spec.backends[2].tier = 1;
    spec.backends[3].tier = 2;
    let service = service(spec);
    assert_eq!(given(&service), ["b0", "b1"]);
    down(&service, &["b0"]);
    assert_eq!(given(&service), ["b1"]);
    down(&service, &["b1"]);
    assert_eq!(given(&service), ["b2"]);
    down(&service, &["b2"]);
    assert_eq!(given(&service), ["b3"]);
    service.set_healthy("b1", true, S);
    assert_eq!(given(&service), ["b1"]);
    let mut tried = Tried::default();
    tried.add(service.backends()[1].slot());
    let retry = Ask {
        tried: &tried,
        ..ask(0)
    };
    assert_eq!(pick(&service, &retry), Ok("b3".into()));
}

#[test]
fn a_full_tier_is_left_only_if_nobody_may_wait() {
    for (queue, expected) in [(0, Ok("b1".into())), (1, Err(Unavailable::Busy))] {
        let mut spec = spec(BalancePolicy::RoundRobin, &[1; 2]);
        spec.queue = queue;
        spec.backends[0].limit = 1;
        spec.backends[1].tier = 1;
        let service = service(spec);
        assert!(service.backends()[0].try_begin());
        assert_eq!(pick(&service, &ask(0)), expected);
    }
}

#[test]
fn panic_ignores_health_only_when_no_tier_has_enough() {
    let mut spec = spec(BalancePolicy::RoundRobin, &[1; 6]);
    spec.panic_threshold = 0.5;
    spec.backends[4].tier = 1;
    spec.backends[5].tier = 1;
    let service = service(spec);
    down(&service, &["b0", "b1"]);
    assert_eq!(given(&service), ["b2", "b3"]);
    down(&service, &["b2"]);
    assert_eq!(given(&service), ["b4", "b5"]);
    assert!(!service.selection().is_panic());
    down(&service, &["b4", "b5"]);
    assert_eq!(given(&service), ["b0", "b1", "b2", "b3"]);
    assert!(service.selection().is_panic());
    service.set_draining("b0", true, S);
    assert_eq!(given(&service), ["b1", "b2", "b3"]);
}

/// Two backends of zone `a`, two of `b`; we are in `a`.
fn two_zones() -> ServiceSpec {
    let mut spec = spec(BalancePolicy::RoundRobin, &[1; 7]);
    for (i, backend) in spec.backends.iter_mut().enumerate() {
        backend.zone = Some(if i < 4 { "a" } else { "b" }.into());
    }
    spec.zone = Some("a".into());
    spec
}

#[test]
fn a_zone_keeps_its_traffic_while_enough_of_it_is_healthy() {
    let service = service(two_zones());
    assert_eq!(given(&service), ["b0", "b1", "b2", "b3"]);
    // Three quarters are more than five sevenths.
    down(&service, &["b0"]);
    assert_eq!(given(&service), ["b1", "b2", "b3"]);
    // A half carries 70 %.
    down(&service, &["b1"]);
    let half = shares(&service, 4000);
    let near = share(&half, "b2") + share(&half, "b3");
    assert!((near - 0.7).abs() < 0.01, "{half:?}");
    assert!((share(&half, "b4") - 0.1).abs() < 0.01, "{half:?}");
    down(&service, &["b2", "b3"]);
    assert_eq!(given(&service), ["b4", "b5", "b6"]);
    down(&service, &["b4", "b5", "b6"]);
    service.set_healthy("b0", true, S);
    assert_eq!(given(&service), ["b0"]);
}

#[test]
fn a_full_zone_gives_to_the_others_even_if_requests_may_wait() {
    let mut spec = two_zones();
    spec.queue = 10;
    spec.backends
        .iter_mut()
        .for_each(|backend| backend.limit = 1);
    let service = service(spec);
    let begun: Vec<u32> = (0..7)
        .map(|i| service.pick(&ask(i)).expect("room").slot())
        .collect();
    let mut near = begun[..4].to_vec();
    near.sort_unstable();
    assert_eq!(near, [0, 1, 2, 3]);
    assert_eq!(pick(&service, &ask(8)), Err(Unavailable::Busy));
}

#[test]
fn a_cookie_keeps_its_client_through_a_drain_but_not_through_an_outage() {
    for policy in all_policies() {
        let service = service(spec(policy, &[1; 4]));
        let backends = service.backends();
        let sticky = Ask {
            sticky: sticky::decode(&sticky::encode(backends[2].sticky())),
            key: Some(1),
            ..ask(0)
        };
        let keeps = |random| {
            let ask = Ask { random, ..sticky };
            pick(&service, &ask) == Ok("b2".into())
        };
        assert!((0..50).all(keeps));
        service.set_draining("b2", true, S);
        assert!((0..50).all(keeps));
        service.set_draining("b2", false, S);
        service.set_weight("b2", Some(0), S);
        assert!((0..50).all(keeps));
        service.set_healthy("b2", false, S);
        assert!(!(0..50).any(keeps));
        service.set_healthy("b2", true, S);
        let mut tried = Tried::default();
        tried.add(backends[2].slot());
        let retry = Ask {
            tried: &tried,
            ..sticky
        };
        assert_ne!(pick(&service, &retry), Ok("b2".into()));
        let unknown = Ask {
            sticky: Some(1),
            ..ask(0)
        };
        assert!(pick(&service, &unknown).is_ok());
    }
}

#[test]
fn a_full_backend_keeps_its_sessions_if_they_may_wait() {
    for (queue, busy) in [(0, false), (1, true)] {
        let mut spec = spec(BalancePolicy::RoundRobin, &[1; 2]);
        spec.queue = queue;
        spec.backends[0].limit = 1;
        let service = service(spec);
        let backend = &service.backends()[0];
        assert!(backend.try_begin());
        let ask = Ask {
            sticky: Some(backend.sticky()),
            ..ask(0)
        };
        assert_eq!(pick(&service, &ask) == Err(Unavailable::Busy), busy);
    }
}

#[test]
fn slow_start_grows_from_a_tenth_to_the_whole_and_never_back() {
    for policy in all_policies() {
        let is_hash = matches!(policy, BalancePolicy::Maglev(_) | BalancePolicy::Ring(_));
        // These two compare loads and latencies, of which there are none here.
        let is_exact = matches!(policy, BalancePolicy::RoundRobin | BalancePolicy::Random);
        let mut spec = spec(policy, &[10, 10]);
        spec.slow_start = 20 * S;
        let service = service(spec);
        assert_eq!(service.next_change(), None);
        down(&service, &["b1"]);
        service.set_healthy("b1", true, 100 * S);
        let mut before = 0.0;
        for elapsed in 0..=20 {
            let next = service.publish((100 + elapsed) * S);
            let share = share(&shares(&service, 20_000), "b1");
            if is_exact {
                let weight = (elapsed as f64 / 20.0).max(0.1);
                let expected = weight / (1.0 + weight);
                assert!((share - expected).abs() < 0.02, "{elapsed} s: {share}");
                assert!(share >= before - 0.02);
                before = share;
            }
            assert_eq!(next.is_none(), is_hash || elapsed == 20, "{elapsed} s");
        }
    }
}

#[test]
fn a_first_verdict_is_no_return_unless_it_is_bad() {
    let mut spec = spec(BalancePolicy::RoundRobin, &[1; 2]);
    spec.slow_start = 20 * S;
    let service = service(spec);
    for name in ["b0", "b1"] {
        assert_eq!(service.set_unseen(name, S), Some(true));
        assert_eq!(service.set_unseen(name, S), Some(false));
    }
    assert_eq!(pick(&service, &ask(0)), Err(Unavailable::NoBackend));
    assert_eq!(service.set_healthy("b0", true, 100 * S), Some(true));
    assert_eq!(service.next_change(), None);
    assert_eq!(service.set_healthy("b1", false, 100 * S), Some(false));
    // What is known is not forgotten because somebody asks anew.
    assert_eq!(service.set_unseen("b1", 101 * S), Some(false));
    service.set_healthy("b1", true, 101 * S);
    let shares = shares(&service, 2200);
    assert!(
        (share(&shares, "b1") - 0.1 / 1.1).abs() < 0.01,
        "{shares:?}"
    );
}

/// Checks that a reload adds to backends that serve take nothing of what they have reached.
#[test]
fn a_first_check_of_one_that_has_served_is_no_return() {
    let mut spec = spec(BalancePolicy::RoundRobin, &[1; 2]);
    spec.slow_start = 20 * S;
    let service = service(spec);
    down(&service, &["b0"]);
    service.set_healthy("b0", true, 100 * S);
    service.set_unseen("b0", 200 * S);
    service.set_healthy("b0", true, 201 * S);
    assert_eq!(service.next_change(), None);
}

#[test]
fn all_slow_together_share_alike() {
    let mut spec = spec(BalancePolicy::RoundRobin, &[2, 1]);
    spec.slow_start = 20 * S;
    let service = service(spec);
    down(&service, &["b0", "b1"]);
    service.set_healthy("b0", true, 100 * S);
    service.set_healthy("b1", true, 100 * S);
    let shares = shares(&service, 3000);
    assert!(
        (share(&shares, "b0") - 2.0 / 3.0).abs() < 0.01,
        "{shares:?}"
    );
}
