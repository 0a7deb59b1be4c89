//! What workloads of the mesh dial is the VIP of a service: it is the service that they get, also
//! where their sockets would be balanced at connect().

use crate::mesh::{Family, Program, Scene, V4, V6, at, config, curl, serve};
use anyhow::{Context as _, Result, ensure};
use proxy_tests::cgroup::Cgroup;
use proxy_tests::command::run;
use proxy_tests::daemon::Daemon;
use proxy_tests::origin::Origin;
use proxy_tests::{privilege, wait};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;

/// The VIP, which no host has.
pub(crate) fn vip(family: Family) -> &'static str {
    match family.any {
        "::" => "2001:db8::12",
        _ => "192.0.2.12",
    }
}

/// Answers a line with its name.
const NAMER: &str = "
import socket, sys
server = socket.create_server((sys.argv[1], int(sys.argv[2])), family=socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET)
while True:
    peer, _ = server.accept()
    line = peer.makefile('rb').readline()
    if line: peer.sendall(sys.argv[3].encode() + b'\\n')
    peer.close()
";

fn namer(scene: &Scene, address: &str, name: &str) -> Result<Program> {
    let args = ["-c", NAMER, address, "7001", name];
    serve(&scene.net, "python3", &args, at(address, 7001))
}

/// One service by lines, one by HTTP, both with a backend that nobody is at.
fn services(family: Family) -> (Value, Value) {
    let (server, other) = (family.server, family.other);
    let listener = |name: &str, port: u16| json!({"name": name, "kind": "l4", "address": vip(family), "port": port, "service": name});
    let service = |name: &str, backends: &[(&str, u16)]| {
        let backends = backends
            .iter()
            .map(|(address, port)| at(address, *port).to_string());
        let backends: Vec<_> = backends.collect();
        json!({"name": name, "backends": backends})
    };
    (
        json!([listener("lines", 7000), listener("web", 80)]),
        json!([
            service("lines", &[(server, 7001), (other, 7001), (server, 7999)]),
            service("web", &[(server, 8080), (server, 7999)]),
        ]),
    )
}

fn served(family: Family, unmatched: &str) -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let _web = Origin::start(&scene.net, "web", &[8080], &[])?;
    let _one = namer(&scene, family.server, "one")?;
    let _two = namer(&scene, family.other, "two")?;
    let log = tempfile::NamedTempFile::new()?;
    let mesh = json!({"cgroups": [scene.shop.path()], "unmatched": unmatched});
    let own = json!({"routes": [{
        "name": "own", "match": ["/own"], "respond": {"status": 200, "body": "own"},
    }]});
    let mut config = config(family.loopback, mesh, own);
    let (listeners, services) = services(family);
    config["l4"] = json!({"interfaces": ["lo"]});
    config["listeners"][0]["access_log"] = json!({"to": log.path()});
    let own = config["listeners"].as_array_mut().context("a list")?;
    own.extend(listeners.as_array().context("a list")?.iter().cloned());
    config["services"] = services;
    let daemon = Daemon::start(&scene.host, &config)?;
    let said = scene.python(&format!(
        "import socket\n\
         for _ in range(12):\n\
        \x20   s = socket.create_connection(('{}', 7000), timeout=20)\n\
        \x20   s.sendall(b'who\\n'); print(s.makefile('rb').read().decode().strip())\n",
        vip(family)
    ))?;
    let names: Vec<_> = said.lines().collect();
    ensure!(
        names.len() == 12
            && names.iter().copied().collect::<BTreeSet<_>>() == ["one", "two"].into(),
        "{said}"
    );
    // HTTP that no route is for as well.
    for _ in 0..4 {
        let url = format!("http://{}/name", at(vip(family), 80));
        ensure!(scene.curl(&[&url])? == "web");
    }
    wait::until("the services are in the log", || {
        let text = fs::read_to_string(log.path())?;
        let lines: Vec<Value> = text.lines().flat_map(serde_json::from_str).collect();
        let count = |service: &str, server: u16| {
            let of = lines.iter().filter(|line| {
                line["service"] == service
                    && line["server"] == at(vip(family), server).to_string()
                    && line["workload"] == scene.shop.path()
            });
            of.count()
        };
        Ok(count("lines", 7000) == 12 && count("web", 80) == 4)
    })?;
    let metrics = daemon.admin_get("/metrics")?;
    let retried = metrics.lines().any(|line| {
        line.starts_with("sluice_") && line.contains("retr") && line.contains(r#"service="lines""#)
    });
    ensure!(retried, "{metrics}");
    Ok(())
}

#[test]
fn a_vip_that_is_dialled_is_its_service_v4() -> Result<()> {
    served(V4, "passthrough")
}

