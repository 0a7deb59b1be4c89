//! `Range` (RFC 9110 §14.2). Pure.

use std::ops::Range;

/// Ranges of one request at most; with more, the whole file is sent.
const MOST: usize = 16;

/// What a `Range` field asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The whole: there is no valid request for less, or it would be more work than the whole.
    All,
    /// These parts, never empty, in the client's order.
    Parts(Vec<Range<u64>>),
    /// Nothing that there is.
    Nothing,
}

/// Reads the field's value for a file of `size` octets.
pub(super) fn wanted(value: &[u8], size: u64) -> Wanted {
    let Some((unit, list)) = value.split_at_checked(6) else {
        return Wanted::All;
    };
    if !unit.eq_ignore_ascii_case(b"bytes=") {
        return Wanted::All;
    }
    let mut parts = Vec::new();
    let mut any = false;
    for spec in list.split(|&octet| octet == b',').map(<[u8]>::trim_ascii) {
        if spec.is_empty() {
            continue; // Lists may have empty elements (RFC 9110 §5.6.1.2).
        }
        any = true;
        match one(spec, size) {
            None => return Wanted::All,
            Some(part) if part.is_empty() => {}
            Some(_) if parts.len() == MOST => return Wanted::All,
            Some(part) => parts.push(part),
        }
    }
    let total: u64 = parts.iter().map(|part| part.end - part.start).sum();
    match parts.len() {
        0 if any => Wanted::Nothing,
        0 => Wanted::All,
        1 => Wanted::Parts(parts),
        // Overlapping ranges are a way to have much sent for little asked.
        _ if total > size => Wanted::All,
        _ => Wanted::Parts(parts),
    }
}

/// One range; empty if the file has nothing of it, `None` if it is malformed.
fn one(spec: &[u8], size: u64) -> Option<Range<u64>> {
    let dash = spec.iter().position(|&octet| octet == b'-')?;
    let (first, last) = (&spec[..dash], &spec[dash + 1..]);
    if first.is_empty() {
        let length = number(last)?.min(size);
        return Some(size - length..size);
    }
    let first = number(first)?;
    let last = match last {
        [] => u64::MAX,
        last => number(last)?,
    };
    if last < first {
        return None;
    }
    Some(first.min(size)..last.saturating_add(1).min(size))
}

/// A number; one that is too large is as good as the largest.
fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |number, octet| {
        let digit = octet.is_ascii_digit().then(|| u64::from(octet - b'0'))?;
        Some(number.saturating_mul(10).saturating_add(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_are_read_as_the_standard_says() {
        let parts = |bounds: &[(u64, u64)]| {
            let range = |&(from, to): &(u64, u64)| from..to;
            Wanted::Parts(bounds.iter().map(range).collect())
        };
        for (value, expected) in [
            ("bytes=0-0", parts(&[(0, 1)])),
            ("Bytes=10-19", parts(&[(10, 20)])),
            ("bytes=90-", parts(&[(90, 100)])),
            ("bytes=90-1000", parts(&[(90, 100)])),
            ("bytes=-10", parts(&[(90, 100)])),
            ("bytes=-1000", parts(&[(0, 100)])),
            ("bytes=0-99999999999999999999999", parts(&[(0, 100)])),
            ("bytes=0-1, 98- ,,", parts(&[(0, 2), (98, 100)])),
            ("bytes=98-,0-1", parts(&[(98, 100), (0, 2)])),
            ("bytes=0-1,200-", parts(&[(0, 2)])),
            ("bytes=100-", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=99999999999999999999999-", Wanted::Nothing),
            ("bytes=", Wanted::All),
            ("bytes=,", Wanted::All),
            ("bytes=-", Wanted::All),
            ("bytes=2-1", Wanted::All),
            ("bytes=a-b", Wanted::All),
            ("bytes=0-1,x", Wanted::All),
            ("bytes=+1-2", Wanted::All),
            ("bytes=1-2-3", Wanted::All),
            ("bytes 0-1", Wanted::All),
            ("lines=0-1", Wanted::All),
            ("", Wanted::All),
            ("bytes=0-99,0-99", Wanted::All),
        ] {
            assert_eq!(wanted(value.as_bytes(), 100), expected, "{value}");
        }
        let many = format!(
            "bytes={}",
            (0..17).map(|n| format!("{n}-{n},")).collect::<String>()
        );
        assert_eq!(wanted(many.as_bytes(), 100), Wanted::All);
        assert_eq!(wanted(b"bytes=0-", 0), Wanted::Nothing);
        assert_eq!(wanted(b"bytes=-5", 0), Wanted::Nothing);
    }

    proptest! {
        #[test]
        fn parts_are_within_the_file(value in "bytes=[0-9,\\- ]{0,40}", size in 0u64..2000) {
            if let Wanted::Parts(parts) = wanted(value.as_bytes(), size) {
                prop_assert!(!parts.is_empty() && parts.len() <= MOST);
                for part in parts {
                    prop_assert!(part.start < part.end && part.end <= size);
                }
            }
        }
    }
}
