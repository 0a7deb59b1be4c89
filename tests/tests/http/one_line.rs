//! `sluice explain`, as users call it.

use proxy_tests::daemon::sluice;
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
