//! Redirection where something goes wrong, or comes in another order.

use crate::mesh::{Family, Program, Scene, V4, V6, at, config, curl};
use anyhow::{Context as _, Result, ensure};
use proxy_tests::cgroup::Cgroup;
use proxy_tests::daemon::Daemon;
use proxy_tests::origin::Origin;
use proxy_tests::wait;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;
use std::time::Instant;

/// A route that answers by itself, so that who is redirected can tell.
fn answer() -> Value {
    json!({"routes": [{
        "name": "daemon",
        "match": ["/daemon"],
        "respond": {"status": 200, "body": "daemon"},
    }]})
}

fn killed(family: Family, on_failure: &str, wanted: Option<&str>) -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let _stable = Origin::start(&scene.net, "stable", &[8080], &[])?;
    let mesh = json!({"cgroups": [scene.shop.path()], "on_failure": on_failure});
    let mut daemon = Daemon::start(&scene.host, &config(family.loopback, mesh, answer()))?;
    let (own, name) = (family.url(8080, "/daemon"), family.url(8080, "/name"));
    ensure!(scene.curl(&[&own])? == "daemon");
    daemon.kill()?;
    // From the first connection on, and at once.
    let before = Instant::now();
    for _ in 0..20 {
        let came = scene.curl(&[&name]);
        match wanted {
            Some(wanted) => ensure!(came? == wanted),
            None => {
                let error = format!("{:#}", came.err().context("refused")?);
                // What curl says of a connection that was refused (its exit code 7).
                ensure!(error.contains("exit status: 7"), "{error}");
            }
        }
    }
    let took = before.elapsed();
    ensure!(took.as_secs() < 60, "twenty connections took {took:?}");
    // The next daemon goes on with what the last one has left.
    daemon.run()?;
    ensure!(scene.curl(&[&own])? == "daemon");
    let mesh = daemon.status()?.mesh.context("something is redirected")?;
    let one = &mesh.listeners[0];
    let (refused, passed) = if wanted.is_some() { (0, 20) } else { (20, 0) };
    ensure!((one.refused, one.passed) == (refused, passed), "{mesh:?}");
    // One that is told to end takes the redirection with it.
    daemon.terminate()?;
    ensure!(scene.curl(&[&name])? == "stable");
    ensure!(!daemon.pin_dir().join("redirect").exists());
    Ok(())
}
on_families!(killed("closed", None):
    a_killed_daemon_closes_v4 = V4,
    a_killed_daemon_closes_v6 = V6,
);

on_families!(killed("open", Some("stable")):
    a_killed_daemon_opens_v4 = V4,
    a_killed_daemon_opens_v6 = V6,
);

fn never_to_itself(family: Family) -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let _stable = Origin::start(&scene.net, "stable", &[8080], &[])?;
    let shop = Cgroup::create("all")?;
    let inner = shop.child("inner")?;
    // Chosen twice, once by a cgroup above.
    let mesh = json!({"cgroups": [shop.path(), inner.path()]});
    let mut daemon = Daemon::prepare(&scene.host, &config(family.loopback, mesh, answer()), &[])?;
    let root = proxy_userspace::sockets::cgroup_root()?;
    daemon.set_cgroup(&root.join(shop.path().trim_start_matches('/')));
    daemon.run()?;
    for cgroup in [&shop, &inner] {
        ensure!(curl(cgroup, &scene.host, &[&family.url(8080, "/daemon")])? == "daemon");
        ensure!(curl(cgroup, &scene.host, &[&family.url(8080, "/name")])? == "stable");
    }
    let mesh = daemon.status()?.mesh.context("something is redirected")?;
    // Each of the four connections once, and none of the daemon's.
    let one = &mesh.listeners[0];
    ensure!((one.redirected, one.excluded) == (4, 0), "{mesh:?}");
    ensure!(one.workloads.len() == 2, "{mesh:?}");
    daemon.terminate().map(drop)
}
on_families!(never_to_itself:
    the_daemon_is_never_redirected_to_itself_v4 = V4,
    the_daemon_is_never_redirected_to_itself_v6 = V6,
);

