//! `server_name: host`: each backend is asked for the request's host, and connections of different
//! names are never mixed. And what of TLS to backends outlives a reload.

use crate::support::{Client, Proxy, config, eventually};
use proxy_tests::certificates::Authority;
use proxy_tests::family;
use proxy_userspace::config::model::Config;
use proxy_userspace::config::model::http::{BackendProtocol, BackendTls, StreamListener};
use proxy_userspace::config::model::tls::{CertificateSource, ServerTls};
use proxy_userspace::observe::http::ConnectFailure;
use proxy_userspace::runtime::workers::Workers;
use proxy_userspace::types::Protocol;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{HandshakeKind, ServerConfig, ServerConnection, StreamOwned};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use tempfile::TempDir;

/// An authority and a folder with its certificate.
struct Trust {
    authority: Authority,
    folder: TempDir,
}

impl Trust {
    fn new() -> Self {
        let (authority, folder) = (Authority::new("test"), tempfile::tempdir());
        let folder = folder.expect("a folder");
        std::fs::write(folder.path().join("ca.pem"), authority.pem()).expect("writes");
        Self { authority, folder }
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    fn by_host(&self) -> BackendTls {
        BackendTls {
            ca: Some(self.ca()),
            by_host: true,
            ..BackendTls::default()
        }
    }
}

/// Has a certificate for whatever is asked for, but for `unknown.test`, where it is another's.
#[derive(Debug)]
struct Names {
    certificates: Mutex<Vec<(String, Arc<CertifiedKey>)>>,
    authority: Arc<AuthorityBox>,
}

struct AuthorityBox(Mutex<Authority>);

impl std::fmt::Debug for AuthorityBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an authority")
    }
}

impl ResolvesServerCert for Names {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let asked = hello
            .server_name()
            .map_or_else(|| family::loopback().to_string(), str::to_owned);
        let mut all = self.certificates.lock().expect("unpoisoned");
        if let Some((_, key)) = all.iter().find(|(name, _)| *name == asked) {
            return Some(Arc::clone(key));
        }
        let name = match asked.as_str() {
            "unknown.test" => "other.test",
            name => name,
        };
        let authority = self.authority.0.lock().expect("unpoisoned");
        let issued = authority.issue(&[name]);
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let key = CertifiedKey::from_der(issued.chain(), issued.private_key(), &provider);
        let key = Arc::new(key.expect("a key"));
        all.push((asked, Arc::clone(&key)));
        Some(key)
    }
}

/// A connection that the server has taken: whom it asked for, and whether it was resumed.
type Seen = (Option<String>, bool);

/// A server for all names, over HTTP/1 with the connection's name as its answer, which tells of its
/// connections.
fn origin(trust: Authority) -> (SocketAddr, Receiver<Seen>) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let names = Names {
        certificates: Mutex::default(),
        authority: Arc::new(AuthorityBox(Mutex::new(trust))),
    };
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(names));
    let config = Arc::new(config);
    let listener = TcpListener::bind(family::any()).expect("binds");
    let address = listener.local_addr().expect("bound");
    let (tell, told) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let (config, tell) = (Arc::clone(&config), tell.clone());
            thread::spawn(move || serve(stream, config, &tell));
        }
    });
    (address, told)
}

fn serve(
    mut stream: TcpStream,
    config: Arc<ServerConfig>,
    tell: &std::sync::mpsc::Sender<Seen>,
) -> Option<()> {
    let mut session = ServerConnection::new(config).ok()?;
    while session.is_handshaking() {
        session.complete_io(&mut stream).ok()?;
    }
    let name = session.server_name().map(str::to_owned);
    let is_resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
    let _ = tell.send((name.clone(), is_resumed));
    let mut tls = StreamOwned::new(session, stream);
    let name = name.unwrap_or_default();
    let mut read = Vec::new();
    let mut octets = [0; 4096];
    loop {
        let taken = tls.read(&mut octets).ok().filter(|&taken| taken > 0)?;
        read.extend_from_slice(&octets[..taken]);
        while let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            read.drain(..end + 4);
            let length = name.len();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{name}");
            tls.write_all(answer.as_bytes()).ok()?;
        }
    }
}

