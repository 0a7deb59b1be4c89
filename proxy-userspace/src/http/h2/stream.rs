//! One request of a client's connection.

use super::client::Client;
use crate::http::exchange::{self, Around, Outcome};
use crate::http::peer::Peer;
use crate::http::snapshot::{ListenerId, ListenerPlan, SharedSnapshot};
use crate::http::worker::Worker;
use crate::message::h1::HeadLimits;
use crate::message::h2::read_request;
use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::Request;
use std::cell::Cell;
use std::rc::Rc;

/// What the streams of a connection share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) worker: Rc<Worker>,
    pub(super) peer: Peer,
    pub(super) listener: ListenerId,
    /// Streams whose tasks have not ended.
    pub(super) open: Cell<u32>,
    /// Streams so far.
    pub(super) requests: Cell<u64>,
}

/// A stream that is counted as open as long as this lives.
struct Open<'s>(&'s Cell<u32>);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

pub(super) fn limits(listener: &ListenerPlan) -> HeadLimits {
    let limits = &listener.settings.limits;
    HeadLimits {
        fields: limits.fields,
        head_bytes: limits.head_bytes,
        target_bytes: limits.target_bytes,
    }
}

/// Serves a request. `snapshot` has the listener. The caller has counted the stream as open.
pub(super) async fn run(
    shared: Rc<Shared>,
    snapshot: SharedSnapshot,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    number: u64,
) {
    let _open = Open(&shared.open);
    let Some(listener) = snapshot.listener(shared.listener) else {
        return;
    };
    let worker = &shared.worker;
    let timer = worker.timers.timer();
    let around = Around {
        worker,
        snapshot: &snapshot,
        listener,
        listener_id: shared.listener,
        peer: &shared.peer,
        timer: &timer,
    };
    let mut scratch = worker.take_scratch();
    let facts = &mut scratch.facts;
    facts.began = worker.clock.last();
    facts.free = facts.began;
    facts.head = facts.began;
    facts.number = number;
    let limits = limits(listener);
    let (head, body) = request.into_parts();
    let read = read_request(&head, body.is_end_stream(), &limits, &mut scratch.request);
    let mut client = Client::new(body, respond, limits);
    let outcome = match read {
        Ok(()) => {
            drop(head);
            client.begin(&scratch.request);
            exchange::run(&around, &mut scratch, &mut client).await
        }
        Err(refusal) => {
            let line = &mut scratch.facts.first_line;
            line.extend_from_slice(head.method.as_str().as_bytes());
            line.push(b' ');
            line.extend_from_slice(head.uri.path().as_bytes());
            line.extend_from_slice(b" HTTP/2.0");
            exchange::refuse(&around, &mut scratch, &mut client, refusal).await
        }
    };
    if outcome == Outcome::Cut {
        client.cut();
    }
    worker.put_scratch(scratch);
}
