//! The return path of `nat`: a second entry, keyed by the backend's answer.
//!
//! The two entries of a flow live on the CPUs that see the two directions. Each direction renews
//! the other one's entry now and then, so that a flow with traffic in one direction only is not
//! forgotten in the other.

use crate::maps::{NO_SNAT, SERVICE_TABLE, Work};
use crate::packet::{Frame, forget};
use crate::stats;
use crate::verdict::{Stage, Verdict, end};
use crate::xdp::forward::{self, Route};
use crate::xdp::parse::{Packet, fragment};
use crate::xdp::rewrite::{leave, nat};
use crate::xdp::send::{self, Chosen};
use crate::xdp::{flow, full_nat, hand_on};
use aya_ebpf::bindings::xdp_action::XDP_PASS;
use flow::NewFlow;
use proxy_common::addr::Addr;
use proxy_common::backend::Backend;
use proxy_common::flow::{FlowKey, PERIOD_SHIFT, counted, flow_flags, slot};
use proxy_common::maps::stage;
use proxy_common::reason::Reason;
use proxy_common::service::Mode;
use proxy_common::settings::{Adjacency, Settings};
use proxy_common::tcp;

/// True when the other direction's entry should be renewed: with NAT, at intervals, and on each
/// SYN, since a flood may have washed out an answer's entry before the answer came.
#[inline(always)]
pub fn is_due(backend: &Backend, packet: &Packet, seen: u32, now: u32) -> bool {
    (backend.mode == Mode::Nat.code() || backend.mode == Mode::FullNat.code())
        && (is_old(seen, now)
            || packet.tcp_flags & (tcp::flag::SYN | tcp::flag::FIN | tcp::flag::RST) != 0)
}

/// True if the other direction's entry was last renewed in an earlier interval.
#[inline(always)]
fn is_old(seen: u32, now: u32) -> bool {
    seen >> PERIOD_SHIFT != now >> PERIOD_SHIFT
}

/// Tick and phase in one argument.
#[inline(always)]
pub fn moment(tick: u32, phase: u8) -> u64 {
    u64::from(tick) | u64::from(phase) << 32
}

/// Makes or renews the entry of the return path.
#[inline(never)]
pub fn keep_alive(
    settings: &Settings,
    key: &FlowKey,
    chosen: &Chosen,
    backend: &Backend,
    moment: u64,
) -> u64 {
    if backend.mode == Mode::FullNat.code() {
        full_nat::renew(key, chosen, moment as u32, (moment >> 32) as u8);
        return 0;
    }
    let answer = answer_to(key, backend.addr, backend.port_be);
    let ids = flow::pair_of(u32::from(chosen.backend), u32::from(chosen.service));
    lead_back(settings, key, &answer, ids, moment)
}

/// Writes the tuple of the answers to a plain packet down in `work`, where its own tuple is. 1 if the
/// VIP and its port can be told from the service alone.
#[inline(never)]
pub fn note_answer(work: &mut Work, to: &Adjacency) -> u64 {
    let addr = Addr::from_words([to.template[2], to.template[3]]);
    let key = &work.packet.key;
    work.new = answer_to(key, addr, to.port_be);
    let is_told = SERVICE_TABLE
        .get(u32::from(to.service))
        .is_some_and(|service| {
            service.vip.low32() == key.dst.low32() && service.port == u16::from_be(key.dst_port_be)
        });
    u64::from(is_told)
}

/// The tuple of a backend's answers. Port 0 stands for the one that the client asked for.
#[inline(always)]
fn answer_to(key: &FlowKey, backend: Addr, port_be: u16) -> FlowKey {
    let port_be = if port_be == 0 {
        key.dst_port_be
    } else {
        port_be
    };
    FlowKey::new(backend, key.src, port_be, key.src_port_be, key.protocol)
}

