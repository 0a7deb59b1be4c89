use super::super::super::testing::{health_check, http_probe};
use super::super::*;
use crate::config::model::http::{BackendTls, BackendTraits, TlsIdentity};
use crate::config::model::{CheckTls, Config, GrpcProbe, HealthCheck, Probe, Service};
use crate::health::{Known, Named, Seals, checks};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::path::PathBuf;
use std::time::SystemTime;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Long enough for the slowest machine where an answer is expected.
const PATIENCE: Duration = Duration::from_secs(60);

/// An authority, in a folder with its certificate and what it has issued.
struct Ca {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("an authority");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).expect("writes");
        Self { issuer, folder }
    }

    /// A certificate for `names`, good until this year.
    fn issue(&self, file: &str, names: &[&str], until: i32) -> (PathBuf, PathBuf) {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let paths = ["pem", "key"].map(|end| self.folder.path().join(format!("{file}.{end}")));
        std::fs::write(&paths[0], certificate.pem()).expect("writes");
        std::fs::write(&paths[1], key.serialize_pem()).expect("writes");
        let [certificate, key] = paths;
        (certificate, key)
    }

    fn tls(&self, name: &str) -> BackendTls {
        BackendTls {
            ca: Some(self.folder.path().join("ca.pem")),
            server_name: Some(name.to_owned()),
            ..BackendTls::default()
        }
    }
}

/// A server with a certificate, which asks for those of `clients` if they are given, and serves one
/// connection by an answer to whatever comes first.
async fn server(
    (certificate, key): (PathBuf, PathBuf),
    clients: Option<&Ca>,
    alpn: &[&str],
    answer: &'static str,
) -> SocketAddr {
    let pair = crate::certificates::read_pair(&certificate, &key, SystemTime::now());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("versions");
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            roots.add(ca.issuer.der().clone()).expect("a root");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
        }
    };
    let shown = rustls::sign::SingleCertAndKey::from(pair.expect("a pair").key);
    let mut config = builder.with_cert_resolver(Arc::new(shown));
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("accepts");
        let Ok(mut stream) = TlsAcceptor::from(Arc::new(config)).accept(stream).await else {
            return;
        };
        let _ = stream.read_u8().await;
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
    });
    address
}

/// What a check of a service finds out.
async fn ask(address: SocketAddr, edit: impl FnOnce(&mut Service)) -> Outcome {
    let mut service = Service::new("app");
    service.push_backend(address, 1, BackendTraits::default());
    service.health = Some(HealthCheck {
        probe: Probe::Tcp,
        timeout: PATIENCE,
        ..health_check()
    });
    edit(&mut service);
    let config = Config {
        services: vec![service],
        ..Config::default()
    };
    let seals = Seals::read(&config, SystemTime::now()).expect("files");
    let checks = checks(&config, &Named::default(), &seals, |_, _| Known::default());
    let check = checks.expect("checks").remove(0);
    probe(check.target, check.health, check.tls).await
}

