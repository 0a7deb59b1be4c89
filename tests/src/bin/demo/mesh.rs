//! Sidecar-less redirection on stage: an unmodified client and unmodified servers, with the daemon
//! between them, and what that costs.

use crate::interrupt;
use crate::show::Show;
use anyhow::{Context as _, Result, ensure};
use proxy_tests::cgroup::Cgroup;
use proxy_tests::command::run;
use proxy_tests::daemon::Daemon;
use proxy_tests::netns::Netns;
use proxy_tests::privilege::find_program;
use proxy_tests::wait;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Where the servers are: of the next version, and a pair of which the first fails.
const SHOP: &str = "10.9.0.2:80";
const NEXT: &str = "10.9.0.2:8081";
const BROKEN: &str = "10.9.0.2:8082";
const WHOLE: &str = "10.9.0.2:8083";

/// How long each load lasts.
const LOAD: Duration = Duration::from_secs(2);

/// Requests under way at once. One: what is measured is the way, not the queue.
const CONNECTIONS: &str = "-c1";

/// Plays it.
///
/// # Errors
///
/// Something did not go as promised, or the user interrupts.
pub(crate) fn play(show: &Show) -> Result<()> {
    let played = scenes(show);
    if played.is_err() {
        // What a program says that was interrupted as well is not the reason.
        interrupt::check()?;
    }
    played
}

fn scenes(show: &Show) -> Result<()> {
    let start = Instant::now();
    let stage = Stage::set()?;
    show.line("");
    show.line("sluice: programs go through the daemon unchanged, without sidecars");
    show.line("");
    show.note(
        "curl and nginx, each as it comes. curl's cgroup is chosen, nothing else is configured:",
    );
    show.note("no proxy variables, no sidecar, no rule in iptables or nftables.");
    interrupt::check()?;

    act(show, "without the daemon");
    let before = stage.curl(&[&url(SHOP)])?;
    show.command(&format!("curl {}", url(SHOP)));
    show.note(&before);
    let direct = stage.load()?;
    interrupt::check()?;

    act(show, "with it");
    let log = tempfile::NamedTempFile::new()?;
    let mut daemon = Daemon::start(&stage.host, &stage.config(log.path()))?;
    daemon.set_quiet();
    show.command(&format!("sluice run -c {}", daemon.config_file().display()));
    let tables = stage.tables()?;
    show.good(&format!("packet filter: {tables}"));
    routes(&stage, show)?;
    interrupt::check()?;

    act(show, "what others open to a program of the shop");
    arrives(&stage, show)?;
    interrupt::check()?;

    act(show, "what the daemon knows");
    told(&stage, &daemon, log.path(), show)?;
    interrupt::check()?;

    act(show, "what it costs");
    let before = daemon_time(&daemon)?;
    let through = stage.load()?;
    let spent = daemon_time(&daemon)? - before;
    cost(show, &direct, &through, spent);
    interrupt::check()?;

    act(show, "when it dies");
    daemon.kill()?;
    show.command("kill -9 sluice      # on_failure: open");
    let after = stage.curl(&[&url(SHOP)])?;
    ensure!(after == before_text(), "{after}");
    show.good("the next connection goes where it was to go");
    drop(daemon);
    show.line("");
    show.note(&format!(
        "{:.1} s in all. Everything is removed.",
        start.elapsed().as_secs_f64()
    ));
    Ok(())
}

fn act(show: &Show, title: &str) {
    show.line("");
    show.line(title);
}

fn url(address: &str) -> String {
    format!("http://{}/", address.trim_end_matches(":80"))
}

/// What the server that is dialled answers.
fn before_text() -> String {
    "the shop, version 1".to_owned()
}

