//! Who is at the other end of a client's connection.

use super::census::Live;
use super::secure::Secured;
use crate::sockets::redirect::Redirected;
use std::fmt::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

/// The two ends of a client's connection, with what is written about them for each request.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The client; behind a PROXY header, what that says.
    pub client: SocketAddr,
    /// Our end.
    pub server: SocketAddr,
    /// Number of the connection, unique in the life of the process.
    pub number: u64,
    /// What is known of the connection while it lives.
    pub live: Rc<Live>,
    /// What the connection is sealed by, if it is.
    pub tls: Option<Rc<Secured>>,
    /// Whose it is, if it was redirected.
    pub mesh: Option<Rc<Redirected>>,
    address: Short<LONGEST_ADDRESS>,
    port: Short<LONGEST_PORT>,
}

/// Octets of the longest text of an address: an IPv6 address whose last 32 bits are written as
/// IPv4.
const LONGEST_ADDRESS: usize = 45;

/// Octets of the longest port.
const LONGEST_PORT: usize = 5;

impl Peer {
    /// Of a connection between these two.
    pub fn new(client: SocketAddr, server: SocketAddr, number: u64) -> Self {
        let client = SocketAddr::new(client.ip().to_canonical(), client.port());
        Self {
            client,
            server,
            number,
            live: Rc::new(Live::new(number, client, server)),
            tls: None,
            mesh: None,
            address: Short::of(client.ip()),
            port: Short::of(server.port()),
        }
    }

    /// The same connection, between those that a PROXY header names.
    #[must_use]
    pub fn behind(&self, client: SocketAddr, server: SocketAddr) -> Self {
        self.live.set_ends(client, server);
        Self {
            live: Rc::clone(&self.live),
            mesh: self.mesh.clone(),
            ..Self::new(client, server, self.number)
        }
    }

    /// The same connection, which was to go elsewhere: that is our end for whoever asks.
    #[must_use]
    pub fn redirected(&self, redirected: Rc<Redirected>) -> Self {
        Self {
            mesh: Some(Rc::clone(&redirected)),
            ..self.behind(self.client, redirected.destination)
        }
    }

    /// The cgroup of the program that opened it, or that it was opened to, by its path, if it was
    /// redirected.
    pub fn workload(&self) -> Option<&str> {
        self.mesh.as_ref().map(|mesh| &*mesh.workload)
    }

    /// The client's address.
    pub fn ip(&self) -> IpAddr {
        self.client.ip()
    }

    /// The client's address as text.
    pub fn address(&self) -> &[u8] {
        self.address.text()
    }

    /// Our port as text.
    pub fn port(&self) -> &[u8] {
        self.port.text()
    }
}

/// A text of at most `N` octets, which needs no memory elsewhere.
#[derive(Clone, Copy, Debug)]
struct Short<const N: usize> {
    octets: [u8; N],
    len: u8,
}

impl<const N: usize> Short<N> {
    fn of(value: impl fmt::Display) -> Self {
        let mut short = Self {
            octets: [0; N],
            len: 0,
        };
        let written = write!(short, "{value}");
        debug_assert!(written.is_ok(), "longer than the longest");
        short
    }

    fn text(&self) -> &[u8] {
        &self.octets[..usize::from(self.len)]
    }
}

impl<const N: usize> fmt::Write for Short<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let at = usize::from(self.len);
        let room = self.octets.get_mut(at..at + text.len()).ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.len += text.len() as u8;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_texts_have_room() {
        for address in [
            "1111:2222:3333:4444:5555:6666:7777:8888",
            "255.255.255.255",
            "::",
        ] {
            let client = SocketAddr::new(address.parse().expect("an address"), 1);
            let peer = Peer::new(client, SocketAddr::new(client.ip(), 65535), 1);
            assert_eq!(peer.address(), address.as_bytes());
            assert_eq!(peer.port(), b"65535");
        }
    }

    #[test]
    fn an_ipv4_address_in_ipv6_form_is_written_as_ipv4() {
        let client = "[::ffff:192.0.2.1]:80".parse().expect("an address");
        assert_eq!(Peer::new(client, client, 1).address(), b"192.0.2.1");
    }
}
