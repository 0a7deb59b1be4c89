//! A client's connection until it is sealed: PROXY header, handshake, and what is known then.

use super::certified::Certified;
use super::peer::Peer;
use super::snapshot::{CompileError, Kept, ListenerPlan};
use super::worker::Worker;
use crate::acme::Challenges;
use crate::certificates::{CertificateView, common_name};
use crate::condemn::Offence;
use crate::config::model::tls::{ClientAuth, ServerTls};
use crate::message::{Fields, Refusal, RefusedBy};
use crate::net::client_hello::Reader;
use crate::net::clock::nanos;
use crate::net::proxy_protocol::{self, Addition, Origin, TlsAddition};
use crate::net::tls::{Foreign, HandshakeError};
use crate::net::{Input, Nanos, Stream, Timer, TlsFacts};
use crate::observe::access_log::TlsRecord;
use crate::observe::http::{CertificateCells, HandshakeResult, HandshakeVersion, Series, TlsCells};
use crate::tls::ServerSide;
use crate::types::tls::suite_name;
use rustls::{
    AlertDescription, CertificateError, Error, PeerIncompatible, ProtocolVersion, ServerConfig,
    ServerConnection,
};
use std::cell::Cell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};
use tracing::{debug, info, warn};

/// What clients without TLS are told, as nginx does.
const PLAIN: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\n\
    Content-Length: 49\r\nConnection: close\r\n\r\n\
    This port speaks HTTPS: the request came without.";

/// How long a client that was refused may take to hear of it.
const FAREWELL: Nanos = 1_000_000_000;

/// TLS at a listener, compiled.
#[derive(Debug)]
pub struct TlsPlan {
    /// What each handshake needs.
    pub side: Arc<ServerSide>,
    cells: Arc<Series<TlsCells>>,
    /// Held so that they stay on the metrics page.
    _certificates: Vec<Arc<Series<CertificateCells>>>,
    client: Option<ClientAuth>,
    challenges: Arc<Challenges>,
    /// How long a handshake may take.
    pub timeout: Nanos,
    most: usize,
}

impl TlsPlan {
    /// Reads all files of a listener, which is at `address`. `alpn` are the protocols that it
    /// offers. `before`: what the configuration before has, whose sessions go on, and what it has
    /// stapled.
    pub(super) fn new(
        (listener, address): (&str, SocketAddr),
        settings: &ServerTls,
        alpn: Vec<Vec<u8>>,
        kept: &Kept,
        before: Option<&ServerSide>,
    ) -> Result<Self, CompileError> {
        let metrics = &kept.metrics;
        let sessions = before.map(|before| &before.sessions);
        let sessions = sessions.or_else(|| kept.inherited(listener, address));
        let side = ServerSide::new(settings, alpn, sessions, SystemTime::now());
        let side = side.map_err(|source| CompileError::Tls {
            listener: listener.to_owned(),
            source,
        })?;
        if let Some(before) = before {
            side.staple_as(before);
        }
        for warning in side.warnings() {
            warn!(listener, "{warning}");
        }
        if let Some(path) = &side.authority {
            info!(
                listener,
                "clients have to trust the local CA: curl --cacert {}",
                path.display()
            );
        }
        let certificates = side.certificates().map(|view| {
            let name = view.names.first().unwrap_or(&view.subject);
            metrics.certificate([listener, name, &view.serial], view.not_after)
        });
        Ok(Self {
            cells: metrics.tls(listener),
            _certificates: certificates.collect(),
            client: settings.client.clone(),
            challenges: Arc::clone(&kept.challenges),
            timeout: nanos(settings.handshake_timeout),
            most: settings.max_handshakes as usize,
            side: Arc::new(side),
        })
    }

    /// A place for one more handshake, unless there are as many as may be, which is counted.
    pub fn take_place<'w>(&self, worker: &'w Worker) -> Option<UnderWay<'w>> {
        let under_way = worker.handshakes();
        if under_way.get() >= self.most {
            let cells = self.cells.at(worker.index);
            cells.handshake(HandshakeVersion::None, HandshakeResult::TooMany);
            return None;
        }
        under_way.set(under_way.get() + 1);
        Some(UnderWay(under_way))
    }
}

