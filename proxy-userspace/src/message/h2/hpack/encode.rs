//! Writes blocks of fields.
//!
//! What is sent a second time is put into the table, what is sent once is not: an id of a request
//! or a time of a change would only push out what comes again. Strings that go into the table are
//! Huffman-encoded, once; others are written as they are, which costs a copy.
//!
//! What is worth guessing (cookies, credentials) never goes into the table, and is marked so that
//! it does not at the next hop either (RFC 7541 §7.1.3). Paths stay out, too: a connection to a
//! backend carries the requests of many clients.

use super::huffman;
use super::table::{STATIC, Table};
use super::{FieldName, TABLE_SIZE};
use crate::message::Name;

/// Places in which a field that is in the table is looked for, by its hash.
const PAIRS: usize = 128;

/// The same for names.
const NAMES: usize = 32;

/// Fields of which is remembered that they were sent.
const SEEN: usize = 128;

/// Values that are longer are not put into the table: they would empty it.
const LONGEST: usize = 1024;

/// Writes the blocks of one direction of a connection, in order.
#[derive(Debug)]
pub struct Encoder {
    table: Table,
    /// The number of an entry from 1 on, as they were put in; 0 for none.
    pairs: [u32; PAIRS],
    names: [u32; NAMES],
    seen: [u16; SEEN],
    /// The table's size that the other end has not been told, and the least one before that.
    resized: Option<(usize, usize)>,
}

impl Default for Encoder {
    fn default() -> Self {
        Self {
            table: Table::new(TABLE_SIZE),
            pairs: [0; PAIRS],
            names: [0; NAMES],
            seen: [0; SEEN],
            resized: None,
        }
    }
}

/// What becomes of a field.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Policy {
    /// Into the table, if it comes again.
    Table,
    /// Nowhere: it seldom comes again.
    Plain,
    /// Nowhere, at no hop.
    Never,
}

const fn policy(name: Name) -> Policy {
    match name {
        Name::Authorization | Name::ProxyAuthorization | Name::Cookie | Name::SetCookie => {
            Policy::Never
        }
        Name::Age
        | Name::B3
        | Name::ContentLength
        | Name::ContentRange
        | Name::Etag
        | Name::Expires
        | Name::GrpcMessage
        | Name::GrpcTimeout
        | Name::IfModifiedSince
        | Name::IfNoneMatch
        | Name::IfRange
        | Name::IfUnmodifiedSince
        | Name::LastModified
        | Name::Location
        | Name::Range
        | Name::Referer
        | Name::SecWebSocketKey
        | Name::Traceparent
        | Name::Tracestate
        | Name::XB3ParentSpanId
        | Name::XB3SpanId
        | Name::XB3TraceId
        | Name::XRequestId => Policy::Plain,
        _ => Policy::Table,
    }
}

/// By number of the name: where it stands in the static table; 0 if it does not.
static STATIC_NAMES: [u8; 128] = {
    let mut places = [0; 128];
    let mut index = STATIC_LEN;
    while index > 0 {
        if let FieldName::Field(name) = STATIC[index - 1].name {
            places[name as usize] = index as u8;
        }
        index -= 1;
    }
    places[Name::Other as usize] = 0;
    places
};

const STATIC_LEN: usize = 61;

// Indices into the static table.
const AUTHORITY: u32 = 1;
const GET: u32 = 2;
const POST: u32 = 3;
const ROOT: u32 = 4;
const HTTP: u32 = 6;
const HTTPS: u32 = 7;
const STATUS: u32 = 8;

impl Encoder {
    /// The other end's table may have this size from now on.
    pub fn resize(&mut self, allowed: u32) {
        let size = (allowed as usize).min(TABLE_SIZE);
        if size == self.table.max_size() && self.resized.is_none() {
            return;
        }
        let least = self.resized.map_or(size, |(least, _)| least.min(size));
        self.resized = Some((least, size));
        self.table.resize(size);
    }

