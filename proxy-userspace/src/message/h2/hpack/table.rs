//! What both sides of a connection remember of fields (RFC 7541 §2.3).

use super::FieldName;
use crate::message::Name;
use std::collections::VecDeque;

/// What an entry costs besides its octets (RFC 7541 §4.1).
pub(super) const OVERHEAD: usize = 32;

/// Octets of entries that are gone that may stand before those that are there.
const SLACK: usize = 2048;

/// What stands between a name and its value: as [`crate::message::Fields`] has it, so that an entry
/// is copied as one piece.
pub(super) const COLON: &[u8] = b": ";

/// A field that is remembered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) name: FieldName,
    /// What is known of its octets: see [`super::Field`].
    pub(super) checked: u8,
    name_len: u32,
    value_len: u32,
    /// Where its line stands, counted from the first octet that the table ever had. Wraps.
    at: u32,
}

impl Entry {
    /// As the standard counts it.
    fn size(&self) -> usize {
        self.name_len as usize + self.value_len as usize + OVERHEAD
    }
}

/// The dynamic table: what came last stands first.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// Lines, the oldest first.
    octets: Vec<u8>,
    /// What was removed from the front of `octets` so far. Wraps.
    removed: u32,
    /// The oldest first.
    entries: VecDeque<Entry>,
    /// Entries that were ever put in. Wraps.
    inserted: u32,
    size: usize,
    max_size: usize,
}

/// The line of an entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'t> {
    pub(super) name: FieldName,
    pub(super) checked: u8,
    /// Name, colon, blank and value.
    pub(super) line: &'t [u8],
    pub(super) name_len: usize,
}

impl<'t> Line<'t> {
    pub(super) fn spelled(&self) -> &'t [u8] {
        &self.line[..self.name_len]
    }

    pub(super) fn value(&self) -> &'t [u8] {
        &self.line[self.name_len + COLON.len()..]
    }
}

