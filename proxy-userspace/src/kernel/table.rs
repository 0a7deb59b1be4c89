//! The flow table and the full-nat port table as seen through shared memory.
//!
//! The kernel writes these while we read. All access therefore goes through atomics, and an
//! entry is believed only if its slot is of the same flow and its protocol is the same before and
//! after it was read. What user space may change is little: remove a flow, end its `counted`, free a
//! port.

use super::handle::{MapHandle, Mapping, Shared};
use super::set::MapSet;
use super::store::StoreError;
use proxy_common::addr::Addr;
use proxy_common::flow::{
    FlowEntry, FlowKey, FlowSet, SetTags, SnatPort, WAYS, counted, nth_way, slot,
};
use proxy_common::maps;
use std::io;
use std::mem::{offset_of, size_of};
use std::ops::Range;
use std::sync::atomic::{
    AtomicI64, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Relaxed,
    Ordering::Release,
};

/// [`FlowEntry`], shared.
#[repr(C, align(8))]
pub(crate) struct SharedEntry {
    key: [AtomicU64; 5],
    last_seen: AtomicU32,
    counted: AtomicU32,
    guard_generation: AtomicU32,
    nat_word: AtomicU32,
    backend: AtomicU16,
    service: AtomicU16,
    nat_port_be: AtomicU16,
    phase: AtomicU8,
    flags: AtomicU8,
}

/// [`FlowSet`], shared.
#[repr(C, align(64))]
pub(crate) struct SharedWays([SharedEntry; WAYS]);

/// [`SetTags`], shared.
#[repr(C, align(64))]
pub(crate) struct SharedTags([AtomicU64; WAYS]);

/// A set: its flows' entries and their slots, which stand apart.
#[derive(Clone, Copy)]
pub(crate) struct SharedSet<'a> {
    ways: &'a SharedWays,
    tags: &'a SharedTags,
}

const _: () = assert!(size_of::<SharedEntry>() == size_of::<FlowEntry>());
const _: () = assert!(offset_of!(SharedEntry, last_seen) == offset_of!(FlowEntry, last_seen));
const _: () = assert!(offset_of!(SharedEntry, counted) == offset_of!(FlowEntry, counted));
const _: () = assert!(offset_of!(SharedEntry, backend) == offset_of!(FlowEntry, backend));
const _: () = assert!(offset_of!(SharedEntry, service) == offset_of!(FlowEntry, service));
const _: () = assert!(offset_of!(SharedEntry, phase) == offset_of!(FlowEntry, phase));
const _: () = assert!(size_of::<SharedWays>() == size_of::<FlowSet>());
const _: () = assert!(size_of::<SharedTags>() == size_of::<SetTags>());

// SAFETY: atomics only; the size assertions show that there is no padding.
unsafe impl Shared for SharedWays {}
// SAFETY: as above.
unsafe impl Shared for SharedTags {}

impl SharedEntry {
    fn read(&self) -> FlowEntry {
        let words = self.key.each_ref().map(|word| word.load(Relaxed));
        FlowEntry {
            key: key_of(words),
            last_seen: self.last_seen.load(Relaxed),
            counted: self.counted.load(Relaxed),
            guard_generation: self.guard_generation.load(Relaxed),
            nat_word: self.nat_word.load(Relaxed),
            backend: self.backend.load(Relaxed),
            service: self.service.load(Relaxed),
            nat_port_be: self.nat_port_be.load(Relaxed),
            phase: self.phase.load(Relaxed),
            flags: self.flags.load(Relaxed),
        }
    }

    fn write(&self, entry: &FlowEntry) {
        for (to, from) in self.key.iter().zip(entry.key.words()) {
            to.store(from, Relaxed);
        }
        self.last_seen.store(entry.last_seen, Relaxed);
        self.counted.store(entry.counted, Relaxed);
        self.guard_generation.store(entry.guard_generation, Relaxed);
        self.nat_word.store(entry.nat_word, Relaxed);
        self.backend.store(entry.backend, Relaxed);
        self.service.store(entry.service, Relaxed);
        self.nat_port_be.store(entry.nat_port_be, Relaxed);
        self.phase.store(entry.phase, Relaxed);
        self.flags.store(entry.flags, Relaxed);
    }
}

/// The tuple from its words, the inverse of [`FlowKey::words`].
fn key_of(words: [u64; 5]) -> FlowKey {
    let addr = |high: u64, low: u64| {
        let mut octets = [0; 16];
        octets[..8].copy_from_slice(&high.to_ne_bytes());
        octets[8..].copy_from_slice(&low.to_ne_bytes());
        Addr { octets }
    };
    let last = words[4].to_ne_bytes();
    FlowKey::new(
        addr(words[0], words[1]),
        addr(words[2], words[3]),
        u16::from_ne_bytes([last[0], last[1]]),
        u16::from_ne_bytes([last[2], last[3]]),
        last[4],
    )
}

