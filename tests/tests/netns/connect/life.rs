//! The daemon comes and goes: workloads go on.

use super::scene::{Scene, balancing, counted, listener, service, shares};
use anyhow::{Context as _, Result, ensure};
use proxy_tests::daemon::Daemon;
use serde_json::{Value, json};
use std::path::Path;

const BACKENDS: [&str; 2] = ["10.1.0.1:8080", "10.1.0.2:8080"];

fn config(scene: &Scene) -> Value {
    let listeners = vec![listener("web", "192.0.2.10", 80, "web")];
    scene.config(listeners, vec![service("web", &BACKENDS)])
}

const ASK: &str = "print(ask(dial('192.0.2.10', 80)))";
const CODE: &str = "print(code(lambda: dial('192.0.2.10', 80)))";

#[test]
fn a_killed_daemon_leaves_workloads_balanced_and_the_next_one_adopts_them() -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let _servers = scene.servers(2)?;
    let mut daemon = Daemon::start(&scene.host, &config(&scene))?;
    let mut held = scene.talk(
        &scene.host,
        "
sock = dial('192.0.2.10', 80)
print(ask(sock), flush=True)
while True:
    input()
    print(ask(sock), *sock.getpeername(), flush=True)
",
    )?;
    let name = held.line()?;
    daemon.kill()?;
    let script = "for _ in range(40): print(ask(dial('192.0.2.10', 80)))";
    let alone = shares(&scene.workload(script)?);
    ensure!(alone.len() == 2, "{alone:?}");
    let wanted = format!("{name} 192.0.2.10 80");
    ensure!(held.go_on()? == wanted);
    daemon.run()?;
    daemon.sluice(&["drain", "web", BACKENDS[1], "--timeout", "1h"])?;
    daemon.kill()?;

    daemon.run()?;
    ensure!(daemon.backend("web", BACKENDS[1])?.state == "draining");
    let few = shares(&scene.workload(script)?);
    ensure!(few.keys().eq(["b1"]), "the drain was forgotten: {few:?}");
    let counts = counted(&daemon, "web")?;
    ensure!(counts.connected == 81, "{counts:?}");
    ensure!(counts.backends.iter().map(|one| one.open).sum::<u64>() == 1);
    ensure!(held.go_on()? == wanted);
    scene.workload(ASK)?;
    ensure!(counted(&daemon, "web")?.connected == 82);

    // Told to end, it takes everything away; what is connected stays.
    ensure!(daemon.terminate()?.success());
    ensure!(!daemon.pin_dir().exists(), "pins are left");
    ensure!(scene.workload(CODE)? == "ENETUNREACH");
    ensure!(held.go_on()?.starts_with(&name));
    Ok(())
}

#[test]
fn a_daemon_may_leave_it_behind_and_detach_removes_it() -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let _servers = scene.servers(2)?;
    let mut daemon = Daemon::prepare(&scene.host, &config(&scene), &["--keep-dataplane"])?;
    daemon.run()?;
    ensure!(daemon.terminate()?.success());
    ensure!(scene.workload(CODE)? == "OK");
    let mut detach = scene.host.command(proxy_tests::daemon::sluice()?);
    detach.args(["detach", "--pin-dir"]).arg(daemon.pin_dir());
    proxy_tests::command::run(&mut detach)?;
    ensure!(scene.workload(CODE)? == "ENETUNREACH");
    ensure!(!daemon.pin_dir().exists(), "pins are left");
    Ok(())
}

