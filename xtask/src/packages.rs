//! The Debian packages that building, testing and benchmarking need, and installing them.

use crate::host::{HostLacks, find_program};
use crate::shell;
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;

/// A package of Debian (and Ubuntu).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Package {
    /// Its name.
    pub(crate) name: &'static str,
    /// A program of it. Where that is found the package counts as present, however it came.
    program: Option<&'static str>,
    /// What it is for.
    pub(crate) why: &'static str,
}

const fn library(name: &'static str, why: &'static str) -> Package {
    Package {
        name,
        program: None,
        why,
    }
}

const fn program(name: &'static str, program: &'static str, why: &'static str) -> Package {
    Package {
        name,
        program: Some(program),
        why,
    }
}

/// What compiling user space needs.
pub(crate) const USER_SPACE: &[Package] = &[
    program("gcc", "cc", "links Rust programs"),
    library("libc6-dev", "links Rust programs"),
];

/// What compiling the suites needs besides.
pub(crate) const SECOND_LOADER: &[Package] = &[
    program(
        "make",
        "make",
        "builds libbpf, the tests' second loader of the kernel object",
    ),
    program("pkg-config", "pkg-config", "finds the libraries of libbpf"),
    library("libelf-dev", "a library of libbpf"),
    library("zlib1g-dev", "a library of libbpf"),
];

/// Debian's Rust compiler with the core library for eBPF. Its name comes from the browsers that
/// it is packaged for.
pub(crate) const EBPF_COMPILER: &[Package] = &[
    library("rustc-web", "compiles the kernel programs"),
    library("cargo-web", "compiles the kernel programs"),
    library("libstd-rust-web-dev-bpf", "Rust's core library for eBPF"),
];

/// Lints of Debian's Rust compiler. Its package keeps out those of rustup's package in newer
/// releases of Debian, which must stay; then the kernel programs are not linted.
pub(crate) const EBPF_LINTS: &[Package] =
    &[library("rust-web-clippy", "lints the kernel programs")];

/// What building bpf-linker needs.
pub(crate) const LINKER: &[Package] = &[
    library("llvm-22-dev", "bpf-linker is built on LLVM"),
    library("libpolly-22-dev", "bpf-linker is built on LLVM"),
    library("zlib1g-dev", "a library of LLVM"),
    library("libzstd-dev", "a library of LLVM"),
    program(
        "g++",
        "c++",
        "a part of bpf-linker's bindings to LLVM is C++",
    ),
];

/// What building the fuzz targets needs.
pub(crate) const FUZZ: &[Package] = &[program("g++", "c++", "libFuzzer is C++")];

/// What the demo runs, and the namespace tests as well.
pub(crate) const TRAFFIC: &[Package] = &[
    program("iproute2", "ip", "makes network namespaces and routes"),
    program(
        "ethtool",
        "ethtool",
        "switches offloads of virtual interfaces",
    ),
    program("curl", "curl", "a real HTTP client"),
    program("bpftool", "bpftool", "shows pinned maps and programs"),
];

/// What else the suites run: without one of these, a test fails.
pub(crate) const SUITES: &[Package] = &[
    program(
        "nginx-light",
        "nginx",
        "a real server, and a proxy to compare with",
    ),
    program("haproxy", "haproxy", "a proxy to compare with"),
    program(
        "redis-server",
        "redis-server",
        "a server that does not speak HTTP",
    ),
    program("redis-tools", "redis-cli", "its client"),
    program("nghttp2-client", "h2load", "drives HTTP/2 load"),
    program("nftables", "nft", "address translation to compare with"),
    program("tcpdump", "tcpdump", "reads what was captured"),
    program("chromium", "chromium", "looks at pages"),
    program("libnss3-tools", "certutil", "tells it whom to believe"),
    program("pebble", "pebble", "an authority that issues by ACME"),
    program("slowhttptest", "slowhttptest", "plays slow clients"),
    program("testssl.sh", "testssl", "looks for weaknesses of TLS"),
    program("sslscan", "sslscan", "lists what TLS is spoken"),
    library(
        "python3-venv",
        "a place for the peers that PyPI distributes",
    ),
];

