use super::super::damping::longest_hold;
use super::super::outcome::FailureKind;
use super::super::testing::{fail, never_damped, pass, refuse};
use super::*;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

/// One backend, probed every second.
struct Patient {
    rules: Rules,
    state: State,
    now: Duration,
}

impl Patient {
    fn new(rise: u32, fall: u32, adopted: Option<bool>) -> Self {
        Self::damped(rise, fall, adopted, never_damped())
    }

    fn damped(rise: u32, fall: u32, adopted: Option<bool>, damping: Damping) -> Self {
        let rules = Rules {
            rise,
            fall,
            damping,
        };
        Self {
            rules,
            state: State::new(adopted, Duration::ZERO),
            now: Duration::ZERO,
        }
    }

    /// Tells of an outcome; answers whether the data plane was told of a change, and to what.
    fn see(&mut self, outcome: Outcome) -> Option<bool> {
        self.now += SECOND;
        self.state
            .observe(&self.rules, outcome, self.now)
            .map(|change| change.up)
    }

    fn see_all(&mut self, outcomes: &str) -> Vec<Option<bool>> {
        outcomes
            .chars()
            .map(|outcome| match outcome {
                '+' => self.see(pass()),
                '-' => self.see(refuse()),
                '?' => self.see(fail(FailureKind::Local)),
                other => panic!("no outcome {other}"),
            })
            .collect()
    }

    /// Sees these outcomes without a change, except that the last one changes to `up`.
    #[track_caller]
    fn turns(&mut self, outcomes: &str, up: bool) {
        let mut changes = self.see_all(outcomes);
        assert_eq!(changes.pop(), Some(Some(up)), "the last of {outcomes}");
        assert!(
            changes.iter().all(Option::is_none),
            "{outcomes} changed early: {changes:?}"
        );
    }

    /// Sees these outcomes without a change.
    #[track_caller]
    fn stays(&mut self, outcomes: &str) {
        let changes = self.see_all(outcomes);
        assert!(
            changes.iter().all(Option::is_none),
            "{outcomes} changed: {changes:?}"
        );
    }
}

#[test]
fn unknown_backend_takes_no_traffic_and_its_first_probe_decides() {
    let patient = Patient::new(3, 3, None);
    assert_eq!(patient.state.verdict(), Verdict::Unknown);
    assert!(!patient.state.verdict().is_up());

    Patient::new(3, 3, None).turns("+", true);
    Patient::new(3, 3, None).turns("-", false);
}

#[test]
fn adopted_backend_keeps_its_verdict_until_a_full_row_says_otherwise() {
    let mut up = Patient::new(2, 3, Some(true));
    assert_eq!(up.state.verdict(), Verdict::Up);
    up.turns("---", false);

    let mut down = Patient::new(2, 3, Some(false));
    assert_eq!(down.state.verdict(), Verdict::Down);
    down.turns("++", true);
}

#[test]
fn row_broken_by_one_result_starts_anew() {
    let mut patient = Patient::new(2, 3, Some(true));
    patient.stays("--+--+--+");
    patient.turns("---", false);
    patient.stays("+-+-+-");
    patient.turns("++", true);
}

#[test]
fn rise_and_fall_of_zero_count_as_one() {
    let check = HealthCheck {
        rise: 0,
        fall: 0,
        ..super::super::testing::health_check()
    };
    let rules = Rules::from(&check);
    assert_eq!((rules.rise, rules.fall), (1, 1));
}

#[test]
fn probe_that_could_not_be_made_neither_extends_nor_breaks_a_row() {
    let mut patient = Patient::new(2, 3, Some(true));
    patient.stays("??????????");
    patient.stays("--?");
    patient.turns("-", false);
    patient.stays("+??");
    patient.turns("+", true);
}

#[test]
fn unknown_backend_that_cannot_be_probed_is_let_in_unchecked() {
    let mut patient = Patient::new(2, 3, None);
    patient.turns("???", true);
    assert_eq!(patient.state.history()[0].reason.label(), "unchecked");
    // It is then treated like any that is up.
    patient.turns("---", false);
}

#[test]
fn need_is_to_confirm_only_while_a_row_against_the_verdict_is_open() {
    let mut patient = Patient::new(3, 2, None);
    let rules = patient.rules;
    assert_eq!(patient.state.need(&rules), Need::Steady);
    patient.stays("?");
    assert_eq!(patient.state.need(&rules), Need::Confirm(2));
    patient.turns("+", true);
    assert_eq!(patient.state.need(&rules), Need::Steady);
    patient.stays("-");
    assert_eq!(patient.state.need(&rules), Need::Confirm(2));
    patient.stays("?");
    assert_eq!(patient.state.need(&rules), Need::Confirm(2));
    patient.turns("-", false);
    assert_eq!(patient.state.need(&rules), Need::Steady);
    patient.stays("+");
    assert_eq!(patient.state.need(&rules), Need::Confirm(3));
}

