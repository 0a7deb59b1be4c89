//! Every reason can be provoked: one frame and one world per reason, and a test that walks
//! [`Reason::ALL`] and fails for a reason that nobody provokes.

use crate::common::{BOTH, Ends, V4, V6, run};
use proxy_common::backend::BackendState;
use proxy_common::guard::{GuardRule, action};
use proxy_common::maps::{DECAP_SETTINGS, DEFAULT_GUE_PORT, DecapSettings, DecapSource, program};
use proxy_common::reason::{Outcome, Reason};
use proxy_common::service::{Mode, service_flags};
use proxy_tests::packet::build::Packet;
use proxy_tests::packet::rig::{Action, Rig, Sizes, from_backend, from_client};
use proxy_tests::packet::service::{ALLOW_LIST, Wanted};
use proxy_tests::packet::wire::{Extension, ethertype, protocol};

/// Prepares a rig and gives the frame that ends with the reason.
type Provocation = fn(&mut Rig, &Ends) -> Vec<u8>;

/// How each reason comes about, in either family.
const PROVOCATIONS: &[(Reason, Provocation)] = &[
    (Reason::PassNotIp, |_, _| {
        from_client().frame_of(ethertype::ARP, &[0; 28])
    }),
    (Reason::PassNotService, |rig, ends| {
        nat(rig, ends);
        Packet::tcp(ends.client, ends.north).frame(&from_client())
    }),
    (Reason::PassLocal, |rig, ends| {
        serve(rig, ends, Mode::Local, None);
        syn(ends)
    }),
    (Reason::PassProtocol, |rig, ends| {
        nat(rig, ends);
        Packet::other(&ends.client_address(), &ends.vip_address(), protocol::SCTP)
            .frame(&from_client())
    }),
    (Reason::PassNoFlow, |rig, ends| {
        nat(rig, ends);
        Packet::tcp(ends.backend, ends.client).frame(&from_backend(2))
    }),
    (Reason::PassResolve, |rig, ends| {
        serve(rig, ends, Mode::Nat, Some(ends.silent));
        syn(ends)
    }),
    (Reason::Encapsulated, |rig, ends| {
        serve(rig, ends, Mode::DsrIpip, Some(ends.same_port));
        syn(ends)
    }),
    (Reason::Translated, |rig, ends| {
        nat(rig, ends);
        syn(ends)
    }),
    (Reason::Returned, |rig, ends| {
        nat(rig, ends);
        run(rig, &syn(ends));
        Packet::tcp(ends.backend, ends.client).frame(&from_backend(2))
    }),
    (Reason::Direct, |rig, ends| {
        serve(rig, ends, Mode::DsrL2, Some(ends.same_port));
        syn(ends)
    }),
    (Reason::EchoReply, |rig, ends| {
        nat(rig, ends);
        Packet::echo(&ends.client_address(), &ends.vip_address()).frame(&from_client())
    }),
    (Reason::IcmpError, |rig, ends| {
        nat(rig, ends);
        run(rig, &syn(ends));
        error(ends, &Packet::tcp(ends.vip, ends.client).bytes())
    }),
    (Reason::TooBigReply, |rig, ends| {
        serve(rig, ends, Mode::DsrIpip, Some(ends.same_port));
        ends.tcp()
            .payload(&vec![0; 1480 - header(ends)])
            .frame(&from_client())
    }),
    (Reason::FragmentForwarded, |rig, ends| {
        serve_udp(rig, ends);
        let fragments = ends.udp().payload(&[0; 100]).fragments(64, 1);
        run(rig, &from_client().frame(&fragments[0]));
        from_client().frame(&fragments[1])
    }),
    (Reason::DropTruncatedVlan, |_, _| {
        from_client().frame_of(ethertype::VLAN, &[0])
    }),
    (Reason::DropTruncatedIp, |_, ends| {
        from_client().frame(&ends.tcp().bytes()[..header(ends) - 1])
    }),
    (Reason::DropBadIpHeader, |_, ends| {
        let mut frame = ends.tcp().frame(&from_client());
        // A header of four words in IPv4, another version in IPv6.
        frame[14] = 0x44;
        frame
    }),
    (Reason::DropBadIpLength, |_, ends| {
        from_client().frame(&ends.tcp().bytes()[..header(ends) + 20])
    }),
    (Reason::DropTruncatedTransport, |_, ends| {
        let packet = Packet::other(&ends.client_address(), &ends.vip_address(), protocol::TCP);
        packet.payload(&[0; 8]).frame(&from_client())
    }),
    (Reason::DropBadTransport, |_, ends| {
        let mut frame = ends.tcp().frame(&from_client());
        frame[14 + header(ends) + 12] = 0x40;
        frame
    }),
    (Reason::DropTruncatedQuote, |rig, ends| {
        nat(rig, ends);
        error(
            ends,
            &Packet::tcp(ends.vip, ends.client).bytes()[..header(ends) + 7],
        )
    }),
    (Reason::DropFragmentUnknown, |rig, ends| {
        serve_udp(rig, ends);
        from_client().frame(&ends.udp().payload(&[0; 100]).fragments(64, 1)[1])
    }),
    (Reason::DropDenied, |rig, ends| {
        let wanted = direct(ends).with(|service| service.flags = service_flags::GUARDED);
        let served = rig.serve(&wanted).unwrap();
        let deny = GuardRule {
            action: action::DENY,
            ..GuardRule::default()
        };
        rig.set_guard(
            served.id,
            &format!(
                "{}/{}",
                ends.client_address(),
                if is_v6(ends) { 128 } else { 32 }
            ),
            deny,
        )
        .unwrap();
        syn(ends)
    }),
    (Reason::DropNotAllowed, |rig, ends| {
        rig.serve(&direct(ends).with(|service| service.flags = ALLOW_LIST))
            .unwrap();
        syn(ends)
    }),
    (Reason::DropBudget, |rig, ends| {
        let wanted = direct(ends).with(|service| {
            service.flags = service_flags::BUDGET;
            service.budget_interval_ns = 3_600_000_000_000;
        });
        rig.serve(&wanted).unwrap();
        run(rig, &syn(ends));
        let other = ends.client.replace("40000", "40001");
        ends.tcp().from(&other).syn().frame(&from_client())
    }),
    (Reason::DropNoBackend, |rig, ends| {
        let served = rig.serve(&direct(ends)).unwrap();
        rig.set_state(served.backends[0], BackendState::Down)
            .unwrap();
        syn(ends)
    }),
    (Reason::DropPortsExhausted, |rig, ends| {
        serve(rig, ends, Mode::FullNat, Some(ends.backend));
        syn(ends)
    }),
    (Reason::DropNoRoute, |rig, ends| {
        serve(rig, ends, Mode::Nat, Some(ends.lost));
        syn(ends)
    }),
    (Reason::DropNoNeighbour, |rig, ends| {
        serve(rig, ends, Mode::DsrL2, Some(ends.silent));
        syn(ends)
    }),
    (Reason::DropTooBig, |rig, ends| {
        serve(rig, ends, Mode::DsrIpip, Some(ends.same_port));
        rig.settings(|settings| settings.icmp_per_second = 0)
            .unwrap();
        ends.tcp()
            .payload(&vec![0; 1480 - header(ends)])
            .frame(&from_client())
    }),
    (Reason::DropTtlExpired, |rig, ends| {
        nat(rig, ends);
        ends.tcp().ttl(1).frame(&from_client())
    }),
    (Reason::DecapPassed, |rig, ends| {
        tunnel(rig, ends, &ends.tcp().bytes(), &[])
    }),
    (Reason::DropDecapBadInner, |rig, ends| {
        tunnel(rig, ends, &[0; 20], &[])
    }),
    (Reason::DropDecapFragment, |rig, ends| {
        tunnel(rig, ends, &[], &[]);
        let packet = outer(ends).payload(&ends.tcp().bytes());
        from_client().frame(&packet.fragments(24, 9)[1])
    }),
    (Reason::DropDecapNotAllowed, |rig, ends| {
        let only = DecapSource {
            // Neither family's outer source.
            addr: proxy_common::addr::Addr::v4([10, 0, 0, 1]),
            mask: proxy_common::addr::Addr::v6([0xff; 16]),
        };
        tunnel(rig, ends, &ends.tcp().bytes(), &[only])
    }),
];

