//! What a TLS client says first, read without ending TLS: whom it wants, and by which protocols.
//!
//! A ClientHello (RFC 8446 §4.1.2) is not encrypted, so who passes TLS on can route by it. It may
//! come in any number of segments and of records: with keys against quantum computers in it, it
//! no longer fits into one segment. [`Reader`] is shown what has come so far, again whenever there
//! is more, and looks at each octet once; a hello in one record, as nearly all are, is not copied.
//!
//! Reading is strict where another reader could see another name: lengths fill their rooms exactly,
//! no extension and no kind of name comes twice, nothing follows the hello in its record. What is
//! not read (ciphers, key shares) is left to the backend.
//!
//! **Encrypted ClientHello** (ECH): what is seen is the outer hello, whose name is that of the
//! server which holds the key. It is treated as the name it shows; that is how ECH is meant to
//! pass those who cannot decrypt it.

mod alert;
mod body;

#[cfg(test)]
pub(crate) mod tests;

pub use alert::Alert;
pub use body::ClientHello;

use crate::message::Refusal;
use std::borrow::Cow;

/// Octets of the longest beginning of a connection that is read for its hello, records' headers
/// included. Browsers send about 2 KiB; certificates are not in it.
pub const MAX_LENGTH: usize = 64 << 10;

/// Octets of a record's header.
const HEADER: usize = 5;

/// Octets of a record's content at most (RFC 8446 §5.1).
const MAX_RECORD: usize = 1 << 14;

/// The content type of records that carry a handshake.
const HANDSHAKE: u8 = 22;

/// The type of the message.
const CLIENT_HELLO: u8 = 1;

/// Octets that are no ClientHello. Each is refused and counted by its own reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Fault {
    /// They do not begin as TLS does.
    #[error("this is not TLS")]
    NotTls,
    /// A record that is none, is empty or too long, or is of another type than the one before.
    #[error("a record is malformed")]
    Record,
    /// The first message is not a ClientHello, or another one follows it in its record.
    #[error("the first message is no ClientHello, or not alone")]
    Message,
    /// More than [`MAX_LENGTH`].
    #[error("the ClientHello is too long")]
    TooLong,
    /// Lengths that do not fit, or an extension that comes twice.
    #[error("the ClientHello is malformed")]
    Body,
    /// The extension with the server's name is malformed, or the name is none.
    #[error("the server name is malformed")]
    ServerName,
    /// The extension with the application's protocols is malformed.
    #[error("the list of application protocols is malformed")]
    Alpn,
}

impl Fault {
    /// As what it is counted and logged.
    pub const fn refusal(self) -> Refusal {
        match self {
            Self::NotTls => Refusal::NotTls,
            Self::Record => Refusal::TlsRecord,
            Self::Message | Self::Body => Refusal::ClientHello,
            Self::TooLong => Refusal::ClientHelloTooLong,
            Self::ServerName => Refusal::ServerName,
            Self::Alpn => Refusal::Alpn,
        }
    }

    /// What the client is told; `None` where it would not understand.
    pub const fn alert(self) -> Option<Alert> {
        match self {
            Self::NotTls => None,
            Self::Record | Self::Message => Some(Alert::UnexpectedMessage),
            Self::TooLong | Self::Body | Self::Alpn => Some(Alert::DecodeError),
            Self::ServerName => Some(Alert::IllegalParameter),
        }
    }
}

/// Reads the hello that a connection begins with.
#[derive(Debug, Default)]
pub struct Reader {
    /// Octets of the input that were looked at.
    seen: usize,
    /// Octets that are missing of the record under way.
    missing: usize,
    /// The message, if it is not in one record.
    message: Vec<u8>,
    /// A record has begun.
    has_begun: bool,
}

impl Reader {
    /// Reads. `input` is all that has come since the connection's begin; `None`: more octets are
    /// needed.
    ///
    /// # Errors
    ///
    /// [`Fault`] as soon as no further octets could make it a hello. The connection is to be
    /// closed.
    pub fn read(&mut self, input: &[u8]) -> Result<Option<ClientHello>, Fault> {
        let input = &input[..input.len().min(MAX_LENGTH)];
        match self.message(input)? {
            // Its type and its length were looked at.
            Some(message) => body::parse(message.get(4..).unwrap_or_default()).map(Some),
            None if input.len() == MAX_LENGTH => Err(Fault::TooLong),
            None => Ok(None),
        }
    }

    /// The whole message with its header, once it is there.
    fn message<'a>(&'a mut self, input: &'a [u8]) -> Result<Option<Cow<'a, [u8]>>, Fault> {
        if self.seen == 0
            && let Some(at) = alone(input)?
        {
            return Ok(Some(Cow::Borrowed(&input[at])));
        }
        while self.seen < input.len() {
            if self.missing == 0 {
                let rest = &input[self.seen..];
                let Some(length) = record(rest, self.has_begun)? else {
                    return Ok(None);
                };
                self.has_begun = true;
                self.seen += HEADER;
                self.missing = length;
            }
            let there = &input[self.seen..];
            let there = &there[..there.len().min(self.missing)];
            self.message.extend_from_slice(there);
            self.seen += there.len();
            self.missing -= there.len();
            match length(&self.message)? {
                Some(whole) if self.message.len() > whole => return Err(Fault::Message),
                Some(whole) if self.message.len() == whole => {
                    // What follows in the record is not there yet, but will be.
                    return match self.missing {
                        0 => Ok(Some(Cow::Borrowed(&self.message))),
                        _ => Err(Fault::Message),
                    };
                }
                _ => {}
            }
        }
        Ok(None)
    }
}

/// Where the message is, if all of it is in the first record and that is there.
fn alone(input: &[u8]) -> Result<Option<std::ops::Range<usize>>, Fault> {
    let Some(content) = record(input, false)? else {
        return Ok(None);
    };
    let Some(content) = input.get(HEADER..HEADER + content) else {
        return Ok(None);
    };
    match length(content)? {
        Some(whole) if whole < content.len() => Err(Fault::Message),
        Some(whole) if whole == content.len() => Ok(Some(HEADER..HEADER + whole)),
        _ => Ok(None),
    }
}

/// Octets of a record's content, once its header is there. Each octet is judged as soon as it is
/// there: who speaks no TLS need not send five.
fn record(input: &[u8], has_begun: bool) -> Result<Option<usize>, Fault> {
    let fault = if has_begun {
        Fault::Record
    } else {
        Fault::NotTls
    };
    if input.first().is_some_and(|&kind| kind != HANDSHAKE)
        || input.get(1).is_some_and(|&major| major != 3)
    {
        return Err(fault);
    }
    let Some(length) = input.get(3..HEADER) else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
    if length == 0 || length > MAX_RECORD {
        return Err(Fault::Record);
    }
    Ok(Some(length))
}

/// Octets of the message with its header, once that is there.
fn length(message: &[u8]) -> Result<Option<usize>, Fault> {
    if message.first().is_some_and(|&kind| kind != CLIENT_HELLO) {
        return Err(Fault::Message);
    }
    let Some(&[_, high, middle, low]) = message.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([0, high, middle, low]) as usize + 4;
    if length > MAX_LENGTH {
        return Err(Fault::TooLong);
    }
    Ok(Some(length))
}
