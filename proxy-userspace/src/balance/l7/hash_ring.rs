//! A consistent hash ring after ketama: each backend owns many points of a circle, and a key
//! belongs to whoever owns the next point.
//!
//! Points depend on nothing but a backend's address and their number, so backends that come and go
//! take only keys from, or give keys to, the others, and a change of weight adds or removes points
//! of one backend. Maglev is quicker to look up and more even; this ring moves fewer keys when
//! weights differ much, and walks on in a fixed order when a backend is full.

use proxy_common::hash::mix;

#[derive(Debug)]
pub(super) struct HashRing {
    /// Sorted places of the points.
    places: Box<[u32]>,
    /// Their owners.
    owners: Box<[u16]>,
}

/// Points of a backend whose weight is the smallest. With 160 points, a share is off by 8 %
/// (standard deviation).
const POINTS: u64 = 160;

/// Points at most (unless that is less than one for each backend): 1.5 MiB.
const MAX_POINTS: u64 = 1 << 18;

impl HashRing {
    /// `identities` tell the backends apart, on every machine alike.
    pub(super) fn new(identities: &[u64], weights: &[u64]) -> Self {
        let mut points: Vec<(u32, u64, u16)> = Vec::new();
        let counts = counts(weights);
        for (index, (&identity, count)) in identities.iter().zip(counts).enumerate() {
            let place = |n| (mix(identity ^ mix(n)) >> 32) as u32;
            points.extend((0..count).map(|n| (place(n), identity, index as u16)));
        }
        // By identity where places coincide, for the index depends on the configuration's order.
        points.sort_unstable();
        Self {
            places: points.iter().map(|point| point.0).collect(),
            owners: points.iter().map(|point| point.2).collect(),
        }
    }

    /// The owners from the key's place on, once around.
    #[inline]
    pub(super) fn walk(&self, key: u64) -> impl Iterator<Item = usize> + '_ {
        let place = (mix(key) >> 32) as u32;
        let start = self.places.partition_point(|&p| p < place);
        let owners = self.owners[start..].iter().chain(&self.owners[..start]);
        owners.map(|owner| usize::from(*owner))
    }
}

/// Points of each backend.
fn counts(weights: &[u64]) -> impl Iterator<Item = u64> + '_ {
    let least = weights.iter().copied().min().unwrap_or(1).max(1);
    let sum: u64 = weights.iter().sum();
    let per_weight = POINTS as f64 / least as f64;
    let scale = per_weight.min(MAX_POINTS as f64 / sum.max(1) as f64);
    weights
        .iter()
        .map(move |w| ((*w as f64 * scale).round() as u64).max(1))
}
