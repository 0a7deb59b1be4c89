//! Which file a path names. Pure.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

/// A file's name below the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    /// Its segments, joined by slashes; empty for the root. Never `..`, never absolute.
    pub(super) path: OsString,
    /// True if the client asked for a folder: the path ends with a slash.
    pub(super) folder: bool,
}

/// Why a path names no file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoName {
    /// It is malformed, or means to leave the root.
    Invalid,
    /// It may be well-formed, but nothing of the kind is served.
    Absent,
}

/// The name that the path of a target (still percent-encoded) stands for.
pub(super) fn name(path: &[u8], strip_prefix: &str) -> Result<Name, NoName> {
    let rest = below(path, strip_prefix).ok_or(NoName::Absent)?;
    let mut decoded = Vec::with_capacity(rest.len());
    let mut last_is_name = false;
    for segment in rest.split(|&octet| octet == b'/') {
        let begin = decoded.len();
        if begin > 0 {
            decoded.push(b'/');
        }
        let own = decoded.len();
        percent_decode(segment, &mut decoded)?;
        last_is_name = match &decoded[own..] {
            b"" | b"." => {
                decoded.truncate(begin);
                false
            }
            b".." => return Err(NoName::Invalid),
            segment if segment.contains(&b'/') || segment.contains(&0) => {
                return Err(NoName::Invalid);
            }
            b".well-known" => true,
            [b'.', ..] => return Err(NoName::Absent),
            _ => true,
        };
    }
    Ok(Name {
        path: OsString::from_vec(decoded),
        folder: !last_is_name,
    })
}

/// What follows the prefix, which ends where a segment ends.
fn below<'p>(path: &'p [u8], prefix: &str) -> Option<&'p [u8]> {
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    let rest = path.strip_prefix(prefix.as_bytes())?;
    matches!(rest, [] | [b'/', ..]).then_some(rest)
}

fn percent_decode(segment: &[u8], out: &mut Vec<u8>) -> Result<(), NoName> {
    let mut octets = segment.iter();
    while let Some(&octet) = octets.next() {
        if octet != b'%' {
            out.push(octet);
            continue;
        }
        let mut digit = || {
            let &octet = octets.next()?;
            char::from(octet).to_digit(16).map(|digit| digit as u8)
        };
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err(NoName::Invalid);
        };
        out.push(high << 4 | low);
    }
    Ok(())
}

/// Appends a name so that it can stand in a link.
pub(super) fn percent_encode(name: &[u8], out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for &octet in name {
        if octet.is_ascii_alphanumeric() || b"-._~".contains(&octet) {
            out.push(char::from(octet));
        } else {
            out.push('%');
            out.push(char::from(DIGITS[usize::from(octet >> 4)]));
            out.push(char::from(DIGITS[usize::from(octet & 15)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::ffi::OsStrExt as _;

    fn named(path: &str) -> Option<(String, bool)> {
        let name = name(path.as_bytes(), "/static/").ok()?;
        let path = String::from_utf8_lossy(name.path.as_bytes()).into_owned();
        Some((path, name.folder))
    }

    #[test]
    fn names_are_decoded_once_and_folders_are_told() {
        for (path, expected) in [
            ("/static/a/b.txt", Some(("a/b.txt", false))),
            ("/static/a/", Some(("a", true))),
            ("/static/", Some(("", true))),
            ("/static", Some(("", true))),
            ("/static//a///b", Some(("a/b", false))),
            ("/static/./a/.", Some(("a", true))),
            ("/static/%61%20b", Some(("a b", false))),
            ("/static/%2561", Some(("%61", false))),
            ("/static/.well-known/x", Some((".well-known/x", false))),
            ("/static/a\\b", Some(("a\\b", false))),
            ("/static/...", None),
            ("/staticx/a", None),
            ("/other", None),
            ("/static/../etc/passwd", None),
            ("/static/%2e%2e/etc", None),
            ("/static/a/%2E.", None),
            ("/static/%2e%2e%2fetc", None),
            ("/static/a%2fb", None),
            ("/static/a%00", None),
            ("/static/%", None),
            ("/static/%4", None),
            ("/static/%zz", None),
            ("/static/.git/config", None),
            ("/static/%2egit", None),
        ] {
            let expected = expected.map(|(path, folder)| (path.to_owned(), folder));
            assert_eq!(named(path), expected, "{path}");
        }
    }

    proptest! {
        #[test]
        fn no_path_leaves_the_root(path in "(/|\\.|%2[eEfF]|%5c|%00|a|\\\\){0,24}") {
            if let Ok(name) = name(format!("/{path}").as_bytes(), "/") {
                let path = name.path.as_bytes();
                prop_assert!(!path.starts_with(b"/"));
                for segment in path.split(|&octet| octet == b'/') {
                    prop_assert!(segment != b".." && segment != b"." && !segment.contains(&0));
                    prop_assert!(!segment.is_empty() || path.is_empty());
                }
            }
        }

        #[test]
        fn an_encoded_name_is_decoded_to_itself(name in "[^/\0]{1,20}") {
            prop_assume!(!name.starts_with('.'));
            let mut encoded = "/".to_owned();
            percent_encode(name.as_bytes(), &mut encoded);
            let decoded = super::name(encoded.as_bytes(), "/").expect("a name");
            prop_assert_eq!(decoded.path.as_bytes(), name.as_bytes());
        }
    }
}
