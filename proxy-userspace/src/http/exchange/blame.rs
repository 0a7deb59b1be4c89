//! Whose fault an attempt's end is, as passive health sees it.
//!
//! Only what a backend did, or did not do, counts for or against it. A client that leaves, sends
//! too slowly or too much says nothing about it; nor does a lack of descriptors, ports or places
//! here. Nor does a kept connection that turns out to be closed: a server may close what is idle,
//! and a request that meets that on its way is repeated. What is retried is decided elsewhere.

use super::grpc;
use super::scratch::Attempted;
use crate::health::outlier::Outcome;
use crate::observe::access_log::{End, Phase, Side};

/// What an attempt says about its backend, if anything. `phase`: how far it had come when it ended.
/// `is_plain`: its request had no content, so that no time of it was the client's.
pub(super) fn outcome(attempt: &Attempted, phase: Phase, is_plain: bool) -> Option<Outcome> {
    match attempt.end {
        End::ConnectFailed | End::ConnectTimeout => return Some(Outcome::ConnectFailure),
        End::BackendClosed | End::BackendReset if is_stale(attempt) => return None,
        End::RouteTimeout if attempt.status == 0 => {
            let is_waiting = phase == Phase::ResponseHead && is_plain;
            return is_waiting.then_some(Outcome::GatewayError);
        }
        end if end.side() == Side::Backend => return Some(Outcome::GatewayError),
        // It has answered, whatever became of the answer here or on its way to the client.
        _ => {}
    }
    let status = match (attempt.status, attempt.grpc) {
        // A gRPC server answers 200 whatever happens.
        (200, Some(code)) => grpc::to_http(code),
        (status, _) => status,
    };
    Some(match status {
        0 => return None,
        502..=504 => Outcome::GatewayError,
        // These say that the client asked for a method or version that the server does not know.
        501 | 505 => answered(attempt, is_plain),
        500.. => Outcome::ServerError,
        _ => answered(attempt, is_plain),
    })
}

fn answered(attempt: &Attempted, is_plain: bool) -> Outcome {
    let head = attempt.head.filter(|_| is_plain);
    // Opening the connection is the network's time as much as the server's.
    Outcome::Answered(head.map(|head| head.saturating_sub(attempt.connect.unwrap_or(0))))
}

/// A kept connection had been closed before the request came.
fn is_stale(attempt: &Attempted) -> bool {
    attempt.reused && attempt.status == 0 && attempt.received.all() == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::l7::{BackendState, Slots};
    use crate::message::Version;
    use crate::observe::access_log::Octets;
    use std::sync::Arc;

    fn attempt(end: End, status: u16) -> Attempted {
        let slot = Arc::<Slots>::default().take();
        let address = "127.0.0.1:1".parse().expect("an address");
        Attempted {
            backend: Arc::new(BackendState::new("a", address, 0, slot, 0)),
            service: None,
            began: 0,
            reused: false,
            connect: Some(100),
            head: (status != 0).then_some(300),
            total: 400,
            status,
            grpc: None,
            end,
            sent: 10,
            received: Octets::default(),
            version: Version::Http11,
            retry: None,
            span: [0; 8],
        }
    }

    fn of(end: End, status: u16) -> Option<Outcome> {
        outcome(&attempt(end, status), Phase::Data, true)
    }

    #[test]
    fn what_the_client_or_this_host_did_is_not_the_backends_fault() {
        for end in End::ALL.iter().filter(|end| end.side() != Side::Backend) {
            assert_eq!(of(*end, 0), None, "{end:?}");
            if *end != End::RouteTimeout {
                let answered = Some(Outcome::Answered(Some(200)));
                assert_eq!(of(*end, 200), answered, "{end:?}");
                assert_eq!(of(*end, 500), Some(Outcome::ServerError), "{end:?}");
            }
        }
    }

    #[test]
    fn what_the_backend_did_is() {
        for end in End::ALL.iter().filter(|end| end.side() == Side::Backend) {
            let failed = match end {
                End::ConnectFailed | End::ConnectTimeout => Outcome::ConnectFailure,
                _ => Outcome::GatewayError,
            };
            // An answer that is cut off is no answer.
            for status in [0, 200] {
                assert_eq!(of(*end, status), Some(failed), "{end:?}");
            }
        }
        for status in [502, 503, 504] {
            assert_eq!(of(End::Complete, status), Some(Outcome::GatewayError));
        }
        for status in [500, 507, 599] {
            assert_eq!(of(End::Complete, status), Some(Outcome::ServerError));
        }
        for status in [101, 200, 404, 429, 501, 505] {
            let answered = Some(Outcome::Answered(Some(200)));
            assert_eq!(of(End::Complete, status), answered, "{status}");
        }
    }

    #[test]
    fn a_status_of_grpc_counts_as_the_like_of_http() {
        for (code, expected) in [
            (0, Outcome::Answered(Some(200))),
            (2, Outcome::ServerError),
            (3, Outcome::Answered(Some(200))),
            (4, Outcome::GatewayError),
            (8, Outcome::Answered(Some(200))),
            (12, Outcome::Answered(Some(200))),
            (13, Outcome::ServerError),
            (14, Outcome::GatewayError),
        ] {
            let mut call = attempt(End::Complete, 200);
            call.grpc = Some(code);
            let found = outcome(&call, Phase::Data, true);
            assert_eq!(found, Some(expected), "{code}");
        }
        let mut torn = attempt(End::BackendReset, 200);
        torn.grpc = Some(0);
        let failed = Some(Outcome::GatewayError);
        assert_eq!(outcome(&torn, Phase::Data, true), failed);
    }

    #[test]
    fn a_kept_connection_that_was_closed_is_nobodys_fault() {
        let mut stale = attempt(End::BackendClosed, 0);
        stale.reused = true;
        assert_eq!(outcome(&stale, Phase::ResponseHead, true), None);
        // A part of an answer is no idle connection's end.
        stale.received.head = 1;
        let failed = Some(Outcome::GatewayError);
        assert_eq!(outcome(&stale, Phase::ResponseHead, true), failed);
    }

    #[test]
    fn a_client_that_sends_content_has_a_part_in_the_time() {
        let slow = attempt(End::RouteTimeout, 0);
        let failed = Some(Outcome::GatewayError);
        assert_eq!(outcome(&slow, Phase::ResponseHead, true), failed);
        assert_eq!(outcome(&slow, Phase::ResponseHead, false), None);
        assert_eq!(outcome(&slow, Phase::Queue, true), None);
        let posted = outcome(&attempt(End::Complete, 200), Phase::Data, false);
        assert_eq!(posted, Some(Outcome::Answered(None)));
    }
}
