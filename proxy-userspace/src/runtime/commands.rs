//! What the control task does when asked.

use super::change::etag;
use super::control::Control;
use super::guard;
use super::observe::Feed;
use super::plane::Plane;
use crate::admin::api::{
    BackendAnswer, BackendName, CaptureQuery, DEFAULT_FLOWS, DrainRequest, FlowQuery, FlowsAnswer,
    GuardRequest, MAX_FLOWS, Refusal, RefusalKind, chain,
};
use crate::admin::control::{Command, Versioned};
use crate::kernel::plan::Drain;
use crate::kernel::store::{MapEdit, MapStore as _};
use crate::kernel::sweep::FlowView as KernelFlow;
use crate::observe::flow::{DEFAULT_SAMPLE, ObserveQuery, Told, protocol_name};
use crate::observe::journal::{Happening, Topic};
use crate::observe::view::{FlowView, GuardView, View};
use bytes::Bytes;
use ipnet::IpNet;
use proxy_common::flow::Phase;
use proxy_common::settings::Settings;
use proxy_common::trace;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{info, warn};

impl<P: Plane> Control<P> {
    /// Carries out a command and answers it. An asker that has left gets no answer, but what it
    /// asked for is done.
    pub(super) fn answer(&mut self, command: Command) {
        let Some(command) = self.refuse_while_frozen(command) else {
            return;
        };
        match command {
            Command::View(reply) => drop(reply.send(self.view().map(Arc::new))),
            Command::Reload(reply) => drop(reply.send(self.reload())),
            Command::Drain(request, reply) => drop(reply.send(self.drain(&request))),
            Command::Undrain(name, reply) => drop(reply.send(self.undrain(&name))),
            Command::GuardList(reply) => drop(reply.send(Ok(self.guard_list()))),
            Command::GuardAdd(request, reply) => drop(reply.send(self.guard_add(&request))),
            Command::GuardRemove(request, reply) => drop(reply.send(self.guard_remove(&request))),
            Command::Connections(query, reply) => self.connections(&query, reply),
            Command::Certificates(reply) => drop(reply.send(Ok(self.certificates()))),
            Command::Flows(query, reply) => drop(reply.send(self.flows(&query))),
            Command::Observe(query, reply) => drop(reply.send(self.observe(&query))),
            Command::Capture(query, reply) => drop(reply.send(self.capture(&query))),
            Command::Configure(change, reply) => drop(reply.send(self.configure(&change))),
            Command::History(reply) => drop(reply.send(Ok(self.history.entries()))),
            Command::Past(generation, reply) => {
                let past = self.past(generation).map(|config| Versioned {
                    etag: etag(&config),
                    config,
                });
                let _ = reply.send(past);
            }
            Command::ConfigFile(reply) => {
                let loaded = self.source.load().map(|(config, _)| Box::new(config));
                let _ = reply.send(loaded);
            }
            Command::ConfigText(reply) => drop(reply.send(self.source.text())),
            Command::Config(reply) => {
                let _ = reply.send(Ok(Versioned {
                    config: Arc::new(self.config.clone()),
                    etag: self.etag.clone(),
                }));
            }
            Command::SetLog(request, reply) => drop(reply.send(self.set_log(&request))),
            Command::Log(reply) => drop(reply.send(Ok(self.log()))),
            Command::ReopenLogs(reply) => {
                if let Some(workers) = &self.workers {
                    workers.reopen_logs();
                }
                let _ = reply.send(Ok(()));
            }
            // The loop deals with them.
            Command::Upgrade(_, reply) => drop(reply.send(Err(Refusal::stopping()))),
            Command::Stop(_, reply) => drop(reply.send(Err(Refusal::stopping()))),
        }
    }

    fn view(&mut self) -> Result<View, Refusal> {
        super::view::view(self).map_err(|error| {
            self.kernel_failed(&error);
            Refusal::internal(&error)
        })
    }

    fn drain(&mut self, request: &DrainRequest) -> Result<BackendAnswer, Refusal> {
        let (service, backend) = (&request.service, &request.backend);
        let configured = self.drain_timeout(service, backend)?;
        let asked = request
            .timeout_seconds
            .map(Duration::try_from_secs_f64)
            .transpose();
        let asked = asked
            .map_err(|error| Refusal::new(RefusalKind::Invalid, format!("timeout: {error}")))?;
        let timeout = asked.unwrap_or(configured);
        let deadline = Instant::now()
            .checked_add(timeout)
            .ok_or_else(|| Refusal::new(RefusalKind::Invalid, "timeout: beyond the end of time"))?;
        self.set_drain(service, backend, Drain::Draining)?;
        self.drains
            .begin((service.clone(), backend.clone()), deadline);
        info!(service, backend, ?timeout, "draining");
        let message = format!("{service}/{backend} drains");
        self.note(Happening::new(Topic::Drain, message).of(service, backend));
        self.backend_answer(service, backend)
    }

