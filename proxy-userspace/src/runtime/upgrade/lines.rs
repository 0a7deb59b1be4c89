//! Lines to processes that would serve again.
//!
//! A process that has handed over takes the service back when nobody is at the other end of its line
//! any more. While the one that it has handed over to hands over itself, the third one holds the
//! line, too: should the second die just then, the first must not serve beside the third.

use super::wire::Line;
use parking_lot::Mutex;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;

/// Lines to processes that would serve again, as long as these live.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<OwnedFd>>>);

impl Lines {
    /// Keeps a line until its other end is gone. Nothing is said on it any more. Must run inside a
    /// tokio runtime.
    ///
    /// # Errors
    ///
    /// There is no descriptor left.
    pub(crate) fn keep(&self, line: OwnedFd) -> io::Result<()> {
        let watched = Line::new(line.try_clone()?)?;
        let number = line.as_raw_fd();
        self.0.lock().push(line);
        let all = self.clone();
        tokio::spawn(async move {
            while let Ok(Some(_)) = watched.receive().await {}
            all.0.lock().retain(|known| known.as_raw_fd() != number);
        });
        Ok(())
    }

    /// A descriptor of each, for a successor.
    ///
    /// # Errors
    ///
    /// There is no descriptor left.
    pub(crate) fn copies(&self) -> io::Result<Vec<OwnedFd>> {
        self.0.lock().iter().map(OwnedFd::try_clone).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire;
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_line_is_kept_as_long_as_its_other_end_is_there() {
        let lines = Lines::default();
        let (ours, theirs) = wire::pair().expect("a line");
        lines.keep(theirs).expect("kept");
        let copies = lines.copies().expect("copied");
        assert_eq!(copies.len(), 1);
        drop(ours);
        while !lines.copies().expect("copied").is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
