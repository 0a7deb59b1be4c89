//! Tables of the kernel side that are full: what no longer fits goes on without, and is counted.

use crate::connect::{Scene, counted, listener, service};
use crate::mesh;
use anyhow::{Context as _, Result, ensure};
use libbpf_rs::{MapCore as _, MapFlags, MapHandle};
use proxy_common::connect::{self as balancing, Affinity, AffinityKey, Row, Told};
use proxy_common::redirect::{self, Meeting, Origin};
use proxy_tests::command::run_with_input;
use proxy_tests::daemon::Daemon;
use proxy_tests::{privilege, wait};
use serde_json::json;
use std::thread;

/// A value of a map as octets.
fn octets<T: Copy>(value: &T) -> &[u8] {
    // SAFETY: values of maps have no padding, see `proxy_common`.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

fn open(daemon: &Daemon, name: &str) -> Result<MapHandle> {
    let path = daemon.pin_dir().join(name);
    MapHandle::from_pinned_path(&path).with_context(|| path.display().to_string())
}

/// As many sockets as may be are to be told of a loss: the next one is balanced and not told, and that
/// is counted.
#[test]
fn a_socket_that_finds_no_room_to_be_told_is_balanced_nevertheless() -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let _servers = scene.servers(1)?;
    let mut web = service("web", &["10.1.0.1:8080"]);
    web["at_connect"] = json!({"on_backend_loss": "reset"});
    let listeners = vec![listener("web", "192.0.2.10", 80, "web")];
    let daemon = Daemon::start(&scene.host, &scene.config(listeners, vec![web]))?;
    let sockets = open(&daemon, "connect/maps/connect_sockets")?;
    // Cookies of sockets that there are not yet; of a backend that nobody has.
    let told = Told {
        id: balancing::BACKENDS - 1,
        protocol: 6,
        family: 4,
        ..Told::default()
    };
    let cookies = (0..u64::from(balancing::SOCKETS)).map(|number| u64::MAX - number);
    for cookie in cookies.clone() {
        sockets.update(octets(&cookie), octets(&told), MapFlags::ANY)?;
    }
    let dial = "print(ask(dial('192.0.2.10', 80)))";
    ensure!(scene.workload(dial)? == "b1");
    let counts = counted(&daemon, "web")?;
    ensure!(
        (counts.connected, counts.unrecorded) == (1, 1),
        "{counts:?}"
    );
    ensure!(counts.backends[0].open == 0, "it is closed: {counts:?}");
    for cookie in cookies {
        sockets.delete(octets(&cookie))?;
    }
    ensure!(scene.workload(dial)? == "b1");
    let counts = counted(&daemon, "web")?;
    ensure!(
        (counts.connected, counts.unrecorded) == (2, 1),
        "{counts:?}"
    );
    ensure!(sockets.keys().count() == 0);
    Ok(())
}

/// A socket has room for what it was given, and no memory for what is seen of it: it is balanced and not
/// watched, and that is counted. Where its row is another's, that takes memory as well; where there is none
/// for either, it is balanced nevertheless.
#[test]
fn a_socket_that_finds_no_room_to_be_watched_is_balanced_nevertheless() -> Result<()> {
    const MEMORY: &str = "net/core/optmem_max";
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let _servers = scene.servers(1)?;
    let mut web = service("web", &["10.1.0.1:8080"]);
    web["outlier"] = json!({"network": {}});
    let listeners = vec![listener("web", "192.0.2.10", 80, "web")];
    let daemon = Daemon::start(&scene.host, &scene.config(listeners, vec![web]))?;
    let opened = || -> Result<u64> {
        let seen = daemon.backend("web", "10.1.0.1:8080")?.workloads;
        Ok(seen.map_or(0, |seen| seen.opened))
    };
    let dial = "sock = dial('192.0.2.10', 80); print(ask(sock), sock.getpeername()[0])";
    // A row takes no memory.
    scene.host.sysctl(MEMORY, "64")?;
    let said = scene.workload(dial)?;
    ensure!(said == "b1 192.0.2.10", "{said}");
    take_rows(&daemon)?;
    // The storage itself is some hundred octets, and what it holds as many again.
    let (mut without_memory, mut unwatched) = (0, 1);
    for limit in (64..4096).step_by(32) {
        scene.host.sysctl(MEMORY, &limit.to_string())?;
        let said = scene.workload(dial)?;
        let counts = counted(&daemon, "web")?;
        ensure!(said.starts_with("b1 "), "{limit}: {said}");
        let so_far = without_memory + unwatched;
        if counts.unrecorded == so_far {
            break;
        }
        ensure!(counts.unrecorded == so_far + 1, "{limit}: {counts:?}");
        // It knows what it has dialled by what was written down.
        match said == "b1 192.0.2.10" {
            true => unwatched += 1,
            false => without_memory += 1,
        }
    }
    ensure!(
        without_memory > 0 && unwatched > 1,
        "{without_memory}, {unwatched}"
    );
    // The last one had room for all.
    wait::until("it was seen", || Ok(opened()? > 0))?;
    ensure!(opened()? == 1, "{}", opened()?);
    let counts = counted(&daemon, "web")?;
    ensure!(
        (counts.connected, counts.unrecorded)
            == (without_memory + unwatched + 1, without_memory + unwatched),
        "{counts:?}"
    );
    ensure!(counts.backends[0].open == 0, "all are closed: {counts:?}");
    let text = daemon.sluice(&["status"])?;
    ensure!(text.contains(" not written down in full"), "{text}");
    Ok(())
}

