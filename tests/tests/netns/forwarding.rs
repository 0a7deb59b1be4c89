//! Each mode and family steers real traffic, octet by octet, and counts what it steers.

use crate::support::{EVEN, expect_shares};
use anyhow::{Context, Result, ensure};
use proxy_common::reason::Reason;
use proxy_common::service::{Mode, protocol};
use proxy_tests::config::WEB;
use proxy_tests::path::Path;
use proxy_tests::privilege;
use proxy_tests::stage::Stage;
use proxy_tests::topology::{SNAT_V4, SNAT_V6, client_v4, client_v6};
use proxy_tests::wait;
use serde_json::json;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

/// Octets of a transfer each way.
const TRANSFER: u64 = 64 << 20;

/// Looks whether a promise is kept.
type Check = fn(&Stage) -> Result<()>;

/// One stage for all that a path promises, because loading the kernel programs takes longer than
/// most of the checks. The error's context says which promise was broken.
fn a_path_keeps_its_promises(path: Path) -> Result<()> {
    let promises: [(&str, Check); 7] = [
        (
            "requests reach every backend and the kernel counts each",
            requests_reach_every_backend_and_the_kernel_agrees,
        ),
        (
            "the backend sees whom the mode says",
            the_backend_sees_whom_the_mode_says,
        ),
        (
            "datagrams are echoed and a flow keeps its backend",
            datagrams_are_echoed_and_a_flow_keeps_its_backend,
        ),
        (
            "a fragmented datagram reaches one backend",
            a_fragmented_datagram_reaches_one_backend,
        ),
        (
            "an echo request to the VIP is answered",
            an_echo_request_to_the_vip_is_answered,
        ),
        (
            "curl fetches through the balancer",
            curl_fetches_through_the_balancer,
        ),
        (
            "64 MiB arrive unchanged both ways",
            sixty_four_mebibytes_arrive_unchanged_both_ways,
        ),
    ];
    let stage = Stage::new(path).start()?;
    for (promise, check) in promises {
        check(&stage).with_context(|| format!("{path}: {promise}"))?;
    }
    Ok(())
}
on_every_path!(a_path_keeps_its_promises);

fn requests_reach_every_backend_and_the_kernel_agrees(stage: &Stage) -> Result<()> {
    let path = stage.path;
    let shares = stage.client().shares(stage.web(), 300)?;
    expect_shares(&shares, EVEN)?;

    let maps = stage.daemon().maps()?;
    let mut packets = 0;
    for node in &stage.topology.backends {
        let address = node.address(path.backend_is_v6());
        let counted = maps.backend_stats(address, protocol::TCP)?;
        ensure!(
            counted.new_flows == shares[&node.name],
            "the kernel counted {} new flows of {}, the client {}",
            counted.new_flows,
            node.name,
            shares[&node.name]
        );
        // SYN, ACK, request, ACK of the answer, FIN, ACK of the FIN: a few may be merged.
        ensure!(
            counted.packets >= 4 * counted.new_flows,
            "{} packets in {} flows",
            counted.packets,
            counted.new_flows
        );
        ensure!(path.mode.is_dsr() || counted.return_packets >= 3 * counted.new_flows);
        packets += counted.packets;
    }
    let by_reason = maps.reason(forwarded(path.mode))?;
    ensure!(
        by_reason == packets,
        "{by_reason} packets by reason, {packets} by backend"
    );
    for (name, count) in &shares {
        let shown = stage.daemon().backend("web", name)?.traffic.new_flows;
        ensure!(
            shown == *count,
            "`sluice status` shows {shown} flows of {name} and not {count}"
        );
    }
    Ok(())
}

/// The reason that counts packets to backends.
fn forwarded(mode: Mode) -> Reason {
    match mode {
        Mode::Nat | Mode::FullNat => Reason::Translated,
        Mode::DsrL2 => Reason::Direct,
        Mode::DsrIpip | Mode::DsrGue => Reason::Encapsulated,
        Mode::Local => Reason::PassLocal,
    }
}

fn the_backend_sees_whom_the_mode_says(stage: &Stage) -> Result<()> {
    let mut connection = stage.client().connect(stage.web())?;
    let local = connection.local_addr()?;
    let peer = connection.get("/name")?.peer.context("no X-Peer")?;
    let path = stage.path;
    if path.mode == Mode::FullNat {
        let source: IpAddr = if path.backend_is_v6() {
            SNAT_V6.into()
        } else {
            SNAT_V4.into()
        };
        ensure!(peer.ip() == source, "{peer} instead of {source}");
    } else {
        ensure!(peer == local, "{peer} instead of {local}");
    }
    Ok(())
}

fn datagrams_are_echoed_and_a_flow_keeps_its_backend(stage: &Stage) -> Result<()> {
    let client = stage.client();
    let mut answered = BTreeSet::new();
    for number in 0..30u8 {
        let flow = client.udp_socket(stage.echo())?;
        let (first, echoed) = flow.echo(&[number; 100])?;
        ensure!(echoed == [number; 100], "the echo differs");
        let (second, _) = flow.echo(b"again")?;
        ensure!(first == second, "{first}, then {second} in one flow");
        answered.insert(first);
    }
    ensure!(answered.len() == 3, "only {answered:?} answered");
    Ok(())
}

