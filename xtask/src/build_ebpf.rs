//! `cargo xtask build-ebpf`: the kernel programs, left as `target/ebpf/NAME`.

use crate::host::HostLacks;
use crate::setup::{self, Purpose};
use crate::shell;
use crate::toolchain::{NIGHTLY_COMMANDS, Toolchain};
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Deserialize;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

/// Options of the task.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Lint the kernel programs instead of building them.
    #[arg(long)]
    clippy: bool,
}

/// Runs the task.
pub(crate) fn task(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    setup::ensure(workspace, Purpose::Build)?;
    if options.clippy {
        clippy(workspace)?;
    } else {
        for object in build(workspace, Objects::All)? {
            println!("{}", object.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Which objects are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Objects {
    /// Every one.
    All,
    /// Without the packet path's second form, the one with a log, unless it was built here before: it
    /// takes as long as all the others, and only `l4.kernel_log` asks for it.
    WithoutLog,
}

impl Objects {
    fn with_log(self, workspace: &Workspace) -> bool {
        self == Self::All || workspace.ebpf_objects().join(LOGGING).exists()
    }
}

/// The packet path with its log, in `target/ebpf/`.
const LOGGING: &str = "sluice-log";

/// Builds the binaries of the kernel crate. Returns the copies in `target/ebpf/`.
///
/// Whether anything has changed is left to cargo; an unchanged object is not copied, so that user
/// space, which embeds it, is not built again.
pub(crate) fn build(workspace: &Workspace, objects: Objects) -> Result<Vec<PathBuf>> {
    let toolchain = toolchain()?;
    let folder = workspace.root().join("target/ebpf-build");
    let mut plain = toolchain.cargo("build", &workspace.ebpf_crate());
    plain.arg("--target-dir").arg(&folder);
    // The packet path once more, with its log. A folder of its own keeps both warm, and lets both be
    // built at once: most of the time goes into linking, which uses one CPU.
    let mut log = toolchain.cargo("build", &workspace.ebpf_crate());
    log.arg("--target-dir").arg(folder.join("log"));
    log.args(["--bin", "sluice", "--features", "log"]);
    let with_log = objects.with_log(workspace);
    for (cargo, is_built) in [(&mut plain, true), (&mut log, with_log)] {
        cargo.arg("--message-format=json-render-diagnostics");
        if is_built {
            eprintln!("    $ {}", shell::display(cargo));
        }
    }
    let (built, logging) = std::thread::scope(|scope| {
        let logging = with_log.then(|| scope.spawn(|| executables(&mut log)));
        let built = executables(&mut plain);
        let logging = logging.map(|it| it.join().expect("building does not panic"));
        (built, logging.unwrap_or(Ok(Vec::new())))
    });
    let (built, logging) = (built?, logging?);
    if built.is_empty() {
        bail!(
            "the kernel crate has no binary: {}",
            workspace.ebpf_crate().display()
        );
    }
    let named = built.into_iter().map(|executable| (executable, ""));
    let named = named.chain(logging.into_iter().map(|executable| (executable, "-log")));
    named
        .map(|(executable, suffix)| {
            let mut name = executable
                .file_name()
                .context("an executable has a name")?
                .to_owned();
            name.push(suffix);
            let copy = workspace.ebpf_objects().join(name);
            shell::copy_if_different(&executable, &copy)?;
            Ok(copy)
        })
        .collect()
}

/// Lints the kernel programs, warnings being errors, if that toolchain has clippy.
///
/// Returns false where it has none.
pub(crate) fn clippy(workspace: &Workspace) -> Result<bool> {
    let toolchain = toolchain()?;
    if !toolchain.has_clippy() {
        eprintln!("      {toolchain} has no clippy: the kernel programs are not linted");
        return Ok(false);
    }
    let mut cargo = toolchain.cargo("clippy", &workspace.ebpf_crate());
    cargo
        .arg("--target-dir")
        .arg(workspace.root().join("target/ebpf-build"));
    cargo.args(["--all-features", "--", "-D", "warnings"]);
    shell::run(&mut cargo, "mend what clippy names")?;
    Ok(true)
}

fn toolchain() -> Result<Toolchain> {
    Toolchain::find()?.ok_or_else(|| {
        let message = format!(
            "no compiler for kernel programs\n  remedy: `cargo xtask setup`, or:\n{NIGHTLY_COMMANDS}"
        );
        HostLacks(message).into()
    })
}

/// Runs cargo and returns the executables that it has built or found fresh.
fn executables(cargo: &mut Command) -> Result<Vec<PathBuf>> {
    let remedy = "`cargo xtask setup` installs the toolchain";
    let mut child = cargo
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| shell::cannot_start(cargo, remedy))?;
    let stdout = child.stdout.take().context("the output was piped")?;
    let mut built = Vec::new();
    for line in BufReader::new(stdout).lines() {
        built.extend(executable(&line.context("reading cargo's messages")?));
    }
    let status = child.wait().context("waiting for cargo")?;
    if !status.success() {
        bail!(
            "building the kernel programs failed ({status})\n  remedy: mend what the compiler \
             names. If bpf-linker cannot read the bitcode, it was built on an older LLVM than the \
             compiler: `cargo uninstall bpf-linker`, then `cargo xtask setup`; or choose the other \
             compiler by SLUICE_EBPF_TOOLCHAIN=debian or =nightly."
        );
    }
    Ok(built)
}

/// The executable in one of cargo's messages.
fn executable(line: &str) -> Option<PathBuf> {
    #[derive(Deserialize)]
    struct Message {
        reason: String,
        executable: Option<PathBuf>,
    }
    let message: Message = serde_json::from_str(line).ok()?;
    if message.reason == "compiler-artifact" {
        message.executable
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_with_a_log_is_kept_where_it_was_built() {
        let folder = std::env::temp_dir().join(format!("sluice-objects-{}", std::process::id()));
        let workspace = Workspace::at(&folder);
        std::fs::create_dir_all(workspace.ebpf_objects()).unwrap();
        assert!(Objects::All.with_log(&workspace));
        assert!(!Objects::WithoutLog.with_log(&workspace));
        std::fs::write(workspace.ebpf_objects().join(LOGGING), "").unwrap();
        assert!(Objects::WithoutLog.with_log(&workspace));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn executables_are_read_from_cargos_messages() {
        let artifact = r#"{"reason":"compiler-artifact","executable":"/t/release/sluice"}"#;
        assert_eq!(
            executable(artifact),
            Some(PathBuf::from("/t/release/sluice"))
        );
        let library = r#"{"reason":"compiler-artifact","executable":null}"#;
        assert_eq!(executable(library), None);
        assert_eq!(
            executable(r#"{"reason":"build-finished","success":true}"#),
            None
        );
        assert_eq!(executable("not json"), None);
    }
}
