//! Times of calls as a histogram of characters.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::units;

/// Number of bars.
const BARS: usize = 12;

/// Width of the longest bar, in characters.
const WIDTH: f64 = 40.0;

/// Eighths of a character.
const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

/// Returns the lines of a histogram. Each bar covers times up to the one at its left; the bounds grow by the same factor, so that both the
/// usual and the slow calls are seen.
pub(super) fn lines(times: &Histogram<u64>) -> Vec<String> {
    if times.is_empty() {
        return Vec::new();
    }
    let bounds = bounds(times.min().max(1), times.max());
    let mut counts = vec![0; bounds.len()];
    for step in times.iter_recorded() {
        // The last bar has the largest times.
        let bar = bounds.partition_point(|bound| *bound < step.value_iterated_to());
        counts[bar.min(bounds.len() - 1)] += step.count_at_value();
    }
    let most = counts.iter().copied().max().unwrap_or_default().max(1);
    let line = |(bound, count): (&u64, &u64)| {
        let bound = units::duration(Duration::from_nanos(*bound));
        let bar = bar(*count as f64 / most as f64);
        format!(
            "{bound:>9}  {bar}{}{count}",
            if bar.is_empty() { "" } else { " " }
        )
    };
    bounds.iter().zip(&counts).map(line).collect()
}

/// Returns the upper bounds of the bars.
fn bounds(min: u64, max: u64) -> Vec<u64> {
    let factor = (max as f64 / min as f64).powf(1.0 / BARS as f64);
    let bound = |number: usize| (min as f64 * factor.powi(number as i32)) as u64;
    let mut bounds: Vec<_> = (1..BARS).map(bound).chain([max]).collect();
    // Bounds that look the same tell nothing.
    bounds.dedup_by_key(|bound| units::duration(Duration::from_nanos(*bound)));
    bounds
}

/// Returns a bar of a part of the full width.
fn bar(part: f64) -> String {
    let eighths = (part * WIDTH * 8.0).ceil() as usize;
    format!("{}{}", "█".repeat(eighths / 8), PARTS[eighths % 8])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(values: &[(u64, u64)]) -> Histogram<u64> {
        let mut times = Histogram::new(3).expect("a histogram");
        for (value, count) in values {
            times.record_n(*value, *count).expect("a value");
        }
        times
    }

    fn counts(lines: &[String]) -> u64 {
        let counts = lines.iter().map(|line| line.rsplit(['█', ' ']).next());
        counts
            .map(|count| {
                count
                    .and_then(|it| it.parse::<u64>().ok())
                    .expect("a count")
            })
            .sum()
    }

    #[test]
    fn every_call_is_in_one_bar() {
        let lines = lines(&times(&[
            (1_000_000, 1000),
            (1_500_000, 300),
            (40_000_000, 2),
            (900_000_000, 1),
        ]));
        assert_eq!(lines.len(), BARS);
        assert_eq!(counts(&lines), 1303);
        assert!(lines[0].contains(&"█".repeat(40)), "{lines:#?}");
        assert!(lines[11].trim_start().starts_with("90"), "{lines:#?}");
        // A single call is seen beside many.
        assert!(lines[11].ends_with("▏ 1"), "{lines:#?}");
    }

    #[test]
    fn equal_times_are_one_bar() {
        let lines = lines(&times(&[(5_000_000, 7)]));
        assert_eq!(counts(&lines), 7);
        assert_eq!(lines.iter().filter(|line| line.contains('█')).count(), 1);
        assert!(super::lines(&times(&[])).is_empty());
        assert_eq!(counts(&super::lines(&times(&[(0, 1), (1, 1), (2, 1)]))), 3);
    }
}
