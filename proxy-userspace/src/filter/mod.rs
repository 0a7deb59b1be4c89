//! Filters: what is done to requests and responses on their way.
//!
//! ```text
//!  request's head ──▶ first ──▶ … ──▶ last ──▶ backend, file, fixed answer
//!  request's content, piece by piece ──▶ those that asked for it ──▶ backend
//!  client ◀── first ◀── … ◀── last ◀── response's head
//!  client ◀── those that asked for it ◀── response's content, piece by piece
//!  and when all is over: log
//! ```
//!
//! Each filter has a state of its own type for each exchange. A filter decides at once or says what
//! to wait for; it never blocks the worker. How to write one is told step by step in
//! `docs/filters.md`.
//!
//! Filters are known at compile time: [`registry`] makes one enum of all of them, so a chain is a
//! `Vec` of values without pointers to code. Adding one is a folder with an implementation of
//! [`Filter`] and one line in the registry.

mod answer;
mod compress;
mod fault;
mod fields;
mod registry;

pub use answer::Answer;
pub use fields::secure;
pub use registry::{AnyFilter, AnyState};

use crate::config::model::Config;
use crate::config::model::http::Route;
use crate::message::{RequestHead, ResponseHead};
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

/// What a filter may know about a request besides its head.
#[derive(Clone, Copy, Debug)]
pub struct RequestContext<'r> {
    /// Name of the listener.
    pub listener: &'r str,
    /// The client, behind trusted proxies.
    pub client: IpAddr,
    /// 64 random bits, the same for all filters of a request.
    pub random: u64,
}

/// What becomes of a request after a filter.
pub enum Flow {
    /// It goes on.
    Continue,
    /// It goes on, and its content is shown to the filter, too.
    Content,
    /// It is answered so, and goes no further.
    Respond(Box<Answer>),
    /// It waits. The future says what then becomes of it.
    Wait(Pin<Box<dyn Future<Output = Flow>>>),
}

/// A filter with its settings.
pub trait Filter {
    /// What it remembers of an exchange.
    type State: Default;

    /// The request's head has come, and was routed.
    fn request_head(
        &self,
        _state: &mut Self::State,
        _head: &mut RequestHead,
        _context: &RequestContext<'_>,
    ) -> Flow {
        Flow::Continue
    }

    /// A piece of the request's content has come, after this filter has asked for it by
    /// [`Flow::Content`]. As [`Filter::response_content`]. A request that is answered here has none.
    fn request_content(&self, _state: &mut Self::State, _piece: Piece<'_>, _out: &mut Vec<u8>) {}

    /// The final head of a response is about to be sent, whoever made it. A filter that changes
    /// how long the content is says so in the head.
    fn response_head(&self, _state: &mut Self::State, _head: &mut ResponseHead) -> Content {
        Content::Pass
    }

    /// A piece of the content has come, after a head for which this filter asked for it. What is
    /// put into `out` goes on in its place; what is kept back goes into the state.
    fn response_content(&self, _state: &mut Self::State, _piece: Piece<'_>, _out: &mut Vec<u8>) {}

    /// The exchange is over, well or not.
    fn log(&self, _state: &Self::State, _ended: &Ended) {}
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Status that the client was sent; 0 for none.
    pub status: u16,
    /// From the request's first octet to the response's last.
    pub took: Duration,
    /// Octets received from the client.
    pub received: u64,
    /// Octets sent to the client.
    pub sent: u64,
    /// True if the response is whole.
    pub is_complete: bool,
}

/// What a filter wants of the content that follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing: it passes by.
    Pass,
    /// Every piece.
    Filter,
}

/// What comes of a message's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'p> {
    /// Some octets, at least one.
    Octets(&'p [u8]),
    /// There are no more for now: what was kept back for the sake of efficiency should go on, so
    /// that the client sees what the backend has sent.
    Pause,
    /// There are no more. Comes once, and nothing after it.
    End,
}

/// The filters of a route.
#[derive(Debug, Default)]
pub struct Chain {
    filters: Vec<AnyFilter>,
}

/// What the filters of a chain remember of an exchange.
#[derive(Debug, Default)]
pub struct States {
    states: Vec<AnyState>,
    /// Numbers of the filters that the request's content passes.
    request: Vec<usize>,
    /// Those that the response's content passes, the last one of the chain first.
    response: Vec<usize>,
    /// What one filter has put out for the next one.
    between: Vec<u8>,
}

impl States {
    /// Forgets the exchange, and frees what was kept for it.
    pub fn clear(&mut self) {
        self.states.clear();
        self.request.clear();
        self.response.clear();
    }

    /// True if the request's content is to be shown to filters.
    pub fn sees_request(&self) -> bool {
        !self.request.is_empty()
    }

