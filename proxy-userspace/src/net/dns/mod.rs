//! Backends that have names: asks DNS again and again, and reports who is there.
//!
//! [`watch`] is one task for all names of a configuration. It sends an [`Update`] when the members
//! of a service change, and when a question was not answered; whoever receives it puts the members
//! in force ([`ServiceState::set_resolved`]) and counts the failures. When to ask again and what
//! to believe is decided in [`Known`], without I/O.
//!
//! **A failure of DNS is no failure of the backends.** What was known stays in force however long
//! there is no answer. Even "no such name" must be said several times in a row before the members
//! go, because it is also what one hears while records are being replaced.
//!
//! [`ServiceState::set_resolved`]: crate::balance::l7::ServiceState::set_resolved

mod known;
mod system;
#[cfg(test)]
mod tests;

pub use known::{Bounds, Known, Step};
pub use system::SystemResolver;

use crate::balance::l7::{Registry, Resolved};
use crate::config::model::http::DnsQuestion;
use futures_util::future::join_all;
use std::error::Error;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};

/// Asks DNS. A trait, so that tests can answer.
pub trait Resolve {
    /// Asks once.
    ///
    /// # Errors
    ///
    /// [`Failure`] if there is no address.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future only gives up the answer.
    fn resolve(&self, question: &DnsQuestion) -> impl Future<Output = Result<Answer, Failure>>;
}

/// Addresses of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Where the servers are, in any order.
    pub found: Vec<Resolved>,
    /// How long that holds, by the records.
    pub ttl: Duration,
    /// False if part of the question (IPv4 or IPv6, some host of an SRV record) had no answer, so
    /// that `found` may lack servers that are there.
    pub is_complete: bool,
}

/// A question without addresses.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// DNS says that the name does not exist or has no address.
    #[error("the name does not exist, or has no address")]
    NoSuchName {
        /// How long that holds (RFC 2308), if DNS tells.
        ttl: Option<Duration>,
    },
    /// No answer, or one that says nothing about the name.
    #[error("the name could not be resolved")]
    Unanswered(#[source] Box<dyn Error + Send + Sync>),
}

/// A question and for whom it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Name of the service.
    pub service: String,
    /// Index of the question in its [`names`](crate::balance::l7::ServiceSpec::names).
    pub question: usize,
    /// What is asked.
    pub asked: DnsQuestion,
}

/// News about a target.
#[derive(Debug)]
pub struct Update {
    /// Name of the service.
    pub service: String,
    /// Index of the question.
    pub question: usize,
    /// What is new.
    pub news: News,
}

/// What is new about a name.
#[derive(Debug)]
pub enum News {
    /// These are the servers now, sorted. None if the name is gone for good.
    Members(Vec<Resolved>),
    /// It could not be resolved; what was known holds.
    Failed(Failure),
}

/// The questions of all services.
pub fn targets(registry: &Registry) -> Vec<Target> {
    let services = registry.services().iter();
    services
        .flat_map(|service| {
            let names = service.spec().names.iter().enumerate();
            names.map(|(question, name)| Target {
                service: service.name().to_owned(),
                question,
                asked: name.named.question.clone(),
            })
        })
        .collect()
}

/// Questions at once. A configuration of a thousand names must not begin with as many packets.
const AT_ONCE: usize = 16;

/// Asks all questions, and again when their answers expire, until nobody receives any more.
///
/// # Cancel safety
///
/// Dropping the future ends the watch; an update is either sent or not.
pub async fn watch<R: Resolve>(
    resolver: &R,
    targets: Vec<Target>,
    bounds: Bounds,
    updates: mpsc::Sender<Update>,
) {
    let turn = Semaphore::new(AT_ONCE);
    let watches = targets
        .into_iter()
        .map(|target| watch_one(resolver, target, bounds, &turn, updates.clone()));
    // The watches hold their own senders; without this one, the channel closes with the last.
    let all = join_all(watches);
    drop(updates);
    all.await;
}

async fn watch_one<R: Resolve>(
    resolver: &R,
    target: Target,
    bounds: Bounds,
    turn: &Semaphore,
    updates: mpsc::Sender<Update>,
) {
    let mut known = Known::new(bounds);
    loop {
        let outcome = {
            let _turn = turn.acquire().await;
            let asked = resolver.resolve(&target.asked);
            let in_time = tokio::time::timeout(bounds.timeout, asked).await;
            in_time.unwrap_or_else(|late| Err(Failure::Unanswered(late.into())))
        };
        let step = known.learn(&outcome, fastrand::f64());
        let failed = outcome.err().map(News::Failed);
        let members = step.change.map(News::Members);
        for news in failed.into_iter().chain(members) {
            let update = Update {
                service: target.service.clone(),
                question: target.question,
                news,
            };
            if updates.send(update).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(step.again_in) => {}
            () = updates.closed() => return,
        }
    }
}
