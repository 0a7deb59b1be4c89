//! Content that is here already: in memory, or in a file.

use crate::files::Part;
use crate::message::Fields;
use crate::net::body::{BodyError, Filled, InFile, Source};
use crate::net::buffer::Buffers;
use rustix::io::pread;
use std::fs::File;
use std::io;
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

/// Octets from which on the kernel sends from the file. Below that, reading them costs less than
/// telling the kernel, and they go out with the head.
const SENT: u64 = 32 << 10;

/// Parts of a file, and what stands between them. Reading may wait for the disk, and the worker
/// with it, as in nginx without threads.
#[derive(Debug)]
pub(super) struct FileParts {
    file: File,
    /// The last one first.
    parts: Vec<Part>,
    /// One of the worker's, so that a small file costs no memory of its own.
    buffer: Vec<u8>,
    buffers: Buffers,
    taken: usize,
}

impl FileParts {
    pub(super) fn new(file: File, mut parts: Vec<Part>, buffers: &Buffers) -> Self {
        parts.reverse();
        Self {
            file,
            parts,
            buffer: buffers.take_output(),
            buffers: buffers.clone(),
            taken: 0,
        }
    }

    /// Reads the next octets; false at the end.
    fn read(&mut self) -> Result<bool, BodyError> {
        self.taken = 0;
        self.buffer.clear();
        while let Some(part) = self.parts.pop() {
            match part {
                Part::Octets(octets) => self.buffer.extend_from_slice(&octets),
                Part::Range(mut range) => {
                    let wanted = (range.end - range.start).min(READ as u64) as usize;
                    let read = read_at(&self.file, &mut self.buffer, wanted, range.start)?;
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

impl Drop for FileParts {
    fn drop(&mut self) {
        // Long ones are for long files, which the kernel mostly sends by itself.
        if self.buffer.capacity() as u64 <= SENT {
            self.buffers.put_output(std::mem::take(&mut self.buffer));
        }
    }
}

/// Reads up to `wanted` octets behind what is in the buffer; says how many there were.
fn read_at(file: &File, buffer: &mut Vec<u8>, wanted: usize, at: u64) -> io::Result<usize> {
    buffer.reserve_exact(wanted);
    loop {
        // The buffer may have more room, and the range ends where it ends.
        let before = buffer.len();
        let room = &mut buffer.spare_capacity_mut()[..wanted];
        match pread(file, room, at) {
            Ok((read, _)) => {
                let read = read.len();
                // SAFETY: so many octets behind `before` were written by the kernel.
                unsafe { buffer.set_len(before + read) };
                return Ok(read);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

impl Source for FileParts {
    fn poll_fill(&mut self, _: &mut Context<'_>) -> Poll<Result<Filled, BodyError>> {
        if self.taken < self.buffer.len() || self.read()? {
            return Poll::Ready(Ok(Filled::Content));
        }
        Poll::Ready(Ok(Filled::End))
    }

    fn in_file(&self) -> Option<InFile<'_>> {
        let range = match self.parts.last() {
            Some(Part::Range(range)) if self.taken == self.buffer.len() => range,
            _ => return None,
        };
        let octets = range.end - range.start;
        (octets >= SENT).then_some(InFile {
            file: &self.file,
            at: range.start,
            octets,
        })
    }

    fn content(&self) -> &[u8] {
        &self.buffer[self.taken..]
    }

    fn consume(&mut self, octets: usize) {
        if self.taken < self.buffer.len() {
            self.taken += octets;
        } else if let Some(Part::Range(range)) = self.parts.last_mut() {
            // Nothing was read: the kernel has sent it.
            range.start += octets as u64;
            if range.is_empty() {
                self.parts.pop();
            }
        }
    }

    fn trailers(&self) -> &Fields {
        NO_TRAILERS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::unix::fs::FileExt as _;

    /// What a source gives, with long ranges taken from the file as a sink would.
    fn all(mut source: FileParts) -> (Vec<u8>, u32) {
        let (mut octets, mut from_file) = (Vec::new(), 0);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        loop {
            if let Some(piece) = source.in_file() {
                // Not all at once, as from a socket that fills up.
                let mut some = vec![0; piece.octets.div_ceil(2).min(40_000) as usize];
                piece
                    .file
                    .read_exact_at(&mut some, piece.at)
                    .expect("reads");
                octets.extend_from_slice(&some);
                source.consume(some.len());
                from_file += 1;
                continue;
            }
            match source.poll_fill(&mut cx) {
                Poll::Ready(Ok(Filled::Content)) => {
                    octets.push(source.content()[0]);
                    source.consume(1);
                }
                Poll::Ready(Ok(Filled::End)) => return (octets, from_file),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn long_ranges_are_left_in_the_file_and_come_in_their_order() {
        let content: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&content).expect("writes");
        let parts = vec![
            Part::Octets(b"one".to_vec()),
            Part::Range(5..9),
            Part::Range(7..100_000),
            Part::Octets(b"two".to_vec()),
            Part::Range(150_000..200_000),
        ];
        let (octets, from_file) = all(FileParts::new(file, parts, &Buffers::default()));
        let expected = [
            b"one",
            &content[5..9],
            &content[7..100_000],
            b"two",
            &content[150_000..],
        ]
        .concat();
        assert!(octets == expected);
        assert!(from_file > 2, "{from_file}");
    }
}
