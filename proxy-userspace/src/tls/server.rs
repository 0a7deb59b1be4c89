//! A listener's side of TLS.

use super::authentication::Judge;
use super::resolve::{Because, Resolver};
use super::sessions::SessionKeeper;
use crate::certificates::{
    CertificateView, FileFault, LocalError, OcspSubject, Pair, local_authority, prepare_folder_of,
    read_issued, read_ocsp, read_pair, stand_in,
};
use crate::config::model::acme::{AcmeCertificate, UntilIssued};
use crate::config::model::http::Http2;
use crate::config::model::tls::{CertificateSource, ServerTls};
use crate::types::tls::TlsVersion;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::{ServerConfig, ServerConnection, SupportedProtocolVersion, version};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

/// Where certificates of the local authority come from, as they say it.
const LOCAL: &str = "local";

/// TLS cannot be spoken as configured.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] FileFault),
    /// The local authority cannot be used.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// The settings do not go together.
    #[error("the settings of TLS do not go together: {0}")]
    Settings(#[from] rustls::Error),
}

/// A listener's side of TLS: what each handshake needs.
#[derive(Debug)]
pub struct ServerSide {
    config: Arc<ServerConfig>,
    resolver: Arc<Resolver>,
    /// Its sessions, which may go on under the next configuration.
    pub sessions: Arc<SessionKeeper>,
    /// The local authority's certificate, if it has issued one of these.
    pub authority: Option<PathBuf>,
    /// Certificates whose status their responders are asked for.
    subjects: Vec<(CertificateView, Arc<OcspSubject>)>,
    warnings: Vec<String>,
}

/// Protocols that are offered by ALPN (RFC 7301), the preferred one first.
pub fn alpn(http2: &Http2) -> Vec<Vec<u8>> {
    let (h1, h2) = (b"http/1.1".to_vec(), b"h2".to_vec());
    match (http2.enabled, http2.only) {
        (true, true) => vec![h2],
        (true, false) => vec![h2, h1],
        (false, _) => vec![h1],
    }
}

impl ServerSide {
    /// Reads all files. `before` are the sessions of the configuration before.
    ///
    /// # Errors
    ///
    /// [`TlsError`].
    pub fn new(
        settings: &ServerTls,
        alpn: Vec<Vec<u8>>,
        before: Option<&Arc<SessionKeeper>>,
        now: SystemTime,
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(provider(settings));
        let mut authority = None;
        let mut pairs = Vec::new();
        let mut warnings = Vec::new();
        for source in &settings.certificates {
            pairs.push(pair(source, now, &mut authority, &mut warnings)?);
        }
        let subjects = match settings.stapling {
            true => subjects(&pairs, &mut warnings),
            false => Vec::new(),
        };
        let resolver = Arc::new(Resolver::new(pairs, settings.strict_sni));
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions(settings))?;
        let client = settings.client.as_ref();
        let judge = client.map(|client| Judge::new(client, &provider));
        let judge = judge.transpose()?;
        let trust = judge.as_ref().map(|judge| judge.trust.clone());
        let trust = trust.unwrap_or_default();
        let builder = match judge {
            Some(judge) => builder.with_client_cert_verifier(judge.verifier),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::clone(&resolver) as _);
        config.alpn_protocols = alpn;
        config.ignore_client_order = settings.server_preference;
        let kept = before.filter(|kept| kept.is_for(&settings.sessions, &trust));
        let sessions = match kept {
            Some(kept) => Arc::clone(kept),
            None => Arc::new(SessionKeeper::new(settings.sessions, trust)?),
        };
        sessions.put_into(&mut config);
        Ok(Self {
            config: Arc::new(config),
            resolver,
            sessions,
            authority,
            subjects,
            warnings,
        })
    }

    /// Begins a session with a client.
    ///
    /// # Errors
    ///
    /// What rustls says; it has none for settings that it has taken.
    pub fn begin(&self) -> Result<ServerConnection, rustls::Error> {
        ServerConnection::new(Arc::clone(&self.config))
    }

    /// What is in the certificates.
    pub fn certificates(&self) -> impl Iterator<Item = &CertificateView> {
        self.resolver.pairs().iter().map(|pair| &pair.view)
    }

    /// The certificates that the local authority has issued.
    pub fn locally_issued(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        let pairs = self.resolver.pairs().iter();
        let local = pairs.filter(|pair| pair.view.source == LOCAL);
        local.filter_map(|pair| pair.key.cert.first())
    }

    /// The certificates that a client gets which asks for `name`, in lower case: the preferred one,
    /// and behind it those for clients that cannot check that.
    pub fn choice(&self, name: Option<&str>) -> (Because, Vec<&CertificateView>) {
        let (because, found) = self.resolver.judged(name);
        let pairs = self.resolver.pairs();
        (because, found.iter().map(|&at| &pairs[at].view).collect())
    }

    /// What is probably not meant, each as a sentence.
    pub fn warnings(&self) -> impl Iterator<Item = &String> {
        let pairs = self.resolver.pairs().iter();
        let of_pairs = pairs.flat_map(|pair| &pair.warnings);
        of_pairs.chain(&self.warnings)
    }

    /// Certificates whose status their responders are asked for, and what is asked.
    pub fn subjects(&self) -> impl Iterator<Item = (&CertificateView, &Arc<OcspSubject>)> {
        self.subjects.iter().map(|(view, subject)| (view, subject))
    }

    /// Staples an OCSP response to a certificate, or none, from the next handshake on.
    pub fn staple(&self, fingerprint: &str, response: Option<&[u8]>) {
        let mut subjects = self.subjects.iter();
        if subjects.any(|(view, _)| view.fingerprint == fingerprint) {
            self.resolver.staple(fingerprint, response);
        }
    }

    /// Staples what the configuration before has stapled to the same certificates.
    pub fn staple_as(&self, before: &Self) {
        if !self.subjects.is_empty() {
            self.resolver.staple_as(&before.resolver);
        }
    }

    /// True if the certificate that a client gets for `name` is for `host`, too, which is in lower
    /// case and without a port.
    pub fn covers(&self, name: Option<&str>, host: &str) -> bool {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        self.resolver.covers(name, host)
    }
}

