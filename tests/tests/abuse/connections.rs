//! As many connections as there can be, and more.

use crate::support::{Client, Daemon, Origin, eventually};
use proxy_tests::alone;
use proxy_tests::family;
use proxy_tests::netns::raise_open_files_to;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// How long anything may take that must happen.
const PATIENCE: Duration = proxy_tests::wait::PATIENCE;

/// Connections that one address opens, well below the number of ports.
const OF_ONE_ADDRESS: usize = 2000;

/// Connections at once.
const MANY: usize = 15_000;

/// Where the client with this number is. IPv6 has one loopback address, whose ports suffice.
fn source(number: usize) -> IpAddr {
    if family::is_v6() {
        return family::loopback();
    }
    let host = 1 + u8::try_from(number / OF_ONE_ADDRESS).expect("few addresses");
    Ipv4Addr::new(127, 0, 0, host).into()
}

async fn connect(from: IpAddr, to: SocketAddr) -> TcpStream {
    let socket = match from {
        IpAddr::V4(_) => TcpSocket::new_v4(),
        IpAddr::V6(_) => TcpSocket::new_v6(),
    };
    let socket = socket.expect("a socket");
    if from.is_ipv4() {
        socket.bind(SocketAddr::new(from, 0)).expect("binds");
    }
    let connected = timeout(PATIENCE, socket.connect(to))
        .await
        .expect("in time");
    connected.expect("connects")
}

/// Asks once, and checks the answer to its last octet.
async fn ask(stream: &mut TcpStream) {
    let expected = b"HTTP/1.1 200 OK\r\n";
    let asked = async {
        stream.write_all(GET.as_bytes()).await.expect("sends");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\nok") {
            let read = stream.read_buf(&mut answer).await.expect("receives");
            assert!(read > 0, "{}", String::from_utf8_lossy(&answer));
        }
        assert!(
            answer.starts_with(expected),
            "{}",
            String::from_utf8_lossy(&answer)
        );
    };
    timeout(PATIENCE, asked).await.expect("in time");
}

/// Asks over all of them, some hundreds at a time.
async fn ask_all(streams: Vec<TcpStream>) -> Vec<TcpStream> {
    let mut asked = Vec::with_capacity(streams.len());
    let mut under_way = JoinSet::new();
    for mut stream in streams {
        if under_way.len() >= 200 {
            asked.extend(
                under_way
                    .join_next()
                    .await
                    .map(|done| done.expect("an answer")),
            );
        }
        under_way.spawn(async move {
            ask(&mut stream).await;
            stream
        });
    }
    while let Some(done) = under_way.join_next().await {
        asked.push(done.expect("an answer"));
    }
    asked
}

#[tokio::test]
async fn fifteen_thousand_connections_are_served() {
    // The proxy has the limit of this process, and an eighth of its descriptors are not for clients.
    raise_open_files_to(MANY as u64 / 7 * 8 + 1000);
    let origin = Origin::saying("ok");
    let (proxy, address) = alone::proxy(origin.address, &[]);
    let mut streams = Vec::with_capacity(MANY);
    for number in 0..MANY {
        streams.push(connect(source(number), address).await);
    }
    let streams = ask_all(streams).await;
    assert_eq!(streams.len(), MANY);
    let open = || {
        let files = std::fs::read_dir(format!("/proc/{}/fd", proxy.id()));
        files.expect("it runs").count()
    };
    assert!(open() > MANY, "all are open at once");
    // All are kept, and the first is served as the last.
    let streams = ask_all(streams).await;
    drop(streams);
    eventually("all are gone", || open() < 200);
    ask(&mut connect(family::loopback(), address).await).await;
}

