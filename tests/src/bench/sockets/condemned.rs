//! Those who are refused: the rows of `bench refusals`, beside the others.

use super::report::Row;
use crate::bench::l7::Effort;
use crate::bench::refusals;
use anyhow::{Result, anyhow};

pub(super) const NAME: &str = "condemned";
pub(super) const ABOUT: &str = "one who is refused: by 429, when accepted, by the driver";

/// Runs them on a thread of its own, which moves to another network namespace and is not one for the
/// load any more.
pub(super) fn run(effort: Effort, progress: &mut dyn FnMut(&str)) -> Result<Vec<Row>> {
    let effort = match effort.rounds == Effort::FULL.rounds {
        true => refusals::Effort::FULL,
        false => refusals::Effort::QUICK,
    };
    progress("  the proxy, then the driver");
    let rows = std::thread::scope(|scope| {
        let running = scope.spawn(|| refusals::run(effort, |_| ()));
        running.join().map_err(|_| anyhow!("it panicked"))?
    })?;
    let row = |row: crate::bench::report::Row| Row {
        scenario: NAME.to_owned(),
        peer: row.id,
        per: "refusal",
        cpu_us: Some(row.value / 1e3),
        path_us: None,
        rps: None,
        p50_us: None,
        p99_us: None,
        memory_kib: None,
        note: None,
    };
    Ok(rows.into_iter().map(row).collect())
}
