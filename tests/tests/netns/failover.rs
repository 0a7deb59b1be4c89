//! Backends die, drain and flap; connections to the others do not notice.

use crate::support::{EVEN, expect_shares};
use anyhow::{Context, Result, bail, ensure};
use proxy_tests::client::Held;
use proxy_tests::config::WEB;
use proxy_tests::load::{Kind, Load};
use proxy_tests::path::Path;
use proxy_tests::privilege;
use proxy_tests::stage::Stage;
use serde_json::json;
use std::time::{Duration, Instant};

/// Pause of a load's workers between requests.
const PAUSE: Duration = Duration::from_millis(2);

fn backends_drain_die_and_return_unnoticed(path: Path) -> Result<()> {
    let mut stage = Stage::new(path).start()?;
    let client = stage.client();
    let mut held = client.hold(stage.web(), 30)?;
    ensure!(held.shares().len() == 3, "{:?}", held.shares());
    a_draining_backend_keeps_its_connections_and_gets_no_new_ones(&stage, &mut held)
        .context("drain")?;
    no_request_fails_once_a_dead_backend_is_down(&mut stage, &mut held).context("death")?;
    held.check()?;
    expect_shares(&client.shares(stage.web(), 150)?, EVEN).context("return")?;
    a_backend_that_flaps_is_held_down_until_it_is_calm(&mut stage, &mut held).context("flapping")
}
on_every_path!(backends_drain_die_and_return_unnoticed);

fn a_draining_backend_keeps_its_connections_and_gets_no_new_ones(
    stage: &Stage,
    held: &mut Held,
) -> Result<()> {
    let client = stage.client();
    let load = Load::start(&client, stage.web(), Kind::OneConnection, 4, PAUSE)?;
    load.wait_for(20)?;
    stage.daemon().sluice(&["drain", "web", "web-2"])?;
    stage.daemon().wait_for_state("web-2", "draining")?;
    let shares = client.shares(stage.web(), 90)?;
    expect_shares(&shares, &[("web-1", 1), ("web-2", 0), ("web-3", 1)])?;
    held.check()?;

    stage.daemon().sluice(&["undrain", "web", "web-2"])?;
    stage.daemon().wait_for_state("web-2", "up")?;
    held.check()?;
    expect_shares(&client.shares(stage.web(), 150)?, EVEN)?;
    load.stop().expect_no_failure()
}

fn no_request_fails_once_a_dead_backend_is_down(stage: &mut Stage, held: &mut Held) -> Result<()> {
    let client = stage.client();
    let load = Load::start(&client, stage.web(), Kind::NewConnections, 2, PAUSE)?;
    load.wait_for(20)?;
    stage.origin("web-2").kill();
    stage.daemon().wait_for_state("web-2", "down")?;
    let noticed = Instant::now();
    load.wait_for(100)?;
    held.check_except("web-2")?;
    load.stop().expect_no_failure_after(Some(noticed))?;
    stage.origin("web-2").revive()?;
    stage.daemon().wait_for_state("web-2", "up")
}

fn a_host_that_falls_silent_costs_no_new_connection(path: Path) -> Result<()> {
    let stage = Stage::new(path).start()?;
    let client = stage.client();
    let mut held = client.hold(stage.web(), 30)?;
    stage.topology.backends[1].set_link(false)?;
    // A SYN that nobody answers is sent again, and by then its flow is selected anew.
    let load = Load::start(&client, stage.web(), Kind::NewConnections, 4, PAUSE)?;
    stage.daemon().wait_for_state("web-2", "down")?;
    load.wait_for(50)?;
    load.stop().expect_no_failure()?;
    held.check_except("web-2")
}
on_paths!(a_host_that_falls_silent_costs_no_new_connection:
    nat_v4 = NAT_V4,
    full_nat_v6 = FULL_NAT_V6,
    dsr_l2_v4 = DSR_L2_V4,
    dsr_ipip_v4 = DSR_IPIP_V4,
);

