//! Configuration: file → validate → model; and `diff(old, new)`.
//!
//! ```text
//! YAML text ──yaml──▶ tree with places ──substitute──▶ with variables ──decode──▶ file
//!                                                                                  │ validate
//!             every fault at once, with file, line, column, key path, fix ◀────────┤
//!                                                                                  ▼
//!                                                            model (what it means) ──▶ all else
//! ```
//!
//! Nothing stops at the first fault: `decode` notes what has the wrong form and goes on,
//! `validate` judges whatever could be read. The JSON Schema and `docs/configuration.md` are
//! made from the types that are decoded.
//!
//! A value comes from the file, in which environment variables are filled in, else from
//! `defaults`. The command line does not override the file.

mod decode;
mod defaults;
mod diff;
mod effective;
mod fault;
mod file;
pub mod log_template;
pub mod model;
mod redact;
mod report;
mod schema;
mod substitute;
mod validate;
mod yaml;

pub use diff::{Change, Subject, diff};
pub use effective::{effective, effective_yaml, to_yaml};
pub use fault::{Code, ConfigErrors, Fault, Faults, Severity};
pub use redact::{REDACTED, redact};
pub use schema::{reference_markdown, schema};
pub use yaml::to_json as yaml_to_json;

use model::Config;
use report::{Draft, Place, Report};
use std::path::Path;
use std::sync::Arc;

/// Longest file that is read, in octets.
const MAX_OCTETS: u64 = 64 << 20;

/// A configuration that can be used.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What is allowed but probably not meant.
    pub warnings: Faults,
}

impl Loaded {
    /// The configuration, if there are no warnings (`--strict`).
    ///
    /// # Errors
    ///
    /// The warnings, if there are any.
    pub fn strict(self) -> Result<Config, ConfigErrors> {
        if self.warnings.is_empty() {
            Ok(self.config)
        } else {
            Err(ConfigErrors::new(self.warnings))
        }
    }
}

/// Reads and judges a file, and the files of certificates that it names; `-` is standard input.
/// Variables come from this process's environment.
///
/// # Errors
///
/// Every fault of the file, warnings included; or one without a place if it cannot be read.
pub fn load(path: &Path) -> Result<Loaded, ConfigErrors> {
    if path == Path::new("-") {
        let text = read(std::io::stdin().lock())
            .map_err(|error| ConfigErrors::unreadable("<stdin>", &error))?;
        return parse_with_files("<stdin>", &text);
    }
    let name = path.display().to_string();
    let text = std::fs::File::open(path)
        .and_then(read)
        .map_err(|error| ConfigErrors::unreadable(&name, &error))?;
    parse_with_files(&name, &text)
}

fn read(from: impl std::io::Read) -> std::io::Result<String> {
    let mut text = String::new();
    let mut limited = from.take(MAX_OCTETS + 1);
    std::io::Read::read_to_string(&mut limited, &mut text)?;
    if text.len() as u64 > MAX_OCTETS {
        return Err(std::io::Error::new(
            std::io::ErrorKind::FileTooLarge,
            format!("it is longer than {MAX_OCTETS} octets"),
        ));
    }
    Ok(text)
}

/// Judges `text`, which messages call `name`. Variables come from this process's environment.
///
/// # Errors
///
/// Every fault of the text, warnings included.
pub fn parse(name: &str, text: &str) -> Result<Loaded, ConfigErrors> {
    parse_with(name, text, &|variable| std::env::var(variable).ok())
}

/// As [`parse`], and the files that the configuration names are judged, too.
fn parse_with_files(name: &str, text: &str) -> Result<Loaded, ConfigErrors> {
    judge(name, text, &|variable| std::env::var(variable).ok(), true)
}

/// As [`parse`], with the environment as an argument.
///
/// # Errors
///
/// Every fault of the text, warnings included.
pub fn parse_with(
    name: &str,
    text: &str,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Loaded, ConfigErrors> {
    judge(name, text, environment, false)
}

fn judge(
    name: &str,
    text: &str,
    environment: &dyn Fn(&str) -> Option<String>,
    with_files: bool,
) -> Result<Loaded, ConfigErrors> {
    let (mut document, mut problems) = yaml::Document::parse(text);
    problems.extend(substitute::fill_in(&mut document, environment));
    let report = Report::new(&document, name.into(), Arc::from(text));
    let broken = !problems.is_empty();
    for (place, draft) in problems {
        report.error(place, draft);
    }
    if document.is_empty() {
        if !broken {
            let draft = Draft::new(Code::MissingKey, "the file is empty")
                .expected("at least the key `l4`")
                .fix("start from examples/l4.yaml");
            report.error(Place::Whole, draft);
        }
        return Err(ConfigErrors::new(report.finish()));
    }
    let file = decode::decode(&report, yaml::ROOT);
    let config = file.given().map(|file| {
        let config = validate::config(&report, file);
        if with_files {
            validate::check_files(&report, &file.value);
        }
        config
    });
    let faults = report.finish();
    let failed = faults.iter().any(|fault| fault.severity == Severity::Error);
    match config {
        Some(config) if !failed => Ok(Loaded {
            config,
            warnings: faults,
        }),
        _ => Err(ConfigErrors::new(faults)),
    }
}

#[cfg(test)]
mod tests;
