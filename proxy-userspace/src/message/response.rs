//! The head of a response.

use super::{Fields, Length, Version};

/// The head of a response, whatever version it came in.
#[derive(Clone, Debug, Default)]
pub struct ResponseHead {
    /// Status code, 100..=999.
    pub status: u16,
    /// Version in which it came.
    pub version: Version,
    /// Reason phrase of HTTP/1; empty if there was none.
    pub reason: Vec<u8>,
    /// Length of the content; `None` also where the request or the status forbids content.
    pub length: Length,
    /// `Content-Length` of an answer that has no content itself: to HEAD, or 304.
    pub described_length: Option<u64>,
    /// The protocol to which the connection changes (101); empty if none.
    pub protocol: Vec<u8>,
    /// All fields but those of one connection only. `Content-Length` stays away too.
    pub fields: Fields,
}

impl ResponseHead {
    /// Empties the head and keeps its memory.
    pub fn clear(&mut self) {
        self.status = 0;
        self.version = Version::Http11;
        self.reason.clear();
        self.length = Length::None;
        self.described_length = None;
        self.protocol.clear();
        self.fields.clear();
    }

    /// True for 1xx other than 101.
    pub const fn is_informational(&self) -> bool {
        self.status < 200 && self.status != 101
    }
}
