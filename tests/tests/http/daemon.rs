//! `sluice run` without a kernel part: what operators do to it, and what it shows.

use crate::h2_support::{begin, connect, get, whole};
use crate::support::{Client, Origin, PATIENCE, eventually};
use crate::websocket::{WebSocket, echo};
use nix::sys::signal::Signal;
use proxy_tests::alone::{Process, unused_address};
use proxy_tests::daemon::sluice;
use proxy_userspace::observe::view::View;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tempfile::TempDir;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// A daemon with its files.
pub(crate) struct Daemon {
    process: Process,
    folder: TempDir,
    pub(crate) address: SocketAddr,
}

impl Daemon {
    /// Starts it with one listener; `more` are keys of the listener and of the file.
    pub(crate) fn start(to: SocketAddr, listener: &str, more: &str) -> Self {
        Self::start_logging(to, listener, more, Stdio::inherit())
    }

    /// As [`Self::start`]; its own log goes somewhere else.
    fn start_logging(to: SocketAddr, listener: &str, more: &str, log: Stdio) -> Self {
        Self::launch(&service(to), listener, more, log)
    }

    /// Starts it with one listener in front of `app`, which has these keys.
    pub(crate) fn before(service: &str) -> Self {
        Self::launch(service, "", "workers: {count: 2}", Stdio::inherit())
    }

    fn launch(service: &str, listener: &str, more: &str, log: Stdio) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let address = unused_address();
        let file = folder.path().join("sluice.yaml");
        fs::write(&file, text(&folder, address, service, listener, more)).expect("writes");
        let child = Command::new(sluice().expect("built"))
            .args(["run", "-c"])
            .arg(&file)
            .stderr(log)
            .spawn()
            .expect("starts");
        let daemon = Self {
            process: Process(child),
            folder,
            address,
        };
        eventually("it listens", || TcpStream::connect(address).is_ok());
        eventually("it is ready", || {
            daemon.try_sluice(&["status"]).status.success()
        });
        daemon
    }

    pub(crate) fn write(&self, to: SocketAddr, listener: &str, more: &str) {
        let text = text(&self.folder, self.address, &service(to), listener, more);
        fs::write(self.path("sluice.yaml"), text).expect("writes");
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs `sluice WORDS…` towards it.
    pub(crate) fn try_sluice(&self, words: &[&str]) -> Output {
        Command::new(sluice().expect("built"))
            .args(words)
            .arg("--socket")
            .arg(self.path("admin.sock"))
            .output()
            .expect("runs")
    }

    pub(crate) fn sluice(&self, words: &[&str]) -> String {
        let output = self.try_sluice(words);
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{words:?}: {complaint}");
        String::from_utf8(output.stdout).expect("text")
    }

    fn view(&self) -> View {
        serde_json::from_str(&self.sluice(&["status", "--json"])).expect("a view")
    }
}

/// The keys of a service with one backend.
fn service(to: SocketAddr) -> String {
    format!("backends: ['{to}']")
}

fn text(
    folder: &TempDir,
    address: SocketAddr,
    service: &str,
    listener: &str,
    more: &str,
) -> String {
    let (ip, port) = (address.ip(), address.port());
    format!(
        "admin: {{socket: {}/admin.sock}}\n\
         listeners: [{{name: web, kind: http, address: '{ip}', port: {port}, service: app{listener}}}]\n\
         services: [{{name: app, {service}}}]\n{more}\n",
        folder.path().display(),
    )
}

pub(crate) fn ok() -> Origin {
    Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
}

