//! Accusations are heard here: whether a source is condemned, and what follows in the kernel's table
//! and at the listeners. What counts as an offence, and of whom, is told in [`crate::condemn`].
//!
//! ```text
//!   accusations ─▶ hearing: every worker says how many connections of the sources behave well
//!                     │
//!                  judged ─▶ register ─▶ rules of the kernel's guard (owner: policy)
//!                                └─────▶ barred: what workers look at when they accept
//! ```
//!
//! Hearings are held one at a time and [`PAUSE`] apart, so that many accusations cost one look at
//! the connections and one plan. The register is what is true; rules that the kernel lacks, because
//! its part was opened later or somebody removed them, are written again with the next tick.

mod carried;

pub(crate) use carried::CarriedRule;

use super::control::Control;
use super::guard;
use super::plane::Plane;
use crate::condemn::{
    Accusation, Bar, Barred, Entered, Judged, Offence, Plan, Sentence, Watch, is_shared, source_of,
};
use crate::kernel::plan::guard::{self as rules, GLOBAL_SCOPE};
use crate::net::clock::Clock;
use crate::observe::journal::{Happening, Topic};
use crate::observe::view::GuardView;
use ipnet::IpNet;
use proxy_common::guard::{GuardKey, GuardRule, action, cause, owner};
use proxy_common::maps::capacity;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{info, warn};

/// Time between two hearings at least.
const PAUSE: Duration = Duration::from_millis(250);

/// How long a worker may take to say what it sees. One that is busy for longer is not heard.
const PATIENCE: Duration = Duration::from_secs(1);

/// Condemnations of one hearing that are told one by one in the log.
const TOLD: usize = 10;

/// A hearing under way.
#[derive(Debug)]
pub(super) struct Hearing {
    accusations: Vec<Accusation>,
    asked: Vec<oneshot::Receiver<Vec<u32>>>,
    /// Connections that behave well, by accusation.
    behaving: Vec<u32>,
    by: Instant,
}

/// The hearings of a control task.
#[derive(Debug)]
pub(super) struct Hearings {
    under_way: Option<Hearing>,
    not_before: Instant,
}

impl Hearings {
    pub(super) fn new() -> Self {
        Self {
            under_way: None,
            not_before: Instant::now(),
        }
    }

    /// Waits until something is to be done: `None` if a hearing is to begin, else what came of one.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(super) async fn next(&mut self, watch: Option<Arc<Watch>>) -> Option<Heard> {
        let Some(hearing) = &mut self.under_way else {
            let Some(watch) = watch else {
                return std::future::pending().await;
            };
            watch.accused().await;
            sleep_until(self.not_before).await;
            return None;
        };
        while let Some(asked) = hearing.asked.last_mut() {
            if let Ok(Ok(counts)) = timeout_at(hearing.by, asked).await {
                for (sum, count) in hearing.behaving.iter_mut().zip(counts) {
                    *sum += count;
                }
            }
            hearing.asked.pop();
        }
        let heard = self.under_way.take()?;
        self.not_before = Instant::now() + PAUSE;
        let open = heard.behaving.into_iter();
        Some(heard.accusations.into_iter().zip(open).collect())
    }
}

/// Accusations, each with the source's open connections that behave well.
pub(super) type Heard = Vec<(Accusation, u32)>;

impl<P: Plane> Control<P> {
    /// Whom accusations come from.
    pub(super) fn watch(&self) -> Option<Arc<Watch>> {
        self.workers.as_ref().map(|it| Arc::clone(it.watch()))
    }

    /// Begins a hearing of all accusations, or does with what has come of one.
    pub(super) fn hear(&mut self, hearings: &mut Hearings, heard: Option<Heard>) {
        if let Some(heard) = heard {
            return self.judge(&heard);
        }
        let Some(workers) = &self.workers else {
            return;
        };
        let accusations = workers.watch().take_accused();
        let sources: Arc<[IpNet]> = accusations.iter().map(|it| it.source).collect();
        hearings.under_way = Some(Hearing {
            asked: workers.ask_behaving(&sources),
            behaving: vec![0; accusations.len()],
            accusations,
            by: Instant::now() + PATIENCE,
        });
    }

