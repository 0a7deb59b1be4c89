//! Listeners that pass TCP or UDP on as it is, compiled.

use super::listening::{LogPlan, OpenConnection};
use super::snapshot::{CompileError, Kept, ListenerId};
use crate::config::model::http::StreamListener;
use crate::net::Nanos;
use crate::net::clock::nanos;
use crate::observe::http::{ListenerCells, Series, StreamCells};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

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
    open: Arc<AtomicU32>,
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
            open: kept.open(id),
            settings: listener.clone(),
        })
    }

    /// A place for one more connection or session, unless there are as many as may be.
    pub fn take_place(&self) -> Option<OpenConnection> {
        OpenConnection::among(&self.open, self.settings.max_connections)
    }

    /// Connections or sessions that are open.
    pub fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }
}
