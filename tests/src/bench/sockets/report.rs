//! Rows of `bench sockets`: as a table for terminals and for documents, as JSON, as bars.

use super::scenarios;
use crate::bench::chart::{self, Bar, Panel};
use crate::bench::l7::Effort;
use crate::bench::{docs, machine};
use anyhow::Result;
use serde::Serialize;
use std::fmt::{self, Write as _};
use std::path::Path;

/// What one contender did in one scenario. Numbers are missing where there is nothing to measure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The scenario's name.
    pub scenario: String,
    /// The contender's name.
    pub peer: String,
    /// What CPU time is told by: `request`, `GiB` or `refusal`.
    pub per: &'static str,
    /// CPU time of the contender's processes, microseconds.
    pub cpu_us: Option<f64>,
    /// CPU time of everybody: contender, load, origin and the kernel's threads, microseconds.
    pub path_us: Option<f64>,
    /// Requests per second, closed loop.
    pub rps: Option<f64>,
    /// Median latency at the common rate, microseconds.
    pub p50_us: Option<f64>,
    /// 99th percentile of the latency at the common rate, microseconds.
    pub p99_us: Option<f64>,
    /// Resident memory, KiB.
    pub memory_kib: Option<f64>,
    /// How much that is of another row's: CPU time, or requests per second in the scenario `connect`.
    pub ratio: Option<f64>,
    /// Which other row: of proxies the one with the least CPU time among the others.
    pub against: Option<String>,
    /// Why numbers are missing, or what is to be known about them.
    pub note: Option<String>,
}

/// Those that ours are compared with; the last one where sidecars are.
const RIVALS: [&str; 3] = ["nginx", "haproxy", "envoy-pair"];

/// What a ratio is to be. Of all others nothing is demanded.
const GOALS: [(&str, &str, Goal); 8] = [
    ("get", "sluice-accelerated", Goal::AtMost(0.55)),
    ("body_1m", "sluice-accelerated", Goal::AtMost(0.5)),
    ("tunnel", "sluice", Goal::AtMost(0.5)),
    ("mesh", "sluice", Goal::AtMost(0.5)),
    ("connect", "connect_kept", Goal::AtLeast(0.99)),
    ("connect", "connect_new", Goal::AtLeast(0.99)),
    ("condemned", "driver_v4", Goal::AtMost(0.02)),
    ("condemned", "driver_v6", Goal::AtMost(0.02)),
];

#[derive(Clone, Copy, Debug)]
enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(ratio) => write!(f, "≤ {ratio}"),
            Self::AtLeast(ratio) => write!(f, "≥ {ratio}"),
        }
    }
}

impl Row {
    /// A row without numbers.
    pub(super) fn new(scenario: &str, peer: &str, per: &'static str) -> Self {
        Self {
            scenario: scenario.to_owned(),
            peer: peer.to_owned(),
            per,
            cpu_us: None,
            path_us: None,
            rps: None,
            p50_us: None,
            p99_us: None,
            memory_kib: None,
            ratio: None,
            against: None,
            note: None,
        }
    }

    /// What is left of a scenario that could not be measured.
    pub(super) fn failed(scenario: &str, error: &anyhow::Error) -> Self {
        Self {
            note: Some(format!("failed: {error:#}")),
            ..Self::new(scenario, "–", "–")
        }
    }

    fn is_ours(&self) -> bool {
        self.peer.starts_with("sluice")
    }

    /// CPU time of all others than the contender: load, origin and the kernel's threads.
    fn others_us(&self) -> Option<f64> {
        Some((self.path_us? - self.cpu_us.unwrap_or(0.0)).max(0.0))
    }

    /// The comparison in words, with the goal if there is one.
    fn compared(&self) -> Option<String> {
        let (ratio, against) = (self.ratio?, self.against.as_ref()?);
        let digits = if ratio < 0.1 { 3 } else { 2 };
        let goal = GOALS
            .iter()
            .find(|(scenario, peer, _)| *scenario == self.scenario && *peer == self.peer);
        Some(match goal {
            Some((.., goal)) => format!("{ratio:.digits$} × {against} (goal {goal})"),
            None => format!("{ratio:.digits$} × {against}"),
        })
    }
}

