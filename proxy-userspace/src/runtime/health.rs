//! One truth about each backend: what active checks, the proxies and operators say is brought
//! together here, for the packet path, for the proxies, and for those who ask why.
//!
//! ```text
//!   active checks ──▶ ┌─────────┐ ──▶ plan ──▶ kernel
//!   operators ──────▶ │ overlay │
//!   proxies (news) ─▶ └─────────┘ ──▶ balancers of the proxies
//!                        └──▶ ledger: the last changes of each backend, and why
//! ```
//!
//! News only say that something has happened. What is true is read from the balancers' states, so
//! that nothing depends on each note being read.

use super::control::{Control, epoch_seconds};
use super::plane::Plane;
use super::{overlay, proxies};
use crate::balance::l7::{KnownDelay, KnownLatency, News, Note, Registry, What};
use crate::config::model::Service;
use crate::config::model::outlier::{Detector, WeightsByLatency};
use crate::health::outlier::ChangeKind;
use crate::health::{BackendName, HealthChange, Named, Verdict, weights};
use crate::kernel::plan::Drain;
use crate::observe::journal::{Happening, Topic};
use crate::observe::view::ChangeView;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::future::poll_fn;
use std::sync::Arc;
use tracing::{error, info, warn};

/// Changes that are remembered of each backend.
const REMEMBERED: usize = 20;

/// What has happened to backends.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    backends: HashMap<BackendName, Page>,
    /// Intervals of latency that have been looked at, by service.
    rounds: HashMap<String, u64>,
}

/// What has happened to one backend.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// The last changes, oldest first.
    pub(super) history: VecDeque<ChangeView>,
    /// Ejections by [`Detector::index`].
    pub(super) ejections: [u64; Detector::ALL.len()],
}

impl Ledger {
    /// What has happened to a backend, if anything.
    pub(super) fn page(&self, service: &str, backend: &str) -> Option<&Page> {
        self.backends.get(&BackendName::new(service, backend))
    }

    fn note(&mut self, name: &BackendName, from: &str, to: &str, why: String) {
        if from == to {
            return;
        }
        let history = &mut self.backends.entry(name.clone()).or_default().history;
        if history.len() == REMEMBERED {
            history.pop_front();
        }
        history.push_back(ChangeView {
            time_seconds: epoch_seconds(),
            from: from.to_owned(),
            to: to.to_owned(),
            why,
        });
    }
}

/// What has happened to a backend, told to a successor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LedgerPage {
    service: String,
    backend: String,
    history: Vec<ChangeView>,
    /// By the detectors' labels.
    ejections: BTreeMap<String, u64>,
    /// Changes of its checks' verdict.
    transitions: u64,
}

/// What the proxies have seen of a service's backends in an interval.
struct Latencies {
    /// Until they answer.
    answers: Vec<KnownLatency>,
    /// What the network adds.
    delays: Vec<KnownDelay>,
}

impl Latencies {
    /// The share of its weight that a backend has after the interval. It loses a step for either
    /// reason, and gains one only if neither speaks against it.
    fn step(&self, rules: &WeightsByLatency, backend: &str, share: f64) -> f64 {
        let position = self.answers.iter().position(|(it, _)| it.name() == backend);
        let id = position.unwrap_or(usize::MAX) as u32;
        let known: Vec<(u32, f64)> = (0..)
            .zip(&self.answers)
            .filter_map(|(id, (_, latency))| Some((id, (*latency)?)))
            .collect();
        let own = known.iter().find(|(known, _)| *known == id);
        let median = weights::median_of_others(&known, id);
        let by_answers = weights::step(rules, share, own.map(|(_, own)| *own), median);
        if !rules.network {
            return by_answers;
        }
        let mut delays = self.delays.iter();
        let delay = delays.find(|(it, _)| it.name() == backend);
        let (own, usual) = delay.and_then(|(_, delay)| *delay).unzip();
        by_answers.min(weights::step(rules, share, own, usual))
    }
}

