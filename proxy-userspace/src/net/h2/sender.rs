//! Content that is sent in a stream.

use super::Place;
use super::connection::Connection;
use super::state::{Over, State};
use crate::message::Fields;
use crate::message::h2::frame::{HEAD, MOST};
use crate::net::body::{BodyError, Sink};
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::task::{Context, Poll};

/// Content up to this length is copied behind what waits to be written, and goes out with what
/// other streams put there. Longer content goes out by itself, from where it is.
const COPIED: usize = 8 << 10;

/// Frames that go out in one write at most, when content is not copied.
const FRAMES: usize = 8;

/// Content that is sent in a stream. It is used no longer than the stream's [`Place`] lives.
#[derive(Debug, Default)]
pub struct Sender {
    stream: Option<(Rc<Connection>, usize)>,
    /// The end was sent, with the head or with the content.
    has_ended: bool,
    /// Octets of content taken.
    sent: u64,
}

impl Sender {
    /// Content of this stream follows; `has_ended`: the head was its end.
    pub fn begin(&mut self, place: &Place, has_ended: bool) {
        self.stream = Some((Rc::clone(&place.connection), place.key));
        self.has_ended = has_ended;
    }

    /// Takes content after all: that of a tunnel which now stands.
    pub fn reopen(&mut self) {
        self.has_ended = false;
    }

    /// Octets of content taken.
    pub fn sent(&self) -> u64 {
        self.sent
    }
}

/// Why content is not taken.
fn failed(over: Over) -> BodyError {
    match over {
        Over::Fault(_) => BodyError::Io(io::ErrorKind::ConnectionReset.into()),
        over => over.into(),
    }
}

/// Writes content with all that waits before it, as far as the socket takes it. What is left of a
/// frame that has begun to leave is copied. Nothing taken: the socket has no room, and the driver is
/// told when it has.
fn write_through(
    connection: &Connection,
    state: &mut State,
    key: usize,
    content: &[u8],
) -> io::Result<usize> {
    let most = (state.peer.max_frame.min(MOST)) as usize;
    let content = &content[..content.len().min(state.room(key)).min(FRAMES * most)];
    let mut heads = [[0; HEAD]; FRAMES];
    for (head, piece) in heads.iter_mut().zip(content.chunks(most)) {
        *head = state.data_head(key, piece.len());
    }
    let mut pieces = [IoSlice::new(&[]); 1 + 2 * FRAMES];
    let waiting = state.output.waiting();
    let mut count = usize::from(!waiting.is_empty());
    pieces[0] = IoSlice::new(waiting);
    for (head, piece) in heads.iter().zip(content.chunks(most)) {
        pieces[count] = IoSlice::new(head);
        pieces[count + 1] = IoSlice::new(piece);
        count += 2;
    }
    let waiting = waiting.len();
    let Some(driver) = state.driver.clone() else {
        return Ok(0);
    };
    let mut cx = Context::from_waker(&driver);
    let written = connection
        .stream
        .poll_write_pieces(&mut cx, &pieces[..count]);
    let Poll::Ready(written) = written else {
        return Ok(0);
    };
    let written = written?;
    state
        .output
        .note_written(written.min(waiting), &state.buffers);
    let mut left = written.saturating_sub(waiting);
    let mut taken = 0;
    for (head, piece) in heads.iter().zip(content.chunks(most)) {
        if left == 0 {
            break;
        }
        taken += piece.len();
        let of_head = left.min(HEAD);
        let of_piece = (left - of_head).min(piece.len());
        left -= of_head + of_piece;
        if of_piece < piece.len() {
            let out = state.output.open(&state.buffers);
            out.extend_from_slice(&head[of_head..]);
            out.extend_from_slice(&piece[of_piece..]);
        }
    }
    if taken > 0 {
        state.note_left(key);
        state.note_content(key, taken);
    }
    Ok(taken)
}

impl Sink for Sender {
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        content: &[u8],
    ) -> Poll<Result<usize, BodyError>> {
        let Some((connection, key)) = self.stream.as_ref().filter(|_| !self.has_ended) else {
            return Poll::Ready(Err(BodyError::Truncated));
        };
        let (key, state) = (*key, &mut *connection.state.borrow_mut());
        if let Some(over) = state.over(key) {
            return Poll::Ready(Err(failed(over)));
        }
        let room = state.room(key).min(content.len());
        if room == 0 {
            state.wait_for_window(key, cx.waker());
            state.tell();
            return Poll::Pending;
        }
        let taken = if room > COPIED && connection.stream.is_plain() {
            write_through(connection, state, key, content)?
        } else {
            state.copy_content(key, content)
        };
        if taken == 0 {
            state.wait_for_output(key, cx.waker());
            state.tell();
            return Poll::Pending;
        }
        self.sent += taken as u64;
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        if let Some((connection, _)) = &self.stream {
            connection.state.borrow_mut().tell();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_finish(
        &mut self,
        _: &mut Context<'_>,
        trailers: &Fields,
    ) -> Poll<Result<(), BodyError>> {
        let Some((connection, key)) = &self.stream else {
            return Poll::Ready(Err(BodyError::Truncated));
        };
        let state = &mut *connection.state.borrow_mut();
        if !self.has_ended {
            if let Some(over) = state.over(*key) {
                return Poll::Ready(Err(failed(over)));
            }
            self.has_ended = true;
            state.finish(*key, trailers);
        }
        state.tell();
        Poll::Ready(Ok(()))
    }
}
