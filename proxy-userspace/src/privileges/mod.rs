//! What the process may do once it has started: its user, its capabilities, and with landlock the
//! files that it can reach.
//!
//! Capabilities and landlock belong to threads, and threads inherit them from the one that starts
//! them. So [`apply`] runs before there are others, right after the configuration was read: what
//! happens later (binding low ports, opening the kernel part, a reload) has to work with what is
//! kept, and what cannot work is refused with the reason ([`Kept::refuse`]) and not found out in
//! the middle.
//!
//! What a successor may do (`sluice upgrade`) is at most what this process may: nothing that is
//! given up comes back without a restart. The exception is a root that keeps the right to gain
//! privileges (`no_new_privs: false`).

mod caps;
mod files;

pub use caps::{kept, needed};
pub use files::{Access, Grants, landlock_version};

use crate::config::model::Config;
use crate::config::model::process::{CapabilityPolicy, Process};
use ::caps::{CapSet, Capability, CapsHashSet};
use nix::unistd::{Gid, Group, Uid, User};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// The process cannot be restricted as configured.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// There is no such user or group.
    #[error("there is no {kind} `{name}` on this host (process.{kind})")]
    Unknown {
        /// `user` or `group`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The system refused.
    #[error("cannot {what}{}", hint(source))]
    System {
        /// What was tried.
        what: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => " (only root may)",
        _ => "",
    }
}

fn system(what: impl Into<String>, source: impl Into<io::Error>) -> PrivilegeError {
    PrivilegeError::System {
        what: what.into(),
        source: source.into(),
    }
}

/// What is left.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    process: Process,
    capabilities: CapsHashSet,
    /// `None` where landlock is off, or this kernel has none.
    grants: Option<Grants>,
}

/// Restricts the process as a configuration says. To be called before there are other threads.
///
/// # Errors
///
/// [`PrivilegeError`]. The process is then of no use.
pub fn apply(config: &Config, file: &Path) -> Result<Kept, PrivilegeError> {
    let process = &config.process;
    let held = caps::held()?;
    let capabilities = kept(process.capabilities, config, &held);
    if let Some((uid, gid)) = ids(process)? {
        prepare_folders(config, uid, gid)?;
        become_user(uid, gid)?;
    }
    if process.capabilities != CapabilityPolicy::Keep || process.user.is_some() {
        caps::restrict(&capabilities)?;
    }
    if process.no_new_privs {
        let set = nix::sys::prctl::set_no_new_privs();
        set.map_err(|error| system("set no_new_privs", error))?;
    }
    let grants = if process.landlock {
        if let Some(acme) = &config.acme {
            prepare_storage(&acme.storage, None)?;
        }
        let grants = Grants::of(config, file);
        grants.enforce()?.then_some(grants)
    } else {
        None
    };
    Ok(Kept {
        process: process.clone(),
        capabilities,
        grants,
    })
}

/// The ids to change to, if they are others.
fn ids(process: &Process) -> Result<Option<(Uid, Gid)>, PrivilegeError> {
    let Some(name) = &process.user else {
        return Ok(None);
    };
    let unknown = |kind, name: &str| PrivilegeError::Unknown {
        kind,
        name: name.to_owned(),
    };
    let user = User::from_name(name).map_err(|error| system("read the users", error))?;
    let user = user.ok_or_else(|| unknown("user", name))?;
    let gid = match &process.group {
        None => user.gid,
        Some(name) => {
            let group = Group::from_name(name);
            let group = group.map_err(|error| system("read the groups", error))?;
            group.ok_or_else(|| unknown("group", name))?.gid
        }
    };
    let is_now = nix::unistd::geteuid() == user.uid && nix::unistd::getegid() == gid;
    Ok((!is_now).then_some((user.uid, gid)))
}

/// Folders that only root could make, for what the user is to make in them.
fn prepare_folders(config: &Config, uid: Uid, gid: Gid) -> Result<(), PrivilegeError> {
    if let Some(acme) = &config.acme {
        prepare_storage(&acme.storage, Some((uid, gid)))?;
    }
    let Some(folder) = config.admin.socket.parent().filter(|it| !it.exists()) else {
        return Ok(());
    };
    let made = std::fs::create_dir_all(folder);
    let made = made.and_then(|()| Ok(nix::unistd::chown(folder, Some(uid), Some(gid))?));
    made.map_err(|error| system(format!("make {} for the user", folder.display()), error))
}

