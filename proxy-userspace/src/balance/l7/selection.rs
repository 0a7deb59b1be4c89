//! Who may be chosen right now: an immutable table, made anew whenever that changes.

use super::backend::BackendState;
use super::pick::{Ask, Unavailable};
use super::service::Resolved;
use super::spec::{BackendSpec, ServiceSpec};
use super::table::{Candidate, Group, Outcome};
use super::turns::Cursor;
use super::{MAX_BACKENDS, Nanos};
use crate::config::model::http::BalancePolicy;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Who may be chosen. See the module's documentation for the order of preference.
#[derive(Debug, Default)]
pub struct Selection {
    groups: Box<[Group]>,
    /// Whoever a cookie may name, by [`BackendState::sticky`].
    named: Box<[Named]>,
    /// Full backends are waited for.
    waits: bool,
    is_panic: bool,
    next_change: Option<Nanos>,
}

#[derive(Debug)]
struct Named {
    sticky: u64,
    limit: u32,
    backend: Arc<BackendState>,
}

/// A backend of a service, whatever its state.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) spec: BackendSpec,
    pub(super) state: Arc<BackendState>,
    /// The question to DNS that it answers, as an index of [`ServiceSpec::names`].
    pub(super) question: Option<usize>,
    /// What DNS said of it.
    pub(super) resolved: Option<Resolved>,
}

impl Selection {
    pub(super) fn new(
        members: &[Member],
        spec: &ServiceSpec,
        cursor: &Arc<Cursor>,
        now: Nanos,
    ) -> Self {
        let members = &members[..members.len().min(MAX_BACKENDS)];
        let ramp = Ramp::new(members, spec, now);
        let tiers = Tiers::new(members, spec.panic_threshold);
        let mut groups = Vec::new();
        for tier in &tiers.order {
            let of_tier: Vec<&Member> = tiers.members(members, *tier).collect();
            let parts = by_zone(&of_tier, tiers.is_panic, spec.zone.as_deref(), &ramp);
            let last = parts.len().saturating_sub(1);
            groups.extend(parts.into_iter().enumerate().map(|(i, candidates)| {
                Group::new(candidates, spec, cursor, i < last || spec.queue == 0)
            }));
        }
        Self {
            groups: groups.into(),
            named: named(members, tiers.is_panic),
            waits: spec.queue > 0,
            is_panic: tiers.is_panic,
            next_change: ramp.next_change,
        }
    }

    /// Chooses for a request. The caller then tries to begin it ([`BackendState::try_begin`]):
    /// others choose at the same time.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] if there is nobody for it.
    pub fn pick(&self, ask: &Ask<'_>) -> Result<&Arc<BackendState>, Unavailable> {
        if let Some(named) = ask.sticky.and_then(|sticky| self.named(sticky))
            && !ask.tried.contains(named.backend.slot())
        {
            if named.backend.in_flight() < named.limit {
                return Ok(&named.backend);
            }
            // A session is not torn because its server is busy for a moment.
            if self.waits {
                return Err(Unavailable::Busy);
            }
        }
        let mut why = Unavailable::NoBackend;
        for group in &self.groups {
            match group.pick(ask) {
                Outcome::Found(candidate) => return Ok(&candidate.backend),
                Outcome::Full if !group.spills => return Err(Unavailable::Busy),
                Outcome::Full => why = Unavailable::Busy,
                Outcome::Tried if why == Unavailable::NoBackend => why = Unavailable::Tried,
                Outcome::Tried => {}
            }
        }
        Err(why)
    }

    /// The backend that a cookie names, if it may still be had.
    pub(super) fn of_cookie(&self, sticky: u64) -> Option<&Arc<BackendState>> {
        self.named(sticky).map(|named| &named.backend)
    }

    /// Requests in progress at those that may be had.
    pub fn in_flight(&self) -> u32 {
        let counts = self.named.iter().map(|named| named.backend.in_flight());
        counts.fold(0, u32::saturating_add)
    }

    /// Connections to those, in use or not.
    pub fn connections(&self) -> u32 {
        let counts = self.named.iter().map(|named| named.backend.connections());
        counts.fold(0, u32::saturating_add)
    }

    /// True if so few are healthy that health is ignored.
    pub fn is_panic(&self) -> bool {
        self.is_panic
    }

    /// True if nobody can be chosen.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// When the next step of a slow start is due.
    pub(super) fn next_change(&self) -> Option<Nanos> {
        self.next_change
    }

    /// Those to which new requests may go while they may also wait: up to the first group that
    /// does not spill.
    pub(super) fn open(&self) -> BTreeSet<u32> {
        let closed = self.groups.iter().position(|group| !group.spills);
        let open = &self.groups[..closed.map_or(self.groups.len(), |last| last + 1)];
        let candidates = open.iter().flat_map(|group| &group.candidates);
        candidates.map(|candidate| candidate.slot).collect()
    }

    fn named(&self, sticky: u64) -> Option<&Named> {
        let index = self.named.binary_search_by_key(&sticky, |n| n.sticky);
        Some(&self.named[index.ok()?])
    }
}

/// Whoever a cookie may name: draining backends and those of weight 0 too.
fn named(members: &[Member], is_panic: bool) -> Box<[Named]> {
    let mut named: Vec<Named> = members
        .iter()
        .filter(|member| is_panic || member.state.is_healthy())
        .map(|member| Named {
            sticky: member.state.sticky(),
            limit: member.spec.limit,
            backend: Arc::clone(&member.state),
        })
        .collect();
    named.sort_by_key(|named| named.sticky);
    named.into()
}

impl Member {
    /// Its weight, by configuration or as set at run time.
    fn weight(&self) -> u64 {
        let set = self.state.weight().map(u32::from);
        set.unwrap_or(self.spec.weight).into()
    }

