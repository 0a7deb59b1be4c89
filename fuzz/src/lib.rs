//! What the fuzz targets share, and the code that they are about.
//!
//! A target's input is what a peer would send, and nothing else, so that a seed is a plain message
//! and a find can be replayed with `nc`. What else a target needs is taken from the octets' sum.
//!
//! **The code.** All that reads octets of a network stands in the lowest layers of
//! `proxy-userspace`, which use nothing above them. So they are compiled here by themselves, from
//! the same files and under the same paths: without the kernel, the runtime and the command line,
//! which no target reaches and which would take minutes to instrument.

#[path = "../../proxy-userspace/src/types/mod.rs"]
pub mod types;

#[path = "../../proxy-userspace/src/message/mod.rs"]
pub mod message;

#[allow(dead_code, missing_docs)]
#[path = "."]
pub mod config {
    #[path = "../../proxy-userspace/src/config/defaults/mod.rs"]
    mod defaults;
    #[path = "../../proxy-userspace/src/config/model/mod.rs"]
    pub mod model;
}

#[path = "../../proxy-userspace/src/files/mod.rs"]
pub mod files;

#[path = "../../proxy-userspace/src/routing/mod.rs"]
pub mod routing;

#[allow(missing_docs)]
#[path = "."]
pub mod net {
    #[path = "../../proxy-userspace/src/net/client_hello/mod.rs"]
    pub mod client_hello;
    #[path = "../../proxy-userspace/src/net/detect.rs"]
    pub mod detect;
    #[path = "../../proxy-userspace/src/net/proxy_protocol/mod.rs"]
    pub mod proxy_protocol;

    /// The daemon's go round among its connections.
    pub mod buffer {
        pub const LARGE: usize = 128 << 10;

        #[derive(Clone, Debug, Default)]
        pub struct Buffers;

        impl Buffers {
            pub fn take_output(&self) -> Vec<u8> {
                Vec::with_capacity(64)
            }

            pub fn put_output(&self, _: Vec<u8>) {}
        }
    }

    #[path = "net/h2.rs"]
    pub mod h2;

    /// The clock's nanoseconds.
    pub type Nanos = u64;
}

/// Whose a redirected connection is: the kernel says so, not octets of a network.
#[allow(missing_docs)]
pub mod sockets {
    pub mod redirect {
        use std::net::SocketAddr;
        use std::sync::Arc;

        #[derive(Debug)]
        pub struct Redirected {
            pub destination: SocketAddr,
            pub workload: Arc<str>,
        }
    }
}

#[allow(missing_docs)]
#[path = "."]
pub mod observe {
    #[path = "."]
    pub mod trace {
        /// A flow whose spans are exported: none is here.
        #[derive(Debug)]
        pub struct Traced {
            pub connection: Option<Ids>,
            pub flow: Flow,
            pub number: u64,
        }

        #[derive(Clone, Copy, Debug)]
        pub struct Ids {
            pub trace: [u8; 16],
            pub span: [u8; 8],
        }

        #[derive(Debug)]
        pub struct Flow {
            pub id: u64,
        }

        #[path = "../../proxy-userspace/src/observe/trace/context.rs"]
        pub mod context;
    }
}

#[allow(missing_docs)]
#[path = "."]
pub mod http {
    /// What the daemon counts of a connection: nothing here.
    pub mod census {
        use std::net::SocketAddr;

        #[derive(Debug)]
        pub struct Live;

        impl Live {
            pub fn new(_: u64, _: SocketAddr, _: SocketAddr) -> Self {
                Self
            }

            pub fn set_ends(&self, _: SocketAddr, _: SocketAddr) {}
        }
    }

    /// What a connection is sealed by: none is here.
    pub mod secure {
        #[derive(Debug)]
        pub enum Secured {}

        impl Secured {
            pub fn tell(&self, _: &mut crate::message::Fields) {
                match *self {}
            }
        }
    }

    /// Of a request's way, what reads octets.
    #[path = "."]
    pub mod exchange {
        #[path = "../../proxy-userspace/src/http/exchange/deadline.rs"]
        pub mod deadline;
    }

    #[path = "../../proxy-userspace/src/http/forwarded.rs"]
    pub mod forwarded;
    #[path = "../../proxy-userspace/src/http/peer.rs"]
    pub mod peer;
}

use crate::message::Fields;
use crate::message::h1::{ChunkDecoder, ChunkStep, HeadLimits};
use crate::message::{Refusal, RequestHead, ResponseHead};

/// Limits that inputs of a few hundred octets reach.
pub const LIMITS: HeadLimits = HeadLimits {
    fields: 12,
    head_bytes: 512,
    target_bytes: 100,
};

/// Limits that nothing reaches which was read within [`LIMITS`] and written anew.
pub const WIDE: HeadLimits = HeadLimits {
    fields: 64,
    head_bytes: 8192,
    target_bytes: 8192,
};

