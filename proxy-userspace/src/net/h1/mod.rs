//! HTTP/1 content over a socket: what clients and backends have in common.
//!
//! A connection is a [`Reader`] and a [`Writer`] over one [`Stream`](super::Stream). Both know how
//! the message is framed that is under way, and nothing of what it is about.

mod reader;
mod writer;

#[cfg(test)]
mod tests;

pub use reader::Reader;
pub use writer::Writer;

use crate::message::Length;
use crate::message::h1::{Framing, ResponseFraming};

/// How content is delimited on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delimited {
    /// There is none.
    #[default]
    Nothing,
    /// By its length.
    Exact(u64),
    /// By chunks.
    Chunked,
    /// By the connection's end.
    ByClose,
}

impl From<Framing> for Delimited {
    fn from(framing: Framing) -> Self {
        match framing {
            Framing::None | Framing::Exact(0) => Self::Nothing,
            Framing::Exact(length) => Self::Exact(length),
            Framing::Chunked => Self::Chunked,
        }
    }
}

impl From<ResponseFraming> for Delimited {
    fn from(framing: ResponseFraming) -> Self {
        match framing {
            ResponseFraming::None | ResponseFraming::Exact(0) => Self::Nothing,
            ResponseFraming::Exact(length) => Self::Exact(length),
            ResponseFraming::Chunked => Self::Chunked,
            ResponseFraming::UntilClose | ResponseFraming::Tunnel => Self::ByClose,
        }
    }
}

impl Delimited {
    /// How content of this length is sent to somebody who knows chunks.
    pub const fn of(length: Length) -> Self {
        match length {
            Length::None | Length::Exact(0) => Self::Nothing,
            Length::Exact(length) => Self::Exact(length),
            Length::Unknown => Self::Chunked,
        }
    }
}
