//! Policies that show only with many requests: budgets, hedges by a percentile and over HTTP/2,
//! adaptive limits, the order in which load is shed.

use crate::h2_support::{H2Origin, ask, connect, get, reply};
use crate::support::{Client, Origin, Proxy, config, eventually};
use proxy_userspace::config::model::http::{
    Accelerate, BackendProtocol, Concurrency, Hedge, HedgeAfter, Overload, PathMatch, Priority,
    RetryOn, RouteMatch,
};
use proxy_userspace::observe::http::HedgeResult;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const UNAVAILABLE: &str = "HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno";

fn hedges(proxy: &Proxy, result: HedgeResult) -> u64 {
    let cells = proxy.workers.metrics().service("origins");
    cells.sum(|cells| cells.hedges(result))
}

#[test]
fn a_service_that_fails_gets_few_retries_however_many_fail() {
    const ALL: usize = 20;
    // All requests are there before one is answered, and retries are held until the end.
    let (come, is_over) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let (count, over) = (Arc::clone(&come), Arc::clone(&is_over));
    let serve = move |mut client: Client, _| {
        while client.head().is_some() {
            let number = count.fetch_add(1, Ordering::SeqCst);
            eventually("its turn has come", || match number < ALL {
                true => count.load(Ordering::SeqCst) >= ALL,
                false => over.load(Ordering::SeqCst),
            });
            client.send(UNAVAILABLE);
        }
    };
    let serve = Arc::new(serve);
    let origins: Vec<Origin> = (0..2)
        .map(|_| {
            let serve = Arc::clone(&serve);
            Origin::new(move |client, number| serve(client, number))
        })
        .collect();
    let addresses: Vec<_> = origins.iter().map(|origin| origin.address).collect();
    let proxy = Proxy::with(&addresses, |config| {
        let retries = &mut config.services[0].upstream.resilience.retries;
        retries.on = vec![RetryOn::ServerError];
        (retries.backoff_base, retries.backoff_max) = (Duration::ZERO, Duration::ZERO);
    });
    let mut clients: Vec<Client> = (0..ALL).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.send(GET);
    }
    let cells = proxy.workers.metrics().service("origins");
    let exhausted = || cells.sum(|cells| cells.budget_exhausted.get());
    // 20 % of those that are in progress, and three in any case (the defaults).
    eventually("most are not retried", || {
        exhausted() as usize + come.load(Ordering::SeqCst) == 2 * ALL
    });
    let retries = come.load(Ordering::SeqCst) - ALL;
    assert!((3..=4).contains(&retries), "{retries}");
    is_over.store(true, Ordering::SeqCst);
    for client in &mut clients {
        assert_eq!(client.answer().status, 503, "its own answer");
    }
}

#[test]
fn who_is_slower_than_nearly_all_are_is_hedged() {
    let is_hanging = Arc::new(AtomicBool::new(false));
    let hangs = Arc::clone(&is_hanging);
    let moody = Origin::new(move |mut client, _| {
        while client.head().is_some() {
            if hangs.load(Ordering::SeqCst) {
                client.rest();
                return;
            }
            client.send(OK);
        }
    });
    let other = Origin::answering(OK);
    let proxy = Proxy::with(&[moody.address, other.address], |config| {
        config.services[0].upstream.resilience.hedge = Some(Hedge {
            after: HedgeAfter::Percentile {
                share: 0.95,
                min: Duration::from_millis(1),
            },
        });
    });
    let protection = Arc::clone(&proxy.workers.snapshot().services()[0].protection);
    let mut client = proxy.client();
    assert_eq!(protection.hedge_after(), None, "nothing is known yet");
    eventually("it is known how long answers take", || {
        client.send(GET);
        assert_eq!(client.answer().status, 200);
        protection.hedge_after().is_some()
    });
    is_hanging.store(true, Ordering::SeqCst);
    eventually("a hedge wins", || {
        client.send(GET);
        assert_eq!(client.answer().status, 200);
        hedges(&proxy, HedgeResult::Won) > 0
    });
}

