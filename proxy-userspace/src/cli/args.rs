//! Arguments that several commands share.

use crate::admin::client::Client;
use crate::cli::exit::{Exit, Failure};
use crate::observe::log;
use clap::{Args, ValueEnum};
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

/// Where the daemon's socket is by default.
pub(super) const DEFAULT_SOCKET: &str = "/run/sluice/admin.sock";

/// How to reach the daemon.
#[derive(Debug, Args)]
pub(super) struct SocketArgs {
    /// Admin socket of the daemon
    #[arg(long, value_name = "PATH", env = "SLUICE_ADMIN", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
}

impl SocketArgs {
    /// A client for the socket.
    pub(super) fn client(&self) -> Client {
        Client::new(&self.socket)
    }
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// Columns for people
    #[default]
    Table,
    /// JSON for programs
    Json,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct OutputArgs {
    /// How to print the result
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(super) output: Output,
}

/// How lines are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// Lines for people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

/// Logging of commands that stay in the foreground.
#[derive(Debug, Args)]
pub(super) struct LogArgs {
    /// How to write log lines (to standard error)
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
    /// Level (error, warn, info, debug, trace) or directives such as info,proxy_userspace::health=debug
    #[arg(long, value_name = "LEVEL", env = log::LEVEL_VARIABLE, default_value = "info")]
    log_level: String,
}

impl LogArgs {
    /// Installs the logger.
    pub(super) fn install(&self) -> Result<(), Failure> {
        let format = match self.log_format {
            LogFormat::Text => log::Format::Text,
            LogFormat::Json => log::Format::Json,
        };
        log::install(format, &self.log_level).map_err(|error| Failure::new(Exit::Usage, error))
    }
}

/// Parses `30s`, `5m`, `1h30m`, `250ms`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| {
        format!("{error}; write a number and a unit, such as 500ms, 30s, 5m or 1h")
    })
}

/// Runs the future of a command that only talks: one thread is enough.
pub(super) fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failed, error))?;
    runtime.block_on(future)
}

/// Parses an address or a prefix; a prefix with host bits is an error, as it is in most cases.
pub(super) fn prefix(text: &str) -> Result<ipnet::IpNet, String> {
    if let Ok(ip) = text.parse::<std::net::IpAddr>() {
        return Ok(ip.into());
    }
    let net: ipnet::IpNet = text.parse().map_err(|_| {
        "write an address or a prefix, such as 192.0.2.7 or 2001:db8::/32".to_owned()
    })?;
    if net.trunc() != net {
        return Err(format!("has host bits; did you mean {}?", net.trunc()));
    }
    Ok(net)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_with_host_bits_is_answered_with_the_one_meant() {
        assert_eq!(
            prefix("192.0.2.7").expect("an address").to_string(),
            "192.0.2.7/32"
        );
        assert_eq!(prefix("2001:db8::/32").expect("a prefix").prefix_len(), 32);
        let error = prefix("192.0.2.7/24").expect_err("host bits");
        assert!(error.contains("192.0.2.0/24"), "{error}");
        assert!(prefix("example.net").is_err());
    }

    #[test]
    fn a_duration_needs_a_unit() {
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert!(duration("30").expect_err("no unit").contains("30s"));
    }
}
