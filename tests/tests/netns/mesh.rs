//! Sidecar-less redirection: what unmodified programs of chosen cgroups open goes to the daemon.
//!
//! ```text
//!  pod ── host (daemon, workloads) ── net (servers)
//! ```

use anyhow::{Context as _, Result, ensure};
use proxy_tests::cgroup::Cgroup;
use proxy_tests::command::run;
use proxy_tests::daemon::Daemon;
use proxy_tests::netns::Netns;
use proxy_tests::origin::Origin;
use proxy_tests::{privilege, wait};
use serde_json::{Value, json};
use std::fs;
use std::net::SocketAddr;
use std::process::{Child, Stdio};

/// Where the daemon accepts.
const PORT: u16 = 15001;

/// The hosts, and a cgroup that is chosen.
pub(crate) struct Scene {
    pub(crate) host: Netns,
    pub(crate) net: Netns,
    pub(crate) pod: Netns,
    pub(crate) shop: Cgroup,
}

/// What differs between the families.
#[derive(Clone, Copy)]
pub(crate) struct Family {
    pub(crate) loopback: &'static str,
    pub(crate) any: &'static str,
    /// The server's address.
    pub(crate) server: &'static str,
    /// Another one of the same host.
    pub(crate) other: &'static str,
    /// The host's address for the pod.
    pub(crate) reach: &'static str,
}

pub(crate) const V4: Family = Family {
    loopback: "127.0.0.1",
    any: "0.0.0.0",
    server: "10.9.0.2",
    other: "10.9.0.3",
    reach: "10.8.0.1",
};

pub(crate) const V6: Family = Family {
    loopback: "::1",
    any: "::",
    server: "fd09::2",
    other: "fd09::3",
    reach: "fd08::1",
};

impl Family {
    pub(crate) fn url(self, port: u16, path: &str) -> String {
        format!("http://{}{path}", at(self.server, port))
    }
}

pub(crate) fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), port)
}

impl Scene {
    /// `None` without privileges.
    pub(crate) fn set() -> Result<Option<Self>> {
        if !privilege::granted()? {
            return Ok(None);
        }
        let (host, net, pod) = (
            Netns::create("host")?,
            Netns::create("net")?,
            Netns::create("pod")?,
        );
        host.ip(&format!(
            "link add eth0 type veth peer name eth0 netns {}\n\
             link add eth1 type veth peer name eth0 netns {}\n\
             addr add 10.9.0.1/24 dev eth0\n\
             addr add fd09::1/64 dev eth0 nodad\n\
             addr add 10.8.0.1/24 dev eth1\n\
             addr add fd08::1/64 dev eth1 nodad\n\
             link set eth0 up\n\
             link set eth1 up\n",
            net.name(),
            pod.name()
        ))?;
        host.sysctl("net/ipv4/ip_forward", "1")?;
        host.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        net.ip("addr add 10.9.0.2/24 dev eth0\n\
             addr add 10.9.0.3/24 dev eth0\n\
             addr add fd09::2/64 dev eth0 nodad\n\
             addr add fd09::3/64 dev eth0 nodad\n\
             link set eth0 up\n\
             route add default via 10.9.0.1\n\
             route add default via fd09::1\n")?;
        pod.ip("addr add 10.8.0.2/24 dev eth0\n\
             addr add fd08::2/64 dev eth0 nodad\n\
             link set eth0 up\n\
             route add default via 10.8.0.1\n\
             route add default via fd08::1\n")?;
        Ok(Some(Self {
            host,
            net,
            pod,
            shop: Cgroup::create("shop")?,
        }))
    }

    /// What curl says, as a workload on the daemon's host.
    pub(crate) fn curl(&self, args: &[&str]) -> Result<String> {
        curl(&self.shop, &self.host, args)
    }

    /// What a script of Python says, as a workload there.
    pub(crate) fn python(&self, script: &str) -> Result<String> {
        let mut command = self.shop.command(&self.host, "python3")?;
        run(command.args(["-c", script]))
    }
}

