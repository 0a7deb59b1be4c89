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

/// A daemon that has few descriptors, with a listener beside the one for HTTP that passes TCP or UDP on,
/// and where that is.
fn daemon_with_few(kind: &str, backend: SocketAddr) -> (Daemon, SocketAddr) {
    let origin = Origin::saying("ok");
    let other = alone::unused_address();
    let listeners = format!(
        "service: app}}, {{name: {kind}, kind: {kind}, address: '{}', port: {}, \
         timeouts: {{idle: 10m}}, service: other",
        other.ip(),
        other.port()
    );
    let services = format!(
        "services: [{{name: app, backends: ['{}']}}, {{name: other, backends: ['{backend}']}}]\n\
         workers: {{count: 2}}",
        origin.address
    );
    let daemon = Daemon::start_with_files(LIMIT, &listeners, &services);
    (daemon, other)
}

/// Twice as many clients as there are descriptors ask at once, and each goes when it has its answer, with
/// this content. All are served, in several rounds.
fn all_are_served(address: SocketAddr, content: &str) {
    use std::io::{Read as _, Write as _};
    // They connect before anybody is heard, so that they are accepted in one burst.
    let streams: Vec<_> = (0..2 * LIMIT)
        .map(|_| std::net::TcpStream::connect(address).expect("connects"))
        .collect();
    let mut waiting = Vec::new();
    for mut stream in streams {
        stream.write_all(GET.as_bytes()).expect("sends");
        stream.set_nonblocking(true).expect("set");
        waiting.push(stream);
    }
    let (mut served, mut rounds) = (0, 0);
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
        for mut stream in answered {
            stream.set_nonblocking(false).expect("set");
            stream.set_read_timeout(Some(PATIENCE)).expect("set");
            let (mut whole, end) = (Vec::new(), format!("\r\n\r\n{content}"));
            while !whole.ends_with(end.as_bytes()) {
                let mut some = vec![0; 64 << 10];
                let read = stream.read(&mut some).expect("more");
                assert!(read > 0, "only {} octets", whole.len());
                whole.extend_from_slice(&some[..read]);
            }
            // The proxy could reach a backend, whatever clients had taken.
            assert!(whole.starts_with(b"HTTP/1.1 200 "));
            served += 1;
            // Dropped here: its descriptor is for the next.
        }
    }
    assert_eq!(served, 2 * LIMIT);
    assert!(rounds > 1, "all were served at once: nothing was exhausted");
}

/// How often a listener has stopped accepting.
fn paused(daemon: &Daemon, listener: &str) -> f64 {
    daemon.metric(&format!(
        "sluice_accept_pauses_total{{listener=\"{listener}\"}}"
    ))
}

#[test]
fn who_finds_no_descriptor_waits_and_who_is_connected_is_served() {
    let (mut daemon, _) = daemon_with_few("tcp", Origin::saying("-").address);
    assert_eq!(paused(&daemon, "web"), 0.0);
    all_are_served(daemon.address, "ok");
    assert!(paused(&daemon, "web") > 0.0, "accepting never paused");
    let mut client = Client::to(daemon.address).expect("connects");
    assert_eq!(client.ask(GET).expect("an answer"), (200, "ok".to_owned()));
    assert!(daemon.runs());
}

#[test]
fn a_burst_at_a_listener_for_tcp_waits_until_each_can_have_its_backend() {
    let (mut daemon, address) = daemon_with_few("tcp", Origin::saying("ok").address);
    assert_eq!(paused(&daemon, "tcp"), 0.0);
    all_are_served(address, "ok");
    assert!(paused(&daemon, "tcp") > 0.0, "accepting never paused");
    assert_eq!(paused(&daemon, "web"), 0.0);
    assert!(daemon.runs());
}

