//! The short way: a whole, untagged packet without IP options, of an established flow whose next hop
//! is known.
//!
//! That is nearly every packet of a balancer under load. All offsets are constants here, nothing
//! is written down for later stages, and each check that fails gives the untouched packet to the
//! next program, which can do everything. So nothing is decided here that is not decided there.
//!
//! Packets that cannot concern a service leave here, too.

use crate::packet::{Frame, ether};
use crate::stats;
use crate::verdict::Verdict;
use crate::xdp::parse::{Packet, fragment};
use crate::xdp::rewrite::{encap, leave, nat};
use crate::xdp::{Now, filter, flow, forward, pair, select};
use proxy_common::addr::Addr;
use proxy_common::backend::Backend;
use proxy_common::flow::{FlowEntry, FlowKey, Phase, flow_flags};
use proxy_common::reason::Reason;
use proxy_common::service::{Mode, protocol};
use proxy_common::settings::{CachedRoute, Settings, settings_flags};
use proxy_common::tcp;

/// Flags of a TCP segment that may change its flow's phase.
const PHASE_FLAGS: u8 = tcp::flag::SYN | tcp::flag::FIN | tcp::flag::RST;

/// Deals with a plain packet and gives the XDP action; `None` leaves the packet as it was.
#[inline(always)]
pub fn action(frame: Frame, settings: &Settings) -> Option<u32> {
    if settings.flags & settings_flags::CAPTURE != 0 || settings.sample_every != 0 {
        return None;
    }
    match frame.read::<u16>(12)? {
        ether::IPV4 => balance(frame, settings, &ipv4(frame)?),
        ether::IPV6 => balance(frame, settings, &ipv6(frame)?),
        _ => None,
    }
}

/// Octets of an IPv4 header without options and a TCP header, which a UDP packet fills as well.
const V4: usize = 20 + 20;
/// The same for IPv6.
const V6: usize = 40 + 20;

#[inline(always)]
fn ipv4(frame: Frame) -> Option<Packet> {
    let header = frame.at::<[u8; V4]>(ether::LEN)?;
    // SAFETY: `at` has checked the bounds; the offsets are constants below `V4`.
    let (start, total, fragments, next, src, dst, ports) = unsafe {
        let at = header.cast::<u8>();
        (
            at.cast::<u16>().read(),
            at.add(2).cast::<u16>().read_unaligned(),
            at.add(6).cast::<u16>().read_unaligned(),
            at.add(9).read(),
            quad(at.add(12)),
            quad(at.add(16)),
            quad(at.add(20)),
        )
    };
    let [version, tos] = start.to_ne_bytes();
    let fragments = u16::from_be(fragments);
    if version != 0x45 || fragments & 0x3fff != 0 {
        return None;
    }
    let length = usize::from(u16::from_be(total));
    let flags = transport(frame, next, header.cast(), 20, length)?;
    let mut key = FlowKey::new(Addr::v4(src), Addr::v4(dst), 0, 0, next);
    key.set_ports(ports);
    Some(packet(
        key,
        20,
        length as u32,
        tos,
        0,
        (fragments >> 14 & 1) as u8,
        flags,
    ))
}

#[inline(always)]
fn ipv6(frame: Frame) -> Option<Packet> {
    let header = frame.at::<[u8; V6]>(ether::LEN)?;
    // SAFETY: `at` has checked the bounds; the offsets are constants below `V6`.
    let (start, payload, next, src, dst, ports) = unsafe {
        let at = header.cast::<u8>();
        (
            at.cast::<u16>().read_unaligned(),
            at.add(4).cast::<u16>().read_unaligned(),
            at.add(6).read(),
            sixteen(at.add(8)),
            sixteen(at.add(24)),
            quad(at.add(40)),
        )
    };
    let start = u16::from_be(start);
    if start >> 12 != 6 {
        return None;
    }
    let length = usize::from(u16::from_be(payload)) + 40;
    let flags = transport(frame, next, header.cast(), 40, length)?;
    let mut key = FlowKey::new(Addr::from_words(src), Addr::from_words(dst), 0, 0, next);
    key.set_ports(ports);
    Some(packet(
        key,
        40,
        length as u32,
        (start >> 4) as u8,
        1,
        1,
        flags,
    ))
}

/// Four octets at an even offset, read in halves.
///
/// A CPU cannot forward two recent stores to one load: whoever wrote the frame in words of eight
/// octets just now would have such a load wait until all stores have left the store buffer, and
/// all that follows with it. Loads at multiples of their size never span two such words.
///
/// # Safety
///
/// The octets are inside the frame.
#[inline(always)]
unsafe fn quad(at: *const u8) -> [u8; 4] {
    // SAFETY: the caller's promise.
    let (low, high) = unsafe {
        (
            at.cast::<u16>().read_volatile(),
            at.add(2).cast::<u16>().read_volatile(),
        )
    };
    (u32::from(low) | u32::from(high) << 16).to_ne_bytes()
}

