//! Plans are judged by what they lead to: an interpreter of edits that refuses unsafe ones.

use super::*;
use crate::kernel::plan::Health;
use proxy_common::connect::Slot;

const WEB: &str = "
connect: {cgroups: [/]}
listeners:
  - {name: web, kind: l4, address: 192.0.2.10, port: 80, service: web}
  - {name: all, kind: l4, address: 192.0.2.11, port: all, service: plain}
  - {name: net, kind: l4, address: 198.51.100.0/24, port: 53, protocol: udp, service: dns}
services:
  - name: web
    backends: ['10.1.0.1:8080', {address: '10.1.0.2:8080', weight: 3}]
    at_connect: {on_backend_loss: reset}
  - {name: plain, mode: dsr-l2, backends: [10.1.0.3], at_connect: {without_backend: pass}}
  - name: dns
    selection: source-affinity
    backends: ['10.1.0.4:5353']
    at_connect: {}
";

fn config(text: &str) -> Config {
    let loaded = crate::config::parse("test", text);
    let loaded = loaded.unwrap_or_else(|errors| panic!("{}", errors.pretty(false)));
    loaded.config
}

fn drains(_: &str) -> Duration {
    Duration::from_secs(30)
}

/// The plan from some tables to a configuration, carried out step by step.
fn follow(from: &Tables, wanted: &Wanted, released: &[u32]) -> Plan {
    let released = released.iter().copied().collect();
    let plan = plan(wanted, from, &drains, &released).expect("it fits");
    let mut now = from.clone();
    for edit in &plan.edits {
        step(&mut now, edit);
    }
    assert_eq!(now, plan.tables);
    plan
}

/// What a map holds after a step; nothing may refer to what is not there.
fn step(now: &mut Tables, edit: &Edit) {
    match edit {
        Edit::Kinds(kinds) => now.kinds = *kinds,
        Edit::Name(id, name) => drop(now.services.insert(*id, (name.clone(), None))),
        Edit::Backend(number, backend) => {
            now.backends.insert(*number, *backend);
            now.epochs.insert(*number, backend.epoch);
        }
        Edit::Table(id, table) => {
            for slot in table[1..].iter().map(Slot::of) {
                for number in [slot.own, slot.alias] {
                    assert_eq!(now.backends[&number].state, state::UP, "{edit:?}");
                }
            }
            now.services.get_mut(id).expect("it has a name").1 = Some(table.clone());
        }
        Edit::Vip(key, id) => {
            assert!(now.services[id].1.is_some(), "{edit:?}");
            now.vips.insert(*key, *id);
        }
        Edit::Prefix(key, id) => {
            assert!(now.services[id].1.is_some(), "{edit:?}");
            now.prefixes.insert(*key, *id);
        }
        Edit::NoVip(key) => assert!(now.vips.remove(key).is_some()),
        Edit::NoPrefix(key) => assert!(now.prefixes.remove(key).is_some()),
        Edit::NoService(id) => {
            assert!(!now.vips.values().any(|service| service == id));
            assert!(!now.prefixes.values().any(|service| service == id));
            assert!(now.services.remove(id).is_some());
        }
        Edit::NoBackend(number, _) => {
            let tables = now
                .services
                .values()
                .filter_map(|(_, table)| table.as_ref());
            let mut slots = tables.flat_map(|table| table[1..].iter().map(Slot::of));
            assert!(!slots.any(|slot| slot.own == *number || slot.alias == *number));
            assert!(now.backends.remove(number).is_some());
        }
    }
}

fn begin(text: &str) -> (Config, Plan) {
    let config = config(text);
    let wanted = Wanted::of(&config, &Overlay::default());
    let plan = follow(&Tables::default(), &wanted, &[]);
    (config, plan)
}

fn members(tables: &Tables, name: &str) -> BTreeSet<Addr> {
    let mut services = tables.services.values();
    let (_, table) = services.find(|(known, _)| known == name).expect("known");
    let slots = table.as_ref().expect("built")[1..].iter().map(Slot::of);
    let ids: BTreeSet<u32> = slots.flat_map(|slot| [slot.own, slot.alias]).collect();
    ids.into_iter()
        .map(|id| tables.backends[&id].addr)
        .collect()
}

fn v4(last: u8) -> Addr {
    Addr::v4([10, 1, 0, last])
}

fn header(tables: &Tables, name: &str) -> Header {
    let mut services = tables.services.values();
    let (_, table) = services.find(|(known, _)| known == name).expect("known");
    Header::of(&table.as_ref().expect("built")[0])
}