#[tokio::test]
async fn hedges_are_made_over_http2_and_the_slow_stream_is_reset() {
    let resets = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&resets);
    let slow = H2Origin::new(move |_, mut respond, _| {
        let count = Arc::clone(&count);
        async move {
            let reset = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
            if reset.is_ok() {
                count.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    let fast = H2Origin::new(|_, mut respond, _| async move {
        reply(&mut respond, b"fast").await;
    });
    let proxy = Proxy::with(&[slow.address, fast.address], |config| {
        let upstream = &mut config.services[0].upstream;
        upstream.protocol = BackendProtocol::H2;
        upstream.resilience.hedge = Some(Hedge {
            after: HedgeAfter::Fixed(Duration::from_millis(30)),
        });
    });
    let client = connect(proxy.address).await;
    for _ in 0..6 {
        let answer = ask(&client, get("/")).await.expect("an answer");
        assert_eq!(answer.text(), "fast");
    }
    let won = hedges(&proxy, HedgeResult::Won) as usize;
    assert!(won > 0, "in turn, some went to the slow one first");
    eventually("the slow streams are reset", || {
        resets.load(Ordering::SeqCst) >= won
    });
    // Others share the connection.
    assert_eq!(slow.connections(), 1);
}

#[test]
fn an_adaptive_limit_falls_while_a_service_is_slow_and_grows_again() {
    const FAST: u64 = 4;
    const SLOW: u64 = 150;
    let latency_ms = Arc::new(AtomicU64::new(FAST));
    let told = Arc::clone(&latency_ms);
    let origin = Origin::new(move |mut client, _| {
        while client.head().is_some() {
            thread::sleep(Duration::from_millis(told.load(Ordering::SeqCst)));
            client.send(OK);
        }
    });
    let proxy = Proxy::with(&[origin.address], |config| {
        config.services[0].upstream.resilience.concurrency = Some(Concurrency {
            adaptive: Some(2),
            queue: 100,
            queue_timeout: Duration::from_secs(3600),
            ..Concurrency::fixed(40)
        });
    });
    let protection = Arc::clone(&proxy.workers.snapshot().services()[0].protection);
    let limit = move || protection.limiter.as_ref().expect("a limiter").limit();
    let begun = limit();
    let is_over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..24)
        .map(|_| {
            let (mut client, is_over) = (proxy.client(), Arc::clone(&is_over));
            thread::spawn(move || {
                while !is_over.load(Ordering::SeqCst) {
                    client.send(GET);
                    assert_eq!(client.answer().status, 200);
                }
            })
        })
        .collect();
    // It cannot have come so far before enough is known of how long answers usually take.
    eventually("it grows", || limit() >= 2 * begun);
    latency_ms.store(SLOW, Ordering::SeqCst);
    eventually("it falls", || limit() <= begun + 2);
    latency_ms.store(FAST, Ordering::SeqCst);
    eventually("it grows again", || limit() > begun + 4);
    is_over.store(true, Ordering::SeqCst);
    for client in clients {
        client.join().expect("answered");
    }
}

/// Routes `/low`, `/normal`, `/high` and `/critical` of these priorities, at a worker that takes so
/// much lag for too much.
fn shedding(origin: &Origin, lag: Duration) -> Proxy {
    let mut config = config(&[origin.address], |config| {
        config.overload = Some(Overload {
            lag,
            // It only ever gets worse.
            hold: Duration::from_secs(3600),
        });
        let all = config.routes[0].clone();
        config.routes.clear();
        for priority in [
            Priority::Low,
            Priority::Normal,
            Priority::High,
            Priority::Critical,
        ] {
            let mut route = all.clone();
            route.name = priority.word().to_owned();
            route.priority = priority;
            route.matches = vec![RouteMatch {
                path: PathMatch::Prefix(format!("/{}", priority.word())),
                ..RouteMatch::default()
            }];
            config.routes.push(route);
        }
    });
    // Each of many proxies would first try for a second whether octets may go past TCP, of which load is
    // shed no otherwise.
    config.http_listeners[0].accelerate = Accelerate::Off;
    config.services[0].upstream.accelerate = Accelerate::Off;
    Proxy::of(&config)
}

#[test]
fn load_is_shed_in_the_order_of_priorities() {
    let origin = Origin::answering(OK);
    let serves = |proxy: &Proxy, path: &str| {
        let request = format!("GET /{path} HTTP/1.1\r\nHost: a\r\n\r\n");
        proxy.ask(&request).status == 200
    };
    // How late the loop is depends on the machine, so that the limit is looked for which it reaches
    // once, but not four times.
    eventually("the low are refused, and the high are not", || {
        let mut lag = Duration::from_millis(200);
        while !lag.is_zero() {
            let proxy = shedding(&origin, lag);
            let by = Instant::now() + Duration::from_millis(100);
            while Instant::now() < by {
                // What is refused once stays refused, so whoever is asked later is refused if one
                // of a higher priority was.
                let served = ["critical", "high", "normal", "low"].map(|path| serves(&proxy, path));
                assert!(served[0], "the critical ones always are");
                assert!(served.is_sorted_by(|a, b| a >= b), "{lag:?}: {served:?}");
                if !served[3] && serves(&proxy, "high") {
                    return true;
                }
            }
            lag /= 2;
        }
        false
    });
}
