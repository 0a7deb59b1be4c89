//! A data plane in memory, for tests: the same contents, capacities and refusals as the real
//! maps, and failures on request.

mod invariants;

use crate::kernel::store::{KernelState, MapEdit, MapStore, StoreError};
use crate::kernel::tables::Tables;
use proxy_common::maps::{self, capacity};
use proxy_common::settings::{AddressFilter, FILTER_OCTETS};
use std::collections::BTreeMap;
use std::io;

/// A data plane in memory.
#[derive(Clone, Debug)]
pub struct FakeStore {
    /// What [`MapStore::state`] reports.
    pub tables: Tables,
    /// Rings by service id; an absent one is empty.
    pub rings: BTreeMap<u16, Vec<u16>>,
    /// The address filter.
    pub filter: Box<AddressFilter>,
    /// Services whose flows were forgotten, in order.
    pub purged: Vec<u16>,
    /// Edits carried out so far.
    pub applied: usize,
    /// Edits after which the next one fails; `None` never fails.
    pub fail_after: Option<usize>,
}

impl FakeStore {
    /// Fresh maps with room for this many backends (including the unused id 0).
    pub fn new(backend_capacity: u32) -> Self {
        Self {
            tables: Tables {
                backend_capacity,
                ..Tables::default()
            },
            rings: BTreeMap::new(),
            filter: Box::new(AddressFilter {
                words: [0; FILTER_OCTETS / 8],
            }),
            purged: Vec::new(),
            applied: 0,
            fail_after: None,
        }
    }

    /// Lets `edits` more edits succeed and the one after them fail, once.
    pub fn fail_after(&mut self, edits: usize) {
        self.fail_after = Some(self.applied + edits);
    }

    /// Checks what must hold after every single edit, and, where no plan is under way, that all
    /// parts agree with each other exactly.
    ///
    /// # Errors
    ///
    /// A sentence on what does not hold.
    pub fn check_invariants(&self) -> Result<(), String> {
        invariants::check(self)
    }

    /// Refuses what the kernel would refuse.
    fn check(&self, edit: &MapEdit) -> Result<(), StoreError> {
        let tables = &self.tables;
        let full =
            |len: usize, capacity: u32, is_known: bool| !is_known && len >= capacity as usize;
        match edit {
            MapEdit::Service(id, _) => in_range(maps::SERVICE_TABLE, *id, capacity::SERVICES),
            MapEdit::Ring(id, slots) => {
                in_range(maps::RINGS, *id, capacity::SERVICES).and_then(|()| {
                    let too_long = slots.len() > capacity::MAX_RING_SIZE as usize;
                    refuse(maps::RINGS, too_long, libc::E2BIG)
                })
            }
            MapEdit::RemoveRing(id) => in_range(maps::RINGS, *id, capacity::SERVICES),
            MapEdit::PurgeService(id) => in_range(maps::FLOWS, *id, capacity::SERVICES),
            MapEdit::Backend(id, _) => in_range(maps::BACKENDS, *id, tables.backend_capacity),
            MapEdit::SnatAddr(index, _) => refuse(
                maps::SNAT_ADDRS,
                *index >= capacity::SNAT_ADDRS,
                libc::E2BIG,
            ),
            MapEdit::SetKey(key, _) => {
                let known = tables.keys.contains_key(key);
                let full = full(tables.keys.len(), capacity::SERVICE_KEYS, known);
                refuse(maps::SERVICES, full, libc::E2BIG)
            }
            MapEdit::RemoveKey(key) => {
                refuse(maps::SERVICES, !tables.keys.contains_key(key), libc::ENOENT)
            }
            MapEdit::SetPrefix(length, prefix, _) => {
                let known = tables.prefixes.contains_key(&(*length, *prefix));
                let full = full(tables.prefixes.len(), capacity::SERVICE_PREFIXES, known);
                refuse(maps::SERVICE_PREFIXES, full, libc::ENOSPC)
            }
            MapEdit::RemovePrefix(length, prefix) => {
                let known = tables.prefixes.contains_key(&(*length, *prefix));
                refuse(maps::SERVICE_PREFIXES, !known, libc::ENOENT)
            }
            MapEdit::SetGuard(length, key, _) => {
                let known = tables.guard.contains_key(&(*length, *key));
                let full = full(tables.guard.len(), capacity::GUARD_RULES, known);
                refuse(maps::GUARD_RULES, full, libc::ENOSPC)
            }
            MapEdit::RemoveGuard(length, key) => {
                let known = tables.guard.contains_key(&(*length, *key));
                refuse(maps::GUARD_RULES, !known, libc::ENOENT)
            }
            MapEdit::Settings(_) | MapEdit::AddressFilter(_) => Ok(()),
        }
    }
}

/// An index of an array map; 0 is never used.
fn in_range(map: &'static str, id: u16, capacity: u32) -> Result<(), StoreError> {
    refuse(map, id == 0 || u32::from(id) >= capacity, libc::E2BIG)
}

fn refuse(map: &'static str, refused: bool, errno: i32) -> Result<(), StoreError> {
    if !refused {
        return Ok(());
    }
    Err(StoreError {
        call: "update",
        map,
        source: io::Error::from_raw_os_error(errno),
    })
}

impl MapStore for FakeStore {
    fn apply(&mut self, edit: &MapEdit) -> Result<(), StoreError> {
        if self.fail_after == Some(self.applied) {
            self.fail_after = None;
            return refuse("injected", true, libc::ENOMEM);
        }
        self.check(edit)?;
        self.applied += 1;
        match edit {
            MapEdit::Ring(id, slots) if slots.is_empty() => drop(self.rings.remove(id)),
            MapEdit::RemoveRing(id) => drop(self.rings.remove(id)),
            MapEdit::Ring(id, slots) => drop(self.rings.insert(*id, slots.clone())),
            MapEdit::AddressFilter(filter) => self.filter.clone_from(filter),
            MapEdit::PurgeService(id) => self.purged.push(*id),
            _ => self.tables.record(edit),
        }
        Ok(())
    }

    fn state(&self) -> Result<KernelState, StoreError> {
        Ok(self.tables.state())
    }
}