    fn undrain(&mut self, name: &BackendName) -> Result<BackendAnswer, Refusal> {
        let BackendName { service, backend } = name;
        self.drain_timeout(service, backend)?;
        self.set_drain(service, backend, Drain::No)?;
        self.drains.cancel(&(service.clone(), backend.clone()));
        info!(service, backend, "drain ended by operator");
        let message = format!("{service}/{backend} takes traffic again");
        self.note(Happening::new(Topic::Drain, message).of(service, backend));
        self.backend_answer(service, backend)
    }

    /// The drain timeout of a service, if it has this backend.
    fn drain_timeout(&self, service: &str, backend: &str) -> Result<Duration, Refusal> {
        let not_found = |message| Refusal::new(RefusalKind::NotFound, message);
        let found = self.config.service(service).ok_or_else(|| {
            let names = self
                .config
                .services
                .iter()
                .map(|service| service.name.as_str());
            not_found(format!(
                "there is no service `{service}`{}",
                suggestion(service, names)
            ))
        })?;
        if found.backends.iter().any(|known| known.name == *backend) {
            return Ok(found.drain_timeout);
        }
        let names = found.backends.iter().map(|backend| backend.name.as_str());
        let suggestion = suggestion(backend, names);
        Err(not_found(format!(
            "service `{service}` has no backend `{backend}`{suggestion}"
        )))
    }

    /// Changes a drain in the data plane, or changes nothing.
    fn set_drain(&mut self, service: &str, backend: &str, drain: Drain) -> Result<(), Refusal> {
        let why = match drain {
            Drain::No => "the drain was ended by an operator",
            Drain::Draining | Drain::Expired => "drained by an operator",
        };
        self.remembering((service, backend), why, |it| {
            it.try_drain(service, backend, drain)
        })
    }

    fn try_drain(&mut self, service: &str, backend: &str, drain: Drain) -> Result<(), Refusal> {
        let before = std::mem::replace(&mut self.overlay.entry(service, backend).drain, drain);
        self.try_replan().map_err(|error| {
            self.overlay.entry(service, backend).drain = before;
            self.fall_behind(&error);
            Refusal::internal(&error)
        })?;
        self.proxies_follow();
        Ok(())
    }

    fn backend_answer(&mut self, service: &str, backend: &str) -> Result<BackendAnswer, Refusal> {
        let view = self.view()?;
        let services = view
            .services
            .into_iter()
            .filter(|known| known.name == service);
        let mut backends = services.flat_map(|service| service.backends);
        let found = backends
            .find(|known| known.name == backend)
            .ok_or_else(|| {
                Refusal::new(RefusalKind::NotFound, format!("no backend `{backend}`"))
            })?;
        Ok(BackendAnswer {
            service: service.to_owned(),
            backend: backend.to_owned(),
            state: found.state,
            live_flows: found.live_flows,
            drain_remaining_seconds: found.drain_remaining_seconds,
        })
    }

    fn guard_list(&self) -> Vec<GuardView> {
        let mut views = guard::views(&self.kernel, &self.ids, self.plane.now_ns());
        self.tell_condemned(&mut views);
        views
    }

    fn guard_add(&mut self, request: &GuardRequest) -> Result<GuardView, Refusal> {
        let now_ns = self.plane.now_ns();
        let entry = guard::entry(request, &self.ids, now_ns)?;
        self.enforce_guard(&[entry])?;
        if request.listener.is_none()
            && let Some(source) = guard::net(entry.0, &entry.1)
        {
            // The operator's word takes the place of the policy's.
            self.pardon(source);
        }
        self.publish_barred();
        let view = guard::view(&entry, &self.ids, now_ns);
        info!(source = view.source, listener = ?view.listener, action = view.action, "guard rule added");
        let message = format!("{} {} added", view.action, view.source);
        self.note(Happening::new(Topic::Guard, message));
        Ok(view)
    }

