//! What TLS makes of a connection: who decrypts, which certificate the client gets and why, what is
//! asked of it, and what backends are asked for.

use crate::config::model::Service;
use crate::config::model::http::{BackendTls, TlsName};
use crate::config::model::tls::{ClientAuth, ServerTls};
use crate::tls::{Because, ServerSide};
use serde::Serialize;
use std::time::SystemTime;

/// What TLS makes of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TlsExplained {
    /// `terminate`, `re-encrypt`, `mutual` (both, with certificates of clients and of ours),
    /// `originate` (towards backends alone) or `passthrough`; of several services all that apply.
    pub strategy: String,
    /// Where the certificate comes from that the client gets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// Why that one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    /// Others for the same name, for clients that cannot check that one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<String>,
    /// Why the client gets none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// What is asked of clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clients: Option<String>,
    /// What is asked of backends, by service.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<String>,
}

/// Explains a connection that asks for `name` at a listener, and goes to one of these services.
/// `None` if TLS is spoken on neither side.
pub(super) fn explain<'c>(
    listener: Option<&ServerTls>,
    services: impl Iterator<Item = &'c Service>,
    name: Option<&str>,
) -> Option<TlsExplained> {
    let mut strategies = Vec::new();
    let mut explained = TlsExplained::default();
    for service in services {
        let to = service.upstream.tls.as_ref();
        let strategy = strategy(listener, to);
        if !strategies.contains(&strategy) {
            strategies.push(strategy);
        }
        let asked = to.map(|tls| format!("{}: {}", service.name, of_backends(tls, service)));
        explained.backends.extend(asked);
    }
    if listener.is_some() && strategies.is_empty() {
        strategies.push(Some("terminate"));
    }
    let spoken: Vec<&str> = strategies.into_iter().flatten().collect();
    if spoken.is_empty() {
        return None;
    }
    explained.strategy = spoken.join(", ");
    if let Some(tls) = listener {
        explained.clients = Some(of_clients(tls.client.as_ref()));
        certificate(tls, name, &mut explained);
    }
    Some(explained)
}

/// TLS that is passed on as it is.
pub(super) fn passed_on() -> TlsExplained {
    TlsExplained {
        strategy: "passthrough".to_owned(),
        clients: Some("what they show is the backend's affair".to_owned()),
        ..TlsExplained::default()
    }
}

fn strategy(listener: Option<&ServerTls>, to: Option<&BackendTls>) -> Option<&'static str> {
    Some(match (listener, to) {
        (None, None) => return None,
        (Some(_), None) => "terminate",
        (None, Some(_)) => "originate",
        (Some(from), Some(to)) if from.client.is_some() && to.identity.is_some() => "mutual",
        (Some(_), Some(_)) => "re-encrypt",
    })
}

fn certificate(tls: &ServerTls, name: Option<&str>, explained: &mut TlsExplained) {
    // When it is asked for is of no matter: certificates are chosen whether or not they are good.
    let side = match ServerSide::new(tls, Vec::new(), None, SystemTime::UNIX_EPOCH) {
        Ok(side) => side,
        Err(error) => {
            explained.refused = Some(format!("the certificates cannot be used: {error}"));
            return;
        }
    };
    let name = name.map(str::to_ascii_lowercase);
    let name = name.as_deref();
    let (because, candidates) = side.choice(name);
    let asked = name.map_or("no name".to_owned(), |name| format!("`{name}`"));
    let because = match because {
        Because::Exact => format!("it is for {asked}"),
        Because::Wildcard => {
            format!("its wildcard is for {asked}, which no certificate names itself")
        }
        Because::First if name.is_none() => "the client asks for no name: the first".to_owned(),
        Because::First => format!("none is for {asked}: the first"),
        Because::Nobody => {
            let refused = format!("with `strict_sni` a client that asks for {asked} gets none");
            explained.refused = Some(refused);
            return;
        }
    };
    explained.because = Some(because);
    let mut sources = candidates.iter().map(|view| view.source.clone());
    explained.certificate = sources.next();
    explained.others = sources.collect();
}

fn of_clients(client: Option<&ClientAuth>) -> String {
    let Some(client) = client else {
        return "are not asked for a certificate".to_owned();
    };
    let ca = client.ca.display();
    let mut text = match client.required {
        true => format!("must show a certificate that {ca} vouches for"),
        false => format!("may show a certificate, which {ca} must vouch for"),
    };
    if let Some(list) = &client.crl {
        text.push_str(&format!(", and that {} does not revoke", list.display()));
    }
    text
}

fn of_backends(tls: &BackendTls, service: &Service) -> String {
    let name = match (tls.by_host, service.upstream.tls_name()) {
        (true, _) => "the request's host".to_owned(),
        (false, TlsName::Host(name)) => format!("`{name}`"),
        (false, TlsName::Address) => "their address".to_owned(),
    };
    let mut text = match (tls.verify, &tls.ca) {
        (false, _) => format!("are asked for {name} and not verified"),
        (true, Some(ca)) => format!("must have a certificate for {name} by {}", ca.display()),
        (true, None) => {
            format!("must have a certificate for {name} by an authority of the system")
        }
    };
    if let Some(identity) = &tls.identity {
        text.push_str(&format!(", and get {}", identity.certificate.display()));
    }
    text
}
