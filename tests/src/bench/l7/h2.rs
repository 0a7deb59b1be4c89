//! As much HTTP/2 (RFC 9113) as a load generator and an origin need: frames, and heads made of
//! the static table and literals. Nothing is decoded but what is asked of it.

/// What a client sends first (RFC 9113, 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Length of a frame's head.
pub const HEAD: usize = 9;
/// Flow-control window of a new stream or connection: the protocol's default.
pub const DEFAULT_WINDOW: i64 = 65_535;
/// The largest window there is.
const MAX_WINDOW: u32 = (1 << 31) - 1;
/// Window that we grant on each stream.
pub const OUR_WINDOW: u32 = 1 << 24;

/// Frame types (RFC 9113, 6).
pub mod kind {
    #![expect(missing_docs, reason = "named as in the RFC")]
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
}

/// Frame flags.
pub mod flag {
    #![expect(missing_docs, reason = "named as in the RFC")]
    pub const ACK: u8 = 1;
    pub const END_STREAM: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
    pub const PRIORITY: u8 = 0x20;
}

/// A frame in a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// One of [`kind`].
    pub kind: u8,
    /// Of [`flag`].
    pub flags: u8,
    /// Stream, 0 for the connection.
    pub stream: u32,
    /// What it carries.
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The frame at the front of `buffer`; `None` while it is incomplete.
    pub fn first(buffer: &'a [u8]) -> Option<Self> {
        let head = buffer.get(..HEAD)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let payload = buffer.get(HEAD..HEAD + length)?;
        Some(Self {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]),
            payload,
        })
    }

    /// Octets that it takes in the buffer.
    pub fn len(&self) -> usize {
        HEAD + self.payload.len()
    }

    /// True if it carries nothing.
    pub fn is_empty(&self) -> bool {
        self.payload.is_empty()
    }

    /// True if a flag is set.
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The block of a HEADERS frame, without padding and priority.
    pub fn block(&self) -> &'a [u8] {
        let mut block = self.payload;
        if self.has(flag::PADDED) {
            let (padding, rest) = block.split_first().unwrap_or((&0, &[]));
            block = &rest[..rest.len().saturating_sub(usize::from(*padding))];
        }
        if self.has(flag::PRIORITY) {
            block = block.get(5..).unwrap_or_default();
        }
        block
    }

    /// The increment of a WINDOW_UPDATE frame.
    pub fn increment(&self) -> i64 {
        self.payload.first_chunk().map_or(0, |octets| {
            i64::from(u32::from_be_bytes(*octets) & MAX_WINDOW)
        })
    }
}

/// SETTINGS_INITIAL_WINDOW_SIZE.
const INITIAL_WINDOW_SIZE: u16 = 4;

/// Appends a frame.
pub fn push(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = (payload.len() as u32).to_be_bytes();
    out.extend_from_slice(&[length[1], length[2], length[3], kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Appends our settings, and as much window for the connection as there is.
pub fn push_settings(out: &mut Vec<u8>) {
    let mut settings = INITIAL_WINDOW_SIZE.to_be_bytes().to_vec();
    settings.extend_from_slice(&OUR_WINDOW.to_be_bytes());
    push(out, kind::SETTINGS, 0, 0, &settings);
    push_window(out, 0, MAX_WINDOW - DEFAULT_WINDOW as u32);
}

/// Appends a WINDOW_UPDATE.
pub fn push_window(out: &mut Vec<u8>, stream: u32, increment: u32) {
    push(
        out,
        kind::WINDOW_UPDATE,
        0,
        stream,
        &increment.to_be_bytes(),
    );
}

/// What a peer has used of the window that we grant on the connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Grant {
    used: u32,
}

impl Grant {
    /// Counts octets of DATA frames, and grants as many anew before the window is used up.
    pub fn received(&mut self, out: &mut Vec<u8>, octets: usize) {
        self.used += octets as u32;
        if self.used > MAX_WINDOW / 2 {
            push_window(out, 0, self.used);
            self.used = 0;
        }
    }
}

/// Appends what SETTINGS and PING ask for; true if the frame was one of them or of no interest.
pub fn answer_control(out: &mut Vec<u8>, frame: &Frame<'_>) -> bool {
    match frame.kind {
        kind::SETTINGS if !frame.has(flag::ACK) => push(out, kind::SETTINGS, flag::ACK, 0, &[]),
        kind::PING if !frame.has(flag::ACK) => push(out, kind::PING, flag::ACK, 0, frame.payload),
        kind::DATA | kind::HEADERS | kind::RST_STREAM | kind::GOAWAY | kind::WINDOW_UPDATE => {
            return false;
        }
        _ => {}
    }
    true
}

/// Indexed fields of the static table (RFC 7541, appendix A).
pub mod indexed {
    #![expect(missing_docs, reason = "named after what they stand for")]
    pub const METHOD_GET: u8 = 0x82;
    pub const METHOD_POST: u8 = 0x83;
    pub const SCHEME_HTTP: u8 = 0x86;
    pub const STATUS_200: u8 = 0x88;
}

/// Names in the static table.
pub mod name {
    #![expect(missing_docs, reason = "named after what they stand for")]
    pub const AUTHORITY: u8 = 1;
    pub const PATH: u8 = 4;
    pub const CONTENT_LENGTH: u8 = 28;
    pub const CONTENT_TYPE: u8 = 31;
}

/// Appends a field with a name of the static table, not to be indexed (RFC 7541, 6.2.2).
pub fn push_named(block: &mut Vec<u8>, name: u8, value: &str) {
    if name < 15 {
        block.push(name);
    } else {
        block.extend_from_slice(&[15, name - 15]);
    }
    push_string(block, value);
}

/// Appends a field with its name.
pub fn push_literal(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0);
    push_string(block, name);
    push_string(block, value);
}

fn push_string(block: &mut Vec<u8>, text: &str) {
    // Of one octet; a longer length would need the prefix coding.
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX).min(126);
    block.push(length);
    block.extend_from_slice(&text.as_bytes()[..usize::from(length)]);
}

