//! The log level while the daemon runs.

use super::control::Control;
use super::plane::Plane;
use crate::admin::api::{LogRequest, LogView, Refusal, RefusalKind, chain};
use crate::observe::journal::{Happening, Topic};
use crate::observe::log;
use std::time::Duration;
use tokio::time::Instant;
use tracing::info;

/// How long a level may hold that expires.
const LONGEST: f64 = 30.0 * 86_400.0;

impl<P: Plane> Control<P> {
    /// The level in force.
    pub(super) fn log(&self) -> LogView {
        let (level, default) = log::levels();
        let now = Instant::now();
        let left = self
            .log_until
            .map(|until| until.saturating_duration_since(now));
        LogView {
            level,
            default,
            expires_in_seconds: left.map(|left| left.as_secs_f64()),
        }
    }

    /// Changes it.
    pub(super) fn set_log(&mut self, request: &LogRequest) -> Result<LogView, Refusal> {
        let invalid = |message: String| Refusal::new(RefusalKind::Invalid, message);
        let lasts = request.expires_in_seconds;
        if lasts.is_some_and(|seconds| !(seconds > 0.0 && seconds <= LONGEST)) {
            return Err(invalid(format!(
                "expires_in_seconds: more than 0 and at most {LONGEST}"
            )));
        }
        log::set_level(request.level.as_deref()).map_err(|error| invalid(chain(&error)))?;
        self.log_until = lasts.map(|seconds| Instant::now() + Duration::from_secs_f64(seconds));
        let view = self.log();
        info!(level = view.level, "log level changed");
        self.note(Happening::new(Topic::Log, format!("level {}", view.level)));
        Ok(view)
    }

    /// Goes back to the level of the command line when it is time.
    pub(super) fn expire_log_level(&mut self) {
        if self.log_until.is_some_and(|until| until <= Instant::now()) {
            self.log_until = None;
            if log::set_level(None).is_ok() {
                info!("the log level is that of the command line again");
                self.note(Happening::new(Topic::Log, "level expired"));
            }
        }
    }
}
