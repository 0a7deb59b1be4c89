//! sluice: the one-line commands, and a file where there is more to say.

use super::{Order, Setup};
use crate::bench::l7::scenario::{Back, Protocol, Tls};
use crate::bench::l7::tls;
use crate::daemon;
use anyhow::Result;
use serde_json::{Value, json};
use std::process::{Command, Stdio};

/// `accelerate`: past TCP, between it and those on this host.
pub(super) fn set_up(order: &Order<'_>, accelerate: bool) -> Result<Setup> {
    let mut command = Command::new(daemon::sluice()?);
    if let Some(config) = config(order, accelerate)? {
        // JSON is YAML, which is what it reads.
        let file = order.write("sluice.yaml", &serde_json::to_string_pretty(&config)?)?;
        command.arg("run").arg("--config").arg(file);
        return Ok(Setup::Run(command));
    }
    let word = if order.job.back == Back::Tcp {
        "tcp"
    } else {
        "proxy"
    };
    if order.job.back == Back::Tcp && !knows(word)? {
        return Ok(Setup::Cannot("not built yet"));
    }
    command.arg(word);
    command.args(["--from", &order.listen.to_string()]);
    command.args(["--to", &order.origin.to_string()]);
    if matches!(order.job.back, Back::Origin(Protocol::H2) | Back::Grpc) {
        command.args(["--backend-protocol", "h2"]);
    }
    command.args(["--workers", "1"]);
    if order.job.access_log {
        command.arg("--access-log").arg(order.access_log());
    }
    Ok(Setup::Run(command))
}

/// True if there is such a command.
fn knows(word: &str) -> Result<bool> {
    let known = Command::new(daemon::sluice()?)
        .args([word, "--help"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    Ok(known.success())
}

/// The file, for what the one-line commands do not do.
fn config(order: &Order<'_>, accelerate: bool) -> Result<Option<Value>> {
    let is_files = order.job.back == Back::Files;
    if !is_files && !accelerate && order.job.routes == 0 && order.job.tls == Tls::None {
        return Ok(None);
    }
    let (listener, routes) = match order.job.tls {
        Tls::Through => (passing_through(), json!([])),
        Tls::None if order.job.back == Back::Tcp => {
            (json!({ "kind": "tcp", "service": "origin" }), json!([]))
        }
        tls => {
            let mut listener = json!({ "kind": "http" });
            if tls.ends_here() {
                listener["tls"] = secured(tls)?;
            }
            (listener, routes(order))
        }
    };
    let mut listener = listener;
    listener["name"] = json!("web");
    listener["address"] = json!(order.listen.ip().to_string());
    listener["port"] = json!(order.listen.port());
    let mut origin = json!({ "name": "origin", "backends": [order.origin.to_string()] });
    if order.job.tls == Tls::Both {
        let authority = &tls::files()?.authority;
        origin["tls"] = json!({ "ca": authority, "server_name": tls::NAME });
    }
    if accelerate {
        listener["accelerate"] = json!("on");
        origin["accelerate"] = json!("on");
    }
    Ok(Some(json!({
        "workers": { "count": 1 },
        "admin": { "socket": order.folder.join("admin.sock") },
        "listeners": [listener],
        "routes": routes,
        "services": if is_files { json!([]) } else { json!([origin]) },
    })))
}

fn routes(order: &Order<'_>) -> Value {
    if order.job.back == Back::Files {
        return json!([{ "name": "files", "files": { "root": order.files } }]);
    }
    if order.job.routes == 0 {
        return json!([{ "name": "all", "service": "origin" }]);
    }
    let hosts = order.hosts().enumerate();
    hosts
        .map(|(index, host)| {
            json!({ "name": format!("r{index}"), "hosts": [host], "service": "origin" })
        })
        .collect()
}

/// A listener that ends TLS.
fn secured(tls: Tls) -> Result<Value> {
    let files = tls::files()?;
    let mut secured = json!({
        "min_version": "1.3",
        "certificates": [{ "certificate": files.certificate, "key": files.key }],
    });
    if tls == Tls::Mutual {
        secured["client"] = json!({ "ca": files.authority, "headers": [] });
    }
    Ok(secured)
}

/// A listener that looks at the name only.
fn passing_through() -> Value {
    json!({
        "kind": "tls-passthrough",
        "names": [{ "hosts": [tls::NAME], "service": "origin" }],
    })
}
