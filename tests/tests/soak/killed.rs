//! Peers that are killed in the middle, and a proxy that is: whoever is left learns of it, and what it
//! got until then is right.
//!
//! Who is killed is a process of its own: this test's binary, which is told by a variable what to be.

use crate::memory::kernel_memory;
use crate::peers::{PATIENCE, PERIOD, Pattern, connect, patient, read_some, read_whole};
use crate::{How, config, emptied, is_long, turn};
use anyhow::{Context as _, Result, bail, ensure};
use proxy_tests::{privilege, wait};
use proxy_userspace::runtime::workers::Workers;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// What a process of ours is to be: a word and an address.
const ROLE: &str = "SLUICE_SOAK_ROLE";
/// How it begins the line that tells its address.
const HERE: &str = "here: ";
/// The pattern's seeds.
const UP: u64 = 11;
const DOWN: u64 = 22;

fn kills() -> u64 {
    if is_long() { 300 } else { 12 }
}

#[test]
fn killed_clients_and_backends_are_noticed_and_leave_nothing_behind() -> Result<()> {
    let is_privileged = privilege::granted()?;
    let _turn = turn();
    let mut ways = vec![How::PIPED];
    if is_privileged {
        ways.extend([How::ACCELERATED, How::DIRECT]);
    }
    for how in ways {
        for number in 0..kills() {
            kill_one(how, number).with_context(|| format!("{how:?}, {number}"))?;
        }
    }
    Ok(())
}

#[test]
fn a_killed_proxy_cuts_both_sides_off() -> Result<()> {
    let is_privileged = privilege::granted()?;
    let _turn = turn();
    let mut ways = vec!["piped"];
    if is_privileged {
        ways.push("direct");
    }
    for way in ways {
        for number in 0..kills() / 4 {
            kill_proxy(way, number).with_context(|| format!("{way}, {number}"))?;
        }
    }
    Ok(())
}

/// Tunnels come and go when the proxy is killed: some are just being joined, past it, and some have just
/// been parted.
#[test]
fn a_proxy_that_is_killed_while_it_joins_leaves_nobody_waiting() -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let _turn = turn();
    let before = kernel_memory()?;
    for number in 0..kills() / 4 {
        kill_joining(number).with_context(|| format!("{number}"))?;
    }
    wait::until("the kernel has its memory back", || {
        Ok(kernel_memory()? <= before + (16 << 20))
    })
}

/// Does nothing, unless this process is to be somebody.
#[test]
fn a_process_that_is_killed() -> Result<()> {
    let Ok(role) = std::env::var(ROLE) else {
        return Ok(());
    };
    let (word, address) = role.split_once(' ').context("a word and an address")?;
    let address: SocketAddr = address.parse()?;
    match word {
        "client" => {
            let socket = connect(address, false)?;
            talk(&socket, UP, DOWN).map(drop)
        }
        "origin" => {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            say(listener.local_addr()?)?;
            let (socket, _) = listener.accept()?;
            talk(&socket, DOWN, UP).map(drop)
        }
        "piped" | "direct" => {
            let how = if word == "direct" {
                How::DIRECT
            } else {
                How::PIPED
            };
            let workers = Workers::start(&config(address, how))?;
            say(workers.listeners().next().context("listens")?)?;
            loop {
                thread::park();
            }
        }
        _ => bail!("`{word}` is nobody"),
    }
}

fn say(address: SocketAddr) -> Result<()> {
    println!("\n{HERE}{address}");
    Ok(std::io::stdout().flush()?)
}

fn kill_one(how: How, number: u64) -> Result<()> {
    let kills_client = number.is_multiple_of(2);
    let mut origin = None;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let behind = if kills_client {
        listener.local_addr()?
    } else {
        let (process, address) = Process::that_listens("origin", listener.local_addr()?)?;
        origin = Some(process);
        address
    };
    let workers = Workers::start(&config(behind, how))?;
    let proxy = workers.listeners().next().context("listens")?;
    let (left, mut victim, seeds) = if kills_client {
        let victim = Process::start("client", proxy)?;
        (listener.accept()?.0, victim, (DOWN, UP))
    } else {
        let victim = origin.take().context("started")?;
        (connect(proxy, false)?, victim, (UP, DOWN))
    };
    patient(&left)?;
    let killing = thread::spawn(move || {
        thread::sleep(moment(number));
        victim.kill()
    });
    talk(&left, seeds.0, seeds.1)?;
    killing.join().expect("no panic")?;
    drop(left);
    wait::until("no connection is left", || Ok(workers.connections() == 0))?;
    match how == How::PIPED {
        true => Ok(()),
        false => emptied(&workers),
    }
}

fn kill_proxy(way: &str, number: u64) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let (mut process, proxy) = Process::that_listens(way, listener.local_addr()?)?;
    let client = connect(proxy, false)?;
    let (server, _) = listener.accept()?;
    patient(&server)?;
    thread::scope(|scope| {
        let talking = [
            scope.spawn(|| talk(&client, UP, DOWN)),
            scope.spawn(|| talk(&server, DOWN, UP)),
        ];
        thread::sleep(moment(number));
        process.kill()?;
        for thread in talking {
            thread.join().expect("no panic")?;
        }
        anyhow::Ok(())
    })
}

