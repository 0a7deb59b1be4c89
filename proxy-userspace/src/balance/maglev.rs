//! Maglev rings: which backend a hash of a flow leads to (Eisenbud et al., "Maglev: A Fast and
//! Reliable Software Network Load Balancer", NSDI 2016, §3.4), with weights.
//!
//! As in the paper, each backend has its own permutation of the slots, *offset* + rank × *skip*
//! modulo a prime, drawn from what identifies it and from nothing else; backends take turns and
//! fill the ring. Two things differ, both to move fewer slots when the set changes:
//!
//! - **A turn is spent even if its slot is taken.** In the paper a backend whose preferred slot is
//!   taken goes on to its next free one in the same turn, so one lost slot shifts all its later
//!   turns. Here the rank at which a backend asks for a slot never depends on the others, so a
//!   slot goes to whoever ranks it first, as in rendezvous hashing, where removing a backend moves
//!   nothing but its own slots.
//! - **Each backend stops at its quota**, its weight's share of the ring rounded down or up
//!   (largest remainders). Rendezvous hashing alone spreads 65537 slots over 100 backends with a
//!   standard deviation of 4 %; with quotas no backend is a whole slot off. Quotas are also what
//!   makes the few other slots move: about 0.3 % for one backend of 100 at 65537 slots, half of
//!   what the paper's population moves. See `docs/adr/0002-maglev-by-rank.md` for the figures.
//!
//! A backend of weight *w* asks for its slot of rank *r* at the time (*r* + phase) / *w*, where
//! the phase in 0..1 is drawn from its identity. That time does not depend on the other weights,
//! so changing one weight keeps the order of all the others.
//!
//! The ring is a pure function of the *set* of members. Balancers of a fleet therefore agree
//! without talking to each other, whatever order their configuration has and whatever was there
//! before; a rebuild that starts from the previous ring would move even less, but would give that
//! up.
//!
//! The work is about `size × ln(size)` claims, whatever the number of members, and a logarithm of
//! the number of *distinct* weights for each.

use proxy_common::addr::Addr;
use proxy_common::hash::mix;
use proxy_common::maps::capacity;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

/// A backend that may take new flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    /// Address of the server; with `port` it identifies the member.
    pub addr: Addr,
    /// Port of the server in host byte order; 0 keeps the client's.
    pub port: u16,
    /// Its share of the ring relative to the others; 0 takes no part.
    pub weight: u16,
}

/// Most members of a ring: backend ids have 16 bits, and 0 is not one.
pub const MAX_MEMBERS: usize = capacity::MAX_BACKENDS as usize - 1;

/// A ring cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// The permutations cover every slot only for a prime size.
    #[error("a ring cannot have {0} slots: the number must be a prime up to {max}", max = capacity::MAX_RING_SIZE)]
    Size(u32),
    /// The slots of a ring have 16 bits.
    #[error("a ring cannot have {0} members, only {MAX_MEMBERS}")]
    Members(usize),
}

/// Builds a ring of `size` slots. Each holds an index into `members`.
///
/// The ring is empty when no member has a weight. It does not depend on the order of `members`,
/// apart from the indices, as long as no two have the same address and port.
///
/// # Errors
///
/// [`RingError`] if `size` is not a prime up to [`capacity::MAX_RING_SIZE`], or if there are more
/// than [`MAX_MEMBERS`] members.
pub fn ring(members: &[Member], size: u32) -> Result<Vec<u16>, RingError> {
    check_size(size)?;
    if members.len() > MAX_MEMBERS {
        return Err(RingError::Members(members.len()));
    }
    let mut classes = classes(members, size);
    if classes.is_empty() {
        return Ok(Vec::new());
    }
    let mut ring = Ring {
        slots: vec![FREE; size as usize],
        free: size as usize,
    };
    fill(&mut ring, &mut classes);
    Ok(ring.slots)
}

