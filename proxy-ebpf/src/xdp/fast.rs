//! The short way: a whole, untagged packet without IP options, of an established flow or opening a
//! plain one, to a backend to which others went just before.
//!
//! That is nearly every packet of a balancer under load. All offsets are constants here, nothing
//! is written down for later stages, and each check that fails gives the untouched packet to the
//! next program, which can do everything. So nothing is decided here that is not decided there. Only
//! what `nat` notes of answers is left to functions that the slower programs call as well.
//!
//! Packets that cannot concern a service leave here, too.

use crate::event;
use crate::maps::{SCRATCH, SERVICE_TABLE};
use crate::packet::{Frame, ether};
use crate::stats;
use crate::verdict::Verdict;
use crate::xdp::flow::{self, Place};
use crate::xdp::rewrite::plain;
use crate::xdp::{Now, adjacency, exceptions, guard, pair, select, service};
use aya_ebpf::bindings::xdp_action::XDP_TX;
use aya_ebpf::helpers::bpf_redirect;
use proxy_common::addr::Addr;
use proxy_common::flow::{FlowKey, Phase, slot};
use proxy_common::reason::Reason;
use proxy_common::service::{Mode, protocol, service_flags};
use proxy_common::settings::{Adjacency, Settings, settings_flags};
use proxy_common::tcp;

/// Flags of a TCP segment that may change its flow's phase.
const PHASE_FLAGS: u8 = tcp::flag::SYN | tcp::flag::FIN | tcp::flag::RST;

/// What is known of a plain packet.
pub struct Plain {
    /// The tuple.
    pub key: FlowKey,
    /// Octets of IP packet.
    pub length: u32,
    /// Type of service or traffic class.
    pub tos: u8,
    /// 1 where "don't fragment" is set, or for IPv6.
    pub dont_fragment: u8,
    /// 1 for a SYN.
    opens: u8,
}

/// What becomes of a packet here.
enum Look {
    /// It may concern a service.
    Plain(Plain),
    /// It concerns none.
    Other,
}

/// Deals with a plain packet and gives the XDP action; `None` leaves the packet as it was.
#[inline(always)]
pub fn action(frame: Frame, settings: &Settings) -> Option<u32> {
    if settings.flags & settings_flags::CAPTURE != 0 {
        return None;
    }
    let head = frame.head::<[u8; V4]>()?.cast::<u8>();
    // SAFETY: `head` has checked the bounds.
    match unsafe { head.add(12).cast::<u16>().read() } {
        ether::IPV4 => match ipv4(frame, settings, head)? {
            Look::Plain(packet) => balance::<false>(frame, settings, head, &packet),
            Look::Other => other(settings),
        },
        ether::IPV6 => {
            let head = frame.head::<[u8; V6]>()?.cast::<u8>();
            match ipv6(frame, settings, head)? {
                Look::Plain(packet) => balance::<true>(frame, settings, head, &packet),
                Look::Other => other(settings),
            }
        }
        _ => None,
    }
}

/// Passes a packet that concerns no service. While flows are traced the next program does so, for it
/// may be one of theirs: this host's proxies have flows that are no service's.
#[inline(always)]
fn other(settings: &Settings) -> Option<u32> {
    (settings.trace_below == 0).then(|| done(Verdict::of(Reason::PassNotService)))
}

/// Octets of an untagged link header, an IPv4 header without options and a TCP header, which a UDP
/// packet fills as well.
pub const V4: usize = ether::LEN + 20 + 20;
/// The same for IPv6.
pub const V6: usize = ether::LEN + 40 + 20;

#[inline(always)]
fn ipv4(frame: Frame, settings: &Settings, head: *const u8) -> Option<Look> {
    // SAFETY: the caller has checked `V4` octets; the offsets are constants below that.
    let (start, total, fragments, next) = unsafe {
        let at = head.add(ether::LEN);
        (
            at.cast::<u16>().read(),
            at.add(2).cast::<u16>().read(),
            at.add(6).cast::<u16>().read(),
            at.add(9).read(),
        )
    };
    let [version, tos] = start.to_ne_bytes();
    let fragments = u16::from_be(fragments);
    if version != 0x45 || fragments & 0x3fff != 0 {
        return None;
    }
    let length = usize::from(u16::from_be(total));
    let opens = transport(frame, head, next, 20, length)?;
    // SAFETY: as above.
    let (src, dst) = unsafe { (quad(head.add(26)), quad(head.add(30))) };
    let (src, dst) = (Addr::v4(src), Addr::v4(dst));
    if !service::concerns(settings, &src, &dst) {
        return Some(Look::Other);
    }
    let mut key = FlowKey::new(src, dst, 0, 0, next);
    // SAFETY: as above.
    key.set_ports(unsafe { quad(head.add(34)) });
    Some(Look::Plain(Plain {
        key,
        length: length as u32,
        tos,
        dont_fragment: (fragments >> 14 & 1) as u8,
        opens,
    }))
}

