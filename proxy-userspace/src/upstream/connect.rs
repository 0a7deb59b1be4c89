//! Opening connections.

use crate::net::{Nanos, Stream, Timer};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::Poll;
use tokio::net::TcpSocket;

/// No connection could be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// It took too long.
    #[error("no answer in time")]
    Timeout,
    /// The system, or the host asked, refused.
    #[error("the connection cannot be opened")]
    Io(#[source] io::Error),
}

impl ConnectError {
    /// True if this host lacks descriptors, ports or memory: another backend would not help.
    pub fn is_exhaustion(&self) -> bool {
        match self {
            Self::Timeout => false,
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

/// Opens a connection. `timer` is set to end it after `timeout`, and is left set.
///
/// # Errors
///
/// [`ConnectError`].
///
/// # Cancel safety
///
/// The attempt ends.
pub async fn connect(
    address: SocketAddr,
    timer: &Timer,
    timeout: Nanos,
) -> Result<Stream, ConnectError> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    };
    let connecting = socket.map_err(ConnectError::Io)?.connect(address);
    let mut connecting = pin!(connecting);
    timer.set_after(timeout);
    let connected = poll_fn(|cx| match connecting.as_mut().poll(cx) {
        Poll::Ready(connected) => Poll::Ready(Ok(connected)),
        Poll::Pending if timer.poll_expired(cx) => Poll::Ready(Err(ConnectError::Timeout)),
        Poll::Pending => Poll::Pending,
    });
    let socket = connected.await?.map_err(ConnectError::Io)?;
    Stream::new(socket).map_err(ConnectError::Io)
}
