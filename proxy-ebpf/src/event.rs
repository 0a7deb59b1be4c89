//! Records for user space: verdicts on packets of traced flows, and captured packets. Off unless asked for, and out
//! of line, so that they cost the packet path one test each.

use crate::maps::{CAPTURE, CPU_STATE, EVENTS};
use crate::packet::Frame;
use crate::verdict::Verdict;
use crate::xdp::parse::Packet;
use aya_ebpf::bindings::xdp_action::XDP_DROP;
use aya_ebpf::helpers::{
    bpf_get_smp_processor_id, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns, bpf_xdp_get_buff_len,
    bpf_xdp_load_bytes,
};
use proxy_common::event::{CAPTURE_OCTETS, CaptureHeader, CaptureRecord, Event, direction};
use proxy_common::flow::FlowKey;
use proxy_common::hash::flow_hash;
use proxy_common::settings::Settings;
use proxy_common::{tcp, trace};

/// True if a flow with this hash is traced.
#[inline(always)]
pub fn is_traced(settings: &Settings, hash: u64) -> bool {
    trace::is_sampled(hash, settings.trace_below)
}

/// Tells user space of a packet whose flow is traced. `opens`: it may be its flow's first.
#[inline(never)]
pub fn sample(frame: Frame, settings: &Settings, packet: &Packet, verdict: u64, opens: u64) -> u64 {
    let hash = flow_hash(packet.key.words(), &settings.secrets);
    emit(
        frame,
        settings,
        packet,
        hash,
        Verdict::unpack(verdict),
        opens,
    )
}

/// As [`sample`], of an answer that became `new`: its flow is that of the client which gets it.
#[inline(never)]
pub fn sample_answer(
    frame: Frame,
    settings: &Settings,
    packet: &Packet,
    verdict: u64,
    new: &FlowKey,
) -> u64 {
    let hash = flow_hash(new.reversed().words(), &settings.secrets);
    emit(frame, settings, packet, hash, Verdict::unpack(verdict), 0)
}

/// Packets that open or end a flow, or are dropped, are told of; of the others, which are many and
/// tell nothing new, one in `Settings::sample_every`.
#[inline(always)]
fn emit(
    frame: Frame,
    settings: &Settings,
    packet: &Packet,
    hash: u64,
    verdict: Verdict,
    opens: u64,
) -> u64 {
    const TURNS: u8 = tcp::flag::SYN | tcp::flag::FIN | tcp::flag::RST;
    if !is_traced(settings, hash) {
        return 0;
    }
    let Some(state) = CPU_STATE.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: the element belongs to this CPU.
    let state = unsafe { &mut *state };
    if opens == 0 && packet.tcp_flags & TURNS == 0 && verdict.action != XDP_DROP {
        if state.sample_countdown > 1 || settings.sample_every == 0 {
            state.sample_countdown = state.sample_countdown.saturating_sub(1);
            return 0;
        }
        state.sample_countdown = settings.sample_every;
    }
    let id = flow_id(settings, hash);
    let Some(mut record) = EVENTS.reserve_untyped::<Event>(0) else {
        state.events_lost += 1;
        return 0;
    };
    let at: *mut Event = record.as_mut_ptr();
    // SAFETY: the record is reserved, and written field by field: as a value it would stand on the
    // stack first, which the calls up to here have nearly used up.
    unsafe {
        (&raw mut (*at).time_ns).write(bpf_ktime_get_coarse_ns());
        (&raw mut (*at).src).write(packet.key.src);
        (&raw mut (*at).dst).write(packet.key.dst);
        (&raw mut (*at).length).write(packet.length);
        (&raw mut (*at).ifindex).write(frame.ifindex());
        (&raw mut (*at).src_port_be).write(packet.key.src_port_be);
        (&raw mut (*at).dst_port_be).write(packet.key.dst_port_be);
        (&raw mut (*at).reason).write(verdict.reason);
        (&raw mut (*at).service).write(verdict.service);
        (&raw mut (*at).backend).write(verdict.backend);
        (&raw mut (*at).protocol).write(packet.key.protocol);
        (&raw mut (*at).tcp_flags).write(packet.tcp_flags);
        (&raw mut (*at).rank).write(trace::rank(hash));
        (&raw mut (*at).flow).write(id);
    }
    record.submit(0);
    0
}

/// A function of its own, so that what it keeps on the stack is gone when the event is written.
#[inline(never)]
fn flow_id(settings: &Settings, hash: u64) -> u64 {
    trace::flow_id(hash, &settings.secrets)
}

/// Copies a packet as it arrived. Remembers the time, so that its two records can be paired.
#[inline(never)]
pub fn capture_in(frame: Frame, settings: &Settings) -> u64 {
    let Some(state) = CPU_STATE.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    // SAFETY: the element belongs to this CPU.
    unsafe { (*state).capture_ns = now };
    copy(frame, settings, direction::IN, 0, now)
}

/// Copies a packet as it leaves.
#[inline(never)]
pub fn capture_out(frame: Frame, settings: &Settings, verdict: u64) -> u64 {
    let Some(state) = CPU_STATE.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: the element belongs to this CPU.
    let now = unsafe { (*state).capture_ns };
    copy(frame, settings, direction::OUT, verdict, now)
}

#[inline(always)]
fn copy(frame: Frame, settings: &Settings, direction: u8, verdict: u64, now: u64) -> u64 {
    // SAFETY: the context is valid.
    let length = unsafe { bpf_xdp_get_buff_len(frame.ctx()) };
    let mut captured = length;
    if captured > u64::from(settings.capture_octets) {
        captured = u64::from(settings.capture_octets);
    }
    if captured > CAPTURE_OCTETS as u64 {
        captured = CAPTURE_OCTETS as u64;
    }
    if captured == 0 {
        return 0;
    }
    let Some(mut record) = CAPTURE.reserve_untyped::<CaptureRecord>(0) else {
        if let Some(state) = CPU_STATE.get_ptr_mut(0) {
            // SAFETY: the element belongs to this CPU.
            unsafe { (*state).capture_lost += 1 };
        }
        return 0;
    };
    let verdict = Verdict::unpack(verdict);
    let at: *mut CaptureRecord = record.as_mut_ptr();
    // SAFETY: the record is reserved; the length is bounded by the buffer's.
    let copied = unsafe {
        (*at).header = CaptureHeader {
            time_ns: now,
            length: length as u32,
            captured: captured as u32,
            ifindex: frame.ifindex(),
            reason: verdict.reason,
            direction,
            action: verdict.action as u8,
            service: verdict.service,
            backend: verdict.backend,
            cpu: bpf_get_smp_processor_id() as u32,
        };
        bpf_xdp_load_bytes(
            frame.ctx(),
            0,
            (&raw mut (*at).data).cast(),
            captured as u32,
        )
    };
    if copied == 0 {
        record.submit(0)
    } else {
        record.discard(0)
    }
    0
}
