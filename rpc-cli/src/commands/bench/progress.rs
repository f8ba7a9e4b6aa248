//! Progress of a run on standard error, if that is a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::record::Record;
use crate::units;

/// Progress of a run. Dropping it removes the bar.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    /// The bar counts calls instead of milliseconds.
    counts_calls: bool,
}

impl Progress {
    /// Shows that calls are not measured yet.
    pub(super) fn warm_up() -> Self {
        Self::new(None, false, "warm-up {elapsed}  {msg}")
    }

    /// Shows the part of the run that is over: of its calls, if their number is known, else of its time.
    pub(super) fn of(limit: Option<Duration>, count: Option<u64>) -> Self {
        let millis = |limit: Duration| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let len = count.or(limit.map(millis));
        Self::new(len, count.is_some(), "{wide_bar} {percent:>3} %  {msg}")
    }

    fn new(len: Option<u64>, counts_calls: bool, template: &str) -> Self {
        let target = ProgressDrawTarget::stderr();
        let style = ProgressStyle::with_template(template);
        let bar = ProgressBar::with_draw_target(len, target);
        Self {
            bar: match style {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            },
            counts_calls,
        }
    }

    pub(super) fn show(&self, record: &Record) {
        let position = match self.counts_calls {
            true => record.calls(),
            false => u64::try_from(self.bar.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        self.bar.set_position(position);
        self.bar.set_message(message(record));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn message(record: &Record) -> String {
    let results = record.outcomes().into_iter();
    let results = results.filter(|(_, counted)| counted.first.is_none());
    let results: u64 = results.map(|(_, counted)| counted.calls).sum();
    let failures = match record.calls() - results {
        0 => String::new(),
        failures => format!(", {failures} without a result"),
    };
    format!(
        "{}, {} per second, p99 {}{failures}",
        units::count(record.calls(), "call"),
        units::rate(Some(record.rate())),
        units::duration(record.percentile(99.0)),
    )
}