#[test]
fn restart_keeps_verdict_and_history_but_no_row() {
    let mut patient = Patient::new(2, 3, Some(true));
    patient.stays("--");
    patient.state.restart();
    assert_eq!(patient.state.verdict(), Verdict::Up);
    assert_eq!(patient.state.history().len(), 1);
    patient.turns("---", false);
}

#[test]
fn moved_backend_is_unknown_again_and_free_of_the_other_servers_penalty() {
    let mut patient = Patient::new(1, 1, Some(true));
    patient.turns("-", false);
    assert!(patient.state.penalty(&patient.rules, patient.now) > 0.9);
    patient.state.moved(patient.now);
    assert_eq!(patient.state.verdict(), Verdict::Unknown);
    assert_eq!(patient.state.penalty(&patient.rules, patient.now), 0.0);
    assert_eq!(
        patient.state.history().last().unwrap().reason,
        Reason::Moved
    );
    patient.turns("+", true);
}

#[test]
fn history_keeps_the_last_transitions_with_their_reasons_and_times() {
    let mut patient = Patient::new(1, 1, None);
    for _ in 0..HISTORY {
        patient.turns("+", true);
        patient.turns("-", false);
    }
    let history = patient.state.history();
    assert_eq!(history.len(), HISTORY);
    let last = history.last().unwrap();
    assert_eq!((last.from, last.to), (Verdict::Up, Verdict::Down));
    assert_eq!(last.reason.label(), "refused");
    assert_eq!(last.at, patient.now);
    assert_eq!(history[HISTORY - 2].at, patient.now - SECOND);
}

#[test]
fn tally_counts_every_probe_by_its_result() {
    let mut patient = Patient::new(1, 3, None);
    patient.see_all("+++--?");
    assert_eq!(patient.state.tally().passed, 3);
    assert_eq!(
        patient.state.tally().failed[FailureKind::Refused.index()],
        2
    );
    assert_eq!(patient.state.tally().failed[FailureKind::Local.index()], 1);
    assert_eq!(
        patient.state.last_failure().unwrap().1.kind,
        FailureKind::Local
    );
    assert_eq!(patient.state.last_latency(), Some(Duration::from_millis(1)));
}

fn damping() -> Damping {
    Damping {
        half_life: 60 * SECOND,
        suppress: 3.0,
        reuse: 1.0,
    }
}

#[test]
fn backend_that_flaps_is_held_down_while_it_answers_and_let_in_when_the_penalty_has_decayed() {
    let mut patient = Patient::damped(1, 1, Some(true), damping());
    // Each second halves by 2^(-1/60): the fourth change exceeds 3.
    patient.turns("-", false);
    for _ in 0..2 {
        patient.turns("+", true);
        patient.turns("-", false);
    }
    patient.turns("+", true);
    patient.turns("-", false);
    assert_eq!(patient.state.verdict(), Verdict::Held);

    let held_at = patient.now;
    while patient.see(pass()).is_none() {
        assert_eq!(patient.state.verdict(), Verdict::Held);
        assert!(patient.now < held_at + 300 * SECOND, "held for ever");
    }
    // From a penalty just below 4 to 1: a little less than two half-lives.
    let held = patient.now - held_at;
    assert!(held > 110 * SECOND && held <= 120 * SECOND, "{held:?}");
}

#[test]
fn held_backend_must_also_have_passed_a_row_to_rise() {
    let mut patient = Patient::damped(
        3,
        1,
        Some(true),
        Damping {
            suppress: 1.0,
            ..damping()
        },
    );
    patient.turns("-", false);
    assert_eq!(patient.state.verdict(), Verdict::Held);
    patient.now += 600 * SECOND;
    patient.stays("++");
    patient.turns("+", true);
}

#[test]
fn held_backend_that_still_fails_becomes_simply_down() {
    let mut patient = Patient::damped(
        1,
        1,
        Some(true),
        Damping {
            suppress: 1.0,
            ..damping()
        },
    );
    patient.turns("-", false);
    patient.now += 600 * SECOND;
    patient.stays("-");
    assert_eq!(patient.state.verdict(), Verdict::Down);
    patient.turns("+", true);
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Pass,
    Fail,
    Unmade,
    Restart,
    Move,
}

