//! TCP passed on as it is.

use crate::passthrough::pipes;
use crate::support::{Client, Origin, PATIENCE, eventually, pattern};
use proxy_tests::alone::{Process, unused_address};
use proxy_tests::daemon::sluice;
use proxy_tests::family;
use proxy_tests::privilege;
use proxy_userspace::config::model::http::{
    Accelerate, AccessLog, BackendTraits, BalancePolicy, HashOn, LogFormat, LogTarget,
    ProxyVersion, StreamListener,
};
use proxy_userspace::config::model::{Config, Service};
use proxy_userspace::observe::access_log::End;
use proxy_userspace::runtime::workers::Workers;
use proxy_userspace::sockets::MUCH;
use proxy_userspace::types::Protocol;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A proxy in front of these backends.
fn proxy(
    backends: &[SocketAddr],
    edit: impl FnOnce(&mut StreamListener, &mut Service),
) -> (Workers, SocketAddr) {
    let workers = Workers::start(&config(backends, edit)).expect("starts");
    let address = workers.listeners().next().expect("listens");
    (workers, address)
}

/// A configuration with one worker, and a listener in front of these backends.
fn config(backends: &[SocketAddr], edit: impl FnOnce(&mut StreamListener, &mut Service)) -> Config {
    let mut service = Service::new("origins");
    for backend in backends {
        service.push_backend(*backend, 1, BackendTraits::default());
    }
    service.upstream.balance.policy = BalancePolicy::RoundRobin;
    let address = family::any();
    let mut listener = StreamListener::new("tcp", Protocol::Tcp, address, "origins");
    edit(&mut listener, &mut service);
    let mut config = Config {
        stream_listeners: vec![listener],
        services: vec![service],
        ..Config::default()
    };
    config.workers.count = Some(1);
    config
}

/// An address at which nobody listens.
fn nobody() -> SocketAddr {
    let refusing = TcpListener::bind(family::any()).expect("binds");
    refusing.local_addr().expect("bound")
}

/// Connections of the listener that ended so.
fn ended(workers: &Workers, end: End) -> u64 {
    let series = workers.metrics().listener("tcp");
    series.sum(|cells| cells.ends(end))
}

/// Sends back what it gets, as it comes, and ends when the client has ended.
fn echo() -> Origin {
    Origin::new(|mut client, _| {
        loop {
            let octets = client.exactly(1);
            if octets.is_empty() {
                return client.end();
            }
            let more = client.there();
            client.send(octets);
            client.send(more);
        }
    })
}

#[test]
fn sixty_four_mebibytes_go_there_and_back_unchanged() {
    let origin = echo();
    let (_workers, address) = proxy(&[origin.address], |_, _| {});
    let sent = pattern(64 << 20);
    let mut client = Client::to(address);
    let mut sending = client.clone();
    let copy = sent.clone();
    let sender = thread::spawn(move || {
        sending.send(copy);
        sending.end();
    });
    let came = client.rest();
    sender.join().expect("sent");
    assert_eq!(came.len(), sent.len());
    assert!(came == sent, "octets were changed");
}

#[test]
fn the_other_direction_goes_on_when_the_client_ends_first() {
    let origin = Origin::new(|mut client, _| {
        let all = client.rest();
        client.send(format!("{} octets", all.len()));
    });
    let (_workers, address) = proxy(&[origin.address], |_, _| {});
    let mut client = Client::to(address);
    client.send(pattern(100_000));
    client.end();
    assert_eq!(client.rest(), b"100000 octets");
}

#[test]
fn the_other_direction_goes_on_when_the_backend_ends_first() {
    let (tell, told) = mpsc::channel();
    let origin = Origin::new(move |mut client, _| {
        client.send("that is all");
        client.end();
        let _ = tell.send(client.rest());
    });
    let (_workers, address) = proxy(&[origin.address], |_, _| {});
    let mut client = Client::to(address);
    assert_eq!(client.rest(), b"that is all");
    client.send("but not for me");
    client.end();
    assert_eq!(told.recv().expect("told"), b"but not for me");
}

#[test]
fn a_reset_is_passed_on_as_a_reset_both_ways() {
    let (tell, told) = mpsc::channel();
    let origin = Origin::new(move |mut client, _| match client.exactly(1).as_slice() {
        b"r" => client.abort(),
        _ => {
            client.send("x");
            let _ = tell.send(client.is_reset());
        }
    });
    let (_workers, address) = proxy(&[origin.address], |_, _| {});
    let mut client = Client::to(address);
    client.send("r");
    assert!(client.is_reset(), "the backend's");
    let mut client = Client::to(address);
    client.send("-");
    assert_eq!(client.exactly(1), b"x");
    client.abort();
    assert!(told.recv().expect("told"), "the client's");
}

