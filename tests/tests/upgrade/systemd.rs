//! What the service manager is told, and sockets that it has opened. A small one stands in for it.

use crate::clients::Clients;
use crate::support::{Daemon, Origins, eventually};
use nix::sys::signal::Signal;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::{Arc, Mutex};

/// Hears what is said to it.
struct Manager {
    _folder: tempfile::TempDir,
    path: std::path::PathBuf,
    said: Arc<Mutex<Vec<String>>>,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("bound");
        let said: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = Arc::clone(&said);
        std::thread::spawn(move || {
            let mut octets = [0; 4096];
            while let Ok(length) = socket.recv(&mut octets) {
                let text = String::from_utf8_lossy(&octets[..length]).into_owned();
                heard.lock().expect("not poisoned").push(text);
            }
        });
        Self {
            _folder: folder,
            path,
            said,
        }
    }

    /// Waits until a message was said that has all these lines; the earlier ones are forgotten.
    fn hear(&self, lines: &[&str]) {
        eventually(&format!("{lines:?} was said"), || {
            let mut said = self.said.lock().expect("not poisoned");
            let is_it = |text: &String| {
                lines
                    .iter()
                    .all(|line| text.lines().any(|said| said.starts_with(line)))
            };
            match said.iter().position(is_it) {
                Some(index) => {
                    said.drain(..=index);
                    true
                }
                None => false,
            }
        });
    }
}

#[test]
fn the_service_manager_is_told_of_readiness_reloads_life_and_the_main_process() {
    let manager = Manager::new();
    let origins = Origins::start();
    let mut daemon = Daemon::start_as(
        &origins,
        "workers: {count: 1, drain_timeout: 10m}",
        |mut command, _, _| {
            command
                .env("NOTIFY_SOCKET", &manager.path)
                .env("WATCHDOG_USEC", "30000000");
            command
        },
    );
    manager.hear(&["READY=1"]);
    manager.hear(&["WATCHDOG=1"]);
    daemon.signal(Signal::SIGHUP);
    manager.hear(&["RELOADING=1", "MONOTONIC_USEC="]);
    manager.hear(&["READY=1"]);
    let new = daemon.upgrade();
    manager.hear(&[&format!("MAINPID={new}"), "READY=1"]);
    // The new one feeds the watchdog from now on.
    manager.hear(&["WATCHDOG=1"]);
    daemon.signal(Signal::SIGTERM);
    manager.hear(&["STOPPING=1"]);
    eventually("it ends", || daemon.running().is_empty());
    assert!(!daemon.socket().exists());
}

/// Starts a command as a service manager with sockets does: descriptors from 3 on, and who is meant.
const ACTIVATOR: &str = r#"
import os, socket, sys
names, places, command = sys.argv[1], sys.argv[2].split(","), sys.argv[3:]
sockets = []
for kind, place in (place.split("=", 1) for place in places):
    if kind == "unix":
        one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        one.bind(place)
    else:
        host, port = place.rsplit(":", 1)
        stream = socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM
        one = socket.socket(socket.AF_INET, stream)
        one.bind((host, int(port)))
    if kind != "udp":
        one.listen(16)
    sockets.append(one)
# By way of high numbers, so that none is overwritten before it is in its place.
high = [os.dup2(one.fileno(), 100 + at) for at, one in enumerate(sockets)]
for at, one in enumerate(high):
    os.dup2(one, 3 + at)
os.closerange(3 + len(high), 256)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(high)), LISTEN_FDNAMES=names)
os.execv(command[0], command)
"#;

#[test]
fn sockets_of_the_service_manager_are_served() {
    let origins = Origins::start();
    let mut daemon = Daemon::start_as(
        &origins,
        "workers: {count: 2, drain_timeout: 10m}",
        |command, to, folder| {
            let mut activated = Command::new("python3");
            activated.args(["-c", ACTIVATOR, "web:copy:echo:admin"]);
            let (http, tcp, udp) = (to.http, to.tcp, to.udp);
            let admin = folder.join("admin.sock");
            activated.arg(format!(
                "tcp={http},tcp={tcp},udp={udp},unix={}",
                admin.display()
            ));
            activated
                .arg(command.get_program())
                .args(command.get_args());
            activated
        },
    );
    let clients = Clients::of_all_kinds(daemon.addresses);
    let first = daemon.pid();
    eventually("everybody is served", || clients.answered() > 100);
    let port = daemon.addresses.http.port();
    assert_eq!(
        listening(first, port),
        1,
        "others beside the one that was given"
    );
    let last = daemon.upgrade();
    let answered = clients.answered();
    eventually("everybody is served", || {
        clients.answered() > answered + 100
    });
    clients.end();
    eventually("the old one has ended", || {
        !daemon.running().contains(&first)
    });
    assert_eq!(listening(last, port), 1);
    assert!(daemon.is_serving());
}

/// Listening sockets at a port of 127.0.0.1, in a process's network namespace.
fn listening(pid: i32, port: u16) -> usize {
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).expect("a table");
    let local = format!("0100007F:{port:04X}");
    let is_it = |line: &&str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        // State 0A is LISTEN.
        fields.len() > 3 && fields[1] == local && fields[3] == "0A"
    };
    table.lines().filter(is_it).count()
}
