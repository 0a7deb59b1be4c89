//! Deadlines of connections and streams.
//!
//! A request sets several deadlines (head, response, idle) and hardly ever reaches one. A timer
//! wheel pays for each of them: insertion, move, removal. Here a deadline is a number in a table
//! of the worker; setting it is one store. A task of the worker looks through the table when the
//! earliest deadline that it knows of has come, wakes whose time is over, and notes the earliest
//! of the rest. Under load that is a scan of some microseconds every few seconds; without
//! connections it sleeps.
//!
//! Deadlines are met late by up to one [`TICK`], never early.

use super::clock::{Clock, Nanos, instant};
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;
use tokio::sync::Notify;

/// Shortest time between two looks at the table.
pub const TICK: Duration = Duration::from_millis(20);

/// No deadline.
const NEVER: Nanos = Nanos::MAX;

/// The deadlines of a worker.
#[derive(Clone, Debug)]
pub struct Timers(Rc<Table>);

#[derive(Debug)]
struct Table {
    clock: Rc<Clock>,
    slots: RefCell<Slab<Slot>>,
    /// When the table is looked at next.
    next: Cell<Nanos>,
    /// A deadline was set that comes before `next`.
    sooner: Notify,
}

#[derive(Debug)]
struct Slot {
    deadline: Nanos,
    waker: Option<Waker>,
}

/// One deadline, of one task at a time.
#[derive(Debug)]
pub struct Timer {
    table: Rc<Table>,
    key: usize,
}

impl Timers {
    /// No deadlines.
    pub fn new(clock: Rc<Clock>) -> Self {
        Self(Rc::new(Table {
            clock,
            slots: RefCell::default(),
            next: Cell::new(NEVER),
            sooner: Notify::new(),
        }))
    }

    /// A new deadline, not set.
    pub fn timer(&self) -> Timer {
        let key = self.0.slots.borrow_mut().insert(Slot {
            deadline: NEVER,
            waker: None,
        });
        Timer {
            table: Rc::clone(&self.0),
            key,
        }
    }

    /// Wakes everybody who waits for a deadline, so that they look around.
    pub fn wake_all(&self) {
        for (_, slot) in self.0.slots.borrow_mut().iter_mut() {
            if let Some(waker) = slot.waker.take() {
                waker.wake();
            }
        }
    }

    /// Wakes those whose time is over, for ever.
    pub async fn run(self) {
        let table = &*self.0;
        loop {
            let next = table.next.get();
            let sooner = table.sooner.notified();
            if next == NEVER {
                sooner.await;
            } else {
                tokio::select! {
                    () = tokio::time::sleep_until(instant(next).into()) => {}
                    () = sooner => {}
                }
            }
            let now = table.clock.read();
            if now < table.next.get() {
                continue;
            }
            let earliest = table.expire(now);
            table.next.set(earliest.max(now + TICK.as_nanos() as Nanos));
        }
    }
}

impl Table {
    /// Wakes whose time is over; returns the earliest deadline of the others.
    fn expire(&self, now: Nanos) -> Nanos {
        let mut earliest = NEVER;
        for (_, slot) in self.slots.borrow_mut().iter_mut() {
            if slot.deadline <= now {
                if let Some(waker) = slot.waker.take() {
                    waker.wake();
                }
            } else {
                earliest = earliest.min(slot.deadline);
            }
        }
        earliest
    }
}

impl Timer {
    /// Sets the deadline, in place of the one before.
    #[inline]
    pub fn set(&self, at: Nanos) {
        let mut slots = self.table.slots.borrow_mut();
        slots[self.key].deadline = at;
        if at < self.table.next.get() {
            self.table.next.set(at);
            self.table.sooner.notify_one();
        }
    }

    /// Sets the deadline this long after the last reading of the clock.
    #[inline]
    pub fn set_after(&self, span: Nanos) {
        self.set(self.after(span));
    }

    /// The moment this long after the last reading of the clock.
    #[inline]
    pub fn after(&self, span: Nanos) -> Nanos {
        self.now().saturating_add(span)
    }

    /// The last reading of the clock.
    #[inline]
    pub fn now(&self) -> Nanos {
        self.table.clock.last()
    }

    /// Reads the clock.
    pub fn read(&self) -> Nanos {
        self.table.clock.read()
    }

    /// How long it still is to the deadline, as of the last reading of the clock; 0 if that is over,
    /// `None` if there is none.
    pub fn left(&self) -> Option<Nanos> {
        let deadline = self.table.slots.borrow()[self.key].deadline;
        (deadline != NEVER).then(|| deadline.saturating_sub(self.now()))
    }

    /// Takes the deadline away.
    pub fn clear(&self) {
        self.table.slots.borrow_mut()[self.key].deadline = NEVER;
    }

    /// True if the deadline is over; else the task is woken when it is.
    #[inline]
    pub fn poll_expired(&self, cx: &Context<'_>) -> bool {
        let mut slots = self.table.slots.borrow_mut();
        let slot = &mut slots[self.key];
        if slot.deadline <= self.table.clock.last() {
            return true;
        }
        match &slot.waker {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            _ => slot.waker = Some(cx.waker().clone()),
        }
        false
    }

    /// Waits until the deadline is over.
    pub async fn expired(&self) {
        std::future::poll_fn(|cx| {
            if self.poll_expired(cx) {
                std::task::Poll::Ready(())
            } else {
                std::task::Poll::Pending
            }
        })
        .await;
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.table.slots.borrow_mut().remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future as _;
    use std::pin::pin;
    use std::task::Poll;

    fn timers() -> Timers {
        Timers::new(Rc::new(Clock::new()))
    }

    #[test]
    fn setting_a_later_deadline_does_not_wake_the_scan() {
        let timers = timers();
        let timer = timers.timer();
        timer.set(5_000);
        assert_eq!(timers.0.next.get(), 5_000);
        timer.set(9_000);
        assert_eq!(timers.0.next.get(), 5_000, "found out at the next scan");
        assert_eq!(timers.0.expire(8_999), 9_000);
        assert_eq!(timers.0.expire(9_000), NEVER);
    }

    #[test]
    fn who_is_woken_finds_the_deadline_over() {
        let timers = timers();
        let timer = timers.timer();
        let mut cx = Context::from_waker(Waker::noop());
        timer.set(timers.0.clock.read() + 1);
        let mut expired = pin!(timer.expired());
        // The clock has moved on only when it is read again.
        assert_eq!(expired.as_mut().poll(&mut cx), Poll::Pending);
        while timers.0.clock.read() <= timers.0.next.get() {}
        assert_eq!(expired.as_mut().poll(&mut cx), Poll::Ready(()));
    }

    #[test]
    fn a_timer_that_is_gone_leaves_no_entry() {
        let timers = timers();
        drop(timers.timer());
        assert!(timers.0.slots.borrow().is_empty());
    }

    #[tokio::test]
    async fn the_task_wakes_deadlines_in_order_and_after_a_sooner_one_was_set() {
        let timers = timers();
        let run = timers.clone().run();
        let (first, second) = (timers.timer(), timers.timer());
        let test = async {
            second.set_after(60_000_000_000);
            tokio::task::yield_now().await;
            first.set_after(30_000_000);
            first.expired().await;
        };
        tokio::select! {
            () = run => {}
            () = test => {}
        }
        assert!(!second.poll_expired(&Context::from_waker(Waker::noop())));
    }
}
