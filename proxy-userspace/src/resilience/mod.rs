//! What is done when a service is slow, fails, or has too much to do. Decisions only: time, random
//! numbers and what was seen are arguments.
//!
//! | policy | asked | answers |
//! |---|---|---|
//! | [`RetryPlan`] | after an attempt | whether another one may help, and after which wait |
//! | [`Retrying`] | before a retry or hedge | whether the budget has room for it |
//! | [`Breaker`] | before and after an attempt | whether the service is asked at all |
//! | [`Limiter`] | before a request | whether there are too many already |
//! | [`Latencies`] | before a hedge | when an answer is late |
//! | [`Shedder`] | by a worker's clock | which requests are refused |
//!
//! **Why a budget and not only a number of attempts?** Three attempts are harmless while one backend
//! of ten is ill, and triple the load when all are slow, which is when they can bear it least. A
//! budget bounds what retries add to the load whatever the number of attempts.
//!
//! **One state per service.** What workers count together is in [`Protection`], of which there is
//! one as long as a service's settings are the same, over reloads. What a service does not ask for
//! is not there and costs one look.

mod breaker;
mod budget;
mod carried;
mod gradient;
mod latencies;
mod limiter;
mod protection;
mod retry;
mod shed;
#[cfg(test)]
mod tests;

pub use breaker::{Breaker, BreakerState, Period, Verdict};
pub use budget::{Retrying, Spent};
pub use carried::{CarriedCircuit, CarriedLimit, CarriedProtection};
pub use gradient::Gradient;
pub use latencies::Latencies;
pub use limiter::{Limiter, Queued};
pub use protection::Protection;
pub use retry::{Event, RetryPlan, RetryReason, retry_after};
pub use shed::Shedder;

/// Time on a monotonic clock whose origin does not matter, in nanoseconds.
pub type Nanos = u64;

fn nanos(span: std::time::Duration) -> Nanos {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