pub(crate) fn curl(cgroup: &Cgroup, netns: &Netns, args: &[&str]) -> Result<String> {
    let mut command = cgroup.command(netns, "curl")?;
    command.args([
        "--silent",
        "--show-error",
        "--noproxy",
        "*",
        "--max-time",
        "20",
    ]);
    Ok(run(command.args(args))?.trim().to_owned())
}

/// A program that is killed with its value.
pub(crate) struct Program(pub(crate) Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a program and waits until it listens.
pub(crate) fn serve(
    netns: &Netns,
    program: &str,
    args: &[&str],
    at: SocketAddr,
) -> Result<Program> {
    let mut command = netns.command(program);
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let mut server = Program(command.spawn().with_context(|| program.to_owned())?);
    wait::until(&format!("{program} listens"), || {
        let ended = server.0.try_wait()?;
        ensure!(ended.is_none(), "{program} has ended: {ended:?}");
        Ok(netns.run(|| std::net::TcpStream::connect(at)).is_ok())
    })?;
    Ok(server)
}

/// A server that speaks first, then echoes a line.
pub(crate) const GREETER: &str = "
import socket, sys
server = socket.create_server((sys.argv[1], int(sys.argv[2])), family=socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET)
while True:
    peer, _ = server.accept()
    try:
        peer.sendall(b'220 hello\\n')
        line = peer.makefile('rb').readline()
        peer.sendall(b'250 ' + line)
    except OSError:
        pass
    peer.close()
";

/// How many entries maps of redirection have, by their names.
pub(crate) fn entries(
    daemon: &Daemon,
    maps: &[&'static str],
) -> Result<Vec<(&'static str, usize)>> {
    let folder = daemon.pin_dir().join("redirect/maps");
    let count = |map: &&'static str| {
        let pinned = libbpf_rs::MapHandle::from_pinned_path(folder.join(map))?;
        Ok((*map, libbpf_rs::MapCore::keys(&pinned).count()))
    };
    maps.iter().map(count).collect()
}

/// A configuration with one redirected listener.
pub(crate) fn config(address: &str, mesh: Value, more: Value) -> Value {
    let mut config = json!({
        // For a pin directory of its own; no packets are looked at.
        "l4": {},
        "workers": {"count": 2},
        "listeners": [{
            "name": "mesh", "kind": "http", "address": address, "port": PORT, "mesh": mesh,
        }],
    });
    if let (Some(all), Value::Object(more)) = (config.as_object_mut(), more) {
        all.extend(more);
    }
    config
}

/// A route to a service at another address for some requests.
fn split(family: Family) -> Value {
    json!({
        "routes": [{
            "name": "canary",
            "match": [{"path": "/name", "headers": {"X-Canary": "yes"}}],
            "service": "canary",
        }],
        "services": [{"name": "canary", "backends": [at(family.other, 8081).to_string()]}],
    })
}

fn routed_and_passed_on(family: Family) -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let _stable = Origin::start(&scene.net, "stable", &[8080], &[])?;
    let _canary = Origin::start(&scene.net, "canary", &[8081], &[])?;
    let log = tempfile::NamedTempFile::new()?;
    let mut config = config(
        family.loopback,
        json!({"cgroups": [scene.shop.path()]}),
        split(family),
    );
    config["listeners"][0]["access_log"] = json!({"to": log.path()});
    let daemon = Daemon::start(&scene.host, &config)?;
    let url = family.url(8080, "/name");
    // The route is asked at each request of a connection.
    let both = scene.curl(&[
        &url,
        "-H",
        "X-Canary: yes",
        "--next",
        "-s",
        "--noproxy",
        "*",
        &url,
    ])?;
    ensure!(both.replace('\n', "") == "canarystable", "{both}");
    let name = scene.curl(&["--http2-prior-knowledge", "-H", "X-Canary: yes", &url]);
    ensure!(name? == "canary");
    let mut wrk = scene.shop.command(&scene.host, "wrk")?;
    let report = run(wrk.args(["-t1", "-c4", "-d1s", &url]))?;
    ensure!(
        !report.contains("Socket errors") && !report.contains("Non-2xx"),
        "{report}"
    );
    // Who is in no chosen cgroup goes there by itself.
    let outside = Cgroup::create("outside")?;
    ensure!(curl(&outside, &scene.host, &[&url, "-H", "X-Canary: yes"])? == "stable");

    let wanted = (at(family.server, 8080).to_string(), scene.shop.path());
    wait::until("the log says where it was to go, and whose it was", || {
        let text = fs::read_to_string(log.path())?;
        let mut lines = text.lines().flat_map(serde_json::from_str::<Value>);
        Ok(lines.any(|line| {
            line["server"] == wanted.0 && line["workload"] == wanted.1 && line["route"] == "canary"
        }))
    })?;
    let mesh = daemon.status()?.mesh.context("something is redirected")?;
    let one = &mesh.listeners[0];
    ensure!(
        one.redirected >= 3 && one.refused + one.passed + one.full == 0,
        "{mesh:?}"
    );
    ensure!(one.protocols.get("http2") == Some(&1), "{mesh:?}");
    ensure!(
        one.workloads.get(wanted.1) == Some(&one.redirected),
        "{mesh:?}"
    );
    ensure!(mesh.cgroups[0].state == "redirected", "{mesh:?}");
    let metrics = daemon.admin_get("/metrics")?;
    ensure!(metrics.contains(r#"sluice_mesh_accepted_total{listener="mesh",protocol="http2"} 1"#));
    let status = daemon.sluice(&["status"])?;
    ensure!(
        status.contains("mesh  ") && status.contains("  redirected\n"),
        "{status}"
    );
    Ok(())
}
on_families!(routed_and_passed_on:
    requests_are_routed_or_go_where_they_were_to_go_v4 = V4,
    requests_are_routed_or_go_where_they_were_to_go_v6 = V6,
);

/// Says whom a socket sees at the other end, then asks for the name.
const PEERS: &str = "
import socket
def ask(family, host, port):
    s = socket.socket(family, socket.SOCK_STREAM)
    s.settimeout(20)
    s.connect((host, port))
    print(s.getpeername()[:2])
    s.sendall(b'GET /name HTTP/1.0\\r\\nX-Canary: yes\\r\\n\\r\\n')
    print(s.makefile('rb').read().split(b'\\n')[-1].decode() or '-')
";

#[test]
fn the_peer_is_the_one_that_was_dialled() -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let _stable = Origin::start(&scene.net, "stable", &[8080], &[])?;
    let _canary = Origin::start(&scene.net, "canary", &[8081], &[])?;
    for (family, kind, host) in [
        (V4, "AF_INET", V4.server.to_owned()),
        (V6, "AF_INET6", V6.server.to_owned()),
        // IPv4 by a socket of IPv6.
        (V4, "AF_INET6", format!("::ffff:{}", V4.server)),
    ] {
        let mesh = json!({"cgroups": [scene.shop.path()]});
        let daemon = Daemon::start(&scene.host, &config(family.loopback, mesh, split(family)))?;
        let script = format!("{PEERS}\nask(socket.{kind}, '{host}', 8080)\n");
        let said = scene.python(&script)?;
        ensure!(said.starts_with(&format!("('{host}', 8080)\n")), "{said}");
        ensure!(said.contains("canary"), "{said}");
        let mesh = daemon.status()?.mesh.context("something is redirected")?;
        ensure!(mesh.listeners[0].redirected == 1, "{mesh:?}");
    }
    Ok(())
}

fn from_another_namespace(family: Family) -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let _stable = Origin::start(&scene.net, "stable", &[8080], &[])?;
    let _canary = Origin::start(&scene.net, "canary", &[8081], &[])?;
    let cgroups = json!([scene.shop.path()]);
    let mesh = json!({"cgroups": cgroups, "reach": family.reach});
    let mut daemon = Daemon::start(&scene.host, &config(family.any, mesh, split(family)))?;
    let url = family.url(8080, "/name");
    let ask = |header: &str| curl(&scene.shop, &scene.pod, &[&url, "-H", header]);
    ensure!(ask("X-Canary: yes")? == "canary");
    ensure!(ask("X-Canary: no")? == "stable");
    ensure!(scene.curl(&[&url, "-H", "X-Canary: yes"])? == "canary");
    // Without a way to the listener it is as if nobody listened.
    for (on_failure, wanted) in [("closed", None), ("open", Some("stable"))] {
        let mesh = json!({"cgroups": cgroups, "on_failure": on_failure});
        daemon.reload(&config(family.any, mesh, split(family)))?;
        let came = ask("X-Canary: yes").ok();
        ensure!(came.as_deref() == wanted, "{on_failure}: {came:?}");
    }
    let mesh = daemon.status()?.mesh.context("something is redirected")?;
    let one = &mesh.listeners[0];
    ensure!(
        (one.unreachable, one.refused, one.passed) == (2, 1, 1),
        "{mesh:?}"
    );
    daemon.terminate().map(drop)
}
on_families!(from_another_namespace:
    another_namespace_reaches_the_listener_by_its_address_v4 = V4,
    another_namespace_reaches_the_listener_by_its_address_v6 = V6,
);

