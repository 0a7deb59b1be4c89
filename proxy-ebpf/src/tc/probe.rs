//! Health probes to a VIP, sent to the one backend that they are for.
//!
//! A check of a DSR backend through the data path opens a connection to the VIP from this host.
//! No XDP program sees such a packet, and if one did, it would choose a backend. So the prober
//! marks its sockets (`SO_MARK`) with the backend's id, and this program, on the way out, does
//! what the balancer would do with a packet of a flow of that backend: the same tunnel headers, or
//! the backend's MAC address. The answer comes from the VIP to this host's own address, like any
//! other packet that is for the stack.
//!
//! A probe that cannot be sent on is dropped and counted, never let go: it would follow the
//! ordinary route to the VIP, and what answered there would be taken for this backend.

use crate::maps::{BACKENDS, SETTINGS};
use crate::packet::ether;
use crate::stats;
use crate::tc::Buffer;
use crate::xdp::forward::{Macs, macs_of, put_question};
use crate::xdp::parse::{Packet, fragment};
use crate::xdp::rewrite::encap;
use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::bindings::{
    __sk_buff, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6,
    BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_FIB_LKUP_RET_FWD_DISABLED,
    BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LOOKUP_OUTPUT, TC_ACT_SHOT,
    TC_ACT_UNSPEC, bpf_fib_lookup as FibLookup, bpf_redir_neigh as NextHop,
};
use aya_ebpf::helpers::{
    bpf_fib_lookup, bpf_redirect, bpf_redirect_neigh, bpf_skb_adjust_room, bpf_skb_vlan_pop,
};
use core::mem::{MaybeUninit, offset_of};
use proxy_common::addr::Addr;
use proxy_common::backend::{Backend, BackendState, PROBE_MARK};
use proxy_common::flow::FlowKey;
use proxy_common::hash::flow_hash;
use proxy_common::reason::Reason;
use proxy_common::service::{Mode, protocol};

/// Aims probes at their backends and lets everything else go on.
#[inline(always)]
pub fn run(ctx: *mut __sk_buff) -> i32 {
    let buffer = Buffer::new(ctx);
    let mark = buffer.mark();
    if mark >> 16 != PROBE_MARK >> 16 {
        return TC_ACT_UNSPEC;
    }
    // Other programs use marks, too: only what names a backend of a mode that is probed this way
    // is taken for a probe.
    let Some(backend) = BACKENDS.get(mark & 0xffff) else {
        return TC_ACT_UNSPEC;
    };
    let is_dsr = Mode::from_code(backend.mode).is_some_and(Mode::is_dsr);
    if backend.state == BackendState::Absent.code() || !is_dsr {
        return TC_ACT_UNSPEC;
    }
    match aim(buffer, backend) {
        Ok(action) => {
            stats::count_reason(Reason::ProbeAimed);
            action
        }
        Err(reason) => {
            stats::count_reason(reason);
            TC_ACT_SHOT
        }
    }
}

#[inline(always)]
fn aim(buffer: Buffer, backend: &Backend) -> Result<i32, Reason> {
    let packet = parse(buffer)?;
    let mut params = MaybeUninit::<FibLookup>::zeroed();
    let p = params.as_mut_ptr();
    let known = find_way(buffer, p, &backend.addr)?;
    // SAFETY: no arguments but the context, which is valid.
    if buffer.is_tagged() && unsafe { bpf_skb_vlan_pop(buffer.ctx()) } != 0 {
        return Err(Reason::DropInternal);
    }
    let tunnel = backend.mode != Mode::DsrL2.code();
    if tunnel {
        let gue = backend.mode == Mode::DsrGue.code();
        let length = packet.length + encap::overhead(backend, gue) as u32;
        // SAFETY: a known next hop comes with the route's MTU.
        if known && length > u32::from(unsafe { (*p).__bindgen_anon_1.mtu_result }) {
            return Err(Reason::DropTooBig);
        }
        wrap(buffer, &packet, backend)?;
    }
    // SAFETY: the helper has filled the parameters.
    let ifindex = unsafe { (*p).ifindex };
    if !known && !tunnel {
        // The mark stays: it passes here again with its next hop known.
        return Ok(redirect_unresolved(p, ifindex));
    }
    // It passes here again when it leaves by its real interface.
    buffer.set_mark(0);
    if !known {
        // The stack looks up the outer destination and resolves its next hop.
        // SAFETY: no parameters.
        return Ok(unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) } as i32);
    }
    // SAFETY: as above.
    let macs: Macs = unsafe { macs_of(p) };
    buffer.write(0, macs).ok_or(Reason::DropInternal)?;
    // SAFETY: no pointers.
    Ok(unsafe { bpf_redirect(ifindex, 0) } as i32)
}

