//! What a verdict program (`sk_skb`) does with a tunnel's octets on the running kernel: why there is
//! none of ours. Should one of these no longer hold, docs/adr/0013 is to be read again.
//!
//! A client, the two ends of a proxy, a server. `cargo xtask test --only soak --filter verdict`.

use crate::memory::kernel_memory;
use crate::peers::{PERIOD, Pattern, connect, patient, read_some};
use crate::turn;
use anyhow::{Context as _, Result, ensure};
use proxy_tests::bpf::redirect_stream;
use proxy_tests::privilege;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

struct Tunnel {
    client: TcpStream,
    near: TcpStream,
    far: TcpStream,
    server: TcpStream,
}

impl Tunnel {
    fn open() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let pair = || -> Result<(TcpStream, TcpStream)> {
            let one = connect(listener.local_addr()?, false)?;
            let (other, _) = listener.accept()?;
            patient(&other)?;
            Ok((one, other))
        };
        let ((client, near), (far, server)) = (pair()?, pair()?);
        Ok(Self {
            client,
            near,
            far,
            server,
        })
    }
}

/// Octets that a writer is let write: many times what the sockets' buffers hold.
const MUCH: usize = 256 << 20;

#[test]
fn a_verdict_program_lets_a_writer_fill_the_kernels_memory() -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let _turn = turn();
    let mut written = Vec::new();
    for is_redirected in [false, true] {
        let tunnel = Tunnel::open()?;
        let before = kernel_memory()?;
        let _redirect = is_redirected
            .then(|| redirect_stream(&tunnel.near, &tunnel.far))
            .transpose()?;
        let pattern = Pattern::new(1, u32::MAX);
        tunnel.client.set_nonblocking(true)?;
        let (mut writer, mut at, mut last) = (&tunnel.client, 0, Instant::now());
        while at < MUCH && last.elapsed() < Duration::from_millis(500) {
            match writer.write(pattern.octets(at, PERIOD)) {
                Ok(more) => {
                    at += more;
                    last = Instant::now();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => return Err(error.into()),
            }
        }
        let more = kernel_memory()?.saturating_sub(before);
        eprintln!(
            "redirected: {is_redirected}; written while nobody reads: {} MiB; TCP's memory: + {} MiB",
            at >> 20,
            more >> 20
        );
        written.push(at);
    }
    ensure!(written[0] < MUCH / 4, "without it, the window is the bound");
    ensure!(
        written[1] >= MUCH,
        "the writer was held up after {} octets: this kernel bounds what is redirected",
        written[1]
    );
    Ok(())
}

#[test]
fn a_verdict_programs_octets_are_overtaken_by_the_end() -> Result<()> {
    const OCTETS: u32 = 16 << 20;
    if !privilege::granted()? {
        return Ok(());
    }
    let _turn = turn();
    let tunnel = Tunnel::open()?;
    let _redirect = redirect_stream(&tunnel.near, &tunnel.far)?;
    let pattern = Pattern::new(2, OCTETS);
    pattern.send(&tunnel.client)?;
    tunnel.client.shutdown(Shutdown::Write)?;
    // What any proxy does: the end has come, so it is passed on.
    let mut near = &tunnel.near;
    let began = Instant::now();
    loop {
        match near.read(&mut [0; 1]) {
            Ok(0) => break,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            other => ensure!(other.is_ok(), "{other:?}"),
        }
        ensure!(
            began.elapsed() < Duration::from_secs(20),
            "the end is not told"
        );
    }
    tunnel.far.shutdown(Shutdown::Write)?;
    let (mut at, mut buffer) = (0, vec![0; PERIOD]);
    loop {
        match read_some(&tunnel.server, &mut buffer).context("the server")? {
            0 => break,
            read => at += read,
        }
    }
    eprintln!("sent {OCTETS} octets before the end; received {at}");
    ensure!(at < OCTETS as usize, "nothing was overtaken: {at}");
    Ok(())
}
