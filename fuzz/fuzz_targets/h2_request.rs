//! Requests of HTTP/2: what is taken can be written as HTTP/1 and as HTTP/2, and reads the same.
#![no_main]

use h2::ext::Protocol;
use libfuzzer_sys::fuzz_target;
use proxy_fuzz::message::h1::{RequestOptions, parse_request};
use proxy_fuzz::message::{Length, Method, Name, RequestHead, h1, h2 as codec};
use proxy_fuzz::{LIMITS, WIDE, assert_one_head, header_map, lines, pairs, sum};

/// A request as `h2` hands it over; `None` for what it would refuse itself.
fn request(input: &[u8]) -> Option<http::request::Parts> {
    let mut uri = http::uri::Parts::default();
    let mut request = http::Request::new(());
    for (name, value) in lines(input) {
        match name {
            b":method" => *request.method_mut() = http::Method::from_bytes(value).ok()?,
            b":scheme" => uri.scheme = Some(value.try_into().ok()?),
            b":authority" => uri.authority = Some(value.try_into().ok()?),
            b":path" => uri.path_and_query = Some(value.try_into().ok()?),
            b":protocol" => {
                let protocol = Protocol::from(std::str::from_utf8(value).ok()?);
                request.extensions_mut().insert(protocol);
            }
            _ => {}
        }
    }
    let is_connect = request.method() == http::Method::CONNECT;
    let is_extended = request.extensions().get::<Protocol>().is_some();
    let is_tunnel = is_connect && !is_extended;
    if is_extended && !is_connect || is_tunnel == uri.path_and_query.is_some() {
        return None;
    }
    *request.uri_mut() = http::Uri::from_parts(uri).ok()?;
    *request.headers_mut() = header_map(input);
    Some(request.into_parts().0)
}

fuzz_target!(|input: &[u8]| {
    let Some(parts) = request(input) else { return };
    let has_ended = sum(input) % 2 == 0;
    let mut head = RequestHead::default();
    if codec::read_request(&parts, has_ended, &LIMITS, &mut head).is_err() {
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

    let request = codec::write_request(&head).expect("what was read can be written");
    let parts = request.into_parts().0;
    let has_ended = head.length == Length::None && head.protocol.is_empty();
    codec::read_request(&parts, has_ended, &WIDE, &mut again).expect("what is written is valid");
    assert_eq!(head.host(), again.host());
    assert_eq!(head.protocol, again.protocol);
    assert_eq!(head.length, again.length);
    let key = usize::from(!head.protocol.is_empty() && head.fields.contains(Name::SecWebSocketKey));
    assert!(again.fields.len() + key <= head.fields.len());
});
