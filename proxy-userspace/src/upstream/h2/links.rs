//! The links of a worker.

use super::link::{Claim, Driver, Link, OpenError, Opening};
use crate::balance::l7::BackendState;
use crate::net::{Buffers, Nanos, Timer, Watches};
use crate::sockets::Acceleration;
use crate::upstream::connect::{Target, open as open_connection};
use crate::upstream::pool::Place;
use crate::upstream::tls::{ClientSide, KeptSeal, Offer, Seal};
use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::task::spawn_local;
use tokio::time::timeout;

/// How long it is remembered what a backend speaks, when nothing else is known of it.
const REMEMBERED: Nanos = 60_000_000_000;

/// The links of a worker, by backend.
#[derive(Debug, Default)]
pub struct Links {
    /// By [`BackendState::slot`].
    entries: RefCell<Vec<Option<Entry>>>,
}

#[derive(Debug)]
struct Entry {
    /// Holds the slot's number as long as the entry lives.
    backend: Arc<BackendState>,
    /// With what they are sealed by.
    links: Vec<(KeptSeal, Rc<Link>)>,
    /// The connection that is being opened for whoever needs one.
    opening: Option<(KeptSeal, Rc<Opening>)>,
    known: Known,
    /// Of what it is known: by another name it may be another server.
    known_by: KeptSeal,
    known_since: Nanos,
    keepalive: Nanos,
    /// Streams at once that the backend allowed on the last connection; 0 if there was none.
    allowed: u32,
}

/// What a backend has shown to speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Known {
    /// It was not asked.
    #[default]
    Nothing,
    /// HTTP/1 only.
    H1,
    /// HTTP/2.
    H2,
}

/// What a new link needs.
#[derive(Debug)]
pub struct Open {
    /// Counts the connection.
    pub place: Place,
    /// A deadline of its own.
    pub timer: Timer,
    /// How long opening it may take.
    pub timeout: Nanos,
    /// How long the backend may then take to show that it speaks HTTP/2.
    pub shown: Duration,
    /// How long it is kept when unused.
    pub keepalive: Nanos,
    /// Requests at once that it is for.
    pub most: u32,
    /// What it begins with: a PROXY header. Then it is for one request only.
    pub preamble: Option<Vec<u8>>,
    /// TLS, if the backend speaks it.
    pub tls: Option<Arc<ClientSide>>,
    /// What it is sealed by.
    pub seal: KeptSeal,
    /// See [`Target::acceleration`].
    pub acceleration: Option<Arc<Acceleration>>,
    /// The worker's buffers.
    pub buffers: Buffers,
    /// Who looks how the connection fares.
    pub watches: Rc<Watches>,
}

impl Links {
    fn with<T>(&self, backend: &Arc<BackendState>, give: impl FnOnce(&mut Entry) -> T) -> T {
        let mut entries = self.entries.borrow_mut();
        let slot = backend.slot() as usize;
        if entries.len() <= slot {
            entries.resize_with(slot + 1, || None);
        }
        give(entries[slot].get_or_insert_with(|| Entry {
            backend: Arc::clone(backend),
            links: Vec::new(),
            opening: None,
            known: Known::Nothing,
            known_by: KeptSeal::default(),
            known_since: 0,
            keepalive: 0,
            allowed: 0,
        }))
    }

    /// A place on a link to this backend that is sealed so and has room, of `most` requests on each.
    pub fn find(&self, backend: &BackendState, most: u32, by: Seal<'_>) -> Option<Claim> {
        let entries = self.entries.borrow();
        let entry = entries.get(backend.slot() as usize)?.as_ref()?;
        let mut links = entry.links.iter().filter(|(seal, _)| seal.seal() == by);
        let (_, link) = links.find(|(_, link)| link.room(most) > 0)?;
        Some(link.claim())
    }

    /// The connection that is being opened, if it will have room for one more who waits.
    pub fn opening(&self, backend: &BackendState, most: u32, by: Seal<'_>) -> Option<Rc<Opening>> {
        let entries = self.entries.borrow();
        let entry = entries.get(backend.slot() as usize)?.as_ref()?;
        let opening = entry.opening.as_ref();
        let (_, opening) = opening.filter(|(seal, _)| seal.seal() == by)?;
        let most = match entry.allowed {
            0 => most,
            allowed => most.min(allowed),
        };
        if opening.waiting.get() >= most {
            return None;
        }
        opening.waiting.set(opening.waiting.get() + 1);
        Some(Rc::clone(opening))
    }

    /// Opens a link in a task of its own.
    pub fn open(self: &Rc<Self>, open: Open) -> Rc<Opening> {
        let opening: Rc<Opening> = Rc::default();
        opening.waiting.set(1);
        if open.preamble.is_none() {
            let backend = Arc::clone(open.place.backend());
            self.with(&backend, |entry| {
                entry.opening = Some((open.seal.clone(), Rc::clone(&opening)));
                entry.keepalive = open.keepalive;
            });
        }
        spawn_local(run(Rc::clone(self), Rc::clone(&opening), open));
        opening
    }

