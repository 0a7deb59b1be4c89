//! A reload brings the first listener of a kind, or takes the last one away, and touches no other.

use anyhow::{Result, ensure};
use proxy_tests::client::Client;
use proxy_tests::daemon::{Daemon, has_xdp};
use proxy_tests::path::Path;
use proxy_tests::privilege;
use proxy_tests::stage::Stage;
use proxy_tests::topology::BALANCER_CLIENT_V4;
use proxy_tests::wait;
use serde_json::{Value, json};
use std::net::SocketAddr;

const PROXY_PORT: u16 = 8088;

/// Configurations of the same balancer.
struct Kinds {
    both: Value,
    only_kernel: Value,
    only_proxy: Value,
}

impl Kinds {
    fn of(stage: &Stage) -> Self {
        let mut only_kernel = stage.config.clone();
        for list in ["listeners", "services"] {
            let items = only_kernel[list].as_array_mut().expect("a list");
            items.retain(|item| item["name"] == "web");
        }
        let listener = json!({
            "name": "proxy", "kind": "http", "address": "0.0.0.0", "port": PROXY_PORT,
            "service": "app",
        });
        let backends: Vec<Value> = only_kernel["services"][0]["backends"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|backend| backend["address"].clone())
            .collect();
        let service = json!({ "name": "app", "backends": backends });
        let mut both = only_kernel.clone();
        both["listeners"]
            .as_array_mut()
            .expect("a list")
            .push(listener.clone());
        both["services"]
            .as_array_mut()
            .expect("a list")
            .push(service.clone());
        let only_proxy = json!({ "listeners": [listener], "services": [service] });
        Self {
            both,
            only_kernel,
            only_proxy,
        }
    }
}

/// The program is attached to the balancer's interface, or is not.
fn is_attached(stage: &Stage) -> Result<bool> {
    has_xdp(&stage.topology.balancer, "eth0")
}

fn is_refused(client: &Client, to: SocketAddr) -> bool {
    client.connect(to).is_err()
}

#[test]
fn the_kernel_part_comes_and_goes_with_reloads() -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let stage = Stage::new(Path::NAT_V4).build()?;
    let kinds = Kinds::of(&stage);
    let daemon = Daemon::start(&stage.topology.balancer, &kinds.only_proxy)?;
    let client = stage.client();
    let proxy = SocketAddr::from((BALANCER_CLIENT_V4, PROXY_PORT));
    let mut kept = client.connect(proxy)?;
    assert_eq!(kept.get("/name")?.status, 200);
    ensure!(
        !is_attached(&stage)?,
        "nothing is balanced in the kernel yet"
    );

    // Interfaces that are not there: nothing may change.
    let mut wrong = kinds.both.clone();
    wrong["l4"]["interfaces"] = json!(["nowhere0"]);
    daemon
        .reload(&wrong)
        .expect_err("there is no such interface");
    ensure!(
        !daemon.pin_dir().join("maps").exists(),
        "maps were left behind"
    );
    assert_eq!(kept.get("/name")?.status, 200);

    for _ in 0..2 {
        daemon.reload(&kinds.both)?;
        ensure!(is_attached(&stage)?, "attached");
        wait::until("the VIP is served", || {
            Ok(client
                .get(stage.web(), "/name")
                .is_ok_and(|got| got.status == 200))
        })?;
        let mut held = client.hold(stage.web(), 10)?;
        daemon.reload(&kinds.both)?;
        held.check()?;
        assert_eq!(
            kept.get("/name")?.status,
            200,
            "the proxy's connection is the same"
        );
        ensure!(!daemon.status()?.interfaces.is_empty(), "shown");

        daemon.reload(&kinds.only_proxy)?;
        ensure!(!is_attached(&stage)?, "detached");
        ensure!(!daemon.pin_dir().join("maps").exists(), "the pins are gone");
        assert_eq!(kept.get("/name")?.status, 200);
    }
    assert_eq!(daemon.status()?.config.generation, 7);
    Ok(())
}

#[test]
fn without_interfaces_no_program_looks_at_packets() -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let stage = Stage::new(Path::NAT_V4).build()?;
    let kinds = Kinds::of(&stage);
    // The section says where others pin, as steering does.
    let mut pinning = kinds.only_proxy.clone();
    pinning["l4"] = json!({"flow_capacity": 4096});
    let daemon = Daemon::start(&stage.topology.balancer, &pinning)?;
    let client = stage.client();
    let proxy = SocketAddr::from((BALANCER_CLIENT_V4, PROXY_PORT));
    let mut kept = client.connect(proxy)?;
    for _ in 0..2 {
        assert_eq!(kept.get("/name")?.status, 200);
        ensure!(!is_attached(&stage)?, "attached to nothing");
        ensure!(!daemon.pin_dir().join("maps").exists(), "nothing is pinned");
        ensure!(daemon.status()?.interfaces.is_empty(), "none is shown");

        daemon.reload(&kinds.both)?;
        ensure!(is_attached(&stage)?, "attached");
        let mut nobody = kinds.both.clone();
        nobody["l4"]["interfaces"] = json!([]);
        let refused = daemon.reload(&nobody).expect_err("a listener needs one");
        ensure!(refused.to_string().contains("no interface"), "{refused:#}");
        ensure!(is_attached(&stage)?, "still attached");
        daemon.reload(&pinning)?;
    }
    Ok(())
}

#[test]
fn the_proxies_come_and_go_with_reloads() -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let stage = Stage::new(Path::NAT_V4).build()?;
    let kinds = Kinds::of(&stage);
    let daemon = Daemon::start(&stage.topology.balancer, &kinds.only_kernel)?;
    daemon.wait_for_state("web-1", "up")?;
    let client = stage.client();
    let proxy = SocketAddr::from((BALANCER_CLIENT_V4, PROXY_PORT));
    let mut held = client.hold(stage.web(), 10)?;
    for _ in 0..2 {
        ensure!(is_refused(&client, proxy), "nobody listens yet");
        daemon.reload(&kinds.both)?;
        let mut kept = client.connect(proxy)?;
        assert_eq!(kept.get("/name")?.status, 200);
        let view = daemon.status()?;
        assert_eq!(view.http_listeners.len(), 1);
        let metrics = daemon.admin_get("/metrics")?;
        let counted = "sluice_connections_total{listener=\"proxy\"}";
        ensure!(metrics.contains(counted), "{counted}:\n{metrics}");
        held.check()?;
        daemon.reload(&kinds.only_kernel)?;
        wait::until("nobody listens any more", || Ok(is_refused(&client, proxy)))?;
        ensure!(daemon.status()?.http_listeners.is_empty(), "none is shown");
        held.check()?;
    }
    Ok(())
}
