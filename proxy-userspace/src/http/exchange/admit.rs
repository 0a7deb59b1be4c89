//! Whether a service may have one more request.

use super::failure::Failure;
use super::run::Around;
use super::scratch::Scratch;
use crate::http::snapshot::ServicePlan;
use crate::net::Nanos;
use crate::net::clock::nanos;
use crate::observe::access_log::{End, Phase};
use crate::resilience::{Limiter, Period, Protection, Verdict};
use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

/// A request that its service counts until this is dropped.
#[derive(Debug)]
pub(super) struct Pass(Arc<Protection>);

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some(limiter) = &self.0.limiter {
            limiter.end();
        }
        self.0.end();
    }
}

/// Asks for a place among the requests of a service; waits for one if that is allowed, until
/// `whole` at most.
pub(super) async fn enter(
    around: &Around<'_>,
    scratch: &mut Scratch,
    service: &ServicePlan,
    whole: Nanos,
) -> Result<Pass, Failure> {
    let protection = &service.protection;
    if !protection.try_begin() {
        return Err(Failure::new(End::CircuitOpen, Phase::Queue));
    }
    let counted = Counted(protection);
    if let Some(limiter) = &protection.limiter
        && !limiter.try_begin()
    {
        wait(around, scratch, service, limiter, whole).await?;
    }
    std::mem::forget(counted);
    Ok(Pass(Arc::clone(protection)))
}

/// A request that is counted, and may still be refused.
struct Counted<'p>(&'p Protection);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Waits until there is room.
async fn wait(
    around: &Around<'_>,
    scratch: &mut Scratch,
    service: &ServicePlan,
    limiter: &Limiter,
    whole: Nanos,
) -> Result<(), Failure> {
    let full = Failure::new(End::ConcurrencyLimit, Phase::Queue);
    let place = limiter.queue().ok_or(full)?;
    let (worker, timer) = (around.worker, around.timer);
    let began = worker.clock.read();
    let by = began.saturating_add(nanos(limiter.settings().queue_timeout));
    timer.set(by.min(whole));
    let is_begun = loop {
        let mut room = pin!(limiter.room().notified());
        // From here on it is told, so nothing is missed between the look and the wait.
        room.as_mut().enable();
        if limiter.try_begin_waiter() {
            break true;
        }
        let told = poll_fn(|cx| match room.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(true),
            Poll::Pending if timer.poll_expired(cx) => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        });
        if !told.await {
            break false;
        }
    };
    drop(place);
    let took = worker.clock.read() - began;
    scratch.facts.queued = Some(took);
    let cells = service.cells.at(worker.index);
    cells
        .queue_waits
        .observe(std::time::Duration::from_nanos(took));
    if is_begun {
        return Ok(());
    }
    Err(if whole <= worker.clock.last() {
        Failure::new(End::RouteTimeout, Phase::Queue)
    } else {
        full
    })
}

/// An attempt that a breaker has let through, and has to be told of.
#[derive(Debug)]
pub struct Trial {
    protection: Arc<Protection>,
    period: Period,
    verdict: Verdict,
    at: Nanos,
}

impl Trial {
    /// Asks the service's breaker, if there is one, whether an attempt may be made now.
    pub(super) fn begin(
        around: &Around<'_>,
        scratch: &mut Scratch,
        service: &ServicePlan,
    ) -> Result<(), Failure> {
        let Some(breaker) = &service.protection.breaker else {
            return Ok(());
        };
        let now = around.worker.clock.last();
        let Some(period) = breaker.admit(now) else {
            let left = breaker.until().unwrap_or(now).saturating_sub(now);
            scratch.facts.retry_after = left.div_ceil(1_000_000_000);
            return Err(Failure::new(End::CircuitOpen, Phase::Queue));
        };
        scratch.facts.trial = Some(Self {
            protection: Arc::clone(&service.protection),
            period,
            verdict: Verdict::None,
            at: now,
        });
        Ok(())
    }

    /// What the attempt has said of the service.
    pub(super) fn end(mut self, verdict: Verdict, now: Nanos) {
        (self.verdict, self.at) = (verdict, now);
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if let Some(breaker) = &self.protection.breaker {
            breaker.report(self.period, self.verdict, self.at);
        }
    }
}
