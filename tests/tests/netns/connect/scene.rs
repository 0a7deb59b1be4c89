//! The host, its workloads and its servers.

use anyhow::{Context as _, Result, ensure};
use proxy_tests::alone::Process;
use proxy_tests::cgroup::Cgroup;
use proxy_tests::command::run;
use proxy_tests::daemon::Daemon;
use proxy_tests::netns::{Namespace, Netns};
use proxy_tests::privilege;
use proxy_userspace::observe::view::{BalancedServiceView, SocketBalancingView};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

/// What backends listen on.
pub(crate) const PORT: u16 = 8080;
/// Where their health is asked after.
pub(crate) const HEALTH: u16 = 8081;

/// A server that says its name to whatever it is told, by TCP and UDP: `NAME PORT ADDRESS…`.
const SERVER: &str = r"
import socket, sys, threading
name, port = sys.argv[1].encode(), int(sys.argv[2])
def serve(conn):
    while True:
        try: data = conn.recv(4096)
        except OSError: return
        if not data: return conn.close()
        if data.startswith(b'GET'):
            conn.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s' % (len(name), name))
        else: conn.sendall(name)
def accept(sock):
    while True:
        conn, _ = sock.accept()
        threading.Thread(target=serve, args=(conn,), daemon=True).start()
def answer(sock):
    while True:
        data, peer = sock.recvfrom(4096)
        sock.sendto(name + b' ' + data, peer)
for address in sys.argv[3:]:
    family = socket.AF_INET6 if ':' in address else socket.AF_INET
    tcp = socket.socket(family, socket.SOCK_STREAM)
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    tcp.bind((address, port))
    tcp.listen(1024)
    udp = socket.socket(family, socket.SOCK_DGRAM)
    udp.bind((address, port))
    threading.Thread(target=accept, args=(tcp,), daemon=True).start()
    threading.Thread(target=answer, args=(udp,), daemon=True).start()
print('ready', flush=True)
threading.Event().wait()
";

/// What every workload's script begins with.
const PRELUDE: &str = r"
import errno, socket, sys, time
TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
def family(address): return socket.AF_INET6 if ':' in address else socket.AF_INET
def opened(address, kind):
    sock = socket.socket(family(address), kind)
    sock.settimeout(60)
    return sock
def dial(address, port, kind=TCP):
    sock = opened(address, kind)
    sock.connect((address, port))
    return sock
def ask(sock):
    sock.sendall(b'x')
    return sock.recv(100).decode().split()[0]
def code(call):
    try: call()
    except OSError as error: return errno.errorcode.get(error.errno, str(error))
    return 'OK'
";

/// A host with a cgroup of workloads.
pub(crate) struct Scene {
    pub(crate) host: Netns,
    pub(crate) workloads: Cgroup,
}

impl Scene {
    /// `None` without privileges. Backends are 10.1.0.1 to .3 and fd01::1 to ::3.
    pub(crate) fn set() -> Result<Option<Self>> {
        if !privilege::granted()? {
            return Ok(None);
        }
        let host = Netns::create("host")?;
        for last in 1..=3 {
            host.ip(&format!(
                "addr add 10.1.0.{last}/32 dev lo\naddr add fd01::{last}/128 dev lo nodad\n"
            ))?;
        }
        let workloads = Cgroup::create("workloads")?;
        Ok(Some(Self { host, workloads }))
    }

    /// Starts the backends `b1` to `bN`, each at its addresses of both families.
    pub(crate) fn servers(&self, count: u8) -> Result<Vec<Process>> {
        (1..=count).map(|last| self.server(last, PORT)).collect()
    }

    /// One server of a backend's addresses.
    pub(crate) fn server(&self, last: u8, port: u16) -> Result<Process> {
        let addresses = [format!("10.1.0.{last}"), format!("fd01::{last}")];
        let mut command = self.host.command("python3");
        command.args(["-c", SERVER, &format!("b{last}"), &port.to_string()]);
        let mut child = command.args(addresses).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().context("piped")?;
        let process = Process(child);
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        ensure!(line == "ready\n", "a server did not start: {line:?}");
        Ok(process)
    }

