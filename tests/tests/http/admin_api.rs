//! The admin API of a real daemon: every path, every refusal, and changes of the configuration that
//! take effect whole or not at all.

use crate::admin_support::{Daemon, Events, Reply, TOKEN};
use crate::support::{Client, eventually};
use proxy_tests::family;
use serde_json::{Value, json};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;

const JSON: (&str, &str) = ("Content-Type", "application/json");
const PATCH: &str = r#"{"weight": 5}"#;
const BACKEND: &str = "/api/v1/config/services/app/backends/b1";

fn document(daemon: &Daemon) -> Value {
    daemon.get("/openapi.json").expect(200).json()
}

/// The schema of an answer, with all that it refers to.
fn schema(document: &Value, path: &str, method: &str) -> Option<Value> {
    let responses = &document["paths"][path][method]["responses"];
    let schema = &responses["200"]["content"]["application/json"]["schema"];
    if schema.is_null() {
        return None;
    }
    let mut schema = schema.clone();
    schema["components"] = document["components"].clone();
    Some(schema)
}

#[test]
fn every_path_of_the_document_answers_as_it_says() {
    let daemon = Daemon::start("");
    // Something to show.
    let mut client = Client::to(daemon.web);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.answer().status, 200);
    let document = document(&daemon);
    assert_eq!(document["openapi"], "3.1.0");
    let mut judged = 0;
    for (path, operations) in document["paths"].as_object().expect("paths") {
        // These do not end.
        if path.ends_with("/events") || path.ends_with("/observe") {
            continue;
        }
        let filled = path
            .replace("{service}", "app")
            .replace("{backend}", "b1")
            .replace("{section}", "services")
            .replace("{name}", "app")
            .replace("{generation}", "1");
        let Some(operation) = operations.get("get") else {
            let reply = daemon.get(&filled).expect(405);
            assert_eq!(reply.json()["kind"], "method", "{path}");
            continue;
        };
        let types = &operation["responses"]["200"]["content"];
        let is_json = !types["application/json"].is_null() && types["application/yaml"].is_null();
        let filled = match types["application/yaml"].is_null() && path != "/stats" {
            true => filled,
            false => format!("{filled}?format=json"),
        };
        let reply = daemon.get(&filled).expect(200);
        assert!(
            reply.field("content-type").is_some_and(|found| {
                let found = found.split(';').next().unwrap_or_default();
                types
                    .as_object()
                    .is_some_and(|types| types.contains_key(found))
            }),
            "{path}: {}",
            reply.head
        );
        if let Some(schema) = schema(&document, path, "get") {
            let body = reply.json();
            let validator = jsonschema::validator_for(&schema).expect("a schema");
            let errors: Vec<_> = validator
                .iter_errors(&body)
                .map(|error| format!("{}: {error}", error.instance_path()))
                .collect();
            assert!(errors.is_empty(), "{path}: {errors:#?}");
            judged += usize::from(is_json);
        }
    }
    assert!(judged >= 12, "only {judged} answers were judged");
}

#[test]
fn a_change_of_one_weight_takes_effect_and_is_told_as_unsaved() {
    let daemon = Daemon::start("");
    let before = daemon.etag();
    let reply = daemon.send("PATCH", BACKEND, &before, PATCH).expect(200);
    let answer = reply.json();
    assert_eq!(
        answer["changes"],
        json!(["service app: backend b1: weight 1 → 5"])
    );
    assert_eq!(answer["generation"], 2);
    assert_eq!(answer["saved"], false);
    assert_eq!(daemon.weight(), 5);
    assert_ne!(reply.etag(), before);
    assert_eq!(daemon.etag(), reply.etag());
    let status = daemon.get("/api/v1/status").json();
    assert_eq!(status["config"]["unsaved"], answer["changes"]);
    // A reload of the file undoes it, and says so and how to get it back.
    let answer = daemon
        .ask("POST", "/api/v1/reload", &[JSON], "")
        .expect(200)
        .json();
    let warning = answer["warnings"][0].as_str().expect("a warning");
    assert!(warning.contains("backend b1: weight 1 → 5"), "{warning}");
    assert!(warning.contains("sluice config rollback 2"), "{warning}");
    assert_eq!(daemon.weight(), 1);
    assert_eq!(daemon.etag(), before);
    let text = daemon.sluice(&["config", "rollback", "2"]);
    assert!(text.contains("weight 1 → 5"), "{text}");
    assert_eq!(daemon.weight(), 5);
}

