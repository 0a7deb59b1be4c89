//! Random sequences of configurations and facts, with the invariants checked after every edit and
//! an interruption now and then.

use super::*;
use crate::kernel::apply::apply;
use crate::types::Protocol;
use proptest::prelude::*;
use proptest::sample::select;
use proxy_common::guard::{GuardRule, action, owner};
use proxy_common::service::Selection;

/// What one step of a sequence is made from.
#[derive(Clone, Debug)]
struct Step {
    services: Vec<Shape>,
    listeners: Vec<(usize, usize, usize)>,
    /// Service, backend, health, drain, weight.
    facts: Vec<(usize, usize, bool, u8, Option<u16>)>,
    /// Operators' rules written before this step.
    rules: Vec<(u8, u8, u64)>,
    drains_removed: bool,
    /// Edits after which the plan is interrupted.
    interruption: Option<usize>,
}

#[derive(Clone, Debug)]
struct Shape {
    mode: Mode,
    selection: Selection,
    ring_size: u32,
    backends: Vec<(usize, u16)>,
    sources: Vec<usize>,
}

const SERVERS: [&str; 6] = [
    "10.0.0.1",
    "10.0.0.2",
    "10.0.0.3",
    "2001:db8::1",
    "2001:db8::2",
    "10.0.0.4",
];
const VIPS: [&str; 5] = [
    "192.0.2.1",
    "192.0.2.2",
    "2001:db8:f::1",
    "203.0.113.0/24",
    "2001:db8:e::/48",
];
const PORTS: [u16; 3] = [80, 443, 0];
const SOURCES: [&str; 3] = ["198.51.100.1", "198.51.100.2", "2001:db8:5::1"];
const NETS: [&str; 5] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.3/32",
    "::/0",
];

fn shape() -> impl Strategy<Value = Shape> {
    let modes = select(Mode::ALL.to_vec());
    let selections = select(vec![
        Selection::Maglev,
        Selection::SourceAffinity,
        Selection::TwoChoices,
    ]);
    let backends = proptest::collection::btree_map(0..SERVERS.len(), 0u16..4, 0..5);
    let sources = proptest::collection::btree_set(0..SOURCES.len(), 1..3);
    (
        modes,
        selections,
        select(vec![7u32, 31, 61]),
        backends,
        sources,
    )
        .prop_map(|(mode, selection, ring_size, backends, sources)| Shape {
            mode,
            selection,
            ring_size,
            backends: backends.into_iter().collect(),
            sources: sources.into_iter().collect(),
        })
}

fn step() -> impl Strategy<Value = Step> {
    let listener = (0..VIPS.len(), 0..PORTS.len(), 0usize..3);
    (
        proptest::collection::vec(shape(), 3),
        proptest::collection::vec(listener, 0..6),
        proptest::collection::vec(
            (
                0usize..3,
                0..SERVERS.len(),
                any::<bool>(),
                0u8..3,
                proptest::option::of(0u16..3),
            ),
            0..4,
        ),
        proptest::collection::vec((0u8..4, 0..NETS.len() as u8, 0u64..3), 0..2),
        any::<bool>(),
        proptest::option::weighted(0.4, 0usize..30),
    )
        .prop_map(
            |(services, listeners, facts, rules, drains_removed, interruption)| Step {
                services,
                listeners,
                facts,
                rules,
                drains_removed,
                interruption,
            },
        )
}

