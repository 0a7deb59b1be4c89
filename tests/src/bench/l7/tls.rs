//! TLS in the benchmark: an authority and two certificates, and both ends of the load's connections.
//!
//! Clients offer one key exchange (X25519) and one cipher suite (AES-128-GCM with SHA-256), so that
//! all proxies do the same work whatever they prefer. Certificates are ECDSA P-256, as most are.

use super::peer::workplace;
use anyhow::{Context, Result, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use rustls::client::{
    ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, NamedGroup, RootCertStore, ServerConfig};
use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context as TaskContext, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

/// The name that servers show.
pub const NAME: &str = "bench.test";

/// Where keys and certificates are, in PEM.
#[derive(Debug)]
pub struct Files {
    /// The authority's certificate.
    pub authority: PathBuf,
    /// The servers' certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Both in one file.
    pub both: PathBuf,
    client: PathBuf,
    client_key: PathBuf,
}

/// The files, made anew for each run of the program.
///
/// # Errors
///
/// They cannot be written.
pub fn files() -> Result<&'static Files> {
    static FILES: OnceLock<Files> = OnceLock::new();
    static MAKING: Mutex<()> = Mutex::new(());
    let _alone = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(files) = FILES.get() {
        return Ok(files);
    }
    let made = Files::make(&workplace().join("tls"))?;
    Ok(FILES.get_or_init(|| made))
}

impl Files {
    fn make(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let name = |params: &mut CertificateParams, name: &str| {
            params.distinguished_name.push(DnType::CommonName, name);
        };
        name(&mut params, "benchmark authority");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let leaf = |usage: ExtendedKeyUsagePurpose, common: &str| -> Result<(String, String)> {
            let mut params = CertificateParams::new([common.to_owned()])?;
            name(&mut params, common);
            params.extended_key_usages = vec![usage];
            let key = KeyPair::generate()?;
            let certificate = params.signed_by(&key, &issuer)?;
            Ok((certificate.pem(), key.serialize_pem()))
        };
        let server = leaf(ExtendedKeyUsagePurpose::ServerAuth, NAME)?;
        let client = leaf(ExtendedKeyUsagePurpose::ClientAuth, "client.bench.test")?;
        let write = |file: &str, text: &str| -> Result<PathBuf> {
            let path = folder.join(file);
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
            Ok(path)
        };
        Ok(Self {
            authority: write("authority.pem", &issuer.pem())?,
            certificate: write("server.pem", &server.0)?,
            key: write("server.key", &server.1)?,
            both: write("server.both.pem", &(server.0.clone() + &server.1))?,
            client: write("client.pem", &client.0)?,
            client_key: write("client.key", &client.1)?,
        })
    }
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)?.collect();
    Ok(all?)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    })
}

/// How clients of a scenario do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clients {
    /// HTTP/2 by ALPN, else HTTP/1.1.
    pub h2: bool,
    /// They show a certificate.
    pub certificate: bool,
    /// Later connections resume the sessions of earlier ones; else none does.
    pub resume: bool,
}

/// The sessions that the connections of a run may resume. They ask one server, and the stores of
/// rustls keep 8 tickets of each: too few for connections that begin at the same time.
#[derive(Debug, Default)]
struct Tickets {
    group: Mutex<Option<NamedGroup>>,
    tickets: Mutex<VecDeque<Tls13ClientSessionValue>>,
}

impl Tickets {
    /// More than the connections of a run, each of which uses one and gets one or two.
    const MOST: usize = 4096;
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        *locked(&self.group) = Some(group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        *locked(&self.group)
    }

    // Clients speak TLS 1.3 only.
    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        let mut tickets = locked(&self.tickets);
        if tickets.len() == Self::MOST {
            tickets.pop_front();
        }
        tickets.push_back(ticket);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        locked(&self.tickets).pop_front()
    }
}

/// What the connections of a run share.
#[derive(Clone)]
pub struct Dialler {
    connector: TlsConnector,
    resume: bool,
}

impl Clients {
    /// Makes it.
    ///
    /// # Errors
    ///
    /// The files cannot be had.
    pub fn dialler(self) -> Result<Dialler> {
        let files = files()?;
        let mut roots = RootCertStore::empty();
        for root in chain(&files.authority)? {
            roots.add(root)?;
        }
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots);
        let mut config = match self.certificate {
            false => builder.with_no_client_auth(),
            true => {
                let key = PrivateKeyDer::from_pem_file(&files.client_key)?;
                builder.with_client_auth_cert(chain(&files.client)?, key)?
            }
        };
        let alpn: &[u8] = if self.h2 { b"h2" } else { b"http/1.1" };
        config.alpn_protocols = vec![alpn.to_vec()];
        config.resumption = match self.resume {
            true => Resumption::store(Arc::new(Tickets::default())),
            false => Resumption::disabled(),
        };
        Ok(Dialler {
            connector: TlsConnector::from(Arc::new(config)),
            resume: self.resume,
        })
    }
}

impl Dialler {
    /// Shakes hands. `is_first`: nothing can be resumed yet; of later ones that are to resume, one
    /// that does not is an error.
    pub(super) async fn secure(&self, stream: TcpStream, is_first: bool) -> Result<Wire> {
        let name = ServerName::try_from(NAME)?;
        let stream = self.connector.connect(name, stream).await;
        let stream = stream.context("the handshake")?;
        if self.resume && !is_first {
            let kind = stream.get_ref().1.handshake_kind();
            ensure!(
                kind == Some(HandshakeKind::Resumed),
                "not resumed: {kind:?}"
            );
        }
        Ok(Wire::Tls(Box::new(stream.into())))
    }
}

/// The origin's side.
///
/// # Errors
///
/// The files cannot be had.
pub fn acceptor(h2: bool) -> Result<TlsAcceptor> {
    let files = files()?;
    let key = PrivateKeyDer::from_pem_file(&files.key)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain(&files.certificate)?, key)?;
    config.alpn_protocols = vec![if h2 { "h2".into() } else { "http/1.1".into() }];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// A connection of the load or of the origin.
#[derive(Debug)]
pub enum Wire {
    /// In clear text.
    Plain(TcpStream),
    /// Encrypted.
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, octets),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, octets),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
