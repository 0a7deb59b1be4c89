//! `sluice completion`.

use crate::cli::exit::{Exit, Failure};
use crate::cli::output;
use clap_complete::{Shell, generate};

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluice completion bash > /usr/share/bash-completion/completions/sluice
  sluice completion zsh > /usr/share/zsh/vendor-completions/_sluice
  sluice completion fish > /usr/share/fish/vendor_completions.d/sluice.fish")]
pub(super) struct Args {
    /// Shell
    shell: Shell,
}

impl Args {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let mut script = Vec::new();
        generate(self.shell, &mut super::command(), "sluice", &mut script);
        output::print(&String::from_utf8_lossy(&script))?;
        Ok(Exit::Done)
    }
}
