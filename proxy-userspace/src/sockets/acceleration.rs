//! Same-host acceleration in force: octets between the daemon and what is on the same host go from
//! socket to socket, past TCP and IP.
//!
//! Other projects have had and dropped this, for lost wake-ups, stalls and octets left behind. So it
//! must show on the running kernel that it works ([`super::trial`]) before any connection gets it,
//! and connections that make no progress turn it off again.

use super::object::{Attached, Programs, SocketError};
use super::trial::{self, TrialError};
use proxy_common::sock::{COUNTS, LEAST_BUFFER, SOCKETS};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How many connections may make no progress before the feature turns itself off.
const STALLS: u32 = 8;

/// Sockets of this process may be accelerated. Never false again: connections keep what they have.
static IN_USE: AtomicBool = AtomicBool::new(false);
/// Connections that made no progress.
static STALLED: AtomicU32 = AtomicU32::new(0);

/// True if octets of connections within this host may go past TCP, by these programs or by those of
/// a process whose listeners this one has.
pub fn are_in_use() -> bool {
    IN_USE.load(Ordering::Relaxed)
}

/// Says that listeners come from a process that may have accelerated what they accept.
pub fn expect_use() {
    IN_USE.store(true, Ordering::Relaxed);
}

/// Counts a connection whose other end has long taken nothing of what waits there.
pub fn note_stall() {
    STALLED.fetch_add(1, Ordering::Relaxed);
}

/// Gives a socket of the daemon the receive buffer that the kernel side asks for
/// ([`proxy_common::sock::LEAST_BUFFER`]). It fills only while it is not read from. Where this is not
/// allowed, what others write goes by TCP.
pub fn make_room(socket: BorrowedFd<'_>) {
    // The kernel doubles it.
    static ROOM: libc::c_int = (LEAST_BUFFER / 2) as libc::c_int;
    // SAFETY: the value is an integer that lives for ever.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const ROOM).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
    }
}

/// Acceleration cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum AccelerationError {
    /// The programs cannot be used.
    #[error(transparent)]
    Programs(#[from] SocketError),
    /// It does not work on this kernel as it must.
    #[error("the self-test failed: {0}")]
    Trial(#[from] TrialError),
}

/// Same-host acceleration; open connections keep what they have when this is dropped.
pub struct Acceleration {
    programs: Programs,
    _attached: Attached,
    /// How long the self-test took.
    took: Duration,
    has_given_up: AtomicBool,
}

impl std::fmt::Debug for Acceleration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceleration").finish_non_exhaustive()
    }
}

impl Acceleration {
    /// Loads the programs and has them show that they work. Takes about a second; no connection but
    /// the self-test's own is accelerated before listeners and sockets are marked.
    ///
    /// # Errors
    ///
    /// [`AccelerationError`]; then nothing is left in the kernel.
    pub fn start() -> Result<Self, AccelerationError> {
        let mut programs = Programs::load(SOCKETS)?;
        let attached = programs.attach()?;
        let began = Instant::now();
        trial::run(&programs)?;
        expect_use();
        Ok(Self {
            programs,
            _attached: attached,
            took: began.elapsed(),
            has_given_up: AtomicBool::new(false),
        })
    }

    /// Marks a socket that is going to be connected. Where the kernel refuses, it stays plain.
    pub fn mark(&self, socket: &impl AsFd) {
        if let Err(error) = self.programs.mark(socket.as_fd()) {
            tracing::debug!(%error, "a connection is not accelerated");
        }
    }

    /// Accelerates what a listening socket accepts, or no longer.
    pub fn listen(&self, socket: &impl AsFd, address: SocketAddr, is_wanted: bool) {
        let (socket, programs) = (socket.as_fd(), &self.programs);
        let done = match is_wanted {
            true => programs.listen(socket, address),
            false => programs.forget(socket, address),
        };
        if let Err(error) = done {
            tracing::warn!(%address, %error, "a listener's connections are not accelerated");
        }
    }

    /// Has no more connections accelerated, for good.
    pub fn give_up(&self) {
        if !self.has_given_up.swap(true, Ordering::Relaxed)
            && let Err(error) = self.programs.switch(false)
        {
            tracing::error!(%error, "same-host acceleration cannot be turned off");
        }
    }

    /// Turns it off if too many connections have made no progress. To be called now and then.
    pub fn watch(&self) {
        let stalled = STALLED.load(Ordering::Relaxed);
        if stalled >= STALLS && !self.has_given_up.load(Ordering::Relaxed) {
            self.give_up();
            tracing::error!(
                stalled,
                "same-host acceleration is off for new connections: others made no progress"
            );
        }
    }

    /// What it is doing.
    pub fn view(&self) -> View {
        let has_given_up = self.has_given_up.load(Ordering::Relaxed);
        View {
            is_on: !has_given_up,
            took: self.took,
            stalled: STALLED.load(Ordering::Relaxed),
            sockets: self.programs.sockets().unwrap_or(0),
            counts: self.programs.counts().unwrap_or_default(),
        }
    }
}

/// See [`Acceleration::view`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// New connections are accelerated.
    pub is_on: bool,
    /// How long the self-test took.
    pub took: Duration,
    /// Connections that made no progress.
    pub stalled: u32,
    /// Sockets that are accelerated now, two for each connection.
    pub sockets: usize,
    /// By [`proxy_common::sock::Count`], since the start.
    pub counts: [u64; COUNTS as usize],
}
