//! From bindings to edits of maps: pure.
//!
//! The order of edits is one in which every step is safe: groups and lists of ranges before what
//! refers to them, removals last. A list in force is never changed, and a group is not given to
//! another listener while an entry of an older one may still name it.

use crate::config::model::steer::{Bindings, OnFailure, PortRange, Ranges};
use ipnet::IpNet;
use proxy_common::addr::Addr;
use proxy_common::steer::{
    GROUPS, RANGE_LISTS, RANGES, STEER_KEY_FIXED_BITS, SteerGroup, SteerKey, SteerPrefix,
    SteerRange, SteerRanges,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What the maps hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// Names and settings of groups.
    pub groups: BTreeMap<u16, SteerGroup>,
    /// Single ports.
    pub ports: HashMap<SteerPrefix, u32>,
    /// Prefixes, and which list they have.
    pub prefixes: HashMap<SteerPrefix, u32>,
    /// The lists that prefixes have.
    pub lists: BTreeMap<u32, SteerRanges>,
}

/// A change of one element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// A group gets a name and settings.
    Group(u16, SteerGroup),
    /// A list is written.
    List(u32, SteerRanges),
    /// A single port goes to a group.
    Port(SteerPrefix, u32),
    /// A prefix gets a list.
    Prefix(SteerPrefix, u32),
    /// A single port is nobody's any more.
    NoPort(SteerPrefix),
    /// A prefix has no ranges any more.
    NoPrefix(SteerPrefix),
    /// A group is nobody's any more.
    NoGroup(u16),
}

/// What leads from what the maps hold to what is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Before the sockets of the groups are put in.
    pub before: Vec<Edit>,
    /// After that.
    pub after: Vec<Edit>,
    /// What the maps then hold.
    pub tables: Tables,
    /// The group of each listener, in the order of [`Bindings::steered`].
    pub groups: Vec<u16>,
}

/// The bindings do not fit beside those that are in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// There are too many listeners.
    #[error("no group is free: {GROUPS} listeners have one")]
    Groups,
    /// There are too many lists.
    #[error("no list of port ranges is free: {RANGE_LISTS} are in force")]
    Lists,
    /// A list is too long.
    #[error("{0} ranges of ports in one list: at most {RANGES} fit")]
    Ranges(usize),
}

/// Plans the edits.
///
/// # Errors
///
/// [`PlanError`].
pub fn plan(bindings: &Bindings, now: &Tables) -> Result<Plan, PlanError> {
    let mut plan = Plan::default();
    groups(bindings, now, &mut plan)?;
    lists(bindings, now, &mut plan)?;
    for (&(protocol, prefix, port), &index) in &bindings.ports {
        let key = key(protocol.number(), prefix, port);
        let group = u32::from(plan.groups[index]);
        plan.tables.ports.insert(key, group);
        if now.ports.get(&key) != Some(&group) {
            plan.after.push(Edit::Port(key, group));
        }
    }
    for key in now.ports.keys() {
        if !plan.tables.ports.contains_key(key) {
            plan.after.push(Edit::NoPort(*key));
        }
    }
    for key in now.prefixes.keys() {
        if !plan.tables.prefixes.contains_key(key) {
            plan.after.push(Edit::NoPrefix(*key));
        }
    }
    for group in now.groups.keys() {
        if !plan.tables.groups.contains_key(group) {
            plan.after.push(Edit::NoGroup(*group));
        }
    }
    Ok(plan)
}

/// Gives each listener the group that it has, or one that nobody has.
fn groups(bindings: &Bindings, now: &Tables, plan: &mut Plan) -> Result<(), PlanError> {
    let known: HashMap<[u8; 64], u16> = (now.groups.iter())
        .map(|(&id, group)| (group.name, id))
        .collect();
    let mut free = (0..GROUPS as u16).filter(|id| !now.groups.contains_key(id));
    for steered in &bindings.steered {
        let group = SteerGroup {
            name: name(&steered.name),
            fails_open: u32::from(steered.on_failure == OnFailure::Open),
            _pad: 0,
        };
        let id = match known.get(&group.name) {
            Some(&id) => id,
            None => free.next().ok_or(PlanError::Groups)?,
        };
        if now.groups.get(&id) != Some(&group) {
            plan.before.push(Edit::Group(id, group));
        }
        plan.tables.groups.insert(id, group);
        plan.groups.push(id);
    }
    Ok(())
}

