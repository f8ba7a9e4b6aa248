//! Times of calls by percentile, drawn as SVG.

use std::error::Error;
use std::path::Path;

use plotters::prelude::{ChartBuilder, IntoDrawingArea, IntoFont, LineSeries, SVGBackend};
use plotters::style::{RGBColor, WHITE};

use super::record::Record;
use super::report::{Report, quantiles};
use crate::failure::Failure;
use crate::files;

const SIZE: (u32, u32) = (900, 500);

const LINE: RGBColor = RGBColor(31, 99, 180);

/// Draws the percentiles into a file. The horizontal axis has the same length for each further nine: 90 %, 99 %, 99.9 %.
pub(super) fn write(file: &Path, report: &Report, record: &Record) -> Result<(), Failure> {
    let svg = draw(&report.title(), record).map_err(|error| files::unwritable(file, &error))?;
    files::write(file, &svg)
}

fn draw(title: &str, record: &Record) -> Result<String, Box<dyn Error>> {
    let points: Vec<(f64, f64)> = quantiles(record)
        .into_iter()
        .filter(|(percent, ..)| *percent < 100.0)
        .map(|(percent, nanos, _)| (nines(percent), nanos as f64 / 1e6))
        .collect();
    let right = points.last().map_or(0.0, |(x, _)| *x).max(2.0);
    let top = points.last().map_or(0.0, |(_, y)| *y).max(0.001);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 16).into_font())
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(70)
            .build_cartesian_2d(0.0..right, 0.0..top * 1.05)?;
        chart
            .configure_mesh()
            .x_desc("percentile")
            .y_desc("milliseconds")
            .x_labels(right.ceil() as usize + 1)
            .x_label_formatter(&|x| label(*x))
            .draw()?;
        chart.draw_series(LineSeries::new(points, &LINE))?;
        area.present()?;
    }
    Ok(svg)
}

/// Returns the number of nines of a percentage: 1 for 90 %, 2 for 99 %.
fn nines(percent: f64) -> f64 {
    -(1.0 - percent / 100.0).log10()
}

/// Returns the percentage with a number of nines.
fn label(nines: f64) -> String {
    let percent = 100.0 * (1.0 - 10f64.powf(-nines));
    let digits = (nines.ceil() - 2.0).max(0.0) as usize;
    format!("{percent:.digits$} %")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::record::Outcome;
    use super::*;

    #[test]
    fn the_axis_has_the_same_length_for_each_nine() {
        assert!((nines(99.9) - 3.0).abs() < 1e-9);
        assert_eq!(label(0.0), "0 %");
        assert_eq!(label(1.0), "90 %");
        assert_eq!(label(2.0), "99 %");
        assert_eq!(label(4.0), "99.99 %");
    }

    #[test]
    fn the_drawing_is_svg_with_the_title() {
        let mut record = Record::new();
        assert!(draw("Nothing", &record).is_ok());
        for micros in 1..=5000 {
            record.add(Duration::from_micros(micros), Outcome::Result);
        }
        let svg = draw("Fib.fib, 1 < 2", &record).expect("a drawing");
        assert!(svg.starts_with("<svg "), "{svg}");
        assert!(svg.trim_end().ends_with("</svg>"), "{svg}");
        for text in ["Fib.fib, 1 &lt; 2", "<polyline", "99.9 %", "milliseconds"] {
            assert!(svg.contains(text), "{text}: {svg}");
        }
    }
}
