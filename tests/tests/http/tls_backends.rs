//! TLS to backends: for requests, and for connections that are passed on.

use crate::peers::{curl, nginx_with};
use crate::support::{Client, Origin, Proxy, config, eventually};
use proxy_tests::certificates::{Authority, Issued, Request};
use proxy_tests::family;
use proxy_userspace::config::model::Config;
use proxy_userspace::config::model::http::{
    AccessLog, BackendProtocol, BackendTls, LogFormat, LogTarget, ProxyVersion, StreamListener,
    TlsIdentity,
};
use proxy_userspace::config::model::tls::CertificateSource;
use proxy_userspace::observe::http::ConnectFailure;
use proxy_userspace::runtime::workers::Workers;
use proxy_userspace::types::Protocol;
use rustls::server::WebPkiClientVerifier;
use rustls::{HandshakeKind, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

type Tls = StreamOwned<ServerConnection, TcpStream>;

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A server's settings: its certificate, whose clients it wants, and its protocols.
fn settings(issued: &Issued, clients: Option<&Authority>, alpn: &[&str]) -> ServerConfig {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions");
    let builder = match clients {
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.der()).expect("a root");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
            builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder
        .with_single_cert(issued.chain(), issued.private_key())
        .expect("fits");
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

/// A server that speaks TLS and does what a test says with each connection. What failed tells
/// nobody: the proxy's side is what is looked at.
fn origin(config: ServerConfig, serve: impl Fn(Tls) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind(family::any()).expect("binds");
    let address = listener.local_addr().expect("bound");
    let (config, serve) = (Arc::new(config), Arc::new(serve));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let (config, serve) = (Arc::clone(&config), Arc::clone(&serve));
            thread::spawn(move || {
                let mut session = ServerConnection::new(config).expect("a session");
                while session.is_handshaking() {
                    if session.complete_io(&mut stream).is_err() {
                        return;
                    }
                }
                serve(StreamOwned::new(session, stream));
            });
        }
    });
    address
}

/// Answers every request of a connection with its own head.
fn mirror(mut tls: Tls) {
    let mut read = Vec::new();
    let mut octets = [0; 4096];
    loop {
        while let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            let head: Vec<u8> = read.drain(..end + 4).collect();
            let length = head.len();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
            if tls.write_all(&[answer.as_bytes(), &head].concat()).is_err() {
                return;
            }
        }
        match tls.read(&mut octets) {
            Ok(read_now @ 1..) => read.extend_from_slice(&octets[..read_now]),
            _ => return,
        }
    }
}

/// An authority, and a folder with its certificate.
struct Trust {
    authority: Authority,
    folder: tempfile::TempDir,
}

impl Trust {
    fn new() -> Self {
        let authority = Authority::new("test");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("ca.pem"), authority.pem()).expect("writes");
        Self { authority, folder }
    }

    /// TLS to backends that this authority vouches for.
    fn tls(&self) -> BackendTls {
        BackendTls {
            ca: Some(self.folder.path().join("ca.pem")),
            server_name: Some("origin.test".to_owned()),
            ..BackendTls::default()
        }
    }
}

fn proxy(backend: SocketAddr, tls: BackendTls, edit: impl FnOnce(&mut Config)) -> Proxy {
    Proxy::with(&[backend], |config| {
        config.services[0].upstream.tls = Some(tls);
        config.services[0].upstream.protocol = BackendProtocol::H1;
        edit(config);
    })
}

fn get(proxy: &Proxy) -> (u16, String) {
    let answer = proxy.ask("GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n");
    (answer.status, answer.text())
}

/// Connections to the backend that failed so.
fn failures(workers: &Workers, backend: SocketAddr, why: ConnectFailure) -> u64 {
    let series = workers.metrics().backend("origins", &backend.to_string());
    series.sum(|cells| cells.connect_failures(why))
}

