//! sluice: the one-line commands, and a file where there are routes.

use super::{Order, Setup};
use crate::bench::l7::scenario::{Back, Protocol};
use crate::daemon;
use anyhow::Result;
use std::process::{Command, Stdio};

pub(super) fn set_up(order: &Order<'_>) -> Result<Setup> {
    let program = daemon::sluice()?;
    if order.job.routes > 0 {
        return Ok(Setup::Cannot("its configuration has no routes yet"));
    }
    let word = match order.job.back {
        Back::Origin(_) | Back::Grpc => "proxy",
        Back::Tcp => "tcp",
        Back::Files => "serve",
    };
    let known = Command::new(&program)
        .args([word, "--help"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    if !known.success() {
        return Ok(Setup::Cannot("not built yet"));
    }
    let mut command = Command::new(program);
    command.arg(word);
    if order.job.back == Back::Files {
        command.arg(order.files);
        command.args(["--listen", &order.listen.to_string()]);
    } else {
        command.args(["--from", &order.listen.to_string()]);
        command.args(["--to", &order.origin.to_string()]);
    }
    if matches!(order.job.back, Back::Origin(Protocol::H2) | Back::Grpc) {
        command.args(["--backend-protocol", "h2"]);
    }
    command.args(["--workers", "1"]);
    if order.job.access_log {
        command.arg("--access-log").arg(order.access_log());
    }
    Ok(Setup::Run(command))
}
