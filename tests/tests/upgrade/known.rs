//! What a process has found out, or was told, is known to the one that takes over.

use crate::support::{Daemon, Origins, eventually};
use proxy_tests::alone::unused_address;
use serde_json::Value;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;

fn view(daemon: &Daemon) -> Value {
    let status = daemon.command(&["status", "--json"]).output();
    serde_json::from_slice(&status.expect("runs").stdout).expect("a view")
}

/// Runs `sluice WORDS…`, which must succeed; gives what it prints.
fn sluice(daemon: &Daemon, words: &[&str]) -> String {
    let output = daemon.command(words).output().expect("runs");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A server whose every answer says that it failed.
fn failing() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let reading = stream.try_clone().expect("copied");
                let lines = BufReader::new(reading).lines().map_while(Result::ok);
                for line in lines {
                    let answer = b"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\nno";
                    if line.is_empty() && stream.write_all(answer).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// Asks once; gives the status.
fn ask(address: SocketAddr) -> u16 {
    let mut client = TcpStream::connect(address).expect("connects");
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .expect("sent");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    let status = answer.split(' ').nth(1).expect("a status");
    status.parse().expect("a number")
}

/// A daemon that has one more listener, of a service with a server that fails.
fn judging(origins: &Origins, rules: &str) -> (Daemon, SocketAddr) {
    let judged = unused_address();
    let (well, ill) = (origins.http, failing());
    let more = "workers: {count: 1, drain_timeout: 10m}";
    let daemon = Daemon::start_as(origins, more, |command, _, folder| {
        let file = folder.join("sluice.yaml");
        let text = fs::read_to_string(&file).expect("reads");
        let (address, port) = (judged.ip(), judged.port());
        let with = text.replace(
            "services:\n",
            &format!(
                "- {{name: judged, kind: http, address: {address}, port: {port}, service: judged}}\n\
                 services:\n\
                 - name: judged\n\
                 \x20 backends:\n\
                 \x20   - {{name: well, address: '{well}'}}\n\
                 \x20   - {{name: ill, address: '{ill}'}}\n\
                 {rules}"
            ),
        );
        fs::write(&file, with).expect("writes");
        command
    });
    (daemon, judged)
}

fn of_judged(view: &Value) -> &Value {
    let services = view["services"].as_array().expect("services");
    let found = services.iter().find(|service| service["name"] == "judged");
    found.expect("the service")
}

fn ill(view: &Value) -> &Value {
    let backends = of_judged(view)["backends"].as_array().expect("backends");
    let found = backends.iter().find(|backend| backend["name"] == "ill");
    found.expect("the backend")
}

#[test]
fn who_is_ejected_stays_so_and_it_is_known_why() {
    let origins = Origins::start();
    let rules =
        "\x20 outlier: {consecutive_5xx: 2, base_ejection_time: 1h, max_ejection_time: 1h}\n";
    let (mut daemon, judged) = judging(&origins, rules);
    eventually("it is ejected", || {
        ask(judged);
        ill(&view(&daemon))["ejection"].is_object()
    });
    let before = ill(&view(&daemon)).clone();
    for _ in 0..2 {
        daemon.upgrade();
        for _ in 0..10 {
            assert_eq!(ask(judged), 200, "the one that is ejected was asked");
        }
        let after = view(&daemon);
        let after = ill(&after);
        for known in ["ejections", "history", "state"] {
            assert_eq!(after[known], before[known], "{known}");
        }
        let explained = sluice(
            &daemon,
            &["explain", "--running", &format!("http://{judged}/")],
        );
        assert!(explained.contains("ill  ejected"), "{explained}");
        assert_eq!(
            after["ejection"]["detector"],
            before["ejection"]["detector"]
        );
        assert_eq!(after["ejection"]["why"], before["ejection"]["why"]);
    }
}

#[test]
fn an_open_circuit_stays_open() {
    let origins = Origins::start();
    let rules = "\x20 outlier: off\n\
                 \x20 circuit: {errors: {share: 10%, min_requests: 2, open: 1h, max_open: 1h}}\n";
    let (mut daemon, judged) = judging(&origins, rules);
    let state = |daemon: &Daemon| of_judged(&view(daemon))["proxy"]["circuit"]["state"].clone();
    eventually("it opens", || {
        ask(judged);
        state(&daemon) == "open"
    });
    daemon.upgrade();
    assert_eq!(state(&daemon), "open");
    assert_eq!(ask(judged), 503);
}

/// Puts a text in force without saving it.
fn apply(daemon: &Daemon, text: &str) {
    let file = daemon.folder.path().join("other.yaml");
    fs::write(&file, text).expect("writes");
    sluice(daemon, &["config", "apply", file.to_str().expect("text")]);
}

#[test]
fn changes_that_are_not_saved_stay_in_force_unless_the_file_is_edited() {
    let origins = Origins::start();
    let mut daemon = Daemon::start(&origins, "workers: {count: 1, drain_timeout: 10m}");
    let file = daemon.folder.path().join("sluice.yaml");
    let text = fs::read_to_string(&file).expect("reads");
    apply(&daemon, &text.replace("interval: 60s", "interval: 61s"));
    let before = view(&daemon)["config"].clone();
    assert_eq!(before["generation"], 2, "{before}");
    assert!(!before["unsaved"].as_array().expect("a list").is_empty());
    let history = sluice(&daemon, &["config", "history"]);
    for _ in 0..2 {
        daemon.upgrade();
        let after = view(&daemon)["config"].clone();
        for known in ["generation", "etag", "unsaved", "loaded_at_seconds"] {
            assert_eq!(after[known], before[known], "{known}");
        }
        assert_eq!(sluice(&daemon, &["config", "history"]), history);
    }

    // To what was in force in the first process, and back.
    sluice(&daemon, &["config", "rollback", "1"]);
    assert_eq!(view(&daemon)["config"]["unsaved"], Value::Null);
    sluice(&daemon, &["config", "rollback", "2"]);
    assert_eq!(view(&daemon)["config"]["unsaved"], before["unsaved"]);

    let edited = text.replace("interval: 60s", "interval: 62s");
    fs::write(&file, edited).expect("writes");
    daemon.upgrade();
    let after = view(&daemon)["config"].clone();
    assert_eq!(
        (&after["generation"], &after["unsaved"]),
        (&Value::from(5), &Value::Null)
    );
    let path = file.to_str().expect("text");
    let said = Command::new(proxy_tests::daemon::sluice().expect("built"))
        .args(["config", "show", "-c", path])
        .output();
    let said = String::from_utf8_lossy(&said.expect("runs").stdout).into_owned();
    assert_eq!(sluice(&daemon, &["config", "show", "--running"]), said);
    sluice(&daemon, &["config", "rollback", "4"]);
    assert_eq!(view(&daemon)["config"]["etag"], before["etag"]);
}

#[test]
fn a_process_that_serves_again_knows_what_is_not_saved() {
    let origins = Origins::start();
    let mut daemon = Daemon::start(&origins, "workers: {count: 1, drain_timeout: 10m}");
    let text = fs::read_to_string(daemon.folder.path().join("sluice.yaml")).expect("reads");
    apply(&daemon, &text.replace("interval: 60s", "interval: 61s"));
    let before = view(&daemon)["config"].clone();
    // Keeps the old process from ending.
    let _kept = crate::clients::Pipe::to(daemon.addresses.http).tunnel();
    let old = daemon.pid();
    let new = daemon.upgrade();
    let killed = Command::new("kill").args(["-9", &new.to_string()]).status();
    assert!(killed.expect("runs").success());
    eventually("the old one serves again", || {
        daemon.pid() == old && daemon.is_serving()
    });
    let after = view(&daemon)["config"].clone();
    for known in ["generation", "etag", "unsaved"] {
        assert_eq!(after[known], before[known], "{known}");
    }
}
