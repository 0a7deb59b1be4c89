//! This CPU's part of the flow table: find, insert, touch, remove. Its layout and rules are told in `proxy_common::flow`.

use crate::atomic;
use crate::maps::{CPU_STATE, FLOW_TAGS, FLOWS, SERVICE_TABLE};
use crate::packet::{forget, opaque};
use crate::stats;
use aya_ebpf::helpers::bpf_get_smp_processor_id;
use core::mem::offset_of;
use proxy_common::flow::{
    FlowEntry, FlowKey, FlowSet, Phase, Position, SetTags, WAYS, counted, flow_flags, lanes,
    replaceable_lanes, same_lanes, tag, ticks_since, zero_lanes,
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
    /// Set in this CPU's part.
    pub set: *mut FlowSet,
    /// Index of this CPU's part.
    pub cpu: u32,
    /// The preferred way; once the flow is found or inserted, its own.
    pub way: u32,
    /// Tag of an unconfirmed flow.
    pub tag: u32,
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
        set: FLOWS.get_ptr_mut(index)?,
        cpu,
        way: position.way,
        tag: u32::from(position.tag),
        index,
    })
}

/// The tags of a place's set. Looked up only where they are needed: a known flow is mostly found
/// without.
#[inline(always)]
fn tags_of(place: &Place) -> Option<*mut SetTags> {
    FLOW_TAGS.get_ptr_mut(place.index)
}

/// A way of a set.
#[inline(always)]
pub(super) fn way_of(set: *mut FlowSet, way: u32) -> *mut FlowEntry {
    // SAFETY: there are sixteen ways.
    unsafe { set.cast::<FlowEntry>().add(lane(way)) }
}

/// A way's number as an index that the verifier knows to be below 16.
#[inline(always)]
fn lane(way: u32) -> usize {
    let mut way = u64::from(way);
    // SAFETY: an and with a constant.
    unsafe { core::arch::asm!("{0} &= 15", inout(reg) way, options(pure, nomem, nostack)) };
    way as usize
}

/// The tag of a way.
#[inline(always)]
pub(super) fn tag_of(tags: *mut SetTags, way: u32) -> *mut u16 {
    // SAFETY: there are sixteen ways.
    unsafe { tags.cast::<u16>().add(lane(way)) }
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

/// Finds a flow in its preferred pair of ways. Both are read at once, and which of them it is comes
/// out as a number: a branch would be guessed wrong every other time, and nothing that follows
/// could start before the entry has arrived from memory.
#[inline(always)]
pub fn find_preferred(set: *mut FlowSet, way: u32, key: &FlowKey) -> Option<*mut FlowEntry> {
    // SAFETY: there are sixteen ways; an even one has a neighbour.
    let pair = unsafe { set.cast::<FlowEntry>().add(lane(way & !1)) };
    // SAFETY: as above.
    let (first, second) = (
        difference(pair, key),
        difference(unsafe { pair.add(1) }, key),
    );
    let other = opaque((first | first.wrapping_neg()) >> 63) & 1;
    if opaque(second.wrapping_mul(other)) != 0 {
        return None;
    }
    // SAFETY: `other` is 0 or 1.
    Some(unsafe { pair.add(other as usize) })
}

/// Finds a flow in this CPU's part by its tag. `place` then names the way.
#[inline(always)]
pub fn find(place: &mut Place, key: &FlowKey) -> Option<*mut FlowEntry> {
    let way = search(tags_of(place)?, place.set, key, u64::from(place.tag));
    if way >= WAYS as u64 {
        return None;
    }
    place.way = way as u32;
    Some(way_of(place.set, place.way))
}

/// Passes a number through memory, so that the verifier takes it for unknown: it would else
/// follow the rest of the program once for each way that a loop may end with.
#[inline(always)]
fn unknown(value: u64) -> u64 {
    let Some(state) = CPU_STATE.get_ptr_mut(0) else {
        return WAYS as u64;
    };
    // SAFETY: the element belongs to this CPU.
    unsafe {
        (*state).number = value;
        forget();
        (*state).number
    }
}

/// Looks through the tags of a set. Gives the way, or [`WAYS`] if the flow is not there.
#[inline(never)]
pub(super) fn search(tags: *mut SetTags, set: *mut FlowSet, key: &FlowKey, tag: u64) -> u64 {
    unknown(scan(tags, set, key, tag as u16))
}

#[inline(always)]
fn scan(tags: *mut SetTags, set: *mut FlowSet, key: &FlowKey, tag: u16) -> u64 {
    if !has_tag(tags, tag) {
        return WAYS as u64;
    }
    for way in 0..WAYS as u32 {
        // SAFETY: the way is in the set.
        let found = unsafe { tag_of(tags, way).read() };
        if found & (tag::HASH | tag::USED) == tag && same(way_of(set, way), key) {
            return u64::from(way);
        }
    }
    WAYS as u64
}

/// Lowest lane marked in a word.
#[inline(always)]
fn lane_of(marks: u64) -> u64 {
    if marks & 0x8000 != 0 {
        0
    } else if marks & 0x8000_0000 != 0 {
        1
    } else if marks & 0x8000_0000_0000 != 0 {
        2
    } else {
        3
    }
}

/// The tags of a set as words.
#[inline(always)]
fn words(tags: *mut SetTags) -> [u64; 4] {
    // SAFETY: sixteen tags are thirty-two octets, aligned.
    unsafe { tags.cast::<[u64; 4]>().read() }
}

/// The first way that is marked, or [`WAYS`].
#[inline(always)]
fn first_marked(marks: [u64; 4]) -> u64 {
    for (index, marks) in marks.iter().enumerate() {
        if *marks != 0 {
            return index as u64 * 4 + lane_of(*marks);
        }
    }
    WAYS as u64
}

/// A way for a new flow, or [`WAYS`], by the tags alone: a free one, the preferred pair first, or
/// one whose flow may go without a look at it.
#[inline(always)]
fn pick(tags: *mut SetTags, preferred: u32) -> u64 {
    let (way, other) = (preferred, preferred ^ 1);
    // SAFETY: the ways are in the set.
    let (mine, its) = unsafe { (tag_of(tags, way).read(), tag_of(tags, other).read()) };
    if mine == 0 {
        return u64::from(way);
    }
    if its == 0 {
        return u64::from(other);
    }
    let words = words(tags);
    let free = first_marked(words.map(zero_lanes));
    if free < WAYS as u64 {
        return free;
    }
    if mine & (tag::CONFIRMED | tag::COUNTED) == 0 {
        return u64::from(way);
    }
    first_marked(words.map(replaceable_lanes))
}

/// What a new entry holds beside its tuple.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct NewFlow {
    pub now: u32,
    pub guard_generation: u32,
    pub nat_word: u32,
    pub backend: u16,
    pub service: u16,
    pub nat_port_be: u16,
    pub phase: u8,
    pub flags: u8,
    /// One of [`counted`]. [`counted::YES`] counts the flow in `live_flows` at once.
    pub counted: u32,
}