    /// Begins a block.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        if let Some((least, size)) = self.resized.take() {
            if least < size {
                integer(out, 0x20, 5, least as u32);
            }
            integer(out, 0x20, 5, size as u32);
        }
    }

    /// Writes `:status`.
    pub fn status(&mut self, status: u16, out: &mut Vec<u8>) {
        let index = match status {
            200 => 8,
            204 => 9,
            206 => 10,
            304 => 11,
            400 => 12,
            404 => 13,
            500 => 14,
            _ => {
                let digits = [status / 100, status / 10 % 10, status % 10];
                let digits = digits.map(|digit| b'0' + digit as u8);
                let hash = hash(STATUS_SEED, &digits);
                return self.indexable(FieldName::Status, b":status", &digits, hash, STATUS, out);
            }
        };
        out.push(0x80 | index);
    }

    /// Writes `:method`.
    pub fn method(&mut self, method: &[u8], out: &mut Vec<u8>) {
        match method {
            b"GET" => out.push(0x80 | GET as u8),
            b"POST" => out.push(0x80 | POST as u8),
            _ => plain(out, 0, GET, b":method", method),
        }
    }

    /// Writes `:scheme`: `http` or `https`.
    pub fn scheme(&mut self, is_https: bool, out: &mut Vec<u8>) {
        out.push(0x80 | if is_https { HTTPS } else { HTTP } as u8);
    }

    /// Writes `:authority`.
    pub fn authority(&mut self, authority: &[u8], out: &mut Vec<u8>) {
        let hash = hash(AUTHORITY_SEED, authority);
        let name = FieldName::Authority;
        self.indexable(name, b":authority", authority, hash, AUTHORITY, out);
    }

    /// Writes `:path`.
    pub fn path(&mut self, path: &[u8], out: &mut Vec<u8>) {
        match path {
            b"/" => out.push(0x80 | ROOT as u8),
            _ => plain(out, 0, ROOT, b":path", path),
        }
    }

    /// Writes `:protocol`.
    pub fn protocol(&mut self, protocol: &[u8], out: &mut Vec<u8>) {
        plain(out, 0, 0, b":protocol", protocol);
    }

    /// Writes a field of the message, whose name may be spelled in any case.
    #[inline]
    pub fn field(&mut self, name: Name, spelled: &[u8], value: &[u8], out: &mut Vec<u8>) {
        let known = u32::from(STATIC_NAMES[name as usize]);
        match policy(name) {
            Policy::Table if value.len() <= LONGEST => {
                let seed = match name {
                    Name::Other => hash_name(spelled),
                    known => known as u64,
                };
                let known = match name {
                    Name::Other => static_name(spelled),
                    _ => known,
                };
                let hash = hash(seed, value);
                self.indexable(FieldName::Field(name), spelled, value, hash, known, out);
            }
            Policy::Never => plain(out, 0x10, known, spelled, value),
            Policy::Table | Policy::Plain => plain(out, 0, known, spelled, value),
        }
    }

    /// Writes a field that may stand in the table, or may be put there. `known`: the index of its
    /// name in the static table, or 0.
    fn indexable(
        &mut self,
        name: FieldName,
        spelled: &[u8],
        value: &[u8],
        hash: u64,
        known: u32,
        out: &mut Vec<u8>,
    ) {
        let pair = hash as usize % PAIRS;
        if let Some(place) = self.place(self.pairs[pair])
            && let Some(line) = self.table.get(place)
            && line.name == name
            && line.value() == value
            && (name != FieldName::Field(Name::Other)
                || line.spelled().eq_ignore_ascii_case(spelled))
        {
            integer(out, 0x80, 7, (STATIC_LEN + 1 + place) as u32);
            return;
        }
        let tag = (hash >> 32) as u16 | 1;
        let seen = &mut self.seen[(hash >> 16) as usize % SEEN];
        if std::mem::replace(seen, tag) != tag || self.table.max_size() == 0 {
            return plain(out, 0, known, spelled, value);
        }
        let by_name = hash_name(spelled) as usize % NAMES;
        let index = match known {
            0 => self.name_index(by_name, name, spelled),
            known => known,
        };
        integer(out, 0x40, 6, index);
        if index == 0 {
            lower_string(out, spelled);
        }
        string(out, value);
        // Entries are compared without regard to case, and never read by anybody else.
        self.table.insert(name, 0, spelled, value);
        self.pairs[pair] = self.table.inserted();
        self.names[by_name] = self.table.inserted();
    }

    /// The place in the table of the entry with this number, if it is still there.
    #[inline]
    fn place(&self, number: u32) -> Option<usize> {
        let place = self.table.inserted().wrapping_sub(number) as usize;
        (number != 0 && place < self.table.len()).then_some(place)
    }

    fn name_index(&self, by_name: usize, name: FieldName, spelled: &[u8]) -> u32 {
        let found = self.place(self.names[by_name]).filter(|&place| {
            let line = self.table.get(place);
            line.is_some_and(|line| {
                line.name == name && line.spelled().eq_ignore_ascii_case(spelled)
            })
        });
        found.map_or(0, |place| (STATIC_LEN + 1 + place) as u32)
    }
}

