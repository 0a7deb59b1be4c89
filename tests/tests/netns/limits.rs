//! Bad input and large input: a clear message or a working balancer, never something in between.

use crate::support::{EVEN, expect_shares};
use anyhow::{Context, Result, ensure};
use proxy_tests::config::{BACKEND_WEB_PORT, WEB, service};
use proxy_tests::daemon::{Daemon, sluice};
use proxy_tests::path::Path;
use proxy_tests::privilege;
use proxy_tests::stage::Stage;
use proxy_tests::topology::vip_v4;
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
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

/// Networks of which every address is that of one of the stage's three hosts.
const NETWORKS: [[u8; 2]; 3] = [[10, 11], [10, 12], [10, 13]];

/// Leads each of the networks to its host, which takes all of its addresses.
fn lead_networks(stage: &Stage) -> Result<()> {
    for (node, [a, b]) in stage.topology.backends.iter().zip(NETWORKS) {
        let network = format!("{a}.{b}.0.0/16");
        let balancer = &stage.topology.balancer;
        balancer.ip(&format!("route add {network} via {}", node.v4))?;
        node.netns
            .ip(&format!("route add local {network} dev lo"))?;
    }
    Ok(())
}

/// A service with so many backends, by turns in each of the networks, without health checks.
fn many_backends(stage: &Stage, count: u16) -> Value {
    let mut config = stage.config.clone();
    let service = &mut config["services"][WEB];
    service.as_object_mut().expect("a map").remove("health");
    let backend = |index: u16| {
        let [a, b] = NETWORKS[usize::from(index) % NETWORKS.len()];
        let [high, low] = (1 + index / 3).to_be_bytes();
        json!(SocketAddr::from(([a, b, high, low], 8080)))
    };
    service["backends"] = (0..count).map(backend).collect();
    config
}

/// How many backends of the service have got flows since, and how many flows.
fn spread(stage: &Stage) -> Result<(usize, u64)> {
    let view = stage.daemon().status()?;
    let mut services = view.services.into_iter();
    let service = services.find(|service| service.name == "web");
    let backends = service.context("the service")?.backends;
    let flows = backends.iter().map(|backend| backend.traffic.new_flows);
    let reached = flows.clone().filter(|&count| count > 0).count();
    Ok((reached, flows.sum()))
}

#[test]
fn four_thousand_and_ninety_six_backends_are_served() -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    const BACKENDS: u16 = 4096;
    const CONNECTIONS: u64 = 800;
    let mut stage = Stage::new(Path::NAT_V4).build()?;
    lead_networks(&stage)?;
    stage.config = many_backends(&stage, BACKENDS);
    let start = Instant::now();
    stage.start_daemon()?;
    println!("4096 backends: ready after {:.0?}", start.elapsed());
    let in_kernel = stage.daemon().maps()?.backends()?.len();
    ensure!(in_kernel >= usize::from(BACKENDS), "{in_kernel} backends");
    let client = stage.client();
    expect_shares(&client.shares(stage.web(), CONNECTIONS)?, EVEN)?;
    let (reached, flows) = spread(&stage)?;
    assert_eq!(flows, CONNECTIONS);
    // Of so many backends, so many random choices miss all but 727, give or take 8.
    ensure!(reached > 670, "only {reached} backends of 4096 were chosen");

    // Every third gets no new flows any more, and the others more or less.
    let mut changed = stage.config.clone();
    let backends = changed["services"][WEB]["backends"].as_array_mut();
    for (index, backend) in backends.context("a list")?.iter_mut().enumerate() {
        let weight = index % 3;
        *backend = json!({ "address": backend, "weight": weight });
    }
    let start = Instant::now();
    stage.daemon().reload(&changed)?;
    println!("4096 weights changed after {:.0?}", start.elapsed());
    let shares = client.shares(stage.web(), 300)?;
    expect_shares(&shares, &[("web-1", 0), ("web-2", 1), ("web-3", 2)])
}

/// A thousand VIPs of both families, each with a port of its own, behind which a service is.
fn thousand() -> impl Iterator<Item = (u16, SocketAddr)> {
    (0..1000).map(|index: u16| {
        let [high, low] = index.to_be_bytes();
        let vip: IpAddr = match index % 2 {
            0 => Ipv4Addr::new(198, 18, high, low).into(),
            _ => Ipv6Addr::new(0x2001, 0xdb8, 0x18, 0, 0, 0, 0, index).into(),
        };
        (index, SocketAddr::new(vip, 2000 + index))
    })
}

#[test]
fn a_thousand_services_are_served() -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let mut stage = Stage::new(Path::NAT_V4).build()?;
    let mut config = stage.config.clone();
    for (index, at) in thousand() {
        let name = format!("service-{index}");
        let mut listener = config["listeners"][WEB].clone();
        listener["name"] = json!(name);
        listener["service"] = json!(name);
        listener["address"] = json!(at.ip());
        listener["port"] = json!(at.port());
        let path = if at.is_ipv6() {
            Path::NAT_V6
        } else {
            Path::NAT_V4
        };
        let mut service = service(&name, path, &stage.topology, BACKEND_WEB_PORT);
        service.as_object_mut().context("a map")?.remove("health");
        service["ring_size"] = json!(307);
        for (list, entry) in [("listeners", listener), ("services", service)] {
            config[list].as_array_mut().context("a list")?.push(entry);
        }
    }
    stage.config = config;
    let start = Instant::now();
    stage.start_daemon()?;
    println!("1000 services: ready after {:.0?}", start.elapsed());
    let client = stage.client();
    for (_, at) in thousand() {
        let answer = client.get(at, "/name").with_context(|| at.to_string())?;
        ensure!(answer.status == 200, "{at}: {answer:?}");
    }
    let start = Instant::now();
    let view = stage.daemon().status()?;
    println!("1000 services: status after {:.0?}", start.elapsed());
    // Each was asked once, and counts that as its own.
    let services = view.services.iter();
    let services: Vec<_> = services
        .filter(|service| service.name.starts_with("service-"))
        .collect();
    assert_eq!(services.len(), 1000);
    for service in services {
        let flows = service.backends.iter().map(|one| one.traffic.new_flows);
        let flows: u64 = flows.sum();
        ensure!(flows == 1, "{} counts {flows} flows", service.name);
    }
    // One's address with another's port is nobody's.
    let impatient = client.timeout(Duration::from_millis(250));
    for other in [(vip_v4(10), 2000), (Ipv4Addr::new(198, 18, 0, 2), 2004)] {
        ensure!(impatient.connect(other.into()).is_err(), "{other:?}");
    }
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