impl SharedSet<'_> {
    /// Bit mask of the ways that hold something.
    pub(crate) fn used(&self) -> u16 {
        self.marked(u64::MAX)
    }

    /// Bit mask of the ways that have seen a second packet.
    pub(crate) fn confirmed(&self) -> u16 {
        self.marked(slot::CONFIRMED)
    }

    fn marked(&self, bits: u64) -> u16 {
        let slots = self.tags.0.iter().enumerate();
        slots.fold(0, |marked, (way, slot)| {
            marked | u16::from(slot.load(Relaxed) & bits != 0) << way
        })
    }

    /// The slot of a way, 0 if it is free.
    pub(crate) fn slot(&self, way: usize) -> u64 {
        self.tags.0[way].load(Acquire)
    }

    /// True if the entry of a way was removed.
    pub(crate) fn is_removed(&self, way: usize) -> bool {
        self.ways.0[way].key[4].load(Acquire).to_ne_bytes()[4] == 0
    }

    /// The entry in a way, if there is one.
    pub(crate) fn entry(&self, way: usize) -> Option<(u64, FlowEntry)> {
        let slot = self.slot(way);
        if slot == 0 || slot & slot::BARE != 0 {
            return None;
        }
        let entry = self.ways.0[way].read();
        let again = self.ways.0[way].key[4].load(Acquire).to_ne_bytes()[4];
        let whole =
            entry.key.protocol != 0 && again == entry.key.protocol && is_same(slot, self.slot(way));
        whole.then_some((slot, entry))
    }

    /// Ends a flow with an entry, unless the kernel has put another one in its place meanwhile:
    /// removes its tuple, takes it out of the live count of its backend, and frees the way. Each
    /// step is a compare-exchange that a new flow makes fail.
    pub(crate) fn end(&self, way: usize, slot: u64, entry: &FlowEntry, live: &[AtomicI64]) -> bool {
        let last = entry.key.words()[4];
        let entry_of_way = &self.ways.0[way];
        let word = &entry_of_way.key[4];
        if word.compare_exchange(last, 0, Acquire, Relaxed).is_err() {
            return false;
        }
        if entry_of_way.counted.swap(counted::NEVER, Relaxed) == counted::YES
            && let Some(count) = live.get(usize::from(entry.backend))
        {
            count.fetch_sub(1, Relaxed);
        }
        // The kernel may note a packet of the flow meanwhile.
        let _ =
            self.tags.0[way].fetch_update(Release, Relaxed, |now| is_same(slot, now).then_some(0));
        true
    }

    /// Frees a way if it still has this slot: a bare flow's, or one whose entry was removed.
    pub(crate) fn free(&self, way: usize, slot: u64) -> bool {
        self.tags.0[way]
            .compare_exchange(slot, 0, Release, Relaxed)
            .is_ok()
    }

    /// Puts a flow into the free way nearest to the preferred one; false if there is none.
    ///
    /// Only for tables that no program uses yet: the packet path relies on being the only writer.
    ///
    /// Flows with equal bits of hash do not become steady here: the kernel sees to that when it
    /// sees their next packets.
    pub(crate) fn insert(&self, preferred: u32, slot: u64, entry: &FlowEntry) -> bool {
        let free = |way: &usize| self.slot(*way) == 0;
        let ways = (0..WAYS as u32).map(|n| nth_way(preferred, n) as usize);
        let Some(way) = ways.clone().find(free) else {
            return false;
        };
        self.ways.0[way].write(entry);
        self.tags.0[way].store(slot & !slot::STEADY, Release);
        true
    }
}

/// True if both slots are of one flow with an entry.
fn is_same(one: u64, other: u64) -> bool {
    (one ^ other) & (slot::HASH | slot::BARE) == 0 && other != 0
}

/// The whole flow table.
#[derive(Debug)]
pub(crate) struct FlowTable {
    flows: Mapping,
    tags: Mapping,
}

impl FlowTable {
    pub(crate) fn open(set: &MapSet) -> Result<Self, StoreError> {
        let map = |name, check: fn(&MapHandle) -> io::Result<()>| {
            let handle = set.get(name)?;
            let mapped = check(handle).and_then(|()| handle.map_memory());
            mapped.map_err(|source| StoreError {
                call: "map",
                map: name,
                source,
            })
        };
        Ok(Self {
            flows: map(maps::FLOWS, check_value::<FlowSet>)?,
            tags: map(maps::FLOW_TAGS, check_value::<SetTags>)?,
        })
    }

    /// Number of sets.
    pub(crate) fn len(&self) -> usize {
        let (ways, tags) = self.halves();
        ways.len().min(tags.len())
    }