    /// Runs a script as a workload; what it prints.
    pub(crate) fn workload(&self, script: &str) -> Result<String> {
        self.workload_in(&self.host, &self.workloads, script)
    }

    pub(crate) fn workload_in(
        &self,
        netns: &Namespace,
        cgroup: &Cgroup,
        script: &str,
    ) -> Result<String> {
        let mut command = python(netns, script);
        cgroup.put(&mut command)?;
        Ok(run(&mut command)?.trim_end().to_owned())
    }

    /// The same outside of the cgroup.
    pub(crate) fn outsider(&self, script: &str) -> Result<String> {
        Ok(run(&mut python(&self.host, script))?.trim_end().to_owned())
    }

    /// A program as a workload; what it prints.
    pub(crate) fn program(&self, words: &[&str]) -> Result<String> {
        let mut command = self.host.command(words[0]);
        self.workloads.put(command.args(&words[1..]))?;
        Ok(run(&mut command)?.trim_end().to_owned())
    }

    /// A workload that goes on when it is told to.
    pub(crate) fn talk(&self, netns: &Namespace, script: &str) -> Result<Talk> {
        let mut command = python(netns, script);
        self.workloads.put(&mut command)?;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Talk {
            input: child.stdin.take().context("piped")?,
            output: BufReader::new(child.stdout.take().context("piped")?),
            _process: Process(child),
        })
    }

    /// The folder of the cgroup.
    pub(crate) fn folder(&self) -> Result<PathBuf> {
        let root = proxy_userspace::sockets::cgroup_root()?;
        Ok(root.join(self.workloads.path().trim_start_matches('/')))
    }

    /// A configuration for the cgroup with these listeners and services.
    pub(crate) fn config(&self, listeners: Vec<Value>, services: Vec<Value>) -> Value {
        json!({
            "connect": {"cgroups": [self.workloads.path()]},
            "listeners": listeners,
            "services": services,
        })
    }
}

fn python(netns: &Namespace, script: &str) -> Command {
    let mut command = netns.command("python3");
    command.args(["-c", &format!("{PRELUDE}{script}")]);
    command
}

/// A workload that goes on when it is told to.
pub(crate) struct Talk {
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    _process: Process,
}

impl Talk {
    /// Its next line.
    pub(crate) fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        ensure!(!line.is_empty(), "the workload has ended");
        Ok(line.trim_end().to_owned())
    }

    /// Tells it to go on, and gives its next line.
    pub(crate) fn go_on(&mut self) -> Result<String> {
        self.input.write_all(b"\n")?;
        self.line()
    }
}

/// An l4 listener.
pub(crate) fn listener(name: &str, address: &str, port: impl Into<Value>, service: &str) -> Value {
    json!({
        "name": name, "kind": "l4", "address": address, "port": port.into(), "service": service,
    })
}

/// The same by UDP.
pub(crate) fn udp(mut listener: Value) -> Value {
    listener["protocol"] = json!("udp");
    listener
}

/// A service with the backends of a family that is balanced at connect().
pub(crate) fn service(name: &str, backends: &[&str]) -> Value {
    json!({"name": name, "backends": backends, "at_connect": {}})
}

/// How often each line was printed.
pub(crate) fn shares(lines: &str) -> BTreeMap<String, u64> {
    let mut shares = BTreeMap::new();
    for line in lines.lines() {
        *shares.entry(line.to_owned()).or_insert(0) += 1;
    }
    shares
}

/// What a daemon says of it.
pub(crate) fn balancing(daemon: &Daemon) -> Result<SocketBalancingView> {
    let view = daemon.status()?;
    view.socket_balancing.context("sockets are balanced")
}

/// What a daemon says of a service.
pub(crate) fn counted(daemon: &Daemon, service: &str) -> Result<BalancedServiceView> {
    let services = balancing(daemon)?.services.into_iter();
    let mut services = services.filter(|one| one.name == service);
    services.next().context("the service is balanced")
}