impl Step {
    fn config(&self) -> Config {
        let mut services = Vec::new();
        for (i, shape) in self.services.iter().enumerate() {
            let mut service = service(&format!("s{i}"), shape.mode, &[]);
            service.selection = shape.selection;
            service.ring_size = shape.ring_size;
            if shape.mode != Mode::Local {
                let backends = shape.backends.iter();
                service.backends = backends
                    .map(|&(server, weight)| backend(SERVERS[server], weight))
                    .collect();
            }
            if shape.mode == Mode::FullNat {
                service.source_addresses = shape
                    .sources
                    .iter()
                    .map(|&i| SOURCES[i].parse().unwrap())
                    .collect();
            }
            services.push(service);
        }
        let mut listeners: Vec<crate::config::model::Listener> = Vec::new();
        for (n, &(vip, port, of)) in self.listeners.iter().enumerate() {
            let mut new = listener(&format!("l{n}"), VIPS[vip], PORTS[port], &format!("s{of}"));
            if n % 3 == 1 {
                new.protocol = Protocol::Udp;
            }
            if n % 3 == 2 {
                new.guard.allow = vec![NETS[(vip + port) % NETS.len()].parse().unwrap()];
            }
            let place = |l: &crate::config::model::Listener| (l.vip, l.port, l.protocol);
            if listeners.iter().all(|known| place(known) != place(&new)) {
                listeners.push(new);
            }
        }
        let mut config = config(listeners, services);
        if self.drains_removed {
            config.guard.deny = vec![NETS[2].parse().unwrap()];
        }
        config
    }

    fn overlay(&self) -> Overlay {
        let mut overlay = Overlay::default();
        for &(service, server, is_up, drain, weight) in &self.facts {
            *overlay.entry(&format!("s{service}"), SERVERS[server]) = BackendOverlay {
                health: if is_up { Health::Up } else { Health::Down },
                drain: [Drain::No, Drain::Draining, Drain::Expired][usize::from(drain)],
                weight,
                // As good as any other draw, and it needs no field of its own.
                ejected: weight.is_some_and(|weight| weight % 2 == 1),
                reduced: 0,
            };
        }
        if self.drains_removed {
            overlay.removed = Removed::Drain {
                released: Default::default(),
            };
        }
        overlay
    }

    /// Writes operators' rules for scopes that exist.
    fn write_rules(&self, store: &mut FakeStore) {
        for &(scope, net, expires_ns) in &self.rules {
            let scope = u16::from(scope);
            if scope == 0 || store.tables.services.contains_key(&scope) {
                let (length, key) =
                    crate::kernel::plan::guard::key(scope, NETS[usize::from(net)].parse().unwrap());
                let rule = GuardRule {
                    action: action::DENY,
                    owner: owner::OPERATOR,
                    expires_ns,
                    ..GuardRule::default()
                };
                let edit = MapEdit::SetGuard(length, key, rule);
                apply(store, std::slice::from_ref(&edit)).unwrap();
            }
        }
    }
}

/// Two states are alike if they serve alike: ids, and rules that are not the configuration's,
/// aside.
fn assert_alike(store: &FakeStore, config: &Config, overlay: &Overlay) {
    let mut fresh = FakeStore::new(store.tables.backend_capacity);
    follow_on(&mut fresh, config, overlay);
    assert_eq!(
        image(&store.state().unwrap()),
        image(&fresh.state().unwrap())
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(160))]

    #[test]
    fn after_every_step_the_maps_are_as_if_filled_afresh(steps in proptest::collection::vec(step(), 1..7), room in select(vec![31u32, 60])) {
        let mut store = FakeStore::new(room);
        for step in &steps {
            let (config, mut overlay) = (step.config(), step.overlay());
            overlay.removed = Removed::AtOnce;
            follow_on(&mut store, &config, &overlay);
            assert_alike(&store, &config, &overlay);
            prop_assert_eq!(plan_on(&store, &config, &overlay).unwrap().edits, []);
        }
    }

    #[test]
    fn interrupted_plans_and_foreign_rules_never_break_what_is_served(steps in proptest::collection::vec(step(), 1..8), room in select(vec![31u32, 60])) {
        let mut store = FakeStore::new(room);
        for step in &steps {
            let (config, overlay) = (step.config(), step.overlay());
            step.write_rules(&mut store);
            let plan = plan_on(&store, &config, &overlay).unwrap();
            let end = step.interruption.map_or(plan.edits.len(), |n| n.min(plan.edits.len()));
            for (i, edit) in plan.edits[..end].iter().enumerate() {
                apply(&mut store, std::slice::from_ref(edit)).unwrap();
                let state = store.check_invariants();
                prop_assert!(state.is_ok(), "edit {i}: {state:?}\n{}", outline(&plan.edits));
            }
            if end == plan.edits.len() {
                prop_assert_eq!(plan_on(&store, &config, &overlay).unwrap().edits, []);
            }
        }
    }
}
