//! The engine's own log against those of HAProxy and nginx: all three stand before the same origin,
//! meet the same clients, and must tell the same story.
//!
//! What no two programs can have in common is masked: moments, ports, how long things took (but not
//! whether there was such a time), and octets of heads that each writes in its own way.

use super::{PATIENCE, Process, expect_same, free_port, line_of, program};
use anyhow::{Context, Result, ensure};
use proxy_tests::wait::until;
use proxy_userspace::config::model::http::{
    AccessLog, Action, BackendTraits, HttpListener, LogFormat, LogTarget, PathMatch, Route,
    StickyCookie,
};
use proxy_userspace::config::model::{Config, Service};
use proxy_userspace::runtime::workers::Workers;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

/// What the origin says before it closes. It says that it does: a connection that is kept and dies
/// just then would be another attempt in one of the lines.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 6\r\n\r\nhello\n";

/// Time limits of all three, where a test waits for one to pass.
const LIMIT: Duration = Duration::from_secs(1);

/// What a client does with a connection.
#[derive(Clone, Copy)]
enum Client {
    /// Sends, and reads to the end.
    Whole,
    /// Sends, ends its side, and reads to the end.
    Half,
    /// Sends, waits until the origin has the request, and resets.
    Reset,
    /// Sends, reads something of the answer, and resets.
    ResetInAnswer,
}

/// An origin that does what the path asks for.
struct Origin {
    port: u16,
    asked: std::sync::Arc<std::sync::atomic::AtomicUsize>,
}

impl Origin {
    fn start() -> Result<Self> {
        use std::sync::atomic::Ordering::SeqCst;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let asked = std::sync::Arc::<std::sync::atomic::AtomicUsize>::default();
        let count = std::sync::Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let count = std::sync::Arc::clone(&count);
                thread::spawn(move || {
                    let mut request = [0; 8192];
                    let length = stream.read(&mut request).unwrap_or(0);
                    let request = &request[..length];
                    let path = request.split(|&octet| octet == b' ').nth(1);
                    let path = path.unwrap_or_default();
                    count.fetch_add(1, SeqCst);
                    let answer: &[u8] = match path {
                        b"/early" => b"",
                        b"/odd" => b"!HTTP\r\n\r\n",
                        b"/cut" => &ANSWER[..ANSWER.len() - 3],
                        b"/none" => b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
                        b"/missing" => {
 b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 4\r\n\r\nno!\n"
},
                        b"/head" => b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 6\r\n\r\n",
                        b"/slow" => {
                            // Until the proxy gives up.
                            let _ = stream.read_to_end(&mut Vec::new());
                            return;
                        }
                        b"/endless" => {
                            let head = b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n";
                            let mut octets: &[u8] = head;
                            while stream.write_all(octets).is_ok() {
                                octets = &[b'x'; 65536];
                            }
                            return;
                        }
                        _ => ANSWER,
                    };
                    let _ = stream.write_all(answer);
                });
            }
        });
        Ok(Self { port, asked })
    }

    fn asked(&self) -> usize {
        self.asked.load(std::sync::atomic::Ordering::SeqCst)
    }
}

/// The engine, logging to a file.
struct Engine {
    workers: Workers,
    address: SocketAddr,
}

impl Engine {
    /// Listener `in`, service `web` with the backend `w1`; `/dead` and `/empty` are services of
    /// these names, `/sticky` keeps clients by a cookie.
    fn start(origin: u16, log: &Path, format: LogFormat) -> Result<Self> {
        Self::with(origin, log, format, |_| {})
    }

