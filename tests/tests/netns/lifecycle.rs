//! The daemon reloads, dies and returns; the kernel keeps forwarding.

use crate::support::{EVEN, expect_shares};
use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use proxy_common::service::Mode;
use proxy_tests::client::Held;
use proxy_tests::config::{ECHO, WEB};
use proxy_tests::daemon::has_xdp;
use proxy_tests::load::{Kind, Load};
use proxy_tests::path::Path;
use proxy_tests::privilege;
use proxy_tests::stage::Stage;
use proxy_tests::wait;
use serde_json::{Value, json};
use std::time::Duration;

/// Pause of a load's workers between requests.
const PAUSE: Duration = Duration::from_millis(2);

/// One stage for both, because loading the kernel programs takes longer than either. The same load
/// and the same connections see all of it.
fn reloads_and_a_killed_daemon_cost_nothing_under_load(path: Path) -> Result<()> {
    let mut stage = Stage::new(path).start()?;
    let client = stage.client();
    let mut held = client.hold(stage.web(), 30)?;
    let new = Load::start(&client, stage.web(), Kind::NewConnections, 2, PAUSE)?;
    let long = Load::start(&client, stage.web(), Kind::OneConnection, 4, PAUSE)?;
    reloads_under_load(&stage, &mut held, &new).context("reloads")?;
    a_killed_daemon_returns_under_load(&mut stage, &mut held, &new).context("kill")?;
    new.stop().expect_no_failure()?;
    long.stop().expect_no_failure()?;
    stage.expect_no_loss()?;
    if path.mode == Mode::Local {
        return Ok(());
    }
    expect_shares(&client.shares(stage.web(), 150)?, EVEN)
}
on_every_path!(reloads_and_a_killed_daemon_cost_nothing_under_load:
    local_v4 = LOCAL_V4,
    local_v6 = LOCAL_V6,
);

fn reloads_under_load(stage: &Stage, held: &mut Held, load: &Load) -> Result<()> {
    let configs = reloaded(&stage.config, stage.path);
    for config in &configs {
        stage.daemon().reload(config)?;
        load.wait_for(40)?;
        held.check()?;
    }
    let generation = stage.daemon().status()?.config.generation;
    assert_eq!(generation, 1 + configs.len() as u64);
    Ok(())
}

/// What the daemon is told one after the other; the last is what it began with.
fn reloaded(first: &Value, path: Path) -> Vec<Value> {
    let mut without_echo = first.clone();
    for list in ["listeners", "services"] {
        let entries = without_echo[list].as_array_mut();
        entries.expect("a list").remove(ECHO);
    }
    if path.mode == Mode::Local {
        return vec![without_echo, first.clone()];
    }
    let mut reweighted = first.clone();
    reweighted["services"][WEB]["backends"][0]["weight"] = json!(5);
    let mut smaller = first.clone();
    let backends = smaller["services"][WEB]["backends"].as_array_mut();
    backends.expect("a list").remove(1);
    let mut ring = first.clone();
    ring["services"][WEB]["ring_size"] = json!(2039);
    vec![
        reweighted,
        first.clone(),
        smaller,
        first.clone(),
        ring,
        without_echo,
        first.clone(),
    ]
}

fn a_killed_daemon_returns_under_load(
    stage: &mut Stage,
    held: &mut Held,
    load: &Load,
) -> Result<()> {
    let udp = stage.client().udp_socket(stage.echo())?;
    let (echo_backend, _) = udp.echo(b"first")?;
    stage.daemon_mut().kill()?;
    load.wait_for(50)?;
    held.check()?;
    stage.daemon_mut().run()?;
    ensure!(stage.daemon().status()?.daemon.adopted, "nothing adopted");
    load.wait_for(50)?;
    held.check()?;
    assert_eq!(udp.echo(b"last")?.0, echo_backend);
    Ok(())
}

#[test]
fn a_removed_backend_keeps_its_connections_while_it_drains() -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let stage = Stage::new(Path::NAT_V4).start()?;
    let client = stage.client();
    let mut held = client.hold(stage.web(), 30)?;
    let mut config = stage.config.clone();
    let backends = config["services"][WEB]["backends"].as_array_mut();
    backends.expect("a list").remove(1);
    stage.daemon().reload(&config)?;
    held.check()?;
    let shares = client.shares(stage.web(), 60)?;
    expect_shares(&shares, &[("web-1", 1), ("web-2", 0), ("web-3", 1)])?;
    held.check()
}

