//! `cargo xtask package`: a Debian package, and whether it is what it should be.
//!
//! cargo-deb puts it together by `package.metadata.deb` of `proxy-userspace`. What the binary says
//! about itself (manual pages, completions, the schema) is written to `target/package/` first.

use crate::host::{HostLacks, find_program};
use crate::workspace::{Profile, Workspace};
use crate::{build, shell};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// The version of cargo-deb that is installed where there is none.
const CARGO_DEB: &str = "~3.8";

/// Files that the package must have, with their modes.
const WANTED: &[(&str, &str)] = &[
    ("usr/bin/sluice", "-rwxr-xr-x"),
    ("etc/sluice/sluice.yaml", "-rw-r--r--"),
    ("etc/logrotate.d/sluice", "-rw-r--r--"),
    ("lib/systemd/system/sluice.service", "-rw-r--r--"),
    ("lib/systemd/system/sluice.socket", "-rw-r--r--"),
    ("usr/lib/sysusers.d/sluice.conf", "-rw-r--r--"),
    ("usr/lib/tmpfiles.d/sluice.conf", "-rw-r--r--"),
    ("usr/share/man/man8/sluice.8.gz", "-rw-r--r--"),
    ("usr/share/man/man8/sluice-upgrade.8.gz", "-rw-r--r--"),
    ("usr/share/man/man5/sluice.yaml.5.gz", "-rw-r--r--"),
    ("usr/share/bash-completion/completions/sluice", "-rw-r--r--"),
    ("usr/share/zsh/vendor-completions/_sluice", "-rw-r--r--"),
    (
        "usr/share/fish/vendor_completions.d/sluice.fish",
        "-rw-r--r--",
    ),
    ("usr/share/doc/sluice/copyright", "-rw-r--r--"),
    ("usr/share/doc/sluice/examples/http.yaml", "-rw-r--r--"),
    (
        "usr/share/doc/sluice/examples/monitoring/alerts.yaml",
        "-rw-r--r--",
    ),
];

/// Runs the task.
pub(crate) fn task(workspace: &Workspace, options: &build::Options) -> Result<ExitCode> {
    options.sluice(workspace)?;
    println!("{}", made(workspace, options.profile())?.display());
    Ok(ExitCode::SUCCESS)
}

/// Makes the package of a binary that is built already, and looks at it. Returns its path.
pub(crate) fn made(workspace: &Workspace, profile: Profile) -> Result<PathBuf> {
    let Some(dpkg) = find_program("dpkg") else {
        let message = "there is no dpkg: Debian packages are made and checked on Debian";
        return Err(HostLacks(message.to_owned()).into());
    };
    let tool = ensure_cargo_deb(workspace)?;
    write_files(workspace, &workspace.binary(profile, "sluice"))?;
    let package = workspace.root().join("target/debian/sluice.deb");
    let mut deb = shell::cargo(&workspace.root().join("proxy-userspace"));
    // Cargo's subcommands are found by PATH; this one may be in a folder of its own.
    deb.env("PATH", path_with(&tool)?);
    deb.args(["deb", "--no-build", "--no-strip", "--output"])
        .arg(&package);
    if matches!(profile, Profile::Dev) {
        deb.args(["--fast", "--profile", "dev"]);
    }
    shell::run(
        &mut deb,
        "mend `package.metadata.deb` in proxy-userspace/Cargo.toml",
    )?;
    inspect(&package)?;
    install(workspace, &dpkg, &package)?;
    Ok(package)
}

/// The folder of cargo-deb, which is installed below `target/` where it is not there already.
fn ensure_cargo_deb(workspace: &Workspace) -> Result<PathBuf> {
    if let Some(program) = find_program("cargo-deb") {
        return Ok(program.parent().map(Path::to_owned).unwrap_or_default());
    }
    let root = workspace.root().join("target/tools");
    let folder = root.join("bin");
    if !folder.join("cargo-deb").is_file() {
        let mut cargo = shell::cargo(workspace.root());
        cargo.args(["install", "cargo-deb", "--locked", "--version", CARGO_DEB]);
        cargo.arg("--root").arg(&root);
        shell::run(
            &mut cargo,
            "check the network, or install cargo-deb yourself",
        )?;
    }
    Ok(folder)
}

fn path_with(folder: &Path) -> Result<std::ffi::OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(folder.to_owned()).chain(std::env::split_paths(&path));
    Ok(std::env::join_paths(folders)?)
}

