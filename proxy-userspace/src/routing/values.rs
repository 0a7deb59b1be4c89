//! Values of cookies and of query parameters, found without a copy.

use crate::message::{Fields, Name};

/// Values of the cookies with this name (RFC 6265 §5.4), as they were sent.
pub(super) fn cookies<'a>(fields: &'a Fields, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    fields
        .all(Name::Cookie)
        .flat_map(|field| field.split(|&octet| octet == b';'))
        .filter_map(move |pair| {
            let pair = pair.trim_ascii();
            let at = pair.iter().position(|&octet| octet == b'=')?;
            (pair[..at].trim_ascii_end() == name).then(|| pair[at + 1..].trim_ascii_start())
        })
}

/// Values of the query parameters with this name, still encoded.
pub(super) fn parameters<'a>(
    query: Option<&'a [u8]>,
    name: &'a [u8],
) -> impl Iterator<Item = &'a [u8]> {
    query
        .into_iter()
        .flat_map(|query| query.split(|&octet| octet == b'&'))
        .filter_map(move |pair| {
            let at = pair.iter().position(|&octet| octet == b'=');
            let (key, value) = match at {
                Some(at) => (&pair[..at], &pair[at + 1..]),
                None => (pair, &pair[pair.len()..]),
            };
            decoded(key).eq(name.iter().copied()).then_some(value)
        })
}

/// The octets of a parameter: percent-encodings decoded, `+` for a blank, as forms are sent. What
/// is no encoding stays.
pub(super) fn decoded(text: &[u8]) -> Decoded<'_> {
    Decoded(text)
}

/// See [`decoded`].
#[derive(Clone)]
pub(super) struct Decoded<'a>(&'a [u8]);

impl Iterator for Decoded<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let (&octet, rest) = self.0.split_first()?;
        self.0 = rest;
        if octet == b'+' {
            return Some(b' ');
        }
        if octet == b'%'
            && let Some(digits) = rest.first_chunk::<2>()
            && let [Some(high), Some(low)] = digits.map(|digit| char::from(digit).to_digit(16))
        {
            self.0 = &rest[2..];
            // Two hexadecimal digits make an octet.
            return Some((high << 4 | low) as u8);
        }
        Some(octet)
    }
}
