//! What a connection begins with, where that says something about it.

use crate::http::worker::Worker;
use crate::net::{Input, Nanos, Stream, Timer};
use std::future::poll_fn;
use std::task::Poll;

/// There is no beginning as it must be.
#[derive(Debug)]
pub(super) enum Unread<E> {
    /// It is another one.
    Fault(E),
    /// It did not come in time.
    Timeout,
    /// The connection ended or failed before.
    Closed,
    /// Everything is over.
    Over,
}

/// Reads until `parse` has what it looks for. It is shown all that `input` holds, again whenever
/// there is more; what it does not consume stays there.
pub(super) async fn read<T, E>(
    worker: &Worker,
    stream: &Stream,
    input: &mut Input,
    (timer, timeout): (&Timer, Nanos),
    mut parse: impl FnMut(&mut Input) -> Result<Option<T>, E>,
) -> Result<T, Unread<E>> {
    timer.set(timer.read().saturating_add(timeout));
    poll_fn(|cx| {
        loop {
            match parse(input) {
                Ok(Some(parsed)) => return Poll::Ready(Ok(parsed)),
                Ok(None) => {}
                Err(fault) => return Poll::Ready(Err(Unread::Fault(fault))),
            }
            // Whoever reads more than a large buffer holds has its own bound below that.
            if input.room().is_empty() && !input.grow() {
                return Poll::Ready(Err(Unread::Closed));
            }
            match stream.poll_read(cx, input.room()) {
                Poll::Ready(Ok(read @ 1..)) => input.filled_more(read),
                Poll::Ready(_) => return Poll::Ready(Err(Unread::Closed)),
                Poll::Pending if worker.is_over() => return Poll::Ready(Err(Unread::Over)),
                Poll::Pending if timer.poll_expired(cx) => {
                    return Poll::Ready(Err(Unread::Timeout));
                }
                Poll::Pending => {
                    input.release();
                    return Poll::Pending;
                }
            }
        }
    })
    .await
}
