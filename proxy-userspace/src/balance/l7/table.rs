//! A group of backends that are equally welcome, and the precomputed half of the policy.

use super::alias::Alias;
use super::backend::BackendState;
use super::hash_ring::HashRing;
use super::pick::{Ask, Draws, scale};
use super::turns::{Cursor, Turns};
use super::{Nanos, ServiceSpec};
use crate::balance::maglev;
use crate::config::model::http::BalancePolicy;
use proxy_common::addr::Addr;
use proxy_common::hash::mix;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// A backend that may be chosen.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) backend: Arc<BackendState>,
    /// Never 0. Relative to the others of the group only.
    pub(super) weight: u64,
    /// Copies of what the backend says, so that a pick need not look there.
    pub(super) limit: u32,
    pub(super) slot: u32,
}

impl Candidate {
    #[inline]
    pub(super) fn can_take(&self, ask: &Ask<'_>) -> bool {
        self.backend.in_flight() < self.limit && !ask.tried.contains(self.slot)
    }
}

/// Candidates, and what the policy has computed about them.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) candidates: Box<[Candidate]>,
    table: Table,
    /// False: the request waits rather than go to the next group because these are full.
    pub(super) spills: bool,
}

#[derive(Debug)]
enum Table {
    Turns(Turns),
    Least(Turns),
    TwoChoices(Alias),
    PeakEwma(Alias),
    Random(Alias),
    Maglev(Box<[u16]>),
    Ring(HashRing),
}

/// What became of a group.
pub(super) enum Outcome<'a> {
    Found(&'a Candidate),
    /// Somebody who has not had the request is full.
    Full,
    /// All have had it.
    Tried,
}

impl Group {
    /// `candidates` are not empty and at most [`super::MAX_BACKENDS`].
    pub(super) fn new(
        candidates: Vec<Candidate>,
        spec: &ServiceSpec,
        cursor: &Arc<Cursor>,
        spills: bool,
    ) -> Self {
        Self {
            table: Table::new(&candidates, spec, cursor),
            candidates: candidates.into(),
            spills,
        }
    }

