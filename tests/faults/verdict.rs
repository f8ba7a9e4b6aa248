//! The verdict on a scenario: its counts and every broken promise.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

use rpc_core::ErrorKind;

use super::batches::Batched;
use super::load::{Record, client_of};
use super::service::{Executions, Method, answer_to};

/// Tolerance after a deadline, on a noisy machine.
const GRACE: Duration = Duration::from_secs(2);

/// Tolerance before a deadline: the server's clock reads milliseconds.
const EARLY: Duration = Duration::from_millis(30);

/// The effects that a fault may have on calls.
#[derive(Clone, Debug, Default)]
pub(crate) struct Expected {
    failures: Vec<ErrorKind>,
    idempotent_failures: Vec<ErrorKind>,
    at_most_once_failures: Vec<ErrorKind>,
    /// Ends of streams that the fault explains, before their last items.
    stream_failures: Vec<ErrorKind>,
    deadly: bool,
    once: bool,
    letters: bool,
}

impl Expected {
    /// All calls succeed.
    pub(crate) fn no_failures() -> Self {
        Self::default()
    }

    /// Calls may fail in these ways, except idempotent ones, whose deadlines outlast the faults.
    pub(crate) fn failures(kinds: &[ErrorKind]) -> Self {
        Self {
            failures: kinds.to_vec(),
            ..Self::default()
        }
        .streams_too(kinds)
        .streams_too(&[ErrorKind::Disconnected, ErrorKind::Timeout])
    }

    /// Streams may end early in these ways as well. No server takes a stream over.
    pub(crate) fn streams_too(mut self, kinds: &[ErrorKind]) -> Self {
        self.stream_failures.extend(kinds);
        self
    }

    /// Connections may be lost: calls in flight fail, and so may calls made before the servers are connected again.
    pub(crate) fn outage() -> Self {
        let failures = [
            ErrorKind::Disconnected,
            ErrorKind::Timeout,
            ErrorKind::Unroutable,
        ];
        Self::failures(&failures).at_most_once_too(&[ErrorKind::Cancelled])
    }

    /// Idempotent calls may fail in these ways as well.
    pub(crate) fn idempotent_too(mut self, kinds: &[ErrorKind]) -> Self {
        self.idempotent_failures = kinds.to_vec();
        self
    }

    /// At-most-once calls may fail in these ways as well, because no other server takes them over.
    pub(crate) fn at_most_once_too(mut self, kinds: &[ErrorKind]) -> Self {
        self.at_most_once_failures = kinds.to_vec();
        self
    }

    /// The only calls that fail are those that kill their servers.
    pub(crate) fn deadly() -> Self {
        Self {
            deadly: true,
            ..Self::default()
        }
        .streams_too(&[ErrorKind::Disconnected, ErrorKind::Timeout])
    }

    /// Returns `true` if the fault explains that a stream ends early in this way.
    pub(crate) fn allows_for_streams(&self, kind: ErrorKind) -> bool {
        self.stream_failures.contains(&kind)
    }

    /// No call may run twice.
    pub(crate) fn once(mut self) -> Self {
        self.once = true;
        self
    }

    /// Requests of attackers may be given up.
    pub(crate) fn letters(mut self) -> Self {
        self.letters = true;
        self
    }

    /// Returns `true` if the fault loses connections.
    pub(crate) fn loses_connections(&self) -> bool {
        self.failures.contains(&ErrorKind::Disconnected)
    }

    /// Returns `true` if servers may give requests up.
    pub(crate) fn gives_up(&self) -> bool {
        self.deadly
            || self.letters
            || self.loses_connections()
            || !self.at_most_once_failures.is_empty()
    }

    fn allows(&self, record: &Record, kind: ErrorKind) -> bool {
        match record.method {
            Method::Plain => self.failures.contains(&kind),
            Method::AtMostOnce => {
                self.failures.contains(&kind) || self.at_most_once_failures.contains(&kind)
            }
            Method::Deadly => self.deadly && kind == ErrorKind::Panicked,
            Method::Idempotent => self.idempotent_failures.contains(&kind),
        }
    }
}

/// The counts of a scenario: a row of the table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) made: usize,
    pub(crate) answered: usize,
    pub(crate) failed: BTreeMap<String, usize>,
    /// Calls that ran at least once.
    pub(crate) executed: usize,
    pub(crate) executed_twice: usize,
    /// Calls whose requests, and calls whose replies, shared a message.
    pub(crate) batched: Batched,
    /// Requests given up by servers.
    pub(crate) dead_letters: u64,
    /// Items of streams that arrived, and the ends of streams.
    pub(crate) items: u64,
    pub(crate) streams: BTreeMap<String, usize>,
    /// The longest time between a call's deadline and its end.
    pub(crate) late: Duration,
    /// Tasks of this process that the scenario left behind.
    pub(crate) tasks_left: usize,
}

