//! Moves content from a source to a sink.

use super::mirror::Kept;
use crate::net::body::{BodyError, Filled, Sink, Source, Spliced};
use std::task::{Context, Poll, ready};

/// Octets that must still be to come for the kernel to move them: for fewer a copy costs less than
/// one more system call.
const LONG: u64 = 64 << 10;

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
    /// It waits for another end than when this was last asked.
    turned: bool,
    /// What it waits for.
    stalled: Stalled,
    /// A copy of what is moved.
    kept: Option<Kept>,
    /// The source has failed: what was taken before goes out first.
    failed: Option<BodyError>,
    /// The kernel moves octets for the sink, which may have some.
    spliced: bool,
    /// It may.
    splices: bool,
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
            turned: false,
            stalled: Stalled::Source,
            kept: None,
            failed: None,
            spliced: false,
            splices: true,
        }
    }

    /// Has everything copied, whatever the kernel could move.
    pub(super) fn copies(&mut self) {
        self.splices = false;
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

    /// True once after octets were moved, or when the pump waits for the other end than before: its
    /// time begins anew.
    pub(super) fn take_progress(&mut self) -> bool {
        let turned = std::mem::take(&mut self.turned);
        self.take_moved() || turned
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
            if self.spliced {
                ready!(self.poll_drained(cx, sink))?;
            }
            if let Some(error) = self.failed.take() {
                if self.poll_held(cx, sink).is_pending() && self.stalled == Stalled::Sink {
                    self.failed = Some(error);
                    return Poll::Pending;
                }
                return Poll::Ready(Err(PumpError::Source(error)));
            }
            if sink.takes_files()
                && let Some(file) = source.in_file()
            {
                match sink.poll_write_file(cx, file) {
                    Poll::Ready(Ok(taken)) => self.took(source, taken),
                    Poll::Ready(Err(error @ BodyError::Truncated)) => self.failed = Some(error),
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(PumpError::Sink)),
                    Poll::Pending => return self.wait(Stalled::Sink),
                }
                continue;
            }
            if let Some(spliced) = self.poll_spliced(cx, source, sink) {
                ready!(spliced)?;
                continue;
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
            match sink.poll_write(cx, content) {
                Poll::Ready(Ok(taken)) => {
                    if let Some(kept) = &mut self.kept {
                        kept.take(&content[..taken]);
                    }
                    self.took(source, taken);
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

    /// Has the kernel move content from socket to socket; `None` if it cannot, or if there is too
    /// little of it.
    fn poll_spliced<S: Source, K: Sink>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
        sink: &mut K,
    ) -> Option<Poll<Result<(), PumpError>>> {
        if !self.splices || self.kept.is_some() || !sink.takes_sockets() {
            return None;
        }
        let from = source.in_socket()?;
        if from.octets < LONG && !self.spliced {
            return None;
        }
        match sink.poll_splice(cx, from) {
            Poll::Ready(Ok(Spliced::Octets(taken))) => {
                source.taken(taken);
                self.octets += taken as u64;
                (self.held, self.moved, self.spliced) = (true, true, true);
                if self.octets > self.limit {
                    return Some(Poll::Ready(Err(PumpError::TooLong)));
                }
            }
            Poll::Ready(Ok(Spliced::Nothing)) => {
                source.taken(0);
                return Some(self.poll_held(cx, sink));
            }
            // The source sees it, too, and knows whether something is missing.
            Poll::Ready(Ok(Spliced::End)) => return None,
            Poll::Ready(Ok(Spliced::Failed(error))) => self.failed = Some(BodyError::Io(error)),
            Poll::Ready(Ok(Spliced::Cannot)) => return None,
            Poll::Ready(Err(_)) => return Some(Poll::Ready(Err(PumpError::Sink))),
            Poll::Pending => return Some(self.wait(Stalled::Sink)),
        }
        Some(Poll::Ready(Ok(())))
    }

    /// What the kernel took for the sink leaves: bit by bit, so that a slow sink is seen to move.
    fn poll_drained<K: Sink>(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut K,
    ) -> Poll<Result<(), PumpError>> {
        loop {
            match sink.poll_drain(cx) {
                Poll::Ready(Ok(true)) => self.moved = true,
                Poll::Ready(Ok(false)) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(_)) => return Poll::Ready(Err(PumpError::Sink)),
                Poll::Pending => return self.wait(Stalled::Sink),
            }
        }
    }

    fn took(&mut self, source: &mut impl Source, octets: usize) {
        source.consume(octets);
        self.octets += octets as u64;
        self.held = true;
        self.moved = true;
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
        self.turned |= self.stalled != stalled;
        self.stalled = stalled;
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Fields;
    use crate::message::h1::HeadLimits;
    use crate::net::h1::{Delimited, Reader, Writer};
    use crate::net::{Buffers, Stream};
    use std::future::poll_fn;
    use std::rc::Rc;
    use std::task::Waker;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    /// Gives `there` octets, then has nothing.
    struct Spring {
        there: usize,
        none: Fields,
    }

    impl Source for Spring {
        fn poll_fill(&mut self, _: &mut Context<'_>) -> Poll<Result<Filled, BodyError>> {
            match self.there {
                0 => Poll::Pending,
                _ => Poll::Ready(Ok(Filled::Content)),
            }
        }

        fn content(&self) -> &[u8] {
            &[0; 64][..self.there]
        }

        fn consume(&mut self, octets: usize) {
            self.there -= octets;
        }

        fn trailers(&self) -> &Fields {
            &self.none
        }
    }

    /// Has room for so many octets.
    struct Basin(usize);

    impl Sink for Basin {
        fn poll_write(
            &mut self,
            _: &mut Context<'_>,
            content: &[u8],
        ) -> Poll<Result<usize, BodyError>> {
            let taken = content.len().min(self.0);
            self.0 -= taken;
            match taken {
                0 => Poll::Pending,
                _ => Poll::Ready(Ok(taken)),
            }
        }

        fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
            Poll::Ready(Ok(()))
        }

        fn poll_finish(&mut self, _: &mut Context<'_>, _: &Fields) -> Poll<Result<(), BodyError>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn the_time_begins_anew_when_the_other_end_is_waited_for() {
        let mut cx = Context::from_waker(Waker::noop());
        let (mut spring, mut basin) = (
            Spring {
                there: 4,
                none: Fields::default(),
            },
            Basin(4),
        );
        let mut pump = Pump::new(u64::MAX);
        assert!(pump.poll(&mut cx, &mut spring, &mut basin).is_pending());
        assert_eq!(pump.stalled(), Stalled::Source);
        assert!(pump.take_progress(), "octets were moved");
        // Content comes, and the sink is full: nothing moves, and another deadline holds.
        spring.there = 4;
        assert!(pump.poll(&mut cx, &mut spring, &mut basin).is_pending());
        assert_eq!(pump.stalled(), Stalled::Sink);
        assert!(!pump.take_moved());
        assert!(pump.take_progress());
        assert!(pump.poll(&mut cx, &mut spring, &mut basin).is_pending());
        assert!(!pump.take_progress(), "nothing happens");
    }

    /// A connection: our end, and the other.
    async fn connection() -> (Rc<Stream>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        let other = TcpStream::connect(address).await.expect("connects");
        let (ours, _) = listener.accept().await.expect("accepts");
        (Rc::new(Stream::new(ours).expect("connected")), other)
    }

    #[tokio::test]
    async fn long_content_goes_from_socket_to_socket_and_ends_where_its_length_says() {
        const LIMITS: HeadLimits = HeadLimits {
            fields: 10,
            head_bytes: 1000,
            target_bytes: 100,
        };
        let buffers = Buffers::default();
        let ((from, mut sender), (to, mut receiver)) = (connection().await, connection().await);
        let mut reader = Reader::new(from, buffers.clone(), LIMITS);
        let mut writer = Writer::new(to, buffers.clone());
        for (length, is_long) in [(100_000_usize, true), (1000, false), (800_000, true)] {
            let content: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let sent = content.clone();
            let sending = tokio::spawn(async move {
                sender.write_all(&sent).await.expect("sends");
                sender.write_all(b"next").await.expect("sends");
                sender
            });
            let receiving = tokio::spawn(async move {
                let mut all = vec![0; 5 + length];
                receiver.read_exact(&mut all).await.expect("receives");
                (all, receiver)
            });
            reader.begin(Delimited::Exact(length as u64));
            writer.head(|output| output.extend_from_slice(b"head "));
            writer.begin(Delimited::Exact(length as u64));
            let mut pump = Pump::new(u64::MAX);
            poll_fn(|cx| pump.poll(cx, &mut reader, &mut writer))
                .await
                .expect("moves");
            assert_eq!((pump.spliced, pump.octets()), (is_long, length as u64));
            assert!(!writer.is_under_way() && reader.is_done());
            while reader.octets().len() < 4 {
                poll_fn(|cx| reader.poll_more(cx)).await.expect("reads");
            }
            assert_eq!(reader.octets(), b"next");
            reader.consume_head(4);
            let all;
            (all, receiver) = receiving.await.expect("received");
            sender = sending.await.expect("sent");
            assert!(
                all.strip_prefix(b"head ")
                    .is_some_and(|rest| rest == content)
            );
        }
    }
}
