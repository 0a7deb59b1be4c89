//! Capabilities: which a configuration needs, and how the others are given up.

use super::{CapSet, Capability, CapsHashSet, PrivilegeError, system};
use crate::config::model::Config;
use crate::config::model::connect::OnBackendLoss;
use crate::config::model::http::Accelerate;
use crate::config::model::process::CapabilityPolicy;
use std::io;

/// Ports below this one are privileged.
const UNPRIVILEGED_PORTS: u16 = 1024;

/// Those that no configuration needs all of, but each may be needed by one: for the kernel part,
/// low ports, files of other users, a limit on descriptors and the processes of an upgrade.
const USABLE: [Capability; 13] = [
    Capability::CAP_BPF,
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_DAC_READ_SEARCH,
    Capability::CAP_FOWNER,
    Capability::CAP_IPC_LOCK,
    Capability::CAP_KILL,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_NET_RAW,
    Capability::CAP_PERFMON,
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_SYS_RESOURCE,
];

/// Those without which a configuration cannot be put in force.
pub fn needed(config: &Config) -> CapsHashSet {
    let mut needed = CapsHashSet::new();
    if config.balances_packets() {
        needed.extend([
            Capability::CAP_BPF,
            Capability::CAP_NET_ADMIN,
            // Health probes to a VIP carry a mark.
            Capability::CAP_NET_RAW,
            Capability::CAP_PERFMON,
            // Maps and programs are found again by their ids, and bpffs may have to be mounted.
            Capability::CAP_SYS_ADMIN,
        ]);
    }
    if config.acceleration() != Accelerate::Off {
        needed.extend([
            Capability::CAP_BPF,
            Capability::CAP_NET_ADMIN,
            Capability::CAP_PERFMON,
        ]);
    }
    if config.steers() || config.balances_sockets() || config.redirects() {
        needed.extend([
            Capability::CAP_BPF,
            Capability::CAP_NET_ADMIN,
            Capability::CAP_PERFMON,
            // bpffs may have to be mounted.
            Capability::CAP_SYS_ADMIN,
        ]);
    }
    let http = config.http_listeners.iter().map(|it| it.address);
    let streams = config.stream_listeners.iter().map(|it| it.address);
    let mut ports = http
        .chain(streams)
        .chain(config.admin.listen)
        .map(|address| address.port());
    if ports.any(|port| port != 0 && port < UNPRIVILEGED_PORTS) {
        needed.insert(Capability::CAP_NET_BIND_SERVICE);
    }
    needed
}

/// Those without which something is done in part only.
fn helpful(config: &Config) -> Option<Capability> {
    let mut services = config.services.iter().filter_map(|one| one.at_connect);
    let tells = services.any(|at| at.on_backend_loss == OnBackendLoss::Reset);
    // Sockets are told of their backend's loss in the network namespaces of other users' processes.
    tells.then_some(Capability::CAP_SYS_PTRACE)
}

/// Those of `held` that are kept.
pub fn kept(policy: CapabilityPolicy, config: &Config, held: &CapsHashSet) -> CapsHashSet {
    let wanted = match policy {
        CapabilityPolicy::Keep => return held.clone(),
        CapabilityPolicy::Usable => USABLE.into_iter().collect(),
        CapabilityPolicy::Needed => needed(config),
    };
    let wanted: CapsHashSet = wanted.into_iter().chain(helpful(config)).collect();
    wanted.intersection(held).copied().collect()
}

/// Those that this thread may use.
pub(super) fn held() -> Result<CapsHashSet, PrivilegeError> {
    ::caps::read(None, CapSet::Permitted)
        .map_err(|error| system("read the capabilities", io::Error::other(error)))
}

/// Gives up all but these. They stay those of a program that this process becomes or starts, also
/// where its user is not root.
pub(super) fn restrict(kept: &CapsHashSet) -> Result<(), PrivilegeError> {
    let failed = |error| system("give up capabilities", io::Error::other(error));
    // Effective is a part of permitted, and ambient of both permitted and inheritable.
    let ambient_first = ::caps::clear(None, CapSet::Ambient);
    ambient_first.map_err(failed)?;
    ::caps::set(None, CapSet::Effective, kept).map_err(failed)?;
    ::caps::set(None, CapSet::Permitted, kept).map_err(failed)?;
    ::caps::set(None, CapSet::Inheritable, kept).map_err(failed)?;
    // Only a successor that is not root needs them, and some containers forbid them.
    if let Err(error) = ::caps::set(None, CapSet::Ambient, kept) {
        tracing::debug!(%error, "a new process may lack capabilities");
    }
    Ok(())
}

/// Their names, in order; `none` if there are none.
pub(super) fn names(capabilities: impl IntoIterator<Item = Capability>) -> String {
    let mut names: Vec<_> = capabilities.into_iter().map(|it| it.to_string()).collect();
    if names.is_empty() {
        return "none".to_owned();
    }
    names.sort();
    names.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        crate::config::parse("test", text).expect("valid").config
    }

    #[test]
    fn only_low_ports_and_the_kernel_part_need_any() {
        let tcp = |port: u16| {
            config(&format!(
                "listeners: [{{name: a, kind: tcp, address: 127.0.0.1, port: {port}, service: s}}]\n\
                 services: [{{name: s, backends: ['127.0.0.1:9000']}}]"
            ))
        };
        assert!(needed(&tcp(1024)).is_empty());
        assert_eq!(names(needed(&tcp(443))), "CAP_NET_BIND_SERVICE");
        let l4 = needed(&config("l4: {interfaces: [eth0]}"));
        assert!(l4.contains(&Capability::CAP_BPF) && !l4.contains(&Capability::CAP_SYS_PTRACE));
    }

    #[test]
    fn what_is_not_held_is_not_kept() {
        let held = CapsHashSet::from([Capability::CAP_SYS_PTRACE, Capability::CAP_NET_ADMIN]);
        let config = Config::default();
        assert_eq!(kept(CapabilityPolicy::Keep, &config, &held), held);
        let usable = kept(CapabilityPolicy::Usable, &config, &held);
        assert_eq!(names(usable), "CAP_NET_ADMIN");
        assert_eq!(
            names(kept(CapabilityPolicy::Needed, &config, &held)),
            "none"
        );
    }
}