/// Requests that are routed, and one that is not.
fn routes(stage: &Stage, show: &Show) -> Result<()> {
    let shop = url(SHOP);
    for (args, shown, wanted, because) in [
        (
            vec![shop.as_str()],
            format!("curl {shop}"),
            "the shop, version 1",
            "no route: it goes where it was to go",
        ),
        (
            vec![shop.as_str(), "-H", "X-Canary: yes"],
            format!("curl {shop} -H 'X-Canary: yes'"),
            "the shop, version 2",
            "a route by a header",
        ),
        (
            vec!["http://10.9.0.2/reviews"],
            "curl http://10.9.0.2/reviews".to_owned(),
            "reviews",
            "of two backends one answers 503: the other is asked",
        ),
    ] {
        show.command(&shown);
        let said = stage.curl(&args)?;
        ensure!(said == wanted, "{shown}: {said}");
        show.good(&format!("{said}  ({because})"));
    }
    // Whoever is asked first, one of the two meets the broken one.
    stage.curl(&["http://10.9.0.2/reviews"])?;
    let script =
        "import socket; s = socket.create_connection(('10.9.0.2', 80)); print(s.getpeername())";
    let mut python = stage.shop.command(&stage.host, "python3")?;
    let peer = run(python.args(["-c", script]))?;
    show.command("python3 -c '… print(s.getpeername())'");
    ensure!(peer.trim() == "('10.9.0.2', 80)", "{peer}");
    show.good(&format!("{}  (the peer that it dialled)", peer.trim()));
    Ok(())
}

/// A server that is a workload itself: what comes to it is routed first.
fn arrives(stage: &Stage, show: &Show) -> Result<()> {
    let directory = tempfile::tempdir()?;
    fs::write(directory.path().join("index.html"), "the shop's own page\n")?;
    let mut command = stage.shop.command(&stage.host, "python3")?;
    command.args(["-m", "http.server", "8000"]);
    command.current_dir(directory.path()).process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let _server = Server(command.stderr(Stdio::null()).spawn()?);
    show.command("python3 -m http.server 8000      # in the shop's cgroup");
    let ask = |path: &str| {
        let mut curl = stage.net.command("curl");
        curl.args(["--silent", "--noproxy", "*", "--max-time", "10"]);
        run(curl.arg(format!("http://10.9.0.1:8000{path}")))
    };
    wait::until("the server answers", || Ok(ask("/").is_ok()))?;
    for (path, wanted, because) in [
        (
            "/",
            "the shop's own page",
            "no route: it goes to the program",
        ),
        ("/private", "not from outside", "a route of the daemon"),
    ] {
        show.command(&format!(
            "curl http://10.9.0.1:8000{path}      # from another host"
        ));
        let said = ask(path)?;
        ensure!(said.trim() == wanted, "{path}: {said}");
        show.good(&format!("{wanted}  ({because})"));
    }
    Ok(())
}

/// Whose connections they were, as logs, metrics and status have it.
fn told(stage: &Stage, daemon: &Daemon, log: &Path, show: &Show) -> Result<()> {
    let mut line = Value::Null;
    wait::until("the log tells of a retry", || {
        let text = fs::read_to_string(log)?;
        let mut lines = text.lines().flat_map(serde_json::from_str::<Value>);
        let found = lines.find(|line| line["route"] == "reviews" && line["attempts"] == 2);
        let is_there = found.is_some();
        line = found.unwrap_or_default();
        Ok(is_there)
    })?;
    show.command(&format!("tail {}", log.display()));
    let of = |key: &str| line[key].to_string();
    ensure!(line["workload"] == stage.shop.path(), "{line}");
    for key in [
        "workload", "server", "route", "service", "attempts", "status",
    ] {
        show.note(&format!("{key:<10} {}", of(key)));
    }
    show.command("sluice status");
    let status = daemon.sluice(&["status"])?;
    let mut lines = status.lines().skip_while(|line| !line.starts_with("mesh"));
    for line in lines.by_ref().take(2) {
        show.note(line);
    }
    show.command("curl …/metrics");
    let metrics = daemon.admin_get("/metrics")?;
    let shown = [
        "sluice_mesh_connections_total",
        "sluice_mesh_workload",
        "sluice_retries_total",
    ];
    for line in metrics.lines() {
        if shown.iter().any(|name| line.starts_with(name)) && !line.ends_with(" 0") {
            show.note(line);
        }
    }
    Ok(())
}

