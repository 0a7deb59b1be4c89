//! Each policy in simulated time.

use super::*;
use crate::config::model::http::{
    Budget, CircuitErrors, Concurrency, Overload, Priority, Resilience, Retries, RetryOn,
};
use crate::message::Method;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

const SECOND: Nanos = 1_000_000_000;
const MS: Nanos = 1_000_000;

fn plan(on: &[RetryOn]) -> RetryPlan {
    RetryPlan::new(&Retries {
        on: on.to_vec(),
        statuses: vec![429],
        ..Retries::default()
    })
}

fn answer(status: u16) -> Event {
    Event::Answer { status, grpc: None }
}

#[test]
fn each_condition_means_what_envoy_means_by_it() {
    use RetryOn::*;
    use RetryReason::{Connect, Refused, Reset as Broken, Stale, Timeout};
    let met = |on, event| plan(&[on]).reason(event, &Method::Get).is_some();
    for status in [500, 501, 502, 503, 504, 599] {
        assert!(met(ServerError, answer(status)));
        assert_eq!(
            met(GatewayError, answer(status)),
            (502..=504).contains(&status)
        );
    }
    for reason in [Connect, Refused, Broken, Stale, Timeout] {
        assert!(met(ServerError, Event::Failed(reason)));
        assert!(met(GatewayError, Event::Failed(reason)));
        assert_eq!(
            met(ConnectFailure, Event::Failed(reason)),
            reason == Connect
        );
        assert_eq!(met(RefusedStream, Event::Failed(reason)), reason == Refused);
        let is_reset = !matches!(reason, Connect | Refused);
        assert_eq!(met(Reset, Event::Failed(reason)), is_reset);
    }
    assert!(met(Retriable4xx, answer(409)) && !met(Retriable4xx, answer(404)));
    assert!(met(RetriableStatus, answer(429)) && !met(RetriableStatus, answer(503)));
    for on in RetryOn::ALL {
        assert!(!met(on, answer(200)), "{on:?}");
        assert!(!met(on, answer(400)), "{on:?}");
    }
}

#[test]
fn a_status_of_grpc_is_reason_enough_to_repeat_a_post() {
    let grpc = |code| Event::Answer {
        status: 200,
        grpc: Some(code),
    };
    let codes = [
        (RetryOn::Cancelled, 1),
        (RetryOn::DeadlineExceeded, 4),
        (RetryOn::ResourceExhausted, 8),
        (RetryOn::Internal, 13),
        (RetryOn::Unavailable, 14),
    ];
    for (on, wanted) in codes {
        for code in 0..=16 {
            let reason = plan(&[on]).reason(grpc(code), &Method::Post);
            assert_eq!(reason.is_some(), code == wanted, "{on:?} {code}");
        }
    }
}

#[test]
fn what_may_have_been_begun_is_repeated_only_if_that_is_safe() {
    let all = RetryPlan::new(&Retries {
        on: RetryOn::ALL.to_vec(),
        statuses: vec![429],
        methods: vec!["PATCH".to_owned()],
        ..Retries::default()
    });
    for reason in [RetryReason::Connect, RetryReason::Refused] {
        assert_eq!(
            all.reason(Event::Failed(reason), &Method::Post),
            Some(reason)
        );
    }
    let begun = [
        Event::Failed(RetryReason::Reset),
        Event::Failed(RetryReason::Stale),
        Event::Failed(RetryReason::Timeout),
        answer(503),
        answer(429),
    ];
    for event in begun {
        assert_eq!(all.reason(event, &Method::Post), None, "{event:?}");
        assert!(all.reason(event, &Method::Patch).is_some(), "{event:?}");
        assert!(all.reason(event, &Method::Put).is_some(), "{event:?}");
    }
}

#[test]
fn by_default_answers_are_answers() {
    let plan = RetryPlan::new(&Retries::default());
    assert!(!plan.looks_at_answers());
    for status in 100..600 {
        assert_eq!(plan.reason(answer(status), &Method::Get), None);
    }
}

#[test]
fn retry_after_is_read_in_both_forms() {
    assert_eq!(retry_after(b"3", 0), Some(3 * SECOND));
    assert_eq!(retry_after(b"99999999999999999999999", 0), Some(u64::MAX));
    let date = b"Thu, 01 Jan 1970 00:01:40 GMT";
    assert_eq!(retry_after(date, 90), Some(10 * SECOND));
    assert_eq!(retry_after(date, 200), Some(0), "it is over");
    for bad in [&b""[..], b"soon", b"-1", b"1.5", b"\xff"] {
        assert_eq!(retry_after(bad, 0), None);
    }
}

