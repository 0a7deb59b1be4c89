//! TLS that ends at a listener of kind `tcp`: Redis and openssl as peers, and our own where a test
//! needs every octet.

use crate::stream_peers::{Process, redis_cli, redis_with};
use crate::support::{Client, Origin, PATIENCE, eventually, pattern};
use proxy_tests::certificates::{Authority, Request};
use proxy_tests::family;
use proxy_userspace::config::model::http::{
    AccessLog, BackendTls, BackendTraits, LogFormat, LogTarget, ProxyVersion, StreamListener,
    TlsIdentity,
};
use proxy_userspace::config::model::tls::{CertificateSource, ClientAuth, ServerTls};
use proxy_userspace::config::model::{Config, Service};
use proxy_userspace::message::{Refusal, RefusedBy};
use proxy_userspace::net::proxy_protocol;
use proxy_userspace::observe::access_log::End;
use proxy_userspace::observe::http::{HandshakeResult, HandshakeVersion};
use proxy_userspace::runtime::workers::Workers;
use proxy_userspace::types::Protocol;
use proxy_userspace::types::tls::TlsVersion;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;
use tempfile::TempDir;

type Sealed = StreamOwned<ClientConnection, TcpStream>;

/// An authority with its files, and a server's certificate for `db.test` and this host.
struct Place {
    folder: TempDir,
    authority: Authority,
    ca: PathBuf,
    server: (PathBuf, PathBuf),
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = Authority::new("test CA");
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, authority.pem()).expect("writes");
        let issued = authority.issue(&["db.test", &family::loopback().to_string()]);
        let server = issued.write(folder.path(), "server");
        Self {
            folder,
            authority,
            ca,
            server,
        }
    }

    fn tls(&self) -> ServerTls {
        let (certificate, key) = self.server.clone();
        ServerTls::new(vec![CertificateSource::Files {
            certificate,
            key,
            ocsp: None,
        }])
    }

    fn client_auth(&self, required: bool) -> ClientAuth {
        ClientAuth {
            ca: self.ca.clone(),
            required,
            crl: None,
            depth: 1,
            xfcc: true,
            x_ssl: false,
        }
    }

    /// A client's certificate for `name`.
    fn client(&self, name: &str) -> (PathBuf, PathBuf) {
        let issued = self.authority.issue_to(name);
        issued.write(self.folder.path(), name)
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der()).expect("a root");
        roots
    }

    /// Our own client's settings, with a certificate of this name if it is not empty.
    fn settings(&self, common_name: &str) -> ClientConfig {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(self.roots());
        if common_name.is_empty() {
            return builder.with_no_client_auth();
        }
        let issued = self.authority.issue_to(common_name);
        builder
            .with_client_auth_cert(issued.chain(), issued.private_key())
            .expect("a certificate")
    }

    fn connect(&self, address: SocketAddr) -> Sealed {
        seal(address, &Arc::new(self.settings("")))
    }
}

fn seal(address: SocketAddr, settings: &Arc<ClientConfig>) -> Sealed {
    let socket = TcpStream::connect(address).expect("connects");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let name = ServerName::try_from("db.test").expect("a name");
    let client = ClientConnection::new(Arc::clone(settings), name).expect("begins");
    StreamOwned::new(client, socket)
}

fn config(
    backend: SocketAddr,
    tls: ServerTls,
    edit: impl FnOnce(&mut StreamListener, &mut Service),
) -> Config {
    let mut service = Service::new("origins");
    service.push_backend(backend, 1, BackendTraits::default());
    let address = family::any();
    let mut listener = StreamListener::new("tcp", Protocol::Tcp, address, "origins");
    listener.tls = Some(tls);
    edit(&mut listener, &mut service);
    let mut config = Config {
        stream_listeners: vec![listener],
        services: vec![service],
        ..Config::default()
    };
    config.workers.count = Some(1);
    config
}

fn start(config: &Config) -> (Workers, SocketAddr) {
    let workers = Workers::start(config).expect("starts");
    let address = workers.listeners().next().expect("listens");
    (workers, address)
}

