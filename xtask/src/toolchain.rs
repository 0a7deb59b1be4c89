//! Which compiler builds the kernel programs.
//!
//! Stable Rust has no eBPF core library, so the programs need one of two toolchains (ADR 0001):
//! rustup's nightly, which builds that library from source, or Debian's own compiler, for which it
//! is a package. A nightly that is there is preferred, because its owner chose it; a fresh Debian
//! gets Debian's, because packages are there to stay while nightlies move.

use crate::host::{HostLacks, find_program};
use crate::shell;
use anyhow::{Result, bail};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fmt};

/// LLVM that bpf-linker is built on by `cargo xtask setup`. A linker reads the bitcode of
/// compilers with the same or an older LLVM.
pub(crate) const LLVM: u32 = 22;

/// The bpf-linker that `cargo xtask setup` installs.
pub(crate) const LINKER_VERSION: &str = "0.13.0";

/// Where Debian keeps its compiler.
const DEBIAN_BIN: &str = "/usr/bin";

/// Where Debian keeps that LLVM.
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

/// How to get a toolchain where Debian's packages are not available.
pub(crate) const NIGHTLY_COMMANDS: &str = "\
    rustup toolchain install nightly --component rust-src
    rustc +nightly -vV     # the last line names its LLVM; install that one's development files
    cargo install bpf-linker --version 0.13.0 --no-default-features --features llvm-22";

/// A compiler for the kernel programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Toolchain {
    /// rustup's nightly with `rust-src`.
    Nightly,
    /// Debian's `rustc-web`, `cargo-web` and `libstd-rust-web-dev-bpf`.
    Debian,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nightly => "rustup's nightly with rust-src",
            Self::Debian => "Debian's rustc-web with libstd-rust-web-dev-bpf",
        })
    }
}

impl Toolchain {
    /// The toolchain to use, if one is there.
    ///
    /// # Errors
    ///
    /// If `SLUICE_EBPF_TOOLCHAIN` asks for one that is unknown or not there.
    pub(crate) fn find() -> Result<Option<Self>> {
        let wish = env::var("SLUICE_EBPF_TOOLCHAIN").ok();
        choose(
            wish.as_deref(),
            nightly_llvm(),
            find_linker().is_some(),
            has_debian(),
        )
    }

    /// Cargo of this toolchain with all that an eBPF build needs, in the crate's folder.
    pub(crate) fn cargo(&self, subcommand: &str, ebpf_crate: &Path) -> Command {
        let mut command = match self {
            Self::Nightly => {
                let mut command = shell::foreign("rustup");
                command.args([
                    "run",
                    "nightly",
                    "cargo",
                    subcommand,
                    "-Z",
                    "build-std=core",
                ]);
                command
            }
            Self::Debian => {
                let mut command = shell::foreign(Path::new(DEBIAN_BIN).join("cargo"));
                // The core library's packaged form is enough; some features that the programs
                // use are not stable yet.
                command
                    .env("RUSTC", "/usr/bin/rustc")
                    .env("RUSTC_BOOTSTRAP", "1");
                command.arg(subcommand);
                command
            }
        };
        command.args(["--release", "--target", "bpfel-unknown-none"]);
        command.env("RUSTFLAGS", BPF_RUSTFLAGS);
        // rustc starts bpf-linker by its name, and cargo its subcommands: Debian's must come before
        // the proxies of rustup.
        let linker = find_linker().and_then(|linker| Some(linker.parent()?.to_owned()));
        let own = (*self == Self::Debian).then(|| PathBuf::from(DEBIAN_BIN));
        if let Some(path) = path_with(own.into_iter().chain(linker)) {
            command.env("PATH", path);
        }
        command.current_dir(ebpf_crate);
        command
    }

    /// True if this toolchain has clippy.
    pub(crate) fn has_clippy(&self) -> bool {
        match self {
            Self::Nightly => {
                let mut command = shell::foreign("rustup");
                shell::probe(command.args(["run", "nightly", "cargo", "clippy", "--version"]))
                    .is_some()
            }
            Self::Debian => Path::new(DEBIAN_BIN).join("cargo-clippy").is_file(),
        }
    }
}

/// Line information makes verifier messages readable; BTF gives maps their types. Version 3 of the
/// instruction set has 32-bit atomics. Headers are rarely aligned, so accesses may not be either;
/// and short copies must become moves, not calls of an octet loop.
const BPF_RUSTFLAGS: &str = "-C debuginfo=2 -C target-cpu=v3 -C link-arg=--btf \
    -C link-arg=--disable-expand-memcpy-in-order \
    -C link-arg=--cpu-features=+allows-misaligned-mem-access";

fn choose(
    wish: Option<&str>,
    nightly_llvm: Option<u32>,
    linker: bool,
    debian: bool,
) -> Result<Option<Toolchain>> {
    // A linker that is already there was built by its owner for that nightly, we assume; one that
    // we would build reads up to our LLVM.
    let nightly = nightly_llvm.is_some_and(|llvm| linker || llvm <= LLVM);
    match wish {
        Some("nightly") if nightly_llvm.is_some() => Ok(Some(Toolchain::Nightly)),
        Some("debian") if debian => Ok(Some(Toolchain::Debian)),
        Some(wish @ ("nightly" | "debian")) => Err(HostLacks(format!(
            "SLUICE_EBPF_TOOLCHAIN={wish}, but it is not installed\n  remedy: unset the variable \
             and run `cargo xtask setup`, or install it:\n{NIGHTLY_COMMANDS}"
        ))
        .into()),
        Some(other) => bail!("SLUICE_EBPF_TOOLCHAIN={other}: must be `nightly` or `debian`"),
        None if nightly => Ok(Some(Toolchain::Nightly)),
        None if debian => Ok(Some(Toolchain::Debian)),
        None => Ok(None),
    }
}

