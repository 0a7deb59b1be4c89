//! Response heads: the pieces do not matter, and what is written reads as what was read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_fuzz::message::h1::{
    RequestKind, ResponseFraming, ResponseOptions, ResponseParser, parse_response, write_response,
};
use proxy_fuzz::message::{Length, ResponseHead, Version};
use proxy_fuzz::{LIMITS, WIDE, assert_one_head, assert_same_response, by_pieces, sum};

fuzz_target!(|input: &[u8]| {
    let to = match sum(input) % 4 {
        0 => RequestKind::Plain,
        1 => RequestKind::Head,
        2 => RequestKind::Connect,
        _ => RequestKind::Upgrade,
    };
    let mut head = ResponseHead::default();
    let whole = parse_response(input, &LIMITS, to, &mut head);
    let mut parser = ResponseParser::default();
    let mut again = ResponseHead::default();
    let pieces = by_pieces(input, |piece| parser.parse(piece, &LIMITS, to, &mut again));
    assert_eq!(whole, pieces);
    let Ok(Some(meta)) = whole else { return };
    assert_same_response(&head, &again);

    let options = ResponseOptions {
        to,
        version: Version::Http11,
        keep_alive: meta.keep_alive,
    };
    let mut written = Vec::new();
    write_response(&head, &options, &mut written);
    assert_one_head(&written);
    let read = parse_response(&written, &WIDE, to, &mut again)
        .expect("what is written is valid")
        .expect("and whole");
    assert_eq!(read.consumed, written.len());
    let framing = match meta.framing {
        ResponseFraming::UntilClose => ResponseFraming::Chunked,
        framing => framing,
    };
    assert_eq!(read.framing, framing);
    assert_eq!(
        read.framing == ResponseFraming::Chunked,
        head.length == Length::Unknown
    );
    assert_same_response(&head, &again);
});