fn pair(
    source: &CertificateSource,
    now: SystemTime,
    authority: &mut Option<PathBuf>,
    warnings: &mut Vec<String>,
) -> Result<Pair, TlsError> {
    match source {
        CertificateSource::Files {
            certificate,
            key,
            ocsp,
        } => {
            let ocsp = ocsp.as_deref().map(read_ocsp).transpose()?;
            Ok(read_pair(certificate, key, now)?.with_ocsp(ocsp))
        }
        CertificateSource::Local(names) => {
            let local = local_authority(None)?;
            let pair = local.issue(names)?;
            *authority = Some(local.certificate);
            Ok(pair)
        }
        CertificateSource::Acme(wanted) => issued(wanted, now, warnings),
    }
}

/// What an authority has issued, or what clients get until it has.
fn issued(
    wanted: &AcmeCertificate,
    now: SystemTime,
    warnings: &mut Vec<String>,
) -> Result<Pair, TlsError> {
    prepare_folder_of(&wanted.file)?;
    match read_issued(&wanted.file, now) {
        Ok(Some(pair)) => return Ok(pair),
        Ok(None) => {}
        // It is ordered anew.
        Err(fault) => warnings.push(fault.to_string()),
    }
    let pair = stand_in(&wanted.names, now);
    let mut pair = pair.map_err(|reason| FileFault {
        path: wanted.file.clone(),
        reason: format!("is not there, and nothing can stand in for it: {reason}"),
    })?;
    pair.is_withheld = wanted.until_issued == UntilIssued::Refuse;
    Ok(pair)
}

/// Certificates that name a responder and have no answer of it in a file.
fn subjects(
    pairs: &[Pair],
    warnings: &mut Vec<String>,
) -> Vec<(CertificateView, Arc<OcspSubject>)> {
    let mut subjects = Vec::new();
    for pair in pairs.iter().filter(|pair| pair.key.ocsp.is_none()) {
        match OcspSubject::of(&pair.key.cert) {
            Ok(None) => {}
            Ok(Some(subject)) => subjects.push((pair.view.clone(), Arc::new(subject))),
            Err(reason) => warnings.push(format!(
                "the certificate in `{}` names a responder (OCSP) that is not asked: {reason}",
                pair.view.source
            )),
        }
    }
    subjects
}

fn provider(settings: &ServerTls) -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    let suites = settings.ciphers.iter().filter_map(|wanted| {
        let mut all = aws_lc_rs::ALL_CIPHER_SUITES.iter();
        all.find(|suite| suite.suite() == *wanted).copied()
    });
    let groups = settings.groups.iter().filter_map(|wanted| {
        let mut all = aws_lc_rs::ALL_KX_GROUPS.iter();
        all.find(|group| group.name() == *wanted).copied()
    });
    if !settings.ciphers.is_empty() {
        provider.cipher_suites = suites.collect();
    }
    if !settings.groups.is_empty() {
        provider.kx_groups = groups.collect();
    }
    provider
}

fn versions(settings: &ServerTls) -> Vec<&'static SupportedProtocolVersion> {
    let all = [
        (TlsVersion::V13, &version::TLS13),
        (TlsVersion::V12, &version::TLS12),
    ];
    let spoken = settings.min_version..=settings.max_version;
    let all = all.into_iter().filter(|(of, _)| spoken.contains(of));
    all.map(|(_, version)| version).collect()
}
