//! Tunnels: a client, the daemon's two ends with a thread for each direction, and a server.

use super::{MUCH, PATIENCE, PIECE, Step, TrialError, at, connection, is_full, read, write};
use crate::sockets::acceleration::make_room;
use crate::sockets::join::{Joined, NotJoined, Side, Table, Way};
use crate::sockets::object::Programs;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Octets that go both ways before the ends are joined.
const FEW: usize = 1000;

/// The connections of a tunnel.
struct Tunnel {
    client: TcpStream,
    near: TcpStream,
    far: TcpStream,
    server: TcpStream,
}

/// Runs all of it.
pub(super) fn run(programs: &Programs, tunnels: &Arc<Table>, listener: &TcpListener) -> Step<()> {
    let opened = Tunnel::open(programs, listener);
    let tunnel = opened.map_err(at("opening a tunnel"))?;
    let joined = before_and_after(tunnels, &tunnel)?;
    thread::scope(|scope| {
        let (near, far) = (&tunnel.near, &tunnel.far);
        let passing = [
            scope.spawn(|| pass_on(near, far, &joined, Way::Up)),
            scope.spawn(|| pass_on(far, near, &joined, Way::Down)),
        ];
        let tried = both_ways(&tunnel, &joined)
            .and_then(|()| slow_reader(&tunnel))
            .and_then(|()| half_close(&tunnel));
        // Whatever failed: the threads end.
        for socket in [&tunnel.client, &tunnel.server] {
            let _ = socket.shutdown(Shutdown::Both);
        }
        for thread in passing {
            let passed = thread.join().unwrap_or(Ok(()));
            if tried.is_ok() {
                passed.map_err(at("a tunnel, the daemon"))?;
            }
        }
        tried
    })
}

impl Tunnel {
    fn open(programs: &Programs, listener: &TcpListener) -> io::Result<Self> {
        let (client, near) = connection(listener, |_| Ok(()))?;
        let behind = TcpListener::bind((listener.local_addr()?.ip(), 0))?;
        let (far, server) = connection(&behind, |socket| programs.mark(socket.as_fd()))?;
        for ours in [&near, &far] {
            make_room(ours.as_fd());
        }
        Ok(Self {
            client,
            near,
            far,
            server,
        })
    }
}

/// What was sent before the ends were joined must come first, wherever it waits then.
fn before_and_after(tunnels: &Arc<Table>, tunnel: &Tunnel) -> Step<Joined> {
    const STEP: &str = "joining a tunnel";
    let failed = at(STEP);
    let Tunnel {
        client,
        near,
        far,
        server,
    } = tunnel;
    write(client, 1, FEW).map_err(&failed)?;
    let side = |socket| Side { socket, passed: 0 };
    let joined = tunnels.join(side(near.as_fd()), side(far.as_fd()));
    let joined = joined.map_err(|why| match why {
        NotJoined::NotYet => TrialError::Astray("between ends that do not know each other"),
        NotJoined::Never => TrialError::Unseen,
    })?;
    // Not past the first ones, which the daemon has not read.
    write(client, 2, FEW).map_err(&failed)?;
    if joined.gone(Way::Up).octets != 0 {
        return Err(TrialError::Astray("past others"));
    }
    let (mut near, mut far, mut all) = (near, far, [0; 2 * FEW]);
    near.read_exact(&mut all).map_err(&failed)?;
    far.write_all(&all).map_err(&failed)?;
    joined.passed(Way::Up, all.len() as u64);
    write(client, 3, FEW).map_err(&failed)?;
    write(server, 4, FEW).map_err(&failed)?;
    let gone = [Way::Up, Way::Down].map(|way| joined.gone(way).octets);
    if gone != [FEW as u64; 2] {
        return Err(TrialError::Astray("through the daemon"));
    }
    for (socket, seed) in [(server, 1), (server, 2), (server, 3), (client, 4)] {
        if !read(socket, seed, FEW).map_err(&failed)? {
            return Err(TrialError::Differ(STEP));
        }
    }
    Ok(joined)
}

/// What the daemon does with a direction.
fn pass_on(mut from: &TcpStream, mut to: &TcpStream, joined: &Joined, way: Way) -> io::Result<()> {
    let (mut passed, mut buffer) = (
        if way == Way::Up { 2 * FEW as u64 } else { 0 },
        vec![0; PIECE],
    );
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => break,
        };
        let mut rest = &buffer[..read];
        while !rest.is_empty() {
            match to.write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if is_full(&error) && is_alive(to) => {
                    thread::sleep(Duration::from_millis(1));
                }
                Err(error) => return Err(error),
            }
        }
        passed += read as u64;
        joined.passed(way, passed);
    }
    to.shutdown(Shutdown::Write)
}

/// False once the other end has gone altogether.
fn is_alive(socket: &TcpStream) -> bool {
    matches!(socket.take_error(), Ok(None)) && socket.peer_addr().is_ok()
}

fn both_ways(tunnel: &Tunnel, joined: &Joined) -> Step<()> {
    const STEP: &str = "8 MiB both ways through a tunnel";
    let ends = [
        (&tunnel.client, 1, "8 MiB through a tunnel, the client"),
        (&tunnel.server, 2, "8 MiB through a tunnel, the server"),
    ];
    let before = [Way::Up, Way::Down].map(|way| joined.gone(way).octets);
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
    })?;
    let after = [Way::Up, Way::Down].map(|way| joined.gone(way).octets);
    if before == after {
        return Err(TrialError::Astray("through the daemon"));
    }
    Ok(())
}

/// Who writes and is not read from must wait, and nothing is lost.
fn slow_reader(tunnel: &Tunnel) -> Step<()> {
    const STEP: &str = "a tunnel's slow reader";
    let failed = at(STEP);
    let ends = [
        (&tunnel.client, &tunnel.server, 5),
        (&tunnel.server, &tunnel.client, 6),
    ];
    for (from, to, seed) in ends {
        super::fill_and_empty(from, to, seed, STEP)?;
        write(from, seed, PIECE).map_err(&failed)?;
        if !read(to, seed, PIECE).map_err(&failed)? {
            return Err(TrialError::Differ(STEP));
        }
    }
    Ok(())
}

/// The end comes after what was sent before it, and the other way goes on.
fn half_close(tunnel: &Tunnel) -> Step<()> {
    const STEP: &str = "a tunnel's half-close";
    let failed = at(STEP);
    let ends = [
        (&tunnel.client, &tunnel.server, 7),
        (&tunnel.server, &tunnel.client, 8),
    ];
    for (from, to, seed) in ends {
        write(from, seed, 3 * PIECE).map_err(&failed)?;
        from.shutdown(Shutdown::Write).map_err(&failed)?;
        let is_same = read(to, seed, 3 * PIECE).map_err(&failed)?;
        if !is_same || read_end(to).map_err(&failed)? != 0 {
            return Err(TrialError::Differ(STEP));
        }
    }
    Ok(())
}

/// A read that may be told `EAGAIN` when something else has woken it.
fn read_end(mut socket: &TcpStream) -> io::Result<usize> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match socket.read(&mut [0]) {
            Err(error)
                if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {}
            read => return read,
        }
    }
}
