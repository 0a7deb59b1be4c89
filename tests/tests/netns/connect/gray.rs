//! Gray backends of workloads that are balanced at connect(): no proxy is on the way, so it is what the
//! kernel knows of the workloads' own sockets that ejects.

use super::scene::{Scene, balancing, counted, listener, service, shares};
use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use proxy_tests::command::run_with_input;
use proxy_tests::daemon::Daemon;
use proxy_tests::netns::Netns;
use proxy_tests::{privilege, wait};
use proxy_userspace::observe::view::BackendView;
use serde_json::{Value, json};
use std::path::Path;

/// One family's VIP, and the servers' addresses.
#[derive(Clone, Copy)]
struct Family {
    vip: &'static str,
    servers: [&'static str; 3],
    /// What nftables calls it.
    word: &'static str,
}

const V4: Family = Family {
    vip: "192.0.2.10",
    servers: ["10.1.0.1", "10.1.0.2", "10.1.0.3"],
    word: "ip",
};

const V6: Family = Family {
    vip: "2001:db8::10",
    servers: ["fd01::1", "fd01::2", "fd01::3"],
    word: "ip6",
};

impl Family {
    /// The names of the backends.
    fn names(self) -> [String; 3] {
        self.servers.map(|address| match self.word {
            "ip" => format!("{address}:8080"),
            _ => format!("[{address}]:8080"),
        })
    }

    /// One service, with these rules for outliers.
    fn config(self, scene: &Scene, outlier: &Value) -> Value {
        let names = self.names();
        let mut web = service("web", &names.each_ref().map(String::as_str));
        web["outlier"] = json!({
            "interval": "1s", "base_ejection_time": "8s", "jitter": "0%",
        });
        let rules = web["outlier"].as_object_mut().expect("a map");
        rules.extend(outlier.as_object().expect("a map").clone());
        scene.config(vec![listener("web", self.vip, 80, "web")], vec![web])
    }
}

/// Clients that dial, ask a few times and dial anew. Says how many have and how many could not, when
/// asked.
const LOAD: &str = "
import threading
asked, failures = [], []
def run():
    while True:
        try:
            sock = dial(VIP, 80)
            for _ in range(5): ask(sock)
            sock.close()
            asked.append(1)
        except OSError as error: failures.append(str(error))
        time.sleep(0.005)
for _ in range(16): threading.Thread(target=run, daemon=True).start()
while True:
    input()
    print(len(asked), len(failures), failures[:3], flush=True)
";

/// Has a share of the segments to a server get lost, in percent.
fn lose(host: &Netns, nft: &Path, family: Family, server: &str, percent: u32) -> Result<()> {
    lose_those(host, nft, family, server, "", percent)
}

/// The same of those alone that open connections: each loss makes it last a second.
fn delay(host: &Netns, nft: &Path, family: Family, server: &str, percent: u32) -> Result<()> {
    let opening = "tcp flags & (syn | ack) == syn";
    lose_those(host, nft, family, server, opening, percent)
}

fn lose_those(
    host: &Netns,
    nft: &Path,
    family: Family,
    server: &str,
    which: &str,
    percent: u32,
) -> Result<()> {
    // What was there before goes; there must be something.
    let mut rules = "table inet gray {}\ndelete table inet gray\n".to_owned();
    if percent > 0 {
        rules += &format!(
            "table inet gray {{ chain in {{ type filter hook input priority 0;\n\
             {} daddr {server} tcp dport 8080 {which} numgen random mod 100 < {percent} drop\n }}\n}}\n",
            family.word
        );
    }
    run_with_input(host.command(nft).args(["-f", "-"]), &rules)
}

fn backend(daemon: &Daemon, name: &str) -> Result<BackendView> {
    daemon.backend("web", name)
}

fn given(daemon: &Daemon, name: &str) -> Result<(bool, u64)> {
    let counts = counted(daemon, "web")?;
    let mut backends = counts.backends.iter();
    let one = backends.find(|one| one.name == name);
    let one = one.context("a backend with this name")?;
    Ok((one.takes_new, one.given))
}

/// One server's segments get lost: it is ejected by that, comes back when it is well, and no workload
/// sees an error.
fn a_lossy_backend_is_ejected(family: Family) -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let Some(nft) = privilege::program("nft", "nftables")? else {
        return Ok(());
    };
    let _servers = scene.servers(3)?;
    let outlier = json!({"network": {"min_segments": 10}});
    let daemon = Daemon::start(&scene.host, &family.config(&scene, &outlier))?;
    let names = family.names();
    let gray = names[1].as_str();
    let script = format!("VIP = '{}'\n{LOAD}", family.vip);
    let mut load = scene.talk(&scene.host, &script)?;
    let seen = |name: &str| -> Result<u64> {
        let workloads = backend(&daemon, name)?.workloads;
        Ok(workloads.map_or(0, |seen| seen.opened))
    };
    wait::until("all are seen", || {
        Ok(seen(&names[0])? > 50 && seen(gray)? > 50 && seen(&names[2])? > 50)
    })?;
    lose(&scene.host, &nft, family, family.servers[1], 30)?;
    wait::until("it is ejected", || {
        Ok(backend(&daemon, gray)?.ejection.is_some())
    })?;
    let known = backend(&daemon, gray)?;
    let ejection = known.ejection.context("it is ejected")?;
    ensure!(ejection.detector == "network", "{ejection:?}");
    let is_loss = ejection.why.contains("segments were sent again");
    ensure!(is_loss, "{ejection:?}");
    // Nobody is given it any more.
    ensure!(!given(&daemon, gray)?.0);
    let all = known.network.context("seen")?;
    let workloads = known.workloads.context("seen")?;
    ensure!(all.retransmits == workloads.network.retransmits, "{all:?}");
    let text = daemon.sluice(&["status", &format!("web/{gray}")])?;
    ensure!(text.contains("connections opened, 0 failed"), "{text}");
    let metrics = daemon.admin_get("/metrics")?;
    for (name, label) in [
        ("tcp_retransmits", "from=\"workloads\""),
        ("tcp_segments", "from=\"workloads\""),
        ("workload_connections", "result=\"opened\""),
    ] {
        let line =
            format!("sluice_backend_{name}_total{{service=\"web\",backend=\"{gray}\",{label}}} ");
        ensure!(metrics.contains(&line), "{line}:\n{metrics}");
    }
    ensure!(!metrics.contains("from=\"proxies\""), "{metrics}");