    /// As [`Engine::start`], after a change of each service.
    fn with(
        origin: u16,
        log: &Path,
        format: LogFormat,
        edit: impl Fn(&mut Service),
    ) -> Result<Self> {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut listener = HttpListener::new("in", listen);
        listener.timeouts.head = LIMIT;
        listener.timeouts.body_idle = LIMIT;
        listener.access_log = Some(AccessLog {
            format,
            ..AccessLog::new(LogTarget::File(log.to_owned()))
        });
        let mut config = Config {
            http_listeners: vec![listener],
            routes: vec![Route::catch_all("all", "in", Action::service("web"))],
            ..Config::default()
        };
        config.workers.count = Some(1);
        let services = [
            ("web", "w1", Some(origin)),
            ("sticky", "s1", Some(origin)),
            ("dead", "d1", Some(1)),
            ("empty", "", None),
        ];
        for (name, backend, port) in services {
            let mut service = Service::new(name);
            service.upstream.response_timeout = LIMIT;
            if let Some(port) = port {
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                service.push_backend(address, 1, BackendTraits::default());
                service.backends[0].name = backend.to_owned();
            }
            if name == "sticky" {
                service.upstream.sticky_cookie = Some(StickyCookie::new("SRV"));
            }
            edit(&mut service);
            config.services.push(service);
            if name != "web" {
                let mut route = Route::catch_all(name, "in", Action::service(name));
                route.matches[0].path = PathMatch::Exact(format!("/{name}"));
                config.routes.push(route);
            }
        }
        let workers = Workers::start(&config)?;
        let address = workers.listeners().next().context("it listens")?;
        Ok(Self { workers, address })
    }
}

/// Does with a proxy what a client does. Returns the answer, as far as it was read.
fn meet(address: SocketAddr, origin: &Origin, sent: &[u8], client: Client) -> Result<Vec<u8>> {
    let mut stream = connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let asked = origin.asked();
    stream.write_all(sent)?;
    let mut answer = Vec::new();
    match client {
        Client::Whole => {
            // A proxy may reset a connection after an answer that it gave early.
            let _ = stream.read_to_end(&mut answer);
        }
        Client::Half => {
            stream.shutdown(Shutdown::Write)?;
            let _ = stream.read_to_end(&mut answer);
        }
        Client::Reset => {
            let is_asked = || origin.asked() > asked;
            until("the origin is asked", || Ok(is_asked()))?;
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        }
        Client::ResetInAnswer => {
            answer.resize(100, 0);
            stream.read_exact(&mut answer)?;
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        }
    }
    Ok(answer)
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => return Ok(stream),
            Err(error) if std::time::Instant::now() > deadline => return Err(error.into()),
            Err(_) => thread::yield_now(),
        }
    }
}

fn get(path: &str, fields: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n").into_bytes()
}

/// A request whose content does not come to its end.
const HALF_POST: &[u8] = b"POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc";

/// Starts a program with a configuration in this folder.
fn start(program: &Path, folder: &Path, config: &str, arguments: &[&str]) -> Result<Process> {
    fs::write(folder.join("config"), config)?;
    let child = Command::new(program)
        .args(arguments)
        .arg(folder.join("config"))
        .stdin(Stdio::null())
        .stdout(File::create(folder.join("stdout"))?)
        .stderr(File::create(folder.join("stderr"))?)
        .spawn()?;
    Ok(Process(child))
}

fn haproxy(program: &Path, folder: &Path, ports: [u16; 2], origin: u16) -> Result<Process> {
    let [h1, h2] = ports;
    let config = format!(
        "global
             log stdout format raw local0
         defaults
             log global
             mode http
             option httplog
             option abortonclose
             timeout connect 1s
             timeout client 1s
             timeout http-request 1s
             timeout server 1s
             retries 0
         frontend in
             bind 127.0.0.1:{h1}
             bind 127.0.0.1:{h2} proto h2
             use_backend dead if {{ path /dead }}
             use_backend empty if {{ path /empty }}
             use_backend sticky if {{ path /sticky }}
             default_backend web
         backend web
             server w1 127.0.0.1:{origin}
         backend sticky
             cookie SRV insert indirect
             server s1 127.0.0.1:{origin} cookie a
         backend dead
             server d1 127.0.0.1:1
         backend empty\n"
    );
    start(program, folder, &config, &["-db", "-f"])
}

