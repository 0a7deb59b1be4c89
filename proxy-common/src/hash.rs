//! The hashes that both sides compute.

use crate::addr::Addr;
use crate::flow::FlowKey;
use crate::settings::FILTER_OCTETS;

/// Odd constants with well-spread bits (from the golden ratio and its kin).
const K: [u64; 5] = [
    0x9e37_79b9_7f4a_7c15,
    0xc2b2_ae3d_27d4_eb4f,
    0x1656_67b1_9e37_79f9,
    0x85eb_ca77_c2b2_ae63,
    0x27d4_eb2f_1656_67c5,
];

/// Mixes all bits of `x` (the finisher of splitmix64).
#[inline(always)]
pub const fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Place of a flow in the flow table. Secret: `secrets` are drawn at random, see `Settings`.
///
/// A sum of products with secret odd factors: tuples that differ in one word never meet in it, and
/// those that differ in several do so for one choice of secrets in 2^32. The products are
/// independent of each other, so that they overlap in the pipeline, and those of words that are
/// known to be zero (half of an IPv4 tuple) cost nothing.
#[inline(always)]
pub const fn flow_hash(words: [u64; 5], secrets: &[u64; 5]) -> u64 {
    let sum = words[0]
        .wrapping_mul(secrets[0])
        .wrapping_add(words[1].wrapping_mul(secrets[1]))
        .wrapping_add(words[2].wrapping_mul(secrets[2]))
        .wrapping_add(words[3].wrapping_mul(secrets[3]))
        .wrapping_add(words[4].wrapping_mul(secrets[4]));
    let sum = (sum ^ (sum >> 32)).wrapping_mul(K[1]);
    sum ^ (sum >> 29)
}

/// Makes random words fit to be `Settings::secrets`: an even factor would lose information.
pub const fn secrets(random: [u64; 5]) -> [u64; 5] {
    let [a, b, c, d, e] = random;
    [a | 1, b | 1, c | 1, d | 1, e | 1]
}

/// Hash of a flow for the choice of its backend: the same on all balancers with the same seed.
#[inline(always)]
pub const fn selection_hash(key: &FlowKey, seed: u64) -> u32 {
    let w = key.words();
    let sum = seed
        .wrapping_add(w[0].wrapping_mul(K[0]))
        .wrapping_add(w[1].wrapping_mul(K[1]))
        .wrapping_add(w[2].wrapping_mul(K[2]))
        .wrapping_add(w[3].wrapping_mul(K[3]))
        .wrapping_add(w[4].wrapping_mul(K[4]));
    (mix(sum) >> 32) as u32
}

/// Hash of a client address for source affinity.
#[inline(always)]
pub const fn source_hash(client: &Addr, seed: u64) -> u32 {
    let w = client.words();
    (mix(mix(w[0] ^ seed) ^ w[1]) >> 32) as u32
}

/// Slot of a ring of `size` slots for a selection hash.
#[inline(always)]
pub const fn ring_slot(hash: u32, size: u32) -> u32 {
    ((hash as u64 * size as u64) >> 32) as u32
}

/// Word and mask of an address in the address filter.
#[inline(always)]
pub const fn filter_bit(addr: &Addr) -> (usize, u64) {
    let [a, b] = addr.words();
    let h = (a ^ b.rotate_left(23)).wrapping_mul(K[0]);
    let bit = (h >> 48) as usize & (FILTER_OCTETS * 8 - 1);
    (bit / 64, 1 << (bit % 64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Position, WAYS};
    use std::collections::HashMap;
    use std::vec;

    const SECRETS: [u64; 5] = secrets([
        0x243f_6a88_85a3_08d3,
        0x1319_8a2e_0370_7344,
        0xa409_3822_299f_31d0,
        0x082e_fa98_ec4e_6c89,
        0x4528_21e6_38d0_1377,
    ]);

    fn key(client: u32, port: u16) -> FlowKey {
        let (client, vip) = (Addr::v4(client.to_be_bytes()), Addr::v4([10, 0, 0, 1]));
        FlowKey::new(client, vip, port.to_be(), 80u16.to_be(), 6)
    }

    #[test]
    fn flow_hash_spreads_neighbouring_tuples_like_chance() {
        // 8 flows per set on average; a Poisson distribution exceeds 16 for 0.4 % of the sets.
        let sets = 8_192u32;
        let secrets = SECRETS;
        let mut fill = vec![0u32; sets as usize];
        for i in 0..sets * 8 {
            let k = key(0x0a00_0000 + i / 60_000, (i % 60_000) as u16 + 1024);
            fill[Position::of(flow_hash(k.words(), &secrets), sets).set as usize] += 1;
        }
        let lost: u32 = fill.iter().map(|n| n.saturating_sub(WAYS as u32)).sum();
        assert!(
            lost * 200 < sets * 8,
            "{lost} of {} flows find their set full",
            sets * 8
        );
    }

    #[test]
    fn tags_differ_within_a_set() {
        let secrets = SECRETS;
        let mut clashes = 0;
        let mut seen = HashMap::new();
        for i in 0..100_000u32 {
            let p = Position::of(flow_hash(key(i, 4242).words(), &secrets), 12_500);
            if seen.insert((p.set, p.tag), i).is_some() {
                clashes += 1;
            }
        }
        // 26 bits tell the eight flows of a set apart: one in 8 million has a double.
        assert_eq!(clashes, 0, "of 100000 keys share set and tag");
    }

    #[test]
    fn selection_ignores_the_table_secrets_and_depends_on_the_seed() {
        let k = key(0xc0a8_0101, 31337);
        assert_eq!(selection_hash(&k, 7), selection_hash(&k, 7));
        assert_ne!(selection_hash(&k, 7), selection_hash(&k, 8));
    }
}
