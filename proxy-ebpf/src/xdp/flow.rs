//! This CPU's part of the flow table: find, insert, touch, remove. Its layout and rules are told in `proxy_common::flow`.

use crate::atomic;
use crate::maps::{BACKENDS, FLOW_TAGS, FLOWS, SERVICE_TABLE};
use crate::packet::{forget, opaque};
use crate::stats;
use crate::xdp::exceptions;
use crate::xdp::slots::{
    first, has_free, has_tag, holds, lane, part, pick, slots, steady_way, tag_of, twins, unknown,
};
use aya_ebpf::helpers::bpf_get_smp_processor_id;
use core::mem::offset_of;
use proxy_common::flow::{
    FlowEntry, FlowKey, FlowSet, Phase, Position, SetTags, WAYS, counted, flow_flags, is_idle,
    is_steady, slot,
};
use proxy_common::hash::flow_hash;
use proxy_common::service::Service;
use proxy_common::settings::Settings;

/// Where a tuple's flow is, or would be.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Place {
    /// Hash of the tuple.
    pub hash: u64,
    /// The slots of the set in this CPU's part.
    pub tags: *mut SetTags,
    /// The slot's bits of hash.
    pub tag: u64,
    /// The preferred way; once the flow is found or inserted, its own.
    pub way: u32,
    /// Index of the set.
    pub index: u32,
}

/// Computes a tuple's place. `None` if the table lacks the set, which the loader rules out.
#[inline(always)]
pub fn place(settings: &Settings, key: &FlowKey) -> Option<Place> {
    place_of(settings, flow_hash(key.words(), &settings.secrets))
}

/// The place of a tuple whose hash is known.
#[inline(always)]
pub fn place_of(settings: &Settings, hash: u64) -> Option<Place> {
    let position = Position::of(hash, settings.sets_per_cpu);
    // SAFETY: no arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
    let index = cpu * settings.sets_per_cpu + position.set;
    Some(Place {
        hash,
        tags: FLOW_TAGS.get_ptr_mut(index)?,
        tag: position.tag,
        way: position.way,
        index,
    })
}

/// The entries of a place's set. Looked up only where they are needed: most packets need none.
#[inline(always)]
fn set_of(place: &Place) -> Option<*mut FlowSet> {
    FLOWS.get_ptr_mut(place.index)
}

/// A way's entry.
#[inline(always)]
pub(super) fn way_of(set: *mut FlowSet, way: u32) -> *mut FlowEntry {
    // SAFETY: there are sixteen ways.
    unsafe { set.cast::<FlowEntry>().add(lane(way)) }
}

/// The entry of a place's way.
#[inline(always)]
pub fn entry_of(place: &Place) -> Option<*mut FlowEntry> {
    set_of(place).map(|set| way_of(set, place.way))
}

/// Writes the slot of a place's way.
#[inline(always)]
pub fn write_slot(place: &Place, value: u64) {
    // SAFETY: the way is in the set, and this CPU is the only writer of its part. In one piece:
    // others read it.
    unsafe { tag_of(place.tags, place.way).write_volatile(value) };
}

/// What two tuples differ in: 0 if in nothing. One number and not five comparisons: those would cost
/// the verifier more than it grants, as it counts the branches of the longest way through all
/// parts of the table.
#[inline(always)]
fn difference(entry: *const FlowEntry, key: &FlowKey) -> u64 {
    // SAFETY: both are aligned to eight octets and five words long.
    let (a, b) = unsafe {
        (
            entry.cast::<[u64; 5]>().read(),
            (&raw const *key).cast::<[u64; 5]>().read(),
        )
    };
    opaque((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) | (a[4] ^ b[4]))
}

/// True if an entry is of this flow.
#[inline(always)]
pub(super) fn same(entry: *const FlowEntry, key: &FlowKey) -> bool {
    difference(entry, key) == 0
}

