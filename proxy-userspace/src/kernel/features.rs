//! What this host can do, for `sluice check`: each finding with what to do about it.
//!
//! The kernel is asked rather than guessed from its version: maps are made, a program is loaded,
//! a link is attached for a moment.

mod probes;

use super::host::{self, Offload};
use super::netlink::{InterfaceInfo, Netlink, XdpMode};
use super::pins::{Pins, on_bpffs};
use super::sys;
use crate::config::model::{AttachMode, Interface, L4};
use aya::util::KernelVersion;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

/// How a finding is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// As it should be.
    Ok,
    /// It works, but something is worse than it could be, or will surprise.
    Warn,
    /// The data plane cannot work.
    Fail,
}

impl Status {
    /// The word shown to users.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub name: String,
    /// How to take it.
    pub status: Status,
    /// What was found.
    pub detail: String,
    /// What to do about it; empty if nothing.
    pub remedy: String,
}

impl Finding {
    fn ok(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(name, Status::Ok, detail, "")
    }

    fn new(
        name: impl Into<String>,
        status: Status,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            status,
            detail: detail.into(),
            remedy: remedy.into(),
        }
    }
}

/// Looks at everything that the data plane needs with this configuration. `checked_vips` are the
/// VIPs that health checks target.
///
/// Attaches a program that passes everything for a moment to interfaces without one; some drivers
/// reset their queues then.
pub fn check(l4: &L4, checked_vips: &[IpAddr]) -> Vec<Finding> {
    let mut findings = vec![
        capabilities(&host::missing_capabilities()),
        kernel_version(),
        types_of_kernel(Path::new("/sys/kernel/btf/vmlinux")),
        jit(&read("/proc/sys/net/core/bpf_jit_enable")),
        bpffs(l4),
        memory_limit(),
        file_limit(),
        ring_buffer(),
        map_of_maps(),
        cgroup(&read("/proc/mounts")),
    ];
    findings.extend(interfaces(l4, checked_vips));
    findings
}

/// A file's text without its final newline; empty if it cannot be read.
fn read(path: &str) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim_end()
        .to_owned()
}

fn capabilities(missing: &[&str]) -> Finding {
    const NAME: &str = "capabilities";
    if missing.is_empty() {
        return Finding::ok(NAME, "CAP_NET_ADMIN, CAP_BPF and CAP_PERFMON are there");
    }
    Finding::new(
        NAME,
        Status::Fail,
        format!("missing: {}", missing.join(", ")),
        "run as root, or grant them: `AmbientCapabilities=` in a systemd unit, `setcap` on the file",
    )
}

fn kernel_version() -> Finding {
    match KernelVersion::current() {
        Ok(version) => judge_version(version),
        Err(error) => Finding::new("kernel", Status::Warn, error.to_string(), ""),
    }
}

fn judge_version(version: KernelVersion) -> Finding {
    const NAME: &str = "kernel";
    let text = read("/proc/sys/kernel/osrelease");
    if version >= KernelVersion::new(6, 1, 0) {
        Finding::ok(NAME, text)
    } else if version >= KernelVersion::new(5, 15, 0) {
        let detail = format!("{text}: not tested, 6.1 is the oldest that is");
        Finding::new(NAME, Status::Warn, detail, "use a kernel from 6.1 on")
    } else {
        let detail = format!("{text} is too old");
        Finding::new(NAME, Status::Fail, detail, "use a kernel from 6.1 on")
    }
}

fn types_of_kernel(path: &Path) -> Finding {
    const NAME: &str = "btf";
    if path.exists() {
        return Finding::ok(NAME, format!("{} is there", path.display()));
    }
    Finding::new(
        NAME,
        Status::Warn,
        format!(
            "{} is missing: `bpftool` shows maps without field names",
            path.display()
        ),
        "use a kernel with CONFIG_DEBUG_INFO_BTF",
    )
}