    fn judge(&mut self, heard: &[(Accusation, u32)]) {
        let (Some(settings), Some(watch)) = (self.config.condemn.clone(), self.watch()) else {
            return;
        };
        let plan = Plan::new(&settings, self.config.trusted_proxies());
        let mut condemned = Vec::new();
        for (number, (accusation, open)) in heard.iter().enumerate() {
            let Some(judged) = self.judge_one(&plan, accusation, *open) else {
                continue;
            };
            watch.judged(accusation.offence, judged);
            if judged == Judged::Condemned {
                condemned.push(accusation.source);
            }
            if number < TOLD {
                self.tell(accusation, *open, judged);
            }
        }
        if heard.len() > TOLD {
            let more = heard.len() - TOLD;
            info!(more, "more sources were accused at the same time");
        }
        if !condemned.is_empty() {
            self.write_condemned(&condemned);
            self.publish_barred();
        }
    }

    /// What becomes of an accusation; `None` if there is nothing to be judged any more.
    fn judge_one(&mut self, plan: &Plan, accusation: &Accusation, open: u32) -> Option<Judged> {
        let (source, offence) = (accusation.source, accusation.offence);
        // The configuration may have changed since the offence.
        if plan.is_exempt(&source) {
            return None;
        }
        let is_spared = is_shared(accusation.tally, open, plan.settings.spare_above)
            || self.is_let_pass(&source);
        if is_spared {
            return Some(Judged::Spared);
        }
        if plan.settings.dry_run {
            return Some(Judged::DryRun);
        }
        let now = self.plane.now_ns();
        match self.condemned.condemn(source, offence, now, &plan.settings) {
            Entered::New(_) => Some(Judged::Condemned),
            Entered::Already => None,
            Entered::Full => Some(Judged::Full),
        }
    }

    /// True if an operator lets a source pass, or a part of it.
    fn is_let_pass(&self, source: &IpNet) -> bool {
        let now = self.plane.now_ns();
        self.kernel.guard.iter().any(|(length, key, rule)| {
            rule.owner == owner::OPERATOR
                && rule.action == action::ALLOW
                && is_live(rule, now)
                && guard::net(*length, key)
                    .is_some_and(|net| net.contains(source) || source.contains(&net))
        })
    }

    fn tell(&self, accusation: &Accusation, open: u32, judged: Judged) {
        let Accusation {
            source,
            offence,
            tally,
        } = accusation;
        let offence = offence.label();
        let (offences, behaved) = (tally.offences, tally.behaved + open);
        match judged {
            Judged::Condemned => {
                let now = self.plane.now_ns();
                let sentence = self.condemned.in_force(source, now);
                let (times, left) = sentence.map_or((0, 0), |it| (it.times, it.until - now));
                let span = Duration::from_secs(left.div_ceil(1_000_000_000));
                let span = humantime::format_duration(span);
                info!(%source, offence, offences, behaved, times, %span, "source condemned");
                let message = format!("{source} condemned for {span}: {offence}");
                self.note(Happening::new(Topic::Guard, message));
            }
            Judged::DryRun => {
                info!(%source, offence, offences, behaved, "source would be condemned: dry run");
                let message = format!("{source} would be condemned: {offence}");
                self.note(Happening::new(Topic::Guard, message));
            }
            Judged::Spared => {
                info!(%source, offence, offences, behaved, "source spared: it is shared, or let pass");
            }
            Judged::Full => {
                warn!(%source, offence, "source not condemned: there are `max_entries` already");
            }
        }
    }

    /// Writes the rules of condemned sources, and has known flows judged anew.
    fn write_condemned(&mut self, sources: &[IpNet]) {
        let now = self.plane.now_ns();
        let sources = sources.iter().filter_map(|source| {
            let sentence = self.condemned.in_force(source, now)?;
            Some((*source, *sentence))
        });
        let mut entries: Vec<guard::Entry> = sources
            .flat_map(|(source, sentence)| self.entries_of(source, sentence))
            .collect();
        let room = (capacity::GUARD_RULES as usize).saturating_sub(self.kernel.guard.len());
        if entries.len() > room {
            let lacking = entries.len() - room;
            warn!(
                lacking,
                "the kernel's guard is full: only proxies turn these sources away"
            );
            entries.truncate(room);
        }
        if entries.is_empty() {
            return;
        }
        if let Err(refusal) = self.enforce_guard(&entries) {
            warn!("condemned sources could not be written: {refusal}");
        }
    }

