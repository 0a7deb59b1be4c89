//! Conditional requests (RFC 9110 §13). Pure.

use crate::message::{Fields, Method, Name};
use std::time::{Duration, UNIX_EPOCH};

/// What identifies a file's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Validators {
    /// With its quotes, and with `W/` if it is weak.
    pub(super) etag: String,
    /// Seconds since the epoch.
    pub(super) modified: u64,
    /// When this is asked, seconds since the epoch.
    pub(super) now: u64,
}

/// What the conditions make of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is answered as if there were none.
    Go,
    /// 304.
    NotModified,
    /// 412.
    Failed,
}

/// Evaluates the conditions in the order of RFC 9110 §13.2.2.
pub(super) fn evaluate(method: &Method, fields: &Fields, file: &Validators) -> Verdict {
    if fields.contains(Name::IfMatch) {
        if !any_tag(fields, Name::IfMatch, |tag| strong(tag, &file.etag)) {
            return Verdict::Failed;
        }
    } else if let Some(since) = date(fields, Name::IfUnmodifiedSince)
        && file.modified > since
    {
        return Verdict::Failed;
    }
    let reads = matches!(method, Method::Get | Method::Head);
    if fields.contains(Name::IfNoneMatch) {
        if any_tag(fields, Name::IfNoneMatch, |tag| weak(tag, &file.etag)) {
            return if reads {
                Verdict::NotModified
            } else {
                Verdict::Failed
            };
        }
    } else if let Some(since) = date(fields, Name::IfModifiedSince)
        && reads
        && file.modified <= since
    {
        return Verdict::NotModified;
    }
    Verdict::Go
}

/// True if `Range` is to be obeyed: there is no `If-Range`, or it holds.
pub(super) fn range_holds(fields: &Fields, file: &Validators) -> bool {
    let Some(value) = fields.get(Name::IfRange) else {
        return true;
    };
    if value.starts_with(b"\"") || value.starts_with(b"W/") {
        return strong(value, &file.etag);
    }
    // A date is a strong validator only if the file could not change again in the same second
    // (RFC 9110 §8.8.2.2).
    parse_date(value) == Some(file.modified) && file.modified + 1 < file.now
}

/// True for `*`, and if `matches` holds for one of the tags of all fields with this name.
fn any_tag(fields: &Fields, name: Name, matches: impl Fn(&[u8]) -> bool) -> bool {
    fields
        .all(name)
        .any(|list| list == b"*" || tags(list).any(&matches))
}

/// The entity tags of a list. What comes after a malformed one is not looked at.
fn tags(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = list;
    std::iter::from_fn(move || {
        while let [b' ' | b'\t' | b',', after @ ..] = rest {
            rest = after;
        }
        let mark = if rest.starts_with(b"W/") { 2 } else { 0 };
        let opaque = rest.get(mark..)?.strip_prefix(b"\"")?;
        let length = opaque.iter().position(|&octet| octet == b'"')?;
        let (tag, after) = rest.split_at(mark + length + 2);
        rest = after;
        Some(tag)
    })
}

fn strong(tag: &[u8], own: &str) -> bool {
    tag == own.as_bytes() && !own.starts_with("W/")
}

fn weak(tag: &[u8], own: &str) -> bool {
    let opaque = |tag: &[u8]| {
        tag.strip_prefix(b"W/")
            .map_or(tag.to_owned(), <[u8]>::to_owned)
    };
    opaque(tag) == opaque(own.as_bytes())
}

/// The date of a field that is there once and valid.
fn date(fields: &Fields, name: Name) -> Option<u64> {
    let mut all = fields.all(name);
    let value = all.next()?;
    if all.next().is_some() {
        return None;
    }
    parse_date(value)
}

