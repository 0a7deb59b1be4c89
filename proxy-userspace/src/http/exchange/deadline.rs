//! The deadline that a gRPC client tells by `grpc-timeout`, and the one that its server is told
//! (`grpc/grpc: doc/PROTOCOL-HTTP2.md`): up to eight digits and a unit.

use crate::net::Nanos;
use std::io::Write as _;

/// The longest value that is written, in octets.
pub const LONGEST: usize = 9;

/// The largest number that eight digits can say.
const MOST: Nanos = 99_999_999;

/// A value in nanoseconds, at most what [`Nanos`] can say, which is centuries. `None` if it is not one.
pub fn read(value: &[u8]) -> Option<Nanos> {
    let (unit, digits) = value.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: Nanos = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let unit = match unit {
        b'H' => 3600 * 1_000_000_000,
        b'M' => 60 * 1_000_000_000,
        b'S' => 1_000_000_000,
        b'm' => 1_000_000,
        b'u' => 1000,
        b'n' => 1,
        _ => return None,
    };
    Some(number.saturating_mul(unit))
}

/// Writes how many nanoseconds are left, in the finest unit that has room; rounded down, so that nobody
/// believes to have more.
pub fn write(left: Nanos, room: &mut [u8; LONGEST]) -> &[u8] {
    let (micros, millis, seconds) = (left / 1000, left / 1_000_000, left / 1_000_000_000);
    let (number, unit) = match () {
        () if micros <= MOST => (micros, 'u'),
        () if millis <= MOST => (millis, 'm'),
        () => (seconds.min(MOST), 'S'),
    };
    let mut out = &mut room[..];
    // Eight digits and a unit are what there is room for.
    let _ = write!(out, "{number}{unit}");
    let unused = out.len();
    &room[..LONGEST - unused]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_read_in_each_unit() {
        for (value, nanos) in [
            (&b"1H"[..], 3_600_000_000_000),
            (b"2M", 120_000_000_000),
            (b"99999999S", 99_999_999_000_000_000),
            (b"100m", 100_000_000),
            (b"7u", 7000),
            (b"0n", 0),
            // More than can be counted is as much as can be.
            (b"99999999H", Nanos::MAX),
            (b"99999999M", 5_999_999_940_000_000_000),
        ] {
            assert_eq!(read(value), Some(nanos));
        }
        for bad in [&b""[..], b"S", b"123456789S", b"-1S", b"1.5S", b"1s", b"1"] {
            assert_eq!(read(bad), None);
        }
    }

    #[test]
    fn never_more_is_told_than_is_left() {
        for (left, told) in [
            (0, &b"0u"[..]),
            (1_999, b"1u"),
            (99_999_999_999, b"99999999u"),
            (100_000_000_000, b"100000m"),
            (99_999_999_999_999, b"99999999m"),
            (100_000_000_000_000, b"100000S"),
            (u64::MAX - 1, b"99999999S"),
        ] {
            assert_eq!(write(left, &mut [0; LONGEST]), told);
            assert!(read(told).is_some_and(|read| read <= left));
        }
    }
}
