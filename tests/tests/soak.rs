//! Many connections through a proxy that passes octets on past TCP, compared octet by octet: any
//! size, writes split anywhere, slow readers, half-close in either order, resets, and both
//! directions at once. The same without acceleration is the control: a fault of both is not one of
//! acceleration.
//!
//! The proxy's workers, the clients and the origin are threads of this process; the kernel does
//! not care. `SLUICE_SOAK_CONNECTIONS` says how many connections there are in all.

use anyhow::{Context, Result, ensure};
use proxy_tests::{privilege, wait};
use proxy_userspace::config::model::http::{Accelerate, BackendTraits, StreamListener};
use proxy_userspace::config::model::{Config, Service};
use proxy_userspace::observe::view::AccelerationView;
use proxy_userspace::runtime::workers::Workers;
use proxy_userspace::types::Protocol;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long an end waits for the other one.
const PATIENCE: Duration = Duration::from_secs(60);
/// Connections at once.
const CLIENTS: usize = 8;
/// Connections in all, unless the variable says otherwise.
const CONNECTIONS: usize = 1000;

fn connections() -> usize {
    let said = std::env::var("SLUICE_SOAK_CONNECTIONS");
    said.ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(CONNECTIONS)
}

#[test]
fn accelerated_connections_lose_and_change_nothing() -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let (workers, seen) = soak(Accelerate::On)?;
    let view = seen.context("asked for")?;
    let most = connections() as u64;
    // Both its sides are, but for those whose ends did not find each other in time.
    ensure!(view.state == "on" && view.connections >= most, "{view:?}");
    ensure!(view.full == 0 && view.stalled == 0, "{view:?}");
    wait::until("every socket has left the map", || {
        Ok(workers.acceleration().context("asked for")?.sockets == 0)
    })
}

#[test]
fn the_same_holds_without_acceleration() -> Result<()> {
    let (_, seen) = soak(Accelerate::Off)?;
    ensure!(seen.is_none(), "{seen:?}");
    Ok(())
}

fn soak(accelerate: Accelerate) -> Result<(Workers, Option<AccelerationView>)> {
    let origin = TcpListener::bind("127.0.0.1:0")?;
    let workers = Workers::start(&config(origin.local_addr()?, accelerate))?;
    let proxy = workers.listeners().next().context("listens")?;
    let total = connections();
    let (begun, accepted) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        let serving: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    while accepted.fetch_add(1, Ordering::Relaxed) < total {
                        serve(origin.accept()?.0)?;
                    }
                    anyhow::Ok(())
                })
            })
            .collect();
        let asking: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let number = begun.fetch_add(1, Ordering::Relaxed);
                        if number >= total {
                            return anyhow::Ok(());
                        }
                        let plan = Plan::of(number as u64);
                        ask(proxy, plan).with_context(|| format!("{number}: {plan:?}"))?;
                    }
                })
            })
            .collect();
        for thread in asking.into_iter().chain(serving) {
            thread.join().expect("no panic")?;
        }
        anyhow::Ok(())
    })?;
    let view = workers.acceleration();
    Ok((workers, view))
}

fn config(origin: SocketAddr, accelerate: Accelerate) -> Config {
    let mut service = Service::new("origins");
    service.push_backend(origin, 1, BackendTraits::default());
    service.upstream.accelerate = accelerate;
    let address = "127.0.0.1:0".parse().expect("an address");
    let mut listener = StreamListener::new("tcp", Protocol::Tcp, address, "origins");
    listener.accelerate = accelerate;
    let mut config = Config {
        stream_listeners: vec![listener],
        services: vec![service],
        ..Config::default()
    };
    config.workers.count = Some(2);
    config
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug)]
struct Plan {
    seed: u64,
    /// Octets from the client, and back.
    up: u32,
    down: u32,
    end: Ending,
    /// Who pauses while it reads.
    slow_client: bool,
    slow_origin: bool,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Ending {
    /// The client ends first; the answer comes after it has ended.
    ClientFirst,
    /// The origin ends first, and then reads on.
    OriginFirst,
    /// Both send at once.
    Together,
    /// The client resets in the middle of what comes.
    Reset,
}

impl Plan {
    fn of(number: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(number);
        let size = |random: &mut fastrand::Rng| match random.u8(..) {
            0..=8 => random.u32(1 << 20..4 << 20),
            9..=60 => random.u32(1 << 14..1 << 18),
            _ => random.u32(1..1 << 13),
        };
        let (up, down) = (size(&mut random), size(&mut random));
        Self {
            seed: random.u64(..),
            up,
            down,
            end: match random.u8(..) {
                0..=79 => Ending::ClientFirst,
                80..=159 => Ending::OriginFirst,
                160..=229 => Ending::Together,
                _ => Ending::Reset,
            },
            slow_client: random.u8(..) < 12,
            slow_origin: random.u8(..) < 12,
        }
    }

