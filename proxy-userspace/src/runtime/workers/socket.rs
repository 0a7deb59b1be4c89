//! A worker's sockets.

use crate::net::{datagram, listen};
use crate::types::Protocol;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

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

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Http(socket) | Self::Tcp(socket) => socket.local_addr(),
            Self::Udp(socket) => socket.local_addr(),
        }
    }
}
