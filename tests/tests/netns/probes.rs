//! Health checks through the VIP: each reaches its own backend on the way that packets of clients
//! take, and notices what a check of the backend's own address cannot.

use anyhow::{Context, Result, ensure};
use proxy_common::reason::Reason;
use proxy_tests::client::Client;
use proxy_tests::config::{WEB, WEB_PORT};
use proxy_tests::losses::TcpCounters;
use proxy_tests::path::Path;
use proxy_tests::privilege;
use proxy_tests::stage::{Stage, StageSpec};
use proxy_tests::topology::Shape;
use proxy_tests::wait;
use serde_json::{Value, json};
use std::net::SocketAddr;

/// Checks of the web service go to the VIP.
fn through_vip(config: &mut Value) {
    let health = &mut config["services"][WEB]["health"];
    health["target"] = json!("vip");
    health["port"] = json!(WEB_PORT);
}

fn stage(path: Path) -> StageSpec {
    Stage::new(path).config(through_vip)
}

/// Adds the VIP to a backend's loopback interface, or deletes it.
fn vip_of(stage: &Stage, backend: usize, verb: &str) -> Result<()> {
    let length = if stage.vip().is_ipv4() { 32 } else { 128 };
    let nodad = if verb == "add" && stage.vip().is_ipv6() {
        " nodad"
    } else {
        ""
    };
    let host = &stage.topology.backends[backend].netns;
    host.ip(&format!(
        "addr {verb} {}/{length} dev lo{nodad}",
        stage.vip()
    ))
}

/// Whether the daemon takes a backend of the web service for up.
fn is_up(stage: &Stage, backend: &str) -> Result<bool> {
    Ok(stage.daemon().backend("web", backend)?.state == "up")
}

fn each_check_reaches_its_own_backend(path: Path) -> Result<()> {
    let mut stage = stage(path).start()?;
    ensure!(stage.daemon().maps()?.reason(Reason::ProbeAimed)? > 0);
    for name in ["web-1", "web-2", "web-3"] {
        stage.origin(name).set_healthy(false);
        stage.daemon().wait_for_state(name, "down")?;
        for other in ["web-1", "web-2", "web-3"] {
            ensure!(
                is_up(&stage, other)? == (other != name),
                "{name} and {other}"
            );
        }
        stage.origin(name).set_healthy(true);
        stage.daemon().wait_for_state(name, "up")?;
    }
    Ok(())
}
on_paths!(each_check_reaches_its_own_backend:
    dsr_l2_v4 = DSR_L2_V4,
    dsr_l2_v6 = DSR_L2_V6,
    dsr_ipip_v4 = DSR_IPIP_V4,
    dsr_ipip_v6 = DSR_IPIP_V6,
    dsr_ipip_v4_in_v6 = DSR_IPIP_V4_IN_V6,
    dsr_gue_v4 = DSR_GUE_V4,
    dsr_gue_v6 = DSR_GUE_V6,
);

/// A probe then waits in the kernel until its next hop has answered, and must be sent on as it is
/// and not again after a second.
fn a_probe_waits_for_its_next_hop(path: Path) -> Result<()> {
    let stage = stage(path).start()?;
    let passed = |name: &str| -> Result<u64> {
        let health = stage.daemon().backend("web", name)?.health;
        Ok(health.context("it is checked")?.passed)
    };
    for _ in 0..5 {
        // Each backend's probes are an interval apart, so most find the table empty.
        for name in ["web-1", "web-2", "web-3"] {
            let before = passed(name)?;
            stage.topology.balancer.ip("neigh flush all")?;
            wait::until("a probe has passed", || Ok(passed(name)? > before))?;
        }
    }
    let tcp = TcpCounters::read(&stage.topology.balancer)?;
    ensure!(tcp.syns_sent_again() == 0, "probes were lost:{tcp}");
    Ok(())
}
on_paths!(a_probe_waits_for_its_next_hop:
    dsr_l2_v4 = DSR_L2_V4,
    dsr_l2_v6 = DSR_L2_V6,
    dsr_ipip_v6 = DSR_IPIP_V6,
    dsr_ipip_v4_in_v6 = DSR_IPIP_V4_IN_V6,
    dsr_gue_v4 = DSR_GUE_V4,
);

fn a_backend_without_the_vip_goes_down_though_its_own_address_answers(path: Path) -> Result<()> {
    let stage = stage(path).shape(Shape::TwoArmed).start()?;
    vip_of(&stage, 1, "del")?;
    stage.daemon().wait_for_state("web-2", "down")?;
    let own = stage.topology.backends[1].address(path.backend_is_v6());
    let direct = Client::new(&stage.topology.balancer);
    let answer = direct.get(SocketAddr::new(own, WEB_PORT), "/name")?;
    ensure!(answer.backend == "web-2", "{answer:?}");
    ensure!(is_up(&stage, "web-1")? && is_up(&stage, "web-3")?);

    vip_of(&stage, 1, "add")?;
    stage.daemon().wait_for_state("web-2", "up")
}
on_paths!(a_backend_without_the_vip_goes_down_though_its_own_address_answers:
    dsr_l2_v4 = DSR_L2_V4,
    dsr_ipip_v6 = DSR_IPIP_V6,
    dsr_gue_v4 = DSR_GUE_V4,
);

/// As where clients are in the VIP's network, and the balancer must answer ARP for it.
fn a_vip_of_the_balancers_own_is_checked(path: Path) -> Result<()> {
    let mut stage = stage(path).build()?;
    let length = if stage.vip().is_ipv4() { 32 } else { 128 };
    let balancer = &stage.topology.balancer;
    balancer.ip(&format!("addr add {}/{length} dev lo", stage.vip()))?;
    // Answers come from an address of this host's own.
    balancer.sysctl("net/ipv4/conf/all/accept_local", "1")?;
    stage.start_decapsulators()?;
    stage.start_daemon()?;
    vip_of(&stage, 2, "del")?;
    stage.daemon().wait_for_state("web-3", "down")?;
    ensure!(is_up(&stage, "web-1")? && is_up(&stage, "web-2")?);
    Ok(())
}
on_paths!(a_vip_of_the_balancers_own_is_checked:
    dsr_l2_v4 = DSR_L2_V4,
    dsr_ipip_v4 = DSR_IPIP_V4,
    dsr_ipip_v6 = DSR_IPIP_V6,
);

#[test]
fn checks_follow_a_restart_and_leave_nothing_behind() -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let mut stage = stage(Path::DSR_IPIP_V4).start()?;
    let rules = |stage: &Stage| -> Result<bool> {
        let mut command = stage.topology.balancer.command("ip");
        let output = command.args(["rule", "show"]).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).contains("0x51050000"))
    };
    ensure!(rules(&stage)?);
    stage.daemon_mut().kill()?;
    ensure!(rules(&stage)?, "the next daemon takes it over");
    stage.daemon_mut().run()?;
    stage.origin("web-2").set_healthy(false);
    stage.daemon().wait_for_state("web-2", "down")?;
    stage.origin("web-2").set_healthy(true);
    stage.daemon().wait_for_state("web-2", "up")?;

    let mut direct = stage.config.clone();
    direct["services"][WEB]["health"]["target"] = json!("backend");
    stage.daemon().reload(&direct)?;
    ensure!(!rules(&stage)?, "no check targets a VIP any more");
    stage.daemon().reload(&stage.config)?;
    ensure!(rules(&stage)?);
    ensure!(is_up(&stage, "web-1")?);
    stage.daemon_mut().terminate()?;
    ensure!(!rules(&stage)?, "the daemon has ended");
    Ok(())
}
