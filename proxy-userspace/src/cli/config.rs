//! `sluice config`: looks at configurations, puts them in force and goes back to earlier ones.

use crate::admin::api::{ChangeQuery, HistoryEntry, RollbackRequest};
use crate::cli::args::{self, ConfigArgs, Output, OutputArgs, SocketArgs};
use crate::cli::daemon::query;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{self, Column};
use crate::cli::{format, reload};
use crate::config;
use clap::{Subcommand, ValueEnum};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Look at configurations, put them in force, go back
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sluice config show --running")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print a configuration with every default filled in
    #[command(after_help = "\
Examples:
  sluice config show -c sluice.yaml
  sluice config show --running -o json
  diff <(sluice config show) <(sluice config show --running)   would a reload change anything?")]
    Show {
        #[command(flatten)]
        config: ConfigArgs,
        /// What the daemon has in force, not what is in the file
        #[arg(long)]
        running: bool,
        /// How to print it
        #[arg(short, long, value_name = "FORMAT", default_value = "yaml")]
        output: Format,
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Put a configuration in force that is not the daemon's file
    #[command(after_help = "\
Examples:
  sluice config apply new.yaml --dry-run    what would change, down to the kernel's maps
  sluice config apply new.yaml              in force until the file is read again
  sluice config apply new.yaml --save       and the daemon's file says so, too
  sluice config show --running | sed s/weight:.1/weight:.2/ | sluice config apply -")]
    Apply {
        /// The configuration, - for standard input
        file: PathBuf,
        #[command(flatten)]
        terms: Terms,
        /// Only if the configuration in force still is the one with this entity tag (see status)
        #[arg(long, value_name = "ETAG")]
        if_match: Option<String>,
    },
    /// List the configurations that were in force, the newest first
    History {
        #[command(flatten)]
        socket: SocketArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Put a configuration in force again that was in force before
    #[command(after_help = "Example:\n  sluice config history && sluice config rollback 3")]
    Rollback {
        /// Its generation, see `sluice config history`
        generation: u64,
        #[command(flatten)]
        terms: Terms,
    },
}

/// How a change is made.
#[derive(Debug, clap::Args)]
struct Terms {
    /// Say what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Write the daemon's configuration file, too
    #[arg(long, conflicts_with = "dry_run")]
    save: bool,
    #[command(flatten)]
    socket: SocketArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// As the file is written
    Yaml,
    /// JSON of the same shape
    Json,
}

impl Args {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        match self.command {
            Command::Show {
                config,
                running,
                output,
                socket,
            } => show(&config, running, output, &socket),
            Command::Apply {
                file,
                terms,
                if_match,
            } => apply(&file, &terms, if_match.as_deref()),
            Command::History { socket, output } => history(&socket, output.output),
            Command::Rollback { generation, terms } => rollback(generation, &terms),
        }
    }
}

impl Terms {
    fn path(&self, path: &str) -> Result<String, Failure> {
        let terms = ChangeQuery {
            dry_run: self.dry_run,
            save: self.save,
        };
        query(path, &terms)
    }
}

fn show(
    config: &ConfigArgs,
    running: bool,
    output: Format,
    socket: &SocketArgs,
) -> Result<Exit, Failure> {
    let yaml = output == Format::Yaml;
    if running {
        args::block_on(async {
            let client = socket.client();
            if yaml {
                output::print(&client.text("config").await?)
            } else {
                output::json(&client.get::<Value>("config?format=json").await?)
            }
        })?;
        return Ok(Exit::Done);
    }
    let path = config.path()?;
    let config = args::load(&path)?;
    if yaml {
        output::print(&config::effective_yaml(&config))?;
    } else {
        output::json(&config::effective(&config))?;
    }
    Ok(Exit::Done)
}

fn apply(file: &Path, terms: &Terms, if_match: Option<&str>) -> Result<Exit, Failure> {
    let text = if file == Path::new("-") {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(file)
    };
    let text =
        text.map_err(|error| Failure::new(Exit::Failed, format!("{}: {error}", file.display())))?;
    let based = if_match.map_or_else(
        || "*".to_owned(),
        |etag| format!("\"{}\"", etag.trim_matches('"')),
    );
    let path = terms.path("config")?;
    let client = terms.socket.client();
    let answer = args::block_on(async { Ok(client.put_document(&path, text, &based).await?) })?;
    reload::show(terms.output.output, &answer)
}

fn history(socket: &SocketArgs, output: Output) -> Result<Exit, Failure> {
    let client = socket.client();
    let entries: Vec<HistoryEntry> =
        args::block_on(async { Ok(client.get("config/history").await?) })?;
    output::show(output, &entries[..], table)
}

fn table(entries: &[HistoryEntry]) -> String {
    let headings = [
        Column::Number("GENERATION"),
        Column::Words("WHEN"),
        Column::Words("HOW"),
        Column::Words("BY"),
        Column::Words("SAVED"),
        Column::Words("CHANGES"),
    ];
    let rows = entries.iter().map(|entry| {
        let changes = match &entry.changes[..] {
            [] => "-".to_owned(),
            [one] => one.clone(),
            [first, rest @ ..] => format!("{first} (and {} more)", rest.len()),
        };
        vec![
            entry.generation.to_string(),
            format::time(entry.at_seconds),
            entry.how.clone(),
            entry.by.clone(),
            if entry.saved { "yes" } else { "no" }.to_owned(),
            changes,
        ]
    });
    output::columns(&headings, rows)
}

fn rollback(generation: u64, terms: &Terms) -> Result<Exit, Failure> {
    let path = terms.path("config/rollback")?;
    let client = terms.socket.client();
    let request = RollbackRequest { generation };
    let answer = args::block_on(async { Ok(client.post(&path, &request).await?) })?;
    reload::show(terms.output.output, &answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_is_a_line_for_each_generation() {
        let entry = HistoryEntry {
            generation: 2,
            at_seconds: 0.0,
            by: "user 0".to_owned(),
            how: "patch".to_owned(),
            changes: vec!["service web: backend b4 added".to_owned(), "x".to_owned()],
            ..HistoryEntry::default()
        };
        let text = table(&[entry]);
        let line = text.lines().nth(1).expect("a line");
        assert!(
            line.contains("1970-01-01T00:00:00Z  patch  user 0  no"),
            "{line}"
        );
        assert!(line.ends_with("backend b4 added (and 1 more)"), "{line}");
    }
}
