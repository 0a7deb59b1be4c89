//! The edits between two contents of the maps, in an order that is safe under traffic.

use super::error::PlanError;
use super::filter::{address_filter, union};
use super::rings::{Rings, in_ring, members_by_service};
use crate::kernel::store::MapEdit;
use crate::kernel::tables::Tables;
use proxy_common::addr::Addr;
use proxy_common::backend::Backend;
use proxy_common::service::{Mode, Service, kind, service_flags};
use proxy_common::settings::Settings;
use std::collections::{BTreeMap, BTreeSet};

/// The edits that lead from `from` to `to`, by way of `between` if there is such a stage; and `to`
/// with its final settings.
///
/// # Errors
///
/// [`PlanError::Ring`] if a ring cannot be built.
pub(super) fn edits(
    from: &Tables,
    between: Option<&Tables>,
    mut to: Tables,
) -> Result<(Vec<MapEdit>, Tables), PlanError> {
    let interrupted = is_odd(from.settings.generation);
    let mut stages = Stages {
        steps: Steps::new(&from.settings, &to.settings),
        rings: Rings::default(),
        out: Vec::new(),
    };
    let first = stages.steps.begin();
    stages.out.push(first);
    match between {
        None => stages.stage(from, &to, interrupted)?,
        Some(between) => {
            stages.stage(from, between, interrupted)?;
            let flush = stages.steps.flush();
            stages.out.push(flush);
            stages.stage(between, &to, false)?;
        }
    }
    let Stages { steps, mut out, .. } = stages;
    if out.len() == 1 {
        out.clear();
        to.settings = Steps::new(&from.settings, &to.settings).alone(&mut out);
    } else {
        let guard_changes =
            interrupted || out.iter().any(is_guard) || guard_flags_change(from, &to);
        to.settings = steps.end(guard_changes, &mut out);
    }
    Ok((out, to))
}

/// The edits so far, and what the next ones depend on besides the contents.
struct Stages {
    steps: Steps,
    rings: Rings,
    out: Vec<MapEdit>,
}

impl Stages {
    /// Additions, then removals.
    fn stage(&mut self, from: &Tables, to: &Tables, interrupted: bool) -> Result<(), PlanError> {
        let (old, new) = (address_filter(from), address_filter(to));
        let both = union(&old, &new);
        if interrupted || both != old {
            self.out.push(MapEdit::AddressFilter(Box::new(both)));
        }
        additions(from, to, interrupted, &mut self.rings, &mut self.out)?;
        unlinked(from, to, &mut self.out);
        let released = released(from, to, interrupted);
        if released.iter().any(clears_what_caches_name) {
            self.out.push(self.steps.flush());
        }
        self.out.extend(released);
        if both != new {
            self.out.push(MapEdit::AddressFilter(Box::new(new)));
        }
        Ok(())
    }
}

/// The settings at the steps of a plan. The generation is odd while edits are under way.
struct Steps {
    now: Settings,
    end: Settings,
}

impl Steps {
    fn new(from: &Settings, to: &Settings) -> Self {
        Self {
            now: *from,
            end: *to,
        }
    }

    /// The first step: both the old and the new flags, because each only makes the packet path
    /// look at one more thing.
    fn begin(&mut self) -> MapEdit {
        let generation = match self.now.generation {
            odd if is_odd(odd) => odd.wrapping_add(2),
            even => even.wrapping_add(1),
        };
        self.now = Settings {
            flags: self.now.flags | self.end.flags,
            generation,
            guard_generation: self.now.guard_generation,
            ..self.end
        };
        MapEdit::Settings(self.now)
    }

    /// A step at which the per-CPU caches forget what has been removed so far.
    fn flush(&mut self) -> MapEdit {
        self.now.generation = self.now.generation.wrapping_add(2);
        MapEdit::Settings(self.now)
    }

    /// The last step.
    fn end(self, guard_changes: bool, out: &mut Vec<MapEdit>) -> Settings {
        let settings = Settings {
            generation: self.now.generation.wrapping_add(1),
            guard_generation: (self.now.guard_generation).wrapping_add(u32::from(guard_changes)),
            ..self.end
        };
        out.push(MapEdit::Settings(settings));
        settings
    }

