//! nginx's `combined`, and its variables in both escapings.

use super::{Exchange, Process, exchange, expect_same, free_port, line_of, our_line, program};
use anyhow::{Context, Result, ensure};
use proxy_userspace::config::model::http::LogFormat;
use proxy_userspace::observe::access_log::{Attempt, End, Octets, Record, Times};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// Every variable that means the same to nginx and to us.
const VARIABLES: &str = "$remote_addr $remote_port <$remote_user> [$time_local] $time_iso8601 \
    $msec <$request> $status $body_bytes_sent $bytes_sent $request_length $request_time \
    <$request_method> <$request_uri> <$args> <$is_args> $scheme <$https> $server_addr \
    $server_port <$server_protocol> <$host> <$http_host> <$http_referer> <$http_user_agent> \
    <$http_x_odd> <$http_cookie> <$cookie_a> <$cookie_b> <$arg_a> <$arg_b> <$content_length> \
    <$content_type> <$sent_http_content_type> <$sent_http_content_length> <$sent_http_x_answer> \
    $connection_requests <$request_completion> <$upstream_addr> <$upstream_status> \
    <$upstream_connect_time> <$upstream_header_time> <$upstream_response_time> \
    <$upstream_response_length> ${status}x";

/// What only nginx knows, separated by semicolons.
const FACTS: &str = "$msec;$request_time;$upstream_connect_time;$upstream_header_time;\
    $upstream_response_time;$upstream_response_length;$request_length";

struct Nginx {
    _process: Process,
    folder: TempDir,
    port: u16,
    origin: u16,
    /// Exchanges so far.
    lines: usize,
}