/// Whether a ring can have `size` slots.
///
/// # Errors
///
/// [`RingError::Size`] if it is not a prime up to [`capacity::MAX_RING_SIZE`].
pub fn check_size(size: u32) -> Result<(), RingError> {
    if size <= capacity::MAX_RING_SIZE && is_prime(size) {
        Ok(())
    } else {
        Err(RingError::Size(size))
    }
}

/// True if `n` is a prime number, by trial division: fast enough for ring sizes.
fn is_prime(n: u32) -> bool {
    let n = u64::from(n);
    n >= 2
        && (2..)
            .take_while(|divisor| divisor * divisor <= n)
            .all(|divisor| !n.is_multiple_of(divisor))
}

/// A slot that nobody has yet; no index, because of [`MAX_MEMBERS`].
const FREE: u16 = u16::MAX;

/// A ring that is being filled.
struct Ring {
    slots: Vec<u16>,
    free: usize,
}

/// A member during the filling.
struct Claimant {
    /// Slot of the next rank.
    slot: u32,
    /// Distance to the slot after that.
    skip: u32,
    /// Slots to its quota.
    wanted: u32,
    /// When within a rank it asks, as a fraction of 2^32.
    phase: u32,
    /// Index in the given list.
    index: u16,
}

/// The claimants of one weight. They ask in the same order, by phase, at every rank.
struct Class {
    weight: u16,
    /// Time between two ranks: 2^64 / weight, rounded down.
    per_turn: u64,
    rank: u64,
    /// Those that had not reached their quota when the rank began, by phase.
    claimants: Vec<Claimant>,
    /// Who asks next.
    cursor: usize,
    /// Somebody has reached its quota at this rank.
    is_thinner: bool,
}

/// What identifies a member, spread over 64 bits.
///
/// Three rounds of the finisher of splitmix64 (`proxy_common::hash::mix`) over the address, as
/// two big-endian words, and the port: the same on every machine and in every release, because
/// the balancers of a fleet must agree.
fn identity(member: &Member) -> u64 {
    let value = u128::from_be_bytes(member.addr.octets);
    let high = mix((value >> 64) as u64 ^ SEED_IDENTITY);
    let low = mix(high ^ value as u64);
    mix(low ^ u64::from(member.port))
}

/// Starts of the hashes: digits of π, so that they are nobody's choice.
const SEED_IDENTITY: u64 = 0x243f_6a88_85a3_08d3;
const SEED_OFFSET: u64 = 0x1319_8a2e_0370_7344;
const SEED_SKIP: u64 = 0xa409_3822_299f_31d0;
const SEED_PHASE: u64 = 0x082e_fa98_ec4e_6c89;

impl Claimant {
    fn new(index: u16, identity: u64, quota: u32, size: u32) -> Self {
        let size = u64::from(size);
        Self {
            slot: (mix(identity ^ SEED_OFFSET) % size) as u32,
            skip: (mix(identity ^ SEED_SKIP) % (size - 1)) as u32 + 1,
            wanted: quota,
            phase: (mix(identity ^ SEED_PHASE) >> 32) as u32,
            index,
        }
    }

    /// Asks for the slot of the next rank.
    fn claim(&mut self, ring: &mut Ring) {
        let size = ring.slots.len() as u32;
        let slot = &mut ring.slots[self.slot as usize];
        if *slot == FREE {
            *slot = self.index;
            ring.free -= 1;
            self.wanted -= 1;
        }
        let next = self.slot + self.skip;
        self.slot = if next >= size { next - size } else { next };
    }
}

impl Class {
    /// When the next claimant asks: (rank + phase) / weight, as a fraction of 2^32.
    fn time(&self) -> Option<u64> {
        let claimant = self.claimants.get(self.cursor)?;
        let turns = self.rank << 32 | u64::from(claimant.phase);
        Some(((u128::from(turns) * u128::from(self.per_turn)) >> 64) as u64)
    }

