//! Results as tables, in Markdown.

use std::fmt::Write;

use rpc_benches::load::Report;

use super::cases::{CPU_AT, Case, Layout, Section};

/// Numbers of a report, as columns.
type Column = (&'static str, fn(&Report) -> f64);

const TIMES: [Column; 2] = [
    ("p50 µs", |report| report.p50),
    ("p99 µs", |report| report.p99),
];
const CPU: [Column; 3] = [
    ("client µs", |report| report.client),
    ("server µs", |report| report.server),
    ("broker µs", |report| report.broker),
];
const RATE: Column = ("calls/s", |report| report.rate);

/// Renders the table of a section: medians over the rounds, each with half the distance between the lowest and the highest.
pub(crate) fn render(section: &Section, results: &[Vec<Report>]) -> String {
    let results = Results {
        cases: &section.cases,
        results,
    };
    let rows = match section.layout {
        Layout::Wide { ratios } => results.wide(ratios),
        Layout::Long => results.long(),
    };
    format!("\n## {}\n\n{}", section.title, aligned(&rows))
}

struct Results<'a> {
    cases: &'a [Case],
    results: &'a [Vec<Report>],
}

impl<'a> Results<'a> {
    fn of(&self, row: &str, in_flight: usize) -> &'a [Report] {
        let is_it = |case: &Case| case.row == row && case.in_flight == in_flight;
        let index = self.cases.iter().position(is_it);
        index.map_or(&[], |index| &self.results[index])
    }

    fn wide(&self, ratios: &[(&str, &str)]) -> Vec<Vec<String>> {
        let mut rows: Vec<&str> = Vec::new();
        let mut levels = Vec::new();
        for case in self.cases {
            if !rows.contains(&&*case.row) {
                rows.push(&case.row);
            }
            if !levels.contains(&case.in_flight) {
                levels.push(case.in_flight);
            }
        }
        // A column, and a number of calls in flight.
        let mut columns: Vec<(Column, usize)> = levels.iter().map(|&level| (RATE, level)).collect();
        columns.extend(TIMES.map(|time| (time, 1)));
        columns.extend(CPU.map(|cpu| (cpu, CPU_AT)));

        let title = |((title, _), level): &(Column, usize)| format!("{title} at {level}");
        let mut table = vec![heading("calls in flight", columns.iter().map(title))];
        for row in rows {
            let cells = columns.iter().map(|((_, number), level)| {
                cell(self.of(row, *level).iter().map(number).collect())
            });
            table.push(heading(row, cells));
        }
        for (ours, theirs) in ratios {
            let cells = columns.iter().map(|((_, number), level)| {
                ratio(self.of(ours, *level), self.of(theirs, *level), *number)
            });
            table.push(heading(&format!("{ours} / {theirs}"), cells));
        }
        table
    }

    fn long(&self) -> Vec<Vec<String>> {
        let columns: Vec<Column> = [RATE].into_iter().chain(TIMES).chain(CPU).collect();
        let titles = columns.iter().map(|(title, _)| (*title).to_owned());
        let titles = titles.chain(["rate".to_owned(), "client + server CPU".to_owned()]);
        let mut table = vec![heading("", titles)];
        for (case, reports) in self.cases.iter().zip(self.results) {
            let cells = columns
                .iter()
                .map(|(_, number)| cell(reports.iter().map(number).collect()));
            let baseline = case.baseline.as_ref().and_then(|baseline| {
                let index = self.cases.iter().position(|other| other.row == *baseline)?;
                Some(&self.results[index][..])
            });
            let ratios = match baseline {
                Some(baseline) => [
                    ratio(reports, baseline, |report| report.rate),
                    ratio(reports, baseline, |report| report.client + report.server),
                ],
                None => [const { String::new() }; 2],
            };
            table.push(heading(&case.row, cells.chain(ratios)));
        }
        table
    }
}

fn heading(first: &str, others: impl Iterator<Item = String>) -> Vec<String> {
    std::iter::once(first.to_owned()).chain(others).collect()
}

fn cell(values: Vec<f64>) -> String {
    let (median, spread) = median_and_spread(values);
    if median == 0.0 {
        return "–".to_owned();
    }
    let decimals = usize::from(median < 100.0) + usize::from(median < 10.0);
    format!("{median:.decimals$} ±{:.0}%", 100.0 * spread / median)
}

/// Returns the median of the rounds' ratios. Both sides of a ratio were measured at nearly the same time.
fn ratio(ours: &[Report], theirs: &[Report], number: fn(&Report) -> f64) -> String {
    let ratios = ours
        .iter()
        .zip(theirs)
        .map(|(ours, theirs)| number(ours) / number(theirs));
    let (median, spread) = median_and_spread(ratios.collect());
    format!("{median:.2} ±{spread:.2}")
}

fn median_and_spread(mut values: Vec<f64>) -> (f64, f64) {
    values.sort_unstable_by(f64::total_cmp);
    let (Some(lowest), Some(highest)) = (values.first(), values.last()) else {
        return (f64::NAN, f64::NAN);
    };
    let middle = values.len() / 2;
    let median = if values.len().is_multiple_of(2) {
        f64::midpoint(values[middle - 1], values[middle])
    } else {
        values[middle]
    };
    (median, (highest - lowest) / 2.0)
}

/// Formats an aligned Markdown table.
pub(crate) fn aligned(rows: &[Vec<String>]) -> String {
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        for (column, cell) in row.iter().enumerate() {
            let widths = rows.iter().map(|row| row[column].chars().count());
            let width = widths.max().unwrap_or_default();
            // Writing to a string does not fail.
            let _ = match column {
                0 => write!(text, "| {cell:width$} |"),
                _ => write!(text, " {cell:>width$} |"),
            };
        }
        text.push('\n');
        if index == 0 {
            text += "|---|";
            text += &"---:|".repeat(row.len() - 1);
            text.push('\n');
        }
    }
    text
}
