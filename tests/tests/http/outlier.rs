//! Passive health from outside: origins that fail on command are ejected, the others serve, and all
//! return.

use crate::support::{Client, Origin, Proxy, config, eventually};
use proxy_tests::family;
use proxy_userspace::balance::l7::BackendState;
use proxy_userspace::config::model::Config;
use proxy_userspace::config::model::http::{Accelerate, BackendTraits, StreamListener};
use proxy_userspace::config::model::outlier::{
    Detector, FailurePercentage, NetworkQuality, Outlier, Slowness, SuccessRate,
};
use proxy_userspace::runtime::workers::Workers;
use proxy_userspace::types::Protocol;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Longer than any test runs.
const FOR_EVER: Duration = Duration::from_secs(3600);

/// What an origin does with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Mood {
    Well,
    Error,
    Unavailable,
    Reset,
    Torn,
    Hang,
    Slow,
    Half,
}

const MOODS: [Mood; 8] = [
    Mood::Well,
    Mood::Error,
    Mood::Unavailable,
    Mood::Reset,
    Mood::Torn,
    Mood::Hang,
    Mood::Slow,
    Mood::Half,
];

/// An origin that does as it is told, and its mood.
struct Moody {
    origin: Origin,
    mood: Arc<AtomicU8>,
}

impl Moody {
    fn new(name: &'static str) -> Self {
        let mood = Arc::new(AtomicU8::new(Mood::Well as u8));
        let told = Arc::clone(&mood);
        let origin = Origin::new(move |mut client, _| {
            let mut asked = 0;
            while client.head().is_some() {
                asked += 1;
                let mood = MOODS[usize::from(told.load(Ordering::SeqCst))];
                let (status, body) = match mood {
                    Mood::Well => ("200 OK", name),
                    Mood::Error => ("500 Oh", ""),
                    Mood::Unavailable => ("503 Oh", ""),
                    Mood::Half if asked % 2 == 0 => ("500 Oh", ""),
                    Mood::Half => ("200 OK", name),
                    Mood::Slow => {
                        thread::sleep(Duration::from_millis(30));
                        ("200 OK", name)
                    }
                    Mood::Reset => return client.abort(),
                    Mood::Torn => {
                        client.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ntorn");
                        return client.abort();
                    }
                    Mood::Hang => {
                        let _ = client.rest();
                        return;
                    }
                };
                client.send(format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                ));
            }
        });
        Self { origin, mood }
    }

    fn be(&self, mood: Mood) {
        self.mood.store(mood as u8, Ordering::SeqCst);
    }
}

/// Rules that go by rows only, and eject for long.
fn rows() -> Outlier {
    Outlier {
        consecutive_5xx: 3,
        consecutive_gateway_errors: 3,
        consecutive_connect_failures: 3,
        base_ejection_time: FOR_EVER,
        max_ejection_time: FOR_EVER,
        interval: Duration::from_millis(100),
        ..Outlier::default()
    }
}

/// A proxy in front of these, with these rules.
fn proxy(to: &[&Moody], rules: Outlier) -> Proxy {
    let addresses: Vec<SocketAddr> = to.iter().map(|moody| moody.origin.address).collect();
    Proxy::with(&addresses, |config| judged_by(config, rules))
}

fn judged_by(config: &mut Config, rules: Outlier) {
    let upstream = &mut config.services[0].upstream;
    upstream.response_timeout = Duration::from_millis(200);
    upstream.outlier = Some(rules);
}

fn backend(workers: &Workers, address: SocketAddr) -> Arc<BackendState> {
    let service = &workers.snapshot().services()[0];
    let mut backends = service.state.backends().into_iter();
    backends
        .find(|backend| backend.address() == address)
        .expect("known")
}

fn is_ejected(proxy: &Proxy, moody: &Moody) -> bool {
    backend(&proxy.workers, moody.origin.address).is_ejected()
}

/// Why it is ejected.
fn detector(proxy: &Proxy, moody: &Moody) -> Option<Detector> {
    let backend = backend(&proxy.workers, moody.origin.address);
    let service = &proxy.workers.snapshot().services()[0];
    let ejected = service.state.ejection(&backend)?;
    Some(ejected.evidence.detector())
}

/// Asks once over a connection of its own, and does not mind what becomes of it.
fn ask(proxy: &Proxy) {
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let _ = client.rest();
}