proptest! {
    #[test]
    fn a_wait_is_never_longer_than_its_bound(retry in 1u32..200, random: u64, base in 0u64..10_000, max in 0u64..100_000) {
        let plan = RetryPlan::new(&Retries {
            backoff_base: Duration::from_millis(base),
            backoff_max: Duration::from_millis(max),
            ..Retries::default()
        });
        let wait = plan.backoff(retry, random);
        let doubled = (base * MS).saturating_mul(1_u64.checked_shl(retry - 1).unwrap_or(u64::MAX));
        prop_assert!(wait <= doubled.min(max * MS));
        // The jitter is full: both ends can be had.
        prop_assert_eq!(plan.backoff(retry, 0), 0);
        prop_assert_eq!(plan.backoff(retry, u64::MAX), doubled.min(max * MS));
    }

    /// Requests and retries begin and end in any order.
    #[test]
    fn the_budget_is_never_exceeded(
        share in 0.0..1.0_f64,
        min in 0u32..6,
        most in 0u32..6,
        steps in proptest::collection::vec((0u32..400, any::<bool>()), 1..300),
    ) {
        let settings = Resilience { budget: Budget { share, min }, ..Resilience::default() };
        let budget = settings.budget;
        let retrying = Retrying::default();
        for (in_progress, begins) in steps {
            if !begins {
                if retrying.active() > 0 {
                    retrying.end();
                }
                continue;
            }
            let before = retrying.active();
            let begun = retrying.try_begin(&budget, in_progress, most);
            let limit = ((f64::from(in_progress) * share) as u32).max(min);
            let limit = if most == 0 { limit } else { limit.min(most) };
            prop_assert_eq!(begun, before < limit);
            prop_assert_eq!(retrying.active(), before + u32::from(begun));
        }
    }

    /// Whatever attempts come to, and however late they are told of.
    #[test]
    fn a_breaker_lets_through_only_what_its_state_allows(
        probes in 1u32..5,
        min_requests in 1u32..20,
        steps in proptest::collection::vec((0u64..3000, 0u8..4, any::<bool>()), 1..400),
    ) {
        let settings = CircuitErrors { probes, min_requests, ..CircuitErrors::default() };
        let breaker = Breaker::new(settings);
        let mut under_way: VecDeque<Period> = VecDeque::new();
        let (mut now, mut probing, mut period) = (0, 0_u32, None);
        for (wait, verdict, asks) in steps {
            now += wait * MS;
            if asks {
                let (state, until) = (breaker.state(), breaker.until());
                let admitted = breaker.admit(now);
                match (state, admitted) {
                    (BreakerState::Closed, admitted) => prop_assert!(admitted.is_some()),
                    (BreakerState::Open, None) => prop_assert!(until > Some(now)),
                    (BreakerState::Open, Some(_)) => prop_assert!(until <= Some(now)),
                    (BreakerState::HalfOpen, _) => {}
                }
                if breaker.state() == BreakerState::HalfOpen && admitted.is_some() {
                    if period != admitted {
                        (period, probing) = (admitted, 0);
                    }
                    probing += 1;
                    prop_assert!(probing <= probes, "{} probes", probing);
                }
                under_way.extend(admitted);
            } else if let Some(attempt) = under_way.pop_front() {
                let verdict = [Verdict::Good, Verdict::Bad, Verdict::Bad, Verdict::None][usize::from(verdict)];
                if verdict == Verdict::None && period == Some(attempt) {
                    probing -= 1;
                }
                breaker.report(attempt, verdict, now);
            }
        }
    }

    #[test]
    fn an_adaptive_limit_stays_within_its_bounds(
        min in 1u32..50,
        more in 0u32..500,
        samples in proptest::collection::vec((1u64..5_000_000_000, 0u32..1000, 0u64..SECOND, any::<bool>()), 1..500),
    ) {
        let mut gradient = Gradient::new(min, min + more);
        let mut now = 0;
        for (latency, in_flight, wait, dropped) in samples {
            now += wait;
            if dropped {
                gradient.dropped();
            }
            gradient.sample(latency, in_flight, now);
            prop_assert!((min..=min + more).contains(&gradient.limit()));
        }
    }
}

#[test]
fn the_default_budget_is_a_fifth_and_three_at_least() {
    let protection = Arc::new(Protection::new(&Resilience::default()));
    for (in_progress, allowed) in [(0, 3), (1, 3), (15, 3), (20, 4), (1000, 200)] {
        let mut held = Vec::new();
        while let Some(spent) = Spent::begin(&protection, in_progress) {
            held.push(spent);
        }
        assert_eq!(held.len(), allowed);
        drop(held);
        assert_eq!(protection.retrying.active(), 0, "given back");
    }
}

