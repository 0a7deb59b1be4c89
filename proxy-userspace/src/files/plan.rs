//! What a request for a file that exists is answered with. Pure.

use super::conditional::{self, Validators, Verdict};
use super::open::Meta;
use super::range::{self, Wanted};
use crate::message::{Length, Method, Name, RequestHead, ResponseHead};
use std::fs::File;
use std::ops::Range;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Its head. `length` is set; `Date` and the connection's fields are not.
    pub head: ResponseHead,
    /// What follows.
    pub body: Body,
}

/// What follows a head.
#[derive(Debug)]
pub enum Body {
    /// Nothing.
    None,
    /// The engine's own page for the status, if it has one.
    ErrorPage,
    /// Octets in memory.
    Octets(Vec<u8>),
    /// Parts of a file, in order; `head.length` is their sum. A file that has become shorter since
    /// ends the connection.
    File(File, Vec<Part>),
}

/// A part of what follows a head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// These octets.
    Octets(Vec<u8>),
    /// This range of the file.
    Range(Range<u64>),
}

impl Part {
    fn len(&self) -> u64 {
        match self {
            Self::Octets(octets) => octets.len() as u64,
            Self::Range(range) => range.end - range.start,
        }
    }
}

/// What the answer says about the file besides what [`Meta`] tells.
#[derive(Clone, Copy, Debug)]
pub(super) struct Described<'a> {
    pub(super) content_type: &'a str,
    /// Name of the coding, of a precompressed variant.
    pub(super) coding: Option<&'static str>,
    /// True if other clients would be given another variant.
    pub(super) varies: bool,
    pub(super) cache_control: Option<&'a str>,
}

/// A plan: head and parts, the file being at hand.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) head: ResponseHead,
    pub(super) parts: Vec<Part>,
}

/// Plans the answer to GET or HEAD. `now` is in seconds since the epoch; `random` makes the
/// boundary of several ranges.
pub(super) fn plan(
    request: &RequestHead,
    meta: &Meta,
    described: &Described<'_>,
    now: u64,
    random: u64,
) -> Plan {
    let validators = Validators {
        etag: etag(meta, described.coding, now),
        // A date in the future would be no use to anybody (RFC 9110 §8.8.2.1).
        modified: meta.modified.min(now),
        now,
    };
    match conditional::evaluate(&request.method, &request.fields, &validators) {
        Verdict::Failed => status_only(412),
        Verdict::NotModified => {
            let mut plan = status_only(304);
            plan.head.described_length = Some(meta.size);
            plan.head.length = Length::None;
            about(&mut plan.head, &validators, described);
            plan
        }
        Verdict::Go => {
            let mut plan = content(request, meta, described, &validators, random);
            if request.method == Method::Head {
                let Length::Exact(length) = plan.head.length else {
                    return plan;
                };
                plan.head.described_length = Some(length);
                plan.head.length = Length::None;
                plan.parts.clear();
            }
            plan
        }
    }
}

