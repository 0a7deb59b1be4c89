//! Condemned sources: who abuses the proxies is not heard any more for a while.
//!
//! ```text
//!  workers: refusal, flood, …                    control task
//!  ─────────────────────────                     ────────────
//!  offence ─▶ exempt? ─▶ ledger ──N within T──▶ accusation ─▶ hearing ─▶ register
//!                        (counts by source)                   (spared?)    │
//!  accept ◀── barred ◀─────────────────────────────────────────────────────┤
//!  driver ◀── guard's table of the kernel ◀────────────────────────────────┘
//! ```
//!
//! A refused request costs its sender nothing and us a parse and an answer; a condemned source
//! costs us a table lookup at the driver, or, where the kernel part does not see its packets, a
//! connection that is reset as soon as it is accepted.
//!
//! **Who is judged.** Only whoever is connected with us directly, by TCP, so that the address is
//! proven by a handshake. An address that a PROXY header or `X-Forwarded-For` names is somebody's
//! word, and a proxy stands for many: neither is ever condemned, and no proxy that any listener
//! trusts, whichever listener it has offended at.
//!
//! **What counts.** [`Offence::of`] says which refusals do: those that no honest client causes; and
//! [`Offence::of_answer`] which answers do, where the configuration asks for it: those of a rate
//! limit, and those to credentials that are not accepted, whoever gave them. An
//! offence is counted for its source, which is an IPv4 address or the first 64 bits of an IPv6
//! address, over a sliding window ([`Ledger`]).
//!
//! **Many behind one address.** Whole offices and mobile networks share an address. A source is
//! spared if more than a share of its connections behaves well ([`is_shared`]): connections that
//! have served something and have not offended, those that have ended within the window and those
//! that are open. An abuser can buy this protection by as many good connections as it makes
//! offences; it then costs as much as other clients do.
//!
//! **Bounds.** The ledger has room for [`ledger::SUSPECTS`] sources; one more takes the place of
//! one that has not offended for the longest time among the eight that it may displace. The
//! register has as many entries as configured; when it is full, nobody is condemned before some
//! entry's time is over, and that is counted. Accusations that nobody has heard yet are
//! [`watch::ACCUSED`] at most; later ones are forgotten, and the source has to offend anew.
//!
//! Everything but [`Watch`] is pure: time is an argument, in nanoseconds of any one clock.

pub mod barred;
pub mod ledger;
pub mod register;
pub mod watch;

pub use crate::config::model::condemn::{Condemn, Offence};
pub use barred::{Bar, Barred};
pub use ledger::{Ledger, Tally};
pub use register::{Entered, Register, Sentence};
pub use watch::{Accusation, Judged, Plan, Standing, Watch};

use crate::message::{Method, Name, Refusal, RequestHead};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::IpAddr;

impl Offence {
    /// The offence that a client's message which was refused is, if it is one: none where an honest
    /// client may have made a mistake, or has a network that fails.
    pub const fn of(refusal: Refusal) -> Option<Self> {
        use Refusal as R;
        match refusal {
            R::RequestLine
            | R::Method
            | R::Target
            | R::PathNul
            | R::Version
            | R::BareLineEnd
            | R::FieldName
            | R::FieldValue
            | R::ObsFold
            | R::HostAmbiguous
            | R::HostInvalid
            | R::ContentLength
            | R::LengthConflict
            | R::TransferEncoding
            | R::Chunk
            | R::Trailers
            | R::Upgrade
            | R::PseudoField
            | R::ForbiddenField
            | R::LengthMismatch
            | R::Preface
            | R::Malformed
            | R::Frame => Some(Self::Malformed),
            R::Flood => Some(Self::Flood),
            R::NotTls | R::TlsRecord | R::ClientHello | R::ServerName | R::Alpn => {
                Some(Self::Handshake)
            }
            R::HeadTimeout | R::BodyTimeout | R::ClientHelloTimeout => Some(Self::Slow),
            // Links that somebody has written by hand, and monitors as old as HTTP/1.1.
            R::PathEncoding | R::PathAmbiguous | R::HostMissing => None,
            // Too much, or nothing that is served here.
            R::MethodNotAllowed
            | R::TargetTooLong
            | R::TooManyFields
            | R::HeadTooLong
            | R::TransferCodingUnknown
            | R::ContentTooLong
            | R::Expectation
            | R::Misdirected
            | R::ClientHelloTooLong
            | R::ServerNameUnknown
            | R::AlpnUnknown => None,
            // A client that went away, or does not believe us: handshakes are judged by their error.
            R::Truncated | R::TlsHandshake => None,
            // A backend's, or a proxy's.
            R::StatusLine | R::Surplus | R::Informational | R::ProxyHeader => None,
        }
    }
}

impl Offence {
    /// The offence for which a request got this answer, if it is one.
    ///
    /// A challenge to a request without credentials is how RFC 9110 §11 has them asked for, so that
    /// only those that were given count, in a field or by a form.
    pub fn of_answer(request: &RequestHead, status: u16) -> Option<Self> {
        let has = |name: Name| request.fields.get(name).is_some();
        // RFC 9110 §9.2.1.
        let is_safe = matches!(
            request.method,
            Method::Get | Method::Head | Method::Options | Method::Trace
        );
        match status {
            429 => Some(Self::Limited),
            401 if has(Name::Authorization) || !is_safe => Some(Self::Unauthorized),
            407 if has(Name::ProxyAuthorization) => Some(Self::Unauthorized),
            _ => None,
        }
    }
}

/// The source that an address belongs to.
pub fn source_of(address: IpAddr, ipv6_prefix: u8) -> IpNet {
    match address.to_canonical() {
        IpAddr::V4(v4) => Ipv4Net::new(v4, 32).map_or(IpNet::from(address), IpNet::V4),
        IpAddr::V6(v6) => {
            let net = Ipv6Net::new(v6, ipv6_prefix.min(128));
            net.map_or(IpNet::from(address), |net| IpNet::V6(net.trunc()))
        }
    }
}

/// True if a source is taken for an address that many share: more than `above` (0..=1) of its
/// connections behave well. Each offence stands for a connection that does not. `open`:
/// connections that behave well and are open now.
pub fn is_shared(tally: Tally, open: u32, above: f64) -> bool {
    let good = f64::from(tally.behaved) + f64::from(open);
    let all = good + f64::from(tally.offences);
    good > above * all
}

#[cfg(test)]
mod tests;
