//! Sessions between two streams over a loopback socket, and between a stream and raw octets.

use super::*;
use crate::net::client_hello::Alert;
use crate::net::{Clock, Stream, Timers};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Settings of a server and of a client that trusts it.
struct Settings {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

fn settings(version: &'static rustls::SupportedProtocolVersion) -> Settings {
    let key = KeyPair::generate().expect("a key");
    let certificate = CertificateParams::new(vec!["sluice.test".to_owned()])
        .and_then(|params| params.self_signed(&key))
        .expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).expect("a root");
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
        .expect("fits");
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    server.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().expect("a ticketer");
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    Settings {
        server: Arc::new(server),
        client: Arc::new(client),
    }
}

fn tls13() -> Settings {
    settings(&rustls::version::TLS13)
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound");
    let near = TcpStream::connect(address).await.expect("connects");
    let (far, _) = listener.accept().await.expect("accepts");
    (near, far)
}

impl Settings {
    fn client(&self, socket: TcpStream) -> Stream {
        let name = ServerName::try_from("sluice.test").expect("a name");
        let client = ClientConnection::new(Arc::clone(&self.client), name).expect("begins");
        Stream::with_tls(socket, client).expect("a stream")
    }

    fn server(&self, socket: TcpStream) -> Stream {
        let server = ServerConnection::new(Arc::clone(&self.server)).expect("begins");
        Stream::with_tls(socket, server).expect("a stream")
    }

    /// A client and a server that are agreed.
    async fn pair(&self) -> (Stream, Stream) {
        let (near, far) = sockets().await;
        let (client, server) = (self.client(near), self.server(far));
        let (ours, theirs) = tokio::join!(
            poll_fn(|cx| client.poll_handshake(cx)),
            poll_fn(|cx| server.poll_handshake(cx)),
        );
        ours.expect("the client agrees");
        theirs.expect("the server agrees");
        (client, server)
    }
}

async fn read(stream: &Stream, most: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; most];
    let read = poll_fn(|cx| stream.poll_read(cx, &mut buffer)).await?;
    buffer.truncate(read);
    Ok(buffer)
}

async fn write(stream: &Stream, octets: &[u8]) -> io::Result<()> {
    let mut written = 0;
    while written < octets.len() {
        written += poll_fn(|cx| stream.poll_write(cx, &octets[written..], &[])).await?;
    }
    Ok(())
}

async fn read_to_end(stream: &Stream) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        let some = read(stream, 10_000).await?;
        if some.is_empty() {
            return Ok(all);
        }
        all.extend(some);
    }
}

async fn end(stream: &Stream) {
    poll_fn(|cx| stream.poll_shutdown(cx)).await.expect("ends");
}

/// Until the socket has something, whatever that is.
async fn arrived(stream: &Stream) {
    stream.socket().readable().await.expect("open");
}

fn octets(count: u32) -> Vec<u8> {
    (0..count).map(|at| (at % 251) as u8).collect()
}

#[tokio::test]
async fn both_sides_know_what_was_agreed() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let settings = settings(version);
        let (client, server) = settings.pair().await;
        let (ours, theirs) = (client.tls_facts(), server.tls_facts());
        let (ours, theirs) = (ours.expect("done"), theirs.expect("done"));
        for facts in [ours, theirs] {
            assert_eq!(facts.version, version.version);
            assert_eq!(facts.alpn.as_deref(), Some(&b"http/1.1"[..]));
            assert!(!facts.is_resumed);
        }
        assert_eq!(ours.suite, theirs.suite);
        assert_eq!(theirs.server_name.as_deref(), Some("sluice.test"));
        assert_eq!(ours.peer_certificates.len(), 1);
        assert!(theirs.peer_certificates.is_empty());
        assert!(!client.is_plain());

        // Tickets of TLS 1.3 come after the handshake: they are taken in by looking.
        write(&server, b"x").await.expect("writes");
        assert_eq!(read(&client, 10).await.expect("reads"), b"x");
        let (client, _server) = settings.pair().await;
        assert!(client.tls_facts().expect("done").is_resumed);
    }
}

