//! The two ends of a connection, which agree on what is to become of it.

use anyhow::{Context as _, Result, ensure};
use proxy_tests::wait;
use socket2::{Domain, Socket, Type};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// How long an end waits for the other one.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What becomes of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// Octets from the client, and back.
    pub(crate) up: u32,
    pub(crate) down: u32,
    pub(crate) end: Ending,
    /// Who pauses while it reads.
    pub(crate) slow_client: bool,
    pub(crate) slow_origin: bool,
    /// Whether the client connects with a descriptor that blocks.
    pub(crate) blocks: bool,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Ending {
    /// The client ends first; the answer comes after it has ended.
    ClientFirst,
    /// The origin ends first, and then reads on.
    OriginFirst,
    /// Both send at once.
    Together,
    /// The client resets in the middle of what comes.
    Reset,
    /// The origin resets in the middle of what it sends.
    OriginResets,
}

impl Plan {
    pub(crate) fn of(number: u64) -> Self {
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
                230..=242 => Ending::Reset,
                _ => Ending::OriginResets,
            },
            slow_client: random.u8(..) < 12,
            slow_origin: random.u8(..) < 12,
            blocks: random.u8(..) < 12,
        }
    }

    /// As the connection begins, so that the origin knows it.
    pub(crate) fn head(&self) -> [u8; 19] {
        let mut head = [0; 19];
        head[..8].copy_from_slice(&self.seed.to_be_bytes());
        head[8..12].copy_from_slice(&self.up.to_be_bytes());
        head[12..16].copy_from_slice(&self.down.to_be_bytes());
        head[16] = self.end as u8;
        head[17..].copy_from_slice(&[self.slow_client.into(), self.slow_origin.into()]);
        head
    }

    pub(crate) fn read(from: &mut TcpStream) -> Result<Self> {
        let mut head = [0; 19];
        read_whole(from, &mut head)?;
        Ok(Self {
            seed: u64::from_be_bytes(head[..8].try_into()?),
            up: u32::from_be_bytes(head[8..12].try_into()?),
            down: u32::from_be_bytes(head[12..16].try_into()?),
            end: match head[16] {
                0 => Ending::ClientFirst,
                1 => Ending::OriginFirst,
                2 => Ending::Together,
                3 => Ending::Reset,
                _ => Ending::OriginResets,
            },
            slow_client: head[17] == 1,
            slow_origin: head[18] == 1,
            blocks: false,
        })
    }
}

pub(crate) fn ask(mut socket: TcpStream, plan: Plan) -> Result<()> {
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
            read_whole(&socket, &mut some[..most])?;
            ensure!(
                down.fits(0, &some[..most]),
                "the answer's beginning differs"
            );
            Ok(socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO))?)
        }
        Ending::OriginResets => {
            up.send(&socket)?;
            cut_off(&down, &socket)
        }
    }
}

/// What comes until the connection is reset is as it should be, and it is reset.
fn cut_off(down: &Pattern, socket: &TcpStream) -> Result<()> {
    let (mut at, mut buffer) = (0, vec![0; PERIOD]);
    loop {
        match read_some(socket, &mut buffer) {
            Ok(0) => anyhow::bail!("an end at {at}, not a reset"),
            Ok(read) => {
                ensure!(down.fits(at, &buffer[..read]), "differs in {at}..");
                at += read;
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error).context("waiting for a reset"),
        }
    }
}

/// Connects as most programs do that wait for many things at once; `blocks`: as the others do, whom
/// the proxy leaves alone.
pub(crate) fn connect(to: SocketAddr, blocks: bool) -> Result<TcpStream> {
    if blocks {
        let socket = TcpStream::connect(to)?;
        patient(&socket)?;
        return Ok(socket);
    }
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error.into()),
        _ => {}
    }
    let socket = TcpStream::from(socket);
    // The kernel looks at the descriptor when the connection is established.
    wait::until("the connection is established", || {
        if let Some(error) = socket.take_error()? {
            return Err(error.into());
        }
        Ok(socket.peer_addr().is_ok())
    })?;
    socket.set_nonblocking(false)?;
    patient(&socket)?;
    Ok(socket)
}

pub(crate) fn serve(mut socket: TcpStream) -> Result<()> {
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
        Ending::OriginResets => {
            up.receive(&socket, plan.slow_origin)
                .with_context(context)?;
            Pattern::new(!plan.seed, plan.down / 2).send(&socket)?;
            Ok(socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO))?)
        }
    }
}

pub(crate) fn patient(socket: &TcpStream) -> Result<()> {
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket.set_write_timeout(Some(PATIENCE))?)
}

pub(crate) fn ended(socket: &TcpStream) -> Result<()> {
    let more = read_some(socket, &mut [0]).context("reading the end")?;
    ensure!(more == 0, "something came after the end");
    Ok(())
}

/// Reads as `read` does on a blocking socket. Linux says `EAGAIN` of an accelerated one when it was
/// woken by something else, such as the acknowledgement of its own end; nothing is lost then, and
/// `docs/acceleration.md` says so.
pub(crate) fn read_some(mut socket: &TcpStream, buffer: &mut [u8]) -> std::io::Result<usize> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match socket.read(buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => {}
            read => return read,
        }
    }
}

/// As `read_exact`, see [`read_some`].
pub(crate) fn read_whole(socket: &TcpStream, mut buffer: &mut [u8]) -> Result<()> {
    while !buffer.is_empty() {
        let read = read_some(socket, buffer)?;
        ensure!(read > 0, "it ended too early");
        buffer = &mut buffer[read..];
    }
    Ok(())
}

/// Octets that tell their place: they repeat themselves after a prime number of them.
#[derive(Clone, Copy)]
pub(crate) struct Pattern {
    seed: u64,
    length: usize,
}

pub(crate) const PERIOD: usize = 65_521;

impl Pattern {
    pub(crate) fn new(seed: u64, length: u32) -> Self {
        Self {
            seed,
            length: length as usize,
        }
    }

    pub(crate) fn length(&self) -> usize {
        self.length
    }

    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    pub(crate) fn octets(&self, at: usize, length: usize) -> &'static [u8] {
        static ALL: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
            let mut random = fastrand::Rng::with_seed(7);
            let once: Vec<u8> = (0..PERIOD).map(|_| random.u8(..)).collect();
            once.iter().chain(&once).chain(&once).copied().collect()
        });
        let from = (at + (self.seed % PERIOD as u64) as usize) % PERIOD;
        &ALL[from..from + length]
    }

    pub(crate) fn fits(&self, at: usize, octets: &[u8]) -> bool {
        *octets == *self.octets(at, octets.len())
    }

    /// In pieces of any size.
    pub(crate) fn send(&self, mut socket: &TcpStream) -> Result<()> {
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
    pub(crate) fn receive(&self, socket: &TcpStream, is_slow: bool) -> Result<()> {
        self.receive_from(socket, 0, is_slow)
    }

    /// As [`Self::receive`], but for what was read before.
    pub(crate) fn receive_from(
        &self,
        socket: &TcpStream,
        mut at: usize,
        is_slow: bool,
    ) -> Result<()> {
        let mut random = fastrand::Rng::with_seed(self.seed ^ 1);
        let mut buffer = vec![0; PERIOD];
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