#[test]
fn a_verified_backend_serves_and_its_connection_is_kept() {
    let trust = Trust::new();
    let (tell, told) = channel();
    let issued = trust.authority.issue(&["origin.test"]);
    let address = origin(settings(&issued, None, &["http/1.1"]), move |tls| {
        let name = tls.conn.server_name().map(str::to_owned);
        let alpn = tls.conn.alpn_protocol().map(<[u8]>::to_vec);
        let _ = tell.send((name, alpn));
        mirror(tls);
    });
    let proxy = proxy(address, trust.tls(), |_| {});
    let mut client = proxy.client();
    for _ in 0..5 {
        client.send("GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n");
        let answer = client.answer();
        assert_eq!(answer.status, 200);
        assert!(
            answer
                .text()
                .starts_with("GET /x HTTP/1.1\r\nHost: a.test\r\n")
        );
    }
    let (name, alpn) = told.recv().expect("told");
    assert_eq!(name.as_deref(), Some("origin.test"));
    assert_eq!(alpn.as_deref(), Some(&b"http/1.1"[..]));
    assert!(told.try_recv().is_err(), "one connection");
}

#[test]
fn failures_are_told_apart() {
    let (trust, other) = (Trust::new(), Trust::new());
    let good = trust.authority.issue(&["origin.test"]);
    let expired = trust.authority.issue_as(&Request {
        names: &["origin.test"],
        expired: true,
        ..Request::default()
    });
    let elsewhere = trust.authority.issue(&["other.test"]);
    let unknown = other.authority.issue(&["origin.test"]);
    let cases = [
        (
            settings(&unknown, None, &[]),
            ConnectFailure::TlsUnknownAuthority,
        ),
        (settings(&expired, None, &[]), ConnectFailure::TlsExpired),
        (
            settings(&elsewhere, None, &[]),
            ConnectFailure::TlsWrongName,
        ),
        // It speaks no protocol that is offered.
        (settings(&good, None, &["x"]), ConnectFailure::TlsAlert),
    ];
    for (config, why) in cases {
        let address = origin(config, mirror);
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("log");
        let proxy = proxy(address, trust.tls(), |config| {
            config.http_listeners[0].access_log = Some(AccessLog {
                format: LogFormat::Template("$status $end".to_owned()),
                ..AccessLog::new(LogTarget::File(log.clone()))
            });
        });
        assert_eq!(get(&proxy).0, 502, "{why:?}");
        eventually("it is counted", || {
            failures(&proxy.workers, address, why) >= 1
        });
        drop(proxy);
        let log = std::fs::read_to_string(log).expect("a log");
        assert_eq!(log, format!("502 {}\n", why.label()));
    }
    // Neither TLS nor an answer.
    let plain = Origin::new(|mut client, _| {
        client.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        client.rest();
    });
    let speaks_none = proxy(plain.address, trust.tls(), |_| {});
    assert_eq!(get(&speaks_none).0, 502);
    let failed = failures(
        &speaks_none.workers,
        plain.address,
        ConnectFailure::TlsFailed,
    );
    assert!(failed >= 1);
    let silent = Origin::new(|mut client, _| {
        client.rest();
    });
    let waits = proxy(silent.address, trust.tls(), |config| {
        let upstream = &mut config.services[0].upstream;
        upstream.connect_timeout = std::time::Duration::from_millis(100);
    });
    assert_eq!(get(&waits).0, 504);
    let timeouts = failures(&waits.workers, silent.address, ConnectFailure::Timeout);
    assert!(timeouts >= 1);
}

#[test]
fn addresses_are_verified_and_nothing_is_where_that_was_said() {
    let (trust, other) = (Trust::new(), Trust::new());
    let issued = trust.authority.issue(&[&*family::loopback().to_string()]);
    let address = origin(settings(&issued, None, &[]), mirror);
    let by_address = BackendTls {
        server_name: None,
        ..trust.tls()
    };
    assert_eq!(get(&proxy(address, by_address.clone(), |_| {})).0, 200);
    let unknown = BackendTls {
        server_name: None,
        ..other.tls()
    };
    assert_eq!(get(&proxy(address, unknown, |_| {})).0, 502);
    let unverified = BackendTls {
        verify: false,
        ca: None,
        ..BackendTls::default()
    };
    assert_eq!(get(&proxy(address, unverified, |_| {})).0, 200);
    // The system's authorities know nothing of ours, whether there are any or none.
    let config = config(&[address], |config| {
        config.services[0].upstream.tls = Some(BackendTls::default());
    });
    if let Ok(workers) = Workers::start(&config) {
        let address = workers.listeners().next().expect("listens");
        let mut client = Client::to(address);
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.answer().status, 502);
    }
}

