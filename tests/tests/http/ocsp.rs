//! OCSP: `openssl ocsp` answers, and `openssl s_client -status` looks at what is stapled.

use crate::acme::eventually;
use crate::support::{Proxy, config};
use proxy_tests::alone::{Process, unused_address};
use proxy_userspace::config::model::Config;
use proxy_userspace::config::model::tls::{CertificateSource, ServerTls};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tempfile::TempDir;

/// An authority of openssl's, with one certificate that names a responder.
struct World {
    folder: TempDir,
    responder: SocketAddr,
}

/// A responder that says the same to everybody.
struct Canned {
    asked: Arc<AtomicUsize>,
}

impl World {
    fn new() -> Self {
        let world = Self {
            folder: tempfile::tempdir().expect("a folder"),
            responder: unused_address(),
        };
        world.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
            "-subj",
            "/CN=test CA",
            "-days",
            "30",
        ]);
        world.openssl(&[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-keyout",
            "a.key",
            "-out",
            "a.csr",
            "-subj",
            "/CN=a.test",
        ]);
        let extensions = format!(
            "subjectAltName=DNS:a.test\nauthorityInfoAccess=OCSP;URI:http://{}/\n",
            world.responder
        );
        fs::write(world.path("ext"), extensions).expect("writes");
        world.openssl(&[
            "x509",
            "-req",
            "-in",
            "a.csr",
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-set_serial",
            "4660",
            "-extfile",
            "ext",
            "-out",
            "leaf.pem",
            "-days",
            "20",
        ]);
        let read = |name| fs::read_to_string(world.path(name)).expect("a file");
        fs::write(world.path("a.pem"), read("leaf.pem") + &read("ca.pem")).expect("writes");
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn openssl(&self, words: &[&str]) {
        let output = Command::new("openssl")
            .args(words)
            .current_dir(self.folder.path())
            .output()
            .expect("openssl runs");
        assert!(output.status.success(), "{words:?}: {output:?}");
    }

    /// Writes what the responder knows: the status of the certificate, as openssl's `index.txt` has
    /// it.
    fn index(&self, is_revoked: bool) {
        let line = match is_revoked {
            false => "V\t490101000000Z\t\t1234\tunknown\t/CN=a.test\n",
            true => "R\t490101000000Z\t240101000000Z\t1234\tunknown\t/CN=a.test\n",
        };
        fs::write(self.path("index.txt"), line).expect("writes");
    }

    /// `openssl ocsp`, until it is dropped.
    fn respond(&self, is_revoked: bool) -> Process {
        self.index(is_revoked);
        let port = self.responder.port().to_string();
        let child = Command::new("openssl")
            .args(["ocsp", "-index", "index.txt", "-port", &port])
            .args(["-CA", "ca.pem", "-rsigner", "ca.pem", "-rkey", "ca.key"])
            .args(["-nmin", "30"])
            .current_dir(self.folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let process = Process(child.expect("starts"));
        // It is asked, and not only connected to: it waits for ever for who says nothing.
        let url = format!("http://{}/", self.responder);
        eventually("it answers", || {
            let asked = Command::new("openssl")
                .args([
                    "ocsp", "-issuer", "ca.pem", "-cert", "leaf.pem", "-CAfile", "ca.pem",
                ])
                .args(["-url", &url])
                .current_dir(self.folder.path())
                .output();
            asked.expect("openssl runs").status.success()
        });
        process
    }

    /// The answer of openssl, good for so many minutes, in DER. The question is made by openssl,
    /// too.
    fn answer(&self, minutes: &str) -> Vec<u8> {
        self.index(false);
        self.openssl(&[
            "ocsp",
            "-issuer",
            "ca.pem",
            "-cert",
            "leaf.pem",
            "-reqout",
            "req.der",
            "-no_nonce",
        ]);
        self.openssl(&[
            "ocsp",
            "-index",
            "index.txt",
            "-CA",
            "ca.pem",
            "-rsigner",
            "ca.pem",
            "-rkey",
            "ca.key",
            "-reqin",
            "req.der",
            "-respout",
            "resp.der",
            "-nmin",
            minutes,
        ]);
        fs::read(self.path("resp.der")).expect("an answer")
    }

    /// A responder that answers so, always.
    fn can(&self, answer: Vec<u8>) -> Canned {
        let listener = TcpListener::bind(self.responder).expect("binds");
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(mut client) = client else { return };
                let mut read = [0; 4096];
                let _ = client.read(&mut read);
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: application/ocsp-response\r\n\
                     Content-Length: {}\r\nConnection: close\r\n\r\n",
                    answer.len()
                );
                let _ = client.write_all(&[head.as_bytes(), &answer].concat());
                counted.fetch_add(1, Ordering::SeqCst);
            }
        });
        Canned { asked }
    }

    /// An answer of openssl whose time is over: it makes none, so the years are changed, and the
    /// result is signed again. A signature by RSA is as long as any other.
    fn old_answer(&self) -> Vec<u8> {
        let mut answer = self.answer("30");
        // OCSPResponse, [0], ResponseBytes, OCTET STRING, BasicOCSPResponse (RFC 6960 §4.2.1).
        let (response, _) = inside(&answer, 0);
        let (bytes, _) = inside(&answer, after(&answer, response));
        let (kind, _) = inside(&answer, bytes);
        let (octets, _) = inside(&answer, after(&answer, kind));
        let (signed, _) = inside(&answer, octets);
        let end = after(&answer, signed);
        for at in signed..end {
            // GeneralizedTime with four digits for the year.
            if answer[at..].starts_with(&[0x18, 15]) {
                answer[at + 2..at + 6].copy_from_slice(b"2020");
            }
        }
        fs::write(self.path("tbs.der"), &answer[signed..end]).expect("writes");
        self.openssl(&[
            "dgst", "-sha256", "-sign", "ca.key", "-out", "sig.bin", "tbs.der",
        ]);
        let signature = fs::read(self.path("sig.bin")).expect("a signature");
        let (from, _) = inside(&answer, after(&answer, end));
        // A bit string says first how many bits of its last octet are unused.
        answer[from + 1..from + 1 + signature.len()].copy_from_slice(&signature);
        answer
    }

    fn config(&self, edit: impl FnOnce(&mut ServerTls)) -> Config {
        let mut tls = ServerTls::new(vec![CertificateSource::Files {
            certificate: self.path("a.pem"),
            key: self.path("a.key"),
            ocsp: None,
        }]);
        edit(&mut tls);
        let nobody = unused_address();
        config(&[nobody], |config| {
            config.http_listeners[0].tls = Some(tls);
        })
    }

    fn proxy(&self, edit: impl FnOnce(&mut ServerTls)) -> Proxy {
        let config = self.config(edit);
        Proxy::with(&[], |empty| *empty = config)
    }
}

