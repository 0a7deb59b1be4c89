//! Frames (RFC 9113 section 4 and 6).

/// What a client's connection begins with (section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Octets of a frame's header.
pub(super) const HEADER: usize = 9;

/// Types of frames.
pub mod kind {
    #![expect(missing_docs, reason = "named as in RFC 9113, section 6")]
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
    /// The last one that the RFC defines.
    pub const LAST: u8 = CONTINUATION;
    /// One that nobody has defined.
    pub const UNKNOWN: u8 = 0xbb;
}

/// Flags of frames.
pub mod flag {
    #![expect(missing_docs, reason = "named as in RFC 9113, section 6")]
    pub const END_STREAM: u8 = 1;
    pub const ACK: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
    pub const PRIORITY: u8 = 0x20;
}

/// Error codes.
pub mod error {
    #![expect(missing_docs, reason = "named as in RFC 9113, section 7")]
    pub const NO_ERROR: u32 = 0;
    pub const PROTOCOL_ERROR: u32 = 1;
    pub const INTERNAL_ERROR: u32 = 2;
    pub const FLOW_CONTROL_ERROR: u32 = 3;
    pub const SETTINGS_TIMEOUT: u32 = 4;
    pub const STREAM_CLOSED: u32 = 5;
    pub const FRAME_SIZE_ERROR: u32 = 6;
    pub const REFUSED_STREAM: u32 = 7;
    pub const CANCEL: u32 = 8;
    pub const COMPRESSION_ERROR: u32 = 9;
    pub const CONNECT_ERROR: u32 = 10;
    pub const ENHANCE_YOUR_CALM: u32 = 11;
    pub const INADEQUATE_SECURITY: u32 = 12;
    pub const HTTP_1_1_REQUIRED: u32 = 13;

    /// Its name, for messages.
    pub fn name(code: u32) -> String {
        const NAMES: [&str; 14] = [
            "NO_ERROR",
            "PROTOCOL_ERROR",
            "INTERNAL_ERROR",
            "FLOW_CONTROL_ERROR",
            "SETTINGS_TIMEOUT",
            "STREAM_CLOSED",
            "FRAME_SIZE_ERROR",
            "REFUSED_STREAM",
            "CANCEL",
            "COMPRESSION_ERROR",
            "CONNECT_ERROR",
            "ENHANCE_YOUR_CALM",
            "INADEQUATE_SECURITY",
            "HTTP_1_1_REQUIRED",
        ];
        let name = NAMES.get(code as usize).copied();
        name.map_or_else(|| format!("{code:#x}"), str::to_owned)
    }
}

/// Settings.
pub mod setting {
    #![expect(missing_docs, reason = "named as in RFC 9113, 6.5.2, and RFC 8441, 3")]
    pub const HEADER_TABLE_SIZE: u16 = 1;
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
    pub const ENABLE_CONNECT_PROTOCOL: u16 = 8;
}

/// A frame, lawful or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its type, one of [`kind`] or not.
    pub kind: u8,
    /// Of [`flag`].
    pub flags: u8,
    /// The stream's identifier; the highest bit is reserved.
    pub stream: u32,
    /// All behind the header.
    pub payload: Vec<u8>,
}

