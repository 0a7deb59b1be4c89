//! Unmodified programs on the daemon's own host, whose octets go from socket to socket: they get what
//! they would get anyway, and the loopback device sees little of it. And a host where that cannot be
//! had: it is told why, and goes on without, unless it was told not to.

use crate::mesh::{Program, V4, V6, at, serve};
use anyhow::{Context as _, Result, ensure};
use proxy_tests::alone;
use proxy_tests::command::{run, run_with_input};
use proxy_tests::daemon::{Daemon, sluice};
use proxy_tests::netns::Netns;
use proxy_tests::{privilege, wait};
use proxy_userspace::observe::view::AccelerationView;
use serde_json::{Value, json};
use std::fs;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// Octets of the file that is fetched.
const LARGE: usize = 32 << 20;

/// Where real servers listen, and the daemon before them.
const WEB: u16 = 9000;
const REDIS: u16 = 6379;
const BEFORE: u16 = 8080;
const BEFORE_REDIS: u16 = 8379;

/// A host with nothing but loopback. `None` without privileges.
fn host() -> Result<Option<Netns>> {
    privilege::granted()?
        .then(|| Netns::create("host"))
        .transpose()
}

/// nginx with a large file, and a location that takes any content.
fn nginx(host: &Netns, folder: &TempDir, address: SocketAddr) -> Result<Program> {
    let root = folder.path().display();
    let config = format!(
        "daemon off; master_process off; pid {root}/pid; error_log {root}/error;
         user root; events {{ worker_connections 256; }}
         http {{
             access_log off; client_body_temp_path {root}/body; proxy_temp_path {root}/proxy;
             fastcgi_temp_path {root}/fastcgi; uwsgi_temp_path {root}/uwsgi;
             scgi_temp_path {root}/scgi; client_max_body_size 0; keepalive_requests 1000000;
             server {{
                 listen {address}; root {root};
                 location /small {{ return 200 small; }}
                 location /put {{ dav_methods PUT; }}
             }}
         }}\n"
    );
    let octets = (0..LARGE).map(|at| ((at % 65_521 * 31) >> 3) as u8);
    fs::write(folder.path().join("large"), octets.collect::<Vec<_>>())?;
    fs::create_dir(folder.path().join("put"))?;
    let file = folder.path().join("nginx.conf");
    fs::write(&file, config)?;
    let [file, error] = [file, folder.path().join("error")];
    let args = [
        "-e",
        error.to_str().context("a path")?,
        "-c",
        file.to_str().context("a path")?,
    ];
    serve(host, "nginx", &args, address)
}

/// Octets that the loopback device has carried.
fn carried(host: &Netns) -> Result<u64> {
    let text = host.run(|| fs::read_to_string("/proc/thread-self/net/dev"))?;
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("lo:"));
    let first = line.and_then(|line| line.split_whitespace().next());
    Ok(first.context("a count of lo")?.parse()?)
}

/// Requests of a connection that is kept, and what both ends see of it.
const REQUESTS: &str = "
import http.client, sys
host, port = sys.argv[1], int(sys.argv[2])
for timeout in (None, 60):
    c = http.client.HTTPConnection(host, port, timeout=timeout)
    for number in range(200):
        c.request('GET', '/small')
        answer = c.getresponse()
        assert answer.status == 200 and answer.read() == b'small'
    c.close()
print('done')
";

