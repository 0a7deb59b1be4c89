//! The section `admin`: who may be asked for, and who may ask.
//!
//! What reaches the API can change everything, so an address that anybody reaches without showing
//! who they are is a fault and no warning.

use super::l4::path;
use super::{need, or};
use crate::config::decode::{At, Field};
use crate::config::defaults;
use crate::config::fault::Code;
use crate::config::file::admin as file;
use crate::config::file::scalar::{Path, SocketAddress};
use crate::config::model::{Admin, AdminApi, AdminTls};
use crate::config::report::{Draft, Place, Report};
use std::path::PathBuf;

/// Octets of a socket's path: `sun_path` is 108 with its final zero (unix(7)).
const SOCKET_PATH: usize = 107;

/// The section.
pub(super) fn admin(report: &Report<'_>, field: &Field<file::Admin>) -> Admin {
    let Some(at) = field.given() else {
        return Admin::default();
    };
    let keys = &at.value;
    socket(report, &keys.socket);
    let tls = tls(report, keys);
    let api = match keys.api.given().filter(|api| api.value) {
        Some(asked) => api(report, asked, at, tls),
        None => {
            without_api(report, keys);
            open_to_all(report, &keys.listen);
            None
        }
    };
    Admin {
        socket: path(&keys.socket, defaults::ADMIN_SOCKET),
        listen: keys.listen.value().map(|listen| listen.0),
        api,
    }
}

fn socket(report: &Report<'_>, field: &Field<Path>) {
    if let Some(socket) = field.given()
        && socket.value.0.as_os_str().len() > SOCKET_PATH
    {
        let length = socket.value.0.as_os_str().len();
        let draft = Draft::new(Code::Limit, format!("the path has {length} octets"))
            .expected(format!("at most {SOCKET_PATH}, the limit for Unix sockets"))
            .fix("choose a shorter path, such as `/run/sluice/admin.sock`");
        report.error(Place::Value(socket.node), draft);
    }
}

/// Numbers and health are shown to everybody who reaches the address.
fn open_to_all(report: &Report<'_>, listen: &Field<SocketAddress>) {
    if let Some(listen) = listen.given()
        && !listen.value.0.ip().is_loopback()
    {
        report.warn(
            Place::Value(listen.node),
            format!(
                "`{}` can be reached from other hosts, and nobody is asked for a password",
                listen.value.0
            ),
            "listen on `127.0.0.1`, or make sure that a firewall protects the port",
        );
    }
}

/// Keys that say who may use the API, where there is none at an address.
fn without_api(report: &Report<'_>, keys: &file::Admin) {
    let given = [
        ("token", keys.token.given().map(|at| at.node)),
        ("certificate", keys.certificate.given().map(|at| at.node)),
        ("metrics", keys.metrics.given().map(|at| at.node)),
    ];
    for (key, node) in given {
        if let Some(node) = node {
            let draft = Draft::new(
                Code::Conflict,
                format!("`{key}` means nothing without `api`"),
            )
            .fix(format!("add `api: true`, or remove `{key}`"));
            report.error(Place::Key(node), draft);
        }
    }
}

/// The API at an address: somewhere to listen, and some way to tell callers apart.
fn api(
    report: &Report<'_>,
    asked: &At<bool>,
    admin: &At<file::Admin>,
    tls: Option<AdminTls>,
) -> Option<AdminApi> {
    let keys = &admin.value;
    let listen = need(report, admin.node, "listen", "127.0.0.1:9180", &keys.listen);
    let token = token(report, &keys.token);
    let is_asked = !keys.token.is_absent() || !keys.client_ca.is_absent();
    if !is_asked {
        let draft = Draft::new(
            Code::MissingKey,
            "whoever reaches the address could change everything",
        )
        .expected("a way to tell callers apart")
        .fix("add `token: {file: /etc/sluice/token}`, or `client_ca` with `certificate` and `key`");
        report.error(Place::Value(asked.node), draft);
    }
    if let Some(listen) = listen
        && !listen.value.0.ip().is_loopback()
        && keys.certificate.is_absent()
    {
        let draft = Draft::new(
            Code::MissingKey,
            format!("`{}` can be reached from other hosts, and a token would cross the network in clear", listen.value.0),
        )
        .expected("`certificate` and `key`, or a loopback address")
        .fix("add `certificate` and `key`, or listen on `127.0.0.1`");
        report.error(Place::Value(listen.node), draft);
    }
    Some(AdminApi {
        token_file: token,
        tls,
        public_metrics: matches!(
            or(&keys.metrics, file::Metrics::Protected),
            file::Metrics::Public
        ),
    })
}

fn token(report: &Report<'_>, field: &Field<file::Token>) -> Option<PathBuf> {
    let at = field.given()?;
    let file = need(report, at.node, "file", "/etc/sluice/token", &at.value.file)?;
    Some(file.value.0.clone())
}

fn tls(report: &Report<'_>, keys: &file::Admin) -> Option<AdminTls> {
    let lonely = |field: &Field<Path>, key: &str, other: &str| {
        if let Some(at) = field.given() {
            let draft = Draft::new(Code::MissingKey, format!("`{key}` takes `{other}`, too"))
                .fix(format!("add `{other}`"));
            report.error(Place::Key(at.node), draft);
        }
    };
    if keys.key.is_absent() {
        lonely(&keys.certificate, "certificate", "key");
    }
    if keys.certificate.is_absent() {
        lonely(&keys.key, "key", "certificate");
        lonely(&keys.client_ca, "client_ca", "certificate");
    }
    Some(AdminTls {
        certificate: keys.certificate.value()?.0.clone(),
        key: keys.key.value()?.0.clone(),
        client_ca: keys.client_ca.value().map(|path| path.0.clone()),
    })
}
