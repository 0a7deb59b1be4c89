//! Listeners that pass TCP or UDP on as it is, compiled.

use super::listening::LogPlan;
use super::secure::TlsPlan;
use super::snapshot::{CompileError, Kept, ListenerId, OpenConnection, Opened};
use crate::config::model::http::{Accelerate, Splice, StreamListener};
use crate::net::Nanos;
use crate::net::clock::nanos;
use crate::observe::http::{ListenerCells, Series, StreamCells};
use crate::routing::ServerNames;
use crate::sockets::Bulk;
use std::sync::Arc;

/// A listener that passes TCP or UDP on. Its connections hold it to their end, over reloads.
#[derive(Debug)]
pub struct StreamPlan {
    /// As configured.
    pub settings: StreamListener,
    /// How long nothing may move, in nanoseconds.
    pub idle: Nanos,
    /// What is counted of all listeners.
    pub cells: Arc<Series<ListenerCells>>,
    /// What is counted of these.
    pub flow: Arc<Series<StreamCells>>,
    /// Where connections are logged.
    pub log: Option<LogPlan>,
    /// The service's number in the snapshot, where there is one for all.
    service: Option<usize>,
    /// TLS, if it ends here.
    pub tls: Option<TlsPlan>,
    /// How TLS that is passed on chooses the service.
    pub names: Option<NamesPlan>,
    open: Opened,
    /// What flows through its tunnels.
    pub bulk: Arc<Bulk>,
}

/// How TLS that is passed on chooses the service.
#[derive(Debug)]
pub struct NamesPlan {
    /// Which rule holds.
    pub rules: ServerNames,
    /// How long the client may take to say whom it wants, in nanoseconds.
    pub timeout: Nanos,
    /// The services' numbers in the snapshot, by rule.
    services: Vec<Option<usize>>,
}

impl StreamPlan {
    pub(super) fn new(
        listener: &StreamListener,
        id: ListenerId,
        service: impl Fn(&str) -> Option<usize>,
        kept: &Kept,
        before: Option<&TlsPlan>,
    ) -> Result<Self, CompileError> {
        let log = listener.access_log.as_ref();
        let tls = listener.tls.as_ref().map(|tls| {
            let alpn = tls.alpn.iter().map(|name| name.as_bytes().to_vec());
            let place = (listener.name.as_str(), listener.address);
            TlsPlan::new(
                place,
                tls,
                alpn.collect(),
                kept,
                before.map(|plan| &*plan.side),
            )
        });
        Ok(Self {
            idle: nanos(listener.idle_timeout),
            cells: kept.metrics.listener(&listener.name),
            flow: kept.metrics.stream(&listener.name),
            log: log
                .map(|log| LogPlan::new(log, &listener.name, kept))
                .transpose()?,
            service: listener.service.as_deref().and_then(&service),
            tls: tls.transpose()?,
            names: listener.passthrough.as_ref().map(|names| NamesPlan {
                rules: ServerNames::build(names, listener.service.is_some()),
                timeout: nanos(names.hello_timeout),
                services: (names.names.iter())
                    .map(|rule| service(&rule.service))
                    .collect(),
            }),
            open: kept.opened(id),
            bulk: kept.bulk(id),
            settings: listener.clone(),
        })
    }

    /// The number of the service that a rule of its names chooses, in the snapshot of which this
    /// is; `None` for the rule: that of all others.
    pub fn service(&self, rule: Option<usize>) -> Option<usize> {
        match (rule, &self.names) {
            (Some(rule), Some(names)) => names.services.get(rule).copied().flatten(),
            _ => self.service,
        }
    }

    /// The name of that service.
    pub fn service_name(&self, rule: Option<usize>) -> Option<&str> {
        match (rule, &self.settings.passthrough) {
            (Some(rule), Some(names)) => names.names.get(rule).map(|rule| rule.service.as_str()),
            _ => self.settings.service.as_deref(),
        }
    }

    /// True if octets may go past this process, between ends that are accelerated.
    pub fn joins(&self) -> bool {
        let settings = &self.settings;
        settings.accelerate != Accelerate::Off && settings.splice == Splice::Auto
    }

    /// A place for one more connection or session, unless there are as many as may be.
    pub fn take_place(&self) -> Option<OpenConnection> {
        self.open.among(self.settings.max_connections)
    }

    /// Connections and sessions that are open: at this listener, and at all.
    pub fn open(&self) -> [u32; 2] {
        self.open.counts()
    }
}
