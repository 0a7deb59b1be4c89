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
use std::collections::BTreeMap;

/// Appends the edits that lead from `from` to `to`; returns `to` with its final settings.
///
/// # Errors
///
/// [`PlanError::Ring`] if a ring cannot be built.
pub(super) fn edits(
    from: &Tables,
    mut to: Tables,
    rings: &mut Rings,
    out: &mut Vec<MapEdit>,
) -> Result<Tables, PlanError> {
    let interrupted = is_odd(from.settings.generation);
    let (narrow, wide) = {
        let (old, new) = (address_filter(from), address_filter(&to));
        let both = union(&old, &new);
        let grows = interrupted || both != old;
        ((new != both).then_some(new), grows.then_some(both))
    };
    let additions = additions(from, &to, interrupted, rings)?;
    let unlinked = unlinked(from, &to);
    let released = released(from, &to, interrupted);
    let steps = Steps::new(&from.settings, &to.settings);
    if additions.is_empty()
        && unlinked.is_empty()
        && released.is_empty()
        && narrow.is_none()
        && wide.is_none()
    {
        to.settings = steps.alone(out);
        return Ok(to);
    }

    let guard_changes = interrupted
        || guard_flags_change(from, &to)
        || (additions.iter().chain(&released)).any(is_guard);
    let mut steps = steps;
    out.push(steps.begin());
    out.extend(wide.map(|filter| MapEdit::AddressFilter(Box::new(filter))));
    out.extend(additions);
    out.extend(unlinked);
    if released.iter().any(clears_what_caches_name) {
        out.push(steps.flush());
    }
    out.extend(released);
    out.extend(narrow.map(|filter| MapEdit::AddressFilter(Box::new(filter))));
    to.settings = steps.end(guard_changes, out);
    Ok(to)
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
) -> Result<Vec<MapEdit>, PlanError> {
    let mut out = Vec::new();
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
    services(from, to, interrupted, rings, &mut out)?;
    out.extend(addressed.into_iter().map(|(_, edit)| edit));
    for (&(length, prefix), &target) in changed(&from.prefixes, &to.prefixes) {
        out.push(MapEdit::SetPrefix(length, prefix, target));
    }
    Ok(out)
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
        out.extend(ring);
        if first.as_ref() != Some(service) {
            out.push(MapEdit::Service(id, *service));
        }
        out.extend(leave.into_iter().map(backend));
    }
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
fn unlinked(from: &Tables, to: &Tables) -> Vec<MapEdit> {
    let keys = removed(&from.keys, &to.keys).map(MapEdit::RemoveKey);
    let prefixes = removed(&from.prefixes, &to.prefixes)
        .map(|(length, prefix)| MapEdit::RemovePrefix(length, prefix));
    keys.chain(prefixes).collect()
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
        }
        if old.ring_size != 0 || interrupted {
            out.push(MapEdit::Ring(id, Vec::new()));
        }
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