#[test]
fn a_saved_change_is_in_the_file_and_survives_a_reload() {
    let daemon = Daemon::start("");
    let path = format!("{BACKEND}?save=true");
    let answer = daemon.send("PATCH", &path, "*", PATCH).expect(200).json();
    assert_eq!(answer["saved"], true);
    let file = fs::read_to_string(daemon.path("sluice.yaml")).expect("reads");
    assert!(file.starts_with("# Written by sluice"), "{file}");
    let answer = daemon
        .ask("POST", "/api/v1/reload", &[JSON], "")
        .expect(200)
        .json();
    assert_eq!(answer["changes"], json!([]));
    assert_eq!(daemon.weight(), 5);
    let left = fs::read_dir(daemon.folder.path()).expect("lists");
    let left = left.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    assert!(!left.into_iter().any(|name| name.ends_with(".new")));
}

#[test]
fn a_whole_configuration_is_put_with_its_comments_or_not_at_all() {
    let daemon = Daemon::start("");
    let text = daemon.get("/api/v1/config?source=text").expect(200).body;
    assert!(text.starts_with("# Kept as it is."), "{text}");
    let changed = text.replace("weight: 1", "weight: 7");
    let fields = [("Content-Type", "application/yaml"), ("If-Match", "*")];
    let path = "/api/v1/config?save=true";
    daemon.ask("PUT", path, &fields, &changed).expect(200);
    assert_eq!(daemon.weight(), 7);
    let file = fs::read_to_string(daemon.path("sluice.yaml")).expect("reads");
    assert_eq!(file, changed);
    // Every fault at once, with its place.
    let broken = changed
        .replace("weight: 7", "weigth: 8")
        .replace("kind: http", "kind: htp");
    let refusal = daemon.ask("PUT", path, &fields, &broken).expect(422).json();
    assert_eq!(refusal["kind"], "invalid");
    assert_eq!(
        refusal["details"].as_array().map(Vec::len),
        Some(2),
        "{refusal}"
    );
    assert_eq!(daemon.weight(), 7);
    let file = fs::read_to_string(daemon.path("sluice.yaml")).expect("reads");
    assert_eq!(file, changed);
}

#[test]
fn a_configuration_is_judged_and_left_alone() {
    let daemon = Daemon::start("");
    let text = daemon.get("/api/v1/config?source=text").expect(200).body;
    let judge = |kind: &str, text: &str| {
        let fields = [("Content-Type", kind)];
        daemon.ask("POST", "/api/v1/validate", &fields, text)
    };
    let changed = text.replace("weight: 1", "weight: 7");
    let good = judge("application/yaml", &changed).expect(200).json();
    assert_eq!(good["valid"], true, "{good}");
    let broken = text
        .replace("weight: 1", "weigth: 8")
        .replace("kind: http", "kind: htp");
    let bad = judge("application/yaml", &broken).expect(200).json();
    assert_eq!(bad["valid"], false);
    let faults = bad["faults"].as_array().expect("faults");
    assert_eq!(faults.len(), 2, "{bad}");
    assert!(
        faults
            .iter()
            .all(|it| it["severity"] == "error" && it["line"].as_u64() > Some(0)),
        "{bad}"
    );
    // The command says the same, but for the name.
    let file = daemon.path("broken.yaml");
    fs::write(&file, &broken).expect("writes");
    let output = std::process::Command::new(proxy_tests::daemon::sluice().expect("built"))
        .args(["validate", "--format", "json", "-c"])
        .arg(&file)
        .output()
        .expect("runs");
    let mut told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    for fault in told["faults"].as_array_mut().expect("faults") {
        fault["file"] = "the request".into();
    }
    assert_eq!(told, bad);
    assert_eq!(
        judge("application/json", "{").expect(400).json()["kind"],
        "malformed"
    );
    let merge = "application/merge-patch+json";
    assert_eq!(judge(merge, "{}").expect(415).json()["kind"], "unsupported");
    assert_eq!(daemon.weight(), 1);
    let status = daemon.get("/api/v1/status").json();
    assert_eq!(status["config"]["generation"], 1);
}

