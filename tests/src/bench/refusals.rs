//! `bench refusals`: what it costs to refuse a source, by who does it.
//!
//! - `l7_429_kept`, `l7_429_new`: a worker answers 429, over a connection that is kept, or each time
//!   over a new one;
//! - `turned_away`: the source is condemned, and its connection is reset when it is accepted;
//! - `driver_v4`, `driver_v6`: its packets are dropped by the driver's program.
//!
//! The proxy's part is CPU time of its process, user and system, by request or connection: softirqs
//! on loopback run in the sender's time and are not in it, so the rows of the proxy are too low, if
//! anything. The driver's part is that of `bench l4`: ns per packet by test runs, of SYNs each from
//! another port; a client that gets no answer sends a few of them for each connection.

use super::driver::{Driver, Vary};
use super::l7::usage::Tree;
use super::median;
use super::process::Process;
use super::report::Row;
use crate::alone::unused_address;
use crate::connection::Connection;
use crate::daemon::sluice;
use crate::packet::build::Packet;
use crate::packet::rig::{Action, Rig, from_client};
use crate::packet::service::Wanted;
use anyhow::{Context, Result, ensure};
use proxy_common::guard::{GuardRule, action, owner};
use proxy_common::service::Mode;
use proxy_common::settings::settings_flags;
use socket2::{Domain, Socket, Type};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Packets per round.
    pub packets: u32,
    /// Requests or connections per round.
    pub requests: u32,
    /// Rounds, odd.
    pub rounds: usize,
}

impl Effort {
    /// For numbers that are published.
    pub const FULL: Self = Self {
        packets: 1_000_000,
        requests: 20_000,
        rounds: 5,
    };
    /// For a look.
    pub const QUICK: Self = Self {
        packets: 100_000,
        requests: 2_000,
        rounds: 3,
    };
}

/// The row that the others are compared with: the cheapest refusal of a worker.
const BASELINE: &str = "l7_429_kept";

/// Who is let in, and who is not.
const WELCOME: Ipv4Addr = Ipv4Addr::LOCALHOST;
const CONDEMNED: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);

/// Runs all rows. `progress` is told what is being done.
///
/// # Errors
///
/// Privileges or programs are missing, or something is not refused as its row claims.
pub fn run(effort: Effort, mut progress: impl FnMut(&str)) -> Result<Vec<Row>> {
    let folder = tempfile::tempdir().context("a folder")?;
    let proxy = Proxy::start(folder.path())?;
    let mut rounds = vec![Vec::new(); 5];
    for round in 1..=effort.rounds {
        progress(&format!("the proxy, round {round} of {}", effort.rounds));
        rounds[0].push(proxy.measure(effort.requests, Proxy::ask_kept)?);
        rounds[1].push(proxy.measure(effort.requests, Proxy::ask_anew)?);
        rounds[2].push(proxy.measure(effort.requests, Proxy::knock)?);
    }
    // Not before: they move this thread to a network namespace of their own.
    let mut drops = [Drops::new(false)?, Drops::new(true)?];
    for round in 1..=effort.rounds {
        progress(&format!("the driver, round {round} of {}", effort.rounds));
        for (rounds, drops) in rounds[3..].iter_mut().zip(&mut drops) {
            rounds.push(drops.measure(effort.packets)?);
        }
    }
    let base = median(&rounds[0]);
    let ids = [
        BASELINE,
        "l7_429_new",
        "turned_away",
        "driver_v4",
        "driver_v6",
    ];
    let rows = ids.iter().zip(&rounds).map(|(id, rounds)| {
        let value = median(rounds);
        let is_compared = *id != BASELINE;
        Row {
            id: (*id).to_owned(),
            value,
            unit: "ns",
            baseline: is_compared.then(|| BASELINE.to_owned()),
            ratio: is_compared.then_some(value / base),
        }
    });
    Ok(rows.collect())
}

/// A proxy with one worker that answers 429, and condemns one address.
struct Proxy {
    process: Process,
    address: SocketAddr,
}

