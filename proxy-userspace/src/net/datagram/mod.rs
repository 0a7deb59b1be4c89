//! UDP sockets: many datagrams by one system call, and which of our addresses each was sent to.
//!
//! A listening socket that is bound to all addresses must answer from the one that was asked, or
//! the client drops the answer: the kernel tells it with each datagram (`IP_PKTINFO`, RFC 3542
//! §6.2 for IPv6) and takes it back with the answer.
//!
//! Nobody waits until a socket can be written to. A datagram that finds no room is dropped and
//! counted, as on any other link; to keep it would only make it late. So the reactor is asked for
//! what comes in alone: each datagram sent would else wake the worker once more.

mod inbox;
mod outbox;
#[cfg(test)]
mod tests;

pub use inbox::Inbox;
pub use outbox::{Outbox, Way};

use super::descriptors::Claim;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd, RawFd};
use std::task::{Context, Poll, ready};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Datagrams that one call takes or sends at most.
pub const BATCH: usize = 32;

/// Octets that a listening socket may hold, each way: a burst of a millisecond at 10 Gbit/s. The
/// kernel cuts this to `rmem_max` and `wmem_max`.
const ROOM: usize = 2 << 20;

/// A socket that a worker watches.
#[derive(Debug)]
pub struct Datagrams {
    socket: AsyncFd<UdpSocket>,
    claim: Claim,
}

/// Which of our addresses a datagram came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Local {
    /// This one.
    V4(Ipv4Addr),
    /// This one, on an interface where that makes a difference (link-local addresses); else 0.
    V6(Ipv6Addr, u32),
}

impl Local {
    /// The address.
    pub fn ip(self) -> IpAddr {
        match self {
            Self::V4(ip) => ip.into(),
            Self::V6(ip, _) => ip.into(),
        }
    }
}

/// Binds a socket that others of this process may share the address with. The kernel spreads
/// sources over them by a hash of both addresses and ports, so a source stays with one socket as
/// long as their number stays the same.
///
/// # Errors
///
/// What the system says.
pub fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    if address.ip().is_unspecified() {
        want_local_address(&socket, address.is_ipv6())?;
    }
    // Less room than asked for is no reason to refuse.
    let _ = socket.set_recv_buffer_size(ROOM);
    let _ = socket.set_send_buffer_size(ROOM);
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Sets what [`bind`] sets on a socket that is bound to `address` already.
///
/// # Errors
///
/// What the system says.
pub fn prepare(socket: &OwnedFd, address: SocketAddr) -> io::Result<()> {
    if address.ip().is_unspecified() {
        want_local_address(socket, address.is_ipv6())?;
    }
    SockRef::from(socket).set_nonblocking(true)
}

/// Has a socket that is bound to `bound` tell of each datagram which address and port it was sent to,
/// and lets it answer from addresses that the host takes by a route alone: for sockets that get what
/// they are not bound to.
///
/// # Errors
///
/// What the system says.
pub fn tell_destination(socket: &impl AsFd, bound: SocketAddr) -> io::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt};
    want_local_address(socket, bound.is_ipv6())?;
    if bound.is_ipv6() {
        setsockopt(socket, sockopt::Ipv6OrigDstAddr, &true)?;
        set_free_bind(socket, true)
    } else {
        Ok(setsockopt(socket, sockopt::Ipv4OrigDstAddr, &true)?)
    }
}

/// A socket that only sends, from an address and port that datagrams are steered from. Whatever comes
/// there is steered to another one.
///
/// # Errors
///
/// What the system says.
pub fn answer_from(local: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
    if local.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Other workers answer from there, too.
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    set_free_bind(&socket, local.is_ipv6())?;
    let _ = socket.set_send_buffer_size(ROOM);
    socket.bind(&local.into())?;
    Ok(socket.into())
}

/// Lets a socket have an address that no interface has.
fn set_free_bind(socket: &impl AsFd, is_ipv6: bool) -> io::Result<()> {
    let socket = SockRef::from(socket);
    match is_ipv6 {
        true => socket.set_freebind_v6(true),
        false => socket.set_freebind_v4(true),
    }
}

/// Makes sure that nobody is bound to an address, as [`super::listen::check_free`].
///
/// # Errors
///
/// What the system says.
pub fn check_free(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())
}

fn want_local_address(socket: &impl AsFd, is_ipv6: bool) -> io::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt};
    let done = if is_ipv6 {
        setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)
    } else {
        setsockopt(socket, sockopt::Ipv4PacketInfo, &true)
    };
    done.map_err(io::Error::from)
}

impl Datagrams {
    /// Watches a socket that does not block.
    ///
    /// # Errors
    ///
    /// The reactor does not take it.
    pub fn new(socket: UdpSocket) -> io::Result<Self> {
        // SAFETY: the socket owns its descriptor, whose number does not change while it lives, and
        // nothing takes it out of the `AsyncFd`.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
        Ok(Self {
            socket,
            claim: Claim::of(0),
        })
    }

    /// Counts it among the descriptors that are taken for clients.
    pub fn claimed(mut self) -> Self {
        self.claim.set(1);
        self
    }

    /// A socket of its own port that speaks with `peer` alone: then the kernel drops what others
    /// send, and tells what routers and `peer` say by ICMP.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn connect(peer: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(peer), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        socket.connect(&peer.into())?;
        Self::new(socket.into()).map(Self::claimed)
    }

    /// Another descriptor of the socket, for somebody who goes on with it.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn try_clone(&self) -> io::Result<OwnedFd> {
        self.socket.get_ref().try_clone().map(OwnedFd::from)
    }

    /// Its own address.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.get_ref().local_addr()
    }

    /// Takes what has come into `inbox`; ready with the number of datagrams.
    pub fn poll_receive(&self, cx: &mut Context<'_>, inbox: &mut Inbox) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.socket.poll_read_ready(cx))?;
            let received = ready.try_io(|socket| inbox.receive(socket.as_raw_fd()));
            let Ok(received) = received else { continue };
            if matches!(received, Ok(datagrams) if datagrams < BATCH) {
                // It is empty: the next call need not ask.
                ready.clear_ready();
            }
            return Poll::Ready(received);
        }
    }

    /// Waits until the network says something about a connected socket's peer. Not ready for what
    /// has come in. Once ready, it is ready ever after.
    pub fn poll_error(&self, cx: &mut Context<'_>) -> Poll<io::Error> {
        // Only input is watched, so what a writer is woken by is an error.
        let failed = match ready!(self.socket.poll_write_ready(cx)) {
            Ok(_) => self.socket.get_ref().take_error(),
            Err(error) => Err(error),
        };
        Poll::Ready(match failed {
            Ok(Some(error)) | Err(error) => error,
            Ok(None) => io::Error::from(io::ErrorKind::ConnectionRefused),
        })
    }

    pub(super) fn descriptor(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
