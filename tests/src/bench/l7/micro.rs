//! What a request costs in this program's own code, without the kernel's: heads read, routed and
//! written, in a loop on one thread.
//!
//! The other scenarios show mostly what system calls cost, in which a slower parser would hide.
//! Here it does not. Of many short runs the fastest counts: other programs can only make a run
//! slower, so the fastest is the one that they disturbed least.

use super::report::Row;
use super::upkeep::Upkeep;
use anyhow::{Context, Result, ensure};
use nix::time::{ClockId, clock_gettime};
use proxy_userspace::config::model::http::{Action, Forwarded, HostMatch, Route};
use proxy_userspace::http::forwarded;
use proxy_userspace::http::peer::Peer;
use proxy_userspace::message::h1::{
    HeadLimits, RequestKind, RequestOptions, RequestParser, ResponseOptions, ResponseParser,
    write_request, write_response,
};
use proxy_userspace::message::{RequestHead, ResponseHead};
use proxy_userspace::routing::{Query, Router, normalise};
use std::hint::black_box;
use std::net::SocketAddr;
use std::time::Duration;

/// Names of the rows.
pub const NAMES: [&str; 6] = [
    "micro_small",
    "micro_browser",
    "micro_routes_1",
    "micro_routes_10k",
    "micro_report",
    "micro_resilience",
];

/// What the others are a part of.
const WHOLE: &str = "micro_small";

/// A request without more than it needs.
const SMALL: &[u8] = b"GET / HTTP/1.1\r\nHost: bench.test\r\n\r\n";
/// As a browser sends it.
const BROWSER: &[u8] = b"GET /articles/2026/11/28/a-title-of-some-words?page=2 HTTP/1.1\r\n\
    Host: www.bench.test\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    Accept-Language: en-GB,en;q=0.5\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Referer: https://www.bench.test/articles\r\n\
    Connection: keep-alive\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef; theme=dark; consent=1\r\n\
    Upgrade-Insecure-Requests: 1\r\n\
    Sec-Fetch-Dest: document\r\n\
    Sec-Fetch-Mode: navigate\r\n\
    Sec-Fetch-Site: same-origin\r\n\
    If-None-Match: \"5f0c-6412\"\r\n\r\n";
/// What the origin answers.
const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 128\r\n\r\n";

/// Requests of one run.
const RUN: u32 = 2000;
/// Runs.
const RUNS: usize = 200;

const LIMITS: HeadLimits = HeadLimits {
    fields: 100,
    head_bytes: 32 << 10,
    target_bytes: 8 << 10,
};

/// What one way of a request works with.
struct Bench {
    router: Router,
    settings: Forwarded,
    peer: Peer,
    request: RequestHead,
    response: ResponseHead,
    parser: RequestParser,
    answers: ResponseParser,
    text: Vec<u8>,
    out: Vec<u8>,
}

/// Measures the rows of these names.
///
/// # Errors
///
/// A head is refused or finds no route, which would be a fault of this file.
pub fn run(wanted: impl Fn(&str) -> bool) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for name in NAMES.into_iter().filter(|name| wanted(name)) {
        let took = match name {
            "micro_small" => exchanges(SMALL)?,
            "micro_browser" => exchanges(BROWSER)?,
            "micro_routes_1" => look_ups(1)?,
            "micro_routes_10k" => look_ups(10_000)?,
            "micro_report" => reports()?,
            _ => upkeep()?,
        };
        let note = match name {
            "micro_report" | "micro_resilience" => share(&rows, took),
            _ => None,
        };
        rows.push(Row {
            scenario: name.to_owned(),
            peer: "sluice".to_owned(),
            cpu_us: Some(took.as_secs_f64() * 1e6),
            rps: None,
            p50_us: None,
            p99_us: None,
            memory_kib: None,
            note,
        });
    }
    Ok(rows)
}

/// How much of a small request that is, if one was measured.
fn share(rows: &[Row], took: Duration) -> Option<String> {
    let whole = rows.iter().find(|row| row.scenario == WHOLE)?.cpu_us?;
    let percent = 100.0 * took.as_secs_f64() * 1e6 / whole;
    Some(format!("{percent:.1} % of {WHOLE}"))
}

