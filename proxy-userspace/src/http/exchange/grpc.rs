//! What gRPC makes of HTTP: statuses of its own, and answers without content that carry them.
//!
//! A gRPC server answers 200 whatever happens, and says in `grpc-status` what has become of the call:
//! in a trailer behind the messages, or, where there are none, in the head ("trailers-only",
//! `grpc/grpc: doc/PROTOCOL-HTTP2.md`). So this proxy answers gRPC clients like that, too, else their
//! libraries have only a number of HTTP to guess from; and what a server says in `grpc-status`
//! counts for its health as the like-named status of HTTP would. Both mappings are Envoy's, which
//! are those of `grpc/grpc: doc/http-grpc-status-mapping.md` and `google/rpc/code.proto`. One thing
//! differs: a call whose time is over ends with `DEADLINE_EXCEEDED`, as it would without a proxy.

use super::failure::Failure;
use super::memory::Octets;
use super::run::{Around, send};
use super::scratch::Scratch;
use super::{Client, respond};
use crate::http::snapshot::RoutePlan;
use crate::message::{Fields, Length, Name, ResponseHead, Version};
use crate::observe::access_log::End;

const UNKNOWN: u16 = 2;
const DEADLINE_EXCEEDED: u16 = 4;
const PERMISSION_DENIED: u16 = 7;
const UNIMPLEMENTED: u16 = 12;
const INTERNAL: u16 = 13;
const UNAVAILABLE: u16 = 14;
const UNAUTHENTICATED: u16 = 16;

/// The media type of gRPC; `application/grpc-web` is another protocol, which browsers speak.
const MEDIA_TYPE: &[u8] = b"application/grpc";

/// Tells a client's library when to try again, in milliseconds (gRPC proposal A6).
const PUSHBACK: &[u8] = b"grpc-retry-pushback-ms";

/// True for messages of gRPC.
pub(super) fn is_grpc(fields: &Fields) -> bool {
    let kind = fields.get(Name::ContentType);
    kind.and_then(|kind| kind.split_at_checked(MEDIA_TYPE.len()))
        .is_some_and(|(kind, rest)| {
            kind.eq_ignore_ascii_case(MEDIA_TYPE)
                && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
        })
}

/// The status of gRPC in a head or in trailers.
pub(super) fn status(fields: &Fields) -> Option<u16> {
    let status = std::str::from_utf8(fields.get(Name::GrpcStatus)?).ok()?;
    status.parse().ok()
}

/// The status of HTTP that means the same.
pub(super) const fn to_http(code: u16) -> u16 {
    match code {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        DEADLINE_EXCEEDED => 504,
        5 => 404,
        6 | 10 => 409,
        PERMISSION_DENIED => 403,
        8 => 429,
        UNIMPLEMENTED => 501,
        UNAVAILABLE => 503,
        UNAUTHENTICATED => 401,
        _ => 500,
    }
}

/// The status of gRPC for an answer of HTTP that is no gRPC.
pub(super) const fn of_http(status: u16) -> u16 {
    match status {
        400 => INTERNAL,
        401 => UNAUTHENTICATED,
        403 => PERMISSION_DENIED,
        404 => UNIMPLEMENTED,
        429 | 502 | 503 | 504 => UNAVAILABLE,
        _ => UNKNOWN,
    }
}

/// The status of gRPC for a failure.
pub(super) const fn of_failure(failure: &Failure) -> u16 {
    match failure.end {
        End::RouteTimeout => DEADLINE_EXCEEDED,
        _ => of_http(failure.status()),
    }
}

