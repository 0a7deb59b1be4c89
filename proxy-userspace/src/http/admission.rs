//! What must hold for every request before it is routed. Pure.

use crate::message::{Length, Method, Refusal, RequestHead};
use crate::routing;
use std::borrow::Cow;

/// Refuses what is never served, and takes away what is never passed on. `body_bytes`: the most
/// octets of content, if there is a limit.
///
/// # Errors
///
/// Why the request is refused.
pub fn check(request: &mut RequestHead, body_bytes: Option<u64>) -> Result<(), Refusal> {
    if let (Length::Exact(length), Some(most)) = (request.length, body_bytes)
        && length > most
    {
        return Err(Refusal::ContentTooLong);
    }
    if request.method == Method::Connect && request.protocol.is_empty() {
        return Err(Refusal::MethodNotAllowed);
    }
    // An upgrade to HTTP/2 is between the client and us (RFC 9110 §7.8): passed on, it would open
    // a way to the backend that nobody looks into.
    if request.protocol.eq_ignore_ascii_case(b"h2c") || request.protocol.eq_ignore_ascii_case(b"h2")
    {
        request.protocol.clear();
    }
    Ok(())
}

/// Gives the path its one spelling, in which it is matched and sent on. `before` is shown the
/// request if that changes it.
///
/// # Errors
///
/// The path may be read in different ways.
pub fn normalise(
    request: &mut RequestHead,
    before: impl FnOnce(&RequestHead),
) -> Result<(), Refusal> {
    if let Cow::Owned(plain) = routing::normalise(request.path())? {
        before(request);
        request.set_path(&plain);
    }
    Ok(())
}
