//! The task that has certificates issued and renewed.

use super::account::OrderFault;
use super::challenges::Challenges;
use super::issued::Issued;
use super::memory::Memory;
use super::order::Desk;
use super::schedule::{self, Window, Wish};
use crate::certificates::{OrderLock, Pair, parse_issued, read_issued};
use crate::config::model::acme::Acme;
use crate::observe::certificates::CertificateBoard;
use rustls::pki_types::CertificateDer;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

/// Orders at once.
const AT_ONCE: usize = 4;

/// How long to wait for another process that orders the same certificate, in seconds.
const OTHERS: i64 = 15;

/// Between looks at the calendar: the clock may have been set, and responders may have news.
const LOOK: Duration = Duration::from_secs(30);

/// A certificate that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its names; the first names it.
    pub names: Vec<String>,
    /// Where it is kept.
    pub file: PathBuf,
}

/// What the manager is told.
#[derive(Clone, Debug)]
pub enum Command {
    /// These certificates are wanted, with these settings.
    Want(Option<Arc<Acme>>, Vec<Wanted>),
    /// This process serves, or does so no more: only who serves can answer an authority.
    Serve(bool),
}

/// Has certificates issued and renewed.
#[derive(Debug)]
pub struct Manager {
    board: Arc<CertificateBoard>,
    challenges: Arc<Challenges>,
    desk: Option<Arc<Desk>>,
    entries: BTreeMap<String, Entry>,
    running: JoinSet<Done>,
    is_serving: bool,
}

/// A wanted certificate, and what is known of it.
#[derive(Debug)]
struct Entry {
    wanted: Wanted,
    issued: Option<(Issued, CertificateDer<'static>)>,
    memory: Memory,
    /// Something is under way for it.
    is_busy: bool,
    /// An order is.
    is_ordering: bool,
    /// Another process has an order under way.
    not_before: i64,
}

/// What a job has come to.
#[derive(Debug)]
struct Done {
    desk: Arc<Desk>,
    first: String,
    result: Outcome,
}

#[derive(Debug)]
enum Outcome {
    Order(Result<Vec<u8>, OrderFault>, OrderLock),
    Window(Result<Option<(Window, Duration)>, OrderFault>),
}

impl Manager {
    /// A manager that has nothing to do yet.
    pub fn new(board: Arc<CertificateBoard>, challenges: Arc<Challenges>) -> Self {
        Self {
            board,
            challenges,
            desk: None,
            entries: BTreeMap::new(),
            running: JoinSet::new(),
            is_serving: false,
        }
    }

    /// Does what it is told until nobody can tell it any more. Dropping this future gives up what
    /// is under way.
    pub async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        loop {
            let pause = self.begin(now());
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Want(acme, wanted)) => self.want(acme, wanted),
                    Some(Command::Serve(is_serving)) => self.serve(is_serving),
                    None => return,
                },
                Some(done) = self.running.join_next() => match done {
                    Ok(done) => self.end(done, now(), fastrand::f64()),
                    Err(error) if error.is_cancelled() => {}
                    Err(error) => warn!(%error, "an order was lost"),
                },
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn serve(&mut self, is_serving: bool) {
        self.is_serving = is_serving;
        if !is_serving {
            // The authority would not reach this process.
            self.give_up();
        }
    }

    fn give_up(&mut self) {
        self.running.abort_all();
        for entry in self.entries.values_mut() {
            (entry.is_busy, entry.is_ordering) = (false, false);
        }
        for first in self.entries.keys() {
            self.board.issue(first, |state| state.is_ordering = false);
        }
    }

    fn want(&mut self, acme: Option<Arc<Acme>>, wanted: Vec<Wanted>) {
        let is_same = self.desk.as_ref().map(|desk| &desk.acme) == acme.as_ref();
        if !is_same {
            self.give_up();
            self.entries.clear();
            let desk = acme.map(|acme| Desk::new(acme, Arc::clone(&self.challenges)));
            self.desk = desk.map(Arc::new);
        }
        let Some(desk) = &self.desk else { return };
        let mut before = std::mem::take(&mut self.entries);
        for wanted in wanted {
            let Some(first) = wanted.names.first().cloned() else {
                continue;
            };
            let kept = before.remove(&first).filter(|it| it.wanted == wanted);
            let mut entry = kept.unwrap_or_else(|| Entry {
                memory: Memory::load(&desk.store, &wanted.names, &desk.acme),
                wanted,
                issued: None,
                is_busy: false,
                is_ordering: false,
                not_before: 0,
            });
            entry.read();
            self.entries.insert(first, entry);
        }
        let entries = &self.entries;
        self.board
            .retain_issued(|first| entries.contains_key(first));
        for (first, entry) in entries {
            self.tell(desk, first, entry);
        }
    }

