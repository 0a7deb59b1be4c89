//! Heads and trailers read from blocks of fields, straight into ours.

use super::hpack::{Decoder, Field, FieldName};
use crate::message::h1::octets::{is_blank, target_len, token_len, trim, value_len};
use crate::message::h1::{HeadLimits, RequestKind, trailers};
use crate::message::{
    Authority, Fields, Length, Method, Name, Refusal, RequestHead, ResponseHead, Version,
};

/// Longest method, in octets: as in HTTP/1.
const MAX_METHOD: usize = 32;

/// Octets of memory that are kept for the next request's cookies.
const KEPT: usize = 1024;

/// There is no head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockError {
    /// The block cannot be decoded: the connection has to end (RFC 9113 §4.3).
    Compression,
    /// The message is malformed: its stream is reset (RFC 9113 §8.1.1).
    Malformed,
    /// The message is refused, with an answer if it is a request.
    Refused(Refusal),
}

/// Reads the blocks of one direction of a connection, in order.
#[derive(Debug, Default)]
pub struct BlockReader {
    decoder: Decoder,
    /// Cookies that came in several fields.
    cookies: Vec<u8>,
}

impl BlockReader {
    /// Reads a request's head. `has_ended`: no content follows. Of a request that is refused, `head`
    /// has the method and the target as far as they were read, for the log.
    ///
    /// # Errors
    ///
    /// See [`BlockError`].
    pub fn request(
        &mut self,
        block: &[u8],
        has_ended: bool,
        limits: &HeadLimits,
        head: &mut RequestHead,
    ) -> Result<(), BlockError> {
        head.clear();
        head.version = Version::Http2;
        self.cookies.clear();
        let mut request = Request {
            head,
            cookies: &mut self.cookies,
            crumbs: 0,
            announced: None,
            pseudo: 0,
            has_fields: false,
            has_host: false,
            count: Count::new(limits),
            limits,
        };
        let mut read = Ok(());
        let decoded = self.decoder.decode(block, |field| {
            if read.is_ok() {
                read = request.field(&field);
            }
        });
        decoded.map_err(|_| BlockError::Compression)?;
        let read = read.and_then(|()| request.end(has_ended));
        if self.cookies.capacity() > KEPT {
            self.cookies = Vec::new();
        }
        read
    }

    /// Reads a response's head. `has_ended`: no content follows. `to` is what is answered.
    ///
    /// # Errors
    ///
    /// See [`BlockError`].
    pub fn response(
        &mut self,
        block: &[u8],
        has_ended: bool,
        to: RequestKind,
        limits: &HeadLimits,
        head: &mut ResponseHead,
    ) -> Result<(), BlockError> {
        head.clear();
        head.version = Version::Http2;
        let (mut announced, mut read, mut count) = (None, Ok(()), Count::new(limits));
        let mut take = |field: &Field<'_>| {
            count.add(field)?;
            response_field(field, head, &mut announced)
        };
        let decoded = self.decoder.decode(block, |field| {
            if read.is_ok() {
                read = take(&field);
            }
        });
        decoded.map_err(|_| BlockError::Compression)?;
        read?;
        end_response(head, announced, has_ended, to)
    }

    /// Reads trailers: those that may be passed on.
    ///
    /// # Errors
    ///
    /// See [`BlockError`].
    pub fn trailers(
        &mut self,
        block: &[u8],
        limits: &HeadLimits,
        fields: &mut Fields,
    ) -> Result<(), BlockError> {
        fields.clear();
        let (mut read, mut count) = (Ok(()), Count::new(limits));
        let mut take = |field: &Field<'_>| {
            if count.add(field).is_err() {
                return Err(BlockError::Refused(Refusal::Trailers));
            }
            let name = usual(field)?;
            if is_of_connection(name, field.value) {
                return Err(BlockError::Malformed);
            }
            if trailers::is_allowed(name, field.spelled) {
                push(fields, name, field);
            }
            Ok(())
        };
        let decoded = self.decoder.decode(block, |field| {
            if read.is_ok() {
                read = take(&field);
            }
        });
        decoded.map_err(|_| BlockError::Compression)?;
        read
    }

    /// Reads a block that nobody wants, so that the tables stay what the other end takes them for.
    ///
    /// # Errors
    ///
    /// [`BlockError::Compression`].
    pub fn skip(&mut self, block: &[u8]) -> Result<(), BlockError> {
        let decoded = self.decoder.decode(block, |_| {});
        decoded.map_err(|_| BlockError::Compression)
    }
}

