//! What an observer wants to see.

use super::{FlowStage, Stage};
use ipnet::IpNet;
use proxy_common::reason::{Outcome, Reason};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// Which flows somebody wants to see, as it is asked. All terms must hold; each may be met by another
/// stage of the flow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ObserveQuery {
    /// One flow in this many is traced while somebody observes. If absent, as configured, or
    /// [`DEFAULT_SAMPLE`] where nothing is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<u32>,
    /// Begin with this many stages that were noted before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<u32>,
    /// False: end after those.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub follow: Option<bool>,
    /// Only the flow with this id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Only flows of this service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Only flows of clients with this address or in this prefix, behind proxies too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Only requests with such a status: `404`, `5xx`, or several with commas between them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Only flows of which a packet had this verdict: `pass`, `forward` or `drop`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// Only flows of which a packet had this reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Only flows to this listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    /// Only requests that this route matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// Only requests for this host, and TLS for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Only requests with paths that begin so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// One flow in this many is traced for observers who do not say, if nothing is configured.
pub const DEFAULT_SAMPLE: u32 = 100;

/// A query that cannot be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FilterError(String);

/// Which flows an observer wants to see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter(Vec<Term>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Term {
    Id(u64),
    Service(String),
    Source(IpNet),
    Status(Vec<(u16, u16)>),
    Verdict(Outcome),
    Reason(Reason),
    Listener(String),
    Route(String),
    Host(String),
    Path(String),
}

impl Filter {
    /// Reads a query.
    ///
    /// # Errors
    ///
    /// A term that says nothing; the message names it.
    pub fn parse(query: &ObserveQuery) -> Result<Self, FilterError> {
        let mut terms = Vec::new();
        terms.extend(query.id.as_deref().map(id).transpose()?);
        terms.extend(query.source.as_deref().map(source).transpose()?);
        terms.extend(query.status.as_deref().map(status).transpose()?);
        terms.extend(query.verdict.as_deref().map(verdict).transpose()?);
        terms.extend(query.reason.as_deref().map(reason).transpose()?);
        terms.extend(query.service.clone().map(Term::Service));
        terms.extend(query.listener.clone().map(Term::Listener));
        terms.extend(query.route.clone().map(Term::Route));
        let host = query.host.as_deref().map(str::to_ascii_lowercase);
        terms.extend(host.map(Term::Host));
        terms.extend(query.path.clone().map(Term::Path));
        Ok(Self(terms))
    }

    /// True if it asks for packets as such, or for a certain client: then what is nobody's is wanted, too.
    pub(super) fn wants_strangers(&self) -> bool {
        self.0.iter().any(|term| {
            matches!(
                term,
                Term::Id(_) | Term::Source(_) | Term::Verdict(_) | Term::Reason(_)
            )
        })
    }

    /// True if these stages, taken together, are wanted.
    pub fn accepts<'s>(&self, stages: impl Iterator<Item = &'s FlowStage> + Clone) -> bool {
        self.0
            .iter()
            .all(|term| stages.clone().any(|stage| term.is_met(stage)))
    }
}

impl Term {
    fn is_met(&self, flow: &FlowStage) -> bool {
        let stage = &flow.stage;
        match self {
            Self::Id(wanted) => u64::from_str_radix(&flow.id, 16) == Ok(*wanted),
            Self::Service(wanted) => services(stage).any(|service| service == wanted),
            Self::Source(wanted) => {
                client(stage).is_some_and(|client| wanted.contains(&client))
                    || address(&flow.source).is_some_and(|source| wanted.contains(&source))
            }
            Self::Status(wanted) => sent(stage).is_some_and(|sent| {
                wanted
                    .iter()
                    .any(|(from, to)| (*from..=*to).contains(&sent))
            }),
            Self::Verdict(wanted) => {
                matches!(stage, Stage::Packet(it) if it.verdict == wanted.name())
            }
            Self::Reason(wanted) => {
                matches!(stage, Stage::Packet(it) if it.reason == wanted.name())
            }
            Self::Listener(wanted) => stage.listener() == Some(wanted),
            Self::Route(wanted) => matches!(stage, Stage::Route(it) if it.route == *wanted),
            Self::Host(wanted) => host(stage).is_some_and(|host| host.eq_ignore_ascii_case(wanted)),
            Self::Path(wanted) => {
                matches!(stage, Stage::Request(it) if it.path.starts_with(wanted.as_str()))
            }
        }
    }
}