#[test]
fn a_new_process_takes_it_over() -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let _servers = scene.servers(2)?;
    let daemon = Daemon::start(&scene.host, &config(&scene))?;
    let pid = |daemon: &Daemon| -> Result<u32> { Ok(daemon.status()?.daemon.pid) };
    let first = pid(&daemon)?;
    // Somebody dials all the time.
    let mut dialler = scene.talk(
        &scene.host,
        "
import threading
count, failed, go_on = 0, [], True
def run():
    global count
    while go_on:
        try: ask(dial('192.0.2.10', 80))
        except OSError as error: failed.append(str(error))
        count += 1
thread = threading.Thread(target=run)
thread.start()
print('begun', flush=True)
input()
go_on = False
thread.join()
print(count > 0, failed, flush=True)
",
    )?;
    ensure!(dialler.line()? == "begun");
    daemon.sluice(&["upgrade"])?;
    ensure!(pid(&daemon)? != first);
    scene.workload(ASK)?;
    ensure!(dialler.go_on()? == "True []");
    // It is the new one's now: it follows what that one is told.
    daemon.reload(&scene.config(
        vec![listener("web", "192.0.2.11", 80, "web")],
        vec![service("web", &BACKENDS)],
    ))?;
    ensure!(scene.workload(CODE)? == "ENETUNREACH");
    scene.workload("ask(dial('192.0.2.11', 80))")?;
    let view = balancing(&daemon)?;
    ensure!(view.state == "on" && view.reason.is_none(), "{view:?}");
    Ok(())
}

#[test]
fn cgroups_are_taken_up_when_they_come() -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let _servers = scene.servers(2)?;
    let path = format!("{}/later", scene.workloads.path());
    let mut later = config(&scene);
    later["connect"]["cgroups"] = json!([path]);
    let daemon = Daemon::start(&scene.host, &later)?;
    let view = balancing(&daemon)?;
    ensure!(
        view.state == "off" && view.cgroups[0].id.is_none(),
        "{view:?}"
    );
    ensure!(daemon.sluice(&["status"])?.contains("(absent)"));
    // Twice, as one that is restarted does.
    for _ in 0..2 {
        let cgroup = scene.workloads.child("later")?;
        let id = Some(cgroup.id()?);
        daemon.wait_until("the cgroup is taken up", |view| {
            let balancing = view.socket_balancing.as_ref();
            balancing.is_some_and(|one| one.cgroups[0].id == id)
        })?;
        let name = scene.workload_in(&scene.host, &cgroup, ASK)?;
        ensure!(["b1", "b2"].contains(&&*name), "{name}");
        // What is beside it is left alone.
        ensure!(scene.workload(CODE)? == "ENETUNREACH");
    }
    Ok(())
}

#[test]
fn the_daemon_is_left_alone_and_so_are_sockets_from_before() -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let _servers = scene.servers(2)?;
    // The second backend's own address is a VIP, which only workloads reach by the first.
    let listeners = vec![
        listener("web", "10.1.0.2", 8080, "web"),
        json!({
            "name": "proxy", "kind": "tcp", "address": "127.0.0.1", "port": 9000,
            "service": "second",
        }),
    ];
    let services = vec![
        service("web", &["10.1.0.1:8080"]),
        json!({
            "name": "second", "backends": ["10.1.0.2:8080"],
            "health": {"tcp": {}, "interval": "1s", "timeout": "900ms"},
        }),
    ];
    let mut before = scene.talk(
        &scene.host,
        "
sock = dial('10.1.0.2', 8080)
print(ask(sock), flush=True)
while True:
    input()
    print(ask(sock), sock.getpeername()[0], flush=True)
",
    )?;
    ensure!(before.line()? == "b2");
    let config = scene.config(listeners, services);
    let mut daemon = Daemon::prepare(&scene.host, &config, &[])?;
    daemon.set_cgroup(&scene.folder()?);
    daemon.run()?;
    ensure!(before.go_on()? == "b2 10.1.0.2");
    ensure!(scene.workload("print(ask(dial('10.1.0.2', 8080)))")? == "b1");
    ensure!(scene.workload("print(ask(dial('127.0.0.1', 9000)))")? == "b2");
    let counts = counted(&daemon, "web")?;
    ensure!(counts.connected == 1, "{counts:?}");
    // Its successor is left alone as well.
    daemon.sluice(&["upgrade"])?;
    ensure!(scene.workload("print(ask(dial('127.0.0.1', 9000)))")? == "b2");
    ensure!(counted(&daemon, "web")?.connected == 1);
    Ok(())
}