fn jit(enabled: &str) -> Finding {
    const NAME: &str = "jit";
    match enabled {
        "1" | "2" => Finding::ok(NAME, "programs are compiled to machine code"),
        "0" => Finding::new(
            NAME,
            Status::Warn,
            "programs are interpreted, which is many times slower",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
        // Only the first network namespace has the file.
        _ => Finding::ok(NAME, "taken to be on: the switch is not visible from here"),
    }
}

fn bpffs(l4: &L4) -> Finding {
    const NAME: &str = "bpffs";
    let place = l4.pin_dir.display();
    match on_bpffs(&l4.pin_dir) {
        Ok(true) => Finding::ok(NAME, format!("{place} is on a bpffs")),
        Ok(false)
            if read("/proc/filesystems")
                .lines()
                .any(|line| line.ends_with("\tbpf")) =>
        {
            Finding::ok(
                NAME,
                format!("none at {place} yet: `sluice run` mounts one"),
            )
        }
        Ok(false) => Finding::new(
            NAME,
            Status::Fail,
            "the kernel has no bpffs",
            "use a kernel with CONFIG_BPF_SYSCALL",
        ),
        Err(error) => Finding::new(NAME, Status::Fail, format!("{place}: {error}"), ""),
    }
}

fn memory_limit() -> Finding {
    const NAME: &str = "memlock";
    match getrlimit(Resource::RLIMIT_MEMLOCK) {
        Ok((_, RLIM_INFINITY)) => Finding::ok(NAME, "locked memory is unlimited"),
        // Since 5.11 maps are charged to the memory cgroup instead.
        Ok(_) if KernelVersion::current().is_ok_and(|now| now >= KernelVersion::new(5, 11, 0)) => {
            Finding::ok(NAME, "this kernel does not charge maps to the limit")
        }
        Ok((_, hard)) => Finding::new(
            NAME,
            Status::Warn,
            format!("locked memory is limited to {hard} octets"),
            "`LimitMEMLOCK=infinity` in the systemd unit, or `ulimit -l unlimited`",
        ),
        Err(errno) => Finding::new(NAME, Status::Warn, errno.to_string(), ""),
    }
}

fn file_limit() -> Finding {
    const NAME: &str = "nofile";
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((_, hard)) if hard >= 65_536 => Finding::ok(NAME, format!("{hard} open files")),
        Ok((_, hard)) => Finding::new(
            NAME,
            Status::Warn,
            format!("{hard} open files: health checks of many backends need more"),
            "`LimitNOFILE=1048576` in the systemd unit, or `ulimit -n 65536`",
        ),
        Err(errno) => Finding::new(NAME, Status::Warn, errno.to_string(), ""),
    }
}

/// A finding for a thing that the kernel was asked to do.
fn tried<T>(name: &str, works: &str, result: io::Result<T>) -> Finding {
    match result {
        Ok(_) => Finding::ok(name, works),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Finding::new(
            name,
            Status::Warn,
            "not permitted to try",
            "run `sluice check` as root",
        ),
        Err(error) => Finding::new(
            name,
            Status::Fail,
            format!("the kernel refuses: {error}"),
            "use a kernel from 6.1 on, with CONFIG_BPF_SYSCALL",
        ),
    }
}

fn ring_buffer() -> Finding {
    /// `BPF_MAP_TYPE_RINGBUF`.
    const RINGBUF: u32 = 27;
    let result = sys::probe_map(RINGBUF, (0, 0), 4096, None);
    tried("ring buffer", "events and captures can be read", result)
}

fn map_of_maps() -> Finding {
    /// `BPF_MAP_TYPE_ARRAY_OF_MAPS`.
    const ARRAY_OF_MAPS: u32 = 12;
    let result = sys::probe_map(sys::MAP_TYPE_ARRAY, (4, 8), 1, None)
        .and_then(|inner| sys::probe_map(ARRAY_OF_MAPS, (4, 4), 1, Some(inner.as_fd())));
    tried("map of maps", "rings can be swapped atomically", result)
}

/// cgroup v2 is for the programs of later releases; nothing of L4 needs it.
fn cgroup(mounts: &str) -> Finding {
    const NAME: &str = "cgroup v2";
    let found = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (path, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then_some(path)
    });
    match found {
        Some(path) => Finding::ok(NAME, format!("mounted at {path}")),
        None => Finding::new(
            NAME,
            Status::Warn,
            "not mounted; L4 does not need it",
            "mount -t cgroup2 none /sys/fs/cgroup",
        ),
    }
}