/// A number that depends on the input alone.
pub fn sum(input: &[u8]) -> usize {
    input.iter().map(|&octet| usize::from(octet)).sum()
}

/// Shows the growing input to a reader, some octets more each time, until it is done.
pub fn by_pieces<T>(
    input: &[u8],
    mut read: impl FnMut(&[u8]) -> Result<Option<T>, Refusal>,
) -> Result<Option<T>, Refusal> {
    let step = 1 + sum(input) % 19;
    let ends = (0..input.len()).step_by(step).chain([input.len()]);
    for end in ends {
        match read(&input[..end]) {
            Ok(None) => {}
            done => return done,
        }
    }
    Ok(None)
}

/// Names as spelled and values.
pub fn pairs(fields: &Fields) -> Vec<(&[u8], &[u8])> {
    fields
        .iter()
        .map(|field| (field.spelled, field.value))
        .collect()
}

/// Panics unless both heads say the same, but for the version.
pub fn assert_same_request(one: &RequestHead, other: &RequestHead) {
    assert_eq!(pairs(&one.fields), pairs(&other.fields));
    assert_eq!(one.method, other.method);
    assert_eq!(one.authority(), other.authority());
    assert_eq!(one.host(), other.host());
    assert_eq!(one.target(), other.target());
    assert_eq!(one.path(), other.path());
    assert_eq!(one.protocol, other.protocol);
    assert_eq!(one.length, other.length);
    assert_eq!(one.expects_continue, other.expects_continue);
    assert_eq!(one.accepts_trailers, other.accepts_trailers);
}

/// Panics unless both heads say the same.
pub fn assert_same_response(one: &ResponseHead, other: &ResponseHead) {
    assert_eq!(pairs(&one.fields), pairs(&other.fields));
    assert_eq!(one.status, other.status);
    assert_eq!(one.reason, other.reason);
    assert_eq!(one.length, other.length);
    assert_eq!(one.described_length, other.described_length);
    assert_eq!(one.protocol, other.protocol);
}

/// Panics unless a reader that knows nothing but line ends finds one head and nothing after it.
pub fn assert_one_head(written: &[u8]) {
    let end = b"\r\n\r\n";
    let found = written.windows(end.len()).position(|octets| octets == end);
    assert_eq!(found, Some(written.len() - end.len()), "one empty line");
    for (at, &octet) in written.iter().enumerate() {
        match octet {
            b'\r' => assert_eq!(written.get(at + 1), Some(&b'\n'), "bare CR"),
            b'\n' => assert_eq!(written.get(at.wrapping_sub(1)), Some(&b'\r'), "bare LF"),
            b'\t' => {}
            _ => assert!(!octet.is_ascii_control(), "control character"),
        }
    }
}

/// Content, and the octets that it and its framing take, if it is there to its end.
pub type Content = Option<(Vec<u8>, usize)>;

/// Decodes chunks that come in pieces of `step` octets.
pub fn decode(
    input: &[u8],
    step: usize,
    decoder: &mut ChunkDecoder,
    limits: &HeadLimits,
) -> Result<Content, Refusal> {
    let mut content = Vec::new();
    let mut at = 0;
    let ends = (0..input.len()).step_by(step).chain([input.len()]);
    for end in ends {
        while at <= end {
            match decoder.next(&input[at..end], limits)? {
                ChunkStep::Data { skip, len } => {
                    assert!(len > 0);
                    content.extend_from_slice(&input[at + skip..at + skip + len]);
                    at += skip + len;
                }
                ChunkStep::NeedMore { consumed } => {
                    at += consumed;
                    break;
                }
                ChunkStep::End { consumed } => return Ok(Some((content, at + consumed))),
            }
        }
    }
    Ok(None)
}

/// The lines of an input that are `name: value`, as a peer's library would hand them over.
pub fn lines(input: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    input.split(|&octet| octet == b'\n').filter_map(|line| {
        // The name of a pseudo-field begins with the mark that ends other names.
        let mark = line.iter().skip(1).position(|&octet| octet == b':')? + 1;
        let value = &line[mark + 1..];
        Some((&line[..mark], value.strip_prefix(b" ").unwrap_or(value)))
    })
}

/// The lines of an input as a block of fields, none of which is put into a table.
pub fn block(input: &[u8]) -> Vec<u8> {
    fn text(octets: &[u8], block: &mut Vec<u8>) {
        match octets.len() {
            short @ 0..127 => block.push(short as u8),
            long => {
                let rest = long - 127;
                block.extend([
                    127,
                    rest as u8 | 0x80,
                    (rest >> 7) as u8 | 0x80,
                    (rest >> 14) as u8,
                ]);
            }
        }
        block.extend_from_slice(octets);
    }
    let mut block = Vec::new();
    for (name, value) in lines(input) {
        block.push(0);
        text(name, &mut block);
        text(value, &mut block);
    }
    block
}