/// True if an answer has come; what it is does not matter here.
fn is_answered(stream: &mut std::net::TcpStream) -> bool {
    match stream.peek(&mut [0]) {
        Ok(octets) => {
            assert!(octets > 0, "closed without an answer");
            true
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Err(error) => panic!("{error}"),
    }
}

/// Descriptors of a daemon that has few.
const LIMIT: usize = 128;

/// A daemon that has few descriptors, with a listener beside the one for HTTP that passes TCP on, and where
/// that is.
fn daemon_with_few() -> (Daemon, SocketAddr) {
    let origin = Origin::saying("ok");
    let tcp = alone::unused_address();
    let listeners = format!(
        "service: app}}, {{name: tcp, kind: tcp, address: '{}', port: {}, service: app",
        tcp.ip(),
        tcp.port()
    );
    let services = format!(
        "services: [{{name: app, backends: ['{}']}}]\nworkers: {{count: 2}}",
        origin.address
    );
    let daemon = Daemon::start_with_files(LIMIT, &listeners, &services);
    (daemon, tcp)
}

/// How often a listener has stopped accepting.
fn paused(daemon: &Daemon, listener: &str) -> f64 {
    daemon.metric(&format!(
        "sluice_accept_pauses_total{{listener=\"{listener}\"}}"
    ))
}

#[test]
fn a_listener_for_tcp_pauses_as_well_and_goes_on() {
    let (mut daemon, address) = daemon_with_few();
    assert_eq!(paused(&daemon, "tcp"), 0.0);
    // They ask nothing; some may be closed, since each needs a second descriptor for the backend.
    let many: Vec<_> = (0..2 * LIMIT)
        .map(|_| std::net::TcpStream::connect(address).expect("connects"))
        .collect();
    eventually("accepting pauses", || paused(&daemon, "tcp") > 0.0);
    assert_eq!(paused(&daemon, "web"), 0.0);
    drop(many);
    eventually("somebody is served", || {
        let client = Client::to(address);
        client.is_ok_and(|mut client| {
            (client.ask(GET)).is_ok_and(|answer| answer == (200, "ok".to_owned()))
        })
    });
    assert!(daemon.runs());
}

#[test]
fn who_finds_no_descriptor_waits_and_who_is_connected_is_served() {
    let (mut daemon, _) = daemon_with_few();
    let address = daemon.address;
    assert_eq!(paused(&daemon, "web"), 0.0);

    // Twice as many as it can have, all of which ask at once.
    let mut waiting: Vec<_> = (0..2 * LIMIT)
        .map(|_| {
            use std::io::Write as _;
            let mut stream = std::net::TcpStream::connect(address).expect("connects");
            stream.write_all(GET.as_bytes()).expect("sends");
            stream.set_nonblocking(true).expect("set");
            stream
        })
        .collect();
    let mut served = 0;
    let mut rounds = 0;
    while !waiting.is_empty() {
        rounds += 1;
        let mut answered = Vec::new();
        eventually("somebody is served", || {
            for index in (0..waiting.len()).rev() {
                if is_answered(&mut waiting[index]) {
                    answered.push(waiting.swap_remove(index));
                }
            }
            !answered.is_empty()
        });
        assert!(answered.len() < LIMIT, "more than there are descriptors");
        for stream in answered {
            use std::io::Read as _;
            stream.set_nonblocking(false).expect("set");
            stream.set_read_timeout(Some(PATIENCE)).expect("set");
            let mut begin = [0; 12];
            (&stream).read_exact(&mut begin).expect("an answer");
            // The proxy could reach a backend, whatever clients had taken.
            assert_eq!(&begin, b"HTTP/1.1 200");
            served += 1;
            // Dropped here: its descriptor is for the next.
        }
    }
    assert_eq!(served, 2 * LIMIT);
    assert!(rounds > 1, "all were served at once: nothing was exhausted");
    assert!(
        paused(&daemon, "web") > 0.0,
        "nothing was exhausted: accepting never paused"
    );
    let mut client = Client::to(address).expect("connects");
    assert_eq!(client.ask(GET).expect("an answer"), (200, "ok".to_owned()));
    assert!(daemon.runs());
}
