//! Opening connections.

use super::tls::{ClientSide, Offer, Seal, TlsFailure};
use crate::balance::l7::BackendState;
use crate::net::{Nanos, Stream, Timer, Watches};
use crate::sockets::{self, Acceleration};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use tokio::net::TcpSocket;
use tracing::debug;

/// No connection could be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// It took too long.
    #[error("no answer in time")]
    Timeout,
    /// The system, or the host asked, refused.
    #[error("the connection cannot be opened")]
    Io(#[source] io::Error),
    /// There is no TLS with the host.
    #[error("no TLS with the backend: {0:?}")]
    Tls(TlsFailure),
}

impl ConnectError {
    /// True if this host lacks descriptors, ports or memory: another backend would not help.
    pub fn is_exhaustion(&self) -> bool {
        match self {
            Self::Timeout | Self::Tls(_) => false,
            Self::Io(error) => matches!(
                error.raw_os_error(),
                Some(
                    libc::EMFILE
                        | libc::ENFILE
                        | libc::ENOBUFS
                        | libc::ENOMEM
                        | libc::EADDRNOTAVAIL
                )
            ),
        }
    }
}

/// Where a connection leads.
#[derive(Debug)]
pub struct Target<'a> {
    /// To whom.
    pub backend: &'a Arc<BackendState>,
    /// TLS, if it is spoken, what is offered then, and for whom it is.
    pub tls: Option<(&'a ClientSide, Offer, Seal<'a>)>,
    /// What is sent before TLS begins: a PROXY header. Without TLS the caller sends it.
    pub preamble: &'a [u8],
    /// Who looks how the connection fares.
    pub watches: &'a Rc<Watches>,
    /// Passes octets on past TCP, if the backend is on this host.
    pub acceleration: Option<&'a Acceleration>,
}

/// Opens a connection, and negotiates TLS if it is spoken. `timer` is set to end all of it after
/// `timeout`, and is left set.
///
/// # Errors
///
/// [`ConnectError`].
///
/// # Cancel safety
///
/// The attempt ends.
pub async fn open(
    target: &Target<'_>,
    timer: &Timer,
    timeout: Nanos,
) -> Result<Stream, ConnectError> {
    let mut stream = connect(
        target.backend.address(),
        target.acceleration,
        timer,
        timeout,
    )
    .await?;
    stream.watch(target.watches, target.backend);
    let Some((side, offer, seal)) = target.tls else {
        return Ok(stream);
    };
    let mut preamble = target.preamble;
    while !preamble.is_empty() {
        let written = poll_fn(|cx| match stream.poll_write(cx, preamble, &[]) {
            Poll::Ready(written) => Poll::Ready(written.map_err(ConnectError::Io)),
            Poll::Pending if timer.poll_expired(cx) => Poll::Ready(Err(ConnectError::Timeout)),
            Poll::Pending => Poll::Pending,
        });
        preamble = &preamble[written.await?..];
    }
    let session = side.begin(target.backend, offer, seal);
    let session = session.map_err(|_| ConnectError::Tls(TlsFailure::Failed))?;
    stream.begin_tls(session, Vec::new());
    let negotiated = stream.handshake(timer).await;
    negotiated.map_err(|error| match TlsFailure::of(&error) {
        Some(failure) => {
            debug!(backend = target.backend.name(), address = %target.backend.address(), %error, "no TLS");
            ConnectError::Tls(failure)
        }
        None => ConnectError::Timeout,
    })?;
    Ok(stream)
}

/// Opens a connection. `timer` is set to end it after `timeout`, and is left set.
///
/// # Errors
///
/// [`ConnectError`].
///
/// # Cancel safety
///
/// The attempt ends.
async fn connect(
    address: SocketAddr,
    acceleration: Option<&Acceleration>,
    timer: &Timer,
    timeout: Nanos,
) -> Result<Stream, ConnectError> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    };
    let socket = socket.map_err(ConnectError::Io)?;
    if let Some(acceleration) = acceleration {
        acceleration.mark(&socket);
    }
    let connecting = socket.connect(address);
    let mut connecting = pin!(connecting);
    timer.set_after(timeout);
    let connected = poll_fn(|cx| match connecting.as_mut().poll(cx) {
        Poll::Ready(connected) => Poll::Ready(Ok(connected)),
        Poll::Pending if timer.poll_expired(cx) => Poll::Ready(Err(ConnectError::Timeout)),
        Poll::Pending => Poll::Pending,
    });
    let socket = connected.await?.map_err(ConnectError::Io)?;
    let local = sockets::are_in_use()
        .then(|| socket.local_addr())
        .transpose();
    let local = local.map_err(ConnectError::Io)?;
    let mut stream = Stream::new(socket).map_err(ConnectError::Io)?;
    if let Some(local) = local {
        stream.is_between(local.ip(), address.ip());
    }
    Ok(stream)
}
