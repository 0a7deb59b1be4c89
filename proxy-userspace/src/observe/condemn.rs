//! Metrics of offences and of condemned sources. No label is an address: `sluice guard list` tells
//! those.

use super::families::{Families, Value};
use super::names;
use crate::condemn::{Judged, Offence, Standing, Watch};
use std::fmt;

/// Writes all of them.
pub(in crate::observe) fn export(watch: &Watch, out: &mut Families<'_, '_>) -> fmt::Result {
    let offences = Offence::ALL.into_iter().flat_map(|offence| {
        Standing::ALL.into_iter().map(move |standing| {
            let count = watch.offences(offence, standing);
            ([offence.label(), standing.label()], Value::from(count))
        })
    });
    out.many(names::OFFENCES, offences)?;
    let judged = Offence::ALL.into_iter().flat_map(|offence| {
        Judged::ALL.into_iter().map(move |judged| {
            let count = watch.judgements(offence, judged);
            ([offence.label(), judged.label()], Value::from(count))
        })
    });
    out.many(names::CONDEMNATIONS, judged)?;
    out.one(names::ACCUSATIONS_LOST, watch.lost())?;
    out.one(names::CONDEMNED, watch.condemned())?;
    out.one(names::TURNED_AWAY, watch.refused())
}