#[test]
fn a_connection_on_which_nothing_moves_ends() {
    let origin = echo();
    let (workers, address) = proxy(&[origin.address], |listener, _| {
        listener.idle_timeout = Duration::from_millis(100);
    });
    let mut client = Client::to(address);
    client.send("a");
    assert_eq!(client.exactly(1), b"a");
    assert!(client.is_ended());
    eventually("it is no longer counted", || workers.connections() == 0);
    eventually("it is told", || ended(&workers, End::ClientTimeout) == 1);
}

/// How long nothing may move in [`what_passes_by_the_daemon_keeps_a_tunnel_alive`].
const IDLE: Duration = Duration::from_secs(1);

/// One end speaks for longer than that, an octet at a time, and the other listens.
async fn speak(from: &mut tokio::net::TcpStream, to: &mut tokio::net::TcpStream) {
    for _ in 0..15 {
        from.write_all(b"x").await.expect("sends");
        let heard = tokio::time::timeout(PATIENCE, to.read_u8()).await;
        assert_eq!(heard.expect("in time").expect("an octet"), b'x');
        tokio::time::sleep(IDLE / 6).await;
    }
}

#[tokio::test]
async fn what_passes_by_the_daemon_keeps_a_tunnel_alive() -> anyhow::Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let origin = tokio::net::TcpListener::bind(family::any()).await?;
    let (workers, address) = proxy(&[origin.local_addr()?], |listener, service| {
        listener.idle_timeout = IDLE;
        (listener.accelerate, service.upstream.accelerate) = (Accelerate::On, Accelerate::On);
    });
    // Ends whose descriptors do not block: others are left alone.
    let mut client = tokio::net::TcpStream::connect(address).await?;
    let (mut backend, _) = origin.accept().await?;
    speak(&mut client, &mut backend).await;
    speak(&mut backend, &mut client).await;
    assert_eq!(ended(&workers, End::ClientTimeout), 0);
    // And when nobody speaks any more it is over.
    let over = tokio::time::timeout(PATIENCE, client.read_u8()).await?;
    assert!(over.is_err());
    eventually("it is told", || ended(&workers, End::ClientTimeout) == 1);
    let view = workers.acceleration().expect("asked for");
    assert_eq!(view.tunnels, 1, "{view:?}");
    assert!(view.direct_bytes > 0, "{view:?}");
    Ok(())
}

/// Sends so much at once, which is read at the same time.
async fn rush(from: &mut tokio::net::TcpStream, to: &mut tokio::net::TcpStream, octets: usize) {
    let piece = pattern(1 << 20);
    let sending = async {
        for _ in 0..octets / piece.len() {
            from.write_all(&piece).await.expect("sends");
        }
    };
    let reading = async {
        let mut read = vec![0; piece.len()];
        for _ in 0..octets / piece.len() {
            to.read_exact(&mut read).await.expect("reads");
            assert!(read == piece);
        }
    };
    tokio::join!(sending, reading);
}

/// `auto` is off for a while where much flows through tunnels: the next ones are plain, and those after
/// that are not.
#[tokio::test]
async fn tunnels_through_which_much_flows_are_not_accelerated_automatically() -> anyhow::Result<()>
{
    if !privilege::granted()? {
        return Ok(());
    }
    let origin = tokio::net::TcpListener::bind(family::any()).await?;
    let (workers, address) = proxy(&[origin.local_addr()?], |listener, service| {
        (listener.accelerate, service.upstream.accelerate) = (Accelerate::Auto, Accelerate::Auto);
    });
    let open = async || -> anyhow::Result<_> {
        let client = tokio::net::TcpStream::connect(address).await?;
        Ok((client, origin.accept().await?.0))
    };
    let view = || workers.acceleration().expect("asked for");
    let begun = Instant::now();
    workers.look_after_acceleration(begun);
    let (mut client, mut backend) = open().await?;
    rush(&mut client, &mut backend, 1 << 20).await;
    workers.look_after_acceleration(begun);
    assert!(view().bulk_listeners.is_empty(), "{:?}", view());
    assert!(view().connections > 0, "{:?}", view());
    for _ in 0..64 {
        if view().bulk_listeners.is_empty() {
            rush(&mut client, &mut backend, MUCH as usize).await;
            workers.look_after_acceleration(begun);
        }
    }
    assert_eq!(view().bulk_listeners, ["tcp"], "{:?}", view());

    let before = view().connections;
    let (mut client, mut backend) = open().await?;
    rush(&mut backend, &mut client, 8 << 20).await;
    rush(&mut client, &mut backend, 8 << 20).await;
    assert_eq!(view().connections, before, "{:?}", view());

    workers.look_after_acceleration(begun + Duration::from_secs(3600));
    assert!(view().bulk_listeners.is_empty(), "{:?}", view());
    let (mut client, mut backend) = open().await?;
    rush(&mut client, &mut backend, 1 << 20).await;
    assert_eq!(view().connections, before + 2, "{:?}", view());
    Ok(())
}

