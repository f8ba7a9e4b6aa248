//! CPU time of processes, from Linux's `/proc`.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

/// Returns the CPU time of a process's running threads. Zero if there is no such process.
///
/// `/proc/<pid>/stat` has the complete time, but in steps of 10 ms, and thousands of calls fit into one step.
#[must_use]
pub fn used(pid: u32) -> Duration {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Duration::ZERO;
    };
    let nanoseconds = threads.flatten().filter_map(|thread| {
        let spent = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        spent.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// Measures the CPU time of groups of processes between two moments, on a thread of its own.
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
