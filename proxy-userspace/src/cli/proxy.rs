//! `sluice proxy`.

use crate::cli::args::LogArgs;
use crate::cli::exit::{Exit, Failure};
use crate::config::effective_yaml;
use crate::config::model::http::{
    AccessLog, Action, BackendProtocol, BackendTraits, DnsQuestion, HttpListener, LogTarget,
    NamedBackend, Route,
};
use crate::config::model::{Config, Service};
use crate::runtime::alone;
use clap::ValueEnum;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

/// Pass HTTP requests on to one or more servers, without a configuration file
///
/// Speaks HTTP/1.1 and WebSocket on one port. Needs no privileges for ports from 1024 on.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluice proxy --from :8080 --to 127.0.0.1:9000
  sluice proxy --from 8080 --to 9000 --to 9001          two servers of this host, in turn
  sluice proxy --from :8080 --to 9000 --access-log -    log requests to standard output
  sluice proxy --from :8080 --to 9000 --dump-config > sluice.yaml

Signals:
  TERM, INT   accept no more, let requests end; a second one ends at once
  USR1        reopen the access log")]
pub(super) struct Args {
    /// Where clients connect: ADDRESS:PORT, or :PORT or PORT for all addresses of this host
    #[arg(long, value_name = "ADDRESS", value_parser = Endpoint::parse)]
    from: Endpoint,
    /// A server: HOST:PORT, or :PORT or PORT for this host. May be given more than once
    #[arg(long, value_name = "ADDRESS", required = true, value_parser = Endpoint::parse)]
    to: Vec<Endpoint>,
    /// What servers speak
    #[arg(long, value_name = "PROTOCOL", default_value = "auto")]
    backend_protocol: Protocol,
    /// Worker threads [default: the CPUs that this process may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    workers: Option<u32>,
    /// Where requests are logged as JSON, - for standard output [default: nowhere]
    #[arg(long, value_name = "FILE")]
    access_log: Option<PathBuf>,
    /// Pass octets between sockets of this host in the kernel
    #[arg(long, value_name = "WHEN", default_value = "auto")]
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
    /// Where it can
    Auto,
    /// Or fail
    On,
    /// Never
    Off,
}

/// An address as people write it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Endpoint {
    /// `None`: not said.
    host: Option<String>,
    port: u16,
}

impl Endpoint {
    fn parse(text: &str) -> Result<Self, String> {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, port),
            None => ("", text),
        };
        let port = port
            .parse()
            .ok()
            .ok_or_else(|| format!("`{text}` has no port; write HOST:PORT, :PORT or PORT"))?;
        if host.contains(':') && !host.starts_with('[') {
            return Err("write an IPv6 address in brackets, such as [::1]:8080".to_owned());
        }
        let host = host.trim_matches(['[', ']']);
        Ok(Self {
            host: (!host.is_empty()).then(|| host.to_owned()),
            port,
        })
    }

    fn ip(&self) -> Option<IpAddr> {
        self.host.as_deref()?.parse().ok()
    }
}

impl Args {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        if self.accelerate == Accelerate::On {
            let error = "--accelerate on: passing octets on in the kernel is not built yet";
            return Err(Failure::new(Exit::Host, error));
        }
        let config = self.config()?;
        if self.dump_config {
            print!("{}", effective_yaml(&config));
            return Ok(Exit::Done);
        }
        self.log.install()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::new(Exit::Failed, error))?;
        runtime
            .block_on(alone::run(&config))
            .map(|()| Exit::Done)
            .map_err(|error| Failure::new(Exit::Failed, error))
    }

    /// The configuration that the arguments mean.
    fn config(&self) -> Result<Config, Failure> {
        let mut config = Config::default();
        config.workers.count = self.workers;
        let log = self.access_log.as_ref().map(|path| {
            AccessLog::new(match path.to_str() {
                Some("-") => LogTarget::Stdout,
                _ => LogTarget::File(path.clone()),
            })
        });
        for (name, address) in self.addresses()? {
            let mut listener = HttpListener::new(name, address);
            listener.access_log.clone_from(&log);
            config.http_listeners.push(listener);
        }
        let mut route = Route::catch_all("all", "", Action::service("servers"));
        let names = config.http_listeners.iter().map(|one| one.name.clone());
        route.listeners = names.collect();
        config.routes.push(route);
        config.services.push(self.service());
        Ok(config)
    }

    /// Where to listen: without a host, at all addresses of both families.
    fn addresses(&self) -> Result<Vec<(&'static str, SocketAddr)>, Failure> {
        let Endpoint { host, port } = &self.from;
        let Some(host) = host else {
            let mut all = vec![("http", SocketAddr::from((Ipv4Addr::UNSPECIFIED, *port)))];
            if has_ipv6() {
                all.push(("http-v6", SocketAddr::from((Ipv6Addr::UNSPECIFIED, *port))));
            }
            return Ok(all);
        };
        let address = match (self.from.ip(), host.as_str()) {
            (Some(address), _) => address,
            (None, "localhost") => Ipv4Addr::LOCALHOST.into(),
            (None, host) => {
                let error = format!("--from {host}:{port}: write an address of this host");
                return Err(Failure::new(Exit::Usage, error));
            }
        };
        Ok(vec![("http", SocketAddr::new(address, *port))])
    }

    fn service(&self) -> Service {
        let mut service = Service::new("servers");
        service.upstream.protocol = match self.backend_protocol {
            Protocol::H1 => BackendProtocol::H1,
            Protocol::H2 => BackendProtocol::H2,
            Protocol::Auto => BackendProtocol::Auto,
        };
        for to in &self.to {
            let address = match &to.host {
                None => Some(Ipv4Addr::LOCALHOST.into()),
                Some(_) => to.ip(),
            };
            match (address, &to.host) {
                (Some(address), _) => {
                    let address = SocketAddr::new(address, to.port);
                    service.push_backend(address, 1, BackendTraits::default());
                }
                (None, host) => service.upstream.names.push(NamedBackend {
                    question: DnsQuestion::Host(host.clone().unwrap_or_default(), to.port),
                    weight: 1,
                    traits: BackendTraits::default(),
                }),
            }
        }
        service
    }
}

/// True if this host can speak IPv6 at all.
fn has_ipv6() -> bool {
    std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> (Option<String>, u16) {
        let endpoint = Endpoint::parse(text).expect("valid");
        (endpoint.host, endpoint.port)
    }

    #[test]
    fn addresses_are_taken_as_people_write_them() {
        assert_eq!(endpoint("8080"), (None, 8080));
        assert_eq!(endpoint(":8080"), (None, 8080));
        assert_eq!(endpoint("[::1]:80"), (Some("::1".to_owned()), 80));
        assert_eq!(endpoint("app:80"), (Some("app".to_owned()), 80));
        assert!(
            Endpoint::parse("::1:80")
                .expect_err("ambiguous")
                .contains("[::1]")
        );
        assert!(
            Endpoint::parse("app")
                .expect_err("no port")
                .contains("HOST:PORT")
        );
    }
}
