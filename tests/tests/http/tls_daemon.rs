//! TLS of a whole daemon: files that are renewed, staples, checks of backends, what is shown.

use crate::support::{PATIENCE, eventually};
use proxy_tests::alone::{Process, unused_address};
use proxy_tests::certificates::{Authority, Issued, Request, write_secret};
use proxy_tests::daemon::sluice;
use proxy_userspace::observe::view::View;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tempfile::TempDir;

/// An authority, a folder, and a daemon in it.
struct Daemon {
    _process: Process,
    authority: Authority,
    folder: TempDir,
    web: SocketAddr,
}

/// An authority with its files.
fn place() -> (Authority, TempDir) {
    let (authority, folder) = (Authority::new("test CA"), tempfile::tempdir());
    let folder = folder.expect("a folder");
    fs::write(folder.path().join("ca.pem"), authority.pem()).expect("writes");
    (authority, folder)
}

impl Daemon {
    /// Starts one in `folder` with a file in which `{FOLDER}`, and `{IP}` and `{WEB}` for an
    /// address and a port, are filled in.
    fn start((authority, folder): (Authority, TempDir), text: &str) -> Self {
        let web = unused_address();
        let path = folder.path().display().to_string();
        let text = text
            .replace("{FOLDER}", &path)
            .replace("{IP}", &web.ip().to_string())
            .replace("{WEB}", &web.port().to_string());
        let file = folder.path().join("sluice.yaml");
        let text = format!("admin: {{socket: {path}/admin.sock}}\n{text}");
        fs::write(&file, text).expect("writes");
        let state = folder.path().join("state");
        fs::create_dir(&state).expect("a folder");
        let child = Command::new(sluice().expect("built"))
            .args(["run", "-c"])
            .arg(&file)
            .env("STATE_DIRECTORY", state)
            .stderr(fs::File::create(folder.path().join("log")).expect("a log"))
            .spawn()
            .expect("starts");
        let daemon = Self {
            _process: Process(child),
            authority,
            folder,
            web,
        };
        eventually("it is ready", || {
            daemon.try_sluice(&["status"]).status.success()
        });
        daemon
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn try_sluice(&self, words: &[&str]) -> Output {
        Command::new(sluice().expect("built"))
            .args(words)
            .arg("--socket")
            .arg(self.path("admin.sock"))
            .env("STATE_DIRECTORY", self.path("state"))
            .output()
            .expect("runs")
    }

    fn sluice(&self, words: &[&str]) -> String {
        let output = self.try_sluice(words);
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{words:?}: {complaint}");
        String::from_utf8(output.stdout).expect("text")
    }

    fn view(&self) -> View {
        serde_json::from_str(&self.sluice(&["status", "--json"])).expect("a view")
    }

    /// Asks for a page over a connection of its own; gives the certificate that was shown.
    fn ask(&self) -> Result<CertificateDer<'static>, std::io::Error> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der()).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let socket = TcpStream::connect(self.web)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let name = ServerName::try_from("a.test").expect("a name");
        let session = ClientConnection::new(Arc::new(config), name).expect("begins");
        let mut stream = StreamOwned::new(session, socket);
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        if !answer.starts_with("HTTP/1.1 200") {
            return Err(std::io::Error::other(answer));
        }
        let shown = stream.conn.peer_certificates().expect("certificates");
        Ok(shown[0].clone())
    }

    /// True if a line of the daemon's log has all of these.
    fn has_said(&self, words: &[&str]) -> bool {
        let log = fs::read_to_string(self.path("log")).expect("a log");
        log.lines()
            .any(|line| words.iter().all(|word| line.contains(word)))
    }
}

const SITE: &str = "
listeners:
  - name: web
    kind: http
    address: '{IP}'
    port: {WEB}
    tls: {certificates: [{certificate: {FOLDER}/a.pem, key: {FOLDER}/a.key}]}
routes: [{name: all, listeners: [web], respond: 200}]
";

/// Ends the load when a test ends, however it does.
struct Stop<'s>(&'s AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn write(place: &(Authority, TempDir), name: &str, issued: &Issued) {
    issued.write(place.1.path(), name);
}

