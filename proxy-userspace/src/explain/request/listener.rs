//! Which listener a request comes to.

use super::Asked;
use super::url::destination;
use crate::config::model::Config;
use crate::config::model::http::HttpListener;
use crate::config::model::steer::Bindings;
use crate::explain::ExplainError;
use crate::explain::rules::list;
use crate::types::Protocol;
use std::net::{IpAddr, SocketAddr};

/// The listener that is meant, and others that could be.
pub(super) fn listener<'c>(
    config: &'c Config,
    asked: &Asked,
) -> Result<(&'c HttpListener, Vec<String>), ExplainError> {
    let all = &config.http_listeners;
    let names = || match all.as_slice() {
        [] => "is configured".to_owned(),
        some => {
            let named = some
                .iter()
                .map(|one| format!("`{}` at {}", one.name, one.address));
            list(&named.collect::<Vec<_>>())
        }
    };
    if let Some(name) = &asked.listener {
        let found = all.iter().find(|one| one.name == *name);
        let missing =
            || ExplainError::NoListener(format!("is called `{name}`: there is {}", names()));
        return Ok((found.ok_or_else(missing)?, Vec::new()));
    }
    let wanted = destination(&asked.target);
    let mut found: Vec<&HttpListener> = match wanted {
        None => all.iter().collect(),
        Some((address, port)) => at(config, address, port),
    };
    // A name that leads here by way of another port, or of another proxy.
    if let ([], [only]) = (found.as_slice(), all.as_slice()) {
        found.push(only);
    }
    found.sort_by_key(|one| one.address.is_ipv6() != asked.source.is_ipv6());
    match found.as_slice() {
        [] if all.is_empty() => Err(ExplainError::NoListener(names())),
        [] => Err(ExplainError::Listeners(format!(
            "none listens at the port of {}; choose one of {}",
            asked.target,
            names()
        ))),
        // Without a port, only those of both families that share one are as good as one.
        [first, rest @ ..]
            if wanted.is_none()
                && rest
                    .iter()
                    .any(|one| one.address.port() != first.address.port()) =>
        {
            Err(ExplainError::Listeners(format!(
                "choose one of {}",
                names()
            )))
        }
        [first, rest @ ..] => Ok((first, rest.iter().map(|one| one.name.clone()).collect())),
    }
}

/// The listeners that connections to an address and port may come to.
fn at(config: &Config, address: Option<IpAddr>, port: u16) -> Vec<&HttpListener> {
    let all = config.http_listeners.iter();
    let Some(address) = address else {
        // A name may be of any address.
        let has_port = |one: &&HttpListener| {
            let steered = one.steer.iter().flat_map(|steer| &steer.ports);
            one.address.port() == port || steered.into_iter().any(|range| range.has(port))
        };
        return all.filter(has_port).collect();
    };
    let bindings = Bindings::of(config);
    let wanted = SocketAddr::new(address.to_canonical(), port);
    match bindings.find(Protocol::Tcp, wanted) {
        // The kernel looks for these first.
        Some(found) => {
            let name = &bindings.steered[found.index].name;
            all.filter(|one| one.name == *name).collect()
        }
        None => all
            .filter(|one| one.address.port() == port && takes(one.address.ip(), address))
            .collect(),
    }
}

fn takes(bound: IpAddr, address: IpAddr) -> bool {
    bound == address || (bound.is_unspecified() && bound.is_ipv4() == address.is_ipv4())
}
