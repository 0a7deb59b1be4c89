//! Progress of long work: which step of how many, and how long each took.

use anyhow::Result;
use std::time::{Duration, Instant};

/// Announces steps.
#[derive(Debug)]
pub(crate) struct Progress {
    total: usize,
    begun: usize,
    start: Instant,
}

impl Progress {
    /// Starts work of `total` steps.
    pub(crate) fn new(total: usize) -> Self {
        Self {
            total,
            begun: 0,
            start: Instant::now(),
        }
    }

    /// Announces and does one step.
    ///
    /// # Errors
    ///
    /// Those of the step.
    pub(crate) fn step<T>(&mut self, title: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.begun += 1;
        eprintln!("[{}/{}] {title}", self.begun, self.total);
        let start = Instant::now();
        let result = work();
        let outcome = if result.is_ok() { "done" } else { "FAILED" };
        eprintln!(
            "      {outcome} in {} ({} in all)",
            human(start.elapsed()),
            human(self.start.elapsed())
        );
        result
    }
}

/// A time as humans read it.
pub(crate) fn human(time: Duration) -> String {
    let tenths = time.as_millis() / 100;
    if tenths < 600 {
        format!("{}.{} s", tenths / 10, tenths % 10)
    } else {
        format!("{} min {} s", tenths / 600, tenths % 600 / 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_readable() {
        assert_eq!(human(Duration::from_millis(1_260)), "1.2 s");
        assert_eq!(human(Duration::from_millis(59_999)), "59.9 s");
        assert_eq!(human(Duration::from_secs(61)), "1 min 1 s");
    }
}
