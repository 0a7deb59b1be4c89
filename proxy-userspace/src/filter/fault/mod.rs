//! Faults on purpose: a share of requests is held back, a share is answered with an error.
//!
//! Both are drawn from the request's own random number, apart from each other, so that a request
//! may meet both.

use super::{Answer, Filter, Flow, RequestContext, delay};
use crate::config::model::http::Route;
use crate::message::RequestHead;
use std::time::Duration;

/// Faults of a route.
#[derive(Debug)]
pub struct Fault {
    delay: Option<(Duration, u32)>,
    abort: Option<(u16, u32)>,
}

/// What a request has met.
#[derive(Clone, Copy, Debug, Default)]
pub struct Met {
    /// It was held back.
    pub delay: bool,
    /// It was answered with an error.
    pub abort: bool,
}

impl Fault {
    /// The faults that a route asks for, if any.
    pub(super) fn of_route(route: &Route) -> Option<Self> {
        let fault = route.fault.as_ref()?;
        Some(Self {
            delay: fault.delay.map(|(span, share)| (span, of_2_32(share))),
            abort: fault.abort.map(|(status, share)| (status, of_2_32(share))),
        })
    }
}

impl Filter for Fault {
    type State = Met;

    fn request_head(
        &self,
        met: &mut Met,
        _: &mut RequestHead,
        context: &RequestContext<'_>,
    ) -> Flow {
        let abort = self.abort.and_then(|(status, share)| {
            is_drawn(share, (context.random >> 32) as u32).then_some(status)
        });
        let held = self
            .delay
            .filter(|(_, share)| is_drawn(*share, context.random as u32));
        *met = Met {
            delay: held.is_some(),
            abort: abort.is_some(),
        };
        match (held, abort) {
            (None, None) => Flow::Continue,
            (None, Some(status)) => Flow::Respond(Answer::of_status(status)),
            (Some((span, _)), None) => Flow::Wait(delay(span)),
            (Some((span, _)), Some(status)) => Flow::Wait(Box::pin(async move {
                delay(span).await;
                Flow::Respond(Answer::of_status(status))
            })),
        }
    }
}

/// A share in units of 2^-32; all is `u32::MAX`.
fn of_2_32(share: f64) -> u32 {
    // The conversion saturates, so that 1 becomes `u32::MAX`.
    (share.clamp(0.0, 1.0) * 4_294_967_296.0) as u32
}

fn is_drawn(share: u32, random: u32) -> bool {
    share == u32::MAX || random < share
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(fault: &Fault, random: u64) -> Flow {
        let context = RequestContext {
            listener: "web",
            client: std::net::Ipv4Addr::LOCALHOST.into(),
            random,
        };
        fault.request_head(&mut Met::default(), &mut RequestHead::default(), &context)
    }

    #[test]
    fn a_share_of_requests_is_aborted() {
        let fault = Fault {
            delay: None,
            abort: Some((503, of_2_32(0.25))),
        };
        assert!(
            matches!(met(&fault, 0x3fff_ffff << 32), Flow::Respond(answer) if answer.status == 503)
        );
        assert!(matches!(met(&fault, 0x4000_0000 << 32), Flow::Continue));
        let all = Fault {
            delay: None,
            abort: Some((503, of_2_32(1.0))),
        };
        assert!(matches!(met(&all, u64::MAX), Flow::Respond(answer) if answer.status == 503));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_may_be_held_back_and_then_aborted() {
        let fault = Fault {
            delay: Some((Duration::from_secs(3), of_2_32(1.0))),
            abort: Some((418, of_2_32(1.0))),
        };
        let Flow::Wait(waiting) = met(&fault, 1) else {
            panic!("not held back");
        };
        let before = tokio::time::Instant::now();
        assert!(matches!(waiting.await, Flow::Respond(answer) if answer.status == 418));
        assert_eq!(before.elapsed(), Duration::from_secs(3));
    }
}
