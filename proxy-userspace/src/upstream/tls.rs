//! TLS to backends: what each handshake needs, and what a failed one means.
//!
//! Compiled from a service's settings when a configuration comes into force. All workers share it,
//! and where neither settings nor files have changed it goes on over a reload, with its sessions.
//!
//! Sessions are kept for each backend by itself: a ticket of one server is of no use at another,
//! and offered there would only cost octets.
//!
//! A connection that is kept serves only requests with the same [`Seal`]: one that was opened by
//! other settings, or for another name, may lead to another server than the one that is meant, or
//! was verified by another measure.

use crate::balance::l7::BackendState;
use crate::config::model::http::{TlsName, Upstream};
use crate::net::tls::HandshakeError;
use crate::observe::access_log::End;
use crate::observe::http::ConnectFailure;
use crate::trust::{SystemRoots, Trust, TrustError};
use parking_lot::Mutex;
use rustls::Error;
use rustls::client::{ClientConfig, ClientConnection, Resumption};
use rustls::pki_types::ServerName;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::SystemTime;

pub use crate::trust::TlsFailure;

/// Servers of which one backend's sessions are kept: it is one. The library takes the number of
/// sessions, of which it keeps eight for a server.
const SESSIONS: usize = 8;

/// The same where each request may ask for another name: sessions of so many names.
const SESSIONS_BY_HOST: usize = 64 * SESSIONS;

/// Which protocols are offered by ALPN (RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, and HTTP/1.1 if the service speaks both.
    Http2,
    /// What the service is configured to offer: whatever is passed on is not looked at.
    Stream,
}

/// A service's side of TLS.
#[derive(Debug)]
pub struct ClientSide {
    /// Tells it from all others, and from what is not sealed, which is 0.
    number: u64,
    config: ClientConfig,
    /// Equal only where settings and the contents of files are.
    digest: String,
    name: TlsName,
    /// The name is that of the request, where it has one.
    by_host: bool,
    is_http1_spoken: bool,
    alpn: Vec<Vec<u8>>,
    /// What is kept for each backend.
    known: Mutex<Vec<Known>>,
}

#[derive(Debug)]
struct Known {
    backend: Weak<BackendState>,
    offer: Offer,
    config: Arc<ClientConfig>,
}

/// What must be the same for another request to use a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seal<'a> {
    side: u64,
    name: &'a str,
}

/// A [`Seal`], kept with a connection. The default is that of one without TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptSeal {
    side: u64,
    name: Box<str>,
}

impl Seal<'_> {
    /// To be kept.
    pub fn keep(self) -> KeptSeal {
        KeptSeal {
            side: self.side,
            name: self.name.into(),
        }
    }
}

impl KeptSeal {
    /// To be compared.
    pub fn seal(&self) -> Seal<'_> {
        Seal {
            side: self.side,
            name: &self.name,
        }
    }

    /// True if settings are the same, whatever the name.
    pub fn is_of_side(&self, seal: Seal<'_>) -> bool {
        self.side == seal.side
    }
}

impl ClientSide {
    /// Reads all files of a service. `None` if it speaks no TLS. `before` is what the configuration
    /// before has for it, and stays if nothing has changed.
    ///
    /// # Errors
    ///
    /// [`TrustError`].
    pub fn new(
        upstream: &Upstream,
        system: &SystemRoots,
        before: Option<&Arc<Self>>,
        now: SystemTime,
    ) -> Result<Option<Arc<Self>>, TrustError> {
        static NUMBERS: AtomicU64 = AtomicU64::new(1);
        let Some(settings) = &upstream.tls else {
            return Ok(None);
        };
        let trust = Trust::read(settings, system, now)?;
        let name = upstream.tls_name();
        let is_http1_spoken = upstream.protocol != crate::config::model::http::BackendProtocol::H2;
        let is_same = |side: &&Arc<Self>| {
            side.digest == trust.digest
                && side.name == name
                && side.is_http1_spoken == is_http1_spoken
        };
        if let Some(before) = before.filter(is_same) {
            return Ok(Some(Arc::clone(before)));
        }
        Ok(Some(Arc::new(Self {
            number: NUMBERS.fetch_add(1, Relaxed),
            config: trust.config,
            digest: trust.digest,
            name,
            by_host: settings.by_host,
            is_http1_spoken,
            alpn: settings
                .alpn
                .iter()
                .map(|name| name.as_bytes().to_vec())
                .collect(),
            known: Mutex::default(),
        })))
    }

