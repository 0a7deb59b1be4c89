//! The other CPUs' parts of the flow table: find a flow there, take it over, end it.
//!
//! Each CPU writes its own part only, except for what is done here with single atomic words.

use crate::atomic;
use crate::maps::{CPU_STATE, FLOW_TAGS, FLOWS};
use crate::xdp::flow::{
    NewFlow, Packed, Place, bare, insert, pair_of, same, search, sync, uncount, way_of,
};
use crate::xdp::slots::{has_tag, tag_of};
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::helpers::generated::bpf_loop;
use proxy_common::flow::{
    FlowEntry, FlowKey, FlowSet, Phase, Position, SetTags, WAYS, counted, flow_flags, slot,
    ticks_since,
};
use proxy_common::settings::{LOOKS_PER_TICK, Settings};

/// Searches the other CPUs' parts and copies the flow into this one's.
///
/// Needed when a flow's packets change their CPU (a new receive queue, or the return path of
/// NAT). Limited to `most` parts per tick, so that a flood of packets without flows costs little.
#[inline(never)]
pub fn adopt(
    settings: &Settings,
    place: &mut Place,
    key: &FlowKey,
    now: u64,
    most: u64,
) -> *mut FlowEntry {
    let mut look = Look::of(settings, place, key, 0, now as u32);
    look.elsewhere(settings, most as u32, find_at);
    let found = look.found();
    let (index, way) = (found as u32, (found >> 32) as u32);
    let (Some(set), Some(tags)) = (FLOWS.get_ptr_mut(index), FLOW_TAGS.get_ptr_mut(index)) else {
        return core::ptr::null_mut();
    };
    let (at, from) = (tag_of(tags, way), way_of(set, way));
    // SAFETY: the way is in the set.
    let value = unsafe { at.read_volatile() };
    let is_bare = value & slot::BARE != 0;
    let new = if is_bare {
        bare(value, key, now as u32)
    } else {
        Some(copy_of(from, now as u32))
    };
    let Some(new) = new else {
        return core::ptr::null_mut();
    };
    // Its owner may change the flow at any time, so that is looked at once more. A bare one is moved
    // and not copied: without an entry nothing would tell that the flow is counted here.
    let whole = if is_bare {
        // SAFETY: the slot is aligned and inside a map's value.
        unsafe { atomic::exchange(at, value, 0) }
    } else {
        same(from, key)
    };
    if !whole {
        return core::ptr::null_mut();
    }
    let entry = insert(place, key, &new);
    if !entry.is_null() && !is_bare {
        // The flow is counted once: the count moves with the copy.
        // SAFETY: aligned to four octets and only changed atomically; the entry is in this CPU's part.
        unsafe { (*entry).counted = atomic::swap(&raw mut (*from).counted, counted::NEVER) };
        sync(place, entry, now as u32);
    }
    entry
}

/// What a copy of another CPU's entry holds.
#[inline(always)]
fn copy_of(from: *const FlowEntry, now: u32) -> Packed {
    // SAFETY: the entry is inside a map's value.
    let from = unsafe { &*from };
    let new = NewFlow {
        now,
        guard_generation: from.guard_generation,
        nat_word: from.nat_word,
        backend: from.backend,
        service: from.service,
        nat_port_be: from.nat_port_be,
        phase: from.phase,
        flags: from.flags & flow_flags::RETURN,
        counted: counted::NOT_YET,
    };
    new.pack()
}

/// True while this CPU has looked into fewer than `most` of the others' parts in this tick; charges
/// for it.
#[inline(always)]
fn may_look(settings: &Settings, now: u32, most: u32) -> bool {
    let Some(state) = CPU_STATE.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: the element belongs to this CPU.
    let state = unsafe { &mut *state };
    if state.look_tick != now {
        state.look_tick = now;
        state.looks = 0;
    }
    if state.looks >= most {
        return false;
    }
    state.looks += settings.cpus;
    true
}

/// Removes the other CPUs' entries of a flow that ends on this one.
///
/// A flow whose packets have come by several CPUs has several entries, and the count of live
/// flows is with one of them. Left behind, that one would be counted until its timeout, and the
/// next connection with the same tuple would find the old backend on that CPU.
#[inline(never)]
pub fn end(settings: &Settings, place: &Place, key: &FlowKey, now: u64) -> u64 {
    Look::of(settings, place, key, 0, now as u32).elsewhere(settings, LOOKS_PER_TICK, end_at);
    0
}

/// 1 if another CPU has seen the flow after `seen`, which is a tick and, above it, the phase of this
/// CPU's entry: that is then of an earlier attempt to connect, which led elsewhere.
///
/// A SYN is not searched on the other CPUs, so one that is sent again and comes by another CPU, or
/// one that reuses a tuple, leaves two entries that may differ. The connection is the younger's.
#[inline(never)]
pub fn is_outlived(settings: &Settings, place: &Place, key: &FlowKey, now: u64, seen: u64) -> u64 {
    let mut look = Look::of(settings, place, key, seen, now as u32);
    look.elsewhere(settings, LOOKS_PER_TICK, find_younger_at);
    u64::from(look.found() != NOWHERE)
}

