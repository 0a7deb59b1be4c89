//! The key `tls` of a listener.

use super::scalar::{FilePath, Text, Time, Version};
use crate::config::decode::Field;
use crate::config::defaults::{self, tls as tls_defaults};
use schemars::JsonSchema;
use serde::Deserialize;

/// TLS at a listener. Files are read again on reload, and by itself when they change; one that
/// cannot be used refuses the reload, and what was in force stays.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tls {
    /// The certificates. A client gets the one for the name that it asks for (exact names first,
    /// then `*.` ones; of several the first that the client can check, ECDSA before RSA), else the first.
    pub(crate) certificates: Field<Vec<Field<Certificate>>>,
    /// The oldest version that is spoken.
    #[serde(default)]
    #[schemars(extend("default" = "1.2"))]
    pub(crate) min_version: Field<Version>,
    /// The newest version that is spoken.
    #[serde(default)]
    #[schemars(extend("default" = "1.3"))]
    pub(crate) max_version: Field<Version>,
    /// Cipher suites, the preferred one first, by their names of IANA or OpenSSL. Without it all
    /// that are known, which are all good.
    #[serde(default)]
    pub(crate) ciphers: Field<Vec<Field<Text>>>,
    /// Groups for key exchange, the preferred one first. Without it `X25519MLKEM768`, `x25519`,
    /// `secp256r1` and `secp384r1`.
    #[serde(default)]
    pub(crate) groups: Field<Vec<Field<Text>>>,
    /// `true` has our order of cipher suites decide. Else the client's does: all are good, and it
    /// knows which its processor is fast at.
    #[serde(default)]
    #[schemars(extend("default" = false))]
    pub(crate) server_preference: Field<bool>,
    /// How sessions are resumed.
    #[serde(default)]
    pub(crate) sessions: Field<Sessions>,
    /// Asks clients for certificates.
    #[serde(default)]
    pub(crate) client: Field<ClientAuth>,
    /// Asks the responders that certificates name for their status (OCSP, RFC 6960) and staples
    /// the answer. Certificates that name none, and those with a file `ocsp`, are left as they are.
    #[serde(default)]
    #[schemars(extend("default" = true))]
    pub(crate) stapling: Field<bool>,
    /// `true` refuses clients that ask for no name or for one that no certificate is for, and
    /// answers requests for a host that the connection's certificate is not for with 421.
    #[serde(default)]
    #[schemars(extend("default" = false))]
    pub(crate) strict_sni: Field<bool>,
    /// How long a handshake may take.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(tls_defaults::HANDSHAKE_TIMEOUT)))]
    pub(crate) handshake_timeout: Field<Time>,
    /// Handshakes of one worker at once; connections beyond that are closed.
    #[serde(default)]
    #[schemars(range(min = 1), extend("default" = tls_defaults::MAX_HANDSHAKES))]
    pub(crate) max_handshakes: Field<u32>,
    /// Application protocols (ALPN), the preferred one first; a client that offers protocols and
    /// none of these is refused. Only with `kind: tcp`: what HTTP offers is told by `http2`.
    #[serde(default)]
    #[schemars(extend("default" = []))]
    pub(crate) alpn: Field<Vec<Field<Text>>>,
}

/// A certificate: `certificate` and `key`, `acme`, or `local`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Certificate {
    /// A PEM file with the certificate, and the intermediate ones behind it.
    #[serde(default)]
    pub(crate) certificate: Field<FilePath>,
    /// A PEM file with its key.
    #[serde(default)]
    pub(crate) key: Field<FilePath>,
    /// A file with an OCSP response in DER, which is stapled.
    #[serde(default)]
    pub(crate) ocsp: Field<FilePath>,
    /// Names for which an authority issues a certificate by itself, as the section `acme` says. The
    /// first names it.
    #[serde(default)]
    pub(crate) acme: Field<Vec<Field<Text>>>,
    /// Names and addresses for which the local authority issues a certificate: for trying things
    /// out. Its own certificate is kept in `$STATE_DIRECTORY` or `~/.local/share/sluice`.
    #[serde(default)]
    pub(crate) local: Field<Vec<Field<Text>>>,
}

/// How sessions are resumed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sessions {
    /// Sessions that are kept here, for clients without tickets; 0 for none.
    #[serde(default)]
    #[schemars(extend("default" = tls_defaults::SESSION_CACHE))]
    pub(crate) cache: Field<u32>,
    /// `false` gives clients no tickets.
    #[serde(default)]
    #[schemars(extend("default" = true))]
    pub(crate) tickets: Field<bool>,
    /// How long a ticket is good, from `1m` to `7days`; the key that seals tickets is changed as
    /// often.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(tls_defaults::TICKET_LIFETIME)))]
    pub(crate) ticket_lifetime: Field<Time>,
}

/// Certificates of clients.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClientAuth {
    /// A PEM file with the certificates of the authorities that are believed.
    pub(crate) ca: Field<FilePath>,
    /// What becomes of clients without a certificate. One that is not good is always refused.
    #[serde(default)]
    #[schemars(extend("default" = "require"))]
    pub(crate) mode: Field<ClientMode>,
    /// A PEM file with lists of revoked certificates. With it each certificate's status must be
    /// known: a list of every authority that issues must be in it.
    #[serde(default)]
    pub(crate) crl: Field<FilePath>,
    /// Intermediate certificates that a client may send with its own.
    #[serde(default)]
    #[schemars(range(min = 0, max = 10), extend("default" = tls_defaults::CLIENT_DEPTH))]
    pub(crate) depth: Field<u32>,
    /// How backends are told about a client's certificate. What clients send under these names
    /// is always removed. Only with `kind: http`: with `kind: tcp` the service's
    /// `send_proxy: v2` tells of it.
    #[serde(default)]
    #[schemars(extend("default" = ["xfcc"]))]
    pub(crate) headers: Field<Vec<Field<ClientHeaders>>>,
}

/// What becomes of clients without a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ClientMode {
    /// They are refused.
    Require,
    /// They are served.
    Optional,
}

/// How backends are told about a client's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ClientHeaders {
    /// `X-Forwarded-Client-Cert`, as Envoy writes it.
    Xfcc,
    /// `X-SSL-Client-Verify`, `-DN`, `-Issuer`, `-Serial`, `-Fingerprint`, `-Not-After`.
    XSsl,
}