/// What HAProxy's line says, without what differs between two exchanges that are alike.
fn story(line: &[u8]) -> Result<String> {
    let line = std::str::from_utf8(line)?;
    let words: Vec<&str> = line.splitn(13, ' ').collect();
    ensure!(words.len() == 13, "a line: {line}");
    let timers = words[4].split('/').map(|timer| match timer {
        "-1" => "-1",
        _ => "0",
    });
    let timers: Vec<&str> = timers.collect();
    let mut story = vec![words[2], words[3]];
    let timers = timers.join("/");
    story.push(&timers);
    story.push(words[5]);
    story.extend(&words[7..10]);
    // How many connections there are besides depends on how soon the last ones were taken down.
    let (_, counts) = words[10].split_once('/').context("counts")?;
    let (_, counts) = counts.split_once('/').context("counts")?;
    story.push(counts);
    story.extend(&words[11..]);
    Ok(story.join(" "))
}

#[test]
fn connections_that_are_open_are_counted_as_haproxy_counts_them() -> Result<()> {
    let Some(program) = program("haproxy", "haproxy")? else {
        return Ok(());
    };
    let folder = TempDir::new()?;
    let (origin, port) = (Origin::start()?, free_port()?);
    let _process = haproxy(&program, folder.path(), [port, free_port()?], origin.port)?;
    let log = folder.path().join("ours");
    let engine = Engine::start(origin.port, &log, LogFormat::Haproxy)?;
    let theirs = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    for (address, log) in [
        (theirs, &folder.path().join("stdout")),
        (engine.address, &log),
    ] {
        let mut open = Vec::new();
        for index in 0..3 {
            let mut stream = connect(address)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")?;
            read_answer(&mut stream, &mut Vec::new())?;
            open.push(stream);
            let line = String::from_utf8(line_of(log, index)?)?;
            let expected = format!(" ---- {n}/{n}/0/0/0 0/0 \"GET / ", n = index + 1);
            ensure!(line.contains(&expected), "not {expected}: {line}");
        }
    }
    Ok(())
}

/// HAProxy's `srv_queue/backend_queue`: how many were before this one, for a backend that it must
/// have, and for any.
#[test]
fn places_in_the_queue_are_told() -> Result<()> {
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let gone = std::sync::Arc::new(std::sync::Mutex::new(gone));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let gone = std::sync::Arc::clone(&gone);
            thread::spawn(move || {
                while matches!(stream.read(&mut [0; 8192]), Ok(1..)) {
                    let _ = gone.lock().map(|gone| gone.recv());
                    let _ = stream.write_all(ANSWER);
                }
            });
        }
    });
    let folder = TempDir::new()?;
    let log = folder.path().join("log");
    let engine = Engine::with(port, &log, LogFormat::Haproxy, |service| {
        service.upstream.max_connections = 1;
        service.upstream.queue = 10;
    })?;
    let waiting = || {
        let snapshot = engine.workers.snapshot();
        let services = snapshot.services().iter();
        services.map(|service| service.state.waiting()).sum::<u32>()
    };
    let mut clients = Vec::new();
    for ahead in 0..3_u32 {
        let mut stream = connect(engine.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&get("/", ""))?;
        clients.push(stream);
        match ahead {
            0 => until("it is with the backend", || {
                let snapshot = engine.workers.snapshot();
                Ok(snapshot
                    .services()
                    .iter()
                    .any(|it| it.state.selection().in_flight() == 1))
            })?,
            _ => until("it waits", || Ok(waiting() == ahead))?,
        }
    }
    for _ in 0..3 {
        go.send(())?;
    }
    for (index, (mut stream, queues)) in clients.into_iter().zip(["0/0", "0/0", "0/1"]).enumerate()
    {
        stream.read_to_end(&mut Vec::new())?;
        let line = String::from_utf8(line_of(&log, index)?)?;
        ensure!(
            line.contains(&format!(" {queues} \"GET / ")),
            "not {queues}: {line}"
        );
    }
    Ok(())
}