/// What is known of a sealed connection.
#[derive(Debug)]
pub struct Secured {
    version: &'static str,
    suite: &'static str,
    server_name: Option<Box<str>>,
    is_resumed: bool,
    /// The application's protocol that was agreed on.
    pub alpn: Option<Box<[u8]>>,
    /// The client's certificate, if it has one.
    pub certified: Option<Certified>,
    /// The common name of its subject.
    common_name: Option<Box<str>>,
    /// Certificates are asked for, and clients without one are told of.
    asks: bool,
    x_ssl: bool,
    side: Arc<ServerSide>,
}

impl Secured {
    fn new(facts: &TlsFacts, side: &Arc<ServerSide>, client: Option<&ClientAuth>) -> Self {
        let own = facts.peer_certificates.first();
        let certified = own.and_then(|certificate| {
            let view = CertificateView::of(certificate, "client").ok()?;
            let (xfcc, x_ssl) = client.map_or((false, false), |it| (it.xfcc, it.x_ssl));
            Some(Certified::new(&view, xfcc, x_ssl))
        });
        Self {
            version: version(facts).label(),
            suite: suite_name(facts.suite),
            server_name: facts
                .server_name
                .as_deref()
                .map(|name| name.to_ascii_lowercase().into()),
            is_resumed: facts.is_resumed,
            alpn: facts.alpn.clone(),
            common_name: own.and_then(|certificate| common_name(certificate).map(Into::into)),
            certified,
            asks: client.is_some(),
            x_ssl: client.is_some_and(|client| client.x_ssl),
            side: Arc::clone(side),
        }
    }

    /// True if the connection's certificate is for this host.
    pub fn covers(&self, host: &[u8]) -> bool {
        let host = std::str::from_utf8(host).unwrap_or_default();
        self.side.covers(self.server_name.as_deref(), host)
    }

    /// Tells a backend of the client's certificate.
    pub fn tell(&self, fields: &mut Fields) {
        super::certified::tell(fields, self.certified.as_ref(), self.asks, self.x_ssl);
    }

    /// The name that the client asked for, in lower case.
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// What a backend is told of it in a PROXY header.
    pub fn additions(&self) -> impl Iterator<Item = Addition<'_>> {
        let tls = TlsAddition {
            version: self.version,
            cipher: self.suite,
            has_certificate: self.certified.is_some(),
            is_resumed: self.is_resumed,
            common_name: self.common_name.as_deref(),
        };
        let name = self.server_name.as_deref().map(Addition::Authority);
        let protocol = self.alpn.as_deref().map(Addition::Alpn);
        [name, protocol, Some(Addition::Tls(tls))]
            .into_iter()
            .flatten()
    }

    /// For the access log.
    pub fn record(&self) -> TlsRecord<'_> {
        TlsRecord {
            version: self.version,
            cipher: self.suite,
            server_name: self.server_name.as_deref(),
            is_resumed: self.is_resumed,
            client_subject: self.certified.as_ref().map(|one| one.subject.as_str()),
        }
    }
}

