//! TLS at listeners.

use super::map;
use crate::config::defaults::text;
use crate::config::model::tls::{CertificateSource, ClientAuth, ServerTls, Sessions};
use crate::types::tls::{group_name, suite_name};
use serde_json::{Value, json};

/// Where HTTP is spoken.
pub(super) fn http(tls: &ServerTls) -> Value {
    let headers = |client: &ClientAuth| {
        let headers = [(client.xfcc, "xfcc"), (client.x_ssl, "x-ssl")];
        let headers = headers.iter().filter(|(sent, _)| *sent);
        headers.map(|(_, word)| json!(word)).collect()
    };
    section(tls, tls.client.as_ref().map(headers), None)
}

/// Where TCP is passed on.
pub(super) fn tcp(tls: &ServerTls) -> Value {
    section(tls, None, Some(json!(tls.alpn)))
}

fn section(tls: &ServerTls, headers: Option<Value>, alpn: Option<Value>) -> Value {
    let names = |names: Vec<&'static str>| (!names.is_empty()).then(|| json!(names));
    let ciphers = tls.ciphers.iter().copied().map(suite_name).collect();
    let groups = tls.groups.iter().copied().map(group_name).collect();
    map([
        (
            "certificates",
            Some(tls.certificates.iter().map(certificate).collect()),
        ),
        ("min_version", Some(json!(tls.min_version.word()))),
        ("max_version", Some(json!(tls.max_version.word()))),
        ("ciphers", names(ciphers)),
        ("groups", names(groups)),
        ("server_preference", Some(json!(tls.server_preference))),
        ("sessions", Some(sessions(&tls.sessions))),
        (
            "client",
            tls.client.as_ref().map(|keys| client(keys, headers)),
        ),
        ("stapling", Some(json!(tls.stapling))),
        ("strict_sni", Some(json!(tls.strict_sni))),
        (
            "handshake_timeout",
            Some(json!(text(tls.handshake_timeout))),
        ),
        ("max_handshakes", Some(json!(tls.max_handshakes))),
        ("alpn", alpn),
    ])
}

fn certificate(source: &CertificateSource) -> Value {
    match source {
        CertificateSource::Files {
            certificate,
            key,
            ocsp,
        } => map([
            ("certificate", Some(json!(certificate))),
            ("key", Some(json!(key))),
            ("ocsp", ocsp.as_ref().map(|path| json!(path))),
        ]),
        CertificateSource::Local(names) => json!({ "local": names }),
        CertificateSource::Acme(wanted) => json!({ "acme": wanted.names }),
    }
}

fn sessions(sessions: &Sessions) -> Value {
    json!({
        "cache": sessions.cache,
        "tickets": sessions.tickets,
        "ticket_lifetime": text(sessions.ticket_lifetime),
    })
}

fn client(client: &ClientAuth, headers: Option<Value>) -> Value {
    map([
        ("ca", Some(json!(client.ca))),
        (
            "mode",
            Some(json!(match client.required {
                true => "require",
                false => "optional",
            })),
        ),
        ("crl", client.crl.as_ref().map(|path| json!(path))),
        ("depth", Some(json!(client.depth))),
        ("headers", headers),
    ])
}
