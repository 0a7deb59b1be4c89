//! ICMP: echo to VIPs, errors about balanced flows, and the "too big" that we send ourselves.

use crate::maps::{CPU_STATE, Scratch, Work};
use crate::packet::{Frame, put};
use crate::stats;
use crate::verdict::{Stage, Verdict};
use crate::xdp::parse::{Packet, fragment};
use crate::xdp::rewrite::nat::{change_addr, change32, finish, low};
use crate::xdp::service;
use aya_ebpf::bindings::xdp_action::XDP_TX;
use aya_ebpf::helpers::{
    bpf_csum_diff, bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len,
};
use proxy_common::addr::Addr;
use proxy_common::checksum::update;
use proxy_common::flow::FlowKey;
use proxy_common::reason::Reason;
use proxy_common::service::protocol;
use proxy_common::settings::Settings;

/// Hop limit of packets that we make.
const HOP_LIMIT: u8 = 64;

/// True for ICMP and ICMPv6 in their own IP version.
#[inline(always)]
pub fn is_icmp(packet: &Packet) -> bool {
    if packet.v6 == 0 {
        packet.key.protocol == protocol::ICMP
    } else {
        packet.key.protocol == protocol::ICMPV6
    }
}

/// True for an echo request.
#[inline(always)]
pub fn is_echo_request(packet: &Packet) -> bool {
    packet.icmp_type == if packet.v6 == 0 { 8 } else { 128 }
}

/// True for messages that quote the packet they are about (RFC 792, RFC 4443 §2.1).
#[inline(always)]
pub fn is_error(packet: &Packet) -> bool {
    if packet.v6 == 0 {
        matches!(packet.icmp_type, 3 | 4 | 5 | 11 | 12)
    } else {
        packet.icmp_type < 128
    }
}

/// Answers an echo request to an address of ours.
#[inline(never)]
pub fn echo(frame: Frame, packet: &Packet, settings: &Settings) -> u64 {
    let verdict =
        if packet.fragment == fragment::NONE && service::answers_echo(settings, &packet.key.dst) {
            match reply(frame, packet) {
                Some(()) => Verdict::send(Reason::EchoReply, XDP_TX),
                None => Verdict::of(Reason::DropInternal),
            }
        } else {
            Verdict::of(Reason::PassNotService)
        };
    verdict.pack()
}

/// Turns an echo request into its reply: addresses swapped, type changed, checksum updated.
#[inline(always)]
fn reply(frame: Frame, packet: &Packet) -> Option<()> {
    let (l3, l4) = (packet.l3 as usize, packet.l4 as usize);
    swap_macs(frame)?;
    if packet.v6 == 0 {
        let header = frame.at::<[u8; 20]>(l3)?;
        // SAFETY: `at` has checked the bounds, and no other reference to the frame is held.
        let header = unsafe { &mut *header };
        let old = u64::from(!u16::from_ne_bytes([header[8], 0]));
        header[8] = HOP_LIMIT;
        let change = old + u64::from(u16::from_ne_bytes([HOP_LIMIT, 0]));
        let checksum = update(u16::from_ne_bytes([header[10], header[11]]), change).to_ne_bytes();
        header[10] = checksum[0];
        header[11] = checksum[1];
        put(header, 12, low(&packet.key.dst));
        put(header, 16, low(&packet.key.src));
    } else {
        frame.write(l3 + 7, HOP_LIMIT)?;
        frame.write(l3 + 8, [packet.key.dst.words(), packet.key.src.words()])?;
    }
    let kind: u8 = if packet.v6 == 0 { 0 } else { 129 };
    let head = frame.at::<[u8; 4]>(l4)?;
    // SAFETY: as above.
    let head = unsafe { &mut *head };
    let change =
        u64::from(!u16::from_ne_bytes([head[0], 0])) + u64::from(u16::from_ne_bytes([kind, 0]));
    let checksum = match update(u16::from_ne_bytes([head[2], head[3]]), change) {
        // The update cannot tell the two zeros apart. Ones are right for either: a message of
        // nothing but zeros has them, and to any other they add nothing.
        0 => 0xffffu16,
        checksum => checksum,
    };
    let checksum = checksum.to_ne_bytes();
    *head = [kind, head[1], checksum[0], checksum[1]];
    Some(())
}

