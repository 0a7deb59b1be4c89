//! Proxies, origins and clients for the tests.

use proxy_tests::family;
use proxy_userspace::config::model::http::{
    Accelerate, Action, BackendTraits, HttpListener, Route,
};
use proxy_userspace::config::model::{Config, Service};
use proxy_userspace::runtime::workers::Workers;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take that a test waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A proxy in this process.
pub(crate) struct Proxy {
    pub(crate) workers: Workers,
    pub(crate) address: SocketAddr,
}

impl Proxy {
    /// In front of these backends, with every default.
    pub(crate) fn to(backends: &[SocketAddr]) -> Self {
        Self::with(backends, |_| {})
    }

    /// In front of these backends, after a change of the configuration.
    pub(crate) fn with(backends: &[SocketAddr], edit: impl FnOnce(&mut Config)) -> Self {
        Self::of(&config(backends, edit))
    }

    /// As configured.
    pub(crate) fn of(config: &Config) -> Self {
        let workers = Workers::start(config).expect("starts");
        let address = workers.listeners().next().expect("listens");
        Self { workers, address }
    }

    pub(crate) fn client(&self) -> Client {
        Client::to(self.address)
    }

    /// Asks once over a connection of its own.
    pub(crate) fn ask(&self, request: &str) -> Answer {
        let mut client = self.client();
        client.send(request);
        client.answer()
    }
}

/// One listener, one route, one service with these backends.
pub(crate) fn config(backends: &[SocketAddr], edit: impl FnOnce(&mut Config)) -> Config {
    let address = family::any();
    let mut service = Service::new("origins");
    for backend in backends {
        service.push_backend(*backend, 1, BackendTraits::default());
    }
    let mut config = Config {
        http_listeners: vec![HttpListener::new("web", address)],
        routes: vec![Route::catch_all("all", "web", Action::service("origins"))],
        services: vec![service],
        ..Config::default()
    };
    config.workers.count = Some(1);
    edit(&mut config);
    accelerate(&mut config);
    config
}

/// The whole suite past TCP, if a variable asks for it: what holds of connections must hold then,
/// too.
fn accelerate(config: &mut Config) {
    if std::env::var_os("SLUICE_TEST_ACCELERATE").is_none() {
        return;
    }
    for listener in &mut config.http_listeners {
        listener.accelerate = Accelerate::On;
    }
    for service in &mut config.services {
        service.upstream.accelerate = Accelerate::On;
    }
}

/// A server that does what a test says with each connection.
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Origin {
    /// Each connection gets a thread that runs `serve`, which is told the connection's number.
    pub(crate) fn new(serve: impl Fn(Client, usize) + Send + Sync + 'static) -> Self {
        Self::on(TcpListener::bind(family::any()).expect("binds"), serve)
    }

    /// As [`Origin::new`], at a socket of the caller's.
    pub(crate) fn on(
        listener: TcpListener,
        serve: impl Fn(Client, usize) + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().expect("bound");
        let connections = Arc::new(AtomicUsize::new(0));
        let (count, serve) = (Arc::clone(&connections), Arc::new(serve));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let number = count.fetch_add(1, Ordering::SeqCst);
                let serve = Arc::clone(&serve);
                thread::spawn(move || serve(Client::of(stream), number));
            }
        });
        Self {
            address,
            connections,
        }
    }

    /// Answers every request of every connection with this.
    pub(crate) fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::new(move |mut client, _| {
            while client.head().is_some() {
                client.send(&answer);
            }
        })
    }

    /// Answers with the request's own head, and keeps the connection.
    pub(crate) fn mirror() -> Self {
        Self::new(|mut client, _| {
            while let Some(head) = client.head() {
                let length = head.len();
                client.send(format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{head}"
                ));
            }
        })
    }

    /// Connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// No test reads so much at once: whoever sends it does not end, and would fill the memory.
const MOST_READ: usize = 512 << 20;

/// One end of a connection, with what was read and not yet asked for.
pub(crate) struct Client {
    stream: TcpStream,
    read: Vec<u8>,
}

/// A response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// What follows the last chunk.
    pub(crate) trailers: String,
}

impl Answer {
    /// A field's value.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        field(&self.head, name)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A field's value in a head.
pub(crate) fn field<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

impl Client {
    pub(crate) fn to(address: SocketAddr) -> Self {
        Self::of(TcpStream::connect(address).expect("connects"))
    }

    /// From this local address.
    pub(crate) fn from(source: &str, address: SocketAddr) -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.expect("a socket");
        let source: std::net::IpAddr = source.parse().expect("an address");
        socket
            .bind(&SocketAddr::new(source, 0).into())
            .expect("binds");
        socket.connect(&address.into()).expect("connects");
        Self::of(socket.into())
    }

    /// This end.
    pub(crate) fn local_address(&self) -> SocketAddr {
        self.stream.local_addr().expect("bound")
    }

    pub(crate) fn of(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_nodelay(true).expect("no delay");
        Self {
            stream,
            read: Vec::new(),
        }
    }

    /// Sends octets; a peer that is gone is for a later step to notice.
    pub(crate) fn send(&mut self, octets: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(octets.as_ref());
    }