/// A listener that is not accelerated has the kernel move what flows, although another one is: what stands in
/// a pipe while the receiver takes nothing tells.
#[test]
fn what_is_not_accelerated_goes_through_pipes_beside_what_is() -> anyhow::Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let origin = TcpListener::bind(family::any())?;
    let folder = tempfile::tempdir()?;
    let (plain, other) = (unused_address(), unused_address());
    let listener = |name: &str, at: SocketAddr, accelerate: &str| {
        let (ip, port) = (at.ip(), at.port());
        format!(
            "{{name: {name}, kind: tcp, address: '{ip}', port: {port}, service: {name}, \
             accelerate: {accelerate}}}"
        )
    };
    let text = format!(
        "admin: {{socket: {}}}\nworkers: {{count: 1}}\nlisteners: [{}, {}]\n\
         services: [{{name: plain, backends: ['{backend}']}}, \
         {{name: other, backends: ['{backend}'], accelerate: on}}]\n",
        folder.path().join("admin.sock").display(),
        listener("plain", plain, "off"),
        listener("other", other, "on"),
        backend = origin.local_addr()?,
    );
    let file = folder.path().join("sluice.yaml");
    std::fs::write(&file, text)?;
    let mut command = Command::new(sluice()?);
    let daemon = Process(command.args(["run", "-c"]).arg(&file).spawn()?);
    eventually("it listens", || TcpStream::connect(other).is_ok());
    origin.accept()?;
    let mut client = TcpStream::connect(plain)?;
    let (mut taken, _) = origin.accept()?;
    let before = pipes(&daemon);
    let octets = pattern(32 << 20);
    let sent = octets.clone();
    let sender = thread::spawn(move || {
        client.write_all(&sent).expect("sends");
        client
    });
    eventually("they stand in a pipe", || pipes(&daemon) > before);
    let mut received = vec![0; octets.len()];
    taken.read_exact(&mut received)?;
    assert!(received == octets);
    drop(sender.join().expect("sends"));
    Ok(())
}

#[test]
fn another_backend_is_tried_where_one_refuses() {
    let origin = echo();
    let (_workers, address) = proxy(&[nobody(), origin.address], |_, _| {});
    // Round robin: every other connection is meant for the one that refuses.
    for _ in 0..4 {
        let mut client = Client::to(address);
        client.send("a");
        assert_eq!(client.exactly(1), b"a");
    }
    assert_eq!(origin.connections(), 4);
}

/// What a backend gets first, whose listener trusts this host to say who the client is.
fn introduced(version: ProxyVersion, sent: &'static [u8], length: usize) -> Vec<u8> {
    let origin = Origin::new(move |mut client, _| {
        let head = client.exactly(length);
        client.send(head);
        client.end();
    });
    let (_workers, address) = proxy(&[origin.address], |listener, service| {
        listener.proxy_protocol_from = vec![family::network().parse().expect("a network")];
        service.upstream.send_proxy = Some(version);
    });
    let mut client = Client::to(address);
    // The header may come in pieces.
    let (first, second) = sent.split_at(9);
    client.send(first);
    client.send(second);
    client.rest()
}

/// A version 2 header for a client at `2001:db8::7:4660` who had addressed `2001:db8::9:443`.
const V2_OF_V6: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24\
    \x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07\
    \x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x09\
    \x12\x34\x01\xbb";

