//! The origin behind the proxies: as cheap as it can be, so that it never is the bottleneck. It
//! knows a few requests by heart, and answers with what was prepared before the start.
//!
//! HTTP/1.1 at one port ([`h1`]), HTTP/2 in clear text at another ([`h2`]). It runs on a thread of
//! its own, on the CPU that it shares with the load.

mod h1;
mod h2;

use super::pin;
use super::tls::{self, Wire};
use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

/// Octets of the small answer.
pub const SMALL: usize = 128;
/// Octets of the large answer.
pub const LARGE: usize = 1 << 20;
/// Octets of the huge answer.
pub const HUGE: usize = 64 << 20;
/// Path of the large answer.
pub const LARGE_PATH: &str = "/1m";
/// Path of the huge one; every other path gets the small one.
pub const HUGE_PATH: &str = "/64m";

/// A running origin. Dropping it ends it.
#[derive(Debug)]
pub struct Origin {
    /// Where it speaks HTTP/1.1.
    pub h1: SocketAddr,
    /// Where it speaks HTTP/2.
    pub h2: SocketAddr,
    /// Where it speaks HTTP/1.1 over TLS.
    pub h1_tls: SocketAddr,
    seen: Arc<Seen>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What the origin noticed. Only the first request of a connection is looked at so closely.
#[derive(Debug, Default)]
struct Seen {
    connections: AtomicU64,
    forwarded: AtomicU64,
}

impl Seen {
    fn first_request(&self, has_forwarded_for: bool) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.forwarded
            .fetch_add(has_forwarded_for.into(), Ordering::Relaxed);
    }
}

impl Origin {
    /// Starts it on CPU `cpu`, at free ports of this host.
    ///
    /// # Errors
    ///
    /// No thread or socket can be made.
    pub fn start(cpu: usize) -> Result<Self> {
        let sockets = Sockets {
            h1: listen()?,
            h2: listen()?,
            h1_tls: listen()?,
            acceptor: tls::acceptor(false)?,
        };
        let [h1, h2, h1_tls] = [&sockets.h1, &sockets.h2, &sockets.h1_tls];
        let (h1, h2, h1_tls) = (h1.local_addr()?, h2.local_addr()?, h1_tls.local_addr()?);
        let seen = Arc::new(Seen::default());
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let for_thread = Arc::clone(&seen);
        let thread = std::thread::Builder::new()
            .name("origin".to_owned())
            .spawn(move || {
                // Unpinned it would serve as well; the figures would tell.
                let _ = pin(cpu);
                let local = tokio::task::LocalSet::new();
                local.block_on(&runtime, serve(sockets, for_thread, stopped));
            })?;
        Ok(Self {
            h1,
            h2,
            h1_tls,
            seen,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// How many connections have brought a request, and how many of these first requests said
    /// whom they were forwarded for.
    pub fn seen(&self) -> (u64, u64) {
        (
            self.seen.connections.load(Ordering::Relaxed),
            self.seen.forwarded.load(Ordering::Relaxed),
        )
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the origin shows up as failed requests.
            let _ = thread.join();
        }
    }
}

fn listen() -> Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.listen(8192)?;
    Ok(socket.into())
}

/// Where the origin listens.
struct Sockets {
    h1: std::net::TcpListener,
    h2: std::net::TcpListener,
    h1_tls: std::net::TcpListener,
    acceptor: TlsAcceptor,
}

async fn serve(sockets: Sockets, seen: Arc<Seen>, stopped: oneshot::Receiver<()>) {
    let Sockets {
        h1,
        h2,
        h1_tls,
        acceptor,
    } = sockets;
    let answers = Rc::new(h1::Answers::new());
    let (for_h1, for_tls) = (Arc::clone(&seen), Arc::clone(&seen));
    let same = Rc::clone(&answers);
    tokio::task::spawn_local(accept(h1, move |stream| {
        h1::connection(Wire::Plain(stream), Rc::clone(&same), Arc::clone(&for_h1))
    }));
    tokio::task::spawn_local(accept(h1_tls, move |stream| {
        let (acceptor, answers) = (acceptor.clone(), Rc::clone(&answers));
        let seen = Arc::clone(&for_tls);
        async move {
            let stream = acceptor.accept(stream).await?;
            h1::connection(Wire::Tls(Box::new(stream.into())), answers, seen).await
        }
    }));
    tokio::task::spawn_local(accept(h2, move |stream| {
        h2::connection(Wire::Plain(stream), Arc::clone(&seen))
    }));
    // Both a message and a dropped sender mean stop.
    let _ = stopped.await;
}

async fn accept<F>(listener: std::net::TcpListener, serve: impl Fn(TcpStream) -> F) -> Result<()>
where
    F: Future<Output = Result<()>> + 'static,
{
    let listener = TcpListener::from_std(listener).context("the origin's socket")?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        // A connection that fails is the load's to report.
        tokio::task::spawn_local(serve(stream));
    }
}

/// The octet at an offset of any body.
pub fn octet(offset: usize) -> u8 {
    b'a' + (offset % 23) as u8
}

/// A body of this length.
pub fn body(length: usize) -> Vec<u8> {
    (0..length).map(octet).collect()
}