/// Finds a steady flow by its slot alone, which it gives; `place` then names the way.
///
/// The four slots around the preferred way lie in one line. Which of them it is comes out as a
/// number: a branch would often be guessed wrong, and what was begun meanwhile for this packet and
/// the next would be thrown away when the line has arrived from memory.
#[inline(always)]
pub fn find_steady(place: &mut Place) -> Option<u64> {
    let mut first = u64::from(place.way);
    // SAFETY: an and with a constant.
    unsafe { core::arch::asm!("{0} &= 12", inout(reg) first, options(pure, nomem, nostack)) };
    // SAFETY: there are sixteen ways, the first of four at most the twelfth.
    let four = unsafe { place.tags.cast::<u64>().add(first as usize) };
    // SAFETY: as above.
    let [a, b, c, d] = unsafe { four.cast::<[u64; 4]>().read() };
    let [a, b, c, d] = [a, b, c, d].map(|slot| opaque(is_steady(slot, place.tag)));
    let way = if opaque(a | b | c | d) != 0 {
        first as u32 + (b + 2 * c + 3 * d) as u32
    } else {
        let way = steady_way(place.tags, place.tag);
        if way >= WAYS as u64 {
            return None;
        }
        way as u32
    };
    place.way = way;
    // SAFETY: the way is in the set.
    Some(unsafe { tag_of(place.tags, way).read() })
}

/// Finds a flow in this CPU's part. `place` then names the way. A bare flow gets its entry.
#[inline(always)]
pub fn find(place: &mut Place, key: &FlowKey, now: u32) -> Option<*mut FlowEntry> {
    let set = set_of(place)?;
    let way = search(place.tags, set, key, place.tag);
    if way >= WAYS as u64 {
        return None;
    }
    place.way = way as u32;
    let entry = way_of(set, place.way);
    // SAFETY: the way is in the set.
    let slot = unsafe { tag_of(place.tags, place.way).read() };
    if slot & slot::BARE != 0 && fill(place, key, slot, u64::from(now)) != 0 {
        return None;
    }
    Some(entry)
}

/// What an entry of a bare flow says where its guard's generation would stand: it is judged again.
const UNJUDGED: u32 = u32::MAX;

/// What a bare flow's entry would hold. `None` if the backend's id has got another meaning, or this is
/// no answer of its.
#[inline(always)]
pub(super) fn bare(slot: u64, key: &FlowKey, now: u32) -> Option<Packed> {
    let backend = slot as u16;
    let to = BACKENDS.get(u32::from(backend))?;
    let service = to.service;
    if (slot::ids(backend, service) ^ slot) & (slot::BACKEND | slot::SERVICE) != 0 {
        return None;
    }
    let mut new = NewFlow {
        now: now.wrapping_sub(slot::age(slot, now)),
        guard_generation: UNJUDGED,
        nat_word: 0,
        backend,
        service,
        nat_port_be: 0,
        phase: Phase::Syn.code(),
        flags: 0,
        counted: counted::NOT_YET,
    };
    if slot & slot::BARE_RETURN == slot::BARE_RETURN {
        let ([a, b], [c, d]) = (to.addr.words(), key.src.words());
        if (a ^ c) | (b ^ d) != 0 {
            return None;
        }
        let service = SERVICE_TABLE.get(u32::from(service))?;
        new.nat_word = u32::from_ne_bytes(service.vip.low32());
        new.nat_port_be = service.port.to_be();
        new.flags = flow_flags::RETURN;
        new.counted = counted::NEVER;
    }
    Some(new.pack())
}

/// Writes the entry of a bare flow and gives 0, or frees its way where it no longer serves.
#[inline(never)]
fn fill(place: &Place, key: &FlowKey, slot: u64, now: u64) -> u64 {
    let (Some(new), Some(entry)) = (bare(slot, key, now as u32), entry_of(place)) else {
        // A way back may yet be asked for by the flow that it belongs to.
        if slot & slot::BARE_RETURN == slot::BARE {
            write_slot(place, 0);
        }
        return 1;
    };
    write_entry(entry, key, &new);
    forget();
    write_slot(
        place,
        slot & !(slot::BARE_RETURN | slot::PERIOD) | slot::at(new.now()),
    );
    0
}

/// Looks through the slots of a set. Gives the way, or [`WAYS`] if the flow is not there.
#[inline(never)]
pub(super) fn search(tags: *mut SetTags, set: *mut FlowSet, key: &FlowKey, tag: u64) -> u64 {
    unknown(scan(tags, set, key, tag))
}

#[inline(always)]
fn scan(tags: *mut SetTags, set: *mut FlowSet, key: &FlowKey, tag: u64) -> u64 {
    for way in 0..WAYS as u32 {
        // SAFETY: the way is in the set.
        let found = unsafe { tag_of(tags, way).read() };
        if opaque(found ^ tag) >> slot::HASH_SHIFT == 0
            && found != 0
            && (found & slot::BARE != 0 || same(way_of(set, way), key))
        {
            return u64::from(way);
        }
    }
    WAYS as u64
}

