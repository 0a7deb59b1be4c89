//! Bad input and large input: a clear message or a working balancer, never something in between.

use anyhow::{Context, Result, ensure};
use proxy_tests::config::WEB;
use proxy_tests::daemon::{Daemon, sluice};
use proxy_tests::path::Path;
use proxy_tests::privilege;
use proxy_tests::stage::Stage;
use proxy_tests::topology::vip_v4;
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

/// Starts a daemon that must give up, and returns its exit code and what it said.
fn refused(stage: &Stage, config: &Value) -> Result<(i32, String)> {
    let mut daemon = Daemon::prepare(&stage.topology.balancer, config, &[])?;
    daemon.spawn()?;
    let status = daemon.wait_for_end()?;
    ensure!(!daemon.pin_dir().exists(), "it left pins behind");
    Ok((status.code().context("killed")?, daemon.log()))
}

#[test]
fn a_missing_interface_is_named() -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let mut stage = Stage::new(Path::NAT_V4).build()?;
    stage.config["l4"]["interfaces"] = json!(["eth0", "eth7"]);
    let (code, said) = refused(&stage, &stage.config)?;
    assert_eq!(code, 1, "{said}");
    ensure!(said.contains("eth7"), "{said}");
    Ok(())
}

#[test]
fn without_privileges_it_says_what_it_needs() -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let stage = Stage::new(Path::NAT_V4).build()?;
    let daemon = Daemon::prepare(&stage.topology.balancer, &stage.config, &[])?;
    let mut command = stage.topology.balancer.command("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]);
    let output = command
        .arg(sluice()?)
        .args(["run", "-c"])
        .arg(daemon.config_file())
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(77), "{said}");
    ensure!(said.contains("CAP_BPF"), "{said}");
    ensure!(!daemon.pin_dir().exists(), "it left pins behind");
    Ok(())
}

#[test]
fn two_listeners_at_one_address_are_refused_by_name() -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let mut stage = Stage::new(Path::NAT_V4).build()?;
    let listeners = stage.config["listeners"].as_array_mut();
    let listeners = listeners.context("a list")?;
    let mut twin = listeners[WEB].clone();
    twin["name"] = json!("twin");
    listeners.push(twin);
    let (code, said) = refused(&stage, &stage.config)?;
    assert_eq!(code, 1, "{said}");
    ensure!(said.contains("192.0.2.10"), "{said}");
    ensure!(said.contains("web"), "{said}");
    Ok(())
}

#[test]
fn a_port_that_direct_return_cannot_translate_is_refused() -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let mut stage = Stage::new(Path::DSR_L2_V4).build()?;
    stage.config["services"][WEB]["backends"][0]["address"] = json!("10.2.0.21:8080");
    let (code, said) = refused(&stage, &stage.config)?;
    assert_eq!(code, 1, "{said}");
    ensure!(said.contains("8080") && said.contains("dsr-l2"), "{said}");
    Ok(())
}

#[test]
fn a_service_without_backends_drops_until_a_reload_brings_one() -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let mut stage = Stage::new(Path::NAT_V4).build()?;
    let whole = stage.config.clone();
    stage.config["services"][WEB]["backends"] = json!([]);
    stage.start_daemon()?;
    let impatient = stage.client().timeout(Duration::from_millis(250));
    ensure!(impatient.connect(stage.web()).is_err());
    let dropped = proxy_common::reason::Reason::DropNoBackend;
    ensure!(stage.daemon().maps()?.reason(dropped)? > 0);
    stage.daemon().reload(&whole)?;
    stage.client().get(stage.web(), "/name").map(drop)
}

/// A service whose backends are the stage's three and many more with weight 0 that do not exist.
fn many_backends(stage: &Stage, count: u16) -> Value {
    let mut config = stage.config.clone();
    let service = &mut config["services"][WEB];
    service["health"] = Value::Null;
    service.as_object_mut().expect("a map").remove("health");
    let backends = service["backends"].as_array_mut().expect("a list");
    for index in backends.len() as u16..count {
        let [high, low] = index.to_be_bytes();
        let address = SocketAddr::from((Ipv4Addr::new(10, 3, high, low), 8080));
        backends.push(json!({ "address": address, "weight": 0 }));
    }
    config
}

#[test]
fn four_thousand_and_ninety_six_backends_are_served() -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let mut stage = Stage::new(Path::NAT_V4).build()?;
    stage.config = many_backends(&stage, 4096);
    let start = Instant::now();
    stage.start_daemon()?;
    println!("4096 backends: ready after {:.0?}", start.elapsed());
    stage.client().shares(stage.web(), 10)?;
    let in_kernel = stage.daemon().maps()?.backends()?.len();
    ensure!(in_kernel >= 4096, "{in_kernel} backends in the kernel");

    let mut changed = stage.config.clone();
    for backend in changed["services"][WEB]["backends"]
        .as_array_mut()
        .context("a list")?
    {
        backend["weight"] = json!(1);
    }
    let start = Instant::now();
    stage.daemon().reload(&changed)?;
    println!("4096 weights changed after {:.0?}", start.elapsed());
    Ok(())
}

#[test]
fn a_thousand_services_are_served() -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let mut stage = Stage::new(Path::NAT_V4).build()?;
    let mut config = stage.config.clone();
    for list in ["listeners", "services"] {
        let template = config[list][WEB].clone();
        let entries = config[list].as_array_mut().context("a list")?;
        for index in 0..1000u16 {
            let mut entry = template.clone();
            entry["name"] = json!(format!("service-{index}"));
            if list == "listeners" {
                entry["service"] = entry["name"].clone();
                entry["port"] = json!(2000 + index);
            } else {
                entry.as_object_mut().context("a map")?.remove("health");
                entry["ring_size"] = json!(307);
            }
            entries.push(entry);
        }
    }
    stage.config = config;
    let start = Instant::now();
    stage.start_daemon()?;
    println!("1000 services: ready after {:.0?}", start.elapsed());
    for port in [2000, 2499, 2999] {
        let to = SocketAddr::from((vip_v4(10), port));
        stage.client().shares(to, 10).context(port)?;
    }
    let start = Instant::now();
    stage.daemon().status()?;
    println!("1000 services: status after {:.0?}", start.elapsed());
    let start = Instant::now();
    stage.daemon().reload(&stage.config)?;
    println!(
        "1000 services: reload without a change {:.0?}",
        start.elapsed()
    );
    Ok(())
}

#[test]
fn more_backends_than_fit_are_refused_and_the_old_ones_serve_on() -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let stage = Stage::new(Path::NAT_V4)
        .config(|config| config["l4"]["backend_capacity"] = json!(16))
        .start()?;
    let mut held = stage.client().hold(stage.web(), 6)?;
    let too_many = many_backends(&stage, 40);
    let refusal = stage.daemon().reload(&too_many).expect_err("40 of 16");
    let refusal = format!("{refusal:#}");
    ensure!(refusal.contains("backend_capacity"), "{refusal}");
    held.check()?;
    stage.client().shares(stage.web(), 10)?;
    Ok(())
}
