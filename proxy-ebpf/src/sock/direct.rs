//! Tunnels whose other ends are both on this host: what one writes goes to the other's queue, past
//! the daemon. See [`Leg`] for what makes that safe.
//!
//! ```text
//!  from ─────────────── direct ───────────────▶ to
//!    └──▶ the daemon's end, read, written, via ──┘   while anything is on that way
//! ```
//!
//! The daemon may end at any time and cannot say so. Therefore its socket towards the reading end is
//! looked at, too: nothing goes past a socket that is closed, or that was shut down for writing.

use super::maps::{JOINED, LEGS, OFFSETS};
use super::{count, read};
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use proxy_common::sock::{Count, DIRECT_OCTETS, End, Leg, Offsets, end_flag};

/// States of a socket that can be written to.
const ESTABLISHED: u8 = 1;
const CLOSE_WAIT: u8 = 8;

/// The leg that a message of this end may take now.
#[inline(always)]
pub fn leg(end: &mut End) -> Option<*mut Leg> {
    if end.flags & end_flag::OURS != 0 {
        return None;
    }
    let offsets = OFFSETS.get(0)?;
    if offsets.joins == 0 {
        return None;
    }
    if end.leg == 0 {
        // SAFETY: the entry is written once, before the leg is in use.
        end.leg = *unsafe { JOINED.get(end.cookie) }? + 1;
    }
    let leg = LEGS.get_ptr_mut(end.leg - 1)?;
    // SAFETY: the leg is an element of a map; user space writes whole words.
    let from = unsafe { (&raw const (*leg).from).read_volatile() };
    if from != end.cookie {
        // Parted, or of another end by now.
        end.leg = 0;
        return None;
    }
    is_free(leg, end, offsets).then_some(leg)
}

/// Counts a message that went past the daemon.
#[inline(always)]
pub fn took(leg: *mut Leg, octets: u32) {
    // SAFETY: the leg is an element of a map; only its writing end, which is locked, counts there.
    unsafe {
        let now = bpf_ktime_get_coarse_ns();
        if (*leg).first_at == 0 {
            (*leg).first_at = now;
        }
        (*leg).last_at = now;
        (*leg).octets += u64::from(octets);
    }
    count(Count::Direct, 1);
    count(Count::DirectOctets, u64::from(octets));
}

/// True if nothing of this end is on the long way, and the reading end has room.
#[inline(always)]
fn is_free(leg: *mut Leg, end: &End, offsets: &Offsets) -> bool {
    let Some(is_clear) = is_clear(leg, end, offsets) else {
        count(Count::Gone, 1);
        return false;
    };
    if !is_clear {
        count(Count::Detour, 1);
        return false;
    }
    // SAFETY: as in `leg`.
    let to = unsafe { (&raw const (*leg).to_sock).read_volatile() };
    let has_room = read::<u32>(to, offsets.queued).is_some_and(|queued| queued < DIRECT_OCTETS);
    if !has_room {
        count(Count::Crowded, 1);
    }
    // Whoever parts them clears this first: nothing that was read before is then believed.
    // SAFETY: as in `leg`.
    has_room && unsafe { (&raw const (*leg).from).read_volatile() } == end.cookie
}

/// `None` if the reading end or the daemon's socket towards it has gone.
#[inline(always)]
fn is_clear(leg: *mut Leg, end: &End, offsets: &Offsets) -> Option<bool> {
    // SAFETY: as in `leg`.
    let (to, to_sock, via, via_sock) = unsafe {
        (
            (&raw const (*leg).to).read_volatile(),
            (&raw const (*leg).to_sock).read_volatile(),
            (&raw const (*leg).via).read_volatile(),
            (&raw const (*leg).via_sock).read_volatile(),
        )
    };
    let is_there = read::<u64>(to_sock, offsets.cookie)? == to
        && read::<u64>(via_sock, offsets.cookie)? == via;
    let state = read::<u8>(via_sock, offsets.state)?;
    if !is_there || (state != ESTABLISHED && state != CLOSE_WAIT) {
        return None;
    }
    // First what the daemon has passed on, then what of that waits: it can only become less.
    // SAFETY: as in `leg`.
    let passed = unsafe { (&raw const (*leg).passed).read_volatile() } as u32;
    let by_tcp = read::<u32>(end.sock, offsets.write_seq)?.wrapping_sub(end.first_seq);
    if by_tcp.wrapping_add(end.octets as u32) != passed {
        return Some(false);
    }
    let written = read::<u32>(via_sock, offsets.write_seq)?;
    let taken = read::<u32>(to_sock, offsets.copied_seq)?;
    Some(written == taken)
}
