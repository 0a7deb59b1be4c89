//! Which way a message of an accelerated socket goes. See [`super`].

use super::maps::{ENDS, FOUND, OFFSETS, SOCKETS};
use super::{count, direct, read};
use aya_ebpf::bindings::{BPF_F_INGRESS, sk_action};
use aya_ebpf::helpers::generated::bpf_msg_redirect_hash;
use aya_ebpf::programs::SkMsgContext;
use core::ffi::c_void;
use proxy_common::sock::{Count, End, LEAST_ROOM, Offsets, QUEUE_OCTETS, SINK, end_flag};

/// What becomes of a message.
enum Way {
    /// By TCP.
    Tcp,
    /// To the other end's queue.
    Across,
    /// Not now.
    Held,
}

/// Runs on each message that is written to a socket in the socket hash.
#[inline(always)]
pub fn run(ctx: &SkMsgContext) -> u32 {
    // SAFETY: the kernel passes a valid context.
    let sk: *mut c_void = unsafe { (*ctx.msg).__bindgen_anon_3.sk }.cast();
    if sk.is_null() {
        return sk_action::SK_PASS;
    }
    // SAFETY: the verifier knows the socket.
    let Some(end) = (unsafe { ENDS.get(sk) }) else {
        return sk_action::SK_PASS;
    };
    // SAFETY: the value is the socket's own, and its socket is locked.
    let end = unsafe { &mut *end };
    if let Some(leg) = direct::leg(end) {
        // SAFETY: the leg is an element of a map.
        let to = unsafe { (&raw const (*leg).to).read_volatile() };
        if redirect(ctx, to, u64::from(BPF_F_INGRESS)) {
            direct::took(leg, ctx.size());
            return sk_action::SK_PASS;
        }
    }
    match choose(end) {
        Way::Tcp => sk_action::SK_PASS,
        Way::Held => {
            if redirect(ctx, SINK, 0) {
                count(Count::Held, 1);
            }
            sk_action::SK_PASS
        }
        Way::Across => {
            if redirect(ctx, end.peer_cookie, u64::from(BPF_F_INGRESS)) {
                let octets = u64::from(ctx.size());
                end.octets += octets;
                count(Count::Messages, 1);
                count(Count::Octets, octets);
            } else {
                // It has closed: TCP will say so.
                count(Count::Gone, 1);
            }
            sk_action::SK_PASS
        }
    }
}

/// Has the message go to a socket of the socket hash instead; false if that has gone.
#[inline(always)]
fn redirect(ctx: &SkMsgContext, mut cookie: u64, flags: u64) -> bool {
    let (map, key) = (&raw const SOCKETS, &raw mut cookie);
    // SAFETY: the map is one of sockets by such keys.
    let found = unsafe { bpf_msg_redirect_hash(ctx.msg, map.cast_mut().cast(), key.cast(), flags) };
    found as u32 == sk_action::SK_PASS
}

#[inline(always)]
fn choose(end: &mut End) -> Way {
    let Some(offsets) = OFFSETS.get(0) else {
        return Way::Tcp;
    };
    if !knows_peer(end) {
        return Way::Tcp;
    }
    let Some(queued) = queued(end, offsets) else {
        return Way::Tcp;
    };
    if end.flags & end_flag::OURS != 0 {
        if queued >= QUEUE_OCTETS {
            return Way::Held;
        }
        return Way::Across;
    }
    let Some(room) = read::<u32>(end.peer, offsets.room) else {
        return Way::Tcp;
    };
    let room = room / 4;
    if room < LEAST_ROOM {
        return Way::Tcp;
    }
    if queued >= room {
        count(Count::Overflow, 1);
        return Way::Tcp;
    }
    Way::Across
}

/// True if the other end is known, which the opening end has to look up.
#[inline(always)]
fn knows_peer(end: &mut End) -> bool {
    if end.peer_cookie != 0 {
        return true;
    }
    let cookie = end.cookie;
    // SAFETY: the entry is written once, and read by this socket alone.
    let Some(peer) = (unsafe { FOUND.get(cookie) }) else {
        return false;
    };
    end.peer = peer.sock;
    end.peer_flags = peer.flags as u32;
    end.peer_cookie = peer.cookie;
    let _ = FOUND.remove(cookie);
    true
}

/// What waits at the other end; `None` if it has gone, or if something is still on its way by TCP.
#[inline(always)]
fn queued(end: &End, offsets: &Offsets) -> Option<u32> {
    if read::<u64>(end.peer, offsets.cookie)? != end.peer_cookie {
        count(Count::Gone, 1);
        return None;
    }
    let written = read::<u32>(end.sock, offsets.write_seq)?;
    let taken = read::<u32>(end.peer, offsets.copied_seq)?;
    if written != taken {
        count(Count::Behind, 1);
        return None;
    }
    read::<u32>(end.peer, offsets.queued)
}
