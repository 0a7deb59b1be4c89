//! Same-host acceleration in force: octets between the daemon and what is on the same host go from
//! socket to socket, past TCP and IP.
//!
//! Other projects have had and dropped this, for lost wake-ups, stalls and octets left behind. So it
//! must show on the running kernel that it works ([`super::trial`]) before any connection gets it,
//! and connections that make no progress turn it off again.

use super::join::{Joined, NotJoined, Side, Table};
use super::object::{Attached, Programs, SocketError};
use super::trial::{self, TrialError};
use crate::kernel::load::LoadError;
use proxy_common::sock::{COUNTS, LEAST_BUFFER, SOCKETS};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// How many connections may make no progress within [`STALLS_WITHIN`] before the feature turns itself
/// off. A program that pauses looks the same from here; but a fault shows itself again and again, and
/// those who pause are few at a time.
const STALLS: usize = 8;
const STALLS_WITHIN: Duration = Duration::from_secs(3600);

/// Sockets of this process may be accelerated. Never false again: connections keep what they have.
static IN_USE: AtomicBool = AtomicBool::new(false);
/// Some may be by programs whose maps are not at hand: of another process, or of before.
static IS_HEIR: AtomicBool = AtomicBool::new(false);
/// Connections that made no progress.
static STALLED: Mutex<Stalls> = Mutex::new(Stalls::new());

/// What is in force in this process. More than one only in tests; the last is turned off then.
static RUNNING: Mutex<Vec<Weak<Switch>>> = Mutex::new(Vec::new());

/// When connections made no progress.
#[derive(Debug)]
struct Stalls {
    count: u64,
    /// The last ones.
    last: [Option<Instant>; STALLS],
}

impl Stalls {
    const fn new() -> Self {
        Self {
            count: 0,
            last: [None; STALLS],
        }
    }

    fn note(&mut self, now: Instant) {
        self.last[(self.count % STALLS as u64) as usize] = Some(now);
        self.count += 1;
    }

    /// True if they were too many in a short time.
    fn are_many(&self, now: Instant) -> bool {
        let is_recent = |at: &Option<Instant>| {
            at.is_some_and(|at| now.saturating_duration_since(at) < STALLS_WITHIN)
        };
        self.last.iter().all(is_recent)
    }
}

fn stalled() -> MutexGuard<'static, Stalls> {
    STALLED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// True if octets of connections within this host may go past TCP, by these programs or by those of
/// a process whose listeners this one has.
pub fn are_in_use() -> bool {
    IN_USE.load(Ordering::Relaxed)
}

/// Says that listeners come from a process that may have accelerated what they accept.
pub fn expect_use() {
    IS_HEIR.store(true, Ordering::Relaxed);
    IN_USE.store(true, Ordering::Relaxed);
}

/// True if it is certain that everything comes to and goes from this connected socket by TCP: whether it
/// is otherwise is decided when a connection is established, and never after.
pub fn is_plain(socket: BorrowedFd<'_>) -> bool {
    if IS_HEIR.load(Ordering::Relaxed) {
        return false;
    }
    let running = running();
    let mut ends = running.iter().map(|switch| switch.programs.end(socket));
    ends.all(|end| matches!(end, Ok(None)))
}

fn running() -> Vec<Arc<Switch>> {
    let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    running.iter().filter_map(Weak::upgrade).collect()
}

/// Counts a connection whose other end has long taken nothing of what waits there. If there are too
/// many, new connections are plain from now on.
pub fn note_stall() {
    let now = Instant::now();
    let (are_many, count) = {
        let mut stalls = stalled();
        stalls.note(now);
        (stalls.are_many(now), stalls.count)
    };
    let last = running().pop();
    if are_many
        && let Some(switch) = last
        && switch.give_up()
    {
        tracing::error!(
            stalled = count,
            "same-host acceleration is off for new connections: others made no progress"
        );
    }
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

impl AccelerationError {
    /// What is in the way, in a word.
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Trial(_) => "self-test",
            Self::Programs(SocketError::Load(LoadError::NoPrivilege { .. })) => "privileges",
            Self::Programs(_) => "kernel",
        }
    }
}

