//! What a handshake has agreed on.

use rustls::pki_types::CertificateDer;
use rustls::{CipherSuite, Connection, HandshakeKind, ProtocolVersion};

/// What a handshake has agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFacts {
    /// TLS 1.2 or 1.3.
    pub version: ProtocolVersion,
    /// How records are sealed.
    pub suite: CipherSuite,
    /// The application's protocol (ALPN, RFC 7301), if one was agreed on.
    pub alpn: Option<Box<[u8]>>,
    /// The server's name that the client asked for, in lower case; of server's sessions only.
    pub server_name: Option<Box<str>>,
    /// The other end's certificates, its own first.
    pub peer_certificates: Box<[CertificateDer<'static>]>,
    /// True if keys were taken over from an earlier session.
    pub is_resumed: bool,
}

impl TlsFacts {
    /// What this connection has agreed on; `None` before its handshake is done.
    pub(super) fn of(connection: &Connection) -> Option<Self> {
        if connection.is_handshaking() {
            return None;
        }
        let server_name = match connection {
            Connection::Server(server) => server.server_name().map(Into::into),
            Connection::Client(_) => None,
        };
        let certificates = connection.peer_certificates().unwrap_or_default();
        Some(Self {
            version: connection.protocol_version()?,
            suite: connection.negotiated_cipher_suite()?.suite(),
            alpn: connection.alpn_protocol().map(Into::into),
            server_name,
            peer_certificates: certificates
                .iter()
                .map(|one| one.clone().into_owned())
                .collect(),
            is_resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
        })
    }
}