fn events() -> impl Strategy<Value = Vec<(Event, u64)>> {
    let event = prop_oneof![
        8 => Just(Event::Pass),
        8 => Just(Event::Fail),
        2 => Just(Event::Unmade),
        1 => Just(Event::Restart),
        1 => Just(Event::Move),
    ];
    prop::collection::vec((event, 1u64..20_000), 1..300)
}

proptest! {
    /// The rows are counted by a second, simpler hand: the evidence since the last turn or
    /// restart, as a list.
    #[test]
    fn verdict_never_turns_without_its_row(
        events in events(),
        rise in 1u32..6,
        fall in 1u32..6,
        suppress in 1.0f64..5.0,
        adopted in prop::option::of(any::<bool>()),
    ) {
        let damping = Damping { suppress, ..damping() };
        let rules = Rules { rise, fall, damping };
        let mut state = State::new(adopted, Duration::ZERO);
        let mut now = Duration::ZERO;
        let mut evidence: Vec<bool> = Vec::new();
        let mut told = adopted;
        for (event, gap) in events {
            now += Duration::from_millis(gap);
            let before = state.verdict();
            let change = match event {
                Event::Pass => {
                    evidence.push(true);
                    state.observe(&rules, pass(), now)
                }
                Event::Fail => {
                    evidence.push(false);
                    state.observe(&rules, refuse(), now)
                }
                Event::Unmade => state.observe(&rules, fail(FailureKind::Local), now),
                Event::Restart => {
                    evidence.clear();
                    state.restart();
                    None
                }
                Event::Move => {
                    evidence.clear();
                    state.moved(now);
                    told = None;
                    None
                }
            };
            let row = |result: bool, length: u32| {
                let length = length as usize;
                evidence.len() >= length
                    && evidence[evidence.len() - length..].iter().all(|seen| *seen == result)
            };
            let after = state.verdict();
            match (before, after) {
                (Verdict::Up, Verdict::Down | Verdict::Held) => prop_assert!(row(false, fall)),
                (Verdict::Down | Verdict::Held, Verdict::Up) => prop_assert!(row(true, rise)),
                (Verdict::Unknown, Verdict::Down) => prop_assert!(row(false, 1)),
                (Verdict::Down, Verdict::Held) => prop_assert!(false, "down became held"),
                _ => {}
            }
            // The converse: a full row does turn it, unless it is held.
            if matches!(event, Event::Pass) && row(true, rise) {
                prop_assert!(matches!(after, Verdict::Up | Verdict::Held));
            }
            if matches!(event, Event::Fail) && row(false, fall) {
                prop_assert!(!after.is_up());
            }
            // The data plane is told exactly when what it knows becomes wrong.
            match change {
                Some(change) => {
                    prop_assert_eq!(change.up, after.is_up());
                    prop_assert_ne!(told, Some(change.up));
                    told = Some(change.up);
                }
                None => prop_assert_eq!(told.unwrap_or(false), after.is_up()),
            }
            // Damping is bounded.
            prop_assert!(state.penalty(&rules, now) < suppress + 1.0);
            if after.is_up() {
                prop_assert!(state.penalty(&rules, now) < suppress);
            }
            // History is bounded and without gaps.
            prop_assert!(state.history().len() <= HISTORY);
            for pair in state.history().windows(2) {
                prop_assert_eq!(pair[0].to, pair[1].from);
                prop_assert!(pair[0].at <= pair[1].at);
            }
        }
    }

    #[test]
    fn backend_that_recovered_is_never_held_longer_than_the_bound(
        flaps in prop::collection::vec(any::<bool>(), 1..200),
        rise in 1u32..4,
        fall in 1u32..4,
        suppress in 0.5f64..6.0,
        reuse in 0.1f64..1.0,
        half_life in 1u32..600,
    ) {
        let damping = Damping {
            half_life: half_life * SECOND,
            suppress,
            reuse: reuse.min(suppress),
        };
        let mut patient = Patient::damped(rise, fall, Some(true), damping);
        for flap in flaps {
            patient.see(if flap { pass() } else { refuse() });
        }
        let limit = patient.now
            + longest_hold(&damping).unwrap()
            + (rise + 1) * SECOND;
        while !patient.state.verdict().is_up() {
            patient.see(pass());
            prop_assert!(patient.now <= limit, "still {}", patient.state.verdict());
        }
    }
}
