//! Responses and trailers of HTTP/2: what is taken can be written as HTTP/1, and reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_fuzz::message::h1::{ChunkDecoder, write_last_chunk};
use proxy_fuzz::message::h1::{RequestKind, ResponseOptions, parse_response, write_response};
use proxy_fuzz::message::h2::{BlockReader, encode_response, hpack::Encoder};
use proxy_fuzz::message::{Fields, Length, ResponseHead, Version};
use proxy_fuzz::{LIMITS, WIDE, assert_one_head, block, decode, pairs, sum};

fuzz_target!(|input: &[u8]| {
    let block = block(input);
    let mut trailers = Fields::new();
    if BlockReader::default()
        .trailers(&block, &LIMITS, &mut trailers)
        .is_ok()
    {
        let mut written = Vec::new();
        write_last_chunk(&trailers, &mut written);
        let mut decoder = ChunkDecoder::new();
        let read = decode(&written, written.len(), &mut decoder, &WIDE);
        assert_eq!(read, Ok(Some((Vec::new(), written.len()))));
        assert_eq!(pairs(decoder.trailers()), pairs(&trailers));
    }

    let (to, has_ended) = match sum(input) % 4 {
        0 => (RequestKind::Plain, false),
        1 => (RequestKind::Plain, true),
        2 => (RequestKind::Head, true),
        _ => (RequestKind::Upgrade, false),
    };
    let (mut head, mut again) = (ResponseHead::default(), ResponseHead::default());
    let mut reader = BlockReader::default();
    if reader
        .response(&block, has_ended, to, &LIMITS, &mut head)
        .is_err()
    {
        return;
    }
    let (mut encoder, mut reader) = (Encoder::default(), BlockReader::default());
    for _ in 0..3 {
        let mut block = Vec::new();
        encode_response(&head, to, &mut encoder, &mut block);
        let is_short = head.length.is_empty();
        let read = reader.response(&block, has_ended && is_short, to, &WIDE, &mut again);
        read.expect("what is written is valid");
        assert_eq!(head.status, again.status);
        assert!(
            pairs(&head.fields)
                .iter()
                .zip(pairs(&again.fields))
                .all(|(one, other)| { one.0.eq_ignore_ascii_case(other.0) && one.1 == other.1 })
        );
        assert_eq!(head.fields.len(), again.fields.len());
    }
    let options = ResponseOptions {
        to,
        version: Version::Http11,
        keep_alive: true,
    };
    let mut written = Vec::new();
    write_response(&head, &options, &mut written);
    assert_one_head(&written);
    let read = parse_response(&written, &WIDE, to, &mut again)
        .expect("what is written is valid")
        .expect("and whole");
    assert_eq!(read.consumed, written.len());
    assert_eq!(pairs(&head.fields), pairs(&again.fields));
    assert_eq!(head.status, again.status);
    if !matches!(head.length, Length::None) {
        assert_eq!(head.length, again.length);
    }
});
