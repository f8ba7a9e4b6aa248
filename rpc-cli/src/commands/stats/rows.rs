//! The lines of `rpc stats`.

use rpc_core::instances::{InstanceStats, MethodStats};
use serde_json::{Value, json};

use crate::rates::{Rates, faults};
use crate::units;

/// Header of [`methods`].
pub(super) const HEADER: [&str; 13] = [
    "instance",
    "name",
    "method",
    "calls",
    "errors",
    "faults",
    "in flight",
    "streams",
    "mean",
    "p50",
    "p90",
    "p99",
    "max",
];

/// Header of [`methods_with_rates`].
pub(super) const HEADER_WITH_RATES: [&str; 13] = [
    "instance",
    "name",
    "method",
    "calls/s",
    "errors/s",
    "calls",
    "errors",
    "faults",
    "in flight",
    "streams",
    "p50",
    "p99",
    "max",
];

/// Header of [`oldest`].
pub(super) const OLDEST: [&str; 4] = ["oldest call", "age", "instance", "correlation id"];

pub(super) fn methods(stats: &[InstanceStats]) -> Vec<[String; 13]> {
    let rows = of_all(stats).map(|(instance, method)| {
        [
            units::short_id(&instance.id),
            instance.name.clone(),
            method.name.clone(),
            method.calls.to_string(),
            method.errors.to_string(),
            faults_in_words(method),
            method.in_flight.to_string(),
            method.streams.to_string(),
            units::duration(method.mean),
            units::duration(method.p50),
            units::duration(method.p90),
            units::duration(method.p99),
            units::duration(method.max),
        ]
    });
    rows.collect()
}

pub(super) fn methods_with_rates(
    stats: &[InstanceStats],
    rates: &[Vec<Option<Rates>>],
) -> Vec<[String; 13]> {
    let rates = rates.iter().flatten();
    let rows = of_all(stats).zip(rates).map(|((instance, method), rates)| {
        [
            units::short_id(&instance.id),
            instance.name.clone(),
            method.name.clone(),
            units::rate(rates.map(|rates| rates.calls)),
            units::rate(rates.map(|rates| rates.errors)),
            method.calls.to_string(),
            method.errors.to_string(),
            faults_in_words(method),
            method.in_flight.to_string(),
            method.streams.to_string(),
            units::duration(method.p50),
            units::duration(method.p99),
            units::duration(method.max),
        ]
    });
    rows.collect()
}

/// The oldest calls of all instances, the oldest first.
pub(super) fn oldest(stats: &[InstanceStats]) -> Vec<[String; 4]> {
    let calls = stats.iter();
    let mut calls: Vec<_> = calls
        .flat_map(|instance| instance.oldest.iter().map(move |call| (instance, call)))
        .collect();
    calls.sort_by_key(|(_, call)| std::cmp::Reverse(call.age));
    let rows = calls.into_iter().map(|(instance, call)| {
        [
            call.method.clone(),
            units::age(call.age),
            units::short_id(&instance.id),
            units::known(call.correlation_id.as_deref()),
        ]
    });
    rows.collect()
}

/// Returns the statistics of an instance as JSON.
pub(super) fn json(stats: &InstanceStats) -> Value {
    let methods = stats.methods.iter().map(|method| {
        json!({
            "name": method.name,
            "calls": method.calls,
            "results": method.results,
            "errors": method.errors,
            "faults": method.faults,
            "in_flight": method.in_flight,
            "streams": method.streams,
            "mean_ms": units::millis(method.mean),
            "p50_ms": units::millis(method.p50),
            "p90_ms": units::millis(method.p90),
            "p99_ms": units::millis(method.p99),
            "max_ms": units::millis(method.max),
        })
    });
    let oldest = stats.oldest.iter().map(|call| {
        json!({
            "method": call.method,
            "age_ms": units::millis(call.age),
            "correlation_id": call.correlation_id,
        })
    });
    json!({
        "id": stats.id,
        "name": stats.name,
        "service": stats.service,
        "since": units::moment(stats.since),
        "methods": methods.collect::<Vec<_>>(),
        "oldest": oldest.collect::<Vec<_>>(),
    })
}

