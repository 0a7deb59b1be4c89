//! What scanners say of a listener with every default: nothing that is weak.
//!
//! `testssl.sh` is asked for protocols, cipher suites by strength, forward secrecy, the server's
//! preferences and defaults, and all vulnerabilities that it knows; not for the lists of single
//! cipher suites and of simulated clients, which take minutes and have no verdict.

use crate::support::{Origin, Proxy};
use proxy_tests::certificates::{Authority, Issued, Key, Request};
use proxy_userspace::config::model::tls::{CertificateSource, ServerTls};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longest run of a scanner, on a machine that is busy.
const LONGEST: Duration = Duration::from_secs(900);

/// Findings of `testssl.sh` that are none, and why.
const ALLOWED: &[(&str, &str)] = &[
    // The suites are those of RFC 9325 §4.2 and ChaCha20: none is weaker than another, and the
    // client knows which its processor is fast at. Mozilla's recommendations say the same.
    ("cipher_order", "the client's order decides, on purpose"),
    ("engine_problem", "the scanner's openssl need not know GOST"),
    // All of these are of the certificate that the test has made.
    ("cert_revocation", "the test's authority names no responder"),
    ("cert_expirationStatus", "the test's certificate"),
    ("cert_notAfter", "the test's certificate"),
    ("cert_extlifeSpan", "the test's certificate"),
    ("cert_validityPeriod", "the test's certificate"),
    ("cert_chain_of_trust", "nobody trusts the test's authority"),
    ("cert_serialNumberLen", "the test's certificate"),
    // Its client leaves at once, now and then before the tickets have come, and then finds no session to
    // resume; `tls::sessions_are_resumed_by_tickets_and_by_the_cache` asks for more.
    ("sessionresumption_ticket", "it does not wait for tickets"),
    (
        "cert_trust",
        "the test's certificate is for an address, too",
    ),
    ("DNS_CAArecord", "nobody owns the test's name"),
];

/// Severities that `testssl.sh` gives to what is good, or neither.
const HARMLESS: &[&str] = &["OK", "INFO", "DEBUG"];

fn site(edit: impl FnOnce(&mut ServerTls)) -> (Proxy, TempDir, Origin) {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::new("test CA");
    std::fs::write(folder.path().join("ca.pem"), authority.pem()).expect("writes");
    let source = |name: &str, issued: &Issued| {
        let (certificate, key) = issued.write(folder.path(), name);
        CertificateSource::Files {
            certificate,
            key,
            ocsp: None,
        }
    };
    let issue = |key| {
        authority.issue_as(&Request {
            names: &["localhost", "127.0.0.1", "::1"],
            common_name: "localhost",
            key,
            ..Request::default()
        })
    };
    let mut tls = ServerTls::new(vec![
        source("ecdsa", &issue(Key::Ecdsa)),
        source("rsa", &issue(Key::Rsa)),
    ]);
    edit(&mut tls);
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let proxy = Proxy::with(&[origin.address], |config| {
        config.http_listeners[0].tls = Some(tls);
    });
    (proxy, folder, origin)
}

