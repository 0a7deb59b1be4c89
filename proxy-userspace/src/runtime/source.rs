//! Where the configuration comes from.

use crate::admin::api::{Refusal, RefusalKind};
use crate::config::model::Config;
use crate::config::{self, ConfigErrors, Faults};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
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

    /// Its text as it is now.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    fn text(&mut self) -> Result<String, Refusal> {
        Err(not_a_file(&self.name()))
    }

    /// Writes a text that is to take the place of the present one, without doing that yet.
    ///
    /// # Errors
    ///
    /// It cannot be written; the present one is as it was.
    fn stage(&mut self, _text: &str) -> Result<Staged, Refusal> {
        Err(not_a_file(&self.name()))
    }
}

/// A text beside the one that it is to replace. Dropped, it is removed.
#[derive(Debug)]
pub struct Staged {
    new: PathBuf,
    place: PathBuf,
}

impl Staged {
    /// Replaces the old text, at once and whole.
    ///
    /// # Errors
    ///
    /// The system refuses; the old one is as it was.
    pub fn put_in_place(self) -> Result<(), Refusal> {
        fs::rename(&self.new, &self.place).map_err(|error| unwritten(&self.place, &error))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // It is not there any more if it was put in place.
        let _ = fs::remove_file(&self.new);
    }
}

fn not_a_file(name: &str) -> Refusal {
    let message = format!(
        "the configuration came from `{name}`, which is no file that can be read or written again"
    );
    Refusal::new(RefusalKind::Conflict, message)
}

fn unwritten(path: &Path, error: &io::Error) -> Refusal {
    let message = format!("{} cannot be written: {error}", path.display());
    Refusal::new(RefusalKind::Conflict, message)
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

    fn text(&mut self) -> Result<String, Refusal> {
        if self.path == Path::new(STANDARD_INPUT) {
            return Err(not_a_file(STANDARD_INPUT));
        }
        fs::read_to_string(&self.path).map_err(|error| {
            let message = format!("{} cannot be read: {error}", self.path.display());
            Refusal::new(RefusalKind::Conflict, message)
        })
    }

    fn stage(&mut self, text: &str) -> Result<Staged, Refusal> {
        if self.path == Path::new(STANDARD_INPUT) {
            return Err(not_a_file(STANDARD_INPUT));
        }
        // A symbolic link stays one.
        let place = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let mut name = place.as_os_str().to_owned();
        name.push(format!(".{}.new", std::process::id()));
        let staged = Staged {
            new: name.into(),
            place,
        };
        write_beside(&staged, text).map_err(|error| unwritten(&staged.place, &error))?;
        Ok(staged)
    }
}

/// Writes the new text with the old one's permissions, down to the disk.
fn write_beside(staged: &Staged, text: &str) -> io::Result<()> {
    let _ = fs::remove_file(&staged.new);
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&staged.new)?;
    if let Ok(old) = fs::metadata(&staged.place) {
        file.set_permissions(old.permissions())?;
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Judges a text that did not come from the file.
pub(crate) fn parse(name: &str, text: &str) -> Result<(Config, Vec<String>), Refusal> {
    let loaded = config::parse(name, text).map_err(|errors| refusal(Path::new(name), &errors))?;
    Ok((loaded.config, sentences(&loaded.warnings)))
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
