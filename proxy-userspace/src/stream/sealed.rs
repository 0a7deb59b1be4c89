//! TLS that ends here: what is inside of it is passed on.

use super::account::Outcome;
use crate::http::census::Live;
use crate::http::secure::{Secured, TlsPlan, failure, farewell, negotiate, offence};
use crate::http::worker::Worker;
use crate::message::Refusal;
use crate::net::tls::HandshakeError;
use crate::net::{Input, Stream, Timer};
use crate::observe::access_log::{End, Phase};
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

/// How a connection ends that could not be sealed, and why, if that was the client's fault. Who is
/// refused has been told so, in TLS' own words.
pub(super) type Unsealed = (Outcome, Option<Refusal>);

/// Negotiates with a client. What it has sent already is in `input`.
pub(super) async fn seal(
    worker: &Worker,
    (listener, plan): (&str, &TlsPlan),
    stream: &mut Stream,
    input: &mut Input,
    live: &Live,
    timer: &Timer,
) -> Result<Secured, Unsealed> {
    let (client, _) = live.ends();
    let ended = |end| (end, Phase::Request);
    let Some(_place) = plan.take_place(worker) else {
        return Err((ended(End::QueueFull), None));
    };
    let began = worker.clock.read();
    timer.set_after(plan.timeout);
    let error = {
        let mut negotiating = pin!(negotiate(
            worker,
            plan,
            stream,
            input,
            (client, began),
            timer
        ));
        let negotiated = poll_fn(|cx| match negotiating.as_mut().poll(cx) {
            Poll::Pending if worker.is_over() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
            Poll::Ready(negotiated) => Poll::Ready(Some(negotiated)),
        });
        match negotiated.await {
            Some(Ok(Some(secured))) => {
                worker.note_tls(live, listener, began, Ok(&secured));
                return Ok(secured);
            }
            // An authority has seen that a name is ours.
            Some(Ok(None)) => return Err((ended(End::Local), None)),
            Some(Err(error)) => error,
            None => return Err((ended(End::Stopped), None)),
        }
    };
    worker.note_tls(live, listener, began, Err(failure(&error)));
    if let Some(offence) = offence(&error) {
        worker.offended(live, offence);
    }
    farewell(worker, stream, &error, timer).await;
    Err(match error {
        // Nothing at all is what probes of other balancers send.
        HandshakeError::Closed | HandshakeError::Io(_) => (ended(End::ClientClosed), None),
        HandshakeError::TimedOut => (ended(End::ClientTimeout), None),
        HandshakeError::NotTls(_) => (ended(End::ClientProtocol), Some(Refusal::NotTls)),
        HandshakeError::Tls(_) => (ended(End::ClientProtocol), Some(Refusal::TlsHandshake)),
    })
}
