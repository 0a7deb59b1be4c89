//! Probes: one question to one server, answered within one deadline.
//!
//! A backend is a stranger. Its answer may be garbage, endless, slow or never come; a probe turns
//! all of that into a [`Failure`] with a bounded label, in bounded time and memory, and never
//! panics. The deadline is taken once, when the probe starts, and every step is measured against
//! it, so that a peer that drips one byte a second gains nothing by being almost alive.
//!
//! A probe closes its connection in the ordinary way (FIN). Others send RST, to keep no
//! TIME_WAIT; but a server's log then fills with resets, and a TIME_WAIT per probe and minute is
//! no burden, since each occupies a port towards that one server only.
//!
//! Dropping a probe's future closes its socket and does nothing else.

mod grpc;
mod http;
mod sealed;
mod socket;

use super::outcome::{Failure, FailureKind, Outcome, Passed};
use super::sealed::ProbeTls;
use crate::config::model::{HealthCheck, Probe};
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

/// Where a probe goes, and how its packets are told from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Address and port to connect to.
    pub address: SocketAddr,
    /// Mark of the socket's packets (`SO_MARK`), by which a program on the way out recognises a
    /// probe to a VIP and sends it to one backend. Needs `CAP_NET_ADMIN` (from Linux 5.17 on
    /// `CAP_NET_RAW` suffices); without it the probe fails as
    /// [`Local`](FailureKind::Local).
    pub mark: Option<u32>,
    /// Source address; `None` lets the routing table choose.
    pub source: Option<IpAddr>,
    /// The server that a marked probe will be sent to. Without a `source`, the probe comes from
    /// the address that this host uses towards that server, so that the answer finds its way back:
    /// what the routing table has for the VIP is of no use, since the probe does not go there.
    pub through: Option<IpAddr>,
}

impl Target {
    /// A target without mark, from any source address.
    pub const fn new(address: SocketAddr) -> Self {
        Self {
            address,
            mark: None,
            source: None,
            through: None,
        }
    }
}

/// Makes probes. A trait so that the monitor can be tested without a network.
pub trait Prober: Send + Sync + 'static {
    /// Probes once. The future ends by the check's timeout and may be dropped at any time.
    fn probe(
        &self,
        target: Target,
        check: Arc<HealthCheck>,
        tls: Option<ProbeTls>,
    ) -> impl Future<Output = Outcome> + Send + 'static;
}

/// Makes probes over the network.
#[derive(Clone, Copy, Debug, Default)]
pub struct NetProber;

impl Prober for NetProber {
    fn probe(
        &self,
        target: Target,
        check: Arc<HealthCheck>,
        tls: Option<ProbeTls>,
    ) -> impl Future<Output = Outcome> + Send + 'static {
        probe(target, check, tls)
    }
}

/// Probes `target` once, as `check` says and inside of `tls` if it is given, and ends by the check's
/// timeout.
///
/// # Errors
///
/// A [`Failure`] for whatever is not the expected answer.
///
/// # Cancel safety
///
/// Dropping the future closes the connection.
pub async fn probe(target: Target, check: Arc<HealthCheck>, tls: Option<ProbeTls>) -> Outcome {
    let started = Instant::now();
    let deadline = Deadline(started + check.timeout.min(LONGEST_TIMEOUT));
    if target.through.is_some() && target.mark.is_none() {
        // Without its mark it would reach any backend. The mark comes with the next plan, in a few
        // milliseconds, and with it a new probe.
        tokio::time::sleep_until(deadline.0).await;
        let detail = "the data plane does not know the backend yet";
        return Err(Failure::new(FailureKind::Local, detail));
    }
    match &check.probe {
        Probe::Tcp => drop(open(target, tls.as_ref(), deadline).await?),
        Probe::Http(expected) => http::probe(target, expected, tls.as_ref(), deadline).await?,
        Probe::Grpc(expected) => grpc::probe(target, expected, tls.as_ref(), deadline).await?,
    }
    Ok(Passed {
        latency: started.elapsed(),
    })
}

/// The connection over which a probe asks. Of a TCP probe it is the whole answer that it opens, and
/// that TLS is agreed on if it is spoken.
async fn open(
    target: Target,
    tls: Option<&ProbeTls>,
    deadline: Deadline,
) -> Result<Either<TcpStream, TlsStream<TcpStream>>, Failure> {
    let stream = socket::connect(target, deadline).await?;
    Ok(match tls {
        None => Either::Left(stream),
        Some(tls) => Either::Right(sealed::seal(stream, tls, deadline).await?),
    })
}

/// No probe runs longer, whatever the configuration says: a later deadline could overflow.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(3600);

/// The end of a probe's time.
#[derive(Clone, Copy, Debug)]
struct Deadline(Instant);

impl Deadline {
    /// Waits for `step` until the deadline; `doing` completes the sentence "timed out …".
    async fn bound<T>(self, doing: &str, step: impl Future<Output = T>) -> Result<T, Failure> {
        timeout_at(self.0, step)
            .await
            .map_err(|_| Failure::new(FailureKind::Timeout, format!("timed out {doing}")))
    }
}

#[cfg(test)]
mod tests;