/// Reads the headers: this host's own, so without extension headers, and never a fragment (TCP
/// sets "don't fragment" or keeps to the path's MTU).
#[inline(always)]
fn parse(buffer: Buffer) -> Result<Packet, Reason> {
    let ethertype = buffer
        .read::<u16>(12)
        .ok_or(Reason::DropTruncatedEthernet)?;
    let mut packet = match ethertype {
        ether::IPV4 => ipv4(buffer)?,
        ether::IPV6 => ipv6(buffer)?,
        _ => return Err(Reason::DropBadIpHeader),
    };
    if packet.length + ether::LEN as u32 > buffer.len() {
        return Err(Reason::DropBadIpLength);
    }
    if matches!(packet.key.protocol, protocol::TCP | protocol::UDP) {
        let ports = buffer.read::<[u8; 4]>(packet.l4 as usize);
        packet
            .key
            .set_ports(ports.ok_or(Reason::DropTruncatedTransport)?);
    }
    Ok(packet)
}

#[inline(always)]
fn ipv4(buffer: Buffer) -> Result<Packet, Reason> {
    #[repr(C, packed)]
    #[derive(Clone, Copy)]
    struct Header {
        version_ihl: u8,
        tos: u8,
        total: u16,
        id: u16,
        fragment: u16,
        ttl: u8,
        protocol: u8,
        checksum: u16,
        src: [u8; 4],
        dst: [u8; 4],
    }
    let header = buffer
        .at::<Header>(ether::LEN)
        .ok_or(Reason::DropTruncatedIp)?;
    // SAFETY: `at` has checked the bounds; the type is packed and made of integers.
    let header = unsafe { &*header };
    let octets = usize::from(header.version_ihl & 0xf) * 4;
    if header.version_ihl >> 4 != 4 || octets < 20 {
        return Err(Reason::DropBadIpHeader);
    }
    let (src, dst) = (Addr::v4(header.src), Addr::v4(header.dst));
    let mut packet = blank(FlowKey::new(src, dst, 0, 0, header.protocol));
    packet.l4 = (ether::LEN + octets) as u64;
    packet.length = u32::from(u16::from_be(header.total));
    packet.tos = header.tos;
    packet.dont_fragment = (u16::from_be(header.fragment) >> 14 & 1) as u8;
    Ok(packet)
}

#[inline(always)]
fn ipv6(buffer: Buffer) -> Result<Packet, Reason> {
    #[repr(C, packed)]
    #[derive(Clone, Copy)]
    struct Header {
        version_class_label: u32,
        payload: u16,
        next: u8,
        hop_limit: u8,
        src: [u64; 2],
        dst: [u64; 2],
    }
    let header = buffer
        .at::<Header>(ether::LEN)
        .ok_or(Reason::DropTruncatedIp)?;
    // SAFETY: `at` has checked the bounds; the type is packed and made of integers.
    let header = unsafe { &*header };
    let first = u32::from_be(header.version_class_label);
    if first >> 28 != 6 {
        return Err(Reason::DropBadIpHeader);
    }
    let (src, dst) = (Addr::from_words(header.src), Addr::from_words(header.dst));
    let mut packet = blank(FlowKey::new(src, dst, 0, 0, header.next));
    packet.l4 = (ether::LEN + 40) as u64;
    packet.length = u32::from(u16::from_be(header.payload)) + 40;
    packet.v6 = 1;
    packet.tos = (first >> 20) as u8;
    packet.dont_fragment = 1;
    Ok(packet)
}

#[inline(always)]
fn blank(key: FlowKey) -> Packet {
    Packet {
        key,
        l3: ether::LEN as u64,
        l4: 0,
        length: 0,
        fragment_id: 0,
        fragment: fragment::NONE,
        v6: 0,
        tos: 0,
        tcp_flags: 0,
        dont_fragment: 0,
        icmp_type: 0,
        icmp_code: 0,
        _pad: 0,
    }
}

