//! TLS that is passed on by what the client says first, without being decrypted.

use crate::support::{Client, Origin, eventually};
use proxy_tests::alone::{Process, unused_address};
use proxy_tests::daemon::sluice;
use proxy_tests::family;
use proxy_userspace::config::model::http::{
    AccessLog, BackendTraits, HostMatch, LogFormat, LogTarget, NameRule, Passthrough, ProxyVersion,
    StreamListener,
};
use proxy_userspace::config::model::{Config, Service};
use proxy_userspace::message::{Refusal, RefusedBy};
use proxy_userspace::net::proxy_protocol;
use proxy_userspace::observe::access_log::End;
use proxy_userspace::runtime::workers::Workers;
use proxy_userspace::types::Protocol;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Rules `hosts / protocols / service`, the first two with blanks between them.
fn rules(rules: &[&str]) -> Vec<NameRule> {
    let host = |host: &str| match host.strip_prefix('*') {
        Some(suffix) => HostMatch::Wildcard(suffix.to_owned()),
        None => HostMatch::Exact(host.to_owned()),
    };
    let rule = |text: &&str| {
        let parts: Vec<&str> = text.split(" / ").collect();
        NameRule {
            hosts: parts[0].split_whitespace().map(host).collect(),
            alpn: parts[1].split_whitespace().map(str::to_owned).collect(),
            service: parts[2].to_owned(),
        }
    };
    rules.iter().map(rule).collect()
}

/// A proxy that passes on by these rules to services of these names.
fn proxy(
    names: &[&str],
    services: &[(&str, SocketAddr)],
    edit: impl FnOnce(&mut StreamListener, &mut Vec<Service>),
) -> (Workers, SocketAddr) {
    let mut services: Vec<Service> = services
        .iter()
        .map(|(name, backend)| {
            let mut service = Service::new(*name);
            service.push_backend(*backend, 1, BackendTraits::default());
            service
        })
        .collect();
    let address = family::any();
    let mut listener = StreamListener::new("tls", Protocol::Tcp, address, "");
    listener.service = None;
    listener.passthrough = Some(Passthrough {
        names: rules(names),
        hello_timeout: Duration::from_secs(20),
    });
    edit(&mut listener, &mut services);
    let mut config = Config {
        stream_listeners: vec![listener],
        services,
        ..Config::default()
    };
    config.workers.count = Some(1);
    let workers = Workers::start(&config).expect("starts");
    let address = workers.listeners().next().expect("listens");
    (workers, address)
}

fn refused(workers: &Workers, refusal: Refusal) -> u64 {
    let series = workers.metrics().listener("tls");
    series.sum(|cells| cells.refusals(RefusedBy::Client, refusal))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Who takes TLS for a name, and says it to whoever comes.
struct TlsOrigin {
    address: SocketAddr,
    certificate: CertificateDer<'static>,
}

impl TlsOrigin {
    /// Offers these protocols. Before TLS it reads as many octets as `preface` says.
    fn new(name: &'static str, protocols: &[&str]) -> Self {
        let signed = rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("signs");
        let certificate = signed.cert.der().clone();
        let key = PrivateKeyDer::try_from(signed.signing_key.serialize_der()).expect("a key");
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .expect("fits");
        config.alpn_protocols = protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        let config = Arc::new(config);
        let listener = TcpListener::bind(family::any()).expect("binds");
        let address = listener.local_addr().expect("bound");
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let config = Arc::clone(&config);
                thread::spawn(move || serve(stream, config, name));
            }
        });
        Self {
            address,
            certificate,
        }
    }
}

/// Says its name, then sends back what it gets, to the end.
fn serve(stream: TcpStream, config: Arc<ServerConfig>, name: &str) {
    let session = ServerConnection::new(config).expect("a session");
    let mut tls = rustls::StreamOwned::new(session, stream);
    if tls.write_all(format!("{name}\n").as_bytes()).is_err() {
        return;
    }
    let mut octets = [0; 4096];
    while let Ok(read @ 1..) = tls.read(&mut octets) {
        if tls.write_all(&octets[..read]).is_err() {
            return;
        }
    }
    tls.conn.send_close_notify();
    let _ = tls.flush();
}

