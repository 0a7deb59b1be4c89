//! Moves content from a source to a sink.

use super::mirror::Kept;
use crate::net::body::{BodyError, Filled, Sink, Source};
use std::task::{Context, Poll};

/// One direction of an exchange.
#[derive(Debug)]
pub(super) struct Pump {
    stage: Stage,
    /// The sink may hold octets back.
    held: bool,
    /// Octets of content moved.
    octets: u64,
    /// Octets that may be moved.
    limit: u64,
    /// Octets were moved, or the end was, since this was last asked.
    moved: bool,
    /// What it waits for.
    stalled: Stalled,
    /// A copy of what is moved.
    kept: Option<Kept>,
    /// The source has failed: what was taken before goes out first.
    failed: Option<BodyError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Content,
    Ending,
    Done,
    /// Given up: the sink takes no more.
    Stopped,
}

/// Which end a pump waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stalled {
    /// There is nothing to take.
    Source,
    /// It cannot be put anywhere.
    Sink,
}

/// Content could not be moved, because of one end.
#[derive(Debug)]
pub(super) enum PumpError {
    Source(BodyError),
    Sink,
    /// There is more than may be moved.
    TooLong,
}

impl Pump {
    /// A pump at the beginning of the content, of which at most `limit` octets are moved.
    pub(super) fn new(limit: u64) -> Self {
        Self {
            stage: Stage::Content,
            held: true,
            octets: 0,
            limit,
            moved: false,
            stalled: Stalled::Source,
            kept: None,
            failed: None,
        }
    }

    /// Has what is moved copied.
    pub(super) fn keep(&mut self, kept: Option<Kept>) {
        self.kept = kept;
    }

    /// The copy, if the end was moved.
    pub(super) fn take_kept(&mut self) -> Option<Kept> {
        self.kept.take().filter(|_| self.stage == Stage::Done)
    }

    /// True once the end was moved, or the pump was stopped.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Done | Stage::Stopped)
    }

    /// Octets of content moved so far.
    pub(super) fn octets(&self) -> u64 {
        self.octets
    }

    /// True once after octets were moved.
    pub(super) fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// What the pump waits for, after it was pending.
    pub(super) fn stalled(&self) -> Stalled {
        self.stalled
    }

    /// Moves no more.
    pub(super) fn stop(&mut self) {
        self.stage = Stage::Stopped;
    }

    /// Moves what can be moved. Ready when the end was; flushes before it waits.
    pub(super) fn poll<S: Source, K: Sink>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
        sink: &mut K,
    ) -> Poll<Result<(), PumpError>> {
        while self.stage == Stage::Content {
            if let Some(error) = self.failed.take() {
                if self.poll_held(cx, sink).is_pending() && self.stalled == Stalled::Sink {
                    self.failed = Some(error);
                    return Poll::Pending;
                }
                return Poll::Ready(Err(PumpError::Source(error)));
            }
            match source.poll_fill(cx) {
                Poll::Ready(Ok(Filled::Content)) => {}
                Poll::Ready(Ok(Filled::End)) => {
                    self.stage = Stage::Ending;
                    break;
                }
                Poll::Ready(Err(error)) => {
                    self.failed = Some(error);
                    continue;
                }
                Poll::Pending => return self.poll_held(cx, sink),
            }
            let content = source.content();
            if self.octets + content.len() as u64 > self.limit {
                return Poll::Ready(Err(PumpError::TooLong));
            }
            let written = match source.shared() {
                Some(shared) => sink.poll_write_shared(cx, shared),
                None => sink.poll_write(cx, content),
            };
            match written {
                Poll::Ready(Ok(taken)) => {
                    if let Some(kept) = &mut self.kept {
                        kept.take(&content[..taken]);
                    }
                    source.consume(taken);
                    self.octets += taken as u64;
                    self.held = true;
                    self.moved = true;
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Err(PumpError::Sink)),
                Poll::Pending => return self.wait(Stalled::Sink),
            }
        }
        if self.stage == Stage::Ending {
            match sink.poll_finish(cx, source.trailers()) {
                Poll::Ready(Ok(())) => {
                    self.stage = Stage::Done;
                    self.moved = true;
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Err(PumpError::Sink)),
                Poll::Pending => return self.wait(Stalled::Sink),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// There is nothing to take: what was taken goes out.
    fn poll_held<K: Sink>(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut K,
    ) -> Poll<Result<(), PumpError>> {
        if self.held {
            match sink.poll_flush(cx) {
                Poll::Ready(Ok(())) => self.held = false,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(PumpError::Sink)),
                Poll::Pending => return self.wait(Stalled::Sink),
            }
        }
        self.wait(Stalled::Source)
    }

    fn wait(&mut self, stalled: Stalled) -> Poll<Result<(), PumpError>> {
        self.stalled = stalled;
        Poll::Pending
    }
}