#[test]
fn a_backend_that_wants_a_certificate_gets_it() {
    let (trust, clients) = (Trust::new(), Trust::new());
    let issued = trust.authority.issue(&["origin.test"]);
    let (tell, told) = channel();
    let address = origin(
        settings(&issued, Some(&clients.authority), &[]),
        move |tls| {
            let shown = tls.conn.peer_certificates().map_or(0, <[_]>::len);
            let _ = tell.send(shown);
            mirror(tls);
        },
    );
    let own = clients.authority.issue_to("proxy");
    let (certificate, key) = own.write(clients.folder.path(), "proxy");
    let with = BackendTls {
        identity: Some(TlsIdentity { certificate, key }),
        ..trust.tls()
    };
    assert_eq!(get(&proxy(address, with, |_| {})).0, 200);
    assert_eq!(told.recv().expect("told"), 1);
    // Of TLS 1.3 a client hears only after its handshake that it was refused.
    let without = proxy(address, trust.tls(), |_| {});
    assert_eq!(get(&without).0, 502);
}

#[test]
fn sessions_are_resumed() {
    let trust = Trust::new();
    let issued = trust.authority.issue(&["origin.test"]);
    let (tell, told): (Sender<_>, Receiver<_>) = channel();
    let address = origin(settings(&issued, None, &[]), move |tls| {
        let _ = tell.send(tls.conn.handshake_kind());
        mirror(tls);
    });
    let proxy = proxy(address, trust.tls(), |config| {
        // Each connection is of one client.
        config.services[0].upstream.max_idle = 0;
    });
    for _ in 0..3 {
        assert_eq!(get(&proxy).0, 200);
    }
    let kinds: Vec<_> = (0..3).map(|_| told.recv().expect("told")).collect();
    assert_ne!(kinds[0], Some(HandshakeKind::Resumed));
    assert_eq!(kinds[2], Some(HandshakeKind::Resumed), "{kinds:?}");
}

#[test]
fn the_proxy_header_comes_before_tls() {
    let trust = Trust::new();
    let issued = trust.authority.issue(&["origin.test"]);
    let config = Arc::new(settings(&issued, None, &[]));
    let listener = TcpListener::bind(family::any()).expect("binds");
    let address = listener.local_addr().expect("bound");
    let serving = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accepts");
        let mut header = Vec::new();
        let mut octet = [0];
        while !header.ends_with(b"\r\n") {
            stream.read_exact(&mut octet).expect("a header");
            header.push(octet[0]);
        }
        let session = ServerConnection::new(config).expect("a session");
        mirror(StreamOwned::new(session, stream));
        String::from_utf8(header).expect("text")
    });
    let proxy = proxy(address, trust.tls(), |config| {
        config.services[0].upstream.send_proxy = Some(ProxyVersion::V1);
    });
    assert_eq!(get(&proxy).0, 200);
    drop(proxy);
    let header = serving.join().expect("serves");
    assert!(header.starts_with(&family::proxy_header()), "{header}");
}

/// nginx with TLS, whose page says in which version it was asked for.
fn nginx_tls(trust: &Trust, http2: &str, more: &str) -> (impl Drop, SocketAddr) {
    let issued = trust.authority.issue(&["origin.test", "app.internal"]);
    let (certificate, key) = issued.write(trust.folder.path(), "origin");
    let reserved = TcpListener::bind(family::any()).expect("binds");
    let address = reserved.local_addr().expect("bound");
    drop(reserved);
    let directives = format!(
        "listen {address} ssl {http2}; ssl_certificate {}; ssl_certificate_key {}; \
         location /page {{ return 200 \"$server_protocol$http_x_forwarded_client_cert\"; }} {more}",
        certificate.display(),
        key.display()
    );
    let (process, _) = nginx_with(trust.folder.path(), &directives);
    (process, address)
}

