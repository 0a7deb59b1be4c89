//! What arrives at a port at which a workload listens goes to the daemon.
//!
//! Runs for each new TCP connection in the network namespace, before the kernel looks for the socket
//! that listens. Whatever is not certain to be a workload's is left to that.

use super::maps::{CHOSEN, DIALS, SETS, SOCKETS, listening};
use super::rules::{count, is_address_in, is_let_pass, is_port_in};
use aya_ebpf::bindings::{bpf_sk_lookup, sk_action};
use aya_ebpf::programs::SkLookupContext;
use core::mem::offset_of;
use proxy_common::addr::Addr;
use proxy_common::redirect::{ChosenKey, Dial, INBOUND, set_flag};

/// `AF_INET`.
const INET: u32 = 2;
/// `AF_INET6`.
const INET6: u32 = 10;
/// `IPPROTO_TCP`.
const TCP: u8 = 6;

/// What the kernel is told; it goes on with the socket that was assigned, if any.
const PASS: u32 = sk_action::SK_PASS;
const DROP: u32 = sk_action::SK_DROP;

/// `EEXIST`: another program has assigned one.
const EXISTS: i32 = 17;

/// Judges one lookup.
#[inline(always)]
pub fn run(ctx: &SkLookupContext) -> u32 {
    judge(ctx).unwrap_or(PASS)
}

/// What becomes of it; `None` if it is none of ours.
#[inline(always)]
fn judge(ctx: &SkLookupContext) -> Option<u32> {
    let (dial, is_v4) = ends(ctx.lookup)?;
    if dial.server.is_of_one_host() {
        return None;
    }
    let listening = listening(&dial.server, dial.server_port, is_v4)?;
    let cgroup = if is_v4 {
        listening.chosen4
    } else {
        listening.chosen6
    };
    if cgroup == 0 {
        return None;
    }
    let key = ChosenKey {
        cgroup,
        family: if is_v4 { 4 } else { 6 },
        direction: INBOUND,
    };
    // SAFETY: the value is a word, which is copied.
    let set = *unsafe { CHOSEN.get(key) }?;
    let settings = SETS.get(set)?;
    // SAFETY: only whether there is an entry is asked.
    if settings.flags & set_flag::USED == 0 || unsafe { DIALS.get(dial) }.is_some() {
        return None;
    }
    if !is_port_in(settings, dial.server_port) || !is_address_in(set, settings, &dial.client) {
        count(set, |stats| stats.excluded += 1);
        return None;
    }
    match SOCKETS.redirect_sk_lookup(ctx, set, 0) {
        Ok(()) => {
            count(set, |stats| stats.redirected += 1);
            return Some(PASS);
        }
        // Whoever is steered to an address has asked for it by name.
        Err(error) if error == -EXISTS => return None,
        Err(_) => {}
    }
    match is_let_pass(set, settings) {
        true => None,
        false => Some(DROP),
    }
}

/// Both ends, and whether they are of IPv4.
#[inline(always)]
fn ends(lookup: *const bpf_sk_lookup) -> Option<(Dial, bool)> {
    // All fields at once: of loads in two branches the compiler would make one of a computed address,
    // and the kernel takes constant ones alone.
    let family = word(lookup, offset_of!(bpf_sk_lookup, family));
    let protocol = word(lookup, offset_of!(bpf_sk_lookup, protocol)) as u8;
    let server_port = word(lookup, offset_of!(bpf_sk_lookup, local_port)) & 0xffff;
    let client_port = half(lookup, offset_of!(bpf_sk_lookup, remote_port));
    let server4 = word(lookup, offset_of!(bpf_sk_lookup, local_ip4));
    let client4 = word(lookup, offset_of!(bpf_sk_lookup, remote_ip4));
    let server6 = words(lookup, offset_of!(bpf_sk_lookup, local_ip6));
    let client6 = words(lookup, offset_of!(bpf_sk_lookup, remote_ip6));
    if protocol != TCP {
        return None;
    }
    let (client, server) = match family {
        INET => (
            Addr::v4(client4.to_ne_bytes()),
            Addr::v4(server4.to_ne_bytes()),
        ),
        INET6 => (client6, server6),
        _ => return None,
    };
    let dial = Dial {
        client,
        server,
        client_port: u32::from(u16::from_be(client_port)),
        server_port,
    };
    Some((dial, family == INET))
}

/// A field of the context. Volatile, for the kernel takes loads of a field alone, and the compiler
/// would join those of neighbours.
#[inline(always)]
fn word(lookup: *const bpf_sk_lookup, offset: usize) -> u32 {
    // SAFETY: the kernel gives a valid context, whose fields are aligned words.
    unsafe { lookup.byte_add(offset).cast::<u32>().read_volatile() }
}

#[inline(always)]
fn half(lookup: *const bpf_sk_lookup, offset: usize) -> u16 {
    // SAFETY: as above; the port is half a word.
    unsafe { lookup.byte_add(offset).cast::<u16>().read_volatile() }
}

#[inline(always)]
fn words(lookup: *const bpf_sk_lookup, offset: usize) -> Addr {
    let at = |index: usize| u64::from(word(lookup, offset + 4 * index));
    Addr::from_words([at(0) | at(1) << 32, at(2) | at(3) << 32])
}