    /// The rules that keep a source from every listener: one for all, and one for each listener
    /// that lets the source pass by a rule of its own, which would be asked first. An operator's
    /// rule for the same prefix stays.
    fn entries_of(&self, source: IpNet, sentence: Sentence) -> Vec<guard::Entry> {
        let mut scopes = vec![GLOBAL_SCOPE];
        for (length, key, rule) in &self.kernel.guard {
            let scope = rules::scope_of(key);
            if scope != GLOBAL_SCOPE
                && rule.action == action::ALLOW
                && !scopes.contains(&scope)
                && guard::net(*length, key).is_some_and(|net| net.contains(&source))
            {
                scopes.push(scope);
            }
        }
        let places = scopes.into_iter().map(|scope| rules::key(scope, source));
        let is_free = |(length, key): &(u32, GuardKey)| {
            let mut held = self.kernel.guard.iter();
            !held.any(|(l, k, rule)| (l, k) == (length, key) && rule.owner == owner::OPERATOR)
        };
        let rule = GuardRule {
            expires_ns: sentence.until.max(1),
            action: action::DENY,
            fallback: action::NONE,
            owner: owner::POLICY,
            cause: cause_of(sentence.offence),
            ..GuardRule::default()
        };
        places
            .filter(is_free)
            .map(|(length, key)| (length, key, rule))
            .collect()
    }

    /// Removes the rules of sources that are not condemned any more.
    fn remove_condemned(&mut self, sources: &[IpNet]) {
        let wanted: HashSet<&IpNet> = sources.iter().collect();
        let held = self.kernel.guard.iter();
        let ours = held.filter(|(length, key, rule)| {
            rule.owner == owner::POLICY
                && guard::net(*length, key).is_some_and(|net| wanted.contains(&net))
        });
        let handed: Vec<_> = ours.copied().map(guard::handed_over).collect();
        if !handed.is_empty()
            && let Err(refusal) = self.write_guard(&handed)
        {
            warn!("rules of sources that are not condemned any more remain: {refusal}");
        }
    }

    /// The condemned source that an address or prefix belongs to.
    pub(super) fn condemned_source(&self, asked: IpNet) -> Option<IpNet> {
        let now = self.plane.now_ns();
        let bits = self
            .config
            .condemn
            .as_ref()
            .map_or(128, |it| it.ipv6_prefix);
        let candidates = [asked, source_of(asked.addr(), bits)];
        candidates
            .into_iter()
            .find(|it| it.contains(&asked) && self.condemned.in_force(it, now).is_some())
    }

    /// Says of each condemned source what for; adds those for which the kernel has no room.
    pub(super) fn tell_condemned(&self, views: &mut Vec<GuardView>) {
        let now = self.plane.now_ns();
        let places = views.iter().zip(0..).filter_map(|(view, place)| {
            let is_ours = view.listener.is_none() && view.owner == guard::owner_name(owner::POLICY);
            is_ours.then_some((view.source.clone(), place))
        });
        let places: HashMap<String, usize> = places.collect();
        for (source, sentence) in self.condemned.all_in_force(now) {
            let source = source.to_string();
            let place = places.get(&source).copied().unwrap_or_else(|| {
                views.push(GuardView {
                    source,
                    action: "deny".to_owned(),
                    owner: guard::owner_name(owner::POLICY).to_owned(),
                    cause: guard::cause_name(cause_of(sentence.offence)).to_owned(),
                    expires_in_seconds: Some((sentence.until - now) as f64 / 1e9),
                    ..GuardView::default()
                });
                views.len() - 1
            });
            views[place].offence = Some(sentence.offence.label().to_owned());
            views[place].times = Some(sentence.times);
        }
    }

    /// Condemns a source no more, and forgets what it has done. True if it was condemned.
    pub(super) fn pardon(&mut self, source: IpNet) -> bool {
        let was_condemned = self.condemned.pardon(source, self.plane.now_ns());
        if let Some(watch) = self.watch() {
            watch.forget(source);
        }
        if was_condemned {
            self.remove_condemned(&[source]);
        }
        was_condemned
    }

