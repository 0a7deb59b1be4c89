//! The balancer: one packet's way from top to bottom.
//!
//! ```text
//! program sluice_balance: plain packets of established flows and plain SYNs, sent at once (`fast`)
//!   │ all others
//!   ▼
//! program sluice_parse              program sluice_open            program sluice_icmp
//! parse ─▶ address filter           service                        echo: answer it
//!   ─▶ fragment ─▶ flow ─unknown──▶   ─▶ another CPU's entry?      error: whose flow?
//!                   │known            ─▶ guard ─▶ select             │
//!                   ▼                 ─▶ new entry                   ▼
//!                 guard, if changed     │                          translate what is quoted
//!                   ▼                   ▼                            │
//!                  send                send                         send
//!                  send: route ─▶ rewrite ─▶ forward
//! ```
//!
//! A known flow needs neither its service nor its guard: its entry names the backend, and the
//! backend's entry holds all that forwarding needs. That is what makes it cheap. What the first
//! program needs of a backend and its route is prepared by the later ones (`adjacency`).
//!
//! Answers of NAT backends (`sluice_return`) and "too big" messages (`sluice_too_big`) have programs
//! of their own, too. The programs hand a packet on by tail call; what is known of it waits in the `scratch`
//! map. Each is verified by itself, so that its cost to the verifier does not multiply.

pub mod adjacency;
pub mod decap;
pub mod elsewhere;
pub mod errors;
pub mod exceptions;
pub mod fast;
pub mod flow;
pub mod forward;
pub mod fragment;
pub mod full_nat;
pub mod guard;
pub mod icmp;
pub mod known;
pub mod open;
pub mod pair;
pub mod parse;
pub mod rewrite;
pub mod select;
pub mod send;
pub mod service;
pub mod slots;

use crate::event;
use crate::maps::{CPU_STATE, NO_SNAT, SCRATCH, SETTINGS, STAGES, Work};
use crate::packet::{Frame, forget};
use crate::stats;
use crate::verdict::{Stage, Verdict, end};
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use aya_ebpf::helpers::generated::bpf_jiffies64;
use aya_ebpf::programs::XdpContext;
use known::Known;
use parse::Packet;
use proxy_common::flow::{FlowKey, TICK_SHIFT};
use proxy_common::maps::stage;
use proxy_common::reason::Reason;
use proxy_common::service::protocol;
use proxy_common::settings::{Settings, settings_flags};

/// The time of a packet.
#[derive(Clone, Copy)]
pub struct Now {
    /// Coarse monotonic nanoseconds.
    pub ns: u64,
    /// The same in ticks.
    pub tick: u32,
}

impl Now {
    /// The coarse clock advances with the jiffies, so it is asked once for each of them: the kernel
    /// inlines their number, but calls a function for the clock. What is wrong by a jiffy, since
    /// they are counted a moment earlier, is short against every timeout.
    #[inline(always)]
    pub fn read() -> Self {
        // SAFETY: no arguments.
        let jiffies = unsafe { bpf_jiffies64() };
        let Some(state) = CPU_STATE.get_ptr_mut(0) else {
            // SAFETY: no arguments.
            return Self::at(unsafe { bpf_ktime_get_coarse_ns() });
        };
        // SAFETY: the element belongs to this CPU.
        unsafe {
            if (*state).clock_jiffies != jiffies {
                (*state).clock_jiffies = jiffies;
                (*state).clock_ns = bpf_ktime_get_coarse_ns();
            }
            Self::at((*state).clock_ns)
        }
    }

    /// The time of a packet that an earlier stage has read.
    #[inline(always)]
    pub fn at(ns: u64) -> Self {
        Self {
            ns,
            tick: (ns >> TICK_SHIFT) as u32,
        }
    }
}

/// First program: sends the plain packets of established flows and hands on all others.
#[inline(always)]
pub fn balance(ctx: *mut xdp_md) -> u32 {
    let frame = Frame::new(ctx);
    let Some(settings) = SETTINGS.get(0) else {
        return Verdict::of(Reason::DropInternal).action;
    };
    if let Some(action) = fast::action(frame, settings) {
        return action;
    }
    let (Ok(verdict) | Err(verdict)) = hand_on(frame, stage::PARSE);
    count(frame, settings, verdict)
}

/// Second program: parses any packet, balances those of known flows and hands on the others.
#[inline(always)]
pub fn parse(ctx: *mut xdp_md) -> u32 {
    let frame = Frame::new(ctx);
    let (Some(settings), Some(work)) = (SETTINGS.get(0), SCRATCH.get_ptr_mut(0)) else {
        return Verdict::of(Reason::DropInternal).action;
    };
    // SAFETY: the element belongs to this CPU, and no other reference to it is held.
    let work = unsafe { &mut *work };
    if settings.flags & settings_flags::CAPTURE != 0 {
        event::capture_in(frame, settings);
    }
    match parse::packet(frame, &mut work.packet) {
        // Nothing is known of the packet that an event could tell.
        Err(verdict) => {
            #[cfg(feature = "log")]
            crate::log::unknown(verdict.pack());
            count(frame, settings, verdict)
        }
        Ok(()) => {
            forget();
            let (Ok(verdict) | Err(verdict)) = known_flow(frame, settings, work);
            finish(frame, settings, work, verdict, 0)
        }
    }
}

/// Third program: packets of flows without an entry.
#[inline(always)]
pub fn open(ctx: *mut xdp_md) -> u32 {
    later(ctx, open::stage)
}

/// Fourth program: ICMP.
#[inline(always)]
pub fn icmp(ctx: *mut xdp_md) -> u32 {
    later(ctx, errors::stage)
}