#[test]
fn a_dry_run_tells_all_and_changes_nothing() {
    let daemon = Daemon::start("");
    let (etag, status) = (daemon.etag(), daemon.get("/api/v1/status").json());
    for (method, path, body) in [
        ("PATCH", BACKEND, PATCH),
        ("DELETE", "/api/v1/config/listeners/web", ""),
        (
            "PATCH",
            "/api/v1/config",
            r#"{"guard": {"deny": ["192.0.2.0/24"]}}"#,
        ),
        (
            "PUT",
            "/api/v1/config/services/more",
            r#"{"backends": ["127.0.0.1:1"]}"#,
        ),
    ] {
        let path = format!("{path}?dry_run=true");
        let reply = daemon.ask(method, &path, &[JSON], body);
        // Without its listener the routes point nowhere: refused, and that is told as well.
        if reply.status == 422 {
            continue;
        }
        let answer = reply.expect(200).json();
        assert_eq!(answer["dry_run"], true, "{path}");
        assert_ne!(answer["changes"], json!([]), "{path}");
        assert_eq!(answer["generation"], 1);
    }
    assert_eq!(daemon.etag(), etag);
    let after = daemon.get("/api/v1/status").json();
    assert_eq!(after["config"], status["config"]);
    assert_eq!(
        daemon
            .get("/api/v1/config/history")
            .json()
            .as_array()
            .map(Vec::len),
        Some(1)
    );
}

#[test]
fn a_listener_comes_and_goes_while_the_daemon_runs() {
    let daemon = Daemon::start("");
    let address = proxy_tests::alone::unused_address();
    let entry = json!({
        "kind": "tcp", "address": address.ip(), "port": address.port(), "service": "app",
    });
    let path = "/api/v1/config/listeners/plain";
    daemon
        .send("PUT", path, "*", &entry.to_string())
        .expect(200);
    let mut client = Client::to(address);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.answer().status, 200);
    let found = daemon
        .get("/api/v1/connections?listener=plain")
        .expect(200)
        .json();
    assert_eq!(found["total"], 1, "{found}");
    assert_eq!(found["connections"][0]["protocol"], "tcp");
    assert!(
        found["connections"][0]["sent_bytes"].as_u64() > Some(10),
        "{found}"
    );
    daemon
        .ask("DELETE", path, &[("If-Match", "*")], "")
        .expect(200);
    eventually("nobody listens there", || {
        TcpStream::connect(address).is_err()
    });
    daemon.get(path).expect(404);
}

#[test]
fn of_writers_at_the_same_time_one_wins() {
    let daemon = Daemon::start("");
    let etag = daemon.etag();
    let replies: Vec<Reply> = thread::scope(|scope| {
        let writers: Vec<_> = (10..18)
            .map(|weight| {
                let (daemon, etag) = (&daemon, &etag);
                let body = json!({ "weight": weight }).to_string();
                scope.spawn(move || daemon.send("PATCH", BACKEND, etag, &body))
            })
            .collect();
        let joined = writers
            .into_iter()
            .map(|writer| writer.join().expect("ends"));
        joined.collect()
    });
    let of = |status| {
        replies
            .iter()
            .filter(|reply| reply.status == status)
            .count()
    };
    assert_eq!((of(200), of(412)), (1, 7), "{replies:?}");
    let history = daemon.get("/api/v1/config/history").json();
    assert_eq!(history.as_array().map(Vec::len), Some(2));
    assert_eq!(history[0]["how"], "patch item");
    assert!(
        history[0]["by"]
            .as_str()
            .is_some_and(|by| by.starts_with("user ")),
        "{history}"
    );
}

