//! Which fields may stand in trailers (RFC 9110 §6.5.1).

use crate::message::Name;

/// True if a trailer with this name is passed on. What a recipient could merge into the head, and
/// would change how the message is framed, routed, authenticated or processed there, is dropped:
/// all names that this proxy gives a meaning, but for those made for trailers, and all of the
/// families that an origin may trust.
pub(in crate::message) fn is_allowed(name: Name, spelled: &[u8]) -> bool {
    const FORBIDDEN: &[&[u8]] = &[b"x-forwarded-", b"x-real-", b"content-", b"proxy-", b"sec-"];
    const ORIGIN_TRUSTS: &[&[u8]] = &[b"pragma", b"remote-user", b"authentication-info"];
    match name {
        Name::GrpcStatus | Name::GrpcMessage | Name::Etag => true,
        Name::Other => {
            let begins = |prefix: &&[u8]| {
                spelled
                    .get(..prefix.len())
                    .is_some_and(|begin| begin.eq_ignore_ascii_case(prefix))
            };
            !FORBIDDEN.iter().any(begins)
                && !ORIGIN_TRUSTS
                    .iter()
                    .any(|name| spelled.eq_ignore_ascii_case(name))
        }
        _ => false,
    }
}
