//! `sluice proxy`.

use crate::cli::args::LogArgs;
use crate::cli::endpoint::{self, Endpoint, access_log};
use crate::cli::exit::{Exit, Failure};
use crate::config::model::http::{self as model, Action, BackendProtocol};
use crate::config::model::tls::{CertificateSource, ServerTls};
use crate::config::model::{Config, Service};
use clap::ValueEnum;
use std::net::IpAddr;
use std::path::PathBuf;

/// Pass HTTP requests on to one or more servers, without a configuration file
///
/// Speaks HTTP/1.1, HTTP/2 with prior knowledge, gRPC and WebSocket on one port, and all of them over
/// TLS with --tls. Needs no privileges for ports from 1024 on.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluice proxy --from :8080 --to 127.0.0.1:9000
  sluice proxy --from 8080 --to 9000 --to 9001          two servers of this host, in turn
  sluice proxy --from :8080 --to 9000 --access-log -    log requests to standard output
  sluice proxy --from :8080 --to 9000 --dump-config > sluice.yaml
  sluice proxy --tls --from :8443 --to 9000             HTTPS, with a certificate for localhost

Signals:
  TERM, INT   accept no more, let requests end; a second one ends at once
  QUIT        as the first TERM, however often it is sent
  USR1        reopen the access log")]
pub(super) struct Args {
    /// Where clients connect: ADDRESS:PORT, or :PORT or PORT for all addresses of this host
    #[arg(long, value_name = "ADDRESS", value_parser = Endpoint::parse)]
    from: Endpoint,
    /// A server: HOST:PORT, or :PORT or PORT for this host. May be given more than once
    #[arg(long, value_name = "ADDRESS", required = true, value_parser = Endpoint::parse)]
    to: Vec<Endpoint>,
    /// Speak HTTPS to clients, with a certificate for localhost and the host of --from by a CA of
    /// your own, which is made and whose path is logged
    #[arg(long)]
    tls: bool,
    /// Speak HTTPS with this certificate, a PEM file
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// The certificate's key, a PEM file
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
    /// What servers speak
    #[arg(long, value_name = "PROTOCOL", default_value = "auto")]
    backend_protocol: Protocol,
    /// Worker threads [default: the CPUs that this process may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    workers: Option<u32>,
    /// Where requests are logged as JSON, - for standard output [default: nowhere]
    #[arg(long, value_name = "FILE")]
    access_log: Option<PathBuf>,
    /// Pass octets of clients and servers on this host from socket to socket in the kernel; needs
    /// root, or the capabilities BPF, NET_ADMIN and PERFMON
    #[arg(long, value_name = "WHEN", default_value = "off")]
    accelerate: Accelerate,
    /// Print the configuration file that does the same, and end
    #[arg(long)]
    dump_config: bool,
    #[command(flatten)]
    log: LogArgs,
}

/// What servers speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Protocol {
    /// HTTP/1.1
    H1,
    /// HTTP/2 with prior knowledge
    H2,
    /// HTTP/1.1, and HTTP/2 where the request needs it
    Auto,
}

/// Whether the kernel passes octets on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Accelerate {
    /// Where it may, and a self-test of a second passes
    Auto,
    /// Or fail
    On,
    /// Never
    Off,
}

impl From<Accelerate> for model::Accelerate {
    fn from(word: Accelerate) -> Self {
        match word {
            Accelerate::Auto => Self::Auto,
            Accelerate::On => Self::On,
            Accelerate::Off => Self::Off,
        }
    }
}

impl Args {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let config = self.config()?;
        endpoint::serve(&config, self.dump_config, &self.log)
    }

    /// The configuration that the arguments mean.
    fn config(&self) -> Result<Config, Failure> {
        let log = self.access_log.as_deref().map(access_log);
        let action = Action::service("servers");
        let mut config = endpoint::http(&self.from, self.workers, log.as_ref(), action)?;
        config.services.push(self.service());
        for listener in &mut config.http_listeners {
            listener.tls = self.certificates(listener.address.ip()).map(ServerTls::new);
            listener.accelerate = self.accelerate.into();
        }
        Ok(config)
    }

    /// Certificates for a listener at this address, if TLS is spoken.
    fn certificates(&self, at: IpAddr) -> Option<Vec<CertificateSource>> {
        if let (Some(certificate), Some(key)) = (&self.certificate, &self.key) {
            return Some(vec![CertificateSource::Files {
                certificate: certificate.clone(),
                key: key.clone(),
                ocsp: None,
            }]);
        }
        let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
        let at = at.to_string();
        if !names.contains(&at) && at != "0.0.0.0" && at != "::" {
            names.push(at);
        }
        self.tls.then(|| vec![CertificateSource::Local(names)])
    }

    fn service(&self) -> Service {
        let mut service = Service::new("servers");
        service.upstream.protocol = match self.backend_protocol {
            Protocol::H1 => BackendProtocol::H1,
            Protocol::H2 => BackendProtocol::H2,
            Protocol::Auto => BackendProtocol::Auto,
        };
        service.upstream.accelerate = self.accelerate.into();
        endpoint::push_backends(&mut service, &self.to);
        service
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::{Cli, Command};
    use crate::config;
    use clap::Parser as _;

    #[test]
    fn the_file_that_is_printed_means_the_same() {
        for more in [
            "",
            "--to 10.0.0.2:9000 --to app.internal:81 --workers 3 --access-log /tmp/web.log",
            "--backend-protocol h2 --tls --access-log - --accelerate auto",
            "--certificate /etc/web.pem --key /etc/web.key --backend-protocol h1 --accelerate on",
        ] {
            let line = format!("sluice proxy --from 127.0.0.1:8080 --to 9000 {more} --dump-config");
            let cli = Cli::try_parse_from(line.split_whitespace()).expect("valid");
            let Command::Proxy(args) = cli.command else {
                panic!("another command");
            };
            assert!(args.dump_config);
            let meant = args.config().expect("valid");
            let text = config::effective_yaml(&meant);
            let read = config::parse("printed", &text);
            let read = read.unwrap_or_else(|errors| panic!("{}\n{text}", errors.pretty(false)));
            assert_eq!(read.config, meant, "{line}");
        }
    }
}
