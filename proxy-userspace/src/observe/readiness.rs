//! Whether the daemon balances, and if not, what is missing.
//!
//! The runtime replaces the list of checks as a whole; probes read it without waiting for the
//! runtime, so `/readyz` answers even while a large configuration is being applied.

use crate::observe::view::Phase;
use arc_swap::ArcSwap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// One condition of readiness.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Check {
    /// What is checked, as one word: `phase`, `interface:eth0`, …
    pub name: String,
    /// Whether it holds.
    pub ok: bool,
    /// What is wrong; empty where nothing is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

impl Check {
    /// A check that holds unless there is something wrong to say.
    pub fn new(name: impl Into<String>, wrong: Option<String>) -> Self {
        Self {
            name: name.into(),
            ok: wrong.is_none(),
            detail: wrong.unwrap_or_default(),
        }
    }

    /// Holds only while the daemon serves.
    pub fn phase(phase: Phase) -> Self {
        let wrong = (phase != Phase::Serving).then(|| phase.name().to_owned());
        Self::new("phase", wrong)
    }
}

/// The conditions as of now.
#[derive(Debug)]
pub struct Readiness {
    checks: ArcSwap<Vec<Check>>,
}

impl Default for Readiness {
    /// Not ready: starting.
    fn default() -> Self {
        Self {
            checks: ArcSwap::from_pointee(vec![Check::phase(Phase::Starting)]),
        }
    }
}

impl Readiness {
    /// Replaces all conditions.
    pub fn set(&self, checks: Vec<Check>) {
        self.checks.store(Arc::new(checks));
    }

    /// The conditions.
    pub fn checks(&self) -> Arc<Vec<Check>> {
        self.checks.load_full()
    }

    /// True if all hold.
    pub fn ready(&self) -> bool {
        self.checks.load().iter().all(|check| check.ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failed_check_is_enough() {
        let readiness = Readiness::default();
        assert!(!readiness.ready(), "not ready before somebody says so");
        readiness.set(vec![Check::phase(Phase::Serving), Check::new("a", None)]);
        assert!(readiness.ready());
        readiness.set(vec![
            Check::phase(Phase::Serving),
            Check::new("a", Some("gone".to_owned())),
        ]);
        assert!(!readiness.ready());
    }
}
