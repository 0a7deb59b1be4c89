//! What the fuzz targets share.
//!
//! A target's input is what a peer would send, and nothing else, so that a seed is a plain message
//! and a find can be replayed with `nc`. What else a target needs is taken from the octets' sum.

use proxy_userspace::message::Fields;
use proxy_userspace::message::h1::{ChunkDecoder, ChunkStep, HeadLimits};
use proxy_userspace::message::{Refusal, RequestHead, ResponseHead};

/// Limits that inputs of a few hundred octets reach.
pub const LIMITS: HeadLimits = HeadLimits {
    fields: 12,
    head_bytes: 512,
    target_bytes: 100,
};

/// Limits that nothing reaches which was read within [`LIMITS`] and written anew.
pub const WIDE: HeadLimits = HeadLimits {
    fields: 64,
    head_bytes: 8192,
    target_bytes: 8192,
};

/// A number that depends on the input alone.
pub fn sum(input: &[u8]) -> usize {
    input.iter().map(|&octet| usize::from(octet)).sum()
}

/// Shows the growing input to a reader, some octets more each time, until it is done.
pub fn by_pieces<T>(
    input: &[u8],
    mut read: impl FnMut(&[u8]) -> Result<Option<T>, Refusal>,
) -> Result<Option<T>, Refusal> {
    let step = 1 + sum(input) % 19;
    let ends = (0..input.len()).step_by(step).chain([input.len()]);
    for end in ends {
        match read(&input[..end]) {
            Ok(None) => {}
            done => return done,
        }
    }
    Ok(None)
}

/// Names as spelled and values.
pub fn pairs(fields: &Fields) -> Vec<(&[u8], &[u8])> {
    fields
        .iter()
        .map(|field| (field.spelled, field.value))
        .collect()
}

/// Panics unless both heads say the same, but for the version.
pub fn assert_same_request(one: &RequestHead, other: &RequestHead) {
    assert_eq!(pairs(&one.fields), pairs(&other.fields));
    assert_eq!(one.method, other.method);
    assert_eq!(one.authority(), other.authority());
    assert_eq!(one.host(), other.host());
    assert_eq!(one.target(), other.target());
    assert_eq!(one.path(), other.path());
    assert_eq!(one.protocol, other.protocol);
    assert_eq!(one.length, other.length);
    assert_eq!(one.expects_continue, other.expects_continue);
    assert_eq!(one.accepts_trailers, other.accepts_trailers);
}

/// Panics unless both heads say the same.
pub fn assert_same_response(one: &ResponseHead, other: &ResponseHead) {
    assert_eq!(pairs(&one.fields), pairs(&other.fields));
    assert_eq!(one.status, other.status);
    assert_eq!(one.reason, other.reason);
    assert_eq!(one.length, other.length);
    assert_eq!(one.described_length, other.described_length);
    assert_eq!(one.protocol, other.protocol);
}

/// Panics unless a reader that knows nothing but line ends finds one head and nothing after it.
pub fn assert_one_head(written: &[u8]) {
    let end = b"\r\n\r\n";
    let found = written.windows(end.len()).position(|octets| octets == end);
    assert_eq!(found, Some(written.len() - end.len()), "one empty line");
    for (at, &octet) in written.iter().enumerate() {
        match octet {
            b'\r' => assert_eq!(written.get(at + 1), Some(&b'\n'), "bare CR"),
            b'\n' => assert_eq!(written.get(at.wrapping_sub(1)), Some(&b'\r'), "bare LF"),
            b'\t' => {}
            _ => assert!(!octet.is_ascii_control(), "control character"),
        }
    }
}

/// Content, and the octets that it and its framing take, if it is there to its end.
pub type Content = Option<(Vec<u8>, usize)>;

/// Decodes chunks that come in pieces of `step` octets.
pub fn decode(
    input: &[u8],
    step: usize,
    decoder: &mut ChunkDecoder,
    limits: &HeadLimits,
) -> Result<Content, Refusal> {
    let mut content = Vec::new();
    let mut at = 0;
    let ends = (0..input.len()).step_by(step).chain([input.len()]);
    for end in ends {
        while at <= end {
            match decoder.next(&input[at..end], limits)? {
                ChunkStep::Data { skip, len } => {
                    assert!(len > 0);
                    content.extend_from_slice(&input[at + skip..at + skip + len]);
                    at += skip + len;
                }
                ChunkStep::NeedMore { consumed } => {
                    at += consumed;
                    break;
                }
                ChunkStep::End { consumed } => return Ok(Some((content, at + consumed))),
            }
        }
    }
    Ok(None)
}
