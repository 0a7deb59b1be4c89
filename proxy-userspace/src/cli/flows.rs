//! `sluice flows`.

use crate::admin::api::{DEFAULT_FLOWS, FlowQuery, FlowsAnswer, MAX_FLOWS};
use crate::cli::args::{self, OutputArgs, SocketArgs};
use crate::cli::daemon::query;
use crate::cli::exit::{Exit, Failure};
use crate::cli::format;
use crate::cli::output::{self, Column};
use ipnet::IpNet;

/// List flows of the flow table
///
/// The table may hold millions, so the list is bounded; narrow it with the filters. Flows are in
/// no particular order, and those of other CPUs may change while they are listed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluice flows --service web --backend b2    who is still on b2?
  sluice flows --client 192.0.2.0/24 -o json")]
pub(super) struct Args {
    /// Only flows of this service
    #[arg(long)]
    service: Option<String>,
    /// Only flows of this backend
    #[arg(long)]
    backend: Option<String>,
    /// Only flows of clients with this address or in this prefix
    #[arg(long, value_name = "PREFIX", value_parser = args::prefix)]
    client: Option<IpNet>,
    /// Flows at most
    #[arg(long, value_name = "N", default_value_t = DEFAULT_FLOWS as u64,
        value_parser = clap::value_parser!(u64).range(1..=MAX_FLOWS as u64))]
    limit: u64,
    #[command(flatten)]
    socket: SocketArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl Args {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let flows = FlowQuery {
            service: self.service,
            backend: self.backend,
            client: self.client.map(|client| client.to_string()),
            limit: Some(self.limit as usize),
        };
        let answer: FlowsAnswer = args::block_on(async {
            Ok(self.socket.client().get(&query("flows", &flows)?).await?)
        })?;
        output::show(self.output.output, &answer, text)
    }
}

fn text(answer: &FlowsAnswer) -> String {
    let headings = [
        Column::Words("PROTO"),
        Column::Words("CLIENT"),
        Column::Words("VIP"),
        Column::Words("SERVICE"),
        Column::Words("BACKEND"),
        Column::Words("PHASE"),
        Column::Number("IDLE"),
    ];
    let rows = answer.flows.iter().map(|flow| {
        let mark = if flow.confirmed { "" } else { "?" };
        vec![
            flow.protocol.clone(),
            flow.client.clone(),
            flow.vip.clone(),
            flow.service.clone(),
            flow.backend.clone(),
            format!("{}{mark}", flow.phase),
            format::span(flow.idle_seconds),
        ]
    });
    let mut text = output::columns(&headings, rows);
    if answer.truncated {
        text.push_str("… and more: narrow the list or raise --limit\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::view::FlowView;

    #[test]
    fn a_list_that_was_cut_says_so() {
        let flow = FlowView {
            protocol: "tcp".to_owned(),
            client: "[2001:db8::1]:4711".to_owned(),
            phase: "syn".to_owned(),
            ..FlowView::default()
        };
        let text = text(&FlowsAnswer {
            flows: vec![flow],
            truncated: true,
        });
        assert!(
            text.contains("[2001:db8::1]:4711") && text.contains("syn?"),
            "{text}"
        );
        assert!(text.ends_with("raise --limit\n"), "{text}");
    }
}