#[test]
fn whatever_way_it_fails_it_is_ejected_and_the_others_serve() {
    for (mood, found) in [
        (Mood::Error, Detector::Consecutive5xx),
        (Mood::Unavailable, Detector::GatewayErrors),
        (Mood::Reset, Detector::GatewayErrors),
        (Mood::Torn, Detector::GatewayErrors),
        (Mood::Hang, Detector::GatewayErrors),
    ] {
        let [a, b, c] = ["a", "b", "c"].map(Moody::new);
        let proxy = proxy(&[&a, &b, &c], rows());
        b.be(mood);
        eventually("b is ejected", || {
            ask(&proxy);
            is_ejected(&proxy, &b)
        });
        assert_eq!(detector(&proxy, &b), Some(found), "{mood:?}");
        let mut client = proxy.client();
        for _ in 0..12 {
            client.send(GET);
            let answer = client.answer();
            assert_eq!(answer.status, 200, "{mood:?}");
            assert_ne!(answer.text(), "b", "{mood:?}");
        }
        assert!(!is_ejected(&proxy, &a) && !is_ejected(&proxy, &c));
    }
}

#[test]
fn an_ejection_ends_by_itself_and_the_next_one_is_longer() {
    let [a, b] = ["a", "b"].map(Moody::new);
    let rules = Outlier {
        base_ejection_time: Duration::from_millis(300),
        // Nothing is forgiven while the test runs.
        interval: FOR_EVER,
        ..rows()
    };
    let proxy = proxy(&[&a, &b], rules);
    let times = |proxy: &Proxy| {
        let backend = backend(&proxy.workers, b.origin.address);
        let service = &proxy.workers.snapshot().services()[0];
        service
            .state
            .ejection(&backend)
            .map(|ejected| ejected.times)
    };
    for round in 1..=2 {
        b.be(Mood::Error);
        let mut seen = None;
        eventually("b is ejected", || {
            ask(&proxy);
            seen = times(&proxy);
            seen.is_some()
        });
        assert_eq!(seen, Some(round));
        b.be(Mood::Well);
        let mut client = proxy.client();
        eventually("b serves again", || {
            client.send(GET);
            client.answer().text() == "b"
        });
    }
}

#[test]
fn half_of_the_time_is_too_often() {
    let [a, b, c] = ["a", "b", "c"].map(Moody::new);
    let rules = Outlier {
        consecutive_5xx: 0,
        failure_percentage: Some(FailurePercentage {
            threshold: 0.3,
            min_hosts: 2,
            min_requests: 10,
        }),
        ..rows()
    };
    let proxy = proxy(&[&a, &b, &c], rules);
    b.be(Mood::Half);
    let mut client = proxy.client();
    eventually("b is ejected", || {
        client.send(GET);
        client.answer();
        is_ejected(&proxy, &b)
    });
    assert_eq!(detector(&proxy, &b), Some(Detector::FailurePercentage));
    assert!(!is_ejected(&proxy, &a) && !is_ejected(&proxy, &c));
}

#[test]
fn who_succeeds_less_than_the_others_is_found_by_comparison() {
    let [a, b, c, d, e] = ["a", "b", "c", "d", "e"].map(Moody::new);
    let rules = Outlier {
        consecutive_5xx: 0,
        consecutive_gateway_errors: 0,
        success_rate: Some(SuccessRate {
            stdev_factor: 1.5,
            min_hosts: 5,
            min_requests: 2,
        }),
        interval: Duration::from_millis(500),
        ..rows()
    };
    let proxy = proxy(&[&a, &b, &c, &d, &e], rules);
    b.be(Mood::Half);
    let mut client = proxy.client();
    eventually("b is ejected", || {
        for _ in 0..10 {
            client.send(GET);
            client.answer();
        }
        is_ejected(&proxy, &b)
    });
    assert_eq!(detector(&proxy, &b), Some(Detector::SuccessRate));
    for other in [&a, &c, &d, &e] {
        assert!(!is_ejected(&proxy, other));
    }
}

