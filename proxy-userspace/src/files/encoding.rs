//! Which content codings a client takes (RFC 9110 §12.5.3). Pure.

use crate::config::model::http::Coding;
use crate::message::{Fields, Name};

/// The codings that the client takes rather than none, those it likes best first; equal ones in the order of `offered`.
pub fn acceptable(fields: &Fields, offered: &[Coding]) -> Vec<Coding> {
    if offered.is_empty() || !fields.contains(Name::AcceptEncoding) {
        return Vec::new();
    }
    let weight = |name: &str| {
        let named = weight_of(fields, name.as_bytes());
        named.or_else(|| weight_of(fields, b"*"))
    };
    // Without a word about it, the plain file is a last resort.
    let plain = weight_of(fields, b"identity").unwrap_or(0);
    let mut liked: Vec<(u16, Coding)> = offered
        .iter()
        .filter_map(|&coding| Some((weight(coding.name())?, coding)))
        .filter(|&(weight, _)| weight > 0 && weight >= plain)
        .collect();
    liked.sort_by_key(|&(weight, _)| std::cmp::Reverse(weight));
    liked.into_iter().map(|(_, coding)| coding).collect()
}

/// Thousandths of the weight that the fields give a coding, if they name it.
fn weight_of(fields: &Fields, coding: &[u8]) -> Option<u16> {
    fields
        .all(Name::AcceptEncoding)
        .flat_map(|list| list.split(|&octet| octet == b','))
        .find_map(|element| {
            let mut parts = element
                .split(|&octet| octet == b';')
                .map(<[u8]>::trim_ascii);
            let name = parts.next()?;
            if !name.eq_ignore_ascii_case(coding) {
                return None;
            }
            let weight = parts.find_map(|part| {
                part.strip_prefix(b"q=")
                    .or_else(|| part.strip_prefix(b"Q="))
            });
            Some(weight.map_or(1000, thousandths))
        })
}

/// `0.5` is 500. What is malformed is 0: not wanted.
fn thousandths(text: &[u8]) -> u16 {
    let (whole, rest) = match text {
        [whole @ (b'0' | b'1')] => (*whole, &[][..]),
        [whole @ (b'0' | b'1'), b'.', rest @ ..] if rest.len() <= 3 => (*whole, rest),
        _ => return 0,
    };
    let mut fraction = 0;
    for index in 0..3 {
        let digit = match rest.get(index) {
            None => 0,
            Some(digit @ b'0'..=b'9') => u16::from(digit - b'0'),
            Some(_) => return 0,
        };
        fraction = fraction * 10 + digit;
    }
    (u16::from(whole - b'0') * 1000 + fraction).min(1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Coding::{Brotli, Gzip, Zstd};

    #[test]
    fn the_clients_weights_come_before_our_order() {
        let accept = |value: &str| {
            let mut fields = Fields::new();
            fields.append(Name::AcceptEncoding, value.as_bytes());
            acceptable(&fields, &[Brotli, Zstd, Gzip])
        };
        assert_eq!(accept("gzip, deflate, br"), [Brotli, Gzip]);
        assert_eq!(accept("GZIP;q=1.0, br;q=0.5"), [Gzip, Brotli]);
        assert_eq!(accept("*"), [Brotli, Zstd, Gzip]);
        assert_eq!(accept("*;q=0.1, br;q=0"), [Zstd, Gzip]);
        assert_eq!(accept("identity, gzip;q=0.5"), []);
        assert_eq!(accept("gzip;q=0.001 , identity;q=0"), [Gzip]);
        assert_eq!(accept("gzip;q=2"), []);
        assert_eq!(accept("gzip;q=0.0000"), []);
        assert_eq!(accept("gzipx, x-gzip"), []);
        assert_eq!(accept(""), []);
        assert_eq!(acceptable(&Fields::new(), &[Gzip]), []);
    }
}
