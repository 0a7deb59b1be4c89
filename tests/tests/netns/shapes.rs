//! Other networks than one plain segment: two interfaces, VLAN tags, a small MTU.

use crate::support::{EVEN, expect_shares};
use anyhow::{Context, Result, ensure};
use proxy_common::reason::Reason;
use proxy_common::service::protocol;
use proxy_tests::path::{Family, Path};
use proxy_tests::stage::{Stage, StageSpec};
use proxy_tests::topology::Shape;

/// Octets of a transfer each way.
const TRANSFER: u64 = 16 << 20;

/// A VLAN id with bits in all three nibbles.
const VLAN: u16 = 0x5a3;

fn two_interfaces_carry_requests_and_transfers(path: Path) -> Result<()> {
    carries_requests_and_transfers(Stage::new(path).shape(Shape::TwoArmed))
}
on_every_path!(two_interfaces_carry_requests_and_transfers);

fn tagged_frames_are_balanced_and_keep_their_tag(path: Path) -> Result<()> {
    carries_requests_and_transfers(Stage::new(path).vlan(VLAN))
}
on_every_path!(tagged_frames_are_balanced_and_keep_their_tag);

fn carries_requests_and_transfers(spec: StageSpec) -> Result<()> {
    let stage = spec.start()?;
    let client = stage.client();
    expect_shares(&client.shares(stage.web(), 90)?, EVEN)?;
    let (_, echoed) = client.udp_echo(stage.echo(), b"hello")?;
    assert_eq!(echoed, b"hello");
    client.ping(stage.vip(), 56)?;
    let mut connection = client.connect(stage.web())?;
    connection.download(TRANSFER).context("download")?;
    connection.upload(TRANSFER).context("upload")?;
    balancer_forwarded_it_all(&stage)
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
fn a_sender_learns_the_mtu_and_the_transfer_completes(path: Path) -> Result<()> {
    let mtu = match path.family {
        Family::V6 => 1280 + path.overhead(),
        Family::V4 | Family::V4InV6 => 1280,
    };
    let stage = Stage::new(path).backend_mtu(mtu).start()?;
    let mut connection = stage.client().connect(stage.web())?;
    connection.upload(TRANSFER).context("upload")?;
    connection.download(TRANSFER).context("download")?;
    if path.is_tunnel() {
        let told = stage.daemon().maps()?.reason(Reason::TooBigReply)?;
        ensure!(told > 0, "the sender was never told");
        ensure!(told < 100, "the sender was told {told} times");
    }
    Ok(())
}
on_every_path!(a_sender_learns_the_mtu_and_the_transfer_completes);
