//! A connection, its streams' places, and who reads and writes.

use super::state::{Event, Over, Role, Settings, State, wait};
use super::watch::Watch;
use crate::message::h1::RequestKind;
use crate::message::h2::frame::ErrorCode;
use crate::message::{Refusal, RequestHead, ResponseHead};
use crate::net::buffer::{Buffers, Input, SMALL};
use crate::net::stream::Stream;
use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

/// Octets that may wait to be written before nothing more is read: answers to what the other end
/// sends, which it does not take.
const UNREAD: usize = 256 << 10;

/// A connection.
#[derive(Debug)]
pub struct Connection {
    pub(super) stream: Rc<Stream>,
    pub(super) state: RefCell<State>,
}

/// A stream, until this is dropped. One that has not ended then is reset.
#[derive(Debug)]
pub struct Place {
    pub(super) connection: Rc<Connection>,
    pub(super) key: usize,
}

/// Reads and writes for a connection. All streams end with it.
#[derive(Debug)]
pub struct Driver {
    connection: Rc<Connection>,
    input: Input,
    /// The last read was long: more is waiting, or will be.
    was_long: bool,
}

/// What a driver has come upon.
#[derive(Debug)]
pub enum Step {
    /// Some frames, of which nobody but the streams has to know.
    Looked,
    /// A client's request, or one that is to be answered with a refusal.
    Request(Place, Result<(), Refusal>),
}

/// Why a connection has ended.
#[derive(Debug)]
pub enum Ended {
    /// The other end has ended it.
    Closed,
    /// It has failed.
    Failed(io::Error),
    /// The other end has done what it must not, and was told so.
    Fault(ErrorCode),
}

impl Connection {
    /// A connection that begins, with `early`, which was read from its socket already.
    pub fn begin(
        role: Role,
        stream: Rc<Stream>,
        settings: Settings,
        buffers: &Buffers,
        early: &[u8],
    ) -> (Rc<Self>, Driver) {
        let state = State::new(role, settings, buffers.clone());
        let connection = Rc::new(Self {
            stream,
            state: RefCell::new(state),
        });
        let mut input = Input::new(buffers.clone());
        if !early.is_empty() {
            input.put(early);
        }
        let driver = Driver {
            connection: Rc::clone(&connection),
            input,
            was_long: false,
        };
        (connection, driver)
    }

    /// What the other end does, in numbers.
    pub fn watch(&self) -> Watch {
        self.state.borrow().watch
    }

    /// Streams at once that the other end allows, as far as it has said.
    pub fn max_streams(&self) -> u32 {
        self.state.borrow().peer.max_streams
    }

    /// True if the other end takes extended CONNECT (RFC 8441), as far as it has said.
    pub fn has_extended_connect(&self) -> bool {
        self.state.borrow().peer.has_connect
    }

    /// True once the other end's first SETTINGS have come.
    pub fn is_settled(&self) -> bool {
        self.state.borrow().peer.is_settled
    }

    /// True if requests may be made.
    pub fn is_open(&self) -> bool {
        self.state.borrow().is_open()
    }

    /// Takes the head of the request that has just begun, in exchange for another.
    pub fn take_request(&self, head: &mut RequestHead) {
        std::mem::swap(&mut self.state.borrow_mut().request, head);
    }

    /// Begins a request; `None` if the connection takes no more of them.
    pub fn request(self: &Rc<Self>, head: &RequestHead, has_ended: bool) -> Option<Place> {
        let key = self.state.borrow_mut().request(head, has_ended)?;
        Some(Place {
            connection: Rc::clone(self),
            key,
        })
    }

    /// Asks for a sign of life: see [`Watch::pongs`].
    pub fn ask(&self) {
        let state = &mut *self.state.borrow_mut();
        state.ask();
        state.tell();
    }

    /// Tells a client to begin no more requests.
    pub fn leave(&self) {
        let state = &mut *self.state.borrow_mut();
        state.leave();
        state.tell();
    }

    /// True if it is left, all streams have ended and all is written.
    pub fn is_left(&self) -> bool {
        self.state.borrow().is_left()
    }

    /// Says that the connection ends, and ends all streams.
    pub fn fail(&self, code: ErrorCode) {
        let state = &mut *self.state.borrow_mut();
        state.fail(code);
        state.tell();
    }

    /// Wakes who drives it.
    pub fn wake(&self) {
        if let Some(driver) = &self.state.borrow().driver {
            driver.wake_by_ref();
        }
    }
}

impl Place {
    /// Sends the head of a response. It goes out with what follows it, or when flushed.
    pub fn respond(&self, head: &ResponseHead, to: RequestKind, has_ended: bool) {
        let state = &mut *self.connection.state.borrow_mut();
        state.respond(self.key, head, to, has_ended);
    }