#[test]
fn who_asks_is_said_by_the_kernel_and_by_nobody_else() -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let _stable = Origin::start(&scene.net, "stable", &[8080], &[])?;
    let (cart, till) = (scene.shop.child("cart")?, scene.shop.child("till")?);
    let more = json!({
        "routes": [{
            "name": "till",
            "match": [{"path": "/name", "workloads": [till.path()]}],
            "respond": {"status": 200, "body": "till"},
        }],
    });
    let mesh = json!({"cgroups": [scene.shop.path()]});
    let daemon = Daemon::start(&scene.host, &config("127.0.0.1", mesh, more))?;
    let url = V4.url(8080, "/name");
    ensure!(curl(&till, &scene.host, &[&url])? == "till");
    let claims = [
        "X-Workload",
        "X-Forwarded-For",
        "Forwarded",
        "X-Forwarded-Client-Cert",
    ];
    for claim in claims {
        let header = format!("{claim}: {}", till.path());
        let name = curl(&cart, &scene.host, &[&url, "-H", &header])?;
        ensure!(name == "stable", "{claim}: {name}");
    }
    // Who dials the listener itself is of no workload, and nobody is dialled for it.
    let direct = format!("http://127.0.0.1:{PORT}/name");
    let outside = Cgroup::create("outside")?;
    for cgroup in [&outside, &till] {
        let status = curl(
            cgroup,
            &scene.host,
            &["-o", "/dev/null", "-w", "%{http_code}", &direct],
        );
        ensure!(status? == "404");
    }
    let file = daemon.config_file();
    let file = file.to_str().context("a path")?;
    let explain =
        |workload: &str| daemon.command(&["explain", "-c", file, "--workload", workload, &direct]);
    let said = run(&mut explain(till.path())?)?;
    ensure!(
        said.contains("redirected from") && said.contains("200"),
        "{said}"
    );
    let mesh = daemon.status()?.mesh.context("something is redirected")?;
    let workloads = &mesh.listeners[0].workloads;
    ensure!(workloads.get(till.path()) == Some(&1), "{workloads:?}");
    ensure!(
        workloads.get(cart.path()) == Some(&(claims.len() as u64)),
        "{workloads:?}"
    );
    Ok(())
}