    lose(&scene.host, &nft, family, family.servers[1], 0)?;
    let before = given(&daemon, gray)?.1;
    wait::until("it is given again", || {
        let (takes_new, now) = given(&daemon, gray)?;
        Ok(takes_new && now > before + 50)
    })?;
    let said = load.go_on()?;
    ensure!(said.ends_with(" 0 []"), "{said}");
    Ok(())
}
on_families!(a_lossy_backend_is_ejected:
    a_lossy_backend_is_ejected_by_the_sockets_of_workloads_v4 = V4,
    a_lossy_backend_is_ejected_by_the_sockets_of_workloads_v6 = V6,
);

/// Nobody listens at one: it gets no more sockets after a few, without any check.
fn a_backend_that_refuses_is_ejected(family: Family) -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let _servers = scene.servers(2)?;
    let outlier = json!({"network": {}, "base_ejection_time": "1h", "max_ejection_time": "1h"});
    let daemon = Daemon::start(&scene.host, &family.config(&scene, &outlier))?;
    let names = family.names();
    let dial = |times: u32| {
        let vip = family.vip;
        scene.workload(&format!(
            "for _ in range({times}): print(code(lambda: ask(dial('{vip}', 80))))"
        ))
    };
    let first = shares(&dial(60)?);
    ensure!(first.contains_key("ECONNREFUSED"), "{first:?}");
    wait::until("it is ejected", || {
        Ok(backend(&daemon, &names[2])?.ejection.is_some())
    })?;
    let known = backend(&daemon, &names[2])?;
    let ejection = known.ejection.context("it is ejected")?;
    ensure!(
        ejection.detector == "consecutive_connect_failures",
        "{ejection:?}"
    );
    wait::until("all that failed is seen", || {
        let seen = backend(&daemon, &names[2])?.workloads;
        let seen = seen.map(|seen| (seen.opened, seen.failed));
        Ok(seen == Some((0, first["ECONNREFUSED"])))
    })?;
    let now = shares(&dial(60)?);
    ensure!(now.keys().eq(["OK"]), "{now:?}");
    Ok(())
}
on_families!(a_backend_that_refuses_is_ejected:
    a_backend_that_refuses_workloads_is_ejected_v4 = V4,
    a_backend_that_refuses_workloads_is_ejected_v6 = V6,
);

