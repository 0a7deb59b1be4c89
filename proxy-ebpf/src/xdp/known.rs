//! Packets of flows that have an entry: the way that must be short.

use crate::maps::SERVICE_TABLE;
use crate::verdict::{Stage, end};
use crate::xdp::flow::{self, Place};
use crate::xdp::open::admit;
use crate::xdp::parse::{self, Packet};
use crate::xdp::send::Chosen;
use crate::xdp::{Now, local, pair, select};
use proxy_common::backend::Backend;
use proxy_common::flow::{FlowEntry, Phase, flow_flags};
use proxy_common::reason::Reason;
use proxy_common::settings::Settings;
use proxy_common::tcp;

/// What becomes of a packet whose flow has an entry.
pub enum Known {
    /// It goes to this backend.
    Send(&'static Backend),
    /// It is a NAT backend's answer.
    Return,
    /// The entry no longer serves.
    Stale,
}

/// Looks at a flow's entry and notes the packet in it.
#[inline(always)]
pub fn look(
    settings: &Settings,
    packet: &Packet,
    now: Now,
    place: &Place,
    entry: *mut FlowEntry,
    chosen: &mut Chosen,
) -> Stage<Known> {
    // SAFETY: the entry is inside a map's value; only this CPU writes it.
    let flow = unsafe { &*entry };
    *chosen = Chosen {
        hash: place.hash,
        service: flow.service,
        backend: flow.backend,
        nat_word: flow.nat_word,
        nat_port_be: flow.nat_port_be,
    };
    let (seen, old_phase, flags) = (flow.last_seen, flow.phase, flow.flags);
    let phase = next_phase(old_phase, packet);
    if flags & flow_flags::RETURN != 0 {
        flow::touch(place, entry, now.tick, phase);
        return Ok(Known::Return);
    }
    if old_phase == Phase::Closing.code() && tcp::opens(packet.tcp_flags) {
        // A new connection with an old tuple: everything is decided anew.
        return Ok(Known::Stale);
    }
    if flow.guard_generation != settings.guard_generation {
        judge_again(settings, packet, now, entry)?;
    }
    if chosen.backend == 0 {
        flow::touch(place, entry, now.tick, phase);
        return Err(local(packet, chosen.service));
    }
    let Some(backend) = select::keeps_flows(chosen.backend, chosen.service) else {
        return Ok(Known::Stale);
    };
    flow::touch(place, entry, now.tick, phase);
    if pair::is_due(backend, packet, seen, now.tick) {
        pair::keep_alive(
            settings,
            &packet.key,
            chosen,
            backend,
            pair::moment(now.tick, phase),
        );
    }
    Ok(Known::Send(backend))
}

/// True for the first packet that ends a TCP flow.
#[inline(always)]
pub fn ends(entry: *const FlowEntry, packet: &Packet) -> bool {
    // SAFETY: the entry is inside a map's value.
    let phase = unsafe { (*entry).phase };
    phase != next_phase(phase, packet) && tcp::ends(packet.tcp_flags)
}

/// How often an entry of a connection that is opening or closing is doubted, in bits of ticks: every 268 ms.
/// Clients send a SYN again after a second (RFC 6298, 2.1), a handshake is mostly over in less. A span and
/// no age, since packets of the younger connection keep the entry young.
const DOUBT_SHIFT: u32 = 8;

/// True for an entry that may be of an earlier attempt to connect than this packet's.
#[inline(always)]
pub fn is_doubtful(entry: *const FlowEntry, packet: &Packet, now: Now) -> bool {
    // SAFETY: the entry is inside a map's value.
    let (phase, seen) = unsafe { ((*entry).phase, (*entry).last_seen) };
    (phase == Phase::Syn.code() || phase == Phase::Closing.code())
        && !tcp::opens(packet.tcp_flags)
        && seen >> DOUBT_SHIFT != now.tick >> DOUBT_SHIFT
}

/// Phase after this packet.
#[inline(always)]
fn next_phase(phase: u8, packet: &Packet) -> u8 {
    if packet.fragment == parse::fragment::LATER {
        return phase;
    }
    // As codes: the enum would cost a conversion in each direction.
    if phase == Phase::Established.code() || phase == Phase::Syn.code() {
        if tcp::ends(packet.tcp_flags) {
            return Phase::Closing.code();
        }
        if !tcp::opens(packet.tcp_flags) {
            return Phase::Established.code();
        }
    }
    phase
}

/// Judges a known flow again because the guard's rules have changed.
#[inline(always)]
fn judge_again(settings: &Settings, packet: &Packet, now: Now, entry: *mut FlowEntry) -> Stage<()> {
    // SAFETY: the entry is inside a map's value.
    let id = unsafe { (*entry).service };
    let Some(service) = SERVICE_TABLE.get(u32::from(id)) else {
        return end(Reason::DropInternal);
    };
    admit(settings, service, id, packet, now)?;
    // SAFETY: only this CPU writes its part.
    unsafe { (*entry).guard_generation = settings.guard_generation };
    Ok(())
}
