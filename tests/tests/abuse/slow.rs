//! slowhttptest: heads, content and readers that come to no end.

use crate::support::{Daemon, Honest, Origin, is_long};
use proxy_tests::privilege::program;
use std::process::Command;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// A second for everything that the attackers make last. The honest client's kept connection may be
/// idle for as long as a busy machine keeps its thread waiting.
const TIMEOUTS: &str = "timeouts: {head: 1s, body_idle: 1s, idle: 20s, write: 1s, linger: 1s}";

/// How an attack must end.
#[derive(Clone, Copy, PartialEq)]
enum End {
    /// The proxy has closed all of its connections.
    Closed,
    /// It is up to the attacker: each of its octets is taken for progress.
    Any,
}

/// Attacks a proxy that gives clients a second for everything, while others are served: once as it
/// is, and once over TLS.
fn attack(end: End, options: &[&str]) {
    attack_by(Daemon::start, end, options);
    attack_by(Daemon::start_with_tls, end, options);
}

fn attack_by(start: impl FnOnce(&str, &str) -> Daemon, end: End, options: &[&str]) {
    let Some(slowhttptest) = program("slowhttptest", "slowhttptest").expect("installed") else {
        return;
    };
    let files = tempfile::tempdir().expect("a folder");
    std::fs::write(files.path().join("large"), vec![b'x'; 1 << 20]).expect("writes");
    let origin = Origin::saying("ok");
    let daemon = start(
        TIMEOUTS,
        &format!(
            "services: [{{name: app, backends: ['{}']}}]\n\
             routes:\n\
             - {{name: app, listeners: [web], service: app}}\n\
             - {{name: files, listeners: [web], match: [/large], files: {{root: {}}}}}",
            origin.address,
            files.path().display()
        ),
    );
    let door = daemon.door();
    let url = format!("{}://{}/large", door.scheme(), door.address);
    let mut honest = Honest::new();
    let mut kept = door.enter().expect("connects");
    let new = door.clone();
    honest.doing("over a kept connection", move || {
        assert_eq!(kept.ask(GET).expect("an answer"), (200, "ok".to_owned()));
    });
    honest.doing("over a new connection", move || {
        let mut client = new.enter().expect("connects");
        assert_eq!(client.ask(GET).expect("an answer"), (200, "ok".to_owned()));
    });
    let (connections, seconds) = if is_long() {
        ("4000", "60")
    } else {
        ("800", "12")
    };
    let output = Command::new(slowhttptest)
        .args(["-c", connections, "-r", "400", "-l", seconds])
        .args(options)
        .args(["-u", &url])
        .output()
        .expect("runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let is_closed = said.contains("No open connections left");
    assert!(end == End::Any || is_closed, "{said}");
    assert!(honest.end() > 10, "others were served meanwhile");
    let mut after = door.enter().expect("connects");
    assert_eq!(after.ask(GET).expect("an answer").0, 200);
}

#[test]
fn heads_without_end_are_given_up_and_stop_nobody() {
    attack(End::Closed, &["-H", "-i", "1", "-x", "24"]);
}

#[test]
fn content_without_end_is_given_up_and_stops_nobody() {
    attack(End::Closed, &["-B", "-i", "2", "-s", "8192", "-x", "10"]);
}

#[test]
fn readers_that_hardly_read_stop_nobody() {
    attack(
        End::Any,
        &["-X", "-w", "8", "-y", "16", "-n", "1", "-z", "8", "-k", "2"],
    );
}

#[test]
fn ranges_without_number_stop_nobody() {
    attack(End::Any, &["-R", "-a", "1", "-b", "3000", "-t", "GET"]);
}