#[tokio::test]
async fn megabytes_pass_both_ways_at_once_through_sockets_that_fill_up() {
    let (client, server) = tls13().pair().await;
    let sent = octets(5_000_000);
    let send = async |stream: &Stream| {
        write(stream, &sent).await.expect("writes");
        end(stream).await;
    };
    let ((), (), up, down) = tokio::join!(
        send(&client),
        send(&server),
        read_to_end(&server),
        read_to_end(&client),
    );
    assert!(up.expect("whole") == sent);
    assert!(down.expect("whole") == sent);
}

#[tokio::test]
async fn pieces_become_one_record_and_one_write() {
    let (client, server) = tls13().pair().await;
    let head = [b'h'; 300];
    let content = [b'c'; 5000];
    let written = poll_fn(|cx| client.poll_write(cx, &head, &content)).await;
    assert_eq!(written.expect("writes"), head.len() + content.len());
    arrived(&server).await;
    let mut raw = vec![0; 100_000];
    let raw = {
        let read = server.socket().try_read(&mut raw).expect("has come");
        &raw[..read]
    };
    let length = usize::from(u16::from_be_bytes([raw[3], raw[4]]));
    assert_eq!(raw.len(), 5 + length, "one record");
    assert!(length < 5300 + 64);
}

#[tokio::test]
async fn a_write_is_told_once_and_only_when_the_socket_has_all_of_it() {
    let (client, server) = tls13().pair().await;
    let sent = octets(30_000_000);
    let mut cx = Context::from_waker(Waker::noop());
    let mut written = 0;
    while let Poll::Ready(more) = client.poll_write(&mut cx, &sent[written..], &[]) {
        written += more.expect("writes");
    }
    assert!(written < sent.len(), "the socket has taken all of it");
    // Of the same octets fewer are offered: no more may be told than that.
    let (receive, finish) = (read_to_end(&server), async {
        let next = poll_fn(|cx| client.poll_write(cx, &sent[written..written + 10], &[]));
        assert_eq!(next.await.expect("writes"), 10);
        write(&client, &sent[written + 10..]).await.expect("writes");
        end(&client).await;
    });
    let (received, ()) = tokio::join!(receive, finish);
    assert!(received.expect("whole") == sent);
}

#[tokio::test]
async fn any_number_of_pieces_is_written_in_their_order() {
    let (client, server) = tls13().pair().await;
    let parts = [&b"one "[..], b"", b"two ", b"three"];
    let pieces = parts.map(IoSlice::new);
    let written = poll_fn(|cx| client.poll_write_pieces(cx, &pieces)).await;
    assert_eq!(written.expect("writes"), 13);
    let more = poll_fn(|cx| client.poll_write_more(cx, b"!")).await;
    assert_eq!(more.expect("writes"), 1);
    end(&client).await;
    assert_eq!(
        read_to_end(&server).await.expect("whole"),
        b"one two three!"
    );
}

#[tokio::test]
async fn reading_into_little_room_loses_nothing() {
    let (client, server) = tls13().pair().await;
    let sent = octets(40_000);
    let mut received = Vec::new();
    write(&client, &sent).await.expect("writes");
    while received.len() < sent.len() {
        if received.len() % 3 == 0 {
            let mut some = Vec::new();
            let mut limited = bytes::BufMut::limit(&mut some, 100);
            let read = poll_fn(|cx| server.poll_read_buf(cx, &mut limited)).await;
            assert_eq!(read.expect("reads"), some.len());
            received.extend(some);
        } else {
            received.extend(read(&server, 7).await.expect("reads"));
        }
    }
    assert!(received == sent);
    assert!(server.is_quiet());
}

#[tokio::test]
async fn looking_takes_nothing_and_sees_what_is_opened_already() {
    let (client, server) = tls13().pair().await;
    let blocked = server.peek().expect_err("nothing has come");
    assert_eq!(blocked.kind(), io::ErrorKind::WouldBlock);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(server.poll_readable(&mut cx).is_pending());
    write(&client, b"abc").await.expect("writes");
    poll_fn(|cx| server.poll_readable(cx)).await.expect("comes");
    assert!(!server.is_quiet());
    assert_eq!(server.peek().expect("there"), 1);
    assert_eq!(read(&server, 1).await.expect("reads"), b"a");
    assert!(
        server.poll_readable(&mut cx).is_ready(),
        "opened, and not of the socket"
    );
    assert!(!server.is_quiet());
    assert_eq!(server.peek().expect("there"), 1);
    assert_eq!(read(&server, 9).await.expect("reads"), b"bc");
    assert!(server.is_quiet());
    end(&client).await;
    poll_fn(|cx| server.poll_readable(cx))
        .await
        .expect("the end");
    assert_eq!(server.peek().expect("the end"), 0);
    assert!(!server.is_quiet());
}

