//! Starting other programs: shown before they run, reported with a remedy when they fail.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::{env, fs, io, iter};

/// Variables that `cargo run` and rustup leave in the environment of this program. They describe
/// xtask's own build and would misguide a build by another toolchain.
const INHERITED: &[&str] = &[
    "CARGO",
    "CARGO_BIN_NAME",
    "CARGO_CRATE_NAME",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_PATH",
    "CARGO_PRIMARY_PACKAGE",
    "CARGO_TARGET_DIR",
    "LD_LIBRARY_PATH",
    "RUSTC",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTDOC",
    "RUSTDOCFLAGS",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
    "RUST_RECURSION_COUNT",
];

/// A command whose environment does not lead to the toolchain that built xtask.
pub(crate) fn foreign(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for name in INHERITED {
        command.env_remove(name);
    }
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_") {
            command.env_remove(&name);
        }
    }
    command
}

/// Cargo of the toolchain that built xtask, in the workspace's root.
pub(crate) fn cargo(root: &Path) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    command
}

/// Runs a command with its output shown, on standard error: standard output is for results.
///
/// # Errors
///
/// If it cannot be started or fails; `remedy` then says what to do about it.
pub(crate) fn run(command: &mut Command, remedy: &str) -> Result<()> {
    eprintln!("    $ {}", display(command));
    let status = command
        .stdout(io::stderr())
        .status()
        .with_context(|| cannot_start(command, remedy))?;
    if !status.success() {
        bail!(
            "`{}` failed ({status})\n  remedy: {remedy}",
            display(command)
        );
    }
    Ok(())
}

/// Runs a command and returns what it printed, or `None` if it fails or does not exist.
pub(crate) fn probe(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A message for a program that could not be started.
pub(crate) fn cannot_start(command: &Command, remedy: &str) -> String {
    let program = command.get_program().to_string_lossy();
    format!("cannot start `{program}`\n  remedy: {remedy}")
}

/// The command as one would type it, with the variables that it sets.
pub(crate) fn display(command: &Command) -> String {
    let set = command
        .get_envs()
        .filter_map(|(name, value)| Some((name, value?)))
        .map(|(name, value)| format!("{}={}", name.to_string_lossy(), shown_value(name, value)));
    let program = command.get_program();
    // Our own cargo is what one gets by typing its name here.
    let own = env::var_os("CARGO").is_some_and(|cargo| cargo == program);
    let program = if own { OsStr::new("cargo") } else { program };
    let words = iter::once(program).chain(command.get_args()).map(quote);
    set.chain(words).collect::<Vec<_>>().join(" ")
}

/// A value; of a longer `PATH` only what was put in front of ours.
fn shown_value(name: &OsStr, value: &OsStr) -> String {
    let inherited = env::var(name).unwrap_or_default();
    let front = value
        .to_str()
        .and_then(|value| value.strip_suffix(&inherited));
    match front {
        Some(front) if name == "PATH" => format!("{front}$PATH"),
        _ => quote(value),
    }
}

fn quote(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:+,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Copies a file unless the destination already has the same octets, so that what is built from
/// the destination is not built again. Returns whether it was copied.
pub(crate) fn copy_if_different(from: &Path, to: &Path) -> Result<bool> {
    let new = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(false);
    }
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    fs::write(to, new).with_context(|| format!("writing {}", to.display()))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_one_would_type_it() {
        let mut command = Command::new("cargo");
        command
            .args(["build", "--features", "a b"])
            .env("RUSTFLAGS", "-C link-arg=--btf");
        command.env_remove("CARGO");
        assert_eq!(
            display(&command),
            "RUSTFLAGS='-C link-arg=--btf' cargo build --features 'a b'"
        );
    }

    #[test]
    fn a_longer_path_is_shown_by_its_front() {
        let mut command = Command::new("cargo");
        command.env("PATH", format!("/opt/bin:{}", env::var("PATH").unwrap()));
        assert_eq!(display(&command), "PATH=/opt/bin:$PATH cargo");
    }

    #[test]
    fn a_foreign_command_forgets_the_toolchain_of_xtask() {
        let command = foreign("cargo");
        let removed: Vec<_> = command
            .get_envs()
            .filter(|(_, value)| value.is_none())
            .collect();
        assert!(removed.iter().any(|(name, _)| *name == "RUSTUP_TOOLCHAIN"));
        assert!(
            removed.iter().any(|(name, _)| *name == "CARGO_PKG_NAME"),
            "set by cargo test"
        );
    }

    #[test]
    fn an_equal_file_is_left_alone() {
        let folder = env::temp_dir().join(format!("sluice-xtask-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (from, to) = (folder.join("from"), folder.join("sub/to"));
        fs::write(&from, "one").unwrap();
        assert!(copy_if_different(&from, &to).unwrap());
        assert!(!copy_if_different(&from, &to).unwrap());
        fs::write(&from, "two").unwrap();
        assert!(copy_if_different(&from, &to).unwrap());
        assert_eq!(fs::read(&to).unwrap(), b"two");
        fs::remove_dir_all(&folder).unwrap();
    }
}
