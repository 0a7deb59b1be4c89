//! The fields of a message.
//!
//! They are kept as HTTP/1 writes them, line after line, so that reading a field is one copy and
//! writing all of them is usually one, too.

use super::Name;

/// What stands between a name and its value.
const COLON: &[u8] = b": ";

/// What ends a line.
const LINE_END: &[u8] = b"\r\n";

/// A field: where its line stands in the octets.
#[derive(Clone, Copy, Debug)]
struct Entry {
    name: Name,
    at: u32,
    name_len: u32,
    value_len: u32,
}

impl Entry {
    fn spelled(self, octets: &[u8]) -> &[u8] {
        let at = self.at as usize;
        octets
            .get(at..at + self.name_len as usize)
            .unwrap_or_default()
    }

    fn value_at(self) -> usize {
        self.at as usize + self.name_len as usize + COLON.len()
    }

    fn value(self, octets: &[u8]) -> &[u8] {
        let at = self.value_at();
        octets
            .get(at..at + self.value_len as usize)
            .unwrap_or_default()
    }

    fn line(self, octets: &[u8]) -> &[u8] {
        let end = self.value_at() + self.value_len as usize + LINE_END.len();
        octets.get(self.at as usize..end).unwrap_or_default()
    }
}

/// The fields of a message, or its trailers, in order.
///
/// A value that is replaced leaves its octets behind until the fields are cleared; a head's size
/// is bounded by its parser, and edits by the configuration.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    /// Lines, those of removed fields too.
    octets: Vec<u8>,
    entries: Vec<Entry>,
    /// Bits of the known names that are present.
    present: u128,
    /// There are lines of removed fields.
    has_gaps: bool,
}

/// One field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldRef<'a> {
    /// What the name means.
    pub name: Name,
    /// The name as it was spelled.
    pub spelled: &'a [u8],
    /// The value, without blanks at its ends.
    pub value: &'a [u8],
}

impl Fields {
    /// No fields.
    pub const fn new() -> Self {
        Self {
            octets: Vec::new(),
            entries: Vec::new(),
            present: 0,
            has_gaps: false,
        }
    }

    /// Removes all fields and keeps the memory.
    pub fn clear(&mut self) {
        self.octets.clear();
        self.entries.clear();
        self.present = 0;
        self.has_gaps = false;
    }

    /// Number of fields.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Octets of the lines, with those of removed fields: a measure of memory.
    pub fn octets(&self) -> usize {
        self.octets.len()
    }

    /// Octets of memory that are kept for reuse.
    pub fn capacity(&self) -> usize {
        self.octets.capacity() + self.entries.capacity() * size_of::<Entry>()
    }

    /// Adds a field at the end, with its name as spelled. `name` must be `Name::of(spelled)`.
    pub fn push(&mut self, name: Name, spelled: &[u8], value: &[u8]) {
        let at = self.octets.len();
        let len = spelled.len() + COLON.len() + value.len() + LINE_END.len();
        self.octets.reserve(len);
        self.octets.extend_from_slice(spelled);
        self.octets.extend_from_slice(COLON);
        self.octets.extend_from_slice(value);
        self.octets.extend_from_slice(LINE_END);
        self.enter(name, at, spelled.len(), value.len());
    }

    /// Adds a field that stands in one piece, from its name's first octet to its value's last.
    #[inline]
    pub(super) fn push_line(&mut self, name: Name, line: &[u8], name_len: usize, value_at: usize) {
        if line.get(name_len..value_at) != Some(COLON) {
            return self.push(name, &line[..name_len], &line[value_at..]);
        }
        let at = self.octets.len();
        self.octets.reserve(line.len() + LINE_END.len());
        self.octets.extend_from_slice(line);
        self.octets.extend_from_slice(LINE_END);
        self.enter(name, at, name_len, line.len() - value_at);
    }