#[test]
fn a_broken_file_keeps_the_old_configuration_serving() -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let stage = Stage::new(Path::NAT_V4).start()?;
    let client = stage.client();
    let mut held = client.hold(stage.web(), 6)?;
    let load = Load::start(&client, stage.web(), Kind::NewConnections, 2, PAUSE)?;

    let daemon = stage.daemon();
    daemon.write_config_text("l4:\n  interfaces: [eth0]\nlisteners: 7\nserivces: []\n")?;
    let refusal = daemon.sluice(&["reload"]).expect_err("a broken file");
    let refusal = format!("{refusal:#}");
    for word in ["3", "4", "serivces", "services"] {
        ensure!(refusal.contains(word), "no {word:?} in:\n{refusal}");
    }
    daemon.signal(Signal::SIGHUP)?;
    load.wait_for(50)?;
    let config = stage.daemon().status()?.config;
    assert_eq!(config.generation, 1);
    ensure!(!config.last_reload_successful);
    held.check()?;
    load.stop().expect_no_failure()?;

    let good = stage.config.clone();
    stage.daemon().write_config(&good)?;
    stage.daemon().signal(Signal::SIGHUP)?;
    stage.daemon().wait_until("the file is read", |view| {
        view.config.last_reload_successful && view.config.generation >= 1
    })
}

#[test]
fn what_changed_while_the_daemon_was_dead_is_applied_on_its_return() -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let mut stage = Stage::new(Path::NAT_V4).start()?;
    let client = stage.client();
    let mut held = client.hold(stage.web(), 30)?;
    stage.daemon_mut().kill()?;
    stage.origin("web-2").kill();
    let mut config = stage.config.clone();
    config["services"][WEB]["backends"][0]["weight"] = json!(0);
    stage.daemon().write_config(&config)?;
    stage.daemon_mut().run()?;
    stage.daemon().wait_for_state("web-2", "down")?;
    held.check_except("web-2")?;
    let shares = client.shares(stage.web(), 30)?;
    assert_eq!(shares.keys().collect::<Vec<_>>(), ["web-3"]);
    Ok(())
}

#[test]
fn a_second_daemon_on_the_same_pins_is_refused_and_harms_nothing() -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let stage = Stage::new(Path::NAT_V4).start()?;
    let client = stage.client();
    let mut held = client.hold(stage.web(), 6)?;
    let file = stage.daemon().config_file();
    let second = stage
        .topology
        .balancer
        .command(proxy_tests::daemon::sluice()?)
        .args(["run", "-c"])
        .arg(file)
        .output()?;
    ensure!(!second.status.success(), "the second daemon ran");
    held.check()?;
    stage.daemon().status()?;
    expect_shares(&client.shares(stage.web(), 90)?, EVEN)
}

#[test]
fn sigterm_detaches_and_leaves_nothing() -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let mut stage = Stage::new(Path::NAT_V4).start()?;
    stage.client().get(stage.web(), "/name")?;
    ensure!(has_xdp(&stage.topology.balancer, "eth0")?);
    let pins = stage.daemon().pin_dir().to_owned();
    ensure!(pins.is_dir());

    let status = stage.daemon_mut().terminate()?;
    ensure!(status.success(), "{status}: {}", stage.daemon().log());
    ensure!(!pins.exists(), "pins remain in {}", pins.display());
    ensure!(!has_xdp(&stage.topology.balancer, "eth0")?);
    ensure!(
        !stage.daemon().socket().exists(),
        "the admin socket remains"
    );
    let impatient = stage.client().timeout(Duration::from_millis(300));
    ensure!(impatient.connect(stage.web()).is_err());
    Ok(())
}

#[test]
fn keep_dataplane_forwards_on_after_sigterm() -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let mut stage = Stage::new(Path::NAT_V4)
        .daemon_args(&["--keep-dataplane"])
        .start()?;
    let client = stage.client();
    let mut held = client.hold(stage.web(), 30)?;
    let load = Load::start(&client, stage.web(), Kind::NewConnections, 2, PAUSE)?;
    let status = stage.daemon_mut().terminate()?;
    ensure!(status.success(), "{status}: {}", stage.daemon().log());
    ensure!(has_xdp(&stage.topology.balancer, "eth0")?);
    load.wait_for(50)?;
    held.check()?;
    stage.daemon_mut().run()?;
    ensure!(stage.daemon().status()?.daemon.adopted);
    load.wait_for(50)?;
    held.check()?;
    load.stop().expect_no_failure()?;
    stage.expect_no_loss()
}

#[test]
fn readiness_ends_before_the_data_plane_does() -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let stage = Stage::new(Path::NAT_V4).start()?;
    ensure!(stage.daemon().is_ready());
    stage.daemon().signal(Signal::SIGTERM)?;
    wait::until("it is not ready any more", || {
        Ok(!stage.daemon().is_ready())
    })
}