    /// The policy's choice among those that can take the request.
    #[inline]
    pub(super) fn pick(&self, ask: &Ask<'_>) -> Outcome<'_> {
        let index = match &self.table {
            Table::Turns(turns) => turns.pick(&self.candidates, ask),
            Table::Least(turns) => self.least(turns, ask),
            Table::TwoChoices(alias) => self.better(alias, ask, is_busier),
            Table::PeakEwma(alias) => self.better(alias, ask, is_dearer),
            Table::Random(alias) => self.drawn(alias, &mut Draws(ask.random), ask, None),
            Table::Maglev(ring) => self.probed(ring, ask),
            Table::Ring(ring) => ring
                .walk(ask.key.unwrap_or(ask.random))
                .take(MAX_STEPS)
                .find(|&index| self.candidates[index].can_take(ask)),
        };
        match index.or_else(|| self.any(ask)) {
            Some(index) => Outcome::Found(&self.candidates[index]),
            None => self.why_not(ask),
        }
    }

    /// Fewest requests for its weight. Of several that are equal, the one whose turn it is if it
    /// is among them, so that an idle service is shared by weight; else the first from a random
    /// place on, so that the workers do not all run to the same one.
    fn least(&self, turns: &Turns, ask: &Ask<'_>) -> Option<usize> {
        let count = self.candidates.len();
        let turn = turns.next();
        let mut best = self.candidates[turn].can_take(ask).then_some(turn);
        let start = scale(ask.random, count);
        for index in (start..count).chain(0..start) {
            let candidate = &self.candidates[index];
            if candidate.can_take(ask)
                && best.is_none_or(|best| is_busier(&self.candidates[best], candidate, ask.now))
            {
                best = Some(index);
            }
        }
        best
    }

    /// The better of two that are drawn by weight.
    fn better(
        &self,
        alias: &Alias,
        ask: &Ask<'_>,
        is_worse: impl Fn(&Candidate, &Candidate, Nanos) -> bool,
    ) -> Option<usize> {
        let mut draws = Draws(ask.random);
        let first = self.drawn(alias, &mut draws, ask, None)?;
        let Some(second) = self.drawn(alias, &mut draws, ask, Some(first)) else {
            return Some(first);
        };
        let (a, b) = (&self.candidates[first], &self.candidates[second]);
        Some(if is_worse(a, b, ask.now) {
            second
        } else {
            first
        })
    }

    /// One drawn by weight, other than `not`, if a few draws yield one that can take the request.
    fn drawn(
        &self,
        alias: &Alias,
        draws: &mut Draws,
        ask: &Ask<'_>,
        not: Option<usize>,
    ) -> Option<usize> {
        if not.is_some() && self.candidates.len() == 1 {
            return None;
        }
        (0..MAX_DRAWS)
            .map(|_| alias.draw(draws))
            .find(|&index| Some(index) != not && self.candidates[index].can_take(ask))
    }

    /// The owner of the key's slot. While it cannot take the request: of another slot, each time
    /// drawn from the key, so that the keys of a full backend are spread over all the others.
    fn probed(&self, ring: &[u16], ask: &Ask<'_>) -> Option<usize> {
        let mut hash = mix(ask.key.unwrap_or(ask.random));
        for _ in 0..MAX_DRAWS {
            let index = usize::from(ring[scale(hash, ring.len())]);
            if self.candidates[index].can_take(ask) {
                return Some(index);
            }
            hash = mix(hash ^ PROBE);
        }
        None
    }

    /// Anyone who can take the request, when the policy's own search has given up: nearly all are
    /// full or tried then, and finding one matters more than which.
    #[cold]
    fn any(&self, ask: &Ask<'_>) -> Option<usize> {
        let count = self.candidates.len();
        let start = scale(mix(ask.key.unwrap_or(ask.random)), count);
        (start..count)
            .chain(0..start)
            .find(|&index| self.candidates[index].can_take(ask))
    }

    #[cold]
    fn why_not(&self, ask: &Ask<'_>) -> Outcome<'_> {
        let mut candidates = self.candidates.iter();
        if candidates.all(|candidate| ask.tried.contains(candidate.slot)) {
            Outcome::Tried
        } else {
            Outcome::Full
        }
    }
}

impl Table {
    fn new(candidates: &[Candidate], spec: &ServiceSpec, cursor: &Arc<Cursor>) -> Self {
        let weights: Vec<u64> = candidates.iter().map(|c| c.weight).collect();
        let turns = || Turns::new(&weights, Arc::clone(cursor));
        match spec.policy {
            BalancePolicy::RoundRobin => Self::Turns(turns()),
            BalancePolicy::LeastRequests => Self::Least(turns()),
            BalancePolicy::TwoChoices => Self::TwoChoices(Alias::new(&weights)),
            BalancePolicy::PeakEwma => Self::PeakEwma(Alias::new(&weights)),
            BalancePolicy::Random => Self::Random(Alias::new(&weights)),
            BalancePolicy::Maglev(_) => maglev_table(candidates, spec.ring_size)
                .map_or_else(|| ring_table(candidates, &weights), Self::Maglev),
            BalancePolicy::Ring(_) => ring_table(candidates, &weights),
        }
    }
}

/// `None` if there cannot be such a ring; the configuration has been checked for that.
fn maglev_table(candidates: &[Candidate], size: u32) -> Option<Box<[u16]>> {
    let heaviest = candidates.iter().map(|c| c.weight).max()?;
    let divisor = heaviest.div_ceil(u64::from(u16::MAX)).max(1);
    let members: Vec<maglev::Member> = candidates
        .iter()
        .map(|candidate| maglev::Member {
            addr: addr(candidate.backend.address().ip()),
            port: candidate.backend.address().port(),
            weight: (candidate.weight / divisor).max(1) as u16,
        })
        .collect();
    let ring = maglev::ring(&members, size).ok()?;
    (!ring.is_empty()).then(|| ring.into())
}

fn ring_table(candidates: &[Candidate], weights: &[u64]) -> Table {
    let identities: Vec<u64> = candidates
        .iter()
        .map(|candidate| identity(candidate.backend.address()))
        .collect();
    Table::Ring(HashRing::new(&identities, weights))
}

fn addr(ip: IpAddr) -> Addr {
    match ip {
        IpAddr::V4(ip) => Addr::v4(ip.octets()),
        IpAddr::V6(ip) => Addr::v6(ip.octets()),
    }
}

/// What places a backend on the ring: the same on every machine and in every release.
fn identity(address: SocketAddr) -> u64 {
    let value = u128::from_be_bytes(addr(address.ip()).octets);
    let high = mix((value >> 64) as u64 ^ SEED);
    mix(mix(high ^ value as u64) ^ u64::from(address.port()))
}

/// Whether `a` has more requests for its weight than `b`.
#[inline]
fn is_busier(a: &Candidate, b: &Candidate, _: Nanos) -> bool {
    let (of_a, of_b) = (a.backend.in_flight(), b.backend.in_flight());
    u128::from(of_a) * u128::from(b.weight) > u128::from(of_b) * u128::from(a.weight)
}

/// Whether a request is expected to cost more at `a`.
#[inline]
fn is_dearer(a: &Candidate, b: &Candidate, now: Nanos) -> bool {
    let cost = |c: &Candidate| c.backend.cost(now);
    cost(a) * b.weight as f32 > cost(b) * a.weight as f32
}

/// Draws until a policy gives up its own way of searching.
const MAX_DRAWS: usize = 8;

/// Steps around a hash ring, likewise.
const MAX_STEPS: usize = 4096;

/// What leads from one Maglev slot of a key to its next.
const PROBE: u64 = 0x4528_21e6_38d0_1377;

/// Start of the identities: digits of π, so that they are nobody's choice.
const SEED: u64 = 0xbe54_66cf_34e9_0c6c;
