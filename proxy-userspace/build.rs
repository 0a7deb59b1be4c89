//! Embeds the kernel object that `cargo xtask build-ebpf` left in `target/ebpf/sluice`.
//!
//! Without it the crate still builds, so that user space can be worked on without the eBPF
//! toolchain; `sluice run` then says what is missing.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-env-changed=SLUICE_EBPF_OBJECT");
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let object = env::var_os("SLUICE_EBPF_OBJECT")
        .map_or_else(|| manifest.join("../target/ebpf/sluice"), PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("sluice.bpf.o");
    write(&object, &out);
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
