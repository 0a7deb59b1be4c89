//! The keys `tls` and `https_redirect` of a listener.

use super::{elements, need, number, or, time};
use crate::certificates::{self, FileFault, local_authority};
use crate::config::decode::{At, Field};
use crate::config::defaults::tls as defaults;
use crate::config::fault::Code;
use crate::config::file::File;
use crate::config::file::health::CheckTls;
use crate::config::file::listener::Listener;
use crate::config::file::scalar::Text;
use crate::config::file::tls as file;
use crate::config::model::tls::{CertificateSource, ClientAuth, ServerTls, Sessions};
use crate::config::report::{Draft, Place, Report};
use crate::config::yaml::NodeId;
use crate::types::tls::{self as names, TlsVersion};
use rustls::{CipherSuite, NamedGroup};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Lifetimes of tickets (RFC 8446 §4.6.1 allows no more than 7 days).
const LIFETIMES: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(60)..=Duration::from_secs(7 * 24 * 3600);

/// The section `tls`.
pub(super) fn tls(report: &Report<'_>, field: &Field<file::Tls>) -> Option<ServerTls> {
    let at = field.given()?;
    let keys = &at.value;
    let example = "[{certificate: /etc/sluice/a.pem, key: /etc/sluice/a.key}]";
    let listed = need(report, at.node, "certificates", example, &keys.certificates);
    let sources: Vec<_> = elements(&keys.certificates)
        .filter_map(|at| certificate(report, at))
        .collect();
    if let Some(listed) = listed
        && listed.value.is_empty()
    {
        let draft = Draft::new(Code::InvalidValue, "there is no certificate")
            .expected("at least one")
            .fix(format!("write `certificates: {example}`"));
        report.error(Place::Value(listed.node), draft);
    }
    let default = ServerTls::new(sources);
    let version = |field: &Field<_>, default| match field.value() {
        Some(crate::config::file::scalar::Version(version)) => *version,
        None => default,
    };
    let tls = ServerTls {
        min_version: version(&keys.min_version, default.min_version),
        max_version: version(&keys.max_version, default.max_version),
        ciphers: ciphers(report, &keys.ciphers),
        groups: groups(report, &keys.groups),
        server_preference: or(&keys.server_preference, default.server_preference),
        sessions: sessions(report, &keys.sessions),
        client: client(report, &keys.client),
        stapling: or(&keys.stapling, default.stapling),
        strict_sni: or(&keys.strict_sni, default.strict_sni),
        handshake_timeout: time(report, &keys.handshake_timeout, default.handshake_timeout),
        max_handshakes: number(
            report,
            &keys.max_handshakes,
            1..=u32::MAX,
            default.max_handshakes,
        ),
        alpn: elements(&keys.alpn)
            .inspect(|at| super::passthrough::protocol(report, at.node, &at.value.0))
            .map(|at| at.value.0.clone())
            .collect(),
        ..default
    };
    versions(report, at, &tls);
    Some(tls)
}

/// Versions must be in order, and each that is spoken needs a cipher suite.
fn versions(report: &Report<'_>, at: &At<file::Tls>, tls: &ServerTls) {
    let keys = &at.value;
    if tls.min_version > tls.max_version {
        let node = keys.min_version.given().map_or(at.node, |at| at.node);
        let draft = Draft::new(Code::Conflict, "no version is spoken")
            .expected("`min_version` at most `max_version`");
        report.error(Place::Value(node), draft);
        return;
    }
    let Some(listed) = keys.ciphers.given() else {
        return;
    };
    for version in [TlsVersion::V12, TlsVersion::V13] {
        let is_spoken = (tls.min_version..=tls.max_version).contains(&version);
        let of_version = |suite: &CipherSuite| {
            names::suite(names::suite_name(*suite)).is_some_and(|(_, of)| of == version)
        };
        if is_spoken && !tls.ciphers.is_empty() && !tls.ciphers.iter().any(of_version) {
            let draft = Draft::new(
                Code::Conflict,
                format!("no cipher suite of TLS {} is among them", version.word()),
            )
            .fix(match version {
                TlsVersion::V12 => "add one, or write `min_version: 1.3`",
                TlsVersion::V13 => "add one, or write `max_version: 1.2`",
            });
            report.error(Place::Value(listed.node), draft);
        }
    }
}

