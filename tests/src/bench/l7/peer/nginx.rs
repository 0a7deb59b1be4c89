//! nginx from Debian.

use super::{Order, Setup};
use crate::bench::l7::scenario::{Back, Job, Protocol, Tls};
use crate::bench::l7::tls;
use anyhow::Result;
use std::fmt::Write as _;
use std::process::Command;

/// Connections that the worker may have, to clients and to the origin.
const CONNECTIONS: u32 = 19_000;

pub(super) fn set_up(order: &Order<'_>) -> Result<Setup> {
    let Some(file) = config(order)? else {
        return Ok(Setup::Cannot("speaks HTTP/2 to origins for gRPC only"));
    };
    let file = order.write("nginx.conf", &file)?;
    let mut command = Command::new("nginx");
    command
        .arg("-e")
        .arg(order.folder.join("error.log"))
        .arg("-c")
        .arg(file);
    Ok(Setup::Run(command))
}

fn config(order: &Order<'_>) -> Result<Option<String>> {
    let at = order.folder.display();
    let mut text = String::new();
    if order.job.back == Back::Tcp {
        text += "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n";
    }
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "daemon off; worker_processes 1; worker_rlimit_nofile 20000; user root;\n\
         pid {at}/pid; error_log {at}/error.log;\n\
         events {{ worker_connections {CONNECTIONS}; }}"
    );
    let Order { listen, origin, .. } = order;
    if order.job.back == Back::Tcp {
        let pass = match order.job.tls {
            Tls::Through => format!(
                "map $ssl_preread_server_name $to {{ {} {origin}; default 127.0.0.1:1; }}\n\
                 server {{ listen {listen} backlog=8192; ssl_preread on; proxy_pass $to; }}",
                tls::NAME
            ),
            _ => format!("server {{ listen {listen} backlog=8192; proxy_pass {origin}; }}"),
        };
        let _ = writeln!(text, "stream {{ {pass} }}");
        return Ok(Some(text));
    }
    let log = if order.job.access_log {
        format!("{} combined", order.access_log().display())
    } else {
        "off".to_owned()
    };
    let _ = writeln!(
        text,
        "http {{\n\
         access_log {log}; keepalive_requests 1000000000; keepalive_timeout 600s;\n\
         tcp_nodelay on; sendfile on; tcp_nopush on; client_max_body_size 0;\n\
         client_body_temp_path {at}/body; proxy_temp_path {at}/proxy;\n\
         fastcgi_temp_path {at}/fastcgi; uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;\n\
         server_names_hash_max_size 65536; server_names_hash_bucket_size 128;\n\
         upstream origin {{ server {origin}; keepalive 1024; keepalive_requests 1000000000; }}\n\
         map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}"
    );
    let Some(location) = location(order)? else {
        return Ok(None);
    };
    let h2 = match order.job.front {
        Protocol::H1 => "",
        Protocol::H2 => "http2 ",
    };
    let listen = match order.job.tls.ends_here() {
        false => format!("listen {listen} {h2}backlog=8192;"),
        true => format!("listen {listen} ssl {h2}backlog=8192; {}", secured(order)?),
    };
    if order.job.routes == 0 {
        let _ = writeln!(text, "server {{ {listen} {location} }}");
    }
    for host in order.hosts() {
        let _ = writeln!(
            text,
            "server {{ listen {}; server_name {host}; {location} }}",
            order.listen
        );
    }
    text += "}\n";
    Ok(Some(text))
}

/// The settings of a server that ends TLS.
fn secured(order: &Order<'_>) -> Result<String> {
    let files = tls::files()?;
    let client = match order.job.tls {
        Tls::Mutual => format!(
            "ssl_client_certificate {}; ssl_verify_client on;",
            files.authority.display()
        ),
        _ => String::new(),
    };
    Ok(format!(
        "ssl_certificate {}; ssl_certificate_key {}; ssl_protocols TLSv1.3; \
         ssl_session_cache shared:sessions:10m; {client}",
        files.certificate.display(),
        files.key.display()
    ))
}

fn location(order: &Order<'_>) -> Result<Option<String>> {
    let Job { front, back, .. } = order.job;
    Ok(Some(match back {
        Back::Origin(Protocol::H1) => {
            // Settings for upgrades only where there may be one.
            let upgrade = if front == Protocol::H1 {
                "proxy_set_header Upgrade $http_upgrade; \
                 proxy_set_header Connection $connection_upgrade;"
            } else {
                "proxy_set_header Connection \"\";"
            };
            let (scheme, trust) = match order.job.tls {
                Tls::Both => ("https", trust()?),
                _ => ("http", String::new()),
            };
            format!(
                "location / {{ proxy_pass {scheme}://origin; {trust} proxy_http_version 1.1; \
                 proxy_set_header Host $host; {upgrade} \
                 proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }}"
            )
        }
        Back::Grpc => "location / { grpc_pass grpc://origin; \
             grpc_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }"
            .to_owned(),
        Back::Files => format!("root {}; location / {{ }}", order.files.display()),
        Back::Origin(Protocol::H2) | Back::Tcp => return Ok(None),
    }))
}

/// The settings of a server that verifies its origin.
fn trust() -> Result<String> {
    Ok(format!(
        "proxy_ssl_verify on; proxy_ssl_trusted_certificate {}; proxy_ssl_name {name}; \
         proxy_ssl_server_name on; proxy_ssl_protocols TLSv1.3;",
        tls::files()?.authority.display(),
        name = tls::NAME
    ))
}
