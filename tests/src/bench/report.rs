//! Rows of a benchmark: as a table, as JSON, as a picture.

use anyhow::{Context, Result, anyhow};
use plotters::prelude::*;
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

/// Writes the rows as JSON: an array of objects with id, value, unit, baseline and ratio.
///
/// # Errors
///
/// When the file cannot be written.
pub fn write_json(rows: &[Row], path: &Path) -> Result<()> {
    let text = serde_json::to_string_pretty(rows)? + "\n";
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// Draws the rows of this unit as bars.
///
/// # Errors
///
/// When there are none, or the file cannot be written.
pub fn write_svg(rows: &[Row], unit: &str, title: &str, path: &Path) -> Result<()> {
    const BAR: u32 = 22;
    let rows: Vec<&Row> = rows.iter().filter(|row| row.unit == unit).collect();
    let longest = rows.iter().map(|row| row.value).fold(0.0, f64::max);
    anyhow::ensure!(longest > 0.0, "there are no rows in {unit} to draw");
    let height = BAR * rows.len() as u32 + 90;
    let root = SVGBackend::new(path, (900, height)).into_drawing_area();
    let failed = |error: &dyn std::fmt::Display| anyhow!("drawing {}: {error}", path.display());
    root.fill(&WHITE).map_err(|error| failed(&error))?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(30)
        .y_label_area_size(0)
        .build_cartesian_2d(-longest * 0.25..longest * 1.3, rows.len() as f64..0.0)
        .map_err(|error| failed(&error))?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .x_desc(unit)
        .x_label_formatter(&|x| if *x < 0.0 { String::new() } else { number(*x) })
        .draw()
        .map_err(|error| failed(&error))?;
    for (index, row) in rows.iter().enumerate() {
        let top = index as f64;
        let colour = if row.baseline.is_some() {
            RGBColor(46, 110, 180)
        } else {
            RGBColor(150, 150, 150)
        };
        let bar = Rectangle::new(
            [(0.0, top + 0.15), (row.value, top + 0.85)],
            colour.filled(),
        );
        let name = Text::new(
            row.id.clone(),
            (-longest * 0.24, top + 0.3),
            ("sans-serif", 13),
        );
        let label = match (&row.baseline, row.ratio) {
            (Some(baseline), Some(ratio)) => {
                format!("{} ({ratio:.2} × {baseline})", number(row.value))
            }
            _ => number(row.value),
        };
        let value = Text::new(
            label,
            (row.value + longest * 0.01, top + 0.3),
            ("sans-serif", 13),
        );
        chart.draw_series([bar]).map_err(|error| failed(&error))?;
        chart
            .draw_series([name, value])
            .map_err(|error| failed(&error))?;
    }
    root.present().map_err(|error| failed(&error))
}

/// A number with as many digits as mean something.
fn number(value: f64) -> String {
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
    fn the_picture_names_every_row() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.svg");
        write_svg(&rows(), "ns/packet", "A title", &path).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.starts_with("<svg") && text.contains("ipip_v4_cached"));
        assert!(write_svg(&rows(), "furlongs", "None", &folder.path().join("x.svg")).is_err());
    }

    #[test]
    fn long_numbers_are_grouped() {
        assert_eq!(number(24.53), "24.5");
        assert_eq!(number(1_234_567.8), "1 234 568");
    }
}