#[test]
fn a_slow_one_is_found_by_comparison() {
    let [a, b, c, d] = ["a", "b", "c", "d"].map(Moody::new);
    let rules = Outlier {
        interval: Duration::from_millis(500),
        latency: Some(Slowness {
            factor: 5.0,
            intervals: 2,
            min_hosts: 3,
            min_requests: 3,
        }),
        // On a busy machine another one may be slow, too; it must not take b's place for ever.
        base_ejection_time: Duration::from_secs(1),
        ..rows()
    };
    let proxy = proxy(&[&a, &b, &c, &d], rules);
    b.be(Mood::Slow);
    let mut client = proxy.client();
    eventually("b is ejected", || {
        client.send(GET);
        assert_eq!(client.answer().status, 200);
        detector(&proxy, &b) == Some(Detector::Latency)
    });
}

#[test]
fn no_more_than_the_share_are_ejected_and_never_the_last() {
    let origins = ["a", "b", "c", "d"].map(Moody::new);
    let all: Vec<&Moody> = origins.iter().collect();
    for (share, most) in [(0.5, 2), (0.1, 1), (1.0, 3), (0.0, 0)] {
        let rules = Outlier {
            max_ejected: share,
            ..rows()
        };
        let proxy = proxy(&all, rules);
        origins.iter().for_each(|origin| origin.be(Mood::Error));
        let count = || all.iter().filter(|it| is_ejected(&proxy, it)).count();
        let mut client = proxy.client();
        let mut ask = || {
            client.send(GET);
            assert_eq!(client.answer().status, 500);
            assert!(count() <= most, "{share}");
        };
        (0..60).for_each(|_| ask());
        assert_eq!(count(), most, "{share}");
    }
}

#[test]
fn a_reload_keeps_an_ejection_and_without_rules_it_ends() {
    let [a, b] = ["a", "b"].map(Moody::new);
    let mut proxy = proxy(&[&a, &b], rows());
    b.be(Mood::Error);
    eventually("b is ejected", || {
        ask(&proxy);
        is_ejected(&proxy, &b)
    });
    b.be(Mood::Well);
    let addresses = [a.origin.address, b.origin.address];
    let with = |rules: Option<Outlier>| {
        config(&addresses, |config| {
            config.services[0].upstream.outlier = rules;
        })
    };
    let (same, none) = (with(Some(rows())), with(None));
    let prepared = proxy.workers.prepare(&same).expect("good");
    proxy.workers.put_in_force(prepared);
    let mut client = proxy.client();
    for _ in 0..8 {
        client.send(GET);
        assert_eq!(client.answer().text(), "a");
    }
    let prepared = proxy.workers.prepare(&none).expect("good");
    proxy.workers.put_in_force(prepared);
    eventually("b serves again", || {
        client.send(GET);
        client.answer().text() == "b"
    });
}

#[test]
fn clients_that_leave_are_not_the_backends_fault() {
    let [a, b] = ["a", "b"].map(Moody::new);
    let addresses = [a.origin.address, b.origin.address];
    let proxy = Proxy::with(&addresses, |config| {
        judged_by(config, rows());
        config.services[0].upstream.response_timeout = Duration::from_secs(60);
    });
    for moody in [&a, &b] {
        moody.be(Mood::Hang);
    }
    let listener = proxy.workers.metrics().listener("web");
    let active = || listener.sum(|cells| cells.requests_active.get());
    for _ in 0..12 {
        let mut client = proxy.client();
        client.send(GET);
        eventually("it is under way", || active() == 1);
        client.abort();
        eventually("it is given up", || active() == 0);
    }
    assert!(!is_ejected(&proxy, &a) && !is_ejected(&proxy, &b));
    for moody in [&a, &b] {
        moody.be(Mood::Well);
    }
    assert_eq!(proxy.ask(GET).status, 200);
}

/// An address at which nobody listens.
fn nobody() -> SocketAddr {
    let refusing = TcpListener::bind(family::any()).expect("binds");
    refusing.local_addr().expect("bound")
}

#[test]
fn who_cannot_be_reached_is_ejected_without_being_asked_for() {
    let well = Moody::new("a");
    let dead = nobody();
    // Every default.
    let proxy = Proxy::to(&[well.origin.address, dead]);
    let mut client = proxy.client();
    eventually("it is ejected", || {
        client.send(GET);
        assert_eq!(client.answer().status, 200);
        backend(&proxy.workers, dead).is_ejected()
    });
    // Nor is an answer of 500 held against anybody.
    well.be(Mood::Error);
    for _ in 0..20 {
        client.send(GET);
        client.answer();
    }
    assert!(!is_ejected(&proxy, &well));
}

