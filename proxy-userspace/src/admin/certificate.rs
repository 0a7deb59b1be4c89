//! What is told of a certificate.

use crate::observe::view::CertificateView;
use aws_lc_rs::digest::{SHA256, digest};
use std::fmt::Write as _;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// What a certificate says of itself; `None` if it cannot be read. `source` is where it came from,
/// `used_by` who shows it.
pub fn view(der: &[u8], used_by: &str, source: &str) -> Option<CertificateView> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|names| &names.value.general_names);
    let validity = certificate.validity();
    Some(CertificateView {
        used_by: used_by.to_owned(),
        subject: certificate.subject().to_string(),
        names: names.filter_map(name).collect(),
        issuer: certificate.issuer().to_string(),
        serial: certificate.raw_serial_as_string(),
        not_before_seconds: validity.not_before.timestamp(),
        not_after_seconds: validity.not_after.timestamp(),
        fingerprint: hex(digest(&SHA256, der).as_ref()),
        source: source.to_owned(),
        next_order_seconds: None,
        order_error: None,
        ocsp: None,
    })
}

/// The subject of a certificate.
pub fn subject(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(certificate.subject().to_string())
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress([a, b, c, d]) => Some(format!("{a}.{b}.{c}.{d}")),
        GeneralName::IPAddress(octets) => {
            let octets: [u8; 16] = (*octets).try_into().ok()?;
            Some(std::net::Ipv6Addr::from(octets).to_string())
        }
        _ => None,
    }
}

fn hex(octets: &[u8]) -> String {
    octets.iter().fold(String::new(), |mut text, octet| {
        let _ = write!(text, "{octet:02x}");
        text
    })
}