fn proxy(backend: SocketAddr, tls: ServerTls) -> (Workers, SocketAddr) {
    start(&config(backend, tls, |_, _| {}))
}

/// Sends back what it gets, and ends when the client has ended.
fn echo() -> Origin {
    Origin::new(|mut client, _| {
        loop {
            let octets = client.exactly(1);
            if octets.is_empty() {
                return client.end();
            }
            let more = client.there();
            client.send(octets);
            client.send(more);
        }
    })
}

fn ended(workers: &Workers, end: End) -> u64 {
    let series = workers.metrics().listener("tcp");
    series.sum(|cells| cells.ends(end))
}

fn refused(workers: &Workers, refusal: Refusal) -> u64 {
    let series = workers.metrics().listener("tcp");
    series.sum(|cells| cells.refusals(RefusedBy::Client, refusal))
}

fn handshakes(workers: &Workers, result: HandshakeResult) -> u64 {
    let series = workers.metrics().tls("tcp");
    HandshakeVersion::ALL
        .iter()
        .map(|&version| series.sum(|cells| cells.handshakes(version, result)))
        .sum()
}

#[test]
fn what_is_inside_goes_there_and_back_and_the_client_may_end_first() {
    let place = Place::new();
    for (min, max) in [
        (TlsVersion::V12, TlsVersion::V12),
        (TlsVersion::V13, TlsVersion::V13),
    ] {
        let origin = echo();
        let mut tls = place.tls();
        (tls.min_version, tls.max_version) = (min, max);
        let (workers, address) = proxy(origin.address, tls);
        let mut client = place.connect(address);
        let sent = pattern(3 << 20);
        // As much as all buffers on the way hold is there at once.
        for piece in sent.chunks(64 << 10) {
            client.write_all(piece).expect("sends");
            let mut back = vec![0; piece.len()];
            client.read_exact(&mut back).expect("comes back");
            assert!(back == piece, "octets were changed");
        }
        client.write_all(b"last words").expect("sends");
        client.conn.send_close_notify();
        client.flush().expect("sends");
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).expect("ends as it should");
        assert_eq!(rest, b"last words");
        eventually("it is over", || ended(&workers, End::Complete) == 1);
        assert_eq!(handshakes(&workers, HandshakeResult::Ok), 1);
    }
}

#[test]
fn the_client_may_go_on_when_the_backend_has_ended() {
    let place = Place::new();
    let (tell, told) = channel();
    let origin = Origin::new(move |mut client, _| {
        client.send("bye");
        client.end();
        let _ = tell.send(client.rest());
    });
    let (workers, address) = proxy(origin.address, place.tls());
    let mut client = place.connect(address);
    let mut said = Vec::new();
    client.read_to_end(&mut said).expect("its end is said");
    assert_eq!(said, b"bye");
    client.write_all(b"and still ").expect("sends");
    client.write_all(b"there").expect("sends");
    client.conn.send_close_notify();
    client.flush().expect("sends");
    assert_eq!(told.recv().expect("told"), b"and still there");
    eventually("it is over", || ended(&workers, End::Complete) == 1);
}

#[test]
fn a_client_that_is_cut_off_is_passed_on_as_a_reset() {
    let place = Place::new();
    let (tell, told) = channel();
    let origin = Origin::new(move |mut client, _| {
        let got = client.exactly(7);
        let _ = tell.send((got, client.is_reset()));
    });
    let (workers, address) = proxy(origin.address, place.tls());
    let mut client = place.connect(address);
    client.write_all(b"not all").expect("sends");
    client.sock.shutdown(Shutdown::Write).expect("ends");
    let (got, was_reset) = told.recv().expect("told");
    assert_eq!(got, b"not all");
    assert!(was_reset, "not taken for the whole");
    eventually("it is over", || ended(&workers, End::ClientClosed) == 1);
}

