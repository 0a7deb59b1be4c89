//! HAProxy from Debian.

use super::{Order, Setup};
use crate::bench::l7::scenario::{Back, Protocol};
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
    let front = proto(job.front == Protocol::H2);
    let back = proto(job.origin_is_h2());
    if job.back == Back::Tcp {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "  mode tcp\nfrontend web\n  bind {listen} backlog 8192\n  default_backend origin\n\
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

const fn proto(h2: bool) -> &'static str {
    if h2 { " proto h2" } else { "" }
}
