//! Daemons that others take over from, and origins.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proxy_tests::alone::unused_address;
use proxy_tests::certificates::Authority;
use proxy_tests::daemon::sluice;
use proxy_tests::wait::PATIENCE;
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// True if what takes long may.
pub(crate) fn is_long() -> bool {
    std::env::var("SLUICE_LONG").is_ok_and(|value| value == "1")
}

/// Waits until something is so.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Where the listeners of a daemon are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) http: SocketAddr,
    /// HTTP over TLS.
    pub(crate) tls: SocketAddr,
    pub(crate) tcp: SocketAddr,
    pub(crate) udp: SocketAddr,
}

/// The name in the certificate of every daemon.
pub(crate) const HOST: &str = "a.test";

/// Who has issued it.
pub(crate) static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| Authority::new("upgrade"));

/// A daemon and all that come after it, with their files. Dropping it kills them.
pub(crate) struct Daemon {
    pub(crate) addresses: Addresses,
    pub(crate) folder: TempDir,
    first: Child,
    pids: BTreeSet<i32>,
}

impl Daemon {
    /// Starts one with a listener of each kind; `more` are further lines of its file.
    pub(crate) fn start(origins: &Origins, more: &str) -> Self {
        Self::start_as(origins, more, |command, _, _| command)
    }

    /// As [`Self::start`], by another command: it is told the usual one, where the listeners are
    /// to be, and the folder.
    pub(crate) fn start_as(
        origins: &Origins,
        more: &str,
        change: impl FnOnce(Command, Addresses, &Path) -> Command,
    ) -> Self {
        let addresses = Addresses {
            http: unused_address(),
            tls: unused_address(),
            tcp: unused_address(),
            udp: unused_address(),
        };
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(
            folder.path().join("sluice.yaml"),
            text(folder.path(), addresses, origins, more),
        )
        .expect("writes");
        let mut command = Command::new(sluice().expect("built"));
        let file = folder.path().join("sluice.yaml");
        command.arg("run").arg("-c").arg(file).env("NO_COLOR", "1");
        let mut command = change(command, addresses, folder.path());
        let first = command.spawn().expect("starts");
        let mut daemon = Self {
            addresses,
            pids: BTreeSet::from([first.id().cast_signed()]),
            folder,
            first,
        };
        eventually("it serves", || daemon.is_serving());
        daemon.note();
        daemon
    }

    /// True if it answers on its admin socket and to a client.
    pub(crate) fn is_serving(&self) -> bool {
        self.command(&["status"])
            .output()
            .expect("runs")
            .status
            .success()
            && self.answers()
    }

    /// True if it answers a client.
    pub(crate) fn answers(&self) -> bool {
        let ask = || -> std::io::Result<String> {
            let mut client = TcpStream::connect(self.addresses.http)?;
            client.set_read_timeout(Some(PATIENCE))?;
            client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            client.read_to_string(&mut answer)?;
            Ok(answer)
        };
        ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 "))
    }

    /// The process that has the admin socket.
    pub(crate) fn pid(&self) -> i32 {
        let lock = self.folder.path().join("admin.sock.lock");
        let text = fs::read_to_string(lock).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }

    fn note(&mut self) {
        let pid = self.pid();
        if pid > 0 {
            self.pids.insert(pid);
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("admin.sock")
    }

    /// `sluice WORDS…` towards it.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(sluice().expect("built"));
        command.args(words).arg("--socket").arg(self.socket());
        command.env("NO_COLOR", "1");
        command
    }

    /// Has a new process take over; gives its process id.
    pub(crate) fn upgrade(&mut self) -> i32 {
        let before = self.pid();
        let output = self.try_upgrade(&[]);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{complaint}");
        let after = self.pid();
        assert_ne!(after, before, "{output:?}");
        after
    }

    /// Runs `sluice upgrade WORDS…`.
    pub(crate) fn try_upgrade(&mut self, words: &[&str]) -> Output {
        let mut command = self.command(&["upgrade"]);
        let output = command.args(words).output().expect("runs");
        self.note();
        output
    }