/// Findings for each configured interface.
fn interfaces(l4: &L4, checked_vips: &[IpAddr]) -> Vec<Finding> {
    let existing = Netlink::open().and_then(|mut netlink| {
        let interfaces = netlink.interfaces()?;
        Ok((netlink, interfaces))
    });
    let (mut netlink, existing) = match existing {
        Ok(both) => both,
        Err(error) => {
            return vec![Finding::new(
                "interfaces",
                Status::Fail,
                error.to_string(),
                "",
            )];
        }
    };
    let program = sys::load_pass();
    let mut findings = vec![tried(
        "xdp",
        "programs can be loaded",
        program.as_ref().map_err(copy),
    )];
    for wanted in &l4.interfaces {
        let Some(found) = existing.iter().find(|found| found.name == wanted.name) else {
            let names: Vec<&str> = existing.iter().map(|found| found.name.as_str()).collect();
            findings.push(Finding::new(
                format!("interface {}", wanted.name),
                Status::Fail,
                "does not exist",
                format!("configure one of: {}", names.join(", ")),
            ));
            continue;
        };
        if let Ok(program) = &program {
            let pins = Pins::new(&l4.pin_dir);
            findings.push(attachment(&mut netlink, program, wanted, found, &pins));
        }
        findings.push(forwarding(found));
        findings.extend(reverse_path(found));
        findings.extend(veth_hints(found, &existing));
    }
    findings.extend(probes::through_vips(
        l4,
        checked_vips,
        &mut netlink,
        &existing,
    ));
    findings
}

fn copy(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(
        || io::Error::other(error.to_string()),
        io::Error::from_raw_os_error,
    )
}

/// Can a program be attached in the mode asked for?
fn attachment(
    netlink: &mut Netlink,
    program: &OwnedFd,
    wanted: &Interface,
    found: &InterfaceInfo,
    pins: &Pins,
) -> Finding {
    let name = format!("xdp on {}", found.name);
    if let Some(xdp) = found.xdp {
        if pins.link(&found.name).exists() {
            return Finding::ok(name, format!("sluice is attached, {}", xdp.mode.name()));
        }
        let program = sys::program_name(xdp.program_id).unwrap_or_else(|_| "unknown".to_owned());
        return Finding::new(
            name,
            Status::Fail,
            format!(
                "another program is attached: `{program}` (id {})",
                xdp.program_id
            ),
            format!("ip link set dev {} xdp off", found.name),
        );
    }
    let mut attempt = |mode: u32| {
        let result = sys::link_xdp(program.as_fd(), found.index, mode).map(drop);
        result.map_err(|error| {
            let reason = netlink.why_refused(found.index, program.as_raw_fd(), mode);
            reason.unwrap_or_else(|| error.to_string())
        })
    };
    let native = match wanted.attach {
        AttachMode::Generic => None,
        AttachMode::Auto | AttachMode::Native => Some(attempt(sys::XDP_DRV_MODE)),
    };
    let generic = match (&native, wanted.attach) {
        (Some(Ok(())), _) => return Finding::ok(name, "native XDP works"),
        (Some(Err(reason)), AttachMode::Native) => {
            let detail = format!("native XDP does not work: {reason}");
            return Finding::new(name, Status::Fail, detail, "use `attach: auto`");
        }
        _ => attempt(sys::XDP_SKB_MODE),
    };
    judge_generic(name, native.and_then(Result::err), generic)
}

fn judge_generic(name: String, native: Option<String>, generic: Result<(), String>) -> Finding {
    match (native, generic) {
        (None, Ok(())) => Finding::ok(name, format!("{} XDP works", XdpMode::Generic.name())),
        (Some(reason), Ok(())) => Finding::new(
            name,
            Status::Warn,
            format!("only generic XDP works, which costs more CPU; native: {reason}"),
            "a driver with native XDP, or a smaller MTU if the reason says so",
        ),
        (_, Err(reason)) => Finding::new(
            name,
            Status::Fail,
            format!("XDP does not work: {reason}"),
            "",
        ),
    }
}

/// The FIB lookup of XDP answers only on interfaces that forward.
fn forwarding(found: &InterfaceInfo) -> Finding {
    let name = format!("forwarding on {}", found.name);
    let off: Vec<String> = ["ipv4", "ipv6"]
        .into_iter()
        .filter(|family| {
            read(&format!(
                "/proc/sys/net/{family}/conf/{}/forwarding",
                found.name
            )) == "0"
        })
        .map(|family| {
            format!(
                "net.{family}.conf.{}.forwarding",
                found.name.replace('.', "/")
            )
        })
        .collect();
    if off.is_empty() {
        return Finding::ok(name, "on: next hops are found by the kernel's routes");
    }
    let set: Vec<String> = off.iter().map(|key| format!("{key}=1")).collect();
    Finding::new(
        name,
        Status::Warn,
        format!(
            "{} is 0: packets of that family find no next hop",
            off.join(" and ")
        ),
        format!("sysctl -w {}", set.join(" ")),
    )
}

