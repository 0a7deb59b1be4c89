//! The guard: allow and deny lists per service and for all, expiry, budgets.

use crate::common::{BOTH, Ends, refuse, rig, run};
use nix::time::{ClockId, clock_gettime};
use proxy_common::guard::{GuardRule, action};
use proxy_common::reason::Reason;
use proxy_common::service::{Mode, service_flags};
use proxy_common::settings::settings_flags;
use proxy_tests::packet::rig::{Rig, from_client};
use proxy_tests::packet::service::{ALLOW_LIST, Served, Wanted};

/// Prefixes around the client, from wide to narrow.
fn prefixes(ends: &Ends) -> [&'static str; 3] {
    if ends.vip.starts_with('[') {
        ["2001:db8::/32", "2001:db8:c::/48", "2001:db8:c::7/128"]
    } else {
        ["198.51.0.0/16", "198.51.100.0/24", "198.51.100.7/32"]
    }
}

fn serve(rig: &mut Rig, ends: &Ends, flags: u32) -> Served {
    let wanted = Wanted::tcp(ends.vip, Mode::DsrL2)
        .backend(ends.same_port)
        .with(|service| service.flags = flags);
    rig.serve(&wanted).unwrap()
}

const fn rule(action: u8) -> GuardRule {
    GuardRule {
        expires_ns: 0,
        action,
        fallback: 0,
        owner: 1,
        cause: 1,
        _pad: [0; 4],
    }
}

/// Reason of a new flow's first packet.
fn verdict(rig: &mut Rig, ends: &Ends, port: u16) -> Reason {
    let client = ends.client.replace("40000", &port.to_string());
    run(rig, &ends.tcp().from(&client).syn().frame(&from_client())).reason()
}

fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

#[test]
fn the_longest_prefix_decides() {
    for ends in BOTH {
        let mut rig = rig();
        let served = serve(&mut rig, &ends, service_flags::GUARDED);
        assert_eq!(verdict(&mut rig, &ends, 1), Reason::Direct);
        let [wide, middle, narrow] = prefixes(&ends);
        let steps = [
            (wide, action::DENY, Reason::DropDenied),
            (middle, action::ALLOW, Reason::Direct),
            (narrow, action::DENY, Reason::DropDenied),
        ];
        for (port, (prefix, what, expected)) in (2..).zip(steps) {
            rig.set_guard(served.id, prefix, rule(what)).unwrap();
            assert_eq!(verdict(&mut rig, &ends, port), expected, "{prefix}");
        }
    }
}

#[test]
fn an_allow_list_refuses_everybody_else() {
    for ends in BOTH {
        let mut rig = rig();
        let served = serve(&mut rig, &ends, ALLOW_LIST);
        assert_eq!(verdict(&mut rig, &ends, 1), Reason::DropNotAllowed);
        rig.set_guard(served.id, prefixes(&ends)[1], rule(action::ALLOW))
            .unwrap();
        assert_eq!(verdict(&mut rig, &ends, 2), Reason::Direct);
        assert_eq!(rig.service_stats(served.id).unwrap().dropped, 1);
    }
}

#[test]
fn global_rules_hold_where_the_service_has_none() {
    for ends in BOTH {
        let mut rig = rig();
        let served = serve(&mut rig, &ends, service_flags::GUARDED);
        let [wide, middle, _] = prefixes(&ends);
        rig.set_guard(0, middle, rule(action::DENY)).unwrap();
        assert_eq!(
            verdict(&mut rig, &ends, 1),
            Reason::Direct,
            "the flag is not yet set"
        );
        rig.settings(|settings| settings.flags |= settings_flags::GUARD_GLOBAL)
            .unwrap();
        assert_eq!(verdict(&mut rig, &ends, 2), Reason::DropDenied);
        // The service's own rule comes first, however wide.
        rig.set_guard(served.id, wide, rule(action::ALLOW)).unwrap();
        assert_eq!(verdict(&mut rig, &ends, 3), Reason::Direct);
    }
}

#[test]
fn a_global_allow_is_no_place_on_an_allow_list() {
    for ends in BOTH {
        let mut rig = rig();
        serve(&mut rig, &ends, ALLOW_LIST);
        rig.set_guard(0, prefixes(&ends)[0], rule(action::ALLOW))
            .unwrap();
        rig.settings(|settings| settings.flags |= settings_flags::GUARD_GLOBAL)
            .unwrap();
        assert_eq!(verdict(&mut rig, &ends, 1), Reason::DropNotAllowed);
    }
}

