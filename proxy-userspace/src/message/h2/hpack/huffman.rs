//! The Huffman code of HPACK (RFC 7541 §5.2, appendix B).
//!
//! The code is canonical: a symbol's code follows from the lengths of all. So the lengths are all
//! that is written down here, and the tables are made of them when this is compiled.

/// Symbols: the octets, and the end.
const SYMBOLS: usize = 257;

/// The symbol that must not occur.
const END: u16 = 256;

/// The longest code, in bits.
const LONGEST: usize = 30;

/// Bits that are looked up at once: they hold the code of every octet that is usual in a field.
const LOOKED_UP: u32 = 10;

/// Octets and the end by the length of their codes, in bits.
#[rustfmt::skip]
const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

/// What follows from [`LENGTHS`].
struct Code {
    /// By symbol.
    codes: [u32; SYMBOLS],
    /// Symbols in the order of their codes.
    sorted: [u16; SYMBOLS],
    /// By length: the first code, and the place of its symbol among the sorted.
    first: [u32; LONGEST + 1],
    place: [u16; LONGEST + 1],
    /// By length: how many there are.
    count: [u16; LONGEST + 1],
}

const CODE: Code = {
    let mut code = Code {
        codes: [0; SYMBOLS],
        sorted: [0; SYMBOLS],
        first: [0; LONGEST + 1],
        place: [0; LONGEST + 1],
        count: [0; LONGEST + 1],
    };
    let (mut next, mut at, mut length) = (0_u32, 0, 1);
    while length <= LONGEST {
        next <<= 1;
        code.first[length] = next;
        code.place[length] = at as u16;
        let mut symbol = 0;
        while symbol < SYMBOLS {
            if LENGTHS[symbol] as usize == length {
                code.codes[symbol] = next;
                code.sorted[at] = symbol as u16;
                code.count[length] += 1;
                next += 1;
                at += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    code
};

static CODES: [u32; SYMBOLS] = CODE.codes;
static SORTED: [u16; SYMBOLS] = CODE.sorted;
static FIRST: [u32; LONGEST + 1] = CODE.first;
static PLACE: [u16; LONGEST + 1] = CODE.place;
static COUNT: [u16; LONGEST + 1] = CODE.count;

/// By the next bits: the octet in the lower half, the length of its code in the upper; 0 for codes
/// that are longer.
static SHORT: [u16; 1 << LOOKED_UP] = {
    let mut table = [0; 1 << LOOKED_UP];
    let mut symbol = 0;
    while symbol < 256 {
        let length = LENGTHS[symbol] as u32;
        if length <= LOOKED_UP {
            let spare = LOOKED_UP - length;
            let first = CODE.codes[symbol] << spare;
            let mut rest = 0;
            while rest < 1 << spare {
                table[(first + rest) as usize] = (length << 8) as u16 | symbol as u16;
                rest += 1;
            }
        }
        symbol += 1;
    }
    table
};

/// The octets are no code, or do not end as they must.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Invalid;

/// Decodes `input` and appends what it means.
pub(super) fn decode(mut input: &[u8], out: &mut Vec<u8>) -> Result<(), Invalid> {
    // The shortest code has five bits.
    out.reserve(input.len() * 8 / 5 + 1);
    // The next bits stand at the top.
    let (mut bits, mut there) = (0_u64, 0_u32);
    loop {
        if there < u32::BITS {
            if let Some((word, rest)) = input.split_first_chunk::<4>() {
                bits |= u64::from(u32::from_be_bytes(*word)) << (32 - there);
                there += 32;
                input = rest;
            } else {
                for &octet in input {
                    bits |= u64::from(octet) << (56 - there);
                    there += 8;
                }
                input = &[];
            }
        }
        // Until a whole code may not be there.
        let enough = if input.is_empty() { 5 } else { LONGEST as u32 };
        while there >= enough {
            let short = SHORT[(bits >> (u64::BITS - LOOKED_UP)) as usize];
            let (octet, length) = match short {
                0 => long(bits)?,
                short => (short as u8, u32::from(short >> 8)),
            };
            if length > there {
                return ended(bits, there);
            }
            out.push(octet);
            bits <<= length;
            there -= length;
        }
        if input.is_empty() {
            return ended(bits, there);
        }
    }
}

/// What is left must be the beginning of the end's code, and less than an octet.
fn ended(bits: u64, there: u32) -> Result<(), Invalid> {
    let is_padding = there < 8 && (there == 0 || bits >> (u64::BITS - there) == (1 << there) - 1);
    is_padding.then_some(()).ok_or(Invalid)
}

/// An octet whose code is longer than what is looked up.
#[cold]
fn long(bits: u64) -> Result<(u8, u32), Invalid> {
    for length in LOOKED_UP as usize + 1..=LONGEST {
        let code = (bits >> (u64::BITS as usize - length)) as u32;
        let behind = code.wrapping_sub(FIRST[length]);
        if behind < u32::from(COUNT[length]) {
            let symbol = SORTED[usize::from(PLACE[length]) + behind as usize];
            if symbol == END {
                return Err(Invalid);
            }
            return Ok((symbol as u8, length as u32));
        }
    }
    Err(Invalid)
}

/// Octets of `text` when it is encoded.
pub(super) fn encoded_len(text: &[u8]) -> usize {
    let lengths = text
        .iter()
        .map(|&octet| usize::from(LENGTHS[usize::from(octet)]));
    lengths.sum::<usize>().div_ceil(8)
}

/// Appends `text`, encoded.
pub(super) fn encode(text: &[u8], out: &mut Vec<u8>) {
    // The bits that are not written yet stand at the bottom.
    let (mut bits, mut there) = (0_u64, 0_u32);
    for &octet in text {
        let length = u32::from(LENGTHS[usize::from(octet)]);
        bits = bits << length | u64::from(CODES[usize::from(octet)]);
        there += length;
        while there >= 8 {
            there -= 8;
            out.push((bits >> there) as u8);
        }
    }
    if there > 0 {
        let spare = 8 - there;
        out.push((bits << spare) as u8 | ((1 << spare) - 1) as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(input: &[u8]) -> Result<Vec<u8>, Invalid> {
        let mut out = Vec::new();
        decode(input, &mut out).map(|()| out)
    }

    #[test]
    fn some_codes_are_those_of_the_standard() {
        for (symbol, code, length) in [
            (b'0', 0x0, 5),
            (b'a', 0x3, 5),
            (b' ', 0x14, 6),
            (b'/', 0x18, 6),
            (b':', 0x5c, 7),
            (b'&', 0xf8, 8),
            (b'!', 0x3f8, 10),
            (b'\\', 0x7fff0, 19),
            (0, 0x1ff8, 13),
            (255, 0x3ffffee, 26),
            (b'\n', 0x3fff_fffc, 30),
        ] {
            assert_eq!(CODES[usize::from(symbol)], code, "{symbol}");
            assert_eq!(LENGTHS[usize::from(symbol)], length, "{symbol}");
        }
        assert_eq!(CODES[256], 0x3fff_ffff);
    }

    #[test]
    fn what_is_encoded_is_decoded_whatever_its_length() {
        let all: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
        for from in 0..all.len() {
            for len in [0, 1, 2, 3, 5, 8, 40] {
                let text = &all[from..(from + len).min(all.len())];
                let mut encoded = Vec::new();
                encode(text, &mut encoded);
                assert_eq!(encoded.len(), encoded_len(text));
                assert_eq!(decoded(&encoded), Ok(text.to_vec()), "{encoded:x?}");
            }
        }
        let text = b"www.example.com".repeat(50);
        let mut encoded = Vec::new();
        encode(&text, &mut encoded);
        assert_eq!(decoded(&encoded), Ok(text));
    }

    #[test]
    fn padding_is_less_than_an_octet_and_of_ones() {
        assert_eq!(decoded(&[0b0001_1111]), Ok(b"a".to_vec()));
        for bad in [
            &[0b0001_1110][..],
            &[0b0001_1000],
            &[0b0001_1111, 0xff],
            &[0xff],
            &[0xff; 4],
            &[0xff; 40],
        ] {
            assert_eq!(decoded(bad), Err(Invalid), "{bad:x?}");
        }
    }
}
