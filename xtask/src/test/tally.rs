//! Counting tests: runs `cargo test`, shows its output, and reads the results from it.

use crate::shell;
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// Results of some tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Tests that passed.
    pub(crate) passed: u32,
    /// Tests that failed.
    pub(crate) failed: u32,
    /// Tests marked `#[ignore]`.
    pub(crate) ignored: u32,
    /// Names of those that failed.
    pub(crate) failures: Vec<String>,
}

impl Tally {
    /// Adds the results of other tests.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.failures.extend(other.failures);
    }

    /// Takes in a line of libtest's output.
    fn read(&mut self, line: &str) {
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.passed += count(counts, " passed");
            self.failed += count(counts, " failed");
            self.ignored += count(counts, " ignored");
        } else if let Some(name) = line
            .strip_prefix("test ")
            .and_then(|l| l.strip_suffix("FAILED"))
        {
            self.failures
                .push(name.trim_end_matches([' ', '.']).to_owned());
        }
    }
}

/// The number before `what` in `ok. 3 passed; 0 failed; 1 ignored; …`.
fn count(line: &str, what: &str) -> u32 {
    let before = line.split(what).next().unwrap_or_default();
    if before.len() == line.len() {
        return 0;
    }
    before
        .rsplit(' ')
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

/// Runs a `cargo test` and counts.
///
/// # Errors
///
/// If it fails for another reason than a failed test: it does not compile, or a test binary died.
pub(crate) fn run(cargo: &mut Command) -> Result<Tally> {
    eprintln!("    $ {}", shell::display(cargo));
    let mut child = cargo
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| shell::cannot_start(cargo, "install Rust by rustup"))?;
    let stdout = child.stdout.take().context("the output was piped")?;
    let mut tally = Tally::default();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.context("reading the tests' output")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        tally.read(&line);
    }
    let status = child.wait().context("waiting for cargo")?;
    if !status.success() && tally.failed == 0 {
        bail!(
            "`{}` failed ({status}) without a failed test: see above",
            shell::display(cargo)
        );
    }
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "
running 3 tests
test flows::a_flow_survives ... ok
test drain::keeps_flows ... FAILED
test slow ... ignored, takes an hour

test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.1s

running 12 tests
test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

    #[test]
    fn results_of_several_binaries_add_up() {
        let mut tally = Tally::default();
        OUTPUT.lines().for_each(|line| tally.read(line));
        assert_eq!(
            tally,
            Tally {
                passed: 13,
                failed: 1,
                ignored: 1,
                failures: vec!["drain::keeps_flows".into()]
            }
        );
    }

    #[test]
    fn a_command_that_dies_without_a_failed_test_is_an_error() {
        assert!(run(&mut Command::new("false")).is_err());
        let mut fails = Command::new("sh");
        fails.args([
            "-c",
            "echo 'test result: FAILED. 0 passed; 2 failed; 0 ignored'; exit 101",
        ]);
        assert_eq!(run(&mut fails).unwrap().failed, 2);
    }
}
