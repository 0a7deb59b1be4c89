//! Counts of offences by source, in bounded memory.
//!
//! The window slides in eighths: what counts is the eighth that has begun and the seven before it,
//! so never more than the whole window and never less than seven eighths of it. Nobody is accused
//! for fewer offences than the window has seen, and whoever makes them within seven eighths of it
//! always is.
//!
//! Sources stand in sets of eight, chosen by a hash with a secret, so that nobody can aim at a set.

use super::Offence;
use ipnet::IpNet;
use proxy_common::hash::mix;
use std::hash::{BuildHasher, RandomState};

/// Sources that have offended and are remembered at a time, at most. With their counts, 1.2 MiB.
pub const SUSPECTS: usize = 8192;

/// Sources that one more may displace.
const WAYS: usize = 8;

/// Parts of a window.
const SLOTS: u64 = 8;

/// What a source has done within the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Offences, of all kinds.
    pub offences: u32,
    /// Connections that behaved well to their end.
    pub behaved: u32,
}

/// Counts of one thing over the window.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    /// The number of the slot that was counted in last.
    newest: u64,
    counts: [u16; SLOTS as usize],
}

impl Window {
    /// Forgets what is too old at `slot`. Readings of several clocks may come in any order: an older
    /// one counts as the newest.
    fn slide(&mut self, slot: u64) {
        for gone in 0..slot.saturating_sub(self.newest).min(SLOTS) {
            self.counts[((slot - gone) % SLOTS) as usize] = 0;
        }
        self.newest = self.newest.max(slot);
    }

    fn add(&mut self, slot: u64) {
        self.slide(slot);
        let count = &mut self.counts[(self.newest % SLOTS) as usize];
        *count = count.saturating_add(1);
    }

    fn sum(&mut self, slot: u64) -> u32 {
        self.slide(slot);
        self.counts.iter().copied().map(u32::from).sum()
    }
}

/// A source that has offended.
#[derive(Clone, Copy, Debug)]
struct Suspect {
    source: IpNet,
    /// When it offended last, in slots.
    last: u64,
    offences: [Window; Offence::ALL.len()],
    behaved: Window,
}

impl Suspect {
    fn new(source: IpNet) -> Self {
        Self {
            source,
            last: 0,
            offences: Default::default(),
            behaved: Window::default(),
        }
    }
}

/// Counts by source.
#[derive(Debug)]
pub struct Ledger {
    /// Sets of [`WAYS`]; made with the first offence.
    suspects: Vec<Option<Suspect>>,
    capacity: usize,
    /// Nanoseconds.
    slot: u64,
    secret: RandomState,
}

impl Ledger {
    /// An empty one with room for `capacity` sources, in sets of eight, and for one set at least.
    pub fn new(capacity: usize) -> Self {
        Self {
            suspects: Vec::new(),
            capacity: capacity.next_multiple_of(WAYS).max(WAYS),
            slot: 0,
            secret: RandomState::new(),
        }
    }

    /// Counts an offence. If these are `most` (above 0) of its kind in the window of `within`
    /// nanoseconds now, the source is accused: what it has done is given, and its offences are
    /// counted anew. A window of another length than before begins with nothing.
    pub fn offend(
        &mut self,
        source: IpNet,
        (kind, most): (Offence, u32),
        now: u64,
        within: u64,
    ) -> Option<Tally> {
        let slot = self.slot(now, within);
        let suspect = self.enter(source, slot);
        suspect.last = slot;
        let window = &mut suspect.offences[kind.index()];
        window.add(slot);
        if most == 0 || window.sum(slot) < most {
            return None;
        }
        let offences = suspect.offences.iter_mut().map(|it| it.sum(slot)).sum();
        suspect.offences = Default::default();
        Some(Tally {
            offences,
            behaved: suspect.behaved.sum(slot),
        })
    }

    /// A connection has behaved well to its end. That is counted only of sources that have offended:
    /// of the others nobody asks.
    pub fn behave(&mut self, source: IpNet, now: u64, within: u64) {
        if self.suspects.is_empty() {
            return;
        }
        let slot = self.slot(now, within);
        let set = self.set(source);
        let mut set = self.suspects.get_mut(set).into_iter().flatten().flatten();
        if let Some(suspect) = set.find(|it| it.source == source) {
            suspect.behaved.add(slot);
        }
    }

    /// Forgets what a source has done.
    pub fn forget(&mut self, source: IpNet) {
        let set = self.set(source);
        for place in self.suspects.get_mut(set).into_iter().flatten() {
            if place.is_some_and(|it| it.source == source) {
                *place = None;
            }
        }
    }

    /// Sources that are remembered.
    pub fn len(&self) -> usize {
        self.suspects.iter().flatten().count()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of the slot at a time.
    fn slot(&mut self, now: u64, within: u64) -> u64 {
        let slot = (within / SLOTS).max(1);
        if self.slot != slot {
            self.slot = slot;
            self.suspects.clear();
        }
        now / slot
    }

    /// Where the set of a source stands.
    fn set(&self, source: IpNet) -> std::ops::Range<usize> {
        let sets = self.capacity / WAYS;
        let first = (mix(self.secret.hash_one(source)) % sets as u64) as usize * WAYS;
        first..first + WAYS
    }

    /// The entry of a source; made if there is none, in an empty place or in that of the source
    /// which has not offended for the longest time.
    fn enter(&mut self, source: IpNet, slot: u64) -> &mut Suspect {
        if self.suspects.is_empty() {
            self.suspects.resize(self.capacity, None);
        }
        let range = self.set(source);
        let set = &mut self.suspects[range];
        let known = set
            .iter()
            .position(|it| it.is_some_and(|it| it.source == source));
        let place = known.unwrap_or_else(|| {
            // An empty place is older than any other.
            let age = |it: &Option<Suspect>| it.map_or(0, |it| it.last.min(slot) + 1);
            let oldest = (0..WAYS).min_by_key(|&at| age(&set[at]));
            oldest.unwrap_or(0)
        });
        if known.is_none() {
            set[place] = None;
        }
        set[place].get_or_insert_with(|| Suspect::new(source))
    }
}
