//! Distributed tracing: which trace a request belongs to, and spans of our own.
//!
//! A request's context is read from `traceparent` (W3C Trace Context), `b3`, or `X-B3-*`, in this
//! order. Whether it is sampled is the client's decision if it made one, else a draw. What a backend
//! is told is in the form in which the client told us, and in `traceparent` in any case. Where no
//! spans are exported, nobody may call [`Span::begin`]: a parent that no collector ever sees breaks
//! the trace, so the fields then pass as they came.
//!
//! Reading and deciding is pure; random numbers are arguments. Spans that are sampled are handed to
//! [`SpanQueue`], which never waits.

mod context;
mod span;
#[cfg(test)]
mod tests;

pub use context::{Form, Incoming, Span};
pub use span::{SpanCounters, SpanQueue, SpanReceiver, SpanRecord};
