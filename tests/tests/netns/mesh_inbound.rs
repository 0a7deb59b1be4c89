//! Inbound redirection: what others open to unmodified programs of chosen cgroups goes to the daemon
//! first. The workloads are on the daemon's host, the clients on another.

use crate::mesh::{Family, GREETER, Program, Scene, V4, V6, at, config, curl, entries};
use anyhow::{Context as _, Result, ensure};
use proxy_tests::cgroup::Cgroup;
use proxy_tests::command::run;
use proxy_tests::daemon::Daemon;
use proxy_tests::netns::Netns;
use proxy_tests::{privilege, wait};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

/// Where workloads listen.
const SERVED: u16 = 8080;

/// The host's address for clients.
fn host(family: Family) -> &'static str {
    match family.any {
        "::" => "fd09::1",
        _ => "10.9.0.1",
    }
}

pub(crate) fn url(family: Family, port: u16, path: &str) -> String {
    format!("http://{}{path}", at(host(family), port))
}

/// What curl says on the other host, from one of its addresses.
fn ask_from(scene: &Scene, client: &str, args: &[&str]) -> Result<String> {
    let outside = Cgroup::create("client")?;
    let from = ["--interface", client];
    // Each of several requests has options of its own.
    let args = args.iter().flat_map(|arg| match *arg {
        "--next" => [&["--next", "-s", "--noproxy", "*"], &from[..]].concat(),
        arg => vec![arg],
    });
    let args: Vec<_> = from.into_iter().chain(args).collect();
    curl(&outside, &scene.net, &args)
}

/// The same from whichever the system takes.
pub(crate) fn ask(scene: &Scene, args: &[&str]) -> Result<String> {
    curl(&Cgroup::create("client")?, &scene.net, args)
}

/// A web server of Python: says its name, and whom it talks to.
const WEB: &str = "
import http.server, socket, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        text = (sys.argv[3] + ' ' + self.headers.get('X-Forwarded-For', '-')).encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(text)))
        self.end_headers()
        self.wfile.write(text)
    def log_message(self, *args):
        pass
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
    def server_bind(self):
        if len(sys.argv) > 4:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.socket.bind(self.server_address[:2])
        self.server_name, self.server_port = sys.argv[1:3]
