//! Numbers and addresses as text, appended without going through a formatter where it counts.

pub(super) use crate::types::push_decimal as decimal;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Appends a number with leading zeros, at least `width` digits (20 at most).
pub(super) fn padded(number: u64, width: usize, out: &mut Vec<u8>) {
    let begin = out.len();
    decimal(number, out);
    let missing = width.saturating_sub(out.len() - begin);
    if missing > 0 {
        out.splice(begin..begin, std::iter::repeat_n(b'0', missing));
    }
}

/// Appends seconds with milliseconds, cut off as nginx does: `1.250`.
pub(super) fn seconds_millis(time: Duration, out: &mut Vec<u8>) {
    decimal(time.as_secs(), out);
    out.push(b'.');
    padded(time.subsec_millis().into(), 3, out);
}

/// Appends seconds with microseconds.
pub(super) fn seconds_micros(time: Duration, out: &mut Vec<u8>) {
    decimal(time.as_secs(), out);
    out.push(b'.');
    padded(time.subsec_micros().into(), 6, out);
}

/// Appends whole milliseconds.
pub(super) fn millis(time: Duration, out: &mut Vec<u8>) {
    decimal(u64::try_from(time.as_millis()).unwrap_or(u64::MAX), out);
}

/// Appends an address without brackets.
pub(super) fn address(address: IpAddr, out: &mut Vec<u8>) {
    // An IPv4 client of a dual-stack socket is an IPv4 client.
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            for (index, octet) in v4.octets().into_iter().enumerate() {
                if index > 0 {
                    out.push(b'.');
                }
                decimal(octet.into(), out);
            }
        }
        IpAddr::V6(v6) => {
            // Writing to a vector does not fail.
            let _ = write!(out, "{v6}");
        }
    }
}

/// Appends address and port: `1.2.3.4:80`, `[::1]:80`.
pub(super) fn socket(socket: SocketAddr, out: &mut Vec<u8>) {
    let v6 = socket.ip().to_canonical().is_ipv6();
    if v6 {
        out.push(b'[');
    }
    address(socket.ip(), out);
    if v6 {
        out.push(b']');
    }
    out.push(b':');
    decimal(socket.port().into(), out);
}

/// Appends octets as lower-case hexadecimal digits.
pub(super) fn hex(octets: &[u8], out: &mut Vec<u8>) {
    for octet in octets {
        out.push(HEX_LOWER[usize::from(octet >> 4)]);
        out.push(HEX_LOWER[usize::from(octet & 15)]);
    }
}

/// Digits.
pub(super) const HEX_UPPER: &[u8; 16] = b"0123456789ABCDEF";
const HEX_LOWER: &[u8; 16] = b"0123456789abcdef";
