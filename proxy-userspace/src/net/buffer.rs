//! Buffers that belong to a worker and go round among its connections.
//!
//! A connection holds a buffer only while there is something in it: not between requests, and not
//! while its backend is waited for. The one that was given back last is taken first: with thousands
//! of connections the octets still pass through a few buffers that stay in the CPU's cache.

use super::pipe::Pipes;
use std::cell::RefCell;
use std::rc::Rc;

/// Octets of a buffer for heads and small content.
pub const SMALL: usize = 16 << 10;

/// Octets of a buffer for content that flows, and of the longest head.
pub const LARGE: usize = 128 << 10;

/// Buffers of each kind that are kept when unused: what a burst needed is given back to the system.
const KEPT_SMALL: usize = 128;
const KEPT_LARGE: usize = 16;

/// The unused buffers of a worker.
#[derive(Clone, Debug, Default)]
pub struct Buffers(Rc<Unused>);

#[derive(Debug, Default)]
struct Unused {
    small: RefCell<Vec<Box<[u8]>>>,
    large: RefCell<Vec<Box<[u8]>>>,
    outputs: RefCell<Vec<Vec<u8>>>,
    pipes: Pipes,
}

impl Buffers {
    fn take(&self, large: bool) -> Box<[u8]> {
        let (unused, octets) = if large {
            (&self.0.large, LARGE)
        } else {
            (&self.0.small, SMALL)
        };
        let found = unused.borrow_mut().pop();
        found.unwrap_or_else(|| vec![0; octets].into_boxed_slice())
    }

    fn put(&self, buffer: Box<[u8]>) {
        let (unused, kept) = if buffer.len() == LARGE {
            (&self.0.large, KEPT_LARGE)
        } else {
            (&self.0.small, KEPT_SMALL)
        };
        let mut unused = unused.borrow_mut();
        if unused.len() < kept {
            unused.push(buffer);
        }
    }

    /// The worker's pipes.
    pub fn pipes(&self) -> &Pipes {
        &self.0.pipes
    }

    /// An empty buffer for output.
    pub fn take_output(&self) -> Vec<u8> {
        let found = self.0.outputs.borrow_mut().pop();
        found.unwrap_or_else(|| Vec::with_capacity(SMALL))
    }

    /// Gives a buffer for output back.
    pub fn put_output(&self, mut output: Vec<u8>) {
        let mut unused = self.0.outputs.borrow_mut();
        if output.capacity() > 0 && output.capacity() <= LARGE && unused.len() < KEPT_SMALL {
            output.clear();
            unused.push(output);
        }
    }
}

/// What was read and not yet consumed.
#[derive(Debug)]
pub struct Input {
    buffers: Buffers,
    /// Empty while there is nothing to hold.
    octets: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Input {
    /// Nothing, and no buffer.
    pub fn new(buffers: Buffers) -> Self {
        Self {
            buffers,
            octets: Box::default(),
            start: 0,
            end: 0,
        }
    }

    /// What is there.
    #[inline]
    pub fn filled(&self) -> &[u8] {
        &self.octets[self.start..self.end]
    }

    /// True if nothing is there.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Takes this many octets away from the front. With the last one the buffer is given back.
    #[inline]
    pub fn consume(&mut self, octets: usize) {
        self.start += octets;
        debug_assert!(self.start <= self.end, "consumed what was not there");
        self.release();
    }

    /// Room behind what is there; none if the buffer is full.
    pub fn room(&mut self) -> &mut [u8] {
        if self.octets.is_empty() {
            self.octets = self.buffers.take(false);
        }
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.octets.len() && self.start > 0 {
            self.octets.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.octets[self.end..]
    }

    /// Puts octets behind what is there; not more than a large buffer has room for.
    pub fn put(&mut self, octets: &[u8]) {
        if self.room().len() < octets.len() {
            self.grow();
        }
        self.room()[..octets.len()].copy_from_slice(octets);
        self.filled_more(octets.len());
    }

    /// This many octets of the room have been filled.
    #[inline]
    pub fn filled_more(&mut self, octets: usize) {
        self.end += octets;
        debug_assert!(self.end <= self.octets.len(), "filled what was not there");
    }

    /// Makes the buffer large. False if it is already.
    pub fn grow(&mut self) -> bool {
        if self.octets.len() == LARGE {
            return false;
        }
        let mut large = self.buffers.take(true);
        let filled = self.filled().len();
        large[..filled].copy_from_slice(self.filled());
        let small = std::mem::replace(&mut self.octets, large);
        if !small.is_empty() {
            self.buffers.put(small);
        }
        (self.start, self.end) = (0, filled);
        true
    }

    /// Gives the buffer back if nothing is in it.
    pub fn release(&mut self) {
        if self.is_empty() && !self.octets.is_empty() {
            self.buffers.put(std::mem::take(&mut self.octets));
            (self.start, self.end) = (0, 0);
        }
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        (self.start, self.end) = (0, 0);
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(input: &mut Input, octets: &[u8]) {
        input.room()[..octets.len()].copy_from_slice(octets);
        input.filled_more(octets.len());
    }

    #[test]
    fn octets_keep_their_order_while_the_buffer_wraps_and_grows() {
        let mut input = Input::new(Buffers::default());
        put(&mut input, &[1; SMALL - 1]);
        input.consume(SMALL - 2);
        put(&mut input, b"x");
        assert_eq!(input.filled(), [1, b'x']);
        let room = input.room().len();
        assert_eq!(room, SMALL - 2, "moved to the front");
        put(&mut input, &vec![2; room]);
        assert!(input.room().is_empty());
        assert!(input.grow());
        assert_eq!(input.room().len(), LARGE - SMALL);
        assert_eq!(input.filled()[..3], [1, b'x', 2]);
        assert!(!input.grow(), "once only");
    }

    #[test]
    fn an_empty_input_gives_its_buffer_back_for_the_next() {
        let buffers = Buffers::default();
        let mut first = Input::new(buffers.clone());
        put(&mut first, b"ab");
        first.release();
        first.consume(1);
        assert!(buffers.0.small.borrow().is_empty(), "still in use");
        first.consume(1);
        assert_eq!(buffers.0.small.borrow().len(), 1);
        let mut second = Input::new(buffers.clone());
        put(&mut second, b"c");
        assert!(buffers.0.small.borrow().is_empty(), "the same one");
        drop(second);
        assert_eq!(buffers.0.small.borrow().len(), 1);
    }
}
