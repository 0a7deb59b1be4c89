//! Packets of flows without an entry on this CPU: of new flows, of flows that another CPU knows,
//! and of nobody's.
//!
//! A program of its own, entered by a tail call: the verifier checks it apart from the parser,
//! and known flows do not carry its code along.

use crate::maps::{NO_SNAT, SERVICE_TABLE, Work};
use crate::packet::Frame;
use crate::stats;
use crate::verdict::{Stage, Verdict, end};
use crate::xdp::flow::{self, NewFlow, Place};
use crate::xdp::known::Known;
use crate::xdp::parse::Packet;
use crate::xdp::send::{self, Chosen};
use crate::xdp::{
    Now, elsewhere, exceptions, full_nat, guard, hand_on, known, local, pair, select, service,
};
use proxy_common::flow::{Phase, counted};
use proxy_common::hash::selection_hash;
use proxy_common::maps::stage;
use proxy_common::reason::Reason;
use proxy_common::service::{Mode, Selection, Service, ServiceRef, kind, protocol, service_flags};
use proxy_common::settings::{
    CHEAP_LOOKS_PER_TICK, LOOKS_PER_TICK, SETTLED_LOOKS_PER_TICK, Settings, second, settings_flags,
};
use proxy_common::tcp;

/// Finds the backend of a flow without an entry and sends its packet there.
#[inline(always)]
pub fn stage(frame: Frame, settings: &Settings, work: &mut Work) -> Stage<Verdict> {
    let now = Now::at(work.now_ns);
    let Work {
        packet,
        chosen,
        snat,
        ..
    } = &mut *work;
    let packet = &*packet;
    let Some(mut place) = flow::place_of(settings, chosen.hash) else {
        return end(Reason::DropInternal);
    };
    let key = &packet.key;
    let to = service::lookup(settings, &key.dst, key.dst_port_be, key.protocol);
    if to.kind == kind::SNAT {
        *snat = u32::from(to.id);
        return hand_on(frame, stage::RETURN);
    }
    if may_be_elsewhere(settings, packet, to) {
        let most = if tcp::opens(packet.tcp_flags) {
            CHEAP_LOOKS_PER_TICK
        } else if to.kind == kind::BALANCE && is_ruled(to.id, chosen.hash) {
            SETTLED_LOOKS_PER_TICK
        } else {
            LOOKS_PER_TICK
        };
        let tick = u64::from(now.tick);
        let entry = elsewhere::adopt(settings, &mut place, key, tick, u64::from(most));
        if !entry.is_null() {
            if known::ends(entry, packet) {
                elsewhere::end(settings, &place, key, tick);
            }
            match known::look(settings, packet, now, &place, entry, chosen)? {
                Known::Send(backend) => {
                    return send::to_backend(frame, settings, work, now, backend);
                }
                Known::Return => {
                    *snat = NO_SNAT;
                    return hand_on(frame, stage::RETURN);
                }
                Known::Stale => flow::remove(&place, entry),
            }
        }
    }
    if to.kind != kind::BALANCE {
        return end(nobody(settings, packet));
    }
    chosen.service = to.id;
    match open(settings, packet, &mut place, chosen, now.ns) {
        0 => {}
        verdict => return Err(Verdict::unpack(verdict)),
    }
    let Some(backend) = select::keeps_flows(chosen.backend, chosen.service) else {
        return end(Reason::DropInternal);
    };
    if backend.mode == Mode::Nat.code() {
        // Here and not in `open`, for the stack's sake.
        let moment = pair::moment(now.tick, first_phase(packet));
        pair::keep_alive(settings, &packet.key, chosen, backend, moment);
    }
    send::to_backend(frame, settings, work, now, backend)
}

/// True if another CPU may have the flow's entry.
#[inline(always)]
fn may_be_elsewhere(settings: &Settings, packet: &Packet, to: ServiceRef) -> bool {
    if settings.cpus < 2 {
        return false;
    }
    if to.kind == kind::BALANCE {
        return !tcp::opens(packet.tcp_flags) || chooses_by_chance(to.id);
    }
    settings.flags & settings_flags::NAT != 0 && service::may_concern(&packet.key.src)
}

/// True for a service where the same tuple is led elsewhere each time that it is opened: a SYN that
/// is sent again and comes by another CPU would make a second connection.
#[inline(always)]
fn chooses_by_chance(id: u16) -> bool {
    SERVICE_TABLE.get(u32::from(id)).is_some_and(|service| {
        service.mode == Mode::FullNat.code() || service.selection == Selection::TwoChoices.code()
    })
}

/// True where an entry on another CPU could say no more of a flow than its service's ring does.
#[inline(always)]
fn is_ruled(id: u16, hash: u64) -> bool {
    SERVICE_TABLE.get(u32::from(id)).is_some_and(|service| {
        select::is_by_ring(service)
            && service.mode != Mode::FullNat.code()
            && service.flags & service_flags::BUDGET == 0
    }) && exceptions::is_ruled(hash, select::settles(id))
}

/// Why a packet to no service is passed.
#[inline(always)]
fn nobody(settings: &Settings, packet: &Packet) -> Reason {
    if settings.flags & settings_flags::NAT != 0 && service::may_concern(&packet.key.src) {
        Reason::PassNoFlow
    } else {
        Reason::PassNotService
    }
}

