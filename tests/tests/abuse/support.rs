//! Daemons with a configuration, an origin, and honest clients.

use proxy_tests::alone::{Process, unused_address};
use proxy_tests::certificates::Authority;
use proxy_tests::daemon::sluice;
use proxy_tests::family;
use proxy_tests::wait::PATIENCE;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// True if what takes long may.
pub(crate) fn is_long() -> bool {
    std::env::var("SLUICE_LONG").is_ok_and(|value| value == "1")
}

/// A backend that answers with these words and says nothing else about itself. It knows no more of
/// HTTP than the tests here need: heads, content with a length.
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
}

impl Origin {
    pub(crate) fn saying(content: impl Into<String>) -> Self {
        let listener = TcpListener::bind(family::any()).expect("binds");
        let address = listener.local_addr().expect("bound");
        let content: Arc<str> = content.into().into();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let content = Arc::clone(&content);
                std::thread::spawn(move || answer_all(stream, &content));
            }
        });
        Self { address }
    }
}

/// Answers requests until the connection ends; becomes an echo if it is asked to.
fn answer_all(mut stream: TcpStream, content: &str) {
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{content}",
        content.len()
    );
    let Ok(reading) = stream.try_clone() else {
        return;
    };
    let mut reading = BufReader::new(reading);
    while let Some(head) = head(&mut reading) {
        let lower = head.to_ascii_lowercase();
        if lower.contains("upgrade: websocket") {
            let _ = stream.write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                  Upgrade: websocket\r\n\r\n",
            );
            let _ = std::io::copy(&mut reading, &mut stream);
            return;
        }
        let length = field(&lower, "content-length").map_or(0, |n| n.parse().unwrap_or(0));
        let mut body = vec![0; length];
        if reading.read_exact(&mut body).is_err() || stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// The next head; `None` at the end.
pub(crate) fn head(stream: &mut impl std::io::BufRead) -> Option<String> {
    let mut head = String::new();
    loop {
        if stream.read_line(&mut head).ok()? == 0 {
            return None;
        }
        if head.ends_with("\r\n\r\n") {
            return Some(head);
        }
    }
}

/// A field's value in a head in lower case.
pub(crate) fn field<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        (found == name).then(|| value.trim())
    })
}

/// What a client talks over.
trait Stream: Read + Write + Send {}

impl<S: Read + Write + Send> Stream for S {}

/// Where clients connect to, and how.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) address: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
}

impl Door {
    /// A new connection; with TLS, its handshake is done.
    pub(crate) fn enter(&self) -> std::io::Result<Client> {
        let mut stream = connect(self.address)?;
        let Some(config) = &self.tls else {
            return Ok(Client::over(stream));
        };
        let name = ServerName::try_from("a.test").map_err(std::io::Error::other)?;
        let session = ClientConnection::new(Arc::clone(config), name);
        let mut session = session.map_err(std::io::Error::other)?;
        while session.is_handshaking() {
            session.complete_io(&mut stream)?;
        }
        Ok(Client::over(StreamOwned::new(session, stream)))
    }

    /// `http` or `https`.
    pub(crate) fn scheme(&self) -> &'static str {
        match self.tls {
            Some(_) => "https",
            None => "http",
        }
    }
}

fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// A client's connection.
pub(crate) struct Client {
    stream: BufReader<Box<dyn Stream>>,
}

impl Client {
    pub(crate) fn to(address: SocketAddr) -> std::io::Result<Self> {
        Ok(Self::over(connect(address)?))
    }

    fn over(stream: impl Stream + 'static) -> Self {
        Self {
            stream: BufReader::new(Box::new(stream)),
        }
    }

    pub(crate) fn send(&mut self, octets: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.get_mut().write_all(octets.as_ref())
    }

    pub(crate) fn exactly(&mut self, octets: usize) -> std::io::Result<Vec<u8>> {
        let mut read = vec![0; octets];
        self.stream.read_exact(&mut read)?;
        Ok(read)
    }

    /// The head of the next answer.
    pub(crate) fn head(&mut self) -> std::io::Result<String> {
        head(&mut self.stream).ok_or_else(|| std::io::ErrorKind::UnexpectedEof.into())
    }

    /// Asks, and returns status and content.
    pub(crate) fn ask(&mut self, request: &str) -> std::io::Result<(u16, String)> {
        self.send(request)?;
        let head = self.head()?.to_ascii_lowercase();
        let status = head.get(9..12).and_then(|text| text.parse().ok());
        let length = field(&head, "content-length").and_then(|text| text.parse().ok());
        let body = self.exactly(length.unwrap_or(0))?;
        let body = String::from_utf8_lossy(&body).into_owned();
        Ok((status.unwrap_or(0), body))
    }
}

/// `sluice run` with a configuration file.
pub(crate) struct Daemon {
    pub(crate) address: SocketAddr,
    door: Door,
    process: Process,
    folder: TempDir,
}

