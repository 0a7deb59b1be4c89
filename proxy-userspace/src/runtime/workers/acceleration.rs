//! Same-host acceleration, as configurations ask for it.
//!
//! It is had when the first configuration asks, and kept from then on: connections use it for as
//! long as they last. A host that could not give it is not asked again before a reload.

use super::socket::Socket;
use super::{Workers, WorkersError};
use crate::config::model::Config;
use crate::config::model::http::Accelerate;
use crate::http::snapshot::{ListenerId, Snapshot};
use crate::http::streams::StreamPlan;
use crate::observe::view::AccelerationView;
use crate::sockets::Acceleration;
use proxy_common::sock::Count;
use std::error::Error;
use std::sync::Arc;
use std::time::Instant;
use tracing::info;

impl Workers {
    /// Has what a configuration asks for.
    pub(super) fn accelerate(&mut self, config: &Config) -> Result<(), WorkersError> {
        let wanted = config.acceleration();
        if wanted == Accelerate::Off {
            self.not_accelerated = None;
            return Ok(());
        }
        if self.kept.acceleration.is_some() {
            return Ok(());
        }
        match Acceleration::start() {
            Ok(acceleration) => {
                let took = acceleration.view().took;
                info!(self_test = ?took, "same-host acceleration is on");
                self.kept.acceleration = Some(Arc::new(acceleration));
                self.not_accelerated = None;
            }
            Err(source) if wanted == Accelerate::On => {
                return Err(WorkersError::Acceleration(source));
            }
            Err(error) => {
                let (reason, cause) = (chain(&error), error.cause());
                info!(%reason, cause, "same-host acceleration is off, as it cannot be had");
                self.not_accelerated = Some((reason, cause));
            }
        }
        Ok(())
    }

    /// Marks the listeners whose connections are to be accelerated.
    pub(super) fn mark_listeners(&self) {
        let Some(acceleration) = &self.kept.acceleration else {
            return;
        };
        for id in self.listeners.keys() {
            self.mark_listener(acceleration, *id);
        }
    }

    fn mark_listener(&self, acceleration: &Acceleration, id: ListenerId) {
        let Some(open) = self.listeners.get(&id) else {
            return;
        };
        let is_wanted = wanted(&self.snapshot, id) != Accelerate::Off;
        for socket in &open.sockets {
            if let Socket::Http(_) | Socket::Tcp(_) = socket {
                acceleration.listen(socket, open.place.bound, is_wanted);
            }
        }
    }

    /// Has new connections plain for a while where much flows through tunnels, as far as that is left to
    /// us. To be called every second or so.
    pub fn look_after_acceleration(&self, now: Instant) {
        let Some(acceleration) = &self.kept.acceleration else {
            return;
        };
        let automatic = self.snapshot.streams();
        let automatic = automatic.filter(|(_, plan)| plan.settings.accelerate == Accelerate::Auto);
        for (id, plan) in automatic {
            if !plan.bulk.look(now) {
                continue;
            }
            self.mark_listener(acceleration, id);
            let listener = &plan.settings.name;
            match plan.bulk.is_plain() {
                true => info!(
                    listener,
                    "much flows through tunnels: new connections are not accelerated for a while"
                ),
                false => info!(listener, "new connections are accelerated again"),
            }
        }
    }

    /// Listeners whose new connections are plain for that reason.
    fn bulk_listeners(&self) -> Vec<String> {
        let streams = self.snapshot.streams();
        let plain = streams.filter(|(_, plan)| is_bulk(plan));
        plain.map(|(_, plan)| plan.settings.name.clone()).collect()
    }

    /// Has no more connections accelerated by this process: another one has its listeners.
    pub(super) fn leave_acceleration(&self) {
        if let Some(acceleration) = &self.kept.acceleration {
            acceleration.give_up();
        }
    }

    /// What becomes of it; `None` if nobody has asked for it.
    pub fn acceleration(&self) -> Option<AccelerationView> {
        let Some(acceleration) = &self.kept.acceleration else {
            let (reason, cause) = self.not_accelerated.clone()?;
            return Some(AccelerationView {
                state: "off".to_owned(),
                reason: Some(reason),
                cause: Some(cause.to_owned()),
                ..AccelerationView::default()
            });
        };
        let view = acceleration.view();
        let count = |what: Count| view.counts[what as usize];
        Some(AccelerationView {
            state: if view.is_on { "on" } else { "off" }.to_owned(),
            reason: (!view.is_on).then(|| "connections made no progress".to_owned()),
            cause: (!view.is_on).then(|| "stalled".to_owned()),
            self_test_seconds: view.took.as_secs_f64(),
            sockets: view.sockets as u64,
            connections: count(Count::Connections),
            messages: count(Count::Messages),
            bytes: count(Count::Octets),
            by_tcp: count(Count::Behind) + count(Count::Overflow),
            held: count(Count::Held),
            full: count(Count::Full),
            stalled: view.stalled,
            blocking: count(Count::Blocking),
            tunnels: view.tunnels,
            direct_bytes: count(Count::DirectOctets),
            detours: count(Count::Detour),
            crowded: count(Count::Crowded),
            bulk_listeners: self.bulk_listeners(),
        })
    }
}

/// What the configuration wants for a listener.
fn wanted(snapshot: &Snapshot, id: ListenerId) -> Accelerate {
    let http = snapshot.listener(id).map(|plan| plan.settings.accelerate);
    let stream = || match snapshot.stream(id)? {
        plan if is_bulk(plan) => Some(Accelerate::Off),
        plan => Some(plan.settings.accelerate),
    };
    http.or_else(stream).unwrap_or_default()
}

/// True if much flows through a listener's tunnels, so that `auto` is off.
fn is_bulk(plan: &StreamPlan) -> bool {
    plan.settings.accelerate == Accelerate::Auto && plan.bulk.is_plain()
}

/// An error with its causes, in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