#[inline(always)]
fn swap_macs(frame: Frame) -> Option<()> {
    let macs = frame.at::<[u16; 6]>(0)?;
    // SAFETY: `at` has checked the bounds; Ethernet headers are aligned to two octets.
    let [a, b, c, d, e, f] = unsafe { macs.read_unaligned() };
    frame.write(0, [d, e, f, a, b, c])
}

/// The packet that an ICMP error quotes.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Quote {
    /// Its tuple.
    pub key: FlowKey,
    /// Offset of its IP header.
    pub l3: u64,
    /// Offset of its transport header.
    pub l4: u64,
}

/// Reads the quoted packet's tuple. Gives 0, or the code of the reason why it cannot.
#[inline(never)]
pub fn quote(frame: Frame, packet: &Packet, quote: &mut Quote) -> u64 {
    let l3 = packet.l4 as usize + 8;
    quote.l3 = l3 as u64;
    let truncated = Reason::DropTruncatedQuote as u64;
    if packet.v6 == 0 {
        let Some(header) = frame.load::<[u8; 20]>(l3) else {
            return truncated;
        };
        let length = usize::from(header[0] & 0xf) * 4;
        if header[0] >> 4 != 4 || length < 20 {
            return truncated;
        }
        quote.key.src = Addr::v4([header[12], header[13], header[14], header[15]]);
        quote.key.dst = Addr::v4([header[16], header[17], header[18], header[19]]);
        quote.key.protocol = header[9];
        quote.l4 = (l3 + length) as u64;
        if u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0 {
            return Reason::PassProtocol as u64;
        }
    } else {
        let Some(next) = frame.load::<[u8; 8]>(l3) else {
            return truncated;
        };
        if next[0] >> 4 != 6 {
            return truncated;
        }
        let (Some(src), Some(dst)) = (
            frame.load::<[u8; 16]>(l3 + 8),
            frame.load::<[u8; 16]>(l3 + 24),
        ) else {
            return truncated;
        };
        quote.key.src = Addr::v6(src);
        quote.key.dst = Addr::v6(dst);
        quote.key.protocol = next[6];
        quote.l4 = (l3 + 40) as u64;
    }
    quote.key._pad = 0;
    quote.key._pad2 = 0;
    if quote.key.protocol != protocol::TCP && quote.key.protocol != protocol::UDP {
        return Reason::PassProtocol as u64;
    }
    let Some([src, dst, ..]) = frame.load::<[u16; 4]>(quote.l4 as usize) else {
        return truncated;
    };
    quote.key.src_port_be = src;
    quote.key.dst_port_be = dst;
    0
}

/// Rewrites an ICMP error for the other side of NAT: its own addresses and the quoted tuple
/// (RFC 5508 §4.2). The checksums of the quoted headers are kept valid, too.
#[inline(never)]
pub fn translate_error(frame: Frame, packet: &Packet, scratch: &Scratch) -> u64 {
    rewrite(frame, packet, scratch)
}

#[inline(always)]
fn rewrite(frame: Frame, packet: &Packet, scratch: &Scratch) -> u64 {
    let (quote, inner) = (&scratch.quote, &scratch.inner);
    let (outer_src, outer_dst) = (&scratch.outer_src, &scratch.outer_dst);
    let quoted = change_addr(&quote.key.src, &inner.src) + change_addr(&quote.key.dst, &inner.dst);
    let outer = change_addr(&packet.key.src, outer_src) + change_addr(&packet.key.dst, outer_dst);
    let (quoted_at, at) = (quote.l3 as usize, packet.l3 as usize);
    let mut message = rewrite_transport(frame, scratch, quoted);
    let failure = if packet.v6 == 0 {
        // A header whose own checksum is updated adds nothing to the message's sum.
        match write_v4(frame, quoted_at, &inner.src, &inner.dst, quoted) {
            0 => write_v4(frame, at, outer_src, outer_dst, outer | FORWARDED),
            failure => failure,
        }
    } else {
        message += quoted + outer;
        match write_v6(frame, quoted_at, &inner.src, &inner.dst, 0) {
            0 => write_v6(frame, at, outer_src, outer_dst, FORWARDED),
            failure => failure,
        }
    };
    if failure != 0 {
        return failure;
    }
    let at = packet.l4 as usize + 2;
    let written = frame
        .read::<u16>(at)
        .and_then(|old| frame.write(at, update(old, message)));
    if written.is_some() {
        0
    } else {
        Verdict::of(Reason::DropInternal).pack()
    }
}

