//! `sluice proxy` as a process of its own, without namespaces, kernel part or root.

use crate::daemon::sluice;
use crate::family;
use nix::sys::signal::{Signal, kill};
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// An address at which nobody listens, for a program that has to be told one. Its port is below those
/// that the system hands out, so that nobody else gets it by chance before the program does.
///
/// # Panics
///
/// There is none.
pub fn unused_address() -> SocketAddr {
    let ports = std::iter::repeat_with(|| fastrand::u16(10_000..30_000)).take(1000);
    let mut addresses = ports.map(|port| SocketAddr::new(family::loopback(), port));
    let unused = addresses.find(|address| TcpListener::bind(address).is_ok());
    unused.expect("an unused port")
}

/// A process that ends with this value.
#[derive(Debug)]
pub struct Process(pub Child);

impl Process {
    /// Its id.
    pub fn id(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.0.id().cast_signed())
    }

    /// Sends a signal.
    ///
    /// # Panics
    ///
    /// It has ended already.
    pub fn signal(&self, signal: Signal) {
        kill(self.id(), signal).expect("told");
    }

    /// Waits for its end; true if it says that all went well.
    ///
    /// # Panics
    ///
    /// It does not end in 20 seconds.
    pub fn has_ended_well(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = self.0.try_wait().expect("asked") {
                return status.success();
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `sluice proxy` in front of an address, at a port that the system chooses. Returns where it
/// listens.
///
/// # Panics
///
/// It is not built, or does not start.
pub fn proxy(to: SocketAddr, more: &[&str]) -> (Process, SocketAddr) {
    let mut command = Command::new(sluice().expect("built"));
    let from = family::any().to_string();
    command.args(["proxy", "--from", &from, "--to", &to.to_string()]);
    command.args(more);
    start(&mut command)
}

/// Starts a command that says on standard error where it listens.
///
/// # Panics
///
/// It does not start, or does not say it.
pub fn start(command: &mut Command) -> (Process, SocketAddr) {
    let mut child = command.stderr(Stdio::piped()).spawn().expect("starts");
    let log = BufReader::new(child.stderr.take().expect("piped"));
    let process = Process(child);
    let mut lines = log.lines().map_while(Result::ok);
    let address = lines
        .find_map(|line| address_in(&line))
        .expect("says where it listens");
    std::thread::spawn(move || lines.for_each(drop));
    (process, address)
}

/// The address in a line of the log that tells of a listener.
fn address_in(line: &str) -> Option<SocketAddr> {
    let text = line.split("listening").nth(1)?.split("address=").nth(1)?;
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    text[..end].parse().ok()
}
