//! Gray backends: they answer every request, and the network to one of them is bad. What the kernel
//! knows of connections ejects it before a request fails.
//!
//! Packets are lost by nftables, and wait behind a slow link (`sch_tbf`): `sch_netem` is in few
//! kernels.

use anyhow::{Context, Result, ensure};
use proxy_tests::command::{run, run_with_input};
use proxy_tests::config::WEB;
use proxy_tests::load::{Kind, Load};
use proxy_tests::path::Path;
use proxy_tests::privilege;
use proxy_tests::stage::Stage;
use proxy_tests::topology::{BALANCER_CLIENT_V4, BALANCER_CLIENT_V6, Node};
use proxy_tests::wait;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

const PROXY_PORT: u16 = 8088;

/// Clients at a time, and how long each pauses.
const CLIENTS: usize = 6;
const PAUSE: Duration = Duration::from_millis(5);

/// A stage whose service is also behind a proxy, with these rules for the network.
fn stage(path: Path, interval: &'static str, network: Value) -> Result<Stage> {
    let address = if path.client_is_v6() { "::" } else { "0.0.0.0" };
    Stage::new(path)
        .config(move |config| {
            let listener = json!({
                "name": "proxy", "kind": "http", "address": address, "port": PROXY_PORT,
                "service": "web",
            });
            let listeners = config["listeners"].as_array_mut().expect("a list");
            listeners.push(listener);
            config["services"][WEB]["outlier"] = json!({
                "network": network, "interval": interval, "base_ejection_time": "3s", "jitter": "0%",
            });
            // Each request goes where its turn is, however long it takes there. And a probe that is
            // lost is no part of this.
            config["services"][WEB]["balance"] = json!("round-robin");
            let service = config["services"][WEB].as_object_mut().expect("a map");
            service.remove("health");
        })
        .start()
}

fn proxy(stage: &Stage) -> SocketAddr {
    match stage.path.client_is_v6() {
        true => (BALANCER_CLIENT_V6, PROXY_PORT).into(),
        false => (BALANCER_CLIENT_V4, PROXY_PORT).into(),
    }
}

fn load(stage: &Stage) -> Result<Load> {
    let client = stage.client();
    Load::start(&client, proxy(stage), Kind::NewConnections, CLIENTS, PAUSE)
}

fn node<'s>(stage: &'s Stage, name: &str) -> &'s Node {
    let mut nodes = stage.topology.backends.iter();
    nodes
        .find(|node| node.name == name)
        .expect("a backend with this name")
}

/// Has a backend lose a share of the TCP segments that reach it, in percent.
fn lose(node: &Node, nft: &PathBuf, percent: u32) -> Result<()> {
    // What was there before goes; there must be something.
    let mut rules = "table inet gray {}\ndelete table inet gray\n".to_owned();
    if percent > 0 {
        rules += &format!(
            "table inet gray {{ chain in {{ type filter hook input priority 0;\n\
             meta l4proto tcp numgen random mod 100 < {percent} drop\n }}\n}}\n"
        );
    }
    run_with_input(node.netns.command(nft).args(["-f", "-"]), &rules)
}

fn network_of(stage: &Stage, backend: &str) -> Result<proxy_userspace::observe::view::NetworkView> {
    let known = stage.daemon().backend("web", backend)?;
    Ok(known.network.unwrap_or_default())
}

