//! What is measured.

use super::load::{H2Request, Traffic};
use super::origin::{LARGE, LARGE_PATH, SMALL};
use super::tls::Clients;
use std::rc::Rc;

/// Octets of a posted body.
const POSTED: usize = 64 * 1024;
/// Octets of the small file.
const SMALL_FILE: usize = 4096;
/// Routes of the scenario with many.
const ROUTES: usize = 10_000;
/// Connections of the scenario with idle ones.
const IDLE: usize = 10_000;
/// Idle TLS connections.
const TLS_IDLE: usize = 4000;
/// Streams at a time on each HTTP/2 connection.
const STREAMS: usize = 8;

/// One scenario.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Its name in rows and on the command line.
    pub name: &'static str,
    /// What happens, in words.
    pub about: &'static str,
    /// What the proxy has to do.
    pub job: Job,
    /// What clients do.
    pub traffic: Traffic,
    /// How they encrypt it, if they do.
    pub tls: Option<Clients>,
    /// Connections at a time.
    pub connections: usize,
    /// Connections only are there, and their memory is measured.
    pub idle: bool,
}

/// What a proxy has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// What clients speak.
    pub front: Protocol,
    /// Where answers come from.
    pub back: Back,
    /// Writes an access log.
    pub access_log: bool,
    /// Routes by host name: none, or this many.
    pub routes: usize,
    /// Who encrypts.
    pub tls: Tls,
}

/// Who encrypts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// Nobody.
    None,
    /// Clients.
    Front,
    /// Clients, who show a certificate.
    Mutual,
    /// Clients, and the proxy towards the origin.
    Both,
    /// Clients, for the origin: the proxy looks at the name only.
    Through,
}

impl Tls {
    /// True if clients encrypt.
    pub fn is_front(self) -> bool {
        self != Self::None
    }

    /// True if the proxy has the certificate.
    pub fn ends_here(self) -> bool {
        matches!(self, Self::Front | Self::Mutual | Self::Both)
    }
}

/// A version of HTTP, in clear text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    H1,
    /// HTTP/2 with prior knowledge.
    H2,
}

/// Where answers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Back {
    /// The origin.
    Origin(Protocol),
    /// The origin, for gRPC calls.
    Grpc,
    /// The origin, as a stream of octets.
    Tcp,
    /// Files.
    Files,
}

impl Job {
    const fn proxy(front: Protocol, back: Protocol) -> Self {
        Self {
            front,
            back: Back::Origin(back),
            access_log: false,
            routes: 0,
            tls: Tls::None,
        }
    }

    pub(in crate::bench) const fn from(back: Back) -> Self {
        Self {
            back,
            ..Self::proxy(Protocol::H1, Protocol::H1)
        }
    }

    /// True if the origin is to see `X-Forwarded-For`.
    pub fn adds_forwarded_for(self) -> bool {
        matches!(self.back, Back::Origin(_) | Back::Grpc)
    }

    /// True if the origin is reached over TLS.
    pub fn origin_is_tls(self) -> bool {
        matches!(self.tls, Tls::Both | Tls::Through)
    }

    /// True if the origin is reached over HTTP/2.
    pub fn origin_is_h2(self) -> bool {
        matches!(self.back, Back::Origin(Protocol::H2) | Back::Grpc)
    }
}

/// Files below the folder that is served, and their lengths.
pub const FILES: [(&str, usize); 2] = [("4k", SMALL_FILE), ("1m", LARGE)];

/// The name of a route's host.
pub fn host(route: usize) -> String {
    format!("r{route}.bench.test")
}

/// All scenarios, in the order of the report.
pub fn all() -> Vec<Scenario> {
    let mut all = http1();
    all.extend(http2());
    all.extend(bodies_and_streams());
    all.extend(encrypted());
    all.extend(many());
    all
}

fn scenario(
    name: &'static str,
    about: &'static str,
    job: Job,
    traffic: Traffic,
    connections: usize,
) -> Scenario {
    Scenario {
        name,
        about,
        job,
        traffic,
        tls: None,
        connections,
        idle: false,
    }
}

/// The same over TLS 1.3.
fn over_tls(scenario: Scenario, tls: Tls) -> Scenario {
    let clients = Clients {
        h2: scenario.job.front == Protocol::H2,
        certificate: tls == Tls::Mutual,
        resume: false,
    };
    Scenario {
        job: Job {
            tls,
            ..scenario.job
        },
        tls: Some(clients),
        ..scenario
    }
}

/// The job of most scenarios.
pub(in crate::bench) const PLAIN: Job = Job::proxy(Protocol::H1, Protocol::H1);

fn http1() -> Vec<Scenario> {
    let logged = Job {
        access_log: true,
        ..PLAIN
    };
    let small = || get("/", SMALL);
    vec![
        scenario("get", "small GET, 64 connections kept", PLAIN, small(), 64),
        scenario(
            "get_1000",
            "small GET, 1000 connections kept",
            PLAIN,
            small(),
            1000,
        ),
        scenario(
            "get_log",
            "small GET, 64 connections kept, with an access log",
            logged,
            small(),
            64,
        ),
        scenario(
            "connect",
            "small GET, a new connection each",
            PLAIN,
            get_and_close(),
            64,
        ),
    ]
}