/// The rows of one scenario, ours compared with the best of the others by CPU time.
pub(super) fn compared(mut rows: Vec<Row>) -> Vec<Row> {
    let by_cpu = |one: &&Row, other: &&Row| {
        f64::total_cmp(&one.cpu_us.unwrap_or(0.0), &other.cpu_us.unwrap_or(0.0))
    };
    let rivals = rows.iter().filter(|row| RIVALS.contains(&&*row.peer));
    let best = rivals.filter(|row| row.cpu_us.is_some()).min_by(by_cpu);
    let best = best.map(|best| (best.peer.clone(), best.cpu_us.unwrap_or(f64::NAN)));
    for row in rows.iter_mut().filter(|row| row.is_ours()) {
        if let (Some((peer, least)), Some(cpu)) = (&best, row.cpu_us) {
            row.ratio = Some(cpu / least);
            row.against = Some(peer.clone());
        }
    }
    rows
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scenario, peer, .. } = self;
        write!(f, "{scenario:<10} {peer:<18}")?;
        for (value, width, digits) in [
            (self.cpu_us, 11, digits(self.cpu_us)),
            (self.others_us(), 11, digits(self.others_us())),
            (self.path_us, 11, digits(self.path_us)),
            (self.rps, 9, 0),
            (self.p50_us, 8, 0),
            (self.p99_us, 8, 0),
            (self.memory_kib, 10, 0),
        ] {
            match value {
                Some(value) => write!(f, " {value:>width$.digits$}")?,
                None => write!(f, " {:>width$}", "–")?,
            }
        }
        if let Some(compared) = self.compared() {
            write!(f, "  {compared}")?;
        }
        if let Some(note) = &self.note {
            write!(f, "  {}", note.lines().next().unwrap_or_default())?;
        }
        Ok(())
    }
}

/// Digits behind the point that say something.
fn digits(value: Option<f64>) -> usize {
    match value {
        Some(us) if us < 2.0 => 3,
        Some(us) if us >= 10_000.0 => 0,
        _ => 1,
    }
}

/// The rows as a table for a terminal.
pub fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<10} {:<18} {:>11} {:>11} {:>11} {:>9} {:>8} {:>8} {:>10}\n",
        "scenario",
        "peer",
        "CPU µs",
        "others µs",
        "all µs",
        "req/s",
        "p50 µs",
        "p99 µs",
        "memory KiB"
    );
    for row in rows {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{row}");
    }
    text
}

/// Draws CPU time, one panel for each scenario.
///
/// # Errors
///
/// When there is none, or the file cannot be written.
pub fn write_svg(rows: &[Row], path: &Path) -> Result<()> {
    let panels: Vec<Panel> = scenarios()
        .into_iter()
        .filter(|(name, _)| rows_of(rows, name).next().is_some())
        .map(|(name, about)| panel(rows, name, about))
        .collect();
    chart::write(&panels, path)
}

fn panel(rows: &[Row], scenario: &str, about: &str) -> Panel {
    let bars = rows_of(rows, scenario).filter_map(|row| {
        let value = row.cpu_us?;
        Some(Bar {
            name: row.peer.clone(),
            value,
            label: format!("{value:.*}", digits(row.cpu_us)),
            baseline: !row.is_ours(),
        })
    });
    let per = rows_of(rows, scenario).next().map_or("", |row| row.per);
    Panel {
        title: about.to_owned(),
        unit: format!("CPU µs for each {per}"),
        bars: bars.collect(),
    }
}

fn rows_of<'a>(rows: &'a [Row], scenario: &'a str) -> impl Iterator<Item = &'a Row> {
    rows.iter().filter(move |row| row.scenario == scenario)
}

