//! What the loader asks of the machine: limits, capabilities, CPUs, the kernel's clock.

use super::layout::cpus_in;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::time::{ClockId, clock_gettime};
use proxy_common::flow::TICK_SHIFT;
use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;

/// Open files that the daemon asks for: one per health probe, ring and link, with room to spare.
const WANTED_FILES: u64 = 65_536;

/// Capabilities that the data plane needs, by number (`capability.h`) and name.
const NEEDED_CAPABILITIES: [(u32, &str); 3] =
    [(12, "CAP_NET_ADMIN"), (38, "CAP_PERFMON"), (39, "CAP_BPF")];

/// `CAP_SYS_ADMIN`, which stands in for `CAP_BPF` and `CAP_PERFMON`.
const CAP_SYS_ADMIN: u32 = 21;

/// Raises the limits of locked memory (kernels before 5.11 charge maps to it) and open files as
/// far as allowed. Failing is no error here: what then fails says so itself.
pub(crate) fn raise_limits() {
    if let Err(errno) = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY) {
        tracing::debug!(%errno, "the limit of locked memory stays as it is");
    }
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) if soft < WANTED_FILES => {
            let wanted = WANTED_FILES.min(hard);
            if let Err(errno) = setrlimit(Resource::RLIMIT_NOFILE, wanted, hard) {
                tracing::debug!(%errno, "the limit of open files stays as it is");
            }
        }
        _ => {}
    }
}

/// Names of the needed capabilities that this thread lacks.
pub fn missing_capabilities() -> Vec<&'static str> {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    missing_in(effective_capabilities(&status).unwrap_or(0))
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn missing_in(effective: u64) -> Vec<&'static str> {
    let has = |number: u32| effective >> number & 1 == 1;
    NEEDED_CAPABILITIES
        .into_iter()
        .filter(|&(number, name)| !has(number) && (name == "CAP_NET_ADMIN" || !has(CAP_SYS_ADMIN)))
        .map(|(_, name)| name)
        .collect()
}

/// CPUs that the flow table is to be divided among.
pub(crate) fn flow_cpus() -> u32 {
    fs::read_to_string("/sys/devices/system/cpu/online")
        .ok()
        .and_then(|list| cpus_in(&list))
        .unwrap_or(1)
}

/// CPUs for which the kernel keeps per-CPU values.
pub(crate) fn possible_cpus() -> usize {
    aya::util::nr_cpus().unwrap_or(1)
}

/// The clock of the packet path: coarse monotonic nanoseconds.
pub fn now_ns() -> u64 {
    nanoseconds(ClockId::CLOCK_MONOTONIC_COARSE)
}

/// Nanoseconds of the wall clock that an instant of the monotonic clock must be moved by.
pub(crate) fn wall_clock_offset() -> u64 {
    nanoseconds(ClockId::CLOCK_REALTIME).wrapping_sub(nanoseconds(ClockId::CLOCK_MONOTONIC))
}

fn nanoseconds(clock: ClockId) -> u64 {
    clock_gettime(clock).map_or(0, |time| {
        // Neither clock is negative.
        time.tv_sec().unsigned_abs() * 1_000_000_000 + time.tv_nsec().unsigned_abs()
    })
}

/// The current tick of the flow table, see [`TICK_SHIFT`].
pub fn now_tick() -> u32 {
    // Ticks wrap by design.
    (now_ns() >> TICK_SHIFT) as u32
}

/// Switches of an interface that ethtool shows (`ethtool.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offload {
    /// Checksums of what is sent.
    SendChecksum = 0x16,
}

/// Is a switch on? `None` where that cannot be read.
pub(crate) fn offload(interface: &str, which: Offload) -> Option<bool> {
    /// `SIOCETHTOOL`.
    const REQUEST: libc::Ioctl = 0x8946;
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    let mut value = Value {
        command: which as u32,
        data: 0,
    };
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_data: (&raw mut value).cast(),
        },
    };
    // The last octet stays zero.
    for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1]
        .iter_mut()
        .zip(interface.bytes())
    {
        *to = from.cast_signed();
    }
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
    // SAFETY: the request has the kernel's layout, and its pointer is to a live `Value`, which is
    // `struct ethtool_value`; both outlast the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), REQUEST, &raw mut request) };
    (result == 0).then_some(value.data != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_capabilities_are_named() {
        assert_eq!(missing_in(u64::MAX), Vec::<&str>::new());
        assert_eq!(missing_in(1 << 12 | 1 << 21), Vec::<&str>::new());
        assert_eq!(missing_in(1 << 12 | 1 << 39), ["CAP_PERFMON"]);
        assert_eq!(missing_in(0), ["CAP_NET_ADMIN", "CAP_PERFMON", "CAP_BPF"]);
    }

    #[test]
    fn the_effective_set_is_read_from_the_status_file() {
        let status = "Name:\tsluice\nCapPrm:\t0000000000000000\nCapEff:\t000001ffffffffff\n";
        assert_eq!(effective_capabilities(status), Some(0x1ff_ffff_ffff));
        assert_eq!(effective_capabilities("Name:\tx\n"), None);
    }

    #[test]
    fn the_clock_moves_forward() {
        let before = now_ns();
        assert!(before > 0);
        assert!(now_ns() >= before);
    }
}
