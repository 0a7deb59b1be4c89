//! `Content-Length` and `Transfer-Encoding`: where a message ends (RFC 9112 §6).

use super::octets::{is_token, trim};
use crate::message::{Refusal, Version};

/// Longest content that can be announced: what signed 64-bit arithmetic holds.
const MAX_LENGTH: u64 = i64::MAX as u64;

/// What a head's fields say about the content's length.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Announced {
    pub length: Option<u64>,
    has_coding: bool,
    is_chunked: bool,
    has_unknown_coding: bool,
}

impl Announced {
    /// Takes a `Content-Length` of a request: there may be one.
    pub(super) fn content_length(&mut self, value: &[u8]) -> Result<(), Refusal> {
        if self.length.is_some() {
            return Err(Refusal::ContentLength);
        }
        self.length = Some(number(value).ok_or(Refusal::ContentLength)?);
        Ok(())
    }

    /// Takes a `Content-Length` of a response: equal ones are one.
    pub(super) fn equal_content_lengths(&mut self, value: &[u8]) -> Result<(), Refusal> {
        for member in value.split(|&octet| octet == b',') {
            let length = number(trim(member)).ok_or(Refusal::ContentLength)?;
            if self.length.is_some_and(|before| before != length) {
                return Err(Refusal::ContentLength);
            }
            self.length = Some(length);
        }
        Ok(())
    }

    /// Takes a `Transfer-Encoding`. Members of several lines make one list.
    pub(super) fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), Refusal> {
        self.has_coding = true;
        for member in value.split(|&octet| octet == b',') {
            let coding = trim(member);
            if self.is_chunked || coding.is_empty() {
                return Err(Refusal::TransferEncoding);
            }
            if coding.eq_ignore_ascii_case(b"chunked") {
                self.is_chunked = true;
            } else if coding.iter().copied().all(is_token) {
                self.has_unknown_coding = true;
            } else {
                return Err(Refusal::TransferEncoding);
            }
        }
        Ok(())
    }

    /// True if the content is chunked.
    ///
    /// # Errors
    ///
    /// If there is a coding and it contradicts a length, the version, or what is known here.
    pub(super) fn is_chunked(&self, version: Version) -> Result<bool, Refusal> {
        if !self.has_coding {
            return Ok(false);
        }
        if self.length.is_some() {
            return Err(Refusal::LengthConflict);
        }
        if version == Version::Http10 || !self.is_chunked {
            return Err(Refusal::TransferEncoding);
        }
        if self.has_unknown_coding {
            return Err(Refusal::TransferCodingUnknown);
        }
        Ok(true)
    }

    /// True if any field spoke of content that is not empty.
    pub(super) fn speaks_of_content(&self) -> bool {
        self.has_coding || self.length.is_some_and(|length| length > 0)
    }
}

/// Decimal digits and nothing else.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    let mut number = 0_u64;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        let next = number
            .checked_mul(10)?
            .checked_add(u64::from(digit - b'0'))?;
        number = next;
    }
    (number <= MAX_LENGTH).then_some(number)
}
