//! UDP passed on as it is.

use crate::support::{PATIENCE, eventually};
use proxy_tests::family;
use proxy_userspace::config::model::http::{
    AccessLog, BackendTraits, BalancePolicy, HashOn, LogFormat, LogTarget, ProxyVersion,
    StreamListener,
};
use proxy_userspace::config::model::{Config, Service};
use proxy_userspace::observe::http::{ConnectFailure, DatagramDrop, RetryReason};
use proxy_userspace::runtime::workers::{Inherited, Workers};
use proxy_userspace::types::Protocol;
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// A configuration with one worker, and a listener in front of these backends.
fn config(backends: &[SocketAddr], edit: impl FnOnce(&mut StreamListener, &mut Service)) -> Config {
    let mut service = Service::new("origins");
    for backend in backends {
        service.push_backend(*backend, 1, BackendTraits::default());
    }
    service.upstream.balance.policy = BalancePolicy::RoundRobin;
    let address = family::any();
    let mut listener = StreamListener::new("udp", Protocol::Udp, address, "origins");
    edit(&mut listener, &mut service);
    let mut config = Config {
        stream_listeners: vec![listener],
        services: vec![service],
        ..Config::default()
    };
    config.workers.count = Some(1);
    config
}

fn proxy(
    backends: &[SocketAddr],
    edit: impl FnOnce(&mut StreamListener, &mut Service),
) -> (Workers, SocketAddr) {
    let workers = Workers::start(&config(backends, edit)).expect("starts");
    let address = workers.listeners().next().expect("listens");
    (workers, address)
}

/// Datagrams that were dropped for this reason.
fn dropped(workers: &Workers, why: DatagramDrop) -> u64 {
    workers
        .metrics()
        .stream("udp")
        .sum(|cells| cells.drops(why))
}

/// A server that sends each datagram back.
struct Origin {
    address: SocketAddr,
    /// Who has sent something.
    sources: Arc<Mutex<HashSet<SocketAddr>>>,
    received: Arc<AtomicUsize>,
}

impl Origin {
    fn echo() -> Self {
        Self::at(&family::any().to_string())
    }

    fn at(address: &str) -> Self {
        let socket = UdpSocket::bind(address).expect("binds");
        let address = socket.local_addr().expect("bound");
        let (sources, received) = (Arc::<Mutex<HashSet<_>>>::default(), Arc::default());
        let (seen, count): (_, Arc<AtomicUsize>) = (Arc::clone(&sources), Arc::clone(&received));
        thread::spawn(move || {
            let mut octets = vec![0; 1 << 16];
            while let Ok((length, source)) = socket.recv_from(&mut octets) {
                seen.lock().expect("whole").insert(source);
                count.fetch_add(1, Ordering::SeqCst);
                let _ = socket.send_to(&octets[..length], source);
            }
        });
        Self {
            address,
            sources,
            received,
        }
    }

    fn sources(&self) -> usize {
        self.sources.lock().expect("whole").len()
    }
}

/// A client that hears only the address that it has asked.
fn client(proxy: SocketAddr) -> UdpSocket {
    let any = if proxy.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any).expect("binds");
    socket.connect(proxy).expect("connects");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket
}

/// Sends a datagram; what comes back.
fn ask(client: &UdpSocket, octets: &[u8]) -> Vec<u8> {
    client.send(octets).expect("sends");
    let mut answer = vec![0; 1 << 16];
    let length = client.recv(&mut answer).expect("an answer");
    answer.truncate(length);
    answer
}

/// True if nothing comes for a while.
fn hears_nothing(client: &UdpSocket) -> bool {
    let short = Some(Duration::from_millis(200));
    client.set_read_timeout(short).expect("a timeout");
    let heard = client.recv(&mut [0; 100]);
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    heard.is_err()
}

/// An address at which nobody listens.
fn nobody() -> SocketAddr {
    let socket = UdpSocket::bind(family::any()).expect("binds");
    socket.local_addr().expect("bound")
}

