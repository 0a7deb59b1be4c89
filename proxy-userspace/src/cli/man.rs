//! `sluice man`.

mod reference;

use crate::cli::exit::{Exit, Failure};
use crate::cli::output;
use clap_mangen::Man;
use std::io;
use std::path::{Path, PathBuf};

/// Print the manual page, or write all of them to a directory
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluice man | man -l -
  sluice man /usr/local/share/man/man8")]
pub(super) struct Args {
    /// Directory for sluice.8, sluice-run.8 and the others, and sluice.yaml.5
    directory: Option<PathBuf>,
}

impl Args {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        match self.directory {
            None => {
                let mut page = Vec::new();
                render(super::command(), &mut page)
                    .map_err(|error| Failure::new(Exit::Failed, error))?;
                output::print(&String::from_utf8_lossy(&page))?;
            }
            Some(directory) => write_all(&directory).map_err(|error| {
                let what = format!("cannot write manual pages to {}", directory.display());
                Failure::new(Exit::Failed, format!("{what}: {error}"))
            })?,
        }
        Ok(Exit::Done)
    }
}

fn write_all(directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let mut root = super::command();
    root.build();
    let mut pages = vec![("sluice".to_owned(), root)];
    while let Some((name, command)) = pages.pop() {
        for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
            pages.push((format!("{name}-{}", sub.get_name()), sub.clone()));
        }
        let mut page = Vec::new();
        // clap wants names that live as long as the program; there are a few dozen.
        render(
            command.name(String::leak(name.clone()) as &'static str),
            &mut page,
        )?;
        std::fs::write(directory.join(format!("{name}.8")), page)?;
    }
    let reference = reference::page(&crate::config::reference_markdown());
    std::fs::write(directory.join("sluice.yaml.5"), reference)
}

/// Section 8: commands for administrators.
fn render(command: clap::Command, page: &mut Vec<u8>) -> io::Result<()> {
    Man::new(command).section("8").manual("sluice").render(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_with_its_examples() {
        let directory = tempfile::tempdir().expect("a directory");
        write_all(directory.path()).expect("writes");
        let read =
            |name: &str| std::fs::read_to_string(directory.path().join(name)).expect("a page");
        assert!(read("sluice.8").contains("Exit codes"));
        assert!(read("sluice-drain.8").contains("sluice drain web b2"));
        assert!(read("sluice-guard-add.8").contains("PREFIX"));
        assert!(read("sluice.yaml.5").starts_with(".TH SLUICE.YAML 5 "));
    }
}