/// The same for what IPv4 has not: extension headers, and backends that cannot carry it.
const ONLY_V6: &[(Reason, Provocation)] = &[
    (Reason::DropTruncatedExtension, |_, _| {
        let packet = V6
            .tcp()
            .extension(Extension::generic(protocol::HOP_BY_HOP, 0));
        let mut bytes = packet.bytes()[..42].to_vec();
        bytes[4..6].copy_from_slice(&[0, 2]);
        from_client().frame(&bytes)
    }),
    (Reason::DropTooManyExtensions, |_, ends| {
        let extension = Extension::generic(protocol::DESTINATION, 0);
        let packet = (0..9).fold(ends.tcp(), |packet, _| packet.extension(extension.clone()));
        packet.frame(&from_client())
    }),
    (Reason::DropFamily, |rig, ends| {
        let wanted = Wanted::tcp(ends.vip, Mode::DsrIpip).backend(V4.same_port);
        rig.serve(&wanted).unwrap();
        ends.tcp().syn().frame(&from_client())
    }),
];

/// Reasons that no frame of a test run of the balancer can bring about, and why.
const UNREACHABLE: &[(Reason, &str)] = &[
    (
        Reason::DropTruncatedEthernet,
        "provoked in `truncation`, by a frame whose first buffer is shorter than that",
    ),
    (
        Reason::ProbeAimed,
        "provoked in `probes`: no XDP program counts it",
    ),
    (
        Reason::DropHeadroom,
        "a test run always leaves 256 octets of headroom",
    ),
    (
        Reason::DropInternal,
        "it would be a fault of ours; the other suites assert its absence",
    ),
];