#[test]
fn datagrams_of_every_size_come_back_as_they_were() {
    for (at, backend) in [
        ("127.0.0.1:0", "127.0.0.1:0"),
        ("[::1]:0", "[::1]:0"),
        ("127.0.0.1:0", "[::1]:0"),
    ] {
        let origin = Origin::at(backend);
        let (workers, address) = proxy(&[origin.address], |listener, _| {
            listener.address = at.parse().expect("an address");
        });
        let client = client(address);
        let sizes = [1, 0, 512, 1472, 1473, 9000, 65_000];
        for size in sizes {
            let sent: Vec<u8> = (0..size).map(|at| (at % 253) as u8).collect();
            assert!(ask(&client, &sent) == sent, "{size} octets");
        }
        assert_eq!(origin.sources(), 1, "one session");
        let cells = workers.metrics().stream("udp");
        let octets = sizes.iter().sum::<usize>() as u64;
        eventually("all is counted", || {
            cells.sum(|cells| cells.datagrams_sent.get()) == sizes.len() as u64
        });
        assert_eq!(cells.sum(|cells| cells.received.get()), octets);
        assert_eq!(cells.sum(|cells| cells.sent.get()), octets);
    }
}

#[test]
fn an_answer_comes_from_the_address_that_was_asked() {
    let origin = Origin::echo();
    for (all, asked) in [
        ("0.0.0.0:0", ["127.0.0.1", "127.0.0.77"]),
        ("[::]:0", ["::1", "::1"]),
    ] {
        let (_workers, address) = proxy(&[origin.address], |listener, _| {
            listener.address = all.parse().expect("an address");
        });
        for asked in asked {
            let asked = SocketAddr::new(asked.parse().expect("an address"), address.port());
            // The kernel drops what comes from elsewhere.
            assert_eq!(ask(&client(asked), b"hello"), b"hello");
        }
    }
}

#[test]
fn another_backend_answers_where_nobody_listens_at_the_first() {
    let origin = Origin::echo();
    let down = nobody();
    let (workers, address) = proxy(&[down, origin.address], |_, _| {});
    // Round robin: at the latest the second session is meant for the one that is down.
    for _ in 0..4 {
        let client = client(address);
        assert_eq!(
            ask(&client, b"once"),
            b"once",
            "sent again by the proxy, not by us"
        );
        assert_eq!(ask(&client, b"twice"), b"twice");
    }
    let (metrics, down) = (workers.metrics(), down.to_string());
    let failures = metrics.backend("origins", &down);
    let failures = failures.sum(|cells| cells.connect_failures(ConnectFailure::Refused));
    assert!((1..=4).contains(&failures), "{failures}");
    let retries = metrics.service("origins");
    assert_eq!(
        retries.sum(|cells| cells.retries(RetryReason::Connect)),
        failures
    );
}

#[test]
fn nobody_answers_where_there_is_nobody_and_the_proxy_goes_on() {
    let down = nobody();
    let (workers, address) = proxy(&[down], |_, _| {});
    let client = client(address);
    for _ in 0..3 {
        client.send(b"hello").expect("sends");
        assert!(hears_nothing(&client));
    }
    eventually("sessions end", || workers.connections() == 0);
    let origin = Origin::at(&down.to_string());
    assert_eq!(ask(&client, b"back"), b"back");
    assert_eq!(origin.sources(), 1);
}

#[test]
fn a_session_is_over_with_its_last_answer() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log");
    let origin = Origin::echo();
    let (workers, address) = proxy(&[origin.address], |listener, _| {
        listener.responses = Some(1);
        listener.access_log = Some(AccessLog {
            format: LogFormat::Template(
                "$protocol $status $bytes_received $bytes_sent $upstream_addr $end".to_owned(),
            ),
            ..AccessLog::new(LogTarget::File(path.clone()))
        });
    });
    let client = client(address);
    for count in 1..=3 {
        assert_eq!(ask(&client, b"query"), b"query");
        eventually("the session is over", || workers.connections() == 0);
        assert_eq!(origin.sources(), count, "each has a port of its own");
    }
    drop(workers);
    let line = format!("UDP 200 5 5 {} complete\n", origin.address);
    let log = std::fs::read_to_string(path).expect("a log");
    assert_eq!(log, line.repeat(3));
}