#[test]
fn pipes_take_no_descriptors_from_connections() {
    // More than a buffer holds, so that the kernel is asked to move it.
    let content = "much".repeat(512 << 10);
    let (mut daemon, address) = daemon_with_few("tcp", Origin::saying(&*content).address);
    all_are_served(address, &content);
    // Those of HTTP neither.
    all_are_served(daemon.address, "ok");
    assert!(daemon.runs());
}

#[test]
fn connections_that_ask_nothing_keep_nobody_out_for_good() {
    let (mut daemon, address) = daemon_with_few("tcp", Origin::saying("ok").address);
    let many: Vec<_> = (0..2 * LIMIT)
        .map(|_| std::net::TcpStream::connect(address).expect("connects"))
        .collect();
    eventually("accepting pauses", || paused(&daemon, "tcp") > 0.0);
    drop(many);
    all_are_served(address, "ok");
    assert!(daemon.runs());
}

#[test]
fn sessions_of_datagrams_keep_no_connections_out() {
    let echo = std::net::UdpSocket::bind(family::any()).expect("binds");
    let backend = echo.local_addr().expect("bound");
    std::thread::spawn(move || {
        let mut datagram = [0; 64];
        while let Ok((length, from)) = echo.recv_from(&mut datagram) {
            let _ = echo.send_to(&datagram[..length], from);
        }
    });
    let (mut daemon, address) = daemon_with_few("udp", backend);
    let dropped = || {
        let reasons = daemon.metrics("sluice_datagrams_dropped_total");
        let of_reason = reasons
            .iter()
            .find(|(series, _)| series.contains("exhausted"));
        of_reason.map_or(0.0, |(_, value)| *value)
    };
    let sources: Vec<_> = (0..2 * LIMIT)
        .map(|_| {
            let socket = std::net::UdpSocket::bind((family::loopback(), 0)).expect("binds");
            socket.connect(address).expect("connected");
            socket.set_nonblocking(true).expect("set");
            socket.send(b"ping").expect("sent");
            socket
        })
        .collect();
    eventually("some find no descriptor", || dropped() > 0.0);
    // Their sessions last; connections are taken beside them.
    all_are_served(daemon.address, "ok");
    let mut datagram = [0; 64];
    eventually("those who came in time are answered", || {
        let mut received = sources.iter().map(|source| source.recv(&mut datagram));
        received.any(|length| length.is_ok_and(|length| length == 4))
    });
    assert!(daemon.runs());
}

#[test]
fn kept_connections_to_backends_make_room_for_clients() {
    let services = ["a", "b", "c", "d"];
    // Each answers late, so that as many connections are needed as there are clients.
    let late: Vec<_> = services.map(|_| late_origin()).to_vec();
    let routes =
        services.map(|name| format!("{{name: {name}, match: [/{name}], service: {name}}}"));
    let described = services.iter().zip(&late);
    let described = described.map(|(name, at)| format!("{{name: {name}, backends: ['{at}']}}"));
    let daemon = Daemon::start_with_files(
        LIMIT,
        "service: a",
        &format!(
            "routes: [{}]\nservices: [{}]\nworkers: {{count: 2}}",
            routes.join(", "),
            described.collect::<Vec<_>>().join(", ")
        ),
    );
    for name in services {
        let request = format!("GET /{name} HTTP/1.1\r\nHost: a\r\n\r\n");
        let ask = || {
            let mut client = Client::to(daemon.address).expect("connects");
            client.ask(&request).expect("an answer")
        };
        std::thread::scope(|scope| {
            let asking: Vec<_> = (0..20).map(|_| scope.spawn(ask)).collect();
            for answer in asking {
                assert_eq!(answer.join().expect("asked").0, 200);
            }
        });
    }
}

/// A backend that takes its time.
fn late_origin() -> SocketAddr {
    use std::io::{BufReader, Write as _};
    let listener = std::net::TcpListener::bind(family::any()).expect("binds");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut reading = BufReader::new(&stream);
                while crate::support::head(&mut reading).is_some() {
                    std::thread::sleep(Duration::from_millis(600));
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                    if (&stream).write_all(answer).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}