    /// Forgets what is over, and writes what the kernel lacks.
    pub(super) fn look_after_condemned(&mut self) {
        let Some(settings) = self.config.condemn.clone() else {
            return;
        };
        if self.condemned.is_empty() {
            return;
        }
        let now = self.plane.now_ns();
        self.condemned.forget_old(now, settings.remember);
        let held: HashSet<IpNet> = (self.kernel.guard.iter())
            .filter(|(_, key, rule)| {
                rules::scope_of(key) == GLOBAL_SCOPE && rule.owner != owner::CONFIG
            })
            .filter_map(|(length, key, _)| guard::net(*length, key))
            .collect();
        let in_force = self.condemned.all_in_force(now);
        let lacking: Vec<IpNet> = in_force
            .map(|(source, _)| source)
            .filter(|source| !held.contains(source))
            .collect();
        if !lacking.is_empty() && self.kernel.guard.len() < capacity::GUARD_RULES as usize {
            self.write_condemned(&lacking);
        }
        self.publish_barred();
    }

    /// Follows the configuration: who is exempt now is condemned no more, and nobody is where nobody
    /// is to be.
    pub(super) fn condemn_as_configured(&mut self) {
        let now = self.plane.now_ns();
        let plan = self.config.condemn.as_ref().filter(|it| !it.dry_run);
        let plan = plan.map(|it| Plan::new(it, self.config.trusted_proxies()));
        let is_wanted = |source: &IpNet| plan.as_ref().is_some_and(|it| !it.is_exempt(source));
        let mut pardoned = self.condemned.keep(now, is_wanted);
        // Rules that an earlier process has left, and that the register does not know.
        let left = self.kernel.guard.iter();
        let left = left.filter(|(_, _, rule)| rule.owner == owner::POLICY);
        let left = left.filter_map(|(length, key, _)| guard::net(*length, key));
        pardoned.extend(left.filter(|source| !is_wanted(source)));
        if !pardoned.is_empty() {
            let sources = pardoned.len();
            info!(sources, "condemned no more, as configured");
            self.remove_condemned(&pardoned);
        }
        self.publish_barred();
    }

    /// Tells the workers whose connections they close when they accept them: those of condemned
    /// sources, and of those whom an operator denies all listeners.
    pub(super) fn publish_barred(&self) {
        let Some(workers) = &self.workers else {
            return;
        };
        let now = self.plane.now_ns();
        // The workers' clock has another beginning.
        let beginning = Clock::new().last();
        let until = |expires: u64| beginning.saturating_add(expires.saturating_sub(now));
        let mut condemned = 0;
        let sentences = self.condemned.all_in_force(now).map(|(source, sentence)| {
            condemned += 1;
            let bar = Bar {
                denies: true,
                until: until(sentence.until),
            };
            (source, bar)
        });
        let mut bars: Vec<_> = sentences.collect();
        let operators = self.kernel.guard.iter().filter(|(_, key, rule)| {
            rule.owner == owner::OPERATOR
                && rules::scope_of(key) == GLOBAL_SCOPE
                && is_live(rule, now)
        });
        // They come second, so that they win for the same prefix.
        bars.extend(operators.filter_map(|(length, key, rule)| {
            let bar = Bar {
                denies: rule.action == action::DENY,
                until: match rule.expires_ns {
                    0 => u64::MAX,
                    expires => until(expires),
                },
            };
            Some((guard::net(*length, key)?, bar))
        }));
        workers.watch().bar(Barred::new(bars), condemned);
    }
}

const fn is_live(rule: &GuardRule, now: u64) -> bool {
    rule.expires_ns == 0 || rule.expires_ns > now
}

/// What the kernel's table says of an offence.
const fn cause_of(offence: Offence) -> u8 {
    match offence {
        Offence::Malformed | Offence::Flood | Offence::Handshake | Offence::Slow => {
            cause::PROTOCOL_ABUSE
        }
        Offence::Limited => cause::RATE_LIMIT,
        Offence::Unauthorized => cause::AUTH_FAILURES,
    }
}
