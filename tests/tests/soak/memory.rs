//! Readers that read nothing: their writers have to wait, and what waits is bounded, whichever way
//! octets go.

use crate::peers::{PERIOD, Pattern, connect, patient};
use crate::{How, config, is_long, turn};
use anyhow::{Context as _, Result, ensure};
use proxy_tests::{privilege, wait};
use proxy_userspace::runtime::workers::Workers;
use proxy_userspace::sockets::waiting_beyond;
use std::io::{ErrorKind, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Connections at once.
const CONNECTIONS: usize = 16;
/// Octets that a writer may have written before it has to wait: what may wait at the reader, in the
/// proxy, at the proxy's socket, and in the writer's own.
const MOST_WRITTEN: usize = 32 << 20;
/// Octets of kernel memory at a reader that reads nothing: 1 MiB past TCP, 4 MiB past the proxy, and what
/// came before that was seen.
const MOST_WAITING: u32 = 6 << 20;
/// Octets by which the process may grow: the proxy's buffers, and the tests' own.
const MOST_RESIDENT: usize = 96 << 20;

#[test]
fn what_waits_for_slow_readers_is_bounded() -> Result<()> {
    let is_privileged = privilege::granted()?;
    let _turn = turn();
    let mut ways = vec![How::PIPED, How::COPIED];
    if is_privileged {
        ways.extend([How::ACCELERATED, How::DIRECT]);
    }
    for how in ways {
        hold(how).with_context(|| format!("{how:?}"))?;
    }
    Ok(())
}

fn hold(how: How) -> Result<()> {
    let origin = TcpListener::bind("127.0.0.1:0")?;
    let workers = Workers::start(&config(origin.local_addr()?, how))?;
    let proxy = workers.listeners().next().context("listens")?;
    let before = (resident()?, kernel_memory()?);
    let mut pairs = Vec::new();
    for number in 0..CONNECTIONS {
        let client = connect(proxy, false)?;
        let (server, _) = origin.accept()?;
        patient(&server)?;
        pairs.push((client, server, Pattern::new(number as u64, u32::MAX)));
    }
    let mut written = Vec::new();
    for (client, _, pattern) in &pairs {
        written.push(fill(client, pattern)?);
    }
    let most = *written.iter().max().context("some")?;
    ensure!(most <= MOST_WRITTEN, "a writer could write {most} octets");
    let is_past_tcp = how.accelerate == How::DIRECT.accelerate;
    for (_, server, _) in &pairs {
        let waiting = waiting_beyond(server.peer_addr()?, server.local_addr()?)?;
        ensure!(
            !is_past_tcp || waiting <= MOST_WAITING,
            "{waiting} octets wait at a reader"
        );
    }
    let grown = resident()?.saturating_sub(before.0);
    ensure!(
        grown <= MOST_RESIDENT,
        "the process has grown by {grown} octets"
    );
    for ((client, server, pattern), length) in pairs.iter().zip(&written) {
        client.shutdown(Shutdown::Write)?;
        let part = Pattern::new(pattern.seed(), u32::try_from(*length)?);
        part.receive(server, false)?;
        crate::peers::ended(server)?;
    }
    drop(pairs);
    if is_long() {
        // The machine is nobody else's then.
        wait::until("the kernel's memory is given back", || {
            Ok(kernel_memory()? <= before.1 + (16 << 20))
        })?;
    }
    wait::until("no connection is left", || Ok(workers.connections() == 0))
}

/// Writes until nothing more is taken for a while, and tells how much was.
fn fill(client: &TcpStream, pattern: &Pattern) -> Result<usize> {
    const QUIET: Duration = Duration::from_millis(300);
    client.set_nonblocking(true)?;
    let (mut writer, mut written, mut last) = (client, 0, Instant::now());
    while written <= MOST_WRITTEN && last.elapsed() < QUIET {
        match writer.write(pattern.octets(written, PERIOD)) {
            Ok(more) => {
                written += more;
                last = Instant::now();
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error).with_context(|| format!("after {written} octets")),
        }
    }
    client.set_nonblocking(false)?;
    Ok(written)
}

/// Octets of this process in memory.
fn resident() -> Result<usize> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages = text.split(' ').nth(1).context("three numbers at least")?;
    Ok(pages.parse::<usize>()? * 4096)
}

/// Octets that the kernel's TCP has in use, of the whole machine.
pub(crate) fn kernel_memory() -> Result<usize> {
    let text = std::fs::read_to_string("/proc/net/sockstat")?;
    let line = text.lines().find_map(|line| line.strip_prefix("TCP: "));
    let words: Vec<_> = line.context("a line on TCP")?.split(' ').collect();
    let at = words.iter().position(|word| *word == "mem");
    let pages = at.and_then(|at| words.get(at + 1)).context("its memory")?;
    Ok(pages.parse::<usize>()? * 4096)
}
