//! Replays another balancer's packet cases (Katran's unit tests as data) for the parts that our
//! modes cover. The data is not ours and stays outside: see
//! [`vectors`].
//!
//! What depends on that project's ring is masked: the backend's address and what follows from it.
//! Instead, the destination must be one of the VIP's backends, the same for all packets of a flow,
//! and every checksum must be right. Where sluice deliberately differs, [`DIFFERENCES`] says so,
//! with the reason, and says what is expected instead.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use proxy_common::backend::{BackendState, probe_mark};
use proxy_common::maps::{DECAP_SETTINGS, DecapSettings, program};
use proxy_common::reason::Reason;
use proxy_common::service::Mode;
use proxy_tests::packet::netns::ip;
use proxy_tests::packet::probe::Egress;
use proxy_tests::packet::rig::{Action, Outcome, Rig};
use proxy_tests::packet::service::{Served, Wanted};
use proxy_tests::packet::verify::{Layer, verify};
use proxy_tests::vectors;
use serde::Deserialize;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

const FILE: &str = "katran.json";

#[derive(Deserialize)]
struct Vectors {
    configs: HashMap<String, Config>,
    sets: HashMap<String, Set>,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    gue_port: u16,
    #[serde(default)]
    vips: Vec<Vip>,
}

#[derive(Clone, Deserialize)]
struct Vip {
    addr: IpAddr,
    port: u16,
    proto: String,
    reals: Vec<IpAddr>,
    #[serde(default)]
    down_reals_index: Vec<usize>,
}

