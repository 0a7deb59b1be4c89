//! What is said at the end.

use super::stages::{LeftOut, Outcome};
use super::tally::Tally;
use crate::progress::human;
use anyhow::Result;
use std::time::{Duration, Instant};

/// Results of all stages.
#[derive(Debug)]
pub(crate) struct Report {
    lines: Vec<Line>,
    start: Instant,
}

#[derive(Debug)]
struct Line {
    stage: String,
    time: Duration,
    /// Checks count as one test that passed or failed.
    tally: Tally,
    /// Why a stage failed as a whole.
    error: Option<String>,
}

/// Says which stage begins.
pub(crate) fn announce(index: usize, total: usize, stage: &str, about: &str) {
    eprintln!("\n[{index}/{total}] {stage}: {about}");
}

impl Report {
    /// A report without stages.
    pub(crate) fn new() -> Self {
        Self {
            lines: Vec::new(),
            start: Instant::now(),
        }
    }

    /// Adds a stage and says how it ended.
    pub(crate) fn add(&mut self, stage: &str, time: Duration, outcome: Result<Outcome>) {
        let (tally, error) = match outcome {
            Ok(Outcome::Check) => (
                Tally {
                    passed: 1,
                    ..Tally::default()
                },
                None,
            ),
            Ok(Outcome::Tests(tally)) => (tally, None),
            Err(error) => (
                Tally {
                    failed: 1,
                    ..Tally::default()
                },
                Some(format!("{error:#}")),
            ),
        };
        if let Some(error) = &error {
            eprintln!("error: {stage}: {error}");
        }
        eprintln!("      {stage} {} in {}", verdict(&tally), human(time));
        self.lines.push(Line {
            stage: stage.to_owned(),
            time,
            tally,
            error,
        });
    }

    /// How many checks and tests failed.
    pub(crate) fn failed(&self) -> u32 {
        self.lines.iter().map(|line| line.tally.failed).sum()
    }

    /// Prints times, failures and, as the last line, the counts.
    pub(crate) fn print(&self, left_out: &[LeftOut]) {
        println!("\n{}", self.text(left_out));
    }

    fn text(&self, left_out: &[LeftOut]) -> String {
        let mut lines = vec![format!(
            "{:<18} {:<7} {:>6}  time",
            "stage", "result", "tests"
        )];
        for line in &self.lines {
            let tests = line.tally.passed + line.tally.failed;
            lines.push(format!(
                "{:<18} {:<7} {tests:>6}  {}",
                line.stage,
                verdict(&line.tally),
                human(line.time)
            ));
        }
        for line in &self.lines {
            for name in &line.tally.failures {
                lines.push(format!("failed in {}: {name}", line.stage));
            }
            if let Some(error) = &line.error {
                lines.push(format!("failed: {}: {error}", line.stage));
            }
        }
        for out in left_out {
            lines.push(format!("left out: {}: {}", out.what, out.why));
        }
        let ignored: u32 = self.lines.iter().map(|line| line.tally.ignored).sum();
        if ignored > 0 {
            lines.push(format!(
                "{ignored} tests ignored, each with its reason in the source"
            ));
        }
        let passed: u32 = self.lines.iter().map(|line| line.tally.passed).sum();
        lines.push(format!("in {}", human(self.start.elapsed())));
        lines.push(format!("{passed} passed, {} failed", self.failed()));
        lines.join("\n")
    }
}

fn verdict(tally: &Tally) -> &'static str {
    if tally.failed == 0 { "ok" } else { "FAILED" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn the_last_line_counts_checks_and_tests() {
        let mut report = Report::new();
        report.add("fmt", Duration::ZERO, Ok(Outcome::Check));
        report.add("build", Duration::ZERO, Err(anyhow!("does not compile")));
        let tally = Tally {
            passed: 5,
            failed: 1,
            ignored: 0,
            failures: vec!["drain".to_owned()],
        };
        report.add("netns", Duration::from_secs(3), Ok(Outcome::Tests(tally)));
        let text = report.text(&[LeftOut {
            what: "packets".to_owned(),
            why: "--unprivileged".to_owned(),
        }]);
        assert_eq!(text.lines().last(), Some("6 passed, 2 failed"));
        assert!(text.contains("failed in netns: drain"), "{text}");
        assert!(text.contains("failed: build: does not compile"), "{text}");
        assert!(text.contains("left out: packets: --unprivileged"), "{text}");
        assert_eq!(report.failed(), 2);
    }
}