/// Makes the folder for certificates and their keys, which landlock can grant only if it is there.
/// `owner`: who is to write there, if it is not who makes it.
fn prepare_storage(folder: &Path, owner: Option<(Uid, Gid)>) -> Result<(), PrivilegeError> {
    if folder.exists() {
        return Ok(());
    }
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder);
    let made = made.and_then(|()| match owner {
        Some((uid, gid)) => Ok(nix::unistd::chown(folder, Some(uid), Some(gid))?),
        None => Ok(()),
    });
    made.map_err(|error| system(format!("make {} (acme.storage)", folder.display()), error))
}

/// Changes the user for good; capabilities stay permitted.
fn become_user(uid: Uid, gid: Gid) -> Result<(), PrivilegeError> {
    let keep = nix::sys::prctl::set_keepcaps(true);
    keep.map_err(|error| system("keep capabilities over a change of the user", error))?;
    let groups = nix::unistd::setgroups(&[gid]);
    groups.map_err(|error| system("change the groups", error))?;
    let group = nix::unistd::setresgid(gid, gid, gid);
    group.map_err(|error| system("change the group", error))?;
    let user = nix::unistd::setresuid(uid, uid, uid);
    user.map_err(|error| system("change the user", error))
}

impl Kept {
    /// Why a configuration cannot be put in force by this process, each with what to do.
    pub fn refuse(&self, config: &Config) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.process.capabilities == CapabilityPolicy::Needed {
            let missing = needed(config);
            let missing: Vec<_> = missing.difference(&self.capabilities).collect();
            if !missing.is_empty() {
                reasons.push(format!(
                    "this needs {}, which the daemon gave up when it started \
                     (`process.capabilities: needed`): restart it",
                    caps::names(missing.into_iter().copied())
                ));
            }
        }
        if let Some(grants) = &self.grants {
            reasons.extend(grants.lacks(config).into_iter().map(|path| {
                format!(
                    "{}: landlock keeps it out of reach since the daemon has started \
                     (`process.landlock`): restart it, or add a folder above it to \
                     `process.paths` before the next start",
                    path.display()
                )
            }));
        }
        reasons
    }

    /// In words, for `sluice status`.
    pub fn describe(&self) -> Vec<(String, String)> {
        let uid = nix::unistd::geteuid();
        let user = User::from_uid(uid).ok().flatten();
        let user = user.map_or_else(|| uid.to_string(), |user| user.name);
        let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
        let held = caps::held().unwrap_or_default();
        let landlock = match (&self.grants, self.process.landlock) {
            (Some(grants), _) => format!("{} paths", grants.len()),
            (None, true) => "not on this kernel".to_owned(),
            (None, false) => "off".to_owned(),
        };
        let no_new_privs = nix::sys::prctl::get_no_new_privs().unwrap_or(false);
        vec![
            ("user".to_owned(), user),
            ("capabilities".to_owned(), caps::names(held)),
            ("no_new_privs".to_owned(), yes(no_new_privs)),
            ("landlock".to_owned(), landlock),
        ]
    }
}

/// Paths that a process of the user may be told on the command line.
pub(crate) fn folder_of(file: &Path) -> PathBuf {
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    file.parent().map_or(file.clone(), Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        let loaded = crate::config::parse("test", text);
        let loaded = loaded.unwrap_or_else(|errors| panic!("{}", errors.pretty(false)));
        loaded.config
    }

    #[test]
    fn a_reload_that_needs_what_was_given_up_is_refused_with_the_remedy() {
        let process = "process: {capabilities: needed}\n";
        let web = |port: u16| {
            format!(
                "{process}listeners: [{{name: a, kind: http, address: 127.0.0.1, port: {port}, \
                 service: s}}]\nservices: [{{name: s, backends: ['127.0.0.1:9000']}}]"
            )
        };
        let high = config(&web(8080));
        let kept = Kept {
            process: high.process.clone(),
            capabilities: needed(&high),
            grants: None,
        };
        assert!(kept.refuse(&high).is_empty());
        let low = kept.refuse(&config(&web(80)));
        assert_eq!(low.len(), 1, "{low:?}");
        assert!(
            low[0].contains("CAP_NET_BIND_SERVICE") && low[0].contains("restart"),
            "{low:?}"
        );
    }

    #[test]
    fn a_user_that_does_not_exist_is_named() {
        let process = Process {
            user: Some("nobody-of-this-name".to_owned()),
            ..Process::default()
        };
        let error = ids(&process).expect_err("unknown").to_string();
        assert!(error.contains("nobody-of-this-name"), "{error}");
    }
}
