//! `sluice drain` and `sluice undrain`.

use crate::admin::api::{BackendAnswer, BackendName, DrainRequest};
use crate::admin::client::Client;
use crate::cli::args::{self, Output, OutputArgs, SocketArgs};
use crate::cli::exit::{Exit, Failure};
use crate::cli::{format, output};
use crate::observe::view::View;
use std::time::Duration;

/// How often `--wait` looks.
const POLL: Duration = Duration::from_millis(500);

/// Take no new flows to a backend
///
/// Its established flows are kept until they end or the deadline passes; then what is left is
/// given to other backends. The drain is remembered in the kernel: it survives a restart of the
/// daemon, and lasts until `sluice undrain` or until the backend leaves the configuration.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluice drain web b2                      deadline as configured (drain_timeout)
  sluice drain web b2 --timeout 5m --wait  return when its flows have ended

With --wait the exit code is 3 if the deadline passed with flows left.")]
pub(super) struct DrainArgs {
    /// Service
    service: String,
    /// Backend of the service
    backend: String,
    /// Deadline after which its flows are selected anew; the service's drain_timeout by default
    #[arg(long, value_name = "TIME", value_parser = args::duration)]
    timeout: Option<Duration>,
    /// Return when the backend has no flows left, or the deadline has passed
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    socket: SocketArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Take new flows to a drained backend again
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sluice undrain web b2")]
pub(super) struct UndrainArgs {
    /// Service
    service: String,
    /// Backend of the service
    backend: String,
    #[command(flatten)]
    socket: SocketArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl DrainArgs {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        args::block_on(async {
            let client = self.socket.client();
            let request = DrainRequest {
                service: self.service,
                backend: self.backend,
                timeout_seconds: self.timeout.map(|timeout| timeout.as_secs_f64()),
            };
            let mut answer: BackendAnswer = client.post("drain", &request).await?;
            if self.wait {
                answer = wait(&client, answer).await?;
            }
            show(self.output.output, &answer)?;
            let left = self.wait && answer.live_flows > 0;
            Ok(if left { Exit::Losses } else { Exit::Done })
        })
    }
}

impl UndrainArgs {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        args::block_on(async {
            let name = BackendName {
                service: self.service,
                backend: self.backend,
            };
            let answer = self.socket.client().post("undrain", &name).await?;
            show(self.output.output, &answer)?;
            Ok(Exit::Done)
        })
    }
}

/// Waits until the backend has no flows, or does not drain any more. `live_flows` of the result
/// is what it had when last seen draining.
async fn wait(client: &Client, mut answer: BackendAnswer) -> Result<BackendAnswer, Failure> {
    while answer.state == "draining" && answer.live_flows > 0 {
        tokio::time::sleep(POLL).await;
        let view: View = client.get("status").await?;
        let services = view
            .services
            .into_iter()
            .filter(|service| service.name == answer.service);
        let mut backends = services.flat_map(|service| service.backends);
        let Some(backend) = backends.find(|backend| backend.name == answer.backend) else {
            break;
        };
        if backend.state == "draining" {
            answer.live_flows = backend.live_flows;
        }
        answer.state = backend.state;
        answer.drain_remaining_seconds = backend.drain_remaining_seconds;
    }
    Ok(answer)
}

fn show(format: Output, answer: &BackendAnswer) -> Result<(), Failure> {
    output::show(format, answer, |answer| sentence(answer) + "\n").map(|_| ())
}

fn sentence(answer: &BackendAnswer) -> String {
    let BackendAnswer {
        service,
        backend,
        state,
        live_flows,
        ..
    } = answer;
    let flows = match live_flows {
        0 => "no live flows".to_owned(),
        1 => "1 live flow".to_owned(),
        n => format!("{n} live flows"),
    };
    match answer.drain_remaining_seconds {
        Some(left) => {
            format!(
                "{service}/{backend} is {state}: {flows}, {} left",
                format::span(left)
            )
        }
        None => format!("{service}/{backend} is {state}: {flows}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_one_sentence() {
        let mut answer = BackendAnswer {
            service: "web".to_owned(),
            backend: "b2".to_owned(),
            state: "draining".to_owned(),
            live_flows: 1,
            drain_remaining_seconds: Some(30.0),
        };
        assert_eq!(
            sentence(&answer),
            "web/b2 is draining: 1 live flow, 30s left"
        );
        answer.state = "up".to_owned();
        answer.live_flows = 0;
        answer.drain_remaining_seconds = None;
        assert_eq!(sentence(&answer), "web/b2 is up: no live flows");
    }
}