    #[inline]
    fn enter(&mut self, name: Name, at: usize, name_len: usize, value_len: usize) {
        self.entries.push(Entry {
            name,
            at: at as u32,
            name_len: name_len as u32,
            value_len: value_len as u32,
        });
        self.present |= name.bit();
    }

    /// Writes all fields in order, as lines of HTTP/1.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        if !self.has_gaps {
            out.extend_from_slice(&self.octets);
            return;
        }
        for entry in &self.entries {
            out.extend_from_slice(entry.line(&self.octets));
        }
    }

    /// Adds a field with a known name at the end.
    pub fn append(&mut self, name: Name, value: &[u8]) {
        self.push(name, name.spelled().as_bytes(), value);
    }

    /// Adds a field with any name at the end.
    pub fn append_named(&mut self, spelled: &[u8], value: &[u8]) {
        self.push(Name::of(spelled), spelled, value);
    }

    /// True if a field with this known name is present.
    #[inline]
    pub fn contains(&self, name: Name) -> bool {
        self.present & name.bit() != 0
    }

    /// Value of the first field with this known name.
    pub fn get(&self, name: Name) -> Option<&[u8]> {
        self.all(name).next()
    }

    /// Values of all fields with this known name, in order.
    pub fn all(&self, name: Name) -> impl Iterator<Item = &[u8]> {
        let entries = if self.contains(name) {
            self.entries.as_slice()
        } else {
            &[]
        };
        entries
            .iter()
            .filter(move |entry| entry.name == name)
            .map(|entry| entry.value(&self.octets))
    }

    /// Value of the first field with this name, known or not.
    pub fn get_named<'a>(&'a self, spelled: &'a [u8]) -> Option<&'a [u8]> {
        self.all_named(spelled).next()
    }

    /// Values of all fields with this name, known or not.
    pub fn all_named<'a>(&'a self, spelled: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let name = Name::of(spelled);
        self.iter()
            .filter(move |field| field.is(name, spelled))
            .map(|field| field.value)
    }

    /// All fields in order.
    pub fn iter(&self) -> impl Iterator<Item = FieldRef<'_>> {
        self.entries.iter().map(|entry| FieldRef {
            name: entry.name,
            spelled: entry.spelled(&self.octets),
            value: entry.value(&self.octets),
        })
    }

    /// Removes all fields with this known name.
    pub fn remove(&mut self, name: Name) {
        if self.contains(name) {
            self.entries.retain(|entry| entry.name != name);
            self.present &= !name.bit();
            self.has_gaps = true;
        }
    }

    /// Removes all fields with this name, known or not.
    pub fn remove_named(&mut self, spelled: &[u8]) {
        let name = Name::of(spelled);
        self.retain(|field| !field.is(name, spelled));
    }

    /// Replaces all fields with this known name by one at the end.
    pub fn set(&mut self, name: Name, value: &[u8]) {
        self.remove(name);
        self.append(name, value);
    }

    /// Replaces all fields with this name by one at the end.
    pub fn set_named(&mut self, spelled: &[u8], value: &[u8]) {
        self.remove_named(spelled);
        self.append_named(spelled, value);
    }

    /// Keeps the fields for which `keep` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(FieldRef<'_>) -> bool) {
        let octets = &self.octets;
        let (before, mut present) = (self.entries.len(), 0);
        self.entries.retain(|entry| {
            let keeps = keep(FieldRef {
                name: entry.name,
                spelled: entry.spelled(octets),
                value: entry.value(octets),
            });
            if keeps {
                present |= entry.name.bit();
            }
            keeps
        });
        self.present = present;
        self.has_gaps |= self.entries.len() < before;
    }
}

impl FieldRef<'_> {
    /// True if the field has this name; `name` must be `Name::of(spelled)`.
    fn is(&self, name: Name, spelled: &[u8]) -> bool {
        self.name == name && (name != Name::Other || self.spelled.eq_ignore_ascii_case(spelled))
    }
}
