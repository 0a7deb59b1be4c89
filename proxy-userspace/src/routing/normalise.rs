//! One spelling for each path, before routes are looked at.

use crate::message::Refusal;
use std::borrow::Cow;
use std::ops::Range;

/// Why a path is refused (400).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PathRefusal {
    /// A percent sign without two hexadecimal digits.
    Encoding,
    /// `%00`, at which some servers end the path.
    Nul,
    /// Servers read it in different ways: a dot segment beside `%2F`, `%5C` or `\`, one with
    /// parameters (`..;x`), or one that would take back an empty segment (`//..`).
    Ambiguous,
}

impl From<PathRefusal> for Refusal {
    fn from(refusal: PathRefusal) -> Self {
        match refusal {
            PathRefusal::Encoding => Self::PathEncoding,
            PathRefusal::Nul => Self::PathNul,
            PathRefusal::Ambiguous => Self::PathAmbiguous,
        }
    }
}

impl PathRefusal {
    /// All refusals.
    pub const ALL: [Self; 3] = [Self::Encoding, Self::Nul, Self::Ambiguous];

    /// For metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Encoding => "path_encoding",
            Self::Nul => "path_nul",
            Self::Ambiguous => "path_ambiguous",
        }
    }
}

/// The path in its normal form (RFC 3986 §6.2.2): percent-encoded unreserved characters are
/// decoded, other encodings have digits in upper case, dot segments are taken away (above the
/// root there is nothing: they vanish). Borrowed if that changes nothing, which is the usual case.
///
/// Nothing else changes: several slashes stay several, `%2F` stays encoded, so that the path may
/// be sent on in this form. Applied twice it does what it does once. A path that does not begin
/// with a slash (`*`) stays as it is.
///
/// # Errors
///
/// If the path has no normal form that all servers agree on.
pub fn normalise(path: &[u8]) -> Result<Cow<'_, [u8]>, PathRefusal> {
    if is_normal(path) {
        return Ok(Cow::Borrowed(path));
    }
    let decoded = decode(path)?;
    let plain = remove_dots(&decoded)?;
    if plain == path {
        return Ok(Cow::Borrowed(path));
    }
    Ok(Cow::Owned(plain))
}

/// As [`normalise`], for paths of the configuration, which are judged elsewhere.
pub(super) fn normalised(path: &[u8]) -> Cow<'_, [u8]> {
    normalise(path).unwrap_or(Cow::Borrowed(path))
}

/// True if a look tells that there is nothing to do: no encoding, no dot after a slash.
fn is_normal(path: &[u8]) -> bool {
    let Some(first) = memchr::memchr3(b'%', b'\\', b'.', path) else {
        return true;
    };
    let mut after_slash = path[..first].last() == Some(&b'/');
    for &octet in &path[first..] {
        match octet {
            b'%' | b'\\' => return !path.starts_with(b"/"),
            b'.' if after_slash => return !path.starts_with(b"/"),
            _ => after_slash = octet == b'/',
        }
    }
    true
}

fn decode(path: &[u8]) -> Result<Vec<u8>, PathRefusal> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&octet, after)) = rest.split_first() {
        rest = after;
        if octet != b'%' {
            out.push(octet);
            continue;
        }
        let digits = rest.first_chunk::<2>().ok_or(PathRefusal::Encoding)?;
        let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
        let (Some(high), Some(low)) = (high, low) else {
            return Err(PathRefusal::Encoding);
        };
        rest = &rest[2..];
        // Two hexadecimal digits make an octet.
        match (high << 4 | low) as u8 {
            0 => return Err(PathRefusal::Nul),
            octet if octet.is_ascii_alphanumeric() || b"-._~".contains(&octet) => out.push(octet),
            _ => {
                out.push(b'%');
                out.extend(digits.map(|digit| digit.to_ascii_uppercase()));
            }
        }
    }
    Ok(out)
}

