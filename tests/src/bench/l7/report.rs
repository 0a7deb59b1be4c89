//! Rows of `bench l7`: as a table for terminals and for documents, as JSON, as bars.

use super::{Effort, scenarios};
use crate::bench::chart::{self, Bar, Panel};
use crate::bench::{docs, machine};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

/// What one peer did in one scenario. Numbers are missing where the peer cannot do it, and then
/// the note says why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The scenario's name.
    pub scenario: String,
    /// The peer's name.
    pub peer: String,
    /// CPU time of the peer's processes per request, microseconds.
    pub cpu_us: Option<f64>,
    /// Requests per second, closed loop.
    pub rps: Option<f64>,
    /// Median latency at the common rate, microseconds.
    pub p50_us: Option<f64>,
    /// 99th percentile of the latency at the common rate, microseconds.
    pub p99_us: Option<f64>,
    /// Resident memory, KiB; in the scenario of idle connections what each of them adds.
    pub memory_kib: Option<f64>,
    /// Why numbers are missing, or what is to be known about them.
    pub note: Option<String>,
}

impl Row {
    /// How much of its CPU the proxy used in the closed loop, percent. Much less than 100 means
    /// that load and origin were the limit, and that it could have answered more.
    fn busy(&self) -> Option<f64> {
        Some(self.cpu_us? * self.rps? / 1e4)
    }

    /// Digits of the CPU time behind the point: those that say something.
    fn cpu_digits(&self) -> usize {
        match self.cpu_us {
            Some(us) if us < 2.0 => 3,
            _ => 1,
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scenario, peer, .. } = self;
        write!(f, "{scenario:<16} {peer:<8}")?;
        let digits = self.cpu_digits();
        for (value, width, digits) in [
            (self.cpu_us, 9, digits),
            (self.rps, 9, 0),
            (self.busy(), 6, 0),
            (self.p50_us, 9, 0),
            (self.p99_us, 9, 0),
            (self.memory_kib, 10, 1),
        ] {
            match value {
                Some(value) => write!(f, " {value:>width$.digits$}")?,
                None => write!(f, " {:>width$}", "–")?,
            }
        }
        if let Some(note) = &self.note {
            write!(f, "  {}", first_line(note))?;
        }
        Ok(())
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// The rows as a table for a terminal.
pub fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<16} {:<8} {:>9} {:>9} {:>6} {:>9} {:>9} {:>10}\n",
        "scenario", "peer", "CPU µs", "req/s", "busy %", "p50 µs", "p99 µs", "memory KiB"
    );
    for row in rows {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{row}");
    }
    text
}

/// Reads rows that [`crate::bench::report::write_json`] wrote. Of a scenario that several files have, the last one's count.
///
/// # Errors
///
/// When a file cannot be read or holds something else.
pub fn read_json(paths: &[PathBuf]) -> Result<Vec<Row>> {
    let mut all: Vec<Row> = Vec::new();
    for path in paths {
        let text = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        let rows: Vec<Row> =
            serde_json::from_slice(&text).with_context(|| format!("in {}", path.display()))?;
        all.retain(|old| rows.iter().all(|new| new.scenario != old.scenario));
        all.extend(rows);
    }
    Ok(all)
}

/// Draws CPU time per request, one panel for each scenario.
///
/// # Errors
///
/// When there is none, or the file cannot be written.
pub fn write_svg(rows: &[Row], path: &Path) -> Result<()> {
    let panels: Vec<Panel> = scenarios()
        .into_iter()
        .map(|(name, about)| panel(rows, name, about))
        .collect();
    chart::write(&panels, path)
}

fn panel(rows: &[Row], scenario: &str, about: &str) -> Panel {
    let idle = rows_of(rows, scenario).all(|row| row.cpu_us.is_none());
    let bars = rows_of(rows, scenario).filter_map(|row| {
        let value = if idle { row.memory_kib } else { row.cpu_us }?;
        Some(Bar {
            name: row.peer.clone(),
            value,
            label: format!("{value:.1}"),
            baseline: row.peer != "sluice",
        })
    });
    let unit = if idle {
        "KiB for each connection"
    } else {
        "CPU µs for each request"
    };
    Panel {
        title: about.to_owned(),
        unit: unit.to_owned(),
        bars: bars.collect(),
    }
}

fn rows_of<'a>(rows: &'a [Row], scenario: &'a str) -> impl Iterator<Item = &'a Row> {
    rows.iter().filter(move |row| row.scenario == scenario)
}

