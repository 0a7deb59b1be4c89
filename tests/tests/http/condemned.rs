//! Condemned sources without a kernel part: connections are reset as soon as they are accepted.
//! Sources are addresses of loopback, which is not exempt here.

use crate::daemon::{Daemon, ok};
use crate::support::{Client, Origin, eventually};
use proxy_tests::certificates::Authority;
use serde_json::Value;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;

const ABUSER: &str = "127.0.0.66";
const OTHER: &str = "127.0.0.67";

/// Three malformed requests condemn, and three of anything else.
const CONDEMN: &str = "condemn: {exempt: [], spare_above: 50%, \
                       offences: {malformed: 3, flood: 3, handshake: 3, slow: 3}}";

/// A request whose field is folded.
const FOLDED: &str = "GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n";

fn daemon(origin: &Origin, listener: &str, condemn: &str) -> Daemon {
    Daemon::start(origin.address, listener, condemn)
}

/// What `GET /` is answered from a source; `None` if the connection is reset.
fn status(daemon: &Daemon, source: &str) -> Option<u16> {
    let mut client = Client::from(source, daemon.address);
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let head = client.head()?;
    head.split(' ').nth(1)?.parse().ok()
}

/// Offends so many times from a source, each on a connection of its own.
fn offend(address: SocketAddr, source: &str, times: u32) {
    for _ in 0..times {
        let mut client = Client::from(source, address);
        client.send(FOLDED);
        // Refused, or, after the last one, perhaps cut off.
        let _ = client.head();
    }
}

/// Ends the process that has taken over, which is nobody's child.
struct Successor<'d>(&'d Daemon);

impl Drop for Successor<'_> {
    fn drop(&mut self) {
        let _ = self.0.try_sluice(&["stop", "--now"]);
    }
}

fn listed(daemon: &Daemon) -> Vec<Value> {
    let text = daemon.sluice(&["guard", "list", "--condemned", "-o", "json"]);
    serde_json::from_str(&text).expect("a list")
}

fn metric(daemon: &Daemon, sample: &str) -> u64 {
    let mut stream = UnixStream::connect(daemon.path("admin.sock")).expect("connects");
    let asked = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(asked.as_bytes()).expect("asks");
    let mut page = String::new();
    stream.read_to_string(&mut page).expect("answers");
    let line = page.lines().find_map(|line| line.strip_prefix(sample));
    let value = line.unwrap_or_else(|| panic!("no {sample} in\n{page}"));
    value.trim().parse().expect("a number")
}

fn judged(daemon: &Daemon, offence: &str, result: &str) -> u64 {
    let sample = format!("sluice_condemnations_total{{offence=\"{offence}\",result=\"{result}\"}}");
    metric(daemon, &sample)
}

#[test]
fn an_abuser_is_cut_off_until_it_is_pardoned_and_others_are_not() {
    let origin = ok();
    let daemon = daemon(&origin, "", CONDEMN);
    offend(daemon.address, ABUSER, 2);
    assert_eq!(status(&daemon, ABUSER), Some(200));
    offend(daemon.address, ABUSER, 1);
    eventually("it is cut off", || status(&daemon, ABUSER).is_none());
    assert_eq!(status(&daemon, OTHER), Some(200));
    let listed = listed(&daemon);
    assert_eq!(listed.len(), 1, "{listed:?}");
    let entry = &listed[0];
    assert_eq!(entry["source"], format!("{ABUSER}/32"), "{entry}");
    assert_eq!(
        (&entry["owner"], &entry["offence"], &entry["times"]),
        (&"policy".into(), &"malformed".into(), &1.into())
    );
    let left = entry["expires_in_seconds"].as_f64().expect("it ends");
    assert!((1.0..=600.0).contains(&left), "{left}");
    assert!(metric(&daemon, "sluice_condemned_connections_total") > 0);
    assert_eq!(metric(&daemon, "sluice_condemned_sources"), 1);
    assert_eq!(judged(&daemon, "malformed", "condemned"), 1);

    daemon.sluice(&["guard", "remove", ABUSER]);
    assert_eq!(status(&daemon, ABUSER), Some(200));
    assert_eq!(metric(&daemon, "sluice_condemned_sources"), 0);
    // What it has done is forgotten.
    offend(daemon.address, ABUSER, 2);
    assert_eq!(status(&daemon, ABUSER), Some(200));
}