#[tokio::test]
async fn records_without_plaintext_are_no_news() {
    let settings = tls13();
    let (near, far) = sockets().await;
    let client = settings.client(near);
    // The far end is a bare connection, so that its keys can be changed at will.
    let mut server = ServerConnection::new(Arc::clone(&settings.server)).expect("begins");
    let mut far = far.into_std().expect("a socket");
    far.set_nonblocking(false).expect("blocks");
    let serving = std::thread::spawn(move || {
        while server.is_handshaking() {
            server.complete_io(&mut far).expect("negotiates");
        }
        server.refresh_traffic_keys().expect("changes keys");
        while server.wants_write() {
            server.write_tls(&mut far).expect("writes");
        }
        (server, far)
    });
    poll_fn(|cx| client.poll_handshake(cx))
        .await
        .expect("agrees");
    let (mut server, mut far) = serving.join().expect("serves");
    arrived(&client).await;
    assert!(client.is_quiet(), "tickets and a key update");
    // The client's answer to the update came with nothing else, and both still understand.
    write(&client, b"ping").await.expect("writes");
    let answer = std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        let mut octets = [0; 4];
        while server.reader().read(&mut octets).is_err() {
            server.read_tls(&mut far).expect("reads");
            server.process_new_packets().expect("understands");
        }
        assert_eq!(&octets, b"ping");
        server.writer().write_all(b"pong").expect("takes");
        server.write_tls(&mut far).expect("writes");
        far
    });
    assert_eq!(read(&client, 9).await.expect("reads"), b"pong");
    drop(answer.join().expect("answers"));
}

#[tokio::test]
async fn an_end_that_was_said_is_told_from_one_that_was_not() {
    let (client, server) = tls13().pair().await;
    write(&client, b"all").await.expect("writes");
    client.shutdown().expect("says so");
    assert_eq!(read_to_end(&server).await.expect("said"), b"all");
    assert_eq!(read(&server, 9).await.expect("again"), b"");
    // The other direction is still open.
    write(&server, b"answer").await.expect("writes");
    assert_eq!(read(&client, 9).await.expect("reads"), b"answer");

    let (client, server) = tls13().pair().await;
    write(&client, b"not all").await.expect("writes");
    socket2::SockRef::from(client.socket())
        .shutdown(std::net::Shutdown::Write)
        .expect("cuts");
    assert_eq!(read(&server, 9).await.expect("came before"), b"not all");
    let mut some = Vec::new();
    for _ in 0..2 {
        let cut = read(&server, 9).await.expect_err("cut");
        assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
        let cut = poll_fn(|cx| server.poll_read_buf(cx, &mut some)).await;
        assert_eq!(cut.expect_err("cut").kind(), io::ErrorKind::UnexpectedEof);
    }
    assert!(!server.is_quiet());
}

#[tokio::test]
async fn garbage_among_records_fails_and_is_told_by_an_alert() {
    let (client, server) = tls13().pair().await;
    write(&client, b"good").await.expect("writes");
    assert_eq!(read(&server, 9).await.expect("reads"), b"good");
    let forged = [
        23, 3, 3, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10,
    ];
    client.socket().try_write(&forged).expect("writes");
    for _ in 0..2 {
        let failed = read(&server, 9).await.expect_err("forged");
        assert_eq!(failed.kind(), io::ErrorKind::InvalidData);
    }
    let refused = read(&client, 9).await.expect_err("an alert");
    assert!(refused.to_string().contains("BadRecordMac"), "{refused}");
    write(&server, b"more").await.expect_err("over");
}

