//! Breakers, limits, fallbacks and shedding.

use crate::support::{Client, Origin, Proxy, eventually};
use proxy_tests::family;
use proxy_userspace::config::model::Service;
use proxy_userspace::config::model::http::{
    BackendTraits, CircuitErrors, Concurrency, Fallback, FixedResponse, Overload, PathMatch,
    Priority, Resilience, RouteMatch,
};
use proxy_userspace::observe::access_log::End;
use proxy_userspace::resilience::BreakerState;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const FAILED: &str = "HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nno";

fn with(backends: &[SocketAddr], edit: impl FnOnce(&mut Resilience)) -> Proxy {
    Proxy::with(backends, |config| {
        edit(&mut config.services[0].upstream.resilience);
    })
}

fn ends(proxy: &Proxy, end: End) -> u64 {
    let cells = proxy.workers.metrics().listener("web");
    cells.sum(|cells| cells.ends(end))
}

fn nobody() -> SocketAddr {
    let listener = TcpListener::bind(family::any()).expect("binds");
    listener.local_addr().expect("bound")
}

/// An origin that is well or not, and counts.
struct Moody {
    origin: Origin,
    is_well: Arc<AtomicBool>,
    requests: Arc<AtomicUsize>,
}

impl Moody {
    fn new(is_well: bool) -> Self {
        let (is_well, requests) = (Arc::new(AtomicBool::new(is_well)), Arc::default());
        let (well, count) = (Arc::clone(&is_well), Arc::clone(&requests));
        let origin = Origin::new(move |mut client, _| {
            while client.head().is_some() {
                AtomicUsize::fetch_add(&count, 1, Ordering::SeqCst);
                let answer = if well.load(Ordering::SeqCst) {
                    OK
                } else {
                    FAILED
                };
                client.send(answer);
            }
        });
        Self {
            origin,
            is_well,
            requests,
        }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// An origin that answers when it is told to: each call of the result lets one request through.
fn held() -> (Origin, Arc<AtomicUsize>, Arc<AtomicUsize>) {
    let (come, let_go) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (count, allowed) = (Arc::clone(&come), Arc::clone(&let_go));
    let origin = Origin::new(move |mut client, _| {
        while client.head().is_some() {
            let number = count.fetch_add(1, Ordering::SeqCst);
            eventually("it is let go", || allowed.load(Ordering::SeqCst) > number);
            client.send(OK);
        }
    });
    (origin, come, let_go)
}

#[test]
fn a_breaker_opens_probes_and_closes() {
    let origin = Moody::new(false);
    let proxy = with(&[origin.origin.address], |resilience| {
        resilience.circuit.errors = Some(CircuitErrors {
            min_requests: 4,
            window: Duration::from_secs(3600),
            open: Duration::from_millis(150),
            max_open: Duration::from_millis(150),
            probes: 2,
            ..CircuitErrors::default()
        });
    });
    let protection = Arc::clone(&proxy.workers.snapshot().services()[0].protection);
    let breaker = protection.breaker.as_ref().expect("a breaker");
    for _ in 0..4 {
        assert_eq!(proxy.ask(GET).status, 500, "its own answer");
    }
    assert_eq!(breaker.state(), BreakerState::Open);
    let refused = proxy.ask(GET);
    if refused.status == 503 {
        // Unless the machine has slept meanwhile.
        assert_eq!(refused.field("retry-after"), Some("1"));
        eventually("it is counted", || ends(&proxy, End::CircuitOpen) > 0);
    }
    eventually("a probe fails", || {
        proxy.ask(GET);
        breaker.opens() >= 2
    });
    origin.is_well.store(true, Ordering::SeqCst);
    eventually("it closes", || {
        proxy.ask(GET);
        breaker.state() == BreakerState::Closed
    });
    let before = origin.requests();
    for _ in 0..8 {
        assert_eq!(proxy.ask(GET).status, 200);
    }
    assert_eq!(origin.requests(), before + 8);
}

#[test]
fn an_open_circuit_asks_nobody() {
    let origin = Moody::new(false);
    let proxy = with(&[origin.origin.address], |resilience| {
        resilience.circuit.errors = Some(CircuitErrors {
            min_requests: 1,
            open: Duration::from_secs(3600),
            max_open: Duration::from_secs(3600),
            ..CircuitErrors::default()
        });
    });
    assert_eq!(proxy.ask(GET).status, 500);
    for _ in 0..5 {
        let refused = proxy.ask(GET);
        assert_eq!(refused.status, 503);
        let seconds: u32 = refused
            .field("retry-after")
            .expect("told")
            .parse()
            .expect("a number");
        assert!((3000..=3600).contains(&seconds), "{seconds}");
    }
    assert_eq!(origin.requests(), 1);
    eventually("all are counted", || ends(&proxy, End::CircuitOpen) == 5);
}

#[test]
fn backends_that_cannot_be_reached_open_it_too_and_a_reload_keeps_it_open() {
    let mut proxy = with(&[nobody()], |resilience| {
        resilience.circuit.errors = Some(CircuitErrors {
            min_requests: 2,
            open: Duration::from_secs(3600),
            max_open: Duration::from_secs(3600),
            ..CircuitErrors::default()
        });
    });
    assert_eq!(proxy.ask(GET).status, 502);
    assert_eq!(proxy.ask(GET).status, 502);
    assert_eq!(proxy.ask(GET).status, 503);
    let before = Arc::clone(&proxy.workers.snapshot().services()[0].protection);
    let mut config = crate::support::config(&[nobody()], |_| {});
    config.services[0].upstream.resilience = before.settings.clone();
    let prepared = proxy.workers.prepare(&config).expect("compiles");
    proxy.workers.put_in_force(prepared);
    let after = &proxy.workers.snapshot().services()[0].protection;
    assert!(Arc::ptr_eq(&before, after));
}

/// Connections whose requests are under way.
fn under_way(proxy: &Proxy, come: &AtomicUsize, count: usize) -> Vec<Client> {
    let clients = (0..count).map(|_| {
        let mut client = proxy.client();
        client.send(GET);
        client
    });
    let clients = clients.collect();
    eventually("they have come", || come.load(Ordering::SeqCst) == count);
    clients
}

#[test]
fn thresholds_refuse_at_once() {
    type Edit = fn(&mut Resilience);
    let cases: [Edit; 2] = [
        |resilience| resilience.circuit.requests = 2,
        |resilience| resilience.circuit.connections = 2,
    ];
    for edit in cases {
        let (origin, come, let_go) = held();
        let proxy = with(&[origin.address], edit);
        let mut clients = under_way(&proxy, &come, 2);
        let refused = proxy.ask(GET);
        assert_eq!(refused.status, 503);
        assert_eq!(refused.field("retry-after"), Some("1"));
        eventually("it is counted", || ends(&proxy, End::CircuitOpen) == 1);
        let_go.store(usize::MAX, Ordering::SeqCst);
        for client in &mut clients {
            assert_eq!(client.answer().status, 200);
        }
        assert_eq!(proxy.ask(GET).status, 200, "there is room again");
    }
}

#[test]
fn so_many_wait_and_no_more() {
    let (origin, come, let_go) = held();
    let proxy = Proxy::with(&[origin.address], |config| {
        let upstream = &mut config.services[0].upstream;
        upstream.max_connections = 1;
        upstream.resilience.circuit.pending = 1;
    });
    let mut clients = under_way(&proxy, &come, 1);
    let mut waiting = proxy.client();
    waiting.send(GET);
    let state = Arc::clone(&proxy.workers.snapshot().services()[0].state);
    eventually("one waits", || state.waiting() == 1);
    assert_eq!(proxy.ask(GET).status, 503);
    let_go.store(usize::MAX, Ordering::SeqCst);
    assert_eq!(clients[0].answer().status, 200);
    assert_eq!(waiting.answer().status, 200);
}

#[test]
fn a_concurrency_limit_lets_some_wait_and_refuses_the_rest() {
    let (origin, come, let_go) = held();
    let proxy = with(&[origin.address], |resilience| {
        resilience.concurrency = Some(Concurrency {
            queue: 1,
            queue_timeout: Duration::from_secs(3600),
            ..Concurrency::fixed(2)
        });
    });
    let protection = Arc::clone(&proxy.workers.snapshot().services()[0].protection);
    let limiter = protection.limiter.as_ref().expect("a limiter");
    let mut clients = under_way(&proxy, &come, 2);
    let mut waiting = proxy.client();
    waiting.send(GET);
    eventually("one waits", || limiter.waiting() == 1);
    let refused = proxy.ask(GET);
    assert_eq!(
        (refused.status, refused.field("retry-after")),
        (503, Some("1"))
    );
    eventually("it is counted", || ends(&proxy, End::ConcurrencyLimit) == 1);
    assert_eq!(
        come.load(Ordering::SeqCst),
        2,
        "the one that waits has not come"
    );
    let_go.store(usize::MAX, Ordering::SeqCst);
    for client in &mut clients {
        assert_eq!(client.answer().status, 200);
    }
    assert_eq!(waiting.answer().status, 200);
    eventually("all are over", || {
        limiter.in_flight() == 0 && limiter.waiting() == 0
    });
}

#[test]
fn who_waits_too_long_is_refused_and_leaves_no_trace() {
    let (origin, come, let_go) = held();
    let proxy = with(&[origin.address], |resilience| {
        resilience.concurrency = Some(Concurrency {
            queue: 5,
            queue_timeout: Duration::from_millis(30),
            ..Concurrency::fixed(1)
        });
    });
    let mut clients = under_way(&proxy, &come, 1);
    assert_eq!(proxy.ask(GET).status, 503);
    let_go.store(usize::MAX, Ordering::SeqCst);
    assert_eq!(clients[0].answer().status, 200);
    assert_eq!(proxy.ask(GET).status, 200);
}

#[test]
fn an_adaptive_limit_serves_within_its_bounds() {
    let proxy = with(&[Origin::answering(OK).address], |resilience| {
        resilience.concurrency = Some(Concurrency {
            adaptive: Some(2),
            ..Concurrency::fixed(50)
        });
    });
    let mut client = proxy.client();
    for _ in 0..200 {
        client.send(GET);
        assert_eq!(client.answer().status, 200);
    }
    let protection = &proxy.workers.snapshot().services()[0].protection;
    let limiter = protection.limiter.as_ref().expect("a limiter");
    assert!((2..=50).contains(&limiter.limit()), "{}", limiter.limit());
}

#[test]
fn a_fixed_answer_stands_in_for_a_service_that_cannot() {
    let fallback = Fallback::Respond(FixedResponse {
        body: "later".to_owned(),
        ..FixedResponse::new(200)
    });
    for backends in [vec![], vec![nobody()], vec![nobody(), nobody()]] {
        let proxy = with(&backends, |resilience| {
            resilience.fallback = Some(fallback.clone());
        });
        let answer = proxy.ask(GET);
        assert_eq!((answer.status, answer.text().as_str()), (200, "later"));
    }
    // An answer is an answer, and a client's fault stays its own.
    let proxy = with(&[Origin::answering(FAILED).address], |resilience| {
        resilience.fallback = Some(fallback);
    });
    assert_eq!(proxy.ask(GET).status, 500);
}

#[test]
fn another_service_stands_in_and_gets_the_whole_request() {
    let spare = Origin::new(|mut client, _| {
        while let Some(head) = client.head() {
            let body = client.exactly(5);
            let body = String::from_utf8_lossy(&body).into_owned();
            let text = format!("{}{body}", head.matches("X-Forwarded-For").count());
            let length = text.len();
            client.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{text}"
            ));
        }
    });
    // One that takes all of the request before it fails, and one that is not there.
    let rude = Origin::new(|mut client, _| {
        client.head();
        client.exactly(5);
    });
    for backend in [rude.address, nobody()] {
        let proxy = Proxy::with(&[backend], |config| {
            let mut other = Service::new("spare");
            other.push_backend(spare.address, 1, BackendTraits::default());
            config.services.push(other);
            config.services[0].upstream.resilience.fallback =
                Some(Fallback::Service("spare".to_owned()));
        });
        let mut client = proxy.client();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
        let answer = client.answer();
        assert_eq!((answer.status, answer.text().as_str()), (200, "1hello"));
    }
}

#[test]
fn who_is_less_important_is_refused_first() {
    let origin = Origin::answering(OK);
    let proxy_with = |lag: Duration| {
        Proxy::with(&[origin.address], |config| {
            config.overload = Some(Overload {
                lag,
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
        })
    };
    let ask =
        |proxy: &Proxy, path: &str| proxy.ask(&format!("GET /{path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    // Any lag is too much, so that there is one.
    let proxy = proxy_with(Duration::ZERO);
    for path in ["low", "normal", "high"] {
        eventually("it is refused", || ask(&proxy, path).status == 503);
        assert_eq!(ask(&proxy, path).field("retry-after"), Some("1"));
    }
    eventually("they are counted", || ends(&proxy, End::Overloaded) >= 3);
    assert_eq!(ask(&proxy, "critical").status, 200);
    // No lag is.
    let proxy = proxy_with(Duration::from_secs(3600));
    for path in ["low", "normal", "high", "critical"] {
        assert_eq!(ask(&proxy, path).status, 200);
    }
}
