//! Requests that no route is for, of connections that were redirected: they go where they were to go.
//! Where that is the VIP of a service, it is the service that was meant.

use super::Client;
use super::failure::Failure;
use super::forward::forward;
use super::hops::{self, Hops};
use super::run::{Around, last_hop};
use super::scratch::Scratch;
use crate::message::Version;
use crate::observe::access_log::{End, Phase};

/// Passes a request on to where its connection was to go; a failure where it was not redirected, or
/// where that is not wanted.
pub(super) async fn pass_on<C: Client>(
    around: &Around<'_>,
    scratch: &mut Scratch,
    client: &mut C,
) -> Result<End, Failure> {
    let no_route = Failure::new(End::NoRoute, Phase::Request);
    let (Some(plan), Some(origin)) = (&around.listener.mesh, &around.peer.mesh) else {
        return Err(no_route);
    };
    let route = &plan.passthrough;
    let vip = plan.vips.service(origin.destination);
    let service = vip.and_then(|index| around.snapshot.service(index));
    if service.is_none() && !plan.passes() {
        return Err(no_route);
    }
    if hops::count(&mut scratch.request) == Hops::Last {
        return last_hop(around, scratch, client, route).await;
    }
    if let Some(service) = service {
        scratch.facts.service = vip;
        Box::pin(forward(around, scratch, client, route, service)).await?;
        return Ok(End::Complete);
    }
    // Whoever speaks HTTP/2 without having asked knows that the server does.
    let is_h2 = scratch.request.version == Version::Http2;
    let service = around.worker.origin(origin.destination, is_h2);
    // Boxed: rare, and other requests should have no room for it.
    Box::pin(forward(around, scratch, client, route, &service)).await?;
    Ok(End::Complete)
}