#[test]
fn a_reload_begins_and_ends_it() -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let _servers = scene.servers(2)?;
    let nothing = json!({
        "listeners": [{
            "name": "proxy", "kind": "tcp", "address": "127.0.0.1", "port": 9000, "service": "web",
        }],
        "services": [{"name": "web", "backends": BACKENDS}],
    });
    let daemon = Daemon::start(&scene.host, &nothing)?;
    ensure!(daemon.status()?.socket_balancing.is_none());
    let pins = daemon.pin_dir().join("connect");
    for _ in 0..2 {
        daemon.reload(&config(&scene))?;
        ensure!(scene.workload(CODE)? == "OK");
        ensure!(pins.exists());
        daemon.reload(&nothing)?;
        ensure!(scene.workload(CODE)? == "ENETUNREACH");
        ensure!(!pins.exists(), "pins are left");
    }
    Ok(())
}

#[test]
fn without_cgroups_the_rest_runs_and_says_why() -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    // Another daemon has the directory.
    let first = Daemon::start(&scene.host, &config(&scene))?;
    let mut second = config(&scene);
    second["connect"]["pin_dir"] = json!(first.pin_dir().join("connect"));
    let mut other = Daemon::prepare(&scene.host, &second, &[])?;
    second["admin"]["socket"] = json!(other.socket());
    other.write_config_text(&second.to_string())?;
    other.run()?;
    let view = balancing(&other)?;
    ensure!(view.state == "off", "{view:?}");
    let reason = view.reason.context("a reason")?;
    ensure!(reason.contains("is in use by"), "{reason}");
    // It leaves what is the other's.
    ensure!(other.terminate()?.success());
    ensure!(first.pin_dir().join("connect/links").exists());
    Ok(())
}

#[test]
fn the_example_balances_as_it_is() -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let _servers = scene.servers(3)?;
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/connect.yaml");
    let mut example: Value = serde_saphyr::from_str(&std::fs::read_to_string(file)?)?;
    // But for the names of this host's cgroups.
    example["connect"]["cgroups"] = json!([scene.workloads.path()]);
    let daemon = Daemon::start(&scene.host, &example)?;
    let script = "for _ in range(60): print(ask(dial('192.0.2.10', 80)))";
    let web = shares(&scene.workload(script)?);
    ensure!(web.len() == 2, "{web:?}");
    let script = "
sock = opened('192.0.2.10', UDP)
sock.sendto(b'x', ('192.0.2.10', 53))
print(sock.recvfrom(100)[1][0])
";
    ensure!(scene.workload(script)? == "192.0.2.10");
    let asked = scene.workload("print(ask(dial('192.0.2.12', 6379)))")?;
    ensure!(asked == "b3", "{asked}");
    let mut explain = scene.host.command(proxy_tests::daemon::sluice()?);
    explain.args(["explain", "-c"]).arg(daemon.config_file());
    explain.args(["--tcp", "10.1.0.9:1", "192.0.2.10:80"]);
    let explained = proxy_tests::command::run(&mut explain)?;
    ensure!(explained.contains("at connect()"), "{explained}");
    Ok(())
}

#[test]
fn the_benchmark_serves_both_ways() -> Result<()> {
    use proxy_tests::bench::at_connect::{Effort, rows};
    if !proxy_tests::privilege::granted()? {
        return Ok(());
    }
    let short = Effort {
        time: std::time::Duration::from_secs(1),
        rounds: 1,
    };
    let rows = rows(short)?;
    let ids: Vec<_> = rows.iter().map(|row| row.id.as_str()).collect();
    ensure!(ids == ["direct_kept", "connect_kept", "direct_new", "connect_new"]);
    ensure!(rows.iter().all(|row| row.value > 0.0), "{rows:?}");
    Ok(())
}