fn client(origin: &TlsOrigin, name: &str, protocols: &[&str]) -> ClientConnection {
    let mut roots = RootCertStore::empty();
    roots.add(origin.certificate.clone()).expect("a root");
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    let name = name.to_owned().try_into().expect("a name");
    ClientConnection::new(Arc::new(config), name).expect("a client")
}

/// The first line that an origin says, over a connection whose first octets go out in pieces.
fn greeted(address: SocketAddr, mut session: ClientConnection, piece: usize) -> String {
    let mut hello = Vec::new();
    session.write_tls(&mut hello).expect("writes");
    let mut stream = TcpStream::connect(address).expect("connects");
    stream.set_nodelay(true).expect("no delay");
    for piece in hello.chunks(piece) {
        stream.write_all(piece).expect("sends");
    }
    line(&mut rustls::StreamOwned::new(session, stream))
}

fn line(stream: &mut impl std::io::Read) -> String {
    let mut line = String::new();
    let mut octet = [0];
    while stream.read_exact(&mut octet).is_ok() && octet[0] != b'\n' {
        line.push(char::from(octet[0]));
    }
    line
}

#[test]
fn names_and_protocols_choose_the_service() {
    let (a, b) = (
        TlsOrigin::new("a.test", &[]),
        TlsOrigin::new("b.test", &["h2"]),
    );
    let below = TlsOrigin::new("x.below.test", &[]);
    let own = TlsOrigin::new("other.test", &[]);
    let names = [
        "A.test / / a",
        "b.test / h2 / b",
        "b.test /  / a",
        "*.below.test / / below",
    ];
    let names: Vec<String> = names
        .iter()
        .map(|rule| rule.replace("/ /", "/  /"))
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let services = [
        ("a", a.address),
        ("b", b.address),
        ("below", below.address),
        ("own", own.address),
    ];
    let (_workers, address) = proxy(&names, &services, |listener, _| {
        listener.service = Some("own".to_owned());
    });
    assert_eq!(
        greeted(address, client(&a, "a.test", &[]), usize::MAX),
        "a.test"
    );
    let with_h2 = client(&b, "b.test", &["h2", "http/1.1"]);
    assert_eq!(greeted(address, with_h2, usize::MAX), "b.test");
    let nested = client(&below, "x.below.test", &[]);
    assert_eq!(greeted(address, nested, usize::MAX), "x.below.test");
    assert_eq!(
        greeted(address, client(&own, "other.test", &[]), usize::MAX),
        "other.test"
    );
}

#[test]
fn a_hello_may_come_in_single_octets_and_in_two_segments() {
    let origin = TlsOrigin::new("a.test", &[]);
    let (workers, address) = proxy(&["a.test /  / a"], &[("a", origin.address)], |_, _| {});
    // With post-quantum keys it is longer than a segment of Ethernet.
    for piece in [1, 1000, 1460] {
        let session = client(&origin, "a.test", &[]);
        assert_eq!(greeted(address, session, piece), "a.test");
    }
    let series = workers.metrics().listener("tls");
    assert_eq!(series.sum(|cells| cells.connections.get()), 3);
}

