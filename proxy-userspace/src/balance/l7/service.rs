//! A service at run time: its members, the selection in force, and its queue.

use super::backend::{BackendState, Slots};
use super::news::{News, Note, What};
use super::outliers::Outliers;
use super::pick::{Ask, Unavailable};
use super::queue::{Entry, Queue, QueueFull};
use super::selection::{Member, Selection};
use super::spec::{BackendSpec, ServiceSpec};
use super::turns::Cursor;
use super::waiting::Waiting;
use super::{Nanos, sticky};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A service, as long as its configuration stays the same. After a reload there is a new one,
/// with the same [`BackendState`]s, queue and position in the round robin.
#[derive(Debug)]
pub struct ServiceState {
    spec: ServiceSpec,
    selection: ArcSwap<Selection>,
    /// Held while a selection is made, so that the newest is the one that stays.
    members: Mutex<Vec<Member>>,
    cursor: Arc<Cursor>,
    queue: Arc<Queue>,
    slots: Arc<Slots>,
    news: Arc<News>,
    outliers: Arc<Outliers>,
    /// [`Outliers::version`] of the selection in force.
    published: AtomicU64,
    secret: u64,
}

/// A server that DNS has named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resolved {
    /// 0 for the first choice: the rank of an SRV record's priority. Added to the tier.
    pub rank: u8,
    /// Where it is.
    pub address: SocketAddr,
    /// An SRV record's weight; multiplied with the configured one. 1 for addresses.
    pub weight: u16,
}

impl ServiceState {
    /// A service with the members that its configuration names, and those that DNS had named for
    /// `old`. Nothing that `old` uses is changed.
    pub(super) fn new(
        spec: ServiceSpec,
        old: Option<&Self>,
        (slots, news): (&Arc<Slots>, &Arc<News>),
        secrets: &Secrets,
        now: Nanos,
    ) -> Self {
        let mut service = Self {
            selection: ArcSwap::from_pointee(Selection::default()),
            members: Mutex::new(Vec::new()),
            cursor: old.map_or_else(
                || Arc::new(Cursor::new(secrets.seed)),
                |old| Arc::clone(&old.cursor),
            ),
            queue: old.map(|old| Arc::clone(&old.queue)).unwrap_or_default(),
            slots: Arc::clone(slots),
            news: Arc::clone(news),
            outliers: old.map(|old| Arc::clone(&old.outliers)).unwrap_or_default(),
            published: AtomicU64::new(0),
            secret: secrets.sticky,
            spec,
        };
        let known = old.map(|old| old.members.lock().clone());
        // A service that is new is not slow: there is nobody else to take its load.
        let since = if known.is_some() { now } else { 0 };
        let known = known.unwrap_or_default();
        let members = service.members_from(old, &known, since);
        let selection = Selection::new(&members, &service.spec, &service.cursor, now);
        service.selection = ArcSwap::from_pointee(selection);
        service.members = Mutex::new(members);
        service
    }

    /// Name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// How it chooses.
    pub fn spec(&self) -> &ServiceSpec {
        &self.spec
    }

    /// The selection in force.
    pub fn selection(&self) -> arc_swap::Guard<Arc<Selection>> {
        self.selection.load()
    }

    /// All backends, whatever their state.
    pub fn backends(&self) -> Vec<Arc<BackendState>> {
        let members = self.members.lock();
        members.iter().map(|m| Arc::clone(&m.state)).collect()
    }

    /// How many requests wait.
    pub fn waiting(&self) -> u32 {
        self.queue.waiting()
    }

    /// Chooses a backend and begins a request to it, which must be ended by
    /// [`ServiceState::release`]. [`ServiceState::lease`] sees to that by itself.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] if there is nobody for it.
    pub fn pick(&self, ask: &Ask<'_>) -> Result<Arc<BackendState>, Unavailable> {
        let selection = self.selection.load();
        // Another worker may take the last place between our look and our step.
        for _ in 0..4 {
            let backend = selection.pick(ask)?;
            if backend.try_begin() {
                return Ok(Arc::clone(backend));
            }
        }
        Err(Unavailable::Busy)
    }

    /// Ends a request that [`ServiceState::pick`] began. If somebody waits, the place is theirs.
    pub fn release(&self, backend: &Arc<BackendState>) {
        backend.end();
        if self.queue.waiting() > 0 {
            self.queue.grant(backend);
        }
    }

    /// As [`ServiceState::pick`]; the request ends when the lease is dropped.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] if there is nobody for it.
    pub fn lease(self: &Arc<Self>, ask: &Ask<'_>) -> Result<Lease, Unavailable> {
        let backend = self.pick(ask)?;
        Ok(Lease::new(Arc::clone(self), backend))
    }

