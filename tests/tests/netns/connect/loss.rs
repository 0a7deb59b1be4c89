//! A backend goes away: new sockets go elsewhere, and those that it had are told if that is wanted.

use super::scene::{HEALTH, Scene, balancing, counted, listener, service, shares, udp};
use anyhow::{Context as _, Result, ensure};
use proxy_tests::daemon::Daemon;
use proxy_tests::netns::{Namespace, Netns};
use serde_json::{Value, json};

/// The VIP, and the backends behind it.
#[derive(Clone, Copy)]
struct Family {
    vip: &'static str,
    backends: [&'static str; 2],
}

const V4: Family = Family {
    vip: "192.0.2.10",
    backends: ["10.1.0.1:8080", "10.1.0.2:8080"],
};

const V6: Family = Family {
    vip: "2001:db8::10",
    backends: ["[fd01::1]:8080", "[fd01::2]:8080"],
};

/// Two backends, whose health is asked at another port than what they serve: so they can be down and
/// serve on.
fn config(scene: &Scene, family: Family, on_loss: &str) -> Value {
    let listeners = vec![
        listener("web", family.vip, 80, "web"),
        udp(listener("dns", family.vip, 53, "web")),
    ];
    let mut web = service("web", &family.backends);
    web["at_connect"] = json!({"on_backend_loss": on_loss});
    web["health"] = json!({
        "tcp": {}, "port": HEALTH, "interval": "1s", "timeout": "900ms", "fall": 1, "rise": 1,
    });
    scene.config(listeners, vec![web])
}

/// Has a TCP connection, a connected UDP socket and another one with the first backend, and says what
/// becomes of them.
const HOLDER: &str = "
def have(kind):
    while True:
        sock = dial(VIP, 80 if kind == TCP else 53, kind)
        if ask(sock) == 'b1': return sock
        sock.close()
def talk(sock):
    sock.sendto(b'x', (VIP, 53))
    return sock.recvfrom(100)[0].decode().split()[0]
def state(sock):
    try: return ask(sock)
    except OSError as error: return errno.errorcode.get(error.errno, str(error))
tcp, udp = have(TCP), have(UDP)
while True:
    free = opened(VIP, UDP)
    if talk(free) == 'b1': break
print('has', flush=True)
while True:
    input()
    print(state(tcp), state(udp), talk(free), flush=True)
";

fn lost(family: Family, on_loss: &str, in_pod: bool) -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let _servers = scene.servers(2)?;
    let checked = scene.server(1, HEALTH)?;
    let _other = scene.server(2, HEALTH)?;
    let pod = pod(&scene)?;
    let place: &Namespace = if in_pod { &pod } else { &scene.host };
    let daemon = Daemon::start(&scene.host, &config(&scene, family, on_loss))?;
    for name in family.backends {
        daemon.wait_for_state(name, "up")?;
    }
    let mut holder = scene.talk(place, &format!("VIP = '{}'\n{HOLDER}", family.vip))?;
    ensure!(holder.line()? == "has");
    ensure!(holder.go_on()? == "b1 b1 b1");

    drop(checked);
    daemon.wait_for_state(family.backends[0], "down")?;
    let many = format!(
        "for _ in range(30): print(ask(dial('{0}', 80)), ask(dial('{0}', 53, UDP)))",
        family.vip
    );
    let new = shares(&scene.workload_in(place, &scene.workloads, &many)?);
    ensure!(new.keys().eq(["b2 b2"]), "{new:?}");
    if on_loss == "keep" {
        ensure!(holder.go_on()? == "b1 b1 b2");
        ensure!(balancing(&daemon)?.ended == 0);
        return Ok(());
    }
    daemon.wait_until("both sockets were told", |view| {
        view.socket_balancing
            .as_ref()
            .is_some_and(|one| one.ended == 2)
    })?;
    // What is not connected is not told: its next datagram goes to the other backend.
    // A datagram socket is connected to nobody any more.
    let state = holder.go_on()?;
    ensure!(state == "ECONNABORTED EDESTADDRREQ b2", "{state}");
    // Sockets of others, and those of the other backend, have been left alone.
    let counts = counted(&daemon, "web")?;
    ensure!(counts.unrecorded == 0, "{counts:?}");
    ensure!(balancing(&daemon)?.unreached == 0);
    Ok(())
}
on_families!(lost("reset", false):
    sockets_of_a_lost_backend_are_told_v4 = V4,
    sockets_of_a_lost_backend_are_told_v6 = V6,
);