fn rules(family: Family) -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let _servers = Origin::start(&scene.net, "stable", &[8080, 8081, 8082], &[])?;
    let answer = json!({
        "routes": [{"name": "all", "respond": {"status": 200, "body": "daemon"}}],
    });
    let cgroups = json!([scene.shop.path()]);
    let with = |rules: Value| {
        let mut mesh = rules;
        mesh["cgroups"] = cgroups.clone();
        config(family.loopback, mesh, answer.clone())
    };
    let daemon = Daemon::start(&scene.host, &with(json!({})))?;
    let ask = |address: &str, port: u16, user: u32| {
        let kind = if address.contains(':') {
            "AF_INET6"
        } else {
            "AF_INET"
        };
        let said = scene.python(&format!(
            "import os, socket\n\
             s = socket.socket(socket.{kind}, socket.SOCK_STREAM); s.settimeout(20)\n\
             os.setuid({user}); s.connect(('{address}', {port}))\n\
             s.sendall(b'GET /name HTTP/1.0\\r\\n\\r\\n')\n\
             f = s.makefile('rb'); length = 0\n\
             while (line := f.readline().strip()):\n\
            \x20   if line.lower().startswith(b'content-length:'): length = int(line[15:])\n\
             print(f.read(length).decode())\n"
        ))?;
        Ok::<_, anyhow::Error>(said.trim().to_owned())
    };
    let (server, other) = (family.server, family.other);
    let (redirected, direct) = ("daemon", "stable");
    for (rules, asked) in [
        (
            json!({"ports": {"except": [8081]}}),
            [(server, 8080, 0, redirected), (server, 8081, 0, direct)],
        ),
        (
            json!({"ports": {"only": ["8080-8081"], "except": [8080]}}),
            [(server, 8081, 0, redirected), (server, 8082, 0, direct)],
        ),
        (
            json!({"destinations": {"except": [other]}}),
            [(server, 8080, 0, redirected), (other, 8080, 0, direct)],
        ),
        (
            json!({"destinations": {"only": [other]}}),
            [(other, 8080, 0, redirected), (server, 8080, 0, direct)],
        ),
        (
            json!({"users": {"except": [4242]}}),
            [
                (server, 8080, 4241, redirected),
                (server, 8080, 4242, direct),
            ],
        ),
        (
            json!({"users": {"only": [4242]}}),
            [(server, 8080, 4242, redirected), (server, 8080, 0, direct)],
        ),
    ] {
        daemon.reload(&with(rules.clone()))?;
        for (address, port, user, wanted) in asked {
            let came = ask(address, port, user)?;
            ensure!(came == wanted, "{rules}: {address} {port} {user}: {came}");
        }
    }
    let mesh = daemon.status()?.mesh.context("something is redirected")?;
    let one = &mesh.listeners[0];
    // Counters go on over reloads.
    ensure!((one.redirected, one.excluded) == (6, 6), "{mesh:?}");
    // Without any, everything is as if there were no daemon.
    daemon.reload(&json!({
        "l4": {},
        "listeners": [{
            "name": "mesh", "kind": "http", "address": family.loopback, "port": PORT,
        }],
        "routes": answer["routes"],
    }))?;
    ensure!(ask(server, 8080, 0)? == direct);
    ensure!(daemon.status()?.mesh.is_none());
    ensure!(!daemon.pin_dir().join("redirect").exists());
    Ok(())
}
on_families!(rules:
    what_is_excluded_goes_where_it_was_to_go_v4 = V4,
    what_is_excluded_goes_where_it_was_to_go_v6 = V6,
);

