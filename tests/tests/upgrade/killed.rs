//! Somebody is killed in the middle of a hand-over: somebody serves all the same.

use crate::support::{Daemon, Origins, children, eventually, is_long, is_running};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whom {
    Old,
    New,
}

/// Begins an upgrade, and kills one of the two `after` so long.
fn kill_one(daemon: &mut Daemon, whom: Whom, after: Duration) {
    let old = daemon.pid();
    let before = children(old);
    let mut command = daemon.command(&["upgrade"]);
    let mut asking = command
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("runs");
    let begun = Instant::now();
    let mut new = None;
    eventually("a new process is started", || {
        let mut now = children(old).into_iter();
        new = now.find(|pid| !before.contains(pid));
        new.is_some()
    });
    daemon.note_children();
    while begun.elapsed() < after {
        std::thread::sleep(Duration::from_micros(200));
    }
    let victim = match whom {
        Whom::Old => old,
        Whom::New => new.expect("it was started"),
    };
    // It may have ended by then: an old one without connections does so at once.
    let _ = kill(Pid::from_raw(victim), Signal::SIGKILL);
    asking.wait().expect("ends");
}

#[test]
fn whoever_is_killed_at_whatever_moment_one_serves() {
    let seed: u64 = std::env::var("SLUICE_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    println!("SLUICE_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let origins = Origins::start();
    let rounds = if is_long() { 60 } else { 12 };
    let mut daemon = Daemon::start(&origins, "workers: {count: 2, drain_timeout: 10m}");
    // How long a hand-over takes here, for moments that are spread over all of it.
    let begun = Instant::now();
    daemon.upgrade();
    let whole = begun.elapsed();
    for round in 0..rounds {
        let whom = if random.bool() { Whom::Old } else { Whom::New };
        let after = whole.mul_f64(random.f64() * 1.2);
        println!("round {round}: {whom:?} after {after:?} of {whole:?}");
        kill_one(&mut daemon, whom, after);
        eventually("somebody serves", || daemon.is_serving());
        // Whoever serves again writes its id after the other's.
        eventually("the admin socket is somebody's", || {
            is_running(daemon.pid())
        });
    }
    daemon.upgrade();
    assert!(daemon.is_serving());
}

#[test]
fn a_new_process_that_dies_soon_gives_the_service_back() {
    let origins = Origins::start();
    let mut daemon = Daemon::start(&origins, "workers: {count: 2, drain_timeout: 10m}");
    let old = daemon.pid();
    // Keeps the old process from ending.
    let kept = std::net::TcpStream::connect(daemon.addresses.tcp).expect("connects");
    eventually("the connection is there", || {
        let output = daemon
            .command(&["status", "--json"])
            .output()
            .expect("runs");
        let view: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a view");
        view["stream_listeners"][0]["connections_active"] == 1
    });
    let new = daemon.upgrade();
    assert!(is_running(old));
    kill(Pid::from_raw(new), Signal::SIGKILL).expect("it runs");
    eventually("the old one serves again", || {
        daemon.pid() == old && daemon.is_serving()
    });
    // And can be upgraded again.
    let newer = daemon.upgrade();
    assert!(newer != new && newer != old);
    assert!(daemon.is_serving());
    drop(kept);
    eventually("the old one ends", || !daemon.running().contains(&old));
}
