//! Translation of addresses and ports in place, with incremental checksums (RFC 1624).

use crate::packet::{Frame, put};
use crate::verdict::{Stage, end};
use crate::xdp::parse::{Packet, fragment};
use proxy_common::addr::Addr;
use proxy_common::checksum::{fold, update};
use proxy_common::flow::FlowKey;
use proxy_common::reason::Reason;
use proxy_common::service::protocol;

/// Rewrites the packet's tuple to `new`; `SRC` and `DST` say which halves differ. The hop limit
/// is decremented, as by any router that forwards (RFC 1812 §5.2.1.2, RFC 8200 §3). Gives 0 or a
/// packed verdict.
#[inline(never)]
pub fn translate<const SRC: bool, const DST: bool>(
    frame: Frame,
    packet: &Packet,
    new: &FlowKey,
) -> u64 {
    match rewrite::<SRC, DST>(frame, packet, new) {
        Ok(()) => 0,
        Err(verdict) => verdict.pack(),
    }
}

/// As [`translate`], in the caller.
#[inline(always)]
pub fn rewrite<const SRC: bool, const DST: bool>(
    frame: Frame,
    packet: &Packet,
    new: &FlowKey,
) -> Stage<()> {
    let addresses = if packet.v6 == 0 {
        ipv4::<SRC, DST>(frame, packet, new)?
    } else {
        ipv6::<SRC, DST>(frame, packet, new)?
    };
    if packet.fragment == fragment::LATER {
        return Ok(());
    }
    transport::<SRC, DST>(frame, packet, new, addresses)
}

/// The change of a word as a sum for [`update`].
#[inline(always)]
pub fn change32(old: u32, new: u32) -> u64 {
    u64::from(!old) + u64::from(new)
}

/// The change of an address as a sum for [`update`].
#[inline(always)]
pub fn change_addr(old: &Addr, new: &Addr) -> u64 {
    let ([a, b], [c, d]) = (old.words(), new.words());
    change32(a as u32, c as u32)
        + change32((a >> 32) as u32, (c >> 32) as u32)
        + change32(b as u32, d as u32)
        + change32((b >> 32) as u32, (d >> 32) as u32)
}

/// The last four octets of an address, in memory order.
#[inline(always)]
pub fn low(addr: &Addr) -> u32 {
    u32::from_ne_bytes(addr.low32())
}

/// Rewrites the IPv4 header; gives the change of the addresses for the pseudo-header.
#[inline(always)]
fn ipv4<const SRC: bool, const DST: bool>(
    frame: Frame,
    packet: &Packet,
    new: &FlowKey,
) -> Stage<u64> {
    let Some(header) = frame.at::<[u8; 20]>(packet.l3 as usize) else {
        return end(Reason::DropInternal);
    };
    // SAFETY: `at` has checked the bounds, and no other reference to the frame is held.
    let header = unsafe { &mut *header };
    let mut addresses = 0;
    if SRC {
        addresses += change32(low(&packet.key.src), low(&new.src));
        put(header, 12, low(&new.src));
    }
    if DST {
        addresses += change32(low(&packet.key.dst), low(&new.dst));
        put(header, 16, low(&new.dst));
    }
    let ttl = header[8];
    if ttl <= 1 {
        return end(Reason::DropTtlExpired);
    }
    header[8] = ttl - 1;
    // One less in the high octet of a big-endian word is, in memory order, the low octet here.
    let hop =
        u64::from(!u16::from_ne_bytes([ttl, 0])) + u64::from(u16::from_ne_bytes([ttl - 1, 0]));
    let checksum = u16::from_ne_bytes([header[10], header[11]]);
    let checksum = update(checksum, addresses + hop).to_ne_bytes();
    header[10] = checksum[0];
    header[11] = checksum[1];
    Ok(addresses)
}

#[inline(always)]
fn ipv6<const SRC: bool, const DST: bool>(
    frame: Frame,
    packet: &Packet,
    new: &FlowKey,
) -> Stage<u64> {
    let Some(header) = frame.at::<[u8; 40]>(packet.l3 as usize) else {
        return end(Reason::DropInternal);
    };
    // SAFETY: `at` has checked the bounds, and no other reference to the frame is held.
    let header = unsafe { &mut *header };
    if header[7] <= 1 {
        return end(Reason::DropTtlExpired);
    }
    header[7] -= 1;
    let mut addresses = 0;
    if SRC {
        addresses += change_addr(&packet.key.src, &new.src);
        put(header, 8, new.src.words());
    }
    if DST {
        addresses += change_addr(&packet.key.dst, &new.dst);
        put(header, 24, new.dst.words());
    }
    Ok(addresses)
}

/// Rewrites the ports and the transport's checksum.
#[inline(always)]
fn transport<const SRC: bool, const DST: bool>(
    frame: Frame,
    packet: &Packet,
    new: &FlowKey,
    addresses: u64,
) -> Stage<()> {
    let mut change = addresses;
    if SRC {
        change += u64::from(!packet.key.src_port_be) + u64::from(new.src_port_be);
    }
    if DST {
        change += u64::from(!packet.key.dst_port_be) + u64::from(new.dst_port_be);
    }
    let l4 = packet.l4 as usize;
    if packet.key.protocol == protocol::TCP {
        let Some(header) = frame.at::<[u16; 10]>(l4) else {
            return end(Reason::DropInternal);
        };
        // SAFETY: `at` has checked the bounds; words are accessed unaligned.
        unsafe {
            write_ports::<SRC, DST>(header.cast(), new);
            let at = header.cast::<u16>().add(8);
            at.write_unaligned(update(at.read_unaligned(), change));
        }
        return Ok(());
    }
    let Some(header) = frame.at::<[u16; 4]>(l4) else {
        return end(Reason::DropInternal);
    };
    // SAFETY: as above.
    unsafe {
        write_ports::<SRC, DST>(header.cast(), new);
        let at = header.cast::<u16>().add(3);
        let checksum = at.read_unaligned();
        // Zero means that the sender computed none (RFC 768), so a computed zero is sent as ones.
        if checksum != 0 {
            let checksum = update(checksum, change);
            at.write_unaligned(if checksum == 0 { 0xffff } else { checksum });
        }
    }
    Ok(())
}

/// # Safety
///
/// `header` points to at least four writable octets.
#[inline(always)]
unsafe fn write_ports<const SRC: bool, const DST: bool>(header: *mut u16, new: &FlowKey) {
    if SRC {
        // SAFETY: the caller's promise.
        unsafe { header.write_unaligned(new.src_port_be) };
    }
    if DST {
        // SAFETY: the caller's promise.
        unsafe { header.add(1).write_unaligned(new.dst_port_be) };
    }
}

/// The sum as the checksum field of a message whose words sum up to it; for new headers.
#[inline(always)]
pub fn finish(sum: u64) -> u16 {
    !fold(sum)
}