#[test]
fn the_backend_is_told_whose_connection_it_is() {
    let v1 = b"PROXY TCP4 192.0.2.7 198.51.100.9 4660 443\r\nrest";
    let v2_of_v4 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\
        \xc0\0\x02\x07\xc6\x33\x64\x09\x12\x34\x01\xbbrest";
    assert_eq!(introduced(ProxyVersion::V2, v1, 32), v2_of_v4);
    assert_eq!(introduced(ProxyVersion::V1, v2_of_v4, v1.len()), v1);
    let v1_of_v6 = b"PROXY TCP6 2001:db8::7 2001:db8::9 4660 443\r\n";
    assert_eq!(
        introduced(ProxyVersion::V1, V2_OF_V6, v1_of_v6.len()),
        v1_of_v6
    );
    assert_eq!(
        introduced(ProxyVersion::V2, v1_of_v6, V2_OF_V6.len()),
        V2_OF_V6
    );
}

#[test]
fn who_is_not_trusted_cannot_say_who_it_is() {
    let origin = echo();
    let (_workers, address) = proxy(&[origin.address], |listener, _| {
        listener.proxy_protocol_from = vec!["192.0.2.0/24".parse().expect("a network")];
    });
    let mut client = Client::to(address);
    let line = b"PROXY TCP4 192.0.2.7 198.51.100.9 4660 443\r\n";
    client.send(line);
    assert_eq!(client.exactly(line.len()), line, "passed on as it is");
}

#[test]
fn a_trusted_sender_without_a_header_is_not_served() {
    let origin = echo();
    let (_workers, address) = proxy(&[origin.address], |listener, _| {
        listener.proxy_protocol_from = vec![family::network().parse().expect("a network")];
    });
    let mut client = Client::to(address);
    client.send("hello");
    assert!(client.is_ended());
    assert_eq!(origin.connections(), 0);
}

#[test]
fn no_more_connections_than_the_listener_may_have() {
    let origin = echo();
    let (workers, address) = proxy(&[origin.address], |listener, _| {
        listener.max_connections = 1
    });
    let mut first = Client::to(address);
    first.send("a");
    assert_eq!(first.exactly(1), b"a");
    assert!(Client::to(address).is_ended(), "refused");
    drop(first);
    eventually("the first has ended", || workers.connections() == 0);
    let mut third = Client::to(address);
    third.send("b");
    assert_eq!(third.exactly(1), b"b");
}

#[test]
fn nobody_answers_where_every_backend_refuses() {
    let (workers, address) = proxy(&[nobody(), nobody()], |_, _| {});
    assert!(Client::to(address).is_reset());
    eventually("it is told", || ended(&workers, End::ConnectFailed) == 1);
    assert_eq!(workers.connections(), 0);
}

#[test]
fn a_client_that_has_ended_is_still_heard_when_it_is_gone() {
    let (tell, told) = mpsc::channel();
    let origin = Origin::new(move |mut client, _| {
        // To its end, and then nothing is sent: only the connection can tell.
        let _ = client.rest();
        let _ = tell.send("ended");
        let _ = tell.send(if client.is_cut() { "cut" } else { "open" });
    });
    let (_workers, address) = proxy(&[origin.address], |_, _| {});
    let client = Client::to(address);
    client.end();
    assert_eq!(told.recv(), Ok("ended"));
    client.abort();
    assert_eq!(told.recv(), Ok("cut"));
}

#[test]
fn a_slow_reader_slows_its_sender_down_and_fills_no_memory() {
    const MOST: usize = 256 << 20;
    let (tell, told) = mpsc::channel();
    let origin = Origin::new(move |mut client, _| {
        let piece = pattern(1 << 20);
        let mut sent = 0;
        client.patience(Duration::from_millis(500));
        while sent < MOST && client.try_send(&piece) {
            sent += piece.len();
        }
        let _ = tell.send(sent);
    });
    let (workers, address) = proxy(&[origin.address], |_, _| {});
    let mut client = Client::to(address);
    client.send("go");
    // What the sockets' own buffers hold is some megabytes.
    let sent = told.recv().expect("told");
    assert!(sent < MOST / 2, "{sent} octets were taken from the sender");
    let passed = workers.metrics().stream("tcp");
    let passed = passed.sum(|cells| cells.sent.get());
    assert!(passed <= sent as u64 + (1 << 20), "{passed} of {sent}");
    assert!(!client.exactly(1 << 20).is_empty());
}