/// What a new entry holds beside its tuple.
#[derive(Clone, Copy)]
pub struct NewFlow {
    pub now: u32,
    /// One of [`counted`]. [`counted::YES`] counts the flow in `live_flows` at once.
    pub counted: u32,
    pub guard_generation: u32,
    pub nat_word: u32,
    pub backend: u16,
    pub service: u16,
    pub nat_port_be: u16,
    pub phase: u8,
    pub flags: u8,
}

/// The same as the entry's last three words. Words and not fields: the compiler joins stores of
/// neighbouring fields, and the kernel wants those on the stack aligned.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Packed {
    words: [u64; 3],
}

impl NewFlow {
    #[inline(always)]
    pub fn pack(&self) -> Packed {
        const {
            assert!(offset_of!(FlowEntry, last_seen) == 40 && offset_of!(FlowEntry, counted) == 44);
            assert!(offset_of!(FlowEntry, nat_word) == 52 && offset_of!(FlowEntry, service) == 58);
            assert!(offset_of!(FlowEntry, nat_port_be) == 60 && offset_of!(FlowEntry, flags) == 63);
        }
        let ids = pair_of(
            u32::from(self.backend) | u32::from(self.service) << 16,
            u32::from(self.nat_port_be) | u32::from(self.phase) << 16 | u32::from(self.flags) << 24,
        );
        Packed {
            words: [
                pair_of(self.now, self.counted),
                pair_of(self.guard_generation, self.nat_word),
                ids,
            ],
        }
    }
}

impl Packed {
    #[inline(always)]
    fn now(&self) -> u32 {
        self.words[0] as u32
    }

    #[inline(always)]
    fn is_counted(&self) -> bool {
        (self.words[0] >> 32) as u32 == counted::YES
    }

    #[inline(always)]
    fn backend(&self) -> u16 {
        self.words[2] as u16
    }

    #[inline(always)]
    fn service(&self) -> u16 {
        (self.words[2] >> 16) as u16
    }

    #[inline(always)]
    fn nat_word(&self) -> u32 {
        (self.words[1] >> 32) as u32
    }

    #[inline(always)]
    fn nat_port_be(&self) -> u16 {
        (self.words[2] >> 32) as u16
    }

    #[inline(always)]
    fn phase(&self) -> u8 {
        (self.words[2] >> 48) as u8
    }
}

/// Inserts a flow. Null when every way holds a confirmed flow that has not expired; the caller
/// forwards such a flow without an entry. A function of its own, for the stack's sake.
#[inline(never)]
pub fn insert(place: &mut Place, key: &FlowKey, new: &Packed) -> *mut FlowEntry {
    let Some(set) = set_of(place) else {
        return core::ptr::null_mut();
    };
    if has_tag(place.tags, place.tag) {
        part(place.tags, place.tag);
    }
    let way = room(place.tags, set, u64::from(place.way), u64::from(new.now()));
    if way >= WAYS as u64 {
        if let Some(stats) = stats::service(new.service()) {
            stats.untracked_flows += 1;
        }
        return core::ptr::null_mut();
    }
    let entry = put(place, set, way as u32, key, new);
    if new.is_counted() {
        stats::add_live(new.backend(), 1);
    }
    entry
}

/// Remembers a flow that a SYN opens by a bare slot, unless it may be known; 0 if it may be, or
/// if there is no way for it. Nothing is read but the slots, and nothing else is written. `kind` is
/// [`slot::BARE`] or [`slot::BARE_RETURN`]; `ids` are the backend's and the service's, side by side. A
/// function of its own, for the stack's sake.
#[inline(never)]
pub fn insert_bare(place: &mut Place, ids: u64, now: u64, kind: u64) -> u64 {
    u64::from(try_insert_bare(
        place,
        ids as u16,
        (ids >> 32) as u16,
        now as u32,
        kind,
    ))
}

