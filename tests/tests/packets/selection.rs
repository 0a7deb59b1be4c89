//! How a new flow gets its backend.

use crate::common::{BOTH, Ends, rig, run};
use proxy_common::backend::BackendState;
use proxy_common::flow::FlowKey;
use proxy_common::hash::{ring_slot, selection_hash};
use proxy_common::maps;
use proxy_common::reason::Reason;
use proxy_common::service::{Mode, Selection, protocol};
use proxy_common::stats::LiveFlows;
use proxy_tests::packet::build::{Packet, socket};
use proxy_tests::packet::netns::backend;
use proxy_tests::packet::rig::{Rig, Sizes, from_client};
use proxy_tests::packet::service::{RING_SIZE, Served, Wanted};

fn serve(rig: &mut Rig, ends: &Ends, selection: Selection, weights: &[u16]) -> Served {
    let wanted =
        Wanted::tcp(ends.vip, Mode::DsrL2).with(|service| service.selection = selection.code());
    let wanted = (2u8..).zip(weights).fold(wanted, |wanted, (last, weight)| {
        let address = if ends.vip.starts_with('[') {
            format!("[fd00:1::{last}]:80")
        } else {
            format!("10.1.0.{last}:80")
        };
        wanted.weighted(&address, *weight)
    });
    rig.serve(&wanted).unwrap()
}

/// Index of the backend that a packet goes to.
#[track_caller]
fn chosen(rig: &mut Rig, packet: &Packet) -> usize {
    let outcome = run(rig, &packet.frame(&from_client()));
    assert_eq!(outcome.reason(), Reason::Direct);
    assert_eq!(outcome.frame[..5], backend(0)[..5]);
    usize::from(outcome.frame[5]) - 2
}

fn client(ends: &Ends, host: u16, port: u16) -> String {
    if ends.vip.starts_with('[') {
        format!("[2001:db8:c::{host:x}]:{port}")
    } else {
        format!("198.51.{}.{}:{port}", 100 + host / 250, host % 250 + 1)
    }
}

#[test]
fn maglev_uses_the_slot_that_user_space_computes() {
    for ends in BOTH {
        let mut rig = rig();
        serve(&mut rig, &ends, Selection::Maglev, &[1, 1, 1, 1, 1]);
        let seed = rig.current_settings().selection_seed;
        for n in 0..200 {
            let from = client(&ends, n, 1000 + n);
            let (src, dst) = (socket(&from), socket(ends.vip));
            let key = FlowKey::new(
                src.ip().into(),
                dst.ip().into(),
                src.port().to_be(),
                dst.port().to_be(),
                protocol::TCP,
            );
            // The test's rings give their slots to the backends in turn.
            let slot = ring_slot(selection_hash(&key, seed), RING_SIZE as u32) as usize;
            assert_eq!(chosen(&mut rig, &ends.tcp().from(&from).syn()), slot % 5);
        }
    }
}

#[test]
fn the_seed_changes_the_choice() {
    for ends in BOTH {
        let choices = |seed| {
            let mut rig = rig();
            serve(&mut rig, &ends, Selection::Maglev, &[1; 8]);
            rig.settings(|settings| settings.selection_seed = seed)
                .unwrap();
            (0..64)
                .map(|n| chosen(&mut rig, &ends.tcp().from(&client(&ends, n, 1000)).syn()))
                .collect::<Vec<_>>()
        };
        assert_eq!(choices(1), choices(1));
        assert_ne!(choices(1), choices(2));
    }
}

#[test]
fn weights_share_out_new_flows() {
    for ends in BOTH {
        let mut rig = rig();
        serve(&mut rig, &ends, Selection::Maglev, &[1, 3, 0]);
        let mut counts = [0; 3];
        for n in 0..2000 {
            counts[chosen(&mut rig, &ends.tcp().from(&client(&ends, n, 1000)).syn())] += 1;
        }
        assert_eq!(counts[2], 0, "weight 0 takes no new flows");
        assert!((400..600).contains(&counts[0]), "{counts:?}");
    }
}