/// What a load came to.
struct Measured {
    requests: u64,
    p50_us: f64,
    p99_us: f64,
}

fn cost(show: &Show, direct: &Measured, through: &Measured, spent: Duration) {
    show.command(&format!(
        "wrk -t1 {CONNECTIONS} -d{}s {}",
        LOAD.as_secs(),
        url(SHOP)
    ));
    for (name, one) in [("direct", direct), ("through the daemon", through)] {
        show.note(&format!(
            "{name:<20} p50 {:>6.0} µs   p99 {:>6.0} µs   {:>7} requests",
            one.p50_us, one.p99_us, one.requests
        ));
    }
    show.note(&format!(
        "{:<20} p50 {:>+6.0} µs   daemon's CPU {:.1} µs per request",
        "the hop",
        through.p50_us - direct.p50_us,
        spent.as_secs_f64() * 1e6 / through.requests.max(1) as f64,
    ));
}

/// CPU time that the daemon has used.
fn daemon_time(daemon: &Daemon) -> Result<Duration> {
    let pid = daemon.status()?.daemon.pid;
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = text.rsplit_once(')').context("a name in brackets")?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut ticks = || -> Result<u64> { Ok(fields.next().context("a field")?.parse()?) };
    let ticks = ticks()? + ticks()?;
    // SAFETY: a plain call.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

/// The hosts, the servers and the client's cgroup.
struct Stage {
    host: Netns,
    net: Netns,
    shop: Cgroup,
    nginx: Option<Nginx>,
}

/// Killed with its value.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Ended with its value.
struct Nginx {
    child: Child,
    _directory: tempfile::TempDir,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // SIGTERM, so that the worker ends too.
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").arg(pid).status();
        let _ = self.child.wait();
    }
}

impl Stage {
    fn set() -> Result<Self> {
        let (host, net) = (Netns::create("host")?, Netns::create("net")?);
        host.ip(&format!(
            "link add eth0 type veth peer name eth0 netns {}\n\
             addr add 10.9.0.1/24 dev eth0\n\
             link set eth0 up\n",
            net.name()
        ))?;
        net.ip("addr add 10.9.0.2/24 dev eth0\nlink set eth0 up\n")?;
        let shop = Cgroup::create("shop")?;
        let mut stage = Self {
            host,
            net,
            shop,
            nginx: None,
        };
        stage.nginx = Some(stage.serve()?);
        Ok(stage)
    }