#[derive(Deserialize)]
struct Set {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    n: u32,
    description: String,
    input: String,
    verdict: String,
    expected: String,
    expect: Expect,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Expect {
    backend_dependent_bytes: Vec<(usize, usize)>,
    encap: Option<String>,
}

/// What we do instead.
#[derive(Clone, Copy, Debug)]
enum Ours {
    /// The packet takes this way; the octets are tested elsewhere.
    Goes(Action, Reason),
    /// The set needs a feature that is not offered; the case is not run.
    NotOffered,
}

/// Deliberate differences: set, case, what we do, why.
const DIFFERENCES: &[(&str, u32, Ours, &str)] = &[
    (
        "base_ipip",
        12,
        Ours::Goes(Action::Tx, Reason::Encapsulated),
        "IPv4 options are followed instead of dropped",
    ),
    (
        "base_ipip",
        33,
        Ours::Goes(Action::Tx, Reason::TooBigReply),
        "the sender of a too long packet is told the length that fits, instead of nothing",
    ),
    ("base_ipip", 26, QUIC, QUIC_WHY),
    ("base_ipip", 27, QUIC, QUIC_WHY),
    ("base_ipip", 29, QUIC, QUIC_WHY),
    ("base_ipip", 30, QUIC, QUIC_WHY),
    ("base_ipip", 31, QUIC, QUIC_WHY),
    ("base_ipip", 32, QUIC, QUIC_WHY),
    ("base_ipip", 34, QUIC, QUIC_WHY),
    ("base_ipip", 35, QUIC, QUIC_WHY),
    ("lpm_src", 1, Ours::NotOffered, SOURCE_ROUTING),
    ("lpm_src", 2, Ours::NotOffered, SOURCE_ROUTING),
    ("lpm_src", 3, Ours::NotOffered, SOURCE_ROUTING),
    ("lpm_src", 5, Ours::NotOffered, SOURCE_ROUTING),
    ("lpm_src", 6, Ours::NotOffered, SOURCE_ROUTING),
    ("lpm_src", 8, Ours::NotOffered, SOURCE_ROUTING),
    (
        "xdpdecap_ipip",
        3,
        Ours::Goes(Action::Pass, Reason::PassNotService),
        DECAP_FRAGMENTS,
    ),
    (
        "xdpdecap_ipip",
        4,
        Ours::Goes(Action::Pass, Reason::PassNotService),
        DECAP_FRAGMENTS,
    ),
];

const QUIC: Ours = Ours::Goes(Action::Tx, Reason::Encapsulated);
const QUIC_WHY: &str = "QUIC connection ids are not offered yet: the flow's 5-tuple decides";
const SOURCE_ROUTING: &str = "routing by source prefix is not offered: services are";
const DECAP_FRAGMENTS: &str =
    "fragments that are no tunnel's are the stack's business, not dropped";

/// Differences that hold for every case and are therefore masked, not listed case by case.
const GENERAL: &[&str] = &[
    "the low bits of the outer source carry our flow hash, not source address xor port",
    "GUE: our source port comes from our flow hash, and the UDP checksum is zero (RFC 6935)",
    "the outer IPv4 header copies \"don't fragment\" from the inner one",
    "the ring is ours: another backend of the same VIP is as right",
];

fn vectors() -> Option<Vectors> {
    let text = vectors::read(FILE)?;
    Some(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{FILE}: {error}")))
}

/// A rig whose routes lead where the vectors say: every backend behind one gateway, on the
/// interface that the packets come from.
fn rig() -> Rig {
    let rig = Rig::new().unwrap_or_else(|error| panic!("{error:#}"));
    ip("link set north address 02:00:00:00:00:00\n\
        neigh replace 192.0.2.200 lladdr 00:00:de:ad:be:af dev north nud permanent\n\
        neigh replace 2001:db8:2::c8 lladdr 00:00:de:ad:be:af dev north nud permanent\n\
        route replace 10.0.0.0/24 via 192.0.2.200\n\
        route replace fc00::/64 via 2001:db8:2::c8\n")
    .unwrap();
    rig
}

fn serve(rig: &mut Rig, vip: &Vip, mode: Mode, gue_port: u16) -> Served {
    let address = SocketAddr::new(vip.addr, vip.port).to_string();
    let wanted = match vip.proto.as_str() {
        "tcp" => Wanted::tcp(&address, mode),
        "udp" => Wanted::udp(&address, mode),
        other => panic!("protocol {other}"),
    };
    let wanted = vip
        .reals
        .iter()
        .fold(wanted.gue_port(gue_port), |wanted, real| {
            wanted.backend(&SocketAddr::new(*real, 0).to_string())
        });
    let v6 = vip.reals.first().is_some_and(IpAddr::is_ipv6);
    let served = rig
        .serve(&wanted.spread(if v6 { 0xffff_ffff } else { 0xffff }))
        .unwrap();
    let up: Vec<u16> = served
        .backends
        .iter()
        .enumerate()
        .filter(|(index, _)| !vip.down_reals_index.contains(index))
        .map(|(_, id)| *id)
        .collect();
    for down in &vip.down_reals_index {
        rig.set_state(served.backends[*down], BackendState::Down)
            .unwrap();
    }
    rig.only(served.id, &up).unwrap();
    served
}

/// What is checked over the cases of a set.
struct Replay<'a> {
    set: &'a str,
    vips: &'a [Vip],
    gue_port: u16,
    flows: HashMap<Vec<u8>, IpAddr>,
    failures: Vec<String>,
}

impl Replay<'_> {
    fn run(&mut self, rig: &mut Rig, case: &Case) {
        let input = BASE64_STANDARD.decode(&case.input).expect("base64");
        let difference = DIFFERENCES
            .iter()
            .find(|(set, n, ..)| *set == self.set && *n == case.n);
        if let Some((.., Ours::NotOffered, why)) = difference {
            println!("{} {}: not run: {why}", self.set, case.n);
            return;
        }
        let outcome = rig.run(&input).unwrap();
        let result = match difference {
            Some((.., Ours::Goes(action, reason), why)) => {
                println!("{} {}: differs: {why}", self.set, case.n);
                goes(&outcome, *action, *reason)
            }
            _ => self.compare(case, &input, &outcome),
        };
        let result = result.and_then(|()| self.destination(case, &input, &outcome));
        if let Err(problem) = result {
            self.failures.push(format!(
                "{} {} ({}): {problem}",
                self.set, case.n, case.description
            ));
        }
    }

