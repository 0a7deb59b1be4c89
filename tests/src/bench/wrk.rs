//! `wrk`, which drives HTTP/1.1 load. It is bounded twice: in time by its own option, in requests
//! by its script.

use crate::command::run;
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Most requests of one run; no machine of today makes as many in the time of a run.
const MOST_REQUESTS: u64 = 5_000_000;

/// What to send.
#[derive(Clone, Copy, Debug)]
pub struct Load<'a> {
    /// To whom.
    pub to: SocketAddr,
    /// Path of the request.
    pub path: &'a str,
    /// How many connections are open at a time.
    pub connections: u32,
    /// A new connection for each request.
    pub close: bool,
    /// For how long, whole seconds.
    pub time: Duration,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct Outcome {
    /// Requests answered.
    pub requests: u64,
    /// Seconds that it took.
    pub seconds: f64,
    /// Connections that failed and answers that were no success.
    pub errors: u64,
}

impl Load<'_> {
    /// Runs it. `command` is a [`Command`] for `wrk`, in the right namespace and on the right CPU;
    /// the script is written into `folder`.
    ///
    /// # Errors
    ///
    /// `wrk` fails, a request does, or there was no answer at all.
    pub fn run(&self, command: &mut Command, folder: &Path) -> Result<Outcome> {
        let script = folder.join(if self.close { "close.lua" } else { "keep.lua" });
        std::fs::write(&script, self.script())?;
        command
            .args(["--threads", "1", "--timeout", "5s"])
            .args(["--connections", &self.connections.to_string()])
            .args(["--duration", &format!("{}s", self.time.as_secs().max(1))])
            .arg("--script")
            .arg(&script)
            .arg(format!("http://{}{}", self.to, self.path));
        let outcome = parse(&run(command)?)?;
        ensure!(
            outcome.errors == 0 && outcome.requests > 0,
            "{} of {} requests to {} failed",
            outcome.errors,
            outcome.requests,
            self.to
        );
        Ok(outcome)
    }

    fn script(&self) -> String {
        let close = if self.close {
            "wrk.headers[\"Connection\"] = \"close\"\n"
        } else {
            ""
        };
        format!(
            "{close}local left = {MOST_REQUESTS}
local text
function init(args)
  text = wrk.format()
end
function request()
  left = left - 1
  if left == 0 then wrk.thread:stop() end
  return text
end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('{{\"requests\":%d,\"seconds\":%f,\"errors\":%d}}\\n',
    summary.requests, summary.duration / 1e6,
    e.connect + e.read + e.write + e.status + e.timeout))
end
"
        )
    }
}

fn parse(output: &str) -> Result<Outcome> {
    let line = output
        .lines()
        .find(|line| line.starts_with('{'))
        .with_context(|| format!("wrk said nothing of its results:\n{output}"))?;
    serde_json::from_str(line).with_context(|| format!("wrk said {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scripts_line_is_found_among_wrks_own() {
        let output =
            "Running 1s test\n  1 threads\n{\"requests\":10,\"seconds\":1.5,\"errors\":2}\n";
        let expected = Outcome {
            requests: 10,
            seconds: 1.5,
            errors: 2,
        };
        assert_eq!(parse(output).unwrap(), expected);
        assert!(parse("Running 1s test\n").is_err());
    }
}