/// What the binary says about itself.
fn write_files(workspace: &Workspace, binary: &Path) -> Result<()> {
    let folder = workspace.root().join("target/package");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let (man5, man8) = (folder.join("man5"), folder.join("man8"));
    fs::create_dir_all(&man5)?;
    let remedy = "the binary must run on this machine";
    shell::run(Command::new(binary).arg("man").arg(&man8), remedy)?;
    fs::rename(man8.join("sluice.yaml.5"), man5.join("sluice.yaml.5"))?;
    let words: [(&[&str], &str); 4] = [
        (&["completion", "bash"], "sluice.bash"),
        (&["completion", "zsh"], "_sluice"),
        (&["completion", "fish"], "sluice.fish"),
        (&["schema"], "schema.json"),
    ];
    for (words, name) in words {
        let said = shell::probe(Command::new(binary).args(words));
        let said = said.with_context(|| format!("`sluice {}` failed", words.join(" ")))?;
        fs::write(folder.join(name), said)?;
    }
    Ok(())
}

/// Looks whether all is there, and whether what users edit is theirs.
fn inspect(package: &Path) -> Result<()> {
    let listed = shell::probe(Command::new("dpkg-deb").arg("-c").arg(package));
    let listed = listed.context("the package cannot be listed")?;
    let missing = missing(&listed);
    ensure!(
        missing.is_empty(),
        "the package lacks {}",
        missing.join(", ")
    );
    let marked = shell::probe(
        Command::new("dpkg-deb")
            .arg("-I")
            .arg(package)
            .arg("conffiles"),
    );
    let marked = marked.context("the package has no conffiles")?;
    for file in ["/etc/sluice/sluice.yaml", "/etc/logrotate.d/sluice"] {
        ensure!(
            marked.lines().any(|line| line == file),
            "{file} is no conffile"
        );
    }
    Ok(())
}

/// Files of [`WANTED`] that are not in a listing of `dpkg-deb -c`, or have another mode.
fn missing(listed: &str) -> Vec<String> {
    let is_there = |path: &str, mode: &str| {
        listed.lines().any(|line| {
            let name = line.split_whitespace().nth(5).unwrap_or_default();
            line.starts_with(mode) && name.trim_start_matches("./") == path
        })
    };
    let wanted = WANTED.iter().filter(|(path, mode)| !is_there(path, mode));
    wanted
        .map(|(path, mode)| format!("{path} ({mode})"))
        .collect()
}

/// Installs it into a folder of its own, and runs what is there.
fn install(workspace: &Workspace, dpkg: &Path, package: &Path) -> Result<()> {
    let root = workspace.root().join("target/package/root");
    let state = root.join("var/lib/dpkg");
    for folder in ["info", "updates"] {
        fs::create_dir_all(state.join(folder))?;
    }
    fs::write(state.join("status"), "")?;
    let mut install = Command::new(dpkg);
    install.arg(format!("--root={}", root.display()));
    // Its libraries are those of this machine, and so are the programs of its scripts.
    install.args([
        "--force-depends",
        "--force-script-chrootless",
        "--force-not-root",
        "-i",
    ]);
    shell::run(install.arg(package), "see what dpkg says")?;
    let binary = root.join("usr/bin/sluice");
    let version = shell::probe(Command::new(&binary).arg("--version"));
    let version = version.context("the installed binary does not run")?;
    ensure!(version.starts_with("sluice "), "it says {version:?}");
    let file = root.join("etc/sluice/sluice.yaml");
    let mut validate = Command::new(&binary);
    validate.args(["validate", "--strict", "-c"]).arg(file);
    shell::run(&mut validate, "mend scripts/sluice.yaml")?;
    verify_unit(&root)
}

/// Has systemd look at the units, where it is there; its words about this machine's own units are
/// not ours to judge.
fn verify_unit(root: &Path) -> Result<()> {
    let Some(analyze) = find_program("systemd-analyze") else {
        return Ok(());
    };
    let units = ["sluice.service", "sluice.socket"];
    let output = Command::new(analyze)
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .arg(format!("--root={}", root.display()))
        .args(units)
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let ours: Vec<_> = said
        .lines()
        .filter(|line| line.contains("sluice"))
        .collect();
    if ours.is_empty() {
        return Ok(());
    }
    bail!("systemd-analyze says of the units:\n{}", ours.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_missing_or_has_another_mode_is_told() {
        let line =
            |mode: &str, path: &str| format!("{mode} root/root   1234 2026-01-01 10:00 ./{path}\n");
        let mut listed: String = WANTED.iter().map(|(path, mode)| line(mode, path)).collect();
        assert!(missing(&listed).is_empty());
        listed = listed.replace("-rwxr-xr-x", "-rwxrwxrwx");
        assert_eq!(missing(&listed), ["usr/bin/sluice (-rwxr-xr-x)"]);
    }
}