    /// Compares verdict and octets, outside the masks.
    fn compare(&self, case: &Case, input: &[u8], outcome: &Outcome) -> Result<(), String> {
        let action = match case.verdict.as_str() {
            "XDP_TX" => Action::Tx,
            "XDP_PASS" => Action::Pass,
            "XDP_DROP" => Action::Drop,
            other => return Err(format!("unknown verdict {other}")),
        };
        if outcome.action != action {
            return Err(format!(
                "{:?} ({:?}), expected {action:?}",
                outcome.action, outcome.reasons
            ));
        }
        if action == Action::Drop {
            return Ok(());
        }
        let mut expected = BASE64_STANDARD.decode(&case.expected).expect("base64");
        let mut found = outcome.frame.clone();
        if expected.len() != found.len() {
            return Err(format!(
                "{} octets, expected {}",
                found.len(),
                expected.len()
            ));
        }
        for (from, to) in self.masks(case, input) {
            expected[from..to].fill(0);
            found[from..to].fill(0);
        }
        match found.iter().zip(&expected).position(|(a, b)| a != b) {
            Some(at) => Err(format!(
                "octet {at} is {:02x}, not {:02x}",
                found[at], expected[at]
            )),
            None => Ok(()),
        }
    }

    /// The case's own masks, and those of [`GENERAL`].
    fn masks(&self, case: &Case, input: &[u8]) -> Vec<(usize, usize)> {
        let mut masks = case.expect.backend_dependent_bytes.clone();
        let inner_v4 = input[12..14] == [8, 0];
        match case.expect.encap.as_deref() {
            // Low half of the outer source; flags, which ours copies from the inner packet.
            Some("ipip") => masks.extend([(28, 30), (20, 22)]),
            Some("ip-in-ip6") => masks.push((34, 38)),
            Some("gue4") => masks.extend([(34, 36), (40, 42), (20, 22), (24, 26), (26, 30)]),
            Some("gue6") => masks.extend([(54, 56), (60, 62), (22, 38)]),
            _ => {}
        }
        let _ = inner_v4;
        masks
    }

    /// The outer destination is one of the VIP's backends, and stays the same for a flow.
    fn destination(&mut self, case: &Case, input: &[u8], outcome: &Outcome) -> Result<(), String> {
        if outcome.action != Action::Tx {
            return Ok(());
        }
        // Some of the vectors' own packets have no valid checksum; theirs cannot be ours.
        if verify(input, self.gue_port).is_ok() {
            verify(&outcome.frame, self.gue_port).map_err(|fault| fault.to_string())?;
        }
        if outcome.reason() != Reason::Encapsulated && outcome.reason() != Reason::IcmpError {
            return Ok(());
        }
        let (_, dst) = loose_ends(&outcome.frame);
        let (vip, flow) = flow_of(input, self.gue_port);
        let of_vip = self.vips.iter().filter(|candidate| candidate.addr == vip);
        let reals: Vec<IpAddr> = of_vip.flat_map(|vip| vip.reals.clone()).collect();
        if !reals.contains(&dst) {
            return Err(format!("sent to {dst}, which is no backend of {vip}"));
        }
        let first = *self.flows.entry(flow).or_insert(dst);
        if first == dst {
            Ok(())
        } else {
            Err(format!(
                "case {}: the flow went to {first} before and now to {dst}",
                case.n
            ))
        }
    }
}

/// The VIP that a frame concerns and the octets that name its flow. An ICMP error names the flow
/// that it quotes, seen from the client.
fn flow_of(frame: &[u8], gue_port: u16) -> (IpAddr, Vec<u8>) {
    let layers = verify(frame, gue_port).unwrap_or_default();
    let ends: Vec<(IpAddr, IpAddr)> = layers
        .iter()
        .filter_map(|layer| match layer {
            Layer::Ip { src, dst, .. } => Some((*src, *dst)),
            _ => None,
        })
        .collect();
    let ports = layers.iter().find_map(|layer| match layer {
        Layer::Ports { src, dst } => Some((*src, *dst)),
        _ => None,
    });
    let (src, dst) = ends.first().copied().unwrap_or_else(|| loose_ends(frame));
    let protocol = layers.iter().find_map(|layer| match layer {
        Layer::Ip { protocol, .. } => Some(*protocol),
        _ => None,
    });
    (
        dst,
        format!("{src} {dst} {ports:?} {protocol:?}").into_bytes(),
    )
}

