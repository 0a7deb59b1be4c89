//! Peers that come as Python packages: clients and servers of other projects, each driven by a
//! small script of ours.

use crate::alone::Process;
use anyhow::{Context as _, Result, bail, ensure};
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Environment variable that names an interpreter which has the packages; `cargo xtask test` makes
/// one and sets it.
pub const INTERPRETER: &str = "SLUICE_TEST_PYTHON";

/// The interpreter; `None`, with a line on standard output, if there is none.
///
/// # Errors
///
/// There is none and [`crate::privilege::REQUIRE`] is set to `1`.
pub fn interpreter() -> Result<Option<PathBuf>> {
    if let Some(path) = std::env::var_os(INTERPRETER) {
        return Ok(Some(path.into()));
    }
    if std::env::var(crate::privilege::REQUIRE).is_ok_and(|value| value == "1") {
        bail!("{INTERPRETER} is not set: run this by `cargo xtask test`");
    }
    println!("skipped: {INTERPRETER} is not set");
    Ok(None)
}

/// A command that runs a script of `tests/scripts`.
pub fn script(interpreter: &Path, name: &str) -> Command {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let mut command = Command::new(interpreter);
    command.arg("-u").arg(scripts.join(name));
    command
}

/// Starts a server that says its address on the first line of its output.
///
/// # Errors
///
/// It does not.
pub fn serve(command: &mut Command) -> Result<(Process, SocketAddr)> {
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let output = child.stdout.take().context("piped")?;
    let process = Process(child);
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    let address = line.trim().parse().with_context(|| format!("{line:?}"))?;
    Ok((process, address))
}

/// Runs a client to its end. Returns how many cases passed, as its last line says: `N passed, M
/// failed`.
///
/// # Errors
///
/// One failed, or the last line says nothing of that kind.
pub fn run(command: &mut Command) -> Result<u32> {
    let output = command.stderr(Stdio::inherit()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    let last = text.trim_end().lines().last().unwrap_or_default();
    let passed = last
        .split_once(" passed, 0 failed")
        .and_then(|(count, _)| count.parse().ok());
    ensure!(output.status.success(), "{last}: {}", output.status);
    passed.with_context(|| last.to_owned())
}
