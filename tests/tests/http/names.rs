//! Backends that DNS names, resolved again as their records say.
//!
//! The proxy is the binary, in a mount namespace in which the host's name server is one of the
//! test's: that needs root.

use crate::support::{Client, Origin, eventually};
use proxy_tests::alone::start as listening;
use proxy_tests::daemon::sluice;
use proxy_tests::privilege;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

/// A name server that knows one name.
struct NameServer {
    address: Ipv4Addr,
    /// What it answers with, each with a TTL of a second; empty: there is no such name.
    found: Arc<Mutex<Vec<Ipv4Addr>>>,
}

const NAME: &[u8] = b"\x03app\x04test\x00";
const TYPE_A: u16 = 1;
const NO_SUCH_NAME: u16 = 3;

impl NameServer {
    fn new(found: &[Ipv4Addr]) -> Self {
        // Each process of the tests has another loopback address, since the port is the same.
        let [.., a, b] = std::process::id().to_be_bytes();
        let address = Ipv4Addr::new(127, 201, a, b.max(1));
        let socket = UdpSocket::bind((address, 53)).expect("binds");
        let found = Arc::new(Mutex::new(found.to_vec()));
        let known = Arc::clone(&found);
        thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut query) {
                if let Some(answer) = answer(&query[..length], &known.lock().expect("whole")) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Self { address, found }
    }

    fn set(&self, found: &[Ipv4Addr]) {
        *self.found.lock().expect("whole") = found.to_vec();
    }
}

/// The answer to a question (RFC 1035 §4.1); `None` to what is none.
fn answer(query: &[u8], found: &[Ipv4Addr]) -> Option<Vec<u8>> {
    let (id, question) = (query.get(..2)?, query.get(12..)?);
    let name_len = question.iter().position(|octet| *octet == 0)? + 1;
    let asked = question.get(name_len..name_len + 2)?;
    let kind = u16::from_be_bytes([asked[0], asked[1]]);
    let question = question.get(..name_len + 4)?;
    let is_known = question[..name_len].eq_ignore_ascii_case(NAME) && !found.is_empty();
    let records: &[Ipv4Addr] = if is_known && kind == TYPE_A {
        found
    } else {
        &[]
    };
    let code = if is_known { 0 } else { NO_SUCH_NAME };
    let mut answer = id.to_vec();
    // A response, with recursion desired and available.
    answer.extend((0x8180_u16 | code).to_be_bytes());
    for count in [1, records.len() as u16, u16::from(!is_known), 0] {
        answer.extend(count.to_be_bytes());
    }
    answer.extend(question);
    for record in records {
        // The question's name, A, IN, one second, four octets.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        answer.extend(record.octets());
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

/// Sockets at two addresses of this host with the same port.
fn twins(first: Ipv4Addr, second: Ipv4Addr) -> (TcpListener, TcpListener) {
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
    let server = NameServer::new(&[first]);
    let folder = tempfile::tempdir()?;
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
        .arg(sluice()?)
        .args(["proxy", "--from", "127.0.0.1:0", "--workers", "1", "--to"])
        .arg(format!("app.test.:{port}"));
    let (_proxy, at) = listening(&mut command);
    let ask = || {
        let mut client = Client::to(at);
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = client.answer();
        (answer.status, answer.text())
    };
    let gets = |name: &str| eventually(name, || ask() == (200, name.to_owned()));
    gets("one");
    server.set(&[second]);
    gets("two");
    // Both: each has its turn.
    server.set(&[first, second]);
    gets("one");
    gets("two");
    // A name that is gone is not believed at once, and then nobody is left.
    server.set(&[]);
    eventually("nobody", || ask().0 == 503);
    server.set(&[first]);
    gets("one");
    Ok(())
}