/// Sixteen octets that start two octets before a multiple of eight, read as [`quad`] does.
///
/// # Safety
///
/// The octets are inside the frame.
#[inline(always)]
unsafe fn sixteen(at: *const u8) -> [u64; 2] {
    // SAFETY: the caller's promise.
    let (a, b, c, d) = unsafe {
        (
            at.cast::<u16>().read_volatile(),
            at.add(2).cast::<u64>().read_volatile(),
            at.add(10).cast::<u32>().read_volatile(),
            at.add(14).cast::<u16>().read_volatile(),
        )
    };
    [
        u64::from(a) | b << 16,
        b >> 48 | u64::from(c) << 16 | u64::from(d) << 48,
    ]
}

/// Checks the lengths and the transport header; gives the TCP flags, 0 for UDP.
#[inline(always)]
fn transport(frame: Frame, next: u8, ip: *const u8, at: usize, length: usize) -> Option<u8> {
    if length + ether::LEN > frame.len() {
        return None;
    }
    match next {
        protocol::TCP if length >= at + 20 => {
            // SAFETY: the caller has checked the bounds of the IP header and 20 octets more.
            let (offset, flags) = unsafe { (ip.add(at + 12).read(), ip.add(at + 13).read()) };
            (offset >= 0x50 && flags & PHASE_FLAGS == 0).then_some(flags)
        }
        protocol::UDP if length >= at + 8 => Some(0),
        _ => None,
    }
}

#[inline(always)]
fn packet(
    key: FlowKey,
    header: u64,
    length: u32,
    tos: u8,
    v6: u8,
    dont_fragment: u8,
    tcp_flags: u8,
) -> Packet {
    let l3 = ether::LEN as u64;
    Packet {
        key,
        l3,
        l4: l3 + header,
        length,
        fragment_id: 0,
        fragment: fragment::NONE,
        v6,
        tos,
        tcp_flags,
        dont_fragment,
        icmp_type: 0,
        icmp_code: 0,
        _pad: 0,
    }
}

#[inline(always)]
fn balance(frame: Frame, settings: &Settings, packet: &Packet) -> Option<u32> {
    if let Err(verdict) = filter(settings, packet) {
        return Some(done(verdict));
    }
    let mut place = flow::place(settings, &packet.key)?;
    // A copy: the packet would else have to stand in memory as a whole.
    let key = packet.key;
    let entry = flow::find(&mut place, &key)?;
    // SAFETY: the entry is inside a map's value; only this CPU writes it.
    let (entry, flow) = unsafe { (entry, &*entry) };
    let steady = flow.phase == Phase::Established.code() || flow.phase == Phase::Udp.code();
    if !steady
        || flow.flags != flow_flags::CONFIRMED
        || flow.guard_generation != settings.guard_generation
    {
        return None;
    }
    let (id, service) = (flow.backend, flow.service);
    let backend = select::keeps_flows(id, service)?;
    let now = Now::read();
    let route = forward::cached(frame, settings, &backend.addr, now.ns)?;
    let is_nat = backend.mode == Mode::Nat.code();
    if backend.mode == Mode::FullNat.code()
        || (is_nat && pair::is_due(backend, packet, flow.last_seen, now.tick))
    {
        return None;
    }
    let verdict = send(frame, packet, backend, route, place.hash)?;
    seen(entry, now.tick);
    if let Some(stats) = stats::backend(id) {
        stats.packets += 1;
        stats.bytes += u64::from(packet.length);
    }
    Some(done(verdict.with(service, id)))
}

#[inline(always)]
fn seen(entry: *mut FlowEntry, tick: u32) {
    // SAFETY: the entry is inside this CPU's part.
    unsafe { (*entry).last_seen = tick };
}

/// Rewrites and sends; `None` before anything is changed.
#[inline(always)]
fn send(
    frame: Frame,
    packet: &Packet,
    backend: &Backend,
    route: &CachedRoute,
    hash: u64,
) -> Option<Verdict> {
    let gue = backend.mode == Mode::DsrGue.code();
    let tunnel = gue || backend.mode == Mode::DsrIpip.code();
    let overhead = if tunnel {
        encap::overhead(backend, gue) as u32
    } else {
        0
    };
    if packet.length + overhead > route.mtu {
        return None;
    }
    let (reason, sent) = if tunnel {
        let sent = encap::encapsulate(frame, packet, backend, Some(route), hash, gue);
        (Reason::Encapsulated, sent)
    } else if backend.mode == Mode::DsrL2.code() {
        (Reason::Direct, leave(frame, packet, route))
    } else {
        let mut new = packet.key;
        new.dst = backend.addr;
        if backend.port_be != 0 {
            new.dst_port_be = backend.port_be;
        }
        let sent = nat::rewrite::<false, true>(frame, packet, &new);
        (
            Reason::Translated,
            sent.and_then(|()| leave(frame, packet, route)),
        )
    };
    match sent {
        Ok(action) => Some(Verdict::send(reason, action)),
        Err(verdict) => Some(verdict),
    }
}

#[inline(always)]
fn done(verdict: Verdict) -> u32 {
    stats::count(verdict);
    verdict.action
}