#[test]
fn alpn_decides_what_nginx_is_spoken_to() {
    for (http2, protocol, expected) in [
        ("http2", BackendProtocol::Auto, "HTTP/2.0"),
        ("", BackendProtocol::Auto, "HTTP/1.1"),
        ("http2", BackendProtocol::H1, "HTTP/1.1"),
        ("http2", BackendProtocol::H2, "HTTP/2.0"),
    ] {
        let trust = Trust::new();
        let (_nginx, address) = nginx_tls(&trust, http2, "");
        let proxy = proxy(address, trust.tls(), |config| {
            config.services[0].upstream.protocol = protocol;
        });
        let url = format!("http://{}/page", proxy.address);
        for _ in 0..3 {
            assert_eq!(curl(&[&url]), expected.as_bytes(), "{protocol:?} {http2}");
        }
        let series = proxy
            .workers
            .metrics()
            .backend("origins", &address.to_string());
        let failed: u64 = ConnectFailure::ALL
            .iter()
            .map(|why| series.sum(|cells| cells.connect_failures(*why)))
            .sum();
        assert_eq!(failed, 0, "{protocol:?} {http2}");
    }
    // Who has no HTTP/2 is not spoken to in HTTP/1 where only HTTP/2 was asked for.
    let trust = Trust::new();
    let (_nginx, address) = nginx_tls(&trust, "", "");
    let only_h2 = proxy(address, trust.tls(), |config| {
        config.services[0].upstream.protocol = BackendProtocol::H2;
    });
    assert_eq!(get(&only_h2).0, 502);
}

/// A listener of kind `tcp` in front of backends with TLS.
fn tcp(backend: SocketAddr, tls: BackendTls) -> (Workers, SocketAddr) {
    let config = config(&[backend], |config| {
        config.http_listeners.clear();
        config.routes.clear();
        let address = family::any();
        let listener = StreamListener::new("tcp", Protocol::Tcp, address, "origins");
        config.stream_listeners.push(listener);
        config.services[0].upstream.tls = Some(tls);
    });
    let workers = Workers::start(&config).expect("starts");
    let address = workers.listeners().next().expect("listens");
    (workers, address)
}

#[test]
fn tcp_is_sealed_and_its_ends_are_passed_on() {
    let trust = Trust::new();
    let issued = trust.authority.issue(&["origin.test"]);
    let address = origin(settings(&issued, None, &["x"]), |mut tls| {
        // All that the client says, to its end, then as much back.
        let mut all = Vec::new();
        let whole = tls.read_to_end(&mut all).is_ok();
        let said = format!("{} {whole} ", all.len());
        let _ = tls.write_all(said.as_bytes());
        let _ = tls.write_all(&all);
        tls.conn.send_close_notify();
        let _ = tls.flush();
    });
    let offers = BackendTls {
        alpn: vec!["x".to_owned()],
        ..trust.tls()
    };
    let (_workers, proxy) = tcp(address, offers);
    let sent = crate::support::pattern(3 << 20);
    let mut client = Client::to(proxy);
    let mut sending = client.clone();
    let copy = sent.clone();
    let sender = thread::spawn(move || {
        sending.send(copy);
        sending.end();
    });
    let came = client.rest();
    sender.join().expect("sent");
    let said = format!("{} true ", sent.len());
    assert!(came.starts_with(said.as_bytes()));
    assert!(came[said.len()..] == sent, "octets were changed");
}

#[test]
fn a_backend_that_is_cut_off_is_passed_on_as_a_reset() {
    let trust = Trust::new();
    let issued = trust.authority.issue(&["origin.test"]);
    let address = origin(settings(&issued, None, &[]), |mut tls| {
        let _ = tls.write_all(b"not all");
        // Its socket ends, and TLS does not.
        let _ = tls.sock.shutdown(std::net::Shutdown::Write);
        let mut octets = [0; 16];
        while let Ok(1..) = tls.sock.read(&mut octets) {}
    });
    let (_workers, proxy) = tcp(address, trust.tls());
    let mut client = Client::to(proxy);
    assert_eq!(client.exactly(7), b"not all");
    assert!(client.is_reset(), "not taken for the whole");
}