fn why(outcome: Outcome) -> String {
    let failure = outcome.expect_err("fails");
    assert_eq!(failure.kind, FailureKind::Tls, "{failure}");
    failure.detail.to_string()
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

fn set_probe(service: &mut Service, probe: Probe) {
    service.health.as_mut().expect("a check").probe = probe;
}

#[tokio::test]
async fn a_check_speaks_tls_as_the_service_does() {
    let ca = Ca::new();
    let good = ca.issue("good", &["app.test"], 2090);
    let address = server(good.clone(), None, &[], OK).await;
    let outcome = ask(address, |service| {
        service.upstream.tls = Some(ca.tls("app.test"))
    });
    outcome.await.expect("the handshake is the check");
    let address = server(good.clone(), None, &["http/1.1"], OK).await;
    let outcome = ask(address, |service| {
        service.upstream.tls = Some(ca.tls("app.test"));
        set_probe(service, Probe::Http(http_probe()));
    });
    outcome.await.expect("is answered by HTTPS");
    // It speaks no HTTP/2.
    let address = server(good.clone(), None, &["http/1.1"], OK).await;
    let outcome = ask(address, |service| {
        service.upstream.tls = Some(ca.tls("app.test"));
        set_probe(service, Probe::Grpc(GrpcProbe::default()));
    });
    let why = why(outcome.await);
    assert!(
        why.contains("none of the protocols that are offered"),
        "{why}"
    );
    // A check of its own mind.
    let address = server(good, None, &[], OK).await;
    let outcome = ask(address, |service| {
        let check = service.health.as_mut().expect("a check");
        check.tls = CheckTls::Own(Box::new(ca.tls("other.test")));
        check.server_name = Some("app.test".to_owned());
    });
    outcome.await.expect("with settings of its own");
    let plain = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = plain.local_addr().expect("bound");
    let outcome = ask(address, |service| {
        service.upstream.tls = Some(ca.tls("app.test"));
        service.health.as_mut().expect("a check").tls = CheckTls::Off;
    });
    outcome.await.expect("without TLS");
}

#[tokio::test]
async fn a_certificate_that_is_not_good_says_why() {
    let (ca, other) = (Ca::new(), Ca::new());
    let cases = [
        (
            ca.issue("expired", &["app.test"], 2021),
            "the certificate has expired",
        ),
        (
            ca.issue("elsewhere", &["elsewhere.test"], 2090),
            "the certificate is not for `app.test`",
        ),
        (
            other.issue("unknown", &["app.test"], 2090),
            "no authority that is believed has issued the certificate",
        ),
    ];
    for (certificate, expected) in cases {
        let address = server(certificate, None, &[], OK).await;
        let outcome = ask(address, |service| {
            service.upstream.tls = Some(ca.tls("app.test"));
        });
        assert_eq!(why(outcome.await), expected);
    }
}

#[tokio::test]
async fn a_server_that_wants_a_certificate_gets_it_or_says_so() {
    let ca = Ca::new();
    let (certificate, key) = ca.issue("client", &["client.test"], 2090);
    let mut tls = ca.tls("app.test");
    // Of 1.3 the handshake ends before the server has judged.
    for (version, probe) in [
        (crate::types::tls::TlsVersion::V12, Probe::Tcp),
        (
            crate::types::tls::TlsVersion::V13,
            Probe::Http(http_probe()),
        ),
    ] {
        tls.max_version = version;
        tls.min_version = version;
        for identity in [
            None,
            Some(TlsIdentity {
                certificate: certificate.clone(),
                key: key.clone(),
            }),
        ] {
            let good = ca.issue("good", &["app.test"], 2090);
            let address = server(good, Some(&ca), &[], OK).await;
            let is_shown = identity.is_some();
            tls.identity = identity;
            let outcome = ask(address, |service| {
                service.upstream.tls = Some(tls.clone());
                set_probe(service, probe.clone());
            });
            let outcome = outcome.await;
            match is_shown {
                true => drop(outcome.expect("is let in")),
                false => {
                    let why = why(outcome);
                    assert!(why.starts_with("the server refuses us: "), "{why}");
                }
            }
        }
    }
}

#[tokio::test]
async fn who_speaks_no_tls_or_nothing_fails() {
    let ca = Ca::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound");
    let answering = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accepts");
        let _ = stream.write_all(b"220 mail.test ESMTP\r\n").await;
        let _ = stream.read_u8().await;
        drop(stream);
        let (stream, _) = listener.accept().await.expect("accepts");
        drop(stream);
    });
    let ask = || {
        ask(address, |service| {
            service.upstream.tls = Some(ca.tls("app.test"));
        })
    };
    assert_eq!(why(ask().await), "the server does not speak TLS as we do");
    let failure = ask().await.expect_err("closed");
    let closed = [FailureKind::Tls, FailureKind::Reset];
    assert!(closed.contains(&failure.kind), "{failure}");
    answering.await.expect("was asked twice");
}
