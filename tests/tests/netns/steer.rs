//! Steering: listeners get what comes to addresses and ports that nobody is bound to.
//!
//! A client's host and the daemon's, joined by a wire. The daemon's takes two networks by `local`
//! routes and has none of their addresses.

use anyhow::{Context as _, Result, ensure};
use libbpf_rs::{MapCore as _, MapHandle};
use proxy_tests::alone::Process;
use proxy_tests::client::Client;
use proxy_tests::daemon::Daemon;
use proxy_tests::load::{Kind, Load};
use proxy_tests::netns::{Namespace, Netns};
use proxy_tests::{privilege, wait};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::Stdio;
use std::time::Duration;

/// The hosts.
struct Scene {
    host: Netns,
    client: Netns,
}

/// What differs between the families.
#[derive(Clone, Copy)]
struct Family {
    loopback: &'static str,
    /// An address of the network that the host takes.
    network: &'static str,
    prefix: &'static str,
    /// Another address of it.
    other: &'static str,
    /// The host's own.
    own: &'static str,
    any: &'static str,
    all: &'static str,
}

const V4: Family = Family {
    loopback: "127.0.0.1",
    network: "192.0.2.0/24",
    prefix: "192.0.2.7",
    other: "192.0.2.8",
    own: "10.9.0.1",
    any: "0.0.0.0",
    all: "0.0.0.0/0",
};

const V6: Family = Family {
    loopback: "::1",
    network: "2001:db8::/32",
    prefix: "2001:db8::7",
    other: "2001:db8:9::8",
    own: "fd09::1",
    any: "::",
    all: "::/0",
};

impl Family {
    fn url(self, address: &str, port: u16) -> String {
        format!("http://{}/name", at(address, port))
    }
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), port)
}

impl Scene {
    /// `None` without privileges.
    fn set() -> Result<Option<Self>> {
        if !privilege::granted()? {
            return Ok(None);
        }
        let (host, client) = (Netns::create("host")?, Netns::create("client")?);
        host.ip(&format!(
            "link add eth0 type veth peer name eth0 netns {}\n\
             addr add 10.9.0.1/24 dev eth0\n\
             addr add fd09::1/64 dev eth0 nodad\n\
             link set eth0 up\n\
             route add local 192.0.2.0/24 dev lo\n\
             route add local 10.200.0.0/16 dev lo\n\
             route add local 2001:db8::/32 dev lo\n\
             route add local fd0a::/64 dev lo\n",
            client.name()
        ))?;
        client.ip("addr add 10.9.0.2/24 dev eth0\n\
             addr add fd09::2/64 dev eth0 nodad\n\
             link set eth0 up\n\
             route add default via 10.9.0.1\n\
             route add default via fd09::1\n")?;
        Ok(Some(Self { host, client }))
    }

    fn client(&self) -> Client {
        Client::new(&self.client)
    }

    /// Asks for the name of the listener that answers; an error if nobody does.
    fn who(&self, family: Family, address: &str, port: u16) -> Result<String> {
        let name = self.client().curl(&[&family.url(address, port)])?;
        Ok(name.trim().to_owned())
    }
}

/// A configuration with these listeners and routes; each HTTP listener answers with its name.
fn config(listeners: Vec<Value>, services: Value) -> Value {
    let http = listeners.iter().filter(|one| one["kind"] == "http");
    let routes: Vec<Value> = http
        .map(|one| {
            let name = one["name"].as_str().expect("a name");
            json!({
                "name": name,
                "listeners": [name],
                "response_headers": {"set": {"X-Backend": name}},
                "respond": {"status": 200, "body": name},
            })
        })
        .collect();
    json!({
        // For a pin directory of its own; no packets are looked at.
        "l4": {},
        "workers": {"count": 2},
        "listeners": listeners,
        "routes": routes,
        "services": services,
    })
}

fn http(name: &str, address: &str, port: u16, steer: Value) -> Value {
    let mut listener = json!({"name": name, "kind": "http", "address": address, "port": port});
    if !steer.is_null() {
        listener["steer"] = steer;
    }
    listener
}

