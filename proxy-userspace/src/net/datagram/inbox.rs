//! Datagrams that have come.

use super::{BATCH, Local};
use std::fmt;
use std::io;
use std::mem::zeroed;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::RawFd;

/// Octets of the largest datagram. Only pages that are written to take memory.
const LARGEST: usize = 64 << 10;

/// Room for what the kernel tells of a datagram, aligned as it wants it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; 96]);

/// Room for a batch of datagrams, and where each came from.
pub struct Inbox {
    octets: Box<[u8]>,
    names: Box<[libc::sockaddr_storage]>,
    controls: Box<[Control]>,
    pieces: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
    /// Datagrams that are there.
    count: usize,
}

impl Default for Inbox {
    fn default() -> Self {
        // SAFETY: integers and null pointers are valid when zeroed; the next three likewise.
        let name: libc::sockaddr_storage = unsafe { zeroed() };
        // SAFETY: see above.
        let piece: libc::iovec = unsafe { zeroed() };
        // SAFETY: see above.
        let header: libc::mmsghdr = unsafe { zeroed() };
        Self {
            octets: vec![0; BATCH * LARGEST].into(),
            names: vec![name; BATCH].into(),
            controls: vec![Control([0; 96]); BATCH].into(),
            pieces: vec![piece; BATCH].into(),
            headers: vec![header; BATCH].into(),
            count: 0,
        }
    }
}

impl Inbox {
    /// Replaces what is there by what has come to a socket that does not block.
    pub(super) fn receive(&mut self, socket: RawFd) -> io::Result<usize> {
        self.count = 0;
        self.prepare();
        // SAFETY: `prepare` has made all headers point to memory of this value, of the lengths that
        // they say, and nothing of it is moved or borrowed until the call is over.
        let received = unsafe {
            libc::recvmmsg(
                socket,
                self.headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        self.count = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        Ok(self.count)
    }

    /// The kernel overwrites pointers' lengths, so they are set before each call.
    fn prepare(&mut self) {
        let rooms = self.octets.chunks_exact_mut(LARGEST);
        let names = self.names.iter_mut().zip(&mut self.controls);
        let headers = self.headers.iter_mut().zip(&mut self.pieces);
        for (((header, piece), (name, control)), room) in headers.zip(names).zip(rooms) {
            piece.iov_base = room.as_mut_ptr().cast();
            piece.iov_len = room.len();
            let header = &mut header.msg_hdr;
            header.msg_name = std::ptr::from_mut(name).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = std::ptr::from_mut(piece);
            header.msg_iovlen = 1;
            header.msg_control = std::ptr::from_mut(control).cast();
            header.msg_controllen = size_of::<Control>();
            header.msg_flags = 0;
        }
    }

    /// Datagrams that are there.
    pub fn len(&self) -> usize {
        self.count
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The content of one.
    pub fn datagram(&self, index: usize) -> &[u8] {
        let length = (self.headers[index].msg_len as usize).min(LARGEST);
        &self.octets[index * LARGEST..][..length]
    }

    /// Where one came from; `None` for what no datagram of these sockets has.
    pub fn source(&self, index: usize) -> Option<SocketAddr> {
        socket_address(&self.names[index])
    }

    /// Which of our addresses one was sent to, if the socket asks for it.
    pub fn local(&self, index: usize) -> Option<Local> {
        self.control(index, |level, kind, data| match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                // SAFETY: the kernel writes this struct into messages of this type.
                let info = unsafe { data.cast::<libc::in_pktinfo>().read_unaligned() };
                // The address to answer from, also where a broadcast was sent to.
                let ip = u32::from_be(info.ipi_spec_dst.s_addr);
                Some(Local::V4(Ipv4Addr::from(ip)))
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                // SAFETY: as above.
                let info = unsafe { data.cast::<libc::in6_pktinfo>().read_unaligned() };
                let ip = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                let scope = match ip.is_unicast_link_local() {
                    true => info.ipi6_ifindex,
                    false => 0,
                };
                Some(Local::V6(ip, scope))
            }
            _ => None,
        })
    }

    /// Which port one was sent to, if the socket asks for it.
    pub fn port(&self, index: usize) -> Option<u16> {
        self.control(index, |level, kind, data| match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_ORIGDSTADDR) => {
                // SAFETY: the kernel writes this struct into messages of this type.
                let name = unsafe { data.cast::<libc::sockaddr_in>().read_unaligned() };
                Some(u16::from_be(name.sin_port))
            }
            (libc::IPPROTO_IPV6, libc::IPV6_ORIGDSTADDR) => {
                // SAFETY: as above.
                let name = unsafe { data.cast::<libc::sockaddr_in6>().read_unaligned() };
                Some(u16::from_be(name.sin6_port))
            }
            _ => None,
        })
    }

    /// The first that `read` makes of the messages which the kernel has added to a datagram: level,
    /// type and data of each.
    fn control<T>(
        &self,
        index: usize,
        read: impl Fn(libc::c_int, libc::c_int, *const u8) -> Option<T>,
    ) -> Option<T> {
        let header = &self.headers[index].msg_hdr;
        // SAFETY: the kernel has filled the header in, and its control buffer lives in `self`.
        let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
        while !next.is_null() {
            // SAFETY: not null, so it points to a whole `cmsghdr` in the control buffer.
            let message = unsafe { next.read_unaligned() };
            // SAFETY: as above; only the address is computed.
            let data = unsafe { libc::CMSG_DATA(next) };
            if let Some(found) = read(message.cmsg_level, message.cmsg_type, data) {
                return Some(found);
            }
            // SAFETY: both belong to the header that the kernel has filled in.
            next = unsafe { libc::CMSG_NXTHDR(header, next) };
        }
        None
    }
}

fn socket_address(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let name: *const libc::sockaddr_storage = name;
    // SAFETY: the storage is larger than the struct, aligned for it, and all octets of it are
    // initialised; the next likewise.
    let v4 = unsafe { name.cast::<libc::sockaddr_in>().read() };
    // SAFETY: see above.
    let v6 = unsafe { name.cast::<libc::sockaddr_in6>().read() };
    match libc::c_int::from(v4.sin_family) {
        libc::AF_INET => {
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some((ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            let (ip, port) = (v6.sin6_addr.s6_addr.into(), u16::from_be(v6.sin6_port));
            Some(SocketAddrV6::new(ip, port, 0, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox")
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}
