//! A worker's sockets.

use crate::net::{datagram, listen};
use crate::types::Protocol;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What is spoken at a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// HTTP.
    Http,
    /// TCP is passed on.
    Tcp,
    /// UDP is passed on.
    Udp,
}

impl Kind {
    pub(super) fn protocol(self) -> Protocol {
        match self {
            Self::Http | Self::Tcp => Protocol::Tcp,
            Self::Udp => Protocol::Udp,
        }
    }
}

/// A worker's socket of a listener.
#[derive(Debug)]
pub(super) enum Socket {
    /// Requests come here.
    Http(TcpListener),
    /// Connections to be passed on come here.
    Tcp(TcpListener),
    /// Datagrams come here.
    Udp(UdpSocket),
}

impl Socket {
    pub(super) fn bind(kind: Kind, address: SocketAddr) -> io::Result<Self> {
        Ok(match kind {
            Kind::Http => Self::Http(listen::bind(address)?),
            Kind::Tcp => Self::Tcp(listen::bind(address)?),
            Kind::Udp => Self::Udp(datagram::bind(address)?),
        })
    }

    /// A socket that is bound already.
    pub(super) fn of(kind: Kind, socket: OwnedFd) -> Self {
        match kind {
            Kind::Http => Self::Http(socket.into()),
            Kind::Tcp => Self::Tcp(socket.into()),
            Kind::Udp => Self::Udp(socket.into()),
        }
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Http(_) => Kind::Http,
            Self::Tcp(_) => Kind::Tcp,
            Self::Udp(_) => Kind::Udp,
        }
    }

    /// Another descriptor of the same socket.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Http(socket) => Self::Http(socket.try_clone()?),
            Self::Tcp(socket) => Self::Tcp(socket.try_clone()?),
            Self::Udp(socket) => Self::Udp(socket.try_clone()?),
        })
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Http(socket) | Self::Tcp(socket) => socket.local_addr(),
            Self::Udp(socket) => socket.local_addr(),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Http(socket) | Self::Tcp(socket) => socket.as_fd(),
            Self::Udp(socket) => socket.as_fd(),
        }
    }
}