fn by_precedence(family: Family) -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let lo = family.loopback;
    let log = tempfile::NamedTempFile::new()?;
    let mut range = http(
        "range",
        lo,
        9003,
        json!({"addresses": [family.network], "ports": ["8000-8999"]}),
    );
    range["access_log"] = json!({
        "to": log.path(),
        "format": "$server_addr $server_port $status",
    });
    let listeners = vec![
        http(
            "exact",
            lo,
            9001,
            json!({"addresses": [family.prefix], "ports": [80]}),
        ),
        http(
            "prefix",
            lo,
            9002,
            json!({"addresses": [family.network], "ports": [80]}),
        ),
        range,
        http(
            "wild",
            lo,
            9004,
            json!({"addresses": [family.all], "ports": ["1-65535"]}),
        ),
        http("bound", family.any, 9090, Value::Null),
    ];
    let daemon = Daemon::start(&scene.host, &config(listeners, json!([])))?;
    for (address, port, wanted) in [
        (family.prefix, 80, "exact"),
        (family.other, 80, "prefix"),
        (family.prefix, 8000, "range"),
        (family.other, 8999, "range"),
        (family.other, 9000, "wild"),
        (family.own, 80, "wild"),
        (family.own, 9090, "bound"),
        (family.other, 9090, "bound"),
    ] {
        let who = scene.who(family, address, port)?;
        ensure!(who == wanted, "{address} port {port}: {who}, not {wanted}");
        let (file, to) = (daemon.config_file(), at(address, port).to_string());
        let file = file.to_str().context("a path")?;
        let said = daemon.sluice(&["explain", "-c", file, "--tcp", "10.9.0.2:40000", &to])?;
        ensure!(said.contains(wanted), "{said}");
        let is_binding = port != 9090;
        ensure!(said.contains("`steer`: ") == is_binding, "{said}");
    }
    // The original destination is what the listener knows as its own address.
    let wanted = format!("{} 8999 200", family.other);
    wait::until("the address is in the log", || {
        Ok(fs::read_to_string(log.path())?
            .lines()
            .any(|line| line == wanted))
    })?;
    let steering = daemon.status()?.steering.context("something is steered")?;
    ensure!(steering.bindings == 4, "{steering:?}");
    let range = steering.listeners.iter().find(|one| one.name == "range");
    ensure!(range.is_some_and(|one| one.steered == 2), "{steering:?}");
    let metrics = daemon.admin_get("/metrics")?;
    ensure!(metrics.contains("sluice_steering_bindings 4"), "{metrics}");
    ensure!(metrics.contains(r#"sluice_steered_total{listener="range",result="steered"} 2"#));
    Ok(())
}

#[test]
fn exact_before_prefix_before_range_before_wildcard_v4() -> Result<()> {
    by_precedence(V4)
}

#[test]
fn exact_before_prefix_before_range_before_wildcard_v6() -> Result<()> {
    by_precedence(V6)
}

/// An echo of datagrams in Python, which says its port first.
fn echo(host: &Namespace) -> Result<(Process, u16)> {
    const SCRIPT: &str = "\
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('127.0.0.1', 0))
print(s.getsockname()[1], flush=True)
while True:
    data, peer = s.recvfrom(2048)
    s.sendto(b'echo:' + data, peer)
";
    python(host, SCRIPT)
}

/// A script that says its port first.
fn python(host: &Namespace, script: &str) -> Result<(Process, u16)> {
    let mut child = host
        .command("python3")
        .args(["-c", script])
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start python3")?;
    let output = child.stdout.take().context("its output")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    Ok((Process(child), line.trim().parse()?))
}

fn datagrams(family: Family) -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let (_echo, port) = echo(&scene.host)?;
    let listener = |name: &str, port: u16, steer: Value| {
        json!({
            "name": name, "kind": "udp", "address": family.loopback, "port": port,
            "service": "echo", "steer": steer,
        })
    };
    let listeners = vec![
        listener(
            "own-port",
            53,
            json!({"addresses": [family.network], "ports": [53]}),
        ),
        listener(
            "others",
            5300,
            json!({"addresses": [family.network], "ports": [5000, "6000-6999"]}),
        ),
    ];
    let services = json!([{"name": "echo", "backends": [format!("127.0.0.1:{port}")]}]);
    let daemon = Daemon::start(&scene.host, &config(listeners, services))?;
    for port in [53, 5000, 6000, 6999] {
        for address in [family.prefix, family.other] {
            // The socket is connected: an answer from elsewhere would not reach it.
            let flow = scene.client().udp_socket(at(address, port))?;
            for text in ["first", "second"] {
                let (_, answer) = flow.echo(text.as_bytes())?;
                ensure!(answer == text.as_bytes(), "{address} {port}: {answer:?}");
            }
        }
    }
    // Sessions go on in a new process, with their ports.
    let flow = scene.client().udp_socket(at(family.other, 6500))?;
    flow.echo(b"before")?;
    daemon.sluice(&["upgrade"])?;
    flow.echo(b"after")?;
    let steering = daemon.status()?.steering.context("something is steered")?;
    let others = steering.listeners.iter().find(|one| one.name == "others");
    ensure!(
        others.is_some_and(|one| one.steered >= 12 && one.failed == 0),
        "{steering:?}"
    );
    Ok(())
}