/// What becomes of a server's handshake with a client that sends these octets and no more.
async fn handshake_with(octets: &[u8]) -> (HandshakeError, Vec<u8>) {
    let (mut near, far) = sockets().await;
    let server = tls13().server(far);
    near.write_all(octets).await.expect("writes");
    near.shutdown().await.expect("ends");
    let error = poll_fn(|cx| server.poll_handshake(cx)).await;
    drop(server);
    let mut answer = Vec::new();
    let _ = near.read_to_end(&mut answer).await;
    (error.expect_err("no handshake"), answer)
}

#[tokio::test]
async fn a_handshake_with_something_else_fails_with_its_reason() {
    let (error, answer) = handshake_with(b"GET / HTTP/1.1\r\n\r\n").await;
    assert!(
        matches!(error, HandshakeError::NotTls(Foreign::Http)),
        "{error:?}"
    );
    assert!(answer.is_empty(), "whoever asks decides how to answer");
    let (error, _) = handshake_with(b"\x80\x2e\x01\x03\x01").await;
    assert!(
        matches!(error, HandshakeError::NotTls(Foreign::Other)),
        "{error:?}"
    );
    let (error, _) = handshake_with(b"\x16\x03\x01").await;
    assert!(matches!(error, HandshakeError::Closed), "{error:?}");
    let (error, answer) = handshake_with(b"\x16\x03\x01\x00\x04\x01\x00\x00\x00").await;
    assert!(matches!(error, HandshakeError::Tls(_)), "{error:?}");
    assert_eq!(answer[0], 21, "an alert");
}

#[tokio::test]
async fn a_client_hears_of_a_failure_of_which_the_library_says_nothing() {
    // A change of ciphers between two pieces of a message.
    let octets = b"\x16\x03\x01\x00\x05\x01\x00\x00\xff\x03\x14\x03\x03\x00\x01\x01";
    let (error, answer) = handshake_with(octets).await;
    assert!(matches!(error, HandshakeError::Tls(_)), "{error:?}");
    assert_eq!(answer, Alert::UnexpectedMessage.record());
    // A message that is longer than any is taken.
    let (error, answer) = handshake_with(b"\x16\x03\x01\x00\x05\x01\xff\xff\xff\x03").await;
    assert!(matches!(error, HandshakeError::Tls(_)), "{error:?}");
    assert_eq!(answer, Alert::DecodeError.record());
}

#[tokio::test]
async fn a_handshake_that_stalls_is_over_at_its_deadline() {
    let (near, far) = sockets().await;
    let timers = Timers::new(Rc::new(Clock::new()));
    let timer = timers.timer();
    let server = tls13().server(far);
    timer.set_after(30_000_000);
    let run = timers.clone().run();
    let error = tokio::select! {
        () = run => unreachable!("runs for ever"),
        done = server.handshake(&timer) => done.expect_err("stalls"),
    };
    assert!(matches!(error, HandshakeError::TimedOut), "{error:?}");
    drop(near);
}

#[tokio::test]
async fn octets_that_were_read_before_the_session_are_its_first() {
    let settings = tls13();
    let (near, mut far) = sockets().await;
    let client = settings.client(near);
    let serve = async {
        let mut early = vec![0; 20];
        far.read_exact(&mut early).await.expect("reads");
        let server = ServerConnection::new(Arc::clone(&settings.server)).expect("begins");
        let mut stream = Stream::new(far).expect("a stream");
        stream.begin_tls(server, early);
        poll_fn(|cx| stream.poll_handshake(cx))
            .await
            .expect("agrees");
        stream
    };
    let (agreed, server) = tokio::join!(poll_fn(|cx| client.poll_handshake(cx)), serve);
    agreed.expect("agrees");
    write(&client, b"hello").await.expect("writes");
    assert_eq!(read(&server, 9).await.expect("reads"), b"hello");
}

#[tokio::test]
async fn what_the_kernel_moves_by_itself_is_refused() {
    let (client, _server) = tls13().pair().await;
    let file = tempfile::tempfile().expect("a file");
    let sent = poll_fn(|cx| client.poll_send_file(cx, &file, 0, 10)).await;
    assert_eq!(sent.expect_err("sealed").kind(), io::ErrorKind::Unsupported);
}
