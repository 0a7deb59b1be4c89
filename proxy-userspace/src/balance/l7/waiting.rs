//! A request that waits for a backend.

use super::Nanos;
use super::pick::{Ask, Tried, Unavailable};
use super::queue::{Polled, Ticket};
use super::service::{Lease, ServiceState};
use std::sync::Arc;
use std::task::{Context, Poll};

/// A place in a service's queue. Dropping it gives the place up; if a backend was given to it in
/// the same moment, the next in line gets that.
#[derive(Debug)]
pub struct Waiting {
    service: Arc<ServiceState>,
    /// `None` once the place is given up.
    ticket: Option<Ticket>,
    key: Option<u64>,
    sticky: Option<u64>,
    random: u64,
    tried: Tried,
    ahead: (u32, u32),
    deadline: Nanos,
}

/// A wait that came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WaitError {
    /// It was too long.
    #[error("no backend had room in time")]
    Timeout,
    /// There is nobody left to wait for.
    #[error(transparent)]
    Unavailable(Unavailable),
}

impl Waiting {
    pub(super) fn new(
        service: Arc<ServiceState>,
        ticket: Ticket,
        ahead: (u32, u32),
        ask: &Ask<'_>,
        deadline: Nanos,
    ) -> Self {
        Self {
            service,
            ticket: Some(ticket),
            key: ask.key,
            sticky: ask.sticky,
            random: ask.random,
            tried: *ask.tried,
            ahead,
            deadline,
        }
    }

    /// How many waited already when this wait began: for whatever backend of the service, or, of a
    /// request that must have one backend, before that.
    pub fn ahead(&self) -> (u32, u32) {
        self.ahead
    }

    /// When the wait is too long. Nothing wakes the task then: the caller's own timer must, and
    /// poll once more.
    pub fn deadline(&self) -> Nanos {
        self.deadline
    }

    /// Waits for a backend. The first poll does not only register the waker but also looks for
    /// room, so it must follow at once.
    ///
    /// # Errors
    ///
    /// [`WaitError`] if there will be none.
    pub fn poll(&mut self, cx: &mut Context<'_>, now: Nanos) -> Poll<Result<Lease, WaitError>> {
        let Some(ticket) = self.ticket else {
            return Poll::Ready(Err(WaitError::Timeout));
        };
        let result = match self.service.queue().poll(ticket, cx.waker()) {
            Polled::Granted(backend) => {
                self.ticket = None;
                return Poll::Ready(Ok(Lease::new(Arc::clone(&self.service), backend)));
            }
            Polled::Retry => self.pick(ticket, now),
            Polled::Waiting => None,
        };
        let result = result.or((now >= self.deadline).then_some(Err(WaitError::Timeout)));
        let Some(result) = result else {
            return Poll::Pending;
        };
        self.leave();
        Poll::Ready(result)
    }

    /// Tries once more; `None` if all are busy still.
    fn pick(&self, ticket: Ticket, now: Nanos) -> Option<Result<Lease, WaitError>> {
        let ask = Ask {
            key: self.key,
            sticky: self.sticky,
            random: self.random,
            now,
            tried: &self.tried,
        };
        // First what may be handed over, then the look: in between, room is handed over already.
        self.service.queue().set(ticket, self.service.entry(&ask));
        match self.service.lease(&ask) {
            Err(Unavailable::Busy) => None,
            result => Some(result.map_err(WaitError::Unavailable)),
        }
    }

    fn leave(&mut self) {
        let granted = self
            .ticket
            .take()
            .and_then(|t| self.service.queue().leave(t));
        if let Some(backend) = granted {
            self.service.release(&backend);
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.leave();
    }
}