/// Opening connections to one server takes long: it is given to fewer sockets, step by step down to the
/// floor, and to as many as before once it is as fast as the others. Nobody is ejected.
fn a_slow_backend_is_given_less(family: Family) -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let Some(nft) = privilege::program("nft", "nftables")? else {
        return Ok(());
    };
    let _servers = scene.servers(3)?;
    let mut config = family.config(&scene, &json!({"interval": "2s"}));
    config["services"][0]["steer_by_latency"] = json!({
        "above": 5, "below": 3, "step": "45%", "floor": "10%", "min_requests": 2, "network": false,
    });
    let daemon = Daemon::start(&scene.host, &config)?;
    let names = family.names();
    let script = format!("VIP = '{}'\n{LOAD}", family.vip);
    let mut load = scene.talk(&scene.host, &script)?;
    let left = |name: &str| -> Result<u16> {
        let left = backend(&daemon, name)?.steered_percent;
        Ok(left.map_or(100, u16::from))
    };
    let given = || -> Result<Vec<u64>> {
        let given = names.iter().map(|name| Ok(given(&daemon, name)?.1));
        given.collect()
    };
    // Of those that are given from now on, how many of a hundred go to the slow one.
    let share = || -> Result<u64> {
        let before = given()?;
        let mut gained = Vec::new();
        wait::until("many more are given", || {
            let now = given()?.into_iter().zip(&before);
            gained = now.map(|(now, before)| now - before).collect();
            Ok(gained.iter().sum::<u64>() > 600)
        })?;
        Ok(100 * gained[1] / gained.iter().sum::<u64>())
    };
    let even = share()?;
    ensure!((23..=43).contains(&even), "{even} %");
    delay(&scene.host, &nft, family, family.servers[1], 50)?;
    wait::until(
        "little of its weight is left",
        || Ok(left(&names[1])? == 10),
    )?;
    for other in [&names[0], &names[2]] {
        ensure!(left(other)? == 100, "{other}");
    }
    // 10 of 210.
    let few = share()?;
    ensure!(few <= 10, "{few} %");
    delay(&scene.host, &nft, family, family.servers[1], 0)?;
    wait::until("all of its weight is back", || Ok(left(&names[1])? == 100))?;
    let even = share()?;
    ensure!((23..=43).contains(&even), "{even} %");
    for name in &names {
        let known = backend(&daemon, name)?;
        ensure!(known.ejections.is_empty(), "{known:?}");
    }
    let said = load.go_on()?;
    ensure!(said.ends_with(" 0 []"), "{said}");
    Ok(())
}

#[test]
fn a_slow_backend_is_given_to_fewer_sockets_v4() -> Result<()> {
    a_slow_backend_is_given_less(V4)
}

#[test]
fn a_slow_backend_is_given_to_fewer_sockets_v6() -> Result<()> {
    a_slow_backend_is_given_less(V6)
}

/// The same slowness, where the service wants slow backends ejected.
#[test]
fn a_slow_backend_is_ejected_by_the_sockets_of_workloads() -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let Some(nft) = privilege::program("nft", "nftables")? else {
        return Ok(());
    };
    let _servers = scene.servers(3)?;
    let outlier = json!({
        "latency": {"factor": 5, "intervals": 2, "min_hosts": 3, "min_requests": 2},
    });
    let daemon = Daemon::start(&scene.host, &V4.config(&scene, &outlier))?;
    let names = V4.names();
    let script = format!("VIP = '{}'\n{LOAD}", V4.vip);
    let mut load = scene.talk(&scene.host, &script)?;
    delay(&scene.host, &nft, V4, V4.servers[1], 50)?;
    wait::until("it is ejected", || {
        Ok(backend(&daemon, &names[1])?.ejection.is_some())
    })?;
    let ejection = backend(&daemon, &names[1])?.ejection;
    let ejection = ejection.context("it is ejected")?;
    ensure!(ejection.detector == "latency", "{ejection:?}");
    ensure!(!given(&daemon, &names[1])?.0, "nobody is given it");
    delay(&scene.host, &nft, V4, V4.servers[1], 0)?;
    wait::until("it is given again", || Ok(given(&daemon, &names[1])?.0))?;
    let said = load.go_on()?;
    ensure!(said.ends_with(" 0 []"), "{said}");
    Ok(())
}