/// Where the content of the element at `at` begins, and where it ends (DER).
fn inside(octets: &[u8], at: usize) -> (usize, usize) {
    let (length, from) = match octets[at + 1] {
        short @ 0..0x80 => (usize::from(short), at + 2),
        long => {
            let count = usize::from(long & 0x7f);
            let digits = octets[at + 2..at + 2 + count].iter();
            let length = digits.fold(0, |sum, digit| sum << 8 | usize::from(*digit));
            (length, at + 2 + count)
        }
    };
    (from, from + length)
}

/// Where the element at `at` ends.
fn after(octets: &[u8], at: usize) -> usize {
    inside(octets, at).1
}

/// What `openssl s_client -status` says of a handshake, which must succeed.
fn looked_at(ca: &Path, address: SocketAddr) -> String {
    let output = Command::new("openssl")
        .args(["s_client", "-connect", &address.to_string(), "-status"])
        .args(["-servername", "a.test", "-verify_return_error", "-CAfile"])
        .arg(ca)
        .stdin(Stdio::null())
        .output()
        .expect("openssl runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("Verify return code: 0"), "{text}");
    text
}

const STAPLED: &str = "OCSP Response Status: successful";
const NOTHING: &str = "OCSP response: no response sent";

#[test]
fn the_responders_answer_is_stapled_and_outlives_it() {
    let world = World::new();
    let responder = world.respond(false);
    let mut proxy = world.proxy(|_| ());
    let ca = world.path("ca.pem");
    let look = || looked_at(&ca, proxy.address);
    eventually("it is stapled", || look().contains(STAPLED));
    let text = look();
    assert!(text.contains("Cert Status: good"), "{text}");
    // The last good answer stays while the responder is down.
    drop(responder);
    assert!(look().contains(STAPLED));
    // A reload that reads the files anew keeps it from the first handshake on.
    let prepared = proxy.workers.prepare(&world.config(|_| ()));
    proxy.workers.put_in_force(prepared.expect("valid"));
    assert!(looked_at(&ca, proxy.address).contains(STAPLED));
}

#[test]
fn a_revoked_certificate_gets_no_staple_and_is_told_of() {
    let world = World::new();
    let _responder = world.respond(true);
    let proxy = world.proxy(|_| ());
    let board = proxy.workers.certificates();
    eventually("it is known", || {
        board.staples().values().any(|it| it.status == "revoked")
    });
    let text = looked_at(&world.path("ca.pem"), proxy.address);
    assert!(text.contains(NOTHING), "{text}");
    let news = board.take_news();
    assert!(
        news.iter()
            .any(|it| it.message.contains("a.test is revoked")),
        "{news:?}"
    );
}

#[test]
fn answers_that_are_not_good_are_not_stapled_and_break_nothing() {
    let world = World::new();
    // Of another certificate's world: signed by somebody else.
    let other = World::new();
    let canned = world.can(other.answer("30"));
    let proxy = world.proxy(|_| ());
    let board = proxy.workers.certificates();
    eventually("it was asked", || canned.asked.load(Ordering::SeqCst) > 0);
    eventually("the failure is told", || {
        board.staples().values().any(|it| it.failed > 0)
    });
    let staples = board.staples();
    let state = staples.values().next().expect("one");
    let error = state.error.as_deref().unwrap_or_default();
    assert!(error.contains("not signed by the issuer"), "{error}");
    let text = looked_at(&world.path("ca.pem"), proxy.address);
    assert!(text.contains(NOTHING), "{text}");
}

#[test]
fn an_answer_that_has_expired_is_not_stapled() {
    let world = World::new();
    let _canned = world.can(world.old_answer());
    let proxy = world.proxy(|_| ());
    let board = proxy.workers.certificates();
    eventually("the failure is told", || {
        board.staples().values().any(|it| it.failed > 0)
    });
    let staples = board.staples();
    let error = staples.values().next().and_then(|it| it.error.clone());
    assert_eq!(error.as_deref(), Some("the answer has expired"));
    let text = looked_at(&world.path("ca.pem"), proxy.address);
    assert!(text.contains(NOTHING), "{text}");
}

#[test]
fn a_responder_that_is_down_and_stapling_that_is_off_break_nothing() {
    let world = World::new();
    let proxy = world.proxy(|_| ());
    let board = proxy.workers.certificates();
    eventually("the failure is told", || {
        board.staples().values().any(|it| it.failed > 0)
    });
    let text = looked_at(&world.path("ca.pem"), proxy.address);
    assert!(text.contains(NOTHING), "{text}");
    drop(proxy);
    let canned = world.can(Vec::new());
    let off = world.proxy(|tls| tls.stapling = false);
    let text = looked_at(&world.path("ca.pem"), off.address);
    assert!(text.contains(NOTHING), "{text}");
    assert!(off.workers.certificates().staples().is_empty());
    assert_eq!(canned.asked.load(Ordering::SeqCst), 0);
}