/// Runs a scanner to its end. `None` where it is not installed.
fn scan(command: &mut Command) -> Option<()> {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else {
        let required = std::env::var_os("SLUICE_REQUIRE_PRIVILEGED").is_some();
        assert!(!required, "{command:?} is not installed");
        eprintln!("skipped: {command:?} is not installed");
        return None;
    };
    let deadline = Instant::now() + LONGEST;
    while child.try_wait().expect("can be asked").is_none() {
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{command:?} does not end");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Some(())
}

/// What `testssl.sh` finds: ids, severities, and words.
fn testssl(
    address: SocketAddr,
    folder: &TempDir,
    checks: &[&str],
) -> Option<Vec<(String, String, String)>> {
    let findings = folder.path().join(format!("findings{}", checks.len()));
    let mut command = Command::new("testssl");
    if address.is_ipv6() {
        command.arg("-6");
    }
    command
        .args(["--quiet", "--color", "0", "--warnings", "off"])
        .args([
            "--openssl",
            "/usr/bin/openssl",
            "--nodns",
            "min",
            "--jsonfile",
        ])
        .arg(&findings)
        .arg("--add-ca")
        .arg(folder.path().join("ca.pem"))
        .args(checks)
        .arg(address.to_string())
        .env("TERM", "dumb");
    scan(&mut command)?;
    let text = std::fs::read_to_string(&findings).expect("findings");
    let findings: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let findings = findings.as_array().expect("a list");
    let word = |finding: &serde_json::Value, key: &str| {
        finding[key].as_str().unwrap_or_default().to_owned()
    };
    let triple = |finding| {
        let [id, severity, words] = ["id", "severity", "finding"].map(|key| word(finding, key));
        (id, severity, words)
    };
    Some(findings.iter().map(triple).collect())
}

/// An id without the number of the certificate that it is about.
fn plain(id: &str) -> &str {
    id.split([' ', '<']).next().unwrap_or(id)
}

#[test]
fn testssl_finds_nothing_weak() {
    let (proxy, folder, _origin) = site(|_| {});
    let checks = ["-p", "-s", "-f", "-P", "-S", "-U"];
    let Some(found) = testssl(proxy.address, &folder, &checks) else {
        return;
    };
    let bad: Vec<_> = found
        .iter()
        .filter(|(_, severity, _)| !HARMLESS.contains(&severity.as_str()))
        .filter(|(id, ..)| !ALLOWED.iter().any(|(allowed, _)| *allowed == plain(id)))
        .collect();
    assert!(bad.is_empty(), "{bad:#?}");
    // It has seen what there is to see.
    let verdict = |id: &str| {
        let found = found.iter().find(|(found, ..)| plain(found) == id);
        found.map(|(_, severity, words)| (severity.as_str(), words.as_str()))
    };
    for (id, severity) in [
        ("SSLv2", "OK"),
        ("SSLv3", "OK"),
        ("TLS1_2", "OK"),
        ("TLS1_3", "OK"),
        ("heartbleed", "OK"),
        ("ROBOT", "OK"),
        ("secure_client_renego", "OK"),
        ("CRIME_TLS", "OK"),
        ("SWEET32", "OK"),
        ("LOGJAM", "OK"),
        ("BEAST", "OK"),
        ("LUCKY13", "OK"),
        ("RC4", "OK"),
    ] {
        let found = verdict(id).unwrap_or_else(|| panic!("{id} is missing: {found:#?}"));
        assert_eq!(found.0, severity, "{id}: {}", found.1);
    }
    // Its name before 3.2, and since.
    let secrecy = verdict("PFS").or(verdict("FS"));
    assert_eq!(secrecy.map(|(severity, _)| severity), Some("OK"));
}

#[test]
fn testssl_sees_our_order_where_it_decides() {
    let (proxy, folder, _origin) = site(|tls| tls.server_preference = true);
    let Some(found) = testssl(proxy.address, &folder, &["-P"]) else {
        return;
    };
    let order = found.iter().find(|(id, ..)| id == "cipher_order");
    let (_, severity, words) = order.expect("a finding");
    assert_eq!(severity, "OK", "{words}");
}

/// What an element of sslscan's report has as an attribute.
fn attribute<'x>(element: &'x str, name: &str) -> Option<&'x str> {
    let (_, rest) = element.split_once(&format!(" {name}=\""))?;
    rest.split('"').next()
}

#[test]
fn sslscan_lists_nothing_weak() {
    let (proxy, folder, _origin) = site(|_| {});
    let report = folder.path().join("report");
    let mut command = Command::new("sslscan");
    command
        .arg(format!("--xml={}", report.display()))
        .arg(proxy.address.to_string());
    if scan(&mut command).is_none() {
        return;
    }
    let text = std::fs::read_to_string(&report).expect("a report");
    let elements = |name: &str| -> Vec<&str> {
        let start = format!("<{name} ");
        text.lines()
            .map(str::trim)
            .filter(|line| line.starts_with(&start))
            .collect()
    };
    let versions: Vec<_> = elements("protocol")
        .into_iter()
        .filter(|line| attribute(line, "enabled") == Some("1"))
        .filter_map(|line| attribute(line, "version"))
        .collect();
    assert_eq!(versions, ["1.2", "1.3"], "{text}");
    let ciphers = elements("cipher");
    assert!(ciphers.len() >= 6, "{text}");
    for cipher in ciphers {
        let strength = attribute(cipher, "strength");
        assert!(
            matches!(strength, Some("strong" | "acceptable")),
            "{cipher}"
        );
        let name = attribute(cipher, "cipher").expect("a name");
        let is_aead = name.contains("GCM") || name.contains("CHACHA20");
        let is_secret = name.starts_with("TLS_") || name.starts_with("ECDHE");
        assert!(is_aead && is_secret, "{name}");
    }
    for bleeding in elements("heartbleed") {
        assert_eq!(attribute(bleeding, "vulnerable"), Some("0"), "{bleeding}");
    }
    let renegotiation = elements("renegotiation");
    assert_eq!(attribute(renegotiation[0], "supported"), Some("0"));
    assert!(!text.contains("compression supported=\"1\""), "{text}");
}