/// Has the answers to a `nat` flow led back to the address and port that its client asked for. `ids`
/// are the backend's and the service's, side by side.
#[inline(never)]
pub fn lead_back(
    settings: &Settings,
    key: &FlowKey,
    answer: &FlowKey,
    ids: u64,
    moment: u64,
) -> u64 {
    let new = NewFlow {
        now: moment as u32,
        guard_generation: 0,
        nat_word: u32::from_ne_bytes(key.dst.low32()),
        backend: ids as u16,
        service: (ids >> 32) as u16,
        nat_port_be: key.dst_port_be,
        phase: (moment >> 32) as u8,
        flags: flow_flags::RETURN,
        counted: counted::NEVER,
    };
    let new = new.pack();
    let Some(mut place) = flow::place(settings, answer) else {
        return 0;
    };
    match flow::find(&mut place, answer, moment as u32) {
        Some(entry) => flow::renew(&place, entry, &new),
        None => {
            let _ = flow::insert(&mut place, answer, &new);
            0
        }
    }
}

/// As [`lead_back`], for a flow of which only a SYN was seen: leaves a bare slot, from which the service
/// must tell the rest. 0 where that is not possible, as the tuple may be known.
#[inline(never)]
pub fn lead_back_bare(settings: &Settings, answer: &FlowKey, ids: u64, tick: u64) -> u64 {
    let Some(mut place) = flow::place(settings, answer) else {
        return 0;
    };
    flow::insert_bare(&mut place, ids, tick, slot::BARE_RETURN)
}

/// Sends a backend's answer to the client, from the VIP.
#[inline(always)]
pub fn stage(frame: Frame, settings: &Settings, work: &mut Work) -> Stage<Verdict> {
    let now_ns = work.now_ns;
    let Work {
        packet,
        chosen,
        new,
        snat,
        ..
    } = &mut *work;
    let known = if *snat == NO_SNAT {
        *new = packet.key;
        vip(chosen, new)
    } else {
        full_nat::answer(*snat, packet, new, chosen, now_ns)
    };
    forget();
    let both = *snat != NO_SNAT;
    let (service, backend) = (chosen.service, chosen.backend);
    let sent = match known {
        Ok(()) => to_client(frame, settings, work, both),
        Err(verdict) => Err(verdict),
    };
    let (Ok(verdict) | Err(verdict)) = sent;
    Ok(verdict.with(service, backend))
}

/// Puts the VIP and its port in as the source. Of the address the entry keeps the last 32 bits;
/// the rest is the same for all addresses of a prefix service.
#[inline(always)]
pub fn vip(chosen: &Chosen, new: &mut FlowKey) -> Stage<()> {
    let Some(service) = SERVICE_TABLE.get(u32::from(chosen.service)) else {
        return end(Reason::PassNoFlow);
    };
    if service.mode != Mode::Nat.code() {
        return end(Reason::PassNoFlow);
    }
    let mut octets = service.vip.octets;
    octets[12..16].copy_from_slice(&chosen.nat_word.to_ne_bytes());
    new.src = Addr { octets };
    new.src_port_be = chosen.nat_port_be;
    Ok(())
}

/// Translates an answer and sends it to the client; `both` rewrites the destination, too.
#[inline(always)]
fn to_client(frame: Frame, settings: &Settings, work: &mut Work, both: bool) -> Stage<Verdict> {
    let Work {
        packet,
        chosen,
        new,
        mtu,
        ..
    } = work;
    let packet = &*packet;
    let route = match forward::route(frame, settings, &new.dst, work.now_ns) {
        Route::Known(route) => {
            if packet.length > route.mtu {
                *mtu = route.mtu;
                return hand_on(frame, stage::TOO_BIG);
            }
            Some(route)
        }
        Route::Unresolved => None,
        Route::None => return end(Reason::DropNoRoute),
    };
    send::translated(if both {
        nat::translate::<true, true>(frame, packet, new)
    } else {
        nat::translate::<true, false>(frame, packet, new)
    })?;
    if let Some(stats) = stats::backend(chosen.backend) {
        stats.return_packets += 1;
        stats.return_bytes += u64::from(packet.length);
    }
    let action = match route {
        Some(route) => leave(frame, packet, route)?,
        None => XDP_PASS,
    };
    let reason = if packet.fragment == fragment::LATER {
        Reason::FragmentForwarded
    } else {
        Reason::Returned
    };
    Ok(send::done(reason, action))
}