#[test]
fn status_metrics_and_api_show_requests_and_connections() {
    let origin = Origin::new(|mut client, _| {
        while let Some(head) = client.head() {
            let status = if head.starts_with("GET /bad") {
                "500 No"
            } else {
                "200 OK"
            };
            client.send(format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nok"));
        }
    });
    let daemon = Daemon::start(origin.address, "", "workers: {count: 1}");
    let mut client = Client::to(daemon.address);
    for path in ["/", "/", "/bad", "/%00"] {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        client.answer();
    }
    let mut kept = Client::to(daemon.address);
    kept.send(GET);
    kept.answer();
    let mut view = View::default();
    eventually("all is counted", || {
        view = daemon.view();
        view.http_listeners[0].requests == 5
    });
    let listener = &view.http_listeners[0];
    assert_eq!(listener.address, daemon.address.to_string());
    assert_eq!((listener.errors(), listener.refused), (1, 1));
    assert_eq!(listener.responses.get("2xx"), Some(&3));
    assert!(
        listener.connections_active >= 1 && listener.sent_bytes > 0,
        "{listener:?}"
    );
    let service = &view.services[0];
    let policy = service.proxy.as_ref().map(|proxy| proxy.policy.as_str());
    assert_eq!(policy, Some("round-robin"));
    let backend = service.backends[0].proxy.clone();
    let backend = backend.expect("used by the proxies");
    assert_eq!(
        (backend.requests, backend.errors, backend.in_flight),
        (4, 1, 0)
    );
    assert_eq!((backend.connections, backend.idle), (1, 1));

    let shown = daemon.sluice(&["status"]);
    for part in ["LISTENER", "app  proxy  round-robin", "IDLE", "web"] {
        assert!(shown.contains(part), "{part}:\n{shown}");
    }
    assert!(
        !shown.contains("flows") && !shown.contains("interfaces"),
        "{shown}"
    );
    let metrics = curl_socket(&daemon, "/metrics");
    let labels = format!("service=\"app\",backend=\"{}\"", origin.address);
    for (name, value) in [("idle", 1), ("active", 0)] {
        let line = format!("sluice_upstream_connections_{name}{{{labels}}} {value}");
        assert!(metrics.contains(&line), "{line}:\n{metrics}");
    }
    let services = curl_socket(&daemon, "/api/v1/services");
    assert!(services.contains("\"in_flight\":0"), "{services}");
}

fn curl_socket(daemon: &Daemon, path: &str) -> String {
    let socket = daemon.path("admin.sock");
    let url = format!("http://sluice{path}");
    let words = ["--unix-socket", socket.to_str().expect("text"), &url];
    String::from_utf8(crate::peers::curl(&words)).expect("text")
}

#[test]
fn an_operator_drains_a_backend_and_takes_it_back() {
    let named = |name: &str| {
        Origin::answering(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{name}"
        ))
    };
    let (a, b) = (named("a"), named("b"));
    let daemon = Daemon::start(a.address, "", "");
    let both = format!("'{}', '{}'", a.address, b.address);
    let file = fs::read_to_string(daemon.path("sluice.yaml")).expect("text");
    let one = format!("'{}'", a.address);
    fs::write(daemon.path("sluice.yaml"), file.replace(&one, &both)).expect("writes");
    daemon.sluice(&["reload"]);
    let mut client = Client::to(daemon.address);
    let mut heard = || {
        let answers = (0..4).map(|_| {
            client.send(GET);
            client.answer().text()
        });
        answers.collect::<String>()
    };
    eventually("both answer", || {
        let heard = heard();
        heard.contains('a') && heard.contains('b')
    });
    daemon.sluice(&["drain", "app", &a.address.to_string()]);
    eventually("one has no more", || heard() == "bbbb");
    let state = |view: View| view.services[0].backends[0].state.clone();
    assert_eq!(state(daemon.view()), "draining");
    daemon.sluice(&["undrain", "app", &a.address.to_string()]);
    eventually("both answer again", || heard().contains('a'));
}

#[test]
fn a_reload_keeps_a_websocket_and_takes_listeners_away() {
    let (one, two) = (echo("one"), echo("two"));
    let daemon = Daemon::start(one.address, "", "");
    let mut socket = WebSocket::open(daemon.address, "/", "");
    assert_eq!(socket.echo("hello"), "one: hello");
    daemon.write(two.address, ", limits: {fields: 50}", "");
    daemon.sluice(&["reload"]);
    eventually("new ones go elsewhere", || {
        WebSocket::open(daemon.address, "/", "").echo("x") == "two: x"
    });
    assert_eq!(socket.echo("still here"), "one: still here");
    // A file with a fault changes nothing.
    fs::write(daemon.path("sluice.yaml"), "listeners: {").expect("writes");
    assert!(!daemon.try_sluice(&["reload"]).status.success());
    assert!(socket.echo("and here").ends_with("and here"));
    assert!(socket.close());
}

