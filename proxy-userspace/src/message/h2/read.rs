//! Heads read.

use crate::message::h1::octets::{is_blank, target_len, token_len, trim, value_len};
use crate::message::h1::{HeadLimits, RequestKind, trailers};
use crate::message::{Authority, Fields, Length, Method, Name, Refusal, RequestHead, ResponseHead};
use crate::message::{Scheme, Version};
use h2::ext::Protocol;
use http::HeaderMap;
use http::header::HeaderValue;

/// Longest method, in octets: as in HTTP/1.
const MAX_METHOD: usize = 32;

/// Reads a request's head. `has_ended`: no content follows.
///
/// # Errors
///
/// The request is not one, or not within the limits.
pub fn read_request(
    from: &http::request::Parts,
    has_ended: bool,
    limits: &HeadLimits,
    head: &mut RequestHead,
) -> Result<(), Refusal> {
    head.clear();
    head.version = Version::Http2;
    head.scheme = Scheme::Http;
    let method = from.method.as_str().as_bytes();
    if method.len() > MAX_METHOD {
        return Err(Refusal::Method);
    }
    head.method = Method::of(method);
    if let Some(protocol) = from.extensions.get::<Protocol>() {
        let protocol = protocol.as_str().as_bytes();
        if protocol.is_empty() || value_len(protocol) < protocol.len() || has_blank(protocol) {
            return Err(Refusal::Upgrade);
        }
        head.protocol.extend_from_slice(protocol);
    }
    read_target(&from.uri, limits, head)?;
    if from.headers.len() > limits.fields as usize {
        return Err(Refusal::TooManyFields);
    }
    let mut announced = None;
    for (name, value) in &from.headers {
        read_field(
            name.as_str().as_bytes(),
            value.as_bytes(),
            &mut announced,
            head,
        )?;
    }
    join_cookies(&from.headers, head);
    if head.authority().is_empty() {
        return Err(Refusal::HostMissing);
    }
    head.length = match announced {
        Some(length) => Length::Exact(length),
        None if has_ended => Length::None,
        None => Length::Unknown,
    };
    if head.method == Method::Connect {
        if announced.is_some_and(|length| length > 0) {
            return Err(Refusal::Upgrade);
        }
        // What follows is the tunnel's, and comes once the tunnel stands.
        head.length = Length::None;
    }
    head.expects_continue &= !head.length.is_empty();
    Ok(())
}

fn has_blank(octets: &[u8]) -> bool {
    octets.iter().copied().any(is_blank)
}

/// Reads `:scheme`, `:authority` and `:path`.
fn read_target(
    uri: &http::Uri,
    limits: &HeadLimits,
    head: &mut RequestHead,
) -> Result<(), Refusal> {
    let known = |scheme: &str| matches!(scheme, "http" | "https");
    if uri.scheme_str().is_some_and(|scheme| !known(scheme)) {
        return Err(Refusal::Target);
    }
    if let Some(authority) = uri.authority() {
        let octets = authority.as_str().as_bytes();
        let read = Authority::of(octets).ok_or(Refusal::HostInvalid)?;
        head.set_read_authority(octets, read);
    }
    let Some(target) = uri.path_and_query() else {
        // CONNECT without a protocol has neither scheme nor path.
        return match head.method {
            Method::Connect if head.protocol.is_empty() => Ok(()),
            _ => Err(Refusal::PseudoField),
        };
    };
    let target = target.as_str().as_bytes();
    if target.len() > limits.target_bytes as usize {
        return Err(Refusal::TargetTooLong);
    }
    let is_known_form =
        target.first() == Some(&b'/') || (target == b"*" && head.method == Method::Options);
    if !is_known_form || target_len(target) < target.len() {
        return Err(Refusal::Target);
    }
    head.set_target(target);
    Ok(())
}

#[inline]
fn read_field(
    spelled: &[u8],
    value: &[u8],
    announced: &mut Option<u64>,
    head: &mut RequestHead,
) -> Result<(), Refusal> {
    let name = read_name(spelled)?;
    let outer = |octet: Option<&u8>| octet.is_some_and(|&octet| is_blank(octet));
    if outer(value.first()) || outer(value.last()) || value_len(value) < value.len() {
        return Err(Refusal::FieldValue);
    }
    match name {
        Name::Host => read_host(value, head),
        Name::ContentLength if announced.is_some() => Err(Refusal::ContentLength),
        Name::ContentLength => {
            *announced = Some(number(value).ok_or(Refusal::ContentLength)?);
            Ok(())
        }
        Name::Expect if value.eq_ignore_ascii_case(b"100-continue") => {
            head.expects_continue = true;
            Ok(())
        }
        Name::Expect => Err(Refusal::Expectation),
        Name::Te if value.eq_ignore_ascii_case(b"trailers") => {
            head.accepts_trailers = true;
            Ok(())
        }
        // Joined later.
        Name::Cookie | Name::Trailer => Ok(()),
        _ if name.is_hop_by_hop() => Err(Refusal::ForbiddenField),
        _ => {
            head.fields.push(name, spelled, value);
            Ok(())
        }
    }
}

