//! What is noted of connections and requests whose flow is traced.
//!
//! Whether it is follows from the connection's own tuple, which a PROXY header does not change, so it is
//! asked anew each time: a connection that was there before somebody began to observe is seen from
//! its next request on. Where no flow is traced, each of these functions is a look at one number.

use super::census::Live;
use super::secure::Secured;
use super::worker::Worker;
use crate::net::Nanos;
use crate::observe::flow::stages::{Accept, Proxy, Tls};
use crate::observe::flow::{Note, Noted, Stage};
use crate::observe::trace::{ConnectionTrace, Flow, Traced};
use std::time::Duration;

impl Worker {
    /// The flow of a connection or session, if it is traced.
    #[inline]
    pub(crate) fn flow(&self, live: &Live) -> Option<Flow> {
        match self.flows.is_on() {
            false => None,
            true => self.flows.flow(live.socket(), live.ip_protocol()),
        }
    }

    /// A listener has taken a connection.
    #[inline]
    pub(crate) fn note_accept(&self, live: &Live, listener: &str) {
        let Some(flow) = self.flow(live) else { return };
        if self.flows.exports(flow) {
            let random = [self.random(), self.random()];
            live.set_trace(ConnectionTrace::new(flow, random));
        }
        let accept = Accept {
            listener: listener.to_owned(),
            worker: self.index,
        };
        self.note(live, flow, None, Stage::Accept(accept));
    }

    /// A PROXY header has said whose connection it is.
    #[inline]
    pub(crate) fn note_proxy(&self, live: &Live) {
        let Some(flow) = self.flow(live) else { return };
        let (client, server) = live.ends();
        self.note(live, flow, None, Stage::Proxy(Proxy { client, server }));
    }

    /// A handshake that began then has come to its end, with this, or failed for a reason.
    #[inline]
    pub(crate) fn note_tls(
        &self,
        live: &Live,
        listener: &str,
        began: Nanos,
        sealed: Result<&Secured, &'static str>,
    ) {
        let Some(flow) = self.flow(live) else { return };
        let took = self.clock.read().saturating_sub(began);
        let mut tls = Tls {
            listener: listener.to_owned(),
            seconds: Duration::from_nanos(took).as_secs_f64(),
            ..Tls::default()
        };
        match sealed {
            Ok(secured) => {
                let record = secured.record();
                tls.version = record.version.to_owned();
                tls.cipher = record.cipher.to_owned();
                tls.server_name = record.server_name.map(str::to_owned);
                tls.resumed = record.is_resumed;
                let alpn = secured.alpn.as_deref().map(String::from_utf8_lossy);
                tls.alpn = alpn.map(|name| name.into_owned());
            }
            Err(reason) => tls.error = Some(reason.to_owned()),
        }
        self.note(live, flow, None, Stage::Tls(tls));
    }

    /// Hands a stage over.
    #[cold]
    pub(crate) fn note(&self, live: &Live, flow: Flow, request: Option<u64>, stage: Stage) {
        self.flows.note(Noted::Stage(Box::new(Note {
            flow,
            at: self.wall(self.clock.read()),
            ends: live.socket(),
            protocol: live.ip_protocol(),
            request,
            stage,
            trace: live.trace(),
        })));
    }

    /// A request's part in a flow.
    pub(super) fn traced(&self, live: &Live, flow: Flow, number: u64) -> Traced {
        Traced {
            flow,
            ends: live.socket(),
            number,
            connection: live.trace(),
        }
    }
}
