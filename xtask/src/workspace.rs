//! Where things are.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::{env, fs};

/// The workspace on disk.
#[derive(Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    /// Finds the workspace: the one that cargo runs this program for, else the one that it was
    /// built in.
    pub(crate) fn locate() -> Result<Self> {
        let manifest =
            env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&manifest)
            .parent()
            .filter(|root| root.join("xtask").is_dir())
            .context("the workspace has moved: start this by `cargo xtask`")?
            .to_owned();
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(
            || root.join("target"),
            |dir| root.join(dir), // An absolute path replaces the root.
        );
        Ok(Self { root, target })
    }

    /// One in this folder, to try things in.
    #[cfg(test)]
    pub(crate) fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            target: root.join("target"),
        }
    }

    /// The folder of the workspace's manifest.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The kernel programs' crate, which is a workspace of its own.
    pub(crate) fn ebpf_crate(&self) -> PathBuf {
        self.root.join("proxy-ebpf")
    }

    /// The fuzz targets' crate, which is a workspace of its own.
    pub(crate) fn fuzz_crate(&self) -> PathBuf {
        self.root.join("fuzz")
    }

    /// Where cargo leaves what it builds for the fuzz targets.
    pub(crate) fn fuzz_target(&self) -> PathBuf {
        self.target.join("fuzz")
    }

    /// Where builds that a profile guides are left, and what they need.
    pub(crate) fn guided(&self) -> PathBuf {
        self.target.join("guided")
    }

    /// Where the built kernel objects are left; `proxy-userspace/build.rs` reads them here.
    pub(crate) fn ebpf_objects(&self) -> PathBuf {
        self.root.join("target/ebpf")
    }

    /// True if user space was compiled here so that the next time only what has changed is: somebody
    /// works on it.
    pub(crate) fn is_worked_on(&self) -> bool {
        let kept = self.target.join(Profile::Dev.folder()).join("incremental");
        let kept = fs::read_dir(kept).into_iter().flatten().flatten();
        kept.map(|entry| entry.file_name())
            .any(|name| name.to_string_lossy().starts_with("proxy_userspace-"))
    }

    /// A binary of the workspace.
    pub(crate) fn binary(&self, profile: Profile, name: &str) -> PathBuf {
        self.target.join(profile.folder()).join(name)
    }
}

/// How user space is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Quick to build.
    Dev,
    /// Quick to run.
    Release,
}

impl Profile {
    /// Cargo's argument that selects it.
    pub(crate) fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Dev => &[],
            Self::Release => &["--release"],
        }
    }

    fn folder(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Release => "release",
        }
    }
}
