use super::*;
use crate::config::model::mesh::Unmatched;
use std::time::Duration;

fn mesh(cgroups: &[&str]) -> Mesh {
    Mesh {
        cgroups: cgroups.iter().map(|path| (*path).to_owned()).collect(),
        direction: Direction::Outbound,
        destinations: Selection::default(),
        sources: Selection::default(),
        ports: Selection::default(),
        users: Selection::default(),
        reach: None,
        on_failure: OnFailure::Closed,
        unmatched: Unmatched::Passthrough,
        detect: Duration::from_secs(1),
        opaque: Vec::new(),
        names: Vec::new(),
    }
}

fn listener(name: &str, address: &str, mesh: Mesh) -> HttpListener {
    let mut listener = HttpListener::new(name, address.parse().expect("an address"));
    listener.mesh = Some(mesh);
    listener
}

fn config(listeners: Vec<HttpListener>) -> Config {
    Config {
        http_listeners: listeners,
        ..Config::default()
    }
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

#[test]
fn loopback_is_left_out_unless_destinations_are_named() {
    let plain = listener("a", "0.0.0.0:15001", mesh(&["/shop"]));
    let mut named = listener("b", "[::1]:15001", mesh(&["/shop"]));
    let of_named = &mut named.mesh.as_mut().expect("set").destinations;
    of_named.only = vec![net("::1/128")];
    of_named.except = vec![net("2001:db8::/32")];
    let wanted = wanted(&config(vec![plain, named]));
    let settings = &wanted[0].set.settings;
    assert_eq!(settings.local, Addr::v4([127, 0, 0, 1]));
    assert_eq!(settings.reach, Addr::UNSPECIFIED);
    assert_eq!(settings.port, 15001);
    assert_eq!(settings.flags, set_flag::USED);
    assert_eq!(&settings.name[..2], b"a\0");
    let prefixes: Vec<_> = wanted[0].set.prefixes.iter().collect();
    assert_eq!(
        prefixes,
        [
            (&net("127.0.0.0/8"), &false),
            (&net("169.254.0.0/16"), &false)
        ]
    );
    assert_eq!((wanted[0].family, wanted[1].family), (4, 6));
    let prefixes: Vec<_> = wanted[1].set.prefixes.iter().collect();
    assert_eq!(
        prefixes,
        [(&net("::1/128"), &true), (&net("2001:db8::/32"), &false)]
    );
    assert_eq!(
        wanted[1].set.settings.flags,
        set_flag::USED | set_flag::ONLY_PREFIXES
    );
}

#[test]
fn exceptions_come_before_what_is_meant() {
    let mut one = mesh(&["/shop"]);
    one.ports.only = vec![PortRange {
        first: 80,
        last: 90,
    }];
    one.ports.except = vec![PortRange::one(85)];
    one.users = Selection {
        only: vec![1000, 1001],
        except: vec![1001],
    };
    one.on_failure = OnFailure::Open;
    let wanted = wanted(&config(vec![listener("a", "127.0.0.1:15001", one)]));
    let Set {
        settings, users, ..
    } = &wanted[0].set;
    let ranges: Vec<_> = settings.ranges[..settings.count as usize]
        .iter()
        .map(|range| (range.first, range.last, range.is_in))
        .collect();
    assert_eq!(ranges, [(85, 85, 0), (80, 90, 1)]);
    assert_eq!(
        users.iter().collect::<Vec<_>>(),
        [(&1000, &true), (&1001, &false)]
    );
    let flags = set_flag::USED | set_flag::FAILS_OPEN | set_flag::ONLY_PORTS | set_flag::ONLY_USERS;
    assert_eq!(settings.flags, flags);
}

#[test]
fn a_prefix_of_ipv4_is_one_of_mapped_addresses() {
    let of = prefix(7, net("10.1.0.0/16"));
    let (bits, key) = (of.bits, of.key);
    assert_eq!(bits, 32 + 96 + 16);
    assert_eq!({ key.set }, 7);
    assert_eq!({ key.addr }, Addr::v4([10, 1, 0, 0]).octets);
    assert_eq!({ prefix(7, net("2001:db8::/32")).bits }, 32 + 32);
}

#[test]
fn what_changes_gets_another_number_and_the_rest_keeps_its_own() {
    let both = |port| {
        let other = format!("127.0.0.1:{port}");
        config(vec![
            listener("a", "127.0.0.1:15001", mesh(&["/a", "/b"])),
            listener("b", &other, mesh(&["/c"])),
        ])
    };
    let first = wanted(&both(15002));
    let start = numbers(&first, &BTreeMap::new());
    assert_eq!(start.fresh, BTreeSet::from([0, 1]));
    let same = numbers(&first, &start.sets);
    assert_eq!((same.fresh.len(), &same.sets), (0, &start.sets));
    let next = wanted(&both(15003));
    let changed = numbers(&next, &start.sets);
    assert_eq!(changed.fresh, BTreeSet::from([2]));
    assert_eq!(changed.sets["a"].0, 0);
    let of: Vec<_> = chosen(&next, &changed.sets)
        .into_iter()
        .map(|one| (one.path.clone(), one.key(9).family, one.set))
        .collect();
    let path = |text: &str| text.to_owned();
    assert_eq!(
        of,
        [(path("/a"), 4, 0), (path("/b"), 4, 0), (path("/c"), 4, 2)]
    );
}

#[test]
fn what_arrives_is_judged_by_who_comes() {
    let mut arriving = listener("in", "127.0.0.1:15006", mesh(&["/shop"]));
    let of_arriving = arriving.mesh.as_mut().expect("set");
    of_arriving.direction = Direction::Inbound;
    of_arriving.sources.except = vec![net("10.9.0.0/16")];
    let opening = listener("out", "127.0.0.1:15001", mesh(&["/shop"]));
    let wanted = wanted(&config(vec![arriving, opening]));
    let prefixes: Vec<_> = wanted[0].set.prefixes.iter().collect();
    // Loopback is left out by the kernel side itself, and is no source either.
    assert_eq!(prefixes, [(&net("10.9.0.0/16"), &false)]);
    assert_eq!(wanted[0].set.settings.flags, set_flag::USED);
    let sets = numbers(&wanted, &BTreeMap::new()).sets;
    let keys: Vec<_> = chosen(&wanted, &sets)
        .iter()
        .map(|one| (one.key(7), one.set))
        .collect();
    // One cgroup, once for each direction.
    assert_eq!(keys.len(), 2);
    assert_ne!(keys[0].0, keys[1].0);
    assert_ne!(keys[0].1, keys[1].1);
    let mut only = listener("in", "127.0.0.1:15006", mesh(&["/shop"]));
    let of_only = only.mesh.as_mut().expect("set");
    of_only.direction = Direction::Inbound;
    of_only.sources.only = vec![net("10.9.0.0/16")];
    let wanted = super::wanted(&config(vec![only]));
    let flags = set_flag::USED | set_flag::ONLY_PREFIXES;
    assert_eq!(wanted[0].set.settings.flags, flags);
}
