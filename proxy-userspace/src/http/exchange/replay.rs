//! A request's content, kept up to a bound, so that another backend can be given it from its
//! beginning.

use crate::message::Fields;
use crate::net::body::{BodyError, Filled, InSocket, Source};
use std::task::{Context, Poll};

/// Memory that is kept from one request to the next.
const KEPT: usize = 16 << 10;

/// What was taken of a request's content.
#[derive(Debug, Default)]
pub struct Replay {
    octets: Vec<u8>,
    /// Octets of them that the backend under way was given.
    at: usize,
    /// Octets that may be kept; 0: nothing is.
    most: usize,
    /// All that was taken is kept.
    is_whole: bool,
}

impl Replay {
    /// Keeps up to `most` octets of the content that begins now; 0 for nothing.
    pub(super) fn begin(&mut self, most: usize) {
        self.forget();
        self.most = most;
    }

    /// Forgets what was kept.
    pub(super) fn forget(&mut self) {
        self.octets.clear();
        self.octets.shrink_to(KEPT);
        (self.at, self.most, self.is_whole) = (0, 0, true);
    }

    /// The next backend is given everything.
    pub(super) fn rewind(&mut self) {
        self.at = 0;
    }

    /// No other backend will be given anything.
    pub(super) fn settle(&mut self) {
        self.is_whole = false;
    }

    /// True if content has to pass by here.
    #[inline]
    pub(super) fn is_active(&self) -> bool {
        self.most > 0
    }

    /// True if all that was taken is kept.
    pub(super) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// The content from its beginning: what is kept, then what the source still has.
    pub(super) fn of<'r, S>(&'r mut self, source: &'r mut S) -> Replayed<'r, S> {
        Replayed {
            replay: self,
            source,
        }
    }

    fn left(&self) -> &[u8] {
        &self.octets[self.at..]
    }
}

/// See [`Replay::of`].
#[derive(Debug)]
pub(super) struct Replayed<'r, S> {
    replay: &'r mut Replay,
    source: &'r mut S,
}

impl<S: Source> Source for Replayed<'_, S> {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<Filled, BodyError>> {
        if !self.replay.left().is_empty() {
            return Poll::Ready(Ok(Filled::Content));
        }
        self.source.poll_fill(cx)
    }

    fn content(&self) -> &[u8] {
        match self.replay.left() {
            [] => self.source.content(),
            left => left,
        }
    }

    fn in_socket(&self) -> Option<InSocket<'_>> {
        let replay = &*self.replay;
        if replay.is_whole || !replay.left().is_empty() {
            return None;
        }
        self.source.in_socket()
    }

    fn taken(&mut self, octets: usize) {
        self.source.taken(octets);
    }

    fn consume(&mut self, octets: usize) {
        let replay = &mut *self.replay;
        if !replay.left().is_empty() {
            replay.at += octets;
            return;
        }
        replay.is_whole &= replay.octets.len() + octets <= replay.most;
        if replay.is_whole {
            let taken = &self.source.content()[..octets];
            replay.octets.extend_from_slice(taken);
            replay.at += octets;
        }
        self.source.consume(octets);
    }

    fn trailers(&self) -> &Fields {
        self.source.trailers()
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::Octets;
    use super::*;
    use std::task::Waker;

    /// What comes, taken in pieces of this size.
    fn take(replay: &mut Replay, source: &mut Octets<&[u8]>, piece: usize, most: usize) -> Vec<u8> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut all = Vec::new();
        let mut replayed = replay.of(source);
        while all.len() < most
            && let Poll::Ready(Ok(Filled::Content)) = replayed.poll_fill(&mut cx)
        {
            let content = replayed.content();
            let taken = content.len().min(piece);
            all.extend_from_slice(&content[..taken]);
            replayed.consume(taken);
        }
        all
    }

    #[test]
    fn the_next_backend_gets_everything_from_the_beginning() {
        for piece in 1..5 {
            let mut source = Octets::new(&b"some content"[..]);
            let mut replay = Replay::default();
            replay.begin(12);
            let first = take(&mut replay, &mut source, piece, 5);
            assert!(b"some content".starts_with(&first));
            replay.rewind();
            assert_eq!(take(&mut replay, &mut source, 3, 100), b"some content");
            assert!(replay.is_whole());
            replay.rewind();
            assert_eq!(take(&mut replay, &mut source, 100, 100), b"some content");
        }
    }

    #[test]
    fn what_is_longer_than_the_bound_is_passed_on_and_not_kept() {
        let mut source = Octets::new(&b"some content"[..]);
        let mut replay = Replay::default();
        replay.begin(11);
        assert_eq!(take(&mut replay, &mut source, 4, 100), b"some content");
        assert!(!replay.is_whole());
    }

    #[test]
    fn once_it_is_settled_what_was_kept_still_goes_out() {
        let mut source = Octets::new(&b"some content"[..]);
        let mut replay = Replay::default();
        replay.begin(100);
        take(&mut replay, &mut source, 4, 4);
        replay.rewind();
        replay.settle();
        assert_eq!(take(&mut replay, &mut source, 4, 100), b"some content");
        assert!(!replay.is_whole());
    }
}