#[test]
fn a_configuration_becomes_vips_tables_and_backends() {
    let (config, plan) = begin(WEB);
    let tables = &plan.tables;
    assert_eq!(tables.vips.len(), 2);
    let key = VipKey::new(Addr::v4([192, 0, 2, 10]), 80u16.to_be(), 6);
    let (name, _) = &tables.services[&tables.vips[&key]];
    assert_eq!(name, "web");
    let all = VipKey::new(Addr::v4([192, 0, 2, 11]), 0, 6);
    assert!(tables.vips.contains_key(&all));
    let (prefix, _) = tables.prefixes.first_key_value().expect("one");
    assert_eq!((prefix.bits, prefix.key.protocol), (32 + 96 + 24, 17));
    let wanted = kinds::PORT | kinds::ALL_PORTS | kinds::PREFIX_PORT;
    assert_eq!(tables.kinds, wanted);
    assert_eq!(members(tables, "web"), BTreeSet::from([v4(1), v4(2)]));
    assert_eq!(header(tables, "web").flags, flag::TELL);
    assert_eq!(header(tables, "plain").flags, flag::PASS);
    assert_eq!(header(tables, "dns").flags, flag::AFFINITY);
    assert!(!tables.backends.contains_key(&0), "number 0 is nobody");
    let watched = WEB.replace(
        "    at_connect: {on_backend_loss: reset}",
        "    at_connect: {}\n    outlier: {network: {}}",
    );
    let (_, plan) = begin(&watched);
    assert_eq!(header(&plan.tables, "web").flags, flag::WATCH);
    let again = follow(tables, &Wanted::of(&config, &Overlay::default()), &[]);
    assert_eq!(again.edits, []);
}

#[test]
fn a_backend_that_is_down_drains_or_weighs_nothing_takes_no_new_sockets() {
    let (config, plan) = begin(WEB);
    type Change = fn(&mut Overlay);
    let changes: [(Change, bool); 4] = [
        (
            |it| it.entry("web", "10.1.0.1:8080").health = Health::Down,
            true,
        ),
        (
            |it| it.entry("web", "10.1.0.1:8080").drain = Drain::Draining,
            false,
        ),
        (|it| it.entry("web", "10.1.0.1:8080").ejected = true, false),
        (
            |it| it.entry("web", "10.1.0.1:8080").weight = Some(0),
            false,
        ),
    ];
    for (change, is_loss) in changes {
        let mut overlay = Overlay::default();
        change(&mut overlay);
        let next = follow(&plan.tables, &Wanted::of(&config, &overlay), &[]);
        assert_eq!(members(&next.tables, "web"), BTreeSet::from([v4(2)]));
        let lost: Vec<Addr> = next.lost.iter().map(|(_, backend)| backend.addr).collect();
        assert_eq!(lost, if is_loss { vec![v4(1)] } else { vec![] });
        // What is down is lost once.
        let again = follow(&next.tables, &Wanted::of(&config, &overlay), &[]);
        assert_eq!((again.edits, again.lost), (vec![], vec![]));
    }
}

#[test]
fn without_backends_the_table_is_empty_and_stays() {
    let (config, plan) = begin(WEB);
    let mut overlay = Overlay::default();
    overlay.entry("plain", "10.1.0.3").health = Health::Down;
    let next = follow(&plan.tables, &Wanted::of(&config, &overlay), &[]);
    assert_eq!(header(&next.tables, "plain").slots, 0);
    assert_eq!(next.tables.vips.len(), 2);
    assert_eq!(next.lost, [], "nobody is to be told");
}

#[test]
fn a_backend_that_leaves_drains_and_is_lost_when_that_is_over() {
    let (_, plan) = begin(WEB);
    let smaller = config(&WEB.replace("['10.1.0.1:8080', ", "["));
    let wanted = Wanted::of(&smaller, &Overlay::default());
    let next = follow(&plan.tables, &wanted, &[]);
    assert_eq!(members(&next.tables, "web"), BTreeSet::from([v4(2)]));
    let [(number, time)] = next.retiring[..] else {
        panic!("{:?}", next.retiring)
    };
    assert_eq!(time, Duration::from_secs(30));
    assert_eq!(next.tables.backends[&number].state, state::DRAINING);
    assert_eq!(next.lost, []);
    let over = follow(&next.tables, &wanted, &[number]);
    assert_eq!(over.lost.len(), 1);
    assert!(!over.tables.backends.contains_key(&number));
    // Whoever gets its number next is somebody else.
    let (larger, _) = begin(WEB);
    let back = follow(&over.tables, &Wanted::of(&larger, &Overlay::default()), &[]);
    let before = plan.tables.backends[&number];
    assert!(back.tables.backends[&number].epoch > before.epoch);
}

