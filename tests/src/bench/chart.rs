//! Bars as an SVG picture, several panels below each other.

use anyhow::{Result, anyhow, ensure};
use plotters::coord::Shift;
use plotters::prelude::*;
use std::path::Path;

/// Height of a bar with its gap, pixels.
const BAR: u32 = 22;
/// Height of a panel besides its bars.
const FRAME: u32 = 90;
const WIDTH: u32 = 900;

/// One bar.
#[derive(Clone, Debug, PartialEq)]
pub struct Bar {
    /// What it stands for.
    pub name: String,
    /// Its length.
    pub value: f64,
    /// What is written at its end.
    pub label: String,
    /// Drawn in grey: something to compare with.
    pub baseline: bool,
}

/// Bars that are compared with each other.
#[derive(Clone, Debug, PartialEq)]
pub struct Panel {
    /// Above the bars.
    pub title: String,
    /// Below them.
    pub unit: String,
    /// The bars, from top to bottom.
    pub bars: Vec<Bar>,
}

/// Draws the panels that have bars.
///
/// # Errors
///
/// When there are none, or the file cannot be written.
pub fn write(panels: &[Panel], path: &Path) -> Result<()> {
    let panels: Vec<&Panel> = panels
        .iter()
        .filter(|panel| panel.longest() > 0.0)
        .collect();
    ensure!(!panels.is_empty(), "there are no rows to draw");
    let height = panels.iter().map(|panel| panel.height()).sum();
    let draw = || -> Result<(), Box<dyn std::error::Error>> {
        let mut rest = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
        rest.fill(&WHITE)?;
        let root = rest.clone();
        for panel in panels {
            let (area, below) = rest.split_vertically(panel.height());
            panel.draw(&area)?;
            rest = below;
        }
        Ok(root.present()?)
    };
    draw().map_err(|error| anyhow!("drawing {}: {error}", path.display()))
}

impl Panel {
    fn longest(&self) -> f64 {
        self.bars.iter().map(|bar| bar.value).fold(0.0, f64::max)
    }

    fn height(&self) -> u32 {
        BAR * self.bars.len() as u32 + FRAME
    }

    fn draw(
        &self,
        area: &DrawingArea<SVGBackend<'_>, Shift>,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let longest = self.longest();
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, ("sans-serif", 18))
            .margin(10)
            .x_label_area_size(30)
            .y_label_area_size(0)
            .build_cartesian_2d(-longest * 0.3..longest * 1.3, self.bars.len() as f64..0.0)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .x_desc(&self.unit)
            .x_label_formatter(&|x| {
                if *x < 0.0 {
                    String::new()
                } else {
                    super::report::number(*x)
                }
            })
            .draw()?;
        for (index, bar) in self.bars.iter().enumerate() {
            let top = index as f64;
            let colour = if bar.baseline {
                RGBColor(150, 150, 150)
            } else {
                RGBColor(46, 110, 180)
            };
            let shape = Rectangle::new(
                [(0.0, top + 0.15), (bar.value, top + 0.85)],
                colour.filled(),
            );
            let font = ("sans-serif", 13);
            let name = Text::new(bar.name.clone(), (-longest * 0.29, top + 0.3), font);
            let end = (bar.value + longest * 0.01, top + 0.3);
            let label = Text::new(bar.label.clone(), end, font);
            chart.draw_series([shape])?;
            chart.draw_series([name, label])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_names_every_bar_of_every_panel() {
        let panel = |title: &str, name: &str| Panel {
            title: title.into(),
            unit: "µs".into(),
            bars: vec![Bar {
                name: name.into(),
                value: 3.0,
                label: "three".into(),
                baseline: false,
            }],
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.svg");
        write(&[panel("above", "first"), panel("below", "second")], &path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("<svg"));
        for word in ["above", "below", "first", "second", "three"] {
            assert!(text.contains(word), "{word}");
        }
        assert!(write(&[], &path).is_err());
    }
}
