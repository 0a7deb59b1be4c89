//! Every reason can be provoked: one frame and one world per reason, and a test that walks
//! [`Reason::ALL`] and fails for a reason that nobody provokes.

use crate::common::{V4, V6, run};
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
type Provocation = fn(&mut Rig) -> Vec<u8>;

/// How each reason comes about.
const PROVOCATIONS: &[(Reason, Provocation)] = &[
    (Reason::PassNotIp, |_| {
        from_client().frame_of(ethertype::ARP, &[0; 28])
    }),
    (Reason::PassNotService, |rig| {
        nat(rig);
        Packet::tcp(V4.client, "192.0.2.1:22").frame(&from_client())
    }),
    (Reason::PassLocal, |rig| {
        serve(rig, Mode::Local, None);
        syn()
    }),
    (Reason::PassProtocol, |rig| {
        nat(rig);
        Packet::other(&V4.client_address(), &V4.vip_address(), protocol::SCTP).frame(&from_client())
    }),
    (Reason::PassNoFlow, |rig| {
        nat(rig);
        Packet::tcp(V4.backend, V4.client).frame(&from_backend(2))
    }),
    (Reason::PassResolve, |rig| {
        serve(rig, Mode::Nat, Some(V4.silent));
        syn()
    }),
    (Reason::Encapsulated, |rig| {
        serve(rig, Mode::DsrIpip, Some(V4.same_port));
        syn()
    }),
    (Reason::Translated, |rig| {
        nat(rig);
        syn()
    }),
    (Reason::Returned, |rig| {
        nat(rig);
        run(rig, &syn());
        Packet::tcp(V4.backend, V4.client).frame(&from_backend(2))
    }),
    (Reason::Direct, |rig| {
        serve(rig, Mode::DsrL2, Some(V4.same_port));
        syn()
    }),
    (Reason::EchoReply, |rig| {
        nat(rig);
        Packet::echo(&V4.client_address(), &V4.vip_address()).frame(&from_client())
    }),
    (Reason::IcmpError, |rig| {
        nat(rig);
        run(rig, &syn());
        error(&Packet::tcp(V4.vip, V4.client).bytes())
    }),
    (Reason::TooBigReply, |rig| {
        serve(rig, Mode::DsrIpip, Some(V4.same_port));
        V4.tcp().payload(&[0; 1460]).frame(&from_client())
    }),
    (Reason::FragmentForwarded, |rig| {
        serve_udp(rig);
        let fragments = V4.udp().payload(&[0; 100]).fragments(64, 1);
        run(rig, &from_client().frame(&fragments[0]));
        from_client().frame(&fragments[1])
    }),
    (Reason::DropTruncatedVlan, |_| {
        from_client().frame_of(ethertype::VLAN, &[0])
    }),
    (Reason::DropTruncatedIp, |_| {
        from_client().frame(&V4.tcp().bytes()[..19])
    }),
    (Reason::DropBadIpHeader, |_| {
        let mut frame = V4.tcp().frame(&from_client());
        frame[14] = 0x44;
        frame
    }),
    (Reason::DropBadIpLength, |_| {
        from_client().frame(&V4.tcp().bytes()[..40])
    }),
    (Reason::DropTruncatedExtension, |_| {
        let packet = V6
            .tcp()
            .extension(Extension::generic(protocol::HOP_BY_HOP, 0));
        let mut bytes = packet.bytes()[..42].to_vec();
        bytes[4..6].copy_from_slice(&[0, 2]);
        from_client().frame(&bytes)
    }),
    (Reason::DropTooManyExtensions, |_| {
        let extension = Extension::generic(protocol::DESTINATION, 0);
        let packet = (0..9).fold(V6.tcp(), |packet, _| packet.extension(extension.clone()));
        packet.frame(&from_client())
    }),
    (Reason::DropTruncatedTransport, |_| {
        let packet = Packet::other(&V4.client_address(), &V4.vip_address(), protocol::TCP);
        packet.payload(&[0; 8]).frame(&from_client())
    }),
    (Reason::DropBadTransport, |_| {
        let mut frame = V4.tcp().frame(&from_client());
        frame[34 + 12] = 0x40;
        frame
    }),
    (Reason::DropTruncatedQuote, |rig| {
        nat(rig);
        error(&Packet::tcp(V4.vip, V4.client).bytes()[..27])
    }),
    (Reason::DropFragmentUnknown, |rig| {
        serve_udp(rig);
        from_client().frame(&V4.udp().payload(&[0; 100]).fragments(64, 1)[1])
    }),
    (Reason::DropDenied, |rig| {
        let wanted = direct().with(|service| service.flags = service_flags::GUARDED);
        let served = rig.serve(&wanted).unwrap();
        let deny = GuardRule {
            action: action::DENY,
            ..GuardRule::default()
        };
        rig.set_guard(served.id, "198.51.100.0/24", deny).unwrap();
        syn()
    }),
    (Reason::DropNotAllowed, |rig| {
        rig.serve(&direct().with(|service| service.flags = ALLOW_LIST))
            .unwrap();
        syn()
    }),
    (Reason::DropBudget, |rig| {
        let wanted = direct().with(|service| {
            service.flags = service_flags::BUDGET;
            service.budget_interval_ns = 3_600_000_000_000;
        });
        rig.serve(&wanted).unwrap();
        run(rig, &syn());
        let other = V4.client.replace("40000", "40001");
        V4.tcp().from(&other).syn().frame(&from_client())
    }),
    (Reason::DropNoBackend, |rig| {
        let served = rig.serve(&direct()).unwrap();
        rig.set_state(served.backends[0], BackendState::Down)
            .unwrap();
        syn()
    }),
    (Reason::DropPortsExhausted, |rig| {
        serve(rig, Mode::FullNat, Some(V4.backend));
        syn()
    }),
    (Reason::DropNoRoute, |rig| {
        serve(rig, Mode::Nat, Some(V4.lost));
        syn()
    }),
    (Reason::DropNoNeighbour, |rig| {
        serve(rig, Mode::DsrL2, Some(V4.silent));
        syn()
    }),
    (Reason::DropTooBig, |rig| {
        serve(rig, Mode::DsrIpip, Some(V4.same_port));
        rig.settings(|settings| settings.icmp_per_second = 0)
            .unwrap();
        V4.tcp().payload(&[0; 1460]).frame(&from_client())
    }),
    (Reason::DropTtlExpired, |rig| {
        nat(rig);
        V4.tcp().ttl(1).frame(&from_client())
    }),
    (Reason::DropFamily, |rig| {
        let wanted = Wanted::tcp(V6.vip, Mode::DsrIpip).backend(V4.same_port);
        rig.serve(&wanted).unwrap();
        V6.tcp().syn().frame(&from_client())
    }),
    (Reason::DecapPassed, |rig| {
        tunnel(rig, protocol::IPIP, &V4.tcp().bytes(), &[])
    }),
    (Reason::DropDecapBadInner, |rig| {
        tunnel(rig, protocol::IPIP, &[0; 20], &[])
    }),
    (Reason::DropDecapFragment, |rig| {
        tunnel(rig, protocol::IPIP, &[], &[]);
        let packet = Packet::other("172.16.0.1", "10.1.0.2", protocol::IPIP);
        from_client().frame(&packet.payload(&V4.tcp().bytes()).fragments(24, 9)[1])
    }),
    (Reason::DropDecapNotAllowed, |rig| {
        let only = DecapSource {
            addr: proxy_common::addr::Addr::v4([10, 0, 0, 1]),
            mask: proxy_common::addr::Addr::v6([0xff; 16]),
        };
        tunnel(rig, protocol::IPIP, &V4.tcp().bytes(), &[only])
    }),
];

