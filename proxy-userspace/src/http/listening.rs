//! What listeners of every kind have: a bound on their connections, and a log.

use super::snapshot::{CompileError, Kept};
use crate::config::model::http::AccessLog;
use crate::observe::access_log::{Format, Sink};
use crate::types::Protocol;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is spoken at a listener. One that changes its kind is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum ListenerKind {
    /// HTTP.
    Http,
    /// What is not looked at.
    Stream(Protocol),
}

/// A number for a connection or session, unique in the life of the process.
pub fn connection_number() -> u64 {
    static NUMBERS: AtomicU64 = AtomicU64::new(1);
    NUMBERS.fetch_add(1, Ordering::Relaxed)
}

/// Where and how exchanges are logged.
#[derive(Clone, Debug)]
pub struct LogPlan {
    /// Where to.
    pub sink: Arc<Sink>,
    /// What a line looks like.
    pub format: Arc<Format>,
    /// Share that is logged.
    pub share: f64,
}

impl LogPlan {
    pub(super) fn new(log: &AccessLog, listener: &str, kept: &Kept) -> Result<Self, CompileError> {
        let sink = kept.logs.sink(&log.to);
        Ok(Self {
            sink: sink.map_err(|source| CompileError::Log {
                listener: listener.to_owned(),
                source,
            })?,
            format: Arc::new(Format::compile(&log.format).map_err(invalid)?),
            share: log.share,
        })
    }
}

/// What validation should have refused.
pub(super) fn invalid(error: impl Error + Send + Sync + 'static) -> CompileError {
    CompileError::Invalid(Box::new(error))
}
