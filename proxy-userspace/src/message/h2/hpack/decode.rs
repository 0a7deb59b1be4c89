//! Reads blocks of fields.

use super::huffman;
use super::table::{STATIC, Table};
use super::{FieldName, TABLE_SIZE};
use crate::message::h1::octets::{is_blank, token_len, value_len};

/// A block is not valid. What the tables hold is not known any more, so the connection must end
/// with `COMPRESSION_ERROR` (RFC 9113 §4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError;

/// The name is a token in small letters, or that of a pseudo-field.
const NAME: u8 = 1;
/// The value has no octet that may not stand in one.
const VALUE: u8 = 2;
/// The value has no blank at its ends.
const TRIMMED: u8 = 4;
/// Of the static table.
const ALL: u8 = NAME | VALUE | TRIMMED;

/// Octets of memory that are kept for the next string.
const KEPT: usize = 1024;

/// A field as it was decoded.
#[derive(Clone, Copy, Debug)]
pub struct Field<'b> {
    /// What the name means.
    pub name: FieldName,
    /// The name as it was spelled.
    pub spelled: &'b [u8],
    /// The value.
    pub value: &'b [u8],
    /// Name, colon, blank and value, if they stand in one piece.
    pub(in crate::message) line: Option<&'b [u8]>,
    checked: u8,
}

impl Field<'_> {
    /// True if the name may stand in HTTP/2: a token in small letters (RFC 9113 §8.2.1), or what
    /// begins with a colon.
    pub fn has_valid_name(&self) -> bool {
        self.checked & NAME != 0
    }

    /// True if no octet of the value is a control character.
    pub fn has_valid_value(&self) -> bool {
        self.checked & VALUE != 0
    }

    /// True if the value neither begins nor ends with a blank.
    pub fn is_trimmed(&self) -> bool {
        self.checked & TRIMMED != 0
    }

    /// Octets as a list of fields counts them (RFC 9113 §6.5.2).
    pub fn size(&self) -> usize {
        self.spelled.len() + self.value.len() + super::table::OVERHEAD
    }
}

fn check_name(name: FieldName, spelled: &[u8]) -> u8 {
    let is_valid = match name {
        FieldName::Field(_) => {
            !spelled.is_empty()
                && token_len(spelled) == spelled.len()
                && !spelled.iter().any(u8::is_ascii_uppercase)
        }
        _ => true,
    };
    if is_valid { NAME } else { 0 }
}

fn check_value(value: &[u8]) -> u8 {
    let is_outer = |octet: Option<&u8>| octet.is_some_and(|&octet| is_blank(octet));
    let mut checked = 0;
    if value_len(value) == value.len() {
        checked |= VALUE;
    }
    if !is_outer(value.first()) && !is_outer(value.last()) {
        checked |= TRIMMED;
    }
    checked
}

/// Reads the blocks of one direction of a connection, in order.
#[derive(Debug)]
pub struct Decoder {
    table: Table,
    /// Strings that were not as they are in the block.
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            table: Table::new(TABLE_SIZE),
            name: Vec::new(),
            value: Vec::new(),
        }
    }
}

/// How a field is represented that does not stand in a table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    Yes,
    No,
}

impl Decoder {
    /// Reads a whole block and gives its fields in order.
    ///
    /// # Errors
    ///
    /// [`DecodeError`]; fields may have been given before.
    pub fn decode(
        &mut self,
        mut block: &[u8],
        mut give: impl FnMut(Field<'_>),
    ) -> Result<(), DecodeError> {
        let mut may_resize = true;
        while let Some(&first) = block.first() {
            if first & 0x80 != 0 {
                may_resize = false;
                let index = integer(&mut block, 7)?;
                give(self.indexed(index)?);
            } else if first & 0xc0 == 0x40 {
                may_resize = false;
                self.literal(&mut block, 6, Kept::Yes, &mut give)?;
            } else if first & 0xe0 == 0x20 {
                // Only at the beginning of a block (RFC 7541 §4.2).
                let size = integer(&mut block, 5)? as usize;
                if !may_resize || size > TABLE_SIZE {
                    return Err(DecodeError);
                }
                self.table.resize(size);
            } else {
                may_resize = false;
                self.literal(&mut block, 4, Kept::No, &mut give)?;
            }
        }
        Ok(())
    }

    #[inline]
    fn indexed(&self, index: u32) -> Result<Field<'_>, DecodeError> {
        let index = (index as usize).checked_sub(1).ok_or(DecodeError)?;
        if let Some(entry) = STATIC.get(index) {
            return Ok(Field {
                name: entry.name,
                spelled: entry.spelled,
                value: entry.value,
                line: None,
                checked: ALL,
            });
        }
        let line = self.table.get(index - STATIC.len()).ok_or(DecodeError)?;
        Ok(Field {
            name: line.name,
            spelled: line.spelled(),
            value: line.value(),
            line: Some(line.line),
            checked: line.checked,
        })
    }

