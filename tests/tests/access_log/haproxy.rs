//! HAProxy's `httplog` and `tcplog`.
//!
//! Its log goes to standard output. Time, timers, counters of connections and the number of octets are
//! read back from its line, because a client cannot know them; how they are written is compared all
//! the same.

use super::{Process, exchange, expect_same, free_port, line_of, our_line, program};
use anyhow::{Context, Result};
use proxy_userspace::config::model::http::LogFormat;
use proxy_userspace::observe::access_log::{
    Attempt, Counts, End, Octets, Phase, Record, StickyRequest, StickyResponse, Times, Traffic,
};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhello\n";

struct Haproxy {
    _process: Process,
    folder: TempDir,
    http: u16,
    tcp: u16,
    origin: u16,
    lines: usize,
}

/// A server that answers each connection once, with `ANSWER`; `/cut` gets half of it, and `/odd`
/// something that is not HTTP.
fn origin() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            thread::spawn(move || {
                let mut request = [0; 4096];
                let length = stream.read(&mut request).unwrap_or(0);
                let request = &request[..length];
                let answer = if request.starts_with(b"GET /cut") {
                    &ANSWER[..ANSWER.len() - 3]
                } else if request.starts_with(b"GET /odd") {
                    b"!HTTP\r\n\r\n"
                } else if request.starts_with(b"GET /early") {
                    b""
                } else {
                    ANSWER
                };
                let _ = stream.write_all(answer);
            });
        }
    });
    Ok(port)
}

impl Haproxy {
    fn start(program: &Path) -> Result<Self> {
        let folder = TempDir::new()?;
        let (http, tcp, origin) = (free_port()?, free_port()?, origin()?);
        let config = format!(
            "global
                 log stdout format raw local0
             defaults
                 log global
                 timeout connect 1s
                 timeout client 1s
                 timeout server 1s
                 retries 0
             frontend in
                 mode http
                 option httplog
                 option accept-invalid-http-request
                 bind 127.0.0.1:{http}
                 http-request deny if {{ path /deny }}
                 http-request redirect location /x if {{ path /redirect }}
                 use_backend dead if {{ path /dead }}
                 use_backend empty if {{ path /empty }}
                 use_backend sticky if {{ path /sticky }}
                 default_backend web
             backend web
                 mode http
                 server w1 127.0.0.1:{origin}
             backend sticky
                 mode http
                 cookie SRV insert indirect
                 server s1 127.0.0.1:{origin} cookie a
             backend dead
                 mode http
                 server d1 127.0.0.1:1
             backend empty
                 mode http
             frontend tcp-in
                 mode tcp
                 option tcplog
                 bind 127.0.0.1:{tcp}
                 default_backend raw
             backend raw
                 mode tcp
                 server r1 127.0.0.1:{origin}\n"
        );
        let file = folder.path().join("haproxy.cfg");
        fs::write(&file, config)?;
        let log = File::create(folder.path().join("log"))?;
        let child = Command::new(program)
            .arg("-db")
            .arg("-f")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(File::create(folder.path().join("error"))?)
            .spawn()
            .context("cannot start haproxy")?;
        Ok(Self {
            _process: Process(child),
            folder,
            http,
            tcp,
            origin,
            lines: 0,
        })
    }