#[test]
fn a_session_on_which_nothing_moves_ends() {
    let origin = Origin::echo();
    let (workers, address) = proxy(&[origin.address], |listener, _| {
        listener.idle_timeout = Duration::from_millis(100);
    });
    assert_eq!(ask(&client(address), b"a"), b"a");
    eventually("it ends", || workers.connections() == 0);
}

#[test]
fn many_sources_have_a_session_each_and_their_own_answers() {
    const SOURCES: usize = 500;
    let origins = [Origin::echo(), Origin::echo()];
    let addresses = origins.each_ref().map(|origin| origin.address);
    let mut configured = config(&addresses, |_, _| {});
    configured.workers.count = Some(2);
    let workers = Workers::start(&configured).expect("starts");
    let address = workers.listeners().next().expect("listens");
    let clients: Vec<UdpSocket> = (0..SOURCES).map(|_| client(address)).collect();
    for round in 0..3_u32 {
        for (number, client) in clients.iter().enumerate() {
            let octets = [number as u32, round].map(u32::to_be_bytes).concat();
            assert_eq!(ask(client, &octets), octets);
        }
    }
    assert_eq!(workers.connections(), SOURCES);
    // A source that had moved to another worker would have been seen as another one.
    let seen: usize = origins.iter().map(Origin::sources).sum();
    assert_eq!(seen, SOURCES);
    assert_eq!(origins.each_ref().map(Origin::sources), [SOURCES / 2; 2]);
}

#[test]
fn no_more_sessions_than_the_listener_may_have() {
    let origin = Origin::echo();
    let (workers, address) = proxy(&[origin.address], |listener, _| {
        listener.max_connections = 2;
        listener.idle_timeout = Duration::from_secs(2);
    });
    let clients = [client(address), client(address), client(address)];
    assert_eq!(ask(&clients[0], b"a"), b"a");
    assert_eq!(ask(&clients[1], b"b"), b"b");
    clients[2].send(b"c").expect("sends");
    eventually("it is told why", || {
        dropped(&workers, DatagramDrop::TableFull) == 1
    });
    assert_eq!(
        ask(&clients[0], b"d"),
        b"d",
        "those that have a place keep it"
    );
    eventually("they end", || workers.connections() == 0);
    assert_eq!(ask(&clients[2], b"e"), b"e");
}

#[test]
fn a_source_keeps_its_backend_by_its_address() {
    let origins = [Origin::echo(), Origin::echo(), Origin::echo()];
    let addresses = origins.each_ref().map(|origin| origin.address);
    let (_workers, address) = proxy(&addresses, |_, service| {
        service.upstream.balance.policy = BalancePolicy::Maglev(HashOn::Source);
    });
    for _ in 0..5 {
        assert_eq!(ask(&client(address), b"a"), b"a");
    }
    let mut counts = origins.each_ref().map(Origin::sources);
    counts.sort_unstable();
    assert_eq!(counts, [0, 0, 5]);
}

#[test]
fn a_backend_has_no_more_sessions_than_it_may() {
    let origin = Origin::echo();
    let (workers, address) = proxy(&[origin.address], |_, service| {
        service.upstream.max_connections = 1;
    });
    assert_eq!(ask(&client(address), b"a"), b"a");
    client(address).send(b"b").expect("sends");
    eventually("it is told why", || {
        dropped(&workers, DatagramDrop::Busy) == 1
    });
}

#[test]
fn each_datagram_tells_the_backend_whose_it_is() {
    let origin = Origin::echo();
    let (_workers, address) = proxy(&[origin.address], |_, service| {
        service.upstream.send_proxy = Some(ProxyVersion::V2);
    });
    let client = client(address);
    let source = client.local_addr().expect("bound").port().to_be_bytes();
    let server = address.port().to_be_bytes();
    let mut expected = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
    match family::loopback() {
        IpAddr::V4(own) => {
            expected.extend(b"\x12\0\x0c");
            expected.extend([own.octets(), own.octets()].concat());
        }
        IpAddr::V6(own) => {
            expected.extend(b"\x22\0\x24");
            expected.extend([own.octets(), own.octets()].concat());
        }
    }
    expected.extend([source, server].concat());
    expected.extend(b"query");
    for _ in 0..2 {
        assert_eq!(ask(&client, b"query"), expected);
    }
}