Server((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
";

/// Starts a program in a namespace and waits until it listens, by what the system lists.
fn started(mut command: Command, netns: &Netns, port: u16) -> Result<Program> {
    let before = listening(netns, port)?;
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut program = Program(command.spawn()?);
    wait::until("the program listens", || {
        let ended = program.0.try_wait()?;
        ensure!(ended.is_none(), "it has ended: {ended:?}");
        Ok(listening(netns, port)? > before)
    })?;
    Ok(program)
}

fn listening(netns: &Netns, port: u16) -> Result<usize> {
    let said = run(netns
        .command("ss")
        .args(["-Hltn", &format!("sport = :{port}")]))?;
    Ok(said.lines().count())
}

pub(crate) fn web(
    cgroup: &Cgroup,
    netns: &Netns,
    address: &str,
    port: u16,
    name: &str,
) -> Result<Program> {
    let mut command = cgroup.command(netns, "python3")?;
    command.args(["-c", WEB, address, &port.to_string(), name]);
    started(command, netns, port)
}

/// The redirected listener's configuration, with a route that the daemon answers.
pub(crate) fn inbound(scene: &Scene, family: Family, more: Value) -> Value {
    let mut mesh = json!({"cgroups": [scene.shop.path()], "direction": "inbound"});
    if let (Some(mesh), Value::Object(more)) = (mesh.as_object_mut(), more) {
        mesh.extend(more);
    }
    let routes = json!({"routes": [{
        "name": "daemon",
        "match": ["/daemon"],
        "respond": {"status": 200, "body": "daemon"},
    }]});
    config(family.loopback, mesh, routes)
}

fn nginx(scene: &Scene, folder: &std::path::Path, port: u16) -> Result<Option<Program>> {
    let Some(program) = privilege::program("nginx", "nginx")? else {
        return Ok(None);
    };
    let root = folder.display();
    // Several workers with sockets of their own, as many have it.
    let config = format!(
        "daemon off; worker_processes 2; pid {root}/pid; error_log {root}/error; user root;
         events {{ worker_connections 256; }}
         http {{
             access_log off; client_body_temp_path {root}/body; proxy_temp_path {root}/proxy;
             fastcgi_temp_path {root}/fastcgi; uwsgi_temp_path {root}/uwsgi;
             scgi_temp_path {root}/scgi;
             server {{
                 listen {port} reuseport; listen [::]:{port} reuseport;
                 location / {{ return 200 \"nginx $http_x_forwarded_for\"; }}
             }}
         }}\n"
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, config)?;
    let program = program.to_str().context("a path")?;
    let mut command = scene.shop.command(&scene.host, program)?;
    command.arg("-e").arg(folder.join("error"));
    command.arg("-c").arg(&file);
    started(command, &scene.host, port).map(Some)
}

fn routed(family: Family) -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    // One that listened before the daemon did, and one that comes after it.
    let Some(_nginx) = nginx(&scene, folder.path(), SERVED)? else {
        return Ok(());
    };
    let log = tempfile::NamedTempFile::new()?;
    let mut config = inbound(&scene, family, json!({}));
    config["listeners"][0]["access_log"] = json!({"to": log.path()});
    let daemon = Daemon::start(&scene.host, &config)?;
    let later = scene.shop.child("later")?;
    let _web = web(&later, &scene.host, family.any, 8081, "python")?;
    let client = family.server;
    for (port, name) in [(SERVED, "nginx"), (8081, "python")] {
        let (own, theirs) = (url(family, port, "/daemon"), url(family, port, "/"));
        // The route is asked at each request of a connection.
        let both = ask_from(&scene, client, &[&own, "--next", &theirs])?;
        ensure!(
            both.replace('\n', "") == format!("daemon{name} {client}"),
            "{both}"
        );
        // A neighbour on the same host is another, too.
        let outside = Cgroup::create("outside")?;
        ensure!(curl(&outside, &scene.host, &[&own])? == "daemon");
    }
    // What is said over loopback stays there.
    let own = format!("http://{}/daemon", at(family.loopback, SERVED));
    let said = scene.curl(&[&own])?;
    ensure!(said.starts_with("nginx"), "{said}");

    wait::until("the log says where it was to go, and to whom", || {
        let text = fs::read_to_string(log.path())?;
        let lines: Vec<Value> = text.lines().flat_map(serde_json::from_str).collect();
        let has = |port: u16, workload: &str| {
            lines.iter().any(|line| {
                line["server"] == at(host(family), port).to_string()
                    && line["workload"] == workload
                    && line["client"]
                        .as_str()
                        .is_some_and(|it| it.contains(client))
            })
        };
        Ok(has(SERVED, scene.shop.path()) && has(8081, later.path()))
    })?;
    let mesh = daemon.status()?.mesh.context("something is redirected")?;
    let one = &mesh.listeners[0];
    ensure!(
        (one.redirected, one.excluded, one.refused + one.passed) == (4, 0, 0),
        "{mesh:?}"
    );
    ensure!(one.protocols.get("http1") == Some(&4), "{mesh:?}");
    ensure!(one.workloads.get(later.path()) == Some(&2), "{mesh:?}");
    ensure!(mesh.cgroups[0].state == "redirected", "{mesh:?}");
    let metrics = daemon.admin_get("/metrics")?;
    let wanted = r#"sluice_mesh_connections_total{listener="mesh",result="redirected"} 4"#;
    ensure!(metrics.contains(wanted), "{metrics}");
    daemon.wait_until("both ports are counted", |view| {
        let mesh = view.mesh.as_ref();
        // Those of the other family are for nobody.
        mesh.is_some_and(|mesh| mesh.ports == 2)
    })?;
    let file = daemon.config_file();
    let file = file.to_str().context("a path")?;
    let direct = format!("http://{}/daemon", at(family.loopback, 15001));
    let explained = run(&mut daemon.command(&["explain", "-c", file, &direct])?)?;
    ensure!(
        explained.contains("redirected on its way to"),
        "{explained}"
    );
    Ok(())
}
on_families!(routed:
    what_arrives_is_routed_and_then_served_by_the_workload_v4 = V4,
    what_arrives_is_routed_and_then_served_by_the_workload_v6 = V6,
);

fn killed(family: Family, on_failure: &str, wanted: Option<&str>) -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let _web = web(&scene.shop, &scene.host, family.any, SERVED, "python")?;
    let rules = json!({"on_failure": on_failure});
    let mut daemon = Daemon::start(&scene.host, &inbound(&scene, family, rules))?;
    let (own, name) = (url(family, SERVED, "/daemon"), url(family, SERVED, "/"));
    ensure!(ask(&scene, &[&own])? == "daemon");
    daemon.kill()?;
    for _ in 0..10 {
        let came = ask(&scene, &[&name]);
        match wanted {
            Some(wanted) => ensure!(came? == wanted),
            None => {
                let error = format!("{:#}", came.err().context("refused")?);
                // What curl says of a connection that was refused (its exit code 7).
                ensure!(error.contains("exit status: 7"), "{error}");
            }
        }
    }
    // The next daemon goes on with what the last one has left.
    daemon.run()?;
    ensure!(ask(&scene, &[&own])? == "daemon");
    let mesh = daemon.status()?.mesh.context("something is redirected")?;
    let one = &mesh.listeners[0];
    let (refused, passed) = if wanted.is_some() { (0, 10) } else { (10, 0) };
    ensure!((one.refused, one.passed) == (refused, passed), "{mesh:?}");
    // One that is told to end takes the redirection with it.
    daemon.terminate()?;
    ensure!(ask(&scene, &[&name])? == "python -");
    ensure!(!daemon.pin_dir().join("redirect").exists());
    Ok(())
}
on_families!(killed("closed", None):
    a_killed_daemon_closes_what_arrives_v4 = V4,
    a_killed_daemon_closes_what_arrives_v6 = V6,
);

on_families!(killed("open", Some("python -")):
    a_killed_daemon_opens_what_arrives_v4 = V4,
    a_killed_daemon_opens_what_arrives_v6 = V6,
);

fn rules(family: Family) -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let _web = web(&scene.shop, &scene.host, family.any, SERVED, "python")?;
    let _other = web(&scene.shop, &scene.host, family.any, 8081, "python")?;
    let daemon = Daemon::start(&scene.host, &inbound(&scene, family, json!({})))?;
    // The other host has two addresses.
    let from =
        |address: &str, port: u16| ask_from(&scene, address, &[&url(family, port, "/daemon")]);
    let (client, other) = (family.server, family.other);
    let (redirected, direct) = ("daemon", "python -");
    for (rules, asked) in [
        (
            json!({"ports": {"except": [8081]}}),
            [(client, SERVED, redirected), (client, 8081, direct)],
        ),
        (
            json!({"ports": {"only": [8081]}}),
            [(client, SERVED, direct), (client, 8081, redirected)],
        ),
        (
            json!({"sources": {"except": [other]}}),
            [(client, SERVED, redirected), (other, SERVED, direct)],
        ),
        (
            json!({"sources": {"only": [other]}}),
            [(client, SERVED, direct), (other, SERVED, redirected)],
        ),
    ] {
        daemon.reload(&inbound(&scene, family, rules.clone()))?;
        for (address, port, wanted) in asked {
            let came = from(address, port)?;
            ensure!(came == wanted, "{rules}: {address} {port}: {came}");
        }
    }
    let mesh = daemon.status()?.mesh.context("something is redirected")?;
    let one = &mesh.listeners[0];
    ensure!((one.redirected, one.excluded) == (4, 4), "{mesh:?}");
    // What is opened is another matter.
    daemon.reload(&config(
        family.loopback,
        json!({"cgroups": [scene.shop.path()]}),
        json!({}),
    ))?;
    ensure!(from(client, SERVED)? == direct);
    ensure!(!daemon.pin_dir().join("redirect/links/netns").exists());
    Ok(())
}
on_families!(rules:
    what_is_excluded_reaches_the_workload_v4 = V4,
    what_is_excluded_reaches_the_workload_v6 = V6,
);

fn no_loops(family: Family) -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let _web = web(&scene.shop, &scene.host, family.any, SERVED, "python")?;
    // The daemon is of the chosen cgroup itself, and a service leads to the very address that is
    // redirected.
    let mut config = inbound(&scene, family, json!({}));
    config["routes"] = json!([
        {"name": "round", "listeners": ["mesh"], "match": ["/round"], "service": "round"},
        {"name": "own", "listeners": ["own"], "respond": {"status": 200, "body": "own"}},
    ]);
    let backend = at(host(family), SERVED).to_string();
    config["services"] = json!([{"name": "round", "backends": [backend], "health": {"tcp": {}}}]);
    let listeners = config["listeners"].as_array_mut().context("a list")?;
    listeners.push(json!({
        "name": "own", "kind": "http", "address": family.any, "port": 8088,
    }));
    let mut daemon = Daemon::prepare(&scene.host, &config, &[])?;
    let root = proxy_userspace::sockets::cgroup_root()?;
    daemon.set_cgroup(&root.join(scene.shop.path().trim_start_matches('/')));
    daemon.run()?;
    let client = family.server;
    let served = format!("python {client}");
    for _ in 0..10 {
        let ask_for = |path: &str| ask_from(&scene, client, &[&url(family, SERVED, path)]);
        ensure!(ask_for("/round")? == served);
        ensure!(ask_for("/")? == served);
        ensure!(ask(&scene, &[&url(family, 8088, "/")])? == "own");
    }
    let mesh = daemon.status()?.mesh.context("something is redirected")?;
    let one = &mesh.listeners[0];
    // Each of the clients' connections once, and none of the daemon's.
    ensure!((one.redirected, one.excluded) == (20, 0), "{mesh:?}");
    daemon.terminate().map(drop)
}
on_families!(no_loops:
    the_daemon_s_own_connections_are_never_redirected_to_it_v4 = V4,
    the_daemon_s_own_connections_are_never_redirected_to_it_v6 = V6,
);

