//! New paths and locations.

use crate::config::model::http::{PathRewrite, Redirect};
use crate::message::RequestHead;
use crate::types::{PatternError, Substitution};

/// A path rewrite, ready to be applied.
#[derive(Clone, Debug)]
pub enum CompiledRewrite {
    /// This path.
    Full(Box<[u8]>),
    /// Replaces the prefix that the rule matched; without a slash at its end.
    Prefix(Box<[u8]>),
    /// Replaces what a regular expression matches.
    Regex(Box<Substitution>),
}

impl CompiledRewrite {
    /// The rewrite that the model has.
    ///
    /// # Errors
    ///
    /// If its regular expression or its replacement is not valid.
    pub fn new(rewrite: &PathRewrite) -> Result<Self, PatternError> {
        Ok(match rewrite {
            PathRewrite::Full(path) => Self::Full(path.as_bytes().into()),
            PathRewrite::Prefix(prefix) => {
                let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
                Self::Prefix(prefix.as_bytes().into())
            }
            PathRewrite::Regex {
                pattern,
                replacement,
            } => Self::Regex(Box::new(Substitution::new(pattern, replacement)?)),
        })
    }

    /// Appends the new path to `out`; it begins with a slash. `prefix_len` is that of
    /// [`super::Found`].
    pub fn apply(&self, path: &[u8], prefix_len: usize, out: &mut Vec<u8>) {
        let begin = out.len();
        match self {
            Self::Full(path) => out.extend_from_slice(path),
            Self::Prefix(prefix) => {
                out.extend_from_slice(prefix);
                out.extend_from_slice(path.get(prefix_len..).unwrap_or_default());
            }
            Self::Regex(substitution) => substitution.apply(path, out),
        }
        if out.get(begin) != Some(&b'/') {
            out.insert(begin, b'/');
        }
    }
}

/// Appends the `Location` of a redirect (RFC 9110 §10.2.2) to `out`: an absolute URI, or, where
/// neither the request nor the redirect has a host, an absolute path.
///
/// `path` is the request's, after [`super::normalise()`]; `rewrite` is `redirect.path`. If the
/// scheme changes and no port is given, the new scheme's usual port holds.
pub fn location(
    redirect: &Redirect,
    rewrite: Option<&CompiledRewrite>,
    head: &RequestHead,
    path: &[u8],
    prefix_len: usize,
    out: &mut Vec<u8>,
) {
    let host = match &redirect.host {
        Some(host) => host.as_bytes(),
        None => head.host(),
    };
    let scheme = redirect.scheme.as_deref().unwrap_or(head.scheme.name());
    if !host.is_empty() {
        out.extend_from_slice(scheme.as_bytes());
        out.extend_from_slice(b"://");
        out.extend_from_slice(host);
        port(redirect, scheme, head, out);
    }
    let begin = out.len();
    match rewrite {
        Some(rewrite) => rewrite.apply(path, prefix_len, out),
        None if path.starts_with(b"/") => out.extend_from_slice(path),
        None => out.push(b'/'),
    }
    if host.is_empty() {
        // Two slashes at the beginning of a reference would name a host: the client's path.
        let slash = |octet: &u8| matches!(octet, b'/' | b'\\');
        let slashes = out[begin..].iter().take_while(|octet| slash(octet)).count();
        out.drain(begin..begin + slashes.saturating_sub(1));
        out[begin] = b'/';
    }
    if redirect.keep_query
        && let Some(query) = head.query()
    {
        out.push(b'?');
        out.extend_from_slice(query);
    }
}

fn port(redirect: &Redirect, scheme: &str, head: &RequestHead, out: &mut Vec<u8>) {
    match redirect.port {
        Some(80) if scheme == "http" => {}
        Some(443) if scheme == "https" => {}
        Some(port) => {
            out.push(b':');
            out.extend_from_slice(port.to_string().as_bytes());
        }
        None if redirect.scheme.is_none() => {
            // The colon and the port that follow the host.
            let port = head.authority().get(head.host().len()..);
            out.extend_from_slice(port.unwrap_or_default());
        }
        None => {}
    }
}
