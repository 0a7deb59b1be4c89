//! What this host is and may do.

use crate::shell;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fmt, fs};

/// The host lacks something: the task ends with code 77, the message says how to get it.
#[derive(Debug)]
pub(crate) struct HostLacks(pub(crate) String);

impl fmt::Display for HostLacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for HostLacks {}

/// True if this process runs as root.
pub(crate) fn is_root() -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| effective_user(&status) == Some(0))
}

/// The effective user id in a `/proc/PID/status`.
fn effective_user(status: &str) -> Option<u32> {
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    ids.split_whitespace().nth(1)?.parse().ok()
}

/// The effective capabilities in a `/proc/PID/status`, one bit each (capability.h).
fn effective_capabilities(status: &str) -> Option<u64> {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

/// A program in `PATH`, or in cargo's folder of installed programs.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(cargo_bin())
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// Where `cargo install` puts programs.
fn cargo_bin() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cargo")))?;
    Some(home.join("bin"))
}

/// The distribution's name, for messages.
pub(crate) fn distribution() -> String {
    fs::read_to_string("/etc/os-release")
        .ok()
        .and_then(|text| {
            let name = text
                .lines()
                .find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
            Some(name.trim_matches('"').to_owned())
        })
        .unwrap_or_else(|| "this system".to_owned())
}

/// Something that privileged tests need and this host or process lacks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Lack {
    /// What is missing.
    pub(crate) what: String,
    /// How to get it.
    pub(crate) remedy: String,
}

/// What is missing for packet and namespace tests; empty if nothing is.
pub(crate) fn privileged_lacks() -> Vec<Lack> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut lacks = capability_lacks(effective_capabilities(&status).unwrap_or(0));
    let need = |present: bool, what: &str, remedy: &str| {
        (!present).then(|| Lack {
            what: what.to_owned(),
            remedy: remedy.to_owned(),
        })
    };
    lacks.extend(need(
        Path::new("/sys/kernel/btf/vmlinux").exists(),
        "the kernel's type information (/sys/kernel/btf/vmlinux)",
        "use a kernel with CONFIG_DEBUG_INFO_BTF=y; distribution kernels have it",
    ));
    lacks.extend(need(
        fs::read_to_string("/proc/filesystems").is_ok_and(|text| text.contains("\tbpf\n")),
        "the bpf file system",
        "use a kernel with CONFIG_BPF_SYSCALL=y; distribution kernels have it",
    ));
    // Only worth asking where it is not refused anyway.
    if lacks.is_empty() {
        let unshare = Command::new("unshare").args(["--net", "true"]).output();
        lacks.extend(need(
            unshare.is_ok_and(|output| output.status.success()),
            "network namespaces",
            "use a kernel with CONFIG_NET_NS=y, and in a container add --privileged",
        ));
        lacks.extend(veth_lack());
    }
    lacks
}

/// CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_PERFMON and CAP_BPF by their numbers in capability.h.
const CAPABILITIES: &[(u32, &str)] = &[
    (12, "CAP_NET_ADMIN"),
    (21, "CAP_SYS_ADMIN"),
    (38, "CAP_PERFMON"),
    (39, "CAP_BPF"),
];

fn capability_lacks(effective: u64) -> Vec<Lack> {
    let missing: Vec<_> = CAPABILITIES
        .iter()
        .filter(|(bit, _)| effective & (1 << bit) == 0)
        .map(|(_, name)| *name)
        .collect();
    if missing.is_empty() {
        return Vec::new();
    }
    vec![Lack {
        what: format!("the privileges {}", missing.join(", ")),
        remedy: "run as root, e.g. `sudo -E env PATH=\"$PATH\" cargo xtask test`; \
                 in a container add --privileged"
            .to_owned(),
    }]
}

fn veth_lack() -> Option<Lack> {
    let ip = find_program("ip")?;
    let name = format!("slx{}", std::process::id());
    let add = ["link", "add", &name, "type", "veth"];
    if shell::probe(Command::new(&ip).args(add)).is_some() {
        shell::probe(Command::new(&ip).args(["link", "del", &name]));
        return None;
    }
    Some(Lack {
        what: "veth devices".to_owned(),
        remedy: "`modprobe veth`, or use a kernel with CONFIG_VETH".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str =
        "Name:\tx\nUid:\t1000\t0\t1000\t1000\nCapEff:\t000000c000201000\nCapBnd:\t0\n";

    #[test]
    fn the_effective_user_counts() {
        assert_eq!(effective_user(STATUS), Some(0));
        assert_eq!(effective_user("Name:\tx\n"), None);
    }

    #[test]
    fn missing_capabilities_are_named_together() {
        let all = effective_capabilities(STATUS).unwrap();
        assert_eq!(capability_lacks(all), []);
        let lacks = capability_lacks(all & !(1 << 39) & !(1 << 12));
        assert_eq!(lacks.len(), 1);
        assert_eq!(lacks[0].what, "the privileges CAP_NET_ADMIN, CAP_BPF");
    }

    #[test]
    fn programs_are_found() {
        assert!(find_program("sh").is_some());
        assert!(find_program("no-such-program-anywhere").is_none());
    }
}
