//! The CPU time of processes, from Linux's `/proc`.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

/// Linux has shown a hundred ticks a second to programs since ever, whatever it uses itself.
const TICK: Duration = Duration::from_millis(10);

/// The CPU time that a process has used in all its threads, those that ended included. Zero for none.
#[must_use]
pub fn used(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in brackets, may hold spaces. Behind it, utime and stime are the 12th and the 13th field.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks: u32 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|ticks| ticks.parse::<u32>().ok())
        .sum();
    TICK * ticks
}

/// Reads what each group of processes uses between two moments, on a thread of its own.
#[must_use]
pub fn watch<const N: usize>(
    opens: Instant,
    closes: Instant,
    groups: [Vec<u32>; N],
) -> thread::JoinHandle<[Duration; N]> {
    let read = move || {
        groups
            .each_ref()
            .map(|pids| pids.iter().map(|&pid| used(pid)).sum())
    };
    thread::spawn(move || {
        sleep_until(opens);
        let before: [Duration; N] = read();
        sleep_until(closes);
        let after = read();
        std::array::from_fn(|group| after[group].saturating_sub(before[group]))
    })
}

fn sleep_until(moment: Instant) {
    thread::sleep(moment.saturating_duration_since(Instant::now()));
}
