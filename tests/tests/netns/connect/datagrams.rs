//! UDP: connected sockets and others.

use super::scene::{Scene, counted, listener, service, shares, udp};
use anyhow::{Result, ensure};
use proxy_tests::daemon::Daemon;
use serde_json::{Value, json};

const V4: [&str; 3] = ["10.1.0.1:8080", "10.1.0.2:8080", "10.1.0.3:8080"];
const V6: [&str; 3] = ["[fd01::1]:8080", "[fd01::2]:8080", "[fd01::3]:8080"];

fn config(scene: &Scene) -> Value {
    let listeners = vec![
        udp(listener("dns", "192.0.2.10", 53, "dns")),
        udp(listener("other", "192.0.2.11", 53, "other")),
        udp(listener("dns6", "2001:db8::10", 53, "dns6")),
        udp(listener("other6", "2001:db8::11", 53, "other6")),
    ];
    let services = vec![
        service("dns", &V4),
        service("other", &V4[..1]),
        service("dns6", &V6),
        service("other6", &V6[..1]),
    ];
    scene.config(listeners, services)
}

/// Sockets that are connected, and such that are not: whom they get and whom they see.
fn datagrams([dialled, other]: [&str; 2]) -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let _servers = scene.servers(3)?;
    let daemon = Daemon::start(&scene.host, &config(&scene))?;
    let script = format!(
        "
for _ in range(40):
    sock = dial('{dialled}', 53, UDP)
    assert sock.getpeername()[:2] == ('{dialled}', 53), sock.getpeername()
    names = set()
    for _ in range(3):
        sock.send(b'x')
        data, peer = sock.recvfrom(100)
        assert peer[:2] == ('{dialled}', 53), peer
        names.add(data.split()[0])
    # Though connected, it may name its peer.
    sock.sendto(b'x', sock.getpeername())
    names.add(sock.recv(100).split()[0])
    assert len(names) == 1, names
    print(names.pop().decode())
"
    );
    let connected = shares(&scene.workload(&script)?);
    ensure!(connected.len() == 3, "{connected:?}");
    let script = format!(
        "
for _ in range(40):
    sock = opened('{dialled}', UDP)
    names = set()
    for turn in range(4):
        sock.sendto(b'x', ('{dialled}', 53))
        data, peer = sock.recvfrom(100)
        assert peer[:2] == ('{dialled}', 53), peer
        names.add(data.split()[0])
        sock.sendto(b'x', ('{other}', 53))
        data, peer = sock.recvfrom(100)
        # Where both got the same backend, its answers belong to either.
        assert peer[0] in ('{dialled}', '{other}') and data.startswith(b'b1'), (data, peer)
    assert len(names) == 1, names
    print(names.pop().decode())
"
    );
    let others = shares(&scene.workload(&script)?);
    ensure!(others.len() == 3, "{others:?}");
    let service = if dialled.starts_with("2001") {
        "dns6"
    } else {
        "dns"
    };
    let counts = counted(&daemon, service)?;
    ensure!(counts.connected == 40 && counts.opened == 40, "{counts:?}");
    ensure!(counts.datagrams == 40 * 4 + 40, "{counts:?}");
    ensure!(
        counts.backends.iter().all(|one| one.open == 0),
        "{counts:?}"
    );
    let script =
        format!("print(code(lambda: opened('{dialled}', UDP).sendto(b'x', ('{dialled}', 53))))");
    let outside = scene.outsider(&script)?;
    ensure!(outside == "ENETUNREACH", "{outside}");
    Ok(())
}
on_families!(datagrams:
    datagrams_get_a_backend_and_come_from_the_vip_v4 = ["192.0.2.10", "192.0.2.11"],
    datagrams_get_a_backend_and_come_from_the_vip_v6 = ["2001:db8::10", "2001:db8::11"],
    datagrams_get_a_backend_and_come_from_the_vip_mapped = ["::ffff:192.0.2.10", "::ffff:192.0.2.11"],
);

#[test]
fn a_socket_changes_its_backend_when_that_is_gone_or_after_a_pause() -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let _servers = scene.servers(2)?;
    let listeners = vec![udp(listener("dns", "192.0.2.10", 53, "dns"))];
    let mut dns = service("dns", &V4[..2]);
    dns["timeouts"] = json!({"udp": "200ms"});
    let daemon = Daemon::start(&scene.host, &scene.config(listeners.clone(), vec![dns]))?;
    // After pauses it gets whoever is drawn: both within 64 draws, or somebody is very unlucky.
    let script = "
sock = opened('192.0.2.10', UDP)
names = set()
for _ in range(64):
    sock.sendto(b'x', ('192.0.2.10', 53))
    names.add(sock.recvfrom(100)[0].split()[0])
    if len(names) == 2: break
    time.sleep(0.3)
print(len(names))
";
    ensure!(scene.workload(script)? == "2");
    let patient = service("dns", &V4[..2]);
    daemon.reload(&scene.config(listeners.clone(), vec![patient]))?;
    let mut talk = scene.talk(
        &scene.host,
        "
sock = opened('192.0.2.10', UDP)
while True:
    sock.sendto(b'x', ('192.0.2.10', 53))
    print(sock.recvfrom(100)[0].split()[0].decode(), flush=True)
    input()
",
    )?;
    let first = talk.line()?;
    ensure!(talk.go_on()? == first);
    // The backend leaves, at once.
    let other = usize::from(first == "b1");
    let mut left = service("dns", &[V4[other]]);
    left["drain_timeout"] = json!("0s");
    daemon.reload(&scene.config(listeners, vec![left]))?;
    proxy_tests::wait::until("the socket gets the other one", || {
        Ok(talk.go_on()? != first)
    })
}

#[test]
fn without_a_backend_a_datagram_is_refused() -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let listeners = vec![udp(listener("dns", "192.0.2.10", 53, "dns"))];
    let dns = json!({
        "name": "dns", "backends": [{"address": "10.1.0.1:8080", "weight": 0}], "at_connect": {},
    });
    let daemon = Daemon::start(&scene.host, &scene.config(listeners, vec![dns]))?;
    let script = "
print(code(lambda: dial('192.0.2.10', 53, UDP)))
print(code(lambda: opened('192.0.2.10', UDP).sendto(b'x', ('192.0.2.10', 53))))
";
    ensure!(scene.workload(script)? == "ECONNREFUSED\nECONNREFUSED");
    ensure!(counted(&daemon, "dns")?.refused == 2);
    Ok(())
}
