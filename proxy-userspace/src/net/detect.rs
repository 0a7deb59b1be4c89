//! What a client speaks, by its first octets.
//!
//! HTTP/2 and TLS begin as nothing else does. HTTP/1 is a token, a space and a target that looks
//! like one; and if the line's end is there, it must say so (`HTTP/1.`), for other protocols of
//! lines have words like `GET` as well. Whatever is in doubt is not HTTP: passing it on as it is
//! can do no harm, and taking it for HTTP could.

use super::h2::PREFACE;

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// HTTP/1.
    Http1,
    /// HTTP/2, with prior knowledge.
    Http2,
    /// TLS.
    Tls,
    /// Something else.
    Other,
}

/// Octets that [`detect`] needs at most to be sure; with more it knows a little better.
pub const ENOUGH: usize = 64;

/// The longest method of which one is registered has 16 octets (`UPDATEREDIRECTREF` 17).
const LONGEST_METHOD: usize = 20;

/// What begins with these octets; `None` while more are needed to tell.
pub fn detect(octets: &[u8]) -> Option<Protocol> {
    let first = *octets.first()?;
    if first == 22 {
        return tls(octets);
    }
    if octets
        .iter()
        .zip(PREFACE)
        .all(|(come, wanted)| come == wanted)
    {
        return (octets.len() >= PREFACE.len()).then_some(Protocol::Http2);
    }
    if !is_token(first) {
        return Some(Protocol::Other);
    }
    let window = &octets[..octets.len().min(LONGEST_METHOD + 1)];
    let Some(end) = window.iter().position(|&octet| !is_token(octet)) else {
        return (octets.len() > LONGEST_METHOD).then_some(Protocol::Other);
    };
    if octets[end] != b' ' {
        return Some(Protocol::Other);
    }
    target(&octets[..end], &octets[end + 1..])
}

/// What has a method's look in front of it.
fn target(method: &[u8], rest: &[u8]) -> Option<Protocol> {
    let line = rest.iter().position(|&octet| octet == b'\n').map(|end| {
        let line = &rest[..end];
        line.strip_suffix(b"\r").unwrap_or(line)
    });
    if let Some(line) = line {
        let is_http = line.rsplit(|&octet| octet == b' ').next();
        let is_http = is_http.is_some_and(|word| word.starts_with(b"HTTP/1."));
        return Some(if is_http {
            Protocol::Http1
        } else {
            Protocol::Other
        });
    }
    let begins = |with: &[u8]| {
        let known = rest.len().min(with.len());
        rest[..known]
            .eq_ignore_ascii_case(&with[..known])
            .then_some(known == with.len())
    };
    let forms: &[&[u8]] = match method {
        b"CONNECT" => &[],
        b"OPTIONS" => &[b"/", b"http://", b"https://", b"* "],
        _ => &[b"/", b"http://", b"https://"],
    };
    if method == b"CONNECT" {
        // An authority: the line's end tells.
        return (rest.len() > 255).then_some(Protocol::Other);
    }
    let looks: Vec<bool> = forms.iter().filter_map(|form| begins(form)).collect();
    match looks.as_slice() {
        [] => Some(Protocol::Other),
        // A short line may still come to its end.
        all if all.contains(&true) && rest.len() >= ENOUGH / 2 => Some(Protocol::Http1),
        _ => None,
    }
}

/// A record of the kind for handshakes, of any version.
fn tls(octets: &[u8]) -> Option<Protocol> {
    match octets {
        [_, major, _, _, _, kind, ..] => Some(match (major, kind) {
            // A ClientHello.
            (3, 1) => Protocol::Tls,
            _ => Protocol::Other,
        }),
        [_, major, ..] if *major != 3 => Some(Protocol::Other),
        _ => None,
    }
}

fn is_token(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&octet)
}

/// What is assumed where no more octets come: what has come looks like HTTP, or it is not HTTP.
pub fn settle(octets: &[u8]) -> Protocol {
    let is_begun = |method: &[u8]| octets.starts_with(method);
    let methods: [&[u8]; 7] = [
        b"GET /",
        b"POST /",
        b"PUT /",
        b"HEAD /",
        b"DELETE /",
        b"PATCH /",
        b"OPTIONS /",
    ];
    match methods.into_iter().any(is_begun) {
        true => Protocol::Http1,
        false => Protocol::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Protocol::{Http1, Http2, Other, Tls};

    #[test]
    fn protocols_are_told_apart() {
        for (octets, spoken) in [
            (&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], Http1),
            (b"POST http://a.example/x HTTP/1.0\n", Http1),
            (b"OPTIONS * HTTP/1.1\r\n", Http1),
            (b"CONNECT a.example:443 HTTP/1.1\r\n", Http1),
            (b"BASELINE-CONTROL /x HTTP/1.1\r\n", Http1),
            (PREFACE, Http2),
            (&[22, 3, 1, 2, 0, 1, 0, 1, 252], Tls),
            (&[22, 3, 1, 2, 0, 2, 0, 1, 252], Other),
            (&[22, 2, 1], Other),
            // Redis, in both its forms; memcached; SMTP; Postgres; MySQL; SSH.
            (b"*1\r\n$4\r\nPING\r\n", Other),
            (b"PING\r\n", Other),
            (b"GET /key\r\n", Other),
            (b"GET key\r\n", Other),
            (b"get key\r\n", Other),
            (b"EHLO a.example\r\n", Other),
            (&[0, 0, 0, 8, 4, 210, 22, 47], Other),
            (b"SSH-2.0-OpenSSH_9.6\r\n", Other),
            (b"PRI / HTTP/1.1\r\n", Http1),
            (b"averyveryverylongwordthatisnomethod x", Other),
        ] {
            assert_eq!(detect(octets), Some(spoken), "{octets:?}");
        }
    }

    #[test]
    fn what_is_short_needs_more_and_then_stays_the_same() {
        for (octets, spoken) in [
            (
                &b"GET /a/long/path/that/does/not/end/soon/enough HTTP/1.1\r\n"[..],
                Http1,
            ),
            (PREFACE, Http2),
            (&[22, 3, 1, 2, 0, 1], Tls),
            (b"PING\r\n", Other),
            (b"GET key\r\n", Other),
        ] {
            assert_eq!(detect(b""), None);
            let mut known = None;
            for end in 1..=octets.len() {
                let now = detect(&octets[..end]);
                assert!(
                    known.is_none() || now == known,
                    "{octets:?} at {end}: {now:?}"
                );
                known = now;
            }
            assert_eq!(known, Some(spoken));
        }
    }

    #[test]
    fn a_line_that_does_not_go_on_is_judged_by_what_there_is() {
        assert_eq!(settle(b"GET /"), Http1);
        assert_eq!(settle(b"GE"), Other);
        assert_eq!(settle(b""), Other);
    }
}