fn ask(client: &mut Client, host: &str) -> (u16, String) {
    client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    let answer = client.answer();
    (answer.status, answer.text())
}

fn with_tls(tls: &BackendTls) -> impl Fn(&mut Config) + '_ {
    move |config| {
        let upstream = &mut config.services[0].upstream;
        upstream.tls = Some(tls.clone());
        upstream.protocol = BackendProtocol::H1;
    }
}

#[test]
fn each_name_has_connections_of_its_own() {
    let trust = Trust::new();
    let tls = trust.by_host();
    let (address, told) = origin(trust.authority);
    let proxy = Proxy::with(&[address], with_tls(&tls));
    let mut client = proxy.client();
    // Between the same two, over and over: each answer is that of the name's own connection.
    for _ in 0..5 {
        for host in ["a.test", "b.test", "A.test:8443"] {
            let name = host.split(':').next().expect("a name").to_lowercase();
            assert_eq!(ask(&mut client, host), (200, name));
        }
    }
    let seen: Vec<_> = told.try_iter().map(|(name, _)| name).collect();
    let expected = [Some("a.test".to_owned()), Some("b.test".to_owned())];
    assert_eq!(seen, expected, "one connection for each name");
    // The backend's certificate is not for this one.
    let mut other = proxy.client();
    assert_eq!(ask(&mut other, "unknown.test").0, 502);
    let series = proxy.workers.metrics();
    let series = series.backend("origins", &address.to_string());
    let failed = || series.sum(|cells| cells.connect_failures(ConnectFailure::TlsWrongName));
    eventually("it is counted", || failed() >= 1);
    assert_eq!(ask(&mut client, "b.test"), (200, "b.test".to_owned()));
    // An address is verified as one, and SNI does not tell of it.
    assert_eq!(ask(&mut client, family::host()), (200, String::new()));
}

#[test]
fn many_names_do_not_keep_more_connections_than_may_be() {
    let trust = Trust::new();
    let tls = trust.by_host();
    let (address, told) = origin(trust.authority);
    let proxy = Proxy::with(&[address], |config| {
        with_tls(&tls)(config);
        config.services[0].upstream.max_idle = 2;
    });
    let mut client = proxy.client();
    for number in 0..6 {
        let host = format!("n{number}.test");
        assert_eq!(ask(&mut client, &host), (200, host.clone()));
    }
    assert_eq!(told.try_iter().count(), 6);
    // The last two were kept.
    for number in [5, 4] {
        let host = format!("n{number}.test");
        assert_eq!(ask(&mut client, &host), (200, host.clone()));
    }
    assert_eq!(told.try_iter().count(), 0, "kept");
    assert_eq!(ask(&mut client, "n0.test").0, 200);
    assert_eq!(told.try_iter().count(), 1, "made room");
}

#[test]
fn http2_connections_are_not_mixed_either() {
    let trust = Trust::new();
    let (folder, tls) = (&trust.folder, trust.by_host());
    // nginx, which answers by the name of the connection.
    let issued = trust.authority.issue(&["a.test", "b.test"]);
    issued.write(folder.path(), "server");
    let address = proxy_tests::alone::unused_address();
    let directives = format!(
        "listen {address} ssl http2; ssl_certificate {0}/server.pem; \
         ssl_certificate_key {0}/server.key; \
         location / {{ return 200 '$ssl_server_name $server_protocol $connection'; }}",
        folder.path().display()
    );
    let (_nginx, _) = crate::peers::nginx_with(folder.path(), &directives);
    let proxy = Proxy::with(&[address], |config| {
        with_tls(&tls)(config);
        config.services[0].upstream.protocol = BackendProtocol::H2;
    });
    let mut client = proxy.client();
    let mut connections = std::collections::BTreeSet::new();
    for _ in 0..3 {
        for host in ["a.test", "b.test"] {
            let (status, text) = ask(&mut client, host);
            assert_eq!(status, 200, "{text}");
            let mut words = text.split(' ');
            assert_eq!(words.next(), Some(host), "{text}");
            assert_eq!(words.next(), Some("HTTP/2.0"), "{text}");
            connections.insert(words.next().expect("a number").to_owned());
        }
    }
    assert_eq!(connections.len(), 2, "one for each name");
}