    /// Another handle of the same connection, for sending.
    #[must_use]
    pub(crate) fn clone(&self) -> Self {
        Self {
            stream: self.stream.try_clone().expect("a handle"),
            read: Vec::new(),
        }
    }

    /// True if the connection is reset; what came before is dropped.
    pub(crate) fn is_reset(&mut self) -> bool {
        let mut octets = [0; 65536];
        loop {
            match self.stream.read(&mut octets) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) => return error.kind() == ErrorKind::ConnectionReset,
            }
        }
    }

    /// True if the connection is reset before anything more comes.
    pub(crate) fn is_cut(&mut self) -> bool {
        let taken = self.stream.take_error();
        let deadline = Instant::now() + PATIENCE;
        let mut error = taken.expect("an answer");
        while error.is_none() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
            error = self.stream.take_error().expect("an answer");
        }
        error.is_some()
    }

    /// How long the peer may take nothing.
    pub(crate) fn patience(&self, patience: Duration) {
        self.stream
            .set_write_timeout(Some(patience))
            .expect("a timeout");
    }

    /// True if the peer took all of it.
    pub(crate) fn try_send(&mut self, octets: &[u8]) -> bool {
        self.stream.write_all(octets).is_ok()
    }

    pub(crate) fn end(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Resets the connection.
    pub(crate) fn abort(self) {
        let socket = socket2::SockRef::from(&self.stream);
        socket.set_linger(Some(Duration::ZERO)).expect("lingers");
    }

    /// Reads more; false at the end or when the connection fails.
    fn more(&mut self) -> bool {
        let mut octets = [0; 65536];
        let read = loop {
            match self.stream.read(&mut octets) {
                // This process was stopped and goes on (signal(7)).
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        match read {
            Ok(0) => false,
            Ok(read) => {
                self.read.extend_from_slice(&octets[..read]);
                assert!(self.read.len() < MOST_READ, "the peer does not end");
                true
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("nothing came in time"),
            Err(_) => false,
        }
    }

    /// Up to and with this; `None` if the connection ends before.
    pub(crate) fn until(&mut self, end: &[u8]) -> Option<String> {
        loop {
            if let Some(at) = self.read.windows(end.len()).position(|w| w == end) {
                let taken: Vec<u8> = self.read.drain(..at + end.len()).collect();
                return Some(String::from_utf8_lossy(&taken).into_owned());
            }
            if !self.more() {
                return None;
            }
        }
    }

    /// The next head.
    pub(crate) fn head(&mut self) -> Option<String> {
        self.until(b"\r\n\r\n")
    }

    /// This many octets, or fewer at the end.
    pub(crate) fn exactly(&mut self, octets: usize) -> Vec<u8> {
        while self.read.len() < octets && self.more() {}
        let there = octets.min(self.read.len());
        self.read.drain(..there).collect()
    }

    /// What was read already.
    pub(crate) fn there(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.read)
    }

    /// All to the end.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        while self.more() {}
        std::mem::take(&mut self.read)
    }

    /// True if the peer ends or resets the connection and sends nothing before.
    pub(crate) fn is_ended(&mut self) -> bool {
        self.read.is_empty() && !self.more()
    }

    /// Chunked content and its trailers; `None` if it ends early.
    pub(crate) fn chunked(&mut self) -> Option<(Vec<u8>, String)> {
        let mut body = Vec::new();
        loop {
            let chunk = self.chunk()?;
            if chunk.is_empty() {
                break;
            }
            body.extend(chunk);
        }
        let mut trailers = String::new();
        loop {
            let line = self.until(b"\r\n")?;
            if line == "\r\n" {
                return Some((body, trailers));
            }
            trailers.push_str(&line);
        }
    }

    /// A chunk, empty if it is the last one; `None` if it is not whole.
    pub(crate) fn chunk(&mut self) -> Option<Vec<u8>> {
        let line = self.until(b"\r\n")?;
        let size = usize::from_str_radix(line.trim(), 16).expect("a size");
        let chunk = self.exactly(size);
        if chunk.len() < size {
            return None;
        }
        if size > 0 {
            assert_eq!(self.until(b"\r\n")?, "\r\n");
        }
        Some(chunk)
    }

    /// The next response, informational ones included.
    pub(crate) fn answer(&mut self) -> Answer {
        self.answer_to("GET")
    }

    /// The next response, to a request with this method.
    pub(crate) fn answer_to(&mut self, method: &str) -> Answer {
        let head = self.head().expect("a response");
        let status = head[9..12].parse().expect("a status");
        let mut trailers = String::new();
        let body = if method == "HEAD" || status < 200 || matches!(status, 204 | 304) {
            Vec::new()
        } else if field(&head, "transfer-encoding").is_some() {
            let (body, found) = self.chunked().expect("whole chunks");
            trailers = found;
            body
        } else if let Some(length) = field(&head, "content-length") {
            let length = length.parse().expect("a length");
            let body = self.exactly(length);
            assert_eq!(body.len(), length, "truncated");
            body
        } else {
            self.rest()
        };
        Answer {
            status,
            head,
            body,
            trailers,
        }
    }
}

/// Waits until something is so.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Octets that differ at each place within 251.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}