fn content(
    request: &RequestHead,
    meta: &Meta,
    described: &Described<'_>,
    validators: &Validators,
    random: u64,
) -> Plan {
    // Range is defined for GET alone (RFC 9110 §14.2), and must be there once.
    let mut ranges = request.fields.all(Name::Range);
    let wanted = match (ranges.next(), ranges.next(), &request.method) {
        (Some(value), None, Method::Get)
            if conditional::range_holds(&request.fields, validators) =>
        {
            range::wanted(value, meta.size)
        }
        _ => Wanted::All,
    };
    let whole = || Part::Range(0..meta.size);
    let mut head = ResponseHead::default();
    let mut content_type = described.content_type.to_owned();
    let parts = match wanted {
        Wanted::Nothing => {
            let mut plan = status_only(416);
            let range = format!("bytes */{}", meta.size);
            plan.head
                .fields
                .append(Name::ContentRange, range.as_bytes());
            return plan;
        }
        Wanted::All => {
            head.status = 200;
            vec![whole()]
        }
        Wanted::Parts(ranges) => {
            head.status = 206;
            match <[Range<u64>; 1]>::try_from(ranges) {
                Ok([range]) => {
                    let value = content_range(&range, meta.size);
                    head.fields.append(Name::ContentRange, value.as_bytes());
                    vec![Part::Range(range)]
                }
                Err(ranges) => {
                    let boundary = format!("{random:016x}");
                    let parts = multipart(&ranges, meta.size, &content_type, &boundary);
                    content_type = format!("multipart/byteranges; boundary={boundary}");
                    parts
                }
            }
        }
    };
    head.length = Length::Exact(parts.iter().map(Part::len).sum());
    head.fields
        .append(Name::ContentType, content_type.as_bytes());
    head.fields.append(Name::AcceptRanges, b"bytes");
    about(&mut head, validators, described);
    Plan { head, parts }
}

/// Several ranges (RFC 9110 §14.6).
fn multipart(ranges: &[Range<u64>], size: u64, content_type: &str, boundary: &str) -> Vec<Part> {
    let mut parts = Vec::with_capacity(2 * ranges.len() + 1);
    for (index, range) in ranges.iter().enumerate() {
        let line = if index == 0 { "" } else { "\r\n" };
        let head = format!(
            "{line}--{boundary}\r\nContent-Type: {content_type}\r\nContent-Range: {}\r\n\r\n",
            content_range(range, size)
        );
        parts.push(Part::Octets(head.into_bytes()));
        parts.push(Part::Range(range.clone()));
    }
    parts.push(Part::Octets(format!("\r\n--{boundary}--\r\n").into_bytes()));
    parts
}

fn content_range(range: &Range<u64>, size: u64) -> String {
    format!("bytes {}-{}/{size}", range.start, range.end - 1)
}

/// The fields that 200, 206 and 304 have in common (RFC 9110 §15.4.5).
fn about(head: &mut ResponseHead, validators: &Validators, described: &Described<'_>) {
    let modified = conditional::http_date(validators.modified);
    head.fields.append(Name::LastModified, modified.as_bytes());
    head.fields.append(Name::Etag, validators.etag.as_bytes());
    if let Some(coding) = described.coding {
        head.fields.append(Name::ContentEncoding, coding.as_bytes());
    }
    if described.varies {
        head.fields.append(Name::Vary, b"Accept-Encoding");
    }
    if let Some(value) = described.cache_control {
        head.fields.append(Name::CacheControl, value.as_bytes());
    }
}

/// Of modification time and size, so that copies of a file on several hosts agree. A file that was
/// written just now may be written once more within the clock's grain: its tag is weak.
fn etag(meta: &Meta, coding: Option<&str>, now: u64) -> String {
    let mut tag = String::with_capacity(64);
    tag.push_str(if meta.modified + 1 >= now {
        "W/\""
    } else {
        "\""
    });
    push_hex(&mut tag, meta.modified);
    tag.push('.');
    push_hex(&mut tag, meta.nanos.into());
    tag.push('-');
    push_hex(&mut tag, meta.size);
    if let Some(coding) = coding {
        tag.push('-');
        tag.push_str(coding);
    }
    tag.push('"');
    tag
}

/// As `{:x}`, without what formatting asks for in general.
fn push_hex(text: &mut String, number: u64) {
    let digits = (u64::BITS - number.leading_zeros()).div_ceil(4).max(1);
    text.extend((0..digits).rev().filter_map(|digit| {
        let value = (number >> (4 * digit)) & 15;
        char::from_digit(value as u32, 16)
    }));
}

pub(super) fn status_only(status: u16) -> Plan {
    Plan {
        head: ResponseHead {
            status,
            length: Length::Exact(0),
            ..ResponseHead::default()
        },
        parts: Vec::new(),
    }
}