/// Addresses of a frame that is not valid as a whole (the vectors have some).
fn loose_ends(frame: &[u8]) -> (IpAddr, IpAddr) {
    let v4 = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&frame[at..at + 4]).expect("4"));
    let v6 = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&frame[at..at + 16]).expect("16"));
    if frame[12..14] == [8, 0] {
        (v4(26), v4(30))
    } else {
        (v6(22), v6(38))
    }
}

fn goes(outcome: &Outcome, action: Action, reason: Reason) -> Result<(), String> {
    if outcome.action == action && outcome.reason() == reason {
        return Ok(());
    }
    let (found, why) = (outcome.action, outcome.reason());
    Err(format!(
        "{found:?} ({why:?}), ours should be {action:?} ({reason:?})"
    ))
}

fn replay(set: &str, mode: Mode, config: &str, prepare: impl FnOnce(&mut Vec<Vip>)) {
    let Some(vectors) = vectors() else { return };
    let mut vips = vectors.configs[config].vips.clone();
    prepare(&mut vips);
    let gue_port = vectors.configs["base"].gue_port;
    let mut rig = rig();
    for vip in &vips {
        serve(&mut rig, vip, mode, gue_port);
    }
    replay_all(&mut rig, &vectors, set, &vips);
}

/// Replays the cases of a set, and fails with all that go another way.
fn replay_all(rig: &mut Rig, vectors: &Vectors, set: &str, vips: &[Vip]) {
    let mut replay = Replay {
        set,
        vips,
        gue_port: vectors.configs["base"].gue_port,
        flows: HashMap::new(),
        failures: Vec::new(),
    };
    for case in &vectors.sets[set].cases {
        replay.run(rig, case);
    }
    assert!(
        replay.failures.is_empty(),
        "\n{}",
        replay.failures.join("\n")
    );
}

#[test]
fn ipip_balancing() {
    replay("base_ipip", Mode::DsrIpip, "base", |_| {});
}

#[test]
fn gue_balancing() {
    replay("lpm_src", Mode::DsrGue, "base", |_| {});
}

/// All VIPs of this set have backends of both families. Which family the outer header has then
/// depends on the ring, so each VIP keeps the family that the expected frames have.
#[test]
fn gue_balancing_of_more_services() {
    replay("udp_flow_migration_1", Mode::DsrGue, "base", |vips| {
        *vips = migration_vips()
    });
}

#[test]
fn flows_of_a_backend_that_went_down_are_selected_anew() {
    let Some(vectors) = vectors() else { return };
    let gue_port = vectors.configs["base"].gue_port;
    let gone: IpAddr = "10.0.0.2".parse().unwrap();
    let mut tried = 0;
    // The first set's flows must have used the backend that goes down: take a seed that does so.
    for seed in 0..64 {
        let mut rig = rig();
        rig.settings(|settings| settings.selection_seed = seed)
            .unwrap();
        let vips = migration_vips();
        let served: Vec<Served> = vips
            .iter()
            .map(|vip| serve(&mut rig, vip, Mode::DsrGue, gue_port))
            .collect();
        let outer = |rig: &mut Rig, case: &Case| {
            let input = BASE64_STANDARD.decode(&case.input).expect("base64");
            let outcome = rig.run(&input).unwrap();
            assert_eq!(
                outcome.reason(),
                Reason::Encapsulated,
                "{}",
                case.description
            );
            match verify(&outcome.frame, gue_port).unwrap()[1] {
                Layer::Ip { dst, .. } => dst,
                ref other => panic!("{other:?}"),
            }
        };
        let cases = &vectors.sets["udp_flow_migration_1"].cases;
        let before: Vec<IpAddr> = cases.iter().map(|case| outer(&mut rig, case)).collect();
        if before[0] != gone || before[1] != gone {
            continue;
        }
        for served in &served[..2] {
            rig.set_state(served.backends[1], BackendState::Down)
                .unwrap();
            rig.only(served.id, &[served.backends[0], served.backends[2]])
                .unwrap();
        }
        let cases = &vectors.sets["udp_flow_migration_2"].cases;
        let after: Vec<IpAddr> = cases.iter().map(|case| outer(&mut rig, case)).collect();
        assert!(after[0] != gone && after[1] != gone, "{after:?}");
        assert_eq!(before[2..], after[2..], "the other services' flows stay");
        tried += 1;
        break;
    }
    assert_eq!(tried, 1, "no seed put the first two flows on {gone}");
}