impl Frame {
    /// Any frame.
    pub fn new(kind: u8, flags: u8, stream: u32, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            kind,
            flags,
            stream,
            payload: payload.into(),
        }
    }

    /// DATA that does not end its stream.
    pub fn data(stream: u32, octets: impl Into<Vec<u8>>) -> Self {
        Self::new(kind::DATA, 0, stream, octets)
    }

    /// HEADERS with a whole field block, which do not end their stream.
    pub fn headers(stream: u32, block: impl Into<Vec<u8>>) -> Self {
        Self::new(kind::HEADERS, flag::END_HEADERS, stream, block)
    }

    /// CONTINUATION with the end of a field block.
    pub fn continuation(stream: u32, block: impl Into<Vec<u8>>) -> Self {
        Self::new(kind::CONTINUATION, flag::END_HEADERS, stream, block)
    }

    /// PRIORITY; the weight is one more than `weight`.
    pub fn priority(stream: u32, depends_on: u32, weight: u8) -> Self {
        let mut payload = depends_on.to_be_bytes().to_vec();
        payload.push(weight);
        Self::new(kind::PRIORITY, 0, stream, payload)
    }

    /// RST_STREAM.
    pub fn reset(stream: u32, error: u32) -> Self {
        Self::new(kind::RST_STREAM, 0, stream, error.to_be_bytes())
    }

    /// SETTINGS.
    pub fn settings(settings: &[(u16, u32)]) -> Self {
        let mut payload = Vec::new();
        for (id, value) in settings {
            payload.extend(id.to_be_bytes());
            payload.extend(value.to_be_bytes());
        }
        Self::new(kind::SETTINGS, 0, 0, payload)
    }

    /// The acknowledgement of SETTINGS.
    pub fn settings_ack() -> Self {
        Self::new(kind::SETTINGS, flag::ACK, 0, [])
    }

    /// PUSH_PROMISE with a whole field block.
    pub fn push_promise(stream: u32, promised: u32, block: impl Into<Vec<u8>>) -> Self {
        let mut payload = promised.to_be_bytes().to_vec();
        payload.extend(block.into());
        Self::new(kind::PUSH_PROMISE, flag::END_HEADERS, stream, payload)
    }

    /// PING.
    pub fn ping(octets: [u8; 8]) -> Self {
        Self::new(kind::PING, 0, 0, octets)
    }

    /// GOAWAY.
    pub fn go_away(last: u32, error: u32) -> Self {
        let payload = [last.to_be_bytes(), error.to_be_bytes()].concat();
        Self::new(kind::GOAWAY, 0, 0, payload)
    }

    /// WINDOW_UPDATE.
    pub fn window_update(stream: u32, increment: u32) -> Self {
        Self::new(kind::WINDOW_UPDATE, 0, stream, increment.to_be_bytes())
    }

    /// One of a type that nobody knows.
    pub fn unknown(stream: u32) -> Self {
        Self::new(kind::UNKNOWN, 0xff, stream, *b"whatever")
    }

    /// With more flags.
    #[must_use]
    pub fn with(mut self, flags: u8) -> Self {
        self.flags |= flags;
        self
    }

    /// It ends its stream.
    #[must_use]
    pub fn ending(self) -> Self {
        self.with(flag::END_STREAM)
    }

    /// More of the field block follows.
    #[must_use]
    pub fn unfinished(mut self) -> Self {
        self.flags &= !flag::END_HEADERS;
        self
    }

    /// With so many octets of padding, and the one that says so.
    #[must_use]
    pub fn padded(mut self, octets: u8) -> Self {
        self.payload.insert(0, octets);
        let length = self.payload.len() + usize::from(octets);
        self.payload.resize(length, 0);
        self.with(flag::PADDED)
    }

    /// With a priority; for HEADERS, before [`Self::padded`].
    #[must_use]
    pub fn depending(mut self, on: u32, weight: u8) -> Self {
        let mut payload = on.to_be_bytes().to_vec();
        payload.push(weight);
        payload.append(&mut self.payload);
        self.payload = payload;
        self.with(flag::PRIORITY)
    }

    /// As it is on the wire.
    ///
    /// # Panics
    ///
    /// It is longer than its header can say.
    pub fn encode(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).expect("fits");
        assert!(length < 1 << 24, "a frame of {length} octets");
        let mut octets = length.to_be_bytes()[1..].to_vec();
        octets.extend([self.kind, self.flags]);
        octets.extend(self.stream.to_be_bytes());
        octets.extend(&self.payload);
        octets
    }

    /// Takes a frame off the front; `None` while it is not whole.
    pub fn take(buffer: &mut Vec<u8>) -> Option<Self> {
        let header: [u8; HEADER] = buffer.get(..HEADER)?.try_into().ok()?;
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = header;
        let end = HEADER + u32::from_be_bytes([0, l0, l1, l2]) as usize;
        let payload = buffer.get(HEADER..end)?.to_vec();
        buffer.drain(..end);
        Some(Self {
            kind,
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]),
            payload,
        })
    }

    /// True if it has this flag.
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// True if it ends its stream.
    pub fn ends_stream(&self) -> bool {
        matches!(self.kind, kind::DATA | kind::HEADERS) && self.has(flag::END_STREAM)
    }

    /// A word of the payload; 0 where there is none.
    pub(super) fn word(&self, at: usize) -> u32 {
        let octets = self.payload.get(at..at + 4);
        octets.map_or(0, |word| {
            u32::from_be_bytes([word[0], word[1], word[2], word[3]])
        })
    }

    /// The error of a RST_STREAM or GOAWAY.
    pub fn error(&self) -> Option<u32> {
        match self.kind {
            kind::RST_STREAM => Some(self.word(0)),
            kind::GOAWAY => Some(self.word(4)),
            _ => None,
        }
    }

    /// The settings of SETTINGS.
    pub fn settings_in(&self) -> Vec<(u16, u32)> {
        let entries = self.payload.chunks_exact(6);
        let entry = |e: &[u8]| {
            let id = u16::from_be_bytes([e[0], e[1]]);
            (id, u32::from_be_bytes([e[2], e[3], e[4], e[5]]))
        };
        entries.map(entry).collect()
    }

    /// The payload without padding and priority; `None` if these do not fit.
    pub fn content(&self) -> Option<&[u8]> {
        let mut octets = &self.payload[..];
        if self.has(flag::PADDED) && matches!(self.kind, kind::DATA | kind::HEADERS) {
            let (padding, rest) = octets.split_first()?;
            octets = rest.get(..rest.len().checked_sub(usize::from(*padding))?)?;
        }
        if self.has(flag::PRIORITY) && self.kind == kind::HEADERS {
            octets = octets.get(5..)?;
        }
        Some(octets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_can_be_taken() {
        let frame = Frame::headers(5, *b"block").ending().depending(3, 9);
        let frame = frame.padded(7);
        let mut octets = frame.encode();
        assert_eq!(octets.len(), HEADER + 1 + 5 + 5 + 7);
        let mut early = octets[..octets.len() - 1].to_vec();
        assert_eq!(Frame::take(&mut early), None);
        let taken = Frame::take(&mut octets).expect("whole");
        assert_eq!(taken, frame);
        assert_eq!(taken.content(), Some(&b"block"[..]));
        assert!(octets.is_empty());
    }

    #[test]
    fn padding_that_does_not_fit_is_noticed() {
        let frame = Frame::new(kind::DATA, flag::PADDED, 1, [3, 1, 2]);
        assert_eq!(frame.content(), None);
    }
}
