//! Messages written: start line, fields, framing, in one buffer. Nothing is checked here: a head
//! holds only what may be written.

use super::RequestKind;
use crate::message::{Fields, Length, Method, RequestHead, ResponseHead, Version};
use crate::types::push_decimal;

/// What a request's head does not say about its connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestOptions {
    /// Ask the backend to close after its response.
    pub close: bool,
}

/// What a response's head does not say about its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseOptions {
    /// What is answered.
    pub to: RequestKind,
    /// Version of the request. HTTP/1.0 knows no chunks: content whose length is not known ends
    /// with the connection, so `keep_alive` must be false then.
    pub version: Version,
    /// True if the connection stays open after the response.
    pub keep_alive: bool,
}

/// Writes a request head for a backend: HTTP/1.1, origin form, `Host` first, framed as
/// `head.length` says. Of an upgrade the method is written as it is, except that extended CONNECT
/// becomes GET (RFC 8441 §5 the other way round; `Sec-WebSocket-Key` is for the caller to add).
pub fn write_request(head: &RequestHead, options: &RequestOptions, out: &mut Vec<u8>) {
    let kind = RequestKind::of(head);
    let upgrades = kind == RequestKind::Upgrade;
    let (method, target) = match kind {
        RequestKind::Connect => (&head.method, head.authority()),
        RequestKind::Upgrade if head.method == Method::Connect => (&Method::Get, head.target()),
        _ => (&head.method, head.target()),
    };
    out.reserve(head.fields.octets() + target.len() + head.authority().len() + ROOM);
    out.extend_from_slice(method.as_bytes());
    out.push(b' ');
    out.extend_from_slice(target);
    out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    out.extend_from_slice(head.authority());
    out.extend_from_slice(b"\r\n");
    head.fields.write(out);
    if head.expects_continue {
        out.extend_from_slice(b"Expect: 100-continue\r\n");
    }
    write_length(head.length, out);
    if upgrades {
        write_upgrade(&head.protocol, out);
    }
    if head.accepts_trailers {
        out.extend_from_slice(b"TE: trailers\r\n");
    }
    write_connection(
        &[
            (options.close && !upgrades, b"close"),
            (upgrades, b"Upgrade"),
            (head.accepts_trailers, b"TE"),
        ],
        out,
    );
    out.extend_from_slice(b"\r\n");
}

/// Writes a response head for a client: HTTP/1.1 whatever the request's version was (RFC 9110
/// §2.5), framed as `head.length` says and the request and its version allow.
pub fn write_response(head: &ResponseHead, options: &ResponseOptions, out: &mut Vec<u8>) {
    out.reserve(head.fields.octets() + head.reason.len() + ROOM);
    out.extend_from_slice(b"HTTP/1.1 ");
    let status = head.status;
    out.extend([status / 100 % 10, status / 10 % 10, status % 10].map(|digit| b'0' + digit as u8));
    out.push(b' ');
    out.extend_from_slice(&head.reason);
    out.extend_from_slice(b"\r\n");
    head.fields.write(out);
    write_response_length(head, options, out);
    let upgrades = matches!(status, 101 | 426) && !head.protocol.is_empty();
    if upgrades {
        write_upgrade(&head.protocol, out);
    }
    let is_final = status >= 200;
    let is_10 = options.version == Version::Http10;
    write_connection(
        &[
            (is_final && !options.keep_alive, b"close"),
            (is_final && options.keep_alive && is_10, b"keep-alive"),
            (upgrades, b"Upgrade"),
        ],
        out,
    );
    out.extend_from_slice(b"\r\n");
}

/// Writes what stands before a chunk of `len` octets, which must not be 0. After the content comes
/// [`write_chunk_end`].
pub fn write_chunk_head(len: u64, out: &mut Vec<u8>) {
    let digits = (u64::BITS - len.leading_zeros()).div_ceil(4).max(1);
    for digit in (0..digits).rev() {
        out.push(HEX[(len >> (4 * digit) & 0xf) as usize]);
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes what stands after a chunk.
pub fn write_chunk_end(out: &mut Vec<u8>) {
    out.extend_from_slice(b"\r\n");
}

/// Writes the last chunk and the trailers. It comes after [`write_chunk_end`].
pub fn write_last_chunk(trailers: &Fields, out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n");
    trailers.write(out);
    out.extend_from_slice(b"\r\n");
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// What a head needs beyond its parts: a guess, so that its buffer grows once.
const ROOM: usize = 256;

fn write_response_length(head: &ResponseHead, options: &ResponseOptions, out: &mut Vec<u8>) {
    let to_connect = options.to == RequestKind::Connect && head.status / 100 == 2;
    if head.status < 200 || head.status == 204 || to_connect {
        return;
    }
    if options.to == RequestKind::Head || head.status == 304 {
        if let Some(length) = head.described_length {
            write_content_length(length, out);
        }
        return;
    }
    match head.length {
        // Without a length the client would read until the connection is closed.
        Length::None => write_content_length(0, out),
        Length::Unknown if options.version == Version::Http10 => {}
        length => write_length(length, out),
    }
}

fn write_length(length: Length, out: &mut Vec<u8>) {
    match length {
        Length::None => {}
        Length::Exact(length) => write_content_length(length, out),
        Length::Unknown => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
    }
}

fn write_content_length(length: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"Content-Length: ");
    push_decimal(length, out);
    out.extend_from_slice(b"\r\n");
}

fn write_upgrade(protocol: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"Upgrade: ");
    out.extend_from_slice(protocol);
    out.extend_from_slice(b"\r\n");
}

fn write_connection(options: &[(bool, &[u8])], out: &mut Vec<u8>) {
    let mut separator: &[u8] = b"Connection: ";
    for (applies, option) in options {
        if *applies {
            out.extend_from_slice(separator);
            out.extend_from_slice(option);
            separator = b", ";
        }
    }
    if separator == b", " {
        out.extend_from_slice(b"\r\n");
    }
}
