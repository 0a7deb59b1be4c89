//! Changes of the configuration: whatever asks for one, a signal, the file or a caller of the API,
//! comes through here.
//!
//! ```text
//! edit ──▶ document ──▶ validate ──▶ reload (takes effect whole, or not at all) ──▶ history, journal
//!    condition (If-Match) │                └─ dry run: the plan, and nothing else
//! ```
//!
//! **What is kept where.** A change through the API holds until the file is read again, unless the
//! caller has it saved. So the file stays what its owners have written, and nobody is surprised by
//! comments that are gone. What is in force and not in the file is listed in the status, and a
//! reload that undoes it says so, with the generation to go back to.

use super::control::{Control, epoch_seconds};
use super::history::Configured;
use super::overlay;
use super::plane::Plane;
use super::reload::keep_fixed;
use super::source;
use crate::admin::access::Access;
use crate::admin::api::{HistoryEntry, Refusal, RefusalKind, ReloadAnswer, chain};
use crate::admin::certificate;
use crate::admin::change::{Change, Edit, apply, merge};
use crate::certificates::{read_issued, read_pair};
use crate::config::model::Config;
use crate::config::model::tls::CertificateSource;
use crate::health::Seals;
use crate::kernel::plan::{Inputs, Plan, plan};
use crate::kernel::store::MapEdit;
use crate::observe::journal::{Happening, Topic};
use crate::observe::view::CertificateView;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;
use tracing::{error, info, warn};
use xxhash_rust::xxh3::xxh3_64;

/// Edits that a dry run tells in words.
const TOLD_EDITS: usize = 1000;

/// What messages call a text that came through the API.
const REQUEST: &str = "the request";

/// Who it is when the process was sent a signal.
const SIGNAL: &str = "signal";

/// A configuration that may be put in force.
struct Draft {
    config: Config,
    warnings: Vec<String>,
    /// What the file is to say.
    text: Option<String>,
}

impl<P: Plane> Control<P> {
    /// Reads the configuration file again, because of a signal.
    pub(super) fn reload(&mut self) -> Result<ReloadAnswer, Refusal> {
        self.configure(&Change {
            edit: Edit::Reload,
            condition: None,
            dry_run: false,
            save: false,
            by: SIGNAL.to_owned(),
        })
    }

    /// Carries out a change, or says what it would do. The outcome is logged, counted and noted.
    pub(super) fn configure(&mut self, change: &Change) -> Result<ReloadAnswer, Refusal> {
        if let Some(condition) = &change.condition {
            condition.check(&self.etag)?;
        }
        if change.dry_run {
            return self.rehearse(change);
        }
        super::signals::reloading();
        let outcome = self.carry_out(change);
        match &outcome {
            Ok(answer) => self.note_success(change, answer),
            Err(refusal) => self.note_failure(change, refusal),
        }
        self.publish_readiness();
        super::signals::ready();
        outcome
    }

    fn carry_out(&mut self, change: &Change) -> Result<ReloadAnswer, Refusal> {
        let draft = self.draft(&change.edit)?;
        let staged = match (&draft.text, change.save) {
            (_, false) => None,
            (Some(text), true) => Some(self.source.stage(text)?),
            (None, true) => {
                let message = "what was read from the file need not be saved";
                return Err(Refusal::new(RefusalKind::Invalid, message));
            }
        };
        let is_from_file = change.edit == Edit::Reload;
        let (config, mut warnings) = self.possible(draft);
        let changes = crate::config::diff(&self.config, &config);
        let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
        if is_from_file && !changes.is_empty() {
            warnings.extend(self.undone());
        }
        let access = self.renewed_access(&config)?;
        let (edits, plan_warnings) = self.follow_to(config)?;
        warnings.extend(plan_warnings);
        if let (Some(shared), Some(access)) = (&self.parts.access, access) {
            shared.store(Arc::new(access));
        }
        if let Some(staged) = staged {
            // What is in force stays in force, so this is told and not refused.
            match staged.put_in_place() {
                Ok(()) => self.saved = Arc::new(self.config.clone()),
                Err(refusal) => warnings.push(format!("in force, but not saved: {refusal}")),
            }
        }
        if is_from_file {
            self.saved = Arc::new(self.config.clone());
        }
        self.renumber();
        Ok(ReloadAnswer {
            generation: self.config_state.generation,
            etag: self.etag.clone(),
            changes,
            warnings,
            edits,
            saved: self.config_state.unsaved.is_empty(),
            ..ReloadAnswer::default()
        })
    }

