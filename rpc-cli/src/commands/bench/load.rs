//! The loops that make calls: closed and open.

use std::future::Future;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::record::{Outcome, Record};

/// Time between two updates of the progress.
const UPDATE: Duration = Duration::from_millis(100);

/// Number of planned starts that may wait for the loop. The thread that plans them waits for a loop that is late, and the times stay as planned.
const WAITING_STARTS: usize = 1024;

/// Starts of calls.
#[derive(Debug)]
pub(super) enum Pace {
    /// Each caller waits for an answer before its next call.
    Closed { callers: usize },
    /// Calls start at planned times, whatever the answers do.
    Open(mpsc::Receiver<Instant>),
}

/// End of a run: the last start of a call. The calls in flight are waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    /// No call starts at this moment or later.
    pub(super) at: Option<Instant>,
    /// Number of calls.
    pub(super) count: Option<u64>,
}

impl End {
    pub(super) fn after(duration: Duration) -> Self {
        Self {
            at: Some(Instant::now() + duration),
            count: None,
        }
    }

    /// Returns `true` if a call may start after `started` others.
    fn allows(&self, started: u64, start: Instant) -> bool {
        self.at.is_none_or(|at| start < at) && self.count.is_none_or(|count| started < count)
    }
}

/// Makes calls until the end, and records their outcomes. The time of a call counts from its planned start: a service that makes its callers
/// wait cannot hide the calls that should have started meanwhile.
///
/// # Cancel safety
///
/// Dropping the future drops the calls in flight. The record has the calls that have ended.
pub(super) async fn run<C: Future<Output = Outcome>>(
    pace: Pace,
    end: End,
    call: impl Fn() -> C,
    record: &mut Record,
    show: impl Fn(&Record),
) {
    let timed = |start: Instant| {
        let call = call();
        async move {
            let outcome = call.await;
            (start.elapsed(), outcome)
        }
    };
    let (callers, mut starts) = match pace {
        Pace::Closed { callers } => (callers, None),
        Pace::Open(starts) => (0, Some(starts)),
    };
    let mut running = FuturesUnordered::new();
    let mut started = 0;
    let mut updates = interval(UPDATE);
    updates.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        while running.len() < callers && end.allows(started, Instant::now()) {
            running.push(timed(Instant::now()));
            started += 1;
        }
        if running.is_empty() && starts.is_none() {
            break;
        }
        tokio::select! {
            biased;
            Some((time, outcome)) = running.next() => record.add(time, outcome),
            start = next(&mut starts) => match start {
                Some(start) if end.allows(started, start) => {
                    running.push(timed(start));
                    started += 1;
                }
                // No further call starts: the calls in flight are left.
                _ => starts = None,
            },
            _ = updates.tick() => show(record),
        }
    }
    show(record);
}

/// Returns the next planned start. Waits without end if there is none.
async fn next(starts: &mut Option<mpsc::Receiver<Instant>>) -> Option<Instant> {
    match starts {
        Some(starts) => starts.recv().await,
        None => std::future::pending().await,
    }
}

/// Plans the starts of calls, from now on at a rate per second. A thread waits for each start, because tokio's timer has milliseconds.
pub(super) fn schedule(per_second: f64) -> mpsc::Receiver<Instant> {
    let (starts, planned) = mpsc::channel(WAITING_STARTS);
    let begin = std::time::Instant::now();
    // The thread ends at its next start after the receiver was dropped.
    std::thread::spawn(move || {
        for number in 0u64.. {
            let start = begin + offset(number, per_second);
            std::thread::sleep(start.saturating_duration_since(std::time::Instant::now()));
            if starts.blocking_send(Instant::from_std(start)).is_err() {
                break;
            }
        }
    });
    planned
}

