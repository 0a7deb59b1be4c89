//! `full-nat`: the backend sees the balancer's address, so that it needs no route back.
//!
//! Each source port stands for one flow, in a table indexed by address, protocol and port: the
//! answer's destination is the index, and no search is needed on any CPU. The ports are divided
//! among the CPUs, so that no two of them allocate the same one.

use crate::maps::{BACKENDS, CPU_STATE, SERVICE_TABLE, SNAT_PORTS};
use crate::verdict::{Stage, end};
use crate::xdp::flow;
use crate::xdp::flow::NewFlow;
use crate::xdp::parse::Packet;
use crate::xdp::send::Chosen;
use aya_ebpf::helpers::bpf_get_smp_processor_id;
use proxy_common::backend::Backend;
use proxy_common::flow::{
    FlowKey, Phase, SNAT_FIRST_PORT, SnatPort, TICK_SHIFT, snat_index, ticks_since,
};
use proxy_common::reason::Reason;
use proxy_common::service::{Service, protocol};
use proxy_common::settings::Settings;
use proxy_common::tcp;

/// Ports that are tried for one flow.
const ATTEMPTS: u32 = 64;

/// Allocates a port. Gives index of the address (from bit 16) and port (network byte order) with
/// bit 32 set, or 0 if none is free.
#[inline(never)]
pub fn allocate(
    settings: &Settings,
    service: &Service,
    packet: &Packet,
    new: &NewFlow,
    backend: &Backend,
) -> u64 {
    let (first, count) = if backend.addr.is_v4() {
        (service.snat4_first, service.snat4_count)
    } else {
        (service.snat6_first, service.snat6_count)
    };
    if count == 0 || settings.cpus == 0 {
        return 0;
    }
    let Some(state) = CPU_STATE.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: no arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
    let per_cpu = (65_536 - u32::from(SNAT_FIRST_PORT)) / settings.cpus;
    if per_cpu == 0 {
        return 0;
    }
    let udp = packet.key.protocol == protocol::UDP;
    for _ in 0..ATTEMPTS {
        // SAFETY: the element belongs to this CPU.
        let turn = unsafe { (*state).next_port };
        // SAFETY: as above.
        unsafe { (*state).next_port = turn.wrapping_add(1) };
        let port = u32::from(SNAT_FIRST_PORT) + cpu * per_cpu + turn / u32::from(count) % per_cpu;
        let addr = u32::from(first) + turn % u32::from(count);
        let Some(record) = SNAT_PORTS.get_ptr_mut(snat_index(addr, udp, port as u16)) else {
            return 0;
        };
        if !is_free(record, new.now) {
            continue;
        }
        take(record, packet, new, backend);
        return 1 << 32 | u64::from(addr) << 16 | u64::from((port as u16).to_be());
    }
    0
}

/// True for a port that no flow uses.
#[inline(always)]
fn is_free(record: *const SnatPort, now: u32) -> bool {
    // SAFETY: the record is inside a map's value.
    let record = unsafe { &*record };
    if record.backend == 0 {
        return true;
    }
    let Some(backend) = BACKENDS.get(u32::from(record.backend)) else {
        return true;
    };
    let Some(service) = SERVICE_TABLE.get(u32::from(backend.service)) else {
        return true;
    };
    ticks_since(record.last_seen, now) > flow::idle_ticks(service, record.phase)
}

#[inline(always)]
fn take(record: *mut SnatPort, packet: &Packet, new: &NewFlow, backend: &Backend) {
    let port = if backend.port_be != 0 {
        backend.port_be
    } else {
        packet.key.dst_port_be
    };
    // SAFETY: the record is inside a map's value, and this CPU allocates its ports alone.
    unsafe {
        (*record).client = packet.key.src;
        (*record).vip = packet.key.dst;
        (*record).backend_addr = backend.addr;
        (*record).client_port_be = packet.key.src_port_be;
        (*record).vip_port_be = packet.key.dst_port_be;
        (*record).backend_port_be = port;
        (*record).last_seen = new.now;
        (*record).phase = new.phase;
        (*record).backend = new.backend;
    }
}

/// Renews the record of a flow whose client has sent a packet.
#[inline(always)]
pub fn renew(key: &FlowKey, chosen: &Chosen, tick: u32, phase: u8) {
    let udp = key.protocol == protocol::UDP;
    let port = u16::from_be(chosen.nat_port_be);
    if let Some(record) = SNAT_PORTS.get_ptr_mut(snat_index(chosen.nat_word & 7, udp, port)) {
        // SAFETY: the record is inside a map's value; both fields are written whole.
        unsafe {
            (*record).last_seen = tick;
            (*record).phase = phase;
        }
    }
}

/// The record of an answer, if it comes from where the flow was sent.
#[inline(always)]
pub fn record_of(addr: u32, key: &FlowKey) -> Option<&'static mut SnatPort> {
    let udp = key.protocol == protocol::UDP;
    let port = u16::from_be(key.dst_port_be);
    let record = SNAT_PORTS.get_ptr_mut(snat_index(addr & 7, udp, port))?;
    // SAFETY: the record is inside a map's value.
    let record = unsafe { &mut *record };
    let matches = record.backend != 0
        && record.backend_addr == key.src
        && record.backend_port_be == key.src_port_be;
    if matches { Some(record) } else { None }
}

/// What becomes of a backend's answer: puts the client and the VIP into `new`.
#[inline(always)]
pub fn answer(
    addr: u32,
    packet: &Packet,
    new: &mut FlowKey,
    chosen: &mut Chosen,
    now_ns: u64,
) -> Stage<()> {
    let Some(record) = record_of(addr, &packet.key) else {
        *chosen = Chosen::NONE;
        return end(Reason::PassNoFlow);
    };
    record.last_seen = (now_ns >> TICK_SHIFT) as u32;
    if tcp::flag::RST & packet.tcp_flags != 0 && packet.key.protocol == protocol::TCP {
        record.phase = Phase::Closing.code();
    }
    *new = FlowKey::new(
        record.vip,
        record.client,
        record.vip_port_be,
        record.client_port_be,
        packet.key.protocol,
    );
    chosen.backend = record.backend;
    chosen.service = BACKENDS
        .get(u32::from(record.backend))
        .map_or(0, |backend| backend.service);
    Ok(())
}