/// A handshake that is counted as under way as long as this lives.
#[derive(Debug)]
pub struct UnderWay<'w>(&'w Cell<usize>);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Seals a connection, whose PROXY header comes first. `None` if that fails: it is over then.
pub async fn secure(
    worker: &Rc<Worker>,
    listener: &ListenerPlan,
    plan: &TlsPlan,
    mut stream: Stream,
    mut peer: Peer,
) -> Option<(Stream, Peer)> {
    let Some(_under_way) = plan.take_place(worker) else {
        let now = worker.clock.last();
        let why = HandshakeResult::TooMany.label();
        worker.note_tls(&peer.live, &listener.settings.name, now, Err(why));
        return None;
    };
    let timer = worker.timers.timer();
    let began = worker.clock.read();
    timer.set_after(plan.timeout);
    let mut input = Input::new(worker.buffers.clone());
    let senders = &listener.settings.proxy_protocol_from;
    if senders.iter().any(|net| net.contains(&peer.ip()))
        && !proxy_header(worker, &stream, &mut peer, &mut input, &timer).await
    {
        let cells = listener.cells.at(worker.index);
        cells.refused(RefusedBy::Client, Refusal::ProxyHeader);
        return None;
    }
    let begin = (peer.client, began);
    let name = &listener.settings.name;
    match negotiate(worker, plan, &mut stream, &mut input, begin, &timer).await {
        Ok(secured) => {
            let secured = secured?;
            worker.note_tls(&peer.live, name, began, Ok(&secured));
            peer.tls = Some(Rc::new(secured));
            Some((stream, peer))
        }
        Err(error) => {
            worker.note_tls(&peer.live, name, began, Err(failure(&error)));
            if let Some(offence) = offence(&error) {
                worker.offended(&peer.live, offence);
            }
            if let HandshakeError::NotTls(Foreign::Http) = &error {
                // It is little, and nothing was written before: there is room for it.
                let _ = stream.socket().try_write(PLAIN);
            }
            farewell(worker, &stream, &error, &timer).await;
            None
        }
    }
}

/// Negotiates with a client whose first octets are in `input`, until `timer`'s deadline, which is
/// set; counts what comes of it. `None` if it was an authority that asks whether a name is ours: it
/// was answered, and wants no more.
///
/// # Errors
///
/// See [`HandshakeError`]. Who was refused has to hear of it: see [`farewell`].
pub async fn negotiate(
    worker: &Worker,
    plan: &TlsPlan,
    stream: &mut Stream,
    input: &mut Input,
    (client, began): (SocketAddr, Nanos),
    timer: &Timer,
) -> Result<Option<Secured>, HandshakeError> {
    let cells = plan.cells.at(worker.index);
    let challenge = match plan.challenges.has_names() {
        true => challenge(plan, stream, input, timer).await,
        false => None,
    };
    let is_challenge = challenge.is_some();
    let session = match challenge {
        Some(config) => ServerConnection::new(config),
        None => plan.side.begin(),
    };
    let early = input.filled().to_vec();
    input.consume(early.len());
    input.release();
    stream.begin_tls(session.map_err(HandshakeError::Tls)?, early);
    let negotiated = stream.handshake(timer).await;
    let facts = negotiated.and_then(|()| stream.tls_facts().ok_or(HandshakeError::Closed));
    let facts = facts.inspect_err(|error| {
        let result = result(error);
        cells.handshake(HandshakeVersion::None, result);
        debug!(%client, %error, result = result.label(), "no handshake");
    })?;
    cells.handshake(version(facts), HandshakeResult::Ok);
    cells.resumed.add(u64::from(facts.is_resumed));
    let took = worker.clock.read().saturating_sub(began);
    cells.durations.observe(Duration::from_nanos(took));
    if is_challenge {
        // The authority has seen the certificate, which is all that it wants (RFC 8737 §3).
        timer.set_after(FAREWELL);
        stream.end_raw(timer).await;
        return Ok(None);
    }
    Ok(Some(Secured::new(facts, &plan.side, plan.client.as_ref())))
}

fn version(facts: &TlsFacts) -> HandshakeVersion {
    match facts.version {
        ProtocolVersion::TLSv1_2 => HandshakeVersion::V12,
        ProtocolVersion::TLSv1_3 => HandshakeVersion::V13,
        _ => HandshakeVersion::None,
    }
}

/// What a failure is counted as.
fn result(error: &HandshakeError) -> HandshakeResult {
    use HandshakeResult as R;
    match error {
        HandshakeError::Io(_) | HandshakeError::Closed => R::Closed,
        HandshakeError::NotTls(Foreign::Http) => R::PlainHttp,
        HandshakeError::NotTls(Foreign::Other) => R::NotTls,
        HandshakeError::TimedOut => R::Timeout,
        HandshakeError::Tls(error) => match error {
            Error::NoCertificatesPresented => R::NoCertificate,
            Error::NoApplicationProtocol => R::NoSharedProtocol,
            Error::AlertReceived(AlertDescription::UnknownCA) => R::Alert,
            Error::AlertReceived(_) => R::Alert,
            Error::General(reason) if reason.contains("no server certificate chain resolved") => {
                R::UnknownName
            }
            Error::PeerIncompatible(
                PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled
                | PeerIncompatible::Tls13RequiredForQuic
                | PeerIncompatible::ServerDoesNotSupportTls12Or13,
            ) => R::NoSharedVersion,
            Error::PeerIncompatible(_) => R::NoSharedCipher,
            Error::InvalidCertificate(error) => match error {
                CertificateError::UnknownIssuer => R::UnknownAuthority,
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => R::Expired,
                CertificateError::Revoked => R::Revoked,
                _ => R::BadCertificate,
            },
            _ => R::Protocol,
        },
    }
}

