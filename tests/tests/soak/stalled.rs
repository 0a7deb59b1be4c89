//! Readers that take nothing of what has gone to them past the proxy: their tunnels are parted and
//! counted, what waits is not lost, and after a few of them nothing new is accelerated.
//!
//! A program that pauses is what a lost wake-up looks like from outside: it is the fault that can be
//! had at will. In a process of its own, for it turns acceleration off.

use crate::peers::{Pattern, connect, patient};
use crate::{How, config};
use anyhow::{Context as _, Result, ensure};
use proxy_tests::privilege;
use proxy_userspace::runtime::workers::Workers;
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

const ROLE: &str = "SLUICE_SOAK_STALLS";
/// How many there must be.
const STALLS: u64 = 8;
/// How long they take to be noticed: 20 seconds without progress, looked at every five.
const NOTICED: Duration = Duration::from_secs(60);
/// Octets that go past the proxy, and through it afterwards.
const OCTETS: u32 = 100_000;

#[test]
fn tunnels_without_progress_are_parted_and_a_few_turn_acceleration_off() -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let mut command = Command::new(std::env::current_exe()?);
    command.args([
        "--exact",
        "stalled::readers_that_take_nothing",
        "--nocapture",
    ]);
    let output = command.env(ROLE, "1").output()?;
    ensure!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Does nothing, unless this process is to be the one.
#[test]
fn readers_that_take_nothing() -> Result<()> {
    if std::env::var_os(ROLE).is_none() {
        return Ok(());
    }
    let origin = TcpListener::bind("127.0.0.1:0")?;
    let workers = Workers::start(&config(origin.local_addr()?, How::DIRECT))?;
    let proxy = workers.listeners().next().context("listens")?;
    let open = || -> Result<(TcpStream, TcpStream)> {
        let client = connect(proxy, false)?;
        let (server, _) = origin.accept()?;
        patient(&server)?;
        // The backend's first octets tell the proxy who is there.
        Pattern::new(3, 1000).send(&server)?;
        Pattern::new(3, 1000).receive(&client, false)?;
        Ok((client, server))
    };
    let stalled: Vec<_> = (0..STALLS).map(|_| open()).collect::<Result<_>>()?;
    let lively = open()?;
    let octets = Pattern::new(1, OCTETS);
    for (client, _) in &stalled {
        octets.send(client)?;
    }
    let view = || workers.acceleration().context("asked for");
    ensure!(view()?.direct_bytes > 0, "nothing goes past: {:?}", view()?);
    let began = Instant::now();
    while view()?.state == "on" {
        ensure!(began.elapsed() < NOTICED, "not noticed: {:?}", view()?);
        Pattern::new(9, 100).send(&lively.0)?;
        Pattern::new(9, 100).receive(&lively.1, false)?;
        std::thread::sleep(Duration::from_millis(200));
    }
    let seen = view()?;
    ensure!(seen.stalled == STALLS, "only those: {seen:?}");
    ensure!(seen.cause.as_deref() == Some("stalled"), "{seen:?}");
    // Parted, and nothing is lost: what waits comes first, and what follows goes through the proxy.
    for (client, server) in &stalled {
        let direct = view()?.direct_bytes;
        octets.send(client)?;
        octets.receive(server, false)?;
        octets.receive(server, false)?;
        ensure!(view()?.direct_bytes == direct, "it goes past still");
        // And so does the other direction.
        octets.send(server)?;
        octets.receive(client, false)?;
    }
    let before = view()?.connections;
    let (client, server) = open()?;
    octets.send(&client)?;
    octets.receive(&server, false)?;
    ensure!(view()?.connections == before, "new connections are plain");
    Ok(())
}