/// Returns the time from the first planned start to another.
fn offset(number: u64, per_second: f64) -> Duration {
    Duration::try_from_secs_f64(number as f64 / per_second).unwrap_or(Duration::MAX / 4)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::sleep;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn near(time: Duration, expected: Duration) -> bool {
        time.abs_diff(expected) <= 2 * MS
    }

    /// Plans starts by the paused clock.
    fn planned(every: Duration) -> mpsc::Receiver<Instant> {
        let (starts, planned) = mpsc::channel(1000);
        let begin = Instant::now();
        tokio::spawn(async move {
            for number in 0u32.. {
                let start = begin + every * number;
                tokio::time::sleep_until(start).await;
                if starts.send(start).await.is_err() {
                    break;
                }
            }
        });
        planned
    }

    #[tokio::test(start_paused = true)]
    async fn callers_of_a_closed_loop_wait_for_answers() {
        let (now, most) = (Cell::new(0), Cell::new(0));
        let call = || async {
            now.set(now.get() + 1);
            most.set(most.get().max(now.get()));
            sleep(10 * MS).await;
            now.set(now.get() - 1);
            Outcome::Result
        };
        let mut record = Record::new();
        record.begin();
        let end = End::after(100 * MS);
        run(Pace::Closed { callers: 4 }, end, call, &mut record, |_| {}).await;
        assert_eq!(most.get(), 4);
        assert_eq!(now.get(), 0);
        assert_eq!(record.calls(), 40);
        assert!(near(record.percentile(50.0), 10 * MS));
        assert!(near(record.elapsed(), 100 * MS));
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_ends_after_its_number_of_calls() {
        for pace in [Pace::Closed { callers: 4 }, Pace::Open(planned(MS))] {
            let begun = Cell::new(0);
            let call = || async {
                begun.set(begun.get() + 1);
                sleep(7 * MS).await;
                Outcome::Result
            };
            let mut record = Record::new();
            let end = End {
                at: None,
                count: Some(10),
            };
            run(pace, end, call, &mut record, |_| {}).await;
            assert_eq!((begun.get(), record.calls()), (10, 10));
        }
    }

    /// Answers take 1 ms, but the service stops for 100 ms in the middle, with one call at a time. A closed loop would see one slow call.
    #[tokio::test(start_paused = true)]
    async fn a_pause_of_the_service_shows_in_all_calls_that_should_have_started_meanwhile() {
        let begin = Instant::now();
        let pause = begin + 500 * MS..begin + 600 * MS;
        let call = || async {
            let until = match pause.contains(&Instant::now()) {
                true => pause.end,
                false => Instant::now() + MS,
            };
            tokio::time::sleep_until(until).await;
            Outcome::Result
        };
        let mut record = Record::new();
        let end = End::after(1000 * MS);
        run(Pace::Open(planned(10 * MS)), end, call, &mut record, |_| {}).await;
        assert_eq!(record.calls(), 100);
        assert!(near(record.percentile(50.0), MS));
        assert!(near(record.percentile(95.0), 50 * MS));
        assert!(near(record.percentile(100.0), 100 * MS));
    }

    /// The loop was late by 50 ms: the time counts from the plan.
    #[tokio::test(start_paused = true)]
    async fn the_time_of_a_late_call_counts_from_its_planned_start() {
        let (starts, planned) = mpsc::channel(1);
        starts.send(Instant::now()).await.expect("a channel");
        drop(starts);
        sleep(50 * MS).await;
        let mut record = Record::new();
        let end = End {
            at: None,
            count: None,
        };
        let call = || async { Outcome::Result };
        run(Pace::Open(planned), end, call, &mut record, |_| {}).await;
        assert_eq!(record.calls(), 1);
        assert!(near(record.percentile(100.0), 50 * MS));
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_is_dropped_keeps_the_calls_that_have_ended() {
        let number = Cell::new(0);
        let call = || {
            number.set(number.get() + 1);
            let time = if number.get() > 5 { 3600 * 1000 } else { 1 };
            async move {
                sleep(time * MS).await;
                Outcome::Result
            }
        };
        let mut record = Record::new();
        let shown = Cell::new(0);
        let end = End::after(1000 * MS);
        let running = run(
            Pace::Closed { callers: 1 },
            end,
            call,
            &mut record,
            |record| {
                shown.set(record.calls());
            },
        );
        assert!(tokio::time::timeout(500 * MS, running).await.is_err());
        assert_eq!(record.calls(), 5);
        assert_eq!(shown.get(), 5);
    }

    #[tokio::test]
    async fn starts_are_planned_at_the_rate() {
        let mut planned = schedule(1000.0);
        let first = planned.recv().await.expect("a start");
        let mut last = first;
        for _ in 0..20 {
            last = planned.recv().await.expect("a start");
            assert!(last <= Instant::now());
        }
        assert_eq!(last - first, 20 * MS);
        assert_eq!(offset(3, 1e9), Duration::from_nanos(3));
        assert_eq!(offset(1, 1e-5), Duration::from_secs(100_000));
        assert!(offset(u64::MAX, 1e-5) > Duration::from_secs(1));
    }
}