/// The alert that a client gets, and nothing else.
fn alert(client: &mut Client) -> Option<u8> {
    match client.rest().as_slice() {
        [21, 3, 3, 0, 2, 2, code] => Some(*code),
        [] => None,
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_is_for_nobody_is_told_so_in_an_alert() {
    let origin = TlsOrigin::new("a.test", &["h2"]);
    let names = ["a.test / h2 / a"];
    let (workers, address) = proxy(&names, &[("a", origin.address)], |_, _| {});
    let say = |name: &str, protocols: &[&str]| {
        let mut session = client(&origin, name, protocols);
        let mut stream = TcpStream::connect(address).expect("connects");
        let mut hello = Vec::new();
        session.write_tls(&mut hello).expect("writes");
        stream.write_all(&hello).expect("sends");
        alert(&mut Client::of(stream))
    };
    assert_eq!(say("b.test", &["h2"]), Some(112));
    assert_eq!(say("192.0.2.1", &["h2"]), Some(112));
    assert_eq!(say("a.test", &["http/1.1"]), Some(120));
    assert_eq!(say("a.test", &[]), Some(120));
    eventually("they are counted", || {
        refused(&workers, Refusal::ServerNameUnknown) == 2
            && refused(&workers, Refusal::AlpnUnknown) == 2
    });
    let series = workers.metrics().listener("tls");
    eventually("they ended so", || {
        series.sum(|cells| cells.ends(End::NoRoute)) == 4
    });
}

#[test]
fn what_is_no_hello_is_closed_and_counted() {
    let origin = Origin::new(|_, _| {});
    let (workers, address) = proxy(&["a.test /  / a"], &[("a", origin.address)], |_, _| {});
    let cases: [(&[u8], Refusal, Option<u8>); 6] = [
        (b"GET / HTTP/1.1\r\n\r\n", Refusal::NotTls, None),
        (b"\x15\x03\x03\x00\x02\x02\x70", Refusal::NotTls, None),
        (b"\x16\x03\x01\0\0", Refusal::TlsRecord, Some(10)),
        (
            b"\x16\x03\x01\0\x04\x02\0\0\0",
            Refusal::ClientHello,
            Some(10),
        ),
        (
            b"\x16\x03\x01\0\x06\x01\0\0\x02\x03\x03",
            Refusal::ClientHello,
            Some(50),
        ),
        (
            b"\x16\x03\x01\0\x04\x01\x01\0\0",
            Refusal::ClientHelloTooLong,
            Some(50),
        ),
    ];
    for (octets, refusal, expected) in cases {
        let before = refused(&workers, refusal);
        let mut client = Client::to(address);
        client.send(octets);
        assert_eq!(alert(&mut client), expected, "{octets:?}");
        eventually("it is counted", || refused(&workers, refusal) == before + 1);
    }
    let mut cut = Client::to(address);
    cut.send(b"\x16\x03\x01");
    cut.end();
    assert!(cut.is_ended());
    eventually("it is counted", || {
        refused(&workers, Refusal::Truncated) == 1
    });
    // Who only looks whether somebody listens is no fault.
    Client::to(address).end();
    let series = workers.metrics().listener("tls");
    eventually("it ended", || {
        series.sum(|cells| cells.ends(End::ClientClosed)) == 2
    });
    assert_eq!(
        series.sum(|cells| cells.refusals(RefusedBy::Client, Refusal::Truncated)),
        1
    );
    assert_eq!(origin.connections(), 0);
}

#[test]
fn a_client_that_does_not_say_whom_it_wants_is_closed_in_time() {
    let origin = Origin::new(|_, _| {});
    let (workers, address) = proxy(
        &["a.test /  / a"],
        &[("a", origin.address)],
        |listener, _| {
            let names = listener.passthrough.as_mut().expect("names");
            names.hello_timeout = Duration::from_millis(50);
        },
    );
    for octets in [&b""[..], b"\x16\x03\x01\x02"] {
        let mut client = Client::to(address);
        client.send(octets);
        assert!(client.is_ended());
    }
    eventually("both are counted", || {
        refused(&workers, Refusal::ClientHelloTimeout) == 2
    });
    assert_eq!(origin.connections(), 0);
}

#[test]
fn a_backend_is_told_the_client_the_name_and_the_protocol() {
    let (tell, told) = std::sync::mpsc::channel();
    let origin = Origin::new(move |mut client, _| {
        let mut header = client.exactly(16);
        let length = u16::from_be_bytes([header[14], header[15]]);
        header.extend(client.exactly(length.into()));
        let first = client.exactly(1);
        let _ = tell.send((header, first));
    });
    let names = ["*.test / x h2 / a"];
    let (_workers, address) = proxy(&names, &[("a", origin.address)], |listener, services| {
        listener.proxy_protocol_from = vec![family::network().parse().expect("a network")];
        services[0].upstream.send_proxy = Some(ProxyVersion::V2);
    });
    let seen = TlsOrigin::new("a.test", &[]);
    let mut session = client(&seen, "b.a.test", &["http/1.1", "h2"]);
    let mut first = b"PROXY TCP4 192.0.2.7 198.51.100.9 4660 443\r\n".to_vec();
    session.write_tls(&mut first).expect("writes");
    let mut client = Client::to(address);
    client.send(&first);
    let (header, first) = told.recv().expect("told");
    let (header, _) = proxy_protocol::parse(&header)
        .expect("valid")
        .expect("whole");
    assert_eq!(header.extensions.authority(), Some("b.a.test"));
    assert_eq!(header.extensions.alpn(), Some(&b"h2"[..]));
    let proxy_protocol::Origin::Client { client, .. } = header.origin else {
        panic!("{:?}", header.origin);
    };
    assert_eq!(client.to_string(), "192.0.2.7:4660");
    assert_eq!(first, [22], "then TLS");
}

#[test]
fn the_log_says_whom_the_client_wanted() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log");
    let origin = TlsOrigin::new("a.test", &["h2"]);
    let (workers, address) = proxy(
        &["a.test /  / a"],
        &[("a", origin.address)],
        |listener, _| {
            let format = "$service $ssl_preread_server_name $ssl_preread_alpn_protocols \
            $ssl_preread_protocol $refusal $status $end";
            listener.access_log = Some(AccessLog {
                format: LogFormat::Template(format.to_owned()),
                ..AccessLog::new(LogTarget::File(path.clone()))
            });
        },
    );
    let session = client(&origin, "a.test", &["h2", "http/1.1"]);
    assert_eq!(greeted(address, session, usize::MAX), "a.test");
    let series = workers.metrics().listener("tls");
    eventually("it ended", || {
        series.sum(|cells| cells.connections_active.get()) == 0
    });
    assert_eq!(
        greeted(address, client(&origin, "b.test", &[]), usize::MAX),
        ""
    );
    let mut plain = Client::to(address);
    plain.send("GET /");
    assert_eq!(alert(&mut plain), None);
    eventually("all ended", || {
        series.sum(|cells| cells.connections_active.get()) == 0
    });
    drop(workers);
    let log = std::fs::read_to_string(path).expect("a log");
    let lines: Vec<&str> = log.lines().collect();
    assert!(
        lines[0].starts_with("a a.test h2,http/1.1 TLSv1.3 - 200 "),
        "{log}"
    );
    assert_eq!(
        lines[1],
        "- b.test  TLSv1.3 server_name_unknown 404 no_route"
    );
    assert_eq!(lines[2], "- - - - not_tls 400 client_protocol");
}

/// What `openssl s_client` says.
fn s_client(address: SocketAddr, args: &[&str]) -> String {
    let output = Command::new("openssl")
        .args(["s_client", "-connect", &address.to_string()])
        .args(args)
        .stdin(std::process::Stdio::null())
        .output();
    let output = output.expect("openssl runs");
    let said = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&said).into_owned()
}

