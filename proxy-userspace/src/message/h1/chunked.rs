//! The chunked coding, decoded without a copy (RFC 9112 §7.1).
//!
//! The decoder tells which octets of the input are content. It keeps its place to the octet, so
//! that a chunk's head may come in any pieces and is never looked at twice; only a trailer's line
//! has to be there whole.
//!
//! A chunk extension means nothing here and is dropped, but its grammar is checked: readers that
//! skip "until the line ends" disagree about which line end that is.

use super::HeadLimits;
use super::cursor::{Cursor, Step};
use super::octets::is_token;
use super::trailers;
use crate::message::{Fields, Refusal};

/// Most digits of a chunk's size. More than a size needs, since some senders pad with zeros.
const MAX_SIZE_DIGITS: u8 = 16;

/// Octets of one chunk's extensions.
const MAX_EXTENSION: u32 = 1024;

/// Octets of chunk heads beyond what honest framing needs, for a whole message. Chunks of one
/// octet with long extensions would otherwise be work without end at little cost.
const MAX_EXCESS: u64 = 16 * 1024;

/// Octets per chunk that are honest: a size of some digits and three line ends.
const HONEST_FRAMING: u64 = 16;

/// What the next octets of the input are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkStep {
    /// After `skip` octets of framing come `len` octets of content: consume both.
    Data {
        /// Octets before the content.
        skip: usize,
        /// Octets of content, at least 1.
        len: usize,
    },
    /// Consume this many octets, keep the rest, and come back with more. Only of a trailer's line
    /// there is a rest; one that fills the caller's buffer is too long ([`Refusal::Trailers`]).
    NeedMore {
        /// Octets of framing.
        consumed: usize,
    },
    /// Consume this many octets: the message is over. Its trailers are in
    /// [`ChunkDecoder::trailers`].
    End {
        /// Octets of framing.
        consumed: usize,
    },
}

/// Decodes the chunks of one message after the other.
#[derive(Clone, Debug, Default)]
pub struct ChunkDecoder {
    state: State,
    /// Size that is being read, then octets of content that are still to come.
    left: u64,
    digits: u8,
    extension: u32,
    /// Octets of framing since the chunk began.
    framing: u64,
    excess: u64,
    cursor: Cursor,
    trailer_octets: u32,
    trailers: Fields,
}

/// What is expected next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    /// Blanks before a semicolon.
    BeforeExtension,
    /// Blanks before an extension's name.
    BeforeName,
    Name,
    /// Blanks before an equals sign, a semicolon or the end.
    AfterName,
    /// Blanks before a value.
    BeforeValue,
    Value,
    Quoted,
    Escaped,
    /// The closing quote has come.
    AfterQuoted,
    /// The LF after a chunk's head.
    HeadLf,
    Data,
    /// The CR after content.
    DataCr,
    DataLf,
    Trailers,
}

impl ChunkDecoder {
    /// A decoder at the beginning of a message's content.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the decoder ready for another message and keeps its memory.
    pub fn reset(&mut self) {
        let mut trailers = std::mem::take(&mut self.trailers);
        trailers.clear();
        *self = Self {
            trailers,
            ..Self::default()
        };
    }

    /// The trailers, after [`ChunkStep::End`]; forbidden ones are left out.
    pub fn trailers(&self) -> &Fields {
        &self.trailers
    }

    /// Tells what the octets at the beginning of `input` are: those that came after what the last
    /// step consumed. `limits` bound the trailers.
    ///
    /// # Errors
    ///
    /// [`Refusal::Chunk`], [`Refusal::BareLineEnd`], or for trailers [`Refusal::Trailers`]. The
    /// connection must be closed.
    pub fn next(&mut self, input: &[u8], limits: &HeadLimits) -> Result<ChunkStep, Refusal> {
        let mut at = 0;
        while let Some(&octet) = input.get(at) {
            match self.state {
                State::Data => {
                    let there = (input.len() - at) as u64;
                    let len = self.left.min(there);
                    self.left -= len;
                    if self.left == 0 {
                        self.state = State::DataCr;
                    }
                    return Ok(ChunkStep::Data {
                        skip: at,
                        len: len as usize,
                    });
                }
                State::Trailers => return self.trailer_section(&input[at..], at, limits),
                _ => self.state = self.frame(octet)?,
            }
            at += 1;
        }
        Ok(ChunkStep::NeedMore { consumed: at })
    }

    /// Takes an octet of a chunk's head or end.
    fn frame(&mut self, octet: u8) -> Result<State, Refusal> {
        self.framing += 1;
        match (self.state, octet) {
            (State::Size, _) => self.size(octet),
            (State::HeadLf, b'\n') => self.head_end(),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => {
                self.begin_chunk();
                Ok(State::Size)
            }
            (State::HeadLf | State::DataLf, _) | (_, b'\n') => Err(Refusal::BareLineEnd),
            (State::DataCr, _) => Err(Refusal::Chunk),
            (state, _) => self.extension(state, octet),
        }
    }