    /// Writes rules, and has known flows judged by them.
    pub(super) fn enforce_guard(&mut self, entries: &[guard::Entry]) -> Result<(), Refusal> {
        let generation = self.kernel.settings.guard_generation;
        self.write_guard(entries)?;
        // Known flows are judged anew only when the generation changes, and planning does not
        // change it for a rule that it finds in place.
        if self.kernel.settings.guard_generation == generation {
            let settings = Settings {
                guard_generation: generation.wrapping_add(1),
                ..self.kernel.settings
            };
            let edit = MapEdit::Settings(settings);
            self.plane
                .store()
                .apply(&edit)
                .map_err(|error| Refusal::internal(&error))?;
            self.kernel.settings = settings;
        }
        Ok(())
    }

    fn guard_remove(&mut self, request: &GuardRequest) -> Result<GuardView, Refusal> {
        if let Some(view) = self.guard_pardon(request) {
            return Ok(view);
        }
        let entry = guard::removable(request, &self.ids, &self.kernel)?;
        self.write_guard(&[guard::handed_over(entry)])?;
        self.publish_barred();
        let view = guard::view(&entry, &self.ids, self.plane.now_ns());
        info!(source = view.source, listener = ?view.listener, "guard rule removed");
        let message = format!("{} {} removed", view.action, view.source);
        self.note(Happening::new(Topic::Guard, message));
        Ok(view)
    }

    /// Pardons a condemned source, if that is what is asked for: by its prefix, or by an address in
    /// it.
    fn guard_pardon(&mut self, request: &GuardRequest) -> Option<GuardView> {
        if request.listener.is_some() {
            return None;
        }
        let address = || request.source.parse::<IpAddr>().map(IpNet::from);
        let asked = request.source.parse().or_else(|_| address()).ok()?;
        let source = self.condemned_source(asked)?;
        let views = self.guard_list();
        self.pardon(source);
        self.publish_barred();
        info!(%source, "source pardoned");
        self.note(Happening::new(Topic::Guard, format!("{source} pardoned")));
        let is_it = |view: &GuardView| {
            view.source.parse() == Ok(source) && view.listener.is_none() && view.owner == "policy"
        };
        views.into_iter().find(is_it)
    }

    /// Removes rules whose time is over. The packet path ignores them already; what this does is
    /// to make room, and to let rules with a shorter prefix decide again.
    pub(super) fn expire_guard_rules(&mut self) {
        let expired = guard::expired(&self.kernel, self.plane.now_ns());
        if expired.is_empty() {
            return;
        }
        info!(rules = expired.len(), "guard rules expired");
        let handed: Vec<_> = expired.into_iter().map(guard::handed_over).collect();
        if let Err(refusal) = self.write_guard(&handed) {
            warn!("guard rules could not be removed: {refusal}");
        }
    }

    /// Writes rules and plans for what follows from them: flags, fallbacks, removals.
    pub(super) fn write_guard(&mut self, entries: &[guard::Entry]) -> Result<(), Refusal> {
        for &(length, key, rule) in entries {
            let edit = MapEdit::SetGuard(length, key, rule);
            self.plane.store().apply(&edit).map_err(|error| {
                self.kernel_failed(&error);
                Refusal::internal(&error)
            })?;
            self.kernel
                .guard
                .retain(|(l, k, _)| (*l, *k) != (length, key));
            self.kernel.guard.push((length, key, rule));
        }
        self.try_replan().map(drop).map_err(|error| {
            self.fall_behind(&error);
            Refusal::internal(&error)
        })
    }

    fn flows(&mut self, query: &FlowQuery) -> Result<FlowsAnswer, Refusal> {
        let limit = query.limit.unwrap_or(DEFAULT_FLOWS).clamp(1, MAX_FLOWS);
        let client = query.client.as_deref().map(|text| {
            let ip = || text.parse::<IpAddr>().map(IpNet::from);
            text.parse::<IpNet>().or_else(|_| ip()).map_err(|_| {
                Refusal::new(
                    RefusalKind::Invalid,
                    format!("`{text}` is no address or prefix"),
                )
            })
        });
        let client = client.transpose()?;
        if let Some(service) = &query.service
            && self.config.service(service).is_none()
        {
            let message = format!("there is no service `{service}`");
            return Err(Refusal::new(RefusalKind::NotFound, message));
        }
        // A service has one id for each listener.
        let ids = &self.ids;
        let wanted = |flow: &KernelFlow| {
            let backend = ids.backend_of(flow.backend);
            let service = ids
                .listener_of(flow.service)
                .map(|listener| listener.service.as_str());
            let is = |wanted: &Option<String>, found: Option<&str>| {
                wanted.as_deref().is_none_or(|wanted| found == Some(wanted))
            };
            !flow.is_return
                && is(&query.service, service)
                && is(&query.backend, backend.map(|name| name.backend))
                && client.is_none_or(|net| net.contains(&flow.source.ip()))
        };
        let found = self.plane.flows(&wanted, limit + 1);
        let truncated = found.len() > limit;
        let flows = found
            .iter()
            .take(limit)
            .map(|flow| self.flow_view(flow))
            .collect();
        Ok(FlowsAnswer { flows, truncated })
    }