    /// Sends a signal to the process that serves.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("it runs");
    }

    /// The processes that still run.
    pub(crate) fn running(&mut self) -> Vec<i32> {
        // Else the first one would be a zombie for ever.
        let _ = self.first.try_wait();
        let pids = self.pids.iter().copied();
        pids.filter(|&pid| is_running(pid)).collect()
    }

    /// Notes the processes that the first one has started.
    pub(crate) fn note_children(&mut self) {
        for &parent in &self.pids.clone() {
            self.pids.extend(children(parent));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.note();
        self.note_children();
        for &pid in &self.pids {
            // Its number may be somebody else's by now.
            let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if words.contains(self.folder.path().to_str().expect("text")) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        let _ = self.first.wait();
    }
}

/// True if a process runs, and is no zombie.
pub(crate) fn is_running(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(')')
        .next()
        .and_then(|rest| rest.trim().chars().next());
    state.is_some_and(|state| state != 'Z' && state != 'X')
}

/// The processes that a process has started.
pub(crate) fn children(pid: i32) -> Vec<i32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let lists = tasks.flatten().map(|task| task.path().join("children"));
    let lists = lists.map(|list| fs::read_to_string(list).unwrap_or_default());
    let pids = lists.flat_map(|list| {
        let pids = list.split_whitespace().map(str::parse);
        pids.flatten().collect::<Vec<i32>>()
    });
    pids.collect()
}

/// Descriptors that a process has open.
pub(crate) fn descriptors(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Memory of a process that is its own, in KiB.
pub(crate) fn memory(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.expect("a figure")
}

/// Where the certificate is that [`text`] names, and its key.
pub(crate) fn certificate(folder: &Path) -> [PathBuf; 2] {
    ["sealed.pem", "sealed.key"].map(|name| folder.join(name))
}

fn text(folder: &Path, addresses: Addresses, origins: &Origins, more: &str) -> String {
    AUTHORITY.issue(&[HOST]).write(folder, "sealed");
    let [certificate, key] = certificate(folder);
    let at = |address: SocketAddr| format!("address: {}, port: {}", address.ip(), address.port());
    format!(
        "admin: {{socket: {}/admin.sock}}\n\
         listeners:\n\
         - {{name: web, kind: http, {}, service: web}}\n\
         - {{name: sealed, kind: http, {}, service: web, tls: {{certificates: [\
           {{certificate: {}, key: {}}}]}}}}\n\
         - {{name: copy, kind: tcp, {}, service: copy}}\n\
         - {{name: echo, kind: udp, {}, service: echo, timeouts: {{idle: 10s}}}}\n\
         services:\n\
         - {{name: web, backends: ['{}'], health: {{tcp: {{}}, interval: 60s}}}}\n\
         - {{name: copy, backends: ['{}']}}\n\
         - {{name: echo, backends: ['{}', '{}']}}\n\
         {more}\n",
        folder.display(),
        at(addresses.http),
        at(addresses.tls),
        certificate.display(),
        key.display(),
        at(addresses.tcp),
        at(addresses.udp),
        origins.http,
        origins.tcp,
        origins.udp[0],
        origins.udp[1],
    )
}

/// Backends of each kind.
pub(crate) struct Origins {
    pub(crate) http: SocketAddr,
    tcp: SocketAddr,
    udp: [SocketAddr; 2],
}

impl Origins {
    /// HTTP answers `ok` and echoes what comes through a tunnel, TCP echoes, UDP answers with the
    /// port from which it was asked and what it was sent.
    pub(crate) fn start() -> Self {
        Self {
            http: serve(http),
            tcp: serve(|stream| {
                let Ok(mut from) = stream.try_clone() else {
                    return;
                };
                let mut to = stream;
                let _ = std::io::copy(&mut from, &mut to);
            }),
            udp: [udp(), udp()],
        }
    }
}

fn serve(serve: fn(TcpStream)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

fn http(mut stream: TcpStream) {
    let Ok(reading) = stream.try_clone() else {
        return;
    };
    let mut reading = BufReader::new(reading);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if !matches!(reading.read_line(&mut head), Ok(1..)) {
                return;
            }
        }
        if head.to_ascii_lowercase().contains("upgrade: websocket") {
            let _ = stream.write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                  Upgrade: websocket\r\n\r\n",
            );
            let _ = std::io::copy(&mut reading, &mut stream);
            return;
        }
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        if stream.write_all(answer).is_err() {
            return;
        }
    }
}

fn udp() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("binds");
    let address = socket.local_addr().expect("bound");
    std::thread::spawn(move || {
        let mut octets = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut octets) {
            let asked = String::from_utf8_lossy(&octets[..length]).into_owned();
            let _ = socket.send_to(format!("{} {asked}", from.port()).as_bytes(), from);
        }
    });
    address
}
