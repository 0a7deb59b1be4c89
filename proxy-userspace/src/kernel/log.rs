//! Writes what the kernel programs tell, where the configuration asks for it (`l4.kernel_log`).
//!
//! The programs tell numbers, and only as many lines as their ring has room for while nobody reads:
//! those of a flood are lost, the counters by reason are exact.

use super::load::LoadError;
use crate::config::model::KernelLog;
use aya::Ebpf;
use aya_log::{EbpfLogger, Level};
use proxy_common::reason::Reason;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

/// How long a follower that is dropped may go on, in nanoseconds.
const LINGER: i64 = 250_000_000;

/// The library's level up to which the programs tell, if they do.
pub(crate) fn level(log: KernelLog) -> Option<u8> {
    match log {
        KernelLog::Off => None,
        KernelLog::Drops => Some(Level::Warn as u8),
        KernelLog::All => Some(Level::Info as u8),
    }
}

/// Reads what one load of the programs tells, on a thread of its own: a flood then costs that
/// thread only. Ends when it is dropped.
pub(crate) struct Follower {
    is_over: Arc<AtomicBool>,
}

impl Follower {
    pub(crate) fn new(ebpf: &mut Ebpf) -> Result<Self, LoadError> {
        let failed = |error: &dyn fmt::Display| LoadError::Log(error.to_string());
        let mut logger =
            EbpfLogger::init_with_logger(ebpf, Lines).map_err(|error| failed(&error))?;
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let follow = move || {
            while !over.load(Relaxed) {
                let mut ring = [PollFd::new(&logger, PollFlags::IN)];
                let timeout = Timespec {
                    tv_sec: 0,
                    tv_nsec: LINGER,
                };
                let _ = poll(&mut ring, Some(&timeout));
                logger.flush();
            }
        };
        thread::Builder::new()
            .name("kernel-log".to_owned())
            .spawn(follow)
            .map_err(|error| failed(&error))?;
        Ok(Self { is_over })
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.is_over.store(true, Relaxed);
    }
}

/// Gives the numbers their names.
struct Lines;

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let told = Told::parse(&record.args().to_string());
        let reason = told.reason.map_or("?", Reason::name);
        let what = told.reason.map_or("", Reason::text);
        let packet = told
            .packet
            .map_or_else(String::new, |packet| packet.to_string());
        if record.level() <= log::Level::Warn {
            tracing::warn!(reason, packet, "dropped by the kernel programs: {what}");
        } else {
            tracing::info!(reason, packet, "decided by the kernel programs: {what}");
        }
    }

    fn flush(&self) {}
}

/// What a line tells.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    /// `None`: a newer program's.
    reason: Option<Reason>,
    /// `None`: it was not understood.
    packet: Option<Tuple>,
}

#[derive(Debug, PartialEq, Eq)]
struct Tuple {
    protocol: u8,
    source: SocketAddr,
    destination: SocketAddr,
}

impl Told {
    /// Of `reason [protocol source port destination port]`.
    fn parse(line: &str) -> Self {
        let mut words = line.split(' ');
        let reason = words.next().and_then(|word| word.parse().ok());
        Self {
            reason: reason.and_then(Reason::from_code),
            packet: tuple(&mut words),
        }
    }
}

fn tuple<'w>(words: &mut impl Iterator<Item = &'w str>) -> Option<Tuple> {
    let protocol = words.next()?.parse().ok()?;
    let mut end = || {
        let address: IpAddr = words.next()?.parse().ok()?;
        let port = words.next()?.parse().ok()?;
        Some(SocketAddr::new(address.to_canonical(), port))
    };
    Some(Tuple {
        protocol,
        source: end()?,
        destination: end()?,
    })
}

impl fmt::Display for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            protocol,
            source,
            destination,
        } = self;
        match protocol {
            6 => write!(f, "tcp {source} > {destination}"),
            17 => write!(f, "udp {source} > {destination}"),
            other => write!(f, "protocol {other} {} > {}", source.ip(), destination.ip()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_get_their_names() {
        let told = Told::parse("1 6 ::ffff:192.0.2.1 4000 2001:db8::1 80");
        assert_eq!(told.reason, Reason::from_code(1));
        let packet = told.packet.expect("a packet");
        assert_eq!(packet.to_string(), "tcp 192.0.2.1:4000 > [2001:db8::1]:80");
        let icmp = Told::parse("1 58 fe80::1 0 2001:db8::1 0").packet;
        let icmp = icmp.expect("a packet").to_string();
        assert_eq!(icmp, "protocol 58 fe80::1 > 2001:db8::1");
    }

    #[test]
    fn what_was_not_understood_has_no_packet() {
        let nothing = Told {
            reason: Reason::from_code(2),
            packet: None,
        };
        assert_eq!(Told::parse("2"), nothing);
        for line in ["", "x", "60000 6 ::1", "1 6 ::1 70000 ::1 1"] {
            assert_eq!(Told::parse(line).packet, None, "{line}");
        }
    }
}
