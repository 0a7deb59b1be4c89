//! Chromium over HTTPS: a page with its parts, requests with content and a WebSocket, over HTTP/2 and
//! HTTP/1.1. The browser believes the test's own authority and nobody else, as any other browser
//! that verifies does.

use crate::support::{Client, Origin, PATIENCE, eventually, field};
use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proxy_tests::alone::{Process, unused_address};
use proxy_tests::certificates::Authority;
use proxy_tests::chromium::Chromium;
use proxy_tests::daemon::sluice;
use proxy_tests::family;
use serde_json::{Value, json};
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A daemon with three listeners, and what stands behind it.
struct Site {
    _process: Process,
    folder: TempDir,
    /// Speaks HTTP/2 and HTTP/1.1.
    both: SocketAddr,
    /// Speaks HTTP/1.1 alone.
    old: SocketAddr,
    /// Has a certificate of an authority that the browser does not know.
    foreign: SocketAddr,
}

/// `{both}` and the like stand for ports and paths.
const CONFIG: &str = "
admin: {socket: {folder}/admin.sock}
workers: {count: 2}
listeners:
- {name: both, kind: http, address: '{ip}', port: {both}, access_log: {log},
   tls: {certificates: [{certificate: {folder}/site.pem, key: {folder}/site.key}]}}
- {name: old, kind: http, address: '{ip}', port: {old}, access_log: {log}, http2: {enabled: false},
   tls: {certificates: [{certificate: {folder}/site.pem, key: {folder}/site.key}]}}
- {name: foreign, kind: http, address: '{ip}', port: {foreign}, access_log: {log},
   tls: {certificates: [{certificate: {folder}/foreign.pem, key: {folder}/foreign.key}]}}
services: [{name: app, backends: ['{origin}']}]
routes:
- {name: app, match: [/api, /socket], service: app}
- {name: files, files: {root: {site}}}
";

const LOG: &str = "{to: {folder}/access.log, format: \
    '$listener $server_protocol $ssl_protocol $ssl_server_name $status $request_method $uri'}";

impl Site {
    fn start(authority: &Authority) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let _ = authority.issue(&["a.test"]).write(folder.path(), "site");
        let unknown = Authority::new("nobody knows it");
        let _ = unknown.issue(&["a.test"]).write(folder.path(), "foreign");
        let [both, old, foreign] = [(); 3].map(|()| unused_address());
        let config = [
            ("{log}", LOG.to_owned()),
            ("{folder}", folder.path().display().to_string()),
            ("{ip}", both.ip().to_string()),
            ("{both}", both.port().to_string()),
            ("{old}", old.port().to_string()),
            ("{foreign}", foreign.port().to_string()),
            ("{origin}", origin().address.to_string()),
            (
                "{site}",
                concat!(env!("CARGO_MANIFEST_DIR"), "/tests/http/site").to_owned(),
            ),
        ]
        .into_iter()
        .fold(CONFIG.to_owned(), |text, (name, value)| {
            text.replace(name, &value)
        });
        let file = folder.path().join("sluice.yaml");
        fs::write(&file, config).expect("writes");
        let mut command = Command::new(sluice().expect("built"));
        command.args(["run", "-c"]).arg(&file);
        let process = Process(command.spawn().expect("starts"));
        for address in [both, old, foreign] {
            eventually("it listens", || TcpStream::connect(address).is_ok());
        }
        Self {
            _process: process,
            folder,
            both,
            old,
            foreign,
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("access.log")).unwrap_or_default()
    }
}

/// An origin that tells the head of a request, counts its content, or echoes what a WebSocket says.
fn origin() -> Origin {
    Origin::new(|mut client, _| {
        while let Some(head) = client.head() {
            if let Some(key) = field(&head, "sec-websocket-key") {
                return echo(&mut client, key);
            }
            let length = field(&head, "content-length").and_then(|text| text.parse().ok());
            let content = client.exactly(length.unwrap_or(0));
            let answer = match head.contains("/api/count") {
                true => content
                    .iter()
                    .filter(|&&octet| octet == 7)
                    .count()
                    .to_string(),
                false => head,
            };
            let length = answer.len();
            client.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n\
                 {answer}"
            ));
        }
    })
}

/// The origin's end of a WebSocket (RFC 6455): every message comes back.
fn echo(client: &mut Client, key: &str) {
    let joined = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let digest = &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY;
    let digest = aws_lc_rs::digest::digest(digest, joined.as_bytes());
    let accept = STANDARD.encode(digest);
    client.send(format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    ));
    while let Ok([first, second]) = <[u8; 2]>::try_from(client.exactly(2)) {
        let is_long = matches!(second & 0x7f, 126 | 127);
        let extended = match second & 0x7f {
            126 => client.exactly(2),
            127 => client.exactly(8),
            length => vec![length],
        };
        let length = extended
            .iter()
            .fold(0, |sum, &octet| sum << 8 | usize::from(octet));
        let mask = client.exactly(4);
        let covered = client.exactly(length);
        if covered.len() < length {
            return;
        }
        let mut answer = vec![first, second & 0x7f];
        if is_long {
            answer.extend(extended);
        }
        answer.extend(covered.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b));
        client.send(answer);
        if first & 0x0f == 8 {
            return;
        }
    }
}

