//! Diagnostics by `tracing`, written to standard error so that results on standard output stay
//! clean for pipes.
//!
//! Precedence of the level: `--log-level`, then `SLUICE_LOG`, then `info`. The value may be a
//! level (`debug`) or a list of directives (`info,proxy_userspace::health=debug`), because a
//! flood of one module's lines is the usual reason for wanting fewer of the others.

use parking_lot::Mutex;
use std::io::IsTerminal;
use std::sync::OnceLock;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// Environment variable with the default level.
pub const LEVEL_VARIABLE: &str = "SLUICE_LOG";

/// How lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The logger could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The level or a directive is not understood.
    #[error("log level `{directives}` is not understood")]
    Level {
        /// What was given.
        directives: String,
        /// What is wrong with it.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// A logger is already installed in this process.
    #[error("a logger is already installed")]
    Installed(#[source] tracing::subscriber::SetGlobalDefaultError),
    /// There is no logger whose level could be changed.
    #[error("no logger is installed")]
    Missing,
}

/// The library that speaks HTTP/2 warns of what clients do wrong, which they could do without end;
/// here it is counted instead. A directive for `h2` of one's own has the last word.
const QUIET: &str = "h2=error";

/// Installs the logger for the whole process.
///
/// # Errors
///
/// [`LogError::Level`] if `directives` is not understood, [`LogError::Installed`] at the second
/// call.
pub fn install(format: Format, directives: &str) -> Result<(), LogError> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(directives)?)
        .with_writer(std::io::stderr)
        .with_span_events(FmtSpan::NONE)
        // It would print to standard error that standard error cannot be written to, and panic: a
        // full disk must not end the daemon.
        .log_internal_errors(false)
        .with_target(false);
    let installed = match format {
        Format::Text => {
            let builder = builder
                .with_ansi(color(std::io::stderr().is_terminal()))
                .with_filter_reloading();
            let handle = builder.reload_handle();
            let change: Change = Box::new(move |filter| handle.reload(filter).is_ok());
            tracing::subscriber::set_global_default(builder.finish()).map(|()| change)
        }
        Format::Json => {
            let builder = builder
                .json()
                .flatten_event(true)
                .with_ansi(false)
                .with_filter_reloading();
            let handle = builder.reload_handle();
            let change: Change = Box::new(move |filter| handle.reload(filter).is_ok());
            tracing::subscriber::set_global_default(builder.finish()).map(|()| change)
        }
    };
    let change = installed.map_err(LogError::Installed)?;
    let _ = LEVEL.set(Level {
        default: directives.to_owned(),
        now: Mutex::new(directives.to_owned()),
        change,
    });
    Ok(())
}

/// Puts another filter in force; false if the logger is gone.
type Change = Box<dyn Fn(EnvFilter) -> bool + Send + Sync>;

/// What is known of the logger that is installed.
struct Level {
    default: String,
    now: Mutex<String>,
    change: Change,
}

static LEVEL: OnceLock<Level> = OnceLock::new();

fn filter(directives: &str) -> Result<EnvFilter, LogError> {
    let filter = EnvFilter::try_new(format!("{QUIET},{directives}"));
    filter.map_err(|source| LogError::Level {
        directives: directives.to_owned(),
        source,
    })
}

/// The level in force and the one that was installed; empty if none was.
pub fn levels() -> (String, String) {
    LEVEL.get().map_or_else(Default::default, |level| {
        (level.now.lock().clone(), level.default.clone())
    })
}

/// Changes the level; `None` is the one that was installed.
///
/// # Errors
///
/// [`LogError::Level`]; [`LogError::Missing`] if no logger was installed.
pub fn set_level(directives: Option<&str>) -> Result<(), LogError> {
    let level = LEVEL.get().ok_or(LogError::Missing)?;
    let directives = directives.unwrap_or(&level.default);
    if !(level.change)(filter(directives)?) {
        return Err(LogError::Missing);
    }
    directives.clone_into(&mut level.now.lock());
    Ok(())
}

/// Whether to colour output, given whether it goes to a terminal.
///
/// `NO_COLOR` (any non-empty value, see no-color.org) wins over `CLICOLOR_FORCE`.
pub fn color(terminal: bool) -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    color_given(terminal, set("NO_COLOR"), set("CLICOLOR_FORCE"))
}

const fn color_given(terminal: bool, no_color: bool, force: bool) -> bool {
    !no_color && (terminal || force)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_color_wins_and_pipes_are_plain() {
        assert!(color_given(true, false, false));
        assert!(!color_given(false, false, false));
        assert!(color_given(false, false, true));
        assert!(!color_given(true, true, true));
    }

    #[test]
    fn a_wrong_directive_is_named() {
        let error = install(Format::Text, "info,=,=").expect_err("not a directive");
        assert!(error.to_string().contains("info,=,="));
    }
}
