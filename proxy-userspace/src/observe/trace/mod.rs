//! Distributed tracing: which trace a request belongs to, and spans of our own.
//!
//! A request's context is read from `traceparent` (W3C Trace Context), `b3`, or `X-B3-*`, in this
//! order. Whether it is sampled is the client's decision if it made one, else a draw. Backends are
//! told in the forms that the configuration names and in those that the client used; each attempt is
//! told as the parent of what the backend does. Where no spans are exported, nobody may call
//! [`Span::begin`]: a parent that no collector ever sees breaks the trace, so the fields then pass as
//! they came.
//!
//! ```text
//! worker: SpanRecord ─SpanQueue::push─▶ bounded queue ─SpanReceiver─▶ otlp::request ─▶ collector
//!                         └ full: counted, dropped
//! ```
//!
//! Reading, deciding and encoding are pure; random numbers are arguments. Spans that are sampled are
//! handed to [`SpanQueue`], which never waits.

mod connection;
mod context;
mod flow;
pub mod otlp;
mod span;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(in crate::observe) use span::testing;

pub use connection::{ConnectionSpan, Fact, SpanKind};
pub use context::{Form, Forms, Incoming, Span};
pub use flow::{ConnectionTrace, Flow, Traced};
pub use span::{AttemptRecord, Exported, SpanCounters, SpanQueue, SpanReceiver, SpanRecord, kept};