/// A breaker that was fed until it opened, at time 0.
fn opened(settings: CircuitErrors) -> Breaker {
    let breaker = Breaker::new(settings);
    for _ in 0..settings.min_requests {
        assert_eq!(breaker.state(), BreakerState::Closed);
        let period = breaker.admit(0).expect("closed");
        breaker.report(period, Verdict::Bad, 0);
    }
    breaker
}

#[test]
fn a_breaker_opens_probes_and_closes() {
    let settings = CircuitErrors::default();
    let breaker = opened(settings);
    assert_eq!((breaker.state(), breaker.opens()), (BreakerState::Open, 1));
    assert_eq!(breaker.admit(5 * SECOND - 1), None);
    let probes: Vec<_> = (0..3).map(|_| breaker.admit(5 * SECOND)).collect();
    assert!(probes.iter().all(Option::is_some));
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    assert_eq!(breaker.admit(5 * SECOND), None, "three are enough");
    for probe in probes.iter().flatten() {
        breaker.report(*probe, Verdict::Good, 5 * SECOND);
    }
    assert_eq!(breaker.state(), BreakerState::Closed);
    let period = breaker.admit(5 * SECOND).expect("closed");
    breaker.report(period, Verdict::Bad, 5 * SECOND);
    assert_eq!(breaker.state(), BreakerState::Closed, "it began anew");
}

#[test]
fn a_breaker_stays_open_for_longer_each_time_until_it_has_closed() {
    let breaker = opened(CircuitErrors::default());
    let mut now = 0;
    for seconds in [5, 10, 20, 40, 60, 60] {
        assert_eq!(breaker.admit(now + seconds * SECOND - 1), None);
        now += seconds * SECOND;
        let probe = breaker.admit(now).expect("half-open");
        breaker.report(probe, Verdict::Bad, now);
        assert_eq!(breaker.state(), BreakerState::Open);
    }
}