/// Reads a field's name. `http` also takes quotation marks for a part of one, which HTTP/1 does not
/// (RFC 9110 §5.6.2).
#[inline]
fn read_name(spelled: &[u8]) -> Result<Name, Refusal> {
    let name = Name::of(spelled);
    if name == Name::Other && token_len(spelled) < spelled.len() {
        return Err(Refusal::FieldName);
    }
    Ok(name)
}

fn read_host(value: &[u8], head: &mut RequestHead) -> Result<(), Refusal> {
    let host = Authority::of(value).ok_or(Refusal::HostInvalid)?;
    let Some(authority) = Authority::of(head.authority()) else {
        head.set_read_authority(value, host);
        return Ok(());
    };
    // A second Host meets the first one here, and must not differ either.
    if host.is_same(authority, Some(80)) {
        Ok(())
    } else {
        Err(Refusal::HostAmbiguous)
    }
}

/// Makes one field of all cookies.
fn join_cookies(fields: &HeaderMap, head: &mut RequestHead) {
    let mut crumbs = fields.get_all(http::header::COOKIE).iter();
    let Some(first) = crumbs.next() else { return };
    let Some(second) = crumbs.next() else {
        head.fields.append(Name::Cookie, first.as_bytes());
        return;
    };
    let mut joined = [first.as_bytes(), second.as_bytes()].join(&b"; "[..]);
    for crumb in crumbs {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(crumb.as_bytes());
    }
    head.fields.append(Name::Cookie, &joined);
}

/// Decimal digits and nothing else, of what signed 64-bit arithmetic holds.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    i64::try_from(number).is_ok().then_some(number)
}

/// Reads a response's head. `has_ended`: no content follows. `to` is what is answered.
///
/// # Errors
///
/// The response is not one.
pub fn read_response(
    from: &http::response::Parts,
    has_ended: bool,
    to: RequestKind,
    head: &mut ResponseHead,
) -> Result<(), Refusal> {
    head.clear();
    head.version = Version::Http2;
    head.status = from.status.as_u16();
    // HTTP/2 has no 101 (RFC 9113 §8.6).
    if head.status == 101 {
        return Err(Refusal::Upgrade);
    }
    let mut announced = None;
    for (name, value) in &from.headers {
        let spelled = name.as_str().as_bytes();
        let name = read_name(spelled)?;
        match name {
            Name::ContentLength => {
                let length = number(value.as_bytes()).ok_or(Refusal::ContentLength)?;
                if announced.is_some_and(|before| before != length) {
                    return Err(Refusal::ContentLength);
                }
                announced = Some(length);
            }
            Name::Trailer => {}
            _ if name.is_hop_by_hop() => {}
            _ => head.fields.push(name, spelled, trim(value.as_bytes())),
        }
    }
    let has_none = to == RequestKind::Head || matches!(head.status, 100..200 | 204 | 304);
    if has_none {
        if head.status >= 200 && head.status != 204 {
            head.described_length = announced;
        }
        head.length = Length::None;
    } else {
        head.length = match announced {
            Some(length) => Length::Exact(length),
            None if has_ended => Length::Exact(0),
            None => Length::Unknown,
        };
    }
    Ok(())
}

/// Reads trailers: those that may be passed on.
///
/// # Errors
///
/// There are too many, or one has no valid name.
pub fn read_trailers(
    from: &HeaderMap<HeaderValue>,
    limits: &HeadLimits,
    fields: &mut Fields,
) -> Result<(), Refusal> {
    fields.clear();
    if from.len() > limits.fields as usize {
        return Err(Refusal::Trailers);
    }
    for (name, value) in from {
        let spelled = name.as_str().as_bytes();
        let name = read_name(spelled).map_err(|_| Refusal::Trailers)?;
        if trailers::is_allowed(name, spelled) {
            fields.push(name, spelled, trim(value.as_bytes()));
        }
    }
    Ok(())
}
