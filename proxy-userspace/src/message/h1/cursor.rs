//! Field lines, one after the other, in a buffer that grows.

use super::HeadLimits;
use super::octets::{colon_at, is_blank, target_len, token_len, value_len};
use crate::message::name::LONGEST;
use crate::message::{Name, Refusal};

/// Where a reader of lines stands in its input.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cursor {
    /// Where the first line begins that has not been read.
    pub at: usize,
    /// Octets of the input that the unfinished line has been read up to.
    seen: usize,
    /// In which part of the line they end.
    part: Part,
    /// Field lines so far.
    fields: u32,
}

/// The part of a line in which the input ends, so that octets that only make that part longer are
/// told from those that finish it without reading the line again from its beginning.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Part {
    /// Any other: short ones, which are read again.
    #[default]
    Short,
    /// A field's name.
    Name,
    /// A field's value, or a reason phrase.
    Value,
    /// A request's target, which is too long once the input has this many octets.
    Target { too_long: usize },
}

/// What stands at the cursor.
pub(super) enum Step<'a> {
    /// A line that is not there to its end.
    Partial,
    /// The empty line: the section is over.
    End,
    /// A field line.
    Field(Line<'a>),
}

/// A field line.
pub(super) struct Line<'a> {
    /// What the name means.
    pub name: Name,
    /// From the name's first octet to the value's last.
    pub whole: &'a [u8],
    /// Octets of the name at the beginning of `whole`.
    pub name_len: usize,
    /// Where the value begins in `whole`.
    pub value_at: usize,
}

impl<'a> Line<'a> {
    pub(super) fn spelled(&self) -> &'a [u8] {
        &self.whole[..self.name_len]
    }

    pub(super) fn value(&self) -> &'a [u8] {
        &self.whole[self.value_at..]
    }
}

impl Cursor {
    /// False if the octets that came only make the unfinished line longer. `window` is the input up
    /// to its limit; one that reaches the limit is always read, for that is a fault by itself.
    #[inline]
    pub(super) fn may_go_on(&mut self, window: &[u8], limits: &HeadLimits) -> bool {
        if window.len() == limits.head_bytes as usize {
            return true;
        }
        let new = window.get(self.seen..).unwrap_or_default();
        let same = match self.part {
            Part::Short => return true,
            Part::Name => token_len(new),
            Part::Value => value_len(new),
            Part::Target { too_long } if window.len() >= too_long => return true,
            Part::Target { .. } => target_len(new),
        };
        if same < new.len() {
            return true;
        }
        self.seen = window.len();
        false
    }

    /// Notes that the line at the cursor is not there to its end, and in which part of it the
    /// window ends.
    #[inline]
    pub(super) fn wait(&mut self, window: &[u8], part: Part) {
        self.seen = window.len();
        self.part = part;
    }

    /// Makes the line at the cursor the beginning of what will be the input: returns how many octets
    /// of the window come before it.
    pub(super) fn restart(&mut self) -> usize {
        let consumed = std::mem::take(&mut self.at);
        self.seen -= consumed;
        consumed
    }

    /// Reads the field line at the cursor and goes on to the next.
    #[inline]
    pub(super) fn field_line<'a>(
        &mut self,
        window: &'a [u8],
        limits: &HeadLimits,
    ) -> Result<Step<'a>, Refusal> {
        let line = window.get(self.at..).unwrap_or_default();
        let (name, name_len) = match known_name(line) {
            Some(known) => known,
            None => {
                let name_len = token_len(line);
                match line.get(name_len) {
                    Some(b':') if name_len > 0 => {}
                    None => {
                        self.wait(window, Part::Name);
                        return Ok(Step::Partial);
                    }
                    Some(&octet) => return self.no_name(window, name_len, octet),
                }
                (Name::of(&line[..name_len]), name_len)
            }
        };
        let mut value_at = name_len + 1;
        while line.get(value_at).copied().is_some_and(is_blank) {
            value_at += 1;
        }
        let mut end = value_at + value_len(&line[value_at..]);
        let next = match line.get(end..) {
            Some([b'\r', b'\n', ..]) => end + 2,
            None | Some([]) => {
                self.wait(window, Part::Value);
                return Ok(Step::Partial);
            }
            Some([b'\r']) => {
                self.wait(window, Part::Short);
                return Ok(Step::Partial);
            }
            Some([b'\r' | b'\n', ..]) => return Err(Refusal::BareLineEnd),
            Some(_) => return Err(Refusal::FieldValue),
        };
        while end > value_at && is_blank(line[end - 1]) {
            end -= 1;
        }
        self.fields += 1;
        if self.fields > limits.fields {
            return Err(Refusal::TooManyFields);
        }
        self.at += next;
        Ok(Step::Field(Line {
            name,
            whole: &line[..end],
            name_len,
            value_at,
        }))
    }

    /// What a line is that does not begin with a name and a colon.
    #[cold]
    fn no_name<'a>(
        &mut self,
        window: &[u8],
        name_len: usize,
        octet: u8,
    ) -> Result<Step<'a>, Refusal> {
        match (name_len, octet) {
            (0, b' ' | b'\t') => Err(Refusal::ObsFold),
            (0, b'\r') => match window.get(self.at + 1) {
                None => {
                    self.wait(window, Part::Short);
                    Ok(Step::Partial)
                }
                Some(b'\n') => {
                    self.at += 2;
                    Ok(Step::End)
                }
                Some(_) => Err(Refusal::BareLineEnd),
            },
            (_, b'\n') => Err(Refusal::BareLineEnd),
            _ => Err(Refusal::FieldName),
        }
    }
}

/// The name that a line begins with, if it is a known one: what it is compared with holds only what
/// a token may, so its octets need not be looked at one by one.
#[inline]
fn known_name(line: &[u8]) -> Option<(Name, usize)> {
    let begin = &line[..line.len().min(LONGEST + 1)];
    let len = colon_at(begin)?;
    let name = Name::of(&begin[..len]);
    (name != Name::Other).then_some((name, len))
}