    /// As [`ServiceState::lease`], of the backend at an address: for what has one already. `None`
    /// if there is no such backend, or it has as many requests as it may.
    pub fn lease_of(self: &Arc<Self>, address: SocketAddr) -> Option<Lease> {
        let members = self.backends();
        let mut found = members.into_iter();
        let backend = found.find(|backend| backend.address() == address)?;
        let begun = backend.try_begin();
        begun.then(|| Lease::new(Arc::clone(self), backend))
    }

    /// What DNS has answered, by the question's number.
    pub fn resolved(&self) -> Vec<(usize, Resolved)> {
        let members = self.members.lock();
        let named = members.iter();
        named
            .filter_map(|member| member.question.zip(member.resolved))
            .collect()
    }

    /// Takes a place in the queue, after a pick has found that all are busy.
    ///
    /// # Errors
    ///
    /// [`QueueFull`] if as many wait as may.
    pub fn wait(self: &Arc<Self>, ask: &Ask<'_>) -> Result<Waiting, QueueFull> {
        let entry = self.entry(ask);
        let (ticket, ahead) = self.queue.join(self.spec.queue, entry)?;
        let ahead = match entry.only {
            None => (ahead, 0),
            Some(_) => (0, ahead),
        };
        let deadline = ask.now.saturating_add(self.spec.queue_timeout);
        Ok(Waiting::new(Arc::clone(self), ticket, ahead, ask, deadline))
    }

    /// What a request can use, as things are now.
    pub(super) fn entry(&self, ask: &Ask<'_>) -> Entry {
        let selection = self.selection.load();
        let wanted = ask.sticky.and_then(|sticky| selection.of_cookie(sticky));
        let only = wanted.map(|backend| backend.slot());
        Entry {
            tried: *ask.tried,
            only: only.filter(|slot| !ask.tried.contains(*slot)),
        }
    }

    pub(super) fn members(&self) -> &Mutex<Vec<Member>> {
        &self.members
    }

    pub(super) fn outliers(&self) -> &Outliers {
        &self.outliers
    }

    pub(super) fn news(&self) -> &News {
        &self.news
    }

    /// The version of ejections that the selection in force knows.
    pub(super) fn published(&self) -> u64 {
        self.published.load(Ordering::Acquire)
    }

    /// Servers that DNS has named.
    pub fn resolved_backends(&self) -> Vec<Arc<BackendState>> {
        let members = self.members.lock();
        let named = members.iter().filter(|m| m.question.is_some());
        named.map(|m| Arc::clone(&m.state)).collect()
    }

    pub(super) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Takes note of a backend's health. Returns whether that was news; `None` if there is no
    /// backend of that name.
    pub fn set_healthy(&self, backend: &str, healthy: bool, now: Nanos) -> Option<bool> {
        self.change(backend, now, |state| state.set_healthy(healthy, now))
    }

    /// Takes note that nothing is known of a backend's health yet, likewise: it gets nothing, and what is
    /// found out first is no return.
    pub fn set_unseen(&self, backend: &str, now: Nanos) -> Option<bool> {
        self.change(backend, now, BackendState::set_unseen)
    }

    /// Begins or ends a drain, likewise.
    pub fn set_draining(&self, backend: &str, draining: bool, now: Nanos) -> Option<bool> {
        self.change(backend, now, |state| state.set_draining(draining))
    }

    /// Sets a weight until further notice, or goes back to the configured one, likewise.
    pub fn set_weight(&self, backend: &str, weight: Option<u16>, now: Nanos) -> Option<bool> {
        self.change(backend, now, |state| state.set_weight(weight))
    }

    /// Puts the answer to a question of [`ServiceSpec::names`] in the place of the one before.
    /// Returns whether the members have changed.
    pub fn set_resolved(&self, question: usize, found: &[Resolved], now: Nanos) -> bool {
        let mut members = self.members.lock();
        let (old, others): (Vec<Member>, Vec<Member>) = members
            .drain(..)
            .partition(|member| member.question == Some(question));
        *members = others;
        let since = if old.is_empty() { 0 } else { now };
        self.add_resolved(&mut members, question, found, &old, since);
        let is_same = |a: &Member, b: &Member| a.spec == b.spec;
        let new = || members.iter().filter(|m| m.question == Some(question));
        let changed = new().count() != old.len() || !new().zip(&old).all(|(a, b)| is_same(a, b));
        for gone in old.iter().filter(|old| !contains(&members, &old.state)) {
            gone.state.set_open(false);
        }
        if changed {
            self.publish_members(&members, now);
            drop(members);
            self.news.push(Note {
                service: self.name().into(),
                at: now,
                what: What::Members,
            });
        }
        changed
    }

    /// Makes a new selection, and returns when the next one is due because of a slow start.
    pub fn publish(&self, now: Nanos) -> Option<Nanos> {
        self.publish_members(&self.members.lock(), now);
        self.next_change()
    }

    /// When [`ServiceState::publish`] is due because of a slow start.
    pub fn next_change(&self) -> Option<Nanos> {
        self.selection.load().next_change()
    }