#[test]
fn renewed_files_are_in_force_without_a_reload_and_bad_ones_are_not() {
    let place = place();
    let first = place.0.issue(&["a.test"]);
    write(&place, "a", &first);
    let daemon = Daemon::start(place, SITE);
    assert_eq!(daemon.ask().expect("is served"), first.chain()[0]);
    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let _stopped = Stop(&stop);
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    daemon.ask().expect("no handshake fails");
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let second = daemon.authority.issue_as(&Request {
            names: &["a.test"],
            serial: 2,
            ..Request::default()
        });
        second.write(daemon.folder.path(), "a");
        eventually("the renewed one is shown", || {
            daemon.ask().expect("no handshake fails") == second.chain()[0]
        });
        // A key that is another certificate's.
        let other = daemon.authority.issue(&["a.test"]);
        write_secret(&daemon.path("a.key"), &other.key);
        let key = daemon.path("a.key").display().to_string();
        eventually("the daemon says why it does not take it", || {
            daemon.has_said(&["certificate", &key, "does not fit"])
        });
        let before = served.load(Ordering::Relaxed);
        eventually("the old pair keeps serving", || {
            served.load(Ordering::Relaxed) > before + 5
        });
        assert_eq!(
            daemon.ask().expect("is served"),
            second.chain()[0],
            "as before"
        );
        // So is a reload.
        let output = daemon.try_sluice(&["reload"]);
        assert!(!output.status.success());
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(complaint.contains("does not fit"), "{complaint}");
        assert!(complaint.contains("a.key"), "{complaint}");
    });
}

