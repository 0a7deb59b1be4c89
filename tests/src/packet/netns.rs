//! A network namespace with two links, fixed MAC addresses, routes and static neighbours, so that
//! every answer of the kernel's FIB is known beforehand.
//!
//! ```text
//!            gateway .254 ── 192.0.2.0/24      ┌───────┐      10.1.0.0/16 ── backends .2 … .9
//!  clients ──                2001:db8:2::/64 ──┤ north │           fd00:1::/64      gateway .254
//!            hosts .10 … .19                   │ south ├──    10.2.0.0/16 via the gateway
//!                                              └───────┘      10.3.0.0/16 the same, MTU 1400
//! ```

use super::wire::Mac;
use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns, unshare};
use nix::unistd::Pid;
use std::fs::File;
use std::io::Write;
use std::marker::PhantomData;
use std::process::{Command, Stdio};

/// MAC address of the interface towards the clients.
pub const NORTH: Mac = [2, 0, 0, 0, 0, 0x10];
/// MAC address of the interface towards the backends.
pub const SOUTH: Mac = [2, 0, 0, 0, 0, 0x20];
/// MAC address of the clients' gateway.
pub const GATEWAY: Mac = [2, 0, 0, 0, 0x10, 0xfe];
/// MAC address of the gateway to routed backends.
pub const SOUTH_GATEWAY: Mac = [2, 0, 0, 0, 0x20, 0xfe];

/// MAC address of the host with this last octet on the clients' link (10 … 19).
pub const fn north_host(last: u8) -> Mac {
    [2, 0, 0, 0, 0x10, last]
}

/// MAC address of the backend with this last octet (2 … 9), IPv4 and IPv6 alike.
pub const fn backend(last: u8) -> Mac {
    [2, 0, 0, 0, 0x20, last]
}

/// A namespace that the calling thread is in until this is dropped.
#[derive(Debug)]
pub struct Namespace {
    outside: File,
    /// Index of the interface towards the clients.
    pub north: u32,
    /// Index of the interface towards the backends.
    pub south: u32,
    /// The namespace belongs to a thread.
    _not_send: PhantomData<*const ()>,
}

impl Namespace {
    /// Makes the namespace and enters it.
    ///
    /// # Errors
    ///
    /// When privileges or `ip` (iproute2) are missing; the message says which.
    pub fn enter() -> Result<Self> {
        let outside = File::open("/proc/thread-self/ns/net").context("opening own namespace")?;
        unshare(CloneFlags::CLONE_NEWNET)
            .context("packet tests need root: they make network namespaces and load programs")?;
        let mut namespace = Self {
            outside,
            north: 0,
            south: 0,
            _not_send: PhantomData,
        };
        ip(&script())?;
        for (path, value) in [
            ("/proc/sys/net/ipv4/ip_forward", "1"),
            ("/proc/sys/net/ipv6/conf/all/forwarding", "1"),
        ] {
            std::fs::write(path, value).with_context(|| format!("writing {path}"))?;
        }
        namespace.north = nix::net::if_::if_nametoindex("north")?;
        namespace.south = nix::net::if_::if_nametoindex("south")?;
        Ok(namespace)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = setns(&self.outside, CloneFlags::CLONE_NEWNET) {
            eprintln!("cannot leave the namespace: {error}");
        }
    }
}

/// Runs `ip` commands, one a line, in the thread's namespace.
///
/// # Errors
///
/// When `ip` is missing or refuses a line.
pub fn ip(commands: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting `ip` (package iproute2)")?;
    child
        .stdin
        .take()
        .context("standard input of `ip`")?
        .write_all(commands.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("ip: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// Keeps the calling thread on one CPU.
///
/// # Errors
///
/// When there is no such CPU.
pub fn pin_to_cpu(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("moving to CPU {cpu}"))
}

fn script() -> String {
    let mut lines = vec!["link set lo up".to_owned()];
    for (name, mac) in [("north", NORTH), ("south", SOUTH)] {
        let mac = text(mac);
        lines.push(format!(
            "link add {name} address {mac} type veth peer name {name}-peer"
        ));
        lines.push(format!("link set {name}-peer addrgenmode none"));
        lines.push(format!("link set {name} up"));
        lines.push(format!("link set {name}-peer up"));
    }
    for (device, address) in [
        ("north", "192.0.2.1/24"),
        ("north", "2001:db8:2::1/64"),
        ("south", "10.1.0.1/16"),
        ("south", "fd00:1::1/64"),
    ] {
        let nodad = if address.contains(':') { " nodad" } else { "" };
        lines.push(format!("address add {address} dev {device}{nodad}"));
    }
    let mut neighbour = |device: &str, address: String, mac: Mac| {
        lines.push(format!(
            "neigh add {address} lladdr {} dev {device} nud permanent",
            text(mac)
        ));
    };
    neighbour("north", "192.0.2.254".into(), GATEWAY);
    neighbour("north", "2001:db8:2::fe".into(), GATEWAY);
    neighbour("south", "10.1.0.254".into(), SOUTH_GATEWAY);
    neighbour("south", "fd00:1::fe".into(), SOUTH_GATEWAY);
    for last in 10..20 {
        neighbour("north", format!("192.0.2.{last}"), north_host(last));
        neighbour("north", format!("2001:db8:2::{last:x}"), north_host(last));
    }
    for last in 2..10 {
        neighbour("south", format!("10.1.0.{last}"), backend(last));
        neighbour("south", format!("fd00:1::{last:x}"), backend(last));
    }
    for route in [
        "default via 192.0.2.254",
        "default via 2001:db8:2::fe",
        "10.2.0.0/16 via 10.1.0.254",
        "10.3.0.0/16 via 10.1.0.254 mtu lock 1400",
        "fd00:2::/64 via fd00:1::fe",
        "fd00:3::/64 via fd00:1::fe mtu lock 1400",
        "blackhole 10.9.0.0/16",
        "blackhole fd00:9::/64",
    ] {
        lines.push(format!("route add {route}"));
    }
    lines.join("\n") + "\n"
}

fn text(mac: Mac) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}
