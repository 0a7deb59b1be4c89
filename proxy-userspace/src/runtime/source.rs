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

/// A file, read anew each time; `-` is standard input, which can be read once.
#[derive(Clone, Debug)]
pub struct FileSource {
    path: PathBuf,
    exhausted: bool,
}

/// The path that stands for standard input.
const STANDARD_INPUT: &str = "-";

impl FileSource {
    /// The file at `path`. A relative path is made absolute now, so that a later change of the
    /// working directory does not matter.
    pub fn new(path: &Path) -> Self {
        let path = match path {
            input if input == Path::new(STANDARD_INPUT) => input.to_owned(),
            file => std::path::absolute(file).unwrap_or_else(|_| file.to_owned()),
        };
        Self {
            path,
            exhausted: false,
        }
    }
}

impl Source for FileSource {
    fn load(&mut self) -> Result<(Config, Vec<String>), Refusal> {
        if self.exhausted {
            let message = "the configuration came from standard input and cannot be read again";
            return Err(Refusal::new(RefusalKind::Conflict, message));
        }
        self.exhausted = self.path == Path::new(STANDARD_INPUT);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_anew_each_time_and_its_faults_are_counted() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("sluice.yaml");
        let mut source = FileSource::new(&path);
        let missing = source.load().expect_err("no file yet");
        assert!(missing.message.starts_with("1 fault in /"), "{missing}");
        std::fs::write(&path, "l4: {interfaces: [eth0]}").expect("writes");
        source.load().expect("valid");
        std::fs::write(
            &path,
            "l4: {interfaces: [eth0], pin_dri: /x, flow_capacty: 1}",
        )
        .expect("writes");
        let refusal = source.load().expect_err("two typing errors");
        assert_eq!(refusal.details.len(), 2, "{refusal}");
        assert!(refusal.details[0].contains("sluice.yaml:1:"), "{refusal}");
    }

    #[test]
    fn standard_input_is_read_once() {
        let mut source = FileSource::new(Path::new("-"));
        assert_eq!(source.name(), "-");
        source.exhausted = true;
        let refusal = source.load().expect_err("nothing left");
        assert!(refusal.message.contains("standard input"));
    }
}
