//! Asking for news for a while, instead of sleeping until there are some.
//!
//! A CPU without work halts, and is woken by an interrupt: some microseconds on a machine of one's own, tens
//! of them in a virtual machine, where both go through the hypervisor. A request that crosses from client to
//! worker, to the backend and back meets that up to four times. A worker that was just busy and looks a little
//! longer takes two of them away, at the price of the CPU's time.
//!
//! The task that does it only yields: the runtime then asks the kernel for events without waiting, and runs
//! whoever they are for before it.

use crate::net::{Clock, Nanos};
use std::rc::Rc;
use std::time::Duration;
use tokio::task::yield_now;
use tokio::time::sleep;

/// How often is looked whether it is wanted.
const UNWANTED: Duration = Duration::from_secs(1);

/// Keeps this thread awake for as long after its last work as `span` says whenever there was some. For ever.
pub(super) async fn poll(clock: Rc<Clock>, span: impl Fn() -> Nanos) {
    loop {
        let span = span();
        if span == 0 {
            sleep(UNWANTED).await;
            continue;
        }
        // Whoever does something reads the clock.
        clock.was_read().await;
        while clock.peek() < clock.last().saturating_add(span) {
            yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::runtime::{Builder, LocalOptions};
    use tokio::task::spawn_local;

    /// How often the thread slept within this long after it had something to do.
    fn sleeps(span: Nanos, within: Duration) -> usize {
        let slept = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&slept);
        let runtime = Builder::new_current_thread()
            .enable_all()
            .on_thread_park(move || {
                counter.fetch_add(1, Ordering::Relaxed);
            })
            .build_local(LocalOptions::default())
            .expect("a runtime");
        runtime.block_on(async {
            let clock = Rc::new(Clock::new());
            spawn_local(poll(Rc::clone(&clock), move || span));
            yield_now().await;
            clock.read();
            let before = slept.load(Ordering::Relaxed);
            sleep(within).await;
            slept.load(Ordering::Relaxed) - before
        })
    }

    #[test]
    fn a_thread_that_was_busy_does_not_sleep_for_a_while() {
        let long = 3_600_000_000_000;
        assert_eq!(sleeps(long, Duration::from_millis(20)), 0);
    }

    #[test]
    fn a_thread_that_was_not_busy_for_long_enough_sleeps() {
        assert_ne!(sleeps(1_000, Duration::from_millis(20)), 0);
    }

    #[test]
    fn a_thread_that_is_not_told_to_poll_sleeps_at_once() {
        assert_ne!(sleeps(0, Duration::from_millis(20)), 0);
    }
}
