//! A breaker that opens when too many attempts fail.
//!
//! ```text
//!            too many fail                 time over
//!  Closed ───────────────────▶ Open ───────────────────▶ HalfOpen
//!    ▲                          ▲ a probe fails: longer      │
//!    │                          └────────────────────────────┤
//!    └───────────────────────────────────────────────────────┘ all probes succeed
//! ```
//!
//! What is counted are attempts and not requests: a request that was saved by a retry still says
//! that a backend failed. Attempts that end for the client's sake say nothing. What was under way
//! when the state changed belongs to the state before, and is not counted in the new one.

use super::{CarriedCircuit, Nanos, nanos};
use crate::config::model::http::CircuitErrors;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// Parts of the window. What is looked at is between nine and ten tenths of it.
const PARTS: usize = 10;

/// A breaker, shared by all workers.
#[derive(Debug)]
pub struct Breaker {
    settings: CircuitErrors,
    /// What `inner` says, for those who only look.
    state: AtomicU8,
    opens: AtomicU64,
    inner: Mutex<Inner>,
}

/// Whether attempts are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum BreakerState {
    /// They are.
    Closed,
    /// A few are, to see whether the service is well again.
    HalfOpen,
    /// None is.
    Open,
}

impl BreakerState {
    /// For metrics and views.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half-open",
            Self::Open => "open",
        }
    }
}

/// What an attempt said about the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is well.
    Good,
    /// It is not.
    Bad,
    /// Nothing.
    None,
}

/// The number of the period in which an attempt was let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period(u64);

#[derive(Debug)]
struct Inner {
    state: State,
    /// Changes with each change of the state.
    period: u64,
    /// Times that the circuit was opened without having closed since.
    opened: u32,
}

#[derive(Debug)]
enum State {
    Closed(Window),
    Open { until: Nanos },
    HalfOpen { begun: u32, good: u32 },
}

impl Breaker {
    /// A closed one.
    pub fn new(settings: CircuitErrors) -> Self {
        Self {
            settings,
            state: AtomicU8::new(BreakerState::Closed as u8),
            opens: AtomicU64::new(0),
            inner: Mutex::new(Inner {
                state: State::Closed(Window::default()),
                period: 0,
                opened: 0,
            }),
        }
    }

    /// Whether an attempt may be made now. Each that is let through must be told of by
    /// [`Breaker::report`].
    pub fn admit(&self, now: Nanos) -> Option<Period> {
        let mut inner = self.inner.lock();
        if let State::Open { until } = inner.state
            && until <= now
        {
            self.change(&mut inner, State::HalfOpen { begun: 0, good: 0 });
        }
        let may = match &mut inner.state {
            State::Closed(_) => true,
            State::Open { .. } => false,
            State::HalfOpen { begun, .. } => {
                let may = *begun < self.settings.probes;
                *begun += u32::from(may);
                may
            }
        };
        may.then_some(Period(inner.period))
    }

    /// What an attempt said that was let through in this period.
    pub fn report(&self, period: Period, verdict: Verdict, now: Nanos) {
        let mut inner = self.inner.lock();
        if inner.period != period.0 {
            return;
        }
        match (&mut inner.state, verdict) {
            (State::Closed(_) | State::Open { .. }, Verdict::None) => {}
            (State::Closed(window), verdict) => {
                window.count(verdict == Verdict::Bad, now, nanos(self.settings.window));
                if window.is_bad(&self.settings) {
                    self.open(&mut inner, now);
                }
            }
            (State::HalfOpen { begun, .. }, Verdict::None) => *begun -= 1,
            (State::HalfOpen { .. }, Verdict::Bad) => self.open(&mut inner, now),
            (State::HalfOpen { good, .. }, Verdict::Good) => {
                *good += 1;
                if *good >= self.settings.probes {
                    inner.opened = 0;
                    self.change(&mut inner, State::Closed(Window::default()));
                }
            }
            // Nothing is let through in the period of an open circuit.
            (State::Open { .. }, _) => {}
        }
    }

    /// The state as it was last changed: an open one turns half-open when somebody asks.
    pub fn state(&self) -> BreakerState {
        match self.state.load(Ordering::Relaxed) {
            0 => BreakerState::Closed,
            1 => BreakerState::HalfOpen,
            _ => BreakerState::Open,
        }
    }

    /// Times that it was opened.
    pub fn opens(&self) -> u64 {
        self.opens.load(Ordering::Relaxed)
    }

    /// When an open circuit lets probes through.
    pub fn until(&self) -> Option<Nanos> {
        match self.inner.lock().state {
            State::Open { until } => Some(until),
            _ => None,
        }
    }

    /// What a successor has to know; `None` for a closed circuit.
    pub(super) fn carried(&self, now: Nanos) -> Option<CarriedCircuit> {
        let inner = self.inner.lock();
        let left = match inner.state {
            State::Closed(_) => return None,
            State::Open { until } => until.saturating_sub(now),
            State::HalfOpen { .. } => 0,
        };
        let opened = inner.opened;
        Some(CarriedCircuit { left, opened })
    }

    /// Goes on as another process has left off.
    pub(super) fn inherit(&self, carried: &CarriedCircuit, now: Nanos) {
        let mut inner = self.inner.lock();
        inner.opened = carried.opened.max(1);
        let until = now.saturating_add(carried.left);
        self.change(&mut inner, State::Open { until });
    }

    fn open(&self, inner: &mut Inner, now: Nanos) {
        let (open, longest) = (nanos(self.settings.open), nanos(self.settings.max_open));
        let factor = 1_u64.checked_shl(inner.opened).unwrap_or(u64::MAX);
        let span = open.saturating_mul(factor).min(longest);
        inner.opened = inner.opened.saturating_add(1);
        self.opens.fetch_add(1, Ordering::Relaxed);
        let until = now.saturating_add(span);
        self.change(inner, State::Open { until });
    }

    fn change(&self, inner: &mut Inner, state: State) {
        let shown = match state {
            State::Closed(_) => BreakerState::Closed,
            State::HalfOpen { .. } => BreakerState::HalfOpen,
            State::Open { .. } => BreakerState::Open,
        };
        inner.state = state;
        inner.period += 1;
        self.state.store(shown as u8, Ordering::Relaxed);
    }
}

/// Attempts of the last while, by parts of it.
#[derive(Debug, Default)]
struct Window {
    parts: [Part; PARTS],
}

#[derive(Clone, Copy, Debug, Default)]
struct Part {
    number: Nanos,
    all: u32,
    bad: u32,
}

impl Window {
    fn count(&mut self, is_bad: bool, now: Nanos, span: Nanos) {
        let number = now / (span / PARTS as Nanos).max(1);
        let part = &mut self.parts[(number % PARTS as Nanos) as usize];
        if part.number != number {
            *part = Part {
                number,
                ..Part::default()
            };
        }
        part.all += 1;
        part.bad += u32::from(is_bad);
        let oldest = number.saturating_sub(PARTS as Nanos - 1);
        for part in &mut self.parts {
            if part.number < oldest {
                *part = Part::default();
            }
        }
    }

    fn is_bad(&self, settings: &CircuitErrors) -> bool {
        let all: u64 = self.parts.iter().map(|part| u64::from(part.all)).sum();
        let bad: u64 = self.parts.iter().map(|part| u64::from(part.bad)).sum();
        bad > 0
            && all >= u64::from(settings.min_requests)
            && bad as f64 >= settings.share * all as f64
    }
}
