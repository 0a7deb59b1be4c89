//! Bytes that anybody can make and check from their offset alone, so that 64 MiB are compared
//! without being held, and a lost, doubled or swapped segment is found at its exact place.

/// Octets after which the pattern repeats: a prime, so that no segment size divides it.
const PERIOD: usize = 65_521;

/// A source of the pattern.
#[derive(Debug)]
pub struct Pattern {
    bytes: Vec<u8>,
}

impl Default for Pattern {
    fn default() -> Self {
        Self::new()
    }
}

impl Pattern {
    /// Most octets that [`Self::at`] returns.
    pub const CHUNK: usize = 65_536;

    /// Makes the pattern.
    pub fn new() -> Self {
        // xorshift32; any full-period generator would do.
        let mut state = 0x9e37_79b9_u32;
        let mut period = Vec::with_capacity(PERIOD);
        for _ in 0..PERIOD {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            period.push((state >> 24) as u8);
        }
        let mut bytes = period.clone();
        while bytes.len() < PERIOD + Self::CHUNK {
            bytes.extend_from_slice(&period);
        }
        Self { bytes }
    }

    /// The octets from `offset`, `length` of them but at most [`Self::CHUNK`].
    pub fn at(&self, offset: u64, length: u64) -> &[u8] {
        let start = (offset % PERIOD as u64) as usize;
        let length = length.min(Self::CHUNK as u64) as usize;
        &self.bytes[start..start + length]
    }

    /// Offset of the first octet of `data` that differs from the pattern at `offset`.
    pub fn first_difference(&self, offset: u64, data: &[u8]) -> Option<u64> {
        let mut at = offset;
        for chunk in data.chunks(Self::CHUNK) {
            let expected = self.at(at, chunk.len() as u64);
            if expected != chunk {
                let same = expected.iter().zip(chunk).take_while(|(a, b)| a == b);
                return Some(at + same.count() as u64);
            }
            at += chunk.len() as u64;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_found_at_its_offset() {
        let pattern = Pattern::new();
        let mut data = pattern.at(1_000_000, 60_000).to_vec();
        assert_eq!(pattern.first_difference(1_000_000, &data), None);
        data[41_234] ^= 1;
        assert_eq!(
            pattern.first_difference(1_000_000, &data),
            Some(1_000_000 + 41_234)
        );
    }

    #[test]
    fn a_lost_segment_shows() {
        let pattern = Pattern::new();
        let mut data = pattern.at(0, 10_000).to_vec();
        data.drain(1448..2896);
        assert!(matches!(
            pattern.first_difference(0, &data),
            Some(1448..1460)
        ));
    }
}