/// Inserts a flow. `None` when every way holds a confirmed flow that has not expired; the caller
/// forwards such a flow without an entry.
#[inline(always)]
pub fn insert(place: &mut Place, key: &FlowKey, new: &NewFlow) -> Option<*mut FlowEntry> {
    let tags = tags_of(place)?;
    let way = room(tags, place.set, u64::from(place.way), u64::from(new.now));
    if way >= WAYS as u64 {
        if let Some(stats) = stats::service(new.service) {
            stats.untracked_flows += 1;
        }
        return None;
    }
    let entry = put(place, tags, way as u32, key, new);
    if new.counted == counted::YES {
        stats::add_live(new.backend, 1);
    }
    Some(entry)
}

/// Inserts a new flow that is not counted yet, unless it may be known; false if it may be, or if the
/// tags name no way for it. Nothing is read but the tags.
#[inline(always)]
pub fn insert_new(place: &mut Place, key: &FlowKey, new: &NewFlow) -> bool {
    let Some(tags) = tags_of(place) else {
        return false;
    };
    if has_tag(tags, place.tag as u16) {
        return false;
    }
    let way = pick(tags, place.way);
    if way >= WAYS as u64 {
        return false;
    }
    put(place, tags, way as u32, key, new);
    true
}

/// Two fields side by side as one word.
#[inline(always)]
pub(super) fn pair_of(first: u32, second: u32) -> u64 {
    u64::from(first) | u64::from(second) << 32
}

/// Writes a flow into a way, in as few stores as possible: they wait for a line from far memory,
/// and the CPU has room for a hundred that wait.
#[inline(always)]
fn put(
    place: &mut Place,
    tags: *mut SetTags,
    way: u32,
    key: &FlowKey,
    new: &NewFlow,
) -> *mut FlowEntry {
    place.way = way;
    let entry = way_of(place.set, way);
    const {
        assert!(offset_of!(FlowEntry, last_seen) == 40 && offset_of!(FlowEntry, counted) == 44);
        assert!(offset_of!(FlowEntry, nat_word) == 52 && offset_of!(FlowEntry, service) == 58);
        assert!(offset_of!(FlowEntry, nat_port_be) == 60 && offset_of!(FlowEntry, flags) == 63);
    }
    let [a, b, c, d, last] = key.words();
    let mark = if new.counted == counted::YES {
        tag::COUNTED
    } else {
        0
    };
    // SAFETY: this CPU is the only writer of its part; readers compare the tuple again after they
    // have copied an entry, and its last word, zero meanwhile, is written last.
    unsafe {
        let words = entry.cast::<u64>();
        words.add(4).write_volatile(0);
        forget();
        words.write(a);
        words.add(1).write(b);
        words.add(2).write(c);
        words.add(3).write(d);
        words.add(5).write(pair_of(new.now, new.counted));
        words
            .add(6)
            .write(pair_of(new.guard_generation, new.nat_word));
        let ids = pair_of(
            u32::from(new.backend) | u32::from(new.service) << 16,
            u32::from(new.nat_port_be) | u32::from(new.phase) << 16 | u32::from(new.flags) << 24,
        );
        words.add(7).write(ids);
        forget();
        words.add(4).write_volatile(last);
        let tag = tag_of(tags, way);
        if tag.read() != 0
            && let Some(stats) = stats::service(new.service)
        {
            stats.replaced_flows += 1;
        }
        tag.write(place.tag as u16 | mark);
    }
    entry
}