#[test]
fn the_engine_tells_what_haproxy_tells() -> Result<()> {
    let Some(program) = program("haproxy", "haproxy")? else {
        return Ok(());
    };
    let folder = TempDir::new()?;
    let (origin, port) = (Origin::start()?, free_port()?);
    let _process = haproxy(&program, folder.path(), [port, free_port()?], origin.port)?;
    let theirs = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let log = folder.path().join("ours");
    let engine = Engine::start(origin.port, &log, LogFormat::Haproxy)?;
    let head = b"HEAD /head HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let post = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc";
    // What HAProxy says and we say otherwise.
    let same = ("", "");
    // 502 is nginx's word for it, and Envoy's is 503 as well.
    let status = (" 503 ", " 502 ");
    // Its manual says `CH` for a client that leaves before the response, its 2.6 says `CD`.
    let phase = (" CD-- ", " CH-- ");
    let cases: Vec<(Vec<u8>, Client, (&str, &str))> = vec![
        (get("/", ""), Client::Whole, same),
        (head.to_vec(), Client::Whole, same),
        (post.to_vec(), Client::Whole, same),
        (get("/none", ""), Client::Whole, same),
        (get("/missing?a=b", ""), Client::Whole, same),
        (get("/early", ""), Client::Whole, same),
        (get("/odd", ""), Client::Whole, same),
        (get("/cut", ""), Client::Whole, same),
        (get("/slow", ""), Client::Whole, same),
        (get("/slow", ""), Client::Reset, phase),
        (HALF_POST.to_vec(), Client::Reset, phase),
        (get("/endless", ""), Client::ResetInAnswer, same),
        (b"GET / HT".to_vec(), Client::Whole, same),
        (b"GET / HT".to_vec(), Client::Half, same),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\n".to_vec(),
            Client::Half,
            same,
        ),
        (get("/", "Content-Length: x\r\n"), Client::Whole, same),
        (get("/", "Bad Name: x\r\n"), Client::Whole, same),
        (get("/dead", ""), Client::Whole, status),
        (get("/empty", ""), Client::Whole, same),
        (get("/sticky", ""), Client::Whole, same),
        (get("/sticky", "Cookie: SRV=zz\r\n"), Client::Whole, same),
    ];
    for (index, (sent, client, (from, to))) in cases.iter().enumerate() {
        meet(theirs, &origin, sent, *client)?;
        meet(engine.address, &origin, sent, *client)?;
        let theirs = story(&line_of(&folder.path().join("stdout"), index)?)?;
        let ours = story(&line_of(&log, index)?)?;
        let expected = theirs.replacen(from, to, usize::from(!from.is_empty()));
        expect_same(
            &sent.escape_ascii().to_string(),
            ours.as_bytes(),
            expected.as_bytes(),
        )?;
    }
    // The cookie that each has given is followed.
    let follow = |address: SocketAddr, index: usize, log: &Path| -> Result<String> {
        let answer = meet(address, &origin, &get("/sticky", ""), Client::Whole)?;
        let answer = String::from_utf8_lossy(&answer).to_ascii_lowercase();
        let (_, cookie) = answer.split_once("set-cookie: ").context("a cookie")?;
        let value = cookie.split(';').next().unwrap_or_default();
        let cookie = format!("Cookie: {}\r\n", value.replacen("srv", "SRV", 1));
        meet(address, &origin, &get("/sticky", &cookie), Client::Whole)?;
        story(&line_of(log, index + 1)?)
    };
    let ours = follow(engine.address, cases.len(), &log)?;
    let theirs = follow(theirs, cases.len(), &folder.path().join("stdout"))?;
    ensure!(ours.contains(" --VN "), "{ours}");
    expect_same("a cookie", ours.as_bytes(), theirs.as_bytes())
}

/// What nginx is asked, and what it is configured to tell.
const TOLD: &str = "<$request> $status $body_bytes_sent <$upstream_status> \
    <$upstream_response_length> <$upstream_bytes_received> <$request_completion> $request_length \
    $connection_requests <$sent_http_content_length>";