/// A strict reverse path filter drops what comes back another way (NAT modes, `local`).
fn reverse_path(found: &InterfaceInfo) -> Option<Finding> {
    let path = |name: &str| format!("/proc/sys/net/ipv4/conf/{name}/rp_filter");
    let strict = [read(&path("all")), read(&path(&found.name))].contains(&"1".to_owned());
    strict.then(|| {
        Finding::new(
            format!("rp_filter on {}", found.name),
            Status::Warn,
            "strict: packets handed to this host are dropped if answers would leave elsewhere",
            format!(
                "sysctl -w net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.{}.rp_filter=2 if routes \
                 are asymmetric",
                found.name.replace('.', "/")
            ),
        )
    })
}

/// A veth has two traps that cost hours.
fn veth_hints(found: &InterfaceInfo, existing: &[InterfaceInfo]) -> Vec<Finding> {
    if found.kind.as_deref() != Some("veth") {
        return Vec::new();
    }
    let peer = existing
        .iter()
        .find(|other| !found.peer_elsewhere && Some(other.index) == found.lower);
    let offload = |which| host::offload(&peer?.name, which);
    let mut hints = Vec::new();
    if offload(Offload::SendChecksum) != Some(false) {
        hints.push(unfinished_checksums(&found.name, peer));
    }
    // Receive offload would give the peer a ring, but `XDP_TX` wakes it only for a program.
    if peer.is_none_or(|peer| peer.xdp.is_none()) {
        hints.push(peer_without_program(&found.name, peer));
    }
    hints
}

/// How a veth's peer is called in a sentence and in a command.
fn names_of(peer: Option<&InterfaceInfo>) -> (String, &str) {
    match peer {
        Some(peer) => (format!("`{}`", peer.name), &peer.name),
        None => ("the peer".to_owned(), "PEER"),
    }
}

fn unfinished_checksums(name: &str, peer: Option<&InterfaceInfo>) -> Finding {
    let (text, word) = names_of(peer);
    Finding::new(
        format!("checksums on {name}"),
        Status::Warn,
        format!(
            "a veth: packets that {text}'s own host sends carry no finished checksum, and are \
             wrong when forwarded to a wire"
        ),
        format!("ethtool -K {word} tx off (not needed if the senders are behind a real NIC)"),
    )
}

fn peer_without_program(name: &str, peer: Option<&InterfaceInfo>) -> Finding {
    let (text, word) = names_of(peer);
    Finding::new(
        format!("peer of {name}"),
        Status::Warn,
        format!(
            "a veth drops or delays what XDP sends unless {text} has an XDP program of its own"
        ),
        format!("sluice decap --leave --interface {word} (it passes everything but tunnels)"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn veth(name: &str, index: u32, lower: u32) -> InterfaceInfo {
        InterfaceInfo {
            index,
            name: name.into(),
            mtu: 1500,
            up: true,
            kind: Some("veth".into()),
            lower: Some(lower),
            peer_elsewhere: false,
            xdp: None,
        }
    }

    #[test]
    fn every_problem_comes_with_a_remedy() {
        for finding in [
            capabilities(&["CAP_BPF"]),
            judge_version(KernelVersion::new(5, 4, 0)),
            judge_version(KernelVersion::new(5, 15, 0)),
            types_of_kernel(Path::new("/nosuch")),
            jit("0"),
            cgroup(""),
            judge_generic("x".into(), Some("no".into()), Ok(())),
            tried::<()>("x", "y", Err(io::Error::from_raw_os_error(libc::EPERM))),
        ] {
            assert_ne!(finding.status, Status::Ok, "{finding:?}");
            assert!(!finding.remedy.is_empty(), "{finding:?}");
        }
    }

    #[test]
    fn cgroup_v2_is_found_in_a_hybrid_layout() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let finding = cgroup(mounts);
        assert_eq!(finding.detail, "mounted at /sys/fs/cgroup/unified");
    }

    #[test]
    fn a_veth_pair_is_told_about_its_peer_by_name() {
        let both = [veth("veth0", 4, 5), veth("veth1", 5, 4)];
        let hints = veth_hints(&both[0], &both);
        assert_eq!(hints.len(), 2);
        assert!(hints.iter().all(|hint| hint.remedy.contains("veth1")));
        let mut elsewhere = both[0].clone();
        elsewhere.peer_elsewhere = true;
        assert!(veth_hints(&elsewhere, &both)[0].remedy.contains("PEER"));
        let mut hardware = both[0].clone();
        hardware.kind = None;
        assert_eq!(veth_hints(&hardware, &both), []);
    }
}