/// What has come of a list of fields.
struct Count {
    fields: u32,
    octets: usize,
}

impl Count {
    fn new(limits: &HeadLimits) -> Self {
        Self {
            fields: limits.fields,
            octets: limits.head_bytes as usize,
        }
    }

    #[inline]
    fn add(&mut self, field: &Field<'_>) -> Result<(), BlockError> {
        let left = self.octets.checked_sub(field.size());
        self.octets = left.ok_or(BlockError::Refused(Refusal::HeadTooLong))?;
        if matches!(field.name, FieldName::Field(_)) {
            let left = self.fields.checked_sub(1);
            self.fields = left.ok_or(BlockError::Refused(Refusal::TooManyFields))?;
        }
        Ok(())
    }
}

/// The name of a field that is no pseudo-field, and whose octets may stand in one.
#[inline]
fn usual(field: &Field<'_>) -> Result<Name, BlockError> {
    match field.name {
        FieldName::Field(name) if field.has_valid_name() && field.has_valid_value() => Ok(name),
        _ => Err(BlockError::Malformed),
    }
}

/// True for fields that concern one connection and make a message malformed (RFC 9113 §8.2.2).
#[inline]
fn is_of_connection(name: Name, value: &[u8]) -> bool {
    match name {
        Name::Te => !value.eq_ignore_ascii_case(b"trailers"),
        Name::Http2Settings => false,
        name => name.is_hop_by_hop(),
    }
}

#[inline]
fn push(fields: &mut Fields, name: Name, field: &Field<'_>) {
    match field.line {
        Some(line) if field.is_trimmed() => {
            let name_len = field.spelled.len();
            fields.push_line(name, line, name_len, line.len() - field.value.len());
        }
        _ => fields.push(name, field.spelled, trim(field.value)),
    }
}

// Bits of the pseudo-fields that have come.
const METHOD: u8 = 1;
const SCHEME: u8 = 2;
const AUTHORITY: u8 = 4;
const PATH: u8 = 8;
const PROTOCOL: u8 = 16;

/// A request that is being read.
struct Request<'r> {
    head: &'r mut RequestHead,
    cookies: &'r mut Vec<u8>,
    /// Fields with cookies.
    crumbs: u32,
    announced: Option<u64>,
    pseudo: u8,
    has_fields: bool,
    has_host: bool,
    count: Count,
    limits: &'r HeadLimits,
}

