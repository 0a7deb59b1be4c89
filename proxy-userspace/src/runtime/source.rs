//! Where the configuration comes from.

use crate::admin::api::{Refusal, RefusalKind};
use crate::config::model::Config;
use crate::config::{self, ConfigErrors, Faults};
use std::path::{Path, PathBuf};

/// Gives the configuration, as often as asked.
pub trait Source: Send {
    /// Reads and judges it.
    ///
    /// # Errors
    ///
    /// Every fault, rendered for people.
    fn load(&mut self) -> Result<(Config, Vec<String>), Refusal>;

    /// What messages call it.
    fn name(&self) -> String;
}

/// A file, read anew each time.
#[derive(Clone, Debug)]
pub struct FileSource {
    path: PathBuf,
}

impl FileSource {
    /// The file at `path`. A relative path is made absolute now, so that a later change of the
    /// working directory does not matter.
    pub fn new(path: &Path) -> Self {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Self { path }
    }
}

impl Source for FileSource {
    fn load(&mut self) -> Result<(Config, Vec<String>), Refusal> {
        let loaded = config::load(&self.path).map_err(|errors| refusal(&self.path, &errors))?;
        Ok((loaded.config, sentences(&loaded.warnings)))
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }
}

/// A refusal with every fault on a line of its own.
fn refusal(path: &Path, errors: &ConfigErrors) -> Refusal {
    let details = sentences(errors.faults());
    let count = match details.len() {
        1 => "1 fault".to_owned(),
        n => format!("{n} faults"),
    };
    let message = format!("{count} in {}", path.display());
    Refusal {
        kind: RefusalKind::Invalid,
        message,
        details,
    }
}

fn sentences(faults: &Faults) -> Vec<String> {
    faults.iter().map(ToString::to_string).collect()
}