/// What tells the hash of an authority from those of fields, whose seeds are small numbers.
const AUTHORITY_SEED: u64 = 1 << 32;
const STATUS_SEED: u64 = 2 << 32;

/// A hash that is quick and not secure: what collides is only encoded less well.
#[inline]
fn hash(seed: u64, octets: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = (seed ^ octets.len() as u64).wrapping_mul(FACTOR);
    let (words, rest) = octets.as_chunks::<8>();
    for word in words {
        hash = (hash.rotate_left(25) ^ u64::from_le_bytes(*word)).wrapping_mul(FACTOR);
    }
    let mut last = 0;
    for &octet in rest {
        last = last << 8 | u64::from(octet);
    }
    hash = (hash.rotate_left(25) ^ last).wrapping_mul(FACTOR);
    hash ^ hash >> 29
}

/// The same for a name, without regard to case.
#[inline]
fn hash_name(spelled: &[u8]) -> u64 {
    let mut hash = 0_u64;
    for &octet in spelled {
        hash = (hash.rotate_left(9) ^ u64::from(octet | 0x20)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    hash ^ hash >> 29
}

/// Names of the static table that the proxy gives no meaning.
fn static_name(spelled: &[u8]) -> u32 {
    const OTHERS: [(&[u8], u32); 9] = [
        (b"accept-charset", 15),
        (b"accept-language", 17),
        (b"access-control-allow-origin", 20),
        (b"content-disposition", 25),
        (b"content-language", 27),
        (b"content-location", 29),
        (b"link", 45),
        (b"refresh", 52),
        (b"strict-transport-security", 56),
    ];
    let found = OTHERS
        .iter()
        .find(|(name, _)| name.len() == spelled.len() && name.eq_ignore_ascii_case(spelled));
    found.map_or(0, |(_, index)| *index)
}

/// Writes a field that is put into no table. `known`: the index of its name, or 0.
fn plain(out: &mut Vec<u8>, mark: u8, known: u32, spelled: &[u8], value: &[u8]) {
    integer(out, mark, 4, known);
    if known == 0 {
        integer(out, 0, 7, spelled.len() as u32);
        let at = out.len();
        out.extend_from_slice(spelled);
        out[at..].make_ascii_lowercase();
    }
    integer(out, 0, 7, value.len() as u32);
    out.extend_from_slice(value);
}

/// Writes a string in whichever form is shorter.
fn string(out: &mut Vec<u8>, text: &[u8]) {
    let encoded = huffman::encoded_len(text);
    if encoded < text.len() {
        integer(out, 0x80, 7, encoded as u32);
        huffman::encode(text, out);
    } else {
        integer(out, 0, 7, text.len() as u32);
        out.extend_from_slice(text);
    }
}

/// The same for a name, in small letters.
fn lower_string(out: &mut Vec<u8>, spelled: &[u8]) {
    let mut small = [0; 64];
    match small.get_mut(..spelled.len()) {
        Some(small) => {
            small.copy_from_slice(spelled);
            small.make_ascii_lowercase();
            string(out, small);
        }
        None => string(out, &spelled.to_ascii_lowercase()),
    }
}

/// Writes an integer whose first octet has so many bits for it behind `mark`.
#[inline]
fn integer(out: &mut Vec<u8>, mark: u8, prefix: u32, number: u32) {
    let most = (1_u32 << prefix) - 1;
    if number < most {
        out.push(mark | number as u8);
        return;
    }
    out.push(mark | most as u8);
    let mut rest = number - most;
    while rest >= 0x80 {
        out.push(0x80 | rest as u8);
        rest >>= 7;
    }
    out.push(rest as u8);
}
