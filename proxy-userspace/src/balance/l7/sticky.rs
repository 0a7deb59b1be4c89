//! The value of the cookie that keeps a client with its backend.
//!
//! It is a keyed hash of the service's and the backend's names (SipHash-2-4), as 16 hexadecimal
//! digits. It depends on no index and no order, so it holds over reloads, restarts and on every
//! balancer with the same secret. It tells nobody an address: names are `ADDRESS:PORT` by default,
//! and a hash without a key could be searched for those in minutes. It is no permission either:
//! who makes one up can at best choose among backends that any client may get.

use siphasher::sip::SipHasher24;
use std::hash::Hasher;

/// Octets of a cookie's value.
pub const LENGTH: usize = 16;

/// What stands for a backend. Equal on all balancers that have the same `secret`.
pub fn id(secret: u64, service: &str, backend: &str) -> u64 {
    let mut hasher = SipHasher24::new_with_keys(secret, KEY);
    hasher.write(service.as_bytes());
    // No name contains it, so no two pairs are written alike.
    hasher.write(&[0]);
    hasher.write(backend.as_bytes());
    hasher.finish()
}

/// The cookie's value.
pub fn encode(id: u64) -> [u8; LENGTH] {
    let mut value = [0; LENGTH];
    for (i, octet) in value.iter_mut().enumerate() {
        *octet = b"0123456789abcdef"[(id >> (60 - 4 * i)) as usize & 15];
    }
    value
}

/// What a client's cookie says; `None` if it is none of ours.
pub fn decode(value: &[u8]) -> Option<u64> {
    if value.len() != LENGTH {
        return None;
    }
    value.iter().try_fold(0, |id, &octet| {
        let digit = match octet {
            b'0'..=b'9' => octet - b'0',
            b'a'..=b'f' => octet - b'a' + 10,
            _ => return None,
        };
        Some(id << 4 | u64::from(digit))
    })
}

/// Second half of the key: digits of π.
const KEY: u64 = 0xc0ac_29b7_c97c_50dd;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back() {
        for id in [0, 1, u64::MAX, 0x0123_4567_89ab_cdef] {
            assert_eq!(decode(&encode(id)), Some(id));
        }
    }

    #[test]
    fn anything_else_is_none_of_ours() {
        for value in [
            "",
            "0123456789abcde",
            "0123456789abcdef0",
            "0123456789ABCDEF",
            "+123456789abcdef",
        ] {
            assert_eq!(decode(value.as_bytes()), None, "{value}");
        }
    }

    #[test]
    fn names_and_secret_make_the_difference() {
        let a = id(1, "shop", "a");
        assert_eq!(a, id(1, "shop", "a"));
        for other in [id(2, "shop", "a"), id(1, "sho", "pa"), id(1, "shop", "b")] {
            assert_ne!(a, other);
        }
    }
}