impl Daemon {
    /// `listener` and `rest` are what stands in the listener behind its address, and behind the
    /// listeners, as YAML.
    pub(crate) fn start(listener: &str, rest: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self::within(folder, None, sluice_run(), listener, rest)
    }

    /// As [`Self::start`], with this many descriptors.
    pub(crate) fn start_with_files(limit: usize, listener: &str, rest: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -n {limit} && exec \"$0\" \"$@\"")]);
        command.arg(sluice().expect("built")).arg("run");
        Self::within(folder, None, command, listener, rest)
    }

    /// As [`Self::start`], with TLS at the listener.
    pub(crate) fn start_with_tls(listener: &str, rest: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = Authority::new("of the attacked");
        let (certificate, key) = authority.issue(&["a.test"]).write(folder.path(), "site");
        let mut roots = RootCertStore::empty();
        roots.add(authority.der()).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let listener = format!(
            "{listener}, tls: {{certificates: [{{certificate: {}, key: {}}}], handshake_timeout: 1s}}",
            certificate.display(),
            key.display()
        );
        let tls = Some(Arc::new(config));
        Self::within(folder, tls, sluice_run(), &listener, rest)
    }

    fn within(
        folder: TempDir,
        tls: Option<Arc<ClientConfig>>,
        mut command: Command,
        listener: &str,
        rest: &str,
    ) -> Self {
        let address = unused_address();
        command.arg("-c").arg(folder.path().join("sluice.yaml"));
        write(&folder, address, listener, rest);
        let process = Process(command.spawn().expect("starts"));
        let daemon = Self {
            address,
            door: Door { address, tls },
            process,
            folder,
        };
        eventually("it serves", || {
            let ask = || {
                let mut client = daemon.door.enter()?;
                client.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            };
            ask().is_ok() && daemon.socket().exists()
        });
        daemon
    }

    /// Where clients connect to.
    pub(crate) fn door(&self) -> Door {
        self.door.clone()
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("admin.sock")
    }

    /// The sum over a metric's series, as `/metrics` says it.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let series = self.metrics(name);
        assert!(!series.is_empty(), "no {name}");
        series.into_iter().map(|(_, value)| value).sum()
    }

    /// A metric's series, as `/metrics` says them.
    pub(crate) fn metrics(&self, name: &str) -> Vec<(String, f64)> {
        let mut stream = UnixStream::connect(self.socket()).expect("connects");
        let asked =
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        asked.expect("sends");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("metrics");
        let of_name = |line: &&str| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
        };
        let value = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            Some((series.to_owned(), value.parse().ok()?))
        };
        text.lines().filter(of_name).filter_map(value).collect()
    }

    /// True unless it has ended.
    pub(crate) fn runs(&mut self) -> bool {
        self.process.0.try_wait().expect("asked").is_none()
    }

    /// Another configuration takes the place of the one in force.
    pub(crate) fn reload(&self, listener: &str, rest: &str) {
        write(&self.folder, self.address, listener, rest);
        let mut command = Command::new(sluice().expect("built"));
        command.arg("reload").arg("--socket").arg(self.socket());
        let output = command.output().expect("runs");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{complaint}");
    }
}

fn sluice_run() -> Command {
    let mut command = Command::new(sluice().expect("built"));
    command.arg("run");
    command
}

fn write(folder: &TempDir, address: SocketAddr, listener: &str, rest: &str) {
    let text = format!(
        "admin: {{socket: {}}}\n\
         listeners: [{{name: web, kind: http, address: '{}', port: {}, {listener}}}]\n{rest}\n",
        folder.path().join("admin.sock").display(),
        address.ip(),
        address.port(),
    );
    std::fs::write(folder.path().join("sluice.yaml"), text).expect("writes");
}

/// Clients that ask again and again, until told to stop; each answer must be the right one.
pub(crate) struct Honest {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Honest {
    pub(crate) fn new() -> Self {
        Self {
            stop: Arc::default(),
            answered: Arc::default(),
            threads: Vec::new(),
        }
    }

    /// A thread that does this again and again, at most a hundred times a second: it is to meet
    /// what the test does, and not to keep the machine busy.
    pub(crate) fn doing(&mut self, what: &'static str, mut act: impl FnMut() + Send + 'static) {
        let (stop, answered) = (Arc::clone(&self.stop), Arc::clone(&self.answered));
        let thread = std::thread::Builder::new().name(what.to_owned());
        let run = move || {
            while !stop.load(Ordering::SeqCst) {
                act();
                answered.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(10));
            }
        };
        self.threads.push(thread.spawn(run).expect("a thread"));
    }

    /// Answers so far.
    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(Ordering::SeqCst)
    }

    /// Ends them. Returns how many answers they got.
    ///
    /// # Panics
    ///
    /// One got none, or a wrong one.
    pub(crate) fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let name = thread.thread().name().unwrap_or_default().to_owned();
            assert!(thread.join().is_ok(), "a request failed: {name}");
        }
        self.answered()
    }
}

impl Drop for Honest {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// Waits until something is so.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