    /// What the backend is known to speak where it is sealed so.
    pub fn known(&self, backend: &BackendState, by: Seal<'_>) -> Known {
        let entries = self.entries.borrow();
        let entry = entries.get(backend.slot() as usize);
        entry
            .and_then(Option::as_ref)
            .filter(|entry| entry.known_by.seal() == by)
            .map_or(Known::Nothing, |entry| entry.known)
    }

    /// Notes what the backend speaks.
    pub fn learn(&self, backend: &Arc<BackendState>, known: Known, by: Seal<'_>, now: Nanos) {
        self.with(backend, |entry| {
            entry.known = known;
            if entry.known_by.seal() != by {
                entry.known_by = by.keep();
            }
            entry.known_since = now;
        });
    }

    /// Closes links that are of no use any more, or that another worker waits for.
    pub fn reap(&self, now: Nanos) {
        for place in self.entries.borrow_mut().iter_mut() {
            let Some(entry) = place else { continue };
            let keepalive = entry.keepalive;
            let backend = &entry.backend;
            entry.links.retain(|(_, link)| {
                !link.is_over() && !link.is_idle_for(now, keepalive) && {
                    let is_wanted = link.is_idle() && backend.is_idle_wanted();
                    !is_wanted
                }
            });
            // Nobody is idle, and another worker has no connection at all.
            if entry.links.len() > 1 && backend.is_idle_wanted() {
                let last = entry.links.pop();
                last.inspect(|(_, link)| link.retire());
            }
            let is_known =
                entry.known != Known::Nothing && now.saturating_sub(entry.known_since) < REMEMBERED;
            if entry.links.is_empty() && entry.opening.is_none() && !is_known {
                *place = None;
            }
        }
    }

    /// Links that are open.
    pub fn count(&self) -> usize {
        let entries = self.entries.borrow();
        entries
            .iter()
            .flatten()
            .map(|entry| entry.links.len())
            .sum()
    }
}

/// Opens a connection and drives it to its end.
async fn run(links: Rc<Links>, opening: Rc<Opening>, open: Open) {
    let backend = Arc::clone(open.place.backend());
    let is_private = open.preamble.is_some();
    let seal = open.seal;
    let tls = open.tls.as_deref();
    let target = Target {
        backend: open.place.backend(),
        tls: tls.map(|side| (side, Offer::Http2, seal.seal())),
        preamble: open.preamble.as_deref().unwrap_or_default(),
        watches: &open.watches,
        acceleration: open.acceleration.as_deref(),
    };
    let begun = begin(&target, open.timer, open.timeout, open.most, &open.buffers);
    let begun = begun.await;
    let (link, driver) = match begun {
        Ok((link, driver)) => (Ok(link), Some(driver)),
        Err(error) => (Err(error), None),
    };
    let mut driving = pin!(async move {
        if let Some(driver) = driver {
            driver.run().await;
        }
    });
    let outcome = match link {
        Ok(link) => tokio::select! {
            () = &mut driving => Err(OpenError::NotHttp2),
            outcome = settle(link, open.shown) => outcome,
        },
        Err(error) => Err(error),
    };
    let is_open = outcome.is_ok();
    if !is_private {
        links.with(&backend, |entry| {
            if entry
                .opening
                .as_ref()
                .is_some_and(|(_, now)| Rc::ptr_eq(now, &opening))
            {
                entry.opening = None;
            }
            if let Ok(link) = &outcome {
                entry.allowed = link.room(u32::MAX);
                entry.links.push((seal.clone(), Rc::clone(link)));
            }
        });
    }
    opening.finish(outcome);
    // From here on it lives as long as somebody holds the link.
    drop(opening);
    drop(links);
    if is_open {
        driving.await;
    }
    drop(open.place);
}

/// Waits for the backend's SETTINGS: how many requests it takes, and that it speaks HTTP/2 at all.
/// That is half a round trip, once for a connection.
async fn settle(link: Rc<Link>, shown: Duration) -> Result<Rc<Link>, OpenError> {
    match timeout(shown, link.settled()).await {
        Ok(true) => Ok(link),
        Ok(false) | Err(_) => Err(OpenError::NotHttp2),
    }
}

async fn begin(
    target: &Target<'_>,
    timer: Timer,
    timeout: Nanos,
    most: u32,
    buffers: &Buffers,
) -> Result<(Rc<Link>, Driver), OpenError> {
    timer.read();
    let mut stream = open_connection(target, &timer, timeout).await?;
    if let Some(facts) = stream.tls_facts() {
        if facts.alpn.as_deref() != Some(b"h2") {
            return Err(OpenError::NotHttp2);
        }
    } else if !target.preamble.is_empty() {
        let written = stream.socket_mut().write_all(target.preamble).await;
        written.map_err(|error| OpenError::Failed(error.kind()))?;
    }
    timer.clear();
    Ok(Link::greet(stream, timer, most, buffers))
}
