//! Frames (RFC 9113 §4 and §6): heads read and written, settings, error codes. No I/O.

/// Octets of a frame's head.
pub const HEAD: usize = 9;

/// The least that a peer may set for the octets of a frame, and what it has set until it says
/// otherwise.
pub const FRAME_SIZE: u32 = 16 << 10;

/// The window of a connection, and of streams until SETTINGS say otherwise.
pub const WINDOW: u32 = 65_535;

/// The largest window, and the largest number of a stream.
pub const MOST: u32 = (1 << 31) - 1;

/// What every connection begins with on the client's side (RFC 9113 §3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames.
#[expect(missing_docs, reason = "as RFC 9113 §6 names them")]
pub mod kind {
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
}

/// Flags of frames.
#[expect(missing_docs, reason = "as RFC 9113 §6 names them")]
pub mod flag {
    pub const ACK: u8 = 1;
    pub const END_STREAM: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
    pub const PRIORITY: u8 = 0x20;
}

/// Numbers of settings.
#[expect(missing_docs, reason = "as RFC 9113 §6.5.2 and RFC 8441 §3 name them")]
pub mod setting {
    pub const HEADER_TABLE_SIZE: u16 = 1;
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
    pub const ENABLE_CONNECT_PROTOCOL: u16 = 8;
}

/// An error code (RFC 9113 §7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ErrorCode(pub u32);

#[expect(missing_docs, reason = "as RFC 9113 §7 names them")]
impl ErrorCode {
    pub const NO_ERROR: Self = Self(0);
    pub const PROTOCOL_ERROR: Self = Self(1);
    pub const INTERNAL_ERROR: Self = Self(2);
    pub const FLOW_CONTROL_ERROR: Self = Self(3);
    pub const STREAM_CLOSED: Self = Self(5);
    pub const FRAME_SIZE_ERROR: Self = Self(6);
    pub const REFUSED_STREAM: Self = Self(7);
    pub const CANCEL: Self = Self(8);
    pub const COMPRESSION_ERROR: Self = Self(9);
    pub const ENHANCE_YOUR_CALM: Self = Self(11);
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHead {
    /// Octets of the payload.
    pub length: u32,
    /// Type: see [`kind`].
    pub kind: u8,
    /// Flags: see [`flag`].
    pub flags: u8,
    /// Stream; 0 for the connection.
    pub stream: u32,
}

impl FrameHead {
    /// Reads a head, once all of it is there.
    #[inline]
    pub fn parse(octets: &[u8]) -> Option<Self> {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = *octets.first_chunk::<HEAD>()?;
        Some(Self {
            length: u32::from_be_bytes([0, l0, l1, l2]),
            kind,
            flags,
            // The first bit is reserved and ignored.
            stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]),
        })
    }

    /// As on the wire.
    #[inline]
    pub fn octets(self) -> [u8; HEAD] {
        let [_, l0, l1, l2] = self.length.to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        [l0, l1, l2, self.kind, self.flags, s0, s1, s2, s3]
    }

    /// True if this flag is set.
    #[inline]
    pub const fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Appends a frame.
pub fn write_frame(kind: u8, flags: u8, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
    let head = FrameHead {
        length: payload.len() as u32,
        kind,
        flags,
        stream,
    };
    out.extend_from_slice(&head.octets());
    out.extend_from_slice(payload);
}

