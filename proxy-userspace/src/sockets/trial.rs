//! The self-test: what must hold of accelerated connections, and of tunnels that are joined, tried on
//! the running kernel with connections of its own, in a second or less.

mod tunnel;

use super::acceleration::make_room;
use super::join::Table;
use super::object::Programs;
use proxy_common::sock::Count;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

/// How long one step may wait for the other end.
const PATIENCE: Duration = Duration::from_millis(900);
/// Octets that go both ways at once.
const MUCH: usize = 8 << 20;
/// Octets of one write.
const PIECE: usize = 48_000;

/// Acceleration does not work on this kernel as it must.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// A step failed.
    #[error("{step}: {source}")]
    Step {
        /// What was tried.
        step: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Octets were lost, changed or in another order.
    #[error("{0}: octets differ")]
    Differ(&'static str),
    /// The connection took the usual way.
    #[error("the programs do not see connections of this process (is it in another cgroup root?)")]
    Unseen,
    /// `FIONREAD` does not count what waits, which others rely on to know when to read on.
    #[error("this kernel does not tell how much waits in an accelerated socket (FIONREAD)")]
    Uncounted,
    /// A tunnel's octets did not take the way that they were to take.
    #[error("a tunnel's octets go {0}")]
    Astray(&'static str),
    /// Over IPv6 alone.
    #[error("over IPv6: {0}")]
    V6(#[source] Box<Self>),
}

type Step<T> = Result<T, TrialError>;

fn at(step: &'static str) -> impl Fn(io::Error) -> TrialError {
    move |source| TrialError::Step { step, source }
}

/// Runs all of it, over IPv4 and, where the host has it, over IPv6.
pub(super) fn run(programs: &Programs, tunnels: &Arc<Table>) -> Step<()> {
    let v4 = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    over(programs, tunnels, v4.map_err(at("listening on 127.0.0.1"))?)?;
    match TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) {
        Ok(v6) => over(programs, tunnels, v6).map_err(|error| TrialError::V6(Box::new(error))),
        // Then nobody has a connection over it either.
        Err(error) if is_unknown(&error) => Ok(()),
        Err(error) => Err(at("listening on ::1")(error)),
    }
}

/// True if an address family is not there: left out of the kernel, or turned off.
fn is_unknown(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
    )
}

fn over(programs: &Programs, tunnels: &Arc<Table>, listener: TcpListener) -> Step<()> {
    let failed = at("listening");
    let address = listener.local_addr().map_err(&failed)?;
    programs
        .listen(listener.as_fd(), address)
        .map_err(&failed)?;
    let tried = steps(programs, &listener).and_then(|()| tunnel::run(programs, tunnels, &listener));
    let _ = programs.forget(listener.as_fd(), address);
    tried
}

fn steps(programs: &Programs, listener: &TcpListener) -> Step<()> {
    let pair = |step| pair(listener).map_err(at(step));
    echo(programs, &mut pair("echo")?)?;
    both_ways(pair("8 MiB both ways")?)?;
    half_close(pair("half-close")?)?;
    slow_reader(pair("slow reader")?)?;
    reset(pair("reset")?)
}

/// The client's end and ours.
struct Pair {
    client: TcpStream,
    ours: TcpStream,
}

fn pair(listener: &TcpListener) -> io::Result<Pair> {
    let (client, ours) = connection(listener, |_| Ok(()))?;
    make_room(ours.as_fd());
    Ok(Pair { client, ours })
}

/// A connection: the opening end, to which something is done before, and the accepting one.
fn connection(
    listener: &TcpListener,
    prepare: impl FnOnce(&socket2::Socket) -> io::Result<()>,
) -> io::Result<(TcpStream, TcpStream)> {
    use socket2::{Domain, Socket, Type};
    let to = listener.local_addr()?;
    let opening = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    prepare(&opening)?;
    // Descriptors that block are left alone.
    opening.set_nonblocking(true)?;
    match opening.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    let opening = TcpStream::from(opening);
    let accepting = accept(listener, &opening)?;
    opening.set_nonblocking(false)?;
    for socket in [&opening, &accepting] {
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
    }
    Ok((opening, accepting))
}

/// The other end of a connection: somebody else may have connected before.
fn accept(listener: &TcpListener, opening: &TcpStream) -> io::Result<TcpStream> {
    let ours: SocketAddr = opening.local_addr()?;
    loop {
        let (accepting, from) = listener.accept()?;
        if from == ours {
            return Ok(accepting);
        }
    }
}

fn echo(programs: &Programs, pair: &mut Pair) -> Step<()> {
    let failed = at("echo");
    let messages = |programs: &Programs| -> Step<u64> {
        let counts = programs.counts().map_err(at("reading the counts"))?;
        Ok(counts[Count::Messages as usize])
    };
    let before = messages(programs)?;
    let mut got = [0; 4];
    pair.client.write_all(b"ping").map_err(&failed)?;
    let waits = waiting(&pair.ours).map_err(&failed)?;
    pair.ours.read_exact(&mut got).map_err(&failed)?;
    pair.ours.write_all(&got).map_err(&failed)?;
    pair.client.read_exact(&mut got).map_err(&failed)?;
    if got != *b"ping" {
        return Err(TrialError::Differ("echo"));
    }
    if messages(programs)? < before + 2 {
        return Err(TrialError::Unseen);
    }
    if waits != 4 {
        return Err(TrialError::Uncounted);
    }
    Ok(())
}

/// Octets that can be read, by `FIONREAD`.
fn waiting(socket: &TcpStream) -> io::Result<libc::c_int> {
    let mut octets: libc::c_int = 0;
    // SAFETY: the call writes an integer, for which there is room.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONREAD, &raw mut octets) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(octets)
}

fn both_ways(pair: Pair) -> Step<()> {
    const STEP: &str = "8 MiB both ways";
    let ends = [
        (&pair.client, 1, "8 MiB both ways, the client"),
        (&pair.ours, 2, "8 MiB both ways, the daemon"),
    ];
    thread::scope(|scope| {
        let mut running = Vec::new();
        for (socket, seed, who) in ends {
            let other = 3 - seed;
            let write = move || write(socket, seed, MUCH).map(|()| true).map_err(at(who));
            running.push(scope.spawn(write));
            running.push(scope.spawn(move || read(socket, other, MUCH).map_err(at(who))));
        }
        for thread in running {
            let same = thread.join().unwrap_or(Ok(false));
            if !same? {
                return Err(TrialError::Differ(STEP));
            }
        }
        Ok(())
    })
}

/// What one end has written before its end arrives, and the other way goes on.
fn half_close(pair: Pair) -> Step<()> {
    const STEP: &str = "half-close";
    let failed = at(STEP);
    let few = 3 * PIECE;
    for (from, to, seed) in [(&pair.client, &pair.ours, 3), (&pair.ours, &pair.client, 4)] {
        write(from, seed, few).map_err(&failed)?;
        from.shutdown(Shutdown::Write).map_err(&failed)?;
        let is_same = read(to, seed, few).map_err(&failed)?;
        let (mut to, mut rest) = (to, [0]);
        if !is_same || to.read(&mut rest).map_err(&failed)? != 0 {
            return Err(TrialError::Differ(STEP));
        }
    }
    Ok(())
}

/// Who writes and is not read from must wait, and nothing is lost: both ways, as they differ.
fn slow_reader(pair: Pair) -> Step<()> {
    const STEP: &str = "slow reader";
    let failed = at(STEP);
    for (from, to, seed) in [(&pair.ours, &pair.client, 5), (&pair.client, &pair.ours, 6)] {
        fill_and_empty(from, to, seed, STEP)?;
        write(from, seed, PIECE).map_err(&failed)?;
        if !read(to, seed, PIECE).map_err(&failed)? {
            return Err(TrialError::Differ(STEP));
        }
    }
    Ok(())
}

/// Writes until no more is taken, and then reads all of it.
fn fill_and_empty(from: &TcpStream, to: &TcpStream, seed: u8, step: &'static str) -> Step<()> {
    let failed = at(step);
    from.set_nonblocking(true).map_err(&failed)?;
    let mut written = 0;
    let (mut writer, piece) = (from, octets(seed, 0, PIECE));
    while written < 4 * MUCH {
        // Each piece begins where the pattern does.
        match writer.write(&piece[written % PIECE..]) {
            Ok(more) => written += more,
            Err(error) if is_full(&error) => break,
            Err(error) => return Err(failed(error)),
        }
    }
    if written >= 4 * MUCH {
        let source = io::Error::other("the writer was never held up");
        return Err(failed(source));
    }
    from.set_nonblocking(false).map_err(&failed)?;
    let (mut got, deadline) = (vec![0; written], Instant::now() + PATIENCE);
    let (mut reader, mut at) = (to, 0);
    while at < written {
        match reader.read(&mut got[at..]) {
            Ok(0) => return Err(TrialError::Differ(step)),
            Ok(read) => at += read,
            // Said of a blocking socket, too, when something else has woken it.
            Err(error)
                if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {}
            Err(error) => return Err(failed(error)),
        }
    }
    let is_same = got
        .chunks(PIECE)
        .all(|chunk| *chunk == piece[..chunk.len()]);
    is_same.then_some(()).ok_or(TrialError::Differ(step))
}

/// What was sent before a reset can still be read, and then the reset is seen.
fn reset(pair: Pair) -> Step<()> {
    const STEP: &str = "reset";
    let failed = at(STEP);
    let Pair { mut client, ours } = pair;
    write(&ours, 7, PIECE).map_err(&failed)?;
    let abort = socket2::SockRef::from(&ours).set_linger(Some(Duration::ZERO));
    abort.map_err(&failed)?;
    drop(ours);
    if !read(&client, 7, PIECE).map_err(&failed)? {
        return Err(TrialError::Differ(STEP));
    }
    match client.read(&mut [0]) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
        Err(error) => Err(failed(error)),
        Ok(_) => Err(failed(io::Error::other("it was not seen"))),
    }
}

