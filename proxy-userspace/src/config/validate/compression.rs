//! The key `compression`.

use super::actions::codings;
use super::elements;
use crate::config::decode::Field;
use crate::config::fault::Code;
use crate::config::file::http as file;
use crate::config::model::http::{Compression, CompressionLevel};
use crate::config::report::{Draft, Place, Report};

/// The key `compression` of a listener or a route.
pub(super) fn compression(
    report: &Report<'_>,
    field: &Field<file::Compression>,
) -> Option<Compression> {
    let keys = &field.given()?.value;
    let default = Compression::default();
    Some(Compression {
        codings: match keys.codings.given() {
            None => default.codings,
            Some(_) => codings(report, &keys.codings),
        },
        types: match keys.types.given() {
            None => default.types,
            Some(_) => elements(&keys.types)
                .filter_map(|at| media_type(report, Place::Value(at.node), &at.value.0))
                .collect(),
        },
        min_bytes: keys
            .min_size
            .value()
            .map_or(default.min_bytes, |size| size.0),
        level: keys
            .level
            .value()
            .map_or(default.level, |level| match level {
                file::CompressionLevel::Fast => CompressionLevel::Fast,
                file::CompressionLevel::Balanced => CompressionLevel::Balanced,
                file::CompressionLevel::Best => CompressionLevel::Best,
            }),
    })
}

/// `type/subtype` or `type/*`, in lower case.
fn media_type(report: &Report<'_>, place: Place, text: &str) -> Option<String> {
    let is_valid = text.split_once('/').is_some_and(|(kind, subtype)| {
        super::fields::is_token(kind)
            && kind != "*"
            && (subtype == "*" || super::fields::is_token(subtype) && !subtype.contains('*'))
    });
    if is_valid {
        return Some(text.to_ascii_lowercase());
    }
    let draft = Draft::new(Code::InvalidValue, format!("`{text}` is not a media type"))
        .expected("such as `application/json`, or `text/*` for all of a kind; no parameters");
    report.error(place, draft);
    None
}