fn nginx(program: &Path, folder: &Path, ports: [u16; 2], origin: u16) -> Result<Process> {
    let [h1, h2] = ports;
    let root = folder.display();
    let config = format!(
        "daemon off; worker_processes 1; pid {root}/pid; error_log {root}/error; user root;
         events {{ worker_connections 64; }}
         http {{
             client_body_temp_path {root}/body; proxy_temp_path {root}/proxy;
             fastcgi_temp_path {root}/fastcgi; uwsgi_temp_path {root}/uwsgi;
             scgi_temp_path {root}/scgi;
             log_format told '{TOLD}';
             client_header_timeout 1s; client_body_timeout 1s; proxy_read_timeout 1s;
             proxy_http_version 1.1; proxy_set_header Connection \"\";
             proxy_request_buffering off;
             server {{
                 listen 127.0.0.1:{h1}; listen 127.0.0.1:{h2} http2;
                 access_log {root}/stdout told;
                 location / {{ proxy_pass http://127.0.0.1:{origin}; }}
                 location /dead {{ proxy_pass http://127.0.0.1:1; }}
             }}
         }}\n"
    );
    let error = format!("{root}/error");
    start(program, folder, &config, &["-e", &error, "-c"])
}

/// A line without the sizes of pages that each program writes in its own words: of all answers that
/// no backend gave.
fn told(line: &[u8], masked: &[usize]) -> Result<String> {
    let line = std::str::from_utf8(line)?;
    let (request, rest) = line
        .rsplit_once("HTTP/")
        .map_or(("", line), |(a, b)| (a, b));
    let mut words: Vec<&str> = rest.split(' ').collect();
    for index in masked {
        ensure!(words.len() > *index, "a line: {line}");
        words[*index] = "*";
    }
    Ok(format!("{request}{}", words.join(" ")))
}

#[test]
fn the_engine_tells_what_nginx_tells() -> Result<()> {
    let Some(program) = program("nginx", "nginx-light")? else {
        return Ok(());
    };
    let folder = TempDir::new()?;
    let (origin, port) = (Origin::start()?, free_port()?);
    let _process = nginx(&program, folder.path(), [port, free_port()?], origin.port)?;
    let theirs = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let log = folder.path().join("ours");
    let engine = Engine::start(origin.port, &log, LogFormat::Template(TOLD.to_owned()))?;
    let head = b"HEAD /head HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let post = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc";
    // Words after the version: status, body, upstream status, length, received, completion,
    // request's length, number, content length.
    let (nothing, page, refused): (&[usize], &[usize], &[usize]) = (&[], &[2, 9], &[2, 7, 9]);
    // How much of an endless answer was read before the reset is chance.
    let endless: &[usize] = &[2, 4, 5];
    let cases: Vec<(Vec<u8>, Client, &[usize])> = vec![
        (get("/", ""), Client::Whole, nothing),
        (head.to_vec(), Client::Whole, nothing),
        (post.to_vec(), Client::Whole, nothing),
        (get("/none", ""), Client::Whole, nothing),
        (get("/missing?a=b", ""), Client::Whole, nothing),
        (get("/early", ""), Client::Whole, page),
        (get("/cut", ""), Client::Whole, nothing),
        (get("/dead", ""), Client::Whole, page),
        (get("/slow", ""), Client::Whole, page),
        (get("/slow", ""), Client::Reset, nothing),
        (get("/endless", ""), Client::ResetInAnswer, endless),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\n".to_vec(),
            Client::Half,
            refused,
        ),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\n".to_vec(),
            Client::Whole,
            refused,
        ),
        (get("/", "Content-Length: x\r\n"), Client::Whole, refused),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), Client::Whole, refused),
    ];
    for (index, (sent, client, masked)) in cases.iter().enumerate() {
        meet(theirs, &origin, sent, *client)?;
        meet(engine.address, &origin, sent, *client)?;
        let theirs = told(&line_of(&folder.path().join("stdout"), index)?, masked)?;
        let ours = told(&line_of(&log, index)?, masked)?;
        expect_same(
            &sent.escape_ascii().to_string(),
            ours.as_bytes(),
            theirs.as_bytes(),
        )?;
    }
    Ok(())
}

