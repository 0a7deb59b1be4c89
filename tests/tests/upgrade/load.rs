//! Upgrades under load.

use crate::clients::Clients;
use crate::support::{Daemon, Origins, descriptors, eventually, is_long, memory};
use nix::sys::signal::Signal;
use std::fs;
use std::time::Duration;

/// Answers that must come between two upgrades, of all clients.
const BETWEEN: u64 = 60;

#[test]
fn upgrades_under_load_fail_no_request_and_keep_every_connection() {
    let origins = Origins::start();
    let mut daemon = Daemon::start(&origins, "workers: {count: 2, drain_timeout: 10m}");
    let first = daemon.pid();
    let before = (descriptors(first), memory(first));
    let clients = Clients::of_all_kinds(daemon.addresses);
    let (upgrades, pause) = if is_long() {
        (12, Duration::from_secs(5))
    } else {
        (5, Duration::ZERO)
    };
    for number in 1..=upgrades {
        let answered = clients.answered();
        eventually("everybody is served", || {
            clients.answered() >= answered + BETWEEN
        });
        let pid = daemon.upgrade();
        println!("upgrade {number}: process {pid}");
        std::thread::sleep(pause);
    }
    let answered = clients.answered();
    eventually("everybody is served", || {
        clients.answered() >= answered + BETWEEN
    });
    assert!(clients.end() > 500);

    // Nobody has a connection any more: the older ones end, and the last has what the first had.
    let last = daemon.pid();
    eventually("the older processes have ended", || {
        daemon.running() == [last]
    });
    eventually("descriptors are as before", || {
        descriptors(last) <= before.0 + 2
    });
    let now = memory(last);
    println!(
        "memory: {} KiB at first, {now} KiB after {upgrades} upgrades",
        before.1
    );
    assert!(now < before.1 * 3 + 32 * 1024, "{before:?} {now}");
    assert!(daemon.is_serving());
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
        let answered = clients.answered();
        eventually("everybody is served", || {
            clients.answered() >= answered + BETWEEN
        });
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
