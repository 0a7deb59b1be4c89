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
    let objects = [
        ("SLUICE_EBPF_OBJECT", "sluice"),
        ("SLUICE_EBPF_LOG_OBJECT", "sluice-log"),
        ("SLUICE_EBPF_SOCK_OBJECT", "sock"),
        ("SLUICE_EBPF_CONNECT_OBJECT", "connect"),
        ("SLUICE_EBPF_REDIRECT_OBJECT", "redirect"),
    ];
    let digests = objects.map(|(variable, name)| {
        let digest = digest(&embed(variable, name));
        format!("{name}={digest}")
    });
    println!("cargo::rustc-env=SLUICE_EBPF_DIGESTS={}", digests.join(" "));
    println!("cargo::rustc-env=SLUICE_TLS={}", tls());
    facts();
}

/// SHA-256 of an object that was embedded.
fn digest(object: &Path) -> String {
    if fs::metadata(object).is_ok_and(|object| object.len() == 0) {
        return "missing".to_owned();
    }
    let line = object
        .to_str()
        .and_then(|path| output("sha256sum", &[path]));
    let digest = line.and_then(|line| line.split_whitespace().next().map(str::to_owned));
    digest.unwrap_or_else(|| "unknown".to_owned())
}

/// What TLS is made of, by the versions of the lock file.
fn tls() -> String {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let lock = manifest.join("../Cargo.lock");
    println!("cargo::rerun-if-changed={}", lock.display());
    let lock = fs::read_to_string(lock).unwrap_or_default();
    let version = |name: &str| {
        let (_, entry) = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?;
        entry.split('"').next()
    };
    let with_version = |name: &str| format!("{name} {}", version(name).unwrap_or("unknown"));
    ["rustls", "aws-lc-rs"].map(with_version).join(", ")
}

/// Embeds one object, whose path a variable may tell, and tells where it is.
fn embed(variable: &str, name: &str) -> PathBuf {
    println!("cargo::rerun-if-env-changed={variable}");
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let built = || manifest.join("../target/ebpf").join(name);
    let object = env::var_os(variable).map_or_else(built, PathBuf::from);
    // A missing file would rebuild always; the folder changes when it comes.
    let folder = object.parent().filter(|folder| folder.is_dir());
    let watched = match folder {
        Some(folder) if !object.exists() => folder,
        _ => &object,
    };
    println!("cargo::rerun-if-changed={}", watched.display());
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let embedded = out.join(format!("{name}.bpf.o"));
    write(&object, &embedded);
    embedded
}

fn write(object: &Path, out: &Path) {
    match fs::read(object) {
        Ok(bytes) => fs::write(out, bytes).expect("OUT_DIR is writable"),
        Err(_) => {
            // The demo does without this one.
            if !object.ends_with("sluice-log") {
                println!("cargo::warning=no kernel object yet: run `cargo xtask build-ebpf`");
            }
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
