//! The section `acme`, and the certificates that listeners want by it.

use super::fields::not_empty;
use super::{Listeners, elements, need};
use crate::certificates::{self, AcmeStore};
use crate::config::decode::{At, Field};
use crate::config::defaults::acme as defaults;
use crate::config::fault::Code;
use crate::config::file::File;
use crate::config::file::acme as file;
use crate::config::file::scalar::Text;
use crate::config::file::tls::Certificate;
use crate::config::model::acme::{
    Acme, AcmeCertificate, Challenge, ExternalAccount, KeyKind, UntilIssued,
};
use crate::config::model::tls::CertificateSource;
use crate::config::report::{Draft, Place, Report};
use std::collections::HashMap;
use std::net::IpAddr;

/// The section `acme`.
pub(super) fn acme(report: &Report<'_>, field: &Field<file::Acme>) -> Option<Acme> {
    let at = field.given()?;
    let keys = &at.value;
    let default = Acme::default();
    terms(report, at);
    Some(Acme {
        directory: directory(report, &keys.directory).unwrap_or(default.directory),
        contact: elements(&keys.contact)
            .filter_map(|at| contact(report, at))
            .collect(),
        challenge: match keys.challenge.value() {
            Some(file::Challenge::TlsAlpn01) => Challenge::TlsAlpn01,
            Some(file::Challenge::Http01) | None => Challenge::Http01,
        },
        key: keys.key.value().map_or(default.key, |key| match key {
            file::KeyKind::EcdsaP256 => KeyKind::EcdsaP256,
            file::KeyKind::EcdsaP384 => KeyKind::EcdsaP384,
            file::KeyKind::Rsa2048 => KeyKind::Rsa2048,
            file::KeyKind::Rsa3072 => KeyKind::Rsa3072,
            file::KeyKind::Rsa4096 => KeyKind::Rsa4096,
        }),
        ca: keys.ca.value().map(|path| path.0.clone()),
        external_account: external_account(report, &keys.external_account),
        profile: not_empty(report, &keys.profile, "a name of the authority's"),
        storage: keys
            .storage
            .value()
            .map_or(default.storage, |path| path.0.clone()),
        renew_at: renew_at(report, keys),
        until_issued: match keys.until_issued.value() {
            Some(file::UntilIssued::Refuse) => UntilIssued::Refuse,
            Some(file::UntilIssued::SelfSigned) | None => UntilIssued::SelfSigned,
        },
    })
}

/// Nobody agrees to a contract by leaving a line out.
fn terms(report: &Report<'_>, at: &At<file::Acme>) {
    let Some(agreed) = need(
        report,
        at.node,
        "terms_agreed",
        "true",
        &at.value.terms_agreed,
    ) else {
        return;
    };
    if !agreed.value {
        let draft = Draft::new(
            Code::Conflict,
            "authorities issue only to who agrees to their terms of service",
        )
        .fix("read them, and write `terms_agreed: true`; or remove `acme`");
        report.error(Place::Value(agreed.node), draft);
    }
}

fn directory(report: &Report<'_>, field: &Field<Text>) -> Option<String> {
    let at = field.given()?;
    let url = &at.value.0;
    let parsed: Option<http::Uri> = url.parse().ok();
    let is_good = parsed.is_some_and(|uri| {
        let plain = uri.authority().is_some_and(|it| !it.as_str().contains('@'));
        uri.scheme_str() == Some("https") && plain
    });
    if !is_good {
        let draft = Draft::new(
            Code::InvalidValue,
            format!("`{url}` is not the URL of a directory"),
        )
        .expected("a URL such as `https://acme.example/directory`; RFC 8555 wants `https`");
        report.error(Place::Value(at.node), draft);
    }
    Some(url.clone())
}

/// A URL that the authority may write to.
fn contact(report: &Report<'_>, at: &At<Text>) -> Option<String> {
    let text = &at.value.0;
    let address = text.strip_prefix("mailto:").unwrap_or(text);
    let parts = address.split_once('@');
    let is_good = parts.is_some_and(|(name, host)| !name.is_empty() && host.contains('.'))
        && address
            .bytes()
            .all(|octet| octet.is_ascii_graphic() && !b",?".contains(&octet));
    if is_good {
        return Some(format!("mailto:{address}"));
    }
    let draft = Draft::new(
        Code::InvalidValue,
        format!("`{text}` is not an address for mail"),
    )
    .expected("one address, such as `ops@example.com`");
    report.error(Place::Value(at.node), draft);
    None
}

