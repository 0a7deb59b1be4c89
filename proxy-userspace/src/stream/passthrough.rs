//! TLS that is passed on as it is, to the service that the client's first message asks for.
//!
//! The message stays in the buffer from which the backend gets it: TLS is between the client and
//! the backend, octet by octet. Who asks for nobody is told so in TLS' own words (an alert), as a
//! server would that does not know the name: browsers then show that, and not a reset connection.

use super::account::{Facts, Outcome};
use super::header::{self, Unread};
use crate::http::streams::NamesPlan;
use crate::http::worker::Worker;
use crate::message::Refusal;
use crate::net::client_hello::{Alert, ClientHello, Reader};
use crate::net::proxy_protocol::Addition;
use crate::net::{Input, Nanos, Stream, Timer};
use crate::observe::access_log::{End, Phase};
use crate::routing::NameMissing;
use std::future::poll_fn;
use std::task::Poll;

/// How long a client that was refused is listened to, so that the alert reaches it before a reset
/// does, which octets that nobody reads would cause.
const LINGER: Nanos = 1_000_000_000;

/// How much it may send meanwhile.
const LINGER_OCTETS: usize = 64 << 10;

/// What the client says first, and what follows of it.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) hello: ClientHello,
    /// The rule that holds; `None` for the listener's own service.
    pub(super) rule: Option<usize>,
    /// The protocol that the connection will have, as far as that is known: the one that the rule
    /// asked for, or the only one that the client offers.
    protocol: Option<Box<[u8]>>,
}

impl Asked {
    /// What a backend is told of it in a PROXY header.
    pub(super) fn additions(&self) -> impl Iterator<Item = Addition<'_>> {
        let name = self.hello.server_name.as_deref();
        let protocol = self.protocol.as_deref();
        let name = name.map(Addition::Authority).into_iter();
        name.chain(protocol.map(Addition::Alpn))
    }
}

/// Reads what the client says first, without taking it from `input`, and finds out whom it is for.
/// Who is for nobody was told so when this ends.
pub(super) async fn ask(
    worker: &Worker,
    names: &NamesPlan,
    client: &Stream,
    input: &mut Input,
    timer: &Timer,
    facts: &mut Facts,
) -> Result<(), Outcome> {
    let mut reader = Reader::default();
    let limit = (timer, names.timeout);
    let read = header::read(worker, client, input, limit, |input| {
        reader.read(input.filled())
    });
    let hello = match read.await {
        Ok(hello) => hello,
        Err(unread) => {
            let (end, refusal, alert) = match unread {
                Unread::Fault(fault) => (End::ClientProtocol, Some(fault.refusal()), fault.alert()),
                Unread::Timeout => (End::ClientTimeout, Some(Refusal::ClientHelloTimeout), None),
                // Nothing at all is what probes of other balancers send.
                Unread::Closed if input.is_empty() => (End::ClientClosed, None, None),
                Unread::Closed => (End::ClientClosed, Some(Refusal::Truncated), None),
                Unread::Over => (End::Stopped, None, None),
            };
            facts.refusal = refusal;
            if let Some(alert) = alert {
                tell(client, alert, timer).await;
                facts.is_told = true;
            }
            return Err((end, Phase::Request));
        }
    };
    let found = names
        .rules
        .find(hello.server_name.as_deref(), hello.protocols());
    let (rule, refused) = match found {
        Ok(found) => (Some((found.rule, protocol(&hello, found.protocol))), None),
        Err(NameMissing::Name) => (
            None,
            Some((Refusal::ServerNameUnknown, Alert::UnrecognizedName)),
        ),
        Err(NameMissing::Protocol) => (
            None,
            Some((Refusal::AlpnUnknown, Alert::NoApplicationProtocol)),
        ),
    };
    let (rule, protocol) = rule.unwrap_or_default();
    facts.asked = Some(Box::new(Asked {
        hello,
        rule,
        protocol,
    }));
    let Some((refusal, alert)) = refused else {
        return Ok(());
    };
    facts.refusal = Some(refusal);
    tell(client, alert, timer).await;
    facts.is_told = true;
    Err((End::NoRoute, Phase::Request))
}

fn protocol(hello: &ClientHello, asked_for: Option<&[u8]>) -> Option<Box<[u8]>> {
    let mut offered = hello.protocols();
    let only = offered.next().filter(|_| offered.next().is_none());
    asked_for.or(only).map(Box::from)
}

/// Tells a client why its connection ends, and waits a little for it to end it.
async fn tell(client: &Stream, alert: Alert, timer: &Timer) {
    let record = alert.record();
    // A client whose window is closed before it has got anything is not waited for.
    let sent = poll_fn(|cx| Poll::Ready(client.poll_write(cx, &record, &[]).is_ready()));
    if !sent.await || client.shutdown().is_err() {
        return;
    }
    timer.set(timer.read().saturating_add(LINGER));
    let mut left = LINGER_OCTETS;
    let mut octets = [0; 1024];
    poll_fn(|cx| {
        loop {
            match client.poll_read(cx, &mut octets) {
                Poll::Ready(Ok(read @ 1..)) if read < left => left -= read,
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending if timer.poll_expired(cx) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
}