/// Gives each prefix a list; those alike share one.
fn lists(bindings: &Bindings, now: &Tables, plan: &mut Plan) -> Result<(), PlanError> {
    let mut known: HashMap<SteerRanges, u32> =
        now.lists.iter().map(|(&id, list)| (*list, id)).collect();
    let used: BTreeSet<u32> = now.lists.keys().copied().collect();
    let mut free = (0..RANGE_LISTS).filter(|id| !used.contains(id));
    let mut prefixes = Vec::new();
    for (&(protocol, prefix), ranges) in &bindings.ranges {
        let list = list(ranges, &plan.groups)?;
        let id = match known.get(&list) {
            Some(&id) => id,
            None => {
                let id = free.next().ok_or(PlanError::Lists)?;
                known.insert(list, id);
                plan.after.push(Edit::List(id, list));
                id
            }
        };
        plan.tables.lists.insert(id, list);
        let key = key(protocol.number(), prefix, 0);
        plan.tables.prefixes.insert(key, id);
        if now.prefixes.get(&key) != Some(&id) {
            prefixes.push(Edit::Prefix(key, id));
        }
    }
    plan.after.extend(prefixes);
    Ok(())
}

fn list(ranges: &Ranges, groups: &[u16]) -> Result<SteerRanges, PlanError> {
    let mut list = SteerRanges::default();
    if ranges.len() > RANGES {
        return Err(PlanError::Ranges(ranges.len()));
    }
    for (slot, &(PortRange { first, last }, index)) in list.ranges.iter_mut().zip(ranges) {
        *slot = SteerRange {
            first,
            last,
            group: groups[index],
            _pad: 0,
        };
        list.count += 1;
    }
    Ok(list)
}

fn key(protocol: u8, prefix: IpNet, port: u16) -> SteerPrefix {
    let mut key = SteerKey::new(protocol, port, Addr::from(prefix.addr()));
    let mapped = match prefix {
        IpNet::V4(_) => 96,
        IpNet::V6(_) => 0,
    };
    key.family = if mapped == 0 { 6 } else { 4 };
    SteerPrefix {
        bits: STEER_KEY_FIXED_BITS + mapped + u32::from(prefix.prefix_len()),
        key,
    }
}

fn name(text: &str) -> [u8; 64] {
    let mut name = [0; 64];
    // Names are shorter; the last octet stays zero.
    for (to, from) in name.iter_mut().take(63).zip(text.bytes()) {
        *to = from;
    }
    name
}

