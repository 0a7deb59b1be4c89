//! TLS at the front: curl and openssl as clients, and our own where a test needs every octet.

use crate::peers::curl;
use crate::support::{Client, Origin, PATIENCE, Proxy, config, eventually, pattern};
use proxy_tests::certificates::{Authority, Issued, Key, Request, write_secret};
use proxy_tests::family;
use proxy_userspace::config::model::Config;
use proxy_userspace::config::model::http::{Action, Files, Http2, PathMatch, Route};
use proxy_userspace::config::model::tls::{CertificateSource, ClientAuth, ServerTls};
use proxy_userspace::observe::http::{HandshakeResult, HandshakeVersion};
use proxy_userspace::types::tls::TlsVersion;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// An authority with its files.
struct Place {
    folder: TempDir,
    authority: Authority,
    ca: PathBuf,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = Authority::new("test CA");
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, authority.pem()).expect("writes");
        Self {
            folder,
            authority,
            ca,
        }
    }

    fn source(&self, name: &str, issued: &Issued) -> CertificateSource {
        let (certificate, key) = issued.write(self.folder.path(), name);
        CertificateSource::Files {
            certificate,
            key,
            ocsp: None,
        }
    }

    /// TLS with one certificate for `a.test` and this host's address.
    fn tls(&self) -> ServerTls {
        let issued = self
            .authority
            .issue(&["a.test", &family::loopback().to_string()]);
        ServerTls::new(vec![self.source("a", &issued)])
    }

    fn client_auth(&self, required: bool) -> ClientAuth {
        ClientAuth {
            ca: self.ca.clone(),
            required,
            crl: None,
            depth: 2,
            xfcc: true,
            x_ssl: true,
        }
    }

    fn proxy(&self, origin: SocketAddr, edit: impl FnOnce(&mut ServerTls)) -> Proxy {
        let mut tls = self.tls();
        edit(&mut tls);
        Proxy::with(&[origin], |config| {
            config.http_listeners[0].tls = Some(tls);
        })
    }

    /// Writes a client's certificate; gives curl's arguments for it.
    fn client(&self, name: &str, issued: &Issued) -> [String; 4] {
        let (certificate, key) = issued.write(self.folder.path(), name);
        let text = |path: PathBuf| path.display().to_string();
        [
            "--cert".into(),
            text(certificate),
            "--key".into(),
            text(key),
        ]
    }

    fn ca(&self) -> &str {
        self.ca.to_str().expect("text")
    }

    fn settings(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der()).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth()
    }

    /// Our own client, of which every octet can be seen.
    fn connect(&self, address: SocketAddr) -> StreamOwned<ClientConnection, TcpStream> {
        seal(
            TcpStream::connect(address).expect("connects"),
            self.settings(),
        )
    }
}

fn seal(socket: TcpStream, settings: ClientConfig) -> StreamOwned<ClientConnection, TcpStream> {
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let name = ServerName::try_from("a.test").expect("a name");
    let client = ClientConnection::new(Arc::new(settings), name).expect("begins");
    StreamOwned::new(client, socket)
}

/// Up to the end of the answer's content, which must have this length.
fn answer(stream: &mut impl std::io::Read, content: usize) -> String {
    let mut read = Vec::new();
    let mut octet = [0];
    while !read.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut octet).expect("a head");
        read.extend(octet);
    }
    let mut rest = vec![0; content];
    stream.read_exact(&mut rest).expect("content");
    read.extend(rest);
    String::from_utf8_lossy(&read).into_owned()
}

/// curl for `a.test` at this address, whatever becomes of it.
fn try_curl(place: &Place, address: SocketAddr, args: &[&str]) -> Output {
    let port = address.port();
    Command::new("curl")
        .args(["-sS", "--max-time", "20", "--cacert", place.ca()])
        .args(["--resolve", &format!("a.test:{port}:{}", family::host())])
        .args(args)
        .arg(format!("https://a.test:{port}/"))
        .output()
        .expect("curl runs")
}

