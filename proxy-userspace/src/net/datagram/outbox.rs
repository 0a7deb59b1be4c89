//! Datagrams on their way out.

use super::{BATCH, Datagrams, Local};
use socket2::SockAddr;
use std::fmt;
use std::io;
use std::mem::zeroed;
use std::net::SocketAddr;

/// Room for what the kernel is told of datagrams, aligned as it wants it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Scratch memory for sending batches.
pub struct Outbox {
    pieces: Box<[[libc::iovec; 2]]>,
    headers: Box<[libc::mmsghdr]>,
}

/// Where datagrams go, and which of our addresses they come from.
#[derive(Clone, Debug)]
pub struct Way {
    to: SockAddr,
    from: Option<Local>,
}

impl Way {
    /// To this address.
    pub fn new(to: SocketAddr, from: Option<Local>) -> Self {
        Self {
            to: to.into(),
            from,
        }
    }
}

impl Default for Outbox {
    fn default() -> Self {
        // SAFETY: integers and null pointers are valid when zeroed; the next likewise.
        let piece: libc::iovec = unsafe { zeroed() };
        // SAFETY: see above.
        let header: libc::mmsghdr = unsafe { zeroed() };
        Self {
            pieces: vec![[piece; 2]; BATCH].into(),
            headers: vec![header; BATCH].into(),
        }
    }
}

impl Outbox {
    /// Sends datagrams, each after `prefix`: at most [`BATCH`], all the same way; without one to
    /// the peer of the connected socket. Returns how many were sent; what stopped the rest is told
    /// by sending them again. Never waits.
    ///
    /// # Errors
    ///
    /// None was sent: what the system says of the first. `WouldBlock` if there was no room.
    pub fn send<'d>(
        &mut self,
        socket: &Datagrams,
        way: Option<&Way>,
        prefix: &[u8],
        datagrams: impl Iterator<Item = &'d [u8]>,
    ) -> io::Result<usize> {
        let mut control = Control([0; 64]);
        let controls = way.and_then(|way| way.from);
        let control_length = controls.map_or(0, |from| write_local(from, &mut control));
        let mut count = 0;
        let places = self.headers.iter_mut().zip(&mut self.pieces);
        for ((header, pieces), datagram) in places.zip(datagrams) {
            *pieces = [piece(prefix), piece(datagram)];
            let header = &mut header.msg_hdr;
            let name: *const libc::c_void =
                way.map_or(std::ptr::null(), |way| way.to.as_ptr().cast());
            header.msg_name = name.cast_mut();
            header.msg_namelen = way.map_or(0, |way| way.to.len());
            // An empty prefix is left out rather than sent as nothing.
            let skipped = usize::from(prefix.is_empty());
            header.msg_iov = pieces[skipped..].as_mut_ptr();
            header.msg_iovlen = pieces.len() - skipped;
            header.msg_control = match control_length {
                0 => std::ptr::null_mut(),
                _ => (&raw mut control).cast(),
            };
            header.msg_controllen = control_length;
            header.msg_flags = 0;
            count += 1;
        }
        if count == 0 {
            return Ok(0);
        }
        // SAFETY: the first `count` headers point to pieces of this value, to `control`, to octets
        // that are borrowed for this call, and to the address in `way`, all of which outlive the
        // call; the kernel writes none of them but the headers' own lengths.
        let sent = unsafe {
            libc::sendmmsg(
                socket.descriptor(),
                self.headers.as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

/// Writes the one control message there is; returns its length.
fn write_local(from: Local, control: &mut Control) -> usize {
    let (level, kind, octets) = match from {
        Local::V4(ip) => {
            let mut octets = [0; size_of::<libc::in_pktinfo>()];
            // `ipi_spec_dst`, behind the interface's number.
            octets[4..8].copy_from_slice(&ip.octets());
            (libc::IPPROTO_IP, libc::IP_PKTINFO, Octets::V4(octets))
        }
        Local::V6(ip, scope) => {
            let mut octets = [0; size_of::<libc::in6_pktinfo>()];
            octets[..16].copy_from_slice(&ip.octets());
            octets[16..20].copy_from_slice(&scope.to_ne_bytes());
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, Octets::V6(octets))
        }
    };
    let octets = octets.as_slice();
    let length = octets.len() as libc::c_uint;
    // SAFETY: arithmetic only, as is the next.
    let own = unsafe { libc::CMSG_LEN(length) };
    // SAFETY: see above.
    let space = unsafe { libc::CMSG_SPACE(length) };
    let head = libc::cmsghdr {
        cmsg_len: own as usize,
        cmsg_level: level,
        cmsg_type: kind,
    };
    let at = size_of::<libc::cmsghdr>();
    debug_assert!(
        own as usize == at + octets.len(),
        "no padding after the head"
    );
    // SAFETY: the buffer is longer than the head and aligned for it.
    unsafe { (&raw mut control.0).cast::<libc::cmsghdr>().write(head) };
    control.0[at..at + octets.len()].copy_from_slice(octets);
    space as usize
}

enum Octets {
    V4([u8; size_of::<libc::in_pktinfo>()]),
    V6([u8; size_of::<libc::in6_pktinfo>()]),
}

impl Octets {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::V4(octets) => octets,
            Self::V6(octets) => octets,
        }
    }
}

fn piece(octets: &[u8]) -> libc::iovec {
    libc::iovec {
        iov_base: octets.as_ptr().cast_mut().cast(),
        iov_len: octets.len(),
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").finish_non_exhaustive()
    }
}
