//! Why a handshake fails.

use crate::net::client_hello::Alert;
use rustls::Error;
use std::io;

/// A handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The socket failed.
    #[error("the connection failed in the handshake")]
    Io(#[source] io::Error),
    /// The other end has closed.
    #[error("the other end closed the connection in the handshake")]
    Closed,
    /// The other end speaks something else. It was not answered.
    #[error("the other end does not speak TLS")]
    NotTls(Foreign),
    /// The two could not agree, one does not trust the other, or one breaks the protocol. The
    /// other end was told by an alert, as far as the socket took it.
    #[error("{0}")]
    Tls(#[source] Error),
    /// It took too long.
    #[error("the handshake took too long")]
    TimedOut,
}

/// What the other end seems to speak instead of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// HTTP/1, or HTTP/2 without TLS.
    Http,
    /// Something else.
    Other,
}

/// Kinds of records that a connection may begin with (RFC 8446 §5.1).
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;

impl Foreign {
    /// Judges the first octets of a connection, which must be some.
    pub(super) fn of(octets: &[u8]) -> Option<Self> {
        match octets.first()? {
            &(ALERT | HANDSHAKE) => None,
            // A method (or the preface of HTTP/2).
            first if first.is_ascii_uppercase() => Some(Self::Http),
            _ => Some(Self::Other),
        }
    }
}

/// What to say of an error of which the library says nothing (RFC 8446 §6.2). An alert of the other
/// end is not answered.
pub(super) const fn alert(error: &Error) -> Option<Alert> {
    match error {
        Error::AlertReceived(_) => None,
        Error::InvalidMessage(_) => Some(Alert::DecodeError),
        Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. }
        | Error::PeerMisbehaved(_) => Some(Alert::UnexpectedMessage),
        _ => Some(Alert::HandshakeFailure),
    }
}