/// Same-host acceleration; open connections keep what they have when this is dropped.
pub struct Acceleration {
    programs: Arc<Programs>,
    _attached: Attached,
    tunnels: Arc<Table>,
    /// The kernel's counts when it was through.
    before: [u64; COUNTS as usize],
    /// How long the self-test took.
    took: Duration,
    switch: Arc<Switch>,
}

/// Turns it off, for good.
struct Switch {
    programs: Arc<Programs>,
    has_given_up: AtomicBool,
}

impl Switch {
    /// False if it was off.
    fn give_up(&self) -> bool {
        if self.has_given_up.swap(true, Ordering::Relaxed) {
            return false;
        }
        if let Err(error) = self.programs.switch(false) {
            tracing::error!(%error, "same-host acceleration cannot be turned off");
        }
        true
    }
}

impl Drop for Acceleration {
    fn drop(&mut self) {
        // Its connections cannot be told from plain ones any more.
        IS_HEIR.store(true, Ordering::Relaxed);
    }
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
        let programs = Arc::new(programs);
        let tunnels = Table::new(Arc::clone(&programs)).map(Arc::new);
        let tunnels = tunnels.map_err(SocketError::legs)?;
        let began = Instant::now();
        trial::run(&programs, &tunnels)?;
        let took = began.elapsed();
        // What the self-test did is nobody's.
        let before = programs.counts().unwrap_or_default();
        tunnels.forget_count();
        IN_USE.store(true, Ordering::Relaxed);
        let switch = Arc::new(Switch {
            programs: Arc::clone(&programs),
            has_given_up: AtomicBool::new(false),
        });
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        running.push(Arc::downgrade(&switch));
        Ok(Self {
            programs,
            _attached: attached,
            tunnels,
            before,
            took,
            switch,
        })
    }

    /// Marks a socket that is going to be connected. Where the kernel refuses, it stays plain.
    pub fn mark(&self, socket: &impl AsFd) {
        if let Err(error) = self.programs.mark(socket.as_fd()) {
            tracing::debug!(%error, "a connection is not accelerated");
        }
    }

    /// Joins a tunnel's other ends, if both are on this host and accelerated.
    ///
    /// # Errors
    ///
    /// See [`NotJoined`]; then octets go through the daemon as before.
    pub fn join(&self, client: Side<'_>, backend: Side<'_>) -> Result<Joined, NotJoined> {
        if !self.is_on() {
            return Err(NotJoined::Never);
        }
        self.tunnels.join(client, backend)
    }

    /// True while new connections are accelerated.
    pub fn is_on(&self) -> bool {
        !self.switch.has_given_up.load(Ordering::Relaxed)
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
        self.switch.give_up();
    }

    /// What it is doing.
    pub fn view(&self) -> View {
        let mut counts = self.programs.counts().unwrap_or(self.before);
        for (count, before) in counts.iter_mut().zip(self.before) {
            *count = count.saturating_sub(before);
        }
        View {
            is_on: self.is_on(),
            took: self.took,
            stalled: stalled().count,
            tunnels: self.tunnels.count(),
            sockets: self.programs.sockets().unwrap_or(0),
            counts,
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
    pub stalled: u64,
    /// Tunnels that were joined.
    pub tunnels: u64,
    /// Sockets that are accelerated now, two for each connection.
    pub sockets: usize,
    /// By [`proxy_common::sock::Count`], since the start.
    pub counts: [u64; COUNTS as usize],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_stalls_in_a_short_time_are_many_and_old_ones_do_not_count() {
        let (mut stalls, start) = (Stalls::new(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        for second in 0..7 {
            stalls.note(after(second));
        }
        assert!(!stalls.are_many(after(7)));
        stalls.note(after(3601));
        assert!(!stalls.are_many(after(3601)), "the first is too long ago");
        stalls.note(after(3601));
        stalls.note(after(3601));
        assert!(stalls.are_many(after(3601)), "the third is not");
        assert_eq!(stalls.count, 10);
    }
}