/// Finds a way for a new flow. Where the tags name none, that is an unconfirmed flow's that is
/// counted, or a confirmed one's that is idle for its timeout. Ends the counting of the one that
/// goes. [`WAYS`] if none may.
#[inline(never)]
fn room(tags: *mut SetTags, set: *mut FlowSet, preferred: u64, now: u64) -> u64 {
    let way = unknown(pick(tags, preferred as u32));
    if way < WAYS as u64 {
        return way;
    }
    let chosen = unknown(victim(tags, set, preferred as u32, now as u32));
    if chosen < WAYS as u64 {
        uncount(way_of(set, chosen as u32));
    }
    chosen
}

/// The flow that a new one may replace, or [`WAYS`].
#[inline(always)]
fn victim(tags: *mut SetTags, set: *mut FlowSet, preferred: u32, now: u32) -> u64 {
    let unconfirmed = |word: u64| zero_lanes(word & lanes(tag::CONFIRMED));
    let way = first_marked(words(tags).map(unconfirmed));
    if way < WAYS as u64 {
        // Not always the same one: the preferred way is as good as any, if it will do.
        // SAFETY: the way is in the set.
        let tag = unsafe { tag_of(tags, preferred).read() };
        return if tag & tag::CONFIRMED == 0 {
            u64::from(preferred)
        } else {
            way
        };
    }
    for way in 0..WAYS as u32 {
        if expired(way_of(set, way), now) {
            return u64::from(way);
        }
    }
    WAYS as u64
}

/// True for a flow that is idle for longer than its service allows.
#[inline(always)]
fn expired(entry: *const FlowEntry, now: u32) -> bool {
    // SAFETY: the entry is inside a map's value.
    let (service, phase, last_seen) =
        unsafe { ((*entry).service, (*entry).phase, (*entry).last_seen) };
    let Some(service) = SERVICE_TABLE.get(u32::from(service)) else {
        return true;
    };
    ticks_since(last_seen, now) > idle_ticks(service, phase)
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

/// Brings an entry of the return path up to date without confirming it.
#[inline(always)]
pub fn renew(entry: *mut FlowEntry, new: &NewFlow) {
    // SAFETY: this CPU is the only writer of its part.
    unsafe {
        (*entry).last_seen = new.now;
        (*entry).nat_word = new.nat_word;
        (*entry).backend = new.backend;
        (*entry).service = new.service;
        (*entry).nat_port_be = new.nat_port_be;
        (*entry).phase = new.phase;
        (*entry).flags |= flow_flags::RETURN;
    }
}

/// Removes a flow that no longer serves from this CPU's part.
#[inline(always)]
pub fn remove(place: &Place, entry: *mut FlowEntry) {
    uncount(entry);
    // SAFETY: this CPU is the only writer of its part.
    unsafe {
        (*entry).key.protocol = 0;
        if let Some(tags) = tags_of(place) {
            tag_of(tags, place.way).write(0);
        }
    }
}

/// Notes a packet of a known flow: time, phase, confirmation.
#[inline(always)]
pub fn touch(place: &Place, entry: *mut FlowEntry, now: u32, phase: u8) {
    // SAFETY: the entry is inside this CPU's part.
    unsafe {
        (*entry).last_seen = now;
        if (*entry).flags & flow_flags::CONFIRMED == 0 {
            confirm(place, entry, phase);
        }
        if (*entry).phase != phase {
            (*entry).phase = phase;
            if phase == Phase::Closing.code() {
                uncount(entry);
            }
        }
    }
}

/// Sets a bit in a flow's tag.
#[inline(always)]
pub(super) fn mark(place: &Place, bit: u16) {
    if let Some(tags) = tags_of(place) {
        let tag = tag_of(tags, place.way);
        // SAFETY: the way is in the set, and this CPU is the only writer of its part.
        unsafe { tag.write(tag.read() | bit) };
    }
}

/// Marks a flow as confirmed: new flows do not replace it any more, and it counts as live.
#[inline(always)]
fn confirm(place: &Place, entry: *mut FlowEntry, phase: u8) {
    // SAFETY: this CPU is the only writer of its part.
    unsafe { (*entry).flags |= flow_flags::CONFIRMED };
    mark(place, tag::CONFIRMED);
    if phase != Phase::Closing.code() {
        count(entry);
    }
}

/// True if some way of a set has this tag.
#[inline(always)]
pub(super) fn has_tag(tags: *mut SetTags, tag: u16) -> bool {
    let [a, b, c, d] = words(tags).map(|word| same_lanes(word, tag));
    opaque(a | b | c | d) != 0
}
