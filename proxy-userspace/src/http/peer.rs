//! Who is at the other end of a client's connection.

use std::net::{IpAddr, SocketAddr};

/// The two ends of a client's connection, with what is written about them for each request.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The client; behind a PROXY header, what that says.
    pub client: SocketAddr,
    /// Our end.
    pub server: SocketAddr,
    /// Number of the connection, unique in the life of the process.
    pub number: u64,
    /// The client's address as text.
    pub address: Box<str>,
    /// Our port as text.
    pub port: Box<str>,
}

impl Peer {
    /// Of a connection between these two.
    pub fn new(client: SocketAddr, server: SocketAddr, number: u64) -> Self {
        let client = SocketAddr::new(client.ip().to_canonical(), client.port());
        Self {
            client,
            server,
            number,
            address: client.ip().to_string().into(),
            port: server.port().to_string().into(),
        }
    }

    /// The client's address.
    pub fn ip(&self) -> IpAddr {
        self.client.ip()
    }
}