    /// What a connection for this host, which is in lower case and without its port, is sealed by.
    pub fn seal<'h>(&self, host: &'h [u8]) -> Seal<'h> {
        let host = || {
            let host = std::str::from_utf8(host).ok()?;
            let host = host.strip_prefix('[').unwrap_or(host);
            let host = host.strip_suffix(']').unwrap_or(host);
            // What is no name, such as none at all, leaves the service's own.
            ServerName::try_from(host).is_ok().then_some(host)
        };
        Seal {
            side: self.number,
            name: self.by_host.then(host).flatten().unwrap_or_default(),
        }
    }

    /// Begins a session with a backend, for one of [`Self::seal`]'s.
    ///
    /// # Errors
    ///
    /// What rustls says; it has none for settings that it has taken.
    pub fn begin(
        &self,
        backend: &Arc<BackendState>,
        offer: Offer,
        seal: Seal<'_>,
    ) -> Result<ClientConnection, Error> {
        let name = self.server_name(seal.name, backend.address())?;
        ClientConnection::new(self.config_for(backend, offer), name)
    }

    fn server_name(&self, asked: &str, address: SocketAddr) -> Result<ServerName<'static>, Error> {
        let name = match (&self.name, asked) {
            (TlsName::Address, "") => return Ok(ServerName::from(address.ip().to_canonical())),
            (TlsName::Host(name), "") => name.as_str(),
            (_, asked) => asked,
        };
        ServerName::try_from(name.to_owned())
            .map_err(|_| Error::General("not a server name".to_owned()))
    }

    fn config_for(&self, backend: &Arc<BackendState>, offer: Offer) -> Arc<ClientConfig> {
        let mut known = self.known.lock();
        let found = known.iter().find(|known| {
            known.offer == offer && std::ptr::eq(known.backend.as_ptr(), Arc::as_ptr(backend))
        });
        if let Some(found) = found {
            return Arc::clone(&found.config);
        }
        // Backends that DNS has named come and go.
        known.retain(|known| known.backend.strong_count() > 0);
        let mut config = self.config.clone();
        let (h1, h2) = (b"http/1.1".to_vec(), b"h2".to_vec());
        config.alpn_protocols = match offer {
            Offer::Http1 => vec![h1],
            Offer::Http2 if self.is_http1_spoken => vec![h2, h1],
            Offer::Http2 => vec![h2],
            Offer::Stream => self.alpn.clone(),
        };
        config.resumption = Resumption::in_memory_sessions(match self.by_host {
            true => SESSIONS_BY_HOST,
            false => SESSIONS,
        });
        let config = Arc::new(config);
        known.push(Known {
            backend: Arc::downgrade(backend),
            offer,
            config: Arc::clone(&config),
        });
        config
    }
}

impl TlsFailure {
    /// What a handshake that failed means; `None` if it took too long.
    pub fn of(error: &HandshakeError) -> Option<Self> {
        match error {
            HandshakeError::TimedOut => None,
            HandshakeError::Tls(error) => Some(Self::of_tls(error)),
            HandshakeError::Io(_) | HandshakeError::Closed | HandshakeError::NotTls(_) => {
                Some(Self::Failed)
            }
        }
    }

    /// As what an attempt is logged and counted.
    pub const fn end(self) -> End {
        match self {
            Self::UnknownAuthority => End::TlsUnknownAuthority,
            Self::Expired => End::TlsExpired,
            Self::WrongName => End::TlsWrongName,
            Self::Certificate => End::TlsCertificate,
            Self::Alert => End::TlsAlert,
            Self::Failed => End::TlsFailed,
        }
    }

    /// As what a connection is counted that was not opened.
    pub const fn reason(self) -> ConnectFailure {
        match self {
            Self::UnknownAuthority => ConnectFailure::TlsUnknownAuthority,
            Self::Expired => ConnectFailure::TlsExpired,
            Self::WrongName => ConnectFailure::TlsWrongName,
            Self::Certificate => ConnectFailure::TlsCertificate,
            Self::Alert => ConnectFailure::TlsAlert,
            Self::Failed => ConnectFailure::TlsFailed,
        }
    }
}
