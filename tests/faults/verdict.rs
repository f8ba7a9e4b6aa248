//! What a scenario comes to: its counts, and every promise that was broken.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

use rpc_core::ErrorKind;

use super::batches::Batched;
use super::load::{Record, client_of};
use super::service::{Executions, Method, answer_to};

/// How long after its deadline a call may end, on a noisy machine.
const GRACE: Duration = Duration::from_secs(2);

/// How much before its deadline a call may time out: the server's clock reads milliseconds.
const EARLY: Duration = Duration::from_millis(30);

/// What a fault may do to calls.
#[derive(Clone, Debug, Default)]
pub(crate) struct Expected {
    failures: Vec<ErrorKind>,
    idempotent_failures: Vec<ErrorKind>,
    at_most_once_failures: Vec<ErrorKind>,
    deadly: bool,
    once: bool,
    letters: bool,
}

impl Expected {
    /// Nothing: all calls are answered.
    pub(crate) fn no_failures() -> Self {
        Self::default()
    }

    /// Calls may fail in these ways, except for idempotent ones, whose deadlines are longer than the faults.
    pub(crate) fn failures(kinds: &[ErrorKind]) -> Self {
        Self {
            failures: kinds.to_vec(),
            ..Self::default()
        }
    }

    /// Connections are lost: of calls in flight then, of those made meanwhile, and of those made before the servers are back.
    pub(crate) fn outage() -> Self {
        let failures = [
            ErrorKind::Disconnected,
            ErrorKind::Timeout,
            ErrorKind::Unroutable,
        ];
        Self::failures(&failures).at_most_once_too(&[ErrorKind::Cancelled])
    }

    /// Idempotent ones may fail too, in these ways.
    pub(crate) fn idempotent_too(mut self, kinds: &[ErrorKind]) -> Self {
        self.idempotent_failures = kinds.to_vec();
        self
    }

    /// At-most-once ones may fail in these ways as well: no server takes them over from one that is gone.
    pub(crate) fn at_most_once_too(mut self, kinds: &[ErrorKind]) -> Self {
        self.at_most_once_failures = kinds.to_vec();
        self
    }

    /// Nothing but requests that kill their servers.
    pub(crate) fn deadly() -> Self {
        Self {
            deadly: true,
            ..Self::default()
        }
    }

    /// No call may run twice.
    pub(crate) fn once(mut self) -> Self {
        self.once = true;
        self
    }

    /// Requests of others may be given up.
    pub(crate) fn letters(mut self) -> Self {
        self.letters = true;
        self
    }

    /// Whether the fault is such that connections are lost by it.
    pub(crate) fn loses_connections(&self) -> bool {
        self.failures.contains(&ErrorKind::Disconnected)
    }

    /// Whether servers may give requests up.
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

/// The counts of a scenario: a line of the table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) made: usize,
    pub(crate) answered: usize,
    pub(crate) failed: BTreeMap<String, usize>,
    /// Calls that have run at least once.
    pub(crate) executed: usize,
    pub(crate) executed_twice: usize,
    /// Calls whose requests shared a message, and those whose replies did.
    pub(crate) batched: Batched,
    /// What servers gave up.
    pub(crate) dead_letters: u64,
    /// Of the call that ended latest, seen from its deadline.
    pub(crate) late: Duration,
    /// Tasks of this process that there were not before.
    pub(crate) tasks_left: usize,
}

/// A scenario's counts, and what is wrong.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) counts: Counts,
    pub(crate) problems: Vec<String>,
}

impl Verdict {
    /// Holds what became of the calls of clients 0 to `clients` against what has run.
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
                "calls ran that nobody made: {:?}",
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
            problem("it ended after its deadline");
        }
        if (expected.once || record.method == Method::AtMostOnce) && runs > 1 {
            problem("it ran twice");
        }
        let first_deliveries = executions
            .iter()
            .filter(|redelivered| !**redelivered)
            .count();
        if record.method == Method::Plain && first_deliveries > 1 {
            problem("it ran twice, and the second time not as a redelivery");
        }
        match &record.outcome {
            Ok(answer) => {
                if *answer != answer_to(record.id) {
                    problem("the answer is another call's");
                }
                if runs == 0 {
                    problem("it was answered and has not run");
                }
            }
            Err(error) => {
                if !error.may_have_executed() && runs > 0 {
                    problem("it ran, and the error denies it");
                }
                if error.is_timeout() && record.took + EARLY < record.timeout {
                    problem("it timed out before its deadline");
                }
                if !expected.allows(record, error.kind()) {
                    problem("this fault is no reason for that");
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

/// The lines of all scenarios, under each other.
#[derive(Debug, Default)]
pub(crate) struct Table(Vec<[String; 12]>);

impl Table {
    const HEAD: [&str; 12] = [
        "scenario",
        "made",
        "answered",
        "failed",
        "executed",
        "twice",
        "in batches",
        "dead",
        "late (ms)",
        "tasks left",
        "took (s)",
        "",
    ];

    pub(crate) fn add(&mut self, scenario: &str, verdict: &Verdict, took: Duration) {
        let counts = &verdict.counts;
        let failed: Vec<_> = counts
            .failed
            .iter()
            .map(|(kind, calls)| format!("{calls} {kind}"))
            .collect();
        self.0.push([
            scenario.to_owned(),
            counts.made.to_string(),
            counts.answered.to_string(),
            if failed.is_empty() {
                "0".to_owned()
            } else {
                failed.join(", ")
            },
            counts.executed.to_string(),
            counts.executed_twice.to_string(),
            format!("{} / {}", counts.batched.requests, counts.batched.replies),
            counts.dead_letters.to_string(),
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
        let mut widths = [0; 12];
        for row in rows() {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.len());
            }
        }
        for row in rows() {
            let mut line = String::new();
            for (column, (width, cell)) in widths.into_iter().zip(row).enumerate() {
                // Words begin at the left, numbers end at the right.
                line += &match column {
                    0 | 3 | 11 => format!("{cell:<width$}  "),
                    _ => format!("{cell:>width$}  "),
                };
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}
