//! What the one-line proxies have in common: addresses as people write them, and serving.

use crate::cli::args::LogArgs;
use crate::cli::exit::{Exit, Failure};
use crate::config::effective_yaml;
use crate::config::model::http::{
    AccessLog, Action, BackendTraits, DnsQuestion, HttpListener, LogTarget, NamedBackend, Route,
};
use crate::config::model::{Config, Service};
use crate::runtime::alone;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// An address as people write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// `None`: not said.
    host: Option<String>,
    port: u16,
}

impl Endpoint {
    /// Reads `HOST:PORT`, `:PORT` or `PORT`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
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

    /// Where to listen, with names for the listeners: without a host, at all addresses of both
    /// families.
    pub(super) fn listening(&self, name: &str) -> Result<Vec<(String, SocketAddr)>, Failure> {
        let Self { host, port } = self;
        let Some(host) = host else {
            let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, *port));
            let mut all = vec![(name.to_owned(), any)];
            if has_ipv6() {
                let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, *port));
                all.push((format!("{name}-v6"), any));
            }
            return Ok(all);
        };
        let address = match (self.ip(), host.as_str()) {
            (Some(address), _) => address,
            (None, "localhost") => Ipv4Addr::LOCALHOST.into(),
            (None, host) => {
                let error = format!("--from {host}:{port}: write an address of this host");
                return Err(Failure::new(Exit::Usage, error));
            }
        };
        Ok(vec![(name.to_owned(), SocketAddr::new(address, *port))])
    }
}

/// A configuration whose listeners at `from` do this with every request.
pub(super) fn http(
    from: &Endpoint,
    workers: Option<u32>,
    log: Option<&AccessLog>,
    action: Action,
) -> Result<Config, Failure> {
    let mut config = Config::default();
    config.workers.count = workers;
    for (name, address) in from.listening("http")? {
        let mut listener = HttpListener::new(name, address);
        listener.access_log = log.cloned();
        config.http_listeners.push(listener);
    }
    let mut route = Route::catch_all("all", "", action);
    let names = config.http_listeners.iter().map(|one| one.name.clone());
    route.listeners = names.collect();
    config.routes.push(route);
    Ok(config)
}

/// Adds servers to a service; those with a name are found by DNS.
pub(super) fn push_backends(service: &mut Service, all: &[Endpoint]) {
    for to in all {
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
}

/// A log at this path, `-` for standard output.
pub(super) fn access_log(path: &Path) -> AccessLog {
    AccessLog::new(match path.to_str() {
        Some("-") => LogTarget::Stdout,
        _ => LogTarget::File(path.to_owned()),
    })
}

/// Serves a configuration until told to stop, or only prints it.
pub(super) fn serve(config: &Config, dump: bool, log: &LogArgs) -> Result<Exit, Failure> {
    if dump {
        print!("{}", effective_yaml(config));
        return Ok(Exit::Done);
    }
    log.install()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failed, error))?;
    runtime
        .block_on(alone::run(config))
        .map(|()| Exit::Done)
        .map_err(|error| Failure::new(Exit::Failed, error))
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

    #[test]
    fn without_a_host_all_addresses_are_listened_at() {
        let listening = |text: &str| Endpoint::parse(text).expect("valid").listening("tcp");
        let all = listening(":80").expect("valid");
        assert_eq!(
            all[0],
            ("tcp".to_owned(), "0.0.0.0:80".parse().expect("an address"))
        );
        let one = listening("[::1]:80").expect("valid");
        assert_eq!(
            one,
            [("tcp".to_owned(), "[::1]:80".parse().expect("an address"))]
        );
        let error = listening("example.com:80").expect_err("not of this host");
        assert_eq!(error.exit, Exit::Usage);
    }
}