fn web_programs(loopback: &str) -> Result<()> {
    let Some(host) = host()? else {
        return Ok(());
    };
    for (program, package) in [("nginx", "nginx-light"), ("wrk", "wrk"), ("curl", "curl")] {
        if privilege::program(program, package)?.is_none() {
            return Ok(());
        }
    }
    let folder = TempDir::new()?;
    let origin = at(loopback, WEB);
    let _nginx = nginx(&host, &folder, origin)?;
    let mut loads = Vec::new();
    for accelerate in ["off", "on"] {
        let mut command = host.command(sluice()?);
        command.args(["proxy", "--from", &at(loopback, 0).to_string()]);
        command.args(["--to", &origin.to_string(), "--accelerate", accelerate]);
        let (_proxy, to) = alone::start(&mut command);
        let before = carried(&host)?;
        fetch_and_put(&host, &folder, to).with_context(|| format!("--accelerate {accelerate}"))?;
        loads.push(carried(&host)? - before);
        let mut python = host.command("python3");
        python.args(["-c", REQUESTS, loopback, &to.port().to_string()]);
        ensure!(run(&mut python)?.trim() == "done");
        let mut wrk = host.command("wrk");
        let report = run(wrk.args(["-t1", "-c8", "-d1s", &format!("http://{to}/small")]))?;
        ensure!(
            !report.contains("Socket errors") && !report.contains("Non-2xx"),
            "{report}"
        );
    }
    let [plain, accelerated] = loads[..] else {
        anyhow::bail!("two loads");
    };
    // The file crosses loopback four times. What the daemon writes, half of that, never does if it is
    // accelerated; the programs' own writes do where they are so far ahead that too much waits.
    ensure!(plain > 4 * LARGE as u64, "{plain} octets went by loopback");
    ensure!(
        accelerated < plain * 6 / 10,
        "{accelerated} octets went by loopback, and {plain} without acceleration"
    );
    Ok(())
}

/// Gets the large file, and puts it.
fn fetch_and_put(host: &Netns, folder: &TempDir, to: SocketAddr) -> Result<()> {
    let large = fs::read(folder.path().join("large"))?;
    let got = folder.path().join("got");
    let put = folder.path().join("put/large");
    let curl = |args: &[&str], path: &str| {
        let mut curl = host.command("curl");
        curl.args(["-sS", "--fail", "--noproxy", "*", "--max-time", "120"]);
        run(curl.args(args).arg(format!("http://{to}{path}")))
    };
    let path = |path: &std::path::Path| path.to_str().map(str::to_owned).context("a path");
    curl(&["-o", &path(&got)?], "/large")?;
    ensure!(fs::read(&got)? == large, "what came differs");
    curl(&["-T", &path(&got)?], "/put/large")?;
    ensure!(fs::read(&put)? == large, "what went differs");
    fs::remove_file(&put)?;
    Ok(())
}

#[test]
fn web_programs_get_what_they_ask_for_past_loopback_v4() -> Result<()> {
    web_programs(V4.loopback)
}

#[test]
fn web_programs_get_what_they_ask_for_past_loopback_v6() -> Result<()> {
    web_programs(V6.loopback)
}

/// A daemon with an HTTP listener and a tunnel, each accelerated as said.
fn config(loopback: &str, accelerate: &str) -> Value {
    let listener = |name: &str, kind: &str, port: u16| {
        json!({
            "name": name, "kind": kind, "address": loopback, "port": port,
            "service": name, "accelerate": accelerate,
        })
    };
    let service = |name: &str, port: u16| {
        let backend = at(loopback, port).to_string();
        json!({"name": name, "backends": [backend], "accelerate": accelerate})
    };
    json!({
        "listeners": [listener("web", "http", BEFORE), listener("redis", "tcp", BEFORE_REDIS)],
        "services": [service("web", WEB), service("redis", REDIS)],
    })
}

fn acceleration(daemon: &Daemon) -> Result<AccelerationView> {
    daemon.status()?.acceleration.context("asked for")
}

