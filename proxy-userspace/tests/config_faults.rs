//! A catalogue of bad files, each with the messages that it must give.
//!
//! `config_faults/NAME.yaml` holds a file and, at its end, what `sluice validate` says of it, each
//! line behind `#> ` (these lines are taken away before the file is read). To write what is said
//! now into the files, and then judge it with your own eyes:
//!
//! ```text
//! UPDATE_FAULTS=1 cargo test -p proxy-userspace --test config_faults
//! ```

use proxy_userspace::config::{self, Fault, Severity};
use std::path::{Path, PathBuf};

const MARK: &str = "#> ";

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config_faults");
    let mut cases: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    cases.sort();
    cases
}

/// The file without its expectations, and these.
fn split(text: &str) -> (String, Vec<String>) {
    let (said, kept): (Vec<_>, Vec<_>) = text.lines().partition(|line| line.starts_with(MARK));
    let kept = kept.iter().map(|line| format!("{line}\n")).collect();
    (
        kept,
        said.iter()
            .map(|line| line[MARK.len()..].to_owned())
            .collect(),
    )
}

/// Errors and warnings of a file, in the order of the text.
fn faults(text: &str) -> Vec<Fault> {
    let environment = |name: &str| (name == "SET").then(|| "a value".to_owned());
    match config::parse_with("f", text, &environment) {
        Ok(loaded) => loaded.warnings.iter().cloned().collect(),
        Err(errors) => errors.iter().cloned().collect(),
    }
}

#[test]
fn every_bad_file_gives_its_messages() {
    let mut wrong = Vec::new();
    for path in cases() {
        let text = std::fs::read_to_string(&path).unwrap();
        let (file, expected) = split(&text);
        let said: Vec<_> = faults(&file).iter().map(Fault::to_string).collect();
        if std::env::var_os("UPDATE_FAULTS").is_some() {
            let said: String = said.iter().map(|line| format!("{MARK}{line}\n")).collect();
            std::fs::write(&path, file + &said).unwrap();
        } else if said != expected {
            wrong.push(format!(
                "{}\n  expected:\n    {}\n  said:\n    {}",
                path.display(),
                expected.join("\n    "),
                said.join("\n    ")
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_catalogue_is_large_and_every_file_in_it_is_bad() {
    let cases = cases();
    assert!(cases.len() >= 80, "{} cases", cases.len());
    for path in cases {
        let (_, expected) = split(&std::fs::read_to_string(&path).unwrap());
        assert!(!expected.is_empty(), "{}", path.display());
    }
}

#[test]
fn every_fault_points_at_its_text_and_says_what_to_do() {
    for path in cases() {
        let (file, _) = split(&std::fs::read_to_string(&path).unwrap());
        for fault in faults(&file) {
            let name = path.display();
            assert!(
                fault.expected.is_some() || fault.fix.is_some(),
                "{name}: {fault}"
            );
            if fault.line == 0 {
                continue;
            }
            let line = file
                .lines()
                .nth(fault.line as usize - 1)
                .unwrap_or_default();
            let from_column: String = line.chars().skip(fault.column as usize - 1).collect();
            let at_offset = &file[fault.offset..fault.offset + fault.length];
            assert!(from_column.starts_with(at_offset), "{name}: {fault}");
            let shown = fault.text.trim_end_matches('…');
            assert!(at_offset.starts_with(shown), "{name}: {fault}");
        }
    }
}

#[test]
fn every_fault_can_be_drawn() {
    for path in cases() {
        let (file, _) = split(&std::fs::read_to_string(&path).unwrap());
        let Err(errors) = config::parse_with("f", &file, &|_| None) else {
            continue;
        };
        let drawn = errors.pretty(false);
        assert!(
            !drawn.contains('\u{1b}'),
            "no colour was asked for: {drawn}"
        );
        assert!(
            errors.pretty(true).contains('\u{1b}'),
            "colour was asked for"
        );
        for fault in &errors {
            assert!(drawn.contains(fault.code.name()), "{drawn}");
        }
    }
}

#[test]
fn strict_makes_warnings_fatal() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config_faults/service-unused.yaml");
    let loaded = config::load(&path).expect("only a warning");
    let errors = loaded.strict().expect_err("a warning");
    assert!(
        errors
            .iter()
            .all(|fault| fault.severity == Severity::Warning)
    );
}

#[test]
fn a_missing_file_is_named() {
    let errors = config::load(Path::new("/nonexistent/sluice.yaml")).expect_err("no such file");
    let text = errors.to_string();
    assert!(
        text.starts_with("/nonexistent/sluice.yaml: error: cannot read the file"),
        "{text}"
    );
}