/// Why a handshake failed, in the metrics' words.
pub fn failure(error: &HandshakeError) -> &'static str {
    result(error).label()
}

/// The offence that a failure is, if it is one: whoever asks in plain HTTP has mistaken the port, and
/// with whom nothing can be agreed on is only old, or does not know us.
pub fn offence(error: &HandshakeError) -> Option<Offence> {
    match result(error) {
        HandshakeResult::NotTls | HandshakeResult::Protocol => Some(Offence::Handshake),
        HandshakeResult::Timeout => Some(Offence::Slow),
        _ => None,
    }
}

/// Has a client that was refused hear why. Closed at once, with octets of it unread, the kernel
/// would send a reset, which can overtake the alert.
pub async fn farewell(worker: &Worker, stream: &Stream, error: &HandshakeError, timer: &Timer) {
    if let HandshakeError::Tls(_) | HandshakeError::NotTls(Foreign::Http) = error {
        worker.clock.read();
        timer.set_after(FAREWELL);
        stream.end_raw(timer).await;
    }
}

/// How to answer an authority that asks whether a name is ours. What the client has said stays in
/// `input`, for whoever answers.
async fn challenge(
    plan: &TlsPlan,
    stream: &Stream,
    input: &mut Input,
    timer: &Timer,
) -> Option<Arc<ServerConfig>> {
    let mut reader = Reader::default();
    let hello = poll_fn(|cx| {
        loop {
            match reader.read(input.filled()) {
                Ok(Some(hello)) => return Poll::Ready(Some(hello)),
                Ok(None) => {}
                Err(_) => return Poll::Ready(None),
            }
            if input.room().is_empty() && !input.grow() {
                return Poll::Ready(None);
            }
            match stream.poll_read(cx, input.room()) {
                Poll::Ready(Ok(read @ 1..)) => input.filled_more(read),
                Poll::Ready(_) => return Poll::Ready(None),
                Poll::Pending if timer.poll_expired(cx) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    });
    let hello = hello.await?;
    plan.challenges
        .handshake(hello.server_name.as_deref(), hello.protocols())
}

/// Reads the PROXY header that the peer must send. What follows it stays in `input`.
async fn proxy_header(
    worker: &Worker,
    stream: &Stream,
    peer: &mut Peer,
    input: &mut Input,
    timer: &Timer,
) -> bool {
    let origin = poll_fn(|cx| {
        loop {
            match proxy_protocol::parse(input.filled()) {
                Ok(Some((header, consumed))) => {
                    let origin = header.origin;
                    input.consume(consumed);
                    return Poll::Ready(Some(origin));
                }
                Ok(None) if input.filled().len() < proxy_protocol::MAX_LENGTH => {}
                Ok(None) | Err(_) => return Poll::Ready(None),
            }
            match stream.poll_read(cx, input.room()) {
                Poll::Ready(Ok(read @ 1..)) => input.filled_more(read),
                Poll::Ready(_) => return Poll::Ready(None),
                Poll::Pending if timer.poll_expired(cx) => return Poll::Ready(None),
                Poll::Pending => {
                    input.release();
                    return Poll::Pending;
                }
            }
        }
    });
    match origin.await {
        Some(Origin::Client { client, server, .. }) => {
            *peer = peer.behind(client, server);
            worker.note_proxy(&peer.live);
            true
        }
        Some(Origin::Local | Origin::Unknown) => true,
        None => false,
    }
}
