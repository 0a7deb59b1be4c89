//! What `sluice observe` shows of connections that no packet path has seen.

use crate::daemon::{Daemon, ok};
use crate::h2_support::{connect, get, soon};
use crate::support::{Client, eventually};
use proxy_tests::alone::Process;
use proxy_tests::family;
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

/// Every flow is traced; the spans go nowhere.
const ALL: &str = "tracing: {endpoint: 'http://127.0.0.1:1', flow_every: 1}";

/// The stages of the past that these filters want.
fn noted(daemon: &Daemon, filters: &[&str]) -> Vec<Value> {
    let mut words = vec!["observe", "--json", "--last", "1000", "--sample", "1/1"];
    words.extend(filters);
    let text = daemon.sluice(&words);
    let json = |line| serde_json::from_str(line).expect("JSON");
    text.lines().map(json).collect()
}

/// As [`noted`], once so many are the last of their requests.
fn ended(daemon: &Daemon, filters: &[&str], count: usize) -> Vec<Value> {
    let mut stages = Vec::new();
    eventually("the requests are over", || {
        stages = noted(daemon, filters);
        let ends = stages.iter().filter(|stage| stage["stage"] == "status");
        ends.count() >= count
    });
    stages
}

fn names(stages: &[Value]) -> Vec<String> {
    let name = |stage: &Value| {
        let name = stage["stage"].as_str().unwrap_or_default();
        let number = stage["request"].as_u64();
        format!(
            "{name}{}",
            number.map_or(String::new(), |it| it.to_string())
        )
    };
    stages.iter().map(name).collect()
}

#[test]
fn a_connection_is_shown_once_and_each_of_its_requests() {
    let origin = ok();
    let daemon = Daemon::start(origin.address, "", ALL);
    let mut client = Client::to(daemon.address);
    for path in ["/a?secret=1", "/b"] {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
        assert_eq!(client.answer().status, 200);
    }
    let source = client.local_address();
    let stages = ended(&daemon, &["--path", "/"], 2);
    assert_eq!(
        names(&stages),
        [
            "accept", "request1", "route1", "attempt1", "status1", //
            "request2", "route2", "attempt2", "status2",
        ]
    );
    for stage in &stages {
        assert_eq!(stage["id"], stages[0]["id"]);
        assert_eq!(stage["source"], source.to_string());
        assert_eq!(stage["destination"], daemon.address.to_string());
    }
    assert_eq!(stages[1]["path"], "/a", "queries may hold secrets");
    assert_eq!(
        (&stages[3]["reused"], &stages[7]["reused"]),
        (&false.into(), &true.into())
    );
    let trace = stages[4]["trace_id"].as_str().expect("exported");
    assert!(trace.starts_with(stages[0]["id"].as_str().expect("an id")));
    let second = ended(&daemon, &["--path", "/b"], 1);
    assert_eq!(
        names(&second),
        ["accept", "request2", "route2", "attempt2", "status2"]
    );
}

#[test]
fn a_request_that_is_refused_says_why() {
    let origin = ok();
    let daemon = Daemon::start(origin.address, "", ALL);
    let mut client = Client::to(daemon.address);
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n");
    assert_eq!(client.answer().status, 400);
    let stages = ended(&daemon, &["--status", "400"], 1);
    let last = stages.last().expect("a status");
    assert_eq!(names(&stages), ["accept", "status1"]);
    assert!(last["refusal"].is_string(), "{last}");
    assert_eq!(
        (&last["end"], &last["flags"]),
        (&"client_protocol".into(), &"PR".into())
    );
}

#[test]
fn a_proxys_client_is_found_by_its_own_address() {
    let origin = ok();
    let keys = format!(", proxy_protocol_from: ['{}']", family::loopback());
    let daemon = Daemon::start(origin.address, &keys, ALL);
    let mut client = Client::to(daemon.address);
    client.send("PROXY TCP4 198.51.100.9 192.0.2.10 1000 80\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.answer().status, 200);
    let stages = ended(&daemon, &["--source", "198.51.100.0/24"], 1);
    assert_eq!(names(&stages)[..3], ["accept", "proxy", "request1"]);
    let source = client.local_address().to_string();
    assert_eq!(stages[0]["source"], source, "the flow is the proxy's");
    assert_eq!(stages[1]["client"], "198.51.100.9:1000");
}

#[tokio::test]
async fn requests_of_one_connection_have_its_id_and_their_streams() {
    let origin = ok();
    let daemon = Daemon::start(origin.address, "", ALL);
    let mut client = connect(daemon.address).await;
    for _ in 0..2 {
        let (response, _) = client.send_request(get("/h2"), true).expect("sent");
        assert_eq!(soon(response).await.expect("answered").status(), 200);
    }
    let stages = ended(&daemon, &["--path", "/h2"], 2);
    let streams: Vec<_> = stages
        .iter()
        .filter_map(|it| it["stream"].as_u64())
        .collect();
    assert_eq!(streams, [1, 3]);
    assert!(stages.iter().all(|it| it["id"] == stages[0]["id"]));
}

#[test]
fn a_request_that_hangs_is_seen_to_hang_by_whoever_observes() {
    let origin = crate::support::Origin::new(|mut client, _| {
        client.head();
        // Never answered: this ends with the client.
        client.head();
    });
    let daemon = Daemon::start(origin.address, "", "");
    let mut child = Command::new(proxy_tests::daemon::sluice().expect("built"))
        .args(["observe", "--sample", "1/1", "--json", "--socket"])
        .arg(daemon.path("admin.sock"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let _observer = Process(child);
    // Whether it observes already is not to be seen: asked until it does.
    let seen = std::thread::spawn(move || {
        let line = lines.find(|line| line.as_ref().is_ok_and(|it| it.contains("/hangs")));
        line.expect("a line").expect("text")
    });
    let mut clients = Vec::new();
    eventually("the request is seen", || {
        let mut client = Client::to(daemon.address);
        client.send("GET /hangs HTTP/1.1\r\nHost: a.test\r\n\r\n");
        clients.push(client);
        seen.is_finished()
    });
    let stage: Value = serde_json::from_str(&seen.join().expect("seen")).expect("JSON");
    assert_eq!(stage["stage"], "request", "{stage}");
}