#[test]
fn requests_over_http_2_are_told_as_both_tell_them() -> Result<()> {
    let (Some(with_nginx), Some(with_haproxy), Some(curl)) = (
        program("nginx", "nginx-light")?,
        program("haproxy", "haproxy")?,
        program("curl", "curl")?,
    ) else {
        return Ok(());
    };
    let origin = Origin::start()?;
    let (of_nginx, of_haproxy, ours) = (TempDir::new()?, TempDir::new()?, TempDir::new()?);
    let ports = [free_port()?, free_port()?];
    let _nginx = nginx(
        &with_nginx,
        of_nginx.path(),
        [free_port()?, ports[0]],
        origin.port,
    )?;
    let _haproxy = haproxy(
        &with_haproxy,
        of_haproxy.path(),
        [free_port()?, ports[1]],
        origin.port,
    )?;
    let like_nginx = ours.path().join("nginx");
    let like_haproxy = ours.path().join("haproxy");
    let template = LogFormat::Template(TOLD.to_owned());
    let as_nginx = Engine::start(origin.port, &like_nginx, template)?;
    let as_haproxy = Engine::start(origin.port, &like_haproxy, LogFormat::Haproxy)?;
    let all = [
        ports[0],
        ports[1],
        as_nginx.address.port(),
        as_haproxy.address.port(),
    ];
    let cases: [&[&str]; 4] = [&["/"], &["/missing?a=b"], &["/none"], &["-d", "abc", "/"]];
    for (index, case) in cases.iter().enumerate() {
        let (path, options) = case.split_last().context("a path")?;
        for port in all {
            let asked = || {
                let mut curl = Command::new(&curl);
                curl.args(["-s", "--http2-prior-knowledge", "-H", "Host: a"])
                    .args(options);
                curl.arg(format!("http://127.0.0.1:{port}{path}"));
                Ok(curl.output()?.status.success())
            };
            until("curl has an answer", asked)?;
        }
        // Octets of a request's head are those of HPACK, which each compresses in its own way.
        let masked: &[usize] = &[5, 7];
        let nginx = told(&line_of(&of_nginx.path().join("stdout"), index)?, masked)?;
        let told = told(&line_of(&like_nginx, index)?, masked)?;
        expect_same("as nginx", told.as_bytes(), nginx.as_bytes())?;
        let haproxy = story(&line_of(&of_haproxy.path().join("stdout"), index)?)?;
        let told = story(&line_of(&like_haproxy, index)?)?;
        expect_same("as HAProxy", told.as_bytes(), haproxy.as_bytes())?;
    }
    Ok(())
}

/// A pipe that nobody reads, a device that is full: requests are served, lines are counted as lost.
#[test]
fn a_log_that_cannot_be_written_costs_no_request() -> Result<()> {
    use std::sync::atomic::Ordering::Relaxed;
    let origin = Origin::start()?;
    let folder = TempDir::new()?;
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU)?;
    // Open for reading, or nobody could open it for writing; but never read.
    let held = fs::OpenOptions::new().read(true).write(true).open(&pipe)?;
    for (path, is_slow) in [(&*pipe, true), (Path::new("/dev/full"), false)] {
        let engine = Engine::start(origin.port, path, LogFormat::Json)?;
        let counters = std::sync::Arc::clone(engine.workers.log_counters());
        // Refused at once, and logged with a long line each.
        let line = "x".repeat(1000);
        let request = format!("GET /empty HTTP/1.1\r\nHost: a\r\nUser-Agent: {line}\r\n\r\n");
        let many = request.repeat(50).into_bytes();
        let lost = || match is_slow {
            true => counters.dropped_behind.load(Relaxed),
            false => counters.dropped_failed.load(Relaxed),
        };
        let mut stream = connect(engine.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let (mut asked, mut answer) = (0, Vec::new());
        while lost() == 0 {
            stream.write_all(&many)?;
            for _ in 0..50 {
                read_answer(&mut stream, &mut answer)?;
                ensure!(answer.starts_with(b"HTTP/1.1 503 "), "an answer");
            }
            asked += 50;
            ensure!(asked < 50_000, "nothing is ever lost: {counters:?}");
        }
        if is_slow {
            ensure!(counters.errors.load(Relaxed) == 0, "a slow log is no error");
        }
        drop(stream);
        drop(engine);
    }
    drop(held);
    Ok(())
}

/// Reads one answer with a `Content-Length`.
fn read_answer(stream: &mut TcpStream, answer: &mut Vec<u8>) -> Result<()> {
    answer.clear();
    let mut octet = [0];
    while !answer.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut octet)?;
        answer.push(octet[0]);
    }
    let head = String::from_utf8_lossy(answer).to_ascii_lowercase();
    let (_, length) = head.split_once("content-length: ").context("a length")?;
    let length = length.lines().next().unwrap_or_default().parse()?;
    let mut content = vec![0; length];
    stream.read_exact(&mut content)?;
    Ok(())
}
