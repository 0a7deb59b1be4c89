//! Certificates by ACME, from an authority that is not ours: pebble, which is made to find faults
//! in clients. It looks names up at a server of its own that says the loopback address to all of them.

use crate::support::Origin;
use proxy_tests::alone::{Process, unused_address};
use proxy_tests::certificates::Authority;
use proxy_tests::daemon::sluice;
use proxy_tests::family;
use proxy_tests::wait;
use proxy_userspace::observe::view::CertificateView;
use serde_json::{Value, json};
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// The key of an external account, and its id.
const EXTERNAL: (&str, &str) = (
    "kid-1",
    "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W",
);

/// Waits as long as is needed for what other processes do.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    wait::until(what, || Ok(is_so())).expect(what);
}

/// pebble with its name server.
struct Pebble {
    folder: TempDir,
    directory: SocketAddr,
    management: SocketAddr,
    /// Where it asks by HTTP and by TLS.
    http: SocketAddr,
    tls: SocketAddr,
    _processes: [Process; 2],
}

impl Pebble {
    fn start() -> Self {
        Self::with(|_| ())
    }

    fn with(edit: impl FnOnce(&mut Value)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = Authority::new("test CA");
        let (certificate, key) = authority
            .issue(&[&*family::loopback().to_string()])
            .write(folder.path(), "web");
        fs::write(folder.path().join("ca.pem"), authority.pem()).expect("writes");
        let [directory, management, names, http, tls] = [(); 5].map(|()| unused_address());
        let mut config = json!({
            "listenAddress": directory.to_string(),
            "managementListenAddress": management.to_string(),
            "certificate": certificate,
            "privateKey": key,
            "httpPort": http.port(),
            "tlsPort": tls.port(),
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
        });
        edit(&mut config);
        let file = folder.path().join("pebble.json");
        fs::write(&file, json!({ "pebble": config }).to_string()).expect("writes");
        let names_at = names.to_string();
        let (v4, v6) = if family::is_v6() {
            ("", "::1")
        } else {
            ("127.0.0.1", "")
        };
        let resolver = spawn(
            Command::new("pebble-challtestsrv")
                .args(["-dns01", &names_at, "-defaultIPv4", v4])
                .args(["-defaultIPv6", v6, "-http01", "", "-https01", ""])
                .args(["-tlsalpn01", "", "-management", ""]),
        );
        let pebble = spawn(
            Command::new("pebble")
                .arg("-config")
                .arg(&file)
                .args(["-dnsserver", &names_at])
                .env("PEBBLE_VA_NOSLEEP", "1")
                .env("PEBBLE_AUTHZREUSE", "0")
                .env("PEBBLE_WFE_NONCEREJECT", "2"),
        );
        eventually("pebble listens", || TcpStream::connect(directory).is_ok());
        Self {
            folder,
            directory,
            management,
            http,
            tls,
            _processes: [resolver, pebble],
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The certificate of the authority that it issues by.
    fn root(&self) -> PathBuf {
        let path = self.path("root.pem");
        let url = format!("https://{}/roots/0", self.management);
        let ca = self.path("ca.pem");
        let got = Command::new("curl")
            .args(["-sSf", "--cacert", text(&ca), "-o", text(&path), &url])
            .status()
            .expect("curl runs");
        assert!(got.success(), "the root is told");
        path
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

fn spawn(command: &mut Command) -> Process {
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    Process(child.expect("starts"))
}

/// A daemon that has its certificates from pebble.
struct Daemon {
    process: Option<Process>,
    folder: TempDir,
    plain: SocketAddr,
    tls: SocketAddr,
    origin: Origin,
}

impl Daemon {
    /// With these names; `more` are keys of `acme`.
    fn start(pebble: &Pebble, names: &str, more: &str) -> Self {
        Self::start_with(pebble, names, more, "")
    }

    /// `file`: more of the file.
    fn start_with(pebble: &Pebble, names: &str, more: &str, file: &str) -> Self {
        let mut daemon = Self::at(pebble.http, pebble.tls);
        daemon.write(pebble, names, more, file);
        daemon.run();
        daemon
    }

    /// One that does not run yet, and will listen there.
    fn at(plain: SocketAddr, tls: SocketAddr) -> Self {
        Self {
            process: None,
            folder: tempfile::tempdir().expect("a folder"),
            plain,
            tls,
            origin: Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        }
    }

    fn write(&self, pebble: &Pebble, names: &str, more: &str, file: &str) {
        let text = format!(
            "admin: {{socket: {folder}/run/admin.sock}}\n\
             acme: {{directory: 'https://{directory}/dir', ca: {ca}, terms_agreed: true, \
             contact: [ops@example.com], storage: {folder}/acme{more}}}\n\
             listeners:\n\
             - {{name: plain, kind: http, address: '{ip}', port: {http}, https_redirect: true}}\n\
             - {{name: site, kind: http, address: '{ip}', port: {tls}, service: app, \
             tls: {{certificates: [{{acme: [{names}]}}]}}}}\n\
             services: [{{name: app, backends: ['{origin}']}}]\n{file}\n",
            folder = self.folder.path().display(),
            directory = pebble.directory,
            ca = pebble.path("ca.pem").display(),
            ip = family::loopback(),
            http = self.plain.port(),
            tls = self.tls.port(),
            origin = self.origin.address,
        );
        fs::write(self.path("sluice.yaml"), text).expect("writes");
    }

    fn run(&mut self) {
        // Apart from the storage, which landlock is to leave within reach by itself.
        fs::create_dir_all(self.path("run")).expect("made");
        let child = Command::new(sluice().expect("built"))
            .args(["run", "-c"])
            .arg(self.path("sluice.yaml"))
            .spawn()
            .expect("starts");
        self.process = Some(Process(child));
        eventually("it listens", || TcpStream::connect(self.tls).is_ok());
        eventually("its socket answers", || {
            self.try_get("certificates").is_some()
        });
    }

    fn stop(&mut self) {
        let mut process = self.process.take().expect("runs");
        process.signal(nix::sys::signal::Signal::SIGTERM);
        assert!(process.has_ended_well(), "it ends");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn try_ask(&self, path: &str) -> Option<String> {
        let output = Command::new("curl")
            .args(["-sSf", "--max-time", "20", "--unix-socket"])
            .arg(self.path("run/admin.sock"))
            .arg(format!("http://localhost{path}"))
            .stderr(Stdio::null())
            .output()
            .expect("curl runs");
        let is_good = output.status.success();
        is_good.then(|| String::from_utf8(output.stdout).expect("text"))
    }

    fn try_get(&self, what: &str) -> Option<String> {
        self.try_ask(&format!("/api/v1/{what}"))
    }

    /// What the API tells of the certificate.
    fn certificate(&self) -> CertificateView {
        let answer = self.try_get("certificates").expect("an answer");
        let all: Vec<CertificateView> = serde_json::from_str(&answer).expect("certificates");
        let mut found = all.into_iter().filter(|it| it.used_by == "site");
        found.next().expect("the listener's")
    }

    fn metric(&self, name: &str) -> f64 {
        let page = self.try_ask("/metrics").expect("metrics");
        let line = page.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.rsplit(' ').next());
        value.unwrap_or("0").parse().expect("a number")
    }

    fn orders(&self, result: &str) -> f64 {
        let name = "sluice_acme_orders_total{certificate=\"www.acme.test\"";
        self.metric(&format!("{name},result=\"{result}\"}}"))
    }

    /// Waits until a certificate is shown that the API knows as issued; gives it.
    fn wait_for_issue(&self) -> CertificateView {
        eventually("a certificate was issued", || {
            !self.certificate().fingerprint.is_empty()
        });
        self.certificate()
    }

    /// What curl gets by HTTPS, if it believes the certificate.
    fn fetch(&self, name: &str, root: &Path) -> Option<String> {
        let port = self.tls.port();
        let output = Command::new("curl")
            .args(["-sS", "--max-time", "20", "--cacert", text(root)])
            .args(["--resolve", &format!("{name}:{port}:{}", family::host())])
            .arg(format!("https://{name}:{port}/"))
            .output()
            .expect("curl runs");
        let is_good = output.status.success();
        is_good.then(|| String::from_utf8(output.stdout).expect("text"))
    }
}

#[test]
fn certificates_are_issued_by_http_and_outlive_a_restart() {
    let pebble = Pebble::start();
    let mut daemon = Daemon::start(&pebble, "www.acme.test, acme.test", "");
    let issued = daemon.wait_for_issue();
    assert_eq!(issued.source, "acme");
    let mut names = issued.names.clone();
    names.sort();
    assert_eq!(names, ["acme.test", "www.acme.test"]);
    let next = issued.next_order_seconds.expect("a renewal");
    assert!(
        (issued.not_before_seconds..issued.not_after_seconds).contains(&next),
        "{issued:?}"
    );
    assert_eq!(issued.order_error, None);
    let root = pebble.root();
    eventually("clients believe it", || {
        daemon.fetch("www.acme.test", &root).as_deref() == Some("ok")
    });
    assert_eq!(daemon.fetch("acme.test", &root).as_deref(), Some("ok"));
    assert!((daemon.orders("ok") - 1.0).abs() < 0.5, "one order");
    // Folder, account, certificate with its key: their owner's alone.
    let storage = daemon.path("acme");
    let mut seen = 0;
    for entry in fs::read_dir(&storage).expect("a storage") {
        let folder = entry.expect("one").path();
        for file in fs::read_dir(&folder).expect("a folder") {
            let about = file.expect("one").metadata().expect("there");
            assert_eq!(about.permissions().mode() & 0o777, 0o600);
            seen += 1;
        }
        let about = folder.metadata().expect("there");
        assert_eq!(about.permissions().mode() & 0o777, 0o700);
    }
    assert!(seen >= 3, "{seen} files");
    daemon.stop();
    daemon.run();
    // The same one at once, without an order.
    assert_eq!(daemon.certificate().fingerprint, issued.fingerprint);
    assert_eq!(daemon.fetch("www.acme.test", &root).as_deref(), Some("ok"));
    assert!(daemon.orders("ok").abs() < 0.5, "no order");
    // Other names under the same first one: the old one is shown until the new one is there.
    daemon.write(&pebble, "www.acme.test, other.acme.test", "", "");
    let reloaded = Command::new(sluice().expect("built"))
        .args(["reload", "--socket"])
        .arg(daemon.path("run/admin.sock"))
        .status();
    assert!(reloaded.expect("runs").success());
    eventually("the other name has come", || {
        let names = daemon.certificate().names;
        names.contains(&"other.acme.test".to_owned())
    });
    assert_eq!(
        daemon.fetch("other.acme.test", &root).as_deref(),
        Some("ok")
    );
}

#[test]
fn certificates_are_issued_by_tls_to_a_bound_account() {
    let pebble = Pebble::with(|config| {
        config["externalAccountBindingRequired"] = json!(true);
        config["externalAccountMACKeys"] = json!({ EXTERNAL.0: EXTERNAL.1 });
    });
    let key = pebble.path("eab.key");
    fs::write(&key, format!("{}\n", EXTERNAL.1)).expect("writes");
    let more = format!(
        ", challenge: tls-alpn-01, key: rsa-2048, external_account: {{id: {}, key: {}}}",
        EXTERNAL.0,
        key.display()
    );
    let daemon = Daemon::start(&pebble, "www.acme.test", &more);
    let issued = daemon.wait_for_issue();
    assert_eq!(issued.names, ["www.acme.test"]);
    let root = pebble.root();
    eventually("clients believe it", || {
        daemon.fetch("www.acme.test", &root).as_deref() == Some("ok")
    });
    // Nobody else gets anywhere by the authority's protocol.
    let asked = Command::new("openssl")
        .args(["s_client", "-connect", &daemon.tls.to_string()])
        .args(["-servername", "www.acme.test", "-alpn", "acme-tls/1"])
        .stdin(Stdio::null())
        .output()
        .expect("openssl runs");
    assert!(!asked.status.success(), "{asked:?}");
}

#[test]
fn before_the_first_certificate_clients_are_served_or_refused() {
    // Nobody is there who would issue.
    let pebble = Pebble::with(|config| config["httpPort"] = json!(1));
    let daemon = Daemon::start(&pebble, "www.acme.test", "");
    let insecure = |daemon: &Daemon| {
        let port = daemon.tls.port();
        let output = Command::new("curl")
            .args(["-sSk", "--max-time", "20"])
            .args([
                "--resolve",
                &format!("www.acme.test:{port}:{}", family::host()),
            ])
            .arg(format!("https://www.acme.test:{port}/"))
            .output();
        String::from_utf8(output.expect("curl runs").stdout).expect("text")
    };
    assert_eq!(insecure(&daemon), "ok");
    eventually("the failure is told", || {
        daemon.certificate().order_error.is_some()
    });
    let view = daemon.certificate();
    let error = view.order_error.expect("told");
    assert!(error.contains("www.acme.test"), "{error}");
    assert!(error.contains("onnection refused"), "{error}");
    assert!(view.fingerprint.is_empty() && view.names == ["www.acme.test"]);
    assert!(view.next_order_seconds.expect("told") > 0, "it waits");
    assert!((daemon.orders("failed") - 1.0).abs() < 0.5, "one failure");
    let more = ", until_issued: refuse";
    let mut other = Daemon::at(unused_address(), unused_address());
    other.write(&pebble, "www.acme.test", more, "");
    other.run();
    assert_eq!(insecure(&other), "");
}

#[test]
fn certificates_are_renewed_while_clients_come() {
    let pebble = Pebble::with(|config| config["certificateValidityPeriod"] = json!(60));
    // Everything else is kept out of reach, and the storage is not.
    let restricted = "process: {landlock: true, capabilities: needed}";
    let daemon = Daemon::start_with(&pebble, "www.acme.test", ", renew_at: 10%", restricted);
    let first = daemon.wait_for_issue();
    let root = pebble.root();
    let mut fetched = 0;
    eventually("another one is shown", || {
        if let Some(text) = daemon.fetch("www.acme.test", &root) {
            assert_eq!(text, "ok");
            fetched += 1;
        }
        daemon.certificate().fingerprint != first.fingerprint
    });
    assert!(fetched > 0, "clients were served");
    assert!(daemon.orders("ok") > 1.5, "two orders");
}

#[test]
fn challenges_that_are_not_ours_are_routed_as_everything_else() {
    let pebble = Pebble::start();
    let daemon = Daemon::start(&pebble, "www.acme.test", "");
    let at = daemon.plain;
    let output = Command::new("curl")
        .args(["-sSi", "--max-time", "20"])
        .arg(format!("http://{at}/.well-known/acme-challenge/unknown"))
        .output();
    let answer = String::from_utf8(output.expect("curl runs").stdout).expect("text");
    assert!(answer.starts_with("HTTP/1.1 308 "), "{answer}");
}

#[test]
fn the_example_gets_its_certificate() {
    let pebble = Pebble::start();
    let mut daemon = Daemon::at(pebble.http, pebble.tls);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/acme.yaml");
    let example = fs::read_to_string(file).expect("the example");
    let settings = format!(
        "  directory: 'https://{}/dir'\n  ca: {}\n  storage: {}\n  contact:",
        pebble.directory,
        pebble.path("ca.pem").display(),
        daemon.path("acme").display()
    );
    // As it is, but for addresses and the authority.
    let mut text = format!(
        "admin: {{socket: {}}}\n",
        daemon.path("run/admin.sock").display()
    );
    text += &example
        .replace("  contact:", &settings)
        .replace("0.0.0.0", &family::loopback().to_string())
        .replace("port: 80\n", &format!("port: {}\n", daemon.plain.port()))
        .replace("port: 443\n", &format!("port: {}\n", daemon.tls.port()))
        .replace("10.1.0.1:8000", &daemon.origin.address.to_string())
        .replace(", \"10.1.0.2:8000\"", "");
    fs::write(daemon.path("sluice.yaml"), text).expect("writes");
    daemon.run();
    daemon.wait_for_issue();
    let root = pebble.root();
    eventually("clients believe it", || {
        daemon.fetch("www.example.com", &root).as_deref() == Some("ok")
    });
    assert_eq!(daemon.fetch("example.com", &root).as_deref(), Some("ok"));
}