    /// The only step, where nothing but the settings changes.
    fn alone(self, out: &mut Vec<MapEdit>) -> Settings {
        let unchanged = Settings {
            generation: self.now.generation,
            guard_generation: self.now.guard_generation,
            ..self.end
        };
        let interrupted = is_odd(self.now.generation);
        if unchanged == self.now && !interrupted {
            return unchanged;
        }
        let settings = Settings {
            generation: (self.now.generation).wrapping_add(if interrupted { 1 } else { 2 }),
            ..unchanged
        };
        out.push(MapEdit::Settings(settings));
        settings
    }
}

fn is_odd(generation: u32) -> bool {
    generation % 2 == 1
}

/// What is referred to comes before what refers to it: guard rules and full-nat sources, then
/// each service with its backends and ring, then the keys.
fn additions(
    from: &Tables,
    to: &Tables,
    interrupted: bool,
    rings: &mut Rings,
    out: &mut Vec<MapEdit>,
) -> Result<(), PlanError> {
    for (&(length, key), &rule) in changed(&from.guard, &to.guard) {
        out.push(MapEdit::SetGuard(length, key, rule));
    }
    for (&index, &addr) in changed(&from.snat_addrs, &to.snat_addrs) {
        out.push(MapEdit::SnatAddr(index, addr));
    }
    let (sources, addressed): (Vec<_>, Vec<_>) = changed(&from.keys, &to.keys)
        .map(|(&key, &target)| (target.kind, MapEdit::SetKey(key, target)))
        .partition(|(kind, _)| *kind == kind::SNAT);
    out.extend(sources.into_iter().map(|(_, edit)| edit));
    services(from, to, interrupted, rings, out)?;
    out.extend(addressed.into_iter().map(|(_, edit)| edit));
    for (&(length, prefix), &target) in changed(&from.prefixes, &to.prefixes) {
        out.push(MapEdit::SetPrefix(length, prefix, target));
    }
    Ok(())
}

/// The entries of `to` that `from` lacks or has otherwise.
fn changed<'a, K: Ord, V: PartialEq>(
    from: &'a BTreeMap<K, V>,
    to: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    to.iter()
        .filter(|(key, value)| from.get(key) != Some(value))
}

/// The keys of `from` that `to` lacks.
fn removed<'a, K: Ord + Copy, V>(
    from: &'a BTreeMap<K, V>,
    to: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = K> + 'a {
    from.keys().filter(|key| !to.contains_key(key)).copied()
}

/// Of each service: the backends that enter, the entry while its ring changes, the ring, the final
/// entry, the backends that leave. The rings of all services stand together, because swapping
/// rings makes the kernel wait for a grace period, and a store does that once for a row of them.
fn services(
    from: &Tables,
    to: &Tables,
    interrupted: bool,
    rings: &mut Rings,
    out: &mut Vec<MapEdit>,
) -> Result<(), PlanError> {
    let mut changes: BTreeMap<u16, BackendChanges> = BTreeMap::new();
    for (&id, &backend) in changed(&from.backends, &to.backends) {
        let before = from.backends.get(&id);
        let leaves = before.is_some_and(in_ring) && !in_ring(&backend);
        let of_service = changes.entry(backend.service).or_default();
        let list = if leaves {
            &mut of_service.leave
        } else {
            &mut of_service.enter
        };
        list.push((id, backend));
    }
    let (before, after) = (members_by_service(from), members_by_service(to));
    let nobody = Vec::new();
    let (mut swapped, mut after_rings) = (Vec::new(), Vec::new());
    for (&id, service) in &to.services {
        let BackendChanges { enter, leave } = changes.remove(&id).unwrap_or_default();
        let old = from.services.get(&id);
        let members = after.get(&id).unwrap_or(&nobody);
        let ring_changes = interrupted
            || before.get(&id).unwrap_or(&nobody) != members
            || old.map_or(0, |old| old.ring_size) != service.ring_size;
        let ring = match ring_changes {
            true => Some(MapEdit::Ring(
                id,
                rings.build(id, members, service.ring_size)?,
            )),
            false => None,
        };
        let backend = |(id, backend)| MapEdit::Backend(id, backend);
        out.extend(enter.into_iter().map(backend));
        let first = old.map(|old| while_ring_changes(old, service));
        out.extend(
            first
                .filter(|first| Some(first) != old)
                .map(|first| MapEdit::Service(id, first)),
        );
        swapped.extend(ring);
        if first.as_ref() != Some(service) {
            after_rings.push(MapEdit::Service(id, *service));
        }
        after_rings.extend(leave.into_iter().map(backend));
    }
    out.extend(swapped);
    out.extend(after_rings);
    Ok(())
}