/// Writes tables and a picture of all scenarios into `docs/benchmarks.md`. `background` is the share of
/// the CPUs that other programs used before the run; `None` if the rows are of several runs.
///
/// # Errors
///
/// The page has not the blocks that are to be written, or is not writable.
pub fn write_docs(rows: &[Row], effort: Effort, background: Option<f64>) -> Result<()> {
    let page = docs::in_workspace("docs/benchmarks.md");
    let machine = format!(
        "{}- {} rounds of {} s for each loop and peer\n",
        machine::circumstances(background),
        effort.rounds,
        effort.time.as_secs_f64(),
    );
    docs::write(&page, "l7-machine", &machine)?;
    let text = markdown(rows) + "\n![CPU time of a request](l7.svg)\n";
    docs::write(&page, "l7", &text)?;
    docs::write(&docs::in_workspace("README.md"), "l7", &key_figures(rows))?;
    write_svg(rows, &docs::in_workspace("docs/l7.svg"))
}

/// The contenders in the README's table.
const CONTENDERS: [&str; 4] = ["sluice", "nginx", "haproxy", "envoy"];

/// What a newcomer wants to see: CPU time per request of the best-known contenders.
fn key_figures(rows: &[Row]) -> String {
    let mut text = format!(
        "| CPU µs per request | {} |\n| --- |{}\n",
        CONTENDERS.join(" | "),
        " ---: |".repeat(CONTENDERS.len())
    );
    for (name, about) in scenarios() {
        let cpu = |peer: &str| {
            let row = rows_of(rows, name).find(|row| row.peer == peer);
            row.and_then(|row| row.cpu_us)
        };
        let cells = CONTENDERS.map(|peer| match cpu(peer) {
            Some(cpu) => format!("{cpu:.1}"),
            None => "–".to_owned(),
        });
        if cells.iter().filter(|cell| *cell != "–").count() > 1 {
            let _ = writeln!(text, "| {about} | {} |", cells.join(" | "));
        }
    }
    text
}

fn markdown(rows: &[Row]) -> String {
    let mut text = String::new();
    for (name, about) in scenarios() {
        if rows_of(rows, name).next().is_none() {
            continue;
        }
        let _ = writeln!(
            text,
            "`{name}`, {about}:\n\n\
             | | CPU µs | requests/s | busy % | p50 µs | p99 µs | memory KiB | |\n\
             | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |"
        );
        for row in rows_of(rows, name) {
            let cell = |value: Option<f64>, digits: usize| {
                value.map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"))
            };
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} | {} |",
                row.peer,
                cell(row.cpu_us, 1),
                cell(row.rps, 0),
                cell(row.busy(), 0),
                cell(row.p50_us, 0),
                cell(row.p99_us, 0),
                cell(row.memory_kib, usize::from(row.cpu_us.is_none())),
                first_line(row.note.as_deref().unwrap_or_default()),
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

    #[test]
    fn the_key_figures_compare_those_who_were_measured() {
        let rows = [
            row("sluice", Some(10.0), None),
            row("nginx", Some(12.25), None),
            row("caddy", Some(40.0), None),
        ];
        let text = key_figures(&rows);
        assert!(text.contains("| 10.0 | 12.2 | – | – |"), "{text}");
        assert_eq!(text.lines().count(), 3, "{text}");
        assert_eq!(
            key_figures(&rows[..1]).lines().count(),
            2,
            "nothing to compare"
        );
    }

    fn row(peer: &str, cpu_us: Option<f64>, note: Option<&str>) -> Row {
        Row {
            scenario: "get".into(),
            peer: peer.into(),
            cpu_us,
            rps: cpu_us.map(|cpu| 1e6 / cpu),
            p50_us: None,
            p99_us: None,
            memory_kib: None,
            note: note.map(str::to_owned),
        }
    }

    #[test]
    fn a_row_without_numbers_says_why() {
        let rows = [
            row("nginx", Some(12.5), None),
            row("sluice", None, Some("not built yet\nsecond line")),
        ];
        let text = table(&rows);
        assert!(text.contains("12.5") && text.contains("80000"), "{text}");
        assert!(text.ends_with("–  not built yet\n"), "{text}");
        assert!(markdown(&rows).contains("| sluice | – | – | – | – | – | – | not built yet |"));
        assert_eq!(panel(&rows, "get", "about").bars.len(), 1);
    }

    #[test]
    fn json_rows_have_the_fields_that_were_promised() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.json");
        write_json(&[row("nginx", Some(1.0), None)], &path).unwrap();
        let twice = [path.clone(), path.clone()];
        assert_eq!(read_json(&twice).unwrap(), [row("nginx", Some(1.0), None)]);
        let text = std::fs::read_to_string(path).unwrap();
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
        let keys: Vec<&str> = parsed[0]
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(
            keys,
            [
                "scenario",
                "peer",
                "cpu_us",
                "rps",
                "p50_us",
                "p99_us",
                "memory_kib",
                "note"
            ]
        );
    }
}