fn from_before(family: Family) -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let _stable = Origin::start(&scene.net, "stable", &[8080], &[])?;
    // A workload that has a connection before there is a daemon, and is told when to go on.
    let mut command = scene.shop.command(&scene.host, "python3")?;
    let script = format!(
        "import http.client, sys\n\
         def ask(c, path):\n\
        \x20   c.request('GET', path); r = c.getresponse()\n\
        \x20   print(r.status, r.read().decode().strip(), c.sock.getpeername()[:2], flush=True)\n\
         old = http.client.HTTPConnection('{0}', 8080, timeout=20)\n\
         ask(old, '/name')\n\
         for line in sys.stdin:\n\
        \x20   ask(old, '/name')\n\
        \x20   ask(http.client.HTTPConnection('{0}', 8080, timeout=20), '/daemon')\n",
        family.server
    );
    command.args(["-c", &script]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut workload = Program(command.spawn()?);
    let mut stdin = workload.0.stdin.take().context("piped")?;
    let mut lines = BufReader::new(workload.0.stdout.take().context("piped")?).lines();
    let mut line = || lines.next().context("a line")?.context("read");
    let direct = format!("200 stable ('{}', 8080)", family.server);
    ensure!(line()? == direct);

    let mesh = json!({"cgroups": [scene.shop.path()]});
    let daemon = Daemon::start(&scene.host, &config(family.loopback, mesh, answer()))?;
    writeln!(stdin)?;
    ensure!(line()? == direct);
    // A new one of the same process is redirected.
    let redirected = format!("200 daemon ('{}', 8080)", family.server);
    let said = line()?;
    ensure!(said == redirected, "{said}");
    let mesh = daemon.status()?.mesh.context("something is redirected")?;
    ensure!(mesh.listeners[0].redirected == 1, "{mesh:?}");
    Ok(())
}
on_families!(from_before:
    connections_from_before_are_left_alone_v4 = V4,
    connections_from_before_are_left_alone_v6 = V6,
);

fn comes_later(family: Family) -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let _stable = Origin::start(&scene.net, "stable", &[8080], &[])?;
    let later = format!("{}/later", scene.shop.path());
    let mesh = json!({"cgroups": [later]});
    let daemon = Daemon::start(&scene.host, &config(family.loopback, mesh, answer()))?;
    let state = |wanted: &'static str| {
        daemon.wait_until(wanted, |view| {
            let mesh = view.mesh.as_ref();
            mesh.is_some_and(|mesh| mesh.cgroups[0].state == wanted)
        })
    };
    for _ in 0..2 {
        state("waiting")?;
        let later = scene.shop.child("later")?;
        state("redirected")?;
        ensure!(curl(&later, &scene.host, &[&family.url(8080, "/daemon")])? == "daemon");
        drop(later);
    }
    state("waiting")
}
on_families!(comes_later:
    a_cgroup_that_comes_later_is_redirected_then_v4 = V4,
    a_cgroup_that_comes_later_is_redirected_then_v6 = V6,
);

fn failing_first(family: Family) -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let _good = Origin::start(&scene.net, "good", &[8081], &[])?;
    let bad = Origin::start(&scene.net, "bad", &[8082], &[])?;
    bad.set_failing(true);
    let more = json!({
        "routes": [{"name": "all", "service": "both"}],
        "services": [{
            "name": "both",
            "backends": [
                at(family.server, 8082).to_string(),
                at(family.server, 8081).to_string(),
            ],
            "retries": {"on": ["5xx"]},
        }],
    });
    let mesh = json!({"cgroups": [scene.shop.path()]});
    let _daemon = Daemon::start(&scene.host, &config(family.loopback, mesh, more))?;
    // Nobody is at the address that is dialled.
    let url = family.url(8099, "/name");
    for _ in 0..6 {
        ensure!(scene.curl(&[&url])? == "good");
    }
    ensure!(bad.requests() > 0);
    Ok(())
}
on_families!(failing_first:
    a_failing_first_backend_is_made_up_for_v4 = V4,
    a_failing_first_backend_is_made_up_for_v6 = V6,
);

fn upgraded(family: Family) -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let _stable = Origin::start(&scene.net, "stable", &[8080], &[])?;
    let mesh = json!({"cgroups": [scene.shop.path()]});
    let daemon = Daemon::start(&scene.host, &config(family.loopback, mesh, answer()))?;
    let (own, name) = (family.url(8080, "/daemon"), family.url(8080, "/name"));
    ensure!(scene.curl(&[&own])? == "daemon");
    daemon.sluice(&["upgrade"])?;
    for _ in 0..10 {
        ensure!(
            scene
                .curl(&[&own, "--next", "-s", "--noproxy", "*", &name])?
                .replace('\n', "")
                == "daemonstable"
        );
    }
    wait::until("the new process tells of it", || {
        Ok(daemon
            .status()?
            .mesh
            .is_some_and(|mesh| mesh.listeners[0].refused == 0))
    })
}
on_families!(upgraded:
    an_upgrade_keeps_it_v4 = V4,
    an_upgrade_keeps_it_v6 = V6,
);
