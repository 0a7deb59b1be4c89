//! Content that is here already: in memory, or in a file.

use crate::files::Part;
use crate::message::Fields;
use crate::net::body::{BodyError, Filled, Source};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::task::{Context, Poll};

const NO_TRAILERS: &Fields = &Fields::new();

/// Octets in memory.
#[derive(Debug)]
pub(super) struct Octets<T> {
    octets: T,
    taken: usize,
}

impl<T: AsRef<[u8]>> Octets<T> {
    pub(super) fn new(octets: T) -> Self {
        Self { octets, taken: 0 }
    }

    /// True if nothing is left.
    pub(super) fn is_over(&self) -> bool {
        self.content().is_empty()
    }
}

impl<T: AsRef<[u8]>> Source for Octets<T> {
    fn poll_fill(&mut self, _: &mut Context<'_>) -> Poll<Result<Filled, BodyError>> {
        Poll::Ready(Ok(if self.is_over() {
            Filled::End
        } else {
            Filled::Content
        }))
    }

    fn content(&self) -> &[u8] {
        &self.octets.as_ref()[self.taken..]
    }

    fn consume(&mut self, octets: usize) {
        self.taken += octets;
    }

    fn trailers(&self) -> &Fields {
        NO_TRAILERS
    }
}

/// Octets that are read from a file at once.
const READ: usize = 128 << 10;

/// Parts of a file, and what stands between them. Reading may wait for the disk, and the worker
/// with it, as in nginx without threads.
#[derive(Debug)]
pub(super) struct FileParts {
    file: File,
    /// The last one first.
    parts: Vec<Part>,
    buffer: Vec<u8>,
    taken: usize,
}

impl FileParts {
    pub(super) fn new(file: File, mut parts: Vec<Part>) -> Self {
        parts.reverse();
        Self {
            file,
            parts,
            buffer: Vec::new(),
            taken: 0,
        }
    }

    /// Reads the next octets; false at the end.
    fn read(&mut self) -> Result<bool, BodyError> {
        self.taken = 0;
        self.buffer.clear();
        while let Some(part) = self.parts.pop() {
            match part {
                Part::Octets(octets) => self.buffer = octets,
                Part::Range(mut range) => {
                    let wanted = (range.end - range.start).min(READ as u64) as usize;
                    self.buffer.resize(wanted, 0);
                    let read = self.file.read_at(&mut self.buffer, range.start)?;
                    self.buffer.truncate(read);
                    if read == 0 && wanted > 0 {
                        // It has become shorter since its length was said.
                        return Err(BodyError::Truncated);
                    }
                    range.start += read as u64;
                    if range.start < range.end {
                        self.parts.push(Part::Range(range));
                    }
                }
            }
            if !self.buffer.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Source for FileParts {
    fn poll_fill(&mut self, _: &mut Context<'_>) -> Poll<Result<Filled, BodyError>> {
        if self.taken < self.buffer.len() || self.read()? {
            return Poll::Ready(Ok(Filled::Content));
        }
        Poll::Ready(Ok(Filled::End))
    }

    fn content(&self) -> &[u8] {
        &self.buffer[self.taken..]
    }

    fn consume(&mut self, octets: usize) {
        self.taken += octets;
    }

    fn trailers(&self) -> &Fields {
        NO_TRAILERS
    }
}