fn other_protocols(family: Family) -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let Some(redis) = privilege::program("redis-server", "redis-server")? else {
        return Ok(());
    };
    let server = family.server;
    let greeting = at(server, 2525);
    let _greeter = serve(
        &scene.net,
        "python3",
        &["-c", GREETER, server, "2525"],
        greeting,
    )?;
    let _opaque = serve(
        &scene.net,
        "python3",
        &["-c", GREETER, server, "25"],
        at(server, 25),
    )?;
    let _redis = serve(
        &scene.net,
        redis.to_str().context("a path")?,
        &["--bind", server, "--protected-mode", "no", "--save", ""],
        at(server, 6379),
    )?;
    let log = tempfile::NamedTempFile::new()?;
    let mesh = json!({"cgroups": [scene.shop.path()], "detect": "300ms"});
    let mut config = config(family.loopback, mesh, json!({}));
    config["listeners"][0]["access_log"] = json!({"to": log.path()});
    let daemon = Daemon::start(&scene.host, &config)?;
    for port in [2525, 25] {
        let kind = if server.contains(':') {
            "AF_INET6"
        } else {
            "AF_INET"
        };
        let said = scene.python(&format!(
            "import socket\n\
             s = socket.socket(socket.{kind}); s.settimeout(20); s.connect(('{server}', {port}))\n\
             f = s.makefile('rb'); print(f.readline()); s.sendall(b'there\\n'); print(f.read())\n"
        ))?;
        ensure!(
            said == "b'220 hello\\n'\nb'250 there\\n'\n",
            "{port}: {said}"
        );
    }
    let mut redis = scene.shop.command(&scene.host, "redis-cli")?;
    let said = run(redis.args(["-h", server, "SET", "a", "b"]))?;
    ensure!(said.trim() == "OK", "{said}");
    let mut redis = scene.shop.command(&scene.host, "redis-cli")?;
    ensure!(run(redis.args(["-h", server, "GET", "a"]))?.trim() == "b");
    let mesh = daemon.status()?.mesh.context("something is redirected")?;
    let seen = &mesh.listeners[0].protocols;
    let of = |word: &str| seen.get(word).copied().unwrap_or(0);
    ensure!(
        (of("silent"), of("opaque"), of("other")) == (1, 1, 2),
        "{seen:?}"
    );
    let wanted = at(server, 6379).to_string();
    wait::until("passed connections are in the log", || {
        let text = fs::read_to_string(log.path())?;
        let lines = text.lines().flat_map(serde_json::from_str::<Value>);
        let of_redis = |line: &Value| {
            line["server"] == wanted
                && line["traffic"] == "tcp"
                && line["workload"] == scene.shop.path()
                && line["end"] == "complete"
        };
        Ok(lines.filter(of_redis).count() == 2)
    })
}
on_families!(other_protocols:
    other_protocols_pass_v4 = V4,
    other_protocols_pass_v6 = V6,
);

