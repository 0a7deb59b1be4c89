//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! Sums are over 16-bit words in memory order. The one's complement sum does not depend on byte
//! order, so nothing is swapped: words are read and written as they lie in the packet.

/// Folds a sum to 16 bits.
#[inline(always)]
pub const fn fold(mut sum: u64) -> u16 {
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// Sum of the four 16-bit words in `word`.
#[inline(always)]
pub const fn sum64(word: u64) -> u64 {
    (word & 0xffff_ffff) + (word >> 32)
}

/// What to add to the complement of a checksum when `old` words become `new` words.
///
/// Both are sums; the result is a sum as well and may be accumulated.
#[inline(always)]
pub const fn difference(old: u64, new: u64) -> u64 {
    (!fold(old) as u64 & 0xffff) + fold(new) as u64
}

/// The checksum after the covered words have changed by `difference` (RFC 1624, equation 3).
#[inline(always)]
pub const fn update(checksum: u16, difference: u64) -> u16 {
    !fold((!checksum) as u64 + difference)
}

/// The checksum of words whose sum is `sum`.
#[inline(always)]
pub const fn finish(sum: u64) -> u16 {
    !fold(sum)
}

/// Sum over octets, padded with a zero octet if their number is odd. For user space and tests.
pub fn sum_octets(octets: &[u8]) -> u64 {
    let mut sum = 0u64;
    let mut pairs = octets.chunks_exact(2);
    for pair in &mut pairs {
        sum += u64::from(u16::from_ne_bytes([pair[0], pair[1]]));
    }
    if let [last] = pairs.remainder() {
        sum += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071() {
        let octets = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum_octets(&octets)).to_ne_bytes(), [0xdd, 0xf2]);
    }

    #[test]
    fn an_update_equals_a_new_computation() {
        let mut header = [
            0x45, 0, 0, 60, 0x1c, 0x46, 0x40, 0, 0x40, 0x06, 0, 0, 172, 16, 10, 99, 172, 16, 10, 12,
        ];
        let before = finish(sum_octets(&header));
        let old = sum_octets(&header[16..20]);
        header[16..20].copy_from_slice(&[192, 0, 2, 200]);
        let new = sum_octets(&header[16..20]);
        assert_eq!(
            update(before, difference(old, new)),
            finish(sum_octets(&header))
        );
    }

    #[test]
    fn an_update_to_the_same_words_changes_nothing() {
        for checksum in [0x0001, 0x1234, 0xfffe] {
            assert_eq!(update(checksum, difference(0xabcd, 0xabcd)), checksum);
        }
    }

    #[test]
    fn words_of_eight_octets_fold_like_their_parts() {
        let word = 0xdead_beef_0102_fffeu64;
        let parts: u64 = word
            .to_ne_bytes()
            .chunks(2)
            .map(|p| u64::from(u16::from_ne_bytes([p[0], p[1]])))
            .sum();
        assert_eq!(fold(sum64(word)), fold(parts));
    }
}