#[inline(always)]
fn try_insert_bare(place: &mut Place, backend: u16, service: u16, now: u32, kind: u64) -> bool {
    let slots = slots(place.tags);
    if holds(slots, place.tag) {
        return false;
    }
    // SAFETY: the way is in the set.
    let there = unsafe { tag_of(place.tags, place.way).read() };
    if there != 0 {
        if there & (slot::CONFIRMED | slot::COUNTED) == 0 && !has_free(slots) {
            replaced(service);
        } else {
            let way = pick(place.tags, u64::from(place.way));
            if way >= WAYS as u64 {
                return false;
            }
            place.way = way as u32;
            // SAFETY: the way is in the set.
            if unsafe { tag_of(place.tags, place.way).read() } != 0 {
                replaced(service);
            }
        }
    }
    let value = place.tag | slot::ids(backend, service) | slot::bare_at(now) | kind;
    write_slot(place, value);
    true
}

/// Counts a flow that took the place of another one.
#[inline(always)]
fn replaced(service: u16) {
    if let Some(stats) = stats::service(service) {
        stats.replaced_flows += 1;
    }
}

/// Two fields side by side as one word.
#[inline(always)]
pub(super) fn pair_of(first: u32, second: u32) -> u64 {
    u64::from(first) | u64::from(second) << 32
}

/// Writes a flow into a way: its slot is free while the entry is written.
#[inline(always)]
fn put(
    place: &mut Place,
    set: *mut FlowSet,
    way: u32,
    key: &FlowKey,
    new: &Packed,
) -> *mut FlowEntry {
    place.way = way;
    let entry = way_of(set, way);
    // SAFETY: the way is in the set.
    if unsafe { tag_of(place.tags, way).read() } != 0 {
        replaced(new.service());
        write_slot(place, 0);
        forget();
    }
    write_entry(entry, key, new);
    forget();
    let counted = if new.is_counted() { slot::COUNTED } else { 0 };
    let ids = slot::ids(new.backend(), new.service());
    write_slot(place, place.tag | ids | slot::at(new.now()) | counted);
    entry
}

/// Writes an entry, in as few stores as possible: they wait for a line from far memory, and the CPU
/// has room for a hundred that wait.
#[inline(always)]
fn write_entry(entry: *mut FlowEntry, key: &FlowKey, new: &Packed) {
    let [a, b, c, d, last] = key.words();
    let [seen, judged, ids] = new.words;
    // SAFETY: this CPU is the only writer of its part; readers compare the slot again after they
    // have copied an entry.
    unsafe {
        let words = entry.cast::<u64>();
        words.write(a);
        words.add(1).write(b);
        words.add(2).write(c);
        words.add(3).write(d);
        words.add(4).write(last);
        words.add(5).write(seen);
        words.add(6).write(judged);
        words.add(7).write(ids);
    }
}

/// Brings a way's slot up to date with its entry.
#[inline(always)]
pub(super) fn sync(place: &Place, entry: *const FlowEntry, now: u32) {
    // SAFETY: the entry is inside a map's value.
    let flow = unsafe { &*entry };
    let mut value = place.tag | slot::ids(flow.backend, flow.service) | slot::at(now);
    if flow.flags & flow_flags::CONFIRMED != 0 {
        value |= slot::CONFIRMED;
        let steady = flow.phase == Phase::Established.code() || flow.phase == Phase::Udp.code();
        if steady
            && flow.flags & flow_flags::RETURN == 0
            && flow.backend != 0
            && twins(place.tags, place.tag) < 2
        {
            value |= slot::STEADY;
        }
    } else if flow.counted == counted::YES {
        value |= slot::COUNTED;
    }
    write_slot(place, value);
}

/// Finds a way for a new flow. Where [`pick`] names none, that is an unconfirmed flow's that is
/// counted, or a confirmed one's that is idle for its timeout. Ends the counting of the one that
/// goes. [`WAYS`] if none may.
#[inline(never)]
fn room(tags: *mut SetTags, set: *mut FlowSet, preferred: u64, now: u64) -> u64 {
    let way = pick(tags, preferred);
    if way < WAYS as u64 {
        return way;
    }
    let chosen = unknown(victim(tags, set, preferred as u32, now as u32));
    if chosen < WAYS as u64 {
        uncount(way_of(set, chosen as u32));
    }
    chosen
}

