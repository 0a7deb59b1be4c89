//! The proxy under test, and an HTTP/1 origin for it.

use proxy_tests::alone::{Process, unused_address};
use proxy_tests::daemon::sluice;
use proxy_tests::family;
use proxy_tests::wait;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// `sluice run` with a configuration.
pub(crate) struct Sluice {
    pub(crate) address: SocketAddr,
    process: Process,
    folder: TempDir,
}

impl Sluice {
    /// `listener` and `service` are keys of the listener and the service beside their names, as
    /// YAML within braces; `backend` is where the service goes.
    pub(crate) fn start(backend: SocketAddr, listener: &str, service: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self::start_in(folder, backend, listener, service)
    }

    /// As [`Self::start`], with files that are in a folder already.
    pub(crate) fn start_in(
        folder: TempDir,
        backend: SocketAddr,
        listener: &str,
        service: &str,
    ) -> Self {
        let address = unused_address();
        let config = format!(
            "admin: {{socket: {}}}\n\
             workers: {{count: 1}}\n\
             listeners: [{{name: web, kind: http, address: '{}', port: {}, service: app{listener}}}]\n\
             services: [{{name: app, backends: ['{backend}']{service}}}]\n",
            folder.path().join("admin.sock").display(),
            address.ip(),
            address.port(),
        );
        let path = folder.path().join("sluice.yaml");
        std::fs::write(&path, config).expect("writes");
        let log = File::create(folder.path().join("log")).expect("a log");
        let mut command = Command::new(sluice().expect("built"));
        command.args(["run", "-c"]).arg(path);
        command.env("RUST_BACKTRACE", "1").stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a log")).stderr(log);
        let mut sluice = Self {
            address,
            process: Process(command.spawn().expect("starts")),
            folder,
        };
        let is_ready = wait::until("sluice listens", || {
            sluice
                .complaint()
                .map_or(Ok(()), |what| anyhow::bail!(what))?;
            Ok(TcpStream::connect(address).is_ok())
        });
        is_ready.expect("ready");
        sluice
    }

    /// What is wrong with the process, if something is: it must neither have ended nor have
    /// panicked.
    pub(crate) fn complaint(&mut self) -> Option<String> {
        let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        if let Some(status) = self.process.0.try_wait().expect("asked") {
            return Some(format!("sluice has ended, {status}:\n{log}"));
        }
        let panic = log.find("panicked")?;
        let begin = log[..panic].rfind('\n').unwrap_or(0);
        Some(format!("sluice panicked: {}", &log[begin..]))
    }
}

/// An HTTP/1 origin. It answers each request, when all of it has come, with the length of the
/// request's content, or with as many octets as the path names: `/200000`. It accepts WebSockets and
/// becomes an echo.
pub(crate) fn origin() -> SocketAddr {
    let listener = TcpListener::bind(family::any()).expect("binds");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

fn serve(mut stream: TcpStream) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut reading = BufReader::new(stream.try_clone().ok()?);
    loop {
        let head = lines(&mut reading)?;
        let lower = head.to_ascii_lowercase();
        if lower.contains("upgrade: websocket") {
            // The answer to the key of the example in RFC 6455, 1.3, which all tests use.
            let accept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Accept: {accept}\r\n\r\n"
            );
            stream.write_all(answer.as_bytes()).ok()?;
            std::io::copy(&mut reading, &mut stream).ok()?;
            return None;
        }
        let received = content(&mut reading, &lower)?;
        let path = head.split(' ').nth(1).unwrap_or_default();
        let wanted = path.trim_start_matches('/').parse::<usize>();
        let body = wanted.map_or_else(|_| received.to_string().into_bytes(), |n| vec![b'x'; n]);
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(answer.as_bytes()).ok()?;
        if !head.starts_with("HEAD") {
            stream.write_all(&body).ok()?;
        }
    }
}

/// An HTTP/1 origin that answers a request as soon as its head has come.
pub(crate) fn early_origin() -> SocketAddr {
    let listener = TcpListener::bind(family::any()).expect("binds");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut reading = BufReader::new(stream.try_clone().ok()?);
                lines(&mut reading)?;
                let answer =
                    b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nearly";
                stream.write_all(answer).ok()?;
                std::io::copy(&mut reading, &mut std::io::sink()).ok()
            });
        }
    });
    address
}

/// An HTTP/1 origin that reads nothing, ever.
pub(crate) fn stalling_origin() -> SocketAddr {
    let listener = TcpListener::bind(family::any()).expect("binds");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        let held: Vec<TcpStream> = listener.incoming().map_while(Result::ok).collect();
        drop(held);
    });
    address
}

/// Lines up to an empty one; `None` at the end.
fn lines(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut lines = Vec::new();
    while !lines.ends_with(b"\r\n\r\n") && lines != b"\r\n" {
        if stream.read_until(b'\n', &mut lines).ok()? == 0 {
            return None;
        }
    }
    Some(String::from_utf8_lossy(&lines).into_owned())
}

/// Reads content and tells its length; `None` if it does not end.
fn content(stream: &mut BufReader<TcpStream>, head: &str) -> Option<u64> {
    if head.contains("transfer-encoding: chunked") {
        let mut length = 0;
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).ok()?;
            let size = u64::from_str_radix(line.trim(), 16).ok()?;
            if size == 0 {
                lines(stream)?;
                return Some(length);
            }
            std::io::copy(&mut stream.take(size), &mut std::io::sink()).ok()?;
            stream.read_line(&mut line).ok()?;
            length += size;
        }
    }
    let field = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    let length = field.map_or(Some(0), |value| value.trim().parse().ok())?;
    let copied = std::io::copy(&mut stream.take(length), &mut std::io::sink());
    (copied.ok()? == length).then_some(length)
}
