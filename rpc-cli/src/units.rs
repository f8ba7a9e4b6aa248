//! Times and numbers as people read them.

use std::time::{Duration, SystemTime};

/// Stands for a value that is not known.
pub(crate) const UNKNOWN: &str = "-";

/// Writes a duration with three significant digits: `870 ns`, `1.25 ms`, `12.3 s`; `-` for zero.
pub(crate) fn duration(time: Duration) -> String {
    if time.is_zero() {
        return UNKNOWN.to_owned();
    }
    let nanos = time.as_nanos() as f64;
    let (value, unit) = match nanos {
        ..1e3 => (nanos, "ns"),
        ..1e6 => (nanos / 1e3, "µs"),
        ..1e9 => (nanos / 1e6, "ms"),
        _ => (nanos / 1e9, "s"),
    };
    format!("{} {unit}", three_digits(value))
}

/// Writes a long time with its two largest units: `3 d 4 h`, `5 min 12 s`, `8 s`.
pub(crate) fn age(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// Writes the time since a moment. A moment in the future, by a clock that is ahead, counts as now.
pub(crate) fn since(moment: SystemTime, now: SystemTime) -> String {
    age(now.duration_since(moment).unwrap_or_default())
}

/// Writes a number of events per second with three significant digits; `-` if it is not known.
pub(crate) fn rate(per_second: Option<f64>) -> String {
    match per_second {
        None => UNKNOWN.to_owned(),
        Some(0.0) => "0".to_owned(),
        Some(value) => three_digits(value),
    }
}

/// The first part of an id, which tells the ids in a table apart.
pub(crate) fn short_id(id: &str) -> String {
    id.chars().take(8).collect()
}

fn three_digits(value: f64) -> String {
    match value {
        ..9.995 => format!("{value:.2}"),
        ..99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_three_digits_and_a_unit() {
        for (nanos, shown) in [
            (0, "-"),
            (870, "870 ns"),
            (1_250, "1.25 µs"),
            (12_340_000, "12.3 ms"),
            (999_600_000, "1000 ms"),
            (1_500_000_000, "1.50 s"),
            (300_000_000_000, "300 s"),
        ] {
            assert_eq!(duration(Duration::from_nanos(nanos)), shown);
        }
    }

    #[test]
    fn ages_have_two_units() {
        for (seconds, shown) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min 0 s"),
            (3_725, "1 h 2 min"),
            (90_000, "1 d 1 h"),
        ] {
            assert_eq!(age(Duration::from_secs(seconds)), shown);
        }
        let now = SystemTime::UNIX_EPOCH;
        assert_eq!(since(now + Duration::from_secs(5), now), "0 s");
    }

    #[test]
    fn rates_that_are_not_known_are_no_zeros() {
        assert_eq!(rate(None), "-");
        assert_eq!(rate(Some(0.0)), "0");
        assert_eq!(rate(Some(0.25)), "0.25");
        assert_eq!(rate(Some(1234.5)), "1234");
    }

    #[test]
    fn ids_are_cut_at_characters() {
        assert_eq!(short_id("6ba7b810-9dad"), "6ba7b810");
        assert_eq!(short_id("ää"), "ää");
    }
}