/// RFC 3986 §5.2.4.
fn remove_dots(path: &[u8]) -> Result<Vec<u8>, PathRefusal> {
    let mut out = Vec::with_capacity(path.len());
    let mut parts = path[1..].split(|&octet| octet == b'/').peekable();
    while let Some(part) = parts.next() {
        let is_last = parts.peek().is_none();
        match part {
            b"." => {}
            b".." => {
                let slash = out.iter().rposition(|&octet| octet == b'/');
                // `//..` is `/` where slashes are merged first, and `//` less one where not.
                if slash.is_some_and(|slash| slash + 1 == out.len()) {
                    return Err(PathRefusal::Ambiguous);
                }
                out.truncate(slash.unwrap_or(0));
            }
            _ if hides_dots(part) => return Err(PathRefusal::Ambiguous),
            _ => {
                out.push(b'/');
                out.extend_from_slice(part);
                continue;
            }
        }
        if is_last {
            out.push(b'/');
        }
    }
    Ok(out)
}

/// True if some servers find a dot segment in this segment.
fn hides_dots(segment: &[u8]) -> bool {
    let mut begin = 0;
    loop {
        let (end, next) = match separator_from(segment, begin) {
            Some(separator) => (separator.start, Some(separator.end)),
            None => (segment.len(), None),
        };
        let piece = &segment[begin..end];
        let name = piece.split(|&octet| octet == b';').next();
        if matches!(name, Some(b"." | b"..")) {
            return true;
        }
        match next {
            Some(next) => begin = next,
            None => return false,
        }
    }
}

/// What ends a segment for some server, from `at` on.
fn separator_from(path: &[u8], mut at: usize) -> Option<Range<usize>> {
    while at < path.len() {
        let length = separator(&path[at..]);
        if length > 0 {
            return Some(at..at + length);
        }
        at += 1;
    }
    None
}

/// Octets of the slash that `rest` begins with, in any spelling; 0 if with none.
#[inline]
fn separator(rest: &[u8]) -> usize {
    match rest {
        [b'/' | b'\\', ..] => 1,
        [b'%', b'2', b'F', ..] | [b'%', b'5', b'C', ..] => 3,
        _ => 0,
    }
}

/// The segments of a path that begins with a slash: empty ones only at the end.
pub(super) fn segments(path: &[u8]) -> Segments<'_> {
    Segments {
        path,
        at: Some(path.len().min(1)),
    }
}

/// See [`segments`].
#[derive(Clone)]
pub(super) struct Segments<'a> {
    path: &'a [u8],
    at: Option<usize>,
}

impl Iterator for Segments<'_> {
    type Item = Range<usize>;

    #[inline]
    fn next(&mut self) -> Option<Range<usize>> {
        loop {
            let begin = self.at?;
            let Some(separator) = separator_from(self.path, begin) else {
                self.at = None;
                return Some(begin..self.path.len());
            };
            self.at = Some(separator.end);
            if separator.start > begin {
                return Some(begin..separator.start);
            }
        }
    }
}

/// The octets of a path as regular expressions see it: each run of slashes, in whatever spelling,
/// is one slash.
pub(super) fn view(path: &[u8]) -> View<'_> {
    View {
        rest: path,
        after_slash: false,
    }
}

/// See [`view`].
#[derive(Clone)]
pub(super) struct View<'a> {
    rest: &'a [u8],
    after_slash: bool,
}

impl Iterator for View<'_> {
    type Item = u8;

    #[inline]
    fn next(&mut self) -> Option<u8> {
        loop {
            let (&octet, after) = self.rest.split_first()?;
            let slash = separator(self.rest);
            if slash == 0 {
                self.rest = after;
                self.after_slash = false;
                return Some(octet);
            }
            self.rest = &self.rest[slash..];
            if !std::mem::replace(&mut self.after_slash, true) {
                return Some(b'/');
            }
        }
    }
}
