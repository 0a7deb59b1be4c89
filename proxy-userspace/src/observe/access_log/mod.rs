//! The access log: what each exchange was, a line each.
//!
//! ```text
//! worker: Record ─Logger::log─▶ its buffer ─try_send─▶ Writer's thread ─write─▶ file, stdout
//!                                   ▲                        │
//!                                   └──── empty buffers ─────┘
//! ```
//!
//! A worker formats a line into a buffer of its own and hands the buffer over when it is full or
//! when [`Logger::flush`] is called, which its worker does a few times a second. It never waits:
//! if the writer is so far behind that the channel is full, the buffer's lines are dropped and
//! counted. Formatting appends to the buffer and allocates nothing; buffers come back empty.
//!
//! Formats read one [`Record`], so that what a line means does not depend on its look.

mod end;
mod format;
mod logger;
mod record;
#[cfg(test)]
mod tests;
mod writer;

pub use end::{End, Phase, Side, StickyRequest, StickyResponse};
pub use format::Format;
pub use logger::Logger;
pub use record::{Attempt, Counts, Octets, Preread, Record, Times, TlsRecord, Traffic};
pub use writer::{LogCounters, Sink, Writer};