    fn serve(&self) -> Result<Nginx> {
        let program = find_program("nginx").context("nginx is missing: install nginx-light")?;
        let directory = tempfile::tempdir()?;
        let root = directory.path().display();
        let server = |port: &str, status: u16, says: &str| {
            format!(
                "server {{ listen {port}; keepalive_requests 1000000;
                     location / {{ return {status} \"{says}\\n\"; }} }}\n"
            )
        };
        let servers = [
            server(SHOP, 200, "the shop, version 1"),
            server(NEXT, 200, "the shop, version 2"),
            server(BROKEN, 503, "broken"),
            server(WHOLE, 200, "reviews"),
        ];
        let config = format!(
            "daemon off; worker_processes 1; pid {root}/pid; error_log {root}/error;
             user root; events {{ worker_connections 256; }}
             http {{
                 access_log off; client_body_temp_path {root}/body; proxy_temp_path {root}/proxy;
                 fastcgi_temp_path {root}/fastcgi; uwsgi_temp_path {root}/uwsgi;
                 scgi_temp_path {root}/scgi;
                 {}
             }}\n",
            servers.concat()
        );
        let file = directory.path().join("nginx.conf");
        fs::write(&file, config)?;
        let child = self
            .net
            .command(program)
            .arg("-e")
            .arg(directory.path().join("error"))
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            // Ctrl-C at a terminal is for the one who started it, not for it.
            .process_group(0)
            .spawn()
            .context("cannot start nginx")?;
        let nginx = Nginx {
            child,
            _directory: directory,
        };
        wait::until("nginx listens", || {
            let address: std::net::SocketAddr = SHOP.parse()?;
            Ok(self
                .host
                .run(|| std::net::TcpStream::connect(address))
                .is_ok())
        })?;
        Ok(nginx)
    }

    fn config(&self, log: &Path) -> Value {
        json!({
            // For a pin directory of its own; no packets are looked at.
            "l4": {},
            "listeners": [{
                "name": "mesh",
                "kind": "http",
                "address": "127.0.0.1",
                "port": 15001,
                "access_log": {"to": log},
                "mesh": {"cgroups": [self.shop.path()], "on_failure": "open"},
            }, {
                "name": "arriving",
                "kind": "http",
                "address": "127.0.0.1",
                "port": 15006,
                "mesh": {
                    "cgroups": [self.shop.path()],
                    "direction": "inbound",
                    "on_failure": "open",
                },
            }],
            "routes": [
                {
                    "name": "canary",
                    "listeners": ["mesh"],
                    "match": [{"path": "/", "headers": {"X-Canary": "yes"}}],
                    "service": "next",
                },
                {
                    "name": "reviews",
                    "listeners": ["mesh"],
                    "match": ["/reviews"],
                    "service": "reviews",
                },
                {
                    "name": "private",
                    "listeners": ["arriving"],
                    "match": ["/private"],
                    "respond": {"status": 403, "body": "not from outside"},
                },
            ],
            "services": [
                {"name": "next", "backends": [NEXT]},
                {
                    "name": "reviews",
                    "backends": [BROKEN, WHOLE],
                    "retries": {"on": ["gateway-error"]},
                },
            ],
        })
    }

    fn curl(&self, args: &[&str]) -> Result<String> {
        let mut curl = self.shop.command(&self.host, "curl")?;
        curl.args([
            "--silent",
            "--show-error",
            "--noproxy",
            "*",
            "--max-time",
            "10",
        ]);
        Ok(run(curl.args(args))?.trim().to_owned())
    }

    /// Asks for the same page again and again.
    fn load(&self) -> Result<Measured> {
        let mut wrk = self.shop.command(&self.host, "wrk")?;
        let seconds = format!("-d{}s", LOAD.as_secs());
        let report = run(wrk.args(["-t1", CONNECTIONS, &seconds, "--latency", &url(SHOP)]))?;
        ensure!(
            !report.contains("Non-2xx") && !report.contains("Socket errors"),
            "{report}"
        );
        let of = |name: &str| {
            let line = report
                .lines()
                .find_map(|line| line.trim().strip_prefix(name));
            let text = line
                .with_context(|| format!("no {name} in {report}"))?
                .trim();
            micros(text).with_context(|| format!("{name} of {report}"))
        };
        let requests = report
            .lines()
            .find_map(|line| line.trim().split_once(" requests in"));
        Ok(Measured {
            requests: requests.context("a number of requests")?.0.parse()?,
            p50_us: of("50%")?,
            p99_us: of("99%")?,
        })
    }

    /// What the packet filter of the client's host holds.
    fn tables(&self) -> Result<String> {
        let Some(nft) = find_program("nft") else {
            return Ok("nft is not installed".to_owned());
        };
        let rules = run(self.host.command(nft).args(["list", "ruleset"]))?;
        ensure!(rules.trim().is_empty(), "there are rules: {rules}");
        Ok("`nft list ruleset` is empty".to_owned())
    }
}

/// Microseconds of what wrk says, such as `34.00us` or `1.20ms`.
fn micros(text: &str) -> Option<f64> {
    for (unit, factor) in [("us", 1.0), ("ms", 1e3), ("s", 1e6)] {
        if let Some(number) = text.strip_suffix(unit) {
            return Some(number.parse::<f64>().ok()? * factor);
        }
    }
    None
}
