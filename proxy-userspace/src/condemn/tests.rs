//! With simulated time.

use super::*;
use proptest::prelude::*;
use std::time::Duration;

const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;

fn net(text: &str) -> IpNet {
    let address = |text: &str| text.parse::<IpAddr>().map(IpNet::from);
    let parsed = text.parse::<IpNet>().or_else(|_| address(text));
    parsed.expect("a prefix")
}

fn host(number: u32) -> IpNet {
    IpNet::from(IpAddr::from(number.to_be_bytes()))
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn settings() -> Condemn {
    Condemn {
        offences: [3, 2, 5, 0, 0, 0],
        within: Duration::from_secs(60),
        duration: Duration::from_secs(600),
        max_duration: Duration::from_secs(3600),
        remember: Duration::from_secs(7200),
        exempt: vec![net("192.0.2.0/24"), net("2001:db8:1::5")],
        max_entries: 3,
        ..Condemn::default()
    }
}

#[test]
fn refusals_that_an_honest_client_may_cause_are_no_offence() {
    for refusal in [
        Refusal::ContentTooLong,
        Refusal::Truncated,
        Refusal::PathEncoding,
        Refusal::Misdirected,
        Refusal::TlsHandshake,
        Refusal::ProxyHeader,
    ] {
        assert_eq!(Offence::of(refusal), None, "{refusal:?}");
    }
    assert_eq!(Offence::of(Refusal::ObsFold), Some(Offence::Malformed));
    assert_eq!(Offence::of(Refusal::Flood), Some(Offence::Flood));
    assert_eq!(Offence::of(Refusal::NotTls), Some(Offence::Handshake));
    assert_eq!(Offence::of(Refusal::HeadTimeout), Some(Offence::Slow));
}

#[test]
fn answers_are_held_against_who_was_told_before() {
    let asked = |method, fields: &[(Name, &str)]| {
        let mut request = RequestHead::default();
        request.method = method;
        for &(name, value) in fields {
            request.fields.append(name, value.as_bytes());
        }
        move |status| Offence::of_answer(&request, status)
    };
    let plain = asked(Method::Get, &[]);
    assert_eq!(plain(429), Some(Offence::Limited));
    for status in [200, 401, 403, 404, 407, 500] {
        assert_eq!(plain(status), None, "{status}");
    }
    let basic = asked(Method::Get, &[(Name::Authorization, "Basic YTpi")]);
    assert_eq!(basic(401), Some(Offence::Unauthorized));
    assert_eq!(basic(407), None);
    let form = asked(Method::Post, &[]);
    assert_eq!(form(401), Some(Offence::Unauthorized));
    assert_eq!(form(403), None);
    let proxied = asked(Method::Connect, &[(Name::ProxyAuthorization, "Basic YTpi")]);
    assert_eq!(proxied(407), Some(Offence::Unauthorized));
}

#[test]
fn labels_are_read_back() {
    for kind in Offence::ALL {
        assert_eq!(Offence::from_label(kind.label()), Some(kind));
        assert_eq!(Offence::ALL[kind.index()], kind);
    }
    for (number, judged) in Judged::ALL.into_iter().enumerate() {
        assert_eq!(judged as usize, number);
    }
}

#[test]
fn a_source_is_an_ipv4_address_or_the_customers_part_of_an_ipv6_address() {
    assert_eq!(source_of(ip("203.0.113.7"), 64), net("203.0.113.7"));
    assert_eq!(source_of(ip("::ffff:203.0.113.7"), 64), net("203.0.113.7"));
    assert_eq!(
        source_of(ip("2001:db8:1:2:3::4"), 64),
        net("2001:db8:1:2::/64")
    );
    assert_eq!(
        source_of(ip("2001:db8:1:2::4"), 128),
        net("2001:db8:1:2::4")
    );
}

#[test]
fn enough_offences_within_the_window_accuse_and_are_then_counted_anew() {
    let mut ledger = Ledger::new(64);
    let mut offend = |at: u64| ledger.offend(host(1), (Offence::Malformed, 3), at, MINUTE);
    assert_eq!(offend(0), None);
    assert_eq!(offend(10 * SECOND), None);
    let tally = offend(40 * SECOND).expect("three in 40 s");
    assert_eq!(tally.offences, 3);
    assert_eq!(offend(41 * SECOND), None);
    // Those long ago do not count.
    assert_eq!(offend(200 * SECOND), None);
    assert_eq!(offend(201 * SECOND), None);
    assert!(offend(202 * SECOND).is_some());
}

#[test]
fn kinds_are_counted_apart_and_zero_accuses_nobody() {
    let mut ledger = Ledger::new(64);
    for _ in 0..100 {
        assert_eq!(ledger.offend(host(1), (Offence::Slow, 0), 1, MINUTE), None);
    }
    assert_eq!(
        ledger.offend(host(1), (Offence::Malformed, 2), 1, MINUTE),
        None
    );
    let tally = ledger.offend(host(1), (Offence::Malformed, 2), 1, MINUTE);
    assert_eq!(tally.map(|it| it.offences), Some(102));
}

#[test]
fn good_connections_count_only_of_those_who_have_offended() {
    let mut ledger = Ledger::new(64);
    ledger.behave(host(1), 1, MINUTE);
    assert!(ledger.is_empty());
    ledger.offend(host(1), (Offence::Malformed, 2), 1, MINUTE);
    for _ in 0..5 {
        ledger.behave(host(1), 2, MINUTE);
        ledger.behave(host(2), 2, MINUTE);
    }
    let tally = ledger.offend(host(1), (Offence::Malformed, 2), 3, MINUTE);
    assert_eq!(
        tally,
        Some(Tally {
            offences: 2,
            behaved: 5
        })
    );
    assert_eq!(ledger.len(), 1);
}

#[test]
fn what_is_forgotten_or_counted_over_another_window_begins_anew() {
    let mut ledger = Ledger::new(64);
    let flood = (Offence::Flood, 2);
    ledger.offend(host(1), flood, 1, MINUTE);
    ledger.forget(host(1));
    assert_eq!(ledger.offend(host(1), flood, 1, MINUTE), None);
    assert_eq!(ledger.offend(host(1), flood, 1, 2 * MINUTE), None);
    assert!(ledger.offend(host(1), flood, 1, 2 * MINUTE).is_some());
}

#[test]
fn a_full_set_forgets_who_has_not_offended_for_the_longest_time() {
    // One set.
    let mut ledger = Ledger::new(8);
    for number in 0..8 {
        let at = u64::from(number) * 8 * SECOND;
        ledger.offend(host(number), (Offence::Malformed, 2), at, MINUTE);
    }
    ledger.offend(host(99), (Offence::Malformed, 2), 57 * SECOND, MINUTE);
    assert_eq!(ledger.len(), 8);
    let again = (Offence::Malformed, 2);
    assert!(ledger.offend(host(7), again, 58 * SECOND, MINUTE).is_some());
    assert_eq!(ledger.offend(host(0), again, 58 * SECOND, MINUTE), None);
}

#[test]
fn a_source_whose_connections_mostly_behave_is_shared() {
    let tally = |offences, behaved| Tally { offences, behaved };
    assert!(!is_shared(tally(10, 0), 0, 0.5));
    assert!(!is_shared(tally(10, 4), 6, 0.5));
    assert!(is_shared(tally(10, 5), 6, 0.5));
    assert!(is_shared(tally(10, 1), 0, 0.0));
    assert!(!is_shared(tally(0, 0), 0, 0.0));
    assert!(!is_shared(tally(1, 1_000_000), 0, 1.0));
}

#[test]
fn each_further_condemnation_takes_twice_as_long_up_to_the_longest() {
    let (settings, mut register, source) = (settings(), Register::default(), host(1));
    let mut now = 0;
    for minutes in [10, 20, 40, 60, 60] {
        let entered = register.condemn(source, Offence::Flood, now, &settings);
        let Entered::New(sentence) = entered else {
            panic!("{entered:?}")
        };
        assert_eq!((sentence.until - now) / MINUTE, minutes);
        let again = register.condemn(source, Offence::Flood, now + 1, &settings);
        assert_eq!(again, Entered::Already);
        assert!(register.in_force(&source, sentence.until - 1).is_some());
        assert!(register.in_force(&source, sentence.until).is_none());
        now = sentence.until;
        register.forget_old(now + MINUTE, settings.remember);
    }
    // Two hours later it is as if nothing had been.
    register.forget_old(now + 120 * MINUTE, settings.remember);
    assert!(register.is_empty());
}

#[test]
fn a_full_register_gives_up_what_is_over_and_nothing_else() {
    let (settings, mut register) = (settings(), Register::default());
    let mut condemn =
        |number, at: u64| register.condemn(host(number), Offence::Malformed, at, &settings);
    for number in 0..3 {
        assert!(matches!(
            condemn(number, u64::from(number)),
            Entered::New(_)
        ));
    }
    assert_eq!(condemn(4, 5), Entered::Full);
    let over = 600 * SECOND;
    assert!(matches!(condemn(4, over), Entered::New(_)));
    // The one that was displaced is not remembered, the others are.
    let times = |entered| match entered {
        Entered::New(sentence) => sentence.times,
        other => panic!("{other:?}"),
    };
    assert_eq!(times(condemn(2, over + 2)), 2);
    assert_eq!(times(condemn(0, over + 2)), 1);
    assert_eq!(register.len(), 3);
}

#[test]
fn a_successor_goes_on_with_the_same_sentences() {
    let (settings, mut register) = (settings(), Register::default());
    register.condemn(host(1), Offence::Flood, 0, &settings);
    register.condemn(host(2), Offence::Slow, 500 * SECOND, &settings);
    let carried = register.carried(700 * SECOND);
    let text = serde_json::to_string(&carried).expect("written");
    let carried: Vec<_> = serde_json::from_str(&text).expect("read");
    let mut next = Register::default();
    // Its clock is another one.
    let now = 5000 * SECOND;
    next.inherit(&carried, now, 10);
    assert!(next.in_force(&host(1), now).is_none());
    let left = next.in_force(&host(2), now).expect("in force");
    assert_eq!(left.until - now, 400 * SECOND);
    let Entered::New(second) = next.condemn(host(1), Offence::Flood, now, &settings) else {
        panic!("not condemned")
    };
    assert_eq!(second.times, 2);
}

#[test]
fn pardon_and_exemption_end_condemnations() {
    let (settings, mut register) = (settings(), Register::default());
    for number in 0..3 {
        register.condemn(host(number), Offence::Flood, 0, &settings);
    }
    assert!(register.pardon(host(0), 1));
    assert!(!register.pardon(host(0), 1));
    assert_eq!(register.keep(1, |it| *it != host(1)), [host(1)]);
    let left: Vec<_> = register.all_in_force(1).map(|(source, _)| source).collect();
    assert_eq!(left, [host(2)]);
}

#[test]
fn the_longest_prefix_decides_who_is_barred() {
    let bar = |denies, until| Bar { denies, until };
    let barred = Barred::new([
        (net("198.51.100.0/24"), bar(true, u64::MAX)),
        (net("198.51.100.7"), bar(false, u64::MAX)),
        (net("198.51.100.8"), bar(false, 100)),
        (net("2001:db8:7::/64"), bar(true, 200)),
    ]);
    assert!(!barred.is_empty());
    assert!(barred.bars(ip("198.51.100.1"), 0));
    assert!(barred.bars(ip("::ffff:198.51.100.1"), 0));
    assert!(!barred.bars(ip("198.51.100.7"), 0));
    assert!(!barred.bars(ip("198.51.100.8"), 99));
    assert!(barred.bars(ip("198.51.100.8"), 100));
    assert!(barred.bars(ip("2001:db8:7::1234"), 199));
    assert!(!barred.bars(ip("2001:db8:7::1234"), 200));
    assert!(!barred.bars(ip("2001:db8:8::1"), 0));
    assert!(Barred::new([(net("198.51.100.7"), bar(false, 1))]).is_empty());
}

#[test]
fn exempt_sources_and_those_that_are_only_told_are_never_accused() {
    let watch = Watch::default();
    let plan = Plan::new(&settings(), [net("10.0.0.0/8")]);
    for _ in 0..10 {
        for address in ["192.0.2.9", "10.1.2.3", "2001:db8:1::77"] {
            watch.offended(&plan, (ip(address), true), Offence::Flood, 1);
        }
        watch.offended(&plan, (ip("198.51.100.1"), false), Offence::Flood, 1);
    }
    assert!(watch.take_accused().is_empty());
    assert_eq!(watch.offences(Offence::Flood, Standing::Exempt), 40);
    watch.offended(&plan, (ip("198.51.100.1"), true), Offence::Flood, 1);
    watch.offended(&plan, (ip("198.51.100.1"), true), Offence::Flood, 1);
    let accused = watch.take_accused();
    assert_eq!(accused.len(), 1);
    assert_eq!(accused[0].source, net("198.51.100.1"));
}

#[test]
fn accusations_that_nobody_hears_are_bounded() {
    let watch = Watch::default();
    let settings = Condemn {
        offences: [1; Offence::ALL.len()],
        ..settings()
    };
    let plan = Plan::new(&settings, []);
    for number in 0..watch::ACCUSED as u32 + 5 {
        let address = IpAddr::from((0xc633_0000 + number).to_be_bytes());
        watch.offended(&plan, (address, true), Offence::Slow, 1);
    }
    assert_eq!(watch.lost(), 5);
    assert_eq!(watch.take_accused().len(), watch::ACCUSED);
}

#[test]
fn refused_connections_are_counted() {
    let watch = Watch::default();
    assert!(!watch.refuses(ip("198.51.100.1"), || 0));
    let denied = Bar {
        denies: true,
        until: 10,
    };
    watch.bar(Barred::new([(net("198.51.100.1"), denied)]), 1);
    assert!(watch.refuses(ip("198.51.100.1"), || 0));
    assert!(!watch.refuses(ip("198.51.100.2"), || 0));
    assert!(!watch.refuses(ip("198.51.100.1"), || 10));
    assert_eq!((watch.refused(), watch.condemned()), (1, 1));
}

proptest! {
    /// Whatever happens in whatever order of time: memory is bounded, nobody is accused for fewer
    /// offences than there were within the window, and whoever makes enough of them within seven
    /// eighths of it is.
    #[test]
    fn accusations_are_neither_early_nor_missed(
        steps in prop::collection::vec((0_u32..4, 0_u64..20_000), 1..200),
        most in 1_u32..6,
    ) {
        let within = 60_000;
        let mut ledger = Ledger::new(64);
        let mut now = 1_000_000_u64;
        let mut since: [Vec<u64>; 4] = Default::default();
        for (who, later) in steps {
            now += later;
            let offences = &mut since[who as usize];
            offences.push(now);
            let accused = ledger.offend(host(who), (Offence::Malformed, most), now, within);
            let in_last = |span: u64| {
                offences.iter().filter(|&&at| at + span > now).count() as u32
            };
            if accused.is_some() {
                prop_assert!(in_last(within) >= most);
                offences.clear();
            } else {
                prop_assert!(in_last(within / 8 * 7) < most);
            }
        }
    }

    #[test]
    fn ledger_and_register_never_outgrow_their_bounds(
        steps in prop::collection::vec((any::<u32>(), 0_u64..100_000_000_000), 1..400),
        capacity in 1_usize..64,
        most in 1_u32..20,
    ) {
        let settings = Condemn { max_entries: most, ..settings() };
        let mut ledger = Ledger::new(capacity);
        let mut register = Register::default();
        let mut now = 0;
        for (who, later) in steps {
            now += later;
            ledger.offend(host(who), (Offence::Flood, 1), now, MINUTE);
            ledger.behave(host(who), now, MINUTE);
            let room = (register.all_in_force(now).count() as u32) < most;
            let entered = register.condemn(host(who), Offence::Flood, now, &settings);
            prop_assert!(ledger.len() <= capacity.next_multiple_of(8).max(8));
            prop_assert!(register.len() <= most as usize);
            match entered {
                Entered::New(sentence) => {
                    prop_assert!(room);
                    let length = Duration::from_nanos(sentence.until - now);
                    prop_assert!(length >= settings.duration && length <= settings.max_duration);
                }
                Entered::Full => prop_assert!(!room),
                Entered::Already => prop_assert!(register.in_force(&host(who), now).is_some()),
            }
        }
    }
}
