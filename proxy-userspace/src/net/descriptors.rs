//! Open files: how many there may be, and which of them are not for clients.
//!
//! A proxy that gives its last descriptor to a client can neither reach a backend for it nor write
//! a log. So an eighth of what the process may have is out of clients' reach: a worker that has
//! accepted a connection whose descriptor lies in there accepts no more until the process has
//! closed some. Clients wait in the kernel's queue meanwhile, and those that are connected are
//! served.
//!
//! A new descriptor gets the lowest free number, so its number alone says how full the process is:
//! that costs no system call and no count that workers would have to share. Each worker may be one
//! connection late to notice.

use super::listen::PAUSE;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use tokio::time::sleep;

/// The part of all descriptors that clients do not get.
const RESERVED: u64 = 8;

/// But at least this many, as far as clients get half.
const LEAST_RESERVED: u64 = 32;

/// Raises the limit of open files as far as this user may. Failing is no error: the limit that is
/// in force then is kept to.
pub fn raise_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(errno) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::debug!(%errno, "the limit of open files stays as it is");
    }
}

/// Which descriptors clients may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The lowest one that they may not.
    end: u64,
}

impl Share {
    /// The clients' share under the limit in force.
    pub fn of_clients() -> Self {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
        Self::of(limit)
    }

    /// The clients' share of so many.
    pub fn of(limit: u64) -> Self {
        let reserved = (limit / RESERVED).max(LEAST_RESERVED).min(limit / 2);
        Self {
            end: limit - reserved,
        }
    }

    /// True if this descriptor is within the share.
    pub fn has(self, descriptor: RawFd) -> bool {
        u64::try_from(descriptor).is_ok_and(|number| number < self.end)
    }

    /// Waits until the next descriptor will be within the share. `any` is one that is open.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub async fn has_room(self, any: &impl AsFd) {
        loop {
            sleep(PAUSE).await;
            let next = any.as_fd().try_clone_to_owned();
            if next.is_ok_and(|next| self.has(next.as_raw_fd())) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_eighth_is_not_for_clients_and_never_more_than_half() {
        for (limit, end) in [
            (20_000, 17_500),
            (1024, 896),
            (256, 224),
            (100, 68),
            (40, 20),
            (1, 1),
            (0, 0),
        ] {
            assert_eq!(Share::of(limit), Share { end }, "{limit}");
        }
        assert!(Share::of(1024).has(895) && !Share::of(1024).has(896));
        assert!(!Share::of(1024).has(-1));
    }

    #[tokio::test(start_paused = true)]
    async fn room_is_found_once_there_is_some() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("binds");
        Share::of(u64::MAX).has_room(&socket).await;
        let none = tokio::time::timeout(PAUSE * 3, Share::of(0).has_room(&socket));
        none.await.expect_err("there is none");
    }
}
