//! The section `condemn`.

use super::scalar::{Network, Percent, Time};
use crate::config::decode::Field;
use crate::config::defaults::{self, condemn as condemn_defaults};
use crate::config::model::condemn::Offence;
use schemars::JsonSchema;
use serde::Deserialize;

/// When sources are condemned for what they do to the proxies' listeners, and for how long. Only
/// who is connected with us directly is, never whom a PROXY header or `X-Forwarded-For` names, and
/// never a proxy that some listener trusts. See [operations](operations.md).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Condemn {
    /// How many offences of each kind condemn.
    #[serde(default)]
    pub(crate) offences: Field<Offences>,
    /// Over what time offences are counted, at most `1h`.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(condemn_defaults::WITHIN)))]
    pub(crate) within: Field<Time>,
    /// How long a first condemnation lasts. Each further one of the same source takes twice as long
    /// as the one before.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(condemn_defaults::DURATION)))]
    pub(crate) duration: Field<Time>,
    /// No condemnation takes longer.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(condemn_defaults::MAX_DURATION)))]
    pub(crate) max_duration: Field<Time>,
    /// For how long after its end a condemnation makes the next one longer.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(condemn_defaults::REMEMBER)))]
    pub(crate) remember: Field<Time>,
    /// A source is spared if more than this share of its connections behaves well: others use the
    /// same address, behind address translation for example. `100%` spares nobody.
    #[serde(default)]
    #[schemars(extend("default" = defaults::percent(condemn_defaults::SPARE_ABOVE)))]
    pub(crate) spare_above: Field<Percent>,
    /// Sources that are never condemned. What is given stands in the place of the default.
    #[serde(default)]
    #[schemars(extend("default" = condemn_defaults::EXEMPT))]
    pub(crate) exempt: Field<Vec<Field<Network>>>,
    /// Leading bits of an IPv6 address that make a source: with fewer, one customer cannot evade by
    /// another address; with more, fewer suffer for others. From 32 to 128.
    #[serde(default)]
    #[schemars(extend("default" = condemn_defaults::IPV6_PREFIX))]
    pub(crate) ipv6_prefix: Field<u8>,
    /// Sources condemned at a time, at most; of more, none is condemned before another's time is
    /// over. At most 50000.
    #[serde(default)]
    #[schemars(extend("default" = condemn_defaults::MAX_ENTRIES))]
    pub(crate) max_entries: Field<u32>,
    /// Counts and logs who would be condemned, and condemns nobody.
    #[serde(default)]
    #[schemars(extend("default" = false))]
    pub(crate) dry_run: Field<bool>,
}

/// Offences that condemn, by kind; 0: not looked at.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Offences {
    /// Requests that no honest client sends: malformed lines, fields, framing or frames.
    #[serde(default)]
    #[schemars(extend("default" = condemn_defaults::offences(Offence::Malformed)))]
    pub(crate) malformed: Field<u32>,
    /// Connections of HTTP/2 with a flood of resets, pings, settings or continuations.
    #[serde(default)]
    #[schemars(extend("default" = condemn_defaults::offences(Offence::Flood)))]
    pub(crate) flood: Field<u32>,
    /// Connections that should have begun with TLS and did not, or broke its rules. Clients with
    /// which there is no common version or cipher, or that do not believe a certificate, have not
    /// offended.
    #[serde(default)]
    #[schemars(extend("default" = condemn_defaults::offences(Offence::Handshake)))]
    pub(crate) handshake: Field<u32>,
    /// Heads, contents and handshakes that had begun and did not come in time.
    #[serde(default)]
    #[schemars(extend("default" = condemn_defaults::offences(Offence::Slow)))]
    pub(crate) slow: Field<u32>,
    /// Requests that were answered with 429, by us or by a backend.
    #[serde(default)]
    #[schemars(extend("default" = condemn_defaults::offences(Offence::Limited)))]
    pub(crate) limited: Field<u32>,
    /// Credentials that were not accepted: answers of 401 to requests with `Authorization`, or with
    /// a method that is not safe, as login forms use; and of 407 to those with
    /// `Proxy-Authorization`. The first request of a browser, which has no credentials yet, is none.
    #[serde(default)]
    #[schemars(extend("default" = condemn_defaults::offences(Offence::Unauthorized)))]
    pub(crate) unauthorized: Field<u32>,
}
