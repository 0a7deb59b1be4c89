//! What health checks through VIPs need of this host.

use super::{Finding, Status, forwarding, read};
use crate::config::model::{Interface, L4};
use crate::kernel::aim::LOOPBACK;
use crate::kernel::netlink::{InterfaceInfo, Netlink};
use crate::kernel::sys;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;

/// Findings for the VIPs that health checks target.
pub(super) fn through_vips(
    l4: &L4,
    vips: &[IpAddr],
    netlink: &mut Netlink,
    existing: &[InterfaceInfo],
) -> Vec<Finding> {
    if vips.is_empty() {
        return Vec::new();
    }
    let loopback = existing.iter().find(|found| found.name == LOOPBACK);
    let mut findings = vec![egress(try_egress(loopback.map_or(1, |found| found.index)))];
    findings.extend(loopback.map(forwarding));
    for &vip in vips.iter().filter(|vip| vip.is_ipv4()) {
        let way = match netlink.route(vip) {
            Ok(route) if route.local => Way::Here,
            Ok(_) => Way::There,
            Err(_) => Way::Nowhere,
        };
        findings.extend(answers(&l4.interfaces, vip, way, read));
    }
    findings
}

/// Puts a program on what leaves the loopback interface, for a moment.
fn try_egress(loopback: u32) -> io::Result<()> {
    let program = sys::load_next()?;
    sys::link_egress(program.as_fd(), loopback).map(drop)
}

fn egress(result: io::Result<()>) -> Finding {
    const NAME: &str = "checks through VIPs";
    match result {
        Ok(()) => Finding::ok(NAME, "can be aimed at their backends"),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Finding::new(
            NAME,
            Status::Warn,
            "not permitted to try",
            "run `sluice check` as root",
        ),
        Err(error) => Finding::new(
            NAME,
            Status::Fail,
            format!("the kernel refuses a link to what leaves an interface: {error}"),
            "use a kernel from 6.6 on, or `target: backend` in `health`",
        ),
    }
}

/// Where this host's routes to an address lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// It is this host's own.
    Here,
    /// To another host.
    There,
    /// There is none.
    Nowhere,
}

/// Would the stack take the answers to checks, which come from the VIP? IPv4 looks at sources.
fn answers(
    interfaces: &[Interface],
    vip: IpAddr,
    way: Way,
    read: impl Fn(&str) -> String,
) -> Option<Finding> {
    let value = |name: &str, key: &str| -> u32 {
        let text = read(&format!("/proc/sys/net/ipv4/conf/{name}/{key}"));
        text.parse().unwrap_or(0)
    };
    // The greater one counts, of the switch for all and the interface's own.
    let of = |name: &str, key| value("all", key).max(value(name, key));
    let setting = |wrong: &dyn Fn(&str) -> bool, key: &str, to: u32| -> Option<String> {
        let names = interfaces.iter().map(|interface| interface.name.as_str());
        let wrong = names.filter(|name| wrong(name));
        let all: Vec<String> = wrong
            .map(|name| format!("net.ipv4.conf.{}.{key}={to}", name.replace('.', "/")))
            .collect();
        (!all.is_empty()).then(|| format!("sysctl -w {}", all.join(" ")))
    };
    let (detail, remedy) = match way {
        Way::Here => (
            "it is an address of this host, which drops answers that come from it",
            setting(&|name| of(name, "accept_local") == 0, "accept_local", 1)?,
        ),
        Way::Nowhere => (
            "this host has no route to it, so the reverse path filter drops answers from it",
            format!(
                "add a route to it, such as a default route; or {}",
                setting(&|name| of(name, "rp_filter") != 0, "rp_filter", 0)?
            ),
        ),
        Way::There => return None,
    };
    Some(Finding::new(
        format!("checks through {vip}"),
        Status::Warn,
        detail,
        remedy,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::AttachMode;

    fn found(way: Way, set: &[(&str, &str)]) -> Option<Finding> {
        let interfaces = ["eth0", "eth1.7"].map(|name| Interface {
            name: name.to_owned(),
            attach: AttachMode::Auto,
        });
        answers(&interfaces, "192.0.2.1".parse().unwrap(), way, |path| {
            let known = set.iter().find(|(key, _)| path.ends_with(key));
            known.map_or("0", |(_, value)| value).to_owned()
        })
    }

    #[test]
    fn a_vip_of_this_host_needs_local_sources_accepted() {
        let finding = found(Way::Here, &[("eth0/accept_local", "1")]).unwrap();
        assert_eq!(
            finding.remedy,
            "sysctl -w net.ipv4.conf.eth1/7.accept_local=1"
        );
        assert_eq!(found(Way::Here, &[("all/accept_local", "1")]), None);
    }

    #[test]
    fn a_vip_without_a_route_fails_the_reverse_path_filter() {
        assert_eq!(found(Way::Nowhere, &[]), None);
        let finding = found(Way::Nowhere, &[("eth0/rp_filter", "2")]).unwrap();
        assert!(finding.remedy.contains("default route"), "{finding:?}");
        assert!(finding.remedy.contains("eth0.rp_filter=0"), "{finding:?}");
        assert_eq!(found(Way::There, &[("all/rp_filter", "2")]), None);
    }

    #[test]
    fn an_old_kernel_is_told_from_a_lack_of_privilege() {
        let error = |errno| egress(Err(io::Error::from_raw_os_error(errno)));
        assert_eq!(error(libc::EPERM).status, Status::Warn);
        assert_eq!(error(libc::EINVAL).status, Status::Fail);
        assert!(error(libc::EINVAL).remedy.contains("6.6"));
    }
}