/// `length` octets, a piece at most, of a pattern from `from` on: it repeats itself after a prime
/// number of octets, so that a piece in another's place shows.
fn octets(seed: u8, from: usize, length: usize) -> &'static [u8] {
    const PERIOD: usize = 49_999;
    static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let octet = |at: usize| ((at % PERIOD).wrapping_mul(31) >> 3) as u8;
        (0..PERIOD + PIECE).map(octet).collect()
    });
    let at = (from + usize::from(seed) * 1000) % PERIOD;
    &PATTERN[at..at + length]
}

/// True of what a write says that is to be tried again.
fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::EPIPE)
}

fn write(mut socket: &TcpStream, seed: u8, length: usize) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut at = 0;
    while at < length {
        let piece = octets(seed, at, PIECE.min(length - at));
        let mut rest = piece;
        while !rest.is_empty() {
            match socket.write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if is_full(&error) && Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(1));
                }
                Err(error) => return Err(error),
            }
        }
        at += piece.len();
    }
    Ok(())
}

fn read(mut socket: &TcpStream, seed: u8, length: usize) -> io::Result<bool> {
    let deadline = Instant::now() + PATIENCE;
    let (mut at, mut buffer) = (0, vec![0; PIECE]);
    while at < length {
        let most = buffer.len().min(length - at);
        let read = match socket.read(&mut buffer[..most]) {
            // Said of a blocking socket, too, when another thread of its was woken.
            Err(error)
                if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline =>
            {
                continue;
            }
            read => read?,
        };
        if read == 0 || buffer[..read] != *octets(seed, at, read) {
            return Ok(false);
        }
        at += read;
    }
    Ok(true)
}
