//! `struct tcp_info` of Linux, as much of it as is of use here.

use crate::health::outlier::Network;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// Octets of the structure that are asked for. Kernels that know less give less.
const LENGTH: usize = 240;

/// Where the fields begin (include/uapi/linux/tcp.h, which only ever grows at its end).
mod at {
    pub(super) const UNACKED: usize = 24;
    pub(super) const RTT: usize = 68;
    pub(super) const TOTAL_RETRANS: usize = 100;
    pub(super) const NOTSENT: usize = 144;
    pub(super) const DATA_SEGS_OUT: usize = 156;
    pub(super) const DELIVERED: usize = 192;
    pub(super) const OUT_OF_ORDER: usize = 224;
    pub(super) const SEND_WINDOW: usize = 228;
}

/// What the kernel says of a connection at a moment: counts are from its beginning on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Info {
    /// Segments with octets and the first SYN, those sent again among them.
    segments: u32,
    retransmits: u32,
    delivered: u32,
    disordered: u32,
    rtt_us: u32,
    /// Something waits to be sent or acknowledged.
    is_waiting: bool,
    /// The other end takes nothing.
    is_zero: bool,
}

impl Info {
    /// Asks the kernel. `None` if it does not say, or says too little.
    pub(super) fn read(socket: BorrowedFd<'_>) -> Option<Self> {
        let mut octets = [0_u8; LENGTH];
        let mut length = LENGTH as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` octets to a buffer of as many.
        let asked = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                octets.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        (asked == 0).then(|| Self::parse(&octets[..length as usize]))?
    }

    /// Reads the structure. `None` if it ends before the counts of Linux 5.4.
    fn parse(octets: &[u8]) -> Option<Self> {
        let field = |at: usize| {
            let octets = octets.get(at..at + 4)?;
            Some(u32::from_ne_bytes(octets.try_into().ok()?))
        };
        let waiting = u64::from(field(at::UNACKED)?) + u64::from(field(at::NOTSENT)?);
        Some(Self {
            segments: field(at::DATA_SEGS_OUT)?.wrapping_add(1),
            retransmits: field(at::TOTAL_RETRANS)?,
            delivered: field(at::DELIVERED)?,
            disordered: field(at::OUT_OF_ORDER)?,
            rtt_us: field(at::RTT)?,
            is_waiting: waiting > 0,
            is_zero: field(at::SEND_WINDOW)? == 0,
        })
    }

    /// What has come since an earlier look. A round trip counts if something was acknowledged since:
    /// else it is the one of before.
    pub(super) fn since(&self, before: &Self) -> Network {
        let more = |now: u32, before: u32| u64::from(now.wrapping_sub(before));
        let is_timed = self.delivered != before.delivered && self.rtt_us > 0;
        let segments = more(self.segments, before.segments);
        let is_used = is_timed || segments > 0 || self.is_waiting;
        Network {
            segments,
            retransmits: more(self.retransmits, before.retransmits),
            disordered: more(self.disordered, before.disordered),
            looks: is_used.into(),
            zero_windows: (self.is_zero && self.is_waiting).into(),
            timed: is_timed.into(),
            rtt_ns: match is_timed {
                true => u64::from(self.rtt_us) * 1000,
                false => 0,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn octets(fields: &[(usize, u32)]) -> [u8; LENGTH] {
        let mut octets = [0; LENGTH];
        for (at, value) in fields {
            octets[*at..*at + 4].copy_from_slice(&value.to_ne_bytes());
        }
        octets
    }

    #[test]
    fn counts_are_told_as_what_is_new() {
        let first = Info::parse(&octets(&[
            (at::DATA_SEGS_OUT, 10),
            (at::TOTAL_RETRANS, 1),
            (at::DELIVERED, 9),
            (at::RTT, 250),
            (at::SEND_WINDOW, 64_000),
        ]));
        let first = first.expect("whole");
        let seen = first.since(&Info::default());
        // Ten with octets, and the SYN.
        assert_eq!((seen.segments, seen.retransmits), (11, 1));
        assert_eq!((seen.timed, seen.rtt_ns), (1, 250_000));
        assert_eq!((seen.looks, seen.zero_windows), (1, 0));
        // Nothing has moved: an idle connection says nothing.
        assert_eq!(first.since(&first), Network::default());
        let stuck = Info::parse(&octets(&[
            (at::DATA_SEGS_OUT, 12),
            (at::TOTAL_RETRANS, 1),
            (at::DELIVERED, 9),
            (at::RTT, 250),
            (at::NOTSENT, 4096),
        ]));
        let seen = stuck.expect("whole").since(&first);
        assert_eq!((seen.segments, seen.retransmits), (2, 0));
        assert_eq!((seen.timed, seen.zero_windows), (0, 1));
    }

    #[test]
    fn counts_may_wrap() {
        let before = Info {
            segments: u32::MAX,
            ..Info::default()
        };
        let now = Info {
            segments: 4,
            ..Info::default()
        };
        assert_eq!(now.since(&before).segments, 5);
    }

    #[test]
    fn what_ends_too_early_says_nothing() {
        let octets = octets(&[]);
        for length in 0..at::SEND_WINDOW + 4 {
            assert_eq!(Info::parse(&octets[..length]), None, "{length}");
        }
        assert!(Info::parse(&octets[..at::SEND_WINDOW + 4]).is_some());
    }
}
