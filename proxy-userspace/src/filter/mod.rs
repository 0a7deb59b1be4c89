//! Filters: what is done to requests and responses on their way.
//!
//! A request's head passes the filters of its route in order, the response's head in reverse
//! order. Each filter has a state of its own type for each exchange. A filter decides at once or
//! says what to wait for; it never blocks the worker.
//!
//! Filters are known at compile time: [`registry`] makes one enum of all of them, so a chain is a
//! `Vec` of values without pointers to code. Adding one is a folder with an implementation of
//! [`Filter`] and one line in the registry.

mod fault;
mod fields;
mod registry;

pub use fields::secure;
pub use registry::{AnyFilter, AnyState};

use crate::config::model::http::Route;
use crate::message::{RequestHead, ResponseHead};
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

/// What a filter may know about a request besides its head.
#[derive(Clone, Copy, Debug)]
pub struct RequestContext {
    /// The client, behind trusted proxies.
    pub client: IpAddr,
    /// 64 random bits, the same for all filters of a request.
    pub random: u64,
}

/// What becomes of a request after a filter.
pub enum Flow {
    /// It goes on.
    Continue,
    /// It is answered with this status, and goes no further.
    Respond(u16),
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
        _context: &RequestContext,
    ) -> Flow {
        Flow::Continue
    }

    /// The final head of a response is about to be sent, whoever made it.
    fn response_head(&self, _state: &mut Self::State, _head: &mut ResponseHead) {}
}

/// The filters of a route.
#[derive(Debug, Default)]
pub struct Chain {
    filters: Vec<AnyFilter>,
}

/// What the filters of a chain remember of an exchange.
#[derive(Debug, Default)]
pub struct States(Vec<AnyState>);

impl States {
    /// True if a filter held the request back on purpose.
    pub fn is_held_back(&self) -> bool {
        let is_fault = |state: &AnyState| matches!(state, AnyState::Fault(met) if met.delay);
        self.0.iter().any(is_fault)
    }
}

impl Chain {
    /// The built-in filters that a route asks for. Those that may end a request come first.
    pub fn of_route(route: &Route) -> Self {
        let mut filters = Vec::new();
        filters.extend(fault::Fault::of_route(route).map(AnyFilter::from));
        filters.extend(fields::FieldEdits::of_route(route).map(AnyFilter::from));
        Self { filters }
    }

    /// True if there are none: then nothing needs to be remembered.
    pub fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }

    /// Shows all filters the request's head. `states` is made anew. Returns the status of an
    /// answer if one of them made an end of it.
    pub async fn request_head(
        &self,
        states: &mut States,
        head: &mut RequestHead,
        context: &RequestContext,
    ) -> Option<u16> {
        states.0.clear();
        states.0.extend(self.filters.iter().map(AnyFilter::state));
        for (filter, state) in self.filters.iter().zip(&mut states.0) {
            let mut flow = filter.request_head(state, head, context);
            loop {
                match flow {
                    Flow::Continue => break,
                    Flow::Respond(status) => return Some(status),
                    Flow::Wait(future) => flow = future.await,
                }
            }
        }
        None
    }

    /// Shows all filters the response's head, the last one first.
    pub fn response_head(&self, states: &mut States, head: &mut ResponseHead) {
        for (filter, state) in self.filters.iter().zip(&mut states.0).rev() {
            filter.response_head(state, head);
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
