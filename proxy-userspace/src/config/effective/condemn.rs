//! The section `condemn`.

use super::prefix;
use crate::config::defaults::{percent, text};
use crate::config::model::condemn::{Condemn, Offence};
use serde_json::{Map, Value, json};

pub(super) fn condemn(condemn: &Condemn) -> Value {
    let offences = Offence::ALL.iter().map(|kind| {
        let count = condemn.offences[kind.index()];
        (kind.label().to_owned(), count.into())
    });
    json!({
        "offences": offences.collect::<Map<_, _>>(),
        "within": text(condemn.within),
        "duration": text(condemn.duration),
        "max_duration": text(condemn.max_duration),
        "remember": text(condemn.remember),
        "spare_above": percent(condemn.spare_above),
        "exempt": condemn.exempt.iter().copied().map(prefix).collect::<Value>(),
        "ipv6_prefix": condemn.ipv6_prefix,
        "max_entries": condemn.max_entries,
        "dry_run": condemn.dry_run,
    })
}