    fn literal(
        &mut self,
        block: &mut &[u8],
        prefix: u32,
        kept: Kept,
        give: &mut impl FnMut(Field<'_>),
    ) -> Result<(), DecodeError> {
        let index = integer(block, prefix)?;
        let mut name_buffer = std::mem::take(&mut self.name);
        let mut value_buffer = std::mem::take(&mut self.value);
        let read = self.read_literal(
            block,
            index,
            kept,
            &mut name_buffer,
            &mut value_buffer,
            give,
        );
        // A long string must not hold its memory for ever.
        for (place, buffer) in [
            (&mut self.name, name_buffer),
            (&mut self.value, value_buffer),
        ] {
            if buffer.capacity() <= KEPT {
                *place = buffer;
            }
        }
        read
    }

    fn read_literal(
        &mut self,
        block: &mut &[u8],
        index: u32,
        kept: Kept,
        name_buffer: &mut Vec<u8>,
        value_buffer: &mut Vec<u8>,
        give: &mut impl FnMut(Field<'_>),
    ) -> Result<(), DecodeError> {
        let (name, spelled, checked) = if index == 0 {
            let spelled = string(block, name_buffer)?;
            let name = FieldName::of(spelled);
            (name, spelled, check_name(name, spelled))
        } else {
            let known = self.indexed(index)?;
            let (name, checked) = (known.name, known.checked & NAME);
            if index as usize <= STATIC.len() {
                (name, STATIC[index as usize - 1].spelled, checked)
            } else {
                // Its entry may have to leave for the new one.
                name_buffer.clear();
                name_buffer.extend_from_slice(known.spelled);
                (name, &name_buffer[..], checked)
            }
        };
        let value = string(block, value_buffer)?;
        let checked = checked | check_value(value);
        give(Field {
            name,
            spelled,
            value,
            line: None,
            checked,
        });
        if kept == Kept::Yes {
            self.table.insert(name, checked, spelled, value);
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn table(&self) -> &Table {
        &self.table
    }
}

/// Reads an integer whose first octet has so many bits for it (RFC 7541 §5.1).
#[inline]
fn integer(block: &mut &[u8], prefix: u32) -> Result<u32, DecodeError> {
    let (&first, mut rest) = block.split_first().ok_or(DecodeError)?;
    let most = (1_u32 << prefix) - 1;
    let mut number = u32::from(first) & most;
    if number == most {
        let mut shift = 0;
        loop {
            let (&octet, after) = rest.split_first().ok_or(DecodeError)?;
            rest = after;
            // More would be beyond what any length or index here can be.
            if shift > 21 {
                return Err(DecodeError);
            }
            number += u32::from(octet & 0x7f) << shift;
            shift += 7;
            if octet & 0x80 == 0 {
                break;
            }
        }
    }
    *block = rest;
    Ok(number)
}

/// Reads a string (RFC 7541 §5.2); `buffer` is for one that is encoded.
#[inline]
fn string<'s, 'b: 's>(
    block: &mut &'b [u8],
    buffer: &'s mut Vec<u8>,
) -> Result<&'s [u8], DecodeError> {
    let is_encoded = block.first().is_some_and(|first| first & 0x80 != 0);
    let length = integer(block, 7)? as usize;
    let (octets, rest) = block.split_at_checked(length).ok_or(DecodeError)?;
    *block = rest;
    if !is_encoded {
        return Ok(octets);
    }
    buffer.clear();
    huffman::decode(octets, buffer).map_err(|_| DecodeError)?;
    Ok(buffer)
}