on_families!(lost("reset", true):
    sockets_of_a_lost_backend_are_told_in_another_namespace_v4 = V4,
    sockets_of_a_lost_backend_are_told_in_another_namespace_v6 = V6,
);

on_families!(lost("keep", false):
    sockets_of_a_lost_backend_are_kept_v4 = V4,
    sockets_of_a_lost_backend_are_kept_v6 = V6,
);

/// A namespace of its own, as a container has, from which the backends can be reached.
pub(crate) fn pod(scene: &Scene) -> Result<Netns> {
    let pod = Netns::create("pod")?;
    scene.host.ip(&format!(
        "link add pod0 type veth peer name eth0 netns {}\n\
         addr add 10.3.0.1/24 dev pod0\n\
         addr add fd03::1/64 dev pod0 nodad\n\
         link set pod0 up\n",
        pod.name()
    ))?;
    scene.host.sysctl("net/ipv6/conf/all/forwarding", "1")?;
    pod.ip("addr add 10.3.0.2/24 dev eth0\n\
         addr add fd03::2/64 dev eth0 nodad\n\
         link set eth0 up\n\
         route add 10.1.0.0/24 via 10.3.0.1\n\
         route add fd01::/64 via fd03::1\n")?;
    Ok(pod)
}

#[test]
fn a_backend_that_leaves_tells_its_sockets_when_its_drain_is_over() -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let _servers = scene.servers(2)?;
    let listeners = vec![listener("web", "192.0.2.10", 80, "web")];
    let web = |backends: &[&str], drain: &str| {
        let mut web = service("web", backends);
        web["at_connect"] = json!({"on_backend_loss": "reset"});
        web["drain_timeout"] = json!(drain);
        scene.config(listeners.clone(), vec![web])
    };
    let daemon = Daemon::start(&scene.host, &web(&V4.backends, "1h"))?;
    let mut holder = scene.talk(
        &scene.host,
        "
while True:
    sock = dial('192.0.2.10', 80)
    if ask(sock) == 'b1': break
    sock.close()
print('has', flush=True)
while True:
    input()
    try: print(ask(sock), flush=True)
    except OSError as error: print(errno.errorcode[error.errno], flush=True)
",
    )?;
    ensure!(holder.line()? == "has");
    daemon.reload(&web(&V4.backends[1..], "1h"))?;
    ensure!(scene.workload("print(ask(dial('192.0.2.10', 80)))")? == "b2");
    ensure!(holder.go_on()? == "b1", "it drains");
    let counts = counted(&daemon, "web")?;
    ensure!(counts.backends.len() == 2, "{counts:?}");
    // It comes back, and leaves without a drain.
    daemon.reload(&web(&V4.backends, "0s"))?;
    ensure!(holder.go_on()? == "b1");
    daemon.reload(&web(&V4.backends[1..], "0s"))?;
    daemon.wait_until("the socket was told", |view| {
        view.socket_balancing
            .as_ref()
            .is_some_and(|one| one.ended == 1)
    })?;
    ensure!(holder.go_on()? == "ECONNABORTED");
    let counts = counted(&daemon, "web")?;
    ensure!(counts.backends.len() == 1, "{counts:?}");
    Ok(())
}

/// Sockets that are to be told.
fn recorded(daemon: &Daemon) -> Result<usize> {
    use libbpf_rs::{MapCore as _, MapHandle};
    let pins = daemon.pin_dir().join("connect/maps");
    let map = MapHandle::from_pinned_path(pins.join("connect_sockets"))?;
    Ok(map.keys().count())
}

/// TCP sockets that have a row.
fn rows(daemon: &Daemon) -> Result<usize> {
    use libbpf_rs::{MapCore as _, MapFlags, MapHandle};
    let pins = daemon.pin_dir().join("connect/maps");
    let map = MapHandle::from_pinned_path(pins.join("connect_rows"))?;
    let mut taken = 0;
    for row in 0..proxy_common::connect::ROWS {
        let row = map.lookup(&row.to_ne_bytes(), MapFlags::ANY)?;
        let row = row.context("an array has all of its elements")?;
        // Its cookie comes first.
        taken += usize::from(row[..8] != [0; 8]);
    }
    Ok(taken)
}