/// Appends SETTINGS.
pub fn write_settings(settings: &[(u16, u32)], out: &mut Vec<u8>) {
    let head = FrameHead {
        length: 6 * settings.len() as u32,
        kind: kind::SETTINGS,
        flags: 0,
        stream: 0,
    };
    out.extend_from_slice(&head.octets());
    for (number, value) in settings {
        out.extend_from_slice(&number.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

/// The settings of a payload, whose length is a multiple of six.
pub fn settings(payload: &[u8]) -> impl Iterator<Item = (u16, u32)> {
    let (settings, _) = payload.as_chunks::<6>();
    settings
        .iter()
        .map(|[n0, n1, rest @ ..]| (u16::from_be_bytes([*n0, *n1]), u32::from_be_bytes(*rest)))
}

/// Appends a block of fields as HEADERS and as many CONTINUATION as it takes. `write` appends the
/// block; `most` octets may stand in a frame. Returns where the first head begins.
pub fn write_headers(
    stream: u32,
    is_end: bool,
    most: u32,
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>),
) -> usize {
    let at = out.len();
    out.extend_from_slice(&[0; HEAD]);
    write(out);
    let block = out.len() - at - HEAD;
    let (most, mut flags) = (most as usize, 0);
    if is_end {
        flags |= flag::END_STREAM;
    }
    if block <= most {
        flags |= flag::END_HEADERS;
    }
    let head = FrameHead {
        length: block.min(most) as u32,
        kind: kind::HEADERS,
        flags,
        stream,
    };
    out[at..at + HEAD].copy_from_slice(&head.octets());
    if block > most {
        let rest = out.split_off(at + HEAD + most);
        let mut pieces = rest.chunks(most).peekable();
        while let Some(piece) = pieces.next() {
            let last = match pieces.peek() {
                None => flag::END_HEADERS,
                Some(_) => 0,
            };
            write_frame(kind::CONTINUATION, last, stream, piece, out);
        }
    }
    at
}

/// What stands in a padded payload; `None` if the padding is not shorter than the payload.
pub fn unpadded(head: FrameHead, payload: &[u8]) -> Option<&[u8]> {
    if !head.has(flag::PADDED) {
        return Some(payload);
    }
    let (&padding, rest) = payload.split_first()?;
    rest.get(..rest.len().checked_sub(usize::from(padding))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_as_it_was_written_and_its_reserved_bit_ignored() {
        let head = FrameHead {
            length: 0x01_0203,
            kind: kind::HEADERS,
            flags: flag::END_STREAM | flag::PADDED,
            stream: 0x7f00_0001,
        };
        let mut octets = head.octets();
        assert_eq!(FrameHead::parse(&octets), Some(head));
        octets[5] |= 0x80;
        assert_eq!(FrameHead::parse(&octets), Some(head));
        for end in 0..HEAD {
            assert_eq!(FrameHead::parse(&octets[..end]), None);
        }
        assert!(head.has(flag::PADDED) && !head.has(flag::END_HEADERS));
    }

    #[test]
    fn settings_are_read_as_they_were_written() {
        let mut out = Vec::new();
        let written = [(setting::MAX_FRAME_SIZE, 1 << 20), (0xabcd, u32::MAX)];
        write_settings(&written, &mut out);
        assert_eq!(FrameHead::parse(&out).expect("whole").length, 12);
        assert!(settings(&out[HEAD..]).eq(written));
    }

    #[test]
    fn a_block_that_is_too_long_goes_on_in_further_frames() {
        for length in [0, 1, 9, 10, 11, 20, 21, 35] {
            let block: Vec<u8> = (0..length).collect();
            let mut out = b"before".to_vec();
            let at = write_headers(7, true, 10, &mut out, |out| out.extend_from_slice(&block));
            assert_eq!(at, 6);
            let (mut rest, mut joined, mut frames) = (&out[at..], Vec::new(), Vec::new());
            while let Some(head) = FrameHead::parse(rest) {
                let end = HEAD + head.length as usize;
                joined.extend_from_slice(&rest[HEAD..end]);
                rest = &rest[end..];
                frames.push(head);
            }
            assert_eq!(joined, block);
            let ends: Vec<_> = frames
                .iter()
                .map(|head| head.has(flag::END_HEADERS))
                .collect();
            assert_eq!(ends.iter().filter(|end| **end).count(), 1);
            assert_eq!(ends.last(), Some(&true));
            assert!(frames[0].has(flag::END_STREAM) && frames[0].kind == kind::HEADERS);
            let others = &frames[1..];
            assert!(
                others
                    .iter()
                    .all(|head| head.kind == kind::CONTINUATION && head.stream == 7)
            );
        }
    }

    #[test]
    fn padding_is_taken_away_unless_it_is_too_long() {
        let head = FrameHead {
            length: 0,
            kind: kind::DATA,
            flags: flag::PADDED,
            stream: 1,
        };
        assert_eq!(unpadded(head, &[2, b'a', 0, 0]), Some(&b"a"[..]));
        assert_eq!(unpadded(head, &[0]), Some(&b""[..]));
        assert_eq!(unpadded(head, &[1]), None);
        assert_eq!(unpadded(head, &[]), None);
        assert_eq!(
            unpadded(FrameHead { flags: 0, ..head }, &[1]),
            Some(&[1][..])
        );
    }
}
