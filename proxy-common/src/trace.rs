//! Which flows are traced, and the ids by which they are known.
//!
//! The packet path and the proxies see the same client with the same 5-tuple and never talk about
//! it. Both therefore derive the decision and the id from the keyed hash of the tuple: what one of
//! them traces the other does as well, under the same id. A coarser sampling picks a part of what a
//! finer one picks, so that those who observe at different rates agree on the flows that both see.
//!
//! An id is told to whoever gets a trace, backends among them. It must not help anybody to aim flows
//! at one set of the flow table, so it is a keyed one-way function (SipHash-2-4) of the hash and not
//! the hash itself.

use crate::hash::mix;

/// What [`is_sampled`] compares with: flows are told apart by 31 bits of their hash.
const ALL: u32 = 1 << 31;

/// The threshold at which one flow in `every` is traced; 0 traces none, and has the threshold 0.
pub const fn threshold(every: u32) -> u32 {
    match every {
        0 => 0,
        every => ALL.div_ceil(every),
    }
}

/// What a flow with this [`crate::hash::flow_hash`] is judged by, below 2^31: it is traced where this
/// is below the threshold.
#[inline(always)]
pub const fn rank(hash: u64) -> u32 {
    (hash >> 33) as u32
}

/// True if flows with this [`crate::hash::flow_hash`] are traced.
#[inline(always)]
pub const fn is_sampled(hash: u64, threshold: u32) -> bool {
    rank(hash) < threshold
}

/// The id of the flow with this [`crate::hash::flow_hash`], never 0.
#[inline(always)]
pub const fn flow_id(hash: u64, secrets: &[u64; 5]) -> u64 {
    let key = [
        mix(secrets[0] ^ mix(secrets[1])),
        mix(secrets[2] ^ mix(secrets[3])),
    ];
    let id = siphash(hash, key);
    if id == 0 { 1 } else { id }
}

/// SipHash-2-4 of eight octets (Aumasson and Bernstein, 2012).
#[inline(always)]
const fn siphash(word: u64, key: [u64; 2]) -> u64 {
    let mut v = [
        key[0] ^ 0x736f_6d65_7073_6575,
        key[1] ^ 0x646f_7261_6e64_6f6d,
        key[0] ^ 0x6c79_6765_6e65_7261,
        key[1] ^ 0x7465_6462_7974_6573,
    ];
    v[3] ^= word;
    v = round(round(v));
    v[0] ^= word;
    // The last block holds the length alone.
    let last = 8 << 56;
    v[3] ^= last;
    v = round(round(v));
    v[0] ^= last;
    v[2] ^= 0xff;
    v = round(round(round(round(v))));
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

#[inline(always)]
const fn round([a, b, c, d]: [u64; 4]) -> [u64; 4] {
    let a = a.wrapping_add(b);
    let b = b.rotate_left(13) ^ a;
    let a = a.rotate_left(32);
    let c = c.wrapping_add(d);
    let d = d.rotate_left(16) ^ c;
    let a = a.wrapping_add(d);
    let d = d.rotate_left(21) ^ a;
    let c = c.wrapping_add(b);
    let b = b.rotate_left(17) ^ c;
    let c = c.rotate_left(32);
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Addr;
    use crate::flow::FlowKey;
    use crate::hash::{flow_hash, secrets};

    const SECRETS: [u64; 5] = secrets([
        0x243f_6a88_85a3_08d3,
        0x1319_8a2e_0370_7344,
        0xa409_3822_299f_31d0,
        0x082e_fa98_ec4e_6c89,
        0x4528_21e6_38d0_1377,
    ]);

    fn hash(client: u32, port: u16) -> u64 {
        let (client, vip) = (Addr::v4(client.to_be_bytes()), Addr::v4([10, 0, 0, 1]));
        let key = FlowKey::new(client, vip, port.to_be(), 443u16.to_be(), 6);
        flow_hash(key.words(), &SECRETS)
    }

    #[test]
    fn siphash_gives_the_vector_of_its_authors() {
        // Key 00 01 … 0f, message 00 01 … 07: `vectors_sip64[8]` of the reference implementation.
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        let word = 0x0706_0504_0302_0100;
        assert_eq!(siphash(word, key), 0x93f5_f579_9a93_2462);
    }

    #[test]
    fn a_share_of_the_flows_is_traced_and_a_coarser_one_lies_within_it() {
        let mut counts = [0_u32; 3];
        let thresholds = [1, 10, 100].map(threshold);
        for client in 0..100_000 {
            let hash = hash(0x0a00_0000 + client / 100, 1024 + (client % 100) as u16);
            let sampled = thresholds.map(|threshold| is_sampled(hash, threshold));
            assert!(sampled[0] && sampled[0] >= sampled[1] && sampled[1] >= sampled[2]);
            for (count, sampled) in counts.iter_mut().zip(sampled) {
                *count += u32::from(sampled);
            }
            assert!(!is_sampled(hash, threshold(0)));
        }
        // Five standard deviations.
        assert!(counts[1].abs_diff(10_000) < 475, "{counts:?}");
        assert!(counts[2].abs_diff(1_000) < 158, "{counts:?}");
    }

    #[test]
    fn the_finest_threshold_is_above_every_rank_and_the_coarsest_above_one() {
        assert_eq!(threshold(0), 0);
        assert!(is_sampled(u64::MAX, threshold(1)));
        assert_eq!(threshold(u32::MAX), 1);
    }

    #[test]
    fn an_id_is_of_its_flow_and_its_secrets() {
        let id = flow_id(hash(1, 1), &SECRETS);
        assert_eq!(id, flow_id(hash(1, 1), &SECRETS));
        assert_ne!(id, flow_id(hash(1, 2), &SECRETS));
        assert_ne!(id, flow_id(hash(1, 1), &secrets([1, 2, 3, 4, 5])));
    }
}
