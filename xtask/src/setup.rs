//! `cargo xtask setup`: installs what is missing, or says what to type.

use crate::host::{self, HostLacks};
use crate::packages::{self, Package};
use crate::progress::Progress;
use crate::toolchain::{self, Toolchain};
use crate::workspace::Workspace;
use crate::{shell, toolchain::find_linker};
use anyhow::{Result, bail};
use clap::Args;
use std::process::ExitCode;

/// Options of the task.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only say what is missing; exits with 77 if something is.
    #[arg(long)]
    check: bool,
}

/// What the machine is set up for. Each includes the earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    /// Compile everything.
    Build,
    /// Send real traffic.
    Demo,
    /// Check everything.
    Test,
    /// Measure, and compare with others.
    Bench,
}

/// Runs the task.
pub(crate) fn task(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    if options.check {
        return check();
    }
    ensure(workspace, Purpose::Bench)?;
    println!("everything is there; next: `cargo xtask demo` or `cargo xtask test`");
    Ok(ExitCode::SUCCESS)
}

/// Makes sure that all that is needed is there.
///
/// # Errors
///
/// [`HostLacks`] with the commands to type where this process may not install it itself.
pub(crate) fn ensure(workspace: &Workspace, purpose: Purpose) -> Result<()> {
    let missing = Missing::find(purpose)?;
    if missing.is_nothing() {
        return Ok(());
    }
    let may_install = host::is_root() && packages::has_apt();
    if missing.needs_packages() && !may_install {
        return Err(HostLacks(missing.instructions(packages::has_apt())).into());
    }
    let steps = usize::from(!missing.packages.is_empty()) + usize::from(missing.linker);
    let mut progress = Progress::new(steps);
    if !missing.packages.is_empty() {
        let title = format!(
            "set-up: installing {} packages by apt",
            missing.packages.len()
        );
        progress.step(&title, || packages::install(&missing.packages))?;
    }
    if missing.linker {
        let title = "set-up: building bpf-linker, which links kernel programs (some minutes)";
        progress.step(title, || install_linker(workspace))?;
    }
    let left = Missing::find(purpose)?;
    if !left.is_nothing() {
        bail!(
            "still missing after the set-up:\n{}",
            left.instructions(packages::has_apt())
        );
    }
    Ok(())
}

fn install_linker(workspace: &Workspace) -> Result<()> {
    shell::run(
        &mut toolchain::linker_install(workspace.root()),
        "check the network; without one, install bpf-linker 0.13 some other way and have it in PATH",
    )
}

/// What is not there yet.
#[derive(Debug)]
struct Missing {
    packages: Vec<Package>,
    linker: bool,
    compiler: bool,
}

impl Missing {
    fn find(purpose: Purpose) -> Result<Self> {
        let toolchain = Toolchain::find()?;
        let compiler = toolchain.is_none();
        let linker = find_linker().is_none();
        let mut wanted = wanted(purpose, compiler, linker);
        let debian = toolchain.is_none_or(|toolchain| toolchain == Toolchain::Debian);
        if purpose >= Purpose::Test && debian && !packages::is_installed("rustup") {
            wanted.push(packages::EBPF_LINTS);
        }
        Ok(Self {
            packages: packages::missing(&wanted),
            linker,
            compiler,
        })
    }

    fn is_nothing(&self) -> bool {
        self.packages.is_empty() && !self.linker && !self.compiler
    }

    /// True if cargo alone cannot install what is missing.
    fn needs_packages(&self) -> bool {
        self.compiler || !self.packages.is_empty()
    }

    /// What to type, for a human who may do more than this process.
    fn instructions(&self, apt: bool) -> String {
        let mut lines = vec!["some things are missing:".to_owned()];
        for Package { name, why, .. } in &self.packages {
            lines.push(format!("  {name:<26} {why}"));
        }
        if self.linker {
            lines.push(format!("  {:<26} links the kernel programs", "bpf-linker"));
        }
        lines.push("remedy:".to_owned());
        if apt {
            if !self.packages.is_empty() {
                lines.push(format!("    {}", packages::apt_command(&self.packages)));
            }
            if self.linker {
                lines.push(format!("    {}", toolchain::linker_command()));
            }
        } else {
            lines.push("  install the programs above by this system's package manager".to_owned());
            if self.compiler || self.linker {
                lines.push("  and a toolchain for kernel programs:".to_owned());
                lines.push(toolchain::NIGHTLY_COMMANDS.to_owned());
            }
        }
        lines.join("\n")
    }
}

fn wanted(purpose: Purpose, compiler: bool, linker: bool) -> Vec<&'static [Package]> {
    let mut wanted = vec![packages::USER_SPACE];
    if compiler {
        wanted.push(packages::EBPF_COMPILER);
    }
    if linker {
        wanted.push(packages::LINKER);
    }
    if purpose >= Purpose::Demo {
        wanted.push(packages::TRAFFIC);
    }
    if purpose >= Purpose::Test {
        wanted.push(packages::SECOND_LOADER);
        wanted.push(packages::SUITES);
        wanted.push(packages::FUZZ);
    }
    if purpose >= Purpose::Bench {
        wanted.push(packages::PEERS);
    }
    wanted
}

fn check() -> Result<ExitCode> {
    let toolchain = Toolchain::find()?;
    let linker = find_linker();
    let line = |name: &str, state: &str| println!("{name:<28} {state}");
    line(
        "compiler for kernel programs",
        &toolchain.map_or("MISSING".into(), |t| t.to_string()),
    );
    line(
        "bpf-linker",
        &linker.map_or("MISSING".into(), |path| path.display().to_string()),
    );
    let missing = Missing::find(Purpose::Bench)?;
    for package in &missing.packages {
        line(package.name, &format!("MISSING: {}", package.why));
    }
    let lacks = host::privileged_lacks();
    for lack in &lacks {
        line(
            "privileged tests",
            &format!("MISSING {}: {}", lack.what, lack.remedy),
        );
    }
    if !missing.is_nothing() {
        return Err(HostLacks(missing.instructions(packages::has_apt())).into());
    }
    if !lacks.is_empty() {
        return Ok(ExitCode::from(77));
    }
    println!("everything is there");
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_toolchain_and_linker_save_the_packages_for_them() {
        assert_eq!(wanted(Purpose::Build, false, false), [packages::USER_SPACE]);
        let all = wanted(Purpose::Bench, true, true);
        assert_eq!(all.len(), 8);
    }

    #[test]
    fn instructions_name_each_command() {
        let missing = Missing {
            packages: packages::EBPF_COMPILER.to_vec(),
            linker: true,
            compiler: true,
        };
        let text = missing.instructions(true);
        assert!(
            text.contains("sudo apt-get update && sudo apt-get install"),
            "{text}"
        );
        assert!(text.contains("libstd-rust-web-dev-bpf"), "{text}");
        assert!(
            text.contains("cargo install bpf-linker --version 0.13.0"),
            "{text}"
        );
        let text = missing.instructions(false);
        assert!(text.contains("rustup toolchain install nightly"), "{text}");
        assert!(!text.contains("apt-get"), "{text}");
    }
}
