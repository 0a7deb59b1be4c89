//! Backends that DNS names, resolved again as their records say.
//!
//! The proxy is the binary, in a mount namespace in which the host's name server is one of the
//! test's: that needs root.

use crate::support::{Client, Origin, eventually};
use proxy_tests::alone::{Process, start as listening, unused_address};
use proxy_tests::daemon::sluice;
use proxy_tests::privilege;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use tempfile::TempDir;

/// A name server for a few names.
struct NameServer {
    address: Ipv4Addr,
    /// Names, and what it says of each, with a TTL of a second; there are no others.
    zone: Arc<Mutex<Zone>>,
}

type Zone = Vec<(&'static str, Record)>;

/// What a name leads to.
#[derive(Clone, Copy)]
enum Record {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    /// Priority, weight, port and host (RFC 2782).
    Srv(u16, u16, u16, &'static str),
}

const NO_SUCH_NAME: u16 = 3;

/// Name servers so far: the port is the same for all, so each has an address of its own.
static SERVERS: AtomicU8 = AtomicU8::new(0);

impl NameServer {
    fn new(zone: &[(&'static str, Record)]) -> Self {
        // Other processes of tests have others.
        let [.., a, b] = std::process::id().to_be_bytes();
        let number = SERVERS.fetch_add(1, Ordering::SeqCst);
        let address = Ipv4Addr::new(127, 201 + number, a, b.max(1));
        let socket = UdpSocket::bind((address, 53)).expect("binds");
        let zone = Arc::new(Mutex::new(zone.to_vec()));
        let known = Arc::clone(&zone);
        thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut query) {
                if let Some(answer) = answer(&query[..length], &known.lock().expect("whole")) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Self { address, zone }
    }

    fn set(&self, zone: &[(&'static str, Record)]) {
        *self.zone.lock().expect("whole") = zone.to_vec();
    }
}

/// A name as messages have it.
fn wire(name: &str) -> Vec<u8> {
    let mut octets = Vec::new();
    for label in name.split('.') {
        octets.push(label.len() as u8);
        octets.extend(label.as_bytes());
    }
    octets.push(0);
    octets
}

impl Record {
    /// Its type, and what it says.
    fn wire(self) -> (u16, Vec<u8>) {
        match self {
            Self::A(address) => (1, address.octets().to_vec()),
            Self::Aaaa(address) => (28, address.octets().to_vec()),
            Self::Srv(priority, weight, port, host) => {
                let numbers = [priority, weight, port].map(u16::to_be_bytes).concat();
                (33, [numbers, wire(host)].concat())
            }
        }
    }
}

/// The answer to a question (RFC 1035 §4.1); `None` to what is none.
fn answer(query: &[u8], zone: &[(&str, Record)]) -> Option<Vec<u8>> {
    let (id, question) = (query.get(..2)?, query.get(12..)?);
    let name_len = question.iter().position(|octet| *octet == 0)? + 1;
    let asked = question.get(name_len..name_len + 2)?;
    let kind = u16::from_be_bytes([asked[0], asked[1]]);
    let question = question.get(..name_len + 4)?;
    let of_name = |(name, _): &&(&str, Record)| {
        let name = wire(name);
        question[..name_len].eq_ignore_ascii_case(&name)
    };
    let is_known = zone.iter().any(|entry| of_name(&entry));
    let records = zone
        .iter()
        .filter(of_name)
        .map(|(_, record)| record.wire())
        .filter(|(of_kind, _)| *of_kind == kind);
    let records: Vec<_> = records.collect();
    let code = if is_known { 0 } else { NO_SUCH_NAME };
    let mut answer = id.to_vec();
    // A response, with recursion desired and available.
    answer.extend((0x8180_u16 | code).to_be_bytes());
    for count in [1, records.len() as u16, u16::from(!is_known), 0] {
        answer.extend(count.to_be_bytes());
    }
    answer.extend(question);
    for (kind, data) in records {
        // The question's name, IN, one second.
        answer.extend([0xc0, 12]);
        answer.extend(kind.to_be_bytes());
        answer.extend([0, 1, 0, 0, 0, 1]);
        answer.extend((data.len() as u16).to_be_bytes());
        answer.extend(data);
    }
    if !is_known {
        // SOA, for how long that may be believed (RFC 2308 §5): a second.
        answer.extend([0xc0, 12, 0, 6, 0, 1, 0, 0, 0, 1, 0, 22, 0, 0]);
        for number in [1_u32, 1, 1, 1, 1] {
            answer.extend(number.to_be_bytes());
        }
    }
    Some(answer)
}

/// A command in a mount namespace in which this name server is the host's.
fn asking(server: &NameServer, folder: &TempDir) -> anyhow::Result<Command> {
    let resolv = folder.path().join("resolv.conf");
    std::fs::write(
        &resolv,
        format!(
            "nameserver {}\noptions timeout:1 attempts:1\n",
            server.address
        ),
    )?;
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c"])
        .arg("mount --bind \"$1\" /etc/resolv.conf && shift && exec \"$@\"")
        .arg("sh")
        .arg(&resolv)
        .arg(sluice()?);
    Ok(command)
}

/// Status and content of an answer over a connection of its own.
fn ask(at: SocketAddr) -> (u16, String) {
    let mut client = Client::to(at);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = client.answer();
    (answer.status, answer.text())
}

/// Waits for an answer of this one.
fn gets(at: SocketAddr, name: &str) {
    eventually(name, || ask(at) == (200, name.to_owned()));
}

/// Sockets at two addresses of this host with the same port.
fn twins(first: impl Into<IpAddr>, second: impl Into<IpAddr>) -> (TcpListener, TcpListener) {
    let (first, second) = (first.into(), second.into());
    let attempts = (0..100).map(|_| {
        let one = TcpListener::bind((first, 0)).expect("binds");
        let port = one.local_addr().expect("bound").port();
        Some((one, TcpListener::bind((second, port)).ok()?))
    });
    attempts
        .flatten()
        .next()
        .expect("a port that is free at both")
}

/// An origin that says its name.
fn origin(listener: TcpListener, name: &'static str) {
    let serve = move |mut client: Client, _| {
        while client.head().is_some() {
            client.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}",
                name.len()
            ));
        }
    };
    Origin::on(listener, serve);
}

#[test]
fn backends_follow_their_name() -> anyhow::Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let (first, second) = (Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2));
    let (one, two) = twins(first, second);
    let port = one.local_addr()?.port();
    origin(one, "one");
    origin(two, "two");
    let of_app = |addresses: &[Ipv4Addr]| -> Zone {
        let record = |address: &Ipv4Addr| ("app.test", Record::A(*address));
        addresses.iter().map(record).collect()
    };
    let server = NameServer::new(&of_app(&[first]));
    let folder = tempfile::tempdir()?;
    let mut command = asking(&server, &folder)?;
    command
        .args(["proxy", "--from", "127.0.0.1:0", "--workers", "1", "--to"])
        .arg(format!("app.test.:{port}"));
    let (_proxy, at) = listening(&mut command);
    gets(at, "one");
    server.set(&of_app(&[second]));
    gets(at, "two");
    // Both: each has its turn.
    server.set(&of_app(&[first, second]));
    gets(at, "one");
    gets(at, "two");
    // A name that is gone is not believed at once, and then nobody is left.
    server.set(&[]);
    eventually("nobody", || ask(at).0 == 503);
    server.set(&of_app(&[first]));
    gets(at, "one");
    Ok(())
}

#[test]
fn backends_of_both_families_follow_their_name() -> anyhow::Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let (v4, v6) = (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
    let (one, two) = twins(v4, v6);
    let port = one.local_addr()?.port();
    origin(one, "four");
    origin(two, "six");
    let only_v6 = [("app.test", Record::Aaaa(v6))];
    let server = NameServer::new(&only_v6);
    let folder = tempfile::tempdir()?;
    let mut command = asking(&server, &folder)?;
    command
        .args(["proxy", "--from", "[::1]:0", "--workers", "1", "--to"])
        .arg(format!("app.test.:{port}"));
    let (_proxy, at) = listening(&mut command);
    gets(at, "six");
    server.set(&[only_v6[0], ("app.test", Record::A(v4))]);
    gets(at, "four");
    gets(at, "six");
    server.set(&[("app.test", Record::A(v4))]);
    eventually("no address of IPv6 any more", || {
        (0..6).all(|_| ask(at) == (200, "four".to_owned()))
    });
    Ok(())
}

#[test]
fn srv_records_say_hosts_ports_weights_and_who_is_a_backup() -> anyhow::Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let bound = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("binds");
    let (much, little, last) = (bound(), bound(), TcpListener::bind("[::1]:0")?);
    let [a, b, c] = [&much, &little, &last].map(|it| it.local_addr().expect("bound").port());
    origin(much, "much");
    origin(little, "little");
    origin(last, "last");
    let hosts = [
        ("four.test", Record::A(Ipv4Addr::LOCALHOST)),
        ("six.test", Record::Aaaa(Ipv6Addr::LOCALHOST)),
    ];
    let service = "_http._tcp.app.test";
    let three = [
        (service, Record::Srv(1, 3, a, "four.test")),
        (service, Record::Srv(1, 1, b, "four.test")),
        (service, Record::Srv(2, 1, c, "six.test")),
    ];
    let server = NameServer::new(&[&hosts[..], &three].concat());
    let folder = tempfile::tempdir()?;
    let at = unused_address();
    let file = folder.path().join("sluice.yaml");
    let config = format!(
        "admin: {{socket: {}}}\nworkers: {{count: 1}}\n\
         listeners: [{{name: web, kind: http, address: '{}', port: {}, service: app}}]\n\
         services: [{{name: app, backends: [{{srv: {service}.}}]}}]\n",
        folder.path().join("admin.sock").display(),
        at.ip(),
        at.port(),
    );
    std::fs::write(&file, config)?;
    let mut command = asking(&server, &folder)?;
    let _daemon = Process(command.args(["run", "-c"]).arg(&file).spawn()?);
    eventually("it listens", || TcpStream::connect(at).is_ok());
    let heard = || -> Vec<String> { (0..8).map(|_| ask(at).1).collect() };
    let count = |heard: &[String], name: &str| heard.iter().filter(|it| *it == name).count();
    // In turn, by weight; nobody of a later priority.
    eventually("three of four go to the first", || {
        let heard = heard();
        (count(&heard, "much"), count(&heard, "little")) == (6, 2)
    });
    // Another port of the same host is another backend, and who is gone gets nothing.
    server.set(&[&hosts[..], &three[1..2]].concat());
    eventually("the second only", || count(&heard(), "little") == 8);
    // The next priority is used when none of the first is left.
    server.set(&[&hosts[..], &three[2..]].concat());
    eventually("the last one", || count(&heard(), "last") == 8);
    Ok(())
}
