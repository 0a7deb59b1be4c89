//! Which octets may stand where, by table; long values by eight octets at a time.

/// Classes of octets, as bits.
const TOKEN: u8 = 1;
const TARGET: u8 = 2;

static CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut classes = [0; 256];
    let mut octet = 0_u8;
    while octet < 128 {
        if octet.is_ascii_alphanumeric() || is_token_mark(octet) {
            classes[octet as usize] |= TOKEN;
        }
        // Wider than RFC 3986: browsers send `|`, `"` and `{` in queries. A fragment never belongs
        // to a request, and octets beyond ASCII have to be percent-encoded.
        if octet.is_ascii_graphic() && octet != b'#' {
            classes[octet as usize] |= TARGET;
        }
        octet += 1;
    }
    classes
}

const fn is_token_mark(octet: u8) -> bool {
    matches!(
        octet,
        b'!' | b'#'
            | b'$'
            | b'%'
            | b'&'
            | b'\''
            | b'*'
            | b'+'
            | b'-'
            | b'.'
            | b'^'
            | b'_'
            | b'`'
            | b'|'
            | b'~'
    )
}

/// True for an octet of a token (RFC 9110 §5.6.2).
#[inline]
pub(in crate::message) fn is_token(octet: u8) -> bool {
    CLASSES[usize::from(octet)] & TOKEN != 0
}

/// Octets at the beginning that a token may hold.
#[inline]
pub(in crate::message) fn token_len(octets: &[u8]) -> usize {
    let end = octets.iter().position(|&octet| !is_token(octet));
    end.unwrap_or(octets.len())
}

/// Octets at the beginning that a target may hold.
#[inline]
pub(in crate::message) fn target_len(octets: &[u8]) -> usize {
    let end = octets
        .iter()
        .position(|&octet| CLASSES[usize::from(octet)] & TARGET == 0);
    end.unwrap_or(octets.len())
}

/// True for the blanks around a field value.
#[inline]
pub(in crate::message) fn is_blank(octet: u8) -> bool {
    octet == b' ' || octet == b'\t'
}

/// Without blanks at both ends.
#[inline]
pub(in crate::message) fn trim(mut octets: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = octets
        && is_blank(*first)
    {
        octets = rest;
    }
    while let [rest @ .., last] = octets
        && is_blank(*last)
    {
        octets = rest;
    }
    octets
}

/// Octets at the beginning that a field value may hold: visible ones, blanks, and those beyond
/// ASCII (RFC 9110 §5.5).
#[inline]
pub(in crate::message) fn value_len(octets: &[u8]) -> usize {
    let mut at = 0;
    loop {
        at += plain_len(&octets[at..]);
        match octets.get(at) {
            Some(b'\t') => at += 1,
            _ => return at,
        }
    }
}

/// Octets before the first control character.
#[inline]
fn plain_len(octets: &[u8]) -> usize {
    let (words, rest) = octets.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let controls = controls(u64::from_le_bytes(*word));
        if controls != 0 {
            return index * 8 + controls.trailing_zeros() as usize / 8;
        }
    }
    let end = rest.iter().position(u8::is_ascii_control);
    words.len() * 8 + end.unwrap_or(rest.len())
}

/// The high bits of the octets of a little-endian word that are control characters. Only the
/// lowest of them is certain: a borrow may mark octets above it.
#[inline]
const fn controls(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let below_blank = word.wrapping_sub(ONES * 0x20) & !word;
    let delete = word ^ (ONES * 0x7f);
    let is_delete = delete.wrapping_sub(ONES) & !delete;
    (below_blank | is_delete) & (ONES * 0x80)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_end_at_the_first_control_character_wherever_it_stands() {
        for octet in 0..=255_u8 {
            for at in 0..20 {
                let mut value = [0xff_u8; 24];
                value[at] = octet;
                value[23] = 0;
                let allowed = octet == b'\t' || (octet >= b' ' && octet != 0x7f);
                let expected = if allowed { 23 } else { at };
                assert_eq!(value_len(&value), expected, "{octet} at {at}");
            }
        }
    }

    #[test]
    fn tokens_are_as_the_grammar_lists_them() {
        let marks = b"!#$%&'*+-.^_`|~";
        for octet in 0..=255_u8 {
            let expected = octet.is_ascii_alphanumeric() || marks.contains(&octet);
            assert_eq!(is_token(octet), expected, "{octet}");
        }
        assert_eq!(token_len(b"a-b: c"), 3);
        assert_eq!(token_len(b"abc"), 3);
    }

    #[test]
    fn targets_hold_no_blank_no_control_no_fragment_and_ascii_only() {
        for octet in 0..=255_u8 {
            let expected = (0x21..0x7f).contains(&octet) && octet != b'#';
            assert_eq!(target_len(&[octet]), usize::from(expected), "{octet}");
        }
    }

    #[test]
    fn blanks_are_trimmed_at_both_ends_only() {
        assert_eq!(trim(b" \ta b\t "), b"a b");
        assert_eq!(trim(b" \t "), b"");
        assert_eq!(trim(b""), b"");
    }
}