#[test]
fn the_example_serves_openssl_and_curl() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/tls-passthrough.yaml");
    let loaded = proxy_userspace::config::load(&path);
    let mut config = loaded
        .unwrap_or_else(|errors| panic!("{}", errors.pretty(false)))
        .config;
    let shop = TlsOrigin::new("shop.example.com", &[]);
    let api = TlsOrigin::new("api.example.com", &["h2"]);
    let legacy = TlsOrigin::new("legacy.example.com", &["http/1.1"]);
    for (service, origin) in config.services.iter_mut().zip([&shop, &api, &legacy]) {
        service.backends.truncate(1);
        service.upstream.traits.truncate(1);
        let backend = &mut service.backends[0];
        (backend.address, backend.port) = (origin.address.ip(), Some(origin.address.port()));
        // These origins read no header.
        service.upstream.send_proxy = None;
    }
    config.workers.count = Some(1);
    let listener = &mut config.stream_listeners[0];
    listener.address = family::any();
    listener.access_log = None;
    let workers = Workers::start(&config).expect("starts");
    let address = workers.listeners().next().expect("listens");
    let api = ["-servername", "api.example.com", "-alpn"];
    for (offered, spoken) in [("h2,http/1.1", "h2"), ("http/1.1", "http/1.1")] {
        let said = s_client(address, &[&api[..], &[offered]].concat());
        assert!(
            said.contains(&format!("ALPN protocol: {spoken}\n")),
            "{said}"
        );
    }
    // The certificate that the client sees is the backend's.
    for name in ["shop.example.com", "www.shop.example.com"] {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("ca.pem");
        let text = base64::Engine::encode(
            &base64::engine::general_purpose::STANDARD,
            &shop.certificate,
        );
        let pem = format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
        std::fs::write(&file, pem).expect("writes");
        let said = s_client(
            address,
            &[
                "-servername",
                name,
                "-CAfile",
                file.to_str().expect("text"),
                "-verify_return_error",
            ],
        );
        assert!(said.contains("Verify return code: 0 (ok)"), "{said}");
    }
    let port = address.port();
    let output = Command::new("curl")
        .args(["-sk", "--http0.9", "--max-time", "2"])
        .args([
            "--resolve",
            &format!("nobody.example:{port}:{}", family::host()),
        ])
        .arg(format!("https://nobody.example:{port}/"))
        .output()
        .expect("curl runs");
    // The listener's own service gets who is not named.
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.starts_with("shop.example.com"), "{said}");
}