/// The LLVM version of rustup's nightly, if it is installed with the core library's source.
fn nightly_llvm() -> Option<u32> {
    // Without this question rustup might set out to install it.
    let toolchains = shell::probe(shell::foreign("rustup").args(["toolchain", "list"]))?;
    toolchains
        .lines()
        .find(|line| line.starts_with("nightly-"))?;
    let rustc = |argument: &str, rest: &[&str]| {
        let mut command = shell::foreign("rustup");
        command
            .args(["run", "nightly", "rustc", argument])
            .args(rest);
        shell::probe(&mut command)
    };
    let sysroot = rustc("--print", &["sysroot"])?;
    let source = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs");
    if !source.is_file() {
        return None;
    }
    llvm_version(&rustc("-vV", &[])?)
}

/// The major LLVM version in the output of `rustc -vV`.
fn llvm_version(text: &str) -> Option<u32> {
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version:"))?;
    version.trim().split('.').next()?.parse().ok()
}

fn has_debian() -> bool {
    Path::new(DEBIAN_BIN).join("cargo").is_file() && debian_core().is_some()
}

/// The folder of Debian's core library for eBPF.
fn debian_core() -> Option<PathBuf> {
    let rustc = shell::foreign("/usr/bin/rustc")
        .args(["--print", "sysroot"])
        .output()
        .ok()?;
    let sysroot = String::from_utf8(rustc.stdout).ok()?;
    let folder = Path::new(sysroot.trim()).join("lib/rustlib/bpfel-unknown-none/lib");
    folder.is_dir().then_some(folder)
}

/// An installed bpf-linker that starts (its LLVM may have been removed).
pub(crate) fn find_linker() -> Option<PathBuf> {
    let linker = find_program("bpf-linker")?;
    shell::probe(Command::new(&linker).arg("--version")).map(|_| linker)
}

/// The command that installs bpf-linker. It goes where cargo puts all programs, so that every
/// clone of the repository finds it.
pub(crate) fn linker_install(root: &Path) -> Command {
    let mut command = shell::cargo(root);
    command.args([
        "install",
        "bpf-linker",
        "--version",
        LINKER_VERSION,
        "--locked",
        "--force",
    ]);
    command.args([
        "--no-default-features",
        "--features",
        &format!("llvm-{LLVM}"),
    ]);
    if Path::new(LLVM_PREFIX).is_dir() {
        command.env("LLVM_PREFIX", LLVM_PREFIX);
        if let Some(path) = path_with([Path::new(LLVM_PREFIX).join("bin")]) {
            command.env("PATH", path);
        }
    }
    // Its work is done in LLVM: spare the time that debug information and optimising cost. Without
    // either it links in the same time.
    command.env("CARGO_PROFILE_RELEASE_DEBUG", "0");
    command.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0");
    command
}

/// The same for humans.
pub(crate) fn linker_command() -> String {
    format!(
        "PATH={LLVM_PREFIX}/bin:$PATH LLVM_PREFIX={LLVM_PREFIX} cargo install bpf-linker \
         --version {LINKER_VERSION} --locked --no-default-features --features llvm-{LLVM}"
    )
}

/// `PATH` with folders in front.
fn path_with(folders: impl IntoIterator<Item = PathBuf>) -> Option<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::join_paths(folders.into_iter().chain(env::split_paths(&path))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(wish: Option<&str>, nightly: Option<u32>, linker: bool, debian: bool) -> String {
        match choose(wish, nightly, linker, debian) {
            Ok(Some(toolchain)) => format!("{toolchain:?}"),
            Ok(None) => "none".to_owned(),
            Err(error) if error.is::<HostLacks>() => "host lacks".to_owned(),
            Err(_) => "usage".to_owned(),
        }
    }

    #[test]
    fn a_users_nightly_comes_before_debians_compiler() {
        assert_eq!(chosen(None, Some(22), true, true), "Nightly");
        assert_eq!(chosen(None, None, true, true), "Debian");
        assert_eq!(chosen(None, None, true, false), "none");
    }

    #[test]
    fn a_nightly_that_is_too_new_for_our_linker_is_left_alone() {
        assert_eq!(chosen(None, Some(LLVM + 1), false, true), "Debian");
        assert_eq!(chosen(None, Some(LLVM + 1), true, true), "Nightly");
    }

    #[test]
    fn a_wish_is_followed_or_refused() {
        assert_eq!(chosen(Some("debian"), Some(22), true, true), "Debian");
        assert_eq!(chosen(Some("nightly"), None, true, true), "host lacks");
        assert_eq!(chosen(Some("gcc"), Some(22), true, true), "usage");
    }

    #[test]
    fn the_llvm_version_is_read() {
        assert_eq!(
            llvm_version("release: 1.97.0-nightly\nLLVM version: 22.1.4\n"),
            Some(22)
        );
        assert_eq!(llvm_version("release: 1.97.0-nightly\n"), None);
    }
}