/// What passive health is told of each answer.
fn reports() -> Result<Duration> {
    let mut upkeep = Upkeep::default();
    fastest(|_| {
        upkeep.report();
        Ok(())
    })
}

/// All that is counted about each request that goes well.
fn upkeep() -> Result<Duration> {
    let mut upkeep = Upkeep::default();
    fastest(|_| {
        ensure!(upkeep.request(), "a request was refused");
        Ok(())
    })
}

fn exchanges(octets: &[u8]) -> Result<Duration> {
    let mut bench = Bench::new(&[])?;
    fastest(|_| bench.exchange(octets))
}

/// Of one of so many routes, by host.
fn look_ups(routes: usize) -> Result<Duration> {
    let hosts: Vec<String> = (0..routes).map(super::scenario::host).collect();
    let mut bench = Bench::new(&hosts)?;
    fastest(|turn| bench.find(&hosts[turn * 61 % hosts.len()]))
}

/// CPU time of `work`, of the run in which it was the least.
fn fastest(mut work: impl FnMut(usize) -> Result<()>) -> Result<Duration> {
    let now = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from);
    let mut fastest = Duration::MAX;
    for run in 0..RUNS {
        let start = now()?;
        for turn in 0..RUN as usize {
            work(run * RUN as usize + turn)?;
        }
        fastest = fastest.min(now()?.saturating_sub(start));
    }
    Ok(fastest / RUN)
}

impl Bench {
    /// With a route for each of these hosts, or with one for all if there are none.
    fn new(hosts: &[String]) -> Result<Self> {
        let route = |name: &str| Route::catch_all(name, "web", Action::service("s"));
        let mut routes: Vec<Route> = hosts.iter().map(|host| route(host)).collect();
        for (route, host) in routes.iter_mut().zip(hosts) {
            route.hosts = vec![HostMatch::Exact(host.clone())];
        }
        if routes.is_empty() {
            routes.push(route("all"));
        }
        let client = SocketAddr::from(([127, 0, 0, 1], 40_000));
        let server = SocketAddr::from(([127, 0, 0, 1], 8080));
        Ok(Self {
            router: Router::build("web", &routes)?,
            settings: Forwarded::default(),
            peer: Peer::new(client, server, 1),
            request: RequestHead::default(),
            response: ResponseHead::default(),
            parser: RequestParser::default(),
            answers: ResponseParser::default(),
            text: Vec::new(),
            out: Vec::with_capacity(16 << 10),
        })
    }

    /// A request from its octets to those that the backend gets, and the response likewise.
    fn exchange(&mut self, octets: &[u8]) -> Result<()> {
        let request = &mut self.request;
        let read = self.parser.parse(black_box(octets), &LIMITS, request);
        read.ok().flatten().context("the request was not read")?;
        let path = normalise(request.path()).ok().context("no path")?;
        black_box(path);
        let client = forwarded::real_client(request, &self.settings, &self.peer);
        let query = Query {
            host: request.host(),
            path: request.path(),
            method: &request.method,
            fields: &request.fields,
            query: request.query(),
            source: client,
            workload: None,
        };
        black_box(self.router.find(&query).context("no route")?);
        let (settings, peer) = (&self.settings, &self.peer);
        forwarded::tell(request, settings, peer, client, &mut self.text);
        self.out.clear();
        write_request(request, &RequestOptions { close: false }, &mut self.out);
        black_box(&self.out);
        let (octets, kind) = (black_box(RESPONSE), RequestKind::of(request));
        let response = &mut self.response;
        let read = self.answers.parse(octets, &LIMITS, kind, response);
        read.ok().flatten().context("the response was not read")?;
        self.out.clear();
        let options = ResponseOptions {
            to: kind,
            version: request.version,
            keep_alive: true,
        };
        write_response(response, &options, &mut self.out);
        black_box(&self.out);
        Ok(())
    }

    /// One look-up.
    fn find(&mut self, host: &str) -> Result<()> {
        let query = Query {
            host: black_box(host.as_bytes()),
            path: b"/",
            method: &self.request.method,
            fields: &self.request.fields,
            query: None,
            source: self.peer.ip(),
            workload: None,
        };
        black_box(self.router.find(&query).context("no route")?);
        Ok(())
    }
}