    /// Has HAProxy and us log the same exchange, and compares.
    fn compare(&mut self, sent: &[u8], case: &Case) -> Result<()> {
        let tcp = case.traffic == Traffic::Tcp;
        let exchange = exchange(if tcp { self.tcp } else { self.http }, sent)?;
        let theirs = line_of(&self.folder.path().join("log"), self.lines)?;
        self.lines += 1;
        let facts = Facts::of(std::str::from_utf8(&theirs)?)
            .with_context(|| format!("a line: {}", theirs.escape_ascii()))?;
        let address = ([127, 0, 0, 1], self.origin).into();
        let attempt = case.server.map(|backend| Attempt {
            backend,
            address,
            reused: false,
            status: 0,
            end: case.end,
            connect: None,
            head: None,
            total: Duration::ZERO,
            sent: 0,
            received: Octets::default(),
        });
        let request = if case.understood {
            exchange.request()
        } else {
            None
        };
        let response = exchange.response();
        let listener = if tcp { "tcp-in" } else { "in" };
        let record = Record {
            traffic: case.traffic,
            service: case.service,
            attempts: attempt.as_slice(),
            sent: Octets {
                head: 0,
                body: facts.sent,
            },
            end: case.end,
            phase: case.phase,
            sticky_request: case.sticky.0,
            sticky_response: case.sticky.1,
            times: facts.times,
            counts: facts.counts,
            ..exchange.record(request.as_ref(), &response, listener)
        };
        let what = format!("{}", sent.escape_ascii());
        expect_same(&what, &our_line(&LogFormat::Haproxy, &record)?, &theirs)
    }
}

/// What HAProxy did with a request, and why.
#[derive(Clone, Copy)]
struct Case {
    traffic: Traffic,
    service: Option<&'static str>,
    server: Option<&'static str>,
    end: End,
    phase: Phase,
    sticky: (StickyRequest, StickyResponse),
    understood: bool,
}

const WEB: Case = Case {
    traffic: Traffic::Http,
    service: Some("web"),
    server: Some("w1"),
    end: End::Complete,
    phase: Phase::Last,
    sticky: (StickyRequest::Unused, StickyResponse::Unused),
    understood: true,
};

const LOCAL: Case = Case {
    service: None,
    server: None,
    end: End::Local,
    phase: Phase::Request,
    ..WEB
};

/// What a client cannot know.
struct Facts {
    times: Times,
    counts: Counts,
    /// It counts its inner form of a message, not the octets of its head on the wire.
    sent: u64,
}

impl Facts {
    /// From a line such as `1.2.3.4:5 [06/Feb/2009:12:14:14.655] in web/w1 0/0/0/0/0 200 …`.
    fn of(line: &str) -> Option<Self> {
        let (_, rest) = line.split_once('[')?;
        let (date, rest) = rest.split_once("] ")?;
        let words: Vec<&str> = rest.split(' ').collect();
        let timers: Vec<Option<Duration>> = words.get(2)?.split('/').map(timer).collect();
        let total = (*timers.last()?)?;
        let http = timers.len() == 5;
        let first = usize::from(http);
        let counts: Vec<u32> = words[3..]
            .iter()
            .find(|word| word.matches('/').count() == 4)?
            .split('/')
            .map(|count| count.parse().unwrap_or_default())
            .collect();
        Some(Self {
            times: Times {
                ended_at: local_time(date)? + total,
                total,
                request_head: if http { timers[0] } else { None },
                queue: timers[first],
                connect: timers[first + 1],
                response_head: if http { timers[3] } else { None },
                ..Times::default()
            },
            counts: Counts {
                process: counts[0],
                listener: counts[1],
                service: counts[2],
                backend: counts[3],
                ..Counts::default()
            },
            sent: words[if http { 4 } else { 3 }].parse().ok()?,
        })
    }
}

fn timer(text: &str) -> Option<Duration> {
    text.parse().ok().map(Duration::from_millis)
}

/// A moment from its text in local time, by asking our calendar until it says the same.
fn local_time(text: &str) -> Option<Duration> {
    let (second, millis) = text.split_once('.')?;
    let now = std::time::UNIX_EPOCH.elapsed().ok()?.as_secs();
    let mut calendar = proxy_userspace::observe::calendar::Calendar::local();
    let at = (now.saturating_sub(120)..=now)
        .rev()
        .find(|&at| calendar.clf(at)[..20] == *second.as_bytes())?;
    Some(Duration::from_secs(at) + timer(millis)?)
}

fn request(line: &[u8], fields: &[u8]) -> Vec<u8> {
    [
        line,
        b"\r\nHost: a\r\nConnection: close\r\n",
        fields,
        b"\r\n",
    ]
    .concat()
}

