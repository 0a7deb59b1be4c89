//! Receiver side of the tunnels: removes IPIP, IP6IP6, 4in6 and GUE headers on a backend, since
//! many hosts lack tunnel devices. The inner packet goes to the host's stack.
//!
//! GUE is understood in variant 1 (the inner packet follows the UDP header) and in variant 0 with
//! an empty optional part (four octets between them), as Linux' own `fou`/`gue` sends it.

use crate::maps::{DECAP_SETTINGS, SCRATCH};
use crate::packet::{Frame, ether};
use crate::stats;
use crate::verdict::{Stage, Verdict, end};
use crate::xdp::parse::{self, Packet, fragment};
use crate::xdp::rewrite::ethertype;
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::bpf_xdp_adjust_head;
use proxy_common::addr::Addr;
use proxy_common::maps::DecapSettings;
use proxy_common::reason::Reason;
use proxy_common::service::protocol;

/// Removes a packet's tunnel header and gives the XDP action.
#[inline(always)]
pub fn run(ctx: *mut xdp_md) -> u32 {
    let (Ok(verdict) | Err(verdict)) = stages(Frame::new(ctx));
    stats::count(verdict);
    verdict.action
}

#[inline(always)]
fn stages(frame: Frame) -> Stage<Verdict> {
    let Some(settings) = DECAP_SETTINGS.get(0) else {
        return end(Reason::DropInternal);
    };
    let Some(work) = SCRATCH.get_ptr_mut(0) else {
        return end(Reason::DropInternal);
    };
    // SAFETY: the element belongs to this CPU, and no other reference to it is held.
    let packet = unsafe { &mut (*work).packet };
    parse::packet(frame, packet)?;
    let surplus = tunnel(frame, settings, packet)?;
    if !is_accepted(settings, &packet.key.src) {
        return end(Reason::DropDecapNotAllowed);
    }
    let inner_at = packet.l4 as usize + surplus;
    let Some(first) = frame.read::<u8>(inner_at) else {
        return end(Reason::DropDecapBadInner);
    };
    let v6 = match first >> 4 {
        4 if packet.key.protocol != protocol::IPV6 => 0,
        6 if packet.key.protocol != protocol::IPIP => 1,
        _ => return end(Reason::DropDecapBadInner),
    };
    remove(frame, inner_at, v6)?;
    Ok(Verdict::of(Reason::DecapPassed))
}

/// Octets of tunnel header between the outer IP header and the inner packet. Ends packets that
/// are no tunnel's.
#[inline(always)]
fn tunnel(frame: Frame, settings: &DecapSettings, packet: &Packet) -> Stage<usize> {
    let next = packet.key.protocol;
    let gue = next == protocol::UDP
        && packet.fragment != fragment::LATER
        && packet.key.dst_port_be == settings.gue_port.to_be();
    if next != protocol::IPIP && next != protocol::IPV6 && !gue {
        return end(Reason::PassNotService);
    }
    if packet.fragment != fragment::NONE {
        return end(Reason::DropDecapFragment);
    }
    if !gue {
        return Ok(0);
    }
    let Some(first) = frame.read::<[u8; 2]>(packet.l4 as usize + 8) else {
        return end(Reason::DropDecapBadInner);
    };
    match first {
        // Variant 0, no control message, no optional fields, payload IPv4 or IPv6.
        [0, protocol::IPIP | protocol::IPV6] => Ok(12),
        _ => Ok(8),
    }
}

#[inline(always)]
fn is_accepted(settings: &DecapSettings, from: &Addr) -> bool {
    if settings.sources == 0 {
        return true;
    }
    let [a, b] = from.words();
    for (index, source) in settings.source.iter().enumerate() {
        if index >= usize::from(settings.sources) {
            break;
        }
        let ([x, y], [m, n]) = (source.addr.words(), source.mask.words());
        if a & m == x && b & n == y {
            return true;
        }
    }
    false
}

/// Removes everything between the MAC addresses and the inner packet.
#[inline(always)]
fn remove(frame: Frame, inner_at: usize, v6: u8) -> Stage<()> {
    let Some(macs) = frame.read::<[u16; 6]>(0) else {
        return end(Reason::DropInternal);
    };
    let surplus = inner_at as i32 - ether::LEN as i32;
    // SAFETY: the context is valid.
    if unsafe { bpf_xdp_adjust_head(frame.ctx(), surplus) } != 0 {
        return end(Reason::DropDecapBadInner);
    }
    match frame
        .write(0, macs)
        .and_then(|()| frame.write(12, ethertype(v6)))
    {
        Some(()) => Ok(()),
        None => end(Reason::DropInternal),
    }
}
