//! Clients that ask again and again, as well-behaved ones do: a connection of which they were told
//! that it ends is not used again, and anything but a whole answer is a failure.

use crate::support::Addresses;
use bytes::Bytes;
use http::Request;
use proxy_tests::wait::PATIENCE;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Pause between two questions: to meet what the test does, not to keep the machine busy.
const PAUSE: Duration = Duration::from_millis(3);

/// Clients of every kind, until they are told to stop.
pub(crate) struct Clients {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    /// Several of each kind.
    pub(crate) fn of_all_kinds(to: Addresses) -> Self {
        let mut clients = Self {
            stop: Arc::default(),
            answered: Arc::default(),
            threads: Vec::new(),
        };
        for _ in 0..2 {
            let mut kept = None;
            clients.doing("kept HTTP/1", move || ask_kept(&mut kept, to.http));
            clients.doing("new HTTP/1", move || ask_kept(&mut None, to.http));
            let mut kept = H2::to(to.http);
            clients.doing("kept HTTP/2", move || kept.ask());
            clients.doing("new TCP", move || Pipe::to(to.tcp).echo());
            let mut kept = Pipe::to(to.tcp);
            clients.doing("kept TCP", move || kept.echo());
            let mut tunnel = Pipe::tunnel(to.http);
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
        clients.doing("new HTTP/2", move || H2::to(to.http).ask());
        clients
    }

    fn doing(&mut self, what: &'static str, mut act: impl FnMut() + Send + 'static) {
        let (stop, answered) = (Arc::clone(&self.stop), Arc::clone(&self.answered));
        let run = move || {
            while !stop.load(Ordering::SeqCst) {
                act();
                answered.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(PAUSE);
            }
        };
        let thread = std::thread::Builder::new().name(what.to_owned());
        self.threads.push(thread.spawn(run).expect("a thread"));
    }

    /// Answers so far.
    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(Ordering::SeqCst)
    }

    /// Ends them. Gives how many answers they got.
    ///
    /// # Panics
    ///
    /// One got none, or a wrong one.
    pub(crate) fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        let mut failed = Vec::new();
        for thread in self.threads.drain(..) {
            let name = thread.thread().name().unwrap_or_default().to_owned();
            if thread.join().is_err() {
                failed.push(name);
            }
        }
        assert!(failed.is_empty(), "requests failed: {failed:?}");
        self.answered()
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// A connection on which octets come back.
struct Pipe {
    stream: BufReader<TcpStream>,
    sent: u64,
}

impl Pipe {
    fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("connects");
        stream.set_nodelay(true).expect("set");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        Self {
            stream: BufReader::new(stream),
            sent: 0,
        }
    }

    fn tunnel(address: SocketAddr) -> Self {
        let mut pipe = Self::to(address);
        let ask = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        pipe.stream
            .get_mut()
            .write_all(ask.as_bytes())
            .expect("sent");
        let head = pipe.head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        pipe
    }

    fn head(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let read = self.stream.read_line(&mut head).expect("read");
            assert_ne!(read, 0, "the end instead of an answer, after {head:?}");
        }
        head
    }

    fn echo(&mut self) {
        self.sent += 1;
        let sent = format!("{:08}", self.sent);
        self.stream
            .get_mut()
            .write_all(sent.as_bytes())
            .expect("sent");
        let mut back = [0; 8];
        self.stream.read_exact(&mut back).expect("an echo");
        assert_eq!(back, sent.as_bytes());
    }
}

/// Asks over the kept connection, if there is one that may be used.
fn ask_kept(kept: &mut Option<Pipe>, address: SocketAddr) {
    let mut pipe = kept.take().unwrap_or_else(|| Pipe::to(address));
    let ask = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n";
    pipe.stream.get_mut().write_all(ask).expect("sent");
    let head = pipe.head().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    let mut body = [0; 2];
    pipe.stream.read_exact(&mut body).expect("content");
    assert_eq!(&body, b"ok");
    if !head.contains("connection: close") {
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
    address: SocketAddr,
}

impl H2 {
    fn to(address: SocketAddr) -> Self {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        Self {
            runtime: runtime.enable_all().build().expect("a runtime"),
            kept: None,
            address,
        }
    }

    /// Several requests at once, over the kept connection as long as that takes more.
    fn ask(&mut self) {
        let (kept, address) = (self.kept.take(), self.address);
        let asked = async move {
            let kept = match kept {
                Some(kept) => kept.ready().await.ok(),
                None => None,
            };
            let mut send = match kept {
                Some(send) => send,
                None => open(address).await,
            };
            let mut answers = Vec::new();
            for _ in 0..3 {
                let request = Request::get("http://a/x").body(()).expect("a request");
                // Refused before it is sent: the other side has said goodbye.
                let Ok((answer, _)) = send.send_request(request, true) else {
                    send = open(address).await;
                    continue;
                };
                answers.push(answer);
                send = match send.ready().await {
                    Ok(send) => send,
                    Err(_) => open(address).await,
                };
            }
            for answer in answers {
                let mut answer = match answer.await {
                    Ok(answer) => answer.into_body(),
                    Err(error) if is_goodbye(&error) => {
                        // It came before the request was sent, which may be made anew
                        // (RFC 9113 §6.8).
                        send = open(address).await;
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

async fn open(address: SocketAddr) -> h2::client::SendRequest<Bytes> {
    let stream = tokio::net::TcpStream::connect(address).await;
    let (send, connection) = h2::client::handshake(stream.expect("connects"))
        .await
        .expect("greets");
    tokio::spawn(connection);
    send.ready().await.expect("ready")
}
