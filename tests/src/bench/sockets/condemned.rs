//! Those who are refused: the rows of `bench refusals`, beside the others.

use super::report::Row;
use crate::bench::l7::Effort;
use crate::bench::refusals;
use anyhow::{Result, anyhow};

pub(super) const NAME: &str = "condemned";
pub(super) const ABOUT: &str = "one who is refused: by 429, when accepted, by the driver";

/// Runs them on a thread of its own, which moves to another network namespace and is not one for the
/// load any more.
pub(super) fn run(effort: Effort) -> Result<Vec<Row>> {
    let effort = match effort.rounds == Effort::FULL.rounds {
        true => refusals::Effort::FULL,
        false => refusals::Effort::QUICK,
    };
    let rows = std::thread::scope(|scope| {
        let running = scope.spawn(|| refusals::run(effort, |_| ()));
        running.join().map_err(|_| anyhow!("it panicked"))?
    })?;
    let row = |row: crate::bench::report::Row| Row {
        cpu_us: Some(row.value / 1e3),
        ratio: row.ratio,
        against: row.baseline,
        ..Row::new(NAME, &row.id, "refusal")
    };
    Ok(rows.into_iter().map(row).collect())
}