#[test]
fn logs_are_opened_again_when_told() {
    let origin = ok();
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("access.log");
    let listener = format!(", access_log: {{to: {}, format: common}}", log.display());
    let daemon = Daemon::start(origin.address, &listener, "");
    let mut client = Client::to(daemon.address);
    let mut get = |path: &str| {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(client.answer().status, 200);
    };
    let has = |path: &std::path::Path, what: &str| {
        fs::read_to_string(path).is_ok_and(|text| text.contains(what))
    };
    get("/before");
    eventually("the first is logged", || has(&log, "/before"));
    type Tell = fn(&Daemon);
    let ways: [(&str, Tell); 2] = [
        ("signal", |daemon| daemon.process.signal(Signal::SIGUSR1)),
        ("command", |daemon| drop(daemon.sluice(&["reopen"]))),
    ];
    for (way, tell) in ways {
        let old = folder.path().join(way);
        fs::rename(&log, &old).expect("moved");
        let (between, after) = (format!("/before-{way}"), format!("/after-{way}"));
        get(&between);
        eventually("the old file gets the next", || has(&old, &between));
        tell(&daemon);
        eventually("a new file is there", || log.exists());
        get(&after);
        eventually("the new file gets the one after", || has(&log, &after));
        assert!(!has(&old, &after), "{way}");
    }
}

#[test]
fn health_is_told_by_an_exit_code() {
    let origin = ok();
    let daemon = Daemon::start(origin.address, "", "");
    assert_eq!(daemon.sluice(&["healthcheck"]), "ready\n");
    let socket = daemon.path("admin.sock");
    let moved = daemon.path("moved.sock");
    fs::rename(&socket, &moved).expect("moved");
    let output = daemon.try_sluice(&["healthcheck"]);
    fs::rename(&moved, &socket).expect("moved back");
    assert_eq!(output.status.code(), Some(1));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(complaint.contains("cannot reach the daemon"), "{complaint}");
}

#[test]
fn a_log_that_cannot_be_written_harms_nobody() {
    let (one, two) = (echo("one"), echo("two"));
    let full = fs::File::options().write(true).open("/dev/full");
    let full = Stdio::from(full.expect("a device that is always full"));
    let mut daemon = Daemon::start_logging(one.address, "", "", full);
    for to in [two.address, one.address, two.address] {
        daemon.write(to, "", "");
        daemon.sluice(&["reload"]);
    }
    eventually("requests go to the last", || {
        WebSocket::open(daemon.address, "/", "").echo("x") == "two: x"
    });
    daemon.process.signal(Signal::SIGTERM);
    assert!(daemon.process.has_ended_well());
}

