//! A real HTTP server and a UDP echo inside a backend's namespace.
//!
//! | request | answer |
//! |---|---|
//! | `GET /name` | the origin's name |
//! | `GET /bytes/N` | N octets of the [`Pattern`] |
//! | `PUT /upload` | `ok` if the body is the pattern, else 409 and where it differs |
//! | `GET /slow/MS` | the name, after MS milliseconds |
//! | `GET /status` | `ready` |
//! | `GET /healthz` | 200, or 503 after [`Origin::set_healthy`] with `false` |
//!
//! After [`Origin::set_failing`] all but `/healthz` is answered with 500, after
//! [`Origin::set_delay`] only after that time.
//!
//! Every answer has `X-Backend` (the name) and `X-Peer` (whom the origin believes to talk to).
//! The UDP echo puts `NAME:` before what it was sent.

use crate::http::Head;
use crate::netns::Namespace;
use crate::pattern::Pattern;
use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::oneshot;

/// A server that runs until it is dropped or [`Origin::kill`]ed.
#[derive(Debug)]
pub struct Origin {
    netns: Namespace,
    tcp_ports: Vec<u16>,
    udp: Vec<SocketAddr>,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What the server's tasks and the test both see.
#[derive(Debug)]
struct Shared {
    name: String,
    healthy: AtomicBool,
    failing: AtomicBool,
    delay_ms: AtomicU64,
    connections: AtomicU64,
    requests: AtomicU64,
    pattern: Pattern,
}

impl Origin {
    /// Starts a server in `netns`: HTTP on every address at `tcp_ports`, echo at the addresses
    /// `udp`, which are named so that an answer comes from where the question was sent.
    ///
    /// # Errors
    ///
    /// A port is taken, or an address is not the namespace's.
    pub fn start(
        netns: &Namespace,
        name: &str,
        tcp_ports: &[u16],
        udp: &[SocketAddr],
    ) -> Result<Self> {
        let mut origin = Self {
            netns: netns.clone(),
            tcp_ports: tcp_ports.to_vec(),
            udp: udp.to_vec(),
            shared: Arc::new(Shared {
                name: name.to_owned(),
                healthy: AtomicBool::new(true),
                failing: AtomicBool::new(false),
                delay_ms: AtomicU64::new(0),
                connections: AtomicU64::new(0),
                requests: AtomicU64::new(0),
                pattern: Pattern::new(),
            }),
            stop: None,
            thread: None,
        };
        origin.revive()?;
        Ok(origin)
    }

    /// Starts the server again after [`Self::kill`].
    ///
    /// # Errors
    ///
    /// As [`Self::start`].
    pub fn revive(&mut self) -> Result<()> {
        self.kill();
        let name = self.name();
        let (tcp, udp) = self.netns.run(|| -> Result<_> {
            let tcp = self
                .tcp_ports
                .iter()
                .map(|&port| listen(port).with_context(|| format!("{name} at port {port}")))
                .collect::<Result<Vec<_>>>()?;
            let udp = self
                .udp
                .iter()
                .map(|&address| {
                    let socket = std::net::UdpSocket::bind(address);
                    socket.with_context(|| format!("{name} at {address}"))
                })
                .collect::<Result<Vec<_>>>()?;
            Ok((tcp, udp))
        })?;
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::clone(&self.shared);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = self.netns.spawn(&format!("origin {name}"), move || {
            runtime.block_on(serve(shared, tcp, udp, stopped));
            // Dropping the runtime drops every task and closes every connection.
        })?;
        self.stop = Some(stop);
        self.thread = Some(thread);
        Ok(())
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// TCP connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Requests answered so far, health checks not counted.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Decides what health checks hear.
    pub fn set_healthy(&self, healthy: bool) {
        self.shared.healthy.store(healthy, Ordering::Relaxed);
    }

    /// Decides whether requests, but not health checks, are answered with 500.
    pub fn set_failing(&self, failing: bool) {
        self.shared.failing.store(failing, Ordering::Relaxed);
    }

    /// Has requests, but not health checks, wait for so long.
    pub fn set_delay(&self, delay: Duration) {
        let ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.shared.delay_ms.store(ms, Ordering::Relaxed);
    }

    /// Ends the server at once, as `kill -9` would: its connections are reset or closed and its
    /// ports refuse new ones.
    pub fn kill(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the server shows up as failed requests.
            let _ = thread.join();
        }
    }

    /// True until [`Self::kill`].
    pub fn is_running(&self) -> bool {
        self.thread.is_some()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A listening socket for both families.
fn listen(port: u16) -> Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

/// Serves until told to stop.
async fn serve(
    shared: Arc<Shared>,
    tcp: Vec<std::net::TcpListener>,
    udp: Vec<std::net::UdpSocket>,
    stopped: oneshot::Receiver<()>,
) {
    for listener in tcp {
        tokio::spawn(accept(Arc::clone(&shared), listener));
    }
    for socket in udp {
        tokio::spawn(echo(Arc::clone(&shared), socket));
    }
    // Both a message and a dropped sender mean stop.
    let _ = stopped.await;
}

async fn accept(shared: Arc<Shared>, listener: std::net::TcpListener) -> Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, peer) = listener.accept().await?;
        shared.connections.fetch_add(1, Ordering::Relaxed);
        // A connection that fails is the client's to report.
        tokio::spawn(connection(Arc::clone(&shared), stream, peer));
    }
}

