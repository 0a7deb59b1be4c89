//! HAProxy from Debian.

use super::{Order, Setup};
use crate::bench::l7::scenario::{Back, Protocol, Tls};
use crate::bench::l7::tls;
use anyhow::Result;
use std::fmt::Write as _;
use std::process::Command;

pub(super) fn set_up(order: &Order<'_>) -> Result<Setup> {
    if order.job.back == Back::Files {
        return Ok(Setup::Cannot("serves no files"));
    }
    let file = order.write("haproxy.cfg", &config(order)?)?;
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(file);
    Ok(Setup::Run(command))
}

fn config(order: &Order<'_>) -> Result<String> {
    let Order {
        job,
        listen,
        origin,
        ..
    } = order;
    // A connection that only is there counts twice in its own reckoning of descriptors, which
    // would then be more than this machine may allow.
    let mut text = "global\n  nbthread 1\n  maxconn 15000\n  no strict-limits\n".to_owned();
    if job.access_log {
        // Its log goes to syslog or to a descriptor; ours leads to a file.
        text += "  log stdout len 4096 format raw local0 info\n";
    }
    text += "defaults\n  timeout connect 5s\n  timeout client 600s\n  timeout server 600s\n  \
             timeout http-keep-alive 600s\n";
    let front = front(order)?;
    let back = match job.tls {
        Tls::Both => format!(
            " ssl verify required ca-file {} sni str({name}) verifyhost {name}",
            tls::files()?.authority.display(),
            name = tls::NAME
        ),
        _ => proto(job.origin_is_h2()).to_owned(),
    };
    if job.back == Back::Tcp {
        let to = match job.tls {
            Tls::Through => format!(
                "tcp-request inspect-delay 5s\n  \
                 tcp-request content accept if {{ req.ssl_hello_type 1 }}\n  \
                 use_backend origin if {{ req.ssl_sni -i {} }}",
                tls::NAME
            ),
            _ => "default_backend origin".to_owned(),
        };
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "  mode tcp\nfrontend web\n  bind {listen} backlog 8192\n  {to}\n\
             backend origin\n  server origin {origin}\n"
        );
        return Ok(text);
    }
    text += "  mode http\n  option forwardfor\n  http-reuse always\n";
    if job.access_log {
        text += "  log global\n  option httplog\n";
    }
    let _ = writeln!(text, "frontend web\n  bind {listen} backlog 8192{front}");
    if job.routes > 0 {
        let hosts: String = order.hosts().map(|host| host + " origin\n").collect();
        let map = order.write("hosts.map", &hosts)?;
        let _ = writeln!(
            text,
            "  use_backend %[req.hdr(host),lower,map_str({},none)]",
            map.display()
        );
    } else {
        text += "  default_backend origin\n";
    }
    let _ = write!(
        text,
        "backend origin\n  server origin {origin}{back} pool-max-conn -1\n"
    );
    Ok(text)
}

/// What the listener speaks.
fn front(order: &Order<'_>) -> Result<String> {
    let is_h2 = order.job.front == Protocol::H2;
    if !order.job.tls.ends_here() {
        return Ok(proto(is_h2).to_owned());
    }
    let files = tls::files()?;
    let alpn = if is_h2 { "h2" } else { "http/1.1" };
    let client = match order.job.tls {
        Tls::Mutual => format!(" ca-file {} verify required", files.authority.display()),
        _ => String::new(),
    };
    let both = files.both.display();
    Ok(format!(
        " ssl crt {both} ssl-min-ver TLSv1.3 alpn {alpn}{client}"
    ))
}

const fn proto(h2: bool) -> &'static str {
    if h2 { " proto h2" } else { "" }
}
