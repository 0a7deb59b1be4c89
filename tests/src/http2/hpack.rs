//! Field blocks (RFC 7541): a writer that says each representation as it is told, and a reader that
//! tells what is wrong.

use std::collections::VecDeque;

/// A field: name and value.
pub type Field = (Vec<u8>, Vec<u8>);

/// How a literal field is to be kept (section 6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// In the dynamic table.
    Indexed,
    /// Nowhere.
    Plain,
    /// Nowhere, and never by anyone.
    Never,
}

/// A string (section 5.2).
#[derive(Clone, Debug)]
pub enum Text {
    /// Octets as they are.
    Plain(Vec<u8>),
    /// By Huffman's code.
    Huffman(Vec<u8>),
    /// These octets are said to be by Huffman's code.
    Coded(Vec<u8>),
}

/// A name.
#[derive(Clone, Debug)]
pub enum Name {
    /// That of an entry.
    Index(u64),
    /// A new one.
    New(Text),
}

impl From<&[u8]> for Text {
    fn from(octets: &[u8]) -> Self {
        Self::Plain(octets.to_vec())
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self::Plain(text.into())
    }
}

impl From<&str> for Name {
    fn from(text: &str) -> Self {
        Self::New(text.into())
    }
}

impl From<Text> for Name {
    fn from(text: Text) -> Self {
        Self::New(text)
    }
}

impl From<u64> for Name {
    fn from(index: u64) -> Self {
        Self::Index(index)
    }
}

/// A string by Huffman's code.
pub fn huffman(text: &str) -> Text {
    Text::Huffman(text.into())
}

/// A field block that is being written.
#[derive(Clone, Debug, Default)]
pub struct Block(Vec<u8>);

impl From<Block> for Vec<u8> {
    fn from(block: Block) -> Self {
        block.0
    }
}

impl Block {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// These fields, each as a literal that is kept nowhere.
    pub fn of(fields: &[(&str, &str)]) -> Self {
        let add = |block: Self, (name, value): &(&str, &str)| block.field(name, *value);
        fields.iter().fold(Self::new(), add)
    }

    /// And this field, as a literal that is kept nowhere.
    #[must_use]
    pub fn field(self, name: &str, value: impl Into<Text>) -> Self {
        self.literal(Form::Plain, name, value)
    }

    /// And a literal.
    #[must_use]
    pub fn literal(mut self, form: Form, name: impl Into<Name>, value: impl Into<Text>) -> Self {
        let (bits, first) = match form {
            Form::Indexed => (6, 0x40),
            Form::Plain => (4, 0),
            Form::Never => (4, 0x10),
        };
        match name.into() {
            Name::Index(index) => integer(bits, first, index, &mut self.0),
            Name::New(text) => {
                self.0.push(first);
                string(&text, &mut self.0);
            }
        }
        string(&value.into(), &mut self.0);
        self
    }

    /// And the field of an entry.
    #[must_use]
    pub fn indexed(mut self, index: u64) -> Self {
        integer(7, 0x80, index, &mut self.0);
        self
    }

    /// And another size of the dynamic table, in octets.
    #[must_use]
    pub fn resized(mut self, octets: u64) -> Self {
        integer(5, 0x20, octets, &mut self.0);
        self
    }

    /// And these octets.
    #[must_use]
    pub fn raw(mut self, octets: &[u8]) -> Self {
        self.0.extend(octets);
        self
    }

    /// All that was written, in two parts of which the first has so many octets.
    pub fn split(mut self, at: usize) -> (Vec<u8>, Vec<u8>) {
        let rest = self.0.split_off(at.min(self.0.len()));
        (self.0, rest)
    }
}

