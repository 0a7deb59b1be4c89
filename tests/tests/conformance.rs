//! Suites of other projects through `sluice proxy`: WebSocket (Autobahn's cases) and gRPC (its
//! interoperability cases), with clients and servers that are not ours on both sides.
//!
//! `cargo xtask test` brings the Python packages that these need.

use proxy_tests::alone::{Process, proxy};
use proxy_tests::python::{interpreter, run, script, serve};
use std::net::SocketAddr;
use std::path::PathBuf;

/// A server of a script, and the interpreter for its client; `None` where there is none.
fn server(name: &str) -> Option<(PathBuf, Process, SocketAddr)> {
    let python = interpreter().expect("Python with the packages")?;
    let (server, address) = serve(script(&python, name).arg("serve")).expect("serves");
    Some((python, server, address))
}

/// Runs Autobahn's cases against what stands at `address`. The cases for compression (12, 13) take
/// minutes and show a proxy nothing that others do not: a few stand for them.
fn autobahn(python: &std::path::Path, address: SocketAddr) {
    let cases = [
        "1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*", "12.1.1", "13.1.1",
    ];
    let mut command = script(python, "autobahn.py");
    command.arg("run").arg(address.to_string()).args(cases);
    let passed = run(&mut command).expect("all cases pass");
    assert!(passed >= 247, "only {passed} cases ran");
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
