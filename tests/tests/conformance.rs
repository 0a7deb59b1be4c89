//! Suites of other projects through `sluice proxy`: WebSocket (Autobahn's cases) and gRPC (its
//! interoperability cases), with clients and servers that are not ours on both sides. And the admin
//! API under requests that are made of its own document, and TLS as no honest client speaks it.
//!
//! `cargo xtask test` brings the Python packages that these need.

#[path = "conformance/tls.rs"]
mod tls;

use proxy_tests::alone::{Process, proxy, unused_address};
use proxy_tests::daemon::sluice;
use proxy_tests::python::{interpreter, run, script, serve};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// A server of a script, and the interpreter for its client; `None` where there is none.
fn server(name: &str) -> Option<(PathBuf, Process, SocketAddr)> {
    let python = interpreter().expect("Python with the packages")?;
    let (server, address) = serve(script(&python, name).arg("serve")).expect("serves");
    Some((python, server, address))
}

/// Runs Autobahn's cases against what stands at `address`: all 247 of chapters 1 to 7 and 10, the 54 of
/// 9, which are about size and time. The cases for compression (12, 13) take minutes and show a proxy
/// nothing that others do not: one of each stands for them.
fn autobahn(python: &std::path::Path, address: SocketAddr) {
    let cases = [
        "1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*", "12.1.1", "13.1.1",
    ];
    let mut command = script(python, "autobahn.py");
    command.arg("run").arg(address.to_string()).args(cases);
    let passed = run(&mut command).expect("all cases pass");
    assert_eq!(passed, 247 + 54 + 2, "cases are missing");
}

#[test]
fn websockets_pass_autobahn_over_http_1() {
    let Some((python, _server, echo)) = server("autobahn.py") else {
        return;
    };
    let (_proxy, address) = proxy(echo, &[]);
    autobahn(&python, address);
}

/// Two proxies speak HTTP/2 between them, so that each WebSocket is an extended CONNECT (RFC 8441)
/// of the one and to the other.
#[test]
fn websockets_pass_autobahn_over_http_2() {
    let Some((python, _server, echo)) = server("autobahn.py") else {
        return;
    };
    let (_second, between) = proxy(echo, &[]);
    let (_first, address) = proxy(between, &["--backend-protocol", "h2"]);
    autobahn(&python, address);
}

#[test]
fn grpc_passes_the_interoperability_cases() {
    let Some((python, _server, origin)) = server("grpc_interop.py") else {
        return;
    };
    for protocol in ["h2", "auto"] {
        let (_proxy, address) = proxy(origin, &["--backend-protocol", protocol]);
        let mut command = script(&python, "grpc_interop.py");
        let passed = run(command.arg("run").arg(address.to_string()));
        assert_eq!(passed.expect("all cases pass"), 20, "{protocol}");
    }
}

/// How long requests are made of the admin API's document, in seconds.
const FUZZ_SECONDS: u32 = 60;

/// Paths that do not end by themselves, or that end the daemon.
const LEFT_OUT: [&str; 5] = [
    "/api/v1/events",
    "/api/v1/observe",
    "/api/v1/capture",
    "/api/v1/stop",
    "/api/v1/upgrade",
];

/// Schemathesis makes requests of the document, good ones and bad ones. Whatever it sends, the
/// daemon must neither fail (5xx) nor answer with a status, type or content that the document
/// does not tell of.
#[test]
fn the_admin_api_does_what_its_document_says_whatever_is_sent() {
    let Some(python) = interpreter().expect("Python with the packages") else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (admin, web, origin) = (unused_address(), unused_address(), unused_address());
    let token = "a token that nobody guesses";
    std::fs::write(path("token"), token).expect("writes");
    let config = format!(
        "admin: {{socket: {}, listen: '{admin}', api: true, token: {{file: {}}}}}\n\
         listeners: [{{name: web, kind: http, address: 127.0.0.1, port: {}, service: app}}]\n\
         services: [{{name: app, backends: ['{origin}']}}]\n",
        path("admin.sock"),
        path("token"),
        web.port(),
    );
    std::fs::write(path("sluice.yaml"), config).expect("writes");
    let mut daemon = Command::new(sluice().expect("built"));
    let log = std::fs::File::create(path("log")).expect("a log");
    daemon.args(["run", "-c", &path("sluice.yaml")]).stderr(log);
    let mut daemon = Process(daemon.spawn().expect("starts"));
    let deadline = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(admin).is_err() {
        assert!(Instant::now() < deadline, "it does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut fuzz = Command::new(python.with_file_name("st"));
    fuzz.arg("run").arg(format!("http://{admin}/openapi.json"));
    fuzz.arg("--header")
        .arg(format!("Authorization: Bearer {token}"));
    fuzz.arg("--max-time").arg(FUZZ_SECONDS.to_string());
    fuzz.args(["--phases", "coverage,fuzzing", "--no-shrink"]);
    fuzz.args(["--suppress-health-check", "all", "--warnings", "off"]);
    fuzz.args(["--request-timeout", "20", "--generation-database", "none"]);
    fuzz.args(["--checks", "not_a_server_error,status_code_conformance"]);
    fuzz.args([
        "--checks",
        "content_type_conformance,response_schema_conformance",
    ]);
    for left_out in LEFT_OUT {
        fuzz.args(["--exclude-path", left_out]);
    }
    let output = fuzz.current_dir(folder.path()).output().expect("runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let log = std::fs::read_to_string(path("log")).unwrap_or_default();
    let last: Vec<&str> = log.lines().rev().take(20).collect();
    assert!(output.status.success(), "{said}\n{last:#?}");
    assert!(
        daemon.0.try_wait().expect("asked").is_none(),
        "the daemon has ended: {last:#?}"
    );
}