#[test]
fn what_nobody_is_for_is_refused_where_that_is_wanted() -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let _stable = Origin::start(&scene.net, "stable", &[8080], &[])?;
    let mesh = json!({
        "cgroups": [scene.shop.path()],
        "unmatched": "refuse",
        "detect": "100ms",
    });
    let _canary = Origin::start(&scene.net, "canary", &[8081], &[])?;
    let _daemon = Daemon::start(&scene.host, &config("127.0.0.1", mesh, split(V4)))?;
    let url = V4.url(8080, "/name");
    ensure!(scene.curl(&[&url, "-H", "X-Canary: yes"])? == "canary");
    ensure!(scene.curl(&["-o", "/dev/null", "-w", "%{http_code}", &url])? == "404");
    let said = scene.python(&format!(
        "import socket\n\
         s = socket.create_connection(('{}', 8080)); s.settimeout(20); s.sendall(b'* 1\\r\\n')\n\
         try: print(s.recv(1))\n\
         except ConnectionResetError: print('reset')\n",
        V4.server
    ))?;
    ensure!(["reset", "b''"].contains(&said.trim()), "{said}");
    Ok(())
}

#[test]
fn short_connections_leave_nothing_behind() -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let _stable = Origin::start(&scene.net, "stable", &[8080], &[])?;
    let mesh = json!({"cgroups": [scene.shop.path()]});
    let daemon = Daemon::start(&scene.host, &config("127.0.0.1", mesh, json!({})))?;
    let entries = || {
        let maps = [
            "mesh_chosen",
            "mesh_prefixes",
            "mesh_users",
            "mesh_daemons",
            "mesh_waiting",
        ];
        entries(&daemon, &maps)
    };
    let before = entries()?;
    let said = scene.python(&format!(
        "import http.client\n\
         for i in range(3000):\n\
        \x20   c = http.client.HTTPConnection('{}', 8080, timeout=20)\n\
        \x20   c.request('GET', '/name'); assert c.getresponse().read(); c.close()\n\
         print('done')\n",
        V4.server
    ))?;
    ensure!(said.trim() == "done", "{said}");
    let mesh = daemon.status()?.mesh.context("something is redirected")?;
    ensure!(mesh.listeners[0].redirected == 3000, "{mesh:?}");
    ensure!(mesh.under_way == 0, "{mesh:?}");
    ensure!(
        entries()? == before,
        "{:?} before, {:?} after",
        before,
        entries()?
    );
    daemon.wait_until("no connection is open", |view| {
        view.http_listeners
            .iter()
            .all(|one| one.connections_active == 0)
    })
}