fn is_v6(ends: &Ends) -> bool {
    ends.vip.starts_with('[')
}

/// Octets of an IP header without options.
fn header(ends: &Ends) -> usize {
    if is_v6(ends) { 40 } else { 20 }
}

fn direct(ends: &Ends) -> Wanted {
    Wanted::tcp(ends.vip, Mode::DsrL2).backend(ends.same_port)
}

fn serve(rig: &mut Rig, ends: &Ends, mode: Mode, backend: Option<&str>) {
    let wanted = Wanted::tcp(ends.vip, mode);
    let wanted = match backend {
        Some(backend) => wanted.backend(backend),
        None => wanted,
    };
    rig.serve(&wanted).unwrap();
}

fn serve_udp(rig: &mut Rig, ends: &Ends) {
    rig.serve(&Wanted::udp(ends.vip, Mode::Nat).backend(ends.backend))
        .unwrap();
}

fn nat(rig: &mut Rig, ends: &Ends) {
    serve(rig, ends, Mode::Nat, Some(ends.backend));
}

fn syn(ends: &Ends) -> Vec<u8> {
    ends.tcp().syn().frame(&from_client())
}

fn error(ends: &Ends, quoted: &[u8]) -> Vec<u8> {
    let router = if is_v6(ends) {
        "2001:db8:99::1"
    } else {
        "198.18.0.1"
    };
    Packet::too_big(router, &ends.vip_address(), 1280, quoted).frame(&from_client())
}

/// A tunnel's packet, still empty.
fn outer(ends: &Ends) -> Packet {
    if is_v6(ends) {
        Packet::other("fd00:f::1", "fd00:1::2", protocol::IPV6)
    } else {
        Packet::other("172.16.0.1", "10.1.0.2", protocol::IPIP)
    }
}

fn tunnel(rig: &mut Rig, ends: &Ends, inner: &[u8], sources: &[DecapSource]) -> Vec<u8> {
    rig.program = program::DECAP;
    let mut settings = DecapSettings {
        gue_port: DEFAULT_GUE_PORT,
        sources: sources.len() as u16,
        ..DecapSettings::default()
    };
    settings.source[..sources.len()].copy_from_slice(sources);
    rig.set(DECAP_SETTINGS, 0, settings).unwrap();
    outer(ends).payload(inner).frame(&from_client())
}

/// Every family in which each provocation is to be seen.
fn provocations() -> impl Iterator<Item = (Reason, Ends, Provocation)> {
    let both = BOTH.into_iter().flat_map(|ends| {
        let all = PROVOCATIONS.iter();
        all.map(move |(reason, provoke)| (*reason, ends, *provoke))
    });
    let only_v6 = ONLY_V6.iter();
    both.chain(only_v6.map(|(reason, provoke)| (*reason, V6, *provoke)))
}

#[test]
fn each_reason_can_be_provoked_and_has_the_outcome_it_claims() {
    let mut failures = Vec::new();
    for (reason, ends, provoke) in provocations() {
        let mut rig = Rig::with(Sizes::default()).unwrap_or_else(|error| panic!("{error:#}"));
        let frame = provoke(&mut rig, &ends);
        let outcome = run(&mut rig, &frame);
        let found = outcome.reason();
        let fits = match reason.outcome() {
            Outcome::Pass => outcome.action == Action::Pass,
            Outcome::Drop => outcome.action == Action::Drop,
            Outcome::Forward => matches!(outcome.action, Action::Tx | Action::Redirect),
        };
        if found != reason || !fits {
            failures.push(format!(
                "{reason:?} to {}: found {found:?} with {:?}",
                ends.vip, outcome.action
            ));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn every_reason_is_provoked_or_its_absence_is_justified() {
    let provoked = |reason: &Reason| provocations().any(|(other, ..)| other == *reason);
    let justified = |reason: &Reason| UNREACHABLE.iter().any(|(other, _)| other == reason);
    for reason in Reason::ALL {
        assert!(
            provoked(reason) || justified(reason),
            "nothing provokes {reason:?}"
        );
        assert!(
            !(provoked(reason) && justified(reason)),
            "{reason:?} can be provoked after all"
        );
    }
}
