//! Tunnels whose two other ends are on this host, joined: what one of them writes goes to the other's
//! queue, past the daemon as well. [`proxy_common::sock::Leg`] says what makes that safe.
//!
//! The daemon stays between them. It reads and passes on what comes its way (the ends' end, a reset,
//! and octets whenever the short way is not free), says how much of it it has passed on, and looks now
//! and then at what has gone past it.

use super::object::Programs;
use super::waiting::waiting;
use crate::kernel::handle::Mapping;
use proxy_common::sock::{End, LEG_WORDS, LEGS, end_flag};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Words of a leg, as [`proxy_common::sock::Leg`] has them.
#[derive(Clone, Copy)]
enum Word {
    From = 0,
    To = 1,
    ToSock = 2,
    Via = 3,
    ViaSock = 4,
    Passed = 5,
    Octets = 6,
    FirstAt = 7,
    LastAt = 8,
}

/// The legs of a process, and which of them are in use.
pub(super) struct Table {
    programs: Arc<Programs>,
    memory: Mapping,
    /// The longest unused first: the kernel may still be about to count in one that was just freed.
    unused: Mutex<VecDeque<u32>>,
    joined: AtomicU64,
}

/// Why a tunnel is not joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotJoined {
    /// Its ends do not know each other yet: it may be tried again.
    NotYet,
    /// One of its ends is elsewhere, not accelerated, or the daemon's own; or there is no room.
    Never,
}

/// One of the daemon's ends of a tunnel.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// Its socket.
    pub socket: BorrowedFd<'a>,
    /// Octets that were read from it and passed on, or that were meant for the daemon.
    pub passed: u64,
}

/// A joined tunnel; parted when dropped.
pub struct Joined {
    table: Arc<Table>,
    /// From the client, and to it.
    legs: [u32; 2],
    /// Who writes there.
    writers: [u64; 2],
}

/// A direction of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the client.
    Up = 0,
    /// To it.
    Down = 1,
}

/// What has gone past the daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gone {
    /// Octets.
    pub octets: u64,
    /// When the first of them did, by the kernel's monotonic clock in nanoseconds; 0 for never.
    pub first_at: u64,
    /// When the last one did.
    pub last_at: u64,
}

impl Table {
    pub(super) fn new(programs: Arc<Programs>) -> io::Result<Self> {
        Ok(Self {
            memory: programs.legs()?,
            programs,
            unused: Mutex::new((0..LEGS).collect()),
            joined: AtomicU64::new(0),
        })
    }

    /// Joins what is between a client and a backend.
    pub(super) fn join(
        self: &Arc<Self>,
        client: Side<'_>,
        backend: Side<'_>,
    ) -> Result<Joined, NotJoined> {
        let known = |side: Side<'_>| match self.programs.end(side.socket) {
            Ok(Some(end)) if end.cookie == 0 => Err(NotJoined::NotYet),
            Ok(Some(end)) if end.peer_cookie == 0 => Err(NotJoined::NotYet),
            // The daemon reads and counts its own sockets by itself.
            Ok(Some(end)) if end.peer_flags & end_flag::OURS == 0 => Ok(end),
            _ => Err(NotJoined::Never),
        };
        let ends = [known(client)?, known(backend)?];
        let legs = self.take().ok_or(NotJoined::Never)?;
        // From here on dropping it gives everything back.
        let joined = Joined {
            table: Arc::clone(self),
            legs,
            writers: ends.map(|end| end.peer_cookie),
        };
        let passed = [client.passed, backend.passed];
        for (way, leg) in legs.into_iter().enumerate() {
            self.fill(leg, &ends[way], &ends[1 - way], passed[way]);
        }
        for (writer, leg) in joined.writers.into_iter().zip(legs) {
            let pointed = self.programs.point(writer, leg);
            pointed.map_err(|_| NotJoined::Never)?;
        }
        for (writer, leg) in joined.writers.into_iter().zip(legs) {
            let from = self.word(leg, Word::From);
            from.store(writer.cast_signed(), Ordering::SeqCst);
        }
        self.joined.fetch_add(1, Ordering::Relaxed);
        Ok(joined)
    }

    /// Tunnels that were joined so far.
    pub(super) fn count(&self) -> u64 {
        self.joined.load(Ordering::Relaxed)
    }

    /// Counts from here on.
    pub(super) fn forget_count(&self) {
        self.joined.store(0, Ordering::Relaxed);
    }

    fn take(&self) -> Option<[u32; 2]> {
        let mut unused = self.unused.lock().unwrap_or_else(PoisonError::into_inner);
        if unused.len() < 2 {
            return None;
        }
        Some([unused.pop_front()?, unused.pop_front()?])
    }

    /// Everything of a leg but whose it is: `near` is the daemon's end that the writer writes to.
    fn fill(&self, leg: u32, near: &End, far: &End, passed: u64) {
        debug_assert_ne!(near.peer_cookie, 0, "the writer is known");
        let words = [
            (Word::To, far.peer_cookie),
            (Word::ToSock, far.peer),
            (Word::Via, far.cookie),
            (Word::ViaSock, far.sock),
            (Word::Passed, passed),
            (Word::Octets, 0),
            (Word::FirstAt, 0),
            (Word::LastAt, 0),
        ];
        for (word, value) in words {
            self.word(leg, word)
                .store(value.cast_signed(), Ordering::SeqCst);
        }
    }

    fn stop(&self, legs: [u32; 2]) {
        for leg in legs {
            self.word(leg, Word::From).store(0, Ordering::SeqCst);
        }
    }

    fn free(&self, legs: [u32; 2], writers: [u64; 2]) {
        self.stop(legs);
        for writer in writers {
            self.programs.unpoint(writer);
        }
        let mut unused = self.unused.lock().unwrap_or_else(PoisonError::into_inner);
        unused.extend(legs);
    }

    fn word(&self, leg: u32, word: Word) -> &AtomicI64 {
        &self.memory.elements::<AtomicI64>()[leg as usize * LEG_WORDS + word as usize]
    }
}

impl Joined {
    /// Says how many octets of a direction's writer were read, and have been passed on since.
    pub fn passed(&self, way: Way, octets: u64) {
        // Whoever sees it also sees what was done before: that the octets were written.
        self.table
            .word(self.legs[way as usize], Word::Passed)
            .store(octets.cast_signed(), Ordering::SeqCst);
    }

    /// From now on everything goes through the daemon.
    pub fn stop(&self) {
        self.table.stop(self.legs);
    }

    /// What has gone past the daemon.
    pub fn gone(&self, way: Way) -> Gone {
        let word = |word| {
            let word = self.table.word(self.legs[way as usize], word);
            word.load(Ordering::SeqCst).cast_unsigned()
        };
        Gone {
            octets: word(Word::Octets),
            first_at: word(Word::FirstAt),
            last_at: word(Word::LastAt),
        }
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.table.free(self.legs, self.writers);
    }
}

impl std::fmt::Debug for Joined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Joined").field("legs", &self.legs).finish()
    }
}

/// Octets of kernel memory with what waits at the other end of a socket of ours, on this host.
///
/// # Errors
///
/// What the kernel says, for example that there is no such socket any more.
pub fn waiting_beyond(local: SocketAddr, remote: SocketAddr) -> io::Result<u32> {
    waiting(remote, local)
}