/// Has all rows for what sockets are given taken by sockets that there are not.
fn take_rows(daemon: &Daemon) -> Result<()> {
    let rows = open(daemon, "connect/maps/connect_rows")?;
    for number in 0..balancing::ROWS {
        let row = Row {
            cookie: u64::MAX - u64::from(number),
            ..Row::default()
        };
        rows.update(octets(&number), octets(&row), MapFlags::ANY)?;
    }
    Ok(())
}

/// More clients than are remembered: others are forgotten for the one that comes next, which gets a backend
/// and keeps it.
#[test]
fn a_client_that_finds_the_affinities_full_gets_a_backend_and_keeps_it() -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let _servers = scene.servers(3)?;
    let names = ["10.1.0.1:8080", "10.1.0.2:8080", "10.1.0.3:8080"];
    let mut web = service("web", &names);
    web["selection"] = json!("source-affinity");
    let listeners = vec![listener("web", "192.0.2.10", 80, "web")];
    let daemon = Daemon::start(&scene.host, &scene.config(listeners, vec![web]))?;
    let affinities = open(&daemon, "connect/maps/connect_affine")?;
    for number in 0..2 * u64::from(balancing::AFFINITIES) {
        let key = AffinityKey {
            client: u64::MAX - number,
            ..AffinityKey::default()
        };
        affinities.update(octets(&key), octets(&Affinity::default()), MapFlags::ANY)?;
    }
    let dial = "print(*{ask(dial('192.0.2.10', 80)) for _ in range(30)})";
    let first = scene.workload(dial)?;
    ensure!(first.split(' ').count() == 1, "{first}");
    ensure!(scene.workload(dial)? == first);
    let counts = counted(&daemon, "web")?;
    ensure!((counts.connected, counts.refused) == (60, 0), "{counts:?}");
    ensure!(affinities.keys().count() <= balancing::AFFINITIES as usize);
    Ok(())
}

/// What is known of a redirected connection is pushed out in the midst of its handshake: then it is one
/// that was made to the listener itself, which is counted. It is neither lost nor somebody else's.
#[test]
fn a_redirected_connection_whose_origin_was_pushed_out_is_a_direct_one() -> Result<()> {
    let Some(scene) = mesh::Scene::set()? else {
        return Ok(());
    };
    let Some(nft) = privilege::program("nft", "nftables")? else {
        return Ok(());
    };
    let settings = json!({"cgroups": [scene.shop.path()]});
    let config = mesh::config("127.0.0.1", settings, json!({}));
    let daemon = Daemon::start(&scene.host, &config)?;
    let waiting = open(&daemon, "redirect/maps/mesh_waiting")?;
    let rules = |text: &str| {
        let all = format!("table inet full {{}}\ndelete table inet full\n{text}");
        run_with_input(scene.host.command(&nft).args(["-f", "-"]), &all)
    };
    // The workload's end is established, and the daemon's does not hear of it.
    rules(
        "table inet full { chain in { type filter hook input priority 0;\n\
         tcp dport 15001 tcp flags & (syn | ack) == ack drop\n }\n}\n",
    )?;
    let script = format!(
        "import http.client\n\
         c = http.client.HTTPConnection('{}', 8080, timeout=50)\n\
         c.request('GET', '/name')\n\
         print(c.getresponse().status)\n",
        mesh::V4.server
    );
    let said = thread::scope(|scope| {
        let asking = scope.spawn(|| scene.python(&script));
        let pushed = wait::until("it waits", || Ok(waiting.keys().next().is_some()))
            .and_then(|()| push_out(&waiting));
        let healed = rules("");
        let said = asking.join().expect("no panic");
        pushed.and(healed).and(said)
    })?;
    ensure!(said.trim() == "404", "{said}");
    let view = daemon.status()?.mesh.context("something is redirected")?;
    let one = &view.listeners[0];
    ensure!(one.redirected == 1, "{view:?}");
    ensure!(one.protocols.get("direct") == Some(&1), "{view:?}");
    Ok(())
}

/// Fills the table, so that what is in it now has gone. Whom the kernel pushes out is its own choice; where it
/// spares this one, it goes nevertheless.
fn push_out(waiting: &MapHandle) -> Result<()> {
    let own = waiting.keys().next().context("it waits")?;
    for client_seq in 0..2 * redirect::WAITING {
        let meeting = Meeting {
            client_seq,
            ..Meeting::default()
        };
        waiting.update(octets(&meeting), octets(&Origin::default()), MapFlags::ANY)?;
    }
    if waiting.lookup(&own, MapFlags::ANY)?.is_some() {
        waiting.delete(&own)?;
    }
    Ok(())
}