impl Request<'_> {
    #[inline]
    fn field(&mut self, field: &Field<'_>) -> Result<(), BlockError> {
        self.count.add(field)?;
        if !matches!(field.name, FieldName::Field(_)) {
            return self.pseudo(field);
        }
        self.has_fields = true;
        let name = usual(field)?;
        if !field.is_trimmed() {
            return Err(BlockError::Refused(Refusal::FieldValue));
        }
        let (head, value) = (&mut *self.head, field.value);
        let refuse = |refusal| Err(BlockError::Refused(refusal));
        match name {
            Name::Host => self.host(value),
            Name::ContentLength if self.announced.is_some() => refuse(Refusal::ContentLength),
            Name::ContentLength => {
                self.announced = number(value);
                match self.announced {
                    Some(_) => Ok(()),
                    None => refuse(Refusal::ContentLength),
                }
            }
            Name::Expect if value.eq_ignore_ascii_case(b"100-continue") => {
                head.expects_continue = true;
                Ok(())
            }
            Name::Expect => refuse(Refusal::Expectation),
            Name::Te if value.eq_ignore_ascii_case(b"trailers") => {
                head.accepts_trailers = true;
                Ok(())
            }
            Name::Cookie => {
                self.cookie(value);
                Ok(())
            }
            Name::Trailer => Ok(()),
            _ if is_of_connection(name, value) => Err(BlockError::Malformed),
            _ if name.is_hop_by_hop() => refuse(Refusal::ForbiddenField),
            _ => {
                push(&mut head.fields, name, field);
                Ok(())
            }
        }
    }

    fn cookie(&mut self, value: &[u8]) {
        if value.is_empty() {
            // It would leave a blank at an end.
            return;
        }
        if self.crumbs > 0 {
            self.cookies.extend_from_slice(b"; ");
        }
        self.cookies.extend_from_slice(value);
        self.crumbs += 1;
    }

    fn host(&mut self, value: &[u8]) -> Result<(), BlockError> {
        let refuse = |refusal| Err(BlockError::Refused(refusal));
        let Some(host) = Authority::of(value) else {
            return refuse(Refusal::HostInvalid);
        };
        if std::mem::replace(&mut self.has_host, true) {
            return refuse(Refusal::HostAmbiguous);
        }
        let Some(authority) = Authority::of(self.head.authority()) else {
            self.head.set_read_authority(value, host);
            return Ok(());
        };
        match host.is_same(authority, Some(80)) {
            true => Ok(()),
            false => refuse(Refusal::HostAmbiguous),
        }
    }

    fn pseudo(&mut self, field: &Field<'_>) -> Result<(), BlockError> {
        let bit = match field.name {
            FieldName::Method => METHOD,
            FieldName::Scheme => SCHEME,
            FieldName::Authority => AUTHORITY,
            FieldName::Path => PATH,
            FieldName::Protocol => PROTOCOL,
            _ => return Err(BlockError::Malformed),
        };
        if self.has_fields || self.pseudo & bit != 0 || !field.has_valid_value() {
            return Err(BlockError::Malformed);
        }
        self.pseudo |= bit;
        let (head, value) = (&mut *self.head, field.value);
        let refuse = |refusal| Err(BlockError::Refused(refusal));
        match bit {
            METHOD => {
                if value.is_empty() || token_len(value) < value.len() {
                    return Err(BlockError::Malformed);
                }
                if value.len() > MAX_METHOD {
                    return refuse(Refusal::Method);
                }
                head.method = Method::of(value);
            }
            SCHEME => {
                // What the connection is, the listener knows.
                if !matches!(value, b"http" | b"https") {
                    return refuse(Refusal::Target);
                }
            }
            AUTHORITY => {
                let Some(read) = Authority::of(value) else {
                    return refuse(Refusal::HostInvalid);
                };
                head.set_read_authority(value, read);
            }
            PATH => {
                if value.is_empty() {
                    return Err(BlockError::Malformed);
                }
                if value.len() > self.limits.target_bytes as usize {
                    return refuse(Refusal::TargetTooLong);
                }
                head.set_target(value);
                if target_len(value) < value.len() {
                    return refuse(Refusal::Target);
                }
            }
            _ => {
                let has_blank = value.iter().copied().any(is_blank);
                if value.is_empty() || value_len(value) < value.len() || has_blank {
                    return refuse(Refusal::Upgrade);
                }
                head.protocol.extend_from_slice(value);
            }
        }
        Ok(())
    }

    /// All fields have come.
    fn end(self, has_ended: bool) -> Result<(), BlockError> {
        let head = self.head;
        if self.crumbs > 0 {
            head.fields.append(Name::Cookie, self.cookies);
        }
        let refuse = |refusal| Err(BlockError::Refused(refusal));
        let is_connect = head.method == Method::Connect;
        let wanted = match (is_connect, self.pseudo & PROTOCOL != 0) {
            (true, false) => METHOD,
            (true, true) => METHOD | SCHEME | PATH | PROTOCOL,
            (false, false) => METHOD | SCHEME | PATH,
            (false, true) => return Err(BlockError::Malformed),
        };
        if self.pseudo & !AUTHORITY != wanted {
            return Err(BlockError::Malformed);
        }
        let target = head.target();
        let is_known_form = target.first() == Some(&b'/')
            || (target == b"*" && head.method == Method::Options)
            || wanted == METHOD;
        if !is_known_form {
            return refuse(Refusal::Target);
        }
        if head.authority().is_empty() {
            return refuse(Refusal::HostMissing);
        }
        if has_ended && self.announced.is_some_and(|length| length > 0) {
            return Err(BlockError::Malformed);
        }
        head.length = match self.announced {
            Some(length) => Length::Exact(length),
            None if has_ended => Length::None,
            None => Length::Unknown,
        };
        if is_connect {
            if self.announced.is_some_and(|length| length > 0) {
                return refuse(Refusal::Upgrade);
            }
            // What follows is the tunnel's, and comes once the tunnel stands.
            head.length = Length::None;
        }
        head.expects_continue &= !head.length.is_empty();
        Ok(())
    }
}

