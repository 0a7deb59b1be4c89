//! The state machine of one backend. Pure: outcomes and the time go in, changes come out.
//!
//! ```text
//!              one pass                      `rise` passes in a row
//!   Unknown ──────────────▶ Up ◀───────────────────────────────────────────── Down
//!      │                    │ │                                               ▲ ▲
//!      │    `fall` failures │ │ `fall` failures in a row, penalty < suppress  │ │
//!      │      in a row, and │ └───────────────────────────────────────────────┘ │
//!      │  penalty ≥ suppress│                                                   │
//!      │                    ▼   failing, and penalty ≤ reuse                    │
//!      │                   Held ───────────────────────────────────────────────▶│
//!      │                    └──▶ Up: `rise` passes in a row, penalty ≤ reuse    │
//!      │ one failure                                                            │
//!      └────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! **Start.** A backend that the kernel already knows starts with the verdict found there: a
//! restarted daemon has no reason to move flows, and it takes `rise` or `fall` probes in a row to
//! convince it otherwise. A backend that nobody knows starts as [`Verdict::Unknown`] and takes no
//! traffic, since sending clients to a server that was never seen alive loses their first
//! connections. It is probed at once and the **first** probe decides: asking for `rise` passes
//! would only delay a start, and a server that fails its very first probe has not earned `fall`
//! chances. The wait is bounded by one probe's timeout.
//!
//! **Our own failures.** A probe that this host could not make ([`FailureKind::Local`]) neither
//! extends nor breaks a row. An unknown backend whose first `fall` probes all could not be made
//! is let in unchecked: not being able to look is no evidence against it, and refusing all
//! traffic would be the worse mistake. The reason says so.
//!
//! **Flapping.** See [`super::damping`]. While held, a backend's answers are counted as ever, so
//! that it rises with the first pass after the penalty has decayed if it has been well until then.
//!
//! [`FailureKind::Local`]: super::outcome::FailureKind::Local

use super::damping::{self, Penalty};
use super::outcome::{Failure, Outcome};
use crate::config::model::{Damping, HealthCheck};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// How many transitions a backend remembers.
pub const HISTORY: usize = 16;

/// Whether a backend may take traffic, and if not, why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Never probed, and not known from a running data plane: takes no traffic yet.
    Unknown,
    /// Takes traffic.
    Up,
    /// Fails its probes.
    Down,
    /// Went down too often lately: takes no traffic even if it answers.
    Held,
}

impl Verdict {
    /// Whether a backend with this verdict may take traffic.
    pub const fn is_up(self) -> bool {
        matches!(self, Self::Up)
    }

    /// The label used in metrics, logs and the command line.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
            Self::Held => "held",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// Why a verdict changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Found in the data plane that was running when the daemon started.
    Adopted,
    /// Probes passed.
    Passed,
    /// Probes failed; this is the last failure.
    Failed(Failure),
    /// The first probes could not be made, so the backend is let in without.
    Unchecked(Failure),
    /// The backend's address changed: what was known was about another server.
    Moved,
}

impl Reason {
    /// The label used in metrics, logs and the command line: a bounded set.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Adopted => "adopted",
            Self::Passed => "passed",
            Self::Failed(failure) => failure.kind.label(),
            Self::Unchecked(_) => "unchecked",
            Self::Moved => "moved",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Adopted => f.write_str("as found in the running data plane"),
            Self::Passed => f.write_str("probes pass"),
            Self::Failed(failure) => failure.fmt(f),
            Self::Unchecked(failure) => write!(f, "cannot be probed ({failure}), so let in"),
            Self::Moved => f.write_str("address changed"),
        }
    }
}

/// One change of verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// When, on the monitor's clock.
    pub at: Duration,
    /// The verdict before.
    pub from: Verdict,
    /// The verdict from then on.
    pub to: Verdict,
    /// Why.
    pub reason: Reason,
}

