//! The flow table: find, insert, adopt. Its layout and rules are told in `proxy_common::flow`.

use crate::atomic;
use crate::maps::{CPU_STATE, FLOWS, SERVICE_TABLE};
use crate::packet::{forget, opaque};
use crate::stats;
use aya_ebpf::helpers::bpf_get_smp_processor_id;
use core::mem::offset_of;
use proxy_common::flow::{
    FlowEntry, FlowKey, FlowSet, Phase, Position, WAYS, flow_flags, lowest_match, ticks_since,
};
use proxy_common::hash::flow_hash;
use proxy_common::service::Service;
use proxy_common::settings::{MAX_CPUS, SCANS_PER_TICK, Settings};

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
    /// Tag.
    pub tag: u32,
    pub _pad: u32,
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
    let set = FLOWS.get_ptr_mut(cpu * settings.sets_per_cpu + position.set)?;
    Some(Place {
        hash,
        set,
        cpu,
        way: position.way,
        tag: u32::from(position.tag),
        _pad: 0,
    })
}

/// A way of a set. The bound is checked in a way that the compiler keeps, because the verifier
/// forgets it when the number is spilled.
#[inline(always)]
fn way_of(set: *mut FlowSet, way: u32) -> *mut FlowEntry {
    let way = lane(way);
    let way = if way < WAYS { way } else { 0 };
    // SAFETY: `way` is below `WAYS`; the result stays inside the map's value.
    unsafe { (&raw mut (*set).ways).cast::<FlowEntry>().add(way) }
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
fn tag_of(set: *mut FlowSet, way: u32) -> *mut u16 {
    // SAFETY: there are sixteen lanes.
    unsafe { (&raw mut (*set).header.tags).cast::<u16>().add(lane(way)) }
}

/// Compares tuples as words with one branch. Five would cost the verifier more than it grants:
/// it counts the branches of the longest way through all parts of the table.
#[inline(always)]
fn same(entry: *const FlowEntry, key: &FlowKey) -> bool {
    // SAFETY: both are aligned to eight octets and five words long.
    let (a, b) = unsafe {
        (
            entry.cast::<[u64; 5]>().read(),
            (&raw const *key).cast::<[u64; 5]>().read(),
        )
    };
    opaque((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) | (a[4] ^ b[4])) == 0
}

/// Finds a flow in this CPU's part: the preferred way first, then whatever the tags allow.
/// `place` then names the way.
#[inline(always)]
pub fn find(place: &mut Place, key: &FlowKey) -> Option<*mut FlowEntry> {
    let preferred = way_of(place.set, place.way);
    if same(preferred, key) {
        return Some(preferred);
    }
    let way = search(place.set, key, u64::from(place.tag));
    if way >= WAYS as u64 {
        return None;
    }
    place.way = way as u32;
    Some(way_of(place.set, place.way))
}

/// As [`find`], for a packet that most likely opens a flow: the tags alone tell that it has none,
/// and the preferred way, a cache line of its own, need not be fetched.
#[inline(always)]
pub fn find_new(place: &mut Place, key: &FlowKey) -> Option<*mut FlowEntry> {
    let way = search(place.set, key, u64::from(place.tag));
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
fn search(set: *mut FlowSet, key: &FlowKey, tag: u64) -> u64 {
    unknown(scan(set, key, tag))
}

#[inline(always)]
fn scan(set: *mut FlowSet, key: &FlowKey, tag: u64) -> u64 {
    let tag = tag as u16;
    if !has_tag(set, tag) {
        return WAYS as u64;
    }
    for way in 0..WAYS as u32 {
        // SAFETY: the lane is in the set's header.
        if unsafe { tag_of(set, way).read() } == tag && same(way_of(set, way), key) {
            return u64::from(way);
        }
    }
    WAYS as u64
}

/// Lowest lane marked in a word of [`lowest_match`].
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

/// A free way of a set, or [`WAYS`].
#[inline(always)]
fn free_way(set: *mut FlowSet) -> u64 {
    // SAFETY: the tags are the first 32 octets of the set, aligned.
    let words = unsafe { set.cast::<[u64; 4]>().read() };
    for (index, word) in words.iter().enumerate() {
        let marks = lowest_match(*word, 0);
        if marks != 0 {
            // The sixteenth lane is always zero and is no way: it comes out as `WAYS`.
            return index as u64 * 4 + lane_of(marks);
        }
    }
    WAYS as u64
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
    /// 1 to count the flow in `live_flows`.
    pub counted: u32,
}

/// Inserts a flow. `None` when every way holds a confirmed flow that has not expired; the caller
/// forwards such a flow without an entry.
#[inline(always)]
pub fn insert(place: &mut Place, key: &FlowKey, new: &NewFlow) -> Option<*mut FlowEntry> {
    // SAFETY: the lane is in the set's header.
    let preferred = unsafe { tag_of(place.set, place.way).read() };
    let mut way = u64::from(place.way);
    if preferred != 0 {
        way = room(place.set, u64::from(new.now));
        if way >= WAYS as u64 {
            if let Some(stats) = stats::service(new.service) {
                stats.untracked_flows += 1;
            }
            return None;
        }
    }
    let way = way as u32;
    place.way = way;
    let entry = way_of(place.set, way);
    // SAFETY: this CPU is the only writer of its part; readers compare the tuple again after they
    // have copied an entry, and the protocol, written last, makes it match.
    unsafe {
        (*entry).key.protocol = 0;
        (*entry).last_seen = new.now;
        (*entry).counted = new.counted;
        (*entry).guard_generation = new.guard_generation;
        (*entry).nat_word = new.nat_word;
        (*entry).backend = new.backend;
        (*entry).service = new.service;
        (*entry).nat_port_be = new.nat_port_be;
        (*entry).phase = new.phase;
        (*entry).flags = new.flags;
        (*entry).key.src = key.src;
        (*entry).key.dst = key.dst;
        (*entry).key.src_port_be = key.src_port_be;
        (*entry).key.dst_port_be = key.dst_port_be;
        (*entry).key._pad = 0;
        (*entry).key._pad2 = 0;
        (*entry).key.protocol = key.protocol;
        (*place.set).header.confirmed &= !(1u16 << way);
        tag_of(place.set, way).write(place.tag as u16);
    }
    if new.counted != 0 {
        stats::add_live(new.backend, 1);
    }
    Some(entry)
}

/// Finds a way for a new flow in a set whose preferred way is taken.
#[inline(never)]
fn room(set: *mut FlowSet, now: u64) -> u64 {
    let free = unknown(free_way(set));
    if free < WAYS as u64 {
        return free;
    }
    let chosen = unknown(victim(set, now as u32));
    if chosen >= WAYS as u64 {
        return chosen;
    }
    // SAFETY: this CPU is the only writer of the header.
    unsafe { (*set).header.hand = (chosen + 1) as u16 };
    let entry = way_of(set, chosen as u32);
    // SAFETY: the way is inside the set.
    let service = unsafe { (*entry).service };
    if let Some(stats) = stats::service(service) {
        stats.replaced_flows += 1;
    }
    uncount(entry);
    chosen
}

/// The flow that a new one may replace, or [`WAYS`].
#[inline(always)]
fn victim(set: *mut FlowSet, now: u32) -> u64 {
    // SAFETY: this CPU is the only writer of the header, except for cleared tags.
    let (confirmed, hand) = unsafe { ((*set).header.confirmed, (*set).header.hand) };
    // Unconfirmed flows in turn; then confirmed ones that are idle for their timeout.
    for step in 0..WAYS as u32 {
        let way = u32::from(hand) + step;
        let way = if way >= WAYS as u32 {
            way - WAYS as u32
        } else {
            way
        };
        if way < WAYS as u32 && confirmed >> way & 1 == 0 {
            return u64::from(way);
        }
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
    if unsafe { atomic::take(&raw mut (*entry).counted) } != 0 {
        // SAFETY: the entry is inside a map's value.
        stats::add_live(unsafe { (*entry).backend }, -1);
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
        tag_of(place.set, place.way).write(0);
    }
}

/// Notes a packet of a known flow: time, phase, confirmation.
#[inline(always)]
pub fn touch(place: &Place, entry: *mut FlowEntry, now: u32, phase: u8) {
    // SAFETY: the entry is inside this CPU's part.
    unsafe {
        (*entry).last_seen = now;
        if (*entry).flags & flow_flags::CONFIRMED == 0 {
            confirm(place, entry);
        }
        if (*entry).phase != phase {
            (*entry).phase = phase;
            if phase == Phase::Closing.code() {
                uncount(entry);
            }
        }
    }
}

/// Marks a flow's way as confirmed: new flows do not replace it any more.
#[inline(always)]
fn confirm(place: &Place, entry: *mut FlowEntry) {
    // SAFETY: this CPU is the only writer of its part.
    unsafe {
        (*entry).flags |= flow_flags::CONFIRMED;
        (*place.set).header.confirmed |= 1 << lane(place.way);
    }
}

/// Searches the other CPUs' parts and copies the flow into this one's.
///
/// Needed when a flow's packets change their CPU (a new receive queue, or the return path of
/// NAT). Limited per tick, so that a flood of packets without flows costs little.
#[inline(never)]
pub fn adopt(settings: &Settings, place: &mut Place, key: &FlowKey, now: u64) -> *mut FlowEntry {
    let none = core::ptr::null_mut();
    let now = now as u32;
    let Some(state) = CPU_STATE.get_ptr_mut(0) else {
        return none;
    };
    // SAFETY: the element belongs to this CPU.
    let state = unsafe { &mut *state };
    if state.scan_tick != now {
        state.scan_tick = now;
        state.scans = 0;
    }
    if state.scans >= SCANS_PER_TICK {
        return none;
    }
    state.scans += 1;
    let set_index = Position::of(place.hash, settings.sets_per_cpu).set;
    let mut next = 0;
    for _ in 0..CANDIDATES {
        let cpu = unknown(candidate(settings, place, set_index, next)) as u32;
        let Some(set) = FLOWS.get_ptr_mut(cpu.wrapping_mul(settings.sets_per_cpu) + set_index)
        else {
            break;
        };
        if cpu >= settings.cpus {
            break;
        }
        let way = search(set, key, u64::from(place.tag));
        if way < WAYS as u64 {
            return copy(place, way_of(set, way as u32), key, now);
        }
        next = cpu + 1;
    }
    none
}

/// Parts with the right tag that are searched: two flows of one set share a tag with a chance of
/// 15 in 32 768, so a third candidate is next to impossible.
const CANDIDATES: u32 = 2;

/// The next CPU, from `next` on, whose part has the flow's tag; [`MAX_CPUS`] if none has.
#[inline(always)]
fn candidate(settings: &Settings, place: &Place, set_index: u32, next: u32) -> u64 {
    for cpu in 0..MAX_CPUS {
        if cpu >= settings.cpus {
            break;
        }
        // As a sign bit: a comparison would teach the verifier bounds of `next`, different ones in
        // each round, and it would follow them all.
        let before = opaque(u64::from(cpu).wrapping_sub(u64::from(next)) >> 63);
        if before != 0 || cpu == place.cpu {
            continue;
        }
        let Some(set) = FLOWS.get_ptr_mut(cpu * settings.sets_per_cpu + set_index) else {
            break;
        };
        if has_tag(set, place.tag as u16) {
            return u64::from(cpu);
        }
    }
    u64::from(MAX_CPUS)
}

/// True if some way of a set has this tag.
#[inline(always)]
fn has_tag(set: *mut FlowSet, tag: u16) -> bool {
    // SAFETY: the tags are the first 32 octets of the set, aligned.
    let words = unsafe { set.cast::<[u64; 4]>().read() };
    opaque(
        lowest_match(words[0], tag)
            | lowest_match(words[1], tag)
            | lowest_match(words[2], tag)
            | lowest_match(words[3], tag),
    ) != 0
}

/// Copies another CPU's entry. The flow is counted once: the count moves with the copy.
#[inline(always)]
fn copy(place: &mut Place, from: *mut FlowEntry, key: &FlowKey, now: u32) -> *mut FlowEntry {
    // SAFETY: the entry is inside a map's value; its owner may change it at any time, so it is
    // read first and the tuple compared afterwards.
    let new = unsafe {
        NewFlow {
            now,
            guard_generation: (*from).guard_generation,
            nat_word: (*from).nat_word,
            backend: (*from).backend,
            service: (*from).service,
            nat_port_be: (*from).nat_port_be,
            phase: (*from).phase,
            flags: (*from).flags & flow_flags::RETURN,
            counted: 0,
        }
    };
    if !same(from, key) {
        return core::ptr::null_mut();
    }
    let Some(entry) = insert(place, key, &new) else {
        return core::ptr::null_mut();
    };
    // SAFETY: aligned to four octets and only changed atomically.
    if unsafe { atomic::take(&raw mut (*from).counted) } != 0 {
        // SAFETY: the entry is in this CPU's part.
        unsafe { (*entry).counted = 1 };
    }
    entry
}