/// Puts the authority where the browser looks for those that its user believes.
fn believe(authority: &Authority, home: &Path, command: &mut Command) -> anyhow::Result<()> {
    let (base, file) = (home.join(".pki/nssdb"), home.join("ca.pem"));
    fs::create_dir_all(&base)?;
    fs::write(&file, authority.pem())?;
    let base = format!("sql:{}", base.display());
    for words in [
        &["-N", "--empty-password"][..],
        &["-A", "-t", "C,,", "-n", "test", "-i"],
    ] {
        let mut certutil = Command::new("certutil");
        certutil.args(["-d", &base]).args(words);
        if words.contains(&"-i") {
            certutil.arg(&file);
        }
        let output = certutil
            .output()
            .context("libnss3-tools is not installed")?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "certutil {words:?}: {complaint}");
    }
    command.arg(format!(
        "--host-resolver-rules=MAP *.test {}",
        family::host()
    ));
    Ok(())
}

/// What stands in the way of a page, in the browser's words; empty if it came.
fn go(page: &mut Chromium, name: &str, address: SocketAddr) -> String {
    let url = format!("https://{name}:{}/", address.port());
    let went = page.call("Page.navigate", json!({"url": url}));
    let went = went.expect("it answers");
    went["errorText"].as_str().unwrap_or_default().to_owned()
}

/// What the page has found out.
fn found(page: &mut Chromium, address: SocketAddr) -> Value {
    assert_eq!(go(page, "a.test", address), "");
    let deadline = Instant::now() + 6 * PATIENCE;
    loop {
        // Just after it was told to go somewhere the browser has no document.
        let title = page.evaluate("document.title").unwrap_or_default();
        let title = title.as_str().unwrap_or_default();
        if title == "done" {
            break;
        }
        let is_under_way = !title.starts_with("failed") && Instant::now() < deadline;
        assert!(is_under_way, "{title}: {:?}", page.said);
        thread::sleep(Duration::from_millis(100));
    }
    let found = page.evaluate("JSON.stringify(found)").expect("a value");
    serde_json::from_str(found.as_str().expect("text")).expect("JSON")
}

/// What has to be found, whatever the version of HTTP.
fn judge(found: &Value, protocol: &str) {
    assert_eq!(found["images"], 24, "{found}");
    assert_eq!(found["color"], "rgb(1, 2, 3)", "{found}");
    assert_eq!(found["counted"], json!([200, "1048576"]), "{found}");
    let socket = json!({"heard": ["one3", "xxx70000", "\u{20ac}1"], "clean": true, "code": 1000});
    assert_eq!(found["socket"], socket, "{found}");
    assert_eq!(found["page"], protocol, "{found}");
    let parts = found["parts"].as_array().expect("a list");
    assert!(parts.len() >= 28, "{found}");
    assert!(parts.iter().all(|part| part == protocol), "{found}");
    let head = found["head"].as_str().expect("text");
    assert_eq!(field(head, "x-forwarded-proto"), Some("https"), "{head}");
    assert_eq!(field(head, "cookie"), Some("a=1; b=2"), "{head}");
}

#[test]
fn a_browser_gets_a_page_over_https_in_both_versions_of_http() {
    let authority = Authority::new("of the browser");
    let site = Site::start(&authority);
    let mut page =
        Chromium::start_with(800, 600, |home, command| believe(&authority, home, command))
            .expect("Chromium");

    let with_h2 = found(&mut page, site.both);
    judge(&with_h2, "h2");
    let with_h1 = found(&mut page, site.old);
    judge(&with_h1, "http/1.1");

    // It does verify: the authority, and the name.
    let unknown = go(&mut page, "a.test", site.foreign);
    assert_eq!(unknown, "net::ERR_CERT_AUTHORITY_INVALID");
    let misnamed = go(&mut page, "b.test", site.both);
    assert_eq!(misnamed, "net::ERR_CERT_COMMON_NAME_INVALID");

    // The proxy saw it likewise.
    let lines = [
        "both HTTP/2.0 TLSv1.3 a.test 200 GET /\n",
        "both HTTP/2.0 TLSv1.3 a.test 200 GET /dot.svg\n",
        "both HTTP/2.0 TLSv1.3 a.test 200 POST /api/count\n",
        "old HTTP/1.1 TLSv1.3 a.test 200 GET /\n",
        "old HTTP/1.1 TLSv1.3 a.test 200 POST /api/count\n",
        "old HTTP/1.1 TLSv1.3 a.test 101 GET /socket\n",
    ];
    for line in lines {
        eventually(line, || site.log().contains(line));
    }
    // A WebSocket goes as a stream of the connection that is there (RFC 8441).
    eventually("a WebSocket over HTTP/2", || {
        let log = site.log();
        log.lines()
            .any(|line| line.starts_with("both HTTP/2.0") && line.ends_with(" /socket"))
    });
    assert!(!site.log().contains("foreign"), "{}", site.log());
}