#[test]
fn an_expired_rule_gives_way_to_its_fallback() {
    for ends in BOTH {
        let mut rig = rig();
        let served = serve(&mut rig, &ends, service_flags::GUARDED);
        let [_, middle, narrow] = prefixes(&ends);
        rig.set_guard(served.id, middle, rule(action::ALLOW))
            .unwrap();
        let future = now_ns() + 3_600_000_000_000;
        for (port, expires_ns, fallback, expected) in [
            (1, future, action::ALLOW, Reason::DropDenied),
            (2, 1, action::ALLOW, Reason::Direct),
            (3, 1, action::NONE, Reason::Direct),
            (4, 1, action::DENY, Reason::DropDenied),
        ] {
            let rule = GuardRule {
                expires_ns,
                fallback,
                ..rule(action::DENY)
            };
            rig.set_guard(served.id, narrow, rule).unwrap();
            assert_eq!(verdict(&mut rig, &ends, port), expected, "{rule:?}");
        }
    }
}

#[test]
fn known_flows_are_judged_again_when_the_rules_change() {
    for ends in BOTH {
        let mut rig = rig();
        let served = serve(&mut rig, &ends, service_flags::GUARDED);
        let packet = ends.tcp().frame(&from_client());
        assert_eq!(run(&mut rig, &packet).reason(), Reason::Direct);
        rig.set_guard(served.id, prefixes(&ends)[2], rule(action::DENY))
            .unwrap();
        // Without a new generation nobody looks.
        assert_eq!(run(&mut rig, &packet).reason(), Reason::Direct);
        rig.settings(|settings| settings.guard_generation += 1)
            .unwrap();
        refuse(&mut rig, &packet, Reason::DropDenied);
        // Pardoned: the flow is still known.
        rig.set_guard(served.id, prefixes(&ends)[2], rule(action::ALLOW))
            .unwrap();
        rig.settings(|settings| settings.guard_generation += 1)
            .unwrap();
        assert_eq!(run(&mut rig, &packet).reason(), Reason::Direct);
        assert_eq!(rig.backend_stats(served.backends[0]).unwrap().entered, 1);
    }
}

#[test]
fn a_budget_lets_the_burst_through_and_then_the_rate() {
    for ends in BOTH {
        let mut rig = rig();
        // One flow an hour, four at once.
        let hour = 3_600_000_000_000;
        let wanted = Wanted::tcp(ends.vip, Mode::DsrL2)
            .backend(ends.same_port)
            .with(|service| {
                service.flags = service_flags::BUDGET;
                service.budget_interval_ns = hour;
                service.budget_burst_ns = 3 * hour;
            });
        let served = rig.serve(&wanted).unwrap();
        let reasons: Vec<Reason> = (1..=6).map(|port| verdict(&mut rig, &ends, port)).collect();
        use Reason::{Direct, DropBudget};
        assert_eq!(
            reasons,
            [Direct, Direct, Direct, Direct, DropBudget, DropBudget]
        );
        // Known flows cost nothing, and another source has a budget of its own.
        let client = ends.client.replace("40000", "1");
        for _ in 0..10 {
            let frame = ends.tcp().from(&client).frame(&from_client());
            assert_eq!(run(&mut rig, &frame).reason(), Direct);
        }
        let other = if ends.vip.starts_with('[') {
            "[2001:db8:c::8]:9"
        } else {
            "198.51.100.8:9"
        };
        let frame = ends.tcp().from(other).syn().frame(&from_client());
        assert_eq!(run(&mut rig, &frame).reason(), Direct);
        assert_eq!(rig.service_stats(served.id).unwrap().dropped, 2);
    }
}

#[test]
fn a_denied_source_may_not_send_errors_but_a_router_may() {
    for ends in BOTH {
        let mut rig = rig();
        let served = serve(&mut rig, &ends, ALLOW_LIST);
        rig.set_guard(served.id, prefixes(&ends)[1], rule(action::ALLOW))
            .unwrap();
        run(&mut rig, &ends.tcp().syn().frame(&from_client()));
        let (router, around) = if ends.vip.starts_with('[') {
            ("2001:db8:99::1", "2001:db8:99::/48")
        } else {
            ("198.18.0.1", "198.18.0.0/15")
        };
        let sent = proxy_tests::packet::build::Packet::tcp(ends.vip, ends.client).bytes();
        let error =
            proxy_tests::packet::build::Packet::too_big(router, &ends.vip_address(), 1280, &sent);
        let frame = error.frame(&from_client());
        assert_eq!(run(&mut rig, &frame).reason(), Reason::IcmpError);
        rig.set_guard(served.id, around, rule(action::DENY))
            .unwrap();
        refuse(&mut rig, &frame, Reason::DropDenied);
    }
}
