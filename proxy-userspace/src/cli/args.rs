//! Arguments that several commands share.

use crate::admin::client::Client;
use crate::cli::exit::{Exit, Failure};
use crate::config;
use crate::config::model::Config;
use crate::observe::log;
use clap::{Args, ValueEnum};
use std::future::Future;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
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

/// Where the configuration is by default.
pub(super) const DEFAULT_CONFIG: &str = "/etc/sluice/sluice.yaml";

/// Which configuration file.
#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    /// Configuration file, - for standard input [default: /etc/sluice/sluice.yaml]
    #[arg(short, long, value_name = "FILE", env = "SLUICE_CONFIG")]
    config: Option<PathBuf>,
}

impl ConfigArgs {
    /// True if a file was named.
    pub(super) const fn is_given(&self) -> bool {
        self.config.is_some()
    }

    /// The file that was named, or the default if it exists.
    pub(super) fn path(&self) -> Result<PathBuf, Failure> {
        if let Some(path) = &self.config {
            return Ok(path.clone());
        }
        let path = PathBuf::from(DEFAULT_CONFIG);
        if path.exists() {
            return Ok(path);
        }
        let error = "there is no configuration file";
        Err(Failure::new(Exit::Failed, error).hint(no_config()))
    }
}

/// Reads a configuration for a command that needs it only on the side; faults are printed.
pub(super) fn load(path: &Path) -> Result<Config, Failure> {
    config::load(path)
        .map(|loaded| loaded.config)
        .map_err(|errors| {
            eprint!(
                "{}",
                errors.pretty(log::color(std::io::stderr().is_terminal()))
            );
            Failure::new(Exit::Failed, format!("{} is not valid", path.display()))
        })
}

/// What a newcomer can do next.
fn no_config() -> String {
    let example: String = EXAMPLE.lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "\
Tried, in this order:
  -c FILE                    not given
  SLUICE_CONFIG              not set
  {DEFAULT_CONFIG}    does not exist

A configuration that spreads one port over two servers:

{example}
Save it as sluice.yaml, adapt it, and then:
  sluice check -c sluice.yaml       what this host can do
  sluice validate -c sluice.yaml    is it right?
  sluice run -c sluice.yaml         balance

Without a file:
  sluice proxy --from :8080 --to 127.0.0.1:9000    pass HTTP requests on
  sluice serve ./public --from :8080               serve the files of a folder"
    )
}

/// A small configuration that shows the three parts every one has.
const EXAMPLE: &str = "\
l4: {interfaces: [eth0]}
listeners:
  - {name: web, kind: l4, address: 192.0.2.10, port: 80, service: web}
services:
  - name: web
    mode: full-nat
    source_addresses: [192.0.2.11]
    backends: ['10.0.0.1:8080', '10.0.0.2:8080']
";

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// Columns for people
    #[default]
    Table,
    /// JSON for programs
    Json,
    /// YAML with the same keys
    Yaml,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct OutputArgs {
    /// How to print the result
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(super) output: Output,
}

/// How results are printed, where JSON has a flag of its own.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct FormatArgs {
    /// Print JSON; the same as -o json
    #[arg(long, conflicts_with = "output")]
    json: bool,
    /// How to print the result
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Output,
}

impl FormatArgs {
    /// The form that is wanted.
    pub(super) const fn output(self) -> Output {
        if self.json { Output::Json } else { self.output }
    }
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
    fn the_example_for_newcomers_is_valid() {
        let loaded = crate::config::parse("example", EXAMPLE);
        let loaded = loaded.unwrap_or_else(|errors| panic!("{}", errors.pretty(false)));
        assert!(
            loaded.warnings.is_empty(),
            "{}",
            loaded.warnings.pretty(false)
        );
        assert!(no_config().contains("sluice validate"));
    }

    #[test]
    fn a_duration_needs_a_unit() {
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert!(duration("30").expect_err("no unit").contains("30s"));
    }
}