fn other_protocols(family: Family) -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let Some(redis) = privilege::program("redis-server", "redis-server")? else {
        return Ok(());
    };
    let rules = json!({"detect": "300ms", "opaque": [25]});
    let daemon = Daemon::start(&scene.host, &inbound(&scene, family, rules))?;
    let mut command = (scene.shop).command(&scene.host, redis.to_str().context("a path")?)?;
    command.args([
        "--bind",
        family.any,
        "--protected-mode",
        "no",
        "--save",
        "",
        "--port",
        "6380",
    ]);
    let _redis = started(command, &scene.host, 6380)?;
    let mut greeters = Vec::new();
    for port in ["25", "2525"] {
        let mut command = scene.shop.command(&scene.host, "python3")?;
        command.args(["-c", GREETER, family.any, port]);
        greeters.push(started(command, &scene.host, port.parse()?)?);
    }
    let server = host(family);
    for words in [&["SET", "a", "b"][..], &["GET", "a"]] {
        let mut redis = scene.net.command("redis-cli");
        redis.args(["-h", server, "-p", "6380"]);
        let said = run(redis.args(words))?;
        ensure!(["OK", "b"].contains(&said.trim()), "{said}");
    }
    for port in [25, 2525] {
        let said = run(scene.net.command("python3").args([
            "-c",
            &format!(
                "import socket\n\
                 s = socket.create_connection(('{server}', {port}), timeout=20)\n\
                 f = s.makefile('rb'); print(f.readline()); s.sendall(b'there\\n'); print(f.read())\n"
            ),
        ]))?;
        ensure!(
            said == "b'220 hello\\n'\nb'250 there\\n'\n",
            "{port}: {said}"
        );
    }
    let mesh = daemon.status()?.mesh.context("something is redirected")?;
    let seen = &mesh.listeners[0].protocols;
    let of = |word: &str| seen.get(word).copied().unwrap_or(0);
    ensure!(
        (of("silent"), of("opaque"), of("other")) == (1, 1, 2),
        "{seen:?}"
    );
    Ok(())
}
on_families!(other_protocols:
    other_protocols_arrive_v4 = V4,
    other_protocols_arrive_v6 = V6,
);

