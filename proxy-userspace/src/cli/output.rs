//! Writing results to standard output.

use crate::cli::args::Output;
use crate::cli::exit::{Exit, Failure};
use crate::config::to_yaml;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;
use std::io::{self, Write as _};

/// Writes text. A reader that has gone away (`sluice status | head -1`) is no failure.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::silent(Exit::Done)),
        result => result.map_err(|error| Failure::new(Exit::Failed, error)),
    }
}

/// Writes a line.
pub(super) fn line(text: impl AsRef<str>) -> Result<(), Failure> {
    print(&format!("{}\n", text.as_ref()))
}

/// Writes a value as indented JSON.
pub(super) fn json(value: &(impl Serialize + ?Sized)) -> Result<(), Failure> {
    let text =
        serde_json::to_string_pretty(value).map_err(|error| Failure::new(Exit::Failed, error))?;
    line(text)
}

/// Writes a value as YAML.
pub(super) fn yaml(value: &(impl Serialize + ?Sized)) -> Result<(), Failure> {
    print(&yaml_text(value)?)
}

fn yaml_text(value: &(impl Serialize + ?Sized)) -> Result<String, Failure> {
    let value = serde_json::to_value(value).map_err(|error| Failure::new(Exit::Failed, error))?;
    Ok(to_yaml(&value))
}

/// Writes a value as it is wanted: as JSON, as YAML, or as this text.
pub(super) fn show<T: Serialize + ?Sized>(
    format: Output,
    value: &T,
    text: impl FnOnce(&T) -> String,
) -> Result<Exit, Failure> {
    match format {
        Output::Json => json(value)?,
        Output::Yaml => yaml(value)?,
        Output::Table => print(&text(value))?,
    }
    Ok(Exit::Done)
}

/// Writes one of the JSON objects that come one after the other, for programs: a line each as JSON, a
/// document each as YAML.
pub(super) fn stream(as_yaml: bool, object: &str) -> Result<(), Failure> {
    if !as_yaml {
        return line(object);
    }
    let value: serde_json::Value =
        serde_json::from_str(object).map_err(|error| Failure::new(Exit::Failed, error))?;
    print(&format!("---\n{}", yaml_text(&value)?))
}

/// Whether a column holds words or numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    /// Words: aligned to the left.
    Words(&'static str),
    /// Numbers: aligned to the right.
    Number(&'static str),
}

/// Lines up rows under headings, without frames: easy on the eye, on `grep` and on `awk`.
pub(super) fn columns(headings: &[Column], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings.iter().map(|heading| match heading {
        Column::Words(name) | Column::Number(name) => *name,
    }));
    table.add_rows(rows);
    for (column, heading) in table.column_iter_mut().zip(headings) {
        column.set_padding((0, 2));
        if matches!(heading, Column::Number(_)) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = String::new();
    for row in table.lines() {
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::yaml_to_json;

    #[test]
    fn yaml_says_what_json_says() {
        let value = serde_json::json!({
            "rows": [{"name": "on", "port": 80}, {"name": "007", "share": 0.5}],
            "none": null,
        });
        let text = yaml_text(&value).expect("a text");
        assert_eq!(yaml_to_json(&text), Some(value), "{text}");
    }

    #[test]
    fn columns_line_up_and_end_without_spaces() {
        let headings = [
            Column::Words("NAME"),
            Column::Number("FLOWS"),
            Column::Words("STATE"),
        ];
        let rows = [["web1", "7", "up"], ["w", "1200", "down"]];
        let text = columns(&headings, rows.map(|row| row.map(str::to_owned).to_vec()));
        assert_eq!(
            text,
            "NAME  FLOWS  STATE\nweb1      7  up\nw      1200  down\n"
        );
    }
}