#[test]
fn a_vip_that_is_dialled_is_its_service_v6() -> Result<()> {
    served(V6, "refuse")
}

/// Both capabilities on a cgroup, or each on its own.
fn both(family: Family, mesh: Option<&str>, connect: Option<&str>) -> Value {
    let cgroups = json!({"cgroups": [mesh.unwrap_or("/")]});
    let mut config = config(family.loopback, cgroups, json!({}));
    if mesh.is_none() {
        config["listeners"] = json!([]);
    }
    if let Some(cgroup) = connect {
        config["connect"] = json!({"cgroups": [cgroup]});
        let listeners = config["listeners"].as_array_mut().into_iter();
        listeners.for_each(|all| {
            all.push(json!({
                "name": "redis", "kind": "l4", "address": vip(family), "port": 6379,
                "service": "redis",
            }));
        });
        config["services"] = json!([{
            "name": "redis",
            "backends": [at(family.server, 6380).to_string()],
            "at_connect": {},
        }]);
    }
    config
}

fn order(family: Family) -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let Some(redis) = privilege::program("redis-server", "redis-server")? else {
        return Ok(());
    };
    let words = [
        "--bind",
        family.server,
        "--protected-mode",
        "no",
        "--save",
        "",
        "--port",
        "6380",
    ];
    let redis = redis.to_str().context("a path")?;
    let _redis = serve(&scene.net, redis, &words, at(family.server, 6380))?;
    let inner = scene.shop.child("inner")?;
    let (mesh, shop) = (Some(scene.shop.path()), Some(scene.shop.path()));
    let ask = |cgroup: &Cgroup| -> Result<String> {
        let mut redis = cgroup.command(&scene.host, "redis-cli")?;
        Ok(run(redis.args(["-h", vip(family), "PING"]))?
            .trim()
            .to_owned())
    };
    // Whichever comes first, and whichever is nearer to the workload.
    for steps in [
        vec![both(family, mesh, shop)],
        vec![both(family, None, shop), both(family, mesh, shop)],
        vec![both(family, mesh, None), both(family, mesh, shop)],
        vec![
            both(family, None, Some(inner.path())),
            both(family, mesh, Some(inner.path())),
        ],
    ] {
        let (first, rest) = steps.split_first().context("there is one")?;
        let mut daemon = Daemon::start(&scene.host, first)?;
        for next in rest {
            daemon.reload(next)?;
        }
        for _ in 0..2 {
            ensure!(ask(&inner)? == "PONG");
            let view = daemon.status()?;
            let of_mesh = &view.mesh.context("something is redirected")?.listeners[0];
            let balanced = view.socket_balancing.context("something is balanced")?;
            let given: u64 = balanced.services.iter().map(|it| it.connected).sum();
            ensure!(
                of_mesh.redirected >= 1 && given == 0,
                "{of_mesh:?} {balanced:?}"
            );
            // What a daemon that was killed has left keeps its order.
            daemon.kill()?;
            daemon.run()?;
        }
        daemon.terminate()?;
    }
    // The one that is not of the mesh is balanced.
    let daemon = Daemon::start(&scene.host, &both(family, None, shop))?;
    ensure!(ask(&inner)? == "PONG");
    let balanced = daemon.status()?.socket_balancing.context("balanced")?;
    ensure!(balanced.services[0].connected == 1, "{balanced:?}");
    Ok(())
}
on_families!(order:
    the_mesh_comes_before_balancing_at_connect_v4 = V4,
    the_mesh_comes_before_balancing_at_connect_v6 = V6,
);

#[test]
fn who_is_outside_of_the_mesh_gets_no_service_of_it() -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let outside = Cgroup::create("outside")?;
    let mut config = config(
        "127.0.0.1",
        json!({"cgroups": [scene.shop.path()]}),
        json!({}),
    );
    let (listeners, services) = services(V4);
    config["l4"] = json!({"interfaces": ["lo"]});
    let own = config["listeners"].as_array_mut().context("a list")?;
    own.extend(listeners.as_array().context("a list")?.iter().cloned());
    config["services"] = services;
    let _web = Origin::start(&scene.net, "web", &[8080], &[])?;
    let _daemon = Daemon::start(&scene.host, &config)?;
    let url = format!("http://{}/name", at(vip(V4), 80));
    ensure!(scene.curl(&[&url])? == "web");
    // To the listener itself: nobody has dialled a VIP.
    let direct = "http://127.0.0.1:15001/name";
    let code = ["-o", "/dev/null", "-w", "%{http_code}", direct];
    ensure!(curl(&outside, &scene.host, &code)? == "404");
    Ok(())
}