#[test]
fn connections_that_are_passed_on_count_as_well() {
    let echo = Origin::new(|mut client, _| {
        while let Some(line) = client.until(b"\n") {
            client.send(line);
        }
    });
    // Something that listens in the server's place.
    let sham = Origin::new(|client, _| client.abort());
    let dead = nobody();
    let addresses = [echo.address, sham.address, dead];
    let config = config(&addresses, |config| {
        config.http_listeners.clear();
        config.routes.clear();
        let any = family::any();
        let listener = StreamListener::new("tcp", Protocol::Tcp, any, "origins");
        config.stream_listeners.push(listener);
        let service = &mut config.services[0];
        service.push_backend(nobody(), 1, BackendTraits::default());
        let rules = Outlier {
            max_ejected: 1.0,
            ..rows()
        };
        service.upstream.outlier = Some(rules);
    });
    let workers = Workers::start(&config).expect("starts");
    let address = workers.listeners().next().expect("listens");
    eventually("both are ejected", || {
        let mut client = Client::to(address);
        client.send("hello\n");
        let _ = client.until(b"\n");
        [sham.address, dead]
            .iter()
            .all(|address| backend(&workers, *address).is_ejected())
    });
    assert!(!backend(&workers, echo.address).is_ejected());
}

/// What it sends goes into its backend's queue, then into ours, and then nothing moves: no error, and
/// no end. Only the kernel knows.
#[test]
fn a_tcp_backend_that_takes_nothing_is_ejected() {
    // An interval needs five looks at each connection to say anything. That is a second and a quarter, but
    // several where the worker hardly gets to run.
    let intervals = [2, 10].map(Duration::from_secs);
    assert!(intervals.into_iter().any(finds_who_takes_nothing));
}

/// True if such a backend is ejected before three intervals are over.
fn finds_who_takes_nothing(interval: Duration) -> bool {
    let reading = || Origin::new(|mut client, _| while !client.exactly(1 << 16).is_empty() {});
    let (good, other) = (reading(), reading());
    let (end, ended) = mpsc::channel::<()>();
    let ended = Mutex::new(ended);
    let stuck = Origin::new(move |_client, _| {
        // Until the sender is dropped.
        let _ = ended.lock().expect("unpoisoned").recv();
    });
    let addresses = [good.address, stuck.address, other.address];
    let mut config = config(&addresses, |config| {
        config.http_listeners.clear();
        config.routes.clear();
        let any = family::any();
        let listener = StreamListener::new("tcp", Protocol::Tcp, any, "origins");
        config.stream_listeners.push(listener);
        let upstream = &mut config.services[0].upstream;
        upstream.outlier = Some(Outlier {
            interval,
            network: Some(NetworkQuality {
                loss: 0.0,
                rtt: Duration::ZERO,
                zero_windows: 0.5,
                deviations: 3.0,
                intervals: 1,
                min_hosts: 3,
                min_segments: 1,
            }),
            ..rows()
        });
    });
    // Octets that go past TCP are in no window.
    config.services[0].upstream.accelerate = Accelerate::Off;
    let workers = Workers::start(&config).expect("starts");
    let address = workers.listeners().next().expect("listens");
    let sending = Arc::new(AtomicBool::new(true));
    let senders: Vec<_> = (0..3)
        .map(|_| {
            let (mut client, sending) = (Client::to(address), Arc::clone(&sending));
            thread::spawn(move || {
                client.patience(Duration::from_millis(100));
                while sending.load(Ordering::SeqCst) {
                    // What waits is not taken for a failure.
                    client.try_send(&[0; 1 << 16]);
                    thread::sleep(Duration::from_millis(1));
                }
            })
        })
        .collect();
    let deadline = Instant::now() + 3 * interval;
    let is_found = || backend(&workers, stuck.address).is_ejected();
    while !is_found() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
    let found = is_found();
    for address in [good.address, other.address] {
        assert!(!backend(&workers, address).is_ejected());
    }
    sending.store(false, Ordering::SeqCst);
    drop(workers);
    drop(end);
    for sender in senders {
        sender.join().expect("sent");
    }
    found
}