/// Replaces the quoted ports, and the checksum as far as it is quoted. Gives the change of these
/// words.
#[inline(never)]
fn rewrite_transport(frame: Frame, scratch: &Scratch, addresses: u64) -> u64 {
    let (old, new) = (&scratch.quote.key, &scratch.inner);
    let l4 = scratch.quote.l4 as usize;
    let ports = u64::from(!old.src_port_be)
        + u64::from(new.src_port_be)
        + u64::from(!old.dst_port_be)
        + u64::from(new.dst_port_be);
    let is_tcp = old.protocol == protocol::TCP;
    let mut change = ports;
    let checksum_at = l4 + if is_tcp { 16 } else { 6 };
    if let Some(checksum) = frame.read::<u16>(checksum_at)
        && (is_tcp || checksum != 0)
    {
        let updated = update(checksum, addresses + ports);
        let _ = frame.write(checksum_at, updated);
        change += u64::from(!checksum) + u64::from(updated);
    }
    let _ = frame.write(l4, [new.src_port_be, new.dst_port_be]);
    change
}

/// Set in the change of a header that is forwarded: its hop limit is decremented. A header that is
/// only quoted keeps it.
const FORWARDED: u64 = 1 << 63;

/// Replaces an IPv4 header's addresses; `change` is theirs. Gives 0 or a packed verdict.
#[inline(never)]
fn write_v4(frame: Frame, l3: usize, src: &Addr, dst: &Addr, change: u64) -> u64 {
    let Some(header) = frame.at::<[u8; 20]>(l3) else {
        return Verdict::of(Reason::DropInternal).pack();
    };
    // SAFETY: `at` has checked the bounds, and no other reference to the frame is held.
    let header = unsafe { &mut *header };
    let mut sum = change & !FORWARDED;
    if change & FORWARDED != 0 {
        let ttl = header[8];
        if ttl <= 1 {
            return Verdict::of(Reason::DropTtlExpired).pack();
        }
        header[8] = ttl - 1;
        sum += u64::from(!u16::from_ne_bytes([ttl, 0]));
        sum += u64::from(u16::from_ne_bytes([ttl - 1, 0]));
    }
    let checksum = update(u16::from_ne_bytes([header[10], header[11]]), sum);
    put(header, 10, checksum);
    put(header, 12, low(src));
    put(header, 16, low(dst));
    0
}

/// As [`write_v4`]; of `change` only [`FORWARDED`] matters.
#[inline(never)]
fn write_v6(frame: Frame, l3: usize, src: &Addr, dst: &Addr, change: u64) -> u64 {
    let Some(header) = frame.at::<[u8; 40]>(l3) else {
        return Verdict::of(Reason::DropInternal).pack();
    };
    // SAFETY: as above.
    let header = unsafe { &mut *header };
    if change & FORWARDED != 0 {
        if header[7] <= 1 {
            return Verdict::of(Reason::DropTtlExpired).pack();
        }
        header[7] -= 1;
    }
    put(header, 8, src.words());
    put(header, 24, dst.words());
    0
}

/// Octets of the offending packet that a "too big" message quotes. RFC 1812 §4.3.2.3 and
/// RFC 4443 §2.4 want as much as fits 576 and 1280 octets; the checksum helper takes 512 at once.
const QUOTED: usize = 504;

/// Tells the sender of a packet that is too long for the way to its destination which length fits
/// (RFC 1191, RFC 8201). The answer comes from the address that the packet was sent to.
#[inline(always)]
pub fn too_big(frame: Frame, settings: &Settings, work: &mut Work) -> Stage<Verdict> {
    let packet = &work.packet;
    if let Some(stats) = stats::service(work.chosen.service) {
        stats.dropped += 1;
    }
    let verdict = if packet.fragment == fragment::LATER || !may_send(settings, work.now_ns) {
        Verdict::of(Reason::DropTooBig)
    } else {
        match report(frame, packet, work.mtu) {
            Some(()) => Verdict::send(Reason::TooBigReply, XDP_TX),
            None => Verdict::of(Reason::DropTooBig),
        }
    };
    Ok(verdict.with(work.chosen.service, work.chosen.backend))
}

