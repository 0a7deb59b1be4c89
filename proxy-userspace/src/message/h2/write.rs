//! Heads written. Nothing is checked here: a head holds only what may be written.

use crate::message::h1::RequestKind;
use crate::message::{Fields, Length, Method, Name, RequestHead, ResponseHead};
use bytes::Bytes;
use h2::ext::Protocol;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{self, PathAndQuery};
use std::sync::LazyLock;

/// The known names as the `http` crate has them, by their numbers.
static NAMES: LazyLock<Vec<Option<HeaderName>>> = LazyLock::new(|| {
    let mut names = vec![None];
    for name in Name::KNOWN {
        names.push(HeaderName::from_bytes(name.spelled().as_bytes()).ok());
    }
    names
});

/// Writes a request for a backend: `http` where the client's connection is in clear text, `Host`
/// as `:authority`. An upgrade becomes extended CONNECT (RFC 8441 §5), whose handshake is not
/// the WebSocket's.
///
/// # Errors
///
/// Path or host are not what the `http` crate takes for such.
pub fn write_request(head: &RequestHead) -> Result<http::Request<()>, http::Error> {
    let mut parts = uri::Parts::default();
    if !head.authority().is_empty() {
        parts.authority = Some(head.authority().try_into()?);
    }
    let is_tunnel = !head.protocol.is_empty();
    if head.method != Method::Connect || is_tunnel {
        parts.scheme = Some(match head.scheme.name() {
            "https" => uri::Scheme::HTTPS,
            _ => uri::Scheme::HTTP,
        });
        parts.path_and_query = Some(path(head.target())?);
    }
    let method = if is_tunnel {
        http::Method::CONNECT
    } else {
        method(&head.method)?
    };
    let mut request = http::Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = http::Uri::from_parts(parts)?;
    *request.version_mut() = http::Version::HTTP_2;
    if is_tunnel {
        let protocol = String::from_utf8_lossy(&head.protocol);
        request.extensions_mut().insert(Protocol::from(&*protocol));
    }
    let fields = request.headers_mut();
    write_fields(&head.fields, fields);
    if is_tunnel {
        fields.remove(header::SEC_WEBSOCKET_KEY);
    }
    if let Length::Exact(length) = head.length {
        fields.insert(header::CONTENT_LENGTH, length.into());
    }
    if head.expects_continue {
        fields.insert(header::EXPECT, HeaderValue::from_static("100-continue"));
    }
    if head.accepts_trailers {
        fields.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    Ok(request)
}

fn method(method: &Method) -> Result<http::Method, http::Error> {
    Ok(match method {
        Method::Get => http::Method::GET,
        Method::Head => http::Method::HEAD,
        Method::Post => http::Method::POST,
        Method::Put => http::Method::PUT,
        other => http::Method::from_bytes(other.as_bytes())?,
    })
}

/// The target. What may not stand in one and browsers send all the same (`<`, `` ` ``) is
/// percent-encoded, which RFC 3986 §2.4 calls the same.
fn path(target: &[u8]) -> Result<PathAndQuery, http::Error> {
    let mut taken = Bytes::copy_from_slice(target);
    for _ in 0..2 {
        if let Ok(path) = PathAndQuery::from_maybe_shared(taken.clone()) {
            return Ok(path);
        }
        let mut encoded = Vec::with_capacity(target.len() + 16);
        for &octet in target {
            match octet {
                b'<' | b'>' | b'`' | b'^' | b'\\' | b'|' | b'"' | b'{' | b'}' => {
                    encoded.push(b'%');
                    encoded.push(HEX[usize::from(octet >> 4)]);
                    encoded.push(HEX[usize::from(octet & 15)]);
                }
                _ => encoded.push(octet),
            }
        }
        taken = encoded.into();
    }
    Ok(PathAndQuery::from_maybe_shared(taken)?)
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// Writes a response for a client. `to` is what is answered.
pub fn write_response(head: &ResponseHead, to: RequestKind) -> http::Response<()> {
    let mut response = http::Response::new(());
    let status = match head.status {
        101 => 200,
        status => status,
    };
    // All numbers from 100 to 999 are taken.
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
    let fields = response.headers_mut();
    write_fields(&head.fields, fields);
    if head.status == 101 {
        fields.remove(header::SEC_WEBSOCKET_ACCEPT);
        return response;
    }
    let length = match (to, head.status) {
        (_, ..200 | 204) => None,
        (RequestKind::Head, _) | (_, 304) => head.described_length,
        _ => match head.length {
            Length::Exact(length) => Some(length),
            Length::None | Length::Unknown => None,
        },
    };
    if let Some(length) = length {
        fields.insert(header::CONTENT_LENGTH, length.into());
    }
    response
}

/// Writes trailers.
pub fn write_trailers(trailers: &Fields) -> HeaderMap {
    let mut map = HeaderMap::new();
    write_fields(trailers, &mut map);
    map
}

fn write_fields(fields: &Fields, map: &mut HeaderMap) {
    map.reserve(fields.len() + 2);
    for (name, spelled, value) in fields.shared() {
        // The configuration may have added one.
        if name.is_hop_by_hop() {
            continue;
        }
        let known = NAMES.get(name as usize).cloned().flatten();
        let name = known.or_else(|| HeaderName::from_bytes(spelled).ok());
        let value = HeaderValue::from_maybe_shared(value).ok();
        debug_assert!(
            name.is_some() && value.is_some(),
            "a head holds only what is valid"
        );
        if let (Some(name), Some(value)) = (name, value) {
            map.append(name, value);
        }
    }
}