fn migration_vips() -> Vec<Vip> {
    [
        ("10.200.1.1", "udp"),
        ("10.200.1.2", "udp"),
        ("10.200.1.3", "udp"),
        ("10.200.1.4", "tcp"),
    ]
    .map(|(addr, proto)| Vip {
        addr: addr.parse().unwrap(),
        port: 80,
        proto: proto.into(),
        reals: ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
            .map(|real| real.parse().unwrap())
            .to_vec(),
        down_reals_index: Vec::new(),
    })
    .to_vec()
}

#[test]
fn decapsulation() {
    let Some(vectors) = vectors() else { return };
    let mut rig = rig();
    rig.program = program::DECAP;
    let gue_port = vectors.configs["base"].gue_port;
    let settings = DecapSettings {
        gue_port,
        ..DecapSettings::default()
    };
    rig.set(DECAP_SETTINGS, 0, settings).unwrap();
    replay_all(&mut rig, &vectors, "xdpdecap_ipip", &[]);
}

/// The marks of that project are backend numbers; ours say that they are marks of probes, too.
#[test]
fn health_probes() {
    let Some(vectors) = vectors() else { return };
    let mut rig = rig();
    let reals = ["10.0.0.1:0", "10.0.0.2:0", "[fc00::1]:0"];
    let vips = ["10.200.1.1:80", "10.200.1.1:80", "[fc00:1::1]:80"];
    let ids: Vec<u16> = vips
        .iter()
        .zip(reals)
        .map(|(vip, real)| {
            let wanted = Wanted::tcp(vip, Mode::DsrIpip).backend(real);
            rig.serve(&wanted).unwrap().backends[0]
        })
        .collect();
    let mut failures = Vec::new();
    for case in &vectors.sets["hc_ipip"].cases {
        let input = BASE64_STANDARD.decode(&case.input).expect("base64");
        let mut expected = BASE64_STANDARD.decode(&case.expected).expect("base64");
        let mark = match case.n {
            1 => 0,
            n => probe_mark(ids[n as usize - 2]),
        };
        let north = rig.namespace.north;
        let mut found = rig.run_probe(mark, north, &input).unwrap();
        let verdict = match found.egress {
            Egress::Next => "TC_ACT_UNSPEC",
            Egress::Redirect => "TC_ACT_REDIRECT",
            Egress::Drop | Egress::Other(_) => "another",
        };
        // Theirs are that project's constants, ours are of the rig: the link's own address, the
        // configured outer source, and the checksum over it.
        let ours: &[(usize, usize)] = match case.expect.encap.as_deref() {
            Some("ipip") => &[(6, 12), (24, 26), (26, 30)],
            Some("ip-in-ip6") => &[(6, 12), (22, 38)],
            _ => &[],
        };
        for &(from, to) in ours {
            expected[from..to].fill(0);
            found.frame[from..to].fill(0);
        }
        if verdict != case.verdict || found.frame != expected {
            failures.push(format!("{} ({}): {found:?}", case.n, case.description));
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

#[test]
fn each_difference_has_a_case_and_a_reason() {
    assert!(GENERAL.iter().all(|why| why.len() > 20));
    let Some(vectors) = vectors() else { return };
    for (set, n, _, why) in DIFFERENCES {
        assert!(why.len() > 20, "{set} {n}");
        let cases = &vectors.sets[*set].cases;
        assert!(
            *n == 0 || cases.iter().any(|case| case.n == *n),
            "{set} has no case {n}"
        );
    }
}
