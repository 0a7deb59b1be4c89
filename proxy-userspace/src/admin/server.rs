//! Serves a router on a listener until told to stop.
//!
//! The endpoint is small and its clients are few, but it shares a process with the daemon: a
//! client may not hold a connection open without sending its request, nor may many connections
//! use up the daemon's file descriptors.

use crate::admin::access::Access;
use crate::admin::caller::Caller;
use crate::admin::certificate;
use axum::Router;
use axum::serve::Listener;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tracing::debug;

/// Connections of one listener at once. More wait in the kernel's queue.
pub const MAX_CONNECTIONS: usize = 128;

/// Time in which a client must send the head of a request.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Time that open connections get to finish once the daemon stops.
pub const GRACE: Duration = Duration::from_secs(2);

/// Time in which a client must be done with the TLS handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves until `stopping` becomes true (or its sender is gone), then lets open requests finish
/// for [`GRACE`]. `open` makes of a connection what is spoken over, and says who is at its other
/// end; requests carry that as an extension.
///
/// # Cancel safety
///
/// Dropping the future closes the listener and all connections at once.
pub async fn serve<L, O, F, I>(
    mut listener: L,
    open: O,
    router: Router,
    stopping: watch::Receiver<bool>,
) where
    L: Listener,
    O: Fn(L::Io, L::Addr) -> F,
    F: Future<Output = Option<(I, Caller)>> + Send + 'static,
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    let mut stop = stopping.clone();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&mut listener, &permits) => accepted,
            Some(_) = connections.join_next() => continue,
            _ = stop.wait_for(|stopping| *stopping) => break,
        };
        let Some(((io, address), permit)) = accepted else {
            break;
        };
        let opened = open(io, address);
        let (router, stopping) = (router.clone(), stopping.clone());
        connections.spawn(async move {
            if let Some((io, caller)) = opened.await {
                connection(io, caller, router, stopping, permit).await;
            }
        });
    }
    drop(listener);
    let finished = async { while connections.join_next().await.is_some() {} };
    // On timeout the set is dropped, which ends what is left.
    let _ = tokio::time::timeout(GRACE, finished).await;
}

/// A process of this host.
pub async fn process(stream: UnixStream) -> Option<(UnixStream, Caller)> {
    let credentials = stream.peer_cred().ok();
    let caller = credentials.map_or(Caller::Unknown, |credentials| Caller::Process {
        user: credentials.uid(),
        process: credentials.pid(),
    });
    Some((stream, caller))
}

/// Somebody over TCP, in clear or over TLS, as the rules in force say.
pub async fn remote(
    stream: TcpStream,
    address: SocketAddr,
    access: Option<Arc<Access>>,
) -> Option<(Either<TcpStream, TlsStream<TcpStream>>, Caller)> {
    let tls = access.as_ref().and_then(|access| access.tls().cloned());
    let Some(tls) = tls else {
        return Some((Either::Left(stream), Caller::Address(address)));
    };
    let handshake = TlsAcceptor::from(tls).accept(stream);
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            debug!(%error, %address, "admin handshake failed");
            return None;
        }
        Err(_) => return None,
    };
    let (_, session) = stream.get_ref();
    let certificate = session.peer_certificates().and_then(|chain| chain.first());
    let caller = match certificate {
        None => Caller::Address(address),
        Some(der) => Caller::Certificate {
            subject: certificate::subject(der).unwrap_or_default(),
            address,
        },
    };
    Some((Either::Right(stream), caller))
}

async fn accept<L: Listener>(
    listener: &mut L,
    permits: &Arc<Semaphore>,
) -> Option<((L::Io, L::Addr), OwnedSemaphorePermit)> {
    // Before accepting, so that what we cannot serve yet stays in the kernel's queue.
    let permit = Arc::clone(permits).acquire_owned().await.ok()?;
    Some((listener.accept().await, permit))
}

async fn connection<I>(
    io: I,
    caller: Caller,
    router: Router,
    mut stopping: watch::Receiver<bool>,
    _permit: OwnedSemaphorePermit,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let inner = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(caller.clone());
        inner.call(request)
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(io), service);
    let mut serving = std::pin::pin!(serving);
    let mut told = false;
    loop {
        let stop = async {
            if told {
                pending::<()>().await;
            }
            let _ = stopping.wait_for(|stopping| *stopping).await;
        };
        tokio::select! {
            served = serving.as_mut() => {
                if let Err(error) = served {
                    debug!(%error, "admin connection ended");
                }
                return;
            }
            () = stop => {
                serving.as_mut().graceful_shutdown();
                told = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    async fn start() -> (
        std::net::SocketAddr,
        watch::Sender<bool>,
        tokio::task::JoinHandle<()>,
    ) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        let (stop, stopping) = watch::channel(false);
        let router = Router::new().route("/", get(|| async { "hello" }));
        (
            address,
            stop,
            tokio::spawn(serve(
                listener,
                |io, from| remote(io, from, None),
                router,
                stopping,
            )),
        )
    }

    #[tokio::test]
    async fn an_idle_connection_does_not_delay_the_stop() {
        let (address, stop, served) = start().await;
        let mut client = TcpStream::connect(address).await.expect("connects");
        client
            .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .expect("writes");
        let mut head = [0; 15];
        client.read_exact(&mut head).await.expect("answers");
        assert_eq!(&head, b"HTTP/1.1 200 OK");
        stop.send(true).expect("still served");
        tokio::time::timeout(GRACE / 2, served)
            .await
            .expect("stops at once")
            .expect("no panic");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_sends_its_request_is_cut_off() {
        let (address, _stop, _served) = start().await;
        let mut client = TcpStream::connect(address).await.expect("connects");
        client.write_all(b"GET / HTT").await.expect("writes");
        let mut rest = Vec::new();
        let read = client.read_to_end(&mut rest);
        tokio::time::timeout(HEADER_TIMEOUT * 2, read)
            .await
            .expect("closed")
            .expect("reads");
    }
}
