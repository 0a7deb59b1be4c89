//! What the daemon tells about itself: metrics, logs, and the view that every consumer shares.
//!
//! ```text
//! maps, health, reloads ──runtime──▶ View ─┬─▶ metrics.rs   /metrics
//!                                          ├─▶ admin        /api/v1/…
//!                                          └─▶ cli          status, top
//! ```
//!
//! One [`view::View`] is built per question and handed to all of them, so that the numbers of the
//! command line, the metrics and the live display can never disagree about what a word means.

pub mod access_log;
pub mod build;
pub mod calendar;
pub mod certificates;
pub mod clock;
mod condemn;
pub mod counters;
mod families;
pub mod flow;
pub mod http;
pub mod journal;
pub mod log;
pub mod metrics;
pub mod names;
pub mod process;
pub mod readiness;
pub mod trace;
pub mod view;

#[cfg(test)]
mod monitoring;
