//! A client in its own namespace: TCP and HTTP, UDP echo, ICMP echo, curl.

use crate::command::run;
use crate::connection::{Connection, Response};
use crate::netns::Namespace;
use crate::wait::{PATIENCE, uninterrupted};
use anyhow::{Context, Result, bail, ensure};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// How many new connections each backend answered, by its name.
pub type Shares = BTreeMap<String, u64>;

/// Opens sockets in a namespace.
#[derive(Clone, Debug)]
pub struct Client {
    netns: Namespace,
    source: Option<IpAddr>,
    timeout: Duration,
}

impl Client {
    /// A client in `netns` with all the patience that a busy machine needs: what is lost on the
    /// way is sent again, and shows in [`crate::losses`] and not as an error.
    pub fn new(netns: &Namespace) -> Self {
        Self {
            netns: netns.clone(),
            source: None,
            timeout: PATIENCE,
        }
    }

    /// The same client with another source address.
    pub fn from(self, source: impl Into<IpAddr>) -> Self {
        Self {
            source: Some(source.into()),
            ..self
        }
    }

    /// The same client with another patience.
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// The namespace.
    pub fn netns(&self) -> &Namespace {
        &self.netns
    }

    /// Opens a connection.
    ///
    /// # Errors
    ///
    /// Refused, unreachable, or no answer within the timeout.
    pub fn connect(&self, to: SocketAddr) -> Result<Connection> {
        self.netns.run(|| self.connect_here(to))
    }

    /// As [`Self::connect`], from a thread that is in the namespace already.
    ///
    /// # Errors
    ///
    /// As [`Self::connect`].
    pub fn connect_here(&self, to: SocketAddr) -> Result<Connection> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        if let Some(source) = self.source {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        socket
            .connect_timeout(&to.into(), self.timeout)
            .with_context(|| format!("connecting to {to}"))?;
        let stream: TcpStream = socket.into();
        stream.set_read_timeout(Some(self.timeout))?;
        stream.set_write_timeout(Some(self.timeout))?;
        stream.set_nodelay(true)?;
        Ok(Connection::new(stream))
    }

    /// One request on a new connection.
    ///
    /// # Errors
    ///
    /// The connection or the request fails.
    pub fn get(&self, to: SocketAddr, path: &str) -> Result<Response> {
        self.connect(to)?.get(path)
    }

    /// Makes `count` requests, each on a new connection, and counts who answered.
    ///
    /// # Errors
    ///
    /// The first request that fails.
    pub fn shares(&self, to: SocketAddr, count: u64) -> Result<Shares> {
        self.netns.run(|| {
            let mut shares = Shares::new();
            for number in 0..count {
                let response = self
                    .connect_here(to)
                    .and_then(|mut connection| connection.get("/name"))
                    .with_context(|| format!("request {number} of {count}"))?;
                ensure!(response.status == 200, "status {}", response.status);
                *shares.entry(response.backend).or_default() += 1;
            }
            Ok(shares)
        })
    }