    /// As the connection begins, so that the origin knows it.
    fn head(&self) -> [u8; 19] {
        let mut head = [0; 19];
        head[..8].copy_from_slice(&self.seed.to_be_bytes());
        head[8..12].copy_from_slice(&self.up.to_be_bytes());
        head[12..16].copy_from_slice(&self.down.to_be_bytes());
        head[16] = self.end as u8;
        head[17..].copy_from_slice(&[self.slow_client.into(), self.slow_origin.into()]);
        head
    }

    fn read(from: &mut TcpStream) -> Result<Self> {
        let mut head = [0; 19];
        from.read_exact(&mut head)?;
        Ok(Self {
            seed: u64::from_be_bytes(head[..8].try_into()?),
            up: u32::from_be_bytes(head[8..12].try_into()?),
            down: u32::from_be_bytes(head[12..16].try_into()?),
            end: match head[16] {
                0 => Ending::ClientFirst,
                1 => Ending::OriginFirst,
                2 => Ending::Together,
                _ => Ending::Reset,
            },
            slow_client: head[17] == 1,
            slow_origin: head[18] == 1,
        })
    }
}

fn ask(proxy: SocketAddr, plan: Plan) -> Result<()> {
    let mut socket = TcpStream::connect(proxy)?;
    patient(&socket)?;
    socket.write_all(&plan.head())?;
    let up = Pattern::new(plan.seed, plan.up);
    let down = Pattern::new(!plan.seed, plan.down);
    match plan.end {
        Ending::ClientFirst => {
            up.send(&socket)?;
            socket.shutdown(Shutdown::Write)?;
            down.receive(&socket, plan.slow_client)?;
            ended(&socket)
        }
        Ending::OriginFirst => {
            down.receive(&socket, plan.slow_client)?;
            ended(&socket)?;
            up.send(&socket)?;
            Ok(socket.shutdown(Shutdown::Write)?)
        }
        Ending::Together => {
            let sender = socket.try_clone()?;
            thread::scope(|scope| {
                let sending = scope.spawn(move || {
                    up.send(&sender)?;
                    anyhow::Ok(sender.shutdown(Shutdown::Write)?)
                });
                down.receive(&socket, plan.slow_client)?;
                sending.join().expect("no panic")
            })?;
            ended(&socket)
        }
        Ending::Reset => {
            up.send(&socket)?;
            let mut some = [0; 100];
            let most = some.len().min(plan.down as usize);
            socket.read_exact(&mut some[..most])?;
            ensure!(
                down.fits(0, &some[..most]),
                "the answer's beginning differs"
            );
            Ok(socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO))?)
        }
    }
}

