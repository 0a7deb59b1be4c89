//! Heads and trailers written as blocks of fields. Nothing is checked here: a head holds only what
//! may be written.

use super::hpack::Encoder;
use crate::message::h1::RequestKind;
use crate::message::{Fields, Length, Method, Name, RequestHead, ResponseHead, Scheme};

/// Appends the block of a request for a backend, with `Host` as `:authority`. An upgrade becomes
/// extended CONNECT (RFC 8441 §5), whose handshake is not the WebSocket's.
pub fn encode_request(head: &RequestHead, encoder: &mut Encoder, out: &mut Vec<u8>) {
    encoder.begin(out);
    let is_tunnel = !head.protocol.is_empty();
    match is_tunnel {
        true => encoder.method(Method::Connect.as_bytes(), out),
        false => encoder.method(head.method.as_bytes(), out),
    }
    if head.method != Method::Connect || is_tunnel {
        encoder.scheme(head.scheme == Scheme::Https, out);
        encode_path(head.target(), encoder, out);
    }
    if !head.authority().is_empty() {
        encoder.authority(head.authority(), out);
    }
    if is_tunnel {
        encoder.protocol(&head.protocol, out);
    }
    let left_out = if is_tunnel {
        Name::SecWebSocketKey
    } else {
        Name::Connection
    };
    encode_fields(&head.fields, left_out, encoder, out);
    if let Length::Exact(length) = head.length {
        encode_length(length, encoder, out);
    }
    if head.expects_continue {
        encoder.field(Name::Expect, b"expect", b"100-continue", out);
    }
    if head.accepts_trailers {
        encoder.field(Name::Te, b"te", b"trailers", out);
    }
}

/// The target. What may not stand in one and browsers send all the same (`<`, `` ` ``) is
/// percent-encoded, which RFC 3986 §2.4 calls the same.
fn encode_path(target: &[u8], encoder: &mut Encoder, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    if memchr::memchr3(b'<', b'>', b'`', target).is_none() {
        return encoder.path(target, out);
    }
    let mut encoded = Vec::with_capacity(target.len() + 16);
    for &octet in target {
        match octet {
            b'<' | b'>' | b'`' | b'^' | b'\\' | b'|' | b'"' | b'{' | b'}' => {
                encoded.push(b'%');
                encoded.push(HEX[usize::from(octet >> 4)]);
                encoded.push(HEX[usize::from(octet & 15)]);
            }
            _ => encoded.push(octet),
        }
    }
    encoder.path(&encoded, out);
}

/// Appends the block of a response for a client. `to` is what is answered.
pub fn encode_response(
    head: &ResponseHead,
    to: RequestKind,
    encoder: &mut Encoder,
    out: &mut Vec<u8>,
) {
    encoder.begin(out);
    if head.status == 101 {
        // The acceptance of a tunnel (RFC 8441 §4).
        encoder.status(200, out);
        return encode_fields(&head.fields, Name::SecWebSocketAccept, encoder, out);
    }
    encoder.status(head.status, out);
    encode_fields(&head.fields, Name::Connection, encoder, out);
    let length = match (to, head.status) {
        (_, ..200 | 204) => None,
        (RequestKind::Head, _) | (_, 304) => head.described_length,
        _ => match head.length {
            Length::Exact(length) => Some(length),
            Length::None | Length::Unknown => None,
        },
    };
    if let Some(length) = length {
        encode_length(length, encoder, out);
    }
}

/// Appends the block of trailers.
pub fn encode_trailers(trailers: &Fields, encoder: &mut Encoder, out: &mut Vec<u8>) {
    encoder.begin(out);
    encode_fields(trailers, Name::Connection, encoder, out);
}

fn encode_fields(fields: &Fields, left_out: Name, encoder: &mut Encoder, out: &mut Vec<u8>) {
    for field in fields.iter() {
        // The configuration may have added one of a connection.
        if field.name != left_out && !field.name.is_hop_by_hop() {
            encoder.field(field.name, field.spelled, field.value, out);
        }
    }
}

fn encode_length(length: u64, encoder: &mut Encoder, out: &mut Vec<u8>) {
    let (mut digits, mut at, mut rest) = ([0; 20], 20, length);
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    encoder.field(Name::ContentLength, b"content-length", &digits[at..], out);
}