fn openssl(args: &[&str]) -> String {
    let output = Command::new("openssl")
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("openssl runs");
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

#[test]
fn a_staple_from_a_file_is_what_openssl_gets() {
    let place = place();
    let issued = place.0.issue_as(&Request {
        names: &["a.test"],
        serial: 0x1234,
        ..Request::default()
    });
    write(&place, "a", &issued);
    let text = |name: &str| place.1.path().join(name).display().to_string();
    write_secret(&place.1.path().join("ca.key"), &place.0.key_pem());
    let index = "V\t900101000000Z\t\t1234\tunknown\t/CN=a\n";
    fs::write(place.1.path().join("index"), index).expect("writes");
    let (ca, request, response) = (text("ca.pem"), text("request"), text("a.ocsp"));
    let certificate = text("a.pem");
    let said = openssl(&[
        "ocsp",
        "-issuer",
        &ca,
        "-cert",
        &certificate,
        "-no_nonce",
        "-reqout",
        &request,
    ]);
    assert!(fs::metadata(&request).is_ok(), "{said}");
    let (index, key) = (text("index"), text("ca.key"));
    let said = openssl(&[
        "ocsp", "-index", &index, "-CA", &ca, "-rsigner", &ca, "-rkey", &key, "-reqin", &request,
        "-respout", &response, "-ndays", "7",
    ]);
    assert!(fs::metadata(&response).is_ok(), "{said}");
    let with_staple = SITE.replace("a.key}", "a.key, ocsp: {FOLDER}/a.ocsp}");
    let daemon = Daemon::start(place, &with_staple);
    let address = daemon.web.to_string();
    let asked = [
        "s_client",
        "-connect",
        &address,
        "-servername",
        "a.test",
        "-CAfile",
        &ca,
    ];
    for version in ["-tls1_2", "-tls1_3"] {
        let said = openssl(&[&asked[..], &["-status", version]].concat());
        assert!(said.contains("OCSP Response Status: successful"), "{said}");
        assert!(said.contains("Cert Status: good"), "{said}");
        // Who does not ask for it gets none.
        let said = openssl(&[&asked[..], &[version]].concat());
        assert!(!said.contains("OCSP Response Status"), "{said}");
    }
}

/// `openssl s_server` with a certificate.
fn server(folder: &TempDir, name: &str, issued: &Issued) -> (Process, SocketAddr) {
    let (certificate, key) = issued.write(folder.path(), name);
    let address = unused_address();
    let child = Command::new("openssl")
        .args([
            "s_server",
            "-www",
            "-quiet",
            "-accept",
            &address.to_string(),
        ])
        .arg("-cert")
        .arg(certificate)
        .arg("-key")
        .arg(key)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl runs");
    let process = Process(child);
    eventually("it listens", || TcpStream::connect(address).is_ok());
    (process, address)
}

#[test]
fn checks_speak_tls_and_say_why_a_backend_is_down() {
    let place = place();
    let other = Authority::new("other");
    let names = &["app.internal"][..];
    let cases = [
        ("good", place.0.issue(names), None),
        (
            "expired",
            place.0.issue_as(&Request {
                names,
                expired: true,
                ..Request::default()
            }),
            Some("tls: the certificate has expired"),
        ),
        (
            "elsewhere",
            place.0.issue(&["elsewhere.internal"]),
            Some("tls: the certificate is not for `app.internal`"),
        ),
        (
            "unknown",
            other.issue(names),
            Some("tls: no authority that is believed has issued the certificate"),
        ),
    ];
    let mut servers = Vec::new();
    let mut backends = Vec::new();
    for (name, issued, _) in &cases {
        let (process, address) = server(&place.1, name, issued);
        servers.push(process);
        backends.push(format!("{{name: {name}, address: '{address}'}}"));
    }
    let text = "
listeners: [{name: web, kind: http, address: '{IP}', port: {WEB}, service: app}]
services:
  - name: app
    backends: [BACKENDS]
    tls: {ca: {FOLDER}/ca.pem, server_name: app.internal}
    health: {http: {path: /}, interval: 10s, timeout: 9s, rise: 1, fall: 1}
";
    let text = text.replace("BACKENDS", &backends.join(", "));
    let daemon = Daemon::start(place, &text);
    eventually("all are judged", || {
        let view = daemon.view();
        let found = view.services[0].backends.iter();
        found.zip(&cases).all(|(backend, (name, _, expected))| {
            assert_eq!(backend.name, *name);
            match expected {
                None => backend.state == "up",
                Some(why) => {
                    let said = backend.health.as_ref();
                    let said = said.and_then(|health| health.last_error.as_deref());
                    backend.state == "down" && said == Some(*why)
                }
            }
        })
    });
    let told = daemon.sluice(&["status", "app/expired"]);
    assert!(told.contains("the certificate has expired"), "{told}");
}

#[test]
fn certificates_of_the_local_authority_are_shown_and_explained() {
    let text = "
listeners:
  - name: web
    kind: http
    address: '{IP}'
    port: {WEB}
    service: app
    tls: {certificates: [{local: [localhost, app.test]}]}
services: [{name: app, backends: ['127.0.0.1:9']}]
";
    let daemon = Daemon::start(place(), text);
    let view = daemon.view();
    let [shown] = view.certificates.as_slice() else {
        panic!("{:?}", view.certificates);
    };
    assert_eq!(shown.names, ["localhost", "app.test"]);
    assert_eq!(
        (shown.used_by.as_str(), shown.source.as_str()),
        ("web", "local")
    );
    assert!(shown.not_after_seconds > shown.not_before_seconds);
    let status = daemon.sluice(&["status"]);
    let line = status
        .lines()
        .find(|line| line.contains("localhost and 1 more"));
    let line = line.unwrap_or_else(|| panic!("{status}"));
    assert!(line.contains("web") && line.contains("local"), "{line}");
    let url = format!("https://app.test:{}/", daemon.web.port());
    let told = daemon.sluice(&["explain", "--running", &url]);
    for expected in [
        "tls         terminate",
        "certificate local  (it is for `app.test`)",
        "clients     are not asked for a certificate",
    ] {
        assert!(told.contains(expected), "{told}");
    }
}

#[test]
fn backends_files_are_noticed_when_they_change() {
    let place = place();
    let other = Authority::new("other");
    let issued = other.issue(&["app.internal"]);
    let (_server, address) = server(&place.1, "app", &issued);
    let text = "
listeners: [{name: web, kind: http, address: '{IP}', port: {WEB}, service: app}]
services:
  - name: app
    backends: ['BACKEND']
    outlier: \"off\"
    tls: {ca: {FOLDER}/ca.pem, server_name: app.internal}
"
    .replace("BACKEND", &address.to_string());
    let daemon = Daemon::start(place, &text);
    let status = || {
        let mut client = crate::support::Client::to(daemon.web);
        client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        client.answer().status
    };
    assert_eq!(status(), 502, "nobody vouches for the backend");
    fs::write(daemon.path("ca.pem"), other.pem()).expect("writes");
    eventually("the new authority is believed", || status() == 200);
}