/// Waits for news of the proxies; for ever if there are none.
pub(super) async fn news(of: Option<Arc<News>>) -> Vec<Note> {
    match of {
        Some(news) => poll_fn(|cx| news.poll(cx)).await,
        None => std::future::pending().await,
    }
}

impl<P: Plane> Control<P> {
    /// What has happened to backends, for a successor.
    pub(super) fn ledger_pages(&self) -> Vec<LedgerPage> {
        let known = self.ledger.backends.keys().chain(self.transitions.keys());
        let known: BTreeSet<(&str, &str)> =
            known.map(|name| (&*name.service, &*name.backend)).collect();
        let pages = known.into_iter().map(|(service, backend)| {
            let page = self.ledger.page(service, backend);
            let name = BackendName::new(service, backend);
            let counts = page.map_or([0; Detector::ALL.len()], |page| page.ejections);
            let counts = Detector::ALL.iter().map(|it| it.label()).zip(counts);
            LedgerPage {
                service: service.to_owned(),
                backend: backend.to_owned(),
                history: page.map_or_else(Vec::new, |page| page.history.iter().cloned().collect()),
                ejections: counts
                    .filter(|(_, count)| *count > 0)
                    .map(|(label, count)| (label.to_owned(), count))
                    .collect(),
                transitions: self.transitions.get(&name).copied().unwrap_or(0),
            }
        });
        pages.collect()
    }

    /// Goes on with what a predecessor has written down about services that there still are.
    pub(super) fn inherit_pages(&mut self, pages: &[LedgerPage]) {
        for page in pages {
            if self.config.service(&page.service).is_none() {
                continue;
            }
            let name = BackendName::new(page.service.clone(), page.backend.clone());
            if page.transitions > 0 {
                self.transitions.insert(name.clone(), page.transitions);
            }
            let excess = page.history.len().saturating_sub(REMEMBERED);
            let ejections = Detector::ALL.map(|detector| {
                let count = page.ejections.get(detector.label());
                count.copied().unwrap_or(0)
            });
            let page = Page {
                history: page.history.iter().skip(excess).cloned().collect(),
                ejections,
            };
            self.ledger.backends.insert(name, page);
        }
    }

    pub(super) fn registry(&self) -> Option<&Registry> {
        Some(self.workers.as_ref()?.snapshot().registry())
    }

    /// What the balancers of the proxies tell.
    pub(super) fn news_of_proxies(&self) -> Option<Arc<News>> {
        Some(Arc::clone(self.registry()?.news()))
    }

    /// Checked backends that DNS has named.
    pub(super) fn named(&self) -> Named {
        let checked = self.config.services.iter();
        let checked = checked.filter(|service| service.health.is_some());
        let found = checked.filter_map(|service| {
            let members = self.registry()?.service(&service.name)?.resolved_backends();
            let members = members
                .iter()
                .map(|state| (state.name().to_owned(), state.address()));
            Some((service.name.clone(), members.collect::<Vec<_>>()))
        });
        found.filter(|(_, members)| !members.is_empty()).collect()
    }

