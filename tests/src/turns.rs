//! Work that fills a CPU, taken in turns.
//!
//! The verifier keeps a CPU busy for seconds when a daemon starts. More starts at once than CPUs end
//! no sooner, but slow down whatever the other tests of the moment do.

use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;

/// Hands out as many turns at a time as there are CPUs.
#[derive(Debug)]
pub struct Turns {
    taken: Mutex<usize>,
    given_back: Condvar,
}

impl Turns {
    /// No turn is taken.
    pub const fn new() -> Self {
        Self {
            taken: Mutex::new(0),
            given_back: Condvar::new(),
        }
    }

    /// Waits for a turn.
    pub fn take(&self) -> Turn<'_> {
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = self.given_back.wait_while(taken, |taken| *taken >= cpus);
        *wait.unwrap_or_else(PoisonError::into_inner) += 1;
        Turn(self)
    }
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub struct Turn<'a>(&'a Turns);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.taken.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.given_back.notify_one();
    }
}

impl Default for Turns {
    fn default() -> Self {
        Self::new()
    }
}