    /// Whether it takes new clients when it is healthy.
    pub(super) fn is_in_play(&self) -> bool {
        self.weight() > 0 && !self.state.is_draining()
    }
}

/// Tiers with backends to choose from, best first.
struct Tiers {
    order: Vec<u8>,
    is_panic: bool,
}

impl Tiers {
    fn new(members: &[Member], panic_threshold: f64) -> Self {
        // Backends in play, and the healthy ones among them.
        let mut tiers: BTreeMap<u8, (u32, u32)> = BTreeMap::new();
        for member in members.iter().filter(|member| member.is_in_play()) {
            let (all, healthy) = tiers.entry(member.spec.tier).or_default();
            *all += 1;
            *healthy += u32::from(member.state.is_healthy());
        }
        let is_enough = |(all, healthy): (u32, u32)| {
            healthy > 0 && f64::from(healthy) >= panic_threshold * f64::from(all)
        };
        let first = tiers.iter().find(|(_, counts)| is_enough(**counts));
        let Some((&first, _)) = first else {
            let is_panic = panic_threshold > 0.0 && !tiers.is_empty();
            let order = if is_panic {
                tiers.into_keys().collect()
            } else {
                Vec::new()
            };
            return Self { order, is_panic };
        };
        let others = tiers
            .iter()
            .filter(|(tier, (_, healthy))| **tier != first && *healthy > 0)
            .map(|(tier, _)| *tier);
        Self {
            order: std::iter::once(first).chain(others).collect(),
            is_panic: false,
        }
    }

    /// The members in play of a tier, healthy or not.
    fn members<'a>(&self, members: &'a [Member], tier: u8) -> impl Iterator<Item = &'a Member> {
        members
            .iter()
            .filter(move |member| member.spec.tier == tier && member.is_in_play())
    }
}

/// Share of a zone's weight that must be healthy for it to carry all of its traffic. The zone then
/// works at 1.4 times its usual load, as Envoy has it.
const ZONE_ENOUGH: f64 = 5.0 / 7.0;

/// What shares are multiplied with to become weights.
const SHARES: f64 = 1e6;

/// The candidates of one tier, those who come first first. No part is empty.
fn by_zone(
    tier: &[&Member],
    is_panic: bool,
    zone: Option<&str>,
    ramp: &Ramp,
) -> Vec<Vec<Candidate>> {
    let is_usable = |member: &&Member| is_panic || member.state.is_healthy();
    let is_near = |member: &&Member| zone.is_some() && member.spec.zone.as_deref() == zone;
    let sum = |candidates: &[Candidate]| candidates.iter().map(|c| c.weight).sum::<u64>() as f64;

    let usable = tier.iter().copied().filter(is_usable);
    let (near, far): (Vec<&Member>, Vec<&Member>) = usable.partition(is_near);
    let all_near: u64 = tier.iter().filter(|m| is_near(m)).map(|m| m.weight()).sum();
    let usable_near: u64 = near.iter().map(|m| m.weight()).sum();
    let (mut near, mut far) = (ramp.candidates(&near), ramp.candidates(&far));
    let share = (usable_near as f64 / all_near.max(1) as f64 / ZONE_ENOUGH).min(1.0);
    if share < 1.0 && !near.is_empty() && !far.is_empty() {
        for (part, share) in [(&mut near, share), (&mut far, 1.0 - share)] {
            let sum = sum(part);
            for candidate in part {
                let of_all = candidate.weight as f64 / sum * share;
                candidate.weight = ((of_all * SHARES).round() as u64).max(1);
            }
        }
        near.append(&mut far);
    }
    let mut parts = vec![near, far];
    parts.retain(|part| !part.is_empty());
    parts
}

/// The growth of weights in slow start.
struct Ramp {
    slow_start: Nanos,
    now: Nanos,
    /// What weights are multiplied with, so that parts of one can be told.
    scale: f64,
    next_change: Option<Nanos>,
}

/// Steps of a slow start.
const STEPS: Nanos = 20;

/// Share of its weight that a backend begins with. With nothing it would not get the requests
/// that warm it up.
const FIRST_SHARE: f64 = 0.1;

impl Ramp {
    fn new(members: &[Member], spec: &ServiceSpec, now: Nanos) -> Self {
        let is_hash = matches!(
            spec.policy,
            BalancePolicy::Maglev(_) | BalancePolicy::Ring(_)
        );
        let mut ramp = Self {
            slow_start: if is_hash { 0 } else { spec.slow_start },
            now,
            scale: 1.0,
            next_change: None,
        };
        let mut usable = members.iter().filter(|member| member.state.is_healthy());
        if usable.any(|member| ramp.share(&member.state) < 1.0) {
            ramp.scale = 1000.0;
            ramp.next_change = Some(now.saturating_add((ramp.slow_start / STEPS).max(1)));
        }
        ramp
    }

    /// What part of its weight a backend has, of 1.
    fn share(&self, backend: &BackendState) -> f64 {
        let since = backend.up_since();
        if self.slow_start == 0 || since == 0 {
            return 1.0;
        }
        let elapsed = self.now.saturating_sub(since) as f64;
        (elapsed / self.slow_start as f64).clamp(FIRST_SHARE, 1.0)
    }

    fn candidates(&self, members: &[&Member]) -> Vec<Candidate> {
        members
            .iter()
            .map(|member| {
                let weight = member.weight() as f64 * self.scale * self.share(&member.state);
                Candidate {
                    backend: Arc::clone(&member.state),
                    weight: (weight.round() as u64).max(1),
                    limit: member.spec.limit,
                    slot: member.state.slot(),
                }
            })
            .collect()
    }
}
