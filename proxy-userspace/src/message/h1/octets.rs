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
    let (words, _) = octets.as_chunks::<8>();
    let usual = words
        .iter()
        .take_while(|word| is_letters(u64::from_le_bytes(**word)));
    let begin = 8 * usual.count();
    let rest = &octets[begin..];
    let end = rest.iter().position(|&octet| !is_token(octet));
    begin + end.unwrap_or(rest.len())
}

/// Octets at the beginning that a target may hold.
#[inline]
pub(in crate::message) fn target_len(octets: &[u8]) -> usize {
    let is_end = |octet: &u8| CLASSES[usize::from(*octet)] & TARGET == 0;
    len_until(octets, target_ends, is_end)
}

/// Where the first colon stands, if there is one.
#[inline]
pub(in crate::message) fn colon_at(octets: &[u8]) -> Option<usize> {
    let at = len_until(octets, |word| equal(word, b':'), |&octet| octet == b':');
    (at < octets.len()).then_some(at)
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
    len_until(octets, controls, u8::is_ascii_control)
}

/// Octets before the first that ends them. `ends` marks the high bits of such octets in a
/// little-endian word; only the lowest mark has to be right.
#[inline]
fn len_until(octets: &[u8], ends: impl Fn(u64) -> u64, is_end: impl Fn(&u8) -> bool) -> usize {
    let (words, rest) = octets.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let ends = ends(u64::from_le_bytes(*word));
        if ends != 0 {
            return index * 8 + ends.trailing_zeros() as usize / 8;
        }
    }
    let end = rest.iter().position(is_end);
    words.len() * 8 + end.unwrap_or(rest.len())
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = ONES * 0x80;

/// Marks octets below `limit`, which is at most 0x80. Octets above the lowest mark may be marked
/// wrongly, by a borrow.
#[inline]
const fn below(word: u64, limit: u8) -> u64 {
    word.wrapping_sub(ONES * limit as u64) & !word & HIGH
}

/// Marks octets that are this one, with the same reservation.
#[inline]
const fn equal(word: u64, octet: u8) -> u64 {
    below(word ^ (ONES * octet as u64), 1)
}

/// True if all octets are letters or hyphens.
#[inline]
const fn is_letters(word: u64) -> bool {
    /// Marks octets from `first` on, exactly, if all are ASCII: no sum carries over.
    const fn from(word: u64, first: u8) -> u64 {
        (word + ONES * (0x80 - first) as u64) & HIGH
    }
    if word & HIGH != 0 {
        return false;
    }
    let small = word | (ONES * 0x20);
    let letters = from(small, b'a') & !from(small, b'z' + 1);
    let hyphens = !from(word ^ (ONES * b'-' as u64), 1) & HIGH;
    letters | hyphens == HIGH
}

#[inline]
const fn controls(word: u64) -> u64 {
    below(word, b' ') | equal(word, 0x7f)
}

#[inline]
const fn target_ends(word: u64) -> u64 {
    below(word, b'!') | equal(word, 0x7f) | equal(word, b'#') | (word & HIGH)
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
        for octet in 0..=255_u8 {
            for at in 0..20 {
                let mut name = *b"X-a-Long-Name-zZ-of-Text";
                name[at] = octet;
                let expected = if is_token(octet) { 24 } else { at };
                assert_eq!(token_len(&name), expected, "{octet} at {at}");
            }
        }
        assert_eq!(token_len(b"a-b: c"), 3);
        assert_eq!(token_len(b"abc"), 3);
    }

    #[test]
    fn targets_hold_no_blank_no_control_no_fragment_and_ascii_only() {
        for octet in 0..=255_u8 {
            let expected = (0x21..0x7f).contains(&octet) && octet != b'#';
            assert_eq!(target_len(&[octet]), usize::from(expected), "{octet}");
            for at in 0..20 {
                let mut target = [b'!'; 24];
                target[at] = octet;
                let len = if expected { 24 } else { at };
                assert_eq!(target_len(&target), len, "{octet} at {at}");
            }
        }
    }

    #[test]
    fn the_first_colon_is_found_wherever_it_stands() {
        for octet in 0..=255_u8 {
            for at in 0..20 {
                let mut line = [octet; 24];
                line[at] = b':';
                let first = if octet == b':' { 0 } else { at };
                assert_eq!(colon_at(&line), Some(first), "{octet} before {at}");
                assert_eq!(colon_at(&line[..first]), None);
            }
        }
    }

    #[test]
    fn blanks_are_trimmed_at_both_ends_only() {
        assert_eq!(trim(b" \ta b\t "), b"a b");
        assert_eq!(trim(b" \t "), b"");
        assert_eq!(trim(b""), b"");
    }
}
