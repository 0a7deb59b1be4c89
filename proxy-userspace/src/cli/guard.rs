//! `sluice guard`.

use crate::admin::api::{GuardAction, GuardRequest};
use crate::cli::args::{self, OutputArgs, SocketArgs};
use crate::cli::exit::{Exit, Failure};
use crate::cli::format;
use crate::cli::output::{self, Column};
use crate::observe::view::GuardView;
use clap::Subcommand;
use ipnet::IpNet;
use std::time::Duration;

/// List, add and remove rules for sources
///
/// Rules of the configuration file change by reload only. What is added here belongs to the
/// operator: it is kept across reloads and restarts of the daemon, until it expires or is removed.
/// Of several rules that match a source, the one with the longest prefix decides, first among
/// those of the listener, then among those of all listeners.
///
/// A rule for all listeners also holds for those of the proxies: connections of a source that is
/// denied are reset when they are accepted, where the kernel part does not drop their packets
/// before.
///
/// Sources that are condemned for what they do (`condemn` in the file) are listed with the owner
/// `policy`. To remove such a rule, by the prefix or by an address in it, pardons the source: what
/// it has done is forgotten.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluice guard list
  sluice guard add 203.0.113.0/24 --expires 10m        drop a network for ten minutes
  sluice guard add 203.0.113.7 --allow                 but let this host pass
  sluice guard add 198.51.100.0/24 --listener web-http
  sluice guard remove 203.0.113.0/24
  sluice guard list --condemned                        who is condemned, for what, how long yet
  sluice guard remove 198.51.100.9                     pardon a condemned source")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the rules, whoever wrote them
    List {
        /// Condemned sources only
        #[arg(long)]
        condemned: bool,
        #[command(flatten)]
        socket: SocketArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Add a rule, or replace the operator's rule for the same prefix
    Add {
        #[command(flatten)]
        rule: RuleArgs,
        /// Let the source pass; without this, it is dropped
        #[arg(long)]
        allow: bool,
        /// Time after which the rule ends by itself
        #[arg(long, value_name = "TIME", value_parser = args::duration)]
        expires: Option<Duration>,
        #[command(flatten)]
        socket: SocketArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Remove an operator's rule, or pardon a condemned source
    Remove {
        #[command(flatten)]
        rule: RuleArgs,
        #[command(flatten)]
        socket: SocketArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
}

#[derive(Debug, clap::Args)]
struct RuleArgs {
    /// Source address or prefix
    #[arg(value_name = "PREFIX", value_parser = args::prefix)]
    source: IpNet,
    /// Listener whose sources the rule judges; all listeners by default
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
}

impl RuleArgs {
    fn request(self, action: GuardAction, expires: Option<Duration>) -> GuardRequest {
        GuardRequest {
            source: self.source.to_string(),
            listener: self.listener,
            action,
            expires_in_seconds: expires.map(|expires| expires.as_secs_f64()),
        }
    }
}

impl Args {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let (rules, output) = args::block_on(async {
            Ok(match self.command {
                Command::List {
                    condemned,
                    socket,
                    output,
                } => {
                    let mut rules: Vec<GuardView> = socket.client().get("guard").await?;
                    rules.retain(|rule| !condemned || rule.owner == "policy");
                    (rules, output)
                }
                Command::Add {
                    rule,
                    allow,
                    expires,
                    socket,
                    output,
                } => {
                    let action = if allow {
                        GuardAction::Allow
                    } else {
                        GuardAction::Deny
                    };
                    let request = rule.request(action, expires);
                    (vec![socket.client().post("guard", &request).await?], output)
                }
                Command::Remove {
                    rule,
                    socket,
                    output,
                } => {
                    let request = rule.request(GuardAction::Deny, None);
                    (
                        vec![socket.client().post("guard/remove", &request).await?],
                        output,
                    )
                }
            })
        })?;
        output::show(output.output, &rules[..], text)
    }
}

fn text(rules: &[GuardView]) -> String {
    if rules.is_empty() {
        return "no rules\n".to_owned();
    }
    let headings = [
        Column::Words("SOURCE"),
        Column::Words("LISTENER"),
        Column::Words("ACTION"),
        Column::Words("OWNER"),
        Column::Words("CAUSE"),
        Column::Number("EXPIRES"),
    ];
    let rows = rules.iter().map(|rule| {
        vec![
            rule.source.clone(),
            rule.listener.clone().unwrap_or_else(|| "(all)".to_owned()),
            rule.action.clone(),
            rule.owner.clone(),
            cause(rule),
            rule.expires_in_seconds
                .map_or_else(|| "never".to_owned(), format::span),
        ]
    });
    output::columns(&headings, rows)
}

/// Why a rule was written; of a condemned source for what, and for the how-manieth time.
fn cause(rule: &GuardView) -> String {
    let Some(offence) = &rule.offence else {
        return rule.cause.clone();
    };
    match rule.times {
        Some(times @ 2..) => format!("{}: {offence}, {times} times", rule.cause),
        _ => format!("{}: {offence}", rule.cause),
    }
}