/// The flow that a new one may replace, or [`WAYS`]. All have entries: bare ones are replaced
/// without a look at them.
#[inline(always)]
fn victim(tags: *mut SetTags, set: *mut FlowSet, preferred: u32, now: u32) -> u64 {
    let unconfirmed = first(tags, preferred, slot::CONFIRMED);
    if unconfirmed < WAYS as u64 {
        return unconfirmed;
    }
    for way in 0..WAYS as u32 {
        // SAFETY: the way is in the set.
        let slot = unsafe { tag_of(tags, way).read_volatile() };
        if expired(slot, way_of(set, way), now) {
            return u64::from(way);
        }
    }
    WAYS as u64
}

/// True for a flow that is idle for longer than its service allows.
#[inline(always)]
fn expired(slot: u64, entry: *const FlowEntry, now: u32) -> bool {
    // SAFETY: the entry is inside a map's value.
    let (service, phase, last_seen) =
        unsafe { ((*entry).service, (*entry).phase, (*entry).last_seen) };
    let Some(service) = SERVICE_TABLE.get(u32::from(service)) else {
        return true;
    };
    is_idle(slot, last_seen, idle_ticks(service, phase), now)
}

/// Idle time that a service allows its flows in a phase. The four times stand in the order of the
/// phases' codes; an index that the verifier can follow replaces a chain of comparisons, which
/// the compiler would turn into one that it cannot.
#[inline(always)]
pub fn idle_ticks(service: &Service, phase: u8) -> u32 {
    const {
        assert!(offset_of!(Service, udp_ticks) == offset_of!(Service, syn_ticks) + 12);
        assert!(Phase::Syn as u8 == 1 && Phase::Established as u8 == 2);
        assert!(Phase::Closing as u8 == 3 && Phase::Udp as u8 == 4);
    }
    let index = lane(u32::from(phase.wrapping_sub(1)) & 3);
    let index = index & 3;
    // SAFETY: the index is below 4.
    unsafe { (&raw const service.syn_ticks).add(index).read() }
}

/// Ends the counting of a flow as live, once.
#[inline(always)]
pub fn uncount(entry: *mut FlowEntry) {
    // SAFETY: the field is aligned to four octets and only changed atomically.
    let before = unsafe { atomic::swap(&raw mut (*entry).counted, counted::NEVER) };
    if before == counted::YES {
        // SAFETY: the entry is inside a map's value.
        stats::add_live(unsafe { (*entry).backend }, -1);
    }
}

/// Counts a flow as live, unless it is, or another CPU's entry of it is.
#[inline(always)]
fn count(entry: *mut FlowEntry) {
    // SAFETY: as in `uncount`.
    let counted = unsafe { &raw mut (*entry).counted };
    // SAFETY: as in `uncount`.
    if unsafe { atomic::replace(counted, counted::NOT_YET, counted::YES) } {
        // SAFETY: the entry is inside a map's value.
        stats::add_live(unsafe { (*entry).backend }, 1);
    }
}

/// Brings an entry of the return path up to date without confirming it. A function of its own, for the
/// stack's sake.
#[inline(never)]
pub fn renew(place: &Place, entry: *mut FlowEntry, new: &Packed) -> u64 {
    // SAFETY: this CPU is the only writer of its part.
    unsafe {
        (*entry).last_seen = new.now();
        (*entry).nat_word = new.nat_word();
        (*entry).backend = new.backend();
        (*entry).service = new.service();
        (*entry).nat_port_be = new.nat_port_be();
        (*entry).phase = new.phase();
        (*entry).flags |= flow_flags::RETURN;
    }
    sync(place, entry, new.now());
    0
}

/// Removes a flow that no longer serves from this CPU's part.
#[inline(always)]
pub fn remove(place: &Place, entry: *mut FlowEntry) {
    uncount(entry);
    // SAFETY: this CPU is the only writer of its part.
    unsafe { (*entry).key.protocol = 0 };
    write_slot(place, 0);
}

/// Notes a packet of a known flow: time, phase, confirmation.
#[inline(always)]
pub fn touch(place: &Place, entry: *mut FlowEntry, now: u32, phase: u8) {
    // SAFETY: the entry is inside this CPU's part.
    unsafe {
        (*entry).last_seen = now;
        if (*entry).flags & flow_flags::CONFIRMED == 0 {
            (*entry).flags |= flow_flags::CONFIRMED;
            if phase != Phase::Closing.code() {
                count(entry);
            }
        }
        if (*entry).phase != phase {
            (*entry).phase = phase;
            if phase == Phase::Closing.code() {
                uncount(entry);
                exceptions::mark(place.hash);
            }
        }
    }
    sync(place, entry, now);
}
