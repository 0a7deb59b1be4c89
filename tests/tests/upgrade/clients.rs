//! Clients that ask again and again, as well-behaved ones do: a connection of which they were told
//! that it ends is not used again, and anything but a whole answer is a failure.

use crate::support::{AUTHORITY, Addresses, HOST, eventually};
use bytes::Bytes;
use http::Request;
use proxy_tests::wait::PATIENCE;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};
use std::io::{BufRead as _, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// Pause between two questions: to meet what the test does, not to keep the machine busy.
const PAUSE: Duration = Duration::from_millis(3);

/// Clients of every kind, until they are told to stop.
pub(crate) struct Clients {
    stop: Arc<AtomicBool>,
    threads: Vec<(JoinHandle<()>, Arc<AtomicU64>)>,
}

impl Clients {
    /// Several of each kind.
    pub(crate) fn of_all_kinds(to: Addresses) -> Self {
        let mut clients = Self {
            stop: Arc::default(),
            threads: Vec::new(),
        };
        for _ in 0..2 {
            let mut kept = None;
            let open = move || Pipe::to(to.http);
            clients.doing("kept HTTP/1", move || ask_kept(&mut kept, open));
            clients.doing("new HTTP/1", move || ask_kept(&mut None, open));
            let mut kept = H2::to(to.http, None);
            clients.doing("kept HTTP/2", move || kept.ask());
            clients.doing("new TCP", move || Pipe::to(to.tcp).echo());
            let mut kept = Pipe::to(to.tcp);
            clients.doing("kept TCP", move || kept.echo());
            let mut tunnel = Pipe::to(to.http).tunnel();
            clients.doing("WebSocket", move || tunnel.echo());
            clients.doing("new UDP", move || {
                Flow::to(to.udp).ask();
            });
            let mut flow = Flow::to(to.udp);
            let port = flow.ask();
            clients.doing("kept UDP", move || {
                assert_eq!(flow.ask(), port, "the session has changed");
            });
        }
        clients.doing("new HTTP/2", move || H2::to(to.http, None).ask());
        clients.over_tls(to.tls);
        clients
    }

    /// One of each kind that speaks TLS.
    fn over_tls(&mut self, to: SocketAddr) {
        let (mut kept, plain) = (None, settings(b"http/1.1"));
        let open = move || Pipe::sealed(to, &plain);
        self.doing("kept HTTP/1 over TLS", move || ask_kept(&mut kept, &open));
        let resuming = settings(b"http/1.1");
        let mut is_known = false;
        self.doing("new HTTP/1 over TLS, resumed", move || {
            let mut pipe = Pipe::sealed(to, &resuming);
            pipe.ask();
            // The ticket that it got before is good at whoever serves now.
            assert!(pipe.is_resumed() || !is_known, "a full handshake");
            is_known = true;
        });
        self.doing("new HTTP/1 over TLS, full", move || {
            let settings = settings(b"http/1.1");
            ask_kept(&mut None, || Pipe::sealed(to, &settings));
        });
        let mut kept = H2::to(to, Some(settings(b"h2")));
        self.doing("kept HTTP/2 over TLS", move || kept.ask());
        self.doing("new HTTP/2 over TLS", move || {
            H2::to(to, Some(settings(b"h2"))).ask();
        });
        let mut tunnel = Pipe::sealed(to, &settings(b"http/1.1")).tunnel();
        self.doing("WebSocket over TLS", move || tunnel.echo());
    }

    fn doing(&mut self, what: &'static str, mut act: impl FnMut() + Send + 'static) {
        let (stop, answered) = (Arc::clone(&self.stop), Arc::<AtomicU64>::default());
        let count = Arc::clone(&answered);
        let run = move || {
            while !stop.load(Ordering::SeqCst) {
                act();
                count.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(PAUSE);
            }
        };
        let thread = std::thread::Builder::new().name(what.to_owned());
        let thread = thread.spawn(run).expect("a thread");
        self.threads.push((thread, answered));
    }

    /// Answers so far.
    pub(crate) fn answered(&self) -> u64 {
        self.counts().iter().sum()
    }

    /// Answers so far, of each.
    fn counts(&self) -> Vec<u64> {
        let counts = self.threads.iter();
        counts
            .map(|(_, count)| count.load(Ordering::SeqCst))
            .collect()
    }

    /// Waits until each has had so many more answers.
    ///
    /// # Panics
    ///
    /// One has had a wrong one, or none for long.
    pub(crate) fn are_served(&self, times: u64) {
        let before = self.counts();
        eventually("everybody is served", || {
            let failed = self.threads.iter().filter(|(it, _)| it.is_finished());
            let failed: Vec<_> = failed.filter_map(|(it, _)| it.thread().name()).collect();
            assert!(failed.is_empty(), "requests failed: {failed:?}");
            let mut counts = self.counts().into_iter().zip(&before);
            counts.all(|(now, before)| now >= before + times)
        });
    }

    /// Ends them. Gives how many answers they got.
    ///
    /// # Panics
    ///
    /// One got none, or a wrong one.
    pub(crate) fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        let answered = self.answered();
        let mut failed = Vec::new();
        for (thread, _) in self.threads.drain(..) {
            let name = thread.thread().name().unwrap_or_default().to_owned();
            if thread.join().is_err() {
                failed.push(name);
            }
        }
        assert!(failed.is_empty(), "requests failed: {failed:?}");
        answered
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// What a client of TLS believes, and speaks inside. It remembers its sessions.
fn settings(protocol: &[u8]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(AUTHORITY.der()).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut settings = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    settings.alpn_protocols = vec![protocol.to_vec()];
    Arc::new(settings)
}

fn name() -> ServerName<'static> {
    ServerName::try_from(HOST).expect("a name")
}

/// Octets to a server and back.
enum Wire {
    Plain(TcpStream),
    Sealed(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Read for Wire {
    fn read(&mut self, octets: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(octets),
            Self::Sealed(stream) => stream.read(octets),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(octets),
            Self::Sealed(stream) => stream.write(octets),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Sealed(stream) => stream.flush(),
        }
    }
}

/// A connection on which octets come back.
pub(crate) struct Pipe {
    stream: BufReader<Wire>,
    sent: u64,
}

impl Pipe {
    pub(crate) fn to(address: SocketAddr) -> Self {
        Self::over(Wire::Plain(connect(address)))
    }

    fn sealed(address: SocketAddr, settings: &Arc<ClientConfig>) -> Self {
        let client = ClientConnection::new(Arc::clone(settings), name()).expect("begins");
        let stream = StreamOwned::new(client, connect(address));
        Self::over(Wire::Sealed(Box::new(stream)))
    }

    fn over(wire: Wire) -> Self {
        Self {
            stream: BufReader::new(wire),
            sent: 0,
        }
    }

    fn is_resumed(&self) -> bool {
        match self.stream.get_ref() {
            Wire::Plain(_) => false,
            Wire::Sealed(stream) => stream.conn.handshake_kind() == Some(HandshakeKind::Resumed),
        }
    }

    fn send(&mut self, octets: &[u8]) {
        let stream = self.stream.get_mut();
        let sent = stream.write_all(octets).and_then(|()| stream.flush());
        sent.expect("sent");
    }

    /// Asks for another protocol, in which octets come back.
    pub(crate) fn tunnel(mut self) -> Self {
        self.send(
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        );
        let head = self.head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        self
    }

    fn head(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let read = self.stream.read_line(&mut head).expect("read");
            assert_ne!(read, 0, "the end instead of an answer, after {head:?}");
        }
        head
    }

    /// Asks over HTTP/1. False if the connection must not be used again.
    fn ask(&mut self) -> bool {
        self.send(b"GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n");
        let head = self.head().to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 200 "), "{head}");
        let mut body = [0; 2];
        self.stream.read_exact(&mut body).expect("content");
        assert_eq!(&body, b"ok");
        !head.contains("connection: close")
    }

    pub(crate) fn echo(&mut self) {
        self.sent += 1;
        let sent = format!("{:08}", self.sent);
        self.send(sent.as_bytes());
        let mut back = [0; 8];
        self.stream.read_exact(&mut back).expect("an echo");
        assert_eq!(back, sent.as_bytes());
    }

    /// Waits until the other side ends the connection, in whatever way.
    pub(crate) fn ends(&mut self) {
        let mut octet = [0];
        match self.stream.read(&mut octet) {
            Ok(0) => {}
            Ok(_) => panic!("octets that nobody asked for"),
            Err(error) => assert_ne!(error.kind(), ErrorKind::WouldBlock, "it does not end"),
        }
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connects");
    stream.set_nodelay(true).expect("set");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream
}

/// Asks over the kept connection, if there is one that may be used.
fn ask_kept(kept: &mut Option<Pipe>, open: impl Fn() -> Pipe) {
    let mut pipe = kept.take().unwrap_or_else(open);
    if pipe.ask() {
        *kept = Some(pipe);
    }
}

/// A source of datagrams.
struct Flow {
    socket: UdpSocket,
    sent: u64,
}

impl Flow {
    fn to(address: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("binds");
        socket.connect(address).expect("connects");
        socket.set_read_timeout(Some(PATIENCE)).expect("set");
        Self { socket, sent: 0 }
    }

    /// Asks, and gives the port by which the backend knows the session.
    fn ask(&mut self) -> u16 {
        self.sent += 1;
        self.socket
            .send(self.sent.to_string().as_bytes())
            .expect("sent");
        let mut octets = [0; 64];
        let length = self.socket.recv(&mut octets).expect("an answer");
        let text = String::from_utf8_lossy(&octets[..length]).into_owned();
        let (port, back) = text.split_once(' ').expect("an answer");
        assert_eq!(back, self.sent.to_string());
        port.parse().expect("a port")
    }
}

/// Asks over HTTP/2.
struct H2 {
    runtime: tokio::runtime::Runtime,
    kept: Option<h2::client::SendRequest<Bytes>>,
    to: To,
}

/// Where, and whether over TLS.
type To = (SocketAddr, Option<Arc<ClientConfig>>);

impl H2 {
    fn to(address: SocketAddr, tls: Option<Arc<ClientConfig>>) -> Self {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        Self {
            runtime: runtime.enable_all().build().expect("a runtime"),
            kept: None,
            to: (address, tls),
        }
    }

    /// Several requests at once, over the kept connection as long as that takes more.
    fn ask(&mut self) {
        let (kept, to) = (self.kept.take(), self.to.clone());
        let asked = async move {
            let kept = match kept {
                Some(kept) => kept.ready().await.ok(),
                None => None,
            };
            let mut send = match kept {
                Some(send) => send,
                None => open(&to).await,
            };
            let mut answers = Vec::new();
            for _ in 0..3 {
                let request = Request::get("http://a/x").body(()).expect("a request");
                // Refused before it is sent: the other side has said goodbye.
                let Ok((answer, _)) = send.send_request(request, true) else {
                    send = open(&to).await;
                    continue;
                };
                answers.push(answer);
                send = match send.ready().await {
                    Ok(send) => send,
                    Err(_) => open(&to).await,
                };
            }
            for answer in answers {
                let mut answer = match answer.await {
                    Ok(answer) => answer.into_body(),
                    Err(error) if is_goodbye(&error) => {
                        // It came before the request was sent, which may be made anew
                        // (RFC 9113 §6.8).
                        send = open(&to).await;
                        let request = Request::get("http://a/x").body(()).expect("a request");
                        let (answer, _) = send.send_request(request, true).expect("sent");
                        answer.await.expect("an answer").into_body()
                    }
                    Err(error) => panic!("no answer: {error}"),
                };
                let data = answer.data().await.expect("content").expect("whole");
                assert_eq!(&data[..], b"ok");
            }
            send
        };
        let in_time = async {
            tokio::time::timeout(PATIENCE, asked)
                .await
                .expect("in time")
        };
        self.kept = Some(self.runtime.block_on(in_time));
    }
}

/// True if the other side takes no more streams, without anything being wrong.
fn is_goodbye(error: &h2::Error) -> bool {
    error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR)
}

async fn open((address, tls): &To) -> h2::client::SendRequest<Bytes> {
    let stream = tokio::net::TcpStream::connect(address).await;
    let stream = stream.expect("connects");
    let Some(settings) = tls else {
        return greet(stream).await;
    };
    let connector = tokio_rustls::TlsConnector::from(Arc::clone(settings));
    greet(connector.connect(name(), stream).await.expect("sealed")).await
}

async fn greet<T>(stream: T) -> h2::client::SendRequest<Bytes>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (send, connection) = h2::client::handshake(stream).await.expect("greets");
    tokio::spawn(connection);
    send.ready().await.expect("ready")
}