/// The counts and the problems of a scenario.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) counts: Counts,
    pub(crate) problems: Vec<String>,
}

impl Verdict {
    /// Compares the records of the calls of clients 0 to `clients` with the executions.
    pub(crate) fn of(
        records: &[Record],
        executions: &HashMap<u64, Executions>,
        clients: usize,
        expected: &Expected,
    ) -> Self {
        let mut verdict = Self::default();
        verdict.counts.made = records.len();
        let mut strangers = executions.clone();
        for record in records {
            let executions = strangers.remove(&record.id).unwrap_or_default();
            verdict.judge(record, &executions, expected);
        }
        strangers.retain(|id, _| client_of(*id) < clients);
        if !strangers.is_empty() {
            verdict.problem(format!(
                "calls ran that no client made: {:?}",
                strangers.keys()
            ));
        }
        verdict
    }

    fn judge(&mut self, record: &Record, executions: &Executions, expected: &Expected) {
        let runs = executions.len();
        self.counts.executed += usize::from(runs > 0);
        self.counts.executed_twice += usize::from(runs > 1);
        self.counts.late = self
            .counts
            .late
            .max(record.took.saturating_sub(record.timeout));
        let mut problem = |text: &str| {
            self.problems
                .push(format!("{text}: {record:?}, runs {executions:?}"));
        };
        if record.took > record.timeout + GRACE {
            problem("the call ended after its deadline");
        }
        if (expected.once || record.method == Method::AtMostOnce) && runs > 1 {
            problem("the call ran twice");
        }
        let first_deliveries = executions
            .iter()
            .filter(|redelivered| !**redelivered)
            .count();
        if record.method == Method::Plain && first_deliveries > 1 {
            problem("the call ran twice, the second time not as a redelivery");
        }
        match &record.outcome {
            Ok(answer) => {
                if *answer != answer_to(record.id) {
                    problem("the result belongs to another call");
                }
                if runs == 0 {
                    problem("the call succeeded without an execution");
                }
            }
            Err(error) => {
                if !error.may_have_executed() && runs > 0 {
                    problem("the call ran, but its error denies that");
                }
                if error.is_timeout() && record.took + EARLY < record.timeout {
                    problem("the call timed out before its deadline");
                }
                if !expected.allows(record, error.kind()) {
                    problem("the fault does not explain the error");
                }
            }
        }
        match &record.outcome {
            Ok(_) => self.counts.answered += 1,
            Err(error) => {
                *self
                    .counts
                    .failed
                    .entry(format!("{:?}", error.kind()))
                    .or_default() += 1;
            }
        }
    }

    pub(crate) fn problem(&mut self, text: String) {
        self.problems.push(text);
    }
}

/// A table with a row for each scenario.
#[derive(Debug, Default)]
pub(crate) struct Table(Vec<[String; 14]>);

impl Table {
    const HEAD: [&str; 14] = [
        "scenario",
        "made",
        "answered",
        "failed",
        "executed",
        "twice",
        "in batches",
        "dead",
        "items",
        "streams",
        "late (ms)",
        "tasks left",
        "took (s)",
        "",
    ];

    pub(crate) fn add(&mut self, scenario: &str, verdict: &Verdict, took: Duration) {
        let counts = &verdict.counts;
        let listed = |numbers: &BTreeMap<String, usize>| {
            let listed: Vec<_> = numbers
                .iter()
                .map(|(kind, number)| format!("{number} {kind}"))
                .collect();
            match listed.is_empty() {
                true => "0".to_owned(),
                false => listed.join(", "),
            }
        };
        self.0.push([
            scenario.to_owned(),
            counts.made.to_string(),
            counts.answered.to_string(),
            listed(&counts.failed),
            counts.executed.to_string(),
            counts.executed_twice.to_string(),
            format!("{} / {}", counts.batched.requests, counts.batched.replies),
            counts.dead_letters.to_string(),
            counts.items.to_string(),
            listed(&counts.streams),
            counts.late.as_millis().to_string(),
            counts.tasks_left.to_string(),
            format!("{:.1}", took.as_secs_f64()),
            if verdict.problems.is_empty() {
                ""
            } else {
                "FAILED"
            }
            .to_owned(),
        ]);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = Self::HEAD.map(str::to_owned);
        let rows = || std::iter::once(&head).chain(&self.0);
        let mut widths = [0; 14];
        for row in rows() {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.len());
            }
        }
        for row in rows() {
            let mut line = String::new();
            for (column, (width, cell)) in widths.into_iter().zip(row).enumerate() {
                // Texts are aligned left, numbers right.
                line += &match column {
                    0 | 3 | 9 | 13 => format!("{cell:<width$}  "),
                    _ => format!("{cell:>width$}  "),
                };
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}
