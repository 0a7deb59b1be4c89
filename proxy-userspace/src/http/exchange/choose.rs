//! Who gets a request: a backend is chosen, by the client's cookie or by the balancer, or waited for.

use super::failure::Failure;
use super::run::{Around, query};
use super::scratch::Scratch;
use crate::balance::l7::{
    Ask, BackendState, Lease, ServiceState, Tried, Unavailable, WaitError, sticky,
};
use crate::config::model::http::StickyCookie;
use crate::http::snapshot::ServicePlan;
use crate::message::{Fields, Name, RequestHead};
use crate::net::Nanos;
use crate::observe::access_log::{End, Phase, StickyRequest, StickyResponse};
use crate::routing::hash_key;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

/// Chooses a backend; waits for one if all are busy and that is allowed.
pub(super) async fn lease(
    around: &Around<'_>,
    scratch: &mut Scratch,
    service: &ServicePlan,
    tried: &Tried,
    whole: Nanos,
) -> Result<Lease, Failure> {
    use crate::config::model::http::BalancePolicy::{Maglev, Ring};
    let worker = around.worker;
    let key = match &service.settings.balance.policy {
        Maglev(on) | Ring(on) => {
            let source = scratch.facts.client.unwrap_or_else(|| around.peer.ip());
            hash_key(on, &query(&scratch.request, source, None))
        }
        _ => None,
    };
    let cookie = service.settings.sticky_cookie.as_ref();
    let sent = cookie.and_then(|settings| {
        self::cookie(&scratch.request, settings.name.as_bytes()).map(sticky::decode)
    });
    let ask = Ask {
        key,
        sticky: sent.flatten(),
        random: worker.random(),
        now: worker.clock.last(),
        tried,
    };
    let leased = match service.state.lease(&ask) {
        Err(Unavailable::Busy) => wait(around, scratch, service, &ask, whole).await,
        Err(_) => Err(Failure::new(End::NoBackend, Phase::Connect)),
        Ok(lease) => Ok(lease),
    };
    if cookie.is_some() {
        let got = leased.as_ref().ok().map(|lease| lease.backend().sticky());
        let followed = followed(sent, got, &service.state);
        scratch.facts.sticky = (followed, StickyResponse::None);
    }
    leased
}

/// What became of the cookie that a client has sent: `None` for none, then what it names. `got`:
/// whom the request goes to.
fn followed(sent: Option<Option<u64>>, got: Option<u64>, service: &ServiceState) -> StickyRequest {
    let Some(named) = sent else {
        return StickyRequest::None;
    };
    match named {
        Some(_) if named == got => StickyRequest::Valid,
        Some(named) if service.backends().iter().any(|it| it.sticky() == named) => {
            StickyRequest::Down
        }
        _ => StickyRequest::Invalid,
    }
}

/// Waits for a backend that has room.
async fn wait(
    around: &Around<'_>,
    scratch: &mut Scratch,
    service: &ServicePlan,
    ask: &Ask<'_>,
    whole: Nanos,
) -> Result<Lease, Failure> {
    let pending = service.settings.resilience.circuit.pending;
    if pending > 0 && service.state.waiting() >= pending {
        return Err(Failure::new(End::CircuitOpen, Phase::Queue));
    }
    let (worker, timer) = (around.worker, around.timer);
    let began = worker.clock.read();
    let waiting = service.state.wait(ask);
    let mut waiting = waiting.map_err(|_| Failure::new(End::QueueFull, Phase::Queue))?;
    scratch.facts.ahead = waiting.ahead();
    timer.set(waiting.deadline().min(whole));
    let waited = poll_fn(|cx| {
        // Sets the waker; when time is over the balancer is the one to say so.
        timer.poll_expired(cx);
        match waiting.poll(cx, timer.now()) {
            Poll::Pending if timer.now() >= whole => Poll::Ready(Err(WaitError::Timeout)),
            polled => polled,
        }
    });
    let waited = waited.await;
    let took = worker.clock.read() - began;
    scratch.facts.queued = Some(took);
    let cells = service.cells.at(worker.index);
    cells.queue_waits.observe(Duration::from_nanos(took));
    waited.map_err(|error| match error {
        WaitError::Timeout if worker.clock.last() >= whole => {
            Failure::new(End::RouteTimeout, Phase::Queue)
        }
        WaitError::Timeout => Failure::new(End::QueueTimeout, Phase::Queue),
        WaitError::Unavailable(_) => Failure::new(End::NoBackend, Phase::Queue),
    })
}

/// Gives the client a cookie that names its backend, unless it has that one already. True if so.
pub(super) fn keep_client(
    settings: &StickyCookie,
    request: &RequestHead,
    backend: &BackendState,
    fields: &mut Fields,
) -> bool {
    let value = sticky::encode(backend.sticky());
    if cookie(request, settings.name.as_bytes()) == Some(&value[..]) {
        return false;
    }
    let value = String::from_utf8_lossy(&value);
    let mut text = format!("{}={value}; Path={}", settings.name, settings.path);
    if let Some(age) = settings.max_age {
        text.push_str(&format!("; Max-Age={}", age.as_secs()));
    }
    if settings.secure {
        text.push_str("; Secure");
    }
    if settings.http_only {
        text.push_str("; HttpOnly");
    }
    if let Some(same_site) = &settings.same_site {
        text.push_str("; SameSite=");
        text.push_str(same_site);
    }
    fields.append(Name::SetCookie, text.as_bytes());
    true
}

/// The value of a cookie.
fn cookie<'h>(request: &'h RequestHead, name: &[u8]) -> Option<&'h [u8]> {
    let cookies = request.fields.all(Name::Cookie);
    cookies
        .flat_map(|value| value.split(|&c| c == b';'))
        .find_map(|pair| pair.trim_ascii().strip_prefix(name)?.strip_prefix(b"="))
}
