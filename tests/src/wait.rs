//! Waiting for what must happen, however slow the machine is.
//!
//! A test that expects something within a second says more about who else used the CPU than about
//! what is tested. So everything that must happen is waited for with the same long patience, which
//! only a fault uses up, and only what must *not* happen is given a short time.

use anyhow::{Result, bail};
use std::io;
use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take that must happen. A machine with ten times more to do than CPUs
/// needs half a minute for the start of a daemon.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Does it again when a signal has interrupted it. Linux does not go on by itself with a socket that
/// has a timeout, not even after a mere stop and go.
///
/// # Errors
///
/// Any other than an interruption.
pub fn uninterrupted<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Looks again and again until it is so.
///
/// # Errors
///
/// It is not within [`PATIENCE`], or it cannot be looked at.
pub fn until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !is_so()? {
        if Instant::now() > deadline {
            bail!("waited {PATIENCE:?} in vain until {what}");
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_interruption_is_tried_again() {
        let mut answers = [
            Err(io::ErrorKind::Interrupted),
            Err(io::ErrorKind::TimedOut),
            Ok(()),
        ]
        .into_iter();
        let outcome = uninterrupted(|| answers.next().expect("more").map_err(io::Error::from));
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(answers.count(), 1);
    }
}