/// Fifth program: answers of NAT backends.
#[inline(always)]
pub fn answer(ctx: *mut xdp_md) -> u32 {
    let frame = Frame::new(ctx);
    let (Some(settings), Some(work)) = (SETTINGS.get(0), SCRATCH.get_ptr_mut(0)) else {
        return Verdict::of(Reason::DropInternal).action;
    };
    // SAFETY: the element belongs to this CPU, and no other reference to it is held.
    let work = unsafe { &mut *work };
    let (Ok(verdict) | Err(verdict)) = pair::stage(frame, settings, work);
    if settings.trace_below != 0 {
        event::sample_answer(frame, settings, &work.packet, verdict.pack(), &work.new);
    }
    #[cfg(feature = "log")]
    crate::log::verdict(&work.packet, verdict.pack());
    count(frame, settings, verdict)
}

/// Sixth program: tells senders which length fits.
#[inline(always)]
pub fn too_big(ctx: *mut xdp_md) -> u32 {
    later(ctx, icmp::too_big)
}

/// Runs a later program's stage.
#[inline(always)]
fn later(ctx: *mut xdp_md, stage: impl Fn(Frame, &Settings, &mut Work) -> Stage<Verdict>) -> u32 {
    let frame = Frame::new(ctx);
    let (Some(settings), Some(work)) = (SETTINGS.get(0), SCRATCH.get_ptr_mut(0)) else {
        return Verdict::of(Reason::DropInternal).action;
    };
    // SAFETY: the element belongs to this CPU, and no other reference to it is held.
    let work = unsafe { &mut *work };
    let (Ok(verdict) | Err(verdict)) = stage(frame, settings, work);
    finish(frame, settings, work, verdict, 1)
}

/// Hands the packet to a later program.
#[inline(always)]
pub fn hand_on<T>(frame: Frame, stage: u32) -> Stage<T> {
    // SAFETY: the context is valid. The call returns only if the loader has left the array empty.
    unsafe { STAGES.tail_call(&XdpContext::new(frame.ctx()), stage) };
    end(Reason::DropInternal)
}

/// Counts a packet's verdict, tells of it where its flow is traced, and gives the XDP action.
#[inline(always)]
fn finish(frame: Frame, settings: &Settings, work: &Work, verdict: Verdict, opens: u64) -> u32 {
    if settings.trace_below != 0 {
        event::sample(frame, settings, &work.packet, verdict.pack(), opens);
    }
    #[cfg(feature = "log")]
    crate::log::verdict(&work.packet, verdict.pack());
    count(frame, settings, verdict)
}

#[inline(always)]
fn count(frame: Frame, settings: &Settings, verdict: Verdict) -> u32 {
    stats::count(verdict);
    if settings.flags & settings_flags::CAPTURE != 0 {
        event::capture_out(frame, settings, verdict.pack());
    }
    verdict.action
}

/// The stages behind the parser, for flows that have an entry.
#[inline(always)]
fn known_flow(frame: Frame, settings: &Settings, work: &mut Work) -> Stage<Verdict> {
    filter(
        settings,
        &work.packet.key,
        icmp::is_icmp(&work.packet) && icmp::is_error(&work.packet),
    )?;
    let now = Now::read();
    work.now_ns = now.ns;
    fragment::stage(&mut work.packet, now.tick)?;
    let Work {
        packet,
        chosen,
        snat,
        ..
    } = &mut *work;
    let packet = &*packet;
    if !matches!(packet.key.protocol, protocol::TCP | protocol::UDP) {
        if icmp::is_icmp(packet) {
            return hand_on(frame, stage::ICMP);
        }
        return end(Reason::PassProtocol);
    }
    let Some(mut place) = flow::place(settings, &packet.key) else {
        return end(Reason::DropInternal);
    };
    chosen.hash = place.hash;
    let Some(entry) = flow::find(&mut place, &packet.key, now.tick) else {
        return hand_on(frame, stage::OPEN);
    };
    if settings.cpus > 1 {
        let tick = u64::from(now.tick);
        if known::is_doubtful(entry, packet, now) {
            // SAFETY: the entry is inside a map's value.
            let seen = unsafe { flow::pair_of((*entry).last_seen, u32::from((*entry).phase)) };
            if elsewhere::is_outlived(settings, &place, &packet.key, tick, seen) != 0 {
                flow::remove(&place, entry);
                return hand_on(frame, stage::OPEN);
            }
        }
        if known::ends(entry, packet) {
            elsewhere::end(settings, &place, &packet.key, tick);
        }
    }
    let next = known::look(settings, packet, now, &place, entry, chosen)?;
    match next {
        Known::Send(backend) => send::to_backend(frame, settings, work, now, backend),
        Known::Return => {
            *snat = NO_SNAT;
            hand_on(frame, stage::RETURN)
        }
        Known::Stale => {
            flow::remove(&place, entry);
            hand_on(frame, stage::OPEN)
        }
    }
}

/// Lets packets go that cannot concern any service.
#[inline(always)]
fn filter(settings: &Settings, key: &FlowKey, is_icmp_error: bool) -> Stage<()> {
    if settings.flags & settings_flags::PREFIX_SERVICES != 0 || service::may_concern(&key.dst) {
        return Ok(());
    }
    // With NAT, answers of backends concern us too, and errors that routers send about them.
    if settings.flags & settings_flags::NAT != 0
        && (service::may_concern(&key.src) || is_icmp_error)
    {
        return Ok(());
    }
    end(Reason::PassNotService)
}

/// A packet of a service that this host's user space serves.
#[inline(always)]
fn local(packet: &Packet, id: u16) -> Verdict {
    if let Some(stats) = stats::service(id) {
        stats.local_packets += 1;
        stats.local_bytes += u64::from(packet.length);
    }
    Verdict::of(Reason::PassLocal).for_service(id)
}
