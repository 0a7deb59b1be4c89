//! Who fails requests is out, for everybody and on the spot.

use super::*;
use crate::config::model::outlier::{NetworkQuality, Outlier};
use crate::health::outlier::{ChangeKind, Network, Outcome};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

fn rules() -> Outlier {
    Outlier {
        consecutive_5xx: 3,
        jitter: 0.0,
        ..Outlier::default()
    }
}

fn judged(weights: &[u16]) -> ServiceSpec {
    ServiceSpec {
        outlier: Some(rules()),
        ..spec(BalancePolicy::RoundRobin, weights)
    }
}

fn registry(old: Option<&Registry>, spec: ServiceSpec) -> Registry {
    let registry = Registry::build(old, vec![spec], 7, 0, S);
    registry.activate(old, S);
    registry
}

fn fail(service: &ServiceState, index: usize, times: u32) {
    let backends = service.backends();
    for _ in 0..times {
        service.report(&backends[index], Outcome::ServerError, S, || 0);
    }
}

fn is_served_by(service: &ServiceState, name: &str) -> bool {
    share(&shares(service, 30), name) > 0.0
}

#[test]
fn a_row_of_failures_ejects_until_time_is_over() {
    let registry = registry(None, judged(&[1, 1, 1]));
    let service = &registry.services()[0];
    fail(service, 1, 2);
    let backends = service.backends();
    service.report(&backends[1], Outcome::Answered(Some(1)), S, || 0);
    fail(service, 1, 2);
    assert!(is_served_by(service, "b1"), "the row was broken");
    fail(service, 1, 1);
    assert!(backends[1].is_ejected() && backends[1].is_passing());
    assert!(!backends[1].is_healthy());
    assert!(!is_served_by(service, "b1"));
    let ejected = service.ejection(&backends[1]).expect("ejected");
    let until = ejected.until.as_nanos() as u64;
    assert_eq!(until, S + 30 * S);
    registry.watch_outliers(until - 1, || 0);
    assert!(!is_served_by(service, "b1"));
    registry.watch_outliers(until, || 0);
    assert!(is_served_by(service, "b1"));
    assert_eq!(backends[1].up_since(), until, "it starts slowly");
}

#[test]
fn a_check_that_passes_does_not_end_an_ejection() {
    let registry = registry(None, judged(&[1, 1]));
    let service = &registry.services()[0];
    fail(service, 1, 3);
    assert_eq!(service.set_healthy("b1", false, S), Some(true));
    assert_eq!(service.set_healthy("b1", true, S), Some(true));
    assert!(!is_served_by(service, "b1"));
}

#[test]
fn in_panic_the_ejected_serve_as_well() {
    let mut spec = judged(&[1, 1, 1]);
    spec.panic_threshold = 0.9;
    let registry = registry(None, spec);
    let service = &registry.services()[0];
    fail(service, 1, 3);
    assert!(service.backends()[1].is_ejected());
    assert!(service.selection().is_panic());
    assert!(is_served_by(service, "b1"));
}

#[test]
fn a_reload_keeps_an_ejection_and_hears_of_those_by_older_connections() {
    let old = registry(None, judged(&[1, 1, 1, 1]));
    fail(&old.services()[0], 1, 3);
    let new = registry(Some(&old), judged(&[1, 1, 1, 1]));
    let service = &new.services()[0];
    assert!(!is_served_by(service, "b1"));
    // A connection that still has the old configuration.
    fail(&old.services()[0], 2, 3);
    assert!(service.backends()[2].is_ejected());
    new.watch_outliers(2 * S, || 0);
    assert!(!is_served_by(service, "b2"));
    // Without rules there are no ejections.
    let mut none = judged(&[1, 1, 1, 1]);
    none.outlier = None;
    let none = registry(Some(&new), none);
    none.watch_outliers(2 * S, || 0);
    assert!(is_served_by(&none.services()[0], "b1"));
}

#[test]
fn whoever_waits_for_news_is_told() {
    let registry = registry(None, judged(&[1, 1]));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(registry.news().poll(&mut cx).is_pending());
    fail(&registry.services()[0], 0, 3);
    let Poll::Ready(notes) = registry.news().poll(&mut cx) else {
        panic!("nothing is told");
    };
    assert_eq!(notes.len(), 1);
    let What::Outlier(backend, ChangeKind::Ejected(_)) = &notes[0].what else {
        panic!("{notes:?}");
    };
    assert_eq!((&*notes[0].service, backend.name()), ("shop", "b0"));
    assert!(registry.news().poll(&mut cx).is_pending(), "told once");
}

