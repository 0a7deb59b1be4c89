//! Other networks than one plain segment: two interfaces, VLAN tags, a small MTU, a device without
//! XDP.

use crate::support::{EVEN, expect_shares};
use anyhow::{Context, Result, ensure};
use proxy_common::reason::Reason;
use proxy_common::service::protocol;
use proxy_tests::path::{Family, Path};
use proxy_tests::stage::Stage;
use proxy_tests::topology::{
    BALANCER_BACKEND_V4, BALANCER_BACKEND_V6, BALANCER_CLIENT_V4, BALANCER_CLIENT_V6, SNAT_V4,
    SNAT_V6, Shape,
};
use serde_json::json;

/// Octets of a transfer each way.
const TRANSFER: u64 = 16 << 20;

/// A VLAN id with bits in all three nibbles.
const VLAN: u16 = 0x5a3;

fn tagged_frames_are_balanced_and_keep_their_tag(path: Path) -> Result<()> {
    let stage = Stage::new(path).vlan(VLAN).start()?;
    carries_requests_and_transfers(&stage)
}
on_every_path!(tagged_frames_are_balanced_and_keep_their_tag);

fn carries_requests_and_transfers(stage: &Stage) -> Result<()> {
    let client = stage.client();
    expect_shares(&client.shares(stage.web(), 90)?, EVEN)?;
    let (_, echoed) = client.udp_echo(stage.echo(), b"hello")?;
    assert_eq!(echoed, b"hello");
    client.ping(stage.vip(), 56)?;
    let mut connection = client.connect(stage.web())?;
    connection.download(TRANSFER).context("download")?;
    connection.upload(TRANSFER).context("upload")?;
    balancer_forwarded_it_all(stage)
}

/// The balancer, and not its host's own routing, moved the packets.
fn balancer_forwarded_it_all(stage: &Stage) -> Result<()> {
    let maps = stage.daemon().maps()?;
    let mut bytes = 0;
    for node in &stage.topology.backends {
        let address = node.address(stage.path.backend_is_v6());
        let counted = maps.backend_stats(address, protocol::TCP)?;
        bytes += counted.bytes;
    }
    ensure!(bytes >= TRANSFER, "only {bytes} octets went to backends");
    Ok(())
}

/// With 1280 octets towards the backends a full segment does not fit; IPv6 promises its senders
/// 1280, so a tunnel of IPv6 needs a little more than that outside.
fn two_interfaces_with_a_small_mtu_behind_carry_requests_and_transfers(path: Path) -> Result<()> {
    let mtu = match path.family {
        Family::V6 => 1280 + path.overhead(),
        Family::V4 | Family::V4InV6 => 1280,
    };
    let stage = Stage::new(path).backend_mtu(mtu).start()?;
    carries_requests_and_transfers(&stage)?;
    if path.is_tunnel() {
        let told = stage.daemon().maps()?.reason(Reason::TooBigReply)?;
        ensure!(told > 0, "the sender was never told");
        ensure!(told < 100, "the sender was told {told} times");
    }
    Ok(())
}
on_every_path!(two_interfaces_with_a_small_mtu_behind_carry_requests_and_transfers);

fn two_interfaces_of_one_mtu_carry_requests_and_transfers(path: Path) -> Result<()> {
    let stage = Stage::new(path).shape(Shape::TwoArmed).start()?;
    carries_requests_and_transfers(&stage)?;
    let told = stage.daemon().maps()?.reason(Reason::TooBigReply)?;
    ensure!(told == 0 || path.is_tunnel(), "somebody was told an MTU");
    Ok(())
}
on_paths!(two_interfaces_of_one_mtu_carry_requests_and_transfers:
    nat_v4 = NAT_V4,
    dsr_ipip_v6 = DSR_IPIP_V6,
);

/// Few drivers of virtual devices have XDP, and then the kernel runs the program itself, on buffers
/// that its stack has made.
fn a_device_without_xdp_carries_requests_and_transfers(path: Path) -> Result<()> {
    let mut stage = Stage::new(path).build()?;
    // A macvlan has none; it takes the place of the wire, with its addresses.
    let addresses = [
        format!("{BALANCER_CLIENT_V4}/24"),
        format!("{BALANCER_CLIENT_V6}/64"),
        format!("{BALANCER_BACKEND_V4}/24"),
        format!("{BALANCER_BACKEND_V6}/64"),
        format!("{SNAT_V4}/24"),
        format!("{SNAT_V6}/64"),
    ];
    let mut lines = "link add link eth0 name lb0 type macvlan mode bridge\n\
                     addr flush dev eth0\n\
                     link set lb0 up\n"
        .to_owned();
    for address in addresses {
        let nodad = if address.contains(':') { " nodad" } else { "" };
        lines += &format!("addr add {address} dev lb0{nodad}\n");
    }
    let balancer = &stage.topology.balancer;
    // The wire under it must not answer for its addresses.
    balancer.sysctl("net/ipv4/conf/all/arp_ignore", "1")?;
    balancer.ip(&lines)?;
    stage.config["l4"]["interfaces"] = json!(["lb0"]);
    stage.start_decapsulators()?;
    stage.start_daemon()?;
    let view = stage.daemon().status()?;
    let mode = &view.interfaces.first().context("an interface")?.attached;
    ensure!(mode == "generic", "{mode}");
    ensure!(
        stage.daemon().log().contains("generic mode is used"),
        "nobody was told"
    );
    carries_requests_and_transfers(&stage)
}
on_paths!(a_device_without_xdp_carries_requests_and_transfers:
    nat_v4 = NAT_V4,
    full_nat_v6 = FULL_NAT_V6,
    dsr_l2_v4 = DSR_L2_V4,
    dsr_ipip_v6 = DSR_IPIP_V6,
);
