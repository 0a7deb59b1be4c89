//! What the mesh has no room for, and whom nobody serves: bounded, counted and told.

use crate::mesh::{Family, Scene, V4, V6, at, config};
use crate::mesh_inbound::{ask, inbound, url, web};
use crate::mesh_vips::vip;
use anyhow::{Context as _, Result, ensure};
use proxy_common::redirect::LISTENING;
use proxy_tests::daemon::Daemon;
use proxy_tests::origin::Origin;
use proxy_tests::wait;
use proxy_userspace::observe::view::MeshView;
use serde_json::json;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

/// Listens at so many ports from the first one on, each at two addresses.
const GREEDY: &str = "
import resource, socket, sys
count, first = int(sys.argv[1]), int(sys.argv[2])
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
held = []
for port in range(first, first + count):
    for address in sys.argv[3:]:
        family = socket.AF_INET6 if ':' in address else socket.AF_INET
        one = socket.socket(family, socket.SOCK_STREAM)
        one.bind((address, port))
        one.listen(1)
        held.append(one)
print('ready', flush=True)
sys.stdin.read()
";

/// Programs listen at more ports than can be known: the highest are served by the programs themselves,
/// those below go through the daemon as before, and a configuration can be changed.
#[test]
fn ports_without_room_are_told_of_and_served_by_the_programs() -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let _low = web(&scene.shop, &scene.host, "0.0.0.0", 8080, "low")?;
    let _high = web(&scene.shop, &scene.host, "0.0.0.0", 30_000, "high")?;
    let config = inbound(&scene, V4, json!({}));
    let daemon = Daemon::start(&scene.host, &config)?;
    let own = |port| ask(&scene, &[&url(V4, port, "/daemon")]);
    ensure!(own(8080)? == "daemon" && own(30_000)? == "daemon");
    let mesh = || -> Result<MeshView> {
        let mesh = daemon.status()?.mesh;
        mesh.context("something is redirected")
    };
    let known = mesh()?;
    ensure!(
        (known.ports, known.ports_without_room) == (2, 0),
        "{known:?}"
    );

    // Beside the lower of the two programs there is room for all but the last.
    let ports = LISTENING / 2;
    let mut greedy = scene.shop.command(&scene.host, "python3")?;
    greedy.args(["-c", GREEDY, &ports.to_string(), "10000"]);
    greedy.args(["10.9.0.1", "10.8.0.1"]);
    greedy.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut greedy = crate::mesh::Program(greedy.spawn()?);
    let output = greedy.0.stdout.take().context("piped")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    ensure!(line == "ready\n", "{line:?}");
    wait::until("that is known", || Ok(mesh()?.ports_without_room > 0))?;
    // The highest of its own, which is a port of two sockets, and the other program's.
    wait::until("it is settled", || {
        let known = mesh()?;
        let wanted = (u64::from(LISTENING) - 1, 3);
        Ok((known.ports, known.ports_without_room) == wanted)
    })?;
    ensure!(own(8080)? == "daemon");
    ensure!(own(30_000)? == "high -");
    let known = mesh()?;
    ensure!(known.error.is_none(), "{known:?}");
    ensure!(known.cgroups[0].state == "redirected", "{known:?}");
    let text = daemon.sluice(&["status"])?;
    ensure!(text.contains("3 ports without room"), "{text}");
    let metrics = daemon.admin_get("/metrics")?;
    ensure!(
        metrics.contains("sluice_mesh_ports_without_room 3"),
        "{metrics}"
    );
    // Whoever listens at much cannot keep others from changing what is configured.
    daemon.reload(&config)?;
    ensure!(own(8080)? == "daemon");
    let told = "more ports than there is room for";
    let times = daemon.log().matches(told).count();
    ensure!(times == 1, "told {times} times");

    drop(greedy);
    wait::until("there is room again", || {
        let known = mesh()?;
        Ok((known.ports, known.ports_without_room) == (2, 0))
    })?;
    ensure!(own(30_000)? == "daemon");
    ensure!(daemon.log().contains("there is room for all ports"));
    Ok(())
}

/// A service without backends: who dials its VIP through the mesh is answered or let go of at once, and
/// not passed on to an address that nobody has.
fn nobody(family: Family) -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let _web = Origin::start(&scene.net, "web", &[8080], &[])?;
    let mesh = json!({"cgroups": [scene.shop.path()]});
    let mut config = config(family.loopback, mesh, json!({}));
    config["l4"] = json!({"interfaces": ["lo"]});
    let own = config["listeners"].as_array_mut().context("a list")?;
    for (name, port) in [("lines", 7000), ("web", 80)] {
        own.push(json!({
            "name": name, "kind": "l4", "address": vip(family), "port": port, "service": name,
        }));
    }
    config["services"] = json!([
        {"name": "lines", "backends": []},
        {"name": "web", "backends": []},
    ]);
    let daemon = Daemon::start(&scene.host, &config)?;
    let told = daemon.log().matches("the service has no backends").count();
    ensure!(told == 2, "told of {told}");
    let url = format!("http://{}/name", at(vip(family), 80));
    let code = ["-o", "/dev/null", "-w", "%{http_code}", &url];
    ensure!(scene.curl(&code)? == "503");
    let said = scene.python(&format!(
        "import socket, time\n\
         begun = time.monotonic()\n\
         s = socket.create_connection(('{}', 7000), timeout=60)\n\
         s.sendall(b'who\\n')\n\
         try: said = s.recv(100)\n\
         except ConnectionResetError: said = b''\n\
         print(said, time.monotonic() - begun < 30)\n",
        vip(family)
    ))?;
    ensure!(said.trim() == "b'' True", "{said}");
    wait::until("both are counted", || {
        let metrics = daemon.admin_get("/metrics")?;
        Ok(metrics.contains(r#"sluice_request_ends_total{listener="mesh",end="no_backend"} 2"#))
    })?;

    // Once there is one, it serves.
    config["services"][1]["backends"] = json!([at(family.server, 8080).to_string()]);
    daemon.reload(&config)?;
    ensure!(scene.curl(&[&url])? == "web");
    Ok(())
}

#[test]
fn a_vip_without_backends_is_answered_at_once_v4() -> Result<()> {
    nobody(V4)
}

#[test]
fn a_vip_without_backends_is_answered_at_once_v6() -> Result<()> {
    nobody(V6)
}