    /// The state of a backend in one word.
    fn state_word(&self, service: &str, backend: &str) -> &'static str {
        let facts = self.overlay.get(service, backend);
        let is_ejected = self.is_ejected(service, backend);
        match self.parts.monitor.verdict(service, backend) {
            Some(Verdict::Unknown) => "unknown",
            Some(Verdict::Down | Verdict::Held) => "down",
            _ if facts.drain == Drain::Expired => "down",
            _ if facts.drain == Drain::Draining => "draining",
            _ if is_ejected => "ejected",
            _ => "up",
        }
    }

    fn is_ejected(&self, service: &str, backend: &str) -> bool {
        let state = self.judge_of(service);
        let out = state.map(|state| state.ejected()).unwrap_or_default();
        out.iter().any(|known| known.name() == backend)
    }

    /// Does something to a backend and remembers how that changed its state, and why.
    pub(super) fn remembering<T>(
        &mut self,
        (service, backend): (&str, &str),
        why: &str,
        act: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let before = self.state_word(service, backend);
        let done = act(self);
        let after = self.state_word(service, backend);
        let name = BackendName::new(service, backend);
        self.ledger.note(&name, before, after, why.to_owned());
        done
    }

    /// Active checks have changed their minds.
    pub(super) fn health_changed(&mut self, changes: &[HealthChange]) {
        for change in changes {
            *self.transitions.entry(change.name.clone()).or_default() += 1;
            self.remember_verdict(change);
            let BackendName { service, backend } = &change.name;
            let verdict = change.verdict.label();
            let message = format!("{service}/{backend} is {verdict}: {}", change.reason);
            self.note(Happening::new(Topic::Health, message).of(service, backend));
        }
        let named = self.named();
        if overlay::update_health(&mut self.overlay, &self.config, &named, &self.parts.monitor) {
            self.replan_unless_frozen("health change");
            self.proxies_follow();
            self.ejections_follow();
        }
        self.publish_readiness();
    }

    /// Whoever owns the maps afterwards makes up for it.
    fn replan_unless_frozen(&mut self, why: &'static str) {
        if !self.is_frozen {
            self.replan(why);
        }
    }

    /// The monitor has the verdict already, so what was before is told by the history.
    fn remember_verdict(&mut self, change: &HealthChange) {
        let BackendName { service, backend } = &change.name;
        let now = match change.up {
            true => self.state_word(service, backend),
            false => "down",
        };
        let before = self.ledger.page(service, backend);
        let before = before.and_then(|page| page.history.back());
        let before = before.map(|change| change.to.clone());
        let other = if change.up { "unknown" } else { "up" };
        let before = before.unwrap_or_else(|| other.to_owned());
        let why = format!("active check: {}", change.reason);
        self.ledger.note(&change.name, &before, now, why);
    }

    /// Takes what the proxies tell.
    pub(super) fn heard(&mut self, notes: &[Note]) {
        let mut is_members = false;
        for note in notes {
            match &note.what {
                What::Members => is_members = true,
                What::Outlier(backend, kind) => {
                    let name = BackendName::new(note.service.clone(), backend.name());
                    self.heard_of(&name, kind);
                }
            }
        }
        if is_members {
            self.members_changed();
        }
        self.ejections_follow();
    }

    fn heard_of(&mut self, name: &BackendName, kind: &ChangeKind) {
        let BackendName { service, backend } = name;
        match kind {
            ChangeKind::Ejected(ejected) => {
                let (evidence, times) = (&ejected.evidence, ejected.times);
                let (detector, time) = (evidence.detector(), ejected.until - ejected.since);
                warn!(%service, %backend, %detector, why = %evidence, ?time, times, "ejected");
                let page = self.ledger.backends.entry(name.clone()).or_default();
                page.ejections[detector.index()] += 1;
                let message = format!("{service}/{backend} is ejected: {detector}: {evidence}");
                self.note(Happening::new(Topic::Health, message).of(service, backend));
                self.ledger
                    .note(name, "up", "ejected", format!("{detector}: {evidence}"));
            }
            ChangeKind::Spared(evidence, why) => {
                let detector = evidence.detector();
                info!(%service, %backend, %detector, found = %evidence, %why, "an outlier, but not ejected");
            }
            ChangeKind::Returned => {
                info!(%service, %backend, "no longer ejected");
                let message = format!("{service}/{backend} is no longer ejected");
                self.note(Happening::new(Topic::Health, message).of(service, backend));
                let why = "the ejection is over".to_owned();
                // It may have failed its checks meanwhile.
                let now = self.state_word(service, backend);
                self.ledger.note(name, "ejected", now, why);
            }
        }
    }

    /// DNS has named others than before: they are checked as the rest is.
    pub(super) fn members_changed(&mut self) {
        let named = self.named();
        let config = &self.config;
        self.overlay.retain(|service, backend| {
            let resolved = named.get(service).into_iter().flatten();
            let mut resolved = resolved.map(|(name, _)| name.as_str());
            let fixed = config.service(service).map(|service| &service.backends);
            let mut fixed = fixed.into_iter().flatten().map(|one| one.name.as_str());
            fixed.any(|name| name == backend) || resolved.any(|name| name == backend)
        });
        match self.checks_for(&self.config, &named, &self.seals) {
            Ok(checks) => drop(self.parts.monitor.reconcile(checks)),
            Err(error) => error!(%error, "backends that DNS has named cannot be checked"),
        }
        // Checks may have had results already, which then are no news to anybody later.
        if overlay::update_health(&mut self.overlay, &self.config, &named, &self.parts.monitor) {
            self.replan_unless_frozen("health change");
        }
        self.proxies_follow();
    }

    /// Brings the packet path in step with who is ejected. While so few are healthy that the proxies
    /// ignore health, the packet path ignores ejections, too.
    pub(super) fn ejections_follow(&mut self) {
        let mut wanted = Vec::new();
        for service in &self.config.services {
            let state = self.judge_of(&service.name);
            let is_panic = state.is_some_and(|state| state.selection().is_panic());
            // Nearly always nobody.
            let out = match state {
                Some(state) if !is_panic => state.ejected(),
                _ => Vec::new(),
            };
            for backend in &service.backends {
                let ejected = out.iter().any(|state| state.name() == backend.name);
                if self.overlay.get(&service.name, &backend.name).ejected != ejected {
                    wanted.push((service.name.clone(), backend.name.clone(), ejected));
                }
            }
        }
        if wanted.is_empty() {
            return;
        }
        for (service, backend, ejected) in wanted {
            self.overlay.entry(&service, &backend).ejected = ejected;
        }
        self.replan_unless_frozen("outliers");
    }

    /// Moves weights of the packet path by the latencies that the proxies have seen, where an
    /// interval is over.
    pub(super) fn follow_latency(&mut self) {
        let mut wanted = Vec::new();
        for service in &self.config.services {
            let latencies = self.new_latencies(service);
            for backend in &service.backends {
                let facts = self.overlay.get(&service.name, &backend.name);
                let reduced = match (&service.upstream.steer_by_latency, &latencies) {
                    (None, _) => 0,
                    (Some(_), None) => continue,
                    (Some(rules), Some(latencies)) => {
                        let share = 1.0 - f64::from(facts.reduced) / 100.0;
                        let share = latencies.step(rules, &backend.name, share);
                        (100.0 * (1.0 - share)).round() as u8
                    }
                };
                if reduced != facts.reduced {
                    wanted.push((service.name.clone(), backend.name.clone(), reduced));
                }
            }
        }
        self.note_rounds();
        if wanted.is_empty() {
            return;
        }
        for (service, backend, reduced) in wanted {
            let left = 100 - reduced;
            info!(
                service,
                backend,
                left_percent = left,
                "weight follows latency"
            );
            self.overlay.entry(&service, &backend).reduced = reduced;
        }
        self.replan_unless_frozen("latency");
    }

    /// Remembers which intervals have been looked at.
    pub(super) fn note_rounds(&mut self) {
        let followers = self.config.services.iter();
        let followers = followers.filter(|service| service.upstream.steer_by_latency.is_some());
        let rounds = followers.filter_map(|service| {
            let state = self.judge_of(&service.name)?;
            Some((service.name.clone(), state.latencies().0))
        });
        self.ledger.rounds = rounds.collect();
    }

    /// Latencies of a service whose weights follow them, if an interval has ended since they were
    /// last asked for.
    fn new_latencies(&self, service: &Service) -> Option<Latencies> {
        service.upstream.steer_by_latency?;
        let state = self.judge_of(&service.name)?;
        let (round, answers) = state.latencies();
        let is_new = self.ledger.rounds.get(&service.name) != Some(&round);
        is_new.then(|| Latencies {
            answers,
            delays: state.delays(),
        })
    }

    /// See [`proxies::follow`].
    pub(super) fn proxies_follow(&self) {
        if let Some(workers) = &self.workers {
            proxies::follow(workers, &self.overlay);
        }
        self.bystanders.obey(&self.overlay);
    }
}
