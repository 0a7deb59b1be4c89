//! ICMP errors about balanced flows: they go to the flow's other end, or path MTU discovery and
//! quick failure would not work through the balancer.
//!
//! An error quotes the packet that met it. If that packet was an answer (VIP → client), the error
//! belongs to the flow's backend. With NAT, if it was a translated request (client → backend), it
//! belongs to the client, and what it quotes must be translated back.

use crate::maps::{SERVICE_TABLE, Scratch, Work};
use crate::packet::{Frame, forget};
use crate::stats;
use crate::verdict::{Stage, Verdict, end};
use crate::xdp::forward::{self, Route};
use crate::xdp::icmp;
use crate::xdp::parse::{Packet, fragment};
use crate::xdp::rewrite::leave;
use crate::xdp::send::{self, Chosen};
use crate::xdp::{Now, elsewhere, flow, full_nat, guard, pair, select, service};
use aya_ebpf::bindings::xdp_action::XDP_PASS;
use proxy_common::addr::Addr;
use proxy_common::backend::Backend;
use proxy_common::flow::{FlowKey, flow_flags};
use proxy_common::hash::{flow_hash, selection_hash};
use proxy_common::reason::Reason;
use proxy_common::service::{Mode, kind, protocol};
use proxy_common::settings::{CHEAP_LOOKS_PER_TICK, Settings, second};

/// Answers echo requests and forwards error messages.
#[inline(always)]
pub fn stage(frame: Frame, settings: &Settings, work: &mut Work) -> Stage<Verdict> {
    let now = Now::at(work.now_ns);
    let Work {
        packet,
        chosen,
        error,
        ..
    } = &mut *work;
    let packet = &*packet;
    if icmp::is_echo_request(packet) {
        return Ok(Verdict::unpack(icmp::echo(frame, packet, settings)));
    }
    if !icmp::is_error(packet) || packet.fragment != fragment::NONE {
        return end(Reason::PassProtocol);
    }
    *chosen = Chosen::NONE;
    if let Err(verdict) = decide(frame, settings, packet, error, chosen, now) {
        return Ok(verdict.with(chosen.service, chosen.backend));
    }
    // Looked up again: carried along, the pointer would be undefined where there is none, and the
    // verifier does not take that.
    let Some(backend) = select::keeps_flows(chosen.backend, chosen.service) else {
        return end(Reason::DropInternal);
    };
    send::to_backend(frame, settings, work, now, backend)
}

/// Finds out where an error message goes: to the chosen backend as any packet of its flow would,
/// or nowhere further, with the verdict as the error.
#[inline(always)]
fn decide(
    frame: Frame,
    settings: &Settings,
    packet: &Packet,
    scratch: &mut Scratch,
    chosen: &mut Chosen,
    now: Now,
) -> Stage<()> {
    let failure = icmp::quote(frame, packet, &mut scratch.quote);
    if failure == Reason::PassProtocol as u64 {
        return end(Reason::PassProtocol);
    }
    if failure != 0 {
        return end(if service::may_concern(&packet.key.dst) {
            Reason::DropTruncatedQuote
        } else {
            Reason::PassNotService
        });
    }
    scratch.key = scratch.quote.key.reversed();
    chosen.hash = flow_hash(scratch.key.words(), &settings.secrets);
    forget();
    let found = find(settings, scratch, chosen, now);
    if found == NOWHERE {
        return without_entry(frame, settings, packet, scratch, chosen, now);
    }
    if found == RETURN {
        scratch.inner = scratch.key;
        pair::vip(chosen, &mut scratch.inner)?;
        return Err(to_client(frame, settings, packet, scratch, now)?);
    }
    to_backend(frame, settings, packet, scratch, chosen, now)
}

/// No CPU has an entry.
const NOWHERE: u64 = 0;
/// The flow towards the backend.
const FORTH: u64 = 1;
/// The return path of `nat`.
const RETURN: u64 = 2;

/// Looks for the flow that the quoted packet belongs to.
#[inline(never)]
fn find(settings: &Settings, scratch: &mut Scratch, chosen: &mut Chosen, now: Now) -> u64 {
    let Some(mut place) = flow::place_of(settings, chosen.hash) else {
        return NOWHERE;
    };
    let mut entry = flow::find(&mut place, &scratch.key, now.tick).unwrap_or(core::ptr::null_mut());
    if entry.is_null() && settings.cpus > 1 {
        let (tick, most) = (u64::from(now.tick), u64::from(CHEAP_LOOKS_PER_TICK));
        entry = elsewhere::adopt(settings, &mut place, &scratch.key, tick, most);
    }
    if entry.is_null() {
        return NOWHERE;
    }
    // SAFETY: the entry is in this CPU's part.
    unsafe {
        chosen.nat_word = (*entry).nat_word;
        chosen.service = (*entry).service;
        chosen.backend = (*entry).backend;
        chosen.nat_port_be = (*entry).nat_port_be;
        if (*entry).flags & flow_flags::RETURN != 0 {
            RETURN
        } else {
            FORTH
        }
    }
}