/// Asks the FIB for the way to the backend, as the balancer does. True if the next hop's MAC
/// address is known.
#[inline(always)]
fn find_way(buffer: Buffer, p: *mut FibLookup, to: &Addr) -> Result<bool, Reason> {
    // SAFETY: the parameters are zeroed.
    unsafe { put_question(p, buffer.ifindex(), to) };
    let mut answer = lookup(buffer, p, 0);
    if answer == BPF_FIB_LKUP_RET_FWD_DISABLED {
        // SAFETY: as above: the kernel has changed nothing but what is put here anew.
        unsafe { put_question(p, buffer.ifindex(), to) };
        answer = lookup(buffer, p, BPF_FIB_LOOKUP_OUTPUT);
    }
    match answer {
        BPF_FIB_LKUP_RET_SUCCESS => Ok(true),
        BPF_FIB_LKUP_RET_NO_NEIGH => Ok(false),
        _ => Err(Reason::DropNoRoute),
    }
}

#[inline(always)]
fn lookup(buffer: Buffer, params: *mut FibLookup, flags: u32) -> u32 {
    let size = size_of::<FibLookup>() as i32;
    // SAFETY: the parameters are as long as said.
    let answer = unsafe { bpf_fib_lookup(buffer.ctx().cast(), params, size, flags) };
    answer as u32
}

/// Puts the packet into its tunnel. The link header stays in front.
#[inline(always)]
fn wrap(buffer: Buffer, packet: &Packet, backend: &Backend) -> Result<(), Reason> {
    let outer_v4 = backend.addr.is_v4();
    if outer_v4 && packet.v6 != 0 {
        return Err(Reason::DropFamily);
    }
    let gue = backend.mode == Mode::DsrGue.code();
    let settings = SETTINGS.get(0).ok_or(Reason::DropInternal)?;
    let hash = flow_hash(packet.key.words(), &settings.secrets);
    let mut flags = BPF_F_ADJ_ROOM_FIXED_GSO;
    flags |= if outer_v4 {
        BPF_F_ADJ_ROOM_ENCAP_L3_IPV4
    } else {
        BPF_F_ADJ_ROOM_ENCAP_L3_IPV6
    };
    if gue {
        flags |= BPF_F_ADJ_ROOM_ENCAP_L4_UDP;
    }
    let grow = encap::overhead(backend, gue) as i32;
    // SAFETY: the context is valid.
    let result =
        unsafe { bpf_skb_adjust_room(buffer.ctx(), grow, BPF_ADJ_ROOM_MAC, u64::from(flags)) };
    if result != 0 {
        return Err(Reason::DropHeadroom);
    }
    let at = ether::LEN - 2;
    let written = if outer_v4 {
        buffer.write(at, encap::outer_v4_header(packet, backend, hash, gue))
    } else {
        buffer.write(at, encap::outer_v6_header(packet, backend, hash, gue))
    };
    written.ok_or(Reason::DropInternal)?;
    if gue {
        let at = ether::LEN + if outer_v4 { 20 } else { 40 };
        let written = buffer.write(at, encap::udp_header(packet, backend, hash));
        written.ok_or(Reason::DropInternal)?;
    }
    Ok(())
}

/// Has the stack resolve the next hop that the FIB named, and send the packet then.
///
/// While it waits for that, the packet keeps the route that brought it here, and when it is sent
/// the kernel takes the MAC addresses from that route's device: loopback, which has none. So such a
/// packet must pass this program once more. (Without a next hop in the call the kernel looks up a
/// new route, but by the packet's own destination: here the VIP.)
#[inline(always)]
fn redirect_unresolved(p: *const FibLookup, ifindex: u32) -> i32 {
    // The address is copied in words of eight octets, which the kernel wants aligned on its stack.
    #[repr(C, align(8))]
    struct Aligned {
        _pad: u32,
        hop: NextHop,
    }
    const {
        assert!(offset_of!(Aligned, hop) == 4 && offset_of!(NextHop, __bindgen_anon_1) == 4);
    }
    let mut aligned = MaybeUninit::<Aligned>::zeroed();
    // SAFETY: the field lies inside.
    let h = unsafe { &raw mut (*aligned.as_mut_ptr()).hop };
    // SAFETY: the helper has filled the parameters with the next hop in place of the destination;
    // all fields are plain integers.
    unsafe {
        (*h).nh_family = u32::from((*p).family);
        (*h).__bindgen_anon_1.ipv6_nh = (*p).__bindgen_anon_4.ipv6_dst;
    }
    // SAFETY: the parameters are as long as said.
    let action = unsafe { bpf_redirect_neigh(ifindex, h, size_of::<NextHop>() as i32, 0) };
    action as i32
}
