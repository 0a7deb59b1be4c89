//! A backend by its VIP, given at connect(), and by its own address: the rows of
//! [`crate::bench::at_connect`], beside the others.

use super::report::Row;
use crate::bench::at_connect;
use crate::bench::l7::Effort;
use anyhow::Result;

pub(super) const NAME: &str = "connect";
pub(super) const ABOUT: &str =
    "small GET to a backend by its VIP, given at connect(), and directly";

/// Runs them where this thread does: `wrk` and nginx share its CPU, so that whatever a connection costs
/// more, whoever has to do it, shows in requests per second.
pub(super) fn run(effort: Effort) -> Result<Vec<Row>> {
    let effort = match effort.rounds == Effort::FULL.rounds {
        true => at_connect::Effort::FULL,
        false => at_connect::Effort::QUICK,
    };
    let row = |row: crate::bench::report::Row| Row {
        rps: Some(row.value),
        ratio: row.ratio,
        against: row.baseline,
        ..Row::new(NAME, &row.id, "request")
    };
    Ok(at_connect::rows(effort)?.into_iter().map(row).collect())
}
