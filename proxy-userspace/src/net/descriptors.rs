//! Open files: how many there may be, and which of them are not for clients.
//!
//! A proxy that gives its last descriptor to a client can neither reach a backend for it nor write
//! a log. So an eighth of what the process may have is out of clients' reach: a worker that has
//! accepted a connection for which there is no room below that accepts no more until there is.
//! Clients wait in the kernel's queue meanwhile, and those that are connected are served.
//!
//! How full the process is follows from what is **claimed**. Whoever has a descriptor for a client,
//! or for the backend of one, claims it as long as it is open. A connection that is passed on as it
//! is needs a second one, which it claims when it is accepted: a burst of clients is accepted before
//! the first of them has reached its backend. What else the process has open was counted before the
//! first client came. Less is there for what can be done without (pipes), and for what anybody can
//! have opened by forged sources (sessions of datagrams): such may not keep connections out.
//!
//! What nobody claims (files, logs, connections of operators) comes on top, and is noticed by the
//! numbers: a new descriptor gets the lowest free one. Each worker may be one connection late to
//! notice.

use super::listen::PAUSE;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::time::sleep;

/// The part of all descriptors that clients do not get.
const RESERVED: u64 = 8;

/// But at least this many, as far as clients get half.
const LEAST_RESERVED: u64 = 32;

/// Descriptors of this process that are claimed.
static CLAIMED: AtomicU64 = AtomicU64::new(0);

/// Descriptors of this process that nobody has claimed and that were open before the first client
/// came.
static OTHERS: OnceLock<u64> = OnceLock::new();

/// Counts what is open beside what is claimed, unless that was done: to be called when all is there
/// that the process needs, and before the first client comes.
pub fn count_others() {
    OTHERS.get_or_init(others);
}

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

/// Descriptors that somebody has or is about to open; they count as long as this lives.
#[derive(Debug)]
pub struct Claim {
    among: &'static AtomicU64,
    count: u32,
}

impl Claim {
    /// So many.
    pub fn of(count: u32) -> Self {
        Self::among(&CLAIMED, count)
    }

    fn among(among: &'static AtomicU64, count: u32) -> Self {
        among.fetch_add(count.into(), Ordering::Relaxed);
        Self { among, count }
    }

    /// From now on so many.
    pub fn set(&mut self, count: u32) {
        if count != self.count {
            *self = Self::among(self.among, count);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.among.fetch_sub(self.count.into(), Ordering::Relaxed);
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

    /// The part of it that pipes and sessions of datagrams may take.
    pub fn of_lesser() -> Self {
        let Self { end } = Self::of_clients();
        Self { end: end / 4 * 3 }
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

    /// True if there is room for one more.
    pub fn has_room(self) -> bool {
        let others = OTHERS.get().copied().unwrap_or(0);
        self.has_room_beside(CLAIMED.load(Ordering::Relaxed).saturating_add(others))
    }

    fn has_room_beside(self, taken: u64) -> bool {
        taken < self.end
    }

    /// Waits until there is room for one more. `any` is a descriptor that is open; `make` has what is
    /// not needed closed, again and again.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub async fn wait_for_room(self, any: &impl AsFd, make: impl Fn()) {
        loop {
            sleep(PAUSE).await;
            make();
            if !self.has_room() {
                continue;
            }
            let next = any.as_fd().try_clone_to_owned();
            if next.is_ok_and(|next| self.has(next.as_raw_fd())) {
                return;
            }
        }
    }
}

/// Open descriptors that nobody has claimed; none where that cannot be known.
fn others() -> u64 {
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    // That of the folder is among them.
    let open = u64::try_from(open).unwrap_or(0).saturating_sub(1);
    open.saturating_sub(CLAIMED.load(Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

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
        Share::of(u64::MAX).wait_for_room(&socket, || {}).await;
        let tried = Cell::new(0);
        let make = || tried.set(tried.get() + 1);
        let none = Share::of(0).wait_for_room(&socket, make);
        let none = tokio::time::timeout(PAUSE * 3, none);
        none.await.expect_err("there is none");
        assert!(
            tried.get() > 1,
            "what is not needed by now is not known before"
        );
    }

    #[test]
    fn there_is_room_until_the_share_is_taken() {
        let share = Share { end: 10 };
        assert!(share.has_room_beside(9) && !share.has_room_beside(10));
    }

    #[test]
    fn what_is_claimed_counts_as_long_as_it_is() {
        static SOME: AtomicU64 = AtomicU64::new(0);
        let claimed = || SOME.load(Ordering::Relaxed);
        let one = Claim::among(&SOME, 1);
        let mut another = Claim::among(&SOME, 2);
        assert_eq!(claimed(), 3);
        another.set(1);
        assert_eq!(claimed(), 2);
        another.set(4);
        drop(one);
        assert_eq!(claimed(), 4);
        drop(another);
        assert_eq!(claimed(), 0);
    }

    #[test]
    fn the_lesser_leave_some_of_the_clients_share() {
        assert!(Share::of_lesser().end < Share::of_clients().end);
    }
}