/// Keeps ICMP errors below the configured rate per CPU.
#[inline(always)]
fn may_send(settings: &Settings, now_ns: u64) -> bool {
    let Some(state) = CPU_STATE.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: the element belongs to this CPU.
    let state = unsafe { &mut *state };
    // 2^30 ns stand for the second.
    let second = (now_ns >> 30) as u32;
    if state.icmp_second != second {
        state.icmp_second = second;
        state.icmp_sent = 0;
    }
    if state.icmp_sent >= settings.icmp_per_second {
        return false;
    }
    state.icmp_sent += 1;
    true
}

#[inline(always)]
fn report(frame: Frame, packet: &Packet, mtu: u32) -> Option<()> {
    let v6 = packet.v6 != 0;
    let l2 = packet.l3 as usize;
    let grow = if v6 { 48 } else { 28 };
    let link = frame.read::<[u64; 2]>(0)?;
    let tail = frame.read::<[u8; 6]>(16)?;
    // SAFETY: the context is valid.
    let total = unsafe { bpf_xdp_get_buff_len(frame.ctx()) } as usize;
    let surplus = total as i32 - (l2 + QUOTED) as i32;
    if surplus < 0 {
        return None;
    }
    // SAFETY: the context is valid.
    if unsafe { bpf_xdp_adjust_tail(frame.ctx(), -surplus) } != 0 {
        return None;
    }
    // SAFETY: the context is valid.
    if unsafe { bpf_xdp_adjust_head(frame.ctx(), -grow) } != 0 {
        return None;
    }
    frame.write(0, link)?;
    frame.write(16, tail)?;
    swap_macs(frame)?;
    if v6 {
        report_v6(frame, packet, l2, mtu)
    } else {
        report_v4(frame, packet, l2, mtu)
    }
}

/// Sum over the ICMP message, whose checksum field is zero.
#[inline(always)]
fn message_sum<const LEN: usize>(frame: Frame, at: usize) -> Option<u64> {
    let message = frame.at::<[u8; LEN]>(at)?;
    // SAFETY: `at` has checked the bounds.
    let sum = unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, message.cast(), LEN as u32, 0) };
    Some(sum as u64 & 0xffff_ffff)
}

#[inline(always)]
fn report_v4(frame: Frame, packet: &Packet, l2: usize, mtu: u32) -> Option<()> {
    let icmp = l2 + 20;
    frame.write(icmp, [3u8, 4, 0, 0])?;
    frame.write(icmp + 4, mtu.to_be())?;
    let sum = message_sum::<{ QUOTED + 8 }>(frame, icmp)?;
    frame.write(icmp + 2, finish(sum))?;
    let total = ((20 + 8 + QUOTED) as u16).to_be_bytes();
    let mut header = [0u8; 20];
    header[0] = 0x45;
    header[2] = total[0];
    header[3] = total[1];
    header[8] = HOP_LIMIT;
    header[9] = protocol::ICMP;
    put(&mut header, 12, low(&packet.key.dst));
    put(&mut header, 16, low(&packet.key.src));
    let sum = u64::from(u16::from_ne_bytes([0x45, 0]))
        + u64::from(u16::from_ne_bytes(total))
        + u64::from(u16::from_ne_bytes([HOP_LIMIT, protocol::ICMP]))
        + u64::from(low(&packet.key.dst))
        + u64::from(low(&packet.key.src));
    let checksum = finish(sum).to_ne_bytes();
    header[10] = checksum[0];
    header[11] = checksum[1];
    frame.write(l2, header)
}

#[inline(always)]
fn report_v6(frame: Frame, packet: &Packet, l2: usize, mtu: u32) -> Option<()> {
    let icmp = l2 + 40;
    frame.write(icmp, [2u8, 0, 0, 0])?;
    frame.write(icmp + 4, mtu.to_be())?;
    let length = (8 + QUOTED) as u16;
    // The pseudo-header (RFC 8200 §8.1): the change from nothing to the addresses.
    let sum = message_sum::<{ QUOTED + 8 }>(frame, icmp)?
        + change_addr(&Addr::UNSPECIFIED, &packet.key.dst)
        + change_addr(&Addr::UNSPECIFIED, &packet.key.src)
        + change32(0, u32::from(length).to_be())
        + change32(0, u32::from(protocol::ICMPV6).to_be());
    frame.write(icmp + 2, finish(sum))?;
    frame.write(l2, (6u32 << 28).to_be())?;
    frame.write(l2 + 4, length.to_be())?;
    frame.write(l2 + 6, [protocol::ICMPV6, HOP_LIMIT])?;
    frame.write(l2 + 8, [packet.key.dst.words(), packet.key.src.words()])
}