impl Nginx {
    fn start(program: &Path) -> Result<Self> {
        let folder = TempDir::new()?;
        let (port, origin, dead) = (free_port()?, free_port()?, 1);
        let root = folder.path().display();
        let config = format!(
            "daemon off; worker_processes 1; pid {root}/pid; error_log {root}/error; user root;
             events {{ worker_connections 64; }}
             http {{
                 client_body_temp_path {root}/body; proxy_temp_path {root}/proxy;
                 fastcgi_temp_path {root}/fastcgi; uwsgi_temp_path {root}/uwsgi;
                 scgi_temp_path {root}/scgi;
                 log_format facts '{FACTS}';
                 log_format variables '{VARIABLES}';
                 log_format json escape=json '{VARIABLES}';
                 upstream origin {{ server 127.0.0.1:{origin}; }}
                 upstream second {{
                     server 127.0.0.1:{dead} max_fails=0; server 127.0.0.1:{origin} backup;
                 }}
                 server {{
                     listen 127.0.0.1:{port};
                     server_name front;
                     access_log {root}/combined combined;
                     access_log {root}/variables variables;
                     access_log {root}/json json;
                     access_log {root}/facts facts;
                     location / {{
                         default_type text/plain; add_header X-Answer 'a\"b';
                         return 200 \"hello\\n\";
                     }}
                     location /none {{ return 404; }}
                     location /empty {{ return 204; }}
                     location /proxied {{ proxy_pass http://origin; }}
                     location /retried {{ proxy_pass http://second; }}
                 }}
                 server {{
                     listen 127.0.0.1:{origin}; access_log off;
                     location / {{ return 200 \"from the origin\\n\"; }}
                 }}
             }}\n"
        );
        let file = folder.path().join("nginx.conf");
        fs::write(&file, config)?;
        let child = Command::new(program)
            .arg("-e")
            .arg(folder.path().join("error"))
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start nginx")?;
        Ok(Self {
            _process: Process(child),
            folder,
            port,
            origin,
            lines: 0,
        })
    }

    /// The last exchange's line in one of the logs.
    fn line(&self, log: &str) -> Result<Vec<u8>> {
        line_of(&self.folder.path().join(log), self.lines - 1)
    }

    fn facts(&self) -> Result<Facts> {
        let line = String::from_utf8(self.line("facts")?)?;
        let fields: Vec<&str> = line.split(';').collect();
        let [msec, total, connect, head, whole, length, received] = fields.as_slice() else {
            anyhow::bail!("facts: {line}");
        };
        Ok(Facts {
            ended_at: seconds(msec).context("a time")?,
            total: seconds(total).context("a time")?,
            connect: list(connect).map(seconds).collect(),
            head: list(head).map(seconds).collect(),
            whole: list(whole).map(seconds).collect(),
            length: list(length)
                .map(|n| n.parse().unwrap_or_default())
                .collect(),
            received: received.parse()?,
        })
    }

    /// Has nginx and us log the same exchange, and compares.
    fn compare(&mut self, sent: &[u8], via: &[Via]) -> Result<()> {
        let exchange = exchange(self.port, sent)?;
        self.lines += 1;
        let facts = self.facts()?;
        let attempts: Vec<Attempt<'_>> = via
            .iter()
            .enumerate()
            .map(|(index, via)| self.attempt(*via, index, &facts))
            .collect();
        let (request, response) = (exchange.request(), exchange.response());
        let record = Record {
            attempts: &attempts,
            first_line: exchange.first_line(),
            times: Times {
                ended_at: facts.ended_at,
                total: facts.total,
                ..Times::default()
            },
            received: received(&exchange, &facts),
            ..exchange.record(request.as_ref(), &response, "front")
        };
        let template = |escape: &str| LogFormat::Template(format!("{escape}{VARIABLES}"));
        for (log, format) in [
            ("combined", LogFormat::Combined),
            ("variables", template("")),
            ("json", template("escape=json ")),
        ] {
            let what = format!("{log} of {}", sent.escape_ascii());
            expect_same(&what, &our_line(&format, &record)?, &self.line(log)?)?;
        }
        Ok(())
    }

    fn attempt(&self, via: Via, index: usize, facts: &Facts) -> Attempt<'static> {
        let (port, status, end) = match via {
            Via::Origin => (self.origin, 200, End::Complete),
            Via::Dead => (1, 0, End::ConnectFailed),
        };
        Attempt {
            backend: "",
            address: ([127, 0, 0, 1], port).into(),
            reused: false,
            status,
            end,
            connect: facts.connect[index],
            head: facts.head[index],
            total: facts.whole[index].unwrap_or_default(),
            sent: 0,
            received: Octets {
                head: 0,
                body: facts.length[index],
            },
        }
    }
}

/// Whom a request was sent to.
#[derive(Clone, Copy)]
enum Via {
    Origin,
    Dead,
}

struct Facts {
    ended_at: Duration,
    total: Duration,
    connect: Vec<Option<Duration>>,
    head: Vec<Option<Duration>>,
    whole: Vec<Option<Duration>>,
    length: Vec<u64>,
    received: u64,
}

/// What was sent to nginx, which counts a head that it refused as it likes.
fn received(exchange: &Exchange, facts: &Facts) -> Octets {
    let all = super::octets(&exchange.sent);
    if exchange.response().status == 400 {
        return Octets {
            head: facts.received,
            body: 0,
        };
    }
    all
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(", ")
}

fn seconds(text: &str) -> Option<Duration> {
    let (seconds, millis) = text.split_once('.')?;
    let millis: u64 = millis.parse().ok()?;
    Some(Duration::from_millis(
        seconds.parse::<u64>().ok()? * 1000 + millis,
    ))
}

/// A request that has the connection closed.
fn request(line: &[u8], fields: &[&[u8]], body: &[u8]) -> Vec<u8> {
    let mut request = line.to_vec();
    request.extend_from_slice(b"\r\nHost: example.com:8080\r\nConnection: close\r\n");
    for field in fields {
        request.extend_from_slice(field);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    request.extend_from_slice(body);
    request
}

#[test]
fn combined_and_variables_are_those_of_nginx() -> Result<()> {
    let Some(program) = program("nginx", "nginx-light")? else {
        return Ok(());
    };
    let mut nginx = Nginx::start(&program)?;
    let odd: Vec<u8> = (0x21..=0xff).filter(|octet| *octet != 0x7f).collect();
    let odd_field = [b"X-Odd: ", odd.as_slice()].concat();
    let odd_agent = [b"User-Agent: a\tb", odd.as_slice()].concat();
    let cases: Vec<Vec<u8>> = vec![
        request(b"GET / HTTP/1.1", &[], b""),
        request(b"GET /?a=1&b=2 HTTP/1.1", &[b"User-Agent: curl/8.5.0"], b""),
        request(b"HEAD /?A=1&&b HTTP/1.1", &[b"Referer:"], b""),
        request(b"GET /? HTTP/1.1", &[b"User-Agent:   "], b""),
        request(b"GET /?a=%22\"\\\xe9{}|^`<> HTTP/1.1", &[], b""),
        request(b"GET /\xc3\xa9/%c3%a9?a=\xff HTTP/1.1", &[], b""),
        request(b"OPTIONS /none HTTP/1.1", &[&odd_field, &odd_agent], b""),
        request(b"GET /empty HTTP/1.1", &[b"Cookie: aa=9; A=\"x\"; b="], b""),
        request(
            b"GET / HTTP/1.1",
            &[b"Cookie: a=1;b=2", b"Cookie: a=3"],
            b"",
        ),
        request(
            b"POST / HTTP/1.1",
            &[b"Content-Length: 0", b"Content-Type: a/b; c=\"d\""],
            b"",
        ),
        request(b"BREW-IT / HTTP/1.1", &[], b""),
        b"GET /old HTTP/1.0\r\n\r\n".to_vec(),
        b"GET /old?x HTTP/1.0\r\nHost: Example.com\r\nUser-Agent: \"\r\n\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nHost: [::1]:8080\r\nConnection: close\r\n\r\n".to_vec(),
    ];
    for case in &cases {
        // Names are case-insensitive and we keep them in lower case: see `RequestHead::authority`.
        nginx.compare(&replace(case, b"Example", b"example"), &[])?;
    }
    for credentials in [
        "dXNlcjpwdw==",
        "dXNlcjpwdw",
        "dSJcw6k6cHc=",
        "OnB3",
        "dXNlcg==",
        "%%%%",
    ] {
        let field = format!("Authorization: Basic {credentials}");
        nginx.compare(&request(b"GET / HTTP/1.1", &[field.as_bytes()], b""), &[])?;
    }
    ensure!(nginx.lines == 20, "a case was not compared");
    Ok(())
}

fn replace(text: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    match text.windows(from.len()).position(|window| window == from) {
        Some(at) => [&text[..at], to, &text[at + from.len()..]].concat(),
        None => text.to_vec(),
    }
}

#[test]
fn attempts_are_listed_as_nginx_lists_them() -> Result<()> {
    let Some(program) = program("nginx", "nginx-light")? else {
        return Ok(());
    };
    let mut nginx = Nginx::start(&program)?;
    let proxied = request(b"GET /proxied HTTP/1.1", &[], b"");
    nginx.compare(&proxied, &[Via::Origin])?;
    let post = request(b"POST /proxied HTTP/1.1", &[b"Content-Length: 5"], b"12345");
    nginx.compare(&post, &[Via::Origin])?;
    let retried = request(b"GET /retried HTTP/1.1", &[], b"");
    nginx.compare(&retried, &[Via::Dead, Via::Origin])
}

#[test]
fn a_request_that_nginx_refuses_is_logged_as_it_came() -> Result<()> {
    let Some(program) = program("nginx", "nginx-light")? else {
        return Ok(());
    };
    let mut nginx = Nginx::start(&program)?;
    for first_line in [&b"\x16\x03\x01\"\\\xff"[..], b"get / HTTP/1.1", b"GET /"] {
        let sent = [first_line, b"\r\n\r\n"].concat();
        let exchange = exchange(nginx.port, &sent)?;
        nginx.lines += 1;
        let facts = nginx.facts()?;
        let mut response = exchange.response();
        // What cannot be read as HTTP/1 gets an answer without a head.
        if response.status == 0 {
            response.status = 200;
        }
        let mut record = exchange.record(None, &response, "front");
        record.first_line = exchange.first_line();
        record.times.ended_at = facts.ended_at;
        if !exchange.answer.starts_with(b"HTTP/") {
            record.sent = Octets {
                head: 0,
                body: exchange.answer.len() as u64,
            };
        }
        let what = format!("refused {}", first_line.escape_ascii());
        let ours = our_line(&LogFormat::Combined, &record)?;
        expect_same(&what, &ours, &nginx.line("combined")?)?;
    }
    Ok(())
}
