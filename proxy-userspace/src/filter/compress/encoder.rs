//! The encoders of all codings behind one type.
//!
//! Windows are bounded, since each response under way has one: about 300 KiB for gzip, 1 MiB for
//! the others, several times that at the best level.

use crate::config::model::http::{Coding, CompressionLevel};
use std::io::Write as _;

/// An encoder and what it has put out.
pub(super) enum Encoder {
    /// RFC 1952.
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    /// RFC 7932.
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    /// RFC 8878.
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let coding = match self {
            Self::Gzip(_) => Coding::Gzip,
            Self::Brotli(_) => Coding::Brotli,
            Self::Zstd(_) => Coding::Zstd,
        };
        write!(f, "Encoder({coding:?})")
    }
}

impl Encoder {
    /// An encoder; `None` if there is no memory for one.
    pub(super) fn new(coding: Coding, level: CompressionLevel) -> Option<Self> {
        use CompressionLevel::{Balanced, Best, Fast};
        Some(match coding {
            Coding::Gzip => {
                let level = match level {
                    Fast => 1,
                    Balanced => 6,
                    Best => 9,
                };
                let level = flate2::Compression::new(level);
                Self::Gzip(flate2::write::GzEncoder::new(Vec::new(), level))
            }
            Coding::Brotli => {
                // Qualities 0 and 1 put out a block for each piece, however short.
                let (quality, window) = match level {
                    Fast => (2, 18),
                    Balanced => (5, 18),
                    Best => (9, 20),
                };
                let writer = brotli::CompressorWriter::new(Vec::new(), BUFFER, quality, window);
                Self::Brotli(Box::new(writer))
            }
            Coding::Zstd => {
                let (level, window) = match level {
                    Fast => (1, 18),
                    Balanced => (3, 19),
                    Best => (9, 20),
                };
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), level).ok()?;
                encoder.window_log(window).ok()?;
                Self::Zstd(encoder)
            }
        })
    }

    /// Takes content; puts out what it has made of it so far.
    pub(super) fn push(&mut self, content: &[u8], out: &mut Vec<u8>) {
        // A vector takes everything.
        let _ = match self {
            Self::Gzip(encoder) => encoder.write_all(content),
            Self::Brotli(encoder) => encoder.write_all(content),
            Self::Zstd(encoder) => encoder.write_all(content),
        };
        self.drain(out);
    }

    /// Puts out all that it has taken.
    pub(super) fn flush(&mut self, out: &mut Vec<u8>) {
        let _ = match self {
            Self::Gzip(encoder) => encoder.flush(),
            Self::Brotli(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        };
        self.drain(out);
    }

    /// Puts out the rest. Must be the last call.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        match self {
            Self::Gzip(encoder) => {
                let _ = encoder.try_finish();
            }
            Self::Brotli(encoder) => {
                // It finishes when it is taken apart.
                let empty = brotli::CompressorWriter::new(Vec::new(), 1, 0, 10);
                let whole = std::mem::replace(&mut **encoder, empty);
                out.extend_from_slice(&whole.into_inner());
                return;
            }
            Self::Zstd(encoder) => {
                let _ = encoder.do_finish();
            }
        }
        self.drain(out);
    }

    fn drain(&mut self, out: &mut Vec<u8>) {
        let made = match self {
            Self::Gzip(encoder) => encoder.get_mut(),
            Self::Brotli(encoder) => encoder.get_mut(),
            Self::Zstd(encoder) => encoder.get_mut(),
        };
        out.append(made);
    }
}

/// Octets that the brotli encoder collects before it puts them out.
const BUFFER: usize = 4096;