fn a_fragmented_datagram_reaches_one_backend(stage: &Stage) -> Result<()> {
    let flow = stage.client().udp_socket(stage.echo())?;
    let (first, _) = flow.echo(b"short")?;
    // Full fragments do not fit a tunnel: the balancer says so, and the sender makes smaller ones.
    let payload: Vec<u8> = (0..4000u32).map(|octet| (octet % 251) as u8).collect();
    flow.socket()
        .set_read_timeout(Some(Duration::from_millis(500)))?;
    let attempts = if stage.path.is_tunnel() { 3 } else { 1 };
    let (backend, echoed) = (0..attempts)
        .map(|_| flow.echo(&payload))
        .find_map(Result::ok)
        .context("4000 octets were never echoed")?;
    ensure!(echoed == payload, "the echo differs");
    ensure!(backend == first, "fragments left their flow");
    let forwarded = stage.daemon().maps()?.reason(Reason::FragmentForwarded)?;
    ensure!(forwarded >= 2, "{forwarded} later fragments were counted");
    Ok(())
}

fn an_echo_request_to_the_vip_is_answered(stage: &Stage) -> Result<()> {
    for length in [0, 56, 1000] {
        stage.client().ping(stage.vip(), length)?;
    }
    let answered = stage.daemon().maps()?.reason(Reason::EchoReply)?;
    ensure!(answered == 3, "{answered} answers were counted");
    Ok(())
}

fn curl_fetches_through_the_balancer(stage: &Stage) -> Result<()> {
    let url = format!("http://{}/name", stage.web());
    for _ in 0..5 {
        let body = stage.client().curl(&[&url])?;
        ensure!(body.starts_with("web-"), "{body}");
    }
    Ok(())
}

fn sixty_four_mebibytes_arrive_unchanged_both_ways(stage: &Stage) -> Result<()> {
    let mut connection = stage.client().connect(stage.web())?;
    connection.download(TRANSFER).context("download")?;
    connection.upload(TRANSFER).context("upload")?;
    Ok(())
}

fn new_connections_follow_the_weights(path: Path) -> Result<()> {
    let stage = Stage::new(path)
        .config(|config| {
            let backends = &mut config["services"][WEB]["backends"];
            for (index, weight) in [1, 3, 0].into_iter().enumerate() {
                backends[index]["weight"] = json!(weight);
            }
        })
        .start()?;
    let shares = stage.client().shares(stage.web(), 400)?;
    expect_shares(&shares, &[("web-1", 1), ("web-2", 3), ("web-3", 0)])
}
on_paths!(new_connections_follow_the_weights:
    nat_v4 = NAT_V4,
    dsr_ipip_v6 = DSR_IPIP_V6,
);

fn a_local_service_is_counted_and_passed(path: Path) -> Result<()> {
    let stage = Stage::new(path).start()?;
    let client = stage.client();
    let shares = client.shares(stage.web(), 50)?;
    assert_eq!(shares["balancer"], 50);
    client.udp_echo(stage.echo(), b"hello")?;
    let mut connection = client.connect(stage.web())?;
    connection.download(TRANSFER)?;
    connection.upload(TRANSFER)?;

    let view = stage.daemon().status()?;
    let listener = |name: &str| {
        let mut all = view.services.iter().flat_map(|service| &service.listeners);
        all.find(|listener| listener.name == name)
            .expect("the listener")
    };
    assert_eq!(listener("web").local_new_flows, 51);
    assert_eq!(listener("echo").local_new_flows, 1);
    assert_eq!(listener("echo").local_packets, 1);
    // The last acknowledgement of the transfer may come between two looks.
    wait::until("both counts agree", || {
        let view = stage.daemon().status()?;
        let listeners = view.services.iter().flat_map(|service| &service.listeners);
        let passed: u64 = listeners.map(|listener| listener.local_packets).sum();
        Ok(stage.daemon().maps()?.reason(Reason::PassLocal)? == passed)
    })
}
on_paths!(a_local_service_is_counted_and_passed:
    v4 = LOCAL_V4,
    v6 = LOCAL_V6,
);

#[test]
fn both_families_are_served_at_once_from_one_configuration() -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let stage = Stage::new(Path::NAT_V4)
        .config(|config| {
            let services = config["services"].as_array_mut().expect("a list");
            let mut service = services[WEB].clone();
            service["name"] = json!("web6");
            service["backends"] = json!(["[fd02::21]:8080", "[fd02::22]:8080"]);
            services.push(service);
            let listeners = config["listeners"].as_array_mut().expect("a list");
            let mut listener = listeners[WEB].clone();
            listener["name"] = json!("web6");
            listener["service"] = json!("web6");
            listener["address"] = json!("2001:db8::10");
            listeners.push(listener);
        })
        .start()?;
    let v6 = "[2001:db8::10]:80".parse()?;
    let client = stage.client();
    let seen = client
        .get(stage.web(), "/name")?
        .peer
        .context("no X-Peer")?;
    assert_eq!(seen.ip(), IpAddr::from(client_v4(0)));
    let seen = client.get(v6, "/name")?.peer.context("no X-Peer")?;
    assert_eq!(seen.ip(), IpAddr::from(client_v6(0)));
    Ok(())
}
