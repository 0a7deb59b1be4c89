//! Finds the flows of which the flow table knows what the ring does not tell, so that SYNs of all others
//! need not look at it. What that is for is told in `proxy_common::exceptions`.
//!
//! The sweep comes by every flow anyway. It shows each to a [`Marker`], which marks the exceptions in the
//! half of the filter that is not looked at, and puts that in force at the end of the pass.

use super::handle::{MapHandle, Mapping, Shared};
use super::set::MapSet;
use super::store::StoreError;
use proxy_common::exceptions::{Exceptions, HALF_WORDS, half, place, state};
use proxy_common::flow::{FlowEntry, Phase, flow_flags};
use proxy_common::hash::{ring_slot, selection_hash};
use proxy_common::maps;
use proxy_common::service::{
    RING_CHUNK_SLOTS, RingChunk, Selection, Service, protocol, ring_place,
};
use proxy_common::settings::Settings;
use std::collections::HashMap;
use std::io;
use std::mem::{offset_of, size_of};
use std::sync::atomic::{
    AtomicU16, AtomicU32, AtomicU64,
    Ordering::{Relaxed, Release},
};

/// [`Exceptions`], shared.
#[repr(C, align(64))]
struct SharedExceptions {
    state: AtomicU64,
    _pad: [AtomicU64; 7],
    marks: [AtomicU64; 2 * HALF_WORDS],
}

const _: () = assert!(size_of::<SharedExceptions>() == size_of::<Exceptions>());
const _: () = assert!(offset_of!(SharedExceptions, marks) == offset_of!(Exceptions, marks));

// SAFETY: atomics only; the size assertion shows that there is no padding.
unsafe impl Shared for SharedExceptions {}

/// [`RingChunk`], shared.
#[repr(C, align(8))]
struct SharedChunk {
    until: AtomicU32,
    before_size: AtomicU32,
    before_first: AtomicU16,
    slots: [AtomicU16; RING_CHUNK_SLOTS],
}

const _: () = assert!(size_of::<SharedChunk>() == size_of::<RingChunk>());
const _: () = assert!(offset_of!(SharedChunk, slots) == offset_of!(RingChunk, slots));

// SAFETY: atomics only; the size assertion shows that there is no padding.
unsafe impl Shared for SharedChunk {}

/// A ring that flows are compared with: the kernel's own memory, as there may be thousands.
#[derive(Debug)]
struct Ring {
    /// The map's id. A changed ring has another.
    id: u32,
    chunks: Mapping,
}

/// Marks exceptions during a pass of the sweep.
#[derive(Debug)]
pub(crate) struct Marker {
    filter: Mapping,
    rings: MapHandle,
    settings: MapHandle,
    /// The rings that were needed lately, by service id; `None` where there is none.
    known: HashMap<u16, Option<Ring>>,
    seed: u64,
    /// The half that is being filled.
    half: usize,
    since: u32,
}

impl Marker {
    pub(crate) fn open(set: &MapSet) -> Result<Self, StoreError> {
        let filter = set.get(maps::EXCEPTIONS)?;
        let filter = filter.map_memory().map_err(|source| StoreError {
            call: "map",
            map: maps::EXCEPTIONS,
            source,
        })?;
        Ok(Self {
            filter,
            rings: set.clone_of(maps::RINGS)?,
            settings: set.clone_of(maps::SETTINGS)?,
            known: HashMap::new(),
            seed: 0,
            half: 1,
            since: 0,
        })
    }

    /// Begins a look at the whole table at this second.
    pub(crate) fn begin(&mut self, now: u32) -> Result<(), StoreError> {
        let failed = |source| StoreError {
            call: "read",
            map: maps::SETTINGS,
            source,
        };
        let settings: Settings = (self.settings.get(&0u32))
            .map_err(failed)?
            .unwrap_or_default();
        self.seed = settings.selection_seed;
        let rings = &self.rings;
        (self.known).retain(|service, ring| {
            let now = rings.get::<u32, u32>(&u32::from(*service)).ok().flatten();
            ring.as_ref().is_some_and(|ring| now == Some(ring.id))
        });
        self.half = 1 - half(self.filter().state.load(Relaxed)) as usize;
        self.since = now;
        for word in self.marks() {
            word.store(0, Relaxed);
        }
        Ok(())
    }

    /// Looks at a flow of a service with an entry.
    pub(crate) fn look(&mut self, slot: u64, entry: &FlowEntry, id: u16, service: &Service) {
        let concerns = service.selection == Selection::Maglev.code()
            && entry.key.protocol == protocol::TCP
            && entry.flags & flow_flags::RETURN == 0;
        if concerns
            && (entry.phase == Phase::Closing.code()
                || self.leads_to(entry, id, service) != Some(entry.backend))
        {
            self.mark(slot);
        }
    }

    /// Marks a flow by its slot: for one without an entry, of which no more is known.
    pub(crate) fn mark(&self, slot: u64) {
        let (word, mask) = place(slot);
        self.marks()[word].fetch_or(mask, Relaxed);
    }

    /// Puts what was marked in force.
    pub(crate) fn finish(&self) {
        let word = state(self.half as u64, self.since);
        self.filter().state.store(word, Release);
    }

    /// Where the ring leads a flow now.
    fn leads_to(&mut self, entry: &FlowEntry, id: u16, service: &Service) -> Option<u16> {
        if service.ring_size == 0 {
            return None;
        }
        let (rings, known) = (&self.rings, &mut self.known);
        // A ring that cannot be read makes exceptions of all flows.
        let ring = (known.entry(id))
            .or_insert_with(|| open_ring(rings, id).ok().flatten())
            .as_ref()?;
        let hash = selection_hash(&entry.key, self.seed);
        let (chunk, lane) = ring_place(ring_slot(hash, service.ring_size));
        let chunk = ring.chunks.elements::<SharedChunk>().get(chunk as usize)?;
        Some(chunk.slots.get(lane as usize)?.load(Relaxed))
    }

    fn filter(&self) -> &SharedExceptions {
        // A map has one element at least.
        &self.filter.elements()[0]
    }

    fn marks(&self) -> &[AtomicU64] {
        &self.filter().marks[self.half * HALF_WORDS..][..HALF_WORDS]
    }
}

fn open_ring(rings: &MapHandle, service: u16) -> io::Result<Option<Ring>> {
    let Some(id) = rings.get::<u32, u32>(&u32::from(service))? else {
        return Ok(None);
    };
    let chunks = MapHandle::by_id(id)?.map_memory()?;
    Ok(Some(Ring { id, chunks }))
}