fn external_account(
    report: &Report<'_>,
    field: &Field<file::ExternalAccount>,
) -> Option<ExternalAccount> {
    let at = field.given()?;
    let keys = &at.value;
    let id = need(report, at.node, "id", "the `kid` of the account", &keys.id);
    let key = need(report, at.node, "key", "/etc/sluice/eab.key", &keys.key);
    Some(ExternalAccount {
        id: id?.value.0.clone(),
        key: key?.value.0.clone(),
    })
}

fn renew_at(report: &Report<'_>, keys: &file::Acme) -> f64 {
    let Some(at) = keys.renew_at.given() else {
        return defaults::RENEW_AT;
    };
    if !defaults::RENEW_SHARES.contains(&at.value.0) {
        let draft = Draft::new(Code::InvalidValue, "this is too soon, or too late")
            .expected("from `10%` to `95%` of a certificate's life");
        report.error(Place::Value(at.node), draft);
    }
    at.value.0
}

/// The names of one certificate, in lower case.
pub(super) fn names(report: &Report<'_>, list: &At<Vec<Field<Text>>>) -> Vec<String> {
    if list.value.is_empty() {
        let draft = Draft::new(Code::InvalidValue, "there is no name")
            .fix("write `acme: [www.example.com]`");
        report.error(Place::Value(list.node), draft);
    }
    let mut names = Vec::new();
    for at in list.value.iter().filter_map(Field::given) {
        let name = normal(&at.value.0);
        match unfit(&name) {
            Some(draft) => report.error(Place::Value(at.node), draft),
            None if names.contains(&name) => {}
            None => names.push(name),
        }
    }
    names
}

/// Why no authority would issue for a name.
fn unfit(name: &str) -> Option<Draft> {
    let draft = |what: String| Draft::new(Code::InvalidValue, what);
    if name.starts_with("*.") {
        let what = format!("`{name}` needs a challenge in DNS, which is not done here");
        return Some(
            draft(what)
                .expected("names without `*`")
                .fix("list the names, or have another program renew files, and give these"),
        );
    }
    if name.parse::<IpAddr>().is_ok() {
        return None;
    }
    let is_name = rustls::pki_types::DnsName::try_from(name).is_ok();
    if !is_name || !name.contains('.') || name.ends_with('.') {
        let what = format!("`{name}` is not a name that an authority issues for");
        return Some(
            draft(what)
                .expected("a name in DNS such as `www.example.com`, or an address")
                .fix("for names of this host alone write `local` in the place of `acme`"),
        );
    }
    None
}

/// Tells listeners' certificates where they are kept, and judges whether they can be had.
pub(super) fn resolve(
    report: &Report<'_>,
    file: &File,
    acme: Option<&Acme>,
    listeners: &mut Listeners<'_>,
) {
    let wanted: Vec<_> = elements(&file.listeners)
        .filter_map(|listener| listener.value.tls.value())
        .flat_map(|tls| elements(&tls.certificates))
        .filter_map(|at| at.value.acme.given())
        .collect();
    match (&file.acme, acme, wanted.first()) {
        (Field::Absent, _, Some(first)) => {
            let draft = Draft::new(Code::Conflict, "there is no section `acme`").fix(
                "add `acme: {terms_agreed: true}` at the top, if you agree to the terms of \
                 service of Let's Encrypt",
            );
            report.error(Place::Key(first.node), draft);
        }
        (Field::Given(at), _, None) => report.warn(
            Place::Key(at.node),
            "no listener has a certificate by `acme`",
            "write `certificates: [{acme: [NAME]}]` at a listener's `tls`, or remove this",
        ),
        _ => {}
    }
    let Some(acme) = acme else { return };
    for at in &wanted {
        addresses(report, acme, at);
    }
    let mut first_of = HashMap::new();
    for at in &wanted {
        let listed = elements_of(at);
        let Some(first) = listed.first().cloned() else {
            continue;
        };
        let before = first_of.entry(first.clone()).or_insert(listed.clone());
        if *before != listed {
            let draft = Draft::new(
                Code::Conflict,
                format!("another certificate has `{first}` as its first name, and other names"),
            )
            .fix("give both the same names, or begin this one with another");
            report.error(Place::Value(at.node), draft);
        }
    }
    answering(report, acme, &wanted, listeners);
    let store = AcmeStore::new(&acme.storage, &acme.directory);
    let http = listeners.http.iter_mut().map(|it| &mut it.model.tls);
    let streams = listeners.stream.iter_mut().map(|it| &mut it.model.tls);
    for tls in http.chain(streams).flatten() {
        for source in &mut tls.certificates {
            if let CertificateSource::Acme(wanted) = source {
                settle(wanted, &store, acme);
            }
        }
    }
}

