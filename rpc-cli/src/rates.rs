//! Rates of calls, from counters that were read at two moments.

use std::collections::HashMap;
use std::time::Duration;

use rpc_core::instances::{InstanceStats, MethodStats};
use tokio::time::Instant;

/// Time for which the counters of an instance without an answer are kept.
const KEPT: Duration = Duration::from_secs(60);

/// Events per second since the last reading.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Rates {
    pub(crate) calls: f64,
    /// Errors of the service and faults.
    pub(crate) errors: f64,
}

impl std::ops::AddAssign for Rates {
    fn add_assign(&mut self, other: Self) {
        self.calls += other.calls;
        self.errors += other.errors;
    }
}

/// Counters of a method of an instance.
#[derive(Clone, Copy, Debug)]
struct Reading {
    at: Instant,
    calls: u64,
    errors: u64,
}

/// The last counters of each method of each instance.
///
/// A server that starts again is another instance, with an id and counters of its own, so counters never go back. Its first reading gives no rates.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    /// By the instance's id, the service and the method.
    readings: HashMap<(String, String, String), Reading>,
}

impl Meter {
    /// Reads the counters of an instance. Returns the rates of its methods, in their order; `None` for a first reading.
    pub(crate) fn read(&mut self, stats: &InstanceStats, now: Instant) -> Vec<Option<Rates>> {
        let methods = stats.methods.iter();
        let rates = methods.map(|method| {
            let name = (stats.id.clone(), stats.service.clone(), method.name.clone());
            let reading = Reading {
                at: now,
                calls: method.calls,
                errors: failures(method),
            };
            let earlier = self.readings.insert(name, reading)?;
            reading.since(earlier)
        });
        rates.collect()
    }

    /// Forgets instances that are gone.
    pub(crate) fn forget(&mut self, now: Instant) {
        self.readings
            .retain(|_, reading| now.saturating_duration_since(reading.at) < KEPT);
    }
}

impl Reading {
    fn since(self, earlier: Self) -> Option<Rates> {
        let seconds = self.at.saturating_duration_since(earlier.at).as_secs_f64();
        let rate = |count: u64, before: u64| count.saturating_sub(before) as f64 / seconds;
        (seconds > 0.0).then(|| Rates {
            calls: rate(self.calls, earlier.calls),
            errors: rate(self.errors, earlier.errors),
        })
    }
}

/// Number of calls that did not end with a value.
pub(crate) fn failures(method: &MethodStats) -> u64 {
    method.errors + faults(method)
}

/// Number of calls that ended with a fault.
pub(crate) fn faults(method: &MethodStats) -> u64 {
    method.faults.values().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::stats;

    #[test]
    fn rates_are_the_differences_per_second() {
        let mut meter = Meter::default();
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(meter.read(&stats("a", "Fib", 10, 0), start), [None]);
        let rates = meter.read(&stats("a", "Fib", 30, 4), after(2));
        let expected = Rates {
            calls: 10.0,
            errors: 2.0,
        };
        assert_eq!(rates, [Some(expected)]);
        // A server that starts again counts from zero, with another id.
        assert_eq!(meter.read(&stats("b", "Fib", 5, 0), after(3)), [None]);
        // An instance that did not answer in between.
        let rates = meter.read(&stats("a", "Fib", 30, 4), after(10));
        assert_eq!(rates, [Some(Rates::default())]);
        // Hostile counters that go back.
        let rates = meter.read(&stats("a", "Fib", 0, 0), after(11));
        assert_eq!(rates, [Some(Rates::default())]);
    }

    #[test]
    fn instances_that_are_gone_are_forgotten() {
        let mut meter = Meter::default();
        let start = Instant::now();
        meter.read(&stats("a", "Fib", 10, 0), start);
        meter.forget(start + KEPT / 2);
        assert_eq!(meter.readings.len(), 1);
        meter.forget(start + KEPT);
        assert_eq!(meter.readings.len(), 0);
    }
}
