//! Outcomes and times of the calls of a run.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use rpc_core::{Encoded, ErrorKind, RpcError};
use tokio::time::Instant;

use crate::failure::{Exit, Failure};

/// Precision of times: three significant digits.
const DIGITS: u8 = 3;

/// Longest time that is told apart from longer ones, in nanoseconds: a day.
const LONGEST: u64 = 86_400_000_000_000;

/// Outcome of one call.
#[derive(Debug)]
pub(super) enum Outcome {
    Result,
    /// The service's own error.
    Error(Encoded),
    Failed(RpcError),
}

/// Calls with the same kind of outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) calls: u64,
    /// Exit code and message of the first one; `None` for results.
    pub(super) first: Option<(Exit, String)>,
}

/// Outcomes and times of calls.
#[derive(Debug)]
pub(super) struct Record {
    begin: Instant,
    end: Instant,
    /// Times in nanoseconds.
    times: Histogram<u64>,
    outcomes: BTreeMap<String, Counted>,
}

impl Record {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            begin: now,
            end: now,
            times: Histogram::new_with_bounds(1, LONGEST, DIGITS)
                .expect("the bounds are in order, and the digits are at most 5"),
            outcomes: BTreeMap::new(),
        }
    }

    /// Starts the time of the run.
    pub(super) fn begin(&mut self) {
        self.begin = Instant::now();
        self.end = self.begin;
    }

    /// Adds a call that has ended just now.
    pub(super) fn add(&mut self, time: Duration, outcome: Outcome) {
        self.end = Instant::now();
        // A timeout is the time that the caller waited. Other failures may be much faster than any answer.
        let counts = match &outcome {
            Outcome::Result | Outcome::Error(_) => true,
            Outcome::Failed(error) => {
                matches!(
                    error.kind(),
                    ErrorKind::Timeout | ErrorKind::DeadlineExceeded
                )
            }
        };
        if counts {
            let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
            self.times.saturating_record(nanos);
        }
        let name = match &outcome {
            Outcome::Result => "result".to_owned(),
            Outcome::Error(_) => "error of the service".to_owned(),
            Outcome::Failed(error) => words(&format!("{:?}", error.kind())),
        };
        let counted = self.outcomes.entry(name).or_insert_with(|| Counted {
            calls: 0,
            first: first(outcome),
        });
        counted.calls += 1;
    }

    /// Returns the number of calls that have ended.
    pub(super) fn calls(&self) -> u64 {
        self.outcomes.values().map(|counted| counted.calls).sum()
    }

    /// Returns the time from the begin of the run to the end of the last call.
    pub(super) fn elapsed(&self) -> Duration {
        self.end - self.begin
    }

    /// Returns the number of calls per second.
    pub(super) fn rate(&self) -> f64 {
        match self.elapsed().as_secs_f64() {
            0.0 => 0.0,
            seconds => self.calls() as f64 / seconds,
        }
    }

    /// Returns the time that a percentage of the calls did not exceed.
    pub(super) fn percentile(&self, percent: f64) -> Duration {
        Duration::from_nanos(self.times.value_at_percentile(percent))
    }

    /// Returns the times of calls, in nanoseconds.
    pub(super) fn times(&self) -> &Histogram<u64> {
        &self.times
    }

    /// Returns the outcomes by their names, the most frequent first.
    pub(super) fn outcomes(&self) -> Vec<(&str, &Counted)> {
        let outcomes = self.outcomes.iter();
        let mut outcomes: Vec<_> = outcomes.map(|(name, it)| (&**name, it)).collect();
        outcomes.sort_by_key(|(_, counted)| std::cmp::Reverse(counted.calls));
        outcomes
    }

    /// Returns the most frequent failure, if no call had a result.
    pub(super) fn failure(&self) -> Option<Failure> {
        if self
            .outcomes
            .values()
            .any(|counted| counted.first.is_none())
        {
            return None;
        }
        let outcomes = self.outcomes();
        let (_, most) = outcomes.first()?;
        let (exit, message) = most.first.as_ref()?;
        Some(Failure::new(
            *exit,
            format!("no call had a result; the first failure of the most frequent kind: {message}"),
        ))
    }
}

/// Returns the exit code and the message of a failure.
fn first(outcome: Outcome) -> Option<(Exit, String)> {
    match outcome {
        Outcome::Result => None,
        Outcome::Error(error) => {
            let text = error.to_json().unwrap_or_else(|error| error.to_string());
            Some((Exit::ServiceError, text))
        }
        Outcome::Failed(error) => {
            let failure = Failure::from(error);
            Some((failure.exit(), failure.to_string()))
        }
    }
}

/// Splits a name such as `DeadlineExceeded` into words.
fn words(name: &str) -> String {
    let mut words = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(c.to_lowercase());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn failed(kind: ErrorKind) -> Outcome {
        Outcome::Failed(RpcError::new(kind, "a reason"))
    }

    fn error() -> Outcome {
        Outcome::Error(Encoded::from_json("\"sold out\"").expect("JSON"))
    }

    #[test]
    fn outcomes_are_counted_by_kind_and_the_most_frequent_is_first() {
        let mut record = Record::new();
        record.add(MS, Outcome::Result);
        for _ in 0..3 {
            record.add(MS, failed(ErrorKind::DeadlineExceeded));
        }
        record.add(MS, error());
        record.add(MS, error());
        let counts = record.outcomes().into_iter();
        let counts: Vec<_> = counts.map(|(name, it)| (name, it.calls)).collect();
        assert_eq!(
            counts,
            [
                ("deadline exceeded", 3),
                ("error of the service", 2),
                ("result", 1)
            ]
        );
        assert_eq!(record.calls(), 6);
        assert!(record.failure().is_none());
    }

    #[test]
    fn without_a_result_the_exit_code_is_that_of_the_most_frequent_failure() {
        let mut record = Record::new();
        assert!(record.failure().is_none());
        record.add(MS, failed(ErrorKind::Unroutable));
        assert_eq!(
            record.failure().expect("a failure").exit(),
            Exit::Unroutable
        );
        record.add(MS, error());
        record.add(MS, error());
        let failure = record.failure().expect("a failure");
        assert_eq!(failure.exit(), Exit::ServiceError);
        assert!(failure.to_string().contains("sold out"), "{failure}");
    }

    #[test]
    fn times_are_those_of_answers_and_timeouts() {
        let mut record = Record::new();
        record.add(MS, failed(ErrorKind::Unroutable));
        assert_eq!(record.times().len(), 0);
        record.add(30_000 * MS, failed(ErrorKind::Timeout));
        record.add(2 * MS, error());
        record.add(Duration::MAX, Outcome::Result);
        assert_eq!(record.times().len(), 3);
        assert!(record.percentile(0.0).abs_diff(2 * MS) < MS / 100);
    }
}