fn redis_programs(loopback: &str) -> Result<()> {
    const KEYS: usize = 20_000;
    let Some(host) = host()? else {
        return Ok(());
    };
    if privilege::program("redis-server", "redis-server")?.is_none() {
        return Ok(());
    }
    let args = ["--bind", loopback, "--protected-mode", "no", "--save", ""];
    let _redis = serve(&host, "redis-server", &args, at(loopback, REDIS))?;
    let daemon = Daemon::start(&host, &config(loopback, "auto"))?;
    let view = acceleration(&daemon)?;
    ensure!(
        view.state == "on" && view.self_test_seconds > 0.0,
        "{view:?}"
    );

    let port = BEFORE_REDIS.to_string();
    let cli = |args: &[&str]| {
        let mut cli = host.command("redis-cli");
        cli.args(["-h", loopback, "-p", &port]).args(args);
        cli
    };
    let many: String = (0..KEYS)
        .map(|key| format!("SET key:{key} {key:0>200}\r\n"))
        .collect();
    run_with_input(&mut cli(&["--pipe"]), &many)?;
    ensure!(run(&mut cli(&["DBSIZE"]))?.trim() == KEYS.to_string());
    let last = KEYS - 1;
    let value = run(&mut cli(&["GET", &format!("key:{last}")]))?;
    ensure!(value.trim() == format!("{last:0>200}"), "{value}");
    let mut benchmark = host.command("redis-benchmark");
    benchmark.args(["-h", loopback, "-p", &port, "-n", "20000", "-c", "20"]);
    let said = run(benchmark.args(["-d", "1000", "-t", "set,get", "-q"]))?;
    ensure!(
        said.matches("requests per second").count() == 2 && !said.contains("rror"),
        "{said}"
    );

    let view = acceleration(&daemon)?;
    ensure!(
        view.tunnels >= 20 && view.direct_bytes > 20_000 * 1000,
        "{view:?}"
    );
    ensure!(view.stalled == 0 && view.full == 0, "{view:?}");
    let shown = daemon.sluice(&["status"])?;
    ensure!(shown.contains("accelerate  on (self-test "), "{shown}");
    let metrics = daemon.admin_get("/metrics")?;
    ensure!(
        metrics.contains("\nsluice_acceleration_on 1\n"),
        "{metrics}"
    );
    wait::until("nothing is accelerated any more", || {
        Ok(acceleration(&daemon)?.sockets == 0)
    })
}

#[test]
fn redis_programs_talk_past_the_daemon_v4() -> Result<()> {
    redis_programs(V4.loopback)
}

#[test]
fn redis_programs_talk_past_the_daemon_v6() -> Result<()> {
    redis_programs(V6.loopback)
}

/// The daemon of a configuration, as a process that may do nothing that others may not.
fn unprivileged(host: &Netns, daemon: &Daemon) -> Result<Command> {
    let mut command = host.command("setpriv");
    command
        .args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"])
        .arg(sluice()?)
        .args(["run", "-c"])
        .arg(daemon.config_file())
        .env("NO_COLOR", "1")
        .stdin(Stdio::null());
    Ok(command)
}

#[test]
fn without_capabilities_auto_goes_on_and_says_why_and_on_does_not_start() -> Result<()> {
    let Some(host) = host()? else {
        return Ok(());
    };
    let folder = TempDir::new()?;
    let _nginx = nginx(&host, &folder, at(V4.loopback, WEB))?;
    let daemon = Daemon::prepare(&host, &config(V4.loopback, "auto"), &[])?;
    let log = fs::File::create(daemon.directory().join("log"))?;
    let mut command = unprivileged(&host, &daemon)?;
    let running = Program(command.stdout(log.try_clone()?).stderr(log).spawn()?);
    wait::until("it is ready", || Ok(daemon.is_ready()))?;
    let view = acceleration(&daemon)?;
    let reason = view.reason.clone().context("a reason")?;
    ensure!(view.state == "off" && reason.contains("CAP_"), "{view:?}");
    ensure!(view.cause.as_deref() == Some("privileges"), "{view:?}");
    let shown = daemon.sluice(&["status"])?;
    ensure!(shown.contains(&format!("off: {reason}")), "{shown}");
    let metrics = daemon.admin_get("/metrics")?;
    for line in [
        "sluice_acceleration_on 0",
        "sluice_acceleration_off{cause=\"privileges\"} 1",
    ] {
        ensure!(
            metrics.lines().any(|it| it == line),
            "no {line}:\n{metrics}"
        );
    }
    ensure!(daemon.log().contains(&reason), "{}", daemon.log());
    fetch_and_put(&host, &folder, at(V4.loopback, BEFORE))?;
    drop(running);

    let daemon = Daemon::prepare(&host, &config(V4.loopback, "on"), &[])?;
    let output = unprivileged(&host, &daemon)?.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success(), "{said}");
    ensure!(
        said.contains("accelerate") && said.contains("CAP_"),
        "{said}"
    );
    Ok(())
}