#[test]
fn refused_credentials_and_limited_requests_condemn_where_that_is_asked_for() {
    let origin = Origin::new(|mut proxy, _| {
        while let Some(head) = proxy.head() {
            let status = match head.split(' ').nth(1) {
                Some("/limited") => "429 Too Many Requests",
                _ => "401 Unauthorized",
            };
            proxy.send(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"));
        }
    });
    let asked = "condemn: {exempt: [], offences: {limited: 4, unauthorized: 3}}";
    let daemon = daemon(&origin, "", asked);
    let ask = |source: &str, path: &str, field: &str, times: u32| {
        let mut client = Client::from(source, daemon.address);
        for _ in 0..times {
            client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{field}\r\n"));
            let head = client.head().expect("an answer");
            assert!(head.starts_with("HTTP/1.1 4"), "{head}");
        }
    };
    let guess = "Authorization: Basic YTpi\r\n";
    // A browser asks without credentials first, as often as it likes.
    ask(OTHER, "/", "", 9);
    ask(OTHER, "/", guess, 2);
    ask(ABUSER, "/", guess, 3);
    eventually("it is cut off", || status(&daemon, ABUSER).is_none());
    assert_eq!(judged(&daemon, "unauthorized", "condemned"), 1);
    assert_eq!(status(&daemon, OTHER), Some(401));
    ask(OTHER, "/limited", "", 4);
    eventually("it is cut off", || status(&daemon, OTHER).is_none());
    assert_eq!(judged(&daemon, "limited", "condemned"), 1);
}

#[test]
fn garbage_instead_of_tls_is_an_offence() {
    let origin = ok();
    let folder = tempfile::tempdir().expect("a folder");
    let issued = Authority::new("tests").issue(&["a.test"]);
    let (certificate, key) = issued.write(folder.path(), "a");
    let (certificate, key) = (certificate.display(), key.display());
    let tls = format!(", tls: {{certificates: [{{certificate: {certificate}, key: {key}}}]}}");
    let daemon = daemon(&origin, &tls, CONDEMN);
    for _ in 0..3 {
        let mut client = Client::from(ABUSER, daemon.address);
        client.send([0x16, 3, 1, 0, 5, 0xff, 0, 0, 1, 0]);
        let _ = client.rest();
    }
    eventually("it is condemned", || {
        judged(&daemon, "handshake", "condemned") == 1
    });
}

#[test]
fn a_connection_of_http2_that_breaks_its_rules_offends() {
    let origin = ok();
    let daemon = daemon(&origin, "", CONDEMN);
    for _ in 0..3 {
        let mut client = Client::from(ABUSER, daemon.address);
        client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        // SETTINGS, then DATA on stream 0 (RFC 9113 §6.1).
        client.send([0, 0, 0, 4, 0, 0, 0, 0, 0]);
        client.send([0, 0, 1, 0, 0, 0, 0, 0, 0, 7]);
        let _ = client.rest();
    }
    eventually("it is condemned", || {
        judged(&daemon, "malformed", "condemned") == 1
    });
}

#[test]
fn nobody_is_condemned_for_what_a_proxy_passes_on() {
    let origin = ok();
    let keys = ", proxy_protocol_from: [127.0.0.66], forwarded: {trusted: [127.0.0.67]}";
    let daemon = daemon(&origin, keys, CONDEMN);
    for _ in 0..6 {
        let mut told = Client::from(ABUSER, daemon.address);
        told.send("PROXY TCP4 198.51.100.9 192.0.2.1 1000 80\r\n");
        told.send(FOLDED);
        assert!(told.head().is_some_and(|head| head.contains(" 400 ")));
        let mut trusted = Client::from(OTHER, daemon.address);
        trusted.send(
            "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 198.51.100.9\r\nX: b\r\n c\r\n\r\n",
        );
        assert!(trusted.head().is_some_and(|head| head.contains(" 400 ")));
    }
    let exempt = r#"sluice_offences_total{offence="malformed",standing="exempt"}"#;
    eventually("all are counted", || metric(&daemon, exempt) == 12);
    let counted = r#"sluice_offences_total{offence="malformed",standing="counted"}"#;
    assert_eq!(metric(&daemon, counted), 0);
    assert!(listed(&daemon).is_empty());
}

#[test]
fn an_address_whose_connections_mostly_behave_is_spared() {
    let origin = ok();
    let daemon = daemon(&origin, "", CONDEMN);
    // Three have ended, and three are open.
    offend(daemon.address, ABUSER, 1);
    for _ in 0..3 {
        assert_eq!(status(&daemon, ABUSER), Some(200));
    }
    let open: Vec<Client> = (0..3)
        .map(|_| {
            let mut client = Client::from(ABUSER, daemon.address);
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(client.answer().status, 200);
            client
        })
        .collect();
    offend(daemon.address, ABUSER, 2);
    eventually("it is judged", || {
        judged(&daemon, "malformed", "spared") == 1
    });
    assert!(listed(&daemon).is_empty());
    assert_eq!(status(&daemon, ABUSER), Some(200));
    drop(open);
}

#[test]
fn a_dry_run_counts_and_does_nothing() {
    let origin = ok();
    let dry = CONDEMN.replace("exempt", "dry_run: true, exempt");
    let daemon = daemon(&origin, "", &dry);
    offend(daemon.address, ABUSER, 3);
    eventually("it is judged", || {
        judged(&daemon, "malformed", "dry_run") == 1
    });
    assert!(listed(&daemon).is_empty());
    assert_eq!(status(&daemon, ABUSER), Some(200));
}

#[test]
fn condemnations_survive_an_upgrade_and_end_with_the_section() {
    let origin = ok();
    let daemon = daemon(&origin, "", CONDEMN);
    offend(daemon.address, ABUSER, 3);
    eventually("it is cut off", || status(&daemon, ABUSER).is_none());
    daemon.sluice(&["guard", "add", OTHER, "--expires", "10m"]);
    assert_eq!(status(&daemon, OTHER), None);
    let _successor = Successor(&daemon);
    daemon.sluice(&["upgrade"]);
    assert_eq!(status(&daemon, ABUSER), None);
    assert_eq!(status(&daemon, OTHER), None);
    assert_eq!(listed(&daemon)[0]["offence"], "malformed");
    daemon.sluice(&["reload"]);
    assert_eq!(status(&daemon, ABUSER), None);

    // Who is exempt now is let in, whoever was condemned before.
    let exempt = CONDEMN.replace("exempt: []", "exempt: [127.0.0.0/8]");
    daemon.write(origin.address, "", &exempt);
    daemon.sluice(&["reload"]);
    assert_eq!(status(&daemon, ABUSER), Some(200));
    assert!(listed(&daemon).is_empty());
    // The operator's own rule stands.
    assert_eq!(status(&daemon, OTHER), None);
    daemon.sluice(&["guard", "remove", OTHER]);
    assert_eq!(status(&daemon, OTHER), Some(200));
}

#[test]
fn a_full_register_condemns_nobody_else() {
    let origin = ok();
    let one = CONDEMN.replace("exempt", "max_entries: 1, exempt");
    let daemon = daemon(&origin, "", &one);
    offend(daemon.address, ABUSER, 3);
    eventually("it is cut off", || status(&daemon, ABUSER).is_none());
    offend(daemon.address, OTHER, 3);
    eventually("the other is judged", || {
        judged(&daemon, "malformed", "full") == 1
    });
    assert_eq!(status(&daemon, OTHER), Some(200));
}

#[test]
fn an_operator_who_lets_a_source_pass_is_heeded() {
    let origin = ok();
    let daemon = daemon(&origin, "", CONDEMN);
    daemon.sluice(&["guard", "add", ABUSER, "--allow"]);
    offend(daemon.address, ABUSER, 3);
    eventually("it is judged", || {
        judged(&daemon, "malformed", "spared") == 1
    });
    assert_eq!(status(&daemon, ABUSER), Some(200));
}