/// The changed backends of a service: those that the new ring may need, and those that the old
/// one may still lead to.
#[derive(Default)]
struct BackendChanges {
    enter: Vec<(u16, Backend)>,
    leave: Vec<(u16, Backend)>,
}

/// The entry of a service while its ring is swapped: `ring_size` fits the old and the new ring.
///
/// The rest is already the new entry's, except where packets that are led by the old ring need
/// the old one: sources for full-nat, or no ring at all for a local service.
fn while_ring_changes(old: &Service, new: &Service) -> Service {
    let needs_old = [Mode::Local.code(), Mode::FullNat.code()].contains(&old.mode);
    let base = if needs_old && old.mode != new.mode {
        old
    } else {
        new
    };
    Service {
        ring_size: old.ring_size.min(new.ring_size),
        ..*base
    }
}

/// The removals of keys: after them no new packet finds what is to be released.
fn unlinked(from: &Tables, to: &Tables, out: &mut Vec<MapEdit>) {
    out.extend(removed(&from.keys, &to.keys).map(MapEdit::RemoveKey));
    for (length, prefix) in removed(&from.prefixes, &to.prefixes) {
        out.push(MapEdit::RemovePrefix(length, prefix));
    }
}

/// The removals of what nothing refers to any more.
///
/// The entry of a service goes last but for the sources, so that an interrupted removal is found
/// by it and done again, including the forgetting of its flows.
fn released(from: &Tables, to: &Tables, interrupted: bool) -> Vec<MapEdit> {
    let mut out = Vec::new();
    let services: Vec<u16> = removed(&from.services, &to.services).collect();
    for &id in &services {
        let old = from.services[&id];
        if old.ring_size != 0 {
            let ring_size = 0;
            out.push(MapEdit::Service(id, Service { ring_size, ..old }));
            out.push(MapEdit::RemoveRing(id));
        }
    }
    if interrupted {
        // A ring may be there whatever the entry says; or even without one, as a new service's
        // ring comes after its backends and before its entry.
        let mentioned = from.backends.values().map(|backend| backend.service);
        let rings: BTreeSet<u16> = mentioned
            .chain(services.iter().copied())
            .filter(|id| !to.services.contains_key(id))
            .filter(|id| from.services.get(id).is_none_or(|old| old.ring_size == 0))
            .collect();
        out.extend(rings.into_iter().map(MapEdit::RemoveRing));
    }
    for id in removed(&from.backends, &to.backends) {
        out.push(MapEdit::Backend(id, Backend::default()));
    }
    out.extend(services.iter().copied().map(MapEdit::PurgeService));
    for (length, key) in removed(&from.guard, &to.guard) {
        out.push(MapEdit::RemoveGuard(length, key));
    }
    for &id in &services {
        out.push(MapEdit::Service(id, Service::default()));
    }
    for index in removed(&from.snat_addrs, &to.snat_addrs) {
        out.push(MapEdit::SnatAddr(index, Addr::UNSPECIFIED));
    }
    out
}

/// True for the release of something that a per-CPU cache of lookups may name.
fn clears_what_caches_name(edit: &MapEdit) -> bool {
    matches!(edit, MapEdit::Service(..) | MapEdit::SnatAddr(..))
}

fn is_guard(edit: &MapEdit) -> bool {
    matches!(edit, MapEdit::SetGuard(..) | MapEdit::RemoveGuard(..))
}

/// True if some service becomes guarded, or is no longer.
fn guard_flags_change(from: &Tables, to: &Tables) -> bool {
    let guard = service_flags::GUARDED | service_flags::DEFAULT_DENY;
    changed(&from.services, &to.services).any(|(id, new)| {
        from.services
            .get(id)
            .is_some_and(|old| (old.flags ^ new.flags) & guard != 0)
    })
}