/// Connections that stay: each of them hands over much, again and again.
const STREAMS: &str = "
import threading
def run(sock):
    sock.settimeout(600)
    def take():
        while True:
            try: sock.recv(1 << 20)
            except OSError: return
    threading.Thread(target=take, daemon=True).start()
    while True:
        sock.sendall(bytes(8 << 20))
        time.sleep(0.2)
held = {}
while len(held) < 3 or any(len(socks) < 3 for socks in held.values()):
    sock = dial(VIP, 80)
    held.setdefault(ask(sock), []).append(sock)
for socks in held.values():
    for sock in socks[3:]: sock.close()
    for sock in socks[:3]: threading.Thread(target=run, args=(sock,), daemon=True).start()
print('has', flush=True)
input()
";

/// A server's process hangs, and its kernel goes on to acknowledge until there is no room. Seen of
/// sockets in another network namespace than the daemon's.
#[test]
fn a_backend_that_takes_nothing_is_ejected_by_the_sockets_of_a_pod() -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let servers = scene.servers(3)?;
    let outlier = json!({"interval": "3s", "network": {"loss": "0%", "rtt": "0s"}});
    let daemon = Daemon::start(&scene.host, &V4.config(&scene, &outlier))?;
    let pod = super::loss::pod(&scene)?;
    let script = format!("VIP = '{}'\n{STREAMS}", V4.vip);
    let mut streams = scene.talk(&pod, &script)?;
    ensure!(streams.line()? == "has");
    servers[1].signal(Signal::SIGSTOP);
    let names = V4.names();
    wait::until("it is ejected", || {
        Ok(backend(&daemon, &names[1])?.ejection.is_some())
    })?;
    let ejection = backend(&daemon, &names[1])?.ejection;
    let ejection = ejection.context("it is ejected")?;
    ensure!(
        ejection.why.starts_with("its window was zero"),
        "{ejection:?}"
    );
    servers[1].signal(Signal::SIGCONT);
    wait::until("it is given again", || Ok(given(&daemon, &names[1])?.0))?;
    Ok(())
}

/// A service that does not ask for it costs nothing: nothing is attached for it, and nothing is added
/// up. Nor is it any more once nobody asks.
#[test]
fn sockets_are_watched_only_where_that_is_asked_for() -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let _servers = scene.servers(3)?;
    let plain = V4.config(&scene, &json!({}));
    let watched = V4.config(&scene, &json!({"network": {}}));
    let daemon = Daemon::start(&scene.host, &plain)?;
    let links = daemon.pin_dir().join("connect/links");
    let is_attached = || -> Result<bool> {
        let names = std::fs::read_dir(&links)?.flatten();
        let mut names = names.map(|entry| entry.file_name());
        Ok(names.any(|name| name.to_string_lossy().ends_with("_watch")))
    };
    let dial = "for _ in range(60): print(ask(dial('192.0.2.10', 80)))";
    let seen = || -> Result<u64> {
        let all = V4.names().map(|name| backend(&daemon, &name));
        let all = all.into_iter().collect::<Result<Vec<_>>>()?;
        let all = all.into_iter().filter_map(|one| one.workloads);
        Ok(all.map(|seen| seen.opened).sum())
    };
    scene.workload(dial)?;
    ensure!(!is_attached()? && seen()? == 0);
    daemon.reload(&watched)?;
    ensure!(is_attached()?);
    ensure!(balancing(&daemon)?.reason.is_none());
    scene.workload(dial)?;
    wait::until("all are seen", || Ok(seen()? == 60))?;
    daemon.reload(&plain)?;
    ensure!(!is_attached()?);
    Ok(())
}