#[test]
fn a_flood_of_datagrams_comes_back_in_order() {
    let origin = Origin::echo();
    let (_workers, address) = proxy(&[origin.address], |_, _| {});
    let client = client(address);
    let mut answer = [0; 100];
    for burst in 0..200_u32 {
        // Few enough for the buffers of the origin, which are not ours to choose.
        for number in 0..40_u32 {
            let octets = [burst, number].map(u32::to_be_bytes).concat();
            client.send(&octets).expect("sends");
        }
        for number in 0..40_u32 {
            let length = client.recv(&mut answer).expect("an answer");
            let octets = [burst, number].map(u32::to_be_bytes).concat();
            assert_eq!(answer[..length], octets);
        }
    }
    assert_eq!(origin.received.load(Ordering::SeqCst), 200 * 40);
}

#[test]
fn a_listener_that_is_gone_lets_its_sessions_end() {
    let origin = Origin::echo();
    let mut workers = Workers::start(&config(&[origin.address], |_, _| {})).expect("starts");
    let address = workers.listeners().next().expect("listens");
    let (known, new) = (client(address), client(address));
    assert_eq!(ask(&known, b"a"), b"a");
    let counted = workers.metrics().stream("udp");
    let prepared = workers.prepare(&Config::default()).expect("valid");
    workers.put_in_force(prepared);
    let refused = || counted.sum(|cells| cells.drops(DatagramDrop::Draining));
    eventually("new sources are not taken", || {
        // Once the socket is closed, the kernel says so.
        let sent = new.send(b"b");
        let heard = ask(&known, b"c");
        assert_eq!(heard, b"c", "known ones are");
        sent.is_err() || refused() > 0
    });
    eventually("nobody listens", || {
        new.send(b"x").is_err() || new.take_error().expect("an answer").is_some()
    });
}

#[tokio::test]
async fn another_process_gives_a_session_no_more_time_than_it_had() {
    const LEFT: u64 = 5_000_000_000;
    let origin = Origin::echo();
    let config = config(&[origin.address], |_, _| {});
    let mut old = Workers::start(&config).expect("starts");
    let source = client(old.listeners().next().expect("listens"));
    assert_eq!(ask(&source, b"a"), b"a");
    let mut inherited = Inherited::default();
    for (place, number, socket) in old.offered() {
        let socket = socket.try_clone_to_owned().expect("copied");
        inherited.add(place.clone(), number, socket);
    }
    let new = Workers::take_over(&config, inherited, &old.known());
    let mut new = new.expect("starts");
    new.serve();
    let mut handed = old.retire().await;
    let sessions = handed.iter_mut().flat_map(|it| &mut it.sessions);
    let sessions: Vec<_> = sessions.map(|(known, _)| known).collect();
    assert_eq!(sessions.len(), 1);
    for session in sessions {
        assert!(session.left.is_some_and(|left| left > LEFT), "{session:?}");
        session.left = Some(LEFT);
    }
    new.serve_datagrams(handed);
    let handed = new.retire().await;
    let mut sessions = handed.iter().flat_map(|it| &it.sessions);
    let (session, _) = sessions.next().expect("it goes on");
    assert!(session.left.is_some_and(|left| left <= LEFT), "{session:?}");
}

#[tokio::test]
async fn a_drain_waits_for_answers_that_are_under_way() {
    let silent = UdpSocket::bind(family::any()).expect("binds");
    let (mut workers, address) = proxy(&[silent.local_addr().expect("bound")], |_, _| {});
    let client = client(address);
    client.send(b"question").expect("sends");
    let mut octets = [0; 100];
    let (length, source) = silent.recv_from(&mut octets).expect("asked");
    assert_eq!(&octets[..length], b"question");
    let draining = workers.drain(Duration::from_secs(20));
    let during = async {
        tokio::task::yield_now().await;
        silent.send_to(b"answer", source).expect("sends");
    };
    let (left, ()) = tokio::join!(draining, during);
    assert_eq!(left, 0, "well before the default idle time of a minute");
    let length = client.recv(&mut octets).expect("an answer");
    assert_eq!(&octets[..length], b"answer");
}