/// What else the benchmarks compare with, and what drives them.
pub(crate) const PEERS: &[Package] = &[
    library("libnginx-mod-stream", "the layer 4 part of nginx"),
    program("wrk", "wrk", "drives HTTP/1.1 load"),
];

/// The packages that are not there, each once, in order.
pub(crate) fn missing(wanted: &[&[Package]]) -> Vec<Package> {
    let wanted: Vec<Package> = wanted.iter().copied().flatten().copied().collect();
    let names: Vec<_> = wanted.iter().map(|package| package.name).collect();
    let installed = has_apt().then(|| installed(&names));
    select_missing(&wanted, |package| match &installed {
        Some(names) => names.contains(package.name),
        // Libraries cannot be told without a package manager: the compiler will.
        None => package.program.is_none(),
    })
}

fn select_missing(wanted: &[Package], present: impl Fn(&Package) -> bool) -> Vec<Package> {
    let mut seen = BTreeSet::new();
    wanted
        .iter()
        .filter(|package| seen.insert(package.name))
        .filter(|package| !present(package))
        .filter(|package| {
            package
                .program
                .is_none_or(|name| find_program(name).is_none())
        })
        .copied()
        .collect()
}

/// True if dpkg has installed this package.
pub(crate) fn is_installed(name: &str) -> bool {
    has_apt() && installed(&[name]).contains(name)
}

/// True on Debian and its kin.
pub(crate) fn has_apt() -> bool {
    find_program("apt-get").is_some() && find_program("dpkg-query").is_some()
}

/// Those of `names` that dpkg has installed.
fn installed(names: &[&str]) -> BTreeSet<String> {
    let mut query = Command::new("dpkg-query");
    query
        .args(["--show", "--showformat", "${db:Status-Abbrev} ${Package}\n"])
        .args(names);
    // It fails when one of them is unknown, and still lists the others.
    let Ok(output) = query.output() else {
        return BTreeSet::new();
    };
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.strip_prefix("ii").map(|rest| rest.trim().to_owned()))
        .collect()
}

/// The command that installs these packages, for humans.
pub(crate) fn apt_command(packages: &[Package]) -> String {
    let names: Vec<_> = packages.iter().map(|package| package.name).collect();
    format!(
        "sudo apt-get update && sudo apt-get install --no-install-recommends {}",
        names.join(" ")
    )
}

/// Installs packages. Services in them are not started: this machine may have its own port 80.
///
/// # Errors
///
/// [`HostLacks`] where the distribution has no such package; else what apt failed at.
pub(crate) fn install(packages: &[Package]) -> Result<()> {
    for package in packages {
        eprintln!("      {:<26} {}", package.name, package.why);
    }
    let mut update = apt();
    update.args(["update", "--quiet"]);
    shell::run(&mut update, "check the network and /etc/apt/sources.list")?;
    refuse_unknown(packages)?;
    let _guard = ServiceGuard::new()?;
    let mut install = apt();
    install.args(["install", "--yes", "--quiet", "--no-install-recommends"]);
    install.args(packages.iter().map(|package| package.name));
    shell::run(
        &mut install,
        "read apt's message above; `apt-get -f install` repairs broken states",
    )?;
    disable_services(packages);
    Ok(())
}

/// Packages that would start a service at the next boot, and the service.
const SERVICES: &[(&str, &str)] = &[
    ("nginx-light", "nginx"),
    ("haproxy", "haproxy"),
    ("redis-server", "redis-server"),
];

/// Keeps what was just installed for a benchmark from taking ports after the next boot.
fn disable_services(installed: &[Package]) {
    for (package, service) in SERVICES {
        let ours = installed.iter().any(|new| new.name == *package);
        let mut disable = Command::new("systemctl");
        if ours && shell::probe(disable.args(["disable", "--quiet", service])).is_some() {
            eprintln!("      {service} is not started at boot; `systemctl enable {service}` does");
        }
    }
}

