//! What is in a certificate, for people and for choosing.

use rustls::pki_types::CertificateDer;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};
use x509_parser::x509::X509Name;

/// What is in a certificate.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct CertificateView {
    /// Names of hosts in lower case, `*.` in front for all of a domain; and addresses.
    pub names: Vec<String>,
    /// URIs that it is for, as of SPIFFE.
    pub uris: Vec<String>,
    /// Whose it is (RFC 4514).
    pub subject: String,
    /// Who has issued it (RFC 4514).
    pub issuer: String,
    /// Its number in hexadecimal digits.
    pub serial: String,
    /// SHA-256 of the certificate in hexadecimal digits.
    pub fingerprint: String,
    /// First second of its validity, since the Unix epoch.
    pub not_before: i64,
    /// Last second of its validity, since the Unix epoch.
    pub not_after: i64,
    /// Where it comes from: a file, `acme`, `local`, or `stand-in` where nothing was issued yet.
    pub source: String,
}

impl CertificateView {
    /// Reads a certificate; says why it is none.
    ///
    /// # Errors
    ///
    /// Why it is none, as the rest of a sentence that begins with the file's name.
    pub fn of(certificate: &CertificateDer<'_>, source: &str) -> Result<Self, String> {
        let (_, parsed) = X509Certificate::from_der(certificate)
            .map_err(|error| format!("holds something that is no certificate: {error}"))?;
        Ok(Self {
            names: names(&parsed),
            uris: uris(&parsed),
            subject: distinguished_name(parsed.subject()),
            issuer: distinguished_name(parsed.issuer()),
            serial: hex(parsed.raw_serial()),
            fingerprint: fingerprint(certificate),
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
            source: source.to_owned(),
        })
    }

    /// A warning if it is not valid now.
    pub(super) fn out_of_date(&self, now: SystemTime) -> Option<String> {
        let now = now.duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap_or_default().as_secs() as i64;
        let day = |seconds: i64| {
            let at = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
            humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + at).to_string()
        };
        let source = &self.source;
        if self.not_after < now {
            let day = day(self.not_after);
            return Some(format!("the certificate in `{source}` expired at {day}"));
        }
        if self.not_before > now {
            let day = day(self.not_before);
            return Some(format!(
                "the certificate in `{source}` is valid only from {day} on"
            ));
        }
        None
    }

    /// True if the certificate is for this host, which is in lower case.
    pub fn covers(&self, host: &str) -> bool {
        let domain = host.split_once('.').map(|(_, domain)| domain);
        self.names.iter().any(|name| match name.strip_prefix("*.") {
            Some(parent) => domain == Some(parent),
            None => name == host,
        })
    }
}

/// The first common name of a certificate's subject, if it has one.
pub fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let name = parsed.subject().iter_common_name().next()?;
    name.as_str().ok().map(str::to_owned)
}

/// Names of hosts that a certificate is for. The common name counts only where there are no
/// others, as in certificates that were made by hand.
fn names(parsed: &X509Certificate<'_>) -> Vec<String> {
    let alternative = parsed.subject_alternative_name().ok().flatten();
    let Some(alternative) = alternative else {
        let names = parsed.subject().iter_common_name();
        let names = names.filter_map(|name| name.as_str().ok());
        return names.map(str::to_ascii_lowercase).collect();
    };
    let names = alternative.value.general_names.iter();
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            GeneralName::IPAddress(octets) => match **octets {
                [a, b, c, d] => Some(std::net::Ipv4Addr::new(a, b, c, d).to_string()),
                _ => {
                    let octets: [u8; 16] = (*octets).try_into().ok()?;
                    Some(std::net::Ipv6Addr::from(octets).to_string())
                }
            },
            _ => None,
        })
        .collect()
}

fn uris(parsed: &X509Certificate<'_>) -> Vec<String> {
    let alternative = parsed.subject_alternative_name().ok().flatten();
    let names = alternative.map(|names| names.value.general_names.as_slice());
    let uris = names
        .unwrap_or_default()
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some((*uri).to_owned()),
            _ => None,
        });
    uris.collect()
}

/// A name as RFC 4514 has it, the most specific part first: `CN=a,O=b`. Octets that are not
/// printable ASCII are escaped, so that it can stand in a field.
pub fn distinguished_name(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    let parts: Vec<_> = name.iter_rdn().collect();
    for part in parts.into_iter().rev() {
        for (at, attribute) in part.iter().enumerate() {
            if !text.is_empty() {
                text.push(if at == 0 { ',' } else { '+' });
            }
            let oid = attribute.attr_type();
            match x509_parser::objects::oid2abbrev(oid, x509_parser::objects::oid_registry()) {
                Ok(short) => text.push_str(short),
                Err(_) => text.push_str(&oid.to_id_string()),
            }
            text.push('=');
            match attribute.as_str() {
                Ok(value) => escape(value, &mut text),
                Err(_) => {
                    text.push('#');
                    text.push_str(&hex(attribute.as_slice()));
                }
            }
        }
    }
    text
}

/// RFC 4514 §2.4.
fn escape(value: &str, text: &mut String) {
    for (at, letter) in value.chars().enumerate() {
        match letter {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => {
                text.push('\\');
                text.push(letter);
            }
            '#' | ' ' if at == 0 => {
                text.push('\\');
                text.push(letter);
            }
            ' '..='~' => text.push(letter),
            _ => {
                let mut octets = [0; 4];
                for octet in letter.encode_utf8(&mut octets).bytes() {
                    let _ = write!(text, "\\{octet:02X}");
                }
            }
        }
    }
}

/// SHA-256 of a certificate in hexadecimal digits.
pub fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate).as_ref())
}

/// Hexadecimal digits in lower case.
pub fn hex(octets: &[u8]) -> String {
    let mut text = String::with_capacity(2 * octets.len());
    for octet in octets {
        let _ = write!(text, "{octet:02x}");
    }
    text
}
