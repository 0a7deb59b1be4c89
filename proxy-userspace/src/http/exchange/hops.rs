//! `Max-Forwards`: how many more intermediaries may pass a TRACE or OPTIONS on (RFC 9110 §7.6.2).
//!
//! Whoever looks for the hop at which requests go astray counts down with it. At 0 we are the last
//! recipient: TRACE is answered with the request as it came, less what others must not learn (RFC
//! 9110 §9.3.8), OPTIONS with the methods that pass.

use super::respond::Fixed;
use crate::message::{Method, Name, RequestHead, Version};

/// What the field makes of a request that would be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hops {
    /// It is passed on; the field counts one less, if there is one.
    On,
    /// It is answered here.
    Last,
}

/// Counts this hop.
pub(super) fn count(request: &mut RequestHead) -> Hops {
    if !matches!(request.method, Method::Trace | Method::Options) {
        return Hops::On;
    }
    let value = request.fields.get(Name::MaxForwards);
    let Some(left) = value.and_then(number) else {
        return Hops::On;
    };
    let Some(left) = left.checked_sub(1) else {
        return Hops::Last;
    };
    let text = left.to_string();
    request.fields.set(Name::MaxForwards, text.as_bytes());
    Hops::On
}

/// A decimal number; one that is too large is as good as the largest.
fn number(value: &[u8]) -> Option<u64> {
    let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    is_number.then(|| {
        value.iter().fold(0_u64, |number, digit| {
            number
                .saturating_mul(10)
                .saturating_add(u64::from(digit - b'0'))
        })
    })
}

/// The answer of the last recipient. `target` is what the client asked for.
pub(super) fn answer(request: &RequestHead, target: &[u8]) -> Fixed {
    if request.method == Method::Options {
        return Fixed::new(200, b"", b"");
    }
    Fixed::new(200, b"message/http", &reflected(request, target))
}

/// The methods that are passed on, for `Allow`.
pub(super) const ALLOW: &[u8] = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE";

/// Fields that tell who somebody is.
const SECRET: [Name; 3] = [Name::Authorization, Name::ProxyAuthorization, Name::Cookie];

/// The request as it came, in the form of HTTP/1.
fn reflected(request: &RequestHead, target: &[u8]) -> Vec<u8> {
    let version: &[u8] = match request.version {
        Version::Http10 => b"HTTP/1.0",
        Version::Http11 => b"HTTP/1.1",
        Version::Http2 => b"HTTP/2",
    };
    let mut out = [
        request.method.as_bytes(),
        b" ",
        target,
        b" ",
        version,
        b"\r\n",
    ]
    .concat();
    let mut field = |name: &[u8], value: &[u8]| {
        for part in [name, b": ", value, b"\r\n"] {
            out.extend_from_slice(part);
        }
    };
    if !request.authority().is_empty() {
        field(b"Host", request.authority());
    }
    for line in request.fields.iter() {
        if !SECRET.contains(&line.name) {
            field(line.spelled, line.value);
        }
    }
    out.extend_from_slice(b"\r\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: Method, left: &[&[u8]]) -> RequestHead {
        let mut request = RequestHead::default();
        request.method = method;
        request.set_authority(b"a.example");
        request.set_target(b"/x?y");
        for value in left {
            request.fields.append(Name::MaxForwards, value);
        }
        request
    }

    #[test]
    fn each_hop_counts_one_less() {
        let mut trace = request(Method::Trace, &[b"10"]);
        assert_eq!(count(&mut trace), Hops::On);
        assert_eq!(trace.fields.get(Name::MaxForwards), Some(&b"9"[..]));
        assert_eq!(count(&mut request(Method::Options, &[b"0"])), Hops::Last);
        let mut huge = request(Method::Trace, &[b"99999999999999999999999"]);
        assert_eq!(count(&mut huge), Hops::On);
    }

    #[test]
    fn other_methods_and_what_is_no_number_do_not_count() {
        for mut other in [
            request(Method::Get, &[b"0"]),
            request(Method::Trace, &[b"-1"]),
            request(Method::Trace, &[b""]),
            request(Method::Trace, &[]),
        ] {
            let before = other.fields.get(Name::MaxForwards).map(<[u8]>::to_vec);
            assert_eq!(count(&mut other), Hops::On);
            assert_eq!(other.fields.get(Name::MaxForwards), before.as_deref());
        }
    }

    #[test]
    fn a_trace_shows_the_request_without_its_secrets() {
        let mut trace = request(Method::Trace, &[b"0"]);
        trace.fields.append_named(b"X-Probe", b"1");
        trace.fields.append(Name::Cookie, b"session=s3cret");
        trace.fields.append(Name::Authorization, b"Basic s3cret");
        let text = String::from_utf8(reflected(&trace, b"/x?y")).expect("text");
        assert!(
            text.starts_with("TRACE /x?y HTTP/1.1\r\nHost: a.example\r\n"),
            "{text}"
        );
        assert!(
            text.contains("X-Probe: 1\r\n") && !text.contains("s3cret"),
            "{text}"
        );
    }
}
