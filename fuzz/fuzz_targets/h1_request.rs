//! Request heads: the pieces do not matter, and what is written reads as what was read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_fuzz::message::RequestHead;
use proxy_fuzz::message::h1::{RequestOptions, RequestParser, parse_request, write_request};
use proxy_fuzz::{LIMITS, WIDE, assert_one_head, assert_same_request, by_pieces};

fuzz_target!(|input: &[u8]| {
    let mut head = RequestHead::default();
    let whole = parse_request(input, &LIMITS, &mut head);
    let mut parser = RequestParser::default();
    let mut again = RequestHead::default();
    let pieces = by_pieces(input, |piece| parser.parse(piece, &LIMITS, &mut again));
    assert_eq!(whole, pieces);
    let Ok(Some(meta)) = whole else { return };
    assert_same_request(&head, &again);
    assert_eq!(head.version, again.version);

    let mut written = Vec::new();
    let close = !meta.keep_alive;
    write_request(&head, &RequestOptions { close }, &mut written);
    assert_one_head(&written);
    if head.authority().is_empty() {
        return; // HTTP/1.0 without `Host`: the caller would say which.
    }
    let read = parse_request(&written, &WIDE, &mut again)
        .expect("what is written is valid")
        .expect("and whole");
    assert_eq!(read.consumed, written.len());
    assert_eq!(read.framing, meta.framing);
    assert_same_request(&head, &again);
});
