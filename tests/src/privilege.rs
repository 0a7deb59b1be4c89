//! May this process make namespaces and load programs? If not, a suite skips, and says so.
//!
//! Rust's test runner reports a skipped test as passed, so continuous integration sets
//! `SLUICE_REQUIRE_PRIVILEGED=1`, which turns a missing privilege into a failure.

use anyhow::{Result, bail};
use std::path::Path;

/// The variable that turns a skip into a failure.
pub const REQUIRE: &str = "SLUICE_REQUIRE_PRIVILEGED";

/// What this process lacks for namespace suites, in words; `None` when nothing.
pub fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("not root: network namespaces and XDP need it; run with sudo".to_owned());
    }
    for (tool, package) in [("ip", "iproute2"), ("ethtool", "ethtool")] {
        if find_program(tool).is_none() {
            return Some(format!("no `{tool}`: apt-get install {package}"));
        }
    }
    None
}

/// True if the suite may run. Prints why not and returns false otherwise.
///
/// # Errors
///
/// Something is missing and [`REQUIRE`] is set to `1`.
pub fn granted() -> Result<bool> {
    let Some(lack) = missing() else {
        return Ok(true);
    };
    if std::env::var(REQUIRE).is_ok_and(|value| value == "1") {
        bail!("{lack} ({REQUIRE} is set)");
    }
    println!("skipped: {lack}");
    Ok(false)
}

/// A program that a test runs, if this host has it. Prints why not otherwise.
///
/// # Errors
///
/// It is missing and [`REQUIRE`] is set to `1`.
pub fn program(name: &str, package: &str) -> Result<Option<std::path::PathBuf>> {
    let found = find_program(name);
    if found.is_none() {
        let lack = format!("no `{name}`: apt-get install {package}");
        if std::env::var(REQUIRE).is_ok_and(|value| value == "1") {
            bail!("{lack} ({REQUIRE} is set)");
        }
        println!("skipped: {lack}");
    }
    Ok(found)
}

/// Path of a program in `PATH` or one of the system directories.
pub fn find_program(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"])
        .map(|dir| Path::new(dir).join(name))
        .find(|file| file.is_file())
}