    /// Closes the backends that `self` had and `new` has not: no waiter gets them any more.
    pub(super) fn close(&self, new: Option<&Self>) {
        let kept = new.map(|new| new.members.lock().clone());
        let kept = kept.unwrap_or_default();
        for gone in self.members.lock().iter() {
            if !contains(&kept, &gone.state) {
                gone.state.set_open(false);
            }
        }
    }

    fn change(
        &self,
        backend: &str,
        now: Nanos,
        set: impl Fn(&BackendState) -> bool,
    ) -> Option<bool> {
        let members = self.members.lock();
        let mut found = members.iter().filter(|m| m.spec.name == backend).peekable();
        found.peek()?;
        let changed = found.fold(false, |changed, member| set(&member.state) | changed);
        if changed {
            self.publish_members(&members, now);
        }
        Some(changed)
    }

    /// `members` is what the lock guards: two changes must not overtake each other.
    pub(super) fn publish_members(&self, members: &[Member], now: Nanos) {
        let version = self.outliers.version();
        self.published.store(version, Ordering::Release);
        let selection = Selection::new(members, &self.spec, &self.cursor, now);
        let open = selection.open();
        for member in members {
            member.state.set_limit(member.spec.limit);
            member.state.set_open(open.contains(&member.state.slot()));
        }
        self.selection.store(Arc::new(selection));
        if self.queue.waiting() > 0 {
            // What room there is goes to the oldest first; then all look for themselves, for some
            // may have waited for one that is gone.
            members.iter().for_each(|m| self.queue.grant(&m.state));
            self.queue.retry();
        }
    }

    fn members_from(&self, old: Option<&Self>, known: &[Member], since: Nanos) -> Vec<Member> {
        let mut members = Vec::new();
        for backend in &self.spec.backends {
            self.add(&mut members, backend.clone(), None, known, since);
        }
        for (question, name) in self.spec.names.iter().enumerate() {
            let asked = old.and_then(|old| {
                let mut names = old.spec.names.iter();
                names.position(|old| old.named.question == name.named.question)
            });
            let found: Vec<Resolved> = known
                .iter()
                .filter(|member| asked.is_some() && member.question == asked)
                .filter_map(|member| member.resolved)
                .collect();
            self.add_resolved(&mut members, question, &found, known, since);
        }
        members
    }

    fn add_resolved(
        &self,
        members: &mut Vec<Member>,
        question: usize,
        found: &[Resolved],
        known: &[Member],
        since: Nanos,
    ) {
        let Some(name) = self.spec.names.get(question) else {
            return;
        };
        let mut found = found.to_vec();
        found.sort_unstable();
        for resolved in found {
            let traits = &name.named.traits;
            let spec = BackendSpec {
                name: resolved.address.to_string(),
                address: resolved.address,
                weight: u32::from(name.named.weight) * u32::from(resolved.weight),
                tier: traits.tier.saturating_add(resolved.rank),
                zone: traits.zone.clone(),
                limit: name.limit,
            };
            self.add(members, spec, Some((question, resolved)), known, since);
        }
    }

    /// Adds a member, unless there is one at that address already: an address that two names have
    /// in common is still one server.
    fn add(
        &self,
        members: &mut Vec<Member>,
        spec: BackendSpec,
        resolved: Option<(usize, Resolved)>,
        known: &[Member],
        since: Nanos,
    ) {
        if resolved.is_some() && members.iter().any(|m| m.spec.address == spec.address) {
            return;
        }
        let same = known
            .iter()
            .find(|known| known.spec.name == spec.name && known.spec.address == spec.address);
        let state = same.map_or_else(
            || {
                let sticky = sticky::id(self.secret, &self.spec.name, &spec.name);
                let slot = self.slots.take();
                let state = BackendState::new(&spec.name, spec.address, sticky, slot, since);
                state.set_limit(spec.limit);
                Arc::new(state)
            },
            |same| Arc::clone(&same.state),
        );
        members.push(Member {
            spec,
            state,
            question: resolved.map(|(question, _)| question),
            resolved: resolved.map(|(_, resolved)| resolved),
        });
    }
}

fn contains(members: &[Member], state: &Arc<BackendState>) -> bool {
    members.iter().any(|m| Arc::ptr_eq(&m.state, state))
}

/// What a registry draws once, or is told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Secrets {
    /// Key of cookies.
    pub(super) sticky: u64,
    /// Where the round robin starts.
    pub(super) seed: u64,
}

/// A request in progress, counted until this is dropped.
#[derive(Debug)]
pub struct Lease {
    service: Arc<ServiceState>,
    backend: Arc<BackendState>,
}

impl Lease {
    pub(super) fn new(service: Arc<ServiceState>, backend: Arc<BackendState>) -> Self {
        Self { service, backend }
    }

    /// Who has the request.
    pub fn backend(&self) -> &Arc<BackendState> {
        &self.backend
    }

    /// The service.
    pub fn service(&self) -> &Arc<ServiceState> {
        &self.service
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.service.release(&self.backend);
    }
}
