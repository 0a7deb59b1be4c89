//! The key `tls` of a service.

use super::tls::noted;
use super::{elements, or};
use crate::certificates::{read_pair, read_roots};
use crate::config::decode::{At, Field};
use crate::config::fault::Code;
use crate::config::file::backend_tls as file;
use crate::config::file::scalar::{Text, Version};
use crate::config::model::http::{BackendTls, TlsIdentity, Upstream};
use crate::config::report::{Draft, Place, Report};
use crate::config::yaml::NodeId;
use rustls::pki_types::ServerName;
use std::time::SystemTime;

/// The word that has the request's host stand for the server's name.
const HOST: &str = "host";

fn by_host(keys: &file::BackendTls) -> bool {
    keys.server_name.value().is_some_and(|name| name.0 == HOST)
}

/// The section `tls` of a service.
pub(super) fn tls(report: &Report<'_>, field: &Field<file::BackendTls>) -> Option<BackendTls> {
    field.given().map(|at| keys(report, at.node, &at.value))
}

/// The section `tls` of a service or of its health check, which is at this node.
pub(super) fn keys(report: &Report<'_>, node: NodeId, keys: &file::BackendTls) -> BackendTls {
    let default = BackendTls::default();
    let version = |field: &Field<Version>, default| field.value().map_or(default, |it| it.0);
    let tls = BackendTls {
        verify: or(&keys.verify, default.verify),
        ca: keys.ca.value().map(|path| path.0.clone()),
        server_name: keys
            .server_name
            .given()
            .filter(|_| !by_host(keys))
            .map(|at| server_name(report, at)),
        by_host: by_host(keys),
        identity: identity(report, node, keys),
        min_version: version(&keys.min_version, default.min_version),
        max_version: version(&keys.max_version, default.max_version),
        alpn: elements(&keys.alpn)
            .inspect(|at| super::passthrough::protocol(report, at.node, &at.value.0))
            .map(|at| at.value.0.clone())
            .collect(),
    };
    if tls.min_version > tls.max_version {
        let node = keys.min_version.given().map_or(node, |at| at.node);
        let draft = Draft::new(Code::Conflict, "no version is spoken")
            .expected("`min_version` at most `max_version`");
        report.error(Place::Value(node), draft);
    }
    if let Some(verify) = keys.verify.given()
        && !verify.value
    {
        if let Some(ca) = keys.ca.given() {
            let draft = Draft::new(Code::Conflict, "with `verify: false` no authority is asked")
                .fix("remove `verify`, or `ca`");
            report.error(Place::Key(ca.node), draft);
        }
        report.warn(
            Place::Value(verify.node),
            "backends are not verified: anybody between us and them can read and change everything",
            "remove it, and give the authority of the backends as `ca`",
        );
    }
    tls
}

/// Of backends that are found by different names, or of which some are given by address, nobody
/// knows which name their certificates are for.
pub(super) fn nameless(report: &Report<'_>, field: &Field<file::BackendTls>, upstream: &Upstream) {
    let Some(at) = field.given() else { return };
    let is_verified = upstream.tls.as_ref().is_some_and(|tls| tls.verify);
    if is_verified && at.value.server_name.is_absent() && upstream.has_several_tls_names() {
        let draft = Draft::new(
            Code::MissingKey,
            "it is not known which name the certificates of these backends are for",
        )
        .expected("`server_name`, or backends that are all found by one name")
        .fix("add `server_name` to `tls`");
        report.error(Place::Key(at.node), draft);
    }
}

/// A name that a certificate can be for.
pub(super) fn server_name(report: &Report<'_>, at: &At<Text>) -> String {
    let name = at.value.0.to_ascii_lowercase();
    if ServerName::try_from(name.as_str()).is_err() {
        let draft = Draft::new(
            Code::InvalidValue,
            format!("`{name}` is not the name of a server"),
        )
        .expected("a name such as `app.internal`, or an address");
        report.error(Place::Value(at.node), draft);
    }
    name
}

fn identity(report: &Report<'_>, node: NodeId, keys: &file::BackendTls) -> Option<TlsIdentity> {
    let (certificate, key) = (&keys.certificate, &keys.key);
    match (certificate.is_absent(), key.is_absent()) {
        (true, true) => return None,
        (false, true) => report.missing(node, "key", "/etc/sluice/client.key"),
        (true, false) => report.missing(node, "certificate", "/etc/sluice/client.pem"),
        (false, false) => {}
    }
    Some(TlsIdentity {
        certificate: certificate.value()?.0.clone(),
        key: key.value()?.0.clone(),
    })
}

/// Judges the files that a section names.
pub(super) fn files(report: &Report<'_>, keys: &file::BackendTls) {
    if let Some(at) = keys.ca.given() {
        noted(report, at.node, read_roots(&at.value.0));
    }
    if let (Some(certificate), Some(key)) = (keys.certificate.given(), keys.key.given()) {
        let read = read_pair(&certificate.value.0, &key.value.0, SystemTime::now());
        let is_key = |fault: &crate::certificates::FileFault| fault.path == key.value.0;
        let node = match &read {
            Err(fault) if is_key(fault) => key.node,
            _ => certificate.node,
        };
        noted(report, node, read);
    }
}