#[test]
fn a_file_that_cannot_be_used_refuses_the_configuration() {
    let trust = Trust::new();
    let mut config = config(&["127.0.0.1:1".parse().expect("an address")], |config| {
        config.services[0].upstream.tls = Some(trust.tls());
    });
    assert!(Workers::start(&config).is_ok());
    let tls = config.services[0].upstream.tls.as_mut().expect("tls");
    tls.ca = Some(Path::new("/nonexistent/ca.pem").to_owned());
    let error = Workers::start(&config).map(drop).expect_err("refused");
    let mut said = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(inner) = source {
        said.push_str(&format!(": {inner}"));
        source = inner.source();
    }
    assert!(said.contains("service `origins`"), "{said}");
    assert!(said.contains("/nonexistent/ca.pem"), "{said}");
}

/// An example, with a listener that has a certificate of `trust` for `www.example.com`, in front of
/// this backend.
fn example(
    file: &str,
    trust: &Trust,
    backend: SocketAddr,
    edit: impl FnOnce(&mut Config),
) -> Proxy {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let text = std::fs::read_to_string(folder.join(file)).expect("an example");
    let loaded = proxy_userspace::config::parse(file, &text);
    let mut config = loaded
        .unwrap_or_else(|errors| panic!("{}", errors.pretty(false)))
        .config;
    let issued = trust.authority.issue(&["www.example.com"]);
    let (certificate, key) = issued.write(trust.folder.path(), "www");
    let listener = &mut config.http_listeners[0];
    listener.address = family::any();
    let tls = listener.tls.as_mut().expect("TLS");
    tls.certificates = vec![CertificateSource::Files {
        certificate,
        key,
        ocsp: None,
    }];
    let service = &mut config.services[0];
    service.backends.truncate(1);
    service.upstream.traits.truncate(1);
    let (address, port) = (backend.ip(), backend.port());
    (service.backends[0].address, service.backends[0].port) = (address, Some(port));
    let tls = service.upstream.tls.as_mut().expect("TLS");
    tls.ca = Some(trust.folder.path().join("ca.pem"));
    config.workers.count = Some(1);
    edit(&mut config);
    Proxy::with(&[], |empty| *empty = config)
}

/// What curl says of the page, or why it fails.
fn curl_page(proxy: &Proxy, trust: &Trust, more: &[&str]) -> Result<String, String> {
    let port = proxy.address.port();
    let output = std::process::Command::new("curl")
        .args(["-sS", "--max-time", "20", "--cacert"])
        .arg(trust.folder.path().join("ca.pem"))
        .args([
            "--resolve",
            &format!("www.example.com:{port}:{}", family::host()),
        ])
        .args(more)
        .arg(format!("https://www.example.com:{port}/page"))
        .output()
        .expect("curl runs");
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(text(&output.stderr)),
    }
}

#[test]
fn the_example_of_re_encryption_serves_curl_from_nginx() {
    let trust = Trust::new();
    let (_nginx, backend) = nginx_tls(&trust, "", "");
    let proxy = example("tls-reencrypt.yaml", &trust, backend, |_| {});
    assert_eq!(curl_page(&proxy, &trust, &[]).as_deref(), Ok("HTTP/1.1"));
}

#[test]
fn the_example_of_mutual_tls_asks_clients_and_answers_nginx() {
    let trust = Trust::new();
    let own = trust.authority.issue_to("proxy");
    let (certificate, key) = own.write(trust.folder.path(), "proxy");
    let client = trust.authority.issue_to("client");
    let (shown, shown_key) = client.write(trust.folder.path(), "client");
    let ca = trust.folder.path().join("ca.pem");
    let asks = format!(
        "ssl_verify_client on; ssl_client_certificate {};",
        ca.display()
    );
    let (_nginx, backend) = nginx_tls(&trust, "", &asks);
    let proxy = example("tls-mtls.yaml", &trust, backend, |config| {
        let tls = config.http_listeners[0].tls.as_mut().expect("TLS");
        tls.client.as_mut().expect("clients").ca = ca.clone();
        let tls = config.services[0].upstream.tls.as_mut().expect("TLS");
        tls.identity = Some(TlsIdentity { certificate, key });
    });
    let with = [
        "--cert",
        shown.to_str().expect("text"),
        "--key",
        shown_key.to_str().expect("text"),
    ];
    let page = curl_page(&proxy, &trust, &with).expect("served");
    assert!(
        page.starts_with("HTTP/1.1Hash="),
        "the backend is told of the client: {page}"
    );
    curl_page(&proxy, &trust, &[]).expect_err("no certificate");
}