/// True if a block of response fields begins with status 200, after updates of the table's size.
pub fn is_ok(block: &[u8]) -> bool {
    let mut rest = block;
    while let [first, tail @ ..] = rest
        && first & 0xe0 == 0x20
    {
        // A number that fills its five bits goes on in octets whose first bit is set, but the last.
        let more = match first & 0x1f {
            0x1f => tail.iter().take_while(|octet| *octet & 0x80 != 0).count() + 1,
            _ => 0,
        };
        rest = tail.get(more..).unwrap_or_default();
    }
    rest.first() == Some(&indexed::STATUS_200)
}

/// True if the block names `X-Forwarded-For`, in clear or in Huffman's code (RFC 7541, appendix
/// B). On a connection's first request the name is there; later ones may refer to it.
pub fn names_forwarded_for(block: &[u8]) -> bool {
    const CLEAR: &[u8] = b"x-forwarded-for";
    const CODED: &[u8] = &[
        0xf2, 0xb4, 0xa7, 0xb3, 0xc0, 0xec, 0x90, 0xb2, 0x2d, 0x29, 0xec,
    ];
    block.windows(CLEAR.len()).any(|octets| octets == CLEAR)
        || block.windows(CODED.len()).any(|octets| octets == CODED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_as_it_was_written() {
        let mut wire = Vec::new();
        push(&mut wire, kind::DATA, flag::END_STREAM, 7, b"abc");
        assert_eq!(Frame::first(&wire[..11]), None);
        let frame = Frame::first(&wire).unwrap();
        assert_eq!(
            (frame.kind, frame.stream, frame.payload),
            (kind::DATA, 7, &b"abc"[..])
        );
        assert!(frame.has(flag::END_STREAM));
        assert_eq!(frame.len(), wire.len());
    }

    #[test]
    fn padding_and_priority_are_no_part_of_the_block() {
        let mut wire = Vec::new();
        let flags = flag::PADDED | flag::PRIORITY | flag::END_HEADERS;
        push(
            &mut wire,
            kind::HEADERS,
            flags,
            1,
            &[2, 0, 0, 0, 0, 9, 0x88, 1, 0, 0],
        );
        assert_eq!(Frame::first(&wire).unwrap().block(), [0x88, 1]);
    }

    #[test]
    fn settings_announce_our_window() {
        let mut wire = Vec::new();
        push_settings(&mut wire);
        let settings = Frame::first(&wire).unwrap();
        assert_eq!(settings.payload, [0, 4, 1, 0, 0, 0]);
        let window = Frame::first(&wire[settings.len()..]).unwrap();
        assert_eq!(window.increment() + DEFAULT_WINDOW, i64::from(MAX_WINDOW));
        let mut answer = Vec::new();
        assert!(answer_control(&mut answer, &settings) && !answer.is_empty());
        assert!(!answer_control(&mut answer, &window));
    }

    #[test]
    fn the_forwarded_field_is_found_in_clear_and_coded() {
        let mut block = vec![indexed::METHOD_GET];
        push_literal(&mut block, "x-forwarded-for", "127.0.0.1");
        assert!(names_forwarded_for(&block));
        let coded = [
            0x40, 0x8b, 0xf2, 0xb4, 0xa7, 0xb3, 0xc0, 0xec, 0x90, 0xb2, 0x2d, 0x29, 0xec,
        ];
        assert!(names_forwarded_for(&coded));
        assert!(!names_forwarded_for(&[indexed::METHOD_GET]));
    }

    #[test]
    fn success_is_seen_behind_updates_of_the_tables_size() {
        assert!(is_ok(&[0x20, 0x3f, 0xe1, 0x1f, 0x88]));
        assert!(!is_ok(&[0x8d]));
        assert!(!is_ok(&[]));
    }
}
