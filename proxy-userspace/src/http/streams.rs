//! Listeners that pass TCP or UDP on as it is, compiled.

use super::listening::LogPlan;
use super::snapshot::{CompileError, Kept, ListenerId, OpenConnection, Opened};
use crate::config::model::http::StreamListener;
use crate::net::Nanos;
use crate::net::clock::nanos;
use crate::observe::http::{ListenerCells, Series, StreamCells};
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
    /// The service's number in the snapshot.
    pub service: usize,
    open: Opened,
}

impl StreamPlan {
    pub(super) fn new(
        listener: &StreamListener,
        id: ListenerId,
        service: usize,
        kept: &Kept,
    ) -> Result<Self, CompileError> {
        let log = listener.access_log.as_ref();
        Ok(Self {
            idle: nanos(listener.idle_timeout),
            cells: kept.metrics.listener(&listener.name),
            flow: kept.metrics.stream(&listener.name),
            log: log
                .map(|log| LogPlan::new(log, &listener.name, kept))
                .transpose()?,
            service,
            open: kept.opened(id),
            settings: listener.clone(),
        })
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
