//! The configurations in `examples/` balance as they are, on the hosts that they were written for.

use crate::support::expect_shares;
use anyhow::{Context, Result, ensure};
use proxy_common::reason::Reason;
use proxy_common::service::Mode;
use proxy_tests::client::Client;
use proxy_tests::path::{Family, Path};
use proxy_tests::privilege;
use proxy_tests::stage::{Stage, StageSpec};
use proxy_tests::topology::{client_v4, vip_v4, vip_v6};
use proxy_tests::wait;
use serde_json::Value;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// How long a client waits for an answer that must not come.
const IMPATIENCE: Duration = Duration::from_millis(250);

/// Sets the stage with an example in place of the configuration.
fn stage(spec: StageSpec, example: &str) -> Result<Option<Stage>> {
    if !privilege::granted()? {
        return Ok(None);
    }
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples")
        .join(example);
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let config: Value = serde_saphyr::from_str(&text)?;
    let mut stage = spec.build()?;
    let path = stage.path;
    stage.config = config;
    if path.mode == Mode::DsrGue {
        // As the example says: its VIP is a prefix.
        for node in &stage.topology.backends {
            node.netns.ip("route add local 192.0.2.0/28 dev lo")?;
        }
    }
    stage.start_decapsulators()?;
    stage.start_daemon()?;
    Ok(Some(stage))
}

#[test]
fn l4_shares_by_weight() -> Result<()> {
    let Some(stage) = stage(Stage::new(Path::NAT_V4), "l4.yaml")? else {
        return Ok(());
    };
    let shares = stage.client().shares(stage.web(), 200)?;
    expect_shares(&shares, &[("web-1", 1), ("web-2", 1), ("web-3", 2)])
}

#[test]
fn l4_nat_serves_both_families() -> Result<()> {
    let Some(stage) = stage(Stage::new(Path::NAT_V4), "l4-nat.yaml")? else {
        return Ok(());
    };
    let client = stage.client();
    client.shares(stage.web(), 10)?;
    let v6 = SocketAddr::from((vip_v6(0x10), 80));
    client.shares(v6, 10).map(drop)
}

#[test]
fn l4_full_nat_serves() -> Result<()> {
    serves(Path::FULL_NAT_V4, "l4-full-nat.yaml")
}

#[test]
fn l4_dsr_l2_serves() -> Result<()> {
    serves(Path::DSR_L2_V4, "l4-dsr-l2.yaml")
}

#[test]
fn l4_dsr_gue_serves() -> Result<()> {
    serves(Path::DSR_GUE_V4, "l4-dsr-gue.yaml")
}

fn serves(path: Path, example: &str) -> Result<()> {
    let Some(stage) = stage(Stage::new(path), example)? else {
        return Ok(());
    };
    stage.client().shares(stage.web(), 30).map(drop)
}

#[test]
fn l4_dsr_ipip_serves_over_v4_and_v6() -> Result<()> {
    let spec = Stage::new(Path::new(Mode::DsrIpip, Family::V4)).vips(&[vip_v4(11).into()]);
    let Some(stage) = stage(spec, "l4-dsr-ipip.yaml")? else {
        return Ok(());
    };
    let client = stage.client();
    client.shares(stage.web(), 30)?;
    let over_v6 = SocketAddr::from((vip_v4(11), 80));
    client.shares(over_v6, 30).map(drop)
}

#[test]
fn l4_udp_serves_names_and_games() -> Result<()> {
    let spec = Stage::new(Path::NAT_V4)
        .tcp_ports(&[5353])
        .udp_ports(&[27015]);
    let Some(stage) = stage(spec, "l4-udp.yaml")? else {
        return Ok(());
    };
    let client = stage.client();
    let (first, _) = client.udp_echo(stage.echo(), b"a query")?;
    let (second, _) = client.udp_echo(stage.echo(), b"another")?;
    assert_eq!(first, second, "a source keeps its resolver");
    let over_tcp = SocketAddr::new(stage.vip(), 53);
    assert_ne!(client.get(over_tcp, "/name")?.backend, "web-3");
    let game = SocketAddr::from((vip_v4(11), 27015));
    assert_ne!(client.udp_echo(game, b"join")?.0, "web-1");
    Ok(())
}

#[test]
fn l4_local_judges_sources_before_this_hosts_own_servers() -> Result<()> {
    // The servers of the host: at the ports of the example instead of a real SSH.
    let spec = Stage::new(Path::LOCAL_V4).tcp_ports(&[22, 443]);
    let Some(stage) = stage(spec, "l4-local.yaml")? else {
        return Ok(());
    };
    // Denied everywhere, allowed again, one who may use SSH.
    let [denied, again, admin] = ["198.51.100.8", "198.51.100.7", "203.0.113.5"];
    for source in [denied, again, admin] {
        let host = &stage.topology.client;
        host.ip(&format!("addr add {source}/32 dev lo"))?;
        let back = format!("route add {source}/32 via {}", client_v4(0));
        stage.topology.balancer.ip(&back)?;
    }
    let from =
        |source: &str| -> Result<Client> { Ok(stage.client().from(source.parse::<IpAddr>()?)) };
    let (ssh, web) = (
        SocketAddr::new(stage.vip(), 22),
        SocketAddr::new(stage.vip(), 443),
    );
    let count = |reason: Reason| stage.daemon().maps()?.reason(reason);
    for source in [again, admin] {
        assert_eq!(from(source)?.get(web, "/name")?.backend, "balancer");
    }
    stage.client().get(web, "/name")?;
    from(admin)?.get(ssh, "/name")?;

    let refused = |client: Client, to: SocketAddr, why: Reason| -> Result<()> {
        let before = count(why)?;
        ensure!(client.timeout(IMPATIENCE).connect(to).is_err(), "{why:?}");
        ensure!(count(why)? > before, "not because of {why:?}");
        Ok(())
    };
    refused(from(denied)?, web, Reason::DropDenied)?;
    refused(stage.client(), ssh, Reason::DropNotAllowed)?;
    // Ten connections at once, and then one every half second: this is a matter of time, and the
    // machine may be slow.
    wait::until("a connection too many is refused", || {
        for _ in 0..20 {
            let _ = from(admin)?.timeout(IMPATIENCE).connect(ssh);
        }
        Ok(count(Reason::DropBudget)? > 0)
    })
}
