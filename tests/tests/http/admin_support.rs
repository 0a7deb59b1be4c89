//! A daemon whose admin API is asked over its sockets.

use crate::support::{Origin, eventually};
use proxy_tests::alone::{Process, unused_address};
use proxy_tests::daemon::sluice;
use serde_json::Value;
use std::fs;
use std::io::{Read as _, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// The token of daemons that serve the API over TCP.
pub(crate) const TOKEN: &str = "a token that nobody guesses";

/// A daemon with one HTTP listener `web` and one service `app`.
pub(crate) struct Daemon {
    _process: Process,
    pub(crate) folder: TempDir,
    pub(crate) web: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) origin: SocketAddr,
}

/// An answer of the API.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        crate::support::field(&self.head, name)
    }

    pub(crate) fn etag(&self) -> String {
        self.field("etag").expect("an entity tag").to_owned()
    }

    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }
}

impl Daemon {
    /// Starts one; `admin` are further keys of the section `admin`.
    pub(crate) fn start(admin: &str) -> Self {
        let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("token"), TOKEN).expect("writes");
        let (web, address) = (unused_address(), unused_address());
        let text = text(&folder, web, address, origin.address, admin);
        let file = folder.path().join("sluice.yaml");
        fs::write(&file, text).expect("writes");
        let child = Command::new(sluice().expect("built"))
            .args(["run", "-c"])
            .arg(&file)
            .stderr(Stdio::inherit())
            .spawn()
            .expect("starts");
        let daemon = Self {
            _process: Process(child),
            folder,
            web,
            admin: address,
            origin: origin.address,
        };
        eventually("it is ready", || {
            daemon
                .try_ask("GET", "/readyz", &[], "")
                .is_some_and(|reply| reply.status == 200)
        });
        daemon
    }

    /// With the API over TCP, for those who know the token.
    pub(crate) fn with_api() -> Self {
        Self::start("listen: {ADMIN}, api: true, token: {file: {FOLDER}/token}")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs `sluice WORDS…` towards it.
    pub(crate) fn try_sluice(&self, words: &[&str]) -> Output {
        Command::new(sluice().expect("built"))
            .args(words)
            .arg("--socket")
            .arg(self.path("admin.sock"))
            .output()
            .expect("runs")
    }

    pub(crate) fn sluice(&self, words: &[&str]) -> String {
        let output = self.try_sluice(words);
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{words:?}: {complaint}");
        String::from_utf8(output.stdout).expect("text")
    }

    fn try_ask(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: &str,
    ) -> Option<Reply> {
        let mut stream = UnixStream::connect(self.path("admin.sock")).ok()?;
        Some(exchange(&mut stream, method, path, fields, body))
    }

    /// Asks over the unix socket.
    pub(crate) fn ask(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: &str,
    ) -> Reply {
        self.try_ask(method, path, fields, body).expect("connects")
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, &[], "")
    }

    /// Sends JSON, on the condition that the configuration is this one.
    pub(crate) fn send(&self, method: &str, path: &str, etag: &str, body: &str) -> Reply {
        let fields = [("Content-Type", "application/json"), ("If-Match", etag)];
        self.ask(method, path, &fields, body)
    }

    /// Asks over TCP.
    pub(crate) fn ask_tcp(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: &str,
    ) -> Reply {
        let mut stream = TcpStream::connect(self.admin).expect("connects");
        exchange(&mut stream, method, path, fields, body)
    }

    pub(crate) fn etag(&self) -> String {
        self.get("/api/v1/config").expect(200).etag()
    }

    /// The weight of the only backend, as the API shows it.
    pub(crate) fn weight(&self) -> u64 {
        let backends = self.get("/api/v1/backends").expect(200).json();
        backends[0]["weight"].as_u64().expect("a weight")
    }
}

fn text(
    folder: &TempDir,
    web: SocketAddr,
    admin: SocketAddr,
    origin: SocketAddr,
    more: &str,
) -> String {
    let folder = folder.path().display().to_string();
    let more = more
        .replace("{ADMIN}", &format!("'{admin}'"))
        .replace("{FOLDER}", &folder);
    format!(
        "# Kept as it is.\n\
         admin: {{socket: {folder}/admin.sock, {more}}}\n\
         workers: {{count: 2}}\n\
         listeners: [{{name: web, kind: http, address: '{}', port: {}, service: app}}]\n\
         services:\n  - name: app\n    backends: [{{name: b1, address: '{origin}', weight: 1}}]\n",
        web.ip(),
        web.port(),
    )
}

/// One request and its answer over a connection of its own.
pub(crate) fn exchange(
    stream: &mut (impl std::io::Read + Write),
    method: &str,
    path: &str,
    fields: &[(&str, &str)],
    body: &str,
) -> Reply {
    let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !fields.iter().any(|(name, _)| *name == "Host") {
        head.push_str("Host: localhost\r\n");
    }
    for (name, value) in fields {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() || method == "POST" || method == "PUT" {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    // Who is refused may be so before the body is taken.
    let _ = stream.write_all(format!("{head}\r\n{body}").as_bytes());
    let mut octets = Vec::new();
    let _ = stream.read_to_end(&mut octets);
    let text = String::from_utf8_lossy(&octets).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").expect("an answer");
    Reply {
        status: head[9..12].parse().expect("a status"),
        body: match crate::support::field(head, "transfer-encoding") {
            Some(_) => unchunked(body),
            None => body.to_owned(),
        },
        head: head.to_owned(),
    }
}

fn unchunked(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap_or(0);
        if size == 0 {
            break;
        }
        whole.push_str(&rest[..size]);
        body = &rest[size + 2..];
    }
    whole
}

/// A stream of events that is read as it comes.
pub(crate) struct Events {
    stream: UnixStream,
    read: String,
}

impl Events {
    pub(crate) fn follow(daemon: &Daemon, path: &str, last: Option<&str>) -> Self {
        let mut stream = UnixStream::connect(daemon.path("admin.sock")).expect("connects");
        let last = last.map_or_else(String::new, |id| format!("Last-Event-ID: {id}\r\n"));
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n{last}\r\n").expect("sends");
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a timeout");
        Self {
            stream,
            read: String::new(),
        }
    }

    /// Reads until an event with this in its data; the event's id and data.
    pub(crate) fn until(&mut self, wanted: &str) -> (String, Value) {
        loop {
            while let Some((event, rest)) = self.read.split_once("\n\n") {
                let event = event.to_owned();
                self.read = rest.to_owned();
                let line = |name: &str| {
                    let mut lines = event.lines();
                    lines.find_map(|line| line.strip_prefix(name).map(str::to_owned))
                };
                if let (Some(id), Some(data)) = (line("id: "), line("data: "))
                    && data.contains(wanted)
                {
                    return (id, serde_json::from_str(&data).expect("JSON"));
                }
            }
            let mut octets = [0; 4096];
            let read = self.stream.read(&mut octets).expect("an event in time");
            assert!(read > 0, "the stream has ended");
            self.read
                .push_str(&String::from_utf8_lossy(&octets[..read]));
        }
    }
}
