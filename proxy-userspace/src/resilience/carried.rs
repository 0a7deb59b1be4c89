//! What a process has learnt of a service, told to the process that takes over: a circuit that is
//! open stays open, and a limit that was found need not be found again.
//!
//! Moments are told as how far ahead they are. Counts of a window stay behind: one that begins anew
//! judges later, and never wrongly. So do the latencies by which hedges are made.

use super::{Nanos, Protection};
use serde::{Deserialize, Serialize};

/// What is known of a service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CarriedProtection {
    /// Its circuit, unless it is closed.
    pub circuit: Option<CarriedCircuit>,
    /// Its adaptive limit.
    pub limit: Option<CarriedLimit>,
}

/// A circuit that is open or lets probes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarriedCircuit {
    /// How long no probe is let through, in nanoseconds.
    pub left: Nanos,
    /// Times that it was opened without having closed since.
    pub opened: u32,
}

/// An adaptive limit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CarriedLimit {
    /// Requests at once.
    pub limit: f64,
    /// Latency of the last minutes in nanoseconds.
    pub long: f64,
    /// Windows that it was learnt from.
    pub windows: u32,
}

impl Protection {
    /// What a successor has to know, if anything.
    pub fn carried(&self, now: Nanos) -> Option<CarriedProtection> {
        let carried = CarriedProtection {
            circuit: self.breaker.as_ref().and_then(|it| it.carried(now)),
            limit: self.limiter.as_ref().and_then(|it| it.carried()),
        };
        (carried != CarriedProtection::default()).then_some(carried)
    }

    /// Goes on with what another process knew. What the settings do not ask for any more is
    /// forgotten.
    pub fn inherit(&self, carried: &CarriedProtection, now: Nanos) {
        if let (Some(breaker), Some(circuit)) = (&self.breaker, &carried.circuit) {
            breaker.inherit(circuit, now);
        }
        if let (Some(limiter), Some(limit)) = (&self.limiter, &carried.limit) {
            limiter.inherit(limit);
        }
    }
}