#[test]
fn a_probe_that_says_nothing_makes_room_for_another() {
    let breaker = opened(CircuitErrors {
        probes: 1,
        ..CircuitErrors::default()
    });
    let probe = breaker.admit(5 * SECOND).expect("half-open");
    assert_eq!(breaker.admit(5 * SECOND), None);
    breaker.report(probe, Verdict::None, 5 * SECOND);
    let probe = breaker.admit(6 * SECOND).expect("another");
    breaker.report(probe, Verdict::Good, 6 * SECOND);
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[test]
fn failures_that_are_few_or_old_open_nothing() {
    let settings = CircuitErrors::default();
    let breaker = Breaker::new(settings);
    let tell = |verdict, now| {
        let period = breaker.admit(now).expect("closed");
        breaker.report(period, verdict, now);
    };
    (0..19).for_each(|_| tell(Verdict::Bad, 0));
    (0..19).for_each(|_| tell(Verdict::Bad, 11 * SECOND));
    assert_eq!(breaker.state(), BreakerState::Closed, "two windows");
    (0..20).for_each(|_| tell(Verdict::Good, 22 * SECOND));
    (0..19).for_each(|_| tell(Verdict::Bad, 22 * SECOND));
    assert_eq!(breaker.state(), BreakerState::Closed, "less than half");
    tell(Verdict::Bad, 22 * SECOND);
    assert_eq!(breaker.state(), BreakerState::Open);
}

/// A service that works on so many requests at once, each for 10 ms; more wait for one another.
fn drive(gradient: &mut Gradient, capacity: u32, seconds: u64, now: &mut Nanos) {
    let end = *now + seconds * SECOND;
    while *now < end {
        let in_flight = gradient.limit();
        let latency = 10 * MS * u64::from(in_flight.max(capacity)) / u64::from(capacity);
        gradient.sample(latency, in_flight, *now);
        *now += latency / u64::from(in_flight);
    }
}

#[test]
fn an_adaptive_limit_follows_the_service_up_and_down() {
    let mut gradient = Gradient::new(4, 1000);
    let mut now = 0;
    drive(&mut gradient, 100, 60, &mut now);
    let healthy = gradient.limit();
    assert!((100..=400).contains(&healthy), "{healthy}");
    drive(&mut gradient, 10, 60, &mut now);
    let ill = gradient.limit();
    assert!((4..=healthy / 2).contains(&ill), "{ill}");
    drive(&mut gradient, 100, 120, &mut now);
    assert!(gradient.limit() > ill * 2, "{}", gradient.limit());
}

#[test]
fn an_adaptive_limit_that_limits_nothing_does_not_grow() {
    let mut gradient = Gradient::new(8, 1000);
    let before = gradient.limit();
    for n in 0..10_000 {
        gradient.sample(10 * MS, 2, n * 10 * MS);
    }
    assert_eq!(gradient.limit(), before);
}

#[test]
fn a_queue_is_bounded_and_nobody_overtakes_it() {
    let limiter = Limiter::new(Concurrency {
        queue: 1,
        ..Concurrency::fixed(1)
    });
    assert!(limiter.try_begin() && !limiter.try_begin());
    let place = limiter.queue().expect("a place");
    assert!(limiter.queue().is_none(), "there is only one");
    limiter.end();
    assert!(!limiter.try_begin(), "somebody waits");
    assert!(limiter.try_begin_waiter());
    drop(place);
    limiter.end();
    assert!(limiter.try_begin());
}

#[test]
fn a_lag_refuses_the_least_important_first_and_lets_them_back_last() {
    let settings = Overload {
        lag: Duration::from_millis(50),
        hold: Duration::from_secs(1),
    };
    let mut shedder = Shedder::default();
    let mut now = 0;
    let mut feed = |shedder: &mut Shedder, lag: Nanos, times: u32| {
        for _ in 0..times {
            now += 10 * MS + lag;
            shedder.observe(&settings, lag, now);
        }
    };
    feed(&mut shedder, 200 * MS, 1);
    assert_eq!(shedder.least(), Priority::Normal, "one pause is smoothed");
    feed(&mut shedder, 0, 10);
    feed(&mut shedder, 120 * MS, 30);
    assert_eq!(shedder.least(), Priority::High);
    feed(&mut shedder, 60 * MS, 100);
    assert_eq!(shedder.least(), Priority::High, "not low enough");
    feed(&mut shedder, 500 * MS, 100);
    assert_eq!(shedder.least(), Priority::Critical, "never those");
    let mut seen = Vec::new();
    for _ in 0..1000 {
        feed(&mut shedder, 0, 1);
        seen.push(shedder.least());
    }
    seen.dedup();
    let back = [
        Priority::Critical,
        Priority::High,
        Priority::Normal,
        Priority::Low,
    ];
    assert_eq!(seen, back, "one step after the other");
}

/// What another process begins with, of the same settings.
fn succeeded(protection: &Protection, now: Nanos) -> Option<Protection> {
    let carried = protection.carried(now)?;
    let text = serde_json::to_string(&carried).expect("written");
    let told: CarriedProtection = serde_json::from_str(&text).expect("read");
    let successor = Protection::new(&protection.settings);
    // Its clock began at another time.
    successor.inherit(&told, 1_000 * SECOND);
    Some(successor)
}

#[test]
fn an_open_circuit_stays_open_in_another_process() {
    let mut settings = Resilience::default();
    settings.circuit.errors = Some(CircuitErrors {
        min_requests: 1,
        open: Duration::from_secs(10),
        ..CircuitErrors::default()
    });
    let protection = Protection::new(&settings);
    let breaker = protection.breaker.as_ref().expect("configured");
    assert!(succeeded(&protection, SECOND).is_none(), "it is closed");
    let period = breaker.admit(SECOND).expect("closed");
    breaker.report(period, Verdict::Bad, SECOND);
    assert_eq!(breaker.state(), BreakerState::Open);
    let successor = succeeded(&protection, 4 * SECOND).expect("open");
    let breaker = successor.breaker.as_ref().expect("configured");
    assert_eq!(breaker.state(), BreakerState::Open);
    assert_eq!(breaker.until(), Some(1_007 * SECOND));
    assert_eq!(breaker.admit(1_007 * SECOND - 1), None);
    let probe = breaker.admit(1_007 * SECOND).expect("half-open");
    breaker.report(probe, Verdict::Bad, 1_007 * SECOND);
    assert_eq!(breaker.until(), Some(1_027 * SECOND), "twice as long");
}

#[test]
fn an_adaptive_limit_goes_on_in_another_process_within_its_bounds() {
    let settings = Resilience {
        concurrency: Some(Concurrency {
            adaptive: Some(5),
            ..Concurrency::fixed(400)
        }),
        ..Resilience::default()
    };
    let protection = Protection::new(&settings);
    let limiter = protection.limiter.as_ref().expect("configured");
    let begun = limiter.limit();
    for turn in 0..2000 {
        while limiter.try_begin() {}
        limiter.observe(MS, turn * 30 * MS);
    }
    assert!(limiter.limit() > begun);
    let successor = succeeded(&protection, 0).expect("adaptive");
    let inherited = successor.limiter.as_ref().expect("configured");
    assert_eq!(inherited.limit(), limiter.limit());
    let mut carried = protection.carried(0).expect("adaptive");
    carried.limit.as_mut().expect("one").limit = 1e9;
    successor.inherit(&carried, 0);
    assert_eq!(inherited.limit(), 400);
    carried.limit.as_mut().expect("one").limit = f64::NAN;
    successor.inherit(&carried, 0);
    assert_eq!(inherited.limit(), 400);
}