#[test]
fn latencies_are_means_of_intervals() {
    let registry = registry(None, judged(&[1, 1]));
    let service = &registry.services()[0];
    registry.watch_outliers(S, || 0);
    let backends = service.backends();
    for latency in [1_024_000, 3_072_000] {
        service.report(&backends[0], Outcome::Answered(Some(latency)), S, || 0);
    }
    registry.watch_outliers(12 * S, || 0);
    let (round, latencies) = service.latencies();
    assert_eq!(round, 1);
    assert_eq!(latencies[0].1, Some(2_048_000.0));
    assert_eq!(latencies[1].1, None);
}

#[test]
fn who_is_ejected_stays_so_in_another_process_and_that_is_no_news() {
    let before = registry(None, judged(&[1, 1, 1]));
    fail(&before.services()[0], 1, 3);
    let carried = before.services()[0].carried(S);
    assert_eq!(carried.len(), 1);

    let after = registry(None, judged(&[1, 1, 1]));
    let service = &after.services()[0];
    service.inherit(&carried, S);
    assert!(service.backends()[1].is_ejected() && !is_served_by(service, "b1"));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(after.news().poll(&mut cx).is_pending());
    after.watch_outliers(S + 30 * S, || 0);
    assert!(is_served_by(service, "b1"));

    // The same name is another server.
    let mut moved = judged(&[1, 1, 1]);
    moved.backends[1].address = address(77);
    let moved = registry(None, moved);
    moved.services()[0].inherit(&carried, S);
    assert!(moved.services()[0].ejected().is_empty());
}

#[test]
fn what_the_kernel_tells_of_connections_ejects_where_every_request_was_answered() {
    let mut spec = judged(&[1, 1, 1]);
    spec.outlier = Some(Outlier {
        network: Some(NetworkQuality {
            loss: 0.05,
            rtt: Duration::from_millis(50),
            zero_windows: 0.5,
            deviations: 3.0,
            intervals: 1,
            min_hosts: 3,
            min_segments: 50,
        }),
        ..rules()
    });
    let registry = registry(None, spec);
    let service = &registry.services()[0];
    registry.watch_outliers(S, || 0);
    for (index, backend) in service.backends().iter().enumerate() {
        service.report(backend, Outcome::Answered(Some(1_000_000)), S, || 0);
        backend.saw_network(&Network {
            segments: 1000,
            retransmits: if index == 1 { 200 } else { 1 },
            looks: 10,
            timed: 10,
            rtt_ns: 10_000_000,
            ..Network::default()
        });
    }
    registry.watch_outliers(12 * S, || 0);
    let backends = service.backends();
    assert!(backends[1].is_ejected() && !is_served_by(service, "b1"));
    assert_eq!(service.ejected().len(), 1);
    assert_eq!(service.round_trip(&backends[0]), Some(1e6));
    let delays = service.delays();
    let (own, usual) = delays[1].1.expect("known");
    // A fifth sent again costs 40 ms on the average.
    assert!((own - 41e6).abs() < 1e3, "{own}");
    assert!(usual < 2e6, "{usual}");
    // What was told once is not counted again.
    let out = service.ejection(&backends[1]).expect("ejected").until;
    registry.watch_outliers(out.as_nanos() as u64 + 20 * S, || 0);
    assert!(is_served_by(service, "b1"));
}

#[test]
fn peak_ewma_expects_no_less_than_what_the_network_adds() {
    let registry = registry(None, spec(BalancePolicy::PeakEwma, &[1, 1]));
    let service = &registry.services()[0];
    let backends = service.backends();
    for backend in &backends {
        backend.latency().observe(5_000_000, S);
    }
    let picked = |now| {
        let ask = Ask { now, ..ask(3) };
        pick(service, &ask).expect("somebody")
    };
    let chosen = picked(S);
    let other = backends.iter().find(|it| it.name() != chosen).expect("two");
    let gray = backends.iter().find(|it| it.name() == chosen).expect("two");
    gray.saw_network(&Network {
        segments: 100,
        retransmits: 10,
        timed: 1,
        rtt_ns: 1_000_000,
        ..Network::default()
    });
    registry.watch_outliers(S, || 0);
    assert_eq!(picked(S), other.name());
    // It is forgiven in time, as everything is.
    gray.latency().observe(5_000_000, 60 * S);
    other.latency().observe(8_000_000, 60 * S);
    assert_eq!(picked(60 * S), gray.name());
}