/// Asks the guard.
#[inline(always)]
pub fn admit(
    settings: &Settings,
    service: &Service,
    id: u16,
    packet: &Packet,
    now: Now,
) -> Stage<()> {
    if guard::is_open(settings, service) {
        return Ok(());
    }
    match guard::judge(settings, service, u64::from(id), &packet.key.src, now.ns) {
        0 => Ok(()),
        code if code == Reason::DropNotAllowed as u64 => {
            Err(stats::refuse(Reason::DropNotAllowed, id))
        }
        _ => Err(stats::refuse(Reason::DropDenied, id)),
    }
}

/// A new flow: admits it, chooses its backend and remembers it. Gives 0, or the packed verdict
/// that ends the packet's way. A function of its own, for the stack's sake.
#[inline(never)]
fn open(
    settings: &Settings,
    packet: &Packet,
    place: &mut Place,
    chosen: &mut Chosen,
    now_ns: u64,
) -> u64 {
    let now = Now::at(now_ns);
    match try_open(settings, packet, now, place, chosen) {
        Ok(()) => 0,
        Err(verdict) => verdict.pack(),
    }
}

#[inline(always)]
fn try_open(
    settings: &Settings,
    packet: &Packet,
    now: Now,
    place: &mut Place,
    chosen: &mut Chosen,
) -> Stage<()> {
    let id = chosen.service;
    let Some(service) = SERVICE_TABLE.get(u32::from(id)) else {
        return end(Reason::DropInternal);
    };
    admit(settings, service, id, packet, now)?;
    if service.flags & service_flags::BUDGET != 0
        && !guard::charge(service, u64::from(id), &packet.key.src, now.ns)
    {
        return Err(stats::refuse(Reason::DropBudget, id));
    }
    let mut new = NewFlow {
        now: now.tick,
        guard_generation: settings.guard_generation,
        nat_word: 0,
        backend: 0,
        service: id,
        nat_port_be: 0,
        phase: first_phase(packet),
        flags: 0,
        counted: counted::NEVER,
    };
    if service.mode == Mode::Local.code() {
        let _ = flow::insert(place, &packet.key, &new.pack());
        if let Some(stats) = stats::service(id) {
            stats.local_new_flows += 1;
        }
        return Err(local(packet, id));
    }
    new.backend = if is_later(packet) && select::is_by_ring(service) {
        let hash = u64::from(selection_hash(&packet.key, settings.selection_seed));
        let to = select::later(service, u64::from(id), hash, u64::from(second(now.ns)));
        if to & select::EXCEPTION != 0 {
            exceptions::mark(place.hash);
        }
        to as u16
    } else {
        select::backend(service, id, &packet.key, settings.selection_seed, now.tick)
    };
    let Some(backend) = select::keeps_flows(new.backend, id) else {
        return Err(stats::refuse(Reason::DropNoBackend, id));
    };
    if service.mode == Mode::FullNat.code() {
        let port = full_nat::allocate(settings, service, packet, &new, backend);
        if port == 0 {
            return Err(stats::refuse(Reason::DropPortsExhausted, id));
        }
        new.nat_word = (port >> 16) as u32 & 0xffff;
        new.nat_port_be = port as u16;
    }
    let by_ring = select::is_by_ring(service) && service.mode != Mode::FullNat.code();
    // Nothing comes after a reset. Where SYNs come from false sources, whoever has the addresses resets
    // the backends' answers: that leaves as little as the SYNs do.
    if !(by_ring && tcp::resets(packet.tcp_flags)) {
        new.counted = counting(service, new.phase);
        let _ = flow::insert(place, &packet.key, &new.pack());
        if new.phase == Phase::Closing.code() {
            exceptions::mark(place.hash);
        }
    }
    chosen.backend = new.backend;
    chosen.nat_word = new.nat_word;
    chosen.nat_port_be = new.nat_port_be;
    if let Some(stats) = stats::backend(new.backend) {
        if is_later(packet) {
            stats.entered += 1;
        } else {
            stats.new_flows += 1;
        }
    }
    Ok(())
}

/// True for a segment that does not open its flow.
#[inline(always)]
fn is_later(packet: &Packet) -> bool {
    packet.key.protocol == protocol::TCP && !tcp::opens(packet.tcp_flags)
}

/// When a new flow counts as live: one that a SYN opens, with its second packet, unless the choice
/// by two must see it at once.
#[inline(always)]
fn counting(service: &Service, phase: u8) -> u32 {
    if phase == Phase::Closing.code() {
        counted::NEVER
    } else if phase == Phase::Syn.code() && service.selection != Selection::TwoChoices.code() {
        counted::NOT_YET
    } else {
        counted::YES
    }
}

/// Phase of a new flow.
#[inline(always)]
fn first_phase(packet: &Packet) -> u8 {
    if packet.key.protocol == protocol::UDP {
        return Phase::Udp.code();
    }
    if tcp::opens(packet.tcp_flags) && !tcp::ends(packet.tcp_flags) {
        Phase::Syn.code()
    } else if tcp::ends(packet.tcp_flags) {
        Phase::Closing.code()
    } else {
        Phase::Established.code()
    }
}