/// Reasons that no frame of a test run of the balancer can bring about, and why.
const UNREACHABLE: &[(Reason, &str)] = &[
    (
        Reason::DropTruncatedEthernet,
        "provoked in `truncation`, by a frame whose first buffer is shorter than that",
    ),
    (
        Reason::ProbeSteered,
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

fn direct() -> Wanted {
    Wanted::tcp(V4.vip, Mode::DsrL2).backend(V4.same_port)
}

fn serve(rig: &mut Rig, mode: Mode, backend: Option<&str>) {
    let wanted = Wanted::tcp(V4.vip, mode);
    let wanted = match backend {
        Some(backend) => wanted.backend(backend),
        None => wanted,
    };
    rig.serve(&wanted).unwrap();
}

fn serve_udp(rig: &mut Rig) {
    rig.serve(&Wanted::udp(V4.vip, Mode::Nat).backend(V4.backend))
        .unwrap();
}

fn nat(rig: &mut Rig) {
    serve(rig, Mode::Nat, Some(V4.backend));
}

fn syn() -> Vec<u8> {
    V4.tcp().syn().frame(&from_client())
}

fn error(quoted: &[u8]) -> Vec<u8> {
    Packet::too_big("198.18.0.1", &V4.vip_address(), 1280, quoted).frame(&from_client())
}

fn tunnel(rig: &mut Rig, next: u8, inner: &[u8], sources: &[DecapSource]) -> Vec<u8> {
    rig.program = program::DECAP;
    let mut settings = DecapSettings {
        gue_port: DEFAULT_GUE_PORT,
        sources: sources.len() as u16,
        ..DecapSettings::default()
    };
    settings.source[..sources.len()].copy_from_slice(sources);
    rig.set(DECAP_SETTINGS, 0, settings).unwrap();
    Packet::other("172.16.0.1", "10.1.0.2", next)
        .payload(inner)
        .frame(&from_client())
}

#[test]
fn each_reason_can_be_provoked_and_has_the_outcome_it_claims() {
    let mut failures = Vec::new();
    for (reason, provoke) in PROVOCATIONS {
        let mut rig = Rig::with(Sizes::default()).unwrap_or_else(|error| panic!("{error:#}"));
        let frame = provoke(&mut rig);
        let outcome = run(&mut rig, &frame);
        let found = outcome.reason();
        let fits = match reason.outcome() {
            Outcome::Pass => outcome.action == Action::Pass,
            Outcome::Drop => outcome.action == Action::Drop,
            Outcome::Forward => matches!(outcome.action, Action::Tx | Action::Redirect),
        };
        if found != *reason || !fits {
            failures.push(format!(
                "{reason:?}: found {found:?} with {:?}",
                outcome.action
            ));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn every_reason_is_provoked_or_its_absence_is_justified() {
    let provoked = |reason: &Reason| PROVOCATIONS.iter().any(|(other, _)| other == reason);
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