/// An error about a flow that no CPU has an entry for.
#[inline(always)]
fn without_entry(
    frame: Frame,
    settings: &Settings,
    packet: &Packet,
    scratch: &mut Scratch,
    chosen: &mut Chosen,
    now: Now,
) -> Stage<()> {
    let key = &scratch.key;
    let to = service::lookup(settings, &key.dst, key.dst_port_be, key.protocol);
    if to.kind == kind::BALANCE {
        chosen.service = to.id;
        let Some(service) = SERVICE_TABLE.get(u32::from(to.id)) else {
            return end(Reason::DropInternal);
        };
        if service.mode == Mode::Local.code() {
            return end(Reason::PassLocal);
        }
        chosen.backend = if key.protocol == protocol::TCP && select::is_by_ring(service) {
            let hash = u64::from(selection_hash(key, settings.selection_seed));
            let second = u64::from(second(now.ns));
            select::later(service, u64::from(to.id), hash, second) as u16
        } else {
            select::backend(service, to.id, key, settings.selection_seed, now.tick)
        };
        if chosen.backend == 0 || service.mode == Mode::FullNat.code() {
            return Err(stats::refuse(Reason::DropNoBackend, to.id));
        }
        return to_backend(frame, settings, packet, scratch, chosen, now);
    }
    if to.kind != kind::SNAT {
        return end(Reason::PassNotService);
    }
    let Some(record) = full_nat::record_of(u32::from(to.id), key) else {
        return end(Reason::PassNoFlow);
    };
    scratch.inner = FlowKey::new(
        record.vip,
        record.client,
        record.vip_port_be,
        record.client_port_be,
        key.protocol,
    );
    chosen.backend = record.backend;
    Err(to_client(frame, settings, packet, scratch, now)?)
}

/// Sends an error to the flow's backend.
#[inline(always)]
fn to_backend(
    frame: Frame,
    settings: &Settings,
    packet: &Packet,
    scratch: &mut Scratch,
    chosen: &Chosen,
    now: Now,
) -> Stage<()> {
    if chosen.backend == 0 {
        return end(Reason::PassLocal);
    }
    let Some(service) = SERVICE_TABLE.get(u32::from(chosen.service)) else {
        return end(Reason::DropInternal);
    };
    if !guard::is_open(settings, service) {
        // Routers are on no allow list, but a denied source may not send errors either.
        let scope = u64::from(chosen.service);
        let code = guard::judge(settings, service, scope, &packet.key.src, now.ns);
        if code == Reason::DropDenied as u64 {
            return Err(stats::refuse(Reason::DropDenied, chosen.service));
        }
    }
    let Some(backend) = select::keeps_flows(chosen.backend, chosen.service) else {
        return Err(stats::refuse(Reason::DropNoBackend, chosen.service));
    };
    if backend.mode != Mode::Nat.code() && backend.mode != Mode::FullNat.code() {
        return Ok(());
    }
    Err(translated(
        frame, settings, packet, scratch, chosen, backend, now,
    )?)
}

/// Sends an error to the backend of a NAT flow.
#[inline(always)]
fn translated(
    frame: Frame,
    settings: &Settings,
    packet: &Packet,
    scratch: &mut Scratch,
    chosen: &Chosen,
    backend: &Backend,
    now: Now,
) -> Stage<Verdict> {
    scratch.inner = scratch.quote.key;
    scratch.inner.src = backend.addr;
    if backend.port_be != 0 {
        scratch.inner.src_port_be = backend.port_be;
    }
    scratch.outer_src = packet.key.src;
    scratch.outer_dst = backend.addr;
    if backend.mode == Mode::FullNat.code() {
        let Some(source) = send::source(chosen) else {
            return end(Reason::DropInternal);
        };
        if packet.key.src == scratch.quote.key.dst {
            scratch.outer_src = *source;
        }
        scratch.inner.dst = *source;
        scratch.inner.dst_port_be = chosen.nat_port_be;
    }
    finish(frame, settings, packet, scratch, now)
}

/// Sends an error to the client of a NAT flow. `scratch.inner` is the answer's tuple (VIP →
/// client); what is quoted went the other way.
#[inline(always)]
fn to_client(
    frame: Frame,
    settings: &Settings,
    packet: &Packet,
    scratch: &mut Scratch,
    now: Now,
) -> Stage<Verdict> {
    scratch.outer_dst = scratch.inner.dst;
    let from_backend: Addr = scratch.key.src;
    scratch.outer_src = if packet.key.src == from_backend {
        scratch.inner.src
    } else {
        packet.key.src
    };
    scratch.inner = scratch.inner.reversed();
    finish(frame, settings, packet, scratch, now)
}

#[inline(always)]
fn finish(
    frame: Frame,
    settings: &Settings,
    packet: &Packet,
    scratch: &Scratch,
    now: Now,
) -> Stage<Verdict> {
    let route = match forward::route(frame, settings, &scratch.outer_dst, now.ns) {
        Route::Known(route) => Some(route),
        Route::Unresolved => None,
        Route::None => return end(Reason::DropNoRoute),
    };
    let failure = icmp::translate_error(frame, packet, scratch);
    if failure != 0 {
        return Err(Verdict::unpack(failure));
    }
    let action = match route {
        Some(route) => leave(frame, packet, route)?,
        None => XDP_PASS,
    };
    Ok(send::done(Reason::IcmpError, action))
}