#[test]
fn nothing_that_moves_and_no_handshake_end_in_time() {
    let place = Place::new();
    let origin = echo();
    let idle = config(origin.address, place.tls(), |listener, _| {
        listener.idle_timeout = Duration::from_millis(200);
    });
    let (workers, address) = start(&idle);
    let mut client = place.connect(address);
    client.write_all(b"x").expect("sends");
    let mut octets = [0; 8];
    client.read_exact(&mut octets[..1]).expect("comes back");
    let error = client.read(&mut octets).expect_err("no end is said");
    assert!(
        matches!(
            error.kind(),
            ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof
        ),
        "{error}"
    );
    eventually("it is over", || ended(&workers, End::ClientTimeout) == 1);
    let mut slow = place.tls();
    slow.handshake_timeout = Duration::from_millis(200);
    let (workers, address) = proxy(origin.address, slow);
    let mut silent = Client::to(address);
    // The beginning of a record.
    silent.send([22, 3, 1, 2]);
    assert_eq!(silent.rest(), b"");
    eventually("it is over", || ended(&workers, End::ClientTimeout) == 1);
    assert_eq!(handshakes(&workers, HandshakeResult::Timeout), 1);
}

#[test]
fn who_speaks_no_tls_is_not_answered_and_reaches_nobody() {
    let place = Place::new();
    let origin = echo();
    let (workers, address) = proxy(origin.address, place.tls());
    for said in [
        "PING\r\n",
        "*1\r\n$4\r\nPING\r\n",
        "\0\0\0\x08\x04\x02\x16\x2f",
    ] {
        let mut client = Client::to(address);
        client.send(said);
        assert_eq!(client.rest(), b"", "{said:?}");
    }
    eventually("all are counted", || {
        refused(&workers, Refusal::NotTls) == 3
    });
    eventually("all are over", || ended(&workers, End::ClientProtocol) == 3);
    // What probes of other balancers do.
    drop(TcpStream::connect(address).expect("connects"));
    eventually("it is counted", || ended(&workers, End::ClientClosed) == 1);
    assert_eq!(origin.connections(), 0);
}

#[test]
fn handshakes_beyond_the_limit_are_closed() {
    let place = Place::new();
    let origin = echo();
    let mut tls = place.tls();
    tls.max_handshakes = 1;
    let (workers, address) = proxy(origin.address, tls);
    let mut first = Client::to(address);
    first.send([22]);
    eventually("the second is closed", || {
        let _ = Client::to(address).rest();
        handshakes(&workers, HandshakeResult::TooMany) > 0
    });
    drop(first);
    eventually("there is room again", || {
        let mut client = place.connect(address);
        let mut octet = [0];
        client.write_all(b"x").is_ok() && client.read_exact(&mut octet).is_ok()
    });
}