#[test]
fn datagrams_are_answered_from_where_they_were_sent_to_v4() -> Result<()> {
    datagrams(V4)
}

#[test]
fn datagrams_are_answered_from_where_they_were_sent_to_v6() -> Result<()> {
    datagrams(V6)
}

/// Entries of a pinned trie, as the kernel says.
fn entries(daemon: &Daemon, map: &str) -> Result<usize> {
    let path = daemon.pin_dir().join("steer/maps").join(map);
    let map = MapHandle::from_pinned_path(&path).with_context(|| path.display().to_string())?;
    Ok(map.keys().count())
}

/// A hundred ports of so many addresses; `address` tells the n-th.
fn come_and_go(family: Family, count: u32, address: fn(u32) -> IpAddr) -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let few = vec![http(
        "few",
        family.loopback,
        9001,
        json!({"addresses": [family.network], "ports": [80]}),
    )];
    let few = config(few, json!([]));
    let addresses: Vec<String> = (0..count).map(|host| address(host).to_string()).collect();
    let mut many = few.clone();
    let listener = http(
        "many",
        family.loopback,
        9002,
        json!({"addresses": addresses, "ports": (1..=100).collect::<Vec<u16>>()}),
    );
    many["listeners"]
        .as_array_mut()
        .expect("a list")
        .push(listener);
    many["routes"].as_array_mut().expect("a list").push(json!({
        "name": "many", "listeners": ["many"], "respond": {"status": 200, "body": "many"},
    }));
    let mut daemon = Daemon::start(&scene.host, &few)?;
    let bindings = 100 * count as usize;
    let before = entries(&daemon, "steer_ports")?;
    daemon.reload(&many)?;
    let steering = daemon.status()?.steering.context("something is steered")?;
    ensure!(
        steering.bindings == bindings as u64 + 1,
        "{}",
        steering.bindings
    );
    ensure!(entries(&daemon, "steer_ports")? == before + bindings + 1);
    let who = |host: u32, port: u16| scene.who(family, &address(host).to_string(), port);
    for host in [0, 1, count - 1] {
        for port in [80, 100] {
            ensure!(who(host, port)? == "many", "{}", address(host));
        }
    }
    ensure!(scene.who(family, family.other, 80)? == "few");
    ensure!(who(count, 80).is_err(), "one too many");
    ensure!(who(count - 1, 101).is_err(), "one too many");
    // Another process finds them.
    daemon.kill()?;
    daemon.run()?;
    ensure!(who(count - 1, 82)? == "many");
    daemon.reload(&few)?;
    ensure!(
        entries(&daemon, "steer_ports")? == before,
        "entries are left"
    );
    ensure!(who(1, 80).is_err(), "a binding is left");
    ensure!(scene.who(family, family.other, 80)? == "few");
    Ok(())
}

#[test]
fn a_hundred_thousand_bindings_come_and_go_v4() -> Result<()> {
    come_and_go(V4, 1000, |host| Ipv4Addr::from(0x0ac8_0000 + host).into())
}

#[test]
fn ten_thousand_bindings_come_and_go_v6() -> Result<()> {
    const FIRST: u128 = 0xfd0a << 112;
    come_and_go(V6, 100, |host| {
        Ipv6Addr::from(FIRST + u128::from(host)).into()
    })
}

/// A connection that is kept.
struct Kept(TcpStream);

impl Kept {
    fn open(scene: &Scene, to: SocketAddr) -> Result<Self> {
        let stream = scene.client.run(|| TcpStream::connect(to))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        Ok(Self(stream))
    }

    fn ask(&mut self, name: &str) -> Result<()> {
        self.0.write_all(b"GET /name HTTP/1.1\r\nHost: a\r\n\r\n")?;
        let mut answer = Vec::new();
        let end = format!("\r\n\r\n{name}");
        while !answer.ends_with(end.as_bytes()) {
            let mut some = [0; 1024];
            let length = self.0.read(&mut some)?;
            ensure!(
                length > 0,
                "closed after {:?}",
                String::from_utf8_lossy(&answer)
            );
            answer.extend_from_slice(&some[..length]);
        }
        Ok(())
    }
}