    /// Reads token and certificates of the API again, if it is served over TCP.
    fn renewed_access(&self, config: &Config) -> Result<Option<Access>, Refusal> {
        let (Some(_), Some(api)) = (&self.parts.access, &config.admin.api) else {
            return Ok(None);
        };
        let refused = |error| Refusal::new(RefusalKind::Invalid, chain(&error));
        Access::load(api).map(Some).map_err(refused)
    }

    /// The certificates that are shown to clients.
    pub(super) fn certificates(&self) -> Vec<CertificateView> {
        let access = self.parts.access.as_ref().map(|access| access.load());
        let own = access.map_or_else(Vec::new, |access| access.certificates().to_vec());
        let mut all: Vec<_> = own.into_iter().chain(self.shown.iter().cloned()).collect();
        if let Some(workers) = &self.workers {
            // These are in no file.
            let issued = workers.locally_issued();
            all.extend(issued.filter_map(|(by, der)| certificate::view(der, by, "local")));
            super::certificates::complete(&mut all, workers.certificates());
        }
        all
    }

    /// Another configuration is in force: what is said of it.
    fn renumber(&mut self) {
        self.config_state.generation += 1;
        self.config_state.loaded_at_seconds = epoch_seconds();
        self.config_state.last_reload_successful = true;
        self.config_state.last_reload_error = None;
        self.tag();
    }

    /// Works out the entity tag, and what is in force and not in the file.
    pub(super) fn tag(&mut self) {
        self.etag = etag(&self.config);
        self.shown = shown(&self.config);
        let unsaved = crate::config::diff(&self.saved, &self.config);
        self.config_state.unsaved = unsaved.iter().map(ToString::to_string).collect();
        self.config_state.etag.clone_from(&self.etag);
    }

    /// Says what a reload of the file undoes.
    fn undone(&self) -> Option<String> {
        let unsaved = &self.config_state.unsaved;
        if unsaved.is_empty() {
            return None;
        }
        let generation = self.config_state.generation;
        Some(format!(
            "changes made through the API were not in the file and are undone: {}; `sluice config \
             rollback {generation}` puts them in force again",
            unsaved.join(", ")
        ))
    }

    /// Says what a change would do, from the maps as they are.
    fn rehearse(&mut self, change: &Change) -> Result<ReloadAnswer, Refusal> {
        let draft = self.draft(&change.edit)?;
        let (config, mut warnings) = self.possible(draft);
        let changes = crate::config::diff(&self.config, &config);
        if change.edit == Edit::Reload && !changes.is_empty() {
            warnings.extend(self.undone());
        }
        let plan = self.rehearsed_plan(&config)?;
        let edits = plan.as_ref().map_or(&[][..], |plan| &plan.edits);
        let mut kernel_edits: Vec<String> = Vec::new();
        if config.balances_packets() && self.plane.is_outgrown(&config) {
            kernel_edits
                .push("new maps: those in force are too small, flows are copied".to_owned());
        }
        kernel_edits.extend(edits.iter().take(TOLD_EDITS).map(describe));
        let plan_warnings = plan.iter().flat_map(|plan| &plan.warnings);
        warnings.extend(plan_warnings.map(ToString::to_string));
        Ok(ReloadAnswer {
            generation: self.config_state.generation,
            etag: etag(&config),
            changes: changes.iter().map(ToString::to_string).collect(),
            warnings,
            edits: edits.len() as u64,
            dry_run: true,
            kernel_edits,
            saved: false,
        })
    }

    fn rehearsed_plan(&mut self, config: &Config) -> Result<Option<Plan>, Refusal> {
        let invalid = |message: String| Refusal::new(RefusalKind::Invalid, message);
        let named = self.named();
        let seals = Seals::read(config, SystemTime::now());
        let seals = seals.map_err(|error| invalid(chain(&error)))?;
        self.checks_for(config, &named, &seals)
            .map_err(|error| invalid(error.to_string()))?;
        if !config.balances_packets() && !self.has_plane() {
            return Ok(None);
        }
        let mut overlay = self.overlay.clone();
        overlay.retain_configured(config);
        overlay::update_health(&mut overlay, config, &named, &self.parts.monitor);
        let host = self.plane.host(config);
        let plan = plan(&Inputs {
            config,
            overlay: &overlay,
            kernel: &self.kernel,
            host: &host,
        });
        plan.map(Some).map_err(|errors| invalid(chain(&errors)))
    }

