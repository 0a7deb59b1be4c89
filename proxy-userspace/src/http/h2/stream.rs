//! One request of a client's connection, and the tasks that serve them.
//!
//! A task is made for as many requests as there are at once, and then serves one after the other:
//! its future is large, and making and dropping one per request would cost as much as reading the
//! request's head.

use super::client::Client;
use crate::http::exchange::{self, Around, Outcome, Scratch};
use crate::http::peer::Peer;
use crate::http::snapshot::{ListenerId, SharedSnapshot};
use crate::http::worker::Worker;
use crate::message::Refusal;
use crate::net::Timer;
use crate::net::h2::Place;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use tokio::task::spawn_local;

/// Tasks without a request that are kept: what a burst needed is given back.
const KEPT: usize = 512;

/// What the streams of a connection share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) worker: Rc<Worker>,
    pub(super) peer: Peer,
    pub(super) listener: ListenerId,
    /// Streams that are being served.
    pub(super) open: Cell<u32>,
    /// Streams so far.
    pub(super) requests: Cell<u64>,
}

/// A request that is to be served.
#[derive(Debug)]
pub(super) struct Job {
    /// The caller has counted the stream as open.
    pub(super) shared: Rc<Shared>,
    /// Has the listener.
    pub(super) snapshot: SharedSnapshot,
    pub(super) place: Place,
    /// The request's head stands here, unless it was refused.
    pub(super) scratch: Box<Scratch>,
    pub(super) read: Result<(), Refusal>,
    pub(super) number: u64,
}

/// The tasks of a worker that wait for a request.
#[derive(Debug, Default)]
pub(in crate::http) struct Hands(RefCell<Vec<Rc<Hand>>>);

/// What a task is handed its requests by.
#[derive(Debug, Default)]
struct Hand {
    job: RefCell<Option<Job>>,
    waker: RefCell<Option<Waker>>,
}

/// A stream that is counted as open as long as this lives.
struct Open<'s>(&'s Cell<u32>);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Has a request served by a task.
pub(super) fn begin(worker: &Rc<Worker>, job: Job) {
    let idle = worker.hands.0.borrow_mut().pop();
    if let Some(hand) = idle {
        hand.job.replace(Some(job));
        if let Some(waker) = &*hand.waker.borrow() {
            waker.wake_by_ref();
        }
        return;
    }
    let hand: Rc<Hand> = Rc::default();
    hand.job.replace(Some(job));
    // Boxed: as a value it would be moved several times on its way into the task.
    spawn_local(Box::pin(work(Rc::clone(worker), hand)));
}

/// Serves one request after the other, for as long as it is kept.
async fn work(worker: Rc<Worker>, hand: Rc<Hand>) {
    let timer = worker.timers.timer();
    loop {
        let job = poll_fn(|cx| {
            if let Some(job) = hand.job.borrow_mut().take() {
                return Poll::Ready(job);
            }
            let mut waker = hand.waker.borrow_mut();
            match &*waker {
                Some(known) if known.will_wake(cx.waker()) => {}
                _ => *waker = Some(cx.waker().clone()),
            }
            Poll::Pending
        });
        serve(&timer, job.await).await;
        timer.clear();
        let mut idle = worker.hands.0.borrow_mut();
        if idle.len() >= KEPT {
            return;
        }
        idle.push(Rc::clone(&hand));
    }
}

/// Serves a request.
async fn serve(timer: &Timer, job: Job) {
    let Job {
        shared,
        snapshot,
        place,
        mut scratch,
        read,
        number,
    } = job;
    let _open = Open(&shared.open);
    let Some(listener) = snapshot.listener(shared.listener) else {
        return;
    };
    let worker = &shared.worker;
    let around = Around {
        worker,
        snapshot: &snapshot,
        listener,
        listener_id: shared.listener,
        peer: &shared.peer,
        timer,
    };
    let facts = &mut scratch.facts;
    facts.began = worker.clock.last();
    facts.free = facts.began;
    facts.head = facts.began;
    facts.number = number;
    if worker.flows.is_on() {
        facts.stream = place.stream();
    }
    let mut client = Client::new(place);
    let outcome = match read {
        Ok(()) => {
            client.begin(&scratch.request);
            exchange::run(&around, &mut scratch, &mut client).await
        }
        Err(refusal) => {
            let (request, line) = (&scratch.request, &mut scratch.facts.first_line);
            line.extend_from_slice(request.method.as_bytes());
            line.push(b' ');
            line.extend_from_slice(request.path());
            line.extend_from_slice(b" HTTP/2.0");
            scratch.request.clear();
            exchange::refuse(&around, &mut scratch, &mut client, refusal).await
        }
    };
    if outcome == Outcome::Cut {
        client.cut();
    }
    worker.put_scratch(scratch);
}