#[test]
fn a_drain_ends_at_its_deadline() -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let stage = Stage::new(Path::NAT_V4).start()?;
    let client = stage.client();
    let mut held = client.hold(stage.web(), 30)?;
    // Long enough for a look at its flows on a busy machine.
    let drain = ["drain", "web", "web-2", "--timeout", "10s"];
    stage.daemon().sluice(&drain)?;
    held.check()?;
    stage.daemon().wait_for_state("web-2", "down")?;
    ensure!(
        held.check().is_err(),
        "flows of web-2 outlived its deadline"
    );
    held.check_except("web-2")
}

#[test]
fn a_drain_outlives_a_restart_of_the_daemon() -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let mut stage = Stage::new(Path::NAT_V4).start()?;
    let client = stage.client();
    let mut held = client.hold(stage.web(), 12)?;
    stage.daemon().sluice(&["drain", "web", "web-2"])?;
    stage.daemon_mut().kill()?;
    stage.daemon_mut().run()?;
    stage.daemon().wait_for_state("web-2", "draining")?;
    held.check()?;
    let shares = client.shares(stage.web(), 60)?;
    expect_shares(&shares, &[("web-1", 1), ("web-2", 0), ("web-3", 1)])
}

fn a_backend_that_flaps_is_held_down_until_it_is_calm(
    stage: &mut Stage,
    held: &mut Held,
) -> Result<()> {
    let mut config = stage.config.clone();
    let health = &mut config["services"][WEB]["health"];
    health["interval"] = json!("1s");
    health["fall"] = json!(2);
    health["timeout"] = json!("900ms");
    health["damping"] = json!({ "half_life": "5s", "suppress": 1.3, "reuse": 1.2 });
    stage.daemon().reload(&config)?;
    let client = stage.client();
    let shares = loop {
        flap_until_held(stage)?;
        let shares = client.shares(stage.web(), 40)?;
        // On a busy machine these may have taken so long that it was calm for long enough.
        if verdict(stage)? == "held" {
            break shares;
        }
    };
    expect_shares(&shares, &[("web-1", 1), ("web-2", 0), ("web-3", 1)])?;

    stage.daemon().wait_for_state("web-2", "up")?;
    expect_shares(&client.shares(stage.web(), 150)?, EVEN)?;
    held.check_except("web-2")
}

/// Lets `web-2` fall and rise until it does not rise any more; it is well at the end.
fn flap_until_held(stage: &mut Stage) -> Result<()> {
    // The second fall is damped, unless the machine is so busy that penalties decay in between.
    const FALLS: u32 = 20;
    for _ in 0..FALLS {
        stage.origin("web-2").set_healthy(false);
        stage.daemon().wait_for_state("web-2", "down")?;
        let held = verdict(stage)? == "held";
        stage.origin("web-2").set_healthy(true);
        if held {
            return Ok(());
        }
        stage.daemon().wait_for_state("web-2", "up")?;
    }
    bail!("{FALLS} falls in a row are not damped")
}

/// What the checks of `web-2` say.
fn verdict(stage: &Stage) -> Result<String> {
    let health = stage.daemon().backend("web", "web-2")?.health;
    Ok(health.context("it is checked")?.verdict)
}

#[test]
fn with_every_backend_down_new_flows_are_dropped_and_counted() -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let mut stage = Stage::new(Path::NAT_V4).start()?;
    for name in ["web-1", "web-2", "web-3"] {
        stage.origin(name).kill();
        stage.daemon().wait_for_state(name, "down")?;
    }
    let impatient = stage.client().timeout(Duration::from_millis(300));
    ensure!(impatient.connect(stage.web()).is_err());
    let dropped = proxy_common::reason::Reason::DropNoBackend;
    ensure!(stage.daemon().maps()?.reason(dropped)? > 0);

    stage.origin("web-3").revive()?;
    stage.daemon().wait_for_state("web-3", "up")?;
    assert_eq!(stage.client().get(stage.web(), "/name")?.backend, "web-3");
    Ok(())
}