    /// Opens `count` connections and makes one request on each; they stay open.
    ///
    /// # Errors
    ///
    /// One of them fails.
    pub fn hold(&self, to: SocketAddr, count: usize) -> Result<Held> {
        let connections = (0..count)
            .map(|_| {
                let mut connection = self.connect(to)?;
                let backend = connection.get("/name")?.backend;
                Ok(HeldConnection {
                    connection,
                    backend,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Held { connections })
    }

    /// Sends a datagram to an echo and returns who answered and what.
    ///
    /// # Errors
    ///
    /// No answer within the timeout.
    pub fn udp_echo(&self, to: SocketAddr, payload: &[u8]) -> Result<(String, Vec<u8>)> {
        self.udp_socket(to)?.echo(payload)
    }

    /// A UDP socket connected to `to`, whose datagrams are one flow.
    ///
    /// # Errors
    ///
    /// There is no route.
    pub fn udp_socket(&self, to: SocketAddr) -> Result<UdpFlow> {
        let unspecified: IpAddr = if to.is_ipv6() {
            std::net::Ipv6Addr::UNSPECIFIED.into()
        } else {
            std::net::Ipv4Addr::UNSPECIFIED.into()
        };
        let source = SocketAddr::new(self.source.unwrap_or(unspecified), 0);
        let timeout = self.timeout;
        self.netns.run(move || {
            let socket = UdpSocket::bind(source)?;
            socket.connect(to)?;
            socket.set_read_timeout(Some(timeout))?;
            Ok(UdpFlow { socket })
        })
    }

    /// Sends an ICMP echo request of `length` octets of data and waits for the reply.
    ///
    /// # Errors
    ///
    /// No reply within the timeout, or not with the same data.
    pub fn ping(&self, to: IpAddr, length: usize) -> Result<Duration> {
        let (domain, protocol, request, reply) = match to {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 0),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129),
        };
        let socket = self
            .netns
            .run(|| Socket::new(domain, Type::DGRAM, Some(protocol)))?;
        socket.set_read_timeout(Some(self.timeout))?;
        let address = SockAddr::from(SocketAddr::new(to, 0));
        if let Some(source) = self.source {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        socket.connect(&address)?;
        // Type, code, checksum and identifier (the kernel fills those two), sequence number.
        let mut packet = vec![request, 0, 0, 0, 0, 0, 0, 1];
        packet.extend((0..length).map(|index| index as u8));
        let sent_at = Instant::now();
        socket.send(&packet)?;
        let mut buffer = vec![0; 65_536];
        let read = uninterrupted(|| std::io::Read::read(&mut &socket, &mut buffer))
            .with_context(|| format!("no echo reply from {to}"))?;
        ensure!(buffer[0] == reply, "ICMP type {} from {to}", buffer[0]);
        ensure!(
            buffer[8..read] == packet[8..],
            "the reply's data differs: {read} octets"
        );
        Ok(sent_at.elapsed())
    }

    /// Fetches a URL with curl; returns the body.
    ///
    /// # Errors
    ///
    /// curl fails; its message is the error.
    pub fn curl(&self, args: &[&str]) -> Result<String> {
        run(self.netns.command("curl").args(
            [
                "--silent",
                "--show-error",
                "--fail",
                "--noproxy",
                "*",
                "--max-time",
                "10",
            ]
            .iter()
            .chain(args),
        ))
    }
}

/// A UDP socket whose datagrams are one flow.
#[derive(Debug)]
pub struct UdpFlow {
    socket: UdpSocket,
}

impl UdpFlow {
    /// Sends a datagram and returns who answered and what.
    ///
    /// # Errors
    ///
    /// No answer within the timeout, or it cannot be sent.
    pub fn echo(&self, payload: &[u8]) -> Result<(String, Vec<u8>)> {
        self.socket.send(payload).context("sending a datagram")?;
        let mut buffer = vec![0; 65_536];
        let length = uninterrupted(|| self.socket.recv(&mut buffer));
        let length = length.context("waiting for the echo")?;
        let answer = &buffer[..length];
        let Some(colon) = answer.iter().position(|&octet| octet == b':') else {
            bail!("not an answer of an echo");
        };
        let name = String::from_utf8_lossy(&answer[..colon]).into_owned();
        Ok((name, answer[colon + 1..].to_vec()))
    }

    /// The socket.
    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }
}

/// Connections that are kept open while things happen to the balancer.
#[derive(Debug)]
pub struct Held {
    connections: Vec<HeldConnection>,
}

#[derive(Debug)]
struct HeldConnection {
    connection: Connection,
    backend: String,
}

impl Held {
    /// How many connections each backend has.
    pub fn shares(&self) -> Shares {
        let mut shares = Shares::new();
        for held in &self.connections {
            *shares.entry(held.backend.clone()).or_default() += 1;
        }
        shares
    }

    /// Makes a request on every connection: each must still be answered by its first backend.
    ///
    /// # Errors
    ///
    /// A connection broke, or another backend answers on it.
    pub fn check(&mut self) -> Result<()> {
        self.check_except("")
    }

    /// As [`Self::check`], but the connections of one backend may be broken and are let go.
    ///
    /// # Errors
    ///
    /// As [`Self::check`].
    pub fn check_except(&mut self, backend: &str) -> Result<()> {
        self.connections.retain(|held| held.backend != backend);
        for held in &mut self.connections {
            let response = held.connection.get("/name").with_context(|| {
                let source = held.connection.local_addr();
                format!("on a held connection to {} from {source:?}", held.backend)
            })?;
            ensure!(
                response.backend == held.backend,
                "a connection to {} is now answered by {}",
                held.backend,
                response.backend
            );
        }
        Ok(())
    }

    /// How many are held.
    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// True if none is.
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }
}