fn apt() -> Command {
    let mut apt = shell::foreign("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive");
    // Another apt (unattended upgrades) may hold the lock.
    apt.args(["-o", "DPkg::Lock::Timeout=120"]);
    // No bars that draw over each other in a log.
    apt.args(["-o", "Dpkg::Use-Pty=0"]);
    // Nothing of the user's is removed to make room for ours.
    apt.arg("--no-remove");
    apt
}

fn refuse_unknown(packages: &[Package]) -> Result<()> {
    let mut policy = Command::new("apt-cache");
    policy
        .arg("policy")
        .args(packages.iter().map(|package| package.name));
    let policy = shell::probe(policy.env("LC_ALL", "C")).unwrap_or_default();
    let available = available(&policy);
    let unknown: Vec<_> = packages
        .iter()
        .map(|p| p.name)
        .filter(|name| !available.contains(name))
        .collect();
    if unknown.is_empty() {
        return Ok(());
    }
    Err(HostLacks(format!(
        "{} has no package {}\n  remedy: on Debian 12 enable its security archive \
         (`deb http://deb.debian.org/debian-security bookworm-security main`).\n  Elsewhere build \
         the kernel programs with rustup's nightly:\n{}",
        crate::host::distribution(),
        unknown.join(", "),
        crate::toolchain::NIGHTLY_COMMANDS,
    ))
    .into())
}

/// The packages in the output of `apt-cache policy` that can be installed.
fn available(policy: &str) -> BTreeSet<&str> {
    let mut package = "";
    let mut found = BTreeSet::new();
    for line in policy.lines() {
        if let Some(name) = line.strip_suffix(':').filter(|name| !name.starts_with(' ')) {
            package = name;
        } else if let Some(candidate) = line.trim().strip_prefix("Candidate:")
            && candidate.trim() != "(none)"
        {
            found.insert(package);
        }
    }
    found
}

/// Keeps dpkg from starting services while it exists, by Debian's own means (`policy-rc.d`).
struct ServiceGuard {
    made: bool,
}

impl ServiceGuard {
    const POLICY: &'static str = "/usr/sbin/policy-rc.d";

    fn new() -> Result<Self> {
        if Path::new(Self::POLICY).exists() {
            return Ok(Self { made: false }); // The host's own rule stands.
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(Self::POLICY)
            .with_context(|| format!("making {}", Self::POLICY))?;
        // Code 101: the action is forbidden.
        file.write_all(
            b"#!/bin/sh\n# Made by `cargo xtask setup`; removed when it ends.\nexit 101\n",
        )
        .with_context(|| format!("writing {}", Self::POLICY))?;
        Ok(Self { made: true })
    }
}

impl Drop for ServiceGuard {
    fn drop(&mut self) {
        if self.made
            && let Err(error) = fs::remove_file(Self::POLICY)
        {
            eprintln!("warning: remove {} by hand: {error}", Self::POLICY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_counts_as_present_if_dpkg_or_the_path_has_it() {
        let wanted = [
            library("liba", ""),
            library("libb", ""),
            program("dash", "sh", "found in the path"),
            program("peer", "no-such-program-anywhere", ""),
            library("libb", "named twice"),
        ];
        let missing = select_missing(&wanted, |package| package.name == "liba");
        let names: Vec<_> = missing.iter().map(|package| package.name).collect();
        assert_eq!(names, ["libb", "peer"]);
    }

    #[test]
    fn packages_without_a_candidate_are_not_available() {
        let policy = "nginx-light:\n  Installed: (none)\n  Candidate: 1.22.1\n  Version table:\n\
                      old:\n  Installed: (none)\n  Candidate: (none)\n";
        assert_eq!(available(policy), BTreeSet::from(["nginx-light"]));
    }
}