#[test]
fn httplog_is_that_of_haproxy() -> Result<()> {
    let Some(program) = program("haproxy", "haproxy")? else {
        return Ok(());
    };
    let mut haproxy = Haproxy::start(&program)?;
    let get = |path: &str| request(format!("GET {path} HTTP/1.1").as_bytes(), b"");
    haproxy.compare(&get("/"), &WEB)?;
    haproxy.compare(&request(b"GET /\"#\\{|}~\x80\xff%22 HTTP/1.1", b""), &WEB)?;
    haproxy.compare(b"GET /old HTTP/1.0\r\n\r\n", &WEB)?;
    haproxy.compare(&request(b"BREW / HTTP/1.1", b""), &WEB)?;
    haproxy.compare(&get("/redirect"), &LOCAL)?;
    let denied = Case {
        end: End::Denied,
        ..LOCAL
    };
    haproxy.compare(&get("/deny"), &denied)?;
    let refused = Case {
        end: End::ClientProtocol,
        understood: false,
        ..LOCAL
    };
    haproxy.compare(b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", &refused)?;
    let slow = Case {
        end: End::ClientTimeout,
        understood: false,
        ..LOCAL
    };
    haproxy.compare(b"GET / HT", &slow)?;
    Ok(())
}

#[test]
fn failures_of_backends_have_the_letters_of_haproxy() -> Result<()> {
    let Some(program) = program("haproxy", "haproxy")? else {
        return Ok(());
    };
    let mut haproxy = Haproxy::start(&program)?;
    let get = |path: &str| request(format!("GET {path} HTTP/1.1").as_bytes(), b"");
    let dead = Case {
        service: Some("dead"),
        server: Some("d1"),
        end: End::ConnectFailed,
        phase: Phase::Connect,
        ..WEB
    };
    haproxy.compare(&get("/dead"), &dead)?;
    let empty = Case {
        service: Some("empty"),
        server: None,
        end: End::NoBackend,
        phase: Phase::Connect,
        ..WEB
    };
    haproxy.compare(&get("/empty"), &empty)?;
    let cut = Case {
        end: End::BackendClosed,
        phase: Phase::Data,
        ..WEB
    };
    haproxy.compare(&get("/cut"), &cut)?;
    let odd = Case {
        end: End::BackendProtocol,
        phase: Phase::ResponseHead,
        ..WEB
    };
    haproxy.compare(&get("/odd"), &odd)?;
    let early = Case {
        end: End::BackendClosed,
        phase: Phase::ResponseHead,
        ..WEB
    };
    haproxy.compare(&get("/early"), &early)
}

#[test]
fn cookies_have_the_letters_of_haproxy() -> Result<()> {
    let Some(program) = program("haproxy", "haproxy")? else {
        return Ok(());
    };
    let mut haproxy = Haproxy::start(&program)?;
    for (fields, sticky) in [
        (&b""[..], (StickyRequest::None, StickyResponse::Inserted)),
        (
            b"Cookie: SRV=a\r\n",
            (StickyRequest::Valid, StickyResponse::None),
        ),
        (
            b"Cookie: SRV=z\r\n",
            (StickyRequest::Invalid, StickyResponse::Inserted),
        ),
    ] {
        let case = Case {
            service: Some("sticky"),
            server: Some("s1"),
            sticky,
            ..WEB
        };
        haproxy.compare(&request(b"GET /sticky HTTP/1.1", fields), &case)?;
    }
    Ok(())
}

#[test]
fn tcplog_is_that_of_haproxy() -> Result<()> {
    let Some(program) = program("haproxy", "haproxy")? else {
        return Ok(());
    };
    let mut haproxy = Haproxy::start(&program)?;
    let connection = Case {
        traffic: Traffic::Tcp,
        service: Some("raw"),
        server: Some("r1"),
        ..WEB
    };
    haproxy.compare(b"GET / HTTP/1.0\r\n\r\n", &connection)
}