/// An integer with a prefix of so many bits (section 5.1).
fn integer(bits: u32, first: u8, value: u64, out: &mut Vec<u8>) {
    let most = (1_u64 << bits) - 1;
    if value < most {
        out.push(first | value as u8);
        return;
    }
    out.push(first | most as u8);
    let mut left = value - most;
    while left >= 128 {
        out.push(left as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}

fn string(text: &Text, out: &mut Vec<u8>) {
    let (first, octets) = match text {
        Text::Plain(octets) => (0, octets.clone()),
        Text::Huffman(octets) => (0x80, code::encode(octets)),
        Text::Coded(octets) => (0x80, octets.clone()),
    };
    integer(7, first, octets.len() as u64, out);
    out.extend(octets);
}

/// Huffman's code (appendix B), as far as it has 15 bits or fewer: NUL and all of printable ASCII but
/// the backslash. It is canonical: codes of a length follow each other in the order of their octets,
/// so the octets of each length say all.
mod code {
    const LENGTHS: [(u32, &[u8]); 10] = [
        (5, b"012aceiost"),
        (6, b" %-./3456789=A_bdfghlmnpru"),
        (7, b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
        (8, b"&*,;XZ"),
        (10, b"!\"()?"),
        (11, b"'+|"),
        (12, b"#>"),
        (13, b"\0$@[]~"),
        (14, b"^}"),
        (15, b"<`{"),
    ];

    /// Octet, code, and bits of the code.
    fn codes() -> impl Iterator<Item = (u8, u32, u32)> {
        let (mut next, mut before) = (0_u32, 5);
        LENGTHS.into_iter().flat_map(move |(bits, octets)| {
            let first = next << (bits - before);
            (next, before) = (first + octets.len() as u32, bits);
            let numbered = octets.iter().zip(first..);
            numbered.map(move |(octet, code)| (*octet, code, bits))
        })
    }

    pub(super) fn encode(octets: &[u8]) -> Vec<u8> {
        let (mut out, mut pending, mut count) = (Vec::new(), 0_u64, 0);
        for octet in octets {
            let (_, code, bits) = codes().find(|code| code.0 == *octet).expect("a short code");
            pending = pending << bits | u64::from(code);
            count += bits;
            while count >= 8 {
                count -= 8;
                out.push((pending >> count) as u8);
            }
        }
        if count > 0 {
            out.push((pending << (8 - count)) as u8 | (0xff >> count));
        }
        out
    }

    pub(super) fn decode(octets: &[u8]) -> Result<Vec<u8>, String> {
        let (mut out, mut code, mut bits) = (Vec::new(), 0_u32, 0);
        for octet in octets {
            for bit in (0..8).rev() {
                code = code << 1 | u32::from(octet >> bit & 1);
                bits += 1;
                if let Some(found) = codes().find(|known| (known.1, known.2) == (code, bits)) {
                    out.push(found.0);
                    (code, bits) = (0, 0);
                } else if bits > 15 {
                    return Err("a rare or bad code in a string".to_owned());
                }
            }
        }
        match bits {
            0..=7 if code == (1 << bits) - 1 => Ok(out),
            _ => Err("a string with bad padding".to_owned()),
        }
    }
}

/// Octets that an entry is counted with beside its own (section 4.1).
const OVERHEAD: usize = 32;

/// Reads the field blocks of a connection.
#[derive(Debug)]
pub struct Decoder {
    entries: VecDeque<Field>,
    /// Octets that the table may have now, as the writer says.
    size: usize,
    /// Octets that it may be given at most.
    limit: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            size: 4096,
            limit: 4096,
        }
    }
}

impl Decoder {
    /// The writer was told that the table may have so many octets.
    pub fn allow(&mut self, octets: usize) {
        self.limit = octets;
    }

    /// The fields of a block.
    ///
    /// # Errors
    ///
    /// It is none, or has a rare octet by Huffman's code.
    pub fn decode(&mut self, mut block: &[u8]) -> Result<Vec<Field>, String> {
        let mut fields = Vec::new();
        while let Some(&first) = block.first() {
            if first & 0x80 != 0 {
                let index = read_integer(7, &mut block)?;
                fields.push(self.entry(index)?);
            } else if first & 0xe0 == 0x20 {
                let size = read_integer(5, &mut block)?;
                if size > self.limit || !fields.is_empty() {
                    return Err(format!(
                        "another size of the table, {size}, is not lawful here"
                    ));
                }
                self.size = size;
                self.evict();
            } else {
                let is_kept = first & 0x40 != 0;
                let field = self.read_literal(if is_kept { 6 } else { 4 }, &mut block)?;
                if is_kept {
                    self.entries.push_front(field.clone());
                    self.evict();
                }
                fields.push(field);
            }
        }
        if self.size > self.limit {
            return Err("a smaller table was not confirmed".to_owned());
        }
        Ok(fields)
    }

    fn read_literal(&self, bits: u32, block: &mut &[u8]) -> Result<Field, String> {
        let name = match read_integer(bits, block)? {
            0 => read_string(block)?,
            index => self.entry(index)?.0,
        };
        Ok((name, read_string(block)?))
    }

    fn entry(&self, index: usize) -> Result<Field, String> {
        let index = index.checked_sub(1).ok_or("index 0")?;
        if let Some((name, value)) = STATIC.get(index) {
            return Ok((name.as_bytes().to_vec(), value.as_bytes().to_vec()));
        }
        let entry = self.entries.get(index - STATIC.len());
        entry.cloned().ok_or(format!("no entry {}", index + 1))
    }

    fn evict(&mut self) {
        let octets = |field: &Field| field.0.len() + field.1.len() + OVERHEAD;
        while self.entries.iter().map(octets).sum::<usize>() > self.size {
            self.entries.pop_back();
        }
    }
}

fn read_integer(bits: u32, block: &mut &[u8]) -> Result<usize, String> {
    let mut next = || {
        let (first, rest) = block.split_first().ok_or("a block that is cut off")?;
        *block = rest;
        Ok::<_, String>(usize::from(*first))
    };
    let most = (1 << bits) - 1;
    let mut value = next()? & most;
    if value < most {
        return Ok(value);
    }
    for shift in [0, 7, 14, 21] {
        let octet = next()?;
        value += (octet & 0x7f) << shift;
        if octet & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("an integer that is too long".to_owned())
}

fn read_string(block: &mut &[u8]) -> Result<Vec<u8>, String> {
    let is_coded = block.first().is_some_and(|first| first & 0x80 != 0);
    let length = read_integer(7, block)?;
    let (octets, rest) = block
        .split_at_checked(length)
        .ok_or("a string that is cut off")?;
    *block = rest;
    if is_coded {
        code::decode(octets)
    } else {
        Ok(octets.to_vec())
    }
}

/// The static table (appendix A).
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_that_of_the_examples() {
        // RFC 7541, C.4.1 and C.6.1.
        let coded = |hex: &[u8], text: &str| {
            assert_eq!(code::encode(text.as_bytes()), hex, "{text}");
            assert_eq!(code::decode(hex).as_deref(), Ok(text.as_bytes()));
        };
        coded(
            b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff",
            "www.example.com",
        );
        coded(
            b"\x9d\x29\xad\x17\x18\x63\xc7\x8f\x0b\x97\xc8\xe9\xae\x82\xae\x43\xd3",
            "https://www.example.com",
        );
        coded(
            b"\xd0\x7a\xbe\x94\x10\x54\xd4\x44\xa8\x20\x05\x95\x04\x0b\x81\x66\xe0\x82\xa6\x2d\x1b\xff",
            "Mon, 21 Oct 2013 20:13:21 GMT",
        );
        let all: Vec<u8> = (32..127).filter(|octet| *octet != b'\\').collect();
        assert_eq!(code::decode(&code::encode(&all)), Ok(all));
    }

    #[test]
    fn integers_are_those_of_the_examples() {
        // RFC 7541, C.1.
        for (bits, value, octets) in [
            (5, 10, &[10][..]),
            (5, 1337, &[31, 154, 10]),
            (8, 42, &[42]),
        ] {
            let mut out = Vec::new();
            integer(bits, 0, value, &mut out);
            assert_eq!(out, octets);
            assert_eq!(read_integer(bits, &mut &out[..]), Ok(value as usize));
        }
    }

    #[test]
    fn fields_are_kept_and_evicted() {
        let mut decoder = Decoder::default();
        let block = Block::new().literal(Form::Indexed, "a", "b").indexed(62);
        let field = (b"a".to_vec(), b"b".to_vec());
        assert_eq!(
            decoder.decode(&Vec::from(block)),
            Ok(vec![field.clone(), field])
        );
        let block = Block::new().resized(0).indexed(62);
        assert!(decoder.decode(&Vec::from(block)).is_err());
        let block = Block::new().resized(5000);
        assert!(decoder.decode(&Vec::from(block)).is_err());
    }
}