fn certificate(report: &Report<'_>, at: &At<file::Certificate>) -> Option<CertificateSource> {
    let keys = &at.value;
    if !keys.acme.is_absent() {
        return super::acme::certificate(report, keys);
    }
    if let Some(local) = keys.local.given() {
        let of_files = [
            keys.certificate.given().map(|at| at.node),
            keys.key.given().map(|at| at.node),
            keys.ocsp.given().map(|at| at.node),
        ];
        if let Some(node) = of_files.into_iter().flatten().next() {
            let draft = Draft::new(Code::Conflict, "`local` makes its certificate by itself")
                .fix("remove this, or `local`");
            report.error(Place::Key(node), draft);
        }
        let names: Vec<String> = elements(&keys.local)
            .filter_map(|at| local_name(report, at))
            .collect();
        if local.value.is_empty() {
            let draft = Draft::new(Code::InvalidValue, "there is no name")
                .fix("write `local: [localhost]`");
            report.error(Place::Value(local.node), draft);
        }
        return Some(CertificateSource::Local(names));
    }
    let certificate = need(
        report,
        at.node,
        "certificate",
        "/etc/sluice/a.pem",
        &keys.certificate,
    );
    let key = need(report, at.node, "key", "/etc/sluice/a.key", &keys.key);
    Some(CertificateSource::Files {
        certificate: certificate?.value.0.clone(),
        key: key?.value.0.clone(),
        ocsp: keys.ocsp.value().map(|path| path.0.clone()),
    })
}

fn local_name(report: &Report<'_>, at: &At<Text>) -> Option<String> {
    let name = at.value.0.to_ascii_lowercase();
    let host = name.strip_prefix("*.").unwrap_or(&name);
    if rustls::pki_types::ServerName::try_from(host).is_ok() {
        return Some(name);
    }
    let draft = Draft::new(
        Code::InvalidValue,
        format!("`{name}` is not a name of a host"),
    )
    .expected("a name such as `localhost` or `*.test`, or an address");
    report.error(Place::Value(at.node), draft);
    None
}

fn ciphers(report: &Report<'_>, list: &Field<Vec<Field<Text>>>) -> Vec<CipherSuite> {
    let known = |at: &At<Text>| {
        let found = names::suite(&at.value.0).map(|(suite, _)| suite);
        if found.is_none() {
            unknown(report, at, "a cipher suite", names::suite_names().collect());
        }
        found
    };
    elements(list).filter_map(known).collect()
}

fn groups(report: &Report<'_>, list: &Field<Vec<Field<Text>>>) -> Vec<NamedGroup> {
    let known = |at: &At<Text>| {
        let found = names::group(&at.value.0);
        if found.is_none() {
            unknown(report, at, "a group", names::group_names().collect());
        }
        found
    };
    elements(list).filter_map(known).collect()
}

fn unknown(report: &Report<'_>, at: &At<Text>, what: &str, known: Vec<&'static str>) {
    let name = &at.value.0;
    let draft = Draft::new(
        Code::InvalidValue,
        format!("`{name}` is not {what} that is spoken here"),
    )
    .expected(known.join(", "))
    .did_you_mean(name, known);
    report.error(Place::Value(at.node), draft);
}

fn sessions(report: &Report<'_>, field: &Field<file::Sessions>) -> Sessions {
    let default = Sessions::default();
    let Some(keys) = field.value() else {
        return default;
    };
    if let Some(at) = keys.ticket_lifetime.given()
        && !LIFETIMES.contains(&at.value.0)
    {
        let draft = Draft::new(
            Code::InvalidValue,
            format!("`{}` is out of range", at.value),
        )
        .expected("from `1m` to `7days`");
        report.error(Place::Value(at.node), draft);
    }
    Sessions {
        cache: or(&keys.cache, default.cache),
        tickets: or(&keys.tickets, default.tickets),
        ticket_lifetime: keys
            .ticket_lifetime
            .value()
            .map_or(default.ticket_lifetime, |time| time.0),
    }
}

fn client(report: &Report<'_>, field: &Field<file::ClientAuth>) -> Option<ClientAuth> {
    let at = field.given()?;
    let keys = &at.value;
    let ca = need(report, at.node, "ca", "/etc/sluice/clients.pem", &keys.ca);
    let headers: Vec<_> = elements(&keys.headers).map(|at| at.value).collect();
    let is_told = |word| headers.contains(&word);
    Some(ClientAuth {
        ca: ca?.value.0.clone(),
        required: or(&keys.mode, file::ClientMode::Require) == file::ClientMode::Require,
        crl: keys.crl.value().map(|path| path.0.clone()),
        depth: number(report, &keys.depth, 0..=10, defaults::CLIENT_DEPTH),
        xfcc: keys.headers.is_absent() || is_told(file::ClientHeaders::Xfcc),
        x_ssl: is_told(file::ClientHeaders::XSsl),
    })
}

