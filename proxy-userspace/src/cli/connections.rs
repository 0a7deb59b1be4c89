//! `sluice connections`.

use crate::admin::api::{ConnectionQuery, ConnectionsAnswer, DEFAULT_CONNECTIONS, MAX_CONNECTIONS};
use crate::cli::args::{self, OutputArgs, SocketArgs};
use crate::cli::daemon::query;
use crate::cli::exit::{Exit, Failure};
use crate::cli::format;
use crate::cli::output::{self, Column};
use ipnet::IpNet;

/// List clients' connections with the proxies
///
/// The oldest come first. Connections that are balanced in the kernel are flows: see
/// `sluice flows`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluice connections --listener web            who is there?
  sluice connections --client 192.0.2.0/24 -o json")]
pub(super) struct Args {
    /// Only connections of this listener
    #[arg(long)]
    listener: Option<String>,
    /// Only connections of clients with this address or in this prefix
    #[arg(long, value_name = "PREFIX", value_parser = args::prefix)]
    client: Option<IpNet>,
    /// Connections at most
    #[arg(long, value_name = "N", default_value_t = DEFAULT_CONNECTIONS as u64,
        value_parser = clap::value_parser!(u64).range(1..=MAX_CONNECTIONS as u64))]
    limit: u64,
    #[command(flatten)]
    socket: SocketArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl Args {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let wanted = ConnectionQuery {
            listener: self.listener,
            client: self.client.map(|client| client.to_string()),
            limit: usize::try_from(self.limit).ok(),
        };
        let path = query("connections", &wanted)?;
        let client = self.socket.client();
        let answer: ConnectionsAnswer = args::block_on(async { Ok(client.get(&path).await?) })?;
        output::show(self.output.output, &answer, text)
    }
}

fn text(answer: &ConnectionsAnswer) -> String {
    let headings = [
        Column::Words("LISTENER"),
        Column::Words("PROTO"),
        Column::Words("CLIENT"),
        Column::Number("AGE"),
        Column::Number("REQUESTS"),
        Column::Number("RECEIVED"),
        Column::Number("SENT"),
    ];
    let rows = answer.connections.iter().map(|one| {
        vec![
            one.listener.clone(),
            one.protocol.clone(),
            one.client.clone(),
            format::span(one.age_seconds),
            one.requests.to_string(),
            format::bytes(one.received_bytes as f64),
            format::bytes(one.sent_bytes as f64),
        ]
    });
    let mut text = output::columns(&headings, rows);
    let more = answer.total.saturating_sub(answer.connections.len());
    if more > 0 {
        text.push_str(&format!(
            "… and {more} more: narrow the list or raise --limit\n"
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::view::ConnectionView;

    #[test]
    fn a_list_that_was_cut_says_by_how_much() {
        let one = ConnectionView {
            listener: "web".to_owned(),
            protocol: "h2".to_owned(),
            client: "192.0.2.1:4711".to_owned(),
            sent_bytes: 2048,
            ..ConnectionView::default()
        };
        let text = text(&ConnectionsAnswer {
            connections: vec![one],
            total: 8,
        });
        assert!(
            text.contains("192.0.2.1:4711") && text.contains("2.00 KiB"),
            "{text}"
        );
        assert!(
            text.ends_with("and 7 more: narrow the list or raise --limit\n"),
            "{text}"
        );
    }
}
