//! Rows of a benchmark: as a table for terminals and for documents, as JSON, as bars.

use super::chart::{Bar, Panel};
use anyhow::{Context, Result};
use serde::Serialize;
use std::fmt::Write as _;
use std::path::Path;

/// One number.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// What was measured.
    pub id: String,
    /// The number.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// Id of the row it is compared with.
    pub baseline: Option<String>,
    /// Value divided by the baseline's.
    pub ratio: Option<f64>,
}

/// The rows as a table for a terminal.
pub fn table(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.id.len()).max().unwrap_or(0);
    let mut text = String::new();
    for row in rows {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "{:width$}  {:>14} {:<11}",
            row.id,
            number(row.value),
            row.unit
        );
        if let (Some(baseline), Some(ratio)) = (&row.baseline, row.ratio) {
            let _ = write!(text, "  {ratio:5.2} × {baseline}");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

/// Writes the rows of any benchmark as JSON: an array of objects with the fields of a row.
///
/// # Errors
///
/// When the file cannot be written.
pub fn write_json(rows: &[impl Serialize], path: &Path) -> Result<()> {
    let text = serde_json::to_string_pretty(rows)? + "\n";
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// The rows of this unit, to be drawn. Of a baseline with a long name only the ratio is shown: there
/// is no room, and the grey bar is the one that is meant.
pub fn panel(rows: &[Row], unit: &str, title: &str) -> Panel {
    /// Characters.
    const ROOM: usize = 10;
    let bars = rows.iter().filter(|row| row.unit == unit).map(|row| {
        let value = number(row.value);
        Bar {
            name: row.id.clone(),
            value: row.value,
            label: match (&row.baseline, row.ratio) {
                (Some(baseline), Some(ratio)) if baseline.len() <= ROOM => {
                    format!("{value} ({ratio:.2} × {baseline})")
                }
                (_, Some(ratio)) => format!("{value} ({ratio:.2} ×)"),
                _ => value,
            },
            baseline: row.baseline.is_none(),
        }
    });
    Panel {
        title: title.to_owned(),
        unit: unit.to_owned(),
        bars: bars.collect(),
    }
}

/// The rows of this unit as a table in Markdown.
pub fn markdown(rows: &[Row], unit: &str) -> String {
    let mut text = format!("| row | {unit} | |\n| --- | ---: | --- |\n");
    for row in rows.iter().filter(|row| row.unit == unit) {
        let ratio = match (&row.baseline, row.ratio) {
            (Some(baseline), Some(ratio)) => format!("{ratio:.2} × `{baseline}`"),
            _ => "baseline".to_owned(),
        };
        let _ = writeln!(text, "| `{}` | {} | {ratio} |", row.id, number(row.value));
    }
    text
}

/// A number with as many digits as mean something.
pub(super) fn number(value: f64) -> String {
    if value.abs() < 1000.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        let row = |id: &str, value, baseline: Option<&str>| Row {
            id: id.into(),
            value,
            unit: "ns/packet",
            baseline: baseline.map(str::to_owned),
            ratio: baseline.map(|_| value / 25.0),
        };
        vec![
            row("swap", 25.0, None),
            row("ipip_v4_cached", 60.0, Some("swap")),
        ]
    }

    #[test]
    fn the_table_shows_ratios_where_there_is_a_baseline() {
        let text = table(&rows());
        assert_eq!(text.lines().count(), 2);
        assert!(
            text.lines()
                .nth(1)
                .is_some_and(|line| line.ends_with("2.40 × swap")),
            "{text}"
        );
        assert!(
            !text.lines().next().is_some_and(|line| line.contains('×')),
            "{text}"
        );
    }

    #[test]
    fn json_rows_have_the_five_fields() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.json");
        write_json(&rows(), &path).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
        let row = parsed[1].as_object().unwrap();
        let keys: Vec<&str> = row.keys().map(String::as_str).collect();
        assert_eq!(keys, ["id", "value", "unit", "baseline", "ratio"]);
        assert!(parsed[0]["ratio"].is_null());
    }

    #[test]
    fn a_panel_and_a_markdown_table_have_the_rows_of_their_unit() {
        let panel = panel(&rows(), "ns/packet", "A title");
        assert_eq!(panel.bars.len(), 2);
        assert!(panel.bars[0].baseline && !panel.bars[1].baseline);
        assert_eq!(panel.bars[1].label, "60.0 (2.40 × swap)");
        let text = markdown(&rows(), "ns/packet");
        assert!(
            text.ends_with("| `ipip_v4_cached` | 60.0 | 2.40 × `swap` |\n"),
            "{text}"
        );
        assert_eq!(markdown(&rows(), "furlongs").lines().count(), 2);
    }

    #[test]
    fn long_numbers_are_grouped() {
        assert_eq!(number(24.53), "24.5");
        assert_eq!(number(1_234_567.8), "1 234 568");
    }
}
