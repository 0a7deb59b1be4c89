//! When requests are sent.

use super::{GRACE, Rate};
use anyhow::{Context, Result};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

/// Hands out the moments at which requests are due.
pub(super) struct Pace {
    rate: Rate,
    left: Cell<u64>,
    over: Cell<bool>,
    due: RefCell<VecDeque<Instant>>,
    more: Notify,
}

impl Pace {
    pub(super) fn new(rate: Rate, most: u64) -> Self {
        Self {
            rate,
            left: Cell::new(most),
            over: Cell::new(false),
            due: RefCell::default(),
            more: Notify::new(),
        }
    }

    /// When the next request is due, if one is due now.
    pub(super) fn try_next(&self) -> Option<Instant> {
        if self.is_over() {
            return None;
        }
        let due = match self.rate {
            Rate::Closed => Some(Instant::now()),
            Rate::Open(_) => self.due.borrow_mut().pop_front(),
        }?;
        self.left.set(self.left.get() - 1);
        Some(due)
    }

    /// When the next request is due, as soon as one is; `None` when there will be none.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it takes nothing away.
    pub(super) async fn next(&self) -> Option<Instant> {
        loop {
            let more = self.more.notified();
            if let Some(due) = self.try_next() {
                return Some(due);
            }
            if self.is_over() {
                return None;
            }
            more.await;
        }
    }

    /// True when no further request is to be sent.
    pub(super) fn is_over(&self) -> bool {
        self.over.get() || self.left.get() == 0
    }

    /// Makes requests due for this long.
    pub(super) async fn drive(&self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        let result = match self.rate {
            Rate::Closed => {
                tokio::time::sleep_until(end.into()).await;
                Ok(())
            }
            Rate::Open(rate) => self.tick(Duration::from_secs_f64(1.0 / rate), end).await,
        };
        // What is due and could not be sent in all that time is not sent any more, nor counted:
        // the rate that was reached tells.
        self.over.set(true);
        self.more.notify_waiters();
        result
    }

    async fn tick(&self, interval: Duration, end: Instant) -> Result<()> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags).context("a timer")?;
        let interval_spec = TimeSpec::from_duration(interval);
        timer.set(
            Expiration::Interval(interval_spec),
            TimerSetTimeFlags::empty(),
        )?;
        // A second descriptor of the same timer: nix's own cannot be registered.
        let second = timer.as_fd().try_clone_to_owned()?;
        // SAFETY: the descriptor is owned by the registration, and stays open as long as it is.
        let ready = unsafe { AsyncFd::register(second) }?;
        let mut due = Instant::now();
        while due < end {
            ready.readable().await?.clear_ready();
            // What the timer says is not counted: a tick that comes late stands for several.
            let _ = timer.wait();
            let now = Instant::now();
            while due + interval <= now {
                due += interval;
                self.due.borrow_mut().push_back(due);
                self.more.notify_one();
            }
        }
        // Only what was due just now may still be waiting if the proxy keeps up.
        let deadline = Instant::now() + GRACE;
        while !self.due.borrow().is_empty() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }
}
