//! What is refused and what is understood, by table; then properties that must hold for any input.

mod chunks;
mod properties;
mod requests;
mod responses;
mod written;

use super::*;
use crate::message::{Fields, Refusal, ResponseHead};

const LIMITS: HeadLimits = HeadLimits {
    fields: 16,
    head_bytes: 1024,
    target_bytes: 128,
};

/// Reads a request head that must be there whole.
fn request(input: &[u8]) -> Result<(RequestMeta, RequestHead), Refusal> {
    let mut head = RequestHead::default();
    let meta = parse_request(input, &LIMITS, &mut head)?;
    Ok((meta.expect("a whole head"), head))
}

/// Reads a response head that must be there whole.
fn response(to: RequestKind, input: &[u8]) -> Result<(ResponseMeta, ResponseHead), Refusal> {
    let mut head = ResponseHead::default();
    let meta = parse_response(input, &LIMITS, to, &mut head)?;
    Ok((meta.expect("a whole head"), head))
}

fn lines(fields: &Fields) -> Vec<String> {
    fields
        .iter()
        .map(|field| {
            let text = |octets| String::from_utf8_lossy(octets).into_owned();
            format!("{}: {}", text(field.spelled), text(field.value))
        })
        .collect()
}
