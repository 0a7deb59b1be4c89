//! What the kernel knows of workloads' connections, read for those who judge backends.
//!
//! The kernel side adds up per backend what it sees when a connection opens and ends. Those that are
//! open it looks at when it is told to, once a second: an iterator goes through the storage of the
//! sockets, whatever network namespace they are in. A thread of its own does that, for with many
//! sockets it takes a while; it rests for fifty times as long as it took.
//!
//! It needs the kernel's type information. Where that is lacking, or the kernel does not take the
//! programs, balancing goes on, nobody is judged by it, and the reason is told.

use super::Balancing;
use super::hooks::{Hook, WATCH, Watchers, load_watchers};
use super::maps::Maps;
use crate::balance::l7::Workloads;
use crate::health::outlier::Network;
use crate::kernel::load::LoadError;
use crate::kernel::store::StoreError;
use crate::kernel::sys;
use crate::sockets::offsets::{self, OffsetError};
use proxy_common::connect::{Facts, flag};
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};
use tracing::{debug, info};

/// How often the open sockets are looked at.
const EVERY: Duration = Duration::from_secs(1);

/// Looking takes no more than this part of a CPU.
const REST: u32 = 50;

/// What has become of a backend's connections since it was last asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The service.
    pub service: String,
    /// The backend.
    pub backend: String,
    /// What was seen of them.
    pub workloads: Workloads,
    /// What opening them took together, in nanoseconds.
    pub opening_ns: u64,
}