#[test]
fn connections_that_arrived_before_are_left_alone() -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let _web = web(&scene.shop, &scene.host, "0.0.0.0", SERVED, "python")?;
    let mut command = scene.net.command("python3");
    let script = format!(
        "import http.client, sys\n\
         def ask(c):\n\
        \x20   c.request('GET', '/daemon'); print(c.getresponse().read().decode(), flush=True)\n\
         old = http.client.HTTPConnection('{0}', {SERVED}, timeout=20)\n\
         ask(old)\n\
         for line in sys.stdin:\n\
        \x20   ask(old); ask(http.client.HTTPConnection('{0}', {SERVED}, timeout=20))\n",
        host(V4)
    );
    command.args(["-c", &script]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut client = Program(command.spawn()?);
    let mut stdin = client.0.stdin.take().context("piped")?;
    let mut lines = BufReader::new(client.0.stdout.take().context("piped")?).lines();
    let mut line = || lines.next().context("a line")?.context("read");
    ensure!(line()? == "python -");
    let mut daemon = Daemon::start(&scene.host, &inbound(&scene, V4, json!({})))?;
    writeln!(stdin)?;
    ensure!((line()?, line()?) == ("python -".into(), "daemon".into()));
    daemon.terminate()?;
    writeln!(stdin)?;
    ensure!((line()?, line()?) == ("python -".into(), "python -".into()));
    Ok(())
}

