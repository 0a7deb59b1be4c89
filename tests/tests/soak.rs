//! Many connections through a proxy that has the kernel move octets, compared octet by octet: any
//! size, writes split anywhere, slow readers, half-close in either order, resets by either side, peers
//! and proxies that are killed, and both directions at once; as TCP, and as HTTP/1.1, HTTP/2, TLS and
//! WebSocket. The same with everything copied is the control: a fault of both is not one of what is
//! tried here.
//!
//! IPv4 on the whole, and IPv6 with a share of it: the kernel's programs tell sockets by their addresses.
//!
//! The proxy's workers, the clients and the origin are threads of this process, unless they are to be
//! killed; the kernel does not care. `SLUICE_SOAK_CONNECTIONS` says how many connections there are in
//! all, `SLUICE_LONG` asks for a hundred thousand.

#[path = "soak/killed.rs"]
mod killed;
#[path = "soak/memory.rs"]
mod memory;
#[path = "soak/peers.rs"]
mod peers;
#[path = "soak/stalled.rs"]
mod stalled;
#[path = "soak/verdict.rs"]
mod verdict;
#[path = "soak/web.rs"]
mod web;

use anyhow::{Context as _, Result, ensure};
use peers::{Ending, Pattern, Plan, ask, connect, patient, serve};
use proxy_tests::{privilege, wait};
use proxy_userspace::config::model::http::{
    Accelerate, AccessLog, BackendTraits, LogFormat, LogTarget, Splice, StreamListener,
};
use proxy_userspace::config::model::{Config, Service};
use proxy_userspace::observe::view::AccelerationView;
use proxy_userspace::runtime::workers::Workers;
use proxy_userspace::types::Protocol;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

/// Connections at once.
const CLIENTS: usize = 8;
/// Connections in all, unless a variable says otherwise.
const CONNECTIONS: usize = 1000;
const MANY_CONNECTIONS: usize = 100_000;

/// What moves octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct How {
    /// At the listener, and at the service.
    accelerate: [Accelerate; 2],
    splice: Splice,
}

impl How {
    /// Past TCP, and past the proxy.
    const DIRECT: Self = Self {
        accelerate: [Accelerate::On; 2],
        splice: Splice::Auto,
    };
    /// Past TCP.
    const ACCELERATED: Self = Self {
        splice: Splice::Pipe,
        ..Self::DIRECT
    };
    /// Through pipes.
    const PIPED: Self = Self {
        accelerate: [Accelerate::Off; 2],
        splice: Splice::Pipe,
    };
    /// By reading and writing.
    const COPIED: Self = Self {
        splice: Splice::Off,
        ..Self::PIPED
    };
}

/// Where all of it happens, and how much.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Where the origin and the proxy listen.
    loopback: IpAddr,
    /// One in so many connections.
    share: usize,
}

impl Place {
    const V4: Self = Self {
        loopback: IpAddr::V4(Ipv4Addr::LOCALHOST),
        share: 1,
    };
    const V6: Self = Self {
        loopback: IpAddr::V6(Ipv6Addr::LOCALHOST),
        share: 5,
    };

    fn connections(self) -> usize {
        connections() / self.share
    }
}

fn is_long() -> bool {
    std::env::var_os("SLUICE_LONG").is_some()
}

fn connections() -> usize {
    let said = std::env::var("SLUICE_SOAK_CONNECTIONS");
    let said = said.ok().and_then(|text| text.parse().ok());
    said.unwrap_or(match is_long() {
        true => MANY_CONNECTIONS,
        false => CONNECTIONS,
    })
}

/// One test after the other: each takes the whole machine.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn tunnels_past_the_proxy_lose_and_change_nothing_v4() -> Result<()> {
    tunnels_lose_and_change_nothing(Place::V4)
}

#[test]
fn tunnels_past_the_proxy_lose_and_change_nothing_v6() -> Result<()> {
    tunnels_lose_and_change_nothing(Place::V6)
}