#[test]
fn source_affinity_keeps_a_client_on_its_backend() {
    for ends in BOTH {
        let mut rig = rig();
        let served = serve(&mut rig, &ends, Selection::SourceAffinity, &[1, 1, 1]);
        let of = |rig: &mut Rig, host, port| {
            chosen(rig, &ends.tcp().from(&client(&ends, host, port)).syn())
        };
        let mut used = std::collections::HashSet::new();
        for host in 0..32 {
            let first = of(&mut rig, host, 1000);
            used.insert(first);
            for port in 1001..1006 {
                assert_eq!(of(&mut rig, host, port), first, "host {host}");
            }
        }
        assert_eq!(used.len(), 3, "clients are spread");
        // The ring no longer has the backend, but it still takes new flows: the client stays.
        let first = of(&mut rig, 0, 2000);
        let others: Vec<u16> = (0..3)
            .filter(|index| *index != first)
            .map(|index| served.backends[index])
            .collect();
        rig.only(served.id, &others).unwrap();
        assert_eq!(of(&mut rig, 0, 2001), first);
        // Draining takes no new flows: the client moves, and stays where it moved.
        rig.set_state(served.backends[first], BackendState::Draining)
            .unwrap();
        let second = of(&mut rig, 0, 2002);
        assert_ne!(second, first);
        rig.set_state(served.backends[first], BackendState::Up)
            .unwrap();
        rig.only(served.id, &served.backends).unwrap();
        assert_eq!(of(&mut rig, 0, 2003), second);
    }
}

#[test]
fn source_affinity_ends_with_its_timeout() {
    for ends in BOTH {
        let mut rig = rig();
        let served = serve(&mut rig, &ends, Selection::SourceAffinity, &[1, 1]);
        let of = |rig: &mut Rig, port| chosen(rig, &ends.tcp().from(&client(&ends, 5, port)).syn());
        let first = of(&mut rig, 1000);
        rig.only(served.id, &[served.backends[1 - first]]).unwrap();
        assert_eq!(of(&mut rig, 1001), first);
        rig.change_service(served.id, |service| service.affinity_ticks = 1)
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert_eq!(of(&mut rig, 1002), 1 - first);
    }
}

#[test]
fn two_choices_prefer_the_less_loaded() {
    for ends in BOTH {
        let mut rig = rig();
        let served = serve(&mut rig, &ends, Selection::TwoChoices, &[1, 1, 1, 1]);
        // One backend is far busier than the others: it only gets a flow if both choices name it.
        let busy = LiveFlows { count: 100_000 };
        rig.set(maps::LIVE_FLOWS, u32::from(served.backends[2]), busy)
            .unwrap();
        let mut counts = [0; 4];
        for n in 0..2000 {
            counts[chosen(&mut rig, &ends.tcp().from(&client(&ends, n, 1000)).syn())] += 1;
        }
        assert!(counts[2] < 2000 / 16 + 60, "{counts:?}");
        let (least, most) = (
            counts.iter().filter(|count| **count != counts[2]).min(),
            counts.iter().max(),
        );
        let (least, most) = (*least.unwrap(), *most.unwrap());
        assert!(
            most - least < 80,
            "the others are balanced closely: {counts:?}"
        );
    }
}

#[test]
fn two_choices_balance_better_than_chance() {
    for ends in BOTH {
        let spread = |selection| {
            // Room for every flow: one that gives way is no longer counted.
            let sizes = Sizes {
                sets_per_cpu: 512,
                ..Sizes::default()
            };
            let mut rig = Rig::with(sizes).unwrap();
            serve(&mut rig, &ends, selection, &[1; 8]);
            let mut counts = [0i32; 8];
            for n in 0..1600 {
                counts[chosen(&mut rig, &ends.tcp().from(&client(&ends, n, 1000)).syn())] += 1;
            }
            counts.iter().max().unwrap() - counts.iter().min().unwrap()
        };
        let (chance, choices) = (spread(Selection::Maglev), spread(Selection::TwoChoices));
        assert!(choices < chance, "two choices: {choices}, chance: {chance}");
        assert!(choices <= 20, "{choices}");
    }
}

#[test]
fn two_choices_weigh_the_load() {
    for ends in BOTH {
        let mut rig = rig();
        serve(&mut rig, &ends, Selection::TwoChoices, &[1, 4]);
        let mut counts = [0; 2];
        for n in 0..1000 {
            counts[chosen(&mut rig, &ends.tcp().from(&client(&ends, n, 1000)).syn())] += 1;
        }
        assert!((150..250).contains(&counts[0]), "{counts:?}");
    }
}