fn s_client(address: SocketAddr, args: &[&str]) -> String {
    let mut child = Command::new("openssl")
        .args(["s_client", "-connect", &address.to_string()])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl runs");
    drop(child.stdin.take());
    let output = child.wait_with_output().expect("ends");
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

#[test]
fn openssl_agrees_on_a_protocol_and_shows_its_certificate() {
    let place = Place::new();
    let origin = Origin::new(|mut client, _| {
        client.send("welcome\n");
        client.rest();
    });
    let mut tls = place.tls();
    tls.alpn = vec!["postgresql".to_owned(), "imap".to_owned()];
    tls.client = Some(place.client_auth(true));
    let (workers, address) = proxy(origin.address, tls);
    let text = |path: &PathBuf| path.display().to_string();
    let ca = text(&place.ca);
    let (certificate, key) = place.client("alice");
    let (certificate, key) = (text(&certificate), text(&key));
    let trusted = [
        "-CAfile",
        &ca,
        "-verify_return_error",
        "-servername",
        "db.test",
    ];
    let own = ["-cert", &certificate, "-key", &key];
    let with = |args: &[&str]| s_client(address, &[&trusted, args].concat());
    let said = with(&[&own[..], &["-alpn", "x,imap,postgresql"]].concat());
    assert!(said.contains("ALPN protocol: postgresql"), "{said}");
    assert!(said.contains("Verify return code: 0 (ok)"), "{said}");
    let said = with(&[&own[..], &["-alpn", "h2"]].concat());
    assert!(said.contains("no application protocol"), "{said}");
    let said = with(&["-tls1_2"]);
    assert!(said.contains("alert"), "{said}");
    let other = Authority::new("other").issue_to("mallory");
    let (certificate, key) = other.write(place.folder.path(), "mallory");
    let said = with(&["-tls1_2", "-cert", &text(&certificate), "-key", &text(&key)]);
    assert!(said.contains("alert unknown ca"), "{said}");
    eventually("all are counted", || {
        refused(&workers, Refusal::TlsHandshake) == 3
    });
    for result in [
        HandshakeResult::Ok,
        HandshakeResult::NoSharedProtocol,
        HandshakeResult::NoCertificate,
        HandshakeResult::UnknownAuthority,
    ] {
        assert_eq!(handshakes(&workers, result), 1, "{result:?}");
    }
    assert_eq!(origin.connections(), 1, "who is refused reaches nobody");
}

/// Tells of the PROXY headers that it gets, and answers one octet.
fn introduced() -> (Origin, std::sync::mpsc::Receiver<Vec<u8>>) {
    let (tell, told) = channel();
    let origin = Origin::new(move |mut client, _| {
        let mut header = client.exactly(16);
        let length = u16::from_be_bytes([header[14], header[15]]);
        header.extend(client.exactly(length.into()));
        let _ = tell.send(header);
        let octet = client.exactly(1);
        client.send(octet);
        client.rest();
    });
    (origin, told)
}

#[test]
fn a_backend_is_told_what_was_agreed_on_and_whose_certificate_it_is() {
    let place = Place::new();
    let (origin, told) = introduced();
    let mut tls = place.tls();
    tls.alpn = vec!["x".to_owned()];
    tls.client = Some(place.client_auth(false));
    let (_workers, address) = start(&config(origin.address, tls, |listener, service| {
        listener.proxy_protocol_from = vec![family::network().parse().expect("a network")];
        service.upstream.send_proxy = Some(ProxyVersion::V2);
    }));
    let speak = |settings: &Arc<ClientConfig>| {
        let mut client = seal(address, settings);
        let header = b"PROXY TCP4 192.0.2.7 198.51.100.9 4660 443\r\n";
        client.sock.write_all(header).expect("sends");
        client.write_all(b"x").expect("sends");
        client.read_exact(&mut [0]).expect("is answered");
        client.conn.handshake_kind()
    };
    let mut certified = place.settings("alice");
    certified.alpn_protocols = vec![b"x".to_vec()];
    let certified = Arc::new(certified);
    for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
        assert_eq!(speak(&certified), Some(kind));
        let header = told.recv().expect("told");
        let (header, _) = proxy_protocol::parse(&header)
            .expect("valid")
            .expect("whole");
        let proxy_protocol::Origin::Client { client, .. } = header.origin else {
            panic!("{:?}", header.origin);
        };
        assert_eq!(client.to_string(), "192.0.2.7:4660");
        assert_eq!(header.extensions.authority(), Some("db.test"));
        assert_eq!(header.extensions.alpn(), Some(&b"x"[..]));
        let tls = header.extensions.tls().expect("TLS");
        assert!(tls.is_used() && tls.is_client_verified());
        assert_eq!(tls.is_in_connection(), kind == HandshakeKind::Full);
        assert_eq!(tls.version(), Some(&b"TLSv1.3"[..]));
        let cipher = tls.cipher().expect("a cipher suite");
        assert!(cipher.starts_with(b"TLS_"), "{cipher:?}");
        assert_eq!(tls.common_name(), Some(&b"alice"[..]));
    }
    speak(&Arc::new(place.settings("")));
    let header = told.recv().expect("told");
    let (header, _) = proxy_protocol::parse(&header)
        .expect("valid")
        .expect("whole");
    let tls = header.extensions.tls().expect("TLS");
    assert!(tls.is_used() && !tls.is_client_verified());
    assert_eq!((tls.common_name(), header.extensions.alpn()), (None, None));
}