    fn begin_chunk(&mut self) {
        (self.left, self.digits, self.extension, self.framing) = (0, 0, 0, 0);
    }

    fn size(&mut self, octet: u8) -> Result<State, Refusal> {
        if let Some(digit) = (octet as char).to_digit(16) {
            self.digits += 1;
            // The highest bit stays free, so that sums of sizes fit.
            if self.digits > MAX_SIZE_DIGITS || self.left >> 59 != 0 {
                return Err(Refusal::Chunk);
            }
            self.left = self.left << 4 | u64::from(digit);
            return Ok(State::Size);
        }
        match octet {
            b'\n' => Err(Refusal::BareLineEnd),
            _ if self.digits == 0 => Err(Refusal::Chunk),
            b'\r' => Ok(State::HeadLf),
            b';' => Ok(State::BeforeName),
            b' ' | b'\t' => self.extension(State::BeforeExtension, octet),
            _ => Err(Refusal::Chunk),
        }
    }

    /// `*( BWS ";" BWS token [ BWS "=" BWS ( token / quoted-string ) ] )`
    fn extension(&mut self, state: State, octet: u8) -> Result<State, Refusal> {
        self.extension += 1;
        if self.extension > MAX_EXTENSION {
            return Err(Refusal::Chunk);
        }
        let blank = octet == b' ' || octet == b'\t';
        let text = blank || (octet > b' ' && octet != 0x7f);
        match (state, octet) {
            (
                State::BeforeExtension | State::BeforeName | State::AfterName | State::BeforeValue,
                _,
            ) if blank => Ok(state),
            (
                State::BeforeExtension
                | State::Name
                | State::AfterName
                | State::Value
                | State::AfterQuoted,
                b';',
            ) => Ok(State::BeforeName),
            (State::BeforeName | State::Name, _) if is_token(octet) => Ok(State::Name),
            (State::Name | State::AfterName, b'=') => Ok(State::BeforeValue),
            (State::Name | State::Value | State::AfterQuoted, b'\r') => Ok(State::HeadLf),
            (State::Name, _) if blank => Ok(State::AfterName),
            (State::Value | State::AfterQuoted, _) if blank => Ok(State::BeforeExtension),
            (State::BeforeValue, b'"') => Ok(State::Quoted),
            (State::BeforeValue | State::Value, _) if is_token(octet) => Ok(State::Value),
            (State::Quoted, b'"') => Ok(State::AfterQuoted),
            (State::Quoted, b'\\') => Ok(State::Escaped),
            (State::Quoted | State::Escaped, _) if text => Ok(State::Quoted),
            _ => Err(Refusal::Chunk),
        }
    }

    fn head_end(&mut self) -> Result<State, Refusal> {
        let honest = HONEST_FRAMING.saturating_add(self.left);
        self.excess = (self.excess + self.framing).saturating_sub(honest);
        if self.excess > MAX_EXCESS {
            return Err(Refusal::Chunk);
        }
        if self.left > 0 {
            return Ok(State::Data);
        }
        self.trailers.clear();
        Ok(State::Trailers)
    }

    /// Reads the trailers that are there whole; `before` octets have been consumed.
    fn trailer_section(
        &mut self,
        input: &[u8],
        before: usize,
        limits: &HeadLimits,
    ) -> Result<ChunkStep, Refusal> {
        let left = HeadLimits {
            head_bytes: limits.head_bytes.saturating_sub(self.trailer_octets),
            ..*limits
        };
        let window = &input[..input.len().min(left.head_bytes as usize)];
        if !self.cursor.may_go_on(window, &left) {
            return Ok(ChunkStep::NeedMore { consumed: before });
        }
        loop {
            match self.cursor.field_line(window, &left) {
                Err(Refusal::BareLineEnd) => return Err(Refusal::BareLineEnd),
                Err(_) => return Err(Refusal::Trailers),
                Ok(Step::Field(line)) => {
                    let name = line.name;
                    if trailers::is_allowed(name, line.spelled()) {
                        self.trailers
                            .push_line(name, line.whole, line.name_len, line.value_at);
                    }
                }
                Ok(Step::End) => {
                    let consumed = before + self.cursor.at;
                    let trailers = std::mem::take(&mut self.trailers);
                    *self = Self {
                        trailers,
                        ..Self::default()
                    };
                    return Ok(ChunkStep::End { consumed });
                }
                Ok(Step::Partial) if window.len() == left.head_bytes as usize => {
                    return Err(Refusal::Trailers);
                }
                Ok(Step::Partial) => {
                    let consumed = self.cursor.restart();
                    self.trailer_octets += consumed as u32;
                    return Ok(ChunkStep::NeedMore {
                        consumed: before + consumed,
                    });
                }
            }
        }
    }
}