fn serve(mut socket: TcpStream) -> Result<()> {
    patient(&socket)?;
    let plan = Plan::read(&mut socket)?;
    let up = Pattern::new(plan.seed, plan.up);
    let down = Pattern::new(!plan.seed, plan.down);
    let context = || format!("the origin: {plan:?}");
    match plan.end {
        Ending::ClientFirst => {
            up.receive(&socket, plan.slow_origin)
                .with_context(context)?;
            ended(&socket).with_context(context)?;
            down.send(&socket).with_context(context)?;
            Ok(socket.shutdown(Shutdown::Write)?)
        }
        Ending::OriginFirst => {
            down.send(&socket).with_context(context)?;
            socket.shutdown(Shutdown::Write)?;
            up.receive(&socket, plan.slow_origin)
                .with_context(context)?;
            ended(&socket).with_context(context)
        }
        Ending::Together => {
            let sender = socket.try_clone()?;
            thread::scope(|scope| {
                let sending = scope.spawn(move || {
                    down.send(&sender)?;
                    anyhow::Ok(sender.shutdown(Shutdown::Write)?)
                });
                up.receive(&socket, plan.slow_origin)?;
                sending.join().expect("no panic")
            })
            .with_context(context)?;
            ended(&socket).with_context(context)
        }
        Ending::Reset => {
            up.receive(&socket, plan.slow_origin)
                .with_context(context)?;
            // Ends with an error as soon as the reset has come through.
            let _ = down.send(&socket);
            Ok(())
        }
    }
}

fn patient(socket: &TcpStream) -> Result<()> {
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket.set_write_timeout(Some(PATIENCE))?)
}

fn ended(socket: &TcpStream) -> Result<()> {
    let more = read_some(socket, &mut [0]).context("reading the end")?;
    ensure!(more == 0, "something came after the end");
    Ok(())
}

/// Reads as `read` does on a blocking socket. Linux says `EAGAIN` of an accelerated one when it was
/// woken by something else, such as the acknowledgement of its own end; nothing is lost then, and
/// `docs/acceleration.md` says so.
fn read_some(mut socket: &TcpStream, buffer: &mut [u8]) -> std::io::Result<usize> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match socket.read(buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => {}
            read => return read,
        }
    }
}

/// Octets that tell their place: they repeat themselves after a prime number of them.
#[derive(Clone, Copy)]
struct Pattern {
    seed: u64,
    length: usize,
}

const PERIOD: usize = 65_521;

impl Pattern {
    fn new(seed: u64, length: u32) -> Self {
        Self {
            seed,
            length: length as usize,
        }
    }

    fn octets(&self, at: usize, length: usize) -> &'static [u8] {
        static ALL: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
            let mut random = fastrand::Rng::with_seed(7);
            let once: Vec<u8> = (0..PERIOD).map(|_| random.u8(..)).collect();
            once.iter().chain(&once).chain(&once).copied().collect()
        });
        let from = (at + (self.seed % PERIOD as u64) as usize) % PERIOD;
        &ALL[from..from + length]
    }

    fn fits(&self, at: usize, octets: &[u8]) -> bool {
        *octets == *self.octets(at, octets.len())
    }

    /// In pieces of any size.
    fn send(&self, mut socket: &TcpStream) -> Result<()> {
        let mut random = fastrand::Rng::with_seed(self.seed);
        let mut at = 0;
        while at < self.length {
            let most = match random.u8(..) {
                0..=40 => random.usize(1..40),
                41..=200 => random.usize(1..9000),
                _ => random.usize(1..PERIOD),
            };
            let piece = most.min(self.length - at);
            socket
                .write_all(self.octets(at, piece))
                .with_context(|| format!("writing at {at} of {}", self.length))?;
            at += piece;
        }
        Ok(())
    }

    /// Reads it, in pieces of any size.
    fn receive(&self, socket: &TcpStream, is_slow: bool) -> Result<()> {
        let mut random = fastrand::Rng::with_seed(self.seed ^ 1);
        let (mut at, mut buffer) = (0, vec![0; PERIOD]);
        while at < self.length {
            let most = random.usize(1..PERIOD).min(self.length - at);
            if is_slow && random.u8(..) < 20 {
                thread::sleep(Duration::from_millis(random.u64(1..30)));
            }
            let read = read_some(socket, &mut buffer[..most])
                .with_context(|| format!("reading at {at} of {}", self.length))?;
            ensure!(read > 0, "it ended at {at} of {}", self.length);
            ensure!(
                self.fits(at, &buffer[..read]),
                "differs in {at}..{}",
                at + read
            );
            at += read;
        }
        Ok(())
    }
}
