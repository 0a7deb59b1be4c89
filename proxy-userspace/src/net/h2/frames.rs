//! Frames seen passing by (RFC 9113 §4.1).
//!
//! The octets are not kept and nothing is judged: a head is nine octets, and of a payload the
//! first eight are enough for what is asked of it.

/// Octets of a frame's head.
const HEAD: usize = 9;

/// Follows the frames of one direction, in whatever pieces the octets come.
#[derive(Debug)]
pub struct Frames {
    /// Octets that are to be passed over.
    skip: u32,
    head: [u8; HEAD],
    /// Octets of the head that have come.
    come: u8,
    first: [u8; 8],
    /// Octets of `first` that have come.
    first_come: u8,
}

/// A frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Type.
    pub kind: u8,
    /// Flags.
    pub flags: u8,
    /// Stream; 0 for the connection.
    pub stream: u32,
    /// Octets of the payload.
    pub length: u32,
    /// The payload's first octets, then zeros.
    pub first: [u8; 8],
}

#[expect(missing_docs, reason = "as RFC 9113 §6 names them")]
impl Frame {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;

    /// Flag of SETTINGS and PING.
    pub const ACK: u8 = 1;
    /// Flag of DATA and HEADERS.
    pub const END_STREAM: u8 = 1;
    /// Flag of HEADERS and CONTINUATION.
    pub const END_HEADERS: u8 = 4;

    /// The payload's first word.
    pub const fn first_word(&self) -> u32 {
        let [a, b, c, d, ..] = self.first;
        u32::from_be_bytes([a, b, c, d])
    }

    /// The payload's second word.
    pub const fn second_word(&self) -> u32 {
        let [.., a, b, c, d] = self.first;
        u32::from_be_bytes([a, b, c, d])
    }
}

impl Frames {
    /// Frames that begin after `skip` octets.
    pub const fn new(skip: usize) -> Self {
        Self {
            skip: skip as u32,
            head: [0; HEAD],
            come: 0,
            first: [0; 8],
            first_come: 0,
        }
    }

    /// True within a head or the octets of a payload that are looked at.
    pub const fn is_within(&self) -> bool {
        self.come > 0
    }

    /// Takes the next octets, and gives each frame whose head and first octets are complete.
    pub fn take(&mut self, mut octets: &[u8], mut give: impl FnMut(&Frame)) {
        loop {
            let passed = octets.len().min(self.skip as usize);
            octets = &octets[passed..];
            self.skip -= passed as u32;
            if octets.is_empty() {
                return;
            }
            let come = usize::from(self.come);
            if come < HEAD {
                let (some, rest) = octets.split_at(octets.len().min(HEAD - come));
                self.head[come..come + some.len()].copy_from_slice(some);
                self.come += some.len() as u8;
                octets = rest;
                if usize::from(self.come) < HEAD {
                    return;
                }
            }
            let frame = self.frame();
            let wanted = frame.length.min(8) as usize;
            let come = usize::from(self.first_come);
            let (some, rest) = octets.split_at(octets.len().min(wanted - come));
            self.first[come..come + some.len()].copy_from_slice(some);
            self.first_come += some.len() as u8;
            octets = rest;
            if usize::from(self.first_come) < wanted {
                return;
            }
            give(&self.frame());
            *self = Self::new(frame.length as usize - wanted);
        }
    }

    fn frame(&self) -> Frame {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = self.head;
        Frame {
            kind,
            flags,
            stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]),
            length: u32::from_be_bytes([0, l0, l1, l2]),
            first: self.first,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut octets = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        octets.extend([kind, flags]);
        octets.extend(stream.to_be_bytes());
        octets.extend(payload);
        octets
    }

    #[test]
    fn frames_are_the_same_in_whatever_pieces_they_come() {
        let mut octets = b"preface".to_vec();
        octets.extend(frame(Frame::SETTINGS, 0, 0, &[]));
        octets.extend(frame(Frame::DATA, Frame::END_STREAM, 7, &[9; 300]));
        octets.extend(frame(Frame::RST_STREAM, 0, 7, &[0, 0, 0, 8]));
        octets.extend(frame(Frame::GOAWAY, 0, 0, &[0, 0, 0, 5, 0, 0, 0, 11, 1, 2]));
        for piece in [1, 2, 3, 7, 9, 10, 64, 1000] {
            let (mut frames, mut seen) = (Frames::new(7), Vec::new());
            for some in octets.chunks(piece) {
                frames.take(some, |frame| seen.push(*frame));
            }
            assert!(!frames.is_within());
            let kinds: Vec<_> = seen.iter().map(|f| (f.kind, f.stream, f.length)).collect();
            assert_eq!(
                kinds,
                [(4, 0, 0), (0, 7, 300), (3, 7, 4), (7, 0, 10)],
                "{piece}"
            );
            assert_eq!(seen[1].flags, Frame::END_STREAM);
            assert_eq!(seen[2].first_word(), 8);
            assert_eq!((seen[3].first_word(), seen[3].second_word()), (5, 11));
        }
    }

    #[test]
    fn the_reserved_bit_of_a_stream_is_ignored() {
        let mut seen = 0;
        let octets = frame(Frame::PING, 0, 1 << 31 | 3, &[0; 8]);
        Frames::new(0).take(&octets, |frame| seen = frame.stream);
        assert_eq!(seen, 3);
    }
}
