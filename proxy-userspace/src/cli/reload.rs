//! `sluice reload`.

use crate::admin::api::ReloadAnswer;
use crate::cli::args::{self, Output, OutputArgs, SocketArgs};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output;
use std::fmt::Write as _;

/// Put the configuration file in force anew
///
/// The daemon reads its file again. Either all of it takes effect, or nothing does: a file with a
/// fault leaves the old configuration serving, and every fault is printed with its place.
/// Established connections keep their backends.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluice reload                     prints what changed
  sluice validate && sluice reload  check first, from this user's point of view

The same happens on SIGHUP, where the outcome is in the log and in the metric
sluice_config_last_reload_successful.")]
pub(super) struct Args {
    #[command(flatten)]
    socket: SocketArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl Args {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let answer: ReloadAnswer =
            args::block_on(async { Ok(self.socket.client().post("reload", &()).await?) })?;
        show(self.output.output, &answer)
    }
}

/// Prints what came of a change of the configuration.
pub(super) fn show(output: Output, answer: &ReloadAnswer) -> Result<Exit, Failure> {
    output::show(output, answer, |answer| {
        for warning in &answer.warnings {
            eprintln!("warning: {warning}");
        }
        text(answer)
    })
}

fn text(answer: &ReloadAnswer) -> String {
    let generation = answer.generation;
    let mut text = match answer.changes.len() {
        0 if answer.dry_run => format!("nothing would change (generation {generation})\n"),
        n if answer.dry_run => format!("{n} changes would be made (generation {generation})\n"),
        0 => format!("nothing changed (generation {generation})\n"),
        1 => format!("1 change in force (generation {generation})\n"),
        n => format!("{n} changes in force (generation {generation})\n"),
    };
    for change in &answer.changes {
        let _ = writeln!(text, "  {change}");
    }
    if !answer.kernel_edits.is_empty() {
        let _ = writeln!(text, "{} edits of the kernel's maps:", answer.edits);
    }
    for edit in &answer.kernel_edits {
        let _ = writeln!(text, "  {edit}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_counted_and_listed() {
        let mut answer = ReloadAnswer {
            generation: 4,
            ..Default::default()
        };
        assert_eq!(text(&answer), "nothing changed (generation 4)\n");
        answer.changes = vec!["service web: backend b4 added".to_owned()];
        assert_eq!(
            text(&answer),
            "1 change in force (generation 4)\n  service web: backend b4 added\n"
        );
    }
}
