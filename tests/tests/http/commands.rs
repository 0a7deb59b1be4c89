//! Commands that tell operators about the running daemon.

use crate::daemon::{Daemon, ok};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

#[test]
fn backends_are_listed_for_people_and_for_programs() {
    let origin = ok();
    let daemon = Daemon::start(origin.address, "", "");
    let text = daemon.sluice(&["upstreams"]);
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[0].starts_with("SERVICE") && lines.len() == 2,
        "{text}"
    );
    let address = origin.address.to_string();
    assert!(
        lines[1].starts_with("app") && lines[1].contains(&address),
        "{text}"
    );
    let json = daemon.sluice(&["upstreams", "app", "--json"]);
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(
        (&json[0]["service"], &json[0]["state"]),
        (&"app".into(), &"up".into())
    );
    let yaml = daemon.sluice(&["upstreams", &format!("app/{address}"), "-o", "yaml"]);
    let yaml: Value = serde_saphyr::from_str(&yaml).expect("YAML");
    assert_eq!(yaml[0]["address"], json[0]["address"]);

    assert_eq!(
        daemon.sluice(&["upstreams", "--not-up", "-o", "json"]),
        "[]\n"
    );
    daemon.sluice(&["drain", "app", &address]);
    let text = daemon.sluice(&["upstreams", "--not-up"]);
    assert!(
        text.contains("draining") && text.contains("by operator"),
        "{text}"
    );
    let unknown = daemon.try_sluice(&["upstreams", "shop"]);
    assert_eq!(unknown.status.code(), Some(1));
}

#[test]
fn a_bundle_has_state_and_configuration_without_secrets() {
    let origin = ok();
    let route = "routes: [{name: all, service: app, request_headers: {set: {X-Key: s3cret}}}]";
    let daemon = Daemon::start(origin.address, "", route);
    let file = daemon.path("bundle.tar.gz");
    let name = file.to_str().expect("UTF-8");
    daemon.sluice(&["debug", "bundle", name]);
    let mode = fs::metadata(&file).expect("written").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let read = |part: &str| unpacked(&file, part);
    let config = read("config.yaml");
    assert!(
        config.contains("X-Key") || config.contains("x-key"),
        "{config}"
    );
    assert!(
        config.contains("(redacted)") && !config.contains("s3cret"),
        "{config}"
    );
    let status: Value = serde_json::from_str(&read("status.json")).expect("JSON");
    assert_eq!(status["services"][0]["name"], "app");
    for (part, has) in [
        ("README.txt", "all metrics"),
        ("metrics.txt", "sluice_build_info"),
        ("version.json", "\"revision\""),
        ("daemon-version.json", "\"revision\""),
        ("check.txt", "STATUS"),
        ("readyz.txt", "ready"),
        ("process.txt", "Max open files"),
        ("host.txt", "/proc/version"),
    ] {
        let text = read(part);
        assert!(text.contains(has), "{part}: {text}");
        assert!(!text.contains("s3cret"), "{part}: {text}");
    }

    // Nothing is overwritten.
    let before = fs::read(&file).expect("there");
    let again = daemon.try_sluice(&["debug", "bundle", name]);
    assert_eq!(again.status.code(), Some(1));
    assert_eq!(fs::read(&file).expect("there"), before);

    // Without the daemon there is what can be had.
    let socket = daemon.path("admin.sock");
    fs::rename(&socket, daemon.path("moved.sock")).expect("moved");
    let half = daemon.path("half.tar.gz");
    let config = daemon.path("sluice.yaml");
    let output = daemon.try_sluice(&[
        "debug",
        "bundle",
        half.to_str().expect("UTF-8"),
        "-c",
        config.to_str().expect("UTF-8"),
    ]);
    fs::rename(daemon.path("moved.sock"), &socket).expect("moved back");
    assert_eq!(output.status.code(), Some(3));
    assert!(unpacked(&half, "README.txt").contains("cannot reach the daemon"));
    let config = unpacked(&half, "config-file.yaml");
    assert!(
        config.contains("(redacted)") && !config.contains("s3cret"),
        "{config}"
    );
}

/// A file of a bundle.
fn unpacked(bundle: &Path, part: &str) -> String {
    let output = Command::new("tar")
        .arg("-xzOf")
        .arg(bundle)
        .args(["--wildcards", &format!("*/{part}")])
        .output()
        .expect("tar is there");
    assert!(output.status.success(), "{part}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}