#[test]
fn refusals_have_their_statuses() {
    let daemon = Daemon::start("");
    let stale = "\"0000000000000000\"";
    let json = |method: &str, path: &str, body: &str| daemon.send(method, path, "*", body).status;
    assert_eq!(daemon.send("PATCH", BACKEND, stale, PATCH).status, 412);
    assert_eq!(daemon.ask("PATCH", BACKEND, &[JSON], PATCH).status, 428);
    let weak = format!("W/{}", daemon.etag());
    assert_eq!(daemon.send("PATCH", BACKEND, &weak, PATCH).status, 412);
    assert_eq!(daemon.send("PATCH", BACKEND, "no tag", PATCH).status, 400);
    assert_eq!(json("PATCH", BACKEND, "{"), 400);
    assert_eq!(json("PATCH", BACKEND, "[]"), 422);
    assert_eq!(json("PATCH", BACKEND, r#"{"weight": -1}"#), 422);
    assert_eq!(json("PATCH", BACKEND, r#"{"name": "b2"}"#), 422);
    assert_eq!(
        json("PATCH", "/api/v1/config/services/app/backends/b9", "{}"),
        404
    );
    assert_eq!(json("PATCH", "/api/v1/config/servants/app", "{}"), 404);
    assert_eq!(
        json("POST", "/api/v1/config/rollback", r#"{"generation": 99}"#),
        404
    );
    assert_eq!(
        json(
            "POST",
            "/api/v1/drain",
            r#"{"service": "app", "backend": "b9"}"#
        ),
        404
    );
    assert_eq!(json("POST", "/api/v1/drain", r#"{"service": "app"}"#), 422);
    assert_eq!(json("PUT", "/api/v1/log", r#"{"level": "=,="}"#), 422);
    assert_eq!(json("GET", "/api/v1/connections?limit=x", ""), 422);
    assert_eq!(json("GET", "/stats?filter=(", ""), 422);
    assert_eq!(json("GET", "/nowhere", ""), 404);
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
    ] {
        let reply = daemon.ask("POST", "/api/v1/reload", &[("Content-Type", kind)], "{}");
        assert_eq!(reply.expect(415).json()["kind"], "unsupported");
    }
    assert_eq!(daemon.ask("POST", "/api/v1/reload", &[], "").status, 415);
    // A page that got here by a tunnel, and by a name that it has bound to this address.
    let host = [("Host", "evil.example")];
    assert_eq!(daemon.ask("GET", "/api/v1/status", &host, "").status, 403);
    let origin = [("Host", "localhost"), ("Origin", "http://evil.example")];
    assert_eq!(daemon.ask("GET", "/api/v1/status", &origin, "").status, 403);
    assert_eq!(daemon.weight(), 1);
    assert_eq!(
        daemon.get("/api/v1/status").json()["config"]["generation"],
        1
    );
}

#[test]
fn an_unauthenticated_caller_gets_nothing() {
    let daemon = Daemon::with_api();
    let wrong = format!("Bearer {TOKEN}!");
    let document = document(&daemon);
    let paths = document["paths"].as_object().expect("paths");
    let more = ["/nowhere".to_owned(), "/api/v1".to_owned()];
    for path in paths.keys().chain(&more) {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"] {
            for fields in [&[JSON][..], &[JSON, ("Authorization", wrong.as_str())]] {
                let reply = daemon.ask_tcp(method, path, fields, "{}");
                assert_eq!(reply.status, 401, "{method} {path}");
                assert!(reply.field("www-authenticate").is_some());
                assert!(reply.body.len() < 200, "{reply:?}");
            }
        }
    }
    let bearer = format!("Bearer {TOKEN}");
    let known = ("Authorization", bearer.as_str());
    let ask = |fields: &[(&str, &str)]| daemon.ask_tcp("GET", "/api/v1/status", fields, "");
    ask(&[known]).expect(200);
    ask(&[known, ("Host", "evil.example")]).expect(403);
    ask(&[known, ("Origin", "http://evil.example")]).expect(403);
    let reply = daemon.ask_tcp("PATCH", BACKEND, &[known, JSON, ("If-Match", "*")], PATCH);
    reply.expect(200);
    assert_eq!(daemon.weight(), 5);
    // The token is read again with the configuration; one that is none is refused.
    fs::write(daemon.path("token"), "another token altogether").expect("writes");
    daemon
        .ask("POST", "/api/v1/certificates/reload", &[JSON], "")
        .expect(200);
    ask(&[known]).expect(401);
    ask(&[("Authorization", "Bearer another token altogether")]).expect(200);
    fs::write(daemon.path("token"), "short").expect("writes");
    daemon
        .ask("POST", "/api/v1/reload", &[JSON], "")
        .expect(422);
    ask(&[("Authorization", "Bearer another token altogether")]).expect(200);
}

#[test]
fn public_metrics_are_all_that_is_public() {
    let daemon =
        Daemon::start("listen: {ADMIN}, api: true, metrics: public, token: {file: {FOLDER}/token}");
    for path in ["/metrics", "/livez", "/readyz?verbose", "/healthz"] {
        daemon.ask_tcp("GET", path, &[], "").expect(200);
    }
    for path in [
        "/",
        "/stats",
        "/openapi.json",
        "/config_dump",
        "/api/v1/version",
    ] {
        daemon.ask_tcp("GET", path, &[], "").expect(401);
    }
    // Without the API, the address serves numbers and nothing else.
    let daemon = Daemon::start("listen: {ADMIN}");
    daemon.ask_tcp("GET", "/metrics", &[], "").expect(200);
    daemon.ask_tcp("GET", "/api/v1/status", &[], "").expect(404);
    daemon
        .ask_tcp("POST", "/api/v1/reload", &[JSON], "")
        .expect(404);
}

#[test]
fn events_go_on_after_the_last_one_that_was_seen() {
    let daemon = Daemon::start("");
    let mut first = Events::follow(&daemon, "/api/v1/events?past=true", None);
    let (begin, _) = first.until("started");
    let drain = json!({"service": "app", "backend": "b1"}).to_string();
    daemon
        .ask("POST", "/api/v1/drain", &[JSON], &drain)
        .expect(200);
    let (seen, event) = first.until("app/b1 drains");
    assert_eq!(
        (&event["topic"], &event["backend"]),
        (&json!("drain"), &json!("b1"))
    );
    drop(first);
    daemon
        .ask("POST", "/api/v1/undrain", &[JSON], &drain)
        .expect(200);
    daemon.send("PATCH", BACKEND, "*", PATCH).expect(200);
    let mut again = Events::follow(&daemon, "/api/v1/events", Some(&seen));
    let (_, event) = again.until("\"id\"");
    assert!(
        event["message"]
            .as_str()
            .is_some_and(|text| text.contains("takes traffic again"))
    );
    let (_, event) = again.until("weight 1 → 5");
    assert_eq!(
        (&event["topic"], &event["generation"]),
        (&json!("config"), &json!(2))
    );
    let text = daemon.sluice(&["events", "--after", &begin, "--count", "2"]);
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(
        text.contains("drain") && text.contains("app/b1 drains"),
        "{text}"
    );
    daemon
        .ask("GET", "/api/v1/events?after=nonsense", &[], "")
        .expect(422);
}

#[test]
fn the_log_level_changes_and_expires() {
    let daemon = Daemon::start("");
    let body = json!({"level": "debug", "expires_in_seconds": 0.2}).to_string();
    let view = daemon
        .ask("PUT", "/api/v1/log", &[JSON], &body)
        .expect(200)
        .json();
    assert_eq!(
        (&view["level"], &view["default"]),
        (&json!("debug"), &json!("info"))
    );
    eventually("it has expired", || {
        daemon.get("/api/v1/log").json()["level"] == "info"
    });
}

#[test]
fn every_command_speaks_the_api() {
    let daemon = Daemon::start("");
    let mut client = Client::to(daemon.web);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.answer().status, 200);
    let text = daemon.sluice(&["connections", "--listener", "web"]);
    assert!(text.contains("h1"), "{text}");
    let file = fs::read_to_string(daemon.path("sluice.yaml")).expect("reads");
    let new = daemon.path("new.yaml");
    fs::write(&new, file.replace("weight: 1", "weight: 3")).expect("writes");
    let new = new.to_str().expect("text");
    let text = daemon.sluice(&["config", "apply", new, "--dry-run"]);
    assert!(
        text.starts_with("1 changes would be made") && daemon.weight() == 1,
        "{text}"
    );
    let text = daemon.sluice(&["config", "apply", new]);
    assert!(
        text.contains("weight 1 → 3") && daemon.weight() == 3,
        "{text}"
    );
    let stale = daemon.try_sluice(&["config", "apply", new, "--if-match", "0123"]);
    assert!(!stale.status.success());
    let text = daemon.sluice(&["config", "history"]);
    assert!(
        text.lines().count() == 3 && text.contains("weight 1 → 3"),
        "{text}"
    );
    let text = daemon
        .get("/stats?filter=sluice_config_last_reload_successful")
        .body;
    assert_eq!(text, "sluice_config_last_reload_successful: 1\n");
}

/// A certificate for a loopback address, with its key, signed by itself.
fn certificate(name: &str) -> (String, String) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let names = vec![family::loopback().to_string()];
    let mut parameters = rcgen::CertificateParams::new(names).expect("names");
    parameters
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    let certificate = parameters.self_signed(&key).expect("signed");
    (certificate.pem(), key.serialize_pem())
}

#[test]
fn over_tls_a_client_certificate_opens() {
    // The files must be there before the daemon starts, and its folder is made with it.
    let files = tempfile::tempdir().expect("a folder");
    let path = |name: &str| files.path().join(name);
    for name in ["server", "admin", "stranger"] {
        let (certificate, key) = certificate(name);
        fs::write(path(&format!("{name}.pem")), certificate).expect("writes");
        fs::write(path(&format!("{name}.key")), key).expect("writes");
    }
    let folder = files.path().display();
    let daemon = Daemon::start(&format!(
        "listen: {{ADMIN}}, api: true, certificate: {folder}/server.pem, key: {folder}/server.key, \
         client_ca: {folder}/admin.pem"
    ));
    let curl = |who: Option<&str>| {
        let mut command = std::process::Command::new("curl");
        command.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--cacert"]);
        command.arg(path("server.pem"));
        if let Some(who) = who {
            command.arg("--cert").arg(path(&format!("{who}.pem")));
            command.arg("--key").arg(path(&format!("{who}.key")));
        }
        command.arg(format!("https://{}/api/v1/status", daemon.admin));
        let output = command.output().expect("curl runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(curl(Some("admin")), "200");
    assert_eq!(curl(None), "401");
    // Its signature is not that of a signer: it does not get through the handshake.
    assert_eq!(curl(Some("stranger")), "000");
    let certificates = daemon.get("/api/v1/certificates").expect(200).json();
    assert_eq!(certificates[0]["used_by"], "admin");
    assert_eq!(certificates[0]["names"], json!([family::loopback()]));
    // In clear, nobody is answered.
    let mut plain = TcpStream::connect(daemon.admin).expect("connects");
    plain
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        .expect("sends");
    let mut octets = Vec::new();
    let _ = plain.read_to_end(&mut octets);
    assert!(!octets.starts_with(b"HTTP"), "{octets:?}");
}
