//! `sluice explain`, and what the one-line commands print, as users call them.

use crate::support::{Client, eventually};
use proxy_tests::alone::{Process, unused_address};
use proxy_tests::daemon::sluice;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples")
        .join(name)
}

/// Exit code and standard output.
fn explain(file: &str, words: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(sluice().expect("built"))
        .args(["explain", "-c"])
        .arg(example(file))
        .args(words)
        .output()
        .expect("runs");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(complaint.is_empty(), "{complaint}");
    let text = String::from_utf8(output.stdout).expect("text");
    (output.status.code(), text)
}

#[test]
fn a_request_is_explained_from_listener_to_backend() {
    let url = "http://www.example.com:8080/api/internal";
    let (code, text) = explain("http.yaml", &[url]);
    assert_eq!(code, Some(0));
    for part in [
        "not-for-the-public",
        "answer      403",
        "listener    web  http  0.0.0.0:8080",
    ] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    let words = ["POST", "http://api.example.com:8080/api/x", "-H", "X-A: b"];
    let (code, text) = explain("http.yaml", &words);
    assert_eq!(code, Some(0));
    for part in [
        "considered  not-for-the-public",
        "no: the path is /api/x",
        "route       api",
        "service     api  auto  least-requests",
        "10.1.1.9:9000  weight 1  backup",
        "layer       user space",
    ] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
}

#[test]
fn programs_get_json() {
    let url = "http://www.example.com:8080/";
    let (code, text) = explain("http.yaml", &[url, "--json", "--source", "192.0.2.9"]);
    assert_eq!(code, Some(0));
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(json["client"], "192.0.2.9");
    assert_eq!(json["layer"], "user_space");
    assert_eq!(json["route"]["name"], "pages");
    assert_eq!(
        json["route"]["services"][0]["candidates"][0]["backend"],
        "10.1.0.1:8000"
    );
    let last = json["considered"].as_array().and_then(|all| all.last());
    assert_eq!(last.expect("considered")["serves"], true);
}

#[test]
fn what_nobody_serves_ends_with_1() {
    let (code, text) = explain("http.yaml", &["http://elsewhere.example:8080/"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("404: no route matches"), "{text}");
    let (code, text) = explain(
        "http.yaml",
        &["GET /%00 HTTP/1.1", "-H", "Host: example.com"],
    );
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("400 path_nul"), "{text}");
    let (code, text) = explain("l4.yaml", &["--tcp", "198.51.100.9:1", "203.0.113.1:80"]);
    assert_eq!(code, Some(1), "{text}");
}

#[test]
fn a_flow_is_explained_with_its_mode_and_backend() {
    let words = ["--tcp", "198.51.100.9:40000", "192.0.2.10:80"];
    let (code, text) = explain("l4.yaml", &words);
    assert_eq!(code, Some(0), "{text}");
    for part in [
        "layer       kernel",
        "chosen      hash of the flow",
        "backend     ",
    ] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    let (_, json) = explain("l4.yaml", &[&words[..], &["--json"]].concat());
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["layer"], "kernel");
    assert!(json["service"]["choice"].is_string(), "{json}");
    // A URL that leads to a VIP never comes to the proxies.
    let (code, text) = explain("l4.yaml", &["http://192.0.2.10/"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("layer       kernel"), "{text}");
}

/// What the one-line commands print to be gone on from.
fn dumped(words: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(sluice().expect("built"));
    let output = command.args(words).arg("--dump-config").output();
    let output = output.expect("runs");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(complaint.is_empty(), "{complaint}");
    let text = String::from_utf8(output.stdout).expect("text");
    (output.status.code(), text)
}

#[test]
fn a_line_that_was_outgrown_becomes_a_file_that_serves() {
    let origin = crate::daemon::ok();
    let at = unused_address();
    let (from, to) = (at.to_string(), origin.address.to_string());
    let (code, text) = dumped(&["proxy", "--from", &from, "--to", &to, "--workers", "1"]);
    assert_eq!(code, Some(0));
    // Nothing was served meanwhile.
    assert_eq!(origin.connections(), 0);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("sluice.yaml");
    let socket = folder.path().join("admin.sock").display().to_string();
    let text = text.replace("/run/sluice/admin.sock", &socket);
    std::fs::write(&file, &text).expect("writes");
    let mut command = Command::new(sluice().expect("built"));
    let validated = command
        .args(["validate", "--strict", "-c"])
        .arg(&file)
        .output();
    let validated = validated.expect("runs");
    assert!(validated.status.success(), "{validated:?}\n{text}");
    let mut command = Command::new(sluice().expect("built"));
    let daemon = command.args(["run", "-c"]).arg(&file).spawn();
    let _daemon = Process(daemon.expect("starts"));
    eventually("it listens", || TcpStream::connect(at).is_ok());
    let mut client = Client::to(at);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.answer().text(), "ok");
    for words in [
        ["tcp", "--from", &from, "--to", &to],
        ["serve", ".", "--from", &from, "--listing"],
    ] {
        let (code, text) = dumped(&words);
        assert_eq!(code, Some(0));
        assert!(text.contains("listeners:"), "{text}");
    }
}