fn s_client(address: SocketAddr, args: &[&str], input: &str) -> String {
    let mut child = Command::new("openssl")
        .args(["s_client", "-connect", &address.to_string()])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl runs");
    let mut stdin = child.stdin.take().expect("piped");
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().expect("ends");
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

fn handshakes(proxy: &Proxy, result: HandshakeResult) -> u64 {
    let series = proxy.workers.metrics().tls("web");
    HandshakeVersion::ALL
        .iter()
        .map(|&version| series.sum(|cells| cells.handshakes(version, result)))
        .sum()
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

#[test]
fn curl_gets_content_over_each_version_of_http_and_tls() {
    let place = Place::new();
    let octets = pattern(1 << 20);
    std::fs::write(place.folder.path().join("file"), &octets).expect("writes");
    let content = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
        octets.len()
    );
    let origin = Origin::answering([content.as_bytes(), &octets].concat());
    let tls = place.tls();
    let folder = place.folder.path().to_owned();
    let proxy = Proxy::with(&[origin.address], |config| {
        config.http_listeners[0].tls = Some(tls);
        let mut files = Route::catch_all("files", "web", Action::Files(Files::new(&folder)));
        files.matches[0].path = PathMatch::Prefix("/file".into());
        config.routes.push(files);
    });
    for (http, expected) in [("--http1.1", "1.1"), ("--http2", "2")] {
        for tls in ["--tls-max=1.2", "--tlsv1.3"] {
            let tls: Vec<&str> = tls.split('=').collect();
            for path in ["", "file"] {
                let url = format!("https://{}/{path}", proxy.address);
                let mut args = vec![http, "--cacert", place.ca()];
                args.extend(&tls);
                args.push(&url);
                let got = curl(&args);
                assert!(got == octets, "{http} {tls:?} {path}: {}", got.len());
                args.extend(["-o", "/dev/null", "-w", "%{http_version}"]);
                assert_eq!(curl(&args), expected.as_bytes(), "{http} {tls:?}");
            }
        }
    }
    assert_eq!(handshakes(&proxy, HandshakeResult::Ok), 16);
}

#[test]
fn backends_are_told_that_the_client_came_by_https() {
    let place = Place::new();
    let origin = Origin::mirror();
    let proxy = place.proxy(origin.address, |_| ());
    let output = try_curl(&place, proxy.address, &["-H", "X-Forwarded-Proto: http"]);
    let head = String::from_utf8_lossy(&output.stdout).to_lowercase();
    assert!(head.contains("x-forwarded-proto: https"), "{head}");
}

#[test]
fn curl_refuses_a_wrong_name_and_a_certificate_that_has_expired() {
    let place = Place::new();
    let origin = Origin::answering("HTTP/1.1 204 No Content\r\n\r\n");
    let wrong = place.authority.issue(&["b.test"]);
    let expired = place.authority.issue_as(&Request {
        names: &["a.test"],
        expired: true,
        ..Request::default()
    });
    for (issued, complaint) in [(wrong, "subject name"), (expired, "expired")] {
        let proxy = place.proxy(origin.address, |tls| {
            tls.certificates = vec![place.source("bad", &issued)];
        });
        let output = try_curl(&place, proxy.address, &[]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && text.contains(complaint),
            "{text}"
        );
        let is_told = || {
            handshakes(&proxy, HandshakeResult::Alert) + handshakes(&proxy, HandshakeResult::Ok) > 0
        };
        eventually("it is counted", is_told);
    }
}

#[test]
fn versions_ciphers_and_groups_are_those_of_the_configuration() {
    let place = Place::new();
    let origin = Origin::answering("HTTP/1.1 204 No Content\r\n\r\n");
    let rsa = place.authority.issue_as(&Request {
        names: &["a.test"],
        key: Key::Rsa,
        ..Request::default()
    });
    let proxy = place.proxy(origin.address, |tls| {
        tls.certificates = vec![place.source("rsa", &rsa)];
        tls.max_version = TlsVersion::V12;
        tls.server_preference = true;
        tls.ciphers = ["ECDHE-RSA-CHACHA20-POLY1305", "ECDHE-RSA-AES128-GCM-SHA256"]
            .map(|name| proxy_userspace::types::tls::suite(name).expect("known").0)
            .into();
        tls.groups = vec![proxy_userspace::types::tls::group("secp384r1").expect("known")];
    });
    let text = s_client(proxy.address, &["-servername", "a.test"], "");
    assert!(text.contains("ECDHE-RSA-CHACHA20-POLY1305"), "{text}");
    assert!(
        text.contains("P-384") || text.contains("secp384r1"),
        "{text}"
    );
    let text = s_client(proxy.address, &["-tls1_3"], "");
    assert!(text.contains("alert protocol version"), "{text}");
    let text = s_client(
        proxy.address,
        &["-cipher", "ECDHE-RSA-AES256-GCM-SHA384"],
        "",
    );
    assert!(text.contains("alert handshake failure"), "{text}");
    let text = s_client(proxy.address, &["-groups", "P-256"], "");
    assert!(text.contains("alert handshake failure"), "{text}");
    eventually("all are counted", || {
        handshakes(&proxy, HandshakeResult::NoSharedVersion) == 1
            && handshakes(&proxy, HandshakeResult::NoSharedCipher) == 2
    });
}

#[test]
fn the_name_and_what_the_client_can_check_choose_the_certificate() {
    let place = Place::new();
    let origin = Origin::answering("HTTP/1.1 204 No Content\r\n\r\n");
    let issue = |names: &[&str], key, common_name| {
        let request = Request {
            names,
            key,
            common_name,
            ..Request::default()
        };
        place.source(common_name, &place.authority.issue_as(&request))
    };
    let proxy = place.proxy(origin.address, |tls| {
        tls.certificates = vec![
            issue(&["a.test"], Key::Rsa, "a-rsa"),
            issue(&["a.test"], Key::Ecdsa, "a-ecdsa"),
            issue(&["*.b.test"], Key::Ecdsa, "wild"),
        ];
    });
    let rsa = ["-sigalgs", "RSA-PSS+SHA256"];
    for (name, more, expected) in [
        ("a.test", &[][..], "a-ecdsa"),
        ("A.TEST", &[], "a-ecdsa"),
        ("a.test", &rsa, "a-rsa"),
        ("x.b.test", &[], "wild"),
        ("unknown.test", &[], "a-ecdsa"),
    ] {
        let args = [&["-servername", name], more].concat();
        let text = s_client(proxy.address, &args, "");
        assert!(text.contains(&format!("CN = {expected}")), "{name}: {text}");
    }
}

#[test]
fn sessions_are_resumed_by_tickets_and_by_the_cache() {
    let place = Place::new();
    let origin =
        Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let path = place.folder.path().join("session");
    let path = path.to_str().expect("text");
    for (tickets, cache) in [(true, 0), (false, 100), (false, 0)] {
        let proxy = place.proxy(origin.address, |tls| {
            tls.sessions.tickets = tickets;
            tls.sessions.cache = cache;
        });
        for version in ["-tls1_2", "-tls1_3"] {
            let _ = std::fs::remove_file(path);
            let request = "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
            let args = [version, "-ign_eof", "-quiet", "-sess_out", path];
            s_client(proxy.address, &args, request);
            if !std::path::Path::new(path).exists() {
                assert!(!tickets && cache == 0, "{version} {tickets} {cache}");
                continue;
            }
            let text = s_client(proxy.address, &[version, "-sess_in", path], "");
            let is_resumed = text.contains("\nReused, ");
            assert_eq!(
                is_resumed,
                tickets || cache > 0,
                "{version} {tickets} {cache}: {text}"
            );
        }
        let resumed = proxy
            .workers
            .metrics()
            .tls("web")
            .sum(|cells| cells.resumed.get());
        assert_eq!(resumed, if tickets || cache > 0 { 2 } else { 0 });
    }
}

#[test]
fn clients_certificates_are_judged_and_backends_are_told() {
    let place = Place::new();
    let origin = Origin::mirror();
    let crl = place.folder.path().join("crl.pem");
    std::fs::write(&crl, place.authority.revoke(&[666])).expect("writes");
    let proxy = place.proxy(origin.address, |tls| {
        tls.client = Some(ClientAuth {
            crl: Some(crl),
            ..place.client_auth(true)
        });
    });
    let right = place.client("right", &place.authority.issue_to("Alice"));
    let right = right.each_ref().map(String::as_str);
    let forged = [
        "-H",
        "X-SSL-Client-DN: CN=root",
        "-H",
        "X-Forwarded-Client-Cert: Hash=1",
    ];
    let output = try_curl(&place, proxy.address, &[&right[..], &forged].concat());
    let head = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(head.contains("X-SSL-Client-DN: CN=Alice"), "{head}");
    assert!(head.contains("X-SSL-Client-Verify: SUCCESS"), "{head}");
    assert!(
        head.contains("Subject=\"CN=Alice\"") && !head.contains("Hash=1\r"),
        "{head}"
    );
    assert!(!head.contains("CN=root"), "{head}");

    let revoked = place.authority.issue_as(&Request {
        common_name: "Mallory",
        serial: 666,
        ..Request::default()
    });
    let expired = place.authority.issue_as(&Request {
        common_name: "Old",
        expired: true,
        ..Request::default()
    });
    let stranger = Authority::new("other CA").issue_to("Eve");
    for (name, issued, result) in [
        ("revoked", Some(revoked), HandshakeResult::Revoked),
        ("expired", Some(expired), HandshakeResult::Expired),
        (
            "stranger",
            Some(stranger),
            HandshakeResult::UnknownAuthority,
        ),
        ("none", None, HandshakeResult::NoCertificate),
    ] {
        let args = issued.map(|issued| place.client(name, &issued));
        let args: Vec<&str> = args.iter().flatten().map(String::as_str).collect();
        for version in ["1.2", "1.3"] {
            let args = [&args[..], &["--tls-max", version]].concat();
            let output = try_curl(&place, proxy.address, &args);
            assert!(!output.status.success(), "{name}");
        }
        // With TLS 1.3 a client is done before its certificate is judged.
        eventually(name, || handshakes(&proxy, result) == 2);
    }
}

#[test]
fn an_optional_certificate_may_be_missing_and_must_be_good() {
    let place = Place::new();
    let origin = Origin::mirror();
    let proxy = place.proxy(origin.address, |tls| {
        tls.client = Some(place.client_auth(false));
    });
    let forged = ["-H", "X-SSL-Client-Verify: SUCCESS"];
    let head = String::from_utf8(try_curl(&place, proxy.address, &forged).stdout).expect("text");
    assert!(head.contains("X-SSL-Client-Verify: NONE"), "{head}");
    assert!(!head.contains("SUCCESS"), "{head}");
    let stranger = place.client("stranger", &Authority::new("other").issue_to("Eve"));
    let stranger = stranger.each_ref().map(String::as_str);
    assert!(!try_curl(&place, proxy.address, &stranger).status.success());
}

#[test]
fn certificates_change_under_load_and_no_handshake_fails() {
    let place = Place::new();
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let first = place.authority.issue(&["a.test"]);
    let source = place.source("a", &first);
    let configure = |config: &mut Config| {
        config.workers.count = Some(2);
        config.http_listeners[0].tls = Some(ServerTls::new(vec![source.clone()]));
    };
    let mut proxy = Proxy::with(&[origin.address], configure);
    let address = proxy.address;
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let mut stream = place.connect(address);
                    stream.write_all(GET).expect("sends");
                    assert!(answer(&mut stream, 2).ends_with("ok"));
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for round in 0..10 {
            let before = done.load(Ordering::Relaxed);
            place
                .authority
                .issue(&["a.test"])
                .write(place.folder.path(), "a");
            let next = config(&[origin.address], configure);
            let prepared = proxy.workers.prepare(&next);
            if round % 2 == 0 {
                proxy.workers.put_in_force(prepared.expect("valid"));
            }
            // One that does not fit is refused, and the other keeps serving.
            let other = place.authority.issue(&["a.test"]);
            write_secret(&place.folder.path().join("a.key"), &other.key);
            let error = proxy.workers.prepare(&next).expect_err("does not fit");
            let text = format!("{:?}", anyhow(&error));
            assert!(text.contains("does not fit"), "{text}");
            eventually("handshakes go on", || {
                done.load(Ordering::Relaxed) > before + 5
            });
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// An error with all that lies beneath.
fn anyhow(error: &dyn std::error::Error) -> Vec<String> {
    let mut all = vec![error.to_string()];
    let mut below = error.source();
    while let Some(error) = below {
        all.push(error.to_string());
        below = error.source();
    }
    all
}

#[test]
fn http_without_tls_is_answered_and_what_is_neither_is_not() {
    let place = Place::new();
    let origin = Origin::mirror();
    let proxy = place.proxy(origin.address, |_| ());
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = client.answer();
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("HTTPS"), "{answer:?}");
    let mut client = proxy.client();
    client.send([0x80, 0x2e, 1, 3, 1]);
    assert!(client.is_ended());
    eventually("both are counted", || {
        handshakes(&proxy, HandshakeResult::PlainHttp) == 1
            && handshakes(&proxy, HandshakeResult::NotTls) == 1
    });
    assert_eq!(origin.connections(), 0);
}

#[test]
fn a_slow_handshake_is_cut_off_and_others_beyond_the_limit_too() {
    let place = Place::new();
    let origin = Origin::mirror();
    let proxy = place.proxy(origin.address, |tls| {
        tls.handshake_timeout = Duration::from_millis(300);
        tls.max_handshakes = 1;
    });
    let mut slow = proxy.client();
    slow.send([22, 3, 1]);
    let mut beyond = proxy.client();
    assert!(beyond.is_ended());
    assert!(slow.is_ended());
    eventually("both are counted", || {
        handshakes(&proxy, HandshakeResult::Timeout) == 1
            && handshakes(&proxy, HandshakeResult::TooMany) == 1
    });
    let mut stream = place.connect(proxy.address);
    stream.write_all(GET).expect("sends");
    answer(&mut stream, 0);
}

#[test]
fn the_end_of_a_response_is_said_and_a_cut_is_seen() {
    let place = Place::new();
    // The first answer ends with its connection; the second is cut.
    let origin = Origin::new(|mut client, number| {
        client.head();
        let body = if number == 0 { "whole" } else { "1000\r\npart" };
        let coding = if number == 0 {
            ""
        } else {
            "Transfer-Encoding: chunked\r\n"
        };
        client.send(format!(
            "HTTP/1.1 200 OK\r\n{coding}Connection: close\r\n\r\n{body}"
        ));
    });
    let proxy = place.proxy(origin.address, |_| ());
    let ask = || {
        let mut stream = place.connect(proxy.address);
        stream
            .write_all(b"GET / HTTP/1.0\r\nHost: a.test\r\n\r\n")
            .expect("sends");
        let mut all = Vec::new();
        let end = stream.read_to_end(&mut all).map_err(|error| error.kind());
        (String::from_utf8_lossy(&all).into_owned(), end)
    };
    let (text, end) = ask();
    assert!(
        text.ends_with("\r\n\r\nwhole") && end.is_ok(),
        "{text} {end:?}"
    );
    let (text, end) = ask();
    let cut = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset];
    assert!(end.is_err_and(|kind| cut.contains(&kind)), "{text} {end:?}");
}

#[test]
fn a_connection_that_is_closed_after_whole_messages_says_its_end() {
    let place = Place::new();
    let origin = Origin::mirror();
    let proxy = Proxy::with(&[origin.address], |config| {
        let listener = &mut config.http_listeners[0];
        listener.tls = Some(place.tls());
        listener.timeouts.idle = Duration::from_millis(300);
    });
    // At the client's wish, and because the next request does not come.
    for wish in ["Connection: close\r\n", ""] {
        let mut stream = place.connect(proxy.address);
        let request = format!("GET / HTTP/1.1\r\nHost: a.test\r\n{wish}\r\n");
        stream.write_all(request.as_bytes()).expect("sends");
        let mut all = Vec::new();
        let end = stream.read_to_end(&mut all).map_err(|error| error.kind());
        assert!(all.starts_with(b"HTTP/1.1 200") && end.is_ok(), "{end:?}");
    }
}

#[test]
fn a_client_that_cuts_its_upload_is_not_taken_for_done() {
    let place = Place::new();
    let whole = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&whole);
    let origin = Origin::new(move |mut client, _| {
        client.head();
        if client.chunked().is_some() {
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    let proxy = place.proxy(origin.address, |_| ());
    let mut stream = place.connect(proxy.address);
    stream
        .write_all(b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe")
        .expect("sends");
    stream.flush().expect("sends");
    eventually("it arrives", || origin.connections() == 1);
    stream
        .sock
        .shutdown(std::net::Shutdown::Write)
        .expect("cuts");
    let mut octets = Vec::new();
    let _ = stream.sock.read_to_end(&mut octets);
    assert_eq!(whole.load(Ordering::SeqCst), 0);
}

#[test]
fn a_websocket_passes_and_a_proxy_header_comes_before_the_handshake() {
    let place = Place::new();
    let origin = crate::websocket::echo("there");
    let tls = place.tls();
    let proxy = Proxy::with(&[origin.address], |config| {
        let listener = &mut config.http_listeners[0];
        listener.tls = Some(tls);
        listener.proxy_protocol_from = vec![family::network().parse().expect("a prefix")];
    });
    let mut socket = TcpStream::connect(proxy.address).expect("connects");
    socket
        .write_all(b"PROXY TCP4 192.0.2.7 192.0.2.1 1234 443\r\n")
        .expect("sends");
    let mut stream = seal(socket, place.settings());
    stream
        .write_all(
            b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
              Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .expect("sends");
    assert!(answer(&mut stream, 0).starts_with("HTTP/1.1 101 "));
    // "hi", masked with zeros.
    stream
        .write_all(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i'])
        .expect("sends");
    let mut head = [0; 2];
    stream.read_exact(&mut head).expect("a message");
    let mut text = vec![0; usize::from(head[1])];
    stream.read_exact(&mut text).expect("a message");
    assert!(String::from_utf8_lossy(&text).contains("hi"), "{text:?}");
    let mut without = Client::to(proxy.address);
    without.send([22, 3, 1, 0, 5]);
    assert!(without.is_ended(), "the header is missing");
}

#[test]
fn strict_names_are_asked_for_and_kept_to() {
    let place = Place::new();
    let origin = Origin::mirror();
    let proxy = place.proxy(origin.address, |tls| tls.strict_sni = true);
    let text = s_client(proxy.address, &["-servername", "b.test"], "");
    assert!(text.contains("alert"), "{text}");
    eventually("it is counted", || {
        handshakes(&proxy, HandshakeResult::UnknownName) == 1
    });
    let status = |host: &str| {
        let args = ["-H", host, "-o", "/dev/null", "-w", "%{http_code}"];
        String::from_utf8(try_curl(&place, proxy.address, &args).stdout).expect("text")
    };
    assert_eq!(status("Host: a.test"), "200");
    assert_eq!(status("Host: A.test:443"), "200");
    assert_eq!(status("Host: b.test"), "421");
}

#[test]
fn plain_http_is_sent_to_https() {
    let proxy = Proxy::with(&[], |config| {
        config.http_listeners[0].https_redirect = Some(8443);
        config.routes.clear();
    });
    let answer = proxy.ask("GET /a?b=c HTTP/1.1\r\nHost: a.test:8080\r\n\r\n");
    assert_eq!(answer.status, 308);
    assert_eq!(answer.field("location"), Some("https://a.test:8443/a?b=c"));
}

#[test]
fn what_alpn_agrees_on_is_what_is_spoken() {
    let place = Place::new();
    let origin = Origin::mirror();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let cases: [(&[u8], &[u8], &str); 2] = [(b"http/1.1", preface, "HTTP/1.1 "), (b"h2", GET, "")];
    let proxy = place.proxy(origin.address, |_| ());
    for (protocol, octets, begin) in cases {
        let mut settings = place.settings();
        settings.alpn_protocols = vec![protocol.to_vec()];
        let mut stream = seal(
            TcpStream::connect(proxy.address).expect("connects"),
            settings,
        );
        stream.write_all(octets).expect("sends");
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        let text = String::from_utf8_lossy(&all).into_owned();
        assert!(
            text.starts_with(begin) && text.is_empty() == begin.is_empty(),
            "{text}"
        );
        assert!(!text.contains(" 200 "), "{text}");
    }
    let tls = place.tls();
    let only = Proxy::with(&[origin.address], |config| {
        config.http_listeners[0].tls = Some(tls);
        config.http_listeners[0].http2 = Http2 {
            enabled: false,
            ..Http2::default()
        };
    });
    let text = s_client(only.address, &["-alpn", "h2"], "");
    assert!(text.contains("alert no application protocol"), "{text}");
    eventually("it is counted", || {
        handshakes(&only, HandshakeResult::NoSharedProtocol) == 1
    });
}

#[test]
fn one_line_speaks_https_with_a_certificate_of_its_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let address = proxy_tests::alone::unused_address();
    let child = Command::new(proxy_tests::daemon::sluice().expect("built"))
        .args(["proxy", "--tls", "--from", &address.to_string()])
        .args(["--to", &origin.address.to_string()])
        .env("STATE_DIRECTORY", folder.path())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    let _process = proxy_tests::alone::Process(child);
    eventually("it listens", || TcpStream::connect(address).is_ok());
    let ca = folder.path().join("ca.pem");
    let url = format!("https://localhost:{}/", address.port());
    let ip = if family::is_v6() { "--ipv6" } else { "--ipv4" };
    let got = curl(&["--cacert", ca.to_str().expect("text"), ip, &url]);
    assert_eq!(got, b"ok");
    assert!(Path::new(&folder.path().join("ca.key")).exists());
}

/// An example whose files are in a folder, and whose listeners and backends are on this host.
fn example(file: &str, folder: &Path, backend: SocketAddr) -> Config {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples")
        .join(file);
    let text = std::fs::read_to_string(path).expect("reads");
    let text = text.replace("/etc/sluice", folder.to_str().expect("text"));
    let path = folder.join(file);
    std::fs::write(&path, text).expect("writes");
    let loaded = proxy_userspace::config::load(&path);
    let loaded = loaded.unwrap_or_else(|errors| panic!("{}", errors.pretty(false)));
    assert!(
        loaded.warnings.is_empty(),
        "{}",
        loaded.warnings.pretty(false)
    );
    let mut config = loaded.config;
    config.workers.count = Some(1);
    for listener in &mut config.http_listeners {
        listener.address = family::any();
    }
    for to in &mut config.services[0].backends {
        (to.address, to.port) = (backend.ip(), Some(backend.port()));
    }
    config
}

#[test]
fn the_examples_serve_as_they_are() {
    let place = Place::new();
    let origin = Origin::mirror();
    let folder = place.folder.path();
    for name in ["www.example.com", "example.org", "internal.example.com"] {
        place.authority.issue(&[name]).write(folder, name);
    }
    std::fs::write(folder.join("clients-ca.pem"), place.authority.pem()).expect("writes");
    let list = place.authority.revoke(&[]);
    std::fs::write(folder.join("clients-crl.pem"), list).expect("writes");
    let alice = place.client("alice", &place.authority.issue_to("Alice"));
    let alice: Vec<&str> = alice.iter().map(String::as_str).collect();
    for (file, host, more) in [
        ("tls.yaml", "www.example.com", &[][..]),
        ("tls.yaml", "example.org", &[]),
        ("mtls.yaml", "internal.example.com", &alice),
    ] {
        let config = example(file, folder, origin.address);
        let proxy = Proxy::with(&[], |empty| *empty = config);
        let port = proxy.workers.listeners().last().expect("listens").port();
        let resolve = format!("{host}:{port}:{}", family::host());
        let url = format!("https://{host}:{port}/");
        let args = [
            &["--cacert", place.ca(), "--resolve", &resolve],
            more,
            &[&url],
        ]
        .concat();
        let head = String::from_utf8(curl(&args)).expect("text");
        assert!(head.contains("X-Forwarded-Proto: https"), "{head}");
        assert_eq!(head.contains("CN=Alice"), !more.is_empty(), "{head}");
    }
}