#[test]
fn the_log_says_what_the_connection_is_sealed_by() {
    let place = Place::new();
    let origin = echo();
    let log = place.folder.path().join("log");
    let mut tls = place.tls();
    tls.client = Some(place.client_auth(false));
    let (workers, address) = start(&config(origin.address, tls, |listener, _| {
        let format = "$ssl_protocol $ssl_server_name $ssl_client_verify $ssl_client_s_dn $end";
        listener.access_log = Some(AccessLog {
            format: LogFormat::Template(format.to_owned()),
            ..AccessLog::new(LogTarget::File(log.clone()))
        });
    }));
    let mut client = seal(address, &Arc::new(place.settings("bob")));
    client.write_all(b"x").expect("sends");
    client.conn.send_close_notify();
    client.flush().expect("sends");
    client.read_to_end(&mut Vec::new()).expect("ends");
    let mut plain = Client::to(address);
    plain.send("GET / HTTP/1.1\r\n\r\n");
    let _ = plain.rest();
    eventually("both are over", || {
        ended(&workers, End::Complete) == 1 && ended(&workers, End::ClientProtocol) == 1
    });
    drop(workers);
    let log = std::fs::read_to_string(log).expect("a log");
    let lines = "TLSv1.3 db.test SUCCESS CN=bob complete\n- - - - client_protocol\n";
    assert_eq!(log, lines);
}

#[test]
fn sessions_and_connections_live_on_over_a_reload() {
    let place = Place::new();
    let origin = echo();
    let before = config(origin.address, place.tls(), |_, _| {});
    let (mut workers, address) = start(&before);
    let settings = Arc::new(place.settings(""));
    let mut octet = [0];
    let mut old = seal(address, &settings);
    old.write_all(b"1").expect("sends");
    old.read_exact(&mut octet).expect("is served");
    // Another certificate of the same name.
    let issued = place.authority.issue_as(&Request {
        names: &["db.test"],
        serial: 99,
        ..Request::default()
    });
    issued.write(place.folder.path(), "server");
    let prepared = workers.prepare(&before).expect("valid");
    workers.put_in_force(prepared);
    old.write_all(b"2").expect("sends");
    old.read_exact(&mut octet).expect("is still served");
    let mut resumed = seal(address, &settings);
    resumed.write_all(b"3").expect("sends");
    resumed.read_exact(&mut octet).expect("is served");
    assert_eq!(resumed.conn.handshake_kind(), Some(HandshakeKind::Resumed));
    let mut fresh = place.connect(address);
    fresh.write_all(b"4").expect("sends");
    fresh.read_exact(&mut octet).expect("is served");
    let shown = fresh.conn.peer_certificates().expect("a certificate")[0].clone();
    assert_eq!(shown, issued.chain()[0], "the new one");
    std::fs::write(&place.server.1, "no key").expect("writes");
    let error = workers.prepare(&before).map(drop).expect_err("is refused");
    assert!(format!("{error:?}").contains("server.key"), "{error:?}");
    old.write_all(b"5").expect("sends");
    old.read_exact(&mut octet).expect("is still served");
}

/// Redis whose clients have to show a certificate, with its own port for TLS.
fn redis_tls(place: &Place) -> Option<(Process, SocketAddr)> {
    let issued = place.authority.issue(&["redis.internal"]);
    let (certificate, key) = issued.write(place.folder.path(), "redis");
    let text = |path: &PathBuf| path.display().to_string();
    redis_with(&|port| {
        let options = [
            ("--port", "0".to_owned()),
            ("--tls-port", port.to_owned()),
            ("--tls-cert-file", text(&certificate)),
            ("--tls-key-file", text(&key)),
            ("--tls-ca-cert-file", text(&place.ca)),
            ("--tls-auth-clients", "yes".to_owned()),
        ];
        let options = options.into_iter();
        options
            .flat_map(|(name, value)| [name.to_owned(), value])
            .collect()
    })
}

