//! Requests of HTTP/2: what is taken can be written as HTTP/1 and as HTTP/2, and reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_fuzz::message::h1::{RequestOptions, parse_request};
use proxy_fuzz::message::h2::{BlockReader, encode_request, hpack::Encoder};
use proxy_fuzz::message::{Length, Method, Name, RequestHead, h1};
use proxy_fuzz::{LIMITS, WIDE, assert_one_head, block, pairs, sum};

fuzz_target!(|input: &[u8]| {
    let has_ended = sum(input).is_multiple_of(2);
    let mut head = RequestHead::default();
    let read = BlockReader::default().request(&block(input), has_ended, &LIMITS, &mut head);
    if read.is_err() {
        return;
    }

    let mut written = Vec::new();
    h1::write_request(&head, &RequestOptions::default(), &mut written);
    assert_one_head(&written);
    let mut again = RequestHead::default();
    // CONNECT alone is not served, so it is never written.
    if head.method != Method::Connect {
        let read = parse_request(&written, &WIDE, &mut again)
            .expect("what is written is valid")
            .expect("and whole");
        assert_eq!(read.consumed, written.len());
        assert_eq!(pairs(&head.fields), pairs(&again.fields));
        assert_eq!(head.target(), again.target());
        assert_eq!(head.authority(), again.authority());
        assert_eq!(head.length, again.length);
    }

    // Twice, since the second time finds some of it in the tables; and then from there.
    let (mut encoder, mut reader) = (Encoder::default(), BlockReader::default());
    for _ in 0..3 {
        let mut block = Vec::new();
        encode_request(&head, &mut encoder, &mut block);
        let has_ended = head.length.is_empty() && head.protocol.is_empty();
        let read = reader.request(&block, has_ended, &WIDE, &mut again);
        read.expect("what is written is valid");
        assert_eq!(head.host(), again.host());
        assert_eq!(head.protocol, again.protocol);
        assert!(head.length == again.length || head.length == Length::Unknown);
        let has_key = !head.protocol.is_empty() && head.fields.contains(Name::SecWebSocketKey);
        let keys = head.fields.all(Name::SecWebSocketKey).count();
        let left_out = if has_key { keys } else { 0 };
        assert_eq!(again.fields.len() + left_out, head.fields.len());
    }
});