#[test]
fn a_backend_that_comes_back_while_it_drains_keeps_its_number() {
    let (larger, plan) = begin(WEB);
    let smaller = config(&WEB.replace("['10.1.0.1:8080', ", "["));
    let next = follow(
        &plan.tables,
        &Wanted::of(&smaller, &Overlay::default()),
        &[],
    );
    let back = follow(&next.tables, &Wanted::of(&larger, &Overlay::default()), &[]);
    assert_eq!(back.tables, plan.tables);
}

#[test]
fn a_service_that_goes_takes_everything_with_it_and_tells_nobody() {
    let (_, plan) = begin(WEB);
    let rest = WEB.replace("at_connect: {on_backend_loss: reset}", "ring_size: 65537");
    let rest = config(&format!("l4: {{interfaces: [eth0]}}{rest}"));
    let next = follow(&plan.tables, &Wanted::of(&rest, &Overlay::default()), &[]);
    assert_eq!(next.tables.services.len(), 2);
    assert_eq!(next.tables.backends.len(), 2);
    assert_eq!(next.tables.vips.len(), 1);
    assert_eq!(next.tables.kinds, kinds::ALL_PORTS | kinds::PREFIX_PORT);
    assert_eq!(next.lost, []);
}

#[test]
fn tables_that_are_not_known_are_written_and_the_rest_is_kept() {
    let (config, plan) = begin(WEB);
    let mut adopted = plan.tables.clone();
    for (_, table) in adopted.services.values_mut() {
        *table = None;
    }
    let next = follow(&adopted, &Wanted::of(&config, &Overlay::default()), &[]);
    let is_table = |edit: &Edit| matches!(edit, Edit::Table(..));
    assert!(next.edits.iter().all(is_table), "{:?}", next.edits);
    assert_eq!(next.edits.len(), 3);
}

#[test]
fn what_was_up_before_a_restart_and_is_down_now_is_lost() {
    let (config, plan) = begin(WEB);
    let mut overlay = Overlay::default();
    overlay.entry("web", "10.1.0.2:8080").health = Health::Down;
    let next = follow(&plan.tables, &Wanted::of(&config, &overlay), &[]);
    assert_eq!(next.lost.len(), 1);
}

#[test]
fn prefixes_of_the_families_are_told_apart() {
    let vip = |prefix: &str| Vip {
        prefix: prefix.parse().expect("a prefix"),
        port: 80,
        protocol: 6,
    };
    let (v4, v6) = (
        vip("192.0.2.0/24").prefix_key(),
        vip("2001:db8::/32").prefix_key(),
    );
    assert_eq!((v4.bits, v4.key.family), (32 + 120, 4));
    assert_eq!((v6.bits, v6.key.family), (32 + 32, 6));
    assert_eq!(vip("::/0").prefix_key().key.family, 6);
}

#[test]
fn any_sequence_of_changes_is_followed_safely() {
    let all: Vec<u32> = (1..=9).collect();
    let mut random = fastrand::Rng::with_seed(7);
    let mut tables = Tables::default();
    for _ in 0..500 {
        let services: Vec<String> = (0..random.usize(0..4))
            .map(|index| {
                let backends: Vec<String> = (0..random.u8(1..5))
                    .map(|_| {
                        let (last, weight) = (random.u8(1..9), random.u8(0..4));
                        (last, weight)
                    })
                    .collect::<std::collections::BTreeMap<_, _>>()
                    .into_iter()
                    .map(|(last, weight)| {
                        format!(
                            "{{address: '10.{index}.0.{last}:80', weight: {}}}",
                            weight + 1
                        )
                    })
                    .collect();
                format!(
                    "  - {{name: s{index}, backends: [{}], at_connect: {{}}}}",
                    backends.join(", ")
                )
            })
            .collect();
        let listeners: Vec<String> = (0..services.len())
            .map(|index| {
                format!(
                    "  - {{name: l{index}, kind: l4, address: 192.0.2.{}, port: 80, service: s{index}}}",
                    index + 1
                )
            })
            .collect();
        let wanted = if services.is_empty() {
            Wanted::default()
        } else {
            let text = format!(
                "connect: {{cgroups: [/]}}\nlisteners:\n{}\nservices:\n{}\n",
                listeners.join("\n"),
                services.join("\n")
            );
            Wanted::of(&config(&text), &Overlay::default())
        };
        let released: Vec<u32> = all.iter().filter(|_| random.bool()).copied().collect();
        tables = follow(&tables, &wanted, &released).tables;
    }
}
