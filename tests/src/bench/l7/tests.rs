//! The load against the origin, without a proxy in between: each kind of traffic once.

use super::*;
use crate::bench::l7::scenario::Job;

fn direct(job: Job, origin: &Origin) -> Running {
    Running::direct(match job {
        job if job.tls.is_front() => origin.h1_tls,
        job if job.origin_is_h2() => origin.h2,
        _ => origin.h1,
    })
}

#[test]
fn every_traffic_is_answered_by_the_origin() {
    let origin = Origin::start(0).unwrap();
    for scenario in scenario::all() {
        let job = scenario.job;
        let mixed = job.origin_is_h2() != (job.front == scenario::Protocol::H2);
        if job.back == scenario::Back::Files || mixed || scenario.idle {
            continue;
        }
        let running = direct(job, &origin);
        let moment = Duration::from_millis(30);
        for rate in [Rate::Closed, Rate::Open(1000.0)] {
            let outcome = load(&scenario, &running, 4, rate, moment)
                .run(|| Ok(()))
                .unwrap_or_else(|error| panic!("{}: {error:#}", scenario.name));
            assert!(outcome.requests > 0, "{}", scenario.name);
            assert!(outcome.p50_us > 0.0 && outcome.p50_us <= outcome.p99_us);
        }
    }
}

#[test]
fn idle_connections_are_asked_twice() {
    let origin = Origin::start(0).unwrap();
    let scenario = scenario::all().into_iter().find(|each| each.idle).unwrap();
    let running = direct(scenario.job, &origin);
    let mut marks = 0;
    load(&scenario, &running, 10, Rate::Closed, Duration::ZERO)
        .idle(|| {
            marks += 1;
            Ok(())
        })
        .unwrap();
    assert_eq!((marks, origin.seen()), (1, (10, 0)));
}

#[test]
fn a_wrong_answer_fails_the_run() {
    let origin = Origin::start(0).unwrap();
    let mut scenario = scenario::all().swap_remove(0);
    if let load::Traffic::H1 { length, .. } = &mut scenario.traffic {
        *length += 1;
    }
    let running = direct(scenario.job, &origin);
    let load = load(
        &scenario,
        &running,
        2,
        Rate::Closed,
        Duration::from_millis(10),
    );
    let error = load.run(|| Ok(())).unwrap_err();
    assert!(
        format!("{error:#}").contains("a body of 128 octets"),
        "{error:#}"
    );
}

#[test]
fn names_that_do_not_exist_are_refused_with_those_that_do() {
    let choice = Choice {
        scenarios: vec!["gett".into()],
        peers: Vec::new(),
    };
    let error = choose(&choice).unwrap_err().to_string();
    assert!(error.contains("get, get_1000"), "{error}");
}

#[test]
fn what_health_and_resilience_cost_is_measured() {
    let wanted = ["micro_report", "micro_resilience"];
    let rows = micro::run(|name| wanted.contains(&name)).unwrap();
    let cpu: Vec<f64> = rows.iter().map(|row| row.cpu_us.unwrap()).collect();
    // The whole holds the part.
    assert!(cpu.len() == 2 && cpu[0] > 0.0 && cpu[0] < cpu[1], "{cpu:?}");
}