    /// Begins what is due; gives how long to wait before there is something to do.
    fn begin(&mut self, now: i64) -> Duration {
        let Some(desk) = self.desk.clone().filter(|_| self.is_serving) else {
            return LOOK;
        };
        let mut next = i64::MAX;
        let firsts: Vec<String> = self.entries.keys().cloned().collect();
        for first in firsts {
            if self.running.len() >= AT_ONCE {
                return LOOK;
            }
            if let Some(at) = self.begin_one(&desk, &first, now) {
                next = next.min(at);
            }
        }
        let seconds = u64::try_from(next.saturating_sub(now)).unwrap_or(0);
        Duration::from_secs(seconds).clamp(Duration::from_secs(1), LOOK)
    }

    /// Begins what is due for one certificate; gives when something is, if nothing is yet.
    fn begin_one(&mut self, desk: &Arc<Desk>, first: &str, now: i64) -> Option<i64> {
        let entry = self.entries.get_mut(first)?;
        if entry.is_busy {
            return None;
        }
        let (at, _) = entry.due(desk, &self.board);
        let at = at.max(entry.not_before);
        if at > now {
            self.ask(desk, first, now);
            return Some(at);
        }
        if self.is_crossed(first) {
            // It is looked at again when the other one is done.
            return None;
        }
        let entry = self.entries.get_mut(first)?;
        let lock = match desk.store.lock(first) {
            Ok(Some(lock)) => lock,
            Ok(None) => {
                entry.not_before = now.saturating_add(OTHERS);
                return Some(entry.not_before);
            }
            Err(error) => {
                let path = desk.store.certificate(first).display().to_string();
                let source = error;
                let fault = OrderFault::Storage { path, source };
                self.failed(desk, first, &fault, now, fastrand::f64());
                return None;
            }
        };
        // Another process may have had it issued since this one looked.
        entry.read();
        let (at, why) = entry.due(desk, &self.board);
        if at > now {
            self.publish(desk, first);
            return Some(at);
        }
        info!(name = first, names = ?entry.wanted.names, why = why.text(), "ordering a certificate");
        (entry.is_busy, entry.is_ordering) = (true, true);
        let replaces = entry.issued.as_ref().map(|(_, der)| der.clone());
        let names = entry.wanted.names.clone();
        self.board.issue(first, |state| state.is_ordering = true);
        let (desk, first) = (Arc::clone(desk), first.to_owned());
        self.running.spawn(async move {
            let result = desk.order(&names, replaces.as_ref()).await;
            Done {
                desk,
                first,
                result: Outcome::Order(result, lock),
            }
        });
        None
    }

    /// True if an order is under way for one of the names of this certificate: a name is asked
    /// about for one order at a time.
    fn is_crossed(&self, first: &str) -> bool {
        let names = self.entries.get(first).map(|entry| &entry.wanted.names);
        let mut orders = self.entries.values().filter(|other| other.is_ordering);
        orders.any(|other| {
            let mut theirs = other.wanted.names.iter();
            theirs.any(|name| names.is_some_and(|names| names.contains(name)))
        })
    }

    /// Asks the authority when it wants a certificate to be renewed, if it is time to.
    fn ask(&mut self, desk: &Arc<Desk>, first: &str, now: i64) {
        let Some(entry) = self.entries.get_mut(first) else {
            return;
        };
        let Some((issued, der)) = entry.issued.clone() else {
            return;
        };
        if entry.memory.ask_at > now || entry.memory.failures > 0 {
            return;
        }
        entry.is_busy = true;
        let (desk, first) = (Arc::clone(desk), first.to_owned());
        self.running.spawn(async move {
            let result = desk.window(&der, &issued.fingerprint).await;
            Done {
                desk,
                first,
                result: Outcome::Window(result),
            }
        });
    }