fn tunnels_lose_and_change_nothing(place: Place) -> Result<()> {
    let Some((workers, view)) = accelerated(How::DIRECT, place)? else {
        return Ok(());
    };
    // Nearly all: some clients block and are left alone.
    let most = place.connections() as u64;
    ensure!(view.tunnels >= most * 8 / 10, "{view:?}");
    ensure!(view.direct_bytes > 0 && view.blocking > 0, "{view:?}");
    emptied(&workers)
}

/// Who writes without a pause goes through the proxy from the first full queue on.
#[test]
fn a_writer_that_is_faster_than_its_reader_is_held_back_by_the_proxy() -> Result<()> {
    const OCTETS: u32 = 64 << 20;
    if !privilege::granted()? {
        return Ok(());
    }
    let _turn = turn();
    let origin = TcpListener::bind("127.0.0.1:0")?;
    let workers = Workers::start(&config(origin.local_addr()?, How::DIRECT))?;
    let proxy = workers.listeners().next().context("listens")?;
    let client = connect(proxy, false)?;
    let (server, _) = origin.accept()?;
    patient(&server)?;
    // The backend's first octets tell the proxy who is there.
    Pattern::new(3, 1000).send(&server)?;
    Pattern::new(3, 1000).receive(&client, false)?;
    let view = || workers.acceleration().context("asked for");
    thread::scope(|scope| {
        let writing = scope.spawn(|| Pattern::new(5, OCTETS).send(&client));
        wait::until("the reader's queue is full", || Ok(view()?.crowded > 0))?;
        Pattern::new(5, OCTETS).receive(&server, false)?;
        writing.join().expect("no panic")
    })?;
    let seen = view()?;
    ensure!(
        seen.direct_bytes > 0 && seen.detours > 0 && seen.stalled == 0,
        "{seen:?}"
    );
    drop((client, server));
    emptied(&workers)
}

#[test]
fn accelerated_connections_lose_and_change_nothing_v4() -> Result<()> {
    connections_lose_and_change_nothing(How::ACCELERATED, Place::V4)
}

#[test]
fn accelerated_connections_lose_and_change_nothing_v6() -> Result<()> {
    connections_lose_and_change_nothing(How::ACCELERATED, Place::V6)
}

/// By itself, as most will have it: the self-test is to pass here.
#[test]
fn connections_that_are_accelerated_by_themselves_lose_and_change_nothing_v6() -> Result<()> {
    let how = How {
        accelerate: [Accelerate::Auto; 2],
        ..How::ACCELERATED
    };
    connections_lose_and_change_nothing(how, Place::V6)
}

fn connections_lose_and_change_nothing(how: How, place: Place) -> Result<()> {
    let Some((workers, view)) = accelerated(how, place)? else {
        return Ok(());
    };
    ensure!(view.tunnels == 0, "{view:?}");
    emptied(&workers)
}

#[test]
fn one_accelerated_side_is_enough_to_go_wrong_and_does_not() -> Result<()> {
    for accelerate in [
        [Accelerate::On, Accelerate::Off],
        [Accelerate::Off, Accelerate::On],
    ] {
        let how = How {
            accelerate,
            splice: Splice::Auto,
        };
        connections_lose_and_change_nothing(how, Place::V4)?;
    }
    Ok(())
}

#[test]
fn the_same_holds_through_pipes_v4() -> Result<()> {
    plain(How::PIPED, Place::V4)
}

#[test]
fn the_same_holds_through_pipes_v6() -> Result<()> {
    plain(How::PIPED, Place::V6)
}

#[test]
fn the_same_holds_of_octets_that_are_copied() -> Result<()> {
    plain(How::COPIED, Place::V4)
}

fn plain(how: How, place: Place) -> Result<()> {
    let _turn = turn();
    let (_, seen) = soak(how, place)?;
    ensure!(seen.is_none(), "{seen:?}");
    Ok(())
}