fn parse_date(value: &[u8]) -> Option<u64> {
    let time = httpdate::parse_http_date(std::str::from_utf8(value).ok()?).ok()?;
    Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

/// An HTTP date.
pub(super) fn http_date(second: u64) -> String {
    // The year 9999 is the last that can be written.
    let time = UNIX_EPOCH + Duration::from_secs(second.min(253_402_300_799));
    httpdate::fmt_http_date(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000_000;

    fn verdict(method: &Method, all: &[(Name, &str)]) -> Verdict {
        let mut fields = Fields::new();
        for (name, value) in all {
            fields.append(*name, value.as_bytes());
        }
        evaluate(method, &fields, &file("\"a\""))
    }

    fn file(etag: &str) -> Validators {
        Validators {
            etag: etag.to_owned(),
            modified: NOW - 100,
            now: NOW,
        }
    }

    #[test]
    fn conditions_have_the_standards_precedence() {
        let (at, before, after) = (http_date(NOW - 100), http_date(NOW - 101), http_date(NOW));
        use Name::{IfMatch, IfModifiedSince, IfNoneMatch, IfUnmodifiedSince};
        let get = &Method::Get;
        for (fields, expected) in [
            (&[][..], Verdict::Go),
            (&[(IfMatch, "\"a\"")], Verdict::Go),
            (&[(IfMatch, "*")], Verdict::Go),
            (&[(IfMatch, "\"b\", \"a\"")], Verdict::Go),
            (&[(IfMatch, "W/\"a\"")], Verdict::Failed),
            (&[(IfMatch, "\"b\"")], Verdict::Failed),
            (&[(IfMatch, "\"b\""), (IfMatch, "\"a\"")], Verdict::Go),
            (&[(IfMatch, "a")], Verdict::Failed),
            (
                &[(IfMatch, "\"a\""), (IfUnmodifiedSince, &before)],
                Verdict::Go,
            ),
            (&[(IfUnmodifiedSince, &before)], Verdict::Failed),
            (&[(IfUnmodifiedSince, &at)], Verdict::Go),
            (&[(IfUnmodifiedSince, "yesterday")], Verdict::Go),
            (&[(IfNoneMatch, "\"a\"")], Verdict::NotModified),
            (&[(IfNoneMatch, "W/\"a\"")], Verdict::NotModified),
            (&[(IfNoneMatch, "\"b\",\"a\"")], Verdict::NotModified),
            (&[(IfNoneMatch, "*")], Verdict::NotModified),
            (
                &[(IfNoneMatch, "\"b\""), (IfModifiedSince, &after)],
                Verdict::Go,
            ),
            (&[(IfModifiedSince, &at)], Verdict::NotModified),
            (&[(IfModifiedSince, &before)], Verdict::Go),
            (
                &[(IfModifiedSince, &at), (IfModifiedSince, &at)],
                Verdict::Go,
            ),
            (
                &[(IfMatch, "\"a\""), (IfNoneMatch, "\"a\"")],
                Verdict::NotModified,
            ),
            (
                &[(IfUnmodifiedSince, &before), (IfNoneMatch, "\"a\"")],
                Verdict::Failed,
            ),
        ] {
            assert_eq!(verdict(get, fields), expected, "{fields:?}");
        }
        let post = &Method::Post;
        assert_eq!(verdict(post, &[(IfNoneMatch, "\"a\"")]), Verdict::Failed);
        assert_eq!(verdict(post, &[(IfModifiedSince, &at)]), Verdict::Go);
    }

    #[test]
    fn if_range_compares_strongly() {
        let holds = |value: &str, file: &Validators| {
            let mut fields = Fields::new();
            fields.append(Name::IfRange, value.as_bytes());
            range_holds(&fields, file)
        };
        assert!(range_holds(&Fields::new(), &file("\"a\"")));
        assert!(holds("\"a\"", &file("\"a\"")));
        assert!(!holds("\"b\"", &file("\"a\"")));
        assert!(!holds("W/\"a\"", &file("W/\"a\"")));
        assert!(holds(&http_date(NOW - 100), &file("\"a\"")));
        assert!(!holds(&http_date(NOW), &file("\"a\"")));
        assert!(!holds("soon", &file("\"a\"")));
        let fresh = Validators {
            modified: NOW,
            ..file("\"a\"")
        };
        assert!(!holds(&http_date(NOW), &fresh));
    }
}