    /// Takes what a job has come to.
    fn end(&mut self, done: Done, now: i64, random: f64) {
        let Done {
            desk,
            first,
            result,
        } = done;
        let is_ours = self.desk.as_ref().is_some_and(|it| Arc::ptr_eq(it, &desk));
        let Some(entry) = self.entries.get_mut(&first).filter(|_| is_ours) else {
            return;
        };
        (entry.is_busy, entry.is_ordering) = (false, false);
        match result {
            Outcome::Order(Ok(octets), _lock) => {
                self.board.issue(&first, |state| state.is_ordering = false);
                let path = entry.wanted.file.clone();
                match desk.store.write(&path, &octets) {
                    Ok(()) => self.fulfilled(&desk, &first, &octets),
                    Err(source) => {
                        let path = path.display().to_string();
                        let fault = OrderFault::Storage { path, source };
                        self.failed(&desk, &first, &fault, now, random);
                    }
                }
            }
            Outcome::Order(Err(fault), _lock) => {
                self.board.issue(&first, |state| state.is_ordering = false);
                self.failed(&desk, &first, &fault, now, random);
            }
            Outcome::Window(result) => {
                let hint = match result {
                    Ok(Some((window, again))) => {
                        debug!(name = first, ?window, "when the authority wants a renewal");
                        entry.memory.window = Some(window);
                        Some(again)
                    }
                    Ok(None) => None,
                    Err(fault) => {
                        debug!(name = first, error = %fault, "the authority does not say when it wants a renewal");
                        None
                    }
                };
                entry.memory.ask_at = schedule::ask_again(now, hint);
                self.remember(&desk, &first);
                self.publish(&desk, &first);
            }
        }
    }

    fn fulfilled(&mut self, desk: &Desk, first: &str, octets: &[u8]) {
        let Some(entry) = self.entries.get_mut(first) else {
            return;
        };
        if let Ok(pair) = parse_issued(octets, SystemTime::now()) {
            entry.take(&pair);
        }
        let memory = &mut entry.memory;
        (memory.failures, memory.retry_at, memory.error) = (0, 0, None);
        (memory.ask_at, memory.window) = (0, None);
        info!(name = first, names = ?entry.wanted.names, "certificate issued");
        let names = entry.wanted.names.join(", ");
        self.board.issue(first, |state| state.fulfilled += 1);
        self.board
            .tell(format!("a certificate for {names} was issued"), true);
        self.remember(desk, first);
        self.publish(desk, first);
    }

    fn failed(&mut self, desk: &Desk, first: &str, fault: &OrderFault, now: i64, random: f64) {
        let Some(entry) = self.entries.get_mut(first) else {
            return;
        };
        let memory = &mut entry.memory;
        memory.failures = memory.failures.saturating_add(1);
        let pause = schedule::pause(memory.failures, fault.kind(), random);
        let seconds = i64::try_from(pause.as_secs()).unwrap_or(i64::MAX);
        memory.retry_at = now.saturating_add(seconds);
        memory.error = Some(fault.to_string());
        let again = Duration::from_secs(pause.as_secs());
        warn!(
            name = first, error = %fault, failures = memory.failures, ?again,
            "no certificate was issued"
        );
        self.board.issue(first, |state| state.failed += 1);
        self.board.tell(
            format!("no certificate for {first} was issued: {fault}"),
            false,
        );
        self.remember(desk, first);
        self.publish(desk, first);
    }

    fn remember(&self, desk: &Desk, first: &str) {
        let Some(entry) = self.entries.get(first) else {
            return;
        };
        if let Err(error) = entry.memory.store(&desk.store, first) {
            warn!(name = first, %error, "what is known of a certificate's renewal cannot be written");
        }
    }

    fn publish(&self, desk: &Desk, first: &str) {
        if let Some(entry) = self.entries.get(first) {
            self.tell(desk, first, entry);
        }
    }

    fn tell(&self, desk: &Desk, first: &str, entry: &Entry) {
        let (at, _) = entry.due(desk, &self.board);
        self.board.issue(first, |state| {
            let issued = entry.issued.as_ref();
            state.fingerprint = issued.map_or_else(String::new, |(it, _)| it.fingerprint.clone());
            state.next_order = at.max(0);
            state.error.clone_from(&entry.memory.error);
        });
    }
}

impl Entry {
    /// Reads what is in the storage.
    fn read(&mut self) {
        match read_issued(&self.wanted.file, SystemTime::now()) {
            Ok(Some(pair)) => self.take(&pair),
            Ok(None) => self.issued = None,
            Err(fault) => {
                warn!(error = %fault, "a certificate in the storage cannot be used: it is ordered anew");
                self.issued = None;
            }
        }
    }

    fn take(&mut self, pair: &Pair) {
        let der = pair.key.cert.first().cloned();
        self.issued = der.map(|der| (Issued::of(pair), der));
    }

    fn due(&self, desk: &Desk, board: &CertificateBoard) -> (i64, schedule::Why) {
        let wish = Wish {
            names: &self.wanted.names,
            key: desk.acme.key,
            renew_at: desk.acme.renew_at,
        };
        let issued = self.issued.as_ref().map(|(issued, _)| issued);
        let is_revoked = issued.is_some_and(|it| board.is_revoked(&it.fingerprint));
        schedule::due(&wish, issued, &self.memory, is_revoked)
    }
}

/// Seconds since the epoch.
fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(now.unwrap_or_default().as_secs()).unwrap_or(i64::MAX)
}