    fn flow_view(&self, flow: &KernelFlow) -> FlowView {
        let service = self
            .ids
            .listener_of(flow.service)
            .map(|listener| listener.service.clone());
        let backend = self
            .ids
            .backend_of(flow.backend)
            .map(|name| name.backend.to_owned());
        FlowView {
            protocol: protocol_name(flow.protocol),
            client: flow.source.to_string(),
            vip: flow.destination.to_string(),
            service: service.unwrap_or_else(|| format!("#{}", flow.service)),
            backend: backend.unwrap_or_else(|| format!("#{}", flow.backend)),
            phase: phase_name(flow.phase).to_owned(),
            idle_seconds: flow.idle.as_secs_f64(),
            confirmed: flow.confirmed,
        }
    }

    fn observe(&mut self, query: &ObserveQuery) -> Result<mpsc::Receiver<Told>, Refusal> {
        let configured = Some(self.configured_sampling).filter(|&every| every > 0);
        let every = query.sample.or(configured).unwrap_or(DEFAULT_SAMPLE);
        let told = self.parts.flows.listen(query, every)?;
        self.sample();
        Ok(told)
    }

    /// Traces as many flows as the configuration or an observer asks for, under the same ids in the
    /// packet path and in the workers.
    pub(super) fn sample(&mut self) {
        let configured = Some(self.configured_sampling).filter(|&every| every > 0);
        let asked = self.parts.flows.sampling();
        let finest = configured.into_iter().chain(asked).min().unwrap_or(0);
        if self.has_plane() && self.config.data_plane().sample_every != finest {
            self.config.data_plane_mut().sample_every = finest;
            self.replan("sampling");
        }
        let Some(workers) = &mut self.workers else {
            return;
        };
        if let Some(noted) = workers.take_noted() {
            self.parts.flows.feed(Feed {
                noted,
                tap: workers.flows().clone(),
                spans: workers.spans().clone(),
            });
        }
        // Without a packet path there are none, and workers keep their own. They are odd.
        if self.kernel.settings.secrets != [0; 5] {
            workers.flows().set_secrets(self.kernel.settings.secrets);
        }
        workers.flows().observe(trace::threshold(finest));
    }

    fn capture(&mut self, query: &CaptureQuery) -> Result<mpsc::Receiver<Bytes>, Refusal> {
        let names = self.parts.names.load_full();
        let (pieces, octets) = self.parts.capture.start(query, &names)?;
        self.plane
            .set_capture(Some(octets))
            .map_err(|error| Refusal::internal(&error))?;
        info!(filter = query.filter, octets, "capture started");
        Ok(pieces)
    }

    /// The capture has ended: packets are not copied any more.
    pub(super) fn stop_capture(&mut self) {
        match self.plane.set_capture(None) {
            Ok(()) => info!("capture ended"),
            Err(error) => {
                self.kernel_failed(&error);
                warn!(error = %chain(&error), "packets are still copied for a capture that ended");
            }
        }
    }
}

/// `; did you mean …?`, if there is a name like it.
fn suggestion<'n>(wrong: &str, names: impl Iterator<Item = &'n str>) -> String {
    let likeness = |name: &&str| strsim::jaro_winkler(wrong, name);
    let best = names.max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    match best.filter(|name| likeness(name) > 0.8) {
        Some(name) => format!("; did you mean `{name}`?"),
        None => String::new(),
    }
}

const fn phase_name(phase: Option<Phase>) -> &'static str {
    match phase {
        Some(Phase::Syn) => "syn",
        Some(Phase::Established) => "established",
        Some(Phase::Closing) => "closing",
        Some(Phase::Udp) => "udp",
        None => "unknown",
    }
}