fn dials_again(family: Family) -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let _servers = scene.servers(1)?;
    let at = |name: &str, port: u16| udp(listener(name, family.vip, port, name));
    let backends = &family.backends[..1];
    let (mut told, kept) = (service("told", backends), service("kept", backends));
    told["at_connect"] = json!({"on_backend_loss": "reset"});
    let config = scene.config(vec![at("told", 53), at("kept", 54)], vec![told, kept]);
    let daemon = Daemon::start(&scene.host, &config)?;
    // One socket for all of them; what it has got each time goes with the next.
    let script = format!(
        "
sock = opened('{0}', UDP)
for place in [('{0}', 53), ('{0}', 54), ('{0}', 53), ('{0}', 53), ('{1}', 8080)]:
    sock.connect(place)
    print(ask(sock), sock.getpeername()[1], flush=True)
    input()
",
        family.vip,
        family.backends[0]
            .trim_end_matches(":8080")
            .trim_matches(['[', ']'])
    );
    let mut talk = scene.talk(&scene.host, &script)?;
    let mut said = talk.line()?;
    for (wanted, open) in [
        ("b1 53", [1, 0]),
        ("b1 54", [0, 1]),
        ("b1 53", [1, 0]),
        ("b1 53", [1, 0]),
        ("b1 8080", [0, 0]),
    ] {
        ensure!(said == wanted, "{said}, not {wanted}");
        for (service, open) in ["told", "kept"].into_iter().zip(open) {
            let counts = counted(&daemon, service)?;
            ensure!(counts.backends[0].open == open, "{wanted}: {counts:?}");
            ensure!(counts.unrecorded == 0, "{wanted}: {counts:?}");
        }
        let recorded = recorded(&daemon)?;
        ensure!(recorded as u64 == open[0], "{wanted}: {recorded} recorded");
        if wanted != "b1 8080" {
            said = talk.go_on()?;
        }
    }
    Ok(())
}
on_families!(dials_again:
    what_a_socket_has_got_goes_when_it_dials_again_v4 = V4,
    what_a_socket_has_got_goes_when_it_dials_again_v6 = V6,
);

fn thousands_come_and_go(family: Family) -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let _servers = scene.servers(2)?;
    let listeners = vec![
        listener("web", family.vip, 80, "web"),
        udp(listener("dns", family.vip, 53, "web")),
    ];
    let mut web = service("web", &family.backends);
    web["at_connect"] = json!({"on_backend_loss": "reset"});
    let daemon = Daemon::start(&scene.host, &scene.config(listeners, vec![web]))?;
    let recorded = || recorded(&daemon);
    let script = format!(
        "
import threading
VIP = '{}'
def run():
    for _ in range(500):
        sock = dial(VIP, 80); ask(sock); sock.close()
        sock = dial(VIP, 53, UDP); ask(sock); sock.close()
        sock = opened(VIP, UDP)
        sock.sendto(b'x', (VIP, 53)); sock.recvfrom(100); sock.close()
kept = dial(VIP, 80)
threads = [threading.Thread(target=run) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print('done', flush=True)
input()
print('end', flush=True)
",
        family.vip
    );
    let mut talk = scene.talk(&scene.host, &script)?;
    ensure!(talk.line()? == "done");
    ensure!(recorded()? == 1, "{} sockets are recorded", recorded()?);
    ensure!(rows(&daemon)? == 1, "{} rows are taken", rows(&daemon)?);
    let counts = counted(&daemon, "web")?;
    ensure!(
        counts.connected == 4001 && counts.opened == 2000,
        "{counts:?}"
    );
    ensure!(counts.backends.iter().map(|one| one.open).sum::<u64>() == 1);
    ensure!(talk.go_on()? == "end");
    drop(talk);
    proxy_tests::wait::until("the last one is gone", || Ok(recorded()? == 0))?;
    ensure!(rows(&daemon)? == 0, "{} rows are taken", rows(&daemon)?);
    let counts = counted(&daemon, "web")?;
    ensure!(counts.unrecorded == 0, "{counts:?}");
    Ok(())
}
on_families!(thousands_come_and_go:
    thousands_of_short_connections_leave_nothing_v4 = V4,
    thousands_of_short_connections_leave_nothing_v6 = V6,
);
