//! A packet whose backend is known: route, rewrite, forward.

use crate::maps::{SNAT_ADDRS, Work};
use crate::packet::{Frame, forget};
use crate::stats;
use crate::verdict::{Stage, Verdict, end};
use crate::xdp::forward::{self, Route};
use crate::xdp::parse::{Packet, fragment};
use crate::xdp::rewrite::{encap, leave, nat};
use crate::xdp::{Now, adjacency, hand_on};
use aya_ebpf::bindings::xdp_action::XDP_PASS;
use proxy_common::addr::Addr;
use proxy_common::backend::Backend;
use proxy_common::maps::stage;
use proxy_common::reason::Reason;
use proxy_common::service::{Mode, protocol};
use proxy_common::settings::Settings;

/// Where a flow's packets go.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Chosen {
    /// Hash of the flow, which the tunnels spread.
    pub hash: u64,
    pub nat_word: u32,
    pub service: u16,
    pub backend: u16,
    pub nat_port_be: u16,
}

impl Chosen {
    /// Nothing yet.
    pub const NONE: Self = Self {
        hash: 0,
        nat_word: 0,
        service: 0,
        backend: 0,
        nat_port_be: 0,
    };
}

/// Sends a packet to its flow's backend.
#[inline(always)]
pub fn to_backend(
    frame: Frame,
    settings: &Settings,
    work: &mut Work,
    now: Now,
    backend: &Backend,
) -> Stage<Verdict> {
    forget();
    let sent = dispatch(frame, settings, work, now, backend);
    let (packet, chosen) = (&work.packet, &work.chosen);
    match sent {
        Ok(verdict) => {
            if let Some(stats) = stats::backend(chosen.backend) {
                stats.packets += 1;
                stats.bytes += u64::from(packet.length);
            }
            Ok(verdict.with(chosen.service, chosen.backend))
        }
        Err(verdict) => Err(count_refused(verdict, chosen)),
    }
}

/// Counts a packet that could not be sent, and names its service and backend.
#[inline(always)]
fn count_refused(verdict: Verdict, chosen: &Chosen) -> Verdict {
    if let Some(stats) = stats::service(chosen.service) {
        stats.dropped += 1;
    }
    verdict.with(chosen.service, chosen.backend)
}

#[inline(always)]
fn dispatch(
    frame: Frame,
    settings: &Settings,
    work: &mut Work,
    now: Now,
    backend: &Backend,
) -> Stage<Verdict> {
    let Work {
        packet,
        chosen,
        new,
        mtu,
        ..
    } = work;
    let (packet, chosen) = (&*packet, &*chosen);
    let mode = backend.mode;
    let gue = mode == Mode::DsrGue.code();
    let tunnel = gue || mode == Mode::DsrIpip.code();
    let overhead = if tunnel {
        encap::overhead(backend, gue) as u32
    } else {
        0
    };
    // SAFETY: the reference is valid. Read once and before the backend is, see `note`.
    let generation = unsafe { (&raw const settings.generation).read_volatile() };
    forget();
    let route = match forward::route(frame, settings, &backend.addr, now.ns) {
        Route::Known(route) => {
            adjacency::note(backend, route, chosen.backend, generation);
            if packet.length + overhead > route.mtu {
                *mtu = route.mtu.saturating_sub(overhead);
                return hand_on(frame, stage::TOO_BIG);
            }
            Some(route)
        }
        Route::Unresolved => None,
        Route::None => return end(Reason::DropNoRoute),
    };
    if tunnel {
        let action = encap::encapsulate(frame, packet, backend, route, chosen.hash, gue)?;
        return Ok(done(reason_of(packet, Reason::Encapsulated), action));
    }
    if mode == Mode::DsrL2.code() {
        // The stack would not send a packet for the VIP to the backend's MAC address.
        let Some(route) = route else {
            return end(Reason::DropNoNeighbour);
        };
        let action = leave(frame, packet, route)?;
        return Ok(done(reason_of(packet, Reason::Direct), action));
    }
    *new = packet.key;
    new.dst = backend.addr;
    if backend.port_be != 0 {
        new.dst_port_be = backend.port_be;
    }
    if mode == Mode::Nat.code() {
        translated(nat::translate::<false, true>(frame, packet, new))?;
    } else {
        let Some(addr) = source(chosen) else {
            return end(Reason::DropInternal);
        };
        new.src = *addr;
        new.src_port_be = chosen.nat_port_be;
        translated(nat::translate::<true, true>(frame, packet, new))?;
    }
    let action = match route {
        Some(route) => leave(frame, packet, route)?,
        None => XDP_PASS,
    };
    Ok(done(reason_of(packet, Reason::Translated), action))
}

/// The outcome of a translation as a stage.
#[inline(always)]
pub fn translated(failure: u64) -> Stage<()> {
    if failure == 0 {
        Ok(())
    } else {
        Err(Verdict::unpack(failure))
    }
}

/// The full-nat source address of a flow.
#[inline(always)]
pub fn source(chosen: &Chosen) -> Option<&'static Addr> {
    SNAT_ADDRS.get(chosen.nat_word)
}

/// The reason of a packet that was sent: by its mode, unless it is special.
#[inline(always)]
fn reason_of(packet: &Packet, by_mode: Reason) -> Reason {
    if packet.fragment == fragment::LATER {
        Reason::FragmentForwarded
    } else if matches!(packet.key.protocol, protocol::ICMP | protocol::ICMPV6) {
        Reason::IcmpError
    } else {
        by_mode
    }
}

/// The verdict of a packet that is ready to go.
#[inline(always)]
pub fn done(reason: Reason, action: u32) -> Verdict {
    if action == XDP_PASS {
        Verdict::of(Reason::PassResolve)
    } else {
        Verdict::send(reason, action)
    }
}