#[test]
fn connections_wait_for_a_backend_that_is_busy() {
    let origin = echo();
    let (workers, address) = proxy(&[origin.address], |_, service| {
        service.upstream.max_connections = 1;
        (service.upstream.queue, service.upstream.queue_timeout) = (1, Duration::from_secs(20));
    });
    let waiting = |count| workers.snapshot().services()[0].state.waiting() == count;
    let mut first = Client::to(address);
    first.send("a");
    assert_eq!(first.exactly(1), b"a");
    let mut second = Client::to(address);
    second.send("b");
    eventually("the second waits", || waiting(1));
    assert!(Client::to(address).is_ended(), "no room for a third");
    assert_eq!(origin.connections(), 1, "one at a time");
    drop(first);
    assert_eq!(second.exactly(1), b"b");
    eventually("it is told", || ended(&workers, End::QueueFull) == 1);
    // Who goes away while it waits gives its place up.
    let third = Client::to(address);
    eventually("the third waits", || waiting(1));
    third.abort();
    eventually("it has left", || waiting(0));
}

#[test]
fn a_source_keeps_its_backend_and_the_least_busy_is_chosen() {
    let origins = [echo(), echo(), echo()];
    let addresses = origins.each_ref().map(|origin| origin.address);
    let served = || origins.each_ref().map(Origin::connections);
    let use_once = |address| {
        let mut client = Client::to(address);
        client.send("a");
        assert_eq!(client.exactly(1), b"a");
        client
    };
    let (_workers, address) = proxy(&addresses, |_, service| {
        service.upstream.balance.policy = BalancePolicy::Maglev(HashOn::Source);
    });
    (0..6).for_each(|_| drop(use_once(address)));
    let mut counts = served();
    counts.sort_unstable();
    assert_eq!(counts, [0, 0, 6]);
    let before = served();
    let (_workers, address) = proxy(&addresses, |_, service| {
        service.upstream.balance.policy = BalancePolicy::LeastRequests;
    });
    let open: Vec<Client> = (0..6).map(|_| use_once(address)).collect();
    let more: Vec<usize> = served().iter().zip(before).map(|(a, b)| a - b).collect();
    assert_eq!(more, [2, 2, 2]);
    drop(open);
}

#[test]
fn a_reload_touches_no_connection_and_decides_about_the_next() {
    let (old, new) = (saying("old"), saying("new"));
    let configured = config(&[old.address], |listener, _| listener.name = "a".to_owned());
    let mut workers = Workers::start(&configured).expect("starts");
    let address = workers.listeners().next().expect("listens");
    let mut kept = Client::to(address);
    assert_eq!(kept.exactly(3), b"old");
    // Another backend, the same listener.
    let next = config(&[new.address], |listener, _| listener.name = "a".to_owned());
    let prepared = workers.prepare(&next).expect("valid");
    workers.put_in_force(prepared);
    eventually("it is in force", || {
        Client::to(address).exactly(3) == b"new"
    });
    kept.send("x");
    assert_eq!(kept.exactly(1), b"x", "the old backend still has it");
    // Another name at the same address, and it speaks HTTP.
    let mut moved = config(&[new.address], |listener, _| listener.address = address);
    moved.stream_listeners[0].name = "b".to_owned();
    let prepared = workers.prepare(&moved).expect("the address is ours");
    workers.put_in_force(prepared);
    eventually("it is in force", || {
        Client::to(address).exactly(3) == b"new"
    });
    // No listener at all.
    let prepared = workers.prepare(&Config::default()).expect("valid");
    workers.put_in_force(prepared);
    eventually("nobody listens", || TcpStream::connect(address).is_err());
    kept.send("y");
    assert_eq!(kept.exactly(1), b"y", "over every reload");
}

/// Says a word, then sends back what it gets.
fn saying(word: &'static str) -> Origin {
    Origin::new(move |mut client, _| {
        client.send(word);
        loop {
            let octets = client.exactly(1);
            if octets.is_empty() {
                return;
            }
            client.send(octets);
        }
    })
}

#[tokio::test]
async fn a_drain_lets_connections_end_and_cuts_off_what_is_left() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log");
    let origin = saying("hello");
    let (mut workers, address) = proxy(&[origin.address], |listener, _| {
        listener.access_log = Some(AccessLog {
            format: LogFormat::Haproxy,
            ..AccessLog::new(LogTarget::File(path.clone()))
        });
    });
    let mut first = Client::to(address);
    assert_eq!(first.exactly(5), b"hello");
    let mut second = Client::to(address);
    assert_eq!(second.exactly(5), b"hello");
    let draining = workers.drain(Duration::from_secs(2));
    let during = async {
        while TcpStream::connect(address).is_ok() {
            tokio::task::yield_now().await;
        }
        first.send("x");
        assert_eq!(first.exactly(1), b"x", "it goes on");
        first.end();
        assert_eq!(first.rest(), b"");
    };
    let (left, ()) = tokio::join!(draining, during);
    assert_eq!(left, 1);
    drop(workers);
    assert!(second.is_reset(), "cut off");
    let log = std::fs::read_to_string(path).expect("a log");
    // Octets and how it ended, beside those that only came to see whether somebody listens.
    let lines = |words: &str| log.lines().filter(|line| line.contains(words)).count();
    assert_eq!((lines(" 6 -- "), lines(" KD ")), (1, 1), "{log}");
    assert_eq!(lines(" 5 KD "), 1, "{log}");
}