impl Table {
    pub(super) fn new(max_size: usize) -> Self {
        Self {
            max_size,
            ..Self::default()
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn max_size(&self) -> usize {
        self.max_size
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Entries that were ever put in.
    pub(super) fn inserted(&self) -> u32 {
        self.inserted
    }

    /// The entry with this place, 0 for the newest.
    #[inline]
    pub(super) fn get(&self, place: usize) -> Option<Line<'_>> {
        let index = self.entries.len().checked_sub(place + 1)?;
        let entry = self.entries.get(index)?;
        let at = entry.at.wrapping_sub(self.removed) as usize;
        let name_len = entry.name_len as usize;
        let len = name_len + COLON.len() + entry.value_len as usize;
        Some(Line {
            name: entry.name,
            checked: entry.checked,
            line: self.octets.get(at..at + len)?,
            name_len,
        })
    }

    /// Sets how large the table may be.
    pub(super) fn resize(&mut self, max_size: usize) {
        self.max_size = max_size;
        self.make_room(0);
    }

    /// Remembers a field. One that is larger than the table empties it (RFC 7541 §4.4).
    pub(super) fn insert(&mut self, name: FieldName, checked: u8, spelled: &[u8], value: &[u8]) {
        let size = spelled.len() + value.len() + OVERHEAD;
        self.make_room(size);
        if size > self.max_size {
            return;
        }
        self.compact();
        let at = self.removed.wrapping_add(self.octets.len() as u32);
        self.octets.extend_from_slice(spelled);
        self.octets.extend_from_slice(COLON);
        self.octets.extend_from_slice(value);
        self.entries.push_back(Entry {
            name,
            checked,
            name_len: spelled.len() as u32,
            value_len: value.len() as u32,
            at,
        });
        self.inserted = self.inserted.wrapping_add(1);
        self.size += size;
    }

    fn make_room(&mut self, size: usize) {
        while self.size + size > self.max_size
            && let Some(oldest) = self.entries.pop_front()
        {
            self.size -= oldest.size();
        }
    }

    /// Removes the octets of entries that are gone, if they have become many.
    fn compact(&mut self) {
        let end = self.removed.wrapping_add(self.octets.len() as u32);
        let oldest = self.entries.front().map_or(end, |entry| entry.at);
        let gone = oldest.wrapping_sub(self.removed) as usize;
        if gone >= SLACK {
            self.octets.drain(..gone);
            self.removed = oldest;
        }
    }
}

/// A field of the static table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Static {
    pub(super) name: FieldName,
    pub(super) spelled: &'static [u8],
    pub(super) value: &'static [u8],
}

macro_rules! statics {
    ($($name:expr, $spelled:literal, $value:literal;)*) => {
        /// RFC 7541, appendix A, from index 1 on.
        pub(super) static STATIC: &[Static] = &[$(Static {
            name: $name,
            spelled: $spelled.as_bytes(),
            value: $value.as_bytes(),
        },)*];
    };
}

use FieldName::{Authority, Field, Method, Path, Scheme, Status};

statics! {
    Authority, ":authority", "";
    Method, ":method", "GET";
    Method, ":method", "POST";
    Path, ":path", "/";
    Path, ":path", "/index.html";
    Scheme, ":scheme", "http";
    Scheme, ":scheme", "https";
    Status, ":status", "200";
    Status, ":status", "204";
    Status, ":status", "206";
    Status, ":status", "304";
    Status, ":status", "400";
    Status, ":status", "404";
    Status, ":status", "500";
    Field(Name::Other), "accept-charset", "";
    Field(Name::AcceptEncoding), "accept-encoding", "gzip, deflate";
    Field(Name::Other), "accept-language", "";
    Field(Name::AcceptRanges), "accept-ranges", "";
    Field(Name::Accept), "accept", "";
    Field(Name::Other), "access-control-allow-origin", "";
    Field(Name::Age), "age", "";
    Field(Name::Allow), "allow", "";
    Field(Name::Authorization), "authorization", "";
    Field(Name::CacheControl), "cache-control", "";
    Field(Name::Other), "content-disposition", "";
    Field(Name::ContentEncoding), "content-encoding", "";
    Field(Name::Other), "content-language", "";
    Field(Name::ContentLength), "content-length", "";
    Field(Name::Other), "content-location", "";
    Field(Name::ContentRange), "content-range", "";
    Field(Name::ContentType), "content-type", "";
    Field(Name::Cookie), "cookie", "";
    Field(Name::Date), "date", "";
    Field(Name::Etag), "etag", "";
    Field(Name::Expect), "expect", "";
    Field(Name::Expires), "expires", "";
    Field(Name::Other), "from", "";
    Field(Name::Host), "host", "";
    Field(Name::IfMatch), "if-match", "";
    Field(Name::IfModifiedSince), "if-modified-since", "";
    Field(Name::IfNoneMatch), "if-none-match", "";
    Field(Name::IfRange), "if-range", "";
    Field(Name::IfUnmodifiedSince), "if-unmodified-since", "";
    Field(Name::LastModified), "last-modified", "";
    Field(Name::Other), "link", "";
    Field(Name::Location), "location", "";
    Field(Name::MaxForwards), "max-forwards", "";
    Field(Name::ProxyAuthenticate), "proxy-authenticate", "";
    Field(Name::ProxyAuthorization), "proxy-authorization", "";
    Field(Name::Range), "range", "";
    Field(Name::Referer), "referer", "";
    Field(Name::Other), "refresh", "";
    Field(Name::RetryAfter), "retry-after", "";
    Field(Name::Server), "server", "";
    Field(Name::SetCookie), "set-cookie", "";
    Field(Name::Other), "strict-transport-security", "";
    Field(Name::TransferEncoding), "transfer-encoding", "";
    Field(Name::UserAgent), "user-agent", "";
    Field(Name::Vary), "vary", "";
    Field(Name::Via), "via", "";
    Field(Name::WwwAuthenticate), "www-authenticate", "";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_static_table_has_its_61_entries_and_their_meanings() {
        assert_eq!(STATIC.len(), 61);
        for entry in STATIC {
            assert_eq!(entry.name, FieldName::of(entry.spelled), "{entry:?}");
        }
    }

    #[test]
    fn entries_leave_in_the_order_in_which_they_came_and_octets_stay_bounded() {
        let mut table = Table::new(400);
        for number in 0..10_000_usize {
            let value = format!("{number}").repeat(number % 30);
            table.insert(Field(Name::Other), 0, b"x-a", value.as_bytes());
            let newest = table.get(0).expect("there");
            assert_eq!(
                (newest.spelled(), newest.value()),
                (&b"x-a"[..], value.as_bytes())
            );
            let oldest = table.get(table.len() - 1).expect("there");
            assert_eq!(oldest.spelled(), b"x-a");
            assert!(table.get(table.len()).is_none());
            assert!(table.size() <= 400 && table.octets.len() < SLACK + 800);
        }
        table.insert(Field(Name::Other), 0, b"x-a", &[0; 400]);
        assert_eq!((table.len(), table.size()), (0, 0), "larger than the table");
    }
}