/// Answers requests on one connection until the client closes it.
async fn connection(shared: Arc<Shared>, mut stream: TcpStream, peer: SocketAddr) -> Result<()> {
    stream.set_nodelay(true)?;
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let mut buffer = Vec::new();
    loop {
        let head = loop {
            if let Some(head) = Head::take(&mut buffer)? {
                break head;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let length = head.body_length()?;
        let difference = read_body(&shared.pattern, &mut stream, &mut buffer, length).await?;
        let answer = answer(&shared, &head, difference).await?;
        let body_length = match &answer.body {
            Body::Text(text) => text.len() as u64,
            Body::Pattern(length) => *length,
        };
        let answer_head = format!(
            "HTTP/1.1 {}\r\nX-Backend: {}\r\nX-Peer: {peer}\r\nContent-Length: {body_length}\r\n\r\n",
            answer.status, shared.name,
        );
        match answer.body {
            Body::Text(text) => stream.write_all((answer_head + &text).as_bytes()).await?,
            Body::Pattern(length) => {
                stream.write_all(answer_head.as_bytes()).await?;
                send_pattern(&shared.pattern, &mut stream, length).await?;
            }
        }
    }
}

/// Reads a body and says where it differs from the pattern.
async fn read_body(
    pattern: &Pattern,
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    length: u64,
) -> Result<Option<u64>> {
    let mut offset = 0;
    let mut difference = None;
    while offset < length {
        if buffer.is_empty() {
            buffer.reserve(Pattern::CHUNK);
            if stream.read_buf(buffer).await? == 0 {
                anyhow::bail!("closed inside a body");
            }
        }
        let take = (length - offset).min(buffer.len() as u64);
        difference =
            difference.or_else(|| pattern.first_difference(offset, &buffer[..take as usize]));
        buffer.drain(..take as usize);
        offset += take;
    }
    Ok(difference)
}

async fn send_pattern(pattern: &Pattern, stream: &mut TcpStream, length: u64) -> Result<()> {
    let mut offset = 0;
    while offset < length {
        let part = pattern.at(offset, length - offset);
        stream.write_all(part).await?;
        offset += part.len() as u64;
    }
    Ok(())
}

/// What is answered.
struct Answer {
    status: &'static str,
    body: Body,
}

enum Body {
    Text(String),
    Pattern(u64),
}

impl Answer {
    fn ok(text: impl Into<String>) -> Self {
        Self {
            status: "200 OK",
            body: Body::Text(text.into()),
        }
    }

    fn refusal(status: &'static str, text: impl Into<String>) -> Self {
        Self {
            status,
            body: Body::Text(text.into()),
        }
    }
}

async fn answer(shared: &Shared, head: &Head, difference: Option<u64>) -> Result<Answer> {
    let (method, target) = head.request()?;
    if target == "/healthz" {
        return Ok(if shared.healthy.load(Ordering::Relaxed) {
            Answer::ok("healthy")
        } else {
            Answer::refusal("503 Service Unavailable", "told to be unhealthy")
        });
    }
    shared.requests.fetch_add(1, Ordering::Relaxed);
    let delay = shared.delay_ms.load(Ordering::Relaxed);
    if delay > 0 {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
    if shared.failing.load(Ordering::Relaxed) {
        return Ok(Answer::refusal("500 Internal Server Error", "told to fail"));
    }
    let number = |prefix| {
        target
            .strip_prefix(prefix)
            .and_then(|n: &str| n.parse().ok())
    };
    if method == "PUT" && target == "/upload" {
        return Ok(match difference {
            None => Answer::ok("ok"),
            Some(offset) => Answer::refusal("409 Conflict", format!("differs at {offset}")),
        });
    }
    if let Some(length) = number("/bytes/") {
        return Ok(Answer {
            status: "200 OK",
            body: Body::Pattern(length),
        });
    }
    if let Some(ms) = number("/slow/") {
        tokio::time::sleep(Duration::from_millis(ms)).await;
        return Ok(Answer::ok(shared.name.clone()));
    }
    Ok(match target {
        "/" | "/name" => Answer::ok(shared.name.clone()),
        "/status" => Answer::ok("ready"),
        _ => Answer::refusal("404 Not Found", "no such thing here"),
    })
}

/// Sends every datagram back with the name before it.
async fn echo(shared: Arc<Shared>, socket: std::net::UdpSocket) -> Result<()> {
    socket.set_nonblocking(true)?;
    let socket = UdpSocket::from_std(socket)?;
    let mut buffer = vec![0; 65_536];
    loop {
        let (length, peer) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // An ICMP error about an earlier answer; the next datagram is none the worse.
            Err(_) => continue,
        };
        shared.requests.fetch_add(1, Ordering::Relaxed);
        let mut answer = format!("{}:", shared.name).into_bytes();
        answer.extend_from_slice(&buffer[..length]);
        let _ = socket.send_to(&answer, peer).await;
    }
}