/// An origin that answers once it is let go.
fn held() -> (Origin, Arc<AtomicBool>) {
    let go = Arc::new(AtomicBool::new(false));
    let gone = Arc::clone(&go);
    let origin = Origin::new(move |mut client, _| {
        while client.head().is_some() {
            eventually("let go", || gone.load(Ordering::SeqCst));
            client.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone");
        }
    });
    (origin, go)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_lets_requests_of_both_versions_end() {
    let (origin, go) = held();
    let mut daemon = Daemon::start(origin.address, "", "workers: {drain_timeout: 1m}");
    let h2 = connect(daemon.address).await;
    let (response, mut stream) = begin(&h2, get("/")).await;
    stream.send_data(bytes::Bytes::new(), true).expect("sent");
    let mut h1 = Client::to(daemon.address);
    h1.send(GET);
    let mut idle = Client::to(daemon.address);
    eventually("both requests are there", || origin.connections() == 2);
    daemon.process.signal(Signal::SIGTERM);
    eventually("nobody new is served", || {
        TcpStream::connect(daemon.address).is_err()
    });
    assert!(idle.is_ended(), "connections without a request end at once");
    // GOAWAY: no further stream on the old connection. It is asked for by no request, because one
    // that comes before the GOAWAY is served, and the origin holds all of them.
    let deadline = std::time::Instant::now() + PATIENCE;
    while h2.clone().ready().await.is_ok() {
        assert!(std::time::Instant::now() < deadline, "no GOAWAY");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    go.store(true, Ordering::SeqCst);
    let answer = h1.answer();
    assert_eq!(
        (answer.text().as_str(), answer.field("connection")),
        ("done", Some("close"))
    );
    let answer = whole(response).await.expect("answered");
    assert_eq!(answer.text(), "done");
    assert!(daemon.process.has_ended_well());
}

#[test]
fn a_stop_waits_until_its_deadline_and_no_longer() {
    let (origin, _never) = held();
    let mut daemon = Daemon::start(origin.address, "", "workers: {drain_timeout: 500ms}");
    let mut client = Client::to(daemon.address);
    client.send(GET);
    eventually("the request is there", || origin.connections() == 1);
    let began = std::time::Instant::now();
    daemon.process.signal(Signal::SIGTERM);
    assert!(daemon.process.has_ended_well());
    assert!(
        began.elapsed() >= Duration::from_millis(500),
        "it has waited"
    );
    assert!(client.is_ended(), "and cut it off");
}

/// A daemon with a request that its origin does not answer yet, and whose own log is read.
fn asked(origin: &Origin) -> (Daemon, Client, impl Fn(&str) + use<>) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log");
    let log = fs::File::create(&path).expect("a log").into();
    let daemon = Daemon::start_logging(origin.address, "", "workers: {drain_timeout: 1m}", log);
    let mut client = Client::to(daemon.address);
    client.send(GET);
    eventually("the request is there", || origin.connections() == 1);
    let says = move |what: &str| {
        let _kept = &folder;
        eventually(what, || {
            fs::read_to_string(&path).is_ok_and(|text| text.contains(what))
        });
    };
    (daemon, client, says)
}

#[test]
fn a_quit_lets_requests_end_however_often_it_is_sent() {
    let (origin, go) = held();
    let (mut daemon, mut client, says) = asked(&origin);
    daemon.process.signal(Signal::SIGQUIT);
    eventually("nobody new is served", || {
        TcpStream::connect(daemon.address).is_err()
    });
    daemon.process.signal(Signal::SIGQUIT);
    says("told again: stopping already");
    go.store(true, Ordering::SeqCst);
    assert_eq!(client.answer().text(), "done");
    assert!(daemon.process.has_ended_well());
}

#[test]
fn a_second_term_waits_for_nothing() {
    for first in [Signal::SIGTERM, Signal::SIGQUIT] {
        let (origin, _never) = held();
        let (mut daemon, mut client, says) = asked(&origin);
        daemon.process.signal(first);
        says("waiting for connections to end");
        daemon.process.signal(Signal::SIGTERM);
        // Sooner than the drain's deadline, which is a minute.
        assert!(daemon.process.has_ended_well(), "{first}");
        assert!(client.is_ended(), "{first}");
    }
}

#[test]
fn a_proxy_of_one_line_knows_the_same_signals() {
    let (origin, go) = held();
    for last in [Signal::SIGQUIT, Signal::SIGTERM] {
        go.store(false, Ordering::SeqCst);
        let before = origin.connections();
        let (mut proxy, address) = proxy_tests::alone::proxy(origin.address, &[]);
        let mut client = Client::to(address);
        client.send(GET);
        eventually("the request is there", || origin.connections() > before);
        proxy.signal(Signal::SIGQUIT);
        eventually("nobody new is served", || {
            TcpStream::connect(address).is_err()
        });
        proxy.signal(last);
        if last == Signal::SIGTERM {
            assert!(client.is_ended(), "cut off");
        } else {
            go.store(true, Ordering::SeqCst);
            assert_eq!(client.answer().text(), "done");
        }
        assert!(proxy.has_ended_well());
    }
}