#[test]
fn redis_is_served_over_tls_and_spoken_to_over_tls() {
    let place = Place::new();
    let text = |path: &PathBuf| path.display().to_string();
    let (Some((_plain, plain)), Some((_sealed, sealed))) = (
        redis_with(&|port| vec!["--port".to_owned(), port.to_owned()]),
        redis_tls(&place),
    ) else {
        let required = std::env::var_os("SLUICE_REQUIRE_PRIVILEGED").is_some();
        assert!(!required, "redis-server is not installed");
        eprintln!("skipped: redis-server is not installed");
        return;
    };
    let mut tls = place.tls();
    tls.client = Some(place.client_auth(true));
    let (certificate, key) = place.client("proxy");
    let to_backend = BackendTls {
        ca: Some(place.ca.clone()),
        server_name: Some("redis.internal".to_owned()),
        identity: Some(TlsIdentity { certificate, key }),
        ..BackendTls::default()
    };
    let (certificate, key) = place.client("alice");
    let args: Vec<String> = [
        ["--cacert".to_owned(), text(&place.ca)],
        ["--cert".to_owned(), text(&certificate)],
        ["--key".to_owned(), text(&key)],
    ]
    .concat();
    for (backend, to_backend) in [(plain, None), (sealed, Some(to_backend))] {
        let (_workers, address) = start(&config(backend, tls.clone(), |_, service| {
            service.upstream.tls = to_backend;
        }));
        let cli = |more: &[&str], input: &[u8]| {
            let mut all = vec!["--tls"];
            all.extend(args.iter().map(String::as_str));
            redis_cli(address, &[&all, more].concat(), input)
        };
        assert_eq!(cli(&["PING"], b""), "PONG\n");
        let large = vec![b'v'; 8 << 20];
        assert_eq!(cli(&["-x", "SET", "large"], &large), "OK\n");
        let back = cli(&["GET", "large"], b"");
        assert!(back.trim_end().as_bytes() == large, "a value was changed");
        let commands: String = (0..10_000)
            .map(|number| format!("*2\r\n$4\r\nINCR\r\n$1\r\n{}\r\n", number % 10))
            .collect();
        let told = cli(&["--pipe"], commands.as_bytes());
        assert!(told.contains("errors: 0, replies: 10000"), "{told}");
    }
}

#[test]
fn the_example_asks_for_a_certificate_and_tells_whose_it_is() {
    let place = Place::new();
    let (origin, told) = introduced();
    let example = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/tls-tcp.yaml");
    let text = std::fs::read_to_string(&example).expect("is there");
    let text = text
        .replace(
            "/etc/sluice/redis.example.com",
            &format!("{}/server", place.folder.path().display()),
        )
        .replace(
            "/etc/sluice/clients-ca.pem",
            &place.ca.display().to_string(),
        )
        .replace("10.1.0.1:6379", &origin.address.to_string())
        .replace("0.0.0.0", &family::loopback().to_string());
    let loaded = proxy_userspace::config::parse("tls-tcp.yaml", &text);
    let mut config = loaded
        .unwrap_or_else(|errors| panic!("{}", errors.pretty(false)))
        .config;
    config.stream_listeners[0].address.set_port(0);
    config.workers.count = Some(1);
    let (_workers, address) = start(&config);
    let mut stranger = place.connect(address);
    assert!(
        stranger
            .write_all(b"x")
            .and_then(|()| stranger.read_exact(&mut [0]))
            .is_err()
    );
    let mut client = seal(address, &Arc::new(place.settings("alice")));
    client.write_all(b"x").expect("sends");
    client.read_exact(&mut [0]).expect("is answered");
    let header = told.recv().expect("told");
    let (header, _) = proxy_protocol::parse(&header)
        .expect("valid")
        .expect("whole");
    let tls = header.extensions.tls().expect("TLS");
    assert_eq!(tls.common_name(), Some(&b"alice"[..]));
}
