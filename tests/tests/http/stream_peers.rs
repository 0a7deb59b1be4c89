//! The binary in front of Redis, and the examples of listeners that are not HTTP.

use crate::support::{Client, Origin, PATIENCE};
use proxy_tests::daemon::sluice;
use proxy_tests::family;
use proxy_userspace::config;
use proxy_userspace::config::model::http::BackendTraits;
use proxy_userspace::config::model::{Config, Service};
use proxy_userspace::runtime::workers::Workers;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A process that ends with this value.
pub(crate) struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `sluice tcp` in front of an address.
fn proxy(to: SocketAddr) -> (Process, SocketAddr) {
    let mut child = Command::new(sluice().expect("built"))
        .args(["tcp", "--from", &family::any().to_string()])
        .args(["--to", &to.to_string()])
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let log = BufReader::new(child.stderr.take().expect("piped"));
    let process = Process(child);
    let mut lines = log.lines().map_while(Result::ok);
    let address = lines
        .find_map(|line| {
            let (_, address) = line.split_once("address=")?;
            address.split_whitespace().next()?.parse().ok()
        })
        .expect("says where it listens");
    thread::spawn(move || lines.for_each(drop));
    (process, address)
}

/// Redis without a file; `None` where it is not installed.
fn redis() -> Option<(Process, SocketAddr)> {
    redis_with(&|port| vec!["--port".to_owned(), port.to_owned()])
}

/// Redis without a file, and with options that have it listen at a port.
pub(crate) fn redis_with(listening: &dyn Fn(&str) -> Vec<String>) -> Option<(Process, SocketAddr)> {
    let reserved = TcpListener::bind(family::any()).expect("binds");
    let address = reserved.local_addr().expect("bound");
    drop(reserved);
    let port = address.port().to_string();
    let ip = address.ip().to_string();
    let options = ["--bind", &ip, "--save", "", "--appendonly", "no"];
    let child = Command::new("redis-server")
        .args(listening(&port))
        .args(options)
        .stdout(Stdio::null())
        .spawn()
        .ok()?;
    let process = Process(child);
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(address).is_err() {
        assert!(Instant::now() < deadline, "Redis does not listen");
        thread::sleep(Duration::from_millis(10));
    }
    Some((process, address))
}

pub(crate) fn redis_cli(address: SocketAddr, args: &[&str], input: &[u8]) -> String {
    let mut child = Command::new("redis-cli")
        .args(["-h", &address.ip().to_string()])
        .args(["-p", &address.port().to_string()])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input).expect("writes");
    drop(stdin);
    let output = child.wait_with_output().expect("ends");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn redis_is_served() {
    let Some((_redis, origin)) = redis() else {
        let required = std::env::var_os("SLUICE_REQUIRE_PRIVILEGED").is_some();
        assert!(!required, "redis-server is not installed");
        eprintln!("skipped: redis-server is not installed");
        return;
    };
    let (_sluice, address) = proxy(origin);
    assert_eq!(redis_cli(address, &["PING"], b""), "PONG\n");
    let large = vec![b'v'; 8 << 20];
    assert_eq!(redis_cli(address, &["-x", "SET", "large"], &large), "OK\n");
    let back = redis_cli(address, &["GET", "large"], b"");
    assert!(back.trim_end().as_bytes() == large, "a value was changed");
    // Ten thousand commands that do not wait for each other's answers.
    let commands: String = (0..10_000)
        .map(|number| format!("*2\r\n$4\r\nINCR\r\n$1\r\n{}\r\n", number % 10))
        .collect();
    let told = redis_cli(address, &["--pipe"], commands.as_bytes());
    assert!(told.contains("errors: 0, replies: 10000"), "{told}");
    assert_eq!(redis_cli(address, &["GET", "7"], b""), "1000\n");
}

/// An example, listening at a port of the system's choice.
fn example(name: &str, edit: impl FnOnce(&mut Service)) -> Config {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let loaded = config::load(&root.join(name));
    let mut config = loaded
        .unwrap_or_else(|errors| panic!("{}", errors.pretty(false)))
        .config;
    config.stream_listeners[0].address.set_port(0);
    config.workers.count = Some(1);
    edit(&mut config.services[0]);
    config
}

fn start(config: &Config) -> (Workers, SocketAddr) {
    let workers = Workers::start(config).expect("starts");
    let port = workers.listeners().next().expect("listens").port();
    (workers, SocketAddr::from(([127, 0, 0, 1], port)))
}

#[test]
fn the_example_for_tcp_is_served() {
    let origin = Origin::new(|mut client, _| {
        let header = client.exactly(28);
        assert_eq!(&header[..13], b"\r\n\r\n\0\r\nQUIT\n\x21");
        while let [octet] = client.exactly(1)[..] {
            client.send([octet]);
        }
    });
    let config = example("tcp.yaml", |service| {
        // Its names are of a network that is not here.
        service.upstream.names.clear();
        service.push_backend(origin.address, 1, BackendTraits::default());
    });
    let (_workers, address) = start(&config);
    let mut client = Client::to(address);
    client.send("select");
    assert_eq!(client.exactly(6), b"select");
}

#[test]
fn the_example_for_udp_is_served() {
    let resolver = UdpSocket::bind(family::any()).expect("binds");
    let address = resolver.local_addr().expect("bound");
    let config = example("udp.yaml", |service| {
        service.backends.clear();
        service.upstream.traits.clear();
        service.push_backend(address, 1, BackendTraits::default());
    });
    let (workers, address) = start(&config);
    // Where the example listens.
    let client = UdpSocket::bind("127.0.0.1:0").expect("binds");
    for socket in [&client, &resolver] {
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    }
    client.send_to(b"question", address).expect("sends");
    let mut octets = [0; 100];
    let (length, source) = resolver.recv_from(&mut octets).expect("a question");
    assert_eq!(&octets[..length], b"question");
    resolver.send_to(b"answer", source).expect("sends");
    let (length, source) = client.recv_from(&mut octets).expect("an answer");
    assert_eq!((&octets[..length], source), (&b"answer"[..], address));
    crate::support::eventually("the session is over", || workers.connections() == 0);
}