    /// Lets the next claimant ask.
    fn step(&mut self, ring: &mut Ring) {
        let claimant = &mut self.claimants[self.cursor];
        claimant.claim(ring);
        self.is_thinner |= claimant.wanted == 0;
        self.cursor += 1;
        if self.cursor == self.claimants.len() {
            self.end_rank();
        }
    }

    fn end_rank(&mut self) {
        if self.is_thinner {
            self.claimants.retain(|claimant| claimant.wanted > 0);
            self.is_thinner = false;
        }
        self.cursor = 0;
        self.rank += 1;
    }
}

/// Sorts the members that have a quota by weight and phase.
fn classes(members: &[Member], size: u32) -> Vec<Class> {
    let identities: Vec<u64> = members.iter().map(identity).collect();
    let quotas = quotas(members, &identities, size);
    let mut order: Vec<usize> = (0..members.len()).filter(|&i| quotas[i] > 0).collect();
    order.sort_unstable_by_key(|&i| tie_break(members, &identities, i));

    let mut classes: Vec<Class> = Vec::new();
    order.sort_by_key(|&i| members[i].weight);
    for i in order {
        let weight = members[i].weight;
        if classes.last().is_none_or(|class| class.weight != weight) {
            classes.push(Class {
                weight,
                per_turn: u64::MAX / u64::from(weight),
                rank: 0,
                claimants: Vec::new(),
                cursor: 0,
                is_thinner: false,
            });
        }
        if let Some(class) = classes.last_mut() {
            let claimant = Claimant::new(i as u16, identities[i], quotas[i], size);
            class.claimants.push(claimant);
        }
    }
    for class in &mut classes {
        class.claimants.sort_by_key(|claimant| claimant.phase);
    }
    classes
}

/// An order of members that depends on nothing but who they are.
fn tie_break(members: &[Member], identities: &[u64], i: usize) -> (u64, Addr, u16) {
    (identities[i], members[i].addr, members[i].port)
}

/// Slots of each member: its share rounded down, and one more for the largest remainders.
fn quotas(members: &[Member], identities: &[u64], size: u32) -> Vec<u32> {
    let total: u64 = members.iter().map(|m| u64::from(m.weight)).sum();
    if total == 0 {
        return vec![0; members.len()];
    }
    let scaled = |m: &Member| u64::from(m.weight) * u64::from(size);
    let mut quotas: Vec<u32> = members.iter().map(|m| (scaled(m) / total) as u32).collect();
    let given: u32 = quotas.iter().sum();
    let mut order: Vec<usize> = (0..members.len()).collect();
    order.sort_unstable_by_key(|&i| {
        let remainder = scaled(&members[i]) % total;
        (Reverse(remainder), tie_break(members, identities, i))
    });
    for i in order.into_iter().take((size - given) as usize) {
        quotas[i] += 1;
    }
    quotas
}

/// Lets the claimants of all classes ask in the order of their times until the ring is full.
///
/// Terminates because the quotas add up to the ring's size and each claimant asks for every slot
/// within `size` ranks: whoever is below its quota leaves no slot free behind it.
fn fill(ring: &mut Ring, classes: &mut [Class]) {
    // Classes are in the order of their weights, so equal times are settled by weight.
    let mut queue: BinaryHeap<Reverse<(u64, usize)>> = classes
        .iter()
        .enumerate()
        .filter_map(|(i, class)| Some(Reverse((class.time()?, i))))
        .collect();
    while queue.len() > 1 {
        let Some(mut first) = queue.peek_mut() else {
            break;
        };
        let Reverse((time, i)) = &mut *first;
        let class = &mut classes[*i];
        class.step(ring);
        match class.time() {
            Some(next) => *time = next,
            None => drop(PeekMut::pop(first)),
        }
    }
    // The only class left, as always when all weights are equal.
    let Some(Reverse((_, last))) = queue.pop() else {
        return;
    };
    while ring.free > 0 {
        classes[last].step(ring);
    }
}

#[cfg(test)]
mod tests;
