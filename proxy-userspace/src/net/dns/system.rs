//! DNS as this host is configured to ask it: `/etc/resolv.conf` and `/etc/hosts`.

use super::{Answer, Failure, Resolve};
use crate::balance::l7::Resolved;
use crate::config::model::http::DnsQuestion;
use futures_util::stream::{self, StreamExt};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{RData, RecordType};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Asks the name servers of this host.
#[derive(Clone)]
pub struct SystemResolver(TokioResolver);

/// Hosts of one SRV answer that are asked for.
const MAX_HOSTS: usize = 64;

/// Of these, at once.
const AT_ONCE: usize = 8;

/// How long an address holds that was given as such.
const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

impl SystemResolver {
    /// Reads the host's configuration. Must be called within a tokio runtime, and is used in it.
    ///
    /// # Errors
    ///
    /// [`Failure::Unanswered`] if it cannot be read.
    pub fn new() -> Result<Self, Failure> {
        let mut builder = TokioResolver::builder_tokio().map_err(unanswered)?;
        no_cache(builder.options_mut());
        Ok(Self(builder.build().map_err(unanswered)?))
    }

    /// Asks other name servers.
    ///
    /// # Errors
    ///
    /// [`Failure::Unanswered`] if the configuration is not usable.
    pub fn with_config(config: ResolverConfig, options: ResolverOpts) -> Result<Self, Failure> {
        let mut builder =
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
                .with_options(options);
        no_cache(builder.options_mut());
        Ok(Self(builder.build().map_err(unanswered)?))
    }

    /// IPv4 and IPv6 addresses of a host.
    async fn host(&self, host: &str) -> Result<Addresses, Failure> {
        if let Ok(ip) = host.parse() {
            return Ok(Addresses {
                ips: vec![ip],
                ttl: FOREVER,
                is_complete: true,
            });
        }
        let (v4, v6) = tokio::join!(
            self.records(host, RecordType::A, ip_of),
            self.records(host, RecordType::AAAA, ip_of)
        );
        match (v4, v6) {
            (Ok((mut ips, ttl)), Ok((more, other_ttl))) => {
                ips.extend(more);
                Ok(Addresses {
                    ips,
                    ttl: ttl.min(other_ttl),
                    is_complete: true,
                })
            }
            // A host of one family is whole; one whose other family nobody could tell is not.
            (Ok((ips, ttl)), Err(other)) | (Err(other), Ok((ips, ttl))) => Ok(Addresses {
                ips,
                ttl,
                is_complete: matches!(other, Failure::NoSuchName { .. }),
            }),
            // Only if both families are denied, the name is.
            (Err(Failure::NoSuchName { .. }), Err(other)) | (Err(other), Err(_)) => Err(other),
        }
    }

    /// Hosts of a service, and their addresses.
    async fn service(&self, name: &str) -> Result<Answer, Failure> {
        let srv_of = |data: &RData| match data {
            RData::SRV(srv) => Some(srv.clone()),
            _ => None,
        };
        let (mut records, ttl) = self.records(name, RecordType::SRV, srv_of).await?;
        // "." says that the service is not offered here (RFC 2782).
        records.retain(|record| !record.target.is_root());
        records.sort_by_key(|record| record.priority);
        let is_cut = records.len() > MAX_HOSTS;
        records.truncate(MAX_HOSTS);
        let hosts: Vec<String> = records.iter().map(|r| r.target.to_string()).collect();
        let asked = stream::iter(hosts.iter().map(|host| self.host(host)));
        let answers: Vec<_> = asked.buffered(AT_ONCE).collect().await;

        let mut answer = Answer {
            found: Vec::new(),
            ttl,
            is_complete: !is_cut,
        };
        for ((record, rank), addresses) in records.iter().zip(ranks(&records)).zip(answers) {
            match addresses {
                Ok(addresses) => {
                    answer.ttl = answer.ttl.min(addresses.ttl);
                    answer.is_complete &= addresses.is_complete;
                    answer.found.extend(addresses.ips.iter().map(|ip| Resolved {
                        rank,
                        address: SocketAddr::new(*ip, record.port),
                        // Weight 0 is "nearly never" (RFC 2782), and with us "not at all".
                        weight: record.weight.max(1),
                    }));
                }
                Err(Failure::NoSuchName { .. }) => {}
                Err(Failure::Unanswered(_)) => answer.is_complete = false,
            }
        }
        if answer.found.is_empty() && answer.is_complete {
            return Err(Failure::NoSuchName { ttl: Some(ttl) });
        }
        if answer.found.is_empty() {
            return Err(Failure::Unanswered(
                "no host of the service has an answer".into(),
            ));
        }
        Ok(answer)
    }

    /// What `pick` makes of the records of a type, and how long they hold.
    async fn records<T>(
        &self,
        name: &str,
        kind: RecordType,
        pick: impl Fn(&RData) -> Option<T>,
    ) -> Result<(Vec<T>, Duration), Failure> {
        let lookup = self.0.lookup(name, kind).await.map_err(failure)?;
        let answers = lookup.answers().iter();
        let found: Vec<T> = answers.filter_map(|record| pick(&record.data)).collect();
        let ttl = lookup
            .valid_until()
            .saturating_duration_since(Instant::now());
        if found.is_empty() {
            return Err(Failure::NoSuchName { ttl: Some(ttl) });
        }
        Ok((found, ttl))
    }
}

impl Resolve for SystemResolver {
    async fn resolve(&self, question: &DnsQuestion) -> Result<Answer, Failure> {
        match question {
            DnsQuestion::Host(host, port) => {
                let addresses = self.host(host).await?;
                let found = addresses.ips.iter().map(|ip| Resolved {
                    rank: 0,
                    address: SocketAddr::new(*ip, *port),
                    weight: 1,
                });
                Ok(Answer {
                    found: found.collect(),
                    ttl: addresses.ttl,
                    is_complete: addresses.is_complete,
                })
            }
            DnsQuestion::Service(name) => self.service(name).await,
        }
    }
}

impl std::fmt::Debug for SystemResolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SystemResolver")
    }
}

/// Addresses of a host.
struct Addresses {
    ips: Vec<IpAddr>,
    ttl: Duration,
    is_complete: bool,
}

fn ip_of(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(a) => Some(a.0.into()),
        RData::AAAA(aaaa) => Some(aaaa.0.into()),
        _ => None,
    }
}

/// Priorities as numbers from 0 on, for they are compared only (RFC 2782).
fn ranks(records: &[SRV]) -> Vec<u8> {
    let priorities: BTreeSet<u16> = records.iter().map(|record| record.priority).collect();
    let rank = |record: &SRV| priorities.range(..record.priority).count();
    records
        .iter()
        .map(|record| u8::try_from(rank(record)).unwrap_or(u8::MAX))
        .collect()
}

/// We ask when an answer has expired, never before; a cache could only be wrong.
fn no_cache(options: &mut ResolverOpts) {
    options.cache_size = 0;
}

fn failure(error: NetError) -> Failure {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none))
            if matches!(
                none.response_code,
                ResponseCode::NXDomain | ResponseCode::NoError
            ) =>
        {
            let ttl = none.negative_ttl.map(u64::from);
            Failure::NoSuchName {
                ttl: ttl.map(Duration::from_secs),
            }
        }
        error => unanswered(error),
    }
}

fn unanswered(error: NetError) -> Failure {
    Failure::Unanswered(error.into())
}