    /// The faults that the request met on purpose.
    pub fn faults(&self) -> fault::Met {
        let met = self.states.iter().find_map(|state| match state {
            AnyState::Fault(met) => Some(*met),
            _ => None,
        });
        met.unwrap_or_default()
    }
}

impl Chain {
    /// The built-in filters that a route asks for. Those that may end a request come first.
    pub fn of_route(route: &Route, config: &Config) -> Self {
        let mut filters = Vec::new();
        filters.extend(fault::Fault::of_route(route).map(AnyFilter::from));
        // Before the edits, which thus see a response first and have a say in what is compressed.
        filters.extend(compress::Compress::of_route(route, config).map(AnyFilter::from));
        filters.extend(fields::FieldEdits::of_route(route).map(AnyFilter::from));
        Self { filters }
    }

    /// A chain of one filter that marks content, for tests.
    #[cfg(test)]
    pub(crate) fn probing(mark: u8) -> Self {
        let ended = std::sync::Arc::default();
        Self {
            filters: vec![AnyFilter::from(probe::Probe { mark, ended })],
        }
    }

    /// True if there are none: then nothing needs to be remembered.
    pub fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }

    /// Shows all filters the request's head. `states` is made anew. Returns the answer of the one
    /// that made an end of it.
    pub async fn request_head(
        &self,
        states: &mut States,
        head: &mut RequestHead,
        context: &RequestContext<'_>,
    ) -> Option<Box<Answer>> {
        states.clear();
        states
            .states
            .extend(self.filters.iter().map(AnyFilter::state));
        let own = self.filters.iter().zip(&mut states.states);
        for (number, (filter, state)) in own.enumerate() {
            let mut flow = filter.request_head(state, head, context);
            loop {
                match flow {
                    Flow::Continue => break,
                    Flow::Content => {
                        states.request.push(number);
                        break;
                    }
                    Flow::Respond(answer) => return Some(answer),
                    Flow::Wait(future) => flow = future.await,
                }
            }
        }
        None
    }

    /// Shows all filters the response's head, the last one first. Says whether the content is to
    /// be shown to them, too, by [`Self::response_content`].
    pub fn response_head(&self, states: &mut States, head: &mut ResponseHead) -> Content {
        states.response.clear();
        let own = self.filters.iter().zip(&mut states.states).enumerate();
        for (number, (filter, state)) in own.rev() {
            if filter.response_head(state, head) == Content::Filter {
                states.response.push(number);
            }
        }
        match states.response.as_slice() {
            [] => Content::Pass,
            _ => Content::Filter,
        }
    }

    /// Shows a piece of the request's content to the filters that asked for it, each what the one
    /// before has made of it; the outcome is put at the end of `out`.
    pub fn request_content(&self, states: &mut States, piece: Piece<'_>, out: &mut Vec<u8>) {
        let States {
            states,
            request,
            between,
            ..
        } = states;
        pass(request, between, piece, out, |number, piece, out| {
            if let (Some(filter), Some(state)) = (self.filters.get(number), states.get_mut(number))
            {
                filter.request_content(state, piece, out);
            }
        });
    }

    /// As [`Self::request_content`], of the response's content.
    pub fn response_content(&self, states: &mut States, piece: Piece<'_>, out: &mut Vec<u8>) {
        let States {
            states,
            response,
            between,
            ..
        } = states;
        pass(response, between, piece, out, |number, piece, out| {
            if let (Some(filter), Some(state)) = (self.filters.get(number), states.get_mut(number))
            {
                filter.response_content(state, piece, out);
            }
        });
    }

    /// Tells all filters how the exchange ended.
    pub fn log(&self, states: &States, ended: &Ended) {
        for (filter, state) in self.filters.iter().zip(&states.states) {
            filter.log(state, ended);
        }
    }
}

/// Shows a piece to one filter after the other.
fn pass(
    order: &[usize],
    between: &mut Vec<u8>,
    piece: Piece<'_>,
    out: &mut Vec<u8>,
    mut show: impl FnMut(usize, Piece<'_>, &mut Vec<u8>),
) {
    let [first, others @ ..] = order else {
        return;
    };
    let from = out.len();
    show(*first, piece, out);
    for number in others {
        between.clear();
        between.extend(out.drain(from..));
        if !between.is_empty() {
            show(*number, Piece::Octets(between), out);
        }
        if !matches!(piece, Piece::Octets(_)) {
            show(*number, piece, out);
        }
    }
}

/// A delay as a future, for filters.
fn delay(span: Duration) -> Pin<Box<dyn Future<Output = Flow>>> {
    Box::pin(async move {
        tokio::time::sleep(span).await;
        Flow::Continue
    })
}

#[cfg(test)]
mod pace;
#[cfg(test)]
mod probe;
#[cfg(test)]
mod tests;