    /// The sets from `range`, those of CPU 0 first.
    pub(crate) fn range(&self, range: Range<usize>) -> impl Iterator<Item = SharedSet<'_>> {
        let (ways, tags) = self.halves();
        let halves = ways[range.clone()].iter().zip(&tags[range]);
        halves.map(|(ways, tags)| SharedSet { ways, tags })
    }

    /// All sets.
    pub(crate) fn sets(&self) -> impl Iterator<Item = SharedSet<'_>> {
        self.range(0..self.len())
    }

    /// One set.
    ///
    /// # Panics
    ///
    /// When there are fewer.
    pub(crate) fn set(&self, index: usize) -> SharedSet<'_> {
        let (ways, tags) = self.halves();
        SharedSet {
            ways: &ways[index],
            tags: &tags[index],
        }
    }

    fn halves(&self) -> (&[SharedWays], &[SharedTags]) {
        (self.flows.elements(), self.tags.elements())
    }
}

/// [`SnatPort`], shared.
#[repr(C, align(8))]
pub(crate) struct SharedPort {
    client: [AtomicU64; 2],
    vip: [AtomicU64; 2],
    backend_addr: [AtomicU64; 2],
    ports: [AtomicU16; 3],
    backend: AtomicU16,
    last_seen: AtomicU32,
    phase: AtomicU8,
    _pad: [AtomicU8; 3],
}

const _: () = assert!(size_of::<SharedPort>() == size_of::<SnatPort>());
const _: () = assert!(offset_of!(SharedPort, backend) == offset_of!(SnatPort, backend));
const _: () = assert!(offset_of!(SharedPort, last_seen) == offset_of!(SnatPort, last_seen));
const _: () = assert!(offset_of!(SharedPort, phase) == offset_of!(SnatPort, phase));

// SAFETY: atomics only; the size assertion shows that there is no padding.
unsafe impl Shared for SharedPort {}

/// What decides whether a port is still used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PortUse {
    pub(crate) backend: u16,
    pub(crate) last_seen: u32,
    pub(crate) phase: u8,
}

impl SharedPort {
    /// Who uses the port, if anybody does.
    pub(crate) fn usage(&self) -> Option<PortUse> {
        let backend = self.backend.load(Acquire);
        (backend != 0).then(|| PortUse {
            backend,
            last_seen: self.last_seen.load(Relaxed),
            phase: self.phase.load(Relaxed),
        })
    }

    /// Frees the port, unless another backend has got it meanwhile.
    pub(crate) fn free(&self, backend: u16) {
        let _ = self.backend.compare_exchange(backend, 0, Release, Relaxed);
    }

    /// Copies a record into a table that no program uses yet.
    pub(crate) fn copy_from(&self, other: &Self) {
        let words = [
            (&self.client, &other.client),
            (&self.vip, &other.vip),
            (&self.backend_addr, &other.backend_addr),
        ];
        for (to, from) in words {
            for (to, from) in to.iter().zip(from) {
                to.store(from.load(Relaxed), Relaxed);
            }
        }
        for (to, from) in self.ports.iter().zip(&other.ports) {
            to.store(from.load(Relaxed), Relaxed);
        }
        self.last_seen.store(other.last_seen.load(Relaxed), Relaxed);
        self.phase.store(other.phase.load(Relaxed), Relaxed);
        self.backend.store(other.backend.load(Relaxed), Release);
    }
}

/// The whole full-nat port table.
#[derive(Debug)]
pub(crate) struct PortTable {
    memory: Mapping,
}

impl PortTable {
    pub(crate) fn open(snat_ports: &MapHandle) -> io::Result<Self> {
        check_value::<SnatPort>(snat_ports)?;
        Ok(Self {
            memory: snat_ports.map_memory()?,
        })
    }

    pub(crate) fn ports(&self) -> &[SharedPort] {
        self.memory.elements()
    }
}

/// The live counts.
#[derive(Debug)]
pub(crate) struct LiveTable {
    memory: Mapping,
}

impl LiveTable {
    pub(crate) fn open(live_flows: &MapHandle) -> io::Result<Self> {
        check_value::<AtomicI64>(live_flows)?;
        Ok(Self {
            memory: live_flows.map_memory()?,
        })
    }

    /// By backend id.
    pub(crate) fn counts(&self) -> &[AtomicI64] {
        self.memory.elements()
    }
}

