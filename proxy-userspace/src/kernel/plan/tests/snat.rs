//! Source addresses of full-nat.

use super::*;
use proxy_common::addr::Addr;
use std::net::IpAddr;

/// One full-nat service per list of source addresses.
fn full_nat(lists: &[&[&str]]) -> Config {
    let mut config = config(vec![], vec![]);
    for (i, list) in lists.iter().enumerate() {
        let name = format!("s{i}");
        config
            .listeners
            .push(listener(&name, &format!("192.0.2.{i}"), 80, &name));
        let mut service = service(&name, Mode::FullNat, &["10.0.0.1", "2001:db8::1"]);
        service.source_addresses = list.iter().map(|text| text.parse().unwrap()).collect();
        config.services.push(service);
    }
    config
}

/// The IPv4 and IPv6 sources of the n-th service.
fn sources(plan: &Plan, n: usize) -> (Vec<String>, Vec<String>) {
    let id = plan.ids.listener(&format!("s{n}")).unwrap().id;
    let service = plan
        .state
        .services
        .iter()
        .find(|(known, _)| *known == id)
        .unwrap()
        .1;
    let range = |first: u8, count: u8| {
        let at = |i: u8| {
            plan.state
                .snat_addrs
                .iter()
                .find(|(index, _)| *index == u32::from(i))
        };
        let addrs = (first..first + count).map(|i| IpAddr::from(at(i).unwrap().1).to_string());
        let mut addrs: Vec<String> = addrs.collect();
        addrs.sort();
        addrs
    };
    (
        range(service.snat4_first, service.snat4_count),
        range(service.snat6_first, service.snat6_count),
    )
}

fn index(plan: &Plan, text: &str) -> u32 {
    let addr = Addr::from(text.parse::<IpAddr>().unwrap());
    plan.state
        .snat_addrs
        .iter()
        .find(|(_, known)| *known == addr)
        .unwrap()
        .0
}

#[test]
fn each_family_of_a_service_has_a_contiguous_range() {
    let (_, plan) = fresh(&full_nat(&[
        &["198.51.100.1", "2001:db8:f::1", "198.51.100.2"],
        &["198.51.100.3"],
    ]));
    let strings = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| text.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        sources(&plan, 0),
        (
            strings(&["198.51.100.1", "198.51.100.2"]),
            strings(&["2001:db8:f::1"])
        )
    );
    assert_eq!(sources(&plan, 1), (strings(&["198.51.100.3"]), vec![]));
}

#[test]
fn sources_and_their_keys_come_before_the_services_that_use_them() {
    let (_, plan) = fresh(&full_nat(&[&["198.51.100.1"]]));
    let edits = outline(&plan.edits);
    let position = |text| {
        edits
            .find(text)
            .unwrap_or_else(|| panic!("no {text} in {edits}"))
    };
    assert!(position("source 0") < position("key 198.51.100.1:0: snat#0"));
    assert!(position("snat#0") < position("service 1"));
}

#[test]
fn services_share_addresses() {
    let (_, plan) = fresh(&full_nat(&[
        &["198.51.100.1", "198.51.100.3"],
        &["198.51.100.3", "198.51.100.2"],
        &["198.51.100.3"],
    ]));
    assert_eq!(plan.state.snat_addrs.len(), 3);
    for n in 0..3 {
        let config = full_nat(&[
            &["198.51.100.1", "198.51.100.3"],
            &["198.51.100.2", "198.51.100.3"],
            &["198.51.100.3"],
        ]);
        let wanted: Vec<String> = config.services[n]
            .source_addresses
            .iter()
            .map(|addr| addr.to_string())
            .collect();
        assert_eq!(sources(&plan, n).0, wanted);
    }
}

#[test]
fn an_address_keeps_its_place_while_others_come_and_go() {
    let (mut store, before) = fresh(&full_nat(&[&["198.51.100.1"], &["198.51.100.2"]]));
    let grown = full_nat(&[
        &["198.51.100.0", "198.51.100.1"],
        &["198.51.100.2"],
        &["198.51.100.9"],
    ]);
    let after = follow_on(&mut store, &grown, &Overlay::default());
    // The first service's range cannot grow where it is unless the other address moves, or its
    // own does: one of the two, not both.
    let kept =
        ["198.51.100.1", "198.51.100.2"].map(|addr| index(&before, addr) == index(&after, addr));
    assert_eq!(kept.iter().filter(|kept| **kept).count(), 1);

    let smaller = full_nat(&[&["198.51.100.0", "198.51.100.1"], &["198.51.100.9"]]);
    let last = follow_on(&mut store, &smaller, &Overlay::default());
    for addr in ["198.51.100.0", "198.51.100.1", "198.51.100.9"] {
        assert_eq!(index(&after, addr), index(&last, addr));
    }
    assert_eq!(last.state.snat_addrs.len(), 3);
    assert!(
        last.state
            .keys
            .iter()
            .all(|(key, _)| key.addr != Addr::v4([198, 51, 100, 2]))
    );
}

#[test]
fn a_place_that_was_just_left_is_taken_last() {
    let (mut store, _) = fresh(&full_nat(&[&["198.51.100.1"]]));
    let plan = follow_on(
        &mut store,
        &full_nat(&[&["198.51.100.2"]]),
        &Overlay::default(),
    );
    assert_eq!(index(&plan, "198.51.100.2"), 1);
}

#[test]
fn all_places_can_be_used_and_exchanged() {
    let eight = |from: u8| -> Vec<String> {
        (from..from + 8)
            .map(|n| format!("198.51.100.{n}"))
            .collect()
    };
    let of = |list: &[String]| full_nat(&[&list.iter().map(String::as_str).collect::<Vec<_>>()]);
    let (mut store, _) = fresh(&of(&eight(0)));
    let plan = follow_on(&mut store, &of(&eight(100)), &Overlay::default());
    assert_eq!(sources(&plan, 0).0, eight(100));
}

#[test]
fn lists_without_a_contiguous_order_are_refused() {
    let config = full_nat(&[
        &["198.51.100.1", "198.51.100.2"],
        &["198.51.100.2", "198.51.100.3"],
        &["198.51.100.3", "198.51.100.1"],
    ]);
    let errors = plan_on(
        &crate::kernel::fake::FakeStore::new(64),
        &config,
        &Overlay::default(),
    );
    assert_eq!(
        errors.unwrap_err(),
        PlanErrors(vec![PlanError::SnatOverlap])
    );
}