/// What the data plane must be told: the backend may take traffic from now on, or may not.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whether it may take traffic.
    pub up: bool,
    /// The new verdict.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// When, on the monitor's clock.
    pub at: Duration,
}

/// The numbers of a check that the state machine obeys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// Passes in a row that make a backend up; 0 counts as 1.
    pub rise: u32,
    /// Failures in a row that make it down; 0 counts as 1.
    pub fall: u32,
    /// Flap damping.
    pub damping: Damping,
}

impl From<&HealthCheck> for Rules {
    fn from(check: &HealthCheck) -> Self {
        Self {
            rise: check.rise.max(1),
            fall: check.fall.max(1),
            damping: check.damping,
        }
    }
}

/// Probes in a row with the same result. At most one of `passes` and `failures` is not 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streak {
    /// Passes since the last failure.
    pub passes: u32,
    /// Failures since the last pass.
    pub failures: u32,
    /// Probes since the last result that could not be made.
    pub unmade: u32,
}

/// Probes of a backend since it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Passed.
    pub passed: u64,
    /// Failed, by [`FailureKind::index`](super::outcome::FailureKind::index).
    pub failed: [u64; super::outcome::FailureKind::ALL.len()],
}

/// What is urgent about a backend's next probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing: the last probe agreed with the verdict.
    Steady,
    /// The last probe contradicted the verdict; a row of this many turns it.
    Confirm(u32),
}

/// The health of one backend.
#[derive(Clone, Debug)]
pub struct State {
    verdict: Verdict,
    since: Duration,
    streak: Streak,
    penalty: Penalty,
    tally: Tally,
    last_latency: Option<Duration>,
    last_failure: Option<(Duration, Failure)>,
    history: Arc<[Transition]>,
}

impl State {
    /// The state of a backend of which nothing is known, or (`adopted`) only whether the running
    /// data plane gives it traffic.
    pub fn new(adopted: Option<bool>, now: Duration) -> Self {
        let mut state = Self {
            verdict: Verdict::Unknown,
            since: now,
            streak: Streak::default(),
            penalty: Penalty::default(),
            tally: Tally::default(),
            last_latency: None,
            last_failure: None,
            history: Arc::new([]),
        };
        if let Some(up) = adopted {
            let verdict = if up { Verdict::Up } else { Verdict::Down };
            state.turn(verdict, Reason::Adopted, now);
        }
        state
    }

    /// Takes in the outcome of a probe that ended at `now`.
    ///
    /// Returns a change if the data plane must be told: whenever the backend begins or ceases to
    /// be up, and when an unknown one is first found down.
    pub fn observe(&mut self, rules: &Rules, outcome: Outcome, now: Duration) -> Option<Change> {
        match outcome {
            Ok(passed) => {
                self.tally.passed += 1;
                self.last_latency = Some(passed.latency);
                self.pass(rules, now)
            }
            Err(failure) => {
                self.tally.failed[failure.kind.index()] += 1;
                self.last_failure = Some((now, failure.clone()));
                if failure.is_evidence() {
                    self.fail(rules, failure, now)
                } else {
                    self.unmade(rules, failure, now)
                }
            }
        }
    }

    /// Begins again under a changed check: rows start anew, verdict and history stay.
    pub fn restart(&mut self) {
        self.streak = Streak::default();
    }

    /// Forgets what was known, because the name now stands for another server.
    pub fn moved(&mut self, now: Duration) {
        self.streak = Streak::default();
        self.penalty = Penalty::default();
        self.last_latency = None;
        self.turn(Verdict::Unknown, Reason::Moved, now);
    }

    /// What is urgent about the next probe.
    pub fn need(&self, rules: &Rules) -> Need {
        let Streak {
            passes,
            failures,
            unmade,
        } = self.streak;
        match self.verdict {
            Verdict::Up if failures > 0 => Need::Confirm(rules.fall),
            Verdict::Down | Verdict::Held if passes > 0 && passes < rules.rise => {
                Need::Confirm(rules.rise)
            }
            Verdict::Unknown if unmade > 0 => Need::Confirm(rules.fall),
            _ => Need::Steady,
        }
    }

