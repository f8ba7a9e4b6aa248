//! Numbers of a run, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use super::chart;
use super::record::Record;
use crate::failure::Failure;
use crate::output::{Output, visible};
use crate::units;

/// Percentiles of a report.
const PERCENTILES: [(&str, f64); 6] = [
    ("p50", 50.0),
    ("p90", 90.0),
    ("p99", 99.0),
    ("p99.9", 99.9),
    ("p99.99", 99.99),
    ("max", 100.0),
];

/// Number of lines in the table of percentiles for each halving of the distance to 100 %.
const LINES_FOR_EACH_HALF: u32 = 5;

/// Load of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Load {
    Closed { callers: u32 },
    Open { per_second: f64 },
}

/// Numbers of a run. Times are in seconds.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) method: String,
    load: Load,
    seconds: f64,
    calls: u64,
    calls_per_second: f64,
    outcomes: BTreeMap<String, u64>,
    /// Empty if no call had an answer.
    latency_seconds: BTreeMap<&'static str, f64>,
}

impl Report {
    pub(super) fn of(record: &Record, method: String, load: Load) -> Self {
        let outcomes = record.outcomes().into_iter();
        let mut latency = BTreeMap::new();
        if !record.times().is_empty() {
            let seconds = |percent| record.percentile(percent).as_secs_f64();
            latency.extend(PERCENTILES.map(|(name, percent)| (name, seconds(percent))));
            latency.insert("min", seconds(0.0));
            latency.insert("mean", record.times().mean() / 1e9);
        }
        Self {
            method,
            load,
            seconds: record.elapsed().as_secs_f64(),
            calls: record.calls(),
            calls_per_second: record.rate(),
            outcomes: outcomes
                .map(|(name, it)| (name.to_owned(), it.calls))
                .collect(),
            latency_seconds: latency,
        }
    }

    /// Returns the run in words.
    pub(super) fn title(&self) -> String {
        let load = match self.load {
            Load::Closed { callers } => units::count(callers, "caller"),
            Load::Open { per_second } => format!("{per_second} calls per second planned"),
        };
        let time = units::duration(Duration::try_from_secs_f64(self.seconds).unwrap_or_default());
        format!(
            "{}, {load}: {} in {time}, {} per second",
            visible(&self.method),
            units::count(self.calls, "call"),
            units::rate(Some(self.calls_per_second))
        )
    }

    /// Writes the report for people.
    pub(super) fn print(&self, record: &Record, out: &mut Output) -> Result<(), Failure> {
        out.line(self.title())?;
        if self.calls == 0 {
            return Ok(());
        }
        out.line("")?;
        let outcomes = record.outcomes().into_iter().map(|(name, counted)| {
            let share = 100.0 * counted.calls as f64 / self.calls as f64;
            let first = counted.first.as_ref().map(|(_, message)| message.clone());
            [
                name.to_owned(),
                counted.calls.to_string(),
                format!("{share:.2} %"),
                first.unwrap_or_default(),
            ]
        });
        out.table(["outcome", "calls", "share", "first"], outcomes)?;
        if record.times().is_empty() {
            return Ok(());
        }
        out.line("")?;
        let times = PERCENTILES.map(|(_, percent)| units::duration(record.percentile(percent)));
        out.table(PERCENTILES.map(|(name, _)| name), [times])?;
        out.line("")?;
        chart::lines(record.times())
            .into_iter()
            .try_for_each(|line| out.line(line))
    }
}

/// Returns a table of percentiles as comma-separated values: percent, seconds, and the number of calls that took no longer.
pub(super) fn csv(record: &Record) -> String {
    let mut text = "percentile,latency_seconds,calls\n".to_owned();
    for (percent, nanos, calls) in quantiles(record) {
        // Writing to a text does not fail.
        let _ = writeln!(text, "{percent},{},{calls}", nanos as f64 / 1e9);
    }
    text
}

/// Returns percentiles with their times in nanoseconds, and the number of calls that took no longer. The steps halve towards 100 %.
pub(super) fn quantiles(record: &Record) -> Vec<(f64, u64, u64)> {
    let mut calls = 0;
    let steps = record.times().iter_quantiles(LINES_FOR_EACH_HALF);
    steps
        .map(|step| {
            calls += step.count_since_last_iteration();
            let percent = (step.quantile_iterated_to() * 1e8).round() / 1e6;
            (percent, step.value_iterated_to(), calls)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::record::Outcome;
    use super::*;

    fn record() -> Record {
        let mut record = Record::new();
        for millis in 1..=1000 {
            record.add(Duration::from_millis(millis), Outcome::Result);
        }
        record
    }

    #[test]
    fn json_has_seconds() {
        let load = Load::Open { per_second: 500.0 };
        let report = Report::of(&record(), "Fib.fib".to_owned(), load);
        let json = serde_json::to_value(&report).expect("JSON");
        assert_eq!(json["load"]["open"]["per_second"], 500.0);
        assert_eq!(json["outcomes"]["result"], 1000);
        for (name, expected) in [
            ("min", 0.001),
            ("p50", 0.5),
            ("p90", 0.9),
            ("p99", 0.99),
            ("p99.9", 0.999),
            ("max", 1.0),
            ("mean", 0.5),
        ] {
            let seconds = json["latency_seconds"][name].as_f64().expect(name);
            assert!((seconds / expected - 1.0).abs() < 0.01, "{name}: {seconds}");
        }
        let nothing = Report::of(&Record::new(), String::new(), load);
        assert!(nothing.latency_seconds.is_empty());
    }

    #[test]
    fn the_table_of_percentiles_has_every_call_at_its_end() {
        let csv = csv(&record());
        let lines: Vec<_> = csv.lines().collect();
        assert_eq!(lines[0], "percentile,latency_seconds,calls");
        assert!(lines[1].starts_with("0,0.001"), "{csv}");
        let last = lines.last().expect("a line");
        assert!(
            last.starts_with("100,1.0") && last.ends_with(",1000"),
            "{csv}"
        );
        let numbers = |line: &str| {
            line.split(',')
                .map(|part| part.parse().expect("a number"))
                .collect::<Vec<f64>>()
        };
        let rows: Vec<_> = lines[1..].iter().map(|line| numbers(line)).collect();
        assert!(
            rows.is_sorted_by(|a, b| a[0] <= b[0] && a[1] <= b[1] && a[2] <= b[2]),
            "{csv}"
        );
        assert_eq!(super::csv(&Record::new()).lines().count(), 1);
    }
}
