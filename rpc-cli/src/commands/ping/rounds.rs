//! Summary of several rounds of `rpc ping`.

use std::collections::BTreeMap;
use std::time::Duration;

use rpc_core::instances::InstanceInfo;
use serde::Serialize;

use crate::units;

/// Header of [`Rounds::rows`].
pub(super) const HEADER: [&str; 7] = ["instance", "name", "answers", "lost", "min", "avg", "max"];

/// The answers of all rounds.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    rounds: u32,
    /// By id.
    instances: BTreeMap<String, Answers>,
}

/// The answers of an instance.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Answers {
    instance: String,
    name: String,
    answers: u32,
    /// Rounds without an answer, from the first answer on. An instance that starts later has lost nothing before.
    lost: u32,
    min_ms: f64,
    avg_ms: f64,
    max_ms: f64,
    #[serde(skip)]
    times: Times,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Times {
    /// Number of rounds before the first answer.
    before: u32,
    min: Duration,
    max: Duration,
    sum: Duration,
}

impl Rounds {
    /// Adds a round.
    pub(super) fn add(&mut self, answers: Vec<InstanceInfo>) {
        let before = self.rounds;
        self.rounds += 1;
        for InstanceInfo {
            id,
            name,
            round_trip: time,
            ..
        } in answers
        {
            let answers = self.instances.entry(id.clone()).or_insert(Answers {
                instance: id,
                name,
                answers: 0,
                lost: 0,
                min_ms: 0.0,
                avg_ms: 0.0,
                max_ms: 0.0,
                times: Times {
                    before,
                    min: time,
                    max: time,
                    sum: Duration::ZERO,
                },
            });
            answers.add(time);
        }
        for answers in self.instances.values_mut() {
            answers.lost = self
                .rounds
                .saturating_sub(answers.times.before + answers.answers);
        }
    }

    /// The instances that have answered at least once.
    pub(super) fn instances(&self) -> Vec<&Answers> {
        self.instances.values().collect()
    }

    pub(super) fn rows(&self) -> Vec<[String; 7]> {
        let rows = self.instances.values().map(|it| {
            let Times { min, max, .. } = it.times;
            [
                it.instance.clone(),
                it.name.clone(),
                it.answers.to_string(),
                it.lost.to_string(),
                units::duration(min),
                units::duration(it.times.sum / it.answers),
                units::duration(max),
            ]
        });
        rows.collect()
    }
}

impl Answers {
    fn add(&mut self, time: Duration) {
        let times = &mut self.times;
        self.answers += 1;
        times.min = times.min.min(time);
        times.max = times.max.max(time);
        times.sum += time;
        self.min_ms = units::millis(times.min);
        self.avg_ms = units::millis(times.sum / self.answers);
        self.max_ms = units::millis(times.max);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::samples;

    fn answer(id: &str, micros: u64) -> InstanceInfo {
        let round_trip = json!({ "secs": 0, "nanos": micros * 1000 });
        samples::instance(id, "Fib", json!({ "round_trip": round_trip }))
    }

    #[test]
    fn the_summary_counts_rounds_without_an_answer_since_the_first_one() {
        let mut rounds = Rounds::default();
        rounds.add(vec![answer("a", 1000)]);
        rounds.add(vec![answer("a", 3000), answer("b", 500)]);
        rounds.add(vec![answer("a", 2000)]);
        rounds.add(vec![]);
        let rows: Vec<_> = rounds.rows().iter().map(|row| row.join("|")).collect();
        let expected = [
            "a|worker|3|1|1.00 ms|2.00 ms|3.00 ms",
            "b|worker|1|2|500 µs|500 µs|500 µs",
        ];
        assert_eq!(rows, expected);
        let json = serde_json::to_value(rounds.instances()).unwrap();
        assert_eq!(json[0]["avg_ms"], 2.0);
        assert_eq!(json[1]["lost"], 2);
    }
}