/// The name in a group.
pub fn name_of(group: &SteerGroup) -> String {
    let length = group.name.iter().position(|&octet| octet == 0);
    String::from_utf8_lossy(&group.name[..length.unwrap_or(64)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::steer::Steered;
    use crate::types::Protocol;

    /// Bindings of single ports: name, prefix, port.
    fn bindings(all: &[(&str, &str, u16)]) -> Bindings {
        let mut bindings = Bindings::default();
        for (name, prefix, port) in all {
            let index = steered(&mut bindings, name);
            let prefix = prefix.parse().expect("a prefix");
            bindings.ports.insert((Protocol::Tcp, prefix, *port), index);
        }
        bindings
    }

    fn steered(bindings: &mut Bindings, name: &str) -> usize {
        let known = bindings.steered.iter().position(|one| one.name == name);
        known.unwrap_or_else(|| {
            bindings.steered.push(Steered {
                name: name.to_owned(),
                protocol: Protocol::Tcp,
                on_failure: OnFailure::Closed,
                is_steered: true,
            });
            bindings.steered.len() - 1
        })
    }

    fn with_range(mut bindings: Bindings, name: &str, prefix: &str, first: u16) -> Bindings {
        let index = steered(&mut bindings, name);
        let prefix = prefix.parse().expect("a prefix");
        let range = PortRange {
            first,
            last: first + 9,
        };
        bindings
            .ranges
            .entry((Protocol::Tcp, prefix))
            .or_default()
            .push((range, index));
        bindings
    }

    /// Carries a plan out on tables, checking that nothing refers to what is not there.
    fn carry_out(plan: &Plan, tables: &mut Tables) {
        for edit in plan.before.iter().chain(&plan.after) {
            match edit {
                Edit::Group(id, group) => drop(tables.groups.insert(*id, *group)),
                Edit::List(id, list) => {
                    assert!(!tables.prefixes.values().any(|used| used == id));
                    tables.lists.insert(*id, *list);
                }
                Edit::Port(key, group) => {
                    assert!(tables.groups.contains_key(&(*group as u16)));
                    tables.ports.insert(*key, *group);
                }
                Edit::Prefix(key, list) => {
                    assert!(tables.lists.contains_key(list));
                    tables.prefixes.insert(*key, *list);
                }
                Edit::NoPort(key) => drop(tables.ports.remove(key)),
                Edit::NoPrefix(key) => drop(tables.prefixes.remove(key)),
                Edit::NoGroup(id) => drop(tables.groups.remove(id)),
            }
        }
        let used: BTreeSet<u32> = tables.prefixes.values().copied().collect();
        tables.lists.retain(|id, _| used.contains(id));
        assert_eq!(*tables, plan.tables);
    }

    #[test]
    fn what_is_wanted_is_there_in_the_end_and_nothing_is_done_twice() {
        let mut tables = Tables::default();
        let steps = [
            bindings(&[("a", "192.0.2.0/24", 80), ("b", "192.0.2.1/32", 80)]),
            with_range(bindings(&[("b", "192.0.2.0/24", 80)]), "c", "::/0", 8000),
            with_range(bindings(&[]), "c", "::/0", 9000),
            bindings(&[]),
        ];
        for wanted in &steps {
            let first = plan(wanted, &tables).expect("a plan");
            carry_out(&first, &mut tables);
            let again = plan(wanted, &tables).expect("a plan");
            assert_eq!((again.before.len(), again.after.len()), (0, 0));
        }
        assert_eq!(tables, Tables::default());
    }

    #[test]
    fn a_group_is_not_given_on_while_entries_may_name_it() {
        let old = bindings(&[("old", "192.0.2.0/24", 80)]);
        let mut tables = Tables::default();
        carry_out(&plan(&old, &tables).expect("a plan"), &mut tables);
        let new = plan(&bindings(&[("new", "192.0.2.0/24", 80)]), &tables).expect("a plan");
        assert_eq!(new.groups, [1]);
        assert!(matches!(new.after.last(), Some(Edit::NoGroup(0))));
    }

    #[test]
    fn prefixes_with_the_same_ranges_share_a_list() {
        let mut wanted = bindings(&[]);
        for host in 0..=255 {
            wanted = with_range(wanted, "a", &format!("10.0.{host}.0/24"), 80);
        }
        let plan = plan(&wanted, &Tables::default()).expect("a plan");
        assert_eq!(plan.tables.prefixes.len(), 256);
        assert_eq!(plan.tables.lists.len(), 1);
    }

    #[test]
    fn families_are_told_apart() {
        let v4 = key(6, "0.0.0.0/0".parse().expect("a prefix"), 80);
        let v6 = key(6, "::/0".parse().expect("a prefix"), 80);
        assert_eq!((v4.bits, v4.key.family), (32 + 96, 4));
        assert_eq!((v6.bits, v6.key.family), (32, 6));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut wanted = bindings(&[]);
        for index in 0..=GROUPS {
            let name = format!("l{index}");
            steered(&mut wanted, &name);
        }
        let none = Tables::default();
        assert_eq!(plan(&wanted, &none).err(), Some(PlanError::Groups));
    }

    #[test]
    fn names_are_read_back() {
        let group = SteerGroup {
            name: name("web"),
            ..SteerGroup::default()
        };
        assert_eq!(name_of(&group), "web");
        assert_eq!(name("x".repeat(80).as_str())[63], 0);
    }
}
