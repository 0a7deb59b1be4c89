//! `sluice observe`.

use crate::admin::api::EventQuery;
use crate::cli::args::{self, Output, SocketArgs};
use crate::cli::daemon::{Lines, query};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output;
use crate::observe::view::EventView;

/// Show sampled verdicts as they happen
///
/// One packet in so many is shown with what became of it and why. Sampling costs the packet path
/// little; looking at every packet (--sample 1) costs more and loses events on a busy host.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluice observe --sample 100                  one packet in a hundred
  sluice observe --sample 1 --outcome drop     every drop, and why
  sluice observe --reason denied -o json | jq .source")]
pub(super) struct Args {
    /// One packet in this many while this command runs; by default as configured, else 100
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    sample: Option<u32>,
    /// Only packets of this service
    #[arg(long)]
    service: Option<String>,
    /// Only packets with this reason, see `sluice status --reasons`
    #[arg(long)]
    reason: Option<String>,
    /// Only packets with this outcome
    #[arg(long, value_parser = ["pass", "forward", "drop"])]
    outcome: Option<String>,
    /// End after this many events
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// How to print events: a line each
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Output,
    #[command(flatten)]
    socket: SocketArgs,
}

impl Args {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        args::block_on(self.follow())
    }

    async fn follow(self) -> Result<Exit, Failure> {
        let events = EventQuery {
            sample: self.sample,
            service: self.service,
            reason: self.reason,
            outcome: self.outcome,
        };
        let path = query("packets", &events)?;
        let mut lines = Lines::new(self.socket.client().stream(&path).await?);
        let mut left = self.count.unwrap_or(u64::MAX);
        while left > 0 {
            let Some(line) = lines.next().await? else {
                break;
            };
            let Some(json) = line.strip_prefix("data: ") else {
                continue;
            };
            match self.output {
                Output::Json => output::line(json)?,
                Output::Table => match serde_json::from_str::<EventView>(json) {
                    Ok(event) => output::line(text(&event))?,
                    Err(error) => return Err(Failure::new(Exit::Failed, error)),
                },
            }
            left -= 1;
        }
        Ok(Exit::Done)
    }
}

fn text(event: &EventView) -> String {
    let seconds_of_day = event.time_seconds.rem_euclid(86_400.0);
    let (hours, rest) = (seconds_of_day / 3600.0, seconds_of_day % 3600.0);
    let to = match (&event.service, &event.backend) {
        (Some(service), Some(backend)) => format!(" {service}/{backend}"),
        (Some(service), None) => format!(" {service}"),
        _ => String::new(),
    };
    format!(
        "{:02}:{:02}:{:06.3} {} {} {} > {} len {} {} {}{to}",
        hours as u32,
        (rest / 60.0) as u32,
        rest % 60.0,
        event.interface,
        event.protocol,
        event.source,
        event.destination,
        event.length,
        event.outcome,
        event.reason,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_from_packet_to_verdict() {
        let event = EventView {
            time_seconds: 86_400.0 + 3_723.5,
            protocol: "tcp".to_owned(),
            source: "192.0.2.1:4711".to_owned(),
            destination: "198.51.100.1:80".to_owned(),
            length: 60,
            interface: "eth0".to_owned(),
            reason: "translated".to_owned(),
            outcome: "forward".to_owned(),
            service: Some("web".to_owned()),
            backend: Some("b1".to_owned()),
        };
        assert_eq!(
            text(&event),
            "01:02:03.500 eth0 tcp 192.0.2.1:4711 > 198.51.100.1:80 len 60 forward translated web/b1"
        );
    }
}