#[test]
fn a_stranger_beside_a_workload_is_left_alone() -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let daemon = Daemon::start(&scene.host, &inbound(&scene, V4, json!({})))?;
    let outside = Cgroup::create("outside")?;
    let serve = |cgroup: &Cgroup, address: &str, name: &str| {
        let mut command = cgroup.command(&scene.host, "python3")?;
        let port = SERVED.to_string();
        command.args(["-c", WEB, address, &port, name, "shared"]);
        started(command, &scene.host, SERVED)
    };
    // One port, the workload's for all addresses but one.
    let workload = serve(&scene.shop, "0.0.0.0", "workload")?;
    let stranger = serve(&outside, V4.reach, "stranger")?;
    let other = format!("http://{}/daemon", at(V4.reach, SERVED));
    ensure!(ask(&scene, &[&url(V4, SERVED, "/daemon")])? == "daemon");
    ensure!(ask(&scene, &[&other])? == "stranger -");
    drop(stranger);
    daemon.wait_until("the stranger has gone", |_| {
        ask(&scene, &[&other]).is_ok_and(|said| said == "daemon")
    })?;
    // A port that the workload has left is another's.
    drop(workload);
    let _stranger = serve(&outside, "0.0.0.0", "stranger")?;
    daemon.wait_until("the workload has gone", |_| {
        ask(&scene, &[&other]).is_ok_and(|said| said == "stranger -")
    })
}

#[test]
fn what_arrives_leaves_nothing_behind() -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let _web = web(&scene.shop, &scene.host, "0.0.0.0", SERVED, "python")?;
    let daemon = Daemon::start(&scene.host, &inbound(&scene, V4, json!({})))?;
    let entries = || {
        let maps = [
            "mesh_chosen",
            "mesh_listening",
            "mesh_dials",
            "mesh_waiting",
        ];
        entries(&daemon, &maps)
    };
    let before = entries()?;
    let script = format!(
        "import http.client\n\
         for i in range(2000):\n\
        \x20   c = http.client.HTTPConnection('{}', {SERVED}, timeout=20)\n\
        \x20   c.request('GET', '/', headers={{'Connection': 'close'}})\n\
        \x20   assert c.getresponse().read(); c.close()\n\
         print('done')\n",
        host(V4)
    );
    let said = run(scene.net.command("python3").args(["-c", &script]))?;
    ensure!(said.trim() == "done", "{said}");
    let mesh = daemon.status()?.mesh.context("something is redirected")?;
    ensure!(mesh.listeners[0].redirected == 2000, "{mesh:?}");
    ensure!(
        entries()? == before,
        "{before:?} before, {:?} after",
        entries()?
    );
    Ok(())
}

#[test]
fn an_upgrade_keeps_what_arrives() -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let _web = web(&scene.shop, &scene.host, "0.0.0.0", SERVED, "python")?;
    let daemon = Daemon::start(&scene.host, &inbound(&scene, V4, json!({})))?;
    let (own, name) = (url(V4, SERVED, "/daemon"), url(V4, SERVED, "/"));
    ensure!(ask(&scene, &[&own])? == "daemon");
    daemon.sluice(&["upgrade"])?;
    let served = format!("python {}", V4.server);
    for _ in 0..10 {
        ensure!(ask(&scene, &[&own])? == "daemon");
        ensure!(ask_from(&scene, V4.server, &[&name])? == served);
    }
    wait::until("the new process tells of it", || {
        Ok(daemon
            .status()?
            .mesh
            .is_some_and(|mesh| mesh.listeners[0].refused == 0))
    })
}