#[inline(always)]
fn ipv6(frame: Frame, settings: &Settings, head: *const u8) -> Option<Look> {
    // SAFETY: the caller has checked `V6` octets; the offsets are constants below that.
    let (start, payload, next) = unsafe {
        let at = head.add(ether::LEN);
        (
            at.cast::<u16>().read(),
            at.add(4).cast::<u16>().read(),
            at.add(6).read(),
        )
    };
    let start = u16::from_be(start);
    if start >> 12 != 6 {
        return None;
    }
    let length = usize::from(u16::from_be(payload)) + 40;
    let opens = transport(frame, head, next, 40, length)?;
    // SAFETY: as above.
    let (src, dst) = unsafe { (sixteen(head.add(22)), sixteen(head.add(38))) };
    let (src, dst) = (Addr::from_words(src), Addr::from_words(dst));
    if !service::concerns(settings, &src, &dst) {
        return Some(Look::Other);
    }
    let mut key = FlowKey::new(src, dst, 0, 0, next);
    // SAFETY: as above.
    key.set_ports(unsafe { quad(head.add(54)) });
    Some(Look::Plain(Plain {
        key,
        length: length as u32,
        tos: (start >> 4) as u8,
        dont_fragment: 1,
        opens,
    }))
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

/// Checks the lengths and the transport header, `at` octets into the IP packet; gives 1 for a SYN.
#[inline(always)]
fn transport(frame: Frame, head: *const u8, next: u8, at: usize, length: usize) -> Option<u8> {
    if length + ether::LEN > frame.len() {
        return None;
    }
    match next {
        protocol::TCP if length >= at + 20 => {
            // SAFETY: the caller has checked the bounds of the IP header and 20 octets more.
            let (offset, flags) = unsafe {
                let tcp = head.add(ether::LEN + at);
                (tcp.add(12).read(), tcp.add(13).read())
            };
            let phase = flags & PHASE_FLAGS;
            let opens = phase == tcp::flag::SYN && flags & tcp::flag::ACK == 0;
            (offset >= 0x50 && (phase == 0 || opens)).then_some(u8::from(opens))
        }
        protocol::UDP if length >= at + 8 => Some(0),
        _ => None,
    }
}

#[inline(always)]
fn balance<const IPV6: bool>(
    frame: Frame,
    settings: &Settings,
    head: *mut u8,
    packet: &Plain,
) -> Option<u32> {
    let mut place = flow::place(settings, &packet.key)?;
    if event::is_traced(settings, place.hash) {
        return None;
    }
    // A copy: the packet would else have to stand in memory as a whole.
    let key = packet.key;
    let now = Now::read();
    let ifindex = frame.ifindex();
    let opened = u64::from(packet.opens);
    let (to, lead) = if packet.opens != 0 {
        open::<IPV6>(settings, head, ifindex, packet, &key, &mut place, now)?
    } else {
        known(settings, ifindex, packet, &key, &mut place, now)?
    };
    if lead != 0 {
        lead_back(settings, &key, to, lead)?;
    }
    let reason = rewrite::<IPV6>(frame, head, packet, to, place.hash)?;
    if let Some(stats) = stats::backend(to.backend) {
        stats.packets += 1;
        stats.bytes += u64::from(packet.length);
        stats.new_flows += opened;
    }
    stats::count_reason(reason);
    if to.ifindex == ifindex {
        return Some(XDP_TX);
    }
    // SAFETY: no pointers.
    Some(unsafe { bpf_redirect(to.ifindex, 0) } as u32)
}

/// Where a packet of an established flow goes, and how to lead its answers back if that is due. Its slot
/// says so, and nothing else is read of it, unless there is a guard.
#[inline(always)]
fn known(
    settings: &Settings,
    ifindex: u32,
    packet: &Plain,
    key: &FlowKey,
    place: &mut Place,
    now: Now,
) -> Option<(&'static Adjacency, u64)> {
    let slot = flow::find_steady(place)?;
    let to = adjacency::fresh(settings, ifindex, slot, now.ns)?;
    if packet.length > to.max_length {
        return None;
    }
    if to.guarded != 0 || settings.flags & settings_flags::GUARD_GLOBAL != 0 {
        let entry = flow::entry_of(place)?;
        // SAFETY: the entry is inside a map's value; only this CPU writes it.
        if unsafe { (*entry).guard_generation } != settings.guard_generation {
            return None;
        }
    }
    let mut lead = 0;
    let at = slot::at(now.tick);
    if (slot ^ at) & slot::PERIOD != 0 {
        if to.mode == Mode::Nat.code() {
            let phase = if key.protocol == protocol::UDP {
                Phase::Udp
            } else {
                Phase::Established
            };
            lead = pair::moment(now.tick, phase.code());
        }
        if to.long_lived != 0 {
            let entry = flow::entry_of(place)?;
            // SAFETY: as above. Nothing waits for this store.
            unsafe { (*entry).last_seen = now.tick };
        }
        flow::write_slot(place, slot & !slot::PERIOD | at);
    }
    Some((to, lead))
}

/// Where the first packet of a flow goes; `None` unless the service is open to all, its ring
/// decides, and the flow is surely new. Remembers the flow, unless the ring does. The number is as
/// [`known`] gives it.
#[inline(always)]
fn open<const IPV6: bool>(
    settings: &Settings,
    head: *const u8,
    ifindex: u32,
    packet: &Plain,
    key: &FlowKey,
    place: &mut Place,
    now: Now,
) -> Option<(&'static Adjacency, u64)> {
    let id = service::cached(settings, &key.dst, key.dst_port_be, key.protocol)?;
    let service = SERVICE_TABLE.get(u32::from(id))?;
    if service.flags & service_flags::BUDGET != 0 || !guard::is_open(settings, service) {
        return None;
    }
    let (backend, until) = select::by_ring(service, id, key, settings.selection_seed)?;
    let to = adjacency::fresh(settings, ifindex, slot::ids(backend, id), now.ns)?;
    // What may yet fail must do so before the flow is remembered.
    let is_direct = to.mode == Mode::DsrL2.code() || to.mode == Mode::DsrGue.code();
    let is_nat = to.mode == Mode::Nat.code();
    if !(is_direct || is_nat || to.mode == Mode::DsrIpip.code())
        || packet.length > to.max_length
        || plain::is_impossible::<IPV6>(to)
        || (is_nat && !plain::has_hops::<IPV6>(head))
    {
        return None;
    }
    // Else the second packet gets the same answer.
    if !exceptions::is_ruled(place.hash, until) {
        let ids = flow::pair_of(u32::from(to.backend), u32::from(to.service));
        // A copy: else it would have to stand in memory for all packets.
        let mut place = *place;
        if flow::insert_bare(&mut place, ids, u64::from(now.tick), slot::BARE) == 0 {
            return None;
        }
    }
    let lead = if is_nat {
        pair::moment(now.tick, Phase::Syn.code())
    } else {
        0
    };
    Some((to, lead))
}

/// Makes or renews the return path of a `nat` flow: after a SYN by a bare slot, where that is new and the
/// service tells the rest, else by an entry. The tuples are handed over in a map and not on the stack,
/// of which there is little.
#[inline(always)]
fn lead_back(settings: &Settings, key: &FlowKey, to: &Adjacency, moment: u64) -> Option<()> {
    let work = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: the element belongs to this CPU, and no other reference to it is held.
    let work = unsafe { &mut *work };
    work.packet.key = *key;
    let is_told = pair::note_answer(work, to);
    let ids = flow::pair_of(u32::from(to.backend), u32::from(to.service));
    if moment >> 32 != u64::from(Phase::Syn.code())
        || is_told == 0
        || pair::lead_back_bare(settings, &work.new, ids, moment) == 0
    {
        pair::lead_back(settings, &work.packet.key, &work.new, ids, moment);
    }
    Some(())
}

/// Rewrites the packet; `None` before anything is changed.
#[inline(always)]
fn rewrite<const IPV6: bool>(
    frame: Frame,
    head: *mut u8,
    packet: &Plain,
    to: &Adjacency,
    hash: u64,
) -> Option<Reason> {
    if to.mode == Mode::DsrIpip.code() || to.mode == Mode::DsrGue.code() {
        plain::encapsulate::<IPV6>(frame, packet, to, hash)?;
        return Some(Reason::Encapsulated);
    }
    if to.mode == Mode::DsrL2.code() {
        plain::link(head, to);
        return Some(Reason::Direct);
    }
    if to.mode != Mode::Nat.code() {
        return None;
    }
    plain::translate::<IPV6>(head, packet, to)?;
    Some(Reason::Translated)
}

#[inline(always)]
fn done(verdict: Verdict) -> u32 {
    stats::count(verdict);
    verdict.action
}
