//! Making what clients sent safe for a line.

use super::number::HEX_UPPER;

/// True for the octets that an escaping leaves as they are.
struct Plain([bool; 256]);

impl Plain {
    const fn new(from: u8, to: u8, except: &[u8]) -> Self {
        let mut plain = [false; 256];
        let mut octet = from as usize;
        while octet <= to as usize {
            plain[octet] = true;
            octet += 1;
        }
        let mut index = 0;
        while index < except.len() {
            plain[except[index] as usize] = false;
            index += 1;
        }
        Self(plain)
    }

    /// Appends `octets`; those that are not plain by `escape`.
    fn escape(&self, octets: &[u8], out: &mut Vec<u8>, escape: impl Fn(u8, &mut Vec<u8>)) {
        let mut rest = octets;
        while let Some(at) = rest.iter().position(|&octet| !self.0[usize::from(octet)]) {
            out.extend_from_slice(&rest[..at]);
            escape(rest[at], out);
            rest = &rest[at + 1..];
        }
        out.extend_from_slice(rest);
    }
}

static NGINX: Plain = Plain::new(0x20, 0x7e, b"\"\\");
static NGINX_JSON: Plain = Plain::new(0x20, 0xff, b"\"\\");
static JSON_ASCII: Plain = Plain::new(0x20, 0x7e, b"\"\\");
static HAPROXY: Plain = Plain::new(0x20, 0x7e, b"\"#");

/// As nginx's `escape=default`.
pub(super) fn nginx(octets: &[u8], out: &mut Vec<u8>) {
    NGINX.escape(octets, out, |octet, out| {
        out.extend_from_slice(b"\\x");
        hex(octet, out);
    });
}

/// As nginx's `escape=json`: octets above 127 stay as they are, whether they are UTF-8 or not.
pub(super) fn nginx_json(octets: &[u8], out: &mut Vec<u8>) {
    NGINX_JSON.escape(octets, out, json_escape);
}

/// The inside of a JSON string, valid whatever the octets are: those that are not UTF-8 become the
/// characters of the same number.
pub(super) fn json(octets: &[u8], out: &mut Vec<u8>) {
    if octets.is_ascii() {
        return JSON_ASCII.escape(octets, out, json_escape);
    }
    for chunk in octets.utf8_chunks() {
        NGINX_JSON.escape(chunk.valid().as_bytes(), out, json_escape);
        for &octet in chunk.invalid() {
            json_number(octet, out);
        }
    }
}

/// As HAProxy encodes a request line.
pub(super) fn haproxy(octets: &[u8], out: &mut Vec<u8>) {
    HAPROXY.escape(octets, out, |octet, out| {
        out.push(b'#');
        hex(octet, out);
    });
}

fn json_escape(octet: u8, out: &mut Vec<u8>) {
    match octet {
        b'"' => out.extend_from_slice(b"\\\""),
        b'\\' => out.extend_from_slice(b"\\\\"),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        0x08 => out.extend_from_slice(b"\\b"),
        0x0c => out.extend_from_slice(b"\\f"),
        other => json_number(other, out),
    }
}

fn json_number(octet: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(b"\\u00");
    hex(octet, out);
}

fn hex(octet: u8, out: &mut Vec<u8>) {
    out.push(HEX_UPPER[usize::from(octet >> 4)]);
    out.push(HEX_UPPER[usize::from(octet & 15)]);
}
