//! Compression of responses.

use crate::config::defaults::http as defaults;

/// Which responses are compressed, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compression {
    /// Codings that may be used, the preferred one first; empty for none.
    pub codings: Vec<Coding>,
    /// Media types in lower case: `type/subtype`, or `type/*`.
    pub types: Vec<String>,
    /// Content that is known to be shorter, in octets, stays as it is.
    pub min_bytes: u64,
    /// How much work is put into it.
    pub level: CompressionLevel,
}

impl Default for Compression {
    fn default() -> Self {
        Self {
            codings: Coding::ALL.to_vec(),
            types: defaults::COMPRESSED_TYPES
                .iter()
                .map(|&name| name.to_owned())
                .collect(),
            min_bytes: defaults::COMPRESSED_BYTES,
            level: CompressionLevel::Balanced,
        }
    }
}

/// A content coding (RFC 9110 §8.4.1, RFC 7932, RFC 8878).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Coding {
    /// Brotli.
    Brotli,
    /// Zstandard.
    Zstd,
    /// Gzip.
    Gzip,
}

impl Coding {
    /// Every coding, the one that costs least for what it saves first.
    pub const ALL: [Self; 3] = [Self::Zstd, Self::Brotli, Self::Gzip];

    /// The word in the configuration.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Brotli => "brotli",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }

    /// The name in `Accept-Encoding` and `Content-Encoding`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }

    /// The usual extension of files in this coding.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Zstd => "zst",
            Self::Gzip => "gz",
        }
    }
}

/// How much work is put into compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CompressionLevel {
    /// The least.
    Fast,
    /// What is usual for content that is made on request.
    Balanced,
    /// The smallest content, at several times the work.
    Best,
}

impl CompressionLevel {
    /// The word in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Balanced => "balanced",
            Self::Best => "best",
        }
    }
}