fn http2() -> Vec<Scenario> {
    use Protocol::{H1, H2};
    let grpc = Job {
        front: H2,
        ..Job::from(Back::Grpc)
    };
    let call = h2(H2Request::call("bench.test"));
    vec![
        scenario(
            "h2_h1",
            "small GET, HTTP/2 to HTTP/1.1",
            Job::proxy(H2, H1),
            get_h2(),
            8,
        ),
        scenario(
            "h2_h2",
            "small GET, HTTP/2 to HTTP/2",
            Job::proxy(H2, H2),
            get_h2(),
            8,
        ),
        scenario("grpc", "unary gRPC calls", grpc, call, 8),
    ]
}

fn bodies_and_streams() -> Vec<Scenario> {
    let (files, tcp) = (Job::from(Back::Files), Job::from(Back::Tcp));
    let large = || get(LARGE_PATH, LARGE);
    vec![
        scenario("body_1m", "answers of 1 MiB", PLAIN, large(), 16),
        scenario("post_64k", "POST of 64 KiB", PLAIN, post(), 16),
        scenario(
            "static_4k",
            "a file of 4 KiB",
            files,
            get("/4k", SMALL_FILE),
            64,
        ),
        scenario("static_1m", "a file of 1 MiB", files, large(), 16),
        scenario("tcp", "1 MiB over a TCP proxy", tcp, large(), 16),
        scenario(
            "websocket",
            "WebSocket messages, echoed",
            PLAIN,
            Traffic::WebSocket,
            64,
        ),
    ]
}

fn encrypted() -> Vec<Scenario> {
    use Protocol::{H1, H2};
    let small = || get("/", SMALL);
    let front = |name, about, job, traffic, connections| {
        over_tls(scenario(name, about, job, traffic, connections), Tls::Front)
    };
    let new = |name, about| front(name, about, PLAIN, get_and_close(), 64);
    let large = || get(LARGE_PATH, LARGE);
    let mut resumed = new("tls_resumed", "small GET over TLS, a resumed session each");
    if let Some(clients) = &mut resumed.tls {
        clients.resume = true;
    }
    let kept = |name, about, tls| over_tls(scenario(name, about, PLAIN, small(), 64), tls);
    let through = scenario(
        "tls_through",
        "1 MiB over TLS, passed through by its name",
        Job::from(Back::Tcp),
        large(),
        16,
    );
    let idle = front(
        "tls_idle",
        "4000 idle TLS connections",
        PLAIN,
        small(),
        TLS_IDLE,
    );
    vec![
        front(
            "tls_get",
            "small GET over TLS, 64 connections kept",
            PLAIN,
            small(),
            64,
        ),
        front(
            "tls_h2",
            "small GET, HTTP/2 over TLS to HTTP/1.1",
            Job::proxy(H2, H1),
            get_h2(),
            8,
        ),
        new("tls_full", "small GET over TLS, a full handshake each"),
        resumed,
        front("tls_1m", "answers of 1 MiB over TLS", PLAIN, large(), 16),
        kept("tls_both", "small GET over TLS on both sides", Tls::Both),
        kept(
            "tls_mutual",
            "small GET over TLS, clients with certificates",
            Tls::Mutual,
        ),
        over_tls(through, Tls::Through),
        Scenario { idle: true, ..idle },
    ]
}

fn many() -> Vec<Scenario> {
    let routed = Job {
        routes: ROUTES,
        ..PLAIN
    };
    let idle = scenario(
        "idle_10k",
        "10 000 idle connections",
        PLAIN,
        get("/", SMALL),
        IDLE,
    );
    vec![
        Scenario { idle: true, ..idle },
        scenario(
            "routes_10k",
            "small GET, 10 000 routes by host",
            routed,
            get_all_hosts(),
            64,
        ),
    ]
}

pub(in crate::bench) fn get(path: &str, length: usize) -> Traffic {
    let request = format!("GET {path} HTTP/1.1\r\nHost: bench.test\r\n\r\n");
    Traffic::H1 {
        requests: Rc::new(vec![request.into_bytes()]),
        length,
    }
}

fn get_and_close() -> Traffic {
    let request = b"GET / HTTP/1.1\r\nHost: bench.test\r\nConnection: close\r\n\r\n";
    Traffic::H1NewConnections {
        request: Rc::new(request.to_vec()),
        length: SMALL,
    }
}

fn get_all_hosts() -> Traffic {
    let requests = (0..ROUTES)
        .map(|route| format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", host(route)).into_bytes())
        .collect();
    Traffic::H1 {
        requests: Rc::new(requests),
        length: SMALL,
    }
}

fn post() -> Traffic {
    let head = format!("POST / HTTP/1.1\r\nHost: bench.test\r\nContent-Length: {POSTED}\r\n\r\n");
    let request = [head.into_bytes(), vec![b'x'; POSTED]].concat();
    Traffic::H1 {
        requests: Rc::new(vec![request]),
        length: SMALL,
    }
}

fn get_h2() -> Traffic {
    h2(H2Request::get("bench.test", "/", SMALL))
}

fn h2(request: H2Request) -> Traffic {
    Traffic::H2 {
        request: Rc::new(request),
        streams: STREAMS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique() {
        let names: BTreeSet<&str> = all().iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), all().len());
    }
}
