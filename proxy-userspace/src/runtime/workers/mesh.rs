//! Connections at a listener that others are redirected to: whose they are, what is spoken, and on.
//!
//! ```text
//!  accepted ─▶ whose is it? ─▶ made to us ───────────────────────────▶ as at any listener
//!                   └▶ redirected ─▶ first octets, looked at but not taken
//!                                        ├ HTTP ───────▶ h1 (and from there h2), routes
//!                                        └ TLS, other, silence, by its port ─▶ passed on
//! ```

use super::thread::{Ends, begin_http, socket};
use crate::http::h1::{self, Accepted};
use crate::http::listening::connection_number;
use crate::http::peer::Peer;
use crate::http::snapshot::ListenerId;
use crate::http::worker::Worker;
use crate::net::Nanos;
use crate::net::descriptors::Claim;
use crate::net::detect::{Protocol, detect, settle};
use crate::sockets::redirect::{self, Redirected, Seen};
use crate::stream;
use std::io;
use std::mem::MaybeUninit;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

/// Octets that are looked at: a request line of usual length.
const LOOKED_AT: usize = 512;

/// How long is waited for more octets of those that do not suffice: they seldom come apart.
const MORE: Duration = Duration::from_millis(5);

/// Serves a connection as a task of its own.
pub(super) fn begin(worker: &Rc<Worker>, listener: ListenerId, stream: TcpStream, ends: Ends) {
    let Some(redirected) = whose(worker, listener, &stream) else {
        tell(worker, listener, Seen::Direct, None);
        return begin_http(worker, listener, stream, ends);
    };
    let serving = serve(
        Rc::clone(worker),
        listener,
        stream,
        ends,
        Rc::new(redirected),
        // If it is passed on as it is, it needs one towards its backend.
        Claim::of(2),
    );
    spawn_local(Box::pin(serving));
}

/// Whose a connection is, and where it was to go; `None` if it was made to the listener itself.
fn whose(worker: &Worker, listener: ListenerId, stream: &TcpStream) -> Option<Redirected> {
    let origins = redirect::origins()?;
    let snapshot = worker.snapshot();
    let plan = snapshot.listener(listener)?;
    if !plan.mesh.as_ref()?.is_inbound() {
        return origins.of(stream);
    }
    // It was accepted under the address that was dialled.
    let dialled = stream.local_addr().ok()?;
    let is_direct = dialled.port() == plan.settings.address.port();
    (!is_direct).then(|| origins.arrived(dialled))
}

async fn serve(
    worker: Rc<Worker>,
    listener: ListenerId,
    stream: TcpStream,
    ends: Ends,
    redirected: Rc<Redirected>,
    claim: Claim,
) {
    let Some(seen) = look(&worker, listener, &redirected, &stream).await else {
        // A reload has ended it; the connection was to go elsewhere, and we may not say where.
        return;
    };
    tell(&worker, listener, seen, Some(&redirected.workload));
    let Some((mut stream, _)) = socket(stream, &ends) else {
        return;
    };
    drop(claim);
    let number = connection_number();
    if let Seen::Http1 | Seen::Http2 = seen {
        let peer = Peer::new(ends.client, redirected.destination, number).redirected(redirected);
        let accepted = Accepted {
            stream,
            peer,
            listener,
        };
        return h1::serve(worker, accepted).await;
    }
    stream.expects_another(true);
    // As it is now: while it was looked there may have been a reload, and services have numbers.
    let snapshot = worker.snapshot();
    let plan = snapshot.listener(listener);
    let Some(plan) = plan.and_then(|plan| plan.mesh.as_ref()) else {
        return stream.abort();
    };
    let mesh = stream::Mesh {
        plan: Arc::clone(&plan.raw),
        is_tls: seen == Seen::Tls,
        vip: plan.vips.service(redirected.destination),
        redirected: Rc::clone(&redirected),
    };
    drop(snapshot);
    let accepted = stream::Accepted {
        stream,
        client: ends.client,
        server: redirected.destination,
        number,
        listener,
        mesh: Some(mesh),
    };
    stream::serve(worker, accepted).await;
}

/// What a client speaks; `None` if the listener is none of the mesh any more.
async fn look(
    worker: &Worker,
    listener: ListenerId,
    redirected: &Redirected,
    stream: &TcpStream,
) -> Option<Seen> {
    let patience = {
        let snapshot = worker.snapshot();
        let plan = snapshot.listener(listener)?.mesh.as_ref()?;
        if plan.is_opaque(redirected.destination.port()) {
            return Some(Seen::Opaque);
        }
        plan.detect
    };
    let mut octets = [0; LOOKED_AT];
    let mut come = 0;
    let by = worker.clock.read().saturating_add(patience);
    loop {
        let now = worker.clock.read();
        if now >= by {
            break;
        }
        match more(stream, &mut octets, come, by - now).await {
            Ok(Some(0)) | Err(_) => break,
            Ok(Some(there)) => come = there,
            Ok(None) => {}
        }
        if let Some(protocol) = detect(&octets[..come]) {
            return Some(of(protocol));
        }
    }
    Some(match come {
        0 => Seen::Silent,
        come => of(settle(&octets[..come])),
    })
}

/// Looks at what has come, once there is more than there was; `None` if there is not.
async fn more(
    stream: &TcpStream,
    octets: &mut [u8],
    before: usize,
    left: Nanos,
) -> io::Result<Option<usize>> {
    if before > 0 {
        // The socket stays readable with what was looked at, so that nothing tells of more.
        sleep(MORE.min(Duration::from_nanos(left))).await;
    } else if let Ok(ready) = timeout(Duration::from_nanos(left), stream.readable()).await {
        ready?;
    } else {
        return Ok(None);
    }
    match stream.try_io(Interest::READABLE, || peek(stream, octets)) {
        Ok(there) if before > 0 && there == before => Ok(None),
        Ok(there) => Ok(Some(there)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

fn peek(stream: &TcpStream, octets: &mut [u8]) -> io::Result<usize> {
    let mut room = [MaybeUninit::uninit(); LOOKED_AT];
    let there = socket2::SockRef::from(stream).peek(&mut room)?;
    for (to, from) in octets.iter_mut().zip(&room[..there]) {
        // SAFETY: the system has written as many.
        *to = unsafe { from.assume_init() };
    }
    Ok(there)
}

fn of(protocol: Protocol) -> Seen {
    match protocol {
        Protocol::Http1 => Seen::Http1,
        Protocol::Http2 => Seen::Http2,
        Protocol::Tls => Seen::Tls,
        Protocol::Other => Seen::Other,
    }
}

fn tell(worker: &Worker, listener: ListenerId, seen: Seen, workload: Option<&Arc<str>>) {
    if let Some(plan) = worker.snapshot().listener(listener) {
        redirect::tally(&plan.settings.name, seen, workload);
    }
}
