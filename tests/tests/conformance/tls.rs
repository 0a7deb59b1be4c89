//! Hostile TLS, conversation by conversation.

use proxy_tests::alone::{Process, unused_address};
use proxy_tests::certificates::{Authority, ExtendedKeyUsagePurpose, Key, Request, write_secret};
use proxy_tests::daemon::sluice;
use proxy_tests::python::{interpreter, run, script};
use proxy_tests::wait;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// An origin that answers once on each connection.
fn origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut head: Vec<u8> = Vec::new();
                let mut octets = [0; 4096];
                while !head.windows(4).any(|four| four == b"\r\n\r\n") {
                    match stream.read(&mut octets) {
                        Ok(read @ 1..) => head.extend(&octets[..read]),
                        _ => return,
                    }
                }
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
                let _ = stream.write_all(answer);
            });
        }
    });
    address
}

/// `sluice run` with a listener that speaks TLS; `client` are keys of its `tls`, as YAML.
fn listener(folder: &TempDir, authority: &Authority, client: &str) -> (Process, SocketAddr) {
    let (certificate, key) = authority.issue(&["a.test"]).write(folder.path(), "server");
    let address = unused_address();
    let config = format!(
        "admin: {{socket: {}}}\n\
         workers: {{count: 1}}\n\
         listeners: [{{name: web, kind: http, address: 127.0.0.1, port: {}, service: app, tls: \
         {{certificates: [{{certificate: {}, key: {}}}]{client}}}}}]\n\
         services: [{{name: app, backends: ['{}']}}]\n",
        folder.path().join("admin.sock").display(),
        address.port(),
        certificate.display(),
        key.display(),
        origin(),
    );
    let path = folder.path().join("sluice.yaml");
    std::fs::write(&path, config).expect("writes");
    let log = std::fs::File::create(folder.path().join("log")).expect("a log");
    let mut command = Command::new(sluice().expect("built"));
    command.args(["run", "-c"]).arg(path).stderr(log);
    let process = Process(command.spawn().expect("starts"));
    wait::until("sluice listens", || Ok(TcpStream::connect(address).is_ok())).expect("ready");
    (process, address)
}

/// Has conversations with a listener; it must neither end nor panic.
fn converse(
    python: &Path,
    folder: &TempDir,
    listener: (Process, SocketAddr),
    files: &[&str],
) -> u32 {
    let (mut process, address) = listener;
    let mut command = script(python, "tls_conversations.py");
    command.arg("run").arg(address.to_string()).args(files);
    let passed = run(&mut command).expect("all conversations pass");
    assert!(process.0.try_wait().expect("asked").is_none(), "it runs");
    let log = std::fs::read_to_string(folder.path().join("log")).expect("a log");
    assert!(!log.contains("panicked"), "{log}");
    passed
}

#[test]
fn hostile_tls_gets_the_right_alert_and_stops_nobody() {
    let Some(python) = interpreter().expect("Python with the packages") else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let listener = listener(&folder, &Authority::new("conversations"), "");
    let passed = converse(&python, &folder, listener, &[]);
    assert!(passed >= 104, "only {passed} conversations");
}

/// Clients' certificates and keys, as the conversations about them want them: NAME.pem and NAME.key.
fn clients(folder: &Path, authority: &Authority) {
    let issue = |authority: &Authority, name, request| {
        let request = Request {
            common_name: name,
            ..request
        };
        let _ = authority.issue_as(&request).write(folder, name);
    };
    issue(authority, "client", Request::default());
    let rsa = Request {
        key: Key::Rsa,
        ..Request::default()
    };
    issue(authority, "rsa", rsa);
    let expired = Request {
        expired: true,
        ..Request::default()
    };
    issue(authority, "expired", expired);
    let for_servers = Request {
        usage: &[ExtendedKeyUsagePurpose::ServerAuth],
        ..Request::default()
    };
    issue(authority, "server", for_servers);
    issue(&Authority::new("another"), "foreign", Request::default());
}

/// Conversations with a listener that asks for certificates, in one of the modes.
fn prove(mode: &str) {
    let Some(python) = interpreter().expect("Python with the packages") else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::new("conversations");
    let ca = folder.path().join("ca.pem");
    write_secret(&ca, &authority.pem());
    let shown = tempfile::tempdir().expect("a folder");
    clients(shown.path(), &authority);
    let client = format!(", client: {{ca: {}, mode: {mode}}}", ca.display());
    let listener = listener(&folder, &authority, &client);
    let files = shown.path().display().to_string();
    let passed = converse(&python, &folder, listener, &[mode, &files]);
    assert!(passed >= 53, "only {passed} conversations");
}

#[test]
fn clients_certificates_are_proved_where_they_are_required() {
    prove("require");
}

#[test]
fn clients_certificates_are_proved_where_they_are_optional() {
    prove("optional");
}