/// Answers a client of gRPC in its own way: with a code, and the status of HTTP in words.
pub(super) async fn answer<C: Client>(
    around: &Around<'_>,
    scratch: &mut Scratch,
    client: &mut C,
    route: Option<&RoutePlan>,
    (code, status): (u16, u16),
    last: bool,
) -> Result<(), Failure> {
    let retry_after = if route.is_none() {
        scratch.facts.retry_after
    } else {
        0
    };
    let version = scratch.request.version;
    write(code, status, retry_after, version, &mut scratch.response);
    scratch.facts.grpc_status = Some(code);
    let nothing = Octets::new([0_u8; 0]);
    send(around, scratch, client, route, nothing, last).await
}

/// Makes `head` an answer without content that says `code`, and in words what HTTP would have said.
/// `retry_after`: when the client may come back, in seconds; 0 if that is not known.
fn write(code: u16, status: u16, retry_after: u64, version: Version, head: &mut ResponseHead) {
    respond::begin(head, 200);
    head.length = match version {
        // The head is the end of the stream.
        Version::Http2 => Length::None,
        _ => Length::Exact(0),
    };
    let fields = &mut head.fields;
    fields.append(Name::ContentType, MEDIA_TYPE);
    fields.append(Name::GrpcStatus, code.to_string().as_bytes());
    // Nothing in it has to be escaped.
    let message = format!("{status} {}", respond::reason(status));
    fields.append(Name::GrpcMessage, message.trim_end().as_bytes());
    if retry_after > 0 {
        let wait = retry_after.saturating_mul(1000).to_string();
        fields.append_named(PUSHBACK, wait.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::access_log::Phase;

    fn of_kind(kind: &[u8]) -> Fields {
        let mut fields = Fields::new();
        fields.append(Name::ContentType, kind);
        fields
    }

    #[test]
    fn grpc_is_told_by_its_media_type() {
        for kind in [
            &b"application/grpc"[..],
            b"application/grpc+proto",
            b"application/grpc; charset=utf-8",
            b"Application/gRPC",
        ] {
            assert!(is_grpc(&of_kind(kind)));
        }
        for kind in [
            &b""[..],
            b"application/grp",
            b"application/grpc-web+proto",
            b"text/plain",
        ] {
            assert!(!is_grpc(&of_kind(kind)));
        }
        assert!(!is_grpc(&Fields::new()));
    }

    #[test]
    fn each_code_has_a_status_and_failures_have_codes() {
        let statuses: Vec<u16> = (0..=17).map(to_http).collect();
        let expected = [
            200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401,
            500,
        ];
        assert_eq!(statuses, expected);
        let code = |end| of_failure(&Failure::new(end, Phase::Request));
        assert_eq!(code(End::NoRoute), UNIMPLEMENTED);
        assert_eq!(code(End::RouteTimeout), DEADLINE_EXCEEDED);
        assert_eq!(code(End::Internal), UNKNOWN);
        assert_eq!(code(End::Denied), PERMISSION_DENIED);
        assert_eq!(code(End::ClientProtocol), INTERNAL);
        for end in [
            End::NoBackend,
            End::CircuitOpen,
            End::Overloaded,
            End::RateLimited,
            End::ConnectFailed,
            End::BackendTimeout,
        ] {
            assert_eq!(code(end), UNAVAILABLE, "{end:?}");
        }
    }

    #[test]
    fn an_answer_is_a_head_and_nothing_else() {
        let mut head = ResponseHead::default();
        write(UNAVAILABLE, 503, 2, Version::Http2, &mut head);
        assert_eq!((head.status, head.length), (200, Length::None));
        assert_eq!(status(&head.fields), Some(UNAVAILABLE));
        let message = head.fields.get(Name::GrpcMessage);
        assert_eq!(message, Some(&b"503 Service Unavailable"[..]));
        assert_eq!(head.fields.get_named(PUSHBACK), Some(&b"2000"[..]));
        write(UNKNOWN, 599, 0, Version::Http11, &mut head);
        assert_eq!(head.length, Length::Exact(0));
        assert_eq!(head.fields.get(Name::GrpcMessage), Some(&b"599"[..]));
        assert_eq!(head.fields.get_named(PUSHBACK), None);
    }
}