/// `None` if it cannot be tried here.
fn accelerated(how: How, place: Place) -> Result<Option<(Workers, AccelerationView)>> {
    if !privilege::granted()? {
        return Ok(None);
    }
    let _turn = turn();
    let (workers, view) = soak(how, place)?;
    let view = view.context("asked for")?;
    let sides = how.accelerate.iter().filter(|&&it| it != Accelerate::Off);
    let most = place.connections() * sides.count();
    // All but the clients that block.
    ensure!(
        view.state == "on" && view.connections as usize >= most * 8 / 10,
        "{view:?}"
    );
    ensure!(view.full == 0 && view.stalled == 0, "{view:?}");
    eprintln!("{how:?} at {}: {view:?}", place.loopback);
    Ok(Some((workers, view)))
}

fn emptied(workers: &Workers) -> Result<()> {
    wait::until("every socket has left the map", || {
        Ok(workers.acceleration().context("asked for")?.sockets == 0)
    })
}

fn soak(how: How, place: Place) -> Result<(Workers, Option<AccelerationView>)> {
    let origin = TcpListener::bind((place.loopback, 0))?;
    let folder = tempfile::tempdir()?;
    let log = folder.path().join("log");
    let mut config = config(origin.local_addr()?, how);
    config.stream_listeners[0].access_log = Some(AccessLog {
        to: LogTarget::File(log.clone()),
        format: LogFormat::Json,
        share: 1.0,
    });
    let workers = Workers::start(&config)?;
    let proxy = workers.listeners().next().context("listens")?;
    let total = place.connections();
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
                        let asked = connect(proxy, plan.blocks).and_then(|it| ask(it, plan));
                        asked.with_context(|| format!("{number}: {plan:?}"))?;
                    }
                })
            })
            .collect();
        for thread in asking.into_iter().chain(serving) {
            thread.join().expect("no panic")?;
        }
        anyhow::Ok(())
    })?;
    counted(&log, total)?;
    let view = workers.acceleration();
    Ok((workers, view))
}

/// The access log has a line for each connection, with the octets that it had, whichever way they went.
fn counted(log: &std::path::Path, total: usize) -> Result<()> {
    let lines = || -> Result<Vec<serde_json::Value>> {
        let text = std::fs::read_to_string(log)?;
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole
            .lines()
            .map(|line| Ok(serde_json::from_str(line)?))
            .collect()
    };
    wait::until("every connection is logged", || Ok(lines()?.len() == total))?;
    let number = |line: &serde_json::Value, key: &str| line[key].as_u64().unwrap_or(0);
    let mut logged: Vec<_> = lines()?
        .iter()
        .filter(|line| line["end"] == "complete")
        .map(|line| (number(line, "received_bytes"), number(line, "sent_bytes")))
        .collect();
    let plans = (0..total as u64).map(Plan::of);
    let plans = plans.filter(|plan| !matches!(plan.end, Ending::Reset | Ending::OriginResets));
    let mut wanted: Vec<_> = plans
        .map(|plan| {
            (
                u64::from(plan.up) + plan.head().len() as u64,
                u64::from(plan.down),
            )
        })
        .collect();
    logged.sort_unstable();
    wanted.sort_unstable();
    let first = wanted.iter().zip(&logged).find(|(one, other)| one != other);
    ensure!(
        first.is_none() && logged.len() == wanted.len(),
        "{} of {} are logged as complete; the first other one: {first:?}",
        logged.len(),
        wanted.len()
    );
    Ok(())
}

/// A proxy beside the origin.
fn config(origin: SocketAddr, how: How) -> Config {
    let mut service = Service::new("origins");
    service.push_backend(origin, 1, BackendTraits::default());
    service.upstream.accelerate = how.accelerate[1];
    let address = SocketAddr::new(origin.ip(), 0);
    let mut listener = StreamListener::new("tcp", Protocol::Tcp, address, "origins");
    (listener.accelerate, listener.splice) = (how.accelerate[0], how.splice);
    let mut config = Config {
        stream_listeners: vec![listener],
        services: vec![service],
        ..Config::default()
    };
    config.workers.count = Some(2);
    config
}