/// The log of two connections to these backends, of which `served` answers.
fn log_of(backends: &[SocketAddr], served: SocketAddr) -> (String, u16) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log");
    let (workers, address) = proxy(backends, |listener, _| {
        let format = "$protocol $status $bytes_received $bytes_sent $upstream_addr \
            $upstream_bytes_sent $upstream_bytes_received $flags $retries $server_port";
        listener.access_log = Some(AccessLog {
            format: LogFormat::Template(format.to_owned()),
            ..AccessLog::new(LogTarget::File(path.clone()))
        });
    });
    for _ in 0..2 {
        let mut client = Client::to(address);
        client.send("abc");
        assert_eq!(client.rest(), b"12345");
        client.end();
    }
    eventually("both are counted", || ended(&workers, End::Complete) == 2);
    let sums = workers.metrics().stream("tcp");
    assert_eq!(sums.sum(|cells| cells.received.get()), 6);
    assert_eq!(sums.sum(|cells| cells.sent.get()), 10);
    let backend = workers.metrics().backend("origins", &served.to_string());
    assert_eq!(backend.sum(|cells| cells.streams.get()), 2);
    assert_eq!(backend.sum(|cells| cells.stream_sent.get()), 6);
    assert_eq!(backend.sum(|cells| cells.stream_received.get()), 10);
    let registry = workers.snapshot().registry();
    let backends = registry.service("origins").expect("known").backends();
    let active = || backends.iter().map(|one| one.connections()).sum::<u32>();
    eventually("both are given back", || active() == 0);
    drop(workers);
    let log = std::fs::read_to_string(path).expect("a log");
    (log, address.port())
}

#[test]
fn a_log_says_what_nginx_and_haproxy_would() {
    let origin = Origin::new(|mut client, _| {
        assert_eq!(client.exactly(3), b"abc");
        client.send("12345");
        client.end();
    });
    let served = origin.address;
    let (log, port) = log_of(&[served], served);
    let direct = format!("TCP 200 3 5 {served} 3 5 ---- 0 {port}");
    assert_eq!(log.lines().collect::<Vec<_>>(), [&direct, &direct]);
    // Whose turn is first is drawn, and at least every other turn is the one's that is not there.
    let (log, port) = log_of(&[nobody(), served], served);
    let direct = format!("TCP 200 3 5 {served} 3 5 ---- 0 {port}");
    let retried = format!(", {served} 0, 3 0, 5 ---- 1 {port}");
    let is_retried = |line: &&str| line.ends_with(&retried);
    assert!(log.lines().any(|line| is_retried(&line)), "{log}");
    for line in log.lines() {
        assert!(line == direct || is_retried(&line), "{log}");
    }
}

#[test]
fn many_connections_of_random_sizes_do_not_mix() {
    let origin = echo();
    let mut configured = config(&[origin.address], |_, _| {});
    configured.workers.count = Some(2);
    let workers = Workers::start(&configured).expect("starts");
    let address = workers.listeners().next().expect("listens");
    let clients: Vec<_> = (0..16_u8)
        .map(|seed| {
            thread::spawn(move || {
                let mut stream = TcpStream::connect(address).expect("connects");
                let (mut random, mut sent) = (u32::from(seed) + 1, Vec::new());
                for _ in 0..40 {
                    random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let length = (random >> 12) as usize % 70_000;
                    let octets: Vec<u8> = (0..length).map(|at| (at as u8) ^ seed).collect();
                    stream.write_all(&octets).expect("writes");
                    let mut back = vec![0; length];
                    stream.read_exact(&mut back).expect("comes back");
                    assert!(back == octets, "octets of another one");
                    sent.push(length);
                }
                sent.iter().sum::<usize>() as u64
            })
        })
        .collect();
    let sent: u64 = clients
        .into_iter()
        .map(|client| client.join().expect("done"))
        .sum();
    let passed = workers.metrics().stream("tcp");
    assert_eq!(passed.sum(|cells| cells.received.get()), sent);
}