/// One backend loses packets: it is ejected by that, comes back when it is well, and no client sees
/// an error.
fn a_backend_that_loses_is_ejected_before_a_request_fails(path: Path) -> Result<()> {
    let Some(nft) = privilege::program("nft", "nftables")? else {
        return Ok(());
    };
    let mut stage = stage(path, "1s", json!({ "min_segments": 20 }))?;
    let load = load(&stage)?;
    load.wait_for(200)?;
    lose(node(&stage, "web-2"), &nft, 30)?;
    // In the kernel, too: the service is one.
    stage.daemon().wait_for_state("web-2", "draining")?;
    let known = stage.daemon().backend("web", "web-2")?;
    let ejection = known.ejection.context("it is ejected")?;
    ensure!(ejection.detector == "network", "{ejection:?}");
    ensure!(
        ejection.why.contains("segments were sent again"),
        "{ejection:?}"
    );
    let history: Vec<_> = known.history.iter().map(|change| &*change.to).collect();
    ensure!(history == ["ejected"], "{history:?}");

    let text = stage.daemon().sluice(&["status", "web/web-2"])?;
    for part in ["network: ", "segments sent again"] {
        ensure!(text.contains(part), "{part}:\n{text}");
    }
    let metrics = stage.daemon().admin_get("/metrics")?;
    for line in [
        r#"sluice_backend_ejections_total{service="web",backend="web-2",detector="network"} 1"#,
        r#"sluice_backend_tcp_retransmits_total{service="web",backend="web-1",from="proxies"}"#,
        r#"sluice_backend_tcp_rtt_seconds{service="web",backend="web-1"}"#,
    ] {
        ensure!(metrics.contains(line), "{line}:\n{metrics}");
    }

    lose(node(&stage, "web-2"), &nft, 0)?;
    let before = stage.origin("web-2").requests();
    wait::until("web-2 serves again", || {
        let known = stage.daemon().backend("web", "web-2")?;
        Ok(known.ejection.is_none() && stage.origin("web-2").requests() > before + 50)
    })?;
    let report = load.stop();
    report.expect_no_failure()
}

on_paths!(a_backend_that_loses_is_ejected_before_a_request_fails: v4 = NAT_V4, v6 = NAT_V6);

/// All lose alike: whoever was ejected for it would only leave more to the others.
#[test]
fn a_network_that_is_bad_for_all_ejects_nobody() -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let Some(nft) = privilege::program("nft", "nftables")? else {
        return Ok(());
    };
    let stage = stage(
        Path::NAT_V4,
        "1s",
        json!({ "min_segments": 30, "deviations": 4, "zero_windows": "0%" }),
    )?;
    for node in &stage.topology.backends {
        lose(node, &nft, 20)?;
    }
    let load = load(&stage)?;
    wait::until("much was sent again to each", || {
        let names = ["web-1", "web-2", "web-3"].into_iter();
        let seen = names
            .map(|name| network_of(&stage, name))
            .collect::<Result<Vec<_>>>()?;
        Ok(seen.iter().all(|seen| seen.retransmits > 100))
    })?;
    for name in ["web-1", "web-2", "web-3"] {
        let known = stage.daemon().backend("web", name)?;
        ensure!(known.ejections.is_empty(), "{name}: {known:?}");
    }
    load.stop().expect_no_failure()
}

/// Nothing is lost, but the way has become long.
#[test]
fn a_backend_behind_a_queue_is_ejected() -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let Some(tc) = privilege::program("tc", "iproute2")? else {
        return Ok(());
    };
    let mut stage = stage(
        Path::NAT_V4,
        // The others are asked less while this one holds the clients up.
        "3s",
        json!({ "loss": "0%", "zero_windows": "0%", "rtt": "30ms", "min_segments": 1 }),
    )?;
    let load = load(&stage)?;
    let is_known = |name: &str| -> Result<bool> { Ok(network_of(&stage, name)?.looks > 50) };
    wait::until("the ways are known", || {
        Ok(is_known("web-1")? && is_known("web-2")? && is_known("web-3")?)
    })?;
    let device = stage.topology.backend_device;
    let tc = |words: &str| -> Result<()> {
        let mut command = node(&stage, "web-2").netns.command(&tc);
        run(command.args(words.split(' '))).map(drop)
    };
    // An answer and its acknowledgements are some 800 octets: with six clients there is a queue.
    tc(&format!(
        "qdisc add dev {device} root tbf rate 20kbit burst 1600 limit 1mb"
    ))?;
    stage.daemon().wait_for_state("web-2", "draining")?;
    let known = stage.daemon().backend("web", "web-2")?;
    let ejection = known.ejection.context("it is ejected")?;
    ensure!(ejection.why.starts_with("round trips of"), "{ejection:?}");
    tc(&format!("qdisc del dev {device} root"))?;
    let before = stage.origin("web-2").requests();
    wait::until("web-2 serves again", || {
        Ok(stage.origin("web-2").requests() > before + 50)
    })?;
    load.stop().expect_no_failure()
}
