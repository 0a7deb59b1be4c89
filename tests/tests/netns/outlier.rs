//! One truth about each backend: what the proxies see moves flows in the kernel, and what checks and
//! operators say holds for both. A service is used by an l4 listener and by a proxy.

use crate::support::{EVEN, expect_shares};
use anyhow::{Result, ensure};
use proxy_tests::client::Client;
use proxy_tests::config::WEB;
use proxy_tests::path::Path;
use proxy_tests::privilege;
use proxy_tests::stage::Stage;
use proxy_tests::topology::BALANCER_CLIENT_V4;
use proxy_tests::wait;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;

const PROXY_PORT: u16 = 8088;

/// The service `web` at the VIP is also behind a proxy.
fn share(config: &mut Value, outlier: Value) {
    let listener = json!({
        "name": "proxy", "kind": "http", "address": "0.0.0.0", "port": PROXY_PORT,
        "service": "web",
    });
    let listeners = config["listeners"].as_array_mut().expect("a list");
    listeners.push(listener);
    config["services"][WEB]["outlier"] = outlier;
}

fn proxy() -> SocketAddr {
    SocketAddr::from((BALANCER_CLIENT_V4, PROXY_PORT))
}

/// Who answers requests to the proxy.
fn expect_not(client: &Client, backend: &str) -> Result<()> {
    for _ in 0..12 {
        let answer = client.get(proxy(), "/name")?;
        ensure!(answer.status == 200, "status {}", answer.status);
        ensure!(answer.backend != backend, "{backend} has answered");
    }
    Ok(())
}

#[test]
fn what_the_proxies_eject_takes_no_new_flows_and_keeps_its_old_ones() -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let rules = json!({ "consecutive_5xx": 3, "base_ejection_time": "1h" });
    let mut stage = Stage::new(Path::NAT_V4)
        .config(move |config| share(config, rules))
        .start()?;
    let client = stage.client();
    let mut held = client.hold(stage.web(), 30)?;
    ensure!(held.shares().len() == 3, "{:?}", held.shares());

    stage.origin("web-2").set_failing(true);
    wait::until("web-2 is ejected", || {
        client.get(proxy(), "/name")?;
        Ok(stage.daemon().backend("web", "web-2")?.state == "draining")
    })?;
    stage.origin("web-2").set_failing(false);
    let shares = client.shares(stage.web(), 90)?;
    expect_shares(&shares, &[("web-1", 1), ("web-2", 0), ("web-3", 1)])?;
    held.check()?;
    expect_not(&client, "web-2")?;

    let known = stage.daemon().backend("web", "web-2")?;
    let ejection = known.ejection.expect("it is ejected");
    ensure!(ejection.detector == "consecutive_5xx", "{ejection:?}");
    let last = known.history.last().expect("a change");
    ensure!((&*last.from, &*last.to) == ("up", "ejected"), "{last:?}");
    let text = stage.daemon().sluice(&["status", "web/web-2"])?;
    ensure!(text.contains("3 answers of 5xx in a row"), "{text}");
    let metrics = stage.daemon().admin_get("/metrics")?;
    for line in [
        r#"sluice_backend_ejected{service="web",backend="web-2"} 1"#,
        r#"sluice_backend_ejections_total{service="web",backend="web-2",detector="consecutive_5xx"} 1"#,
    ] {
        ensure!(metrics.contains(line), "{line}:\n{metrics}");
    }

    // A reload keeps it; without the rules it ends.
    let mut config = stage.config.clone();
    stage.daemon().reload(&config)?;
    ensure!(stage.daemon().backend("web", "web-2")?.state == "draining");
    config["services"][WEB]["outlier"] = json!("off");
    stage.daemon().reload(&config)?;
    stage.daemon().wait_for_state("web-2", "up")?;
    expect_shares(&client.shares(stage.web(), 150)?, EVEN)?;
    held.check()
}

#[test]
fn what_checks_and_operators_say_holds_for_the_proxies() -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let mut stage = Stage::new(Path::NAT_V4)
        .config(|config| share(config, json!("off")))
        .start()?;
    let client = stage.client();
    stage.origin("web-2").set_healthy(false);
    stage.daemon().wait_for_state("web-2", "down")?;
    expect_not(&client, "web-2")?;
    let known = stage.daemon().backend("web", "web-2")?;
    let last = known.history.last().expect("a change");
    ensure!(last.to == "down", "{last:?}");
    ensure!(last.why.contains("status 503"), "{last:?}");
    stage.origin("web-2").set_healthy(true);
    stage.daemon().wait_for_state("web-2", "up")?;

    stage.daemon().sluice(&["drain", "web", "web-3"])?;
    expect_not(&client, "web-3")?;
    let known = stage.daemon().backend("web", "web-3")?;
    let last = known.history.last().expect("a change");
    ensure!(last.why == "drained by an operator", "{last:?}");
    Ok(())
}

/// What is left of each backend's weight, in percent.
fn weights(stage: &Stage) -> Result<Vec<(&'static str, u32)>> {
    ["web-1", "web-2", "web-3"]
        .into_iter()
        .map(|name| {
            let left = stage.daemon().backend("web", name)?.steered_percent;
            Ok((name, left.unwrap_or(100).into()))
        })
        .collect()
}

/// Asks the proxy until `web-2` has so much of its weight left; then new flows are shared as the
/// weights say. These may move meanwhile: then it is tried again.
fn expect_shares_with(left: u32, stage: &Stage) -> Result<()> {
    loop {
        wait::until(&format!("web-2 has {left} % of its weight"), || {
            for _ in 0..6 {
                stage.client().get(proxy(), "/name")?;
            }
            Ok(weights(stage)?.contains(&("web-2", left)))
        })?;
        let before = weights(stage)?;
        let shares = stage.client().shares(stage.web(), 200)?;
        if weights(stage)? == before {
            return expect_shares(&shares, &before);
        }
    }
}

#[test]
fn a_slow_backend_loses_flows_and_gains_them_back() -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let mut stage = Stage::new(Path::NAT_V4)
        .config(|config| {
            share(config, json!({ "interval": "2s", "consecutive_5xx": 0 }));
            config["services"][WEB]["steer_by_latency"] =
                json!({ "above": 5, "below": 3, "step": "45%", "floor": "10%", "min_requests": 2 });
        })
        .start()?;
    let client = stage.client();
    expect_shares(&client.shares(stage.web(), 150)?, EVEN)?;
    stage.origin("web-2").set_delay(Duration::from_millis(200));
    expect_shares_with(10, &stage)?;
    stage.origin("web-2").set_delay(Duration::ZERO);
    expect_shares_with(100, &stage)
}