    /// What an edit makes of the configuration.
    fn draft(&mut self, edit: &Edit) -> Result<Draft, Refusal> {
        let text = match edit {
            Edit::Reload => {
                let (config, warnings) = self.source.load()?;
                return Ok(Draft {
                    config,
                    warnings,
                    text: None,
                });
            }
            Edit::Rollback(generation) => {
                let config = self.past(*generation)?;
                return Ok(Draft {
                    text: Some(generated(&crate::config::effective_yaml(&config))),
                    config: Config::clone(&config),
                    warnings: Vec::new(),
                });
            }
            Edit::Renew => generated(&crate::config::effective_yaml(&self.config)),
            Edit::Whole(text) => text.clone(),
            Edit::Merge(patch) => {
                let mut document = crate::config::effective(&self.config);
                merge(&mut document, patch);
                generated(&crate::config::to_yaml(&document))
            }
            Edit::Item(item, edit) => {
                let mut document = crate::config::effective(&self.config);
                apply(&mut document, item, edit)?;
                generated(&crate::config::to_yaml(&document))
            }
        };
        let (config, mut warnings) = source::parse(REQUEST, &text)?;
        if !matches!(edit, Edit::Whole(_)) {
            self.leave_known(&mut warnings);
        }
        Ok(Draft {
            config,
            warnings,
            text: Some(text),
        })
    }

    /// Leaves out what would be said of the configuration in force as well, with every default
    /// filled in: nobody has written that, and nobody has changed it.
    fn leave_known(&self, warnings: &mut Vec<String>) {
        let text = generated(&crate::config::effective_yaml(&self.config));
        let known = source::parse(REQUEST, &text).map_or_else(|_| Vec::new(), |(_, known)| known);
        let known: BTreeSet<&str> = known.iter().map(|warning| without_place(warning)).collect();
        warnings.retain(|warning| !known.contains(without_place(warning)));
    }

    /// What of a draft can be put in force without a restart, and what is to be said about it.
    fn possible(&self, draft: Draft) -> (Config, Vec<String>) {
        let Draft {
            mut config,
            mut warnings,
            ..
        } = draft;
        let fixed = keep_fixed(&self.config, &mut config, self.workers.is_some());
        warnings.extend(fixed);
        warnings.extend(self.missing_switches(&config));
        (config, warnings)
    }

    /// The configuration of a generation.
    pub(super) fn past(&self, generation: u64) -> Result<Arc<Config>, Refusal> {
        self.history.config(generation).unwrap_or_else(|| {
            let (first, last) = self.history.range();
            let message = format!(
                "generation {generation} is not kept; there are those from {first} to {last}"
            );
            Err(Refusal::new(RefusalKind::NotFound, message))
        })
    }

    fn note_success(&mut self, change: &Change, answer: &ReloadAnswer) {
        let counters = &self.parts.counters;
        counters.reloads_succeeded.fetch_add(1, Relaxed);
        counters.loaded(true, epoch_seconds() as u64);
        for sentence in &answer.changes {
            info!("{sentence}");
        }
        for warning in &answer.warnings {
            warn!("{warning}");
        }
        let ReloadAnswer {
            generation, edits, ..
        } = answer;
        let (by, how) = (&change.by, change.edit.name());
        info!(generation, edits, by, how, "configuration reloaded");
        self.remember(by, how, answer.changes.clone());
        let message = match answer.changes.len() {
            0 => format!("{how} by {by}: nothing changed"),
            1 => format!("{how} by {by}: {}", answer.changes[0]),
            n => format!("{how} by {by}: {n} changes"),
        };
        let mut event = Happening::new(Topic::Config, message);
        event.generation = Some(*generation);
        self.note(event);
        let listeners = answer.changes.iter().filter(|sentence| {
            let is_whole = sentence.ends_with(" added") || sentence.ends_with(" removed");
            sentence.starts_with("listener ") && is_whole
        });
        for sentence in listeners {
            self.note(Happening::new(Topic::Listener, sentence));
        }
        if change.edit == Edit::Renew {
            let message = format!("certificates and tokens read again by {by}");
            self.note(Happening::new(Topic::Certificate, message));
        }
    }

    fn note_failure(&mut self, change: &Change, refusal: &Refusal) {
        error!(
            by = change.by,
            "reload refused, the old configuration stays in force: {refusal}"
        );
        let message = format!(
            "{} by {} refused: {}",
            change.edit.name(),
            change.by,
            refusal.message
        );
        self.note(Happening::new(Topic::Config, message));
        // A caller of the API is told; what the file says is for everybody to see.
        if change.edit == Edit::Reload {
            let counters = &self.parts.counters;
            counters.reloads_failed.fetch_add(1, Relaxed);
            counters.loaded(false, 0);
            self.config_state.last_reload_successful = false;
            self.config_state.last_reload_error = Some(refusal.to_string());
        }
    }