fn kill_joining(number: u64) -> Result<()> {
    const CLIENTS: usize = 16;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let origin = listener.local_addr()?;
    let (mut process, proxy) = Process::that_listens("direct", origin)?;
    let maps = process.maps()?;
    ensure!(!maps.is_empty(), "it accelerates nothing");
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let serving = scope.spawn(|| {
            let mut served = Vec::new();
            while let Ok((socket, _)) = listener.accept() {
                if is_over.load(Ordering::SeqCst) {
                    break;
                }
                served.push(scope.spawn(move || echo(&socket)));
            }
            served
        });
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| scope.spawn(|| come_and_go(proxy, &is_over)))
            .collect();
        thread::sleep(Duration::from_millis(50) + moment(number));
        is_over.store(true, Ordering::SeqCst);
        let killed = process.kill();
        let mut ends: Vec<_> = clients.into_iter().map(|it| it.join()).collect();
        // Whoever accepts learns that it is over.
        drop(TcpStream::connect(origin)?);
        let served = serving.join().expect("no panic");
        ends.extend(served.into_iter().map(|it| it.join()));
        killed?;
        for end in ends {
            end.expect("no panic")?;
        }
        anyhow::Ok(())
    })?;
    // With it go connections that nobody has accepted: their sockets hold the program, and it the maps.
    drop(listener);
    wait::until("the kernel has forgotten its maps", || {
        let left = |id: &u32| libbpf_rs::MapHandle::from_map_id(*id).is_ok();
        Ok(!maps.iter().any(left))
    })
}

/// Opens one tunnel after the other, until the proxy is no more.
fn come_and_go(proxy: SocketAddr, is_over: &AtomicBool) -> Result<()> {
    let (said, mut heard) = ([b'x'; 700], [0; 700]);
    for rounds in (1..=4).cycle() {
        let done = (|| {
            let mut socket = connect(proxy, false)?;
            patient(&socket)?;
            for _ in 0..rounds {
                socket.write_all(&said)?;
                read_whole(&socket, &mut heard)?;
            }
            anyhow::Ok(())
        })();
        match done {
            Ok(()) => {}
            Err(error) if is_silence(&error) => return Err(error.context("nobody says the end")),
            Err(_) if is_over.load(Ordering::SeqCst) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Says what it hears until the connection ends or breaks.
fn echo(mut socket: &TcpStream) -> Result<()> {
    patient(socket)?;
    let mut buffer = [0; 4096];
    loop {
        let read = match read_some(socket, &mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                bail!("nobody has told the origin that it is over")
            }
            Err(_) => return Ok(()),
        };
        if socket.write_all(&buffer[..read]).is_err() {
            return Ok(());
        }
    }
}

/// True if nothing has come for longer than anybody waits.
fn is_silence(error: &anyhow::Error) -> bool {
    let cause = error.root_cause().downcast_ref::<std::io::Error>();
    cause.is_some_and(|error| error.kind() == ErrorKind::WouldBlock)
}

/// When somebody is killed: early, or in the middle of things.
fn moment(number: u64) -> Duration {
    Duration::from_millis(number * 37 % 150)
}

/// Writes and reads without end, both at once, until the connection breaks or ends; what is read must
/// be right. Tells how much that was.
fn talk(socket: &TcpStream, says: u64, hears: u64) -> Result<usize> {
    let (says, hears) = (Pattern::new(says, u32::MAX), Pattern::new(hears, u32::MAX));
    thread::scope(|scope| {
        let writing = scope.spawn(|| {
            // Ends with an error as soon as nobody is there.
            let _ = says.send(socket);
        });
        let received = hear(socket, &hears);
        // Whoever has read the end does not want to write any more.
        let _ = socket.shutdown(std::net::Shutdown::Both);
        writing.join().expect("no panic");
        received
    })
}

fn hear(socket: &TcpStream, pattern: &Pattern) -> Result<usize> {
    let (mut at, mut buffer) = (0, vec![0; PERIOD]);
    let began = Instant::now();
    loop {
        ensure!(began.elapsed() < PATIENCE, "it goes on for ever");
        match read_some(socket, &mut buffer) {
            Ok(0) => return Ok(at),
            Ok(read) => {
                ensure!(pattern.fits(at, &buffer[..read]), "differs in {at}..");
                at += read;
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                bail!("nobody has said that it is over, after {at} octets")
            }
            Err(_) => return Ok(at),
        }
    }
}

/// A process that dies with this.
struct Process(Child);

impl Process {
    fn start(word: &str, address: SocketAddr) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--exact", "killed::a_process_that_is_killed", "--nocapture"]);
        command.env(ROLE, format!("{word} {address}"));
        let command = command.stdin(Stdio::null()).stderr(Stdio::null());
        Ok(Self(command.stdout(Stdio::piped()).spawn()?))
    }

    fn that_listens(word: &str, address: SocketAddr) -> Result<(Self, SocketAddr)> {
        let mut process = Self::start(word, address)?;
        let output = process.0.stdout.take().context("piped")?;
        for line in BufReader::new(output).lines() {
            if let Some(address) = line?.strip_prefix(HERE) {
                return Ok((process, address.parse()?));
            }
        }
        bail!("it has not told where it listens")
    }

    /// The kernel's ids of the maps that it holds.
    fn maps(&self) -> Result<Vec<u32>> {
        let folder = format!("/proc/{}/fdinfo", self.0.id());
        let mut maps = Vec::new();
        for entry in std::fs::read_dir(folder)?.flatten() {
            // Descriptors come and go.
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let id = text.lines().find_map(|line| line.strip_prefix("map_id:"));
            maps.extend(id.and_then(|id| id.trim().parse::<u32>().ok()));
        }
        Ok(maps)
    }

    fn kill(&mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
        if let Some(mut output) = self.0.stdout.take() {
            let _ = output.read(&mut [0]);
        }
    }
}