/// `examples/mesh.yaml`, for this scene's cgroups.
fn example(scene: &Scene, till: &Cgroup, log: &std::path::Path) -> Result<Value> {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/mesh.yaml");
    let text = fs::read_to_string(file)?;
    let text = text.replace("/shop.slice/till.service", till.path());
    let text = text.replace("/shop.slice", scene.shop.path());
    let mut config: Value = serde_saphyr::from_str(&text)?;
    config["l4"] = json!({});
    for listener in config["listeners"].as_array_mut().context("a list")? {
        listener["access_log"]["to"] = json!(log);
    }
    Ok(config)
}

#[test]
fn the_example_serves() -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    scene.net.ip("addr add 10.0.1.1/32 dev lo\n\
         addr add 10.0.1.2/32 dev lo\n\
         addr add 10.0.1.9/32 dev lo\n\
         addr add 10.0.2.1/32 dev lo\n")?;
    scene.host.ip("route add 10.0.0.0/16 via 10.9.0.2\n")?;
    let _servers = Origin::start(&scene.net, "servers", &[80, 8080, 5432], &[])?;
    let till = scene.shop.child("till")?;
    let log = tempfile::NamedTempFile::new()?;
    let daemon = Daemon::start(&scene.host, &example(&scene, &till, log.path())?)?;
    for family in [V4, V6] {
        let url = family.url(80, "/name");
        let ask = |cgroup: &Cgroup, args: &[&str]| {
            let usual = ["-o", "/dev/null", "-w", "%{http_code}"];
            curl(cgroup, &scene.host, &[&usual, args].concat())
        };
        ensure!(ask(&scene.shop, &[&url, "-H", "Host: cart"])? == "200");
        ensure!(
            ask(
                &scene.shop,
                &[&url, "-H", "Host: cart", "-H", "X-Canary: yes"]
            )? == "200"
        );
        ensure!(ask(&scene.shop, &[&url])? == "200");
        let refunds = family.url(80, "/refunds");
        ensure!(ask(&scene.shop, &[&refunds, "-H", "Host: payment"])? == "403");
        // The server knows no such path, but is asked.
        ensure!(ask(&till, &[&refunds, "-H", "Host: payment"])? == "404");
        ensure!(ask(&scene.shop, &[&family.url(5432, "/name")])? == "200");
    }
    let mesh = daemon.status()?.mesh.context("something is redirected")?;
    for one in &mesh.listeners {
        let wanted = match one.name.starts_with("arriving") {
            true => (0, 0),
            false => (5, 1),
        };
        ensure!((one.redirected, one.excluded) == wanted, "{mesh:?}");
    }
    // What others open to the shop.
    let words = ["-m", "http.server", "--bind", "::", "8000"];
    let mut command = scene.shop.command(&scene.host, "python3")?;
    command
        .args(words)
        .current_dir(log.path().parent().context("a folder")?);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let _server = Program(command.stderr(Stdio::null()).spawn()?);
    let outside = Cgroup::create("outside")?;
    for address in ["10.9.0.1:8000", "[fd09::1]:8000"] {
        let url = format!("http://{address}/internal");
        wait::until("the shop serves", || {
            let usual = ["-o", "/dev/null", "-w", "%{http_code}", &*url];
            Ok(curl(&outside, &scene.net, &usual).is_ok_and(|code| code == "403"))
        })?;
    }
    wait::until("the routes are in the log", || {
        let text = fs::read_to_string(log.path())?;
        let lines: Vec<Value> = text.lines().flat_map(serde_json::from_str).collect();
        let count = |route: &str| lines.iter().filter(|line| line["route"] == route).count();
        let routes = ["cart", "cart-next", "refunds", "no-refunds"];
        Ok(routes.iter().all(|route| count(route) == 2))
    })
}
