//! What a client speaks, by its first octets: enough of them always tell, and what is a request by the
//! rules of HTTP is taken for one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_fuzz::WIDE;
use proxy_fuzz::message::RequestHead;
use proxy_fuzz::message::h1::parse_request;
use proxy_fuzz::message::h2::frame::PREFACE;
use proxy_fuzz::net::detect::{Protocol, detect, settle};

/// No method is longer than this and taken for one.
const METHOD: usize = 20;

/// With so many octets nothing is open.
const SURE: usize = 300;

fuzz_target!(|input: &[u8]| {
    let found = detect(input);
    if input.len() >= SURE {
        assert!(found.is_some());
    }
    if found == Some(Protocol::Http2) {
        assert!(input.starts_with(PREFACE));
    }
    // Where no more comes, HTTP is what begins like HTTP.
    if settle(input) == Protocol::Http1 {
        assert!(found.is_none_or(|found| matches!(found, Protocol::Http1 | Protocol::Other)));
    }
    let mut head = RequestHead::default();
    let is_method =
        |octet: &u8| octet.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(octet);
    let method = input.iter().take_while(|octet| is_method(octet)).count();
    if matches!(parse_request(input, &WIDE, &mut head), Ok(Some(_)))
        && (1..=METHOD).contains(&method)
    {
        assert_eq!(found, Some(Protocol::Http1));
    }
});