fn reloads(family: Family) -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let lo = family.loopback;
    let one = |steer: Value| config(vec![http("web", lo, 9001, steer)], json!([]));
    let first = one(json!({"addresses": [family.prefix], "ports": [80]}));
    let daemon = Daemon::start(&scene.host, &first)?;
    let mut kept = Kept::open(&scene, at(family.prefix, 80))?;
    kept.ask("web")?;
    ensure!(scene.who(family, family.other, 80).is_err());

    daemon.reload(&one(
        json!({"addresses": [family.other], "ports": [80, "8000-8001"]}),
    ))?;
    kept.ask("web")?;
    ensure!(
        scene.who(family, family.prefix, 80).is_err(),
        "still steered"
    );
    ensure!(scene.who(family, family.other, 8001)? == "web");

    // From one listener to another one, which is new.
    let two = vec![
        http("web", lo, 9001, Value::Null),
        http(
            "new",
            lo,
            9002,
            json!({"addresses": [family.other], "ports": [80]}),
        ),
    ];
    daemon.reload(&config(two, json!([])))?;
    kept.ask("web")?;
    ensure!(scene.who(family, family.other, 80)? == "new");

    // One that is refused changes nothing.
    let bad = one(json!({"addresses": ["192.0.2.0/8"], "ports": [80]}));
    ensure!(daemon.reload(&bad).is_err());
    ensure!(scene.who(family, family.other, 80)? == "new");

    // Without steering nothing of it is left.
    let pins = daemon.pin_dir().join("steer");
    ensure!(pins.exists());
    daemon.reload(&one(Value::Null))?;
    ensure!(!pins.exists(), "pins are left");
    kept.ask("web")?;
    ensure!(scene.who(family, family.other, 80).is_err());
    daemon.reload(&first)?;
    ensure!(scene.who(family, family.prefix, 80)? == "web");
    kept.ask("web")
}

#[test]
fn reloads_change_bindings_and_keep_connections_v4() -> Result<()> {
    reloads(V4)
}

#[test]
fn reloads_change_bindings_and_keep_connections_v6() -> Result<()> {
    reloads(V6)
}

/// A web server of another project, bound to all addresses of both families.
fn other_server(host: &Namespace, port: u16) -> Result<Process> {
    let script = format!(
        "
import http.server, socket, socketserver
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # Not that of the class above, which asks for the host's name.
        socketserver.TCPServer.server_bind(self)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'other')
    def log_message(self, *all): pass
server = Server(('::', {port}), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"
    );
    Ok(python(host, &script)?.0)
}

fn killed(family: Family) -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let _closed = other_server(&scene.host, 80)?;
    let _open = other_server(&scene.host, 81)?;
    let steer = |port: u16, on_failure: &str| json!({"addresses": [family.network], "ports": [port], "on_failure": on_failure});
    let listeners = vec![
        http("closed", family.loopback, 9001, steer(80, "closed")),
        http("open", family.loopback, 9002, steer(81, "open")),
    ];
    let mut daemon = Daemon::start(&scene.host, &config(listeners, json!([])))?;
    let ask = |port| scene.who(family, family.other, port);
    ensure!(ask(80)? == "closed" && ask(81)? == "open");
    let generation = |daemon: &Daemon| -> Result<u32> {
        let steering = daemon.status()?.steering;
        Ok(steering.context("something is steered")?.generation)
    };
    let first = generation(&daemon)?;

    daemon.kill()?;
    ensure!(ask(80).is_err(), "somebody else got it");
    ensure!(ask(81)? == "other");
    // What is not steered is as ever.
    ensure!(scene.who(family, family.own, 80)? == "other");

    daemon.run()?;
    ensure!(ask(80)? == "closed" && ask(81)? == "open");
    let steering = daemon.status()?.steering.context("something is steered")?;
    ensure!(steering.generation > first, "{steering:?}");
    let counts = |name: &str| {
        let found = steering.listeners.iter().find(|one| one.name == name);
        found.cloned().unwrap_or_default()
    };
    // They go on over the restart.
    let (closed, open) = (counts("closed"), counts("open"));
    ensure!(closed.steered >= 2 && closed.refused >= 1, "{closed:?}");
    ensure!(open.steered >= 2 && open.passed >= 1, "{open:?}");

    // Told to stop, it leaves nothing.
    ensure!(daemon.terminate()?.success());
    ensure!(!daemon.pin_dir().exists(), "pins are left");
    ensure!(ask(80)? == "other");
    Ok(())
}

#[test]
fn a_killed_daemon_fails_closed_or_open_and_returns_v4() -> Result<()> {
    killed(V4)
}