/// Writes the tables and a picture into `docs/benchmarks.md`. `background` is the share of the CPUs that
/// other programs used before the run.
///
/// # Errors
///
/// The page has not the blocks that are to be written, or is not writable.
pub fn write_docs(rows: &[Row], effort: Effort, background: f64) -> Result<()> {
    let page = docs::in_workspace("docs/benchmarks.md");
    let machine = format!(
        "{}- {} rounds of {} s for each loop and peer\n\n",
        machine::circumstances(Some(background)),
        effort.rounds,
        effort.time.as_secs_f64(),
    );
    let text = machine + &markdown(rows) + "\n![CPU time on one host](sockets.svg)\n";
    docs::write(&page, "sockets", &text)?;
    write_svg(rows, &docs::in_workspace("docs/sockets.svg"))
}

fn markdown(rows: &[Row]) -> String {
    let mut text = String::new();
    for (name, about) in scenarios() {
        let Some(first) = rows_of(rows, name).next() else {
            continue;
        };
        let _ = writeln!(
            text,
            "`{name}`, {about}, for each {}:\n\n\
             | | CPU µs | | others µs | all µs | requests/s | p50 µs | p99 µs | memory KiB | |\n\
             | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
            first.per
        );
        for row in rows_of(rows, name) {
            let cell = |value: Option<f64>, digits: usize| {
                value.map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"))
            };
            let note = row.note.as_deref().unwrap_or_default();
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                row.peer,
                cell(row.cpu_us, digits(row.cpu_us)),
                row.compared().unwrap_or_default(),
                cell(row.others_us(), digits(row.others_us())),
                cell(row.path_us, digits(row.path_us)),
                cell(row.rps, 0),
                cell(row.p50_us, 0),
                cell(row.p99_us, 0),
                cell(row.memory_kib, 0),
                note.lines().next().unwrap_or_default(),
            );
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::write_json;

    fn row(peer: &str, cpu_us: Option<f64>) -> Row {
        Row {
            cpu_us,
            path_us: cpu_us.map(|cpu| 3.0 * cpu),
            ..Row::new("get", peer, "request")
        }
    }

    #[test]
    fn ours_are_held_against_the_better_of_the_others() {
        let rows = compared(vec![
            row("direct", None),
            row("sluice", Some(9.0)),
            row("sluice-accelerated", Some(6.0)),
            row("nginx", Some(12.0)),
            row("haproxy", Some(15.0)),
        ]);
        let ratios: Vec<_> = rows.iter().map(|row| row.ratio).collect();
        assert_eq!(ratios, [None, Some(0.75), Some(0.5), None, None]);
        let text = markdown(&rows);
        assert!(
            text.contains(
                "| sluice-accelerated | 6.0 | 0.50 × nginx (goal ≤ 0.55) | 12.0 | 18.0 |"
            ),
            "{text}"
        );
        assert!(text.contains("| direct | – |  | – |"), "{text}");
        assert_eq!(panel(&rows, "get", "about").bars.len(), 4);
        assert!(table(&rows).contains("0.75 × nginx\n"));
    }

    #[test]
    fn a_scenario_that_failed_says_why() {
        let row = Row::failed("connect", &anyhow::anyhow!("there is no wrk"));
        let text = markdown(&[row]);
        assert!(text.contains("| failed: there is no wrk |"), "{text}");
    }

    #[test]
    fn goals_are_of_rows_that_there_are() {
        for (name, ..) in GOALS {
            assert!(
                scenarios().iter().any(|(known, _)| *known == name),
                "{name}"
            );
        }
    }

    #[test]
    fn json_rows_have_the_fields_that_were_promised() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.json");
        write_json(&[row("nginx", Some(1.0))], &path).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
        for key in [
            "scenario",
            "peer",
            "cpu_us",
            "rps",
            "p50_us",
            "p99_us",
            "memory_kib",
        ] {
            assert!(parsed[0].get(key).is_some(), "{key}: {parsed}");
        }
    }
}
