//! The control experiment: the same hosts, clients and origins with the kernel's own DNAT in
//! sluice's place. If one of these fails, look at the harness or the host and not at sluice.

use anyhow::Result;
use proxy_tests::command::run_with_input;
use proxy_tests::config::{BACKEND_ECHO_PORT, BACKEND_WEB_PORT, ECHO_PORT, WEB_PORT};
use proxy_tests::path::Path;
use proxy_tests::privilege;
use proxy_tests::stage::{Stage, StageSpec};
use proxy_tests::topology::Shape;
use std::fmt::Write;

/// Octets of a transfer each way.
const TRANSFER: u64 = 16 << 20;

#[test]
fn a_segment_carries_dnat_v4() -> Result<()> {
    carries_dnat(Stage::new(Path::NAT_V4))
}

#[test]
fn a_segment_carries_dnat_v6() -> Result<()> {
    carries_dnat(Stage::new(Path::NAT_V6))
}

#[test]
fn two_segments_carry_dnat() -> Result<()> {
    carries_dnat(Stage::new(Path::NAT_V4).shape(Shape::TwoArmed))
}

#[test]
fn tagged_hosts_carry_dnat_v4() -> Result<()> {
    carries_dnat(Stage::new(Path::NAT_V4).vlan(5))
}

#[test]
fn tagged_hosts_carry_dnat_v6() -> Result<()> {
    carries_dnat(Stage::new(Path::NAT_V6).vlan(5))
}

#[test]
fn a_small_mtu_carries_dnat() -> Result<()> {
    carries_dnat(Stage::new(Path::NAT_V4).backend_mtu(1280))
}

/// Has nftables balance over the backends, and sends requests and transfers through.
fn carries_dnat(spec: StageSpec) -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let Some(nft) = privilege::program("nft", "nftables")? else {
        return Ok(());
    };
    let stage = spec.build()?;
    dnat(&stage, &nft)?;
    let client = stage.client();

    let shares = client.shares(stage.web(), 30)?;
    assert_eq!(shares.values().copied().collect::<Vec<_>>(), [10, 10, 10]);
    let (_, echoed) = client.udp_echo(stage.echo(), b"hello")?;
    assert_eq!(echoed, b"hello");
    let (_, echoed) = client.udp_echo(stage.echo(), &[7; 4000])?;
    assert_eq!(echoed, [7; 4000]);
    let mut connection = client.connect(stage.web())?;
    connection.download(TRANSFER)?;
    connection.upload(TRANSFER)?;
    Ok(())
}

/// Destination NAT in turn over the stage's backends.
fn dnat(stage: &Stage, nft: &std::path::Path) -> Result<()> {
    let v6 = stage.path.client_is_v6();
    let (table, daddr) = if v6 { ("ip6", "ip6") } else { ("ip", "ip") };
    let mut rules =
        format!("table {table} control {{ chain pre {{ type nat hook prerouting priority -100;\n");
    for (protocol, vip_port, port) in [
        ("tcp", WEB_PORT, BACKEND_WEB_PORT),
        ("udp", ECHO_PORT, BACKEND_ECHO_PORT),
    ] {
        let count = stage.topology.backends.len();
        write!(
            rules,
            "{daddr} daddr {} {protocol} dport {vip_port} dnat to numgen inc mod {count} map {{",
            stage.vip()
        )?;
        for (index, node) in stage.topology.backends.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let address = node.address(v6);
            write!(rules, "{comma} {index} : {address}")?;
        }
        writeln!(rules, " }} : {port}")?;
    }
    rules.push_str("}\n}\n");
    run_with_input(
        stage.topology.balancer.command(nft).args(["-f", "-"]),
        &rules,
    )
}
