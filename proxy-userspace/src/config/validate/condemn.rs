//! The section `condemn`.

use super::http::networks;
use super::{number, or, time, time_or_zero};
use crate::config::decode::Field;
use crate::config::defaults::{self, condemn as condemn_defaults};
use crate::config::fault::Code;
use crate::config::file::condemn as file;
use crate::config::model::condemn::{Condemn, Offence};
use crate::config::report::{Draft, Place, Report};
use std::time::Duration;

/// Longest time over which offences are counted: what was so long ago says nothing.
const LONGEST_WITHIN: Duration = Duration::from_secs(3600);

/// Most offences that can be asked for: counts have room for them.
const MOST_OFFENCES: u32 = 10_000;

/// Most condemned sources: the kernel's table has room for 65536 rules, some of which are others'.
const MOST_ENTRIES: u32 = 50_000;

/// The section; `None` if nobody is condemned.
pub(super) fn condemn(report: &Report<'_>, field: &Field<file::Condemn>) -> Option<Condemn> {
    let keys = field.value()?;
    let default = Condemn::default();
    let condemn = Condemn {
        offences: offences(report, &keys.offences),
        within: time(report, &keys.within, default.within),
        duration: time(report, &keys.duration, default.duration),
        max_duration: longest(report, keys, default.max_duration),
        remember: time_or_zero(report, &keys.remember, default.remember),
        spare_above: keys
            .spare_above
            .value()
            .map_or(default.spare_above, |share| share.0),
        exempt: match &keys.exempt {
            Field::Absent => default.exempt,
            given => networks(report, given),
        },
        ipv6_prefix: number(report, &keys.ipv6_prefix, 32..=128, default.ipv6_prefix),
        max_entries: number(
            report,
            &keys.max_entries,
            1..=MOST_ENTRIES,
            default.max_entries,
        ),
        dry_run: or(&keys.dry_run, default.dry_run),
    };
    if let Some(at) = keys.within.given()
        && condemn.within > LONGEST_WITHIN
    {
        let draft = Draft::new(Code::InvalidValue, format!("`{}` is too long", at.value))
            .expected("at most `1h`");
        report.error(Place::Value(at.node), draft);
    }
    if let Some(at) = keys.offences.given()
        && condemn.offences == [0; Offence::ALL.len()]
    {
        report.warn(
            Place::Value(at.node),
            "no kind of offence is looked at, so that nobody is condemned",
            "give one of them a number, or remove `condemn`",
        );
    }
    Some(condemn)
}

fn offences(report: &Report<'_>, field: &Field<file::Offences>) -> [u32; Offence::ALL.len()] {
    Offence::ALL.map(|kind| {
        let default = condemn_defaults::offences(kind);
        let Some(keys) = field.value() else {
            return default;
        };
        let given = match kind {
            Offence::Malformed => &keys.malformed,
            Offence::Flood => &keys.flood,
            Offence::Handshake => &keys.handshake,
            Offence::Slow => &keys.slow,
            Offence::Limited => &keys.limited,
            Offence::Unauthorized => &keys.unauthorized,
        };
        number(report, given, 0..=MOST_OFFENCES, default)
    })
}

/// The longest condemnation. Where only the first is given and is longer than the default, it is
/// that.
fn longest(report: &Report<'_>, keys: &file::Condemn, default: Duration) -> Duration {
    let first = keys.duration.value();
    let first = first.map_or(condemn_defaults::DURATION, |time| time.0);
    let Some(at) = keys.max_duration.given() else {
        return default.max(first);
    };
    let longest = time(report, &keys.max_duration, default);
    if longest < first {
        let draft = Draft::new(
            Code::Conflict,
            format!(
                "a condemnation takes {} at first, but at most {}",
                defaults::text(first),
                defaults::text(longest)
            ),
        )
        .expected("`max_duration` not less than `duration`");
        report.error(Place::Value(at.node), draft);
    }
    longest
}
