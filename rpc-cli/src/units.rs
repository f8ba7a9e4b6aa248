//! Times and numbers as people read them.

use std::fmt::{Display, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Stands for a value that is not known.
pub(crate) const UNKNOWN: &str = "-";

/// Writes a value, or `-` if it is not known.
pub(crate) fn known(value: Option<impl ToString>) -> String {
    value.map_or(UNKNOWN.to_owned(), |value| value.to_string())
}

/// Writes a number of things: `1 letter`, `3 letters`.
pub(crate) fn count(number: impl Display, thing: &str) -> String {
    match number.to_string().as_str() {
        "1" => format!("1 {thing}"),
        number => format!("{number} {thing}s"),
    }
}

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

/// Writes a moment in the form of RFC 3339, in UTC, with microseconds. `-` for years before 1970 and after 9999, which clocks of other programs may
/// have.
pub(crate) fn moment(time: SystemTime) -> String {
    let mut text = String::new();
    // The form panics before 1970.
    let is_written =
        time >= UNIX_EPOCH && write!(text, "{}", humantime::format_rfc3339_micros(time)).is_ok();
    match is_written {
        true => text,
        false => UNKNOWN.to_owned(),
    }
}

/// Returns a time in milliseconds, for JSON.
pub(crate) fn millis(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e6
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
    fn moments_of_any_clock_are_written() {
        let after = |seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        assert_eq!(
            after(1_700_000_000).map(moment).as_deref(),
            Some("2023-11-14T22:13:20.000000Z")
        );
        for time in [
            after(1 << 40),
            UNIX_EPOCH.checked_sub(Duration::from_secs(1)),
        ] {
            assert_eq!(time.map(moment).as_deref(), Some("-"));
        }
    }

    #[test]
    fn things_are_counted_in_words() {
        assert_eq!(count(1, "letter"), "1 letter");
        assert_eq!(count(0, "letter"), "0 letters");
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