/// Removes another CPU's flow as user space does: the tuple's last word first, unless the owner
/// has replaced it meanwhile, then the slot. A bare one has only a slot.
#[inline(always)]
fn take_from(tags: *mut SetTags, set: *mut FlowSet, way: u32, key: &FlowKey) {
    let at = tag_of(tags, way);
    // SAFETY: the slot is in the set.
    let value = unsafe { at.read_volatile() };
    if value & slot::BARE != 0 {
        // SAFETY: the slot is aligned and inside a map's value.
        unsafe { atomic::exchange(at, value, 0) };
        return;
    }
    let entry = way_of(set, way);
    uncount(entry);
    // SAFETY: the word is aligned and inside a map's value; the slot is in the set.
    unsafe {
        let last = entry.cast::<u64>().add(4);
        if atomic::exchange(last, key.words()[4], 0) {
            at.write_volatile(0);
        }
    }
}

/// A look for a flow into the other CPUs' parts.
#[repr(C)]
struct Look {
    key: *const FlowKey,
    tag: u64,
    /// The set within a part.
    set: u32,
    sets_per_cpu: u32,
    /// The CPU that looks.
    own: u32,
    now: u32,
    /// Set (low half) and way (high half) that were found, or [`NOWHERE`]. One word: the compiler
    /// would else join stores across words, and the kernel wants those on the stack aligned.
    found: u64,
    /// Only an entry that was seen after this tick counts, where that matters; above it our phase.
    seen: u64,
}

/// Nothing was found.
const NOWHERE: u64 = u64::MAX;

/// What is done in the part of one CPU; 1 ends the look.
type LookAt = unsafe extern "C" fn(u32, *mut c_void) -> i64;

impl Look {
    #[inline(always)]
    fn of(settings: &Settings, place: &Place, key: &FlowKey, seen: u64, now: u32) -> Self {
        Self {
            key,
            set: Position::of(place.hash, settings.sets_per_cpu).set,
            sets_per_cpu: settings.sets_per_cpu,
            tag: place.tag,
            // SAFETY: no arguments.
            own: unsafe { bpf_get_smp_processor_id() } as u32,
            now,
            found: NOWHERE,
            seen,
        }
    }

    /// Looks, unless this CPU has looked into `most` parts in this tick.
    ///
    /// By the kernel's loop, whose body the verifier follows once: a loop of ours would cost it
    /// as much as there may be CPUs.
    #[inline(always)]
    fn elsewhere(&mut self, settings: &Settings, most: u32, at: LookAt) {
        if may_look(settings, self.now, most) {
            // SAFETY: the callback has the type that the kernel calls; the context outlives the call.
            unsafe {
                bpf_loop(
                    settings.cpus,
                    at as *const () as *mut c_void,
                    (&raw mut *self).cast(),
                    0,
                );
            }
        }
    }

    /// What the loop has left: it is changed where the compiler does not see it.
    #[inline(always)]
    fn found(&self) -> u64 {
        // SAFETY: a reference is valid.
        unsafe { (&raw const self.found).read_volatile() }
    }

    /// Finds the flow in a CPU's part: its set's index, tags and ways, and its way.
    #[inline(always)]
    fn at(&self, cpu: u32) -> Option<(u32, *mut SetTags, *mut FlowSet, u32)> {
        if cpu == self.own {
            return None;
        }
        let index = cpu.wrapping_mul(self.sets_per_cpu).wrapping_add(self.set);
        let tags = FLOW_TAGS.get_ptr_mut(index)?;
        if !has_tag(tags, self.tag) {
            return None;
        }
        let set = FLOWS.get_ptr_mut(index)?;
        // SAFETY: the caller's key outlives the look.
        let way = search(tags, set, unsafe { &*self.key }, self.tag);
        (way < WAYS as u64).then_some((index, tags, set, way as u32))
    }
}

unsafe extern "C" fn find_at(cpu: u32, look: *mut c_void) -> i64 {
    // SAFETY: `elsewhere` hands its own over.
    let look = unsafe { &mut *look.cast::<Look>() };
    let Some((index, _, _, way)) = look.at(cpu) else {
        return 0;
    };
    look.found = pair_of(index, way);
    1
}

unsafe extern "C" fn find_younger_at(cpu: u32, look: *mut c_void) -> i64 {
    // SAFETY: `elsewhere` hands its own over.
    let look = unsafe { &mut *look.cast::<Look>() };
    let Some((index, tags, set, way)) = look.at(cpu) else {
        return 0;
    };
    // SAFETY: slot and entry are inside maps' values; all are read whole.
    let (last_seen, phase) = unsafe {
        let value = tag_of(tags, way).read_volatile();
        if value & slot::BARE != 0 {
            let seen = look.now.wrapping_sub(slot::age(value, look.now));
            (seen, Phase::Syn.code())
        } else {
            let entry = way_of(set, way);
            ((*entry).last_seen, (*entry).phase)
        }
    };
    // A connection that ends takes the others' entries with it, so one that is not closing came later,
    // even if packets of it have kept ours young.
    let closing = u32::from(Phase::Closing.code());
    let is_later = (look.seen >> 32) as u32 == closing && u32::from(phase) != closing;
    if !is_later && ticks_since(look.seen as u32, last_seen) == 0 {
        return 0;
    }
    look.found = pair_of(index, way);
    1
}

unsafe extern "C" fn end_at(cpu: u32, look: *mut c_void) -> i64 {
    // SAFETY: `elsewhere` hands its own over.
    let look = unsafe { &*look.cast::<Look>() };
    if let Some((_, tags, set, way)) = look.at(cpu) {
        // SAFETY: as above.
        take_from(tags, set, way, unsafe { &*look.key });
    }
    0
}