impl Proxy {
    fn start(folder: &Path) -> Result<Self> {
        let address = unused_address();
        let (file, socket) = (folder.join("sluice.yaml"), folder.join("admin.sock"));
        let (ip, port) = (address.ip(), address.port());
        let text = format!(
            "admin: {{socket: {}}}\nworkers: {{count: 1}}\n\
             listeners: [{{name: web, kind: http, address: {ip}, port: {port}}}]\n\
             routes: [{{name: refused, respond: 429}}]\n",
            socket.display()
        );
        std::fs::write(&file, text).context("writing the configuration")?;
        let binary = sluice()?;
        let log = folder.join("log");
        let mut run = Command::new(&binary);
        let mut process = Process::start("sluice", run.args(["run", "-c"]).arg(&file), &log)?;
        process.wait_until(|| TcpStream::connect(address).is_ok())?;
        process.wait_until(|| {
            let mut guard = Command::new(&binary);
            let source = CONDEMNED.to_string();
            let guard = guard
                .args(["guard", "add", &source, "--socket"])
                .arg(&socket);
            guard.output().is_ok_and(|output| output.status.success())
        })?;
        Ok(Self { process, address })
    }

    /// CPU time of the proxy by each of `count` things that are done to it, in nanoseconds.
    fn measure(&self, count: u32, act: fn(&Self, u32) -> Result<()>) -> Result<f64> {
        let tree = Tree::of(self.process.id())?;
        // The first ones warm up.
        act(self, count / 10 + 1)?;
        let before = tree.cpu_time()?;
        act(self, count)?;
        let used = tree.cpu_time()?.saturating_sub(before);
        Ok(used.as_nanos() as f64 / f64::from(count))
    }

    fn connect(&self, source: Ipv4Addr) -> Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::new(source.into(), 0).into())?;
        socket.connect(&self.address.into())?;
        let stream: TcpStream = socket.into();
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn ask_kept(&self, count: u32) -> Result<()> {
        let mut connection = Connection::new(self.connect(WELCOME)?);
        for _ in 0..count {
            ensure!(connection.get("/")?.status == 429, "not refused");
        }
        Ok(())
    }

    fn ask_anew(&self, count: u32) -> Result<()> {
        for _ in 0..count {
            let stream = self.connect(WELCOME)?;
            // Ended with a reset, so that this side does not run out of ports.
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
            ensure!(
                Connection::new(stream).get("/")?.status == 429,
                "not refused"
            );
        }
        Ok(())
    }

    fn knock(&self, count: u32) -> Result<()> {
        for _ in 0..count {
            let Ok(mut stream) = self.connect(CONDEMNED) else {
                // Reset before the call has returned.
                continue;
            };
            let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            // The end, where the write was told of the reset.
            let answer = stream.read(&mut [0; 1]).unwrap_or(0);
            ensure!(answer == 0, "not turned away");
        }
        Ok(())
    }
}

/// SYNs of a condemned source to a service of this host.
struct Drops {
    rig: Rig,
    driver: Driver,
    packet: Packet,
    next: u32,
}

impl Drops {
    fn new(v6: bool) -> Result<Self> {
        let (vip, source, client) = if v6 {
            (
                "[2001:db8:f::1]:80",
                "2001:db8:c::/64",
                "[2001:db8:c::1]:1024",
            )
        } else {
            ("203.0.113.1:80", "100.64.0.0/10", "100.64.0.1:1024")
        };
        let mut rig = Rig::new()?;
        let driver = Driver::load(rig.ingress)?;
        rig.serve(&Wanted::tcp(vip, Mode::Local))?;
        let rule = GuardRule {
            action: action::DENY,
            owner: owner::POLICY,
            expires_ns: u64::MAX,
            ..GuardRule::default()
        };
        rig.set_guard(0, source, rule)?;
        rig.settings(|settings| settings.flags |= settings_flags::GUARD_GLOBAL)?;
        Ok(Self {
            rig,
            driver,
            // As long as what the driver writes anew between runs.
            packet: Packet::tcp(client, vip).syn().payload(&[0; 26]),
            next: 0,
        })
    }

    fn measure(&mut self, packets: u32) -> Result<f64> {
        self.driver.aim(self.rig.program()?.fd()?)?;
        let vary = Some(Vary {
            flows: 1 << 20,
            step: 1,
        });
        let frame = self.packet.frame(&from_client());
        self.driver.send(&frame, vary, self.next)?;
        let (ns, action) = self.driver.run(packets)?;
        ensure!(action == Action::Drop, "{action:?}, not dropped");
        self.next = self.driver.next()?;
        Ok(ns)
    }
}