/// Decimal digits and nothing else, of what signed 64-bit arithmetic holds.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    i64::try_from(number).is_ok().then_some(number)
}

#[inline]
fn response_field(
    field: &Field<'_>,
    head: &mut ResponseHead,
    announced: &mut Option<u64>,
) -> Result<(), BlockError> {
    if field.name == FieldName::Status {
        let is_first = head.status == 0 && head.fields.is_empty();
        let [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] = *field.value else {
            return Err(BlockError::Malformed);
        };
        let digit = |octet| u16::from(octet - b'0');
        head.status = 100 * digit(a) + 10 * digit(b) + digit(c);
        return is_first.then_some(()).ok_or(BlockError::Malformed);
    }
    let name = usual(field)?;
    if head.status == 0 || is_of_connection(name, field.value) {
        return Err(BlockError::Malformed);
    }
    match name {
        Name::ContentLength => {
            let length = number(trim(field.value));
            let length = length.ok_or(BlockError::Refused(Refusal::ContentLength))?;
            if announced.is_some_and(|before| before != length) {
                return Err(BlockError::Refused(Refusal::ContentLength));
            }
            *announced = Some(length);
        }
        Name::Trailer => {}
        _ if name.is_hop_by_hop() => {}
        _ => push(&mut head.fields, name, field),
    }
    Ok(())
}

/// All fields have come.
fn end_response(
    head: &mut ResponseHead,
    announced: Option<u64>,
    has_ended: bool,
    to: RequestKind,
) -> Result<(), BlockError> {
    match head.status {
        0 => return Err(BlockError::Malformed),
        // HTTP/2 has no 101 (RFC 9113 §8.6).
        101 => return Err(BlockError::Refused(Refusal::Upgrade)),
        // Informational heads end no stream (RFC 9113 §8.1).
        100..200 if has_ended => return Err(BlockError::Malformed),
        _ => {}
    }
    let has_none = to == RequestKind::Head || matches!(head.status, 100..200 | 204 | 304);
    if has_none {
        if head.status >= 200 && head.status != 204 {
            head.described_length = announced;
        }
        head.length = Length::None;
        return Ok(());
    }
    if has_ended && announced.is_some_and(|length| length > 0) {
        return Err(BlockError::Refused(Refusal::LengthMismatch));
    }
    head.length = match announced {
        Some(length) => Length::Exact(length),
        None if has_ended => Length::Exact(0),
        None => Length::Unknown,
    };
    Ok(())
}
