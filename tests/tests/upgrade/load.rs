//! Upgrades under load.

use crate::clients::{Clients, Pipe};
use crate::support::{Daemon, Origins, descriptors, eventually, is_long, memory};
use nix::sys::signal::Signal;
use std::fs;
use std::time::Duration;

/// Answers that each client must have between two upgrades.
const BETWEEN: u64 = 5;

/// Descriptors that may be open for other reasons: clients come and go while they are counted.
const SPARE: usize = 32;

/// What a process holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    descriptors: usize,
    memory_kib: u64,
    sessions: usize,
}

impl Held {
    /// What the process holds that serves. Sessions of UDP are not counted: new ones come with each
    /// question, and take their time to end.
    fn by_the_one_that_serves(daemon: &Daemon) -> Self {
        let pid = daemon.pid();
        let view = view(daemon);
        let listeners = view["stream_listeners"].as_array().expect("a list");
        let echo = listeners.iter().find(|it| it["name"] == "echo");
        let sessions = echo.and_then(|it| it["connections_active"].as_u64());
        let sessions = usize::try_from(sessions.expect("a number")).expect("small");
        Self {
            descriptors: descriptors(pid).saturating_sub(sessions),
            memory_kib: memory(pid),
            sessions,
        }
    }
}

#[test]
fn upgrades_under_load_fail_no_request_and_keep_every_connection() {
    let origins = Origins::start();
    let mut daemon = Daemon::start(&origins, "workers: {count: 2, drain_timeout: 10m}");
    let idle = Held::by_the_one_that_serves(&daemon);
    let clients = Clients::of_all_kinds(daemon.addresses);
    let (upgrades, pause) = if is_long() {
        (12, Duration::from_secs(5))
    } else {
        (5, Duration::ZERO)
    };
    let mut generations = Vec::new();
    for number in 1..=upgrades {
        clients.are_served(BETWEEN);
        let pid = daemon.upgrade();
        std::thread::sleep(pause);
        clients.are_served(BETWEEN);
        let held = Held::by_the_one_that_serves(&daemon);
        println!("upgrade {number}: process {pid} holds {held:?}");
        generations.push(held);
    }
    let answered = clients.end();
    println!("{answered} answers, none of them wrong or missing");

    // Each generation serves the same clients, so the later ones need no more than the earlier.
    let (early, late) = generations.split_at(generations.len() / 2);
    let most = |all: &[Held], of: fn(&Held) -> usize| all.iter().map(of).max().unwrap_or(0);
    for (what, of, spare) in [
        (
            "descriptors",
            (|it| it.descriptors) as fn(&Held) -> usize,
            SPARE,
        ),
        ("KiB", |it| it.memory_kib as usize, 16 * 1024),
    ] {
        let (before, after) = (most(early, of), most(late, of));
        assert!(
            after <= before + before / 4 + spare,
            "{what}: {before}, then {after}"
        );
    }
    if is_long() {
        // They may be idle for ten seconds, and go from one process to the next meanwhile.
        let (before, after) = (most(early, |it| it.sessions), most(late, |it| it.sessions));
        assert!(after < 2 * before, "sessions: {before}, then {after}");
    }

    // Nobody has a connection any more: the older ones end, and the last has what the first had.
    let pid = daemon.pid();
    eventually("the older processes have ended", || {
        daemon.running() == [pid]
    });
    eventually("descriptors are as before", || {
        descriptors(pid) <= idle.descriptors + 2
    });
    let now = Held::by_the_one_that_serves(&daemon);
    println!("idle: {idle:?} at first, {now:?} after {upgrades} upgrades");
    assert!(
        now.memory_kib < idle.memory_kib * 3 + 32 * 1024,
        "{idle:?} {now:?}"
    );
    assert!(daemon.is_serving());
}

#[test]
fn a_websocket_lives_until_the_drain_is_over_and_new_ones_go_to_the_new_process() {
    let origins = Origins::start();
    let more = "workers: {count: 1, drain_timeout: 6s}";
    let mut daemon = Daemon::start(&origins, more);
    let open = |daemon: &Daemon| Pipe::to(daemon.addresses.http).tunnel();
    let mut old = open(&daemon);
    let first = daemon.pid();
    daemon.upgrade();
    old.echo();
    // For a moment both accept; the count is that of the one that answers for the daemon.
    let mut new = None;
    eventually("a new one is at the new process", || {
        let mut tunnel = open(&daemon);
        tunnel.echo();
        new = Some(tunnel);
        view(&daemon)["http_listeners"][0]["connections_active"] != 0
    });
    let mut new = new.expect("one");
    old.ends();
    eventually("the old process has ended", || {
        !daemon.running().contains(&first)
    });
    new.echo();
}

#[test]
fn another_number_of_workers_loses_nothing() {
    let origins = Origins::start();
    let mut daemon = Daemon::start(&origins, "workers: {count: 3, drain_timeout: 10m}");
    let clients = Clients::of_all_kinds(daemon.addresses);
    let file = daemon.folder.path().join("sluice.yaml");
    let text = fs::read_to_string(&file).expect("reads");
    for count in [1, 2, 4, 1] {
        let other = text.replace("count: 3", &format!("count: {count}"));
        fs::write(&file, other).expect("writes");
        daemon.upgrade();
        clients.are_served(BETWEEN);
    }
    clients.end();
}

#[test]
fn a_signal_upgrades_and_operators_decisions_stay() {
    let origins = Origins::start();
    let more = "workers: {count: 1, drain_timeout: 10m}";
    let mut daemon = Daemon::start(&origins, more);
    let first = daemon.pid();
    let backend = view(&daemon)["services"][0]["backends"][0]["name"].clone();
    let backend = backend.as_str().expect("a name");
    let drain = ["drain", "web", backend, "--timeout", "1h"];
    let drained = daemon.command(&drain).output();
    assert!(drained.expect("runs").status.success());
    let reloaded = daemon.command(&["reload"]).output();
    assert!(reloaded.expect("runs").status.success());
    daemon.signal(Signal::SIGUSR2);
    eventually("another process serves", || daemon.pid() != first);
    daemon.note_children();
    eventually("the old one has ended", || {
        !daemon.running().contains(&first)
    });
    let view = view(&daemon);
    let backend = &view["services"][0]["backends"][0];
    assert_eq!(backend["state"], "draining", "{backend}");
    let left = backend["drain_remaining_seconds"]
        .as_f64()
        .expect("a drain");
    assert!((3000.0..3600.0).contains(&left), "{left}");
    assert_eq!(view["config"]["generation"], 2);
}

fn view(daemon: &Daemon) -> serde_json::Value {
    let status = daemon.command(&["status", "--json"]).output();
    serde_json::from_slice(&status.expect("runs").stdout).expect("a view")
}
