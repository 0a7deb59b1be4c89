//! Embeds the kernel objects that `cargo xtask build-ebpf` left in `target/ebpf/`: `sluice`, which
//! sees packets, `sluice-log`, the same with a log, `sock`, which sees sockets, `connect`, which sees them dial, and `redirect`, which
//! sends some of them to the daemon.
//!
//! Without it the crate still builds, so that user space can be worked on without the eBPF
//! toolchain; `sluice run` then says what is missing.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    embed("SLUICE_EBPF_OBJECT", "sluice");
    embed("SLUICE_EBPF_LOG_OBJECT", "sluice-log");
    embed("SLUICE_EBPF_SOCK_OBJECT", "sock");
    embed("SLUICE_EBPF_CONNECT_OBJECT", "connect");
    embed("SLUICE_EBPF_REDIRECT_OBJECT", "redirect");
    facts();
}

/// Embeds one object, whose path a variable may tell.
fn embed(variable: &str, name: &str) {
    println!("cargo::rerun-if-env-changed={variable}");
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let built = || manifest.join("../target/ebpf").join(name);
    let object = env::var_os(variable).map_or_else(built, PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    write(&object, &out.join(format!("{name}.bpf.o")));
}

fn write(object: &Path, out: &Path) {
    match fs::read(object) {
        Ok(bytes) => fs::write(out, bytes).expect("OUT_DIR is writable"),
        Err(_) => {
            println!("cargo::warning=no kernel object yet: run `cargo xtask build-ebpf`");
            fs::write(out, []).expect("OUT_DIR is writable");
        }
    }
}

/// Hands facts about the build to the crate. All of them can be given by the environment, so that
/// a package built outside a repository, or reproducibly, can state them.
fn facts() {
    let env_or = |name: &str, or: &dyn Fn() -> Option<String>| {
        println!("cargo::rerun-if-env-changed={name}");
        let value = env::var(name).ok().or_else(or);
        let value = value.filter(|text| !text.is_empty() && !text.contains('\n'));
        println!(
            "cargo::rustc-env={name}={}",
            value.unwrap_or_else(|| "unknown".to_owned())
        );
    };
    env_or("SLUICE_REVISION", &|| {
        output("git", &["rev-parse", "--short=12", "HEAD"])
    });
    env_or("SLUICE_COMMIT_DATE", &|| {
        output("git", &["log", "-1", "--format=%cs"])
    });
    env_or("SLUICE_RUSTC", &|| {
        output(&env::var("RUSTC").ok()?, &["--version"])
    });
    for (name, from) in [("SLUICE_TARGET", "TARGET"), ("SLUICE_PROFILE", "PROFILE")] {
        println!(
            "cargo::rustc-env={name}={}",
            env::var(from).expect("cargo sets it")
        );
    }
    // The log of HEAD changes with each commit and checkout. A missing file would rebuild always.
    let log = output(
        "git",
        &[
            "rev-parse",
            "--path-format=absolute",
            "--git-path",
            "logs/HEAD",
        ],
    );
    if let Some(log) = log.filter(|path| Path::new(path).exists()) {
        println!("cargo::rerun-if-changed={log}");
    }
}

/// First line that a command prints, if it succeeds.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
