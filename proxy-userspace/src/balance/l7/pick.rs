//! What a pick is asked for, and why it may come to nothing.

use super::Nanos;

/// What is to be known about a request to choose for it.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Hash of what the service is balanced by ([`super::hash_key`]); only hash policies look at
    /// it. `None` where the request lacks it: then it is drawn.
    pub key: Option<u64>,
    /// What the client's cookie says ([`super::sticky::decode`]).
    pub sticky: Option<u64>,
    /// 64 random bits.
    pub random: u64,
    /// Now.
    pub now: Nanos,
    /// Backends that have had this request already.
    pub tried: &'a Tried,
}

/// Nobody can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// All that could serve are at their limits: the request may wait.
    #[error("every backend is at its limit")]
    Busy,
    /// All that could serve have had this request already.
    #[error("every backend has been tried")]
    Tried,
    /// There is none, or none is healthy.
    #[error("no backend is available")]
    NoBackend,
}

/// Backends that have had a request, by their slots. Room for [`Tried::CAPACITY`], more than a
/// request is ever retried; then the oldest is forgotten.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tried {
    slots: [u32; Self::CAPACITY],
    count: u32,
}

impl Tried {
    /// Room.
    pub const CAPACITY: usize = 8;

    /// Nobody yet.
    pub const NONE: &'static Self = &Self {
        slots: [0; Self::CAPACITY],
        count: 0,
    };

    /// Adds a backend's slot.
    pub fn add(&mut self, slot: u32) {
        self.slots[self.count as usize % Self::CAPACITY] = slot;
        self.count += 1;
    }

    /// Whether the backend of this slot is among them.
    #[inline]
    pub fn contains(&self, slot: u32) -> bool {
        let count = (self.count as usize).min(Self::CAPACITY);
        self.slots[..count].contains(&slot)
    }

    /// Number of attempts.
    pub fn count(&self) -> u32 {
        self.count
    }
}

/// Random numbers from one of them: splitmix64.
pub(super) struct Draws(pub(super) u64);

impl Draws {
    /// 64 bits.
    #[inline]
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        proxy_common::hash::mix(self.0)
    }
}

/// Spreads 64 bits over `0..end`, by their upper part.
#[inline]
pub(super) fn scale(bits: u64, end: usize) -> usize {
    ((u128::from(bits) * end as u128) >> 64) as usize
}