/// What `tls` does not have where HTTP is spoken.
pub(super) fn of_http(report: &Report<'_>, field: &Field<file::Tls>) {
    if let Some(at) = field.value().and_then(|keys| keys.alpn.given()) {
        let draft = Draft::new(
            Code::Conflict,
            "HTTP says itself which protocols are offered",
        )
        .expected("kind `tcp`")
        .fix("remove it; `http2` says whether `h2` is offered");
        report.error(Place::Key(at.node), draft);
    }
}

/// What `tls` does not have where TCP is passed on.
pub(super) fn of_tcp(report: &Report<'_>, keys: &Listener) {
    let client = keys.tls.value().and_then(|tls| tls.client.value());
    if let Some(at) = client.and_then(|client| client.headers.given()) {
        let draft = Draft::new(Code::Conflict, "TCP that is passed on has no headers")
            .expected("kind `http`")
            .fix("remove it; a service with `send_proxy: v2` tells backends of the certificate");
        report.error(Place::Key(at.node), draft);
    }
}

/// The key `https_redirect`.
pub(super) fn redirect(report: &Report<'_>, keys: &Listener) {
    let Some(at) = keys
        .https_redirect
        .given()
        .filter(|at| at.value.0.is_some())
    else {
        return;
    };
    if keys.tls.given().is_some() {
        let draft = Draft::new(Code::Conflict, "this listener speaks HTTPS itself")
            .fix("remove `https_redirect`, and give it to the listener without `tls`");
        report.error(Place::Key(at.node), draft);
    } else if let Some(service) = keys.service.given() {
        let draft = Draft::new(
            Code::Conflict,
            "every request is redirected, so the service is never asked",
        )
        .fix("remove `service`, or `https_redirect`");
        report.error(Place::Value(service.node), draft);
    }
}

/// Judges the files that all sections `tls` name.
pub(in crate::config) fn files(report: &Report<'_>, file: &File) {
    super::acme::files(report, &file.acme);
    for service in elements(&file.services) {
        if let Some(keys) = service.value.tls.value() {
            super::backend_tls::files(report, keys);
        }
        let check = service.value.health.value();
        if let Some(CheckTls::Keys(keys)) = check.and_then(|check| check.tls.value()) {
            super::backend_tls::files(report, keys);
        }
    }
    for listener in elements(&file.listeners) {
        let Some(keys) = listener.value.tls.value() else {
            continue;
        };
        for at in elements(&keys.certificates) {
            certificate_files(report, at);
        }
        if let Some(client) = keys.client.value() {
            if let Some(at) = client.ca.given() {
                noted(report, at.node, certificates::read_roots(&at.value.0));
            }
            if let Some(at) = client.crl.given() {
                noted(report, at.node, certificates::read_revocations(&at.value.0));
            }
        }
    }
}

fn certificate_files(report: &Report<'_>, at: &At<file::Certificate>) {
    let keys = &at.value;
    if let Some(local) = keys.local.given()
        && let Err(error) = local_authority(None)
    {
        report.error(
            Place::Key(local.node),
            Draft::new(Code::InvalidValue, error.to_string()),
        );
    }
    if let (Some(certificate), Some(key)) = (keys.certificate.given(), keys.key.given()) {
        let (of_certificate, of_key): (&Path, &Path) = (&certificate.value.0, &key.value.0);
        match certificates::read_pair(of_certificate, of_key, SystemTime::now()) {
            Ok(pair) => {
                for warning in pair.warnings {
                    report.warn(
                        Place::Value(certificate.node),
                        warning,
                        "replace it, or change its mode with `chmod 600`",
                    );
                }
            }
            Err(fault) => {
                let is_key = fault.path == of_key && of_key != of_certificate;
                let node = if is_key { key.node } else { certificate.node };
                noted::<()>(report, node, Err(fault));
            }
        }
    }
    if let Some(at) = keys.ocsp.given() {
        noted(report, at.node, certificates::read_ocsp(&at.value.0));
    }
}

pub(super) fn noted<T>(report: &Report<'_>, node: NodeId, read: Result<T, FileFault>) {
    if let Err(fault) = read {
        report.error(
            Place::Value(node),
            Draft::new(Code::InvalidValue, fault.to_string()),
        );
    }
}
