//! Heads of responses (RFC 9112 §4, §6.3). An origin may be as hostile as a client.

use super::connection::{self, Options};
use super::cursor::{Cursor, Line, Part, Step};
use super::framing::Announced;
use super::octets::value_len;
use super::{HeadLimits, RequestKind, ResponseFraming};
use crate::message::{Length, Name, Refusal, ResponseHead, Version};

/// What the fields of a response head do not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseMeta {
    /// Octets of the head.
    pub consumed: usize,
    /// What follows it.
    pub framing: ResponseFraming,
    /// True if the connection may take another request after this response's content.
    pub keep_alive: bool,
}

/// Reads one head after the other; small, and without memory of its own.
#[derive(Clone, Debug, Default)]
pub struct ResponseParser {
    cursor: Cursor,
    has_start: bool,
    options: Options,
    announced: Announced,
}

/// Reads a response head that is there in one piece: a [`ResponseParser`] for one call.
///
/// # Errors
///
/// As [`ResponseParser::parse`].
pub fn parse_response(
    input: &[u8],
    limits: &HeadLimits,
    to: RequestKind,
    head: &mut ResponseHead,
) -> Result<Option<ResponseMeta>, Refusal> {
    ResponseParser::default().parse(input, limits, to, head)
}

impl ResponseParser {
    /// Reads a head from the beginning of `input`; `None` if more octets are needed. Then call
    /// again with the same octets and those that came after them, and the same `head`. After a
    /// head (an informational one, too) the parser is ready for the next.
    ///
    /// # Errors
    ///
    /// The first fault of the input, whatever stands after it. The connection must be closed.
    pub fn parse(
        &mut self,
        input: &[u8],
        limits: &HeadLimits,
        to: RequestKind,
        head: &mut ResponseHead,
    ) -> Result<Option<ResponseMeta>, Refusal> {
        let window = &input[..input.len().min(limits.head_bytes as usize)];
        if !self.cursor.may_go_on(window, limits) {
            return Ok(None);
        }
        if !self.has_start {
            match status_line(window, head)? {
                Ok(next) => {
                    self.cursor.at = next;
                    self.has_start = true;
                }
                Err(part) => {
                    self.cursor.wait(window, part);
                    return unfinished(window, limits);
                }
            }
        }
        loop {
            match self.cursor.field_line(window, limits)? {
                Step::Field(line) => self.field(&line, head)?,
                Step::End => return self.finish(to, head).map(Some),
                Step::Partial => return unfinished(window, limits),
            }
        }
    }

    #[inline]
    fn field(&mut self, line: &Line<'_>, head: &mut ResponseHead) -> Result<(), Refusal> {
        let (name, value) = (line.name, line.value());
        match name {
            Name::Connection => {
                if self.options.take(value)? {
                    head.fields
                        .push_line(name, line.whole, line.name_len, line.value_at);
                }
                Ok(())
            }
            Name::ContentLength => self.announced.equal_content_lengths(value),
            Name::TransferEncoding => self.announced.transfer_encoding(value),
            Name::Upgrade => {
                if head.status == 101 || head.status == 426 {
                    head.protocol.clear();
                    head.protocol.extend_from_slice(value);
                }
                Ok(())
            }
            name if name.is_hop_by_hop() => Ok(()),
            _ => {
                head.fields
                    .push_line(name, line.whole, line.name_len, line.value_at);
                Ok(())
            }
        }
    }

    /// Judges what only all fields together say.
    fn finish(
        &mut self,
        to: RequestKind,
        head: &mut ResponseHead,
    ) -> Result<ResponseMeta, Refusal> {
        let framing = self.framing(to, head)?;
        self.options.remove_named(&mut head.fields);
        head.length = match framing {
            ResponseFraming::None | ResponseFraming::Tunnel => Length::None,
            ResponseFraming::Exact(length) => Length::Exact(length),
            ResponseFraming::Chunked | ResponseFraming::UntilClose => Length::Unknown,
        };
        let has_end = !matches!(
            framing,
            ResponseFraming::UntilClose | ResponseFraming::Tunnel
        );
        // Content that must not be there may come all the same, and be taken for the next head.
        let fits = !forbids_fields(head.status) || !self.announced.speaks_of_content();
        let meta = ResponseMeta {
            consumed: self.cursor.at,
            framing,
            keep_alive: has_end && fits && self.options.keeps_alive(head.version),
        };
        *self = Self::default();
        Ok(meta)
    }