fn settle(wanted: &mut AcmeCertificate, store: &AcmeStore, acme: &Acme) {
    if let Some(first) = wanted.names.first() {
        wanted.file = store.certificate(first);
    }
    wanted.until_issued = acme.until_issued;
}

fn elements_of(at: &At<Vec<Field<Text>>>) -> Vec<String> {
    let names = at.value.iter().filter_map(Field::given);
    names.map(|at| normal(&at.value.0)).collect()
}

/// A name as certificates have it.
fn normal(name: &str) -> String {
    match name.parse::<IpAddr>() {
        Ok(address) => address.to_string(),
        Err(_) => name.to_ascii_lowercase(),
    }
}

/// Addresses are not asked for by TLS' server names.
fn addresses(report: &Report<'_>, acme: &Acme, list: &At<Vec<Field<Text>>>) {
    for at in list.value.iter().filter_map(Field::given) {
        if acme.challenge == Challenge::TlsAlpn01 && at.value.0.parse::<IpAddr>().is_ok() {
            let draft = Draft::new(
                Code::Conflict,
                "an address is proved by `http-01`, and the challenge is `tls-alpn-01`",
            )
            .fix("write `challenge: http-01` in `acme`, or remove this address");
            report.error(Place::Value(at.node), draft);
        }
    }
}

/// Somebody has to answer the authority.
fn answering(
    report: &Report<'_>,
    acme: &Acme,
    wanted: &[&At<Vec<Field<Text>>>],
    listeners: &Listeners<'_>,
) {
    let mut plain = listeners.http.iter().filter(|it| it.model.tls.is_none());
    if acme.challenge == Challenge::Http01
        && plain.next().is_none()
        && let Some(first) = wanted.first()
    {
        let draft = Draft::new(
            Code::Conflict,
            "nobody would answer the authority, which asks by HTTP at port 80",
        )
        .fix(
            "add `{name: plain, kind: http, address: 0.0.0.0, port: 80, https_redirect: true}` to \
             `listeners`, or write `challenge: tls-alpn-01` in `acme`",
        );
        report.error(Place::Key(first.node), draft);
    }
}

/// A certificate by `acme` needs nothing else.
pub(super) fn certificate(report: &Report<'_>, keys: &Certificate) -> Option<CertificateSource> {
    let list = keys.acme.given()?;
    let others = [
        keys.certificate.given().map(|at| at.node),
        keys.key.given().map(|at| at.node),
        keys.ocsp.given().map(|at| at.node),
        keys.local.given().map(|at| at.node),
    ];
    if let Some(node) = others.into_iter().flatten().next() {
        let draft = Draft::new(Code::Conflict, "`acme` gets its certificate by itself")
            .fix("remove this, or `acme`");
        report.error(Place::Key(node), draft);
    }
    Some(CertificateSource::Acme(AcmeCertificate {
        names: names(report, list),
        file: std::path::PathBuf::new(),
        until_issued: UntilIssued::default(),
    }))
}

/// Judges the files that the section names.
pub(super) fn files(report: &Report<'_>, field: &Field<file::Acme>) {
    let Some(keys) = field.value() else { return };
    if let Some(at) = keys.ca.given() {
        super::tls::noted(report, at.node, certificates::read_roots(&at.value.0));
    }
    if let Some(external) = keys.external_account.value()
        && let Some(at) = external.key.given()
    {
        let read = certificates::read_hmac_key(&at.value.0);
        super::tls::noted(report, at.node, read);
    }
}
