//! `cargo xtask build --profile-guided`: the compiler is told which branches a proxy takes.
//!
//! A first build counts them while the benchmark's scenarios run through it; the second is laid out
//! by what was counted. Flags of the compiler are part of what cargo keeps apart, so both have a
//! folder of their own and the usual builds stay warm.

use crate::build_ebpf::{self, Objects};
use crate::host::find_program;
use crate::progress::Progress;
use crate::setup::{self, Purpose};
use crate::shell;
use crate::workspace::{Profile, Workspace};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Scenarios that the counts come from: the ways that requests take, not those of the packet path.
const SCENARIOS: &[&str] = &[
    "get",
    "get_log",
    "connect",
    "h2_h1",
    "h2_h2",
    "grpc",
    "body_1m",
    "post_64k",
    "static_4k",
    "routes_10k",
    "websocket",
    "tls_get",
    "tls_full",
    "tls_h2",
    "tls_1m",
];

/// Builds `target/release/sluice` guided by a profile, and returns its path.
pub(crate) fn sluice(workspace: &Workspace) -> Result<PathBuf> {
    setup::ensure(workspace, Purpose::Build)?;
    let toolchain = Toolchain::find(workspace.root())?;
    let folder = workspace.guided();
    let (counts, profile) = (folder.join("counts"), folder.join("profile"));
    if counts.exists() {
        fs::remove_dir_all(&counts).context("cannot remove old counts")?;
    }
    let mut progress = Progress::new(5);
    progress.step("the kernel programs", || {
        build_ebpf::build(workspace, Objects::All)
    })?;
    let counting = progress.step("sluice that counts", || {
        let flag = format!("-Cprofile-generate={}", counts.display());
        toolchain.build(workspace, &folder.join("counting"), &flag, "thin")
    })?;
    progress.step("the load", || load(workspace, &counting))?;
    progress.step("the profile", || toolchain.merge(&counts, &profile))?;
    let built = progress.step("sluice, guided", || {
        let flag = format!("-Cprofile-use={}", profile.display());
        toolchain.build(workspace, &folder.join("using"), &flag, "fat")
    })?;
    let binary = workspace.binary(Profile::Release, "sluice");
    fs::create_dir_all(binary.parent().unwrap_or(workspace.root()))?;
    // The name may be that of a program that runs: it is replaced, not written over.
    let new = binary.with_extension("new");
    fs::copy(&built, &new).with_context(|| format!("cannot copy {}", built.display()))?;
    fs::rename(&new, &binary)?;
    Ok(binary)
}

/// Runs the scenarios through the program that counts; it writes when it ends.
fn load(workspace: &Workspace, counting: &Path) -> Result<()> {
    let mut cargo = shell::cargo(workspace.root());
    // As `cargo xtask bench` builds it, so that this is not done twice.
    cargo.args(["build", "--release", "--workspace", "--bin", "bench"]);
    shell::run(&mut cargo, "mend what the compiler names")?;
    let mut bench = Command::new(workspace.binary(Profile::Release, "bench"));
    bench
        .current_dir(workspace.root())
        .env("SLUICE_BIN", counting)
        .args(["l7", "--quick", "--peer", "sluice"]);
    for scenario in SCENARIOS {
        bench.args(["--scenario", scenario]);
    }
    shell::run(&mut bench, "see what the benchmark says")
}

/// What is needed besides cargo.
struct Toolchain {
    /// Where the compiler's programs run. Named to cargo, so that build scripts are built without
    /// the flags.
    host: String,
    /// Merges counts; of the compiler's LLVM, whose format it must know.
    profdata: PathBuf,
}

impl Toolchain {
    fn find(root: &Path) -> Result<Self> {
        let mut rustc = Command::new("rustc");
        let said =
            shell::probe(rustc.current_dir(root).arg("-vV")).context("rustc does not run")?;
        let line = |key: &str| said.lines().find_map(|line| line.strip_prefix(key));
        let host = line("host: ").context("rustc names no host")?.to_owned();
        let llvm = line("LLVM version: ").and_then(|version| version.split('.').next());
        let llvm = llvm.context("rustc names no LLVM")?;
        let mut rustc = Command::new("rustc");
        let sysroot = shell::probe(rustc.current_dir(root).args(["--print", "sysroot"]))
            .context("rustc names no sysroot")?;
        let own = Path::new(sysroot.trim())
            .join("lib/rustlib")
            .join(&host)
            .join("bin/llvm-profdata");
        let places = [
            own,
            format!("/usr/lib/llvm-{llvm}/bin/llvm-profdata").into(),
        ];
        let found = places.into_iter().find(|place| place.is_file());
        let found = found.or_else(|| find_program(&format!("llvm-profdata-{llvm}")));
        let Some(profdata) = found else {
            bail!(
                "there is no llvm-profdata of LLVM {llvm}\n  \
                 remedy: `rustup component add llvm-tools`, or `apt-get install llvm-{llvm}`"
            );
        };
        Ok(Self { host, profdata })
    }

    fn build(
        &self,
        workspace: &Workspace,
        target: &Path,
        flag: &str,
        link_time: &str,
    ) -> Result<PathBuf> {
        let mut cargo = shell::cargo(workspace.root());
        cargo
            .env("RUSTFLAGS", flag)
            // In both builds, so that what was counted is found again.
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
            .env("CARGO_PROFILE_RELEASE_LTO", link_time)
            .args([
                "build",
                "--release",
                "--package",
                "proxy-userspace",
                "--bin",
                "sluice",
            ])
            .args(["--target", &self.host, "--target-dir"])
            .arg(target);
        shell::run(&mut cargo, "mend what the compiler names")?;
        Ok(target.join(&self.host).join("release/sluice"))
    }

    fn merge(&self, counts: &Path, profile: &Path) -> Result<()> {
        let mut merge = Command::new(&self.profdata);
        merge.arg("merge").arg("-o").arg(profile).arg(counts);
        shell::run(&mut merge, "did the program that counts end by itself?")
    }
}