/// Returns the statistics of an instance as JSON, with the rates of each method; `null` if they are not known.
pub(super) fn json_with_rates(stats: &InstanceStats, rates: &[Option<Rates>]) -> Value {
    let mut value = json(stats);
    let methods = value["methods"].as_array_mut();
    for (method, rates) in methods.into_iter().flatten().zip(rates) {
        method["calls_per_second"] = json!(rates.map(|rates| rates.calls));
        method["errors_per_second"] = json!(rates.map(|rates| rates.errors));
    }
    value
}

fn of_all(stats: &[InstanceStats]) -> impl Iterator<Item = (&InstanceStats, &MethodStats)> {
    let instances = stats.iter();
    instances.flat_map(|instance| {
        instance
            .methods
            .iter()
            .map(move |method| (instance, method))
    })
}

/// The number of faults, and their codes: `3 (panicked)`.
fn faults_in_words(method: &MethodStats) -> String {
    let codes: Vec<_> = method
        .faults
        .iter()
        .filter(|(_, count)| **count > 0)
        .collect();
    match codes.as_slice() {
        [] => "0".to_owned(),
        [(code, count)] => format!("{count} ({code})"),
        several => {
            let several = several
                .iter()
                .map(|(code, count)| format!("{code}: {count}"));
            let several: Vec<_> = several.collect();
            format!("{} ({})", faults(method), several.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::stats;

    #[test]
    fn lines_have_the_numbers_of_each_method() {
        let stats = [stats("6ba7b810-9dad", "Fib", 7, 2)];
        let expected =
            "6ba7b810|worker|fib|7|0|2 (panicked)|1|0|10.0 µs|20.0 µs|30.0 µs|40.0 µs|50.0 µs";
        assert_eq!(methods(&stats)[0].join("|"), expected);
        let rates = Rates {
            calls: 1.5,
            errors: 0.0,
        };
        let rows = methods_with_rates(&stats, &[vec![Some(rates)]]);
        let expected = "6ba7b810|worker|fib|1.50|0|7|0|2 (panicked)|1|0|20.0 µs|40.0 µs|50.0 µs";
        assert_eq!(rows[0].join("|"), expected);
        let json = json_with_rates(&stats[0], &[Some(rates)]);
        assert_eq!(json["methods"][0]["calls_per_second"], 1.5);
        let json = json_with_rates(&stats[0], &[None]);
        assert_eq!(json["methods"][0]["calls_per_second"], Value::Null);
    }

    #[test]
    fn json_has_times_that_programs_read() {
        let json = json(&stats("a", "Fib", 7, 2));
        assert_eq!(json["since"], "1970-01-01T00:01:40.000000Z");
        assert_eq!(json["methods"][0]["p99_ms"], 0.04);
        assert_eq!(json["oldest"][0]["age_ms"], 75_000.0);
    }

    #[test]
    fn several_faults_are_told_apart() {
        let mut stats = stats("a", "Fib", 7, 2);
        let faults = &mut stats.methods[0].faults;
        faults.insert("overloaded".to_owned(), 3);
        faults.insert("unknown".to_owned(), 0);
        assert_eq!(methods(&[stats])[0][5], "5 (overloaded: 3, panicked: 2)");
    }

    #[test]
    fn the_oldest_call_of_all_instances_comes_first() {
        let mut younger = stats("b", "Fib", 1, 0);
        younger.oldest[0].age /= 2;
        younger.oldest[0].correlation_id = None;
        let rows = oldest(&[younger, stats("a", "Fib", 1, 0)]);
        let rows: Vec<_> = rows.iter().map(|row| row.join("|")).collect();
        assert_eq!(rows, ["fib|1 min 15 s|a|c-1", "fib|37 s|b|-"]);
    }
}
