//! What is to be written.

use crate::message::h2::frame::flag;
use crate::net::buffer::Buffers;

/// Octets that were written and may stand before those that were not.
const SLACK: usize = 64 << 10;

/// Octets that are to be written, in order. Positions count from the connection's first.
#[derive(Debug, Default)]
pub(in crate::net::h2) struct Output {
    octets: Vec<u8>,
    /// Those of them that were written.
    sent: usize,
    /// Octets that were removed from the front of `octets` so far.
    removed: u64,
    /// Up to here a writer may have taken octets without saying so yet.
    offered: u64,
}

impl Output {
    /// For appending.
    #[inline]
    pub(in crate::net::h2) fn open(&mut self, buffers: &Buffers) -> &mut Vec<u8> {
        if self.octets.capacity() == 0 {
            self.octets = buffers.take_output();
        }
        &mut self.octets
    }

    /// What is to be written.
    #[inline]
    pub(in crate::net::h2) fn waiting(&self) -> &[u8] {
        &self.octets[self.sent..]
    }

    /// How much that is, in octets.
    #[inline]
    pub(in crate::net::h2) fn len(&self) -> usize {
        self.octets.len() - self.sent
    }

    #[inline]
    pub(in crate::net::h2) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the next octet will stand.
    #[inline]
    pub(in crate::net::h2) fn position(&self) -> u64 {
        self.removed + self.octets.len() as u64
    }

    /// A writer was shown all of it, and has not taken it, or not said so.
    pub(in crate::net::h2) fn note_offered(&mut self) {
        self.offered = self.position();
    }

    /// So many octets were written.
    pub(in crate::net::h2) fn note_written(&mut self, octets: usize, buffers: &Buffers) {
        self.sent += octets;
        if self.sent == self.octets.len() {
            self.removed += self.octets.len() as u64;
            buffers.put_output(std::mem::take(&mut self.octets));
            self.sent = 0;
        } else if self.sent >= SLACK {
            self.octets.drain(..self.sent);
            self.removed += self.sent as u64;
            self.sent = 0;
        }
    }

    /// Makes the frame at this position its stream's last. False if it has left.
    pub(super) fn end_stream(&mut self, position: u64) -> bool {
        match self.frame_at(position).and_then(|frame| frame.get_mut(4)) {
            Some(flags) => {
                *flags |= flag::END_STREAM;
                true
            }
            None => false,
        }
    }

    /// What stands from the frame at this position on; `None` if it has left, or may have.
    pub(super) fn frame_at(&mut self, position: u64) -> Option<&mut [u8]> {
        let first = (self.removed + self.sent as u64).max(self.offered);
        if position < first {
            return None;
        }
        let at = usize::try_from(position - self.removed).ok()?;
        self.octets.get_mut(at..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_ended_later_unless_it_has_left_or_may_have() {
        let (buffers, mut output) = (Buffers::default(), Output::default());
        output.open(&buffers).extend_from_slice(&[0; 9]);
        let second = output.position();
        output.open(&buffers).extend_from_slice(&[0; 9]);
        assert!(output.end_stream(0) && output.end_stream(second));
        assert_eq!((output.waiting()[4], output.waiting()[13]), (1, 1));
        output.note_written(1, &buffers);
        assert!(!output.end_stream(0));
        output.note_offered();
        assert!(!output.end_stream(second));
        output.note_written(17, &buffers);
        assert!(output.is_empty());
        let third = output.position();
        assert_eq!(third, 18);
        output.open(&buffers).extend_from_slice(&[0; 9]);
        assert!(output.end_stream(third) && !output.end_stream(second));
    }

    #[test]
    fn what_was_written_does_not_pile_up() {
        let (buffers, mut output) = (Buffers::default(), Output::default());
        for round in 0..100_u64 {
            output
                .open(&buffers)
                .extend_from_slice(&[round as u8; 10_000]);
            output.note_written(if round == 0 { 9_990 } else { 10_000 }, &buffers);
            assert_eq!(output.waiting(), [round as u8; 10]);
            assert!(output.octets.len() <= SLACK + 10_000);
            assert_eq!(output.position(), (round + 1) * 10_000);
        }
    }
}