fn services(stage: &Stage) -> impl Iterator<Item = &str> {
    let service = match stage {
        Stage::Packet(it) => it.service.as_deref(),
        Stage::Route(it) => it.service.as_deref(),
        Stage::Attempt(it) => it.service.as_deref(),
        Stage::Tunnel(it) => it.service.as_deref(),
        _ => None,
    };
    service.into_iter()
}

fn sent(stage: &Stage) -> Option<u16> {
    match stage {
        Stage::Status(it) => it.status,
        _ => None,
    }
}

fn host(stage: &Stage) -> Option<&str> {
    match stage {
        Stage::Request(it) => Some(&it.host),
        Stage::Tls(it) => it.server_name.as_deref(),
        Stage::Tunnel(it) => it.server_name.as_deref(),
        _ => None,
    }
}

/// The client that somebody else names.
fn client(stage: &Stage) -> Option<IpAddr> {
    match stage {
        Stage::Proxy(it) => Some(it.client.ip().to_canonical()),
        Stage::Status(it) => Some(it.client.to_canonical()),
        _ => None,
    }
}

fn address(end: &str) -> Option<IpAddr> {
    let whole = end.parse::<SocketAddr>().map(|end| end.ip());
    whole.or_else(|_| end.parse()).ok()
}

fn id(text: &str) -> Result<Term, FilterError> {
    // The id of a trace of the flow begins with the flow's own.
    let digits = match text.len() {
        32 => text.get(..16).unwrap_or(text),
        _ => text,
    };
    let is_hex = digits.len() == 16 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    let id = u64::from_str_radix(digits, 16).ok().filter(|_| is_hex);
    let message = || format!("`{text}` is no id: it has 16 hexadecimal digits, that of a trace 32");
    id.map(Term::Id).ok_or_else(|| FilterError(message()))
}

fn source(text: &str) -> Result<Term, FilterError> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    let prefix = address.or_else(|_| text.parse::<IpNet>());
    let message = |_| FilterError(format!("`{text}` is no address and no prefix"));
    prefix.map(Term::Source).map_err(message)
}

fn status(text: &str) -> Result<Term, FilterError> {
    let ranges = text.split(',').map(|one| {
        let one = one.trim();
        let message = || FilterError(format!("`{one}` is no status: write 404 or 5xx"));
        let class = one.strip_suffix("xx").or_else(|| one.strip_suffix("XX"));
        let (first, last) = match class {
            Some(class) => {
                let class: u16 = class.parse().map_err(|_| message())?;
                (
                    class.saturating_mul(100),
                    class.saturating_mul(100).saturating_add(99),
                )
            }
            None => one
                .parse()
                .map(|status| (status, status))
                .map_err(|_| message())?,
        };
        match (100..600).contains(&first) {
            true => Ok((first, last)),
            false => Err(message()),
        }
    });
    Ok(Term::Status(ranges.collect::<Result<_, _>>()?))
}

fn verdict(name: &str) -> Result<Term, FilterError> {
    let all = [Outcome::Pass, Outcome::Forward, Outcome::Drop];
    let found = all.into_iter().find(|outcome| outcome.name() == name);
    let message = || FilterError(format!("`{name}` is not pass, forward or drop"));
    found.map(Term::Verdict).ok_or_else(message)
}

fn reason(name: &str) -> Result<Term, FilterError> {
    let found = Reason::ALL.iter().find(|reason| reason.name() == name);
    let message = || FilterError(format!("there is no reason `{name}`"));
    found.copied().map(Term::Reason).ok_or_else(message)
}