/// Pipes that a process has.
pub(crate) fn pipes(process: &Process) -> usize {
    let files = std::fs::read_dir(format!("/proc/{}/fd", process.id())).expect("it runs");
    let targets = files.map_while(Result::ok);
    targets
        .filter_map(|file| std::fs::read_link(file.path()).ok())
        .filter(|target| target.to_string_lossy().starts_with("pipe:"))
        .count()
}

/// What stands in a pipe while the receiver takes nothing tells which way it went.
#[test]
fn much_behind_a_hello_goes_through_pipes_unless_that_is_off() {
    let origin = TcpListener::bind(family::any()).expect("binds");
    let backend = origin.local_addr().expect("bound");
    for (splice, is_piped) in [("auto", true), ("pipe", true), ("off", false)] {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("sluice.yaml");
        let address = unused_address();
        let text = format!(
            "admin: {{socket: {}}}\nworkers: {{count: 1}}\n\
             listeners: [{{name: tls, kind: tls-passthrough, address: '{}', port: {}, splice: {splice}, \
             names: [{{hosts: [a.test], service: a}}]}}]\n\
             services: [{{name: a, backends: ['{backend}']}}]\n",
            folder.path().join("admin.sock").display(),
            address.ip(),
            address.port(),
        );
        std::fs::write(&file, text).expect("writes");
        let mut command = Command::new(sluice().expect("built"));
        let daemon = command.args(["run", "-c"]).arg(&file).spawn();
        let daemon = Process(daemon.expect("starts"));
        eventually("it listens", || TcpStream::connect(address).is_ok());
        // Until a name is said, nobody is asked.
        origin.set_nonblocking(true).expect("set");
        assert!(origin.accept().is_err());
        origin.set_nonblocking(false).expect("set");

        let mut client = TcpStream::connect(address).expect("connects");
        let other = TlsOrigin::new("a.test", &[]);
        let mut hello = Vec::new();
        let mut session = self::client(&other, "a.test", &[]);
        session.write_tls(&mut hello).expect("writes");
        client.write_all(&hello).expect("sends");
        let (mut taken, _) = origin.accept().expect("connects");
        let mut first = vec![0; hello.len()];
        taken.read_exact(&mut first).expect("the hello");
        assert!(first == hello);
        let before = pipes(&daemon);
        // It takes nothing more, so that at some point nobody does.
        let octets = crate::support::pattern(32 << 20);
        let mut sending = client.try_clone().expect("a handle");
        let sent = octets.clone();
        let sender = thread::spawn(move || {
            sending.write_all(&sent).expect("sends");
            sending.shutdown(std::net::Shutdown::Write).expect("ends");
        });
        if is_piped {
            eventually("they stand in a pipe", || pipes(&daemon) > before);
        }
        let mut received = Vec::new();
        let mut piece = vec![0; 1 << 16];
        while let read @ 1.. = taken.read(&mut piece).expect("octets") {
            received.extend_from_slice(&piece[..read]);
            assert!(is_piped || pipes(&daemon) == before, "{splice}");
        }
        sender.join().expect("sends");
        assert!(received == octets, "{splice}: {} octets", received.len());
    }
}