    /// RFC 9112 §6.3, in its order.
    fn framing(
        &self,
        to: RequestKind,
        head: &mut ResponseHead,
    ) -> Result<ResponseFraming, Refusal> {
        if to == RequestKind::Connect && head.status / 100 == 2 {
            return Ok(ResponseFraming::Tunnel);
        }
        if head.status == 101 {
            let is_valid = to == RequestKind::Upgrade
                && self.options.upgrade
                && head.version != Version::Http10
                && !connection::upgrade_protocol(&head.protocol)?.is_empty();
            return if is_valid {
                Ok(ResponseFraming::Tunnel)
            } else {
                Err(Refusal::Upgrade)
            };
        }
        let is_chunked = self.announced.is_chunked(head.version)?;
        if forbids_fields(head.status) {
            return Ok(ResponseFraming::None);
        }
        if to == RequestKind::Head || head.status == 304 {
            head.described_length = self.announced.length;
            return Ok(ResponseFraming::None);
        }
        Ok(match self.announced.length {
            _ if is_chunked => ResponseFraming::Chunked,
            Some(length) => ResponseFraming::Exact(length),
            None => ResponseFraming::UntilClose,
        })
    }
}

/// True for the statuses that have neither content nor fields that speak of it.
const fn forbids_fields(status: u16) -> bool {
    status < 200 || status == 204
}

fn unfinished<T>(window: &[u8], limits: &HeadLimits) -> Result<Option<T>, Refusal> {
    if window.len() == limits.head_bytes as usize {
        Err(Refusal::HeadTooLong)
    } else {
        Ok(None)
    }
}

/// Reads the status line. Returns where the fields begin, or the part in which the window ends.
///
/// The blank after the status may be missing if there is no reason phrase: origins do that, and it
/// can be read in one way only.
fn status_line(window: &[u8], head: &mut ResponseHead) -> Result<Result<usize, Part>, Refusal> {
    // Zeros stand for digits.
    const PATTERN: &[u8; 12] = b"HTTP/1.0 000";
    let is_usual = |begin: &[u8; 12]| {
        begin.starts_with(b"HTTP/1.1 ") && begin[9..].iter().all(u8::is_ascii_digit)
    };
    if !window.first_chunk().is_some_and(is_usual) {
        for (&octet, &pattern) in window.iter().zip(PATTERN) {
            let fits = octet == pattern || (octet.is_ascii_digit() && pattern == b'0');
            if !fits {
                return Err(Refusal::StatusLine);
            }
        }
    }
    let Some((begin, rest)) = window.split_at_checked(PATTERN.len()) else {
        return Ok(Err(Part::Short));
    };
    let version = match begin[7] {
        b'0' => Version::Http10,
        b'1' => Version::Http11,
        _ => return Err(Refusal::StatusLine),
    };
    let digits = begin[9..].iter().map(|&digit| u16::from(digit - b'0'));
    let status = digits.fold(0, |number, digit| number * 10 + digit);
    if status < 100 {
        return Err(Refusal::StatusLine);
    }
    let (reason_at, reason_len) = match rest {
        [] => return Ok(Err(Part::Short)),
        [b' ', reason @ ..] => (1, value_len(reason)),
        [b'\r' | b'\n', ..] => (0, 0),
        _ => return Err(Refusal::StatusLine),
    };
    let end = reason_at + reason_len;
    match &rest[end..] {
        [] => return Ok(Err(Part::Value)),
        [b'\r'] => return Ok(Err(Part::Short)),
        [b'\r', b'\n', ..] => {}
        [b'\r' | b'\n', ..] => return Err(Refusal::BareLineEnd),
        _ => return Err(Refusal::StatusLine),
    }
    head.clear();
    head.status = status;
    head.version = version;
    head.reason.extend_from_slice(&rest[reason_at..end]);
    Ok(Ok(PATTERN.len() + end + 2))
}