/// Sockets are not watched.
#[derive(Debug, thiserror::Error)]
enum WatchError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Offsets(#[from] OffsetError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("no iterator over the storage of sockets")]
    Iterator(#[source] io::Error),
    #[error("no thread")]
    Thread(#[source] io::Error),
}

/// Whether sockets are watched.
#[derive(Default)]
pub(super) struct Watch {
    running: Option<Watching>,
    /// Why not, although it is wanted.
    failure: Option<WatchError>,
    /// What was told last, by number of the backend, with its epoch.
    told: BTreeMap<u32, (u32, Facts)>,
    /// What an earlier process has been told is no news.
    is_read: bool,
}

/// Sockets are watched until this is dropped.
struct Watching {
    program: OwnedFd,
    /// The thread ends when this is gone.
    _thread: Sender<()>,
}

impl Watch {
    /// The program and its place, if there is one.
    pub(super) fn placed(&self) -> Option<(&'static Hook, BorrowedFd<'_>)> {
        let running = self.running.as_ref()?;
        Some((&WATCH, running.program.as_fd()))
    }

    fn begin(&mut self, folder: &Path, maps: &Maps) {
        if self.running.is_some() || self.failure.is_some() {
            return;
        }
        match Watching::begin(folder, maps) {
            Ok(running) => {
                info!("sockets balanced at connect() are watched");
                self.running = Some(running);
            }
            Err(error) => self.failure = Some(error),
        }
    }

    /// What has come since the last call.
    fn news(&mut self, number: u32, epoch: u32, now: Facts) -> Facts {
        let before = self.told.insert(number, (epoch, now));
        match before.filter(|(known, _)| *known == epoch) {
            Some((_, before)) => since(&now, &before),
            None if self.is_read => now,
            None => Facts::default(),
        }
    }
}

impl Watching {
    fn begin(folder: &Path, maps: &Maps) -> Result<Self, WatchError> {
        maps.set_layout(&offsets::layout()?)?;
        let Watchers { watch, look } = load_watchers(folder)?;
        let link = sys::link_iterator(look.as_fd(), maps.seen.as_fd());
        let link = link.map_err(WatchError::Iterator)?;
        let (sender, receiver) = mpsc::channel();
        thread::Builder::new()
            .name("socket-watch".to_owned())
            .spawn(move || look_again(&link, &receiver))
            .map_err(WatchError::Thread)?;
        Ok(Self {
            program: watch,
            _thread: sender,
        })
    }
}

fn look_again(link: &OwnedFd, end: &Receiver<()>) {
    let mut rest = EVERY;
    while end.recv_timeout(rest) == Err(RecvTimeoutError::Timeout) {
        let begun = Instant::now();
        if let Err(error) = sys::iterate(link.as_fd()) {
            debug!(%error, "sockets cannot be looked at");
        }
        rest = EVERY.max(REST * begun.elapsed());
    }
}

impl Balancing {
    /// Begins or ends to watch, as the services want.
    pub(super) fn watch_as_wanted(&mut self) {
        let services = &self.wanted.services;
        let is_wanted = services.iter().any(|it| it.header.flags & flag::WATCH != 0);
        if !is_wanted {
            self.watch = Watch::default();
            return;
        }
        let folder = self.folder();
        self.watch.begin(&folder, &self.maps);
        if !self.watch.is_read
            && let Err(error) = self.seen()
        {
            debug!(%error, "what was seen of sockets before cannot be read");
        }
    }

    /// Why sockets are not watched, although some service wants it. It is not tried again before
    /// nobody has wanted it for a while.
    pub fn watch_failure(&self) -> Option<&(dyn Error + 'static)> {
        let failure = self.watch.failure.as_ref()?;
        Some(failure)
    }

    /// What the kernel has seen of the connections to backends of watched services since the last
    /// call. Backends of which it has seen nothing are left out.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn seen(&mut self) -> Result<Vec<Seen>, StoreError> {
        if self.watch.running.is_none() {
            return Ok(Vec::new());
        }
        let mut news = Vec::new();
        for (number, epoch, service, backend) in self.watched() {
            let facts = self.maps.facts(number)?;
            let facts = self.watch.news(number, epoch, facts);
            if facts != Facts::default() {
                news.push(seen(service, backend, &facts));
            }
        }
        self.watch.is_read = true;
        Ok(news)
    }

    /// Backends whose sockets are watched: number, epoch, service and name.
    fn watched(&self) -> Vec<(u32, u32, String, String)> {
        let services = self.wanted.services.iter();
        let watched = services.filter(|it| it.header.flags & flag::WATCH != 0);
        let watched: BTreeSet<&str> = watched.map(|it| it.name.as_str()).collect();
        let Some(tables) = &self.tables else {
            return Vec::new();
        };
        let backends = tables.backends.iter().filter_map(|(number, backend)| {
            let (service, _) = tables.services.get(&u32::from(backend.service))?;
            watched.contains(service.as_str()).then(|| {
                let name = self.name_of(service, backend);
                (*number, backend.epoch, service.clone(), name)
            })
        });
        backends.collect()
    }
}

fn seen(service: String, backend: String, facts: &Facts) -> Seen {
    Seen {
        service,
        backend,
        workloads: Workloads {
            network: Network {
                segments: facts.segments,
                retransmits: facts.retransmits,
                disordered: facts.disordered,
                looks: facts.looks,
                zero_windows: facts.zero_windows,
                timed: facts.timed,
                rtt_ns: facts.round_trips_us.saturating_mul(1000),
            },
            opened: facts.opened,
            failed: facts.failed,
        },
        opening_ns: facts.opening_ns,
    }
}

/// What has come since `before`. Parts of it may be seen a little later than others.
fn since(now: &Facts, before: &Facts) -> Facts {
    Facts {
        segments: now.segments.saturating_sub(before.segments),
        retransmits: now.retransmits.saturating_sub(before.retransmits),
        disordered: now.disordered.saturating_sub(before.disordered),
        looks: now.looks.saturating_sub(before.looks),
        zero_windows: now.zero_windows.saturating_sub(before.zero_windows),
        timed: now.timed.saturating_sub(before.timed),
        round_trips_us: now.round_trips_us.saturating_sub(before.round_trips_us),
        opened: now.opened.saturating_sub(before.opened),
        opening_ns: now.opening_ns.saturating_sub(before.opening_ns),
        failed: now.failed.saturating_sub(before.failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(opened: u64) -> Facts {
        Facts {
            opened,
            ..Facts::default()
        }
    }

    #[test]
    fn what_an_earlier_process_was_told_is_no_news() {
        let mut watch = Watch::default();
        assert_eq!(watch.news(1, 1, opened(40)), Facts::default());
        watch.is_read = true;
        assert_eq!(watch.news(1, 1, opened(42)), opened(2));
        // One that has come since, and one that has got the number of another.
        assert_eq!(watch.news(2, 1, opened(3)), opened(3));
        assert_eq!(watch.news(1, 2, opened(5)), opened(5));
        assert_eq!(watch.news(1, 2, opened(5)), Facts::default());
    }
}