fn check_value<T>(map: &MapHandle) -> io::Result<()> {
    if map.info().value_size as usize == size_of::<T>() {
        Ok(())
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An empty set, for tests.
    fn empty() -> (Box<SharedWays>, Box<SharedTags>) {
        let entry = |_| SharedEntry {
            key: Default::default(),
            last_seen: AtomicU32::new(0),
            counted: AtomicU32::new(0),
            guard_generation: AtomicU32::new(0),
            nat_word: AtomicU32::new(0),
            backend: AtomicU16::new(0),
            service: AtomicU16::new(0),
            nat_port_be: AtomicU16::new(0),
            phase: AtomicU8::new(0),
            flags: AtomicU8::new(0),
        };
        let ways = SharedWays(std::array::from_fn(entry));
        (Box::new(ways), Box::new(SharedTags(Default::default())))
    }

    fn with_empty_set(test: impl Fn(SharedSet<'_>)) {
        let (ways, tags) = empty();
        test(SharedSet {
            ways: &ways,
            tags: &tags,
        });
    }

    fn entry() -> FlowEntry {
        FlowEntry {
            key: FlowKey::new(
                Addr::v4([10, 0, 0, 1]),
                Addr::v6([0x20; 16]),
                4242,
                80u16.to_be(),
                6,
            ),
            last_seen: 77,
            counted: 1,
            guard_generation: 3,
            nat_word: 4,
            backend: 2,
            service: 5,
            nat_port_be: 6,
            phase: 2,
            flags: 1,
        }
    }

    /// A slot with an entry.
    const SLOT: u64 = 0x1234_5640_0000_0000 | 2 | 5 << slot::SERVICE_SHIFT;

    #[test]
    fn an_entry_survives_the_way_through_shared_memory() {
        with_empty_set(|set| {
            assert!(set.insert(7, SLOT | slot::CONFIRMED, &entry()));
            assert_eq!(set.entry(7), Some((SLOT | slot::CONFIRMED, entry())));
            assert_eq!((set.used(), set.confirmed()), (1 << 7, 1 << 7));
        });
    }

    #[test]
    fn what_is_left_of_a_removed_flow_is_not_seen_and_can_be_freed() {
        with_empty_set(|set| {
            let mut half = entry();
            half.key.protocol = 0;
            assert!(set.insert(0, SLOT, &half));
            assert_eq!(set.entry(0), None);
            assert!(set.is_removed(0) && set.free(0, SLOT));
            assert!(!set.free(0, SLOT));
            assert_eq!(set.used(), 0);
        });
    }

    #[test]
    fn a_bare_flow_has_no_entry() {
        with_empty_set(|set| {
            assert!(set.insert(3, SLOT | slot::BARE, &entry()));
            assert_eq!((set.entry(3), set.used()), (None, 1 << 3));
        });
    }

    #[test]
    fn flows_find_free_ways_until_there_are_none() {
        with_empty_set(|set| {
            for number in 0..WAYS as u64 {
                assert!(set.insert(5, SLOT + number, &entry()));
            }
            assert!(!set.insert(5, SLOT, &entry()));
            assert_eq!(set.slot(5), SLOT, "the preferred way is the first");
        });
    }

    #[test]
    fn ending_a_flow_lowers_its_backends_count_once() {
        with_empty_set(|set| {
            let live: Vec<AtomicI64> = (0..4).map(|_| AtomicI64::new(5)).collect();
            assert!(set.insert(3, SLOT, &entry()));
            assert!(set.end(3, SLOT, &entry(), &live));
            assert!(!set.end(3, SLOT, &entry(), &live));
            assert_eq!(live[2].load(Relaxed), 4);
            assert_eq!(set.used(), 0);
        });
    }

    #[test]
    fn a_flow_that_is_not_counted_lowers_nothing_when_it_ends() {
        for counted in [counted::NOT_YET, counted::NEVER] {
            with_empty_set(|set| {
                let live: Vec<AtomicI64> = (0..4).map(|_| AtomicI64::new(5)).collect();
                let entry = FlowEntry { counted, ..entry() };
                assert!(set.insert(3, SLOT, &entry));
                assert!(set.end(3, SLOT, &entry, &live));
                assert_eq!(live[2].load(Relaxed), 5);
            });
        }
    }

    #[test]
    fn a_flow_that_is_confirmed_while_it_ends_leaves_its_way_free() {
        with_empty_set(|set| {
            assert!(set.insert(3, SLOT, &entry()));
            set.tags.0[3].fetch_or(slot::CONFIRMED, Relaxed);
            assert!(set.end(3, SLOT, &entry(), &[]));
            assert_eq!(set.used(), 0);
        });
    }

    #[test]
    fn ending_a_flow_spares_one_that_took_its_place() {
        with_empty_set(|set| {
            let mut other = entry();
            other.key.src_port_be = 1;
            assert!(set.insert(3, !SLOT & !slot::BARE, &other));
            assert!(!set.end(3, SLOT, &entry(), &[]));
            assert_eq!(set.entry(3).unwrap().1, other);
        });
    }
}