    /// Waits for the next head of a response, which `head` is exchanged for.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn poll_head(
        &self,
        cx: &mut Context<'_>,
        head: &mut ResponseHead,
    ) -> Poll<Result<(), Over>> {
        let state = &mut *self.connection.state.borrow_mut();
        // A malformed message is not passed on (RFC 9113 §8.1.1): what is known to be wrong with its
        // content counts before its head does.
        if !state.is_malformed(self.key) && state.fetch_head(self.key, head) {
            return Poll::Ready(Ok(()));
        }
        if let Some(over) = state.over(self.key) {
            return Poll::Ready(Err(over));
        }
        state.streams[self.key].wait(wait::READ, cx.waker());
        Poll::Pending
    }

    /// The stream's number.
    pub fn stream(&self) -> u32 {
        self.connection.state.borrow().streams[self.key].id
    }

    /// Ready once the stream has ended before its time.
    pub fn poll_over(&self, cx: &mut Context<'_>) -> Poll<()> {
        let state = &mut *self.connection.state.borrow_mut();
        if state.over(self.key).is_some() {
            return Poll::Ready(());
        }
        state.streams[self.key].wait(wait::OVER, cx.waker());
        Poll::Pending
    }

    /// Has what was sent go out.
    pub fn flush(&self) {
        self.connection.state.borrow_mut().tell();
    }

    /// Resets the stream, unless it has ended.
    pub fn cut(&self, code: ErrorCode) {
        let state = &mut *self.connection.state.borrow_mut();
        state.cut(self.key, code);
        state.tell();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let state = &mut *self.connection.state.borrow_mut();
        state.release(self.key);
        state.tell();
        // Who leaves waits for the last one.
        if state.streams.is_empty()
            && state.leaving != super::state::Leaving::No
            && let Some(driver) = &state.driver
        {
            driver.wake_by_ref();
        }
    }
}

impl Driver {
    /// True while a frame or a block of fields has begun to come and is incomplete, but for
    /// content.
    pub fn is_head_open(&self) -> bool {
        self.connection.state.borrow().is_head_open() || !self.input.is_empty()
    }

    /// Reads and writes what can be, and tells what it has come upon. Pending: all that came was
    /// looked at, and all that could be written was.
    ///
    /// # Errors
    ///
    /// The connection has ended. What is to be written then is written by [`Self::poll_flush`].
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Step, Ended>> {
        self.note_driver(cx);
        loop {
            if !self.input.is_empty() {
                let received = self
                    .connection
                    .state
                    .borrow_mut()
                    .receive(self.input.filled());
                let (octets, event) = match received {
                    Ok(received) => received,
                    Err(code) => {
                        self.connection.state.borrow_mut().fail(code);
                        return Poll::Ready(Err(Ended::Fault(code)));
                    }
                };
                self.input.consume(octets);
                if let Event::Request(key, read) = event {
                    let place = Place {
                        connection: Rc::clone(&self.connection),
                        key,
                    };
                    return Poll::Ready(Ok(Step::Request(place, read)));
                }
                if octets > 0 {
                    return Poll::Ready(Ok(Step::Looked));
                }
            }
            let waiting = self.connection.state.borrow().output.len();
            if waiting >= UNREAD {
                match self.poll_flush(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => return self.failed(error),
                    Poll::Pending => return Poll::Pending,
                }
            }
            match self.poll_more(cx) {
                Poll::Ready(Ok(0)) => {
                    self.connection.state.borrow_mut().lose(Over::Closed);
                    return Poll::Ready(Err(Ended::Closed));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return self.failed(error),
                Poll::Pending => break,
            }
        }
        match self.poll_flush(cx) {
            Poll::Ready(Err(error)) => self.failed(error),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }

    fn failed(&mut self, error: io::Error) -> Poll<Result<Step, Ended>> {
        self.connection.state.borrow_mut().lose(Over::Failed);
        Poll::Ready(Err(Ended::Failed(error)))
    }

    fn note_driver(&self, cx: &Context<'_>) {
        let driver = &mut self.connection.state.borrow_mut().driver;
        match driver {
            Some(known) if known.will_wake(cx.waker()) => {}
            _ => *driver = Some(cx.waker().clone()),
        }
    }

    /// Reads more; 0 is the end. While it waits and has nothing, it holds no buffer.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let is_full = self.input.room().is_empty();
        if is_full || (self.was_long && self.input.is_empty()) {
            self.input.grow();
        }
        let room = self.input.room();
        // No frame that has to be there as a whole is as long as the buffer can be.
        debug_assert!(!room.is_empty(), "a frame that does not fit");
        let read = self.connection.stream.poll_read(cx, room);
        if let Poll::Ready(Ok(octets)) = read {
            self.was_long = octets >= SMALL.min(room.len());
            self.input.filled_more(octets);
        }
        self.input.release();
        read
    }

    /// Writes all that is to be written.
    ///
    /// # Errors
    ///
    /// The connection has failed.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = &mut *self.connection.state.borrow_mut();
        state.is_told = false;
        while !state.output.is_empty() {
            match self
                .connection
                .stream
                .poll_write(cx, state.output.waiting(), &[])
            {
                Poll::Ready(Ok(octets)) => state.output.note_written(octets, &state.buffers),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    state.output.note_offered();
                    state.wake_for_output();
                    return Poll::Pending;
                }
            }
        }
        state.wake_for_output();
        Poll::Ready(Ok(()))
    }

    /// Reads and drops whatever comes; ready when nothing will.
    pub fn poll_drop(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            self.input.consume(self.input.filled().len());
            match self.poll_more(cx) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Sends the end of our side.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.stream.poll_shutdown(cx)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.connection.state.borrow_mut().lose(Over::Failed);
    }
}
