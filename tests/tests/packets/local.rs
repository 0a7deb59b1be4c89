//! `local`: this host's user space serves the VIP; the balancer polices, counts and passes.

use crate::common::{BOTH, refuse, rig, run};
use proxy_common::guard::{GuardRule, action};
use proxy_common::reason::Reason;
use proxy_common::service::{Mode, service_flags};
use proxy_tests::packet::rig::from_client;
use proxy_tests::packet::service::Wanted;

#[test]
fn packets_pass_unchanged_and_are_counted() {
    for ends in BOTH {
        let mut rig = rig();
        let served = rig.serve(&Wanted::tcp(ends.vip, Mode::Local)).unwrap();
        let packets = [ends.tcp().syn(), ends.tcp(), ends.tcp().fin()];
        let octets: usize = packets.iter().map(|packet| packet.bytes().len()).sum();
        for packet in &packets {
            refuse(&mut rig, &packet.frame(&from_client()), Reason::PassLocal);
        }
        let stats = rig.service_stats(served.id).unwrap();
        assert_eq!(stats.local_packets, 3);
        assert_eq!(stats.local_bytes, octets as u64);
        assert_eq!(stats.local_new_flows, 1);
    }
}

#[test]
fn the_guard_polices_local_services() {
    for ends in BOTH {
        let mut rig = rig();
        let wanted = Wanted::tcp(ends.vip, Mode::Local)
            .with(|service| service.flags = service_flags::GUARDED);
        let served = rig.serve(&wanted).unwrap();
        let prefix = if ends.vip.starts_with('[') {
            "2001:db8:c::/48"
        } else {
            "198.51.100.0/24"
        };
        let deny = GuardRule {
            action: action::DENY,
            ..GuardRule::default()
        };
        rig.set_guard(served.id, prefix, deny).unwrap();
        refuse(
            &mut rig,
            &ends.tcp().syn().frame(&from_client()),
            Reason::DropDenied,
        );
        assert_eq!(rig.service_stats(served.id).unwrap().dropped, 1);
    }
}

#[test]
fn a_budget_limits_local_services() {
    for ends in BOTH {
        let mut rig = rig();
        let wanted = Wanted::tcp(ends.vip, Mode::Local).with(|service| {
            service.flags = service_flags::BUDGET;
            service.budget_interval_ns = 3_600_000_000_000;
            service.budget_burst_ns = 3_600_000_000_000;
        });
        rig.serve(&wanted).unwrap();
        let reasons: Vec<Reason> = (0..4)
            .map(|n| {
                let client = ends.client.replace("40000", &format!("{}", 41_000 + n));
                run(
                    &mut rig,
                    &ends.tcp().from(&client).syn().frame(&from_client()),
                )
                .reason()
            })
            .collect();
        use Reason::{DropBudget, PassLocal};
        assert_eq!(reasons, [PassLocal, PassLocal, DropBudget, DropBudget]);
    }
}
