//! `sluice tcp`.

use crate::cli::args::LogArgs;
use crate::cli::endpoint::{self, Endpoint, access_log};
use crate::cli::exit::{Exit, Failure};
use crate::config::model::http::{BalancePolicy, ProxyVersion, StreamListener};
use crate::config::model::{Config, Service};
use crate::types::Protocol;
use clap::ValueEnum;
use std::path::PathBuf;

/// Pass TCP connections on to one or more servers, without a configuration file
///
/// For databases, mail, Redis and whatever else is not HTTP: octets are passed on as they are, both
/// ways, until both sides have ended. A server that does not answer is left out for the next one.
/// Needs no privileges for ports from 1024 on.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluice tcp --from :5432 --to db.internal:5432
  sluice tcp --from :6379 --to 10.0.0.1:6379 --to 10.0.0.2:6379   replicas, the less busy one
  sluice tcp --from :25 --to 10.0.0.1:25 --send-proxy v2          tell it who the client is
  sluice tcp --from :6379 --to 6380 --access-log -                log connections as they end
  sluice tcp --from :6379 --to 6380 --dump-config > sluice.yaml

Signals:
  TERM, INT   accept no more, let connections end for 30 seconds; a second one ends at once
  QUIT        as the first TERM, however often it is sent
  USR1        reopen the access log")]
pub(super) struct Args {
    /// Where clients connect: ADDRESS:PORT, or :PORT or PORT for all addresses of this host
    #[arg(long, value_name = "ADDRESS", value_parser = Endpoint::parse)]
    from: Endpoint,
    /// A server: HOST:PORT, or :PORT or PORT for this host. May be given more than once
    #[arg(long, value_name = "ADDRESS", required = true, value_parser = Endpoint::parse)]
    to: Vec<Endpoint>,
    /// Begin each connection to a server with a PROXY header, which tells it the client's address
    #[arg(long, value_name = "VERSION")]
    send_proxy: Option<SendProxy>,
    /// Worker threads [default: the CPUs that this process may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    workers: Option<u32>,
    /// Where connections are logged as JSON, - for standard output [default: nowhere]
    #[arg(long, value_name = "FILE")]
    access_log: Option<PathBuf>,
    /// Print the configuration file that does the same, and end
    #[arg(long)]
    dump_config: bool,
    #[command(flatten)]
    log: LogArgs,
}

/// Version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SendProxy {
    /// Text
    V1,
    /// Binary
    V2,
}

impl Args {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        endpoint::serve(&self.config()?, self.dump_config, &self.log)
    }

    /// The configuration that the arguments mean.
    fn config(&self) -> Result<Config, Failure> {
        let mut config = Config::default();
        config.workers.count = self.workers;
        let log = self.access_log.as_deref().map(access_log);
        for (name, address) in self.from.listening("tcp")? {
            let mut listener = StreamListener::new(name, Protocol::Tcp, address, "servers");
            listener.access_log.clone_from(&log);
            config.stream_listeners.push(listener);
        }
        let mut service = Service::new("servers");
        // Connections may live long, so their number says more than their order.
        service.upstream.balance.policy = BalancePolicy::LeastRequests;
        service.upstream.send_proxy = self.send_proxy.map(|version| match version {
            SendProxy::V1 => ProxyVersion::V1,
            SendProxy::V2 => ProxyVersion::V2,
        });
        endpoint::push_backends(&mut service, &self.to);
        config.services.push(service);
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::{Cli, Command};
    use crate::config;
    use clap::Parser as _;

    #[test]
    fn the_file_that_is_printed_means_the_same() {
        let line = "sluice tcp --from 127.0.0.1:6379 --to 10.0.0.1:6379 --to db.internal:6379 \
             --send-proxy v2 --workers 2 --access-log /tmp/tcp.log --dump-config";
        let cli = Cli::try_parse_from(line.split_whitespace()).expect("valid");
        let Command::Tcp(args) = cli.command else {
            panic!("another command");
        };
        let meant = args.config().expect("valid");
        let text = config::effective_yaml(&meant);
        let read = config::parse("printed", &text);
        let read = read.unwrap_or_else(|errors| panic!("{}\n{text}", errors.pretty(false)));
        assert_eq!(read.config.stream_listeners, meant.stream_listeners);
        assert_eq!(read.config.services, meant.services);
        assert_eq!(read.config.workers, meant.workers);
    }
}