#[test]
fn a_killed_daemon_fails_closed_or_open_and_returns_v6() -> Result<()> {
    killed(V6)
}

#[test]
fn upgrades_under_load_lose_no_connection() -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let listeners = |more: bool| {
        let addresses = if more {
            json!([V4.network, "10.200.0.0/16"])
        } else {
            json!([V4.network])
        };
        let mut all = vec![
            http(
                "v4",
                V4.loopback,
                9001,
                json!({"addresses": addresses, "ports": ["8000-8999"]}),
            ),
            http(
                "v6",
                V6.loopback,
                9001,
                json!({"addresses": [V6.network], "ports": [80]}),
            ),
        ];
        if more {
            all.push(http(
                "new",
                V4.loopback,
                9003,
                json!({"addresses": ["10.200.0.9"], "ports": [80]}),
            ));
        }
        config(all, json!([]))
    };
    let daemon = Daemon::start(&scene.host, &listeners(false))?;
    const PAUSE: Duration = Duration::from_millis(2);
    let client = scene.client();
    let start = |to, kind| Load::start(&client, to, kind, 2, PAUSE);
    let loads = [
        start(at(V4.other, 8500), Kind::NewConnections)?,
        start(at(V6.other, 80), Kind::NewConnections)?,
    ];
    for round in 0..3 {
        let before = daemon.status()?;
        if round == 2 {
            // The new process has bindings and a listener that the old one has not.
            daemon.write_config(&listeners(true))?;
        }
        daemon.sluice(&["upgrade"])?;
        let after = daemon.status()?;
        ensure!(after.daemon.pid != before.daemon.pid);
        let generation = |view: &proxy_userspace::observe::view::View| {
            view.steering
                .as_ref()
                .map_or(0, |steering| steering.generation)
        };
        ensure!(generation(&after) > generation(&before));
        for load in &loads {
            load.wait_for(50)?;
        }
    }
    ensure!(scene.who(V4, "10.200.0.9", 80)? == "new");
    ensure!(scene.who(V4, "10.200.0.8", 8000)? == "v4");
    daemon.sluice(&["reload"])?;
    for load in loads {
        load.wait_for(20)?;
        load.stop().expect_no_failure()?;
    }
    Ok(())
}

#[test]
fn the_example_serves_a_network() -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/steer.yaml");
    let text = fs::read_to_string(&file)?;
    let (_echo, port) = echo(&scene.host)?;
    let _web = other_server(&scene.host, 8000)?;
    scene
        .host
        .ip("addr add 10.1.0.1/32 dev lo\naddr add 10.1.0.2/32 dev lo\n")?;
    let text = text.replace("10.1.0.1:53, 10.1.0.2:53", &format!("127.0.0.1:{port}"));
    let mut config: Value = serde_saphyr::from_str(&text)?;
    config["l4"] = json!({});
    let daemon = Daemon::start(&scene.host, &config)?;
    for (address, port) in [("192.0.2.1", 80), ("192.0.2.200", 8765), ("192.0.2.7", 80)] {
        ensure!(scene.who(V4, address, port)? == "other", "{address}:{port}");
    }
    let flow = scene.client().udp_socket(at("192.0.2.3", 53))?;
    flow.echo(b"a question")?;
    let steering = daemon.status()?.steering.context("something is steered")?;
    let steered = |name: &str| {
        let found = steering.listeners.iter().find(|one| one.name == name);
        found.map_or(0, |one| one.steered)
    };
    ensure!(
        steered("network") == 2 && steered("special") == 1,
        "{steering:?}"
    );
    Ok(())
}

#[test]
fn what_the_host_does_not_take_is_told() -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let steer = json!({"addresses": ["192.0.2.0/24", "203.0.113.0/24"], "ports": [80]});
    let listeners = vec![http("web", V4.loopback, 9001, steer)];
    let daemon = Daemon::start(&scene.host, &config(listeners, json!([])))?;
    let wanted = "ip route add local 203.0.113.0/24 dev lo";
    ensure!(daemon.log().contains(wanted), "{}", daemon.log());
    ensure!(!daemon.log().contains("route add local 192.0.2.0/24"));
    let file = daemon.config_file();
    let output = scene
        .host
        .command(proxy_tests::daemon::sluice()?)
        .args(["check", "-c"])
        .arg(file)
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(said.contains(wanted), "{said}");
    let own: IpAddr = V4.own.parse()?;
    ensure!(scene.who(V4, &own.to_string(), 80).is_err());
    Ok(())
}
