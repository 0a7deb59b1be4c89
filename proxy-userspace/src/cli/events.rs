//! `sluice events`.

use crate::admin::api::HappeningQuery;
use crate::cli::args::{self, Output, SocketArgs};
use crate::cli::daemon::{Events, Told, query};
use crate::cli::exit::{Exit, Failure};
use crate::cli::{format, output};
use crate::observe::journal::Happening;

/// Show what happens to the daemon: health, drains, configurations, certificates
///
/// The daemon keeps the last thousand events. What becomes of flows is shown by `sluice observe`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluice events                    what happens from now on
  sluice events --past --count 20  the oldest twenty that are kept
  sluice events --past -o json | jq -r .message")]
pub(super) struct Args {
    /// Begin with the oldest event that is kept
    #[arg(long)]
    past: bool,
    /// Begin after the event with this id, which JSON output has
    #[arg(long, value_name = "ID")]
    after: Option<String>,
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
        let wanted = HappeningQuery {
            past: self.past,
            after: self.after,
        };
        let path = query("events", &wanted)?;
        let mut events = Events::new(self.socket.client().stream(&path).await?);
        let mut left = self.count.unwrap_or(u64::MAX);
        while left > 0 {
            let Some(Told { event, data }) = events.next().await? else {
                break;
            };
            if event == "missed" {
                eprintln!("{data} events are not kept any more");
                continue;
            }
            match self.output {
                Output::Json => output::stream(false, &data)?,
                Output::Yaml => output::stream(true, &data)?,
                Output::Table => match serde_json::from_str::<Happening>(&data) {
                    Ok(event) => output::line(text(&event))?,
                    Err(error) => return Err(Failure::new(Exit::Failed, error)),
                },
            }
            left -= 1;
        }
        Ok(Exit::Done)
    }
}

fn text(event: &Happening) -> String {
    let time = format::time(event.time_seconds);
    format!("{time} {:<11} {}", event.topic.name(), event.message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::journal::Topic;

    #[test]
    fn an_event_is_one_line() {
        let event = Happening::new(Topic::Drain, "web/b1 drains");
        assert_eq!(
            text(&event),
            "1970-01-01T00:00:00Z drain       web/b1 drains"
        );
    }
}