#[test]
fn tcp_asks_for_the_name_that_the_client_asked_for() {
    let trust = Trust::new();
    let issued = trust.authority.issue(&["front.test", "c.test"]);
    let (certificate, key) = issued.write(trust.folder.path(), "front");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trust.authority.der()).expect("a root");
    let tls = trust.by_host();
    let (backend, told) = origin(trust.authority);
    let config = config(&[backend], |config| {
        config.http_listeners.clear();
        config.routes.clear();
        let address = family::any();
        let mut listener = StreamListener::new("tcp", Protocol::Tcp, address, "origins");
        listener.tls = Some(ServerTls::new(vec![CertificateSource::Files {
            certificate,
            key,
            ocsp: None,
        }]));
        config.stream_listeners.push(listener);
        config.services[0].upstream.tls = Some(tls);
    });
    let workers = Workers::start(&config).expect("starts");
    let address = workers.listeners().next().expect("listens");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let settings = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "c.test".try_into().expect("a name");
    let session = rustls::ClientConnection::new(Arc::new(settings), name).expect("begins");
    let socket = TcpStream::connect(address).expect("connects");
    let mut client = StreamOwned::new(session, socket);
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sends");
    let mut octets = [0; 1024];
    assert!(client.read(&mut octets).expect("is answered") > 0);
    let seen = told.recv().expect("told");
    assert_eq!(seen.0.as_deref(), Some("c.test"));
}

#[test]
fn sessions_and_connections_outlive_a_reload_that_changes_nothing_about_them() {
    let trust = Trust::new();
    let tls = BackendTls {
        ca: Some(trust.ca()),
        server_name: Some("app.test".to_owned()),
        ..BackendTls::default()
    };
    let ca = trust.ca();
    let pem = trust.authority.pem();
    let (address, told) = origin(trust.authority);
    let mut proxy = Proxy::with(&[address], with_tls(&tls));
    let app = (200, "app.test".to_owned());
    assert_eq!(ask(&mut proxy.client(), "a"), app);
    assert_eq!(
        told.recv().expect("told"),
        (Some("app.test".to_owned()), false)
    );
    let mut reload = |tls: &BackendTls, idle: u32| {
        let next = config(&[address], |config| {
            with_tls(tls)(config);
            config.services[0].upstream.max_idle = idle;
        });
        let prepared = proxy.workers.prepare(&next).expect("valid");
        proxy.workers.put_in_force(prepared);
        // Workers take a snapshot when they next look.
        let mut client = proxy.client();
        assert_eq!(ask(&mut client, "a").0, 200);
    };
    // Nothing about TLS: the connection is used on.
    reload(&tls, 3);
    assert_eq!(told.try_iter().count(), 0, "the same connection");
    // The same file with another authority beside: no connection of before is used, and no session.
    let other = Authority::new("other");
    std::fs::write(&ca, pem.clone() + &other.pem()).expect("writes");
    reload(&tls, 3);
    let (_, is_resumed) = told.recv().expect("another connection");
    assert!(!is_resumed, "what is believed is not what it was");
    // Not verified any more: another measure, and another connection.
    let unverified = BackendTls {
        verify: false,
        ..tls.clone()
    };
    reload(&unverified, 3);
    assert!(!told.recv().expect("another connection").1);
}

#[test]
fn a_session_is_resumed_after_a_reload() {
    let trust = Trust::new();
    let tls = BackendTls {
        ca: Some(trust.ca()),
        server_name: Some("app.test".to_owned()),
        ..BackendTls::default()
    };
    let (address, told) = origin(trust.authority);
    let configure = |config: &mut Config| {
        with_tls(&tls)(config);
        // No connection is kept.
        config.services[0].upstream.max_idle = 0;
    };
    let mut proxy = Proxy::with(&[address], configure);
    let mut kinds = Vec::new();
    for round in 0..4 {
        if round == 2 {
            let prepared = proxy.workers.prepare(&config(&[address], configure));
            proxy.workers.put_in_force(prepared.expect("valid"));
        }
        assert_eq!(ask(&mut proxy.client(), "a").0, 200);
        kinds.push(told.recv().expect("told").1);
    }
    assert_eq!(kinds, [false, true, true, true]);
}
