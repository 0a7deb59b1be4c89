//! The proxies, each set up for one job, with the same features: one worker, `X-Forwarded-For`
//! added, connections to the origin kept, no log unless the job has one.
//!
//! Each file says how one proxy is told to do a job, or that it cannot.

mod caddy;
mod envoy;
mod haproxy;
mod nginx;
mod sluice;
mod traefik;

use super::origin::Origin;
use super::scenario::{Back, FILES, Job, Protocol, host};
use super::usage::Tree;
use super::{PROXY_CPU, pin};
use crate::bench::process::Process;
use anyhow::{Context, Result};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use std::fmt;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Who stands between client and origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Nobody.
    Direct,
    /// This proxy.
    Sluice,
    /// The same with `accelerate: on` at both of its sides: only in `bench sockets`.
    Accelerated,
    /// From Debian.
    Nginx,
    /// From Debian.
    Haproxy,
    /// From PyPI.
    Envoy,
    /// From PyPI.
    Traefik,
    /// From PyPI.
    Caddy,
}

impl Peer {
    /// Those of `bench l7`, in the order of the report.
    pub const ALL: [Self; 7] = [
        Self::Direct,
        Self::Sluice,
        Self::Nginx,
        Self::Haproxy,
        Self::Envoy,
        Self::Traefik,
        Self::Caddy,
    ];

    /// Its name in rows and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Sluice => "sluice",
            Self::Accelerated => "sluice-accelerated",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
            Self::Traefik => "traefik",
            Self::Caddy => "caddy",
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a proxy is told.
struct Order<'a> {
    job: Job,
    /// Where clients come.
    listen: SocketAddr,
    /// Whom it asks.
    origin: SocketAddr,
    /// For its files.
    folder: &'a Path,
    /// The folder of files to serve.
    files: &'a Path,
}

impl Order<'_> {
    /// Writes a file into the folder.
    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    /// Where the access log goes.
    fn access_log(&self) -> PathBuf {
        self.folder.join("access.log")
    }

    /// Names of the hosts that are routed, none if the job has no routes.
    fn hosts(&self) -> impl Iterator<Item = String> {
        (0..self.job.routes).map(host)
    }
}

/// What a proxy says to an order.
enum Setup {
    /// This does it.
    Run(Command),
    /// It has no such feature, or none that is alike.
    Cannot(&'static str),
}

/// A proxy at work, or the direct connection.
pub struct Running {
    /// Where clients go.
    pub address: SocketAddr,
    /// The proxy's processes; none on the direct connection.
    pub tree: Option<Tree>,
    process: Option<Process>,
}

/// What came of an attempt to start a proxy.
pub enum Start {
    /// It is ready.
    Running(Running),
    /// It is not, for this reason, which is no fault.
    Cannot(String),
}

/// The folder in which all files of the benchmark are.
pub(in crate::bench) fn workplace() -> PathBuf {
    crate::bench::docs::in_workspace("target/bench")
}

/// A program of the virtual environment that `cargo xtask bench l7` makes.
fn from_pypi(program: &str) -> PathBuf {
    workplace().join("peers/bin").join(program)
}

impl Peer {
    /// Starts it for a job, on the proxies' CPU, and waits until it accepts connections.
    ///
    /// # Errors
    ///
    /// It does not start; the error has its log.
    pub fn start(self, scenario: &str, job: Job, origin: &Origin) -> Result<Start> {
        let target = match job {
            job if job.origin_is_h2() => origin.h2,
            job if job.origin_is_tls() => origin.h1_tls,
            _ => origin.h1,
        };
        self.start_towards(scenario, job, target)
    }

    /// As [`Self::start`], for whatever is at an address: the origin, or another proxy.
    ///
    /// # Errors
    ///
    /// It does not start; the error has its log.
    pub fn start_towards(self, scenario: &str, job: Job, target: SocketAddr) -> Result<Start> {
        let folder = workplace().join("run").join(scenario).join(self.name());
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let files = files()?;
        let order = Order {
            job,
            listen: free_port()?,
            origin: target,
            folder: &folder,
            files: &files,
        };
        let setup = match self {
            Self::Direct => return Ok(direct(job, target)),
            Self::Sluice => sluice::set_up(&order, false)?,
            Self::Accelerated => sluice::set_up(&order, true)?,
            Self::Nginx => nginx::set_up(&order)?,
            Self::Haproxy => haproxy::set_up(&order)?,
            Self::Envoy => envoy::set_up(&order)?,
            Self::Traefik => traefik::set_up(&order)?,
            Self::Caddy => caddy::set_up(&order)?,
        };
        let command = match setup {
            Setup::Run(command) => command,
            Setup::Cannot(why) => return Ok(Start::Cannot(why.to_owned())),
        };
        if !exists(&command) {
            return Ok(Start::Cannot("not installed".to_owned()));
        }
        let running = Running::start(self.name(), command, order.listen, &folder)?;
        Ok(Start::Running(running))
    }
}

impl Running {
    /// Starts a program on the proxies' CPU, and waits until it accepts connections. Its log is in
    /// `folder`.
    pub(in crate::bench) fn start(
        name: &str,
        mut command: Command,
        listen: SocketAddr,
        folder: &Path,
    ) -> Result<Self> {
        on_cpu(&mut command, PROXY_CPU);
        let mut process = Process::start(name, &mut command, &folder.join("log"))?;
        process.wait_until(|| TcpStream::connect(listen).is_ok())?;
        Ok(Self {
            address: listen,
            tree: Some(Tree::of(process.id())?),
            process: Some(process),
        })
    }

    /// The direct connection to an origin.
    pub(super) fn direct(address: SocketAddr) -> Self {
        Self {
            address,
            tree: None,
            process: None,
        }
    }

    /// Looks for the proxy's processes anew: some accept connections before their workers are
    /// there.
    pub(in crate::bench) fn find_processes(&mut self) -> Result<()> {
        if let Some(process) = &self.process {
            self.tree = Some(Tree::of(process.id())?);
        }
        Ok(())
    }

    /// The end of what the proxy printed.
    pub fn log(&self) -> String {
        self.process
            .as_ref()
            .map_or_else(String::new, Process::last_lines)
    }
}

fn direct(job: Job, origin: SocketAddr) -> Start {
    let is_same = job.origin_is_h2() == is_h2(job) && job.origin_is_tls() == job.tls.is_front();
    if job.back == Back::Files || !is_same {
        return Start::Cannot("there is nothing to translate".to_owned());
    }
    Start::Running(Running::direct(origin))
}

fn is_h2(job: Job) -> bool {
    job.front == Protocol::H2
}

/// The folder of files to serve, made when it is not there.
fn files() -> Result<PathBuf> {
    let folder = workplace().join("files");
    fs::create_dir_all(&folder)?;
    for (name, length) in FILES {
        fs::write(folder.join(name), super::origin::body(length))?;
    }
    Ok(folder)
}

/// An address that nobody listens at.
pub(in crate::bench) fn free_port() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?)
}

fn exists(command: &Command) -> bool {
    let program = Path::new(command.get_program());
    if program.is_absolute() {
        return program.exists();
    }
    program
        .to_str()
        .is_some_and(|name| crate::privilege::find_program(name).is_some())
}

/// Has the process run on one CPU only, and end when this one does.
pub(in crate::bench) fn on_cpu(command: &mut Command, cpu: usize) {
    let before = move || {
        pin(cpu)?;
        Ok(prctl::set_pdeathsig(Signal::SIGTERM)?)
    };
    // SAFETY: two system calls that neither allocate nor take a lock.
    unsafe { command.pre_exec(before) };
}