    /// The verdict.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Since when the verdict holds, on the monitor's clock.
    pub fn since(&self) -> Duration {
        self.since
    }

    /// The present rows.
    pub fn streak(&self) -> Streak {
        self.streak
    }

    /// The damping penalty at `now`.
    pub fn penalty(&self, rules: &Rules, now: Duration) -> f64 {
        self.penalty.at(now, rules.damping.half_life)
    }

    /// All probes so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// How long the last passed probe took.
    pub fn last_latency(&self) -> Option<Duration> {
        self.last_latency
    }

    /// The last failure and when it was.
    pub fn last_failure(&self) -> Option<&(Duration, Failure)> {
        self.last_failure.as_ref()
    }

    /// The last [`HISTORY`] transitions, oldest first. Cloning it copies a pointer.
    pub fn history(&self) -> &Arc<[Transition]> {
        &self.history
    }

    fn pass(&mut self, rules: &Rules, now: Duration) -> Option<Change> {
        let passes = self.streak.passes.saturating_add(1);
        self.streak = Streak {
            passes,
            ..Streak::default()
        };
        let rises = match self.verdict {
            Verdict::Up => false,
            Verdict::Unknown => true,
            Verdict::Down => passes >= rules.rise,
            Verdict::Held => passes >= rules.rise && self.released(rules, now),
        };
        rises.then(|| self.tell(Verdict::Up, Reason::Passed, now))
    }

    fn fail(&mut self, rules: &Rules, failure: Failure, now: Duration) -> Option<Change> {
        let failures = self.streak.failures.saturating_add(1);
        self.streak = Streak {
            failures,
            ..Streak::default()
        };
        let reason = Reason::Failed(failure);
        match self.verdict {
            Verdict::Unknown => Some(self.tell(Verdict::Down, reason, now)),
            Verdict::Up if failures >= rules.fall => {
                let penalty = self.penalty.add(now, rules.damping.half_life);
                let held = damping::suppresses(&rules.damping, penalty);
                let verdict = if held { Verdict::Held } else { Verdict::Down };
                Some(self.tell(verdict, reason, now))
            }
            Verdict::Held if self.released(rules, now) => {
                // The data plane knows it as not up already, so it need not be told.
                self.turn(Verdict::Down, reason, now);
                None
            }
            _ => None,
        }
    }

    fn unmade(&mut self, rules: &Rules, failure: Failure, now: Duration) -> Option<Change> {
        self.streak.unmade = self.streak.unmade.saturating_add(1);
        let admitted = self.verdict == Verdict::Unknown && self.streak.unmade >= rules.fall;
        admitted.then(|| self.tell(Verdict::Up, Reason::Unchecked(failure), now))
    }

    fn released(&self, rules: &Rules, now: Duration) -> bool {
        damping::releases(&rules.damping, self.penalty(rules, now))
    }

    /// Turns the verdict and says what to tell the data plane.
    fn tell(&mut self, to: Verdict, reason: Reason, now: Duration) -> Change {
        self.turn(to, reason.clone(), now);
        Change {
            up: to.is_up(),
            verdict: to,
            reason,
            at: now,
        }
    }

    /// Turns the verdict and remembers it.
    fn turn(&mut self, to: Verdict, reason: Reason, now: Duration) {
        let transition = Transition {
            at: now,
            from: self.verdict,
            to,
            reason,
        };
        let kept = self.history.len().saturating_sub(HISTORY - 1);
        self.history = self.history[kept..]
            .iter()
            .cloned()
            .chain([transition])
            .collect();
        self.verdict = to;
        self.since = now;
    }
}

#[cfg(test)]
mod tests;