    /// Writes the configuration with which this process begins into the history, unless it was in
    /// force already in the process before.
    pub(super) fn remember_beginning(&mut self) {
        let Some(last) = self.history.last() else {
            return self.remember("start", "start", Vec::new());
        };
        if last.etag == self.etag && last.generation == self.config_state.generation {
            self.config_state.loaded_at_seconds = last.at_seconds;
            return;
        }
        self.config_state.generation = last.generation + 1;
        let changes = self.history.changes(&self.config);
        self.remember("upgrade", "upgrade", changes);
    }

    /// What a successor has to know of the configuration.
    pub(super) fn configured(&self) -> Configured {
        let is_unsaved = !self.config_state.unsaved.is_empty();
        Configured::new(&self.history, is_unsaved.then_some(&*self.saved))
    }

    /// Writes the configuration in force into the history.
    pub(super) fn remember(&mut self, by: &str, how: &str, changes: Vec<String>) {
        let entry = HistoryEntry {
            generation: self.config_state.generation,
            etag: self.etag.clone(),
            at_seconds: self.config_state.loaded_at_seconds,
            by: by.to_owned(),
            how: how.to_owned(),
            changes,
            saved: self.config_state.unsaved.is_empty(),
        };
        self.history.note(entry, Arc::new(self.config.clone()));
    }

    /// Writes an event down.
    pub(super) fn note(&self, event: Happening) {
        self.parts.journal.note(event, epoch_seconds());
    }
}

/// The certificates of listeners, as their files are at the moment when the configuration is put in
/// force: that is what the listeners have read.
fn shown(config: &Config) -> Vec<CertificateView> {
    let mut shown = Vec::new();
    for (listener, tls) in config.tls_listeners() {
        for source in &tls.certificates {
            // A file that cannot be used was refused before.
            let pair = match source {
                CertificateSource::Files {
                    certificate, key, ..
                } => read_pair(certificate, key, SystemTime::now()).ok(),
                CertificateSource::Acme(wanted) => {
                    let issued = read_issued(&wanted.file, SystemTime::now()).ok().flatten();
                    if issued.is_none() {
                        shown.push(super::certificates::not_issued(listener, wanted));
                    }
                    issued
                }
                CertificateSource::Local(_) => continue,
            };
            let view = pair.and_then(|pair| {
                let der = pair.key.cert.first()?;
                certificate::view(der, listener, &pair.view.source)
            });
            shown.extend(view);
        }
    }
    shown
}

/// A warning without the line and column where it stands.
fn without_place(warning: &str) -> &str {
    let found = warning.split_once("warning: ");
    found.map_or(warning, |(_, rest)| rest)
}

/// An entity tag: equal for configurations that mean the same.
pub(super) fn etag(config: &Config) -> String {
    let document = crate::config::effective(config).to_string();
    format!("{:016x}", xxh3_64(document.as_bytes()))
}

/// A file that no person has written.
fn generated(yaml: &str) -> String {
    format!("# Written by sluice, with every default filled in.\n{yaml}")
}

/// An edit in one line.
fn describe(edit: &MapEdit) -> String {
    match edit {
        MapEdit::Settings(settings) => format!("settings: generation {}", settings.generation),
        MapEdit::AddressFilter(_) => "address_filter: replaced".to_owned(),
        MapEdit::Service(id, _) => format!("service_table[{id}]: set"),
        MapEdit::Backend(id, backend) => {
            let state = proxy_common::backend::BackendState::from_code(backend.state);
            let state = state.map_or("unknown", |state| state.name());
            format!("backends[{id}]: {state}")
        }
        MapEdit::Ring(id, ids) if ids.is_empty() => format!("ring of service {id}: cleared"),
        MapEdit::RemoveRing(id) => format!("ring of service {id}: removed"),
        MapEdit::Ring(id, ids) => {
            let backends: BTreeSet<_> = ids.iter().collect();
            format!(
                "ring of service {id}: {} slots for {} backends",
                ids.len(),
                backends.len()
            )
        }
        MapEdit::SnatAddr(index, _) => format!("snat_addrs[{index}]: set"),
        MapEdit::SetKey(key, _) => format!("services: set {key:?}"),
        MapEdit::RemoveKey(key) => format!("services: remove {key:?}"),
        MapEdit::SetPrefix(length, key, _) => format!("service_prefix: set {key:?}/{length}"),
        MapEdit::RemovePrefix(length, key) => format!("service_prefix: remove {key:?}/{length}"),
        MapEdit::SetGuard(length, key, _) => format!("guard_rules: set {key:?}/{length}"),
        MapEdit::RemoveGuard(length, key) => format!("guard_rules: remove {key:?}/{length}"),
        MapEdit::PurgeService(id) => format!("flows of service {id}: forgotten"),
    }
}
