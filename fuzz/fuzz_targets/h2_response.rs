//! Responses and trailers of HTTP/2: what is taken can be written as HTTP/1, and reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_fuzz::message::h1::{ChunkDecoder, write_last_chunk};
use proxy_fuzz::message::h1::{RequestKind, ResponseOptions, parse_response, write_response};
use proxy_fuzz::message::{Fields, Length, ResponseHead, Version, h2 as codec};
use proxy_fuzz::{LIMITS, WIDE, assert_one_head, decode, header_map, lines, pairs, sum};

fuzz_target!(|input: &[u8]| {
    let status = lines(input).find(|(name, _)| *name == b":status");
    let status = status.and_then(|(_, value)| http::StatusCode::from_bytes(value).ok());
    let mut response = http::Response::new(());
    *response.status_mut() = status.unwrap_or(http::StatusCode::OK);
    *response.headers_mut() = header_map(input);
    let parts = response.into_parts().0;

    let mut trailers = Fields::new();
    if codec::read_trailers(&parts.headers, &LIMITS, &mut trailers).is_ok() {
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
    let mut head = ResponseHead::default();
    if codec::read_response(&parts, has_ended, to, &mut head).is_err() {
        return;
    }
    let options = ResponseOptions {
        to,
        version: Version::Http11,
        keep_alive: true,
    };
    let mut written = Vec::new();
    write_response(&head, &options, &mut written);
    assert_one_head(&written);
    let mut again = ResponseHead::default();
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
