//! Limits the last attempts that are made at once: one for each queue, as long as it does not take too long.
//!
//! A request that may have killed servers is run alone, so that nothing is given up because of it. But a handler may also just take
//! long, and others must not wait for it: for each attempt that has gone on for a while the server takes one more, through a further
//! consumer, which is cancelled when it is no longer needed.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

/// The time for which others wait for an attempt.
const PATIENCE: Duration = Duration::from_secs(5);

/// The most attempts at once, for the requests of one queue.
const MOST: usize = 16;

/// Held while an attempt is made.
pub(super) type Attempt = Arc<()>;

/// The last attempts of all queues, and the consumers that they come through.
#[derive(Default)]
pub(super) struct LastAttempts {
    consumers: Vec<Consumer>,
    /// The time to look whether there are enough consumers, if that may change with time.
    next_look: Option<Instant>,
    last_number: u32,
}

struct Consumer {
    queue: usize,
    number: u32,
    /// The attempt that came through it last, and since when.
    attempt: Option<(Instant, Weak<()>)>,
}

/// A change to the consumers of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Start { queue: usize, number: u32 },
    Cancel { queue: usize, number: u32 },
}

impl Consumer {
    fn begun(&self) -> Option<Instant> {
        let (begun, attempt) = self.attempt.as_ref()?;
        (attempt.strong_count() > 0).then_some(*begun)
    }
}

impl LastAttempts {
    /// Takes note of a consumer, each of which is given one request at a time.
    pub(super) fn add(&mut self, queue: usize, number: u32) {
        self.remove(queue, number);
        self.consumers.push(Consumer {
            queue,
            number,
            attempt: None,
        });
    }

    /// Takes note that a consumer is gone. Whether it was one of these.
    pub(super) fn remove(&mut self, queue: usize, number: u32) -> bool {
        let before = self.consumers.len();
        self.consumers
            .retain(|consumer| (consumer.queue, consumer.number) != (queue, number));
        self.consumers.len() < before
    }

    /// The consumers of a queue beside its first.
    pub(super) fn further(&self, queue: usize) -> impl Iterator<Item = u32> {
        let consumers = self.consumers.iter();
        consumers
            .filter(move |consumer| consumer.queue == queue && consumer.number > 0)
            .map(|consumer| consumer.number)
    }

    /// Takes note of a request; the attempt lasts until what this returns is dropped.
    pub(super) fn begin(&mut self, queue: usize, number: u32) -> Attempt {
        let attempt = Attempt::default();
        let now = Instant::now();
        let mut consumers = self.consumers.iter_mut();
        let of_it = |consumer: &&mut Consumer| (consumer.queue, consumer.number) == (queue, number);
        if let Some(consumer) = consumers.find(of_it) {
            consumer.attempt = Some((now, Arc::downgrade(&attempt)));
            self.next_look.get_or_insert(now + PATIENCE);
        }
        attempt
    }

    /// Waits until the consumers are to be looked after.
    pub(super) async fn due(&self) {
        match self.next_look {
            None => std::future::pending().await,
            Some(next) => tokio::time::sleep_until(next).await,
        }
    }

    /// The changes to the consumers that are due now; they count as made.
    pub(super) fn look_after(&mut self, queues: usize) -> Vec<Change> {
        let now = Instant::now();
        let mut changes = Vec::new();
        for queue in 0..queues {
            let of_queue = || {
                let consumers = self.consumers.iter();
                consumers.filter(move |consumer| consumer.queue == queue)
            };
            let take_long = of_queue()
                .filter(|consumer| {
                    consumer
                        .begun()
                        .is_some_and(|begun| begun + PATIENCE <= now)
                })
                .count();
            let wanted = (1 + take_long).min(MOST);
            let there = of_queue().count();
            if there < wanted {
                for _ in there..wanted {
                    self.last_number += 1;
                    let number = self.last_number;
                    self.add(queue, number);
                    changes.push(Change::Start { queue, number });
                }
            } else if there > wanted {
                let idle =
                    of_queue().filter(|consumer| consumer.number > 0 && consumer.begun().is_none());
                let idle: Vec<u32> = idle
                    .map(|consumer| consumer.number)
                    .take(there - wanted)
                    .collect();
                for number in idle {
                    self.remove(queue, number);
                    changes.push(Change::Cancel { queue, number });
                }
            }
        }
        let is_quiet = self
            .consumers
            .iter()
            .all(|consumer| consumer.number == 0 && consumer.begun().is_none());
        let begun = self.consumers.iter().filter_map(Consumer::begun);
        let next = begun
            .map(|begun| begun + PATIENCE)
            .filter(|next| *next > now)
            .min();
        self.next_look = (!is_quiet).then(|| next.unwrap_or(now + PATIENCE));
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn for_each_attempt_that_takes_long_there_is_one_more_consumer() {
        let mut attempts = LastAttempts::default();
        attempts.add(0, 0);
        attempts.add(1, 0);
        let first = attempts.begin(0, 0);
        attempts.due().await;
        let started = |number| vec![Change::Start { queue: 0, number }];
        assert_eq!(attempts.look_after(2), started(1));
        let second = attempts.begin(0, 1);
        attempts.due().await;
        assert_eq!(attempts.look_after(2), started(2));
        assert_eq!(attempts.further(0).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(attempts.further(1).count(), 0);
        drop(first);
        attempts.due().await;
        let cancelled = |number| vec![Change::Cancel { queue: 0, number }];
        assert_eq!(attempts.look_after(2), cancelled(2));
        drop(second);
        attempts.due().await;
        assert_eq!(attempts.look_after(2), cancelled(1));
        assert_eq!(attempts.next_look, None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_begins_after_a_look_is_not_waited_for_twice_as_long() {
        let mut attempts = LastAttempts::default();
        attempts.add(0, 0);
        let begun = Instant::now();
        let mut held = vec![attempts.begin(0, 0)];
        while held.len() < 4 {
            attempts.due().await;
            for change in attempts.look_after(1) {
                let Change::Start { queue, number } = change else {
                    panic!("{change:?}");
                };
                tokio::time::sleep(Duration::from_millis(1)).await;
                held.push(attempts.begin(queue, number));
            }
        }
        assert!(
            begun.elapsed() < PATIENCE * 4,
            "{:?} for three",
            begun.elapsed()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_ends_soon_changes_nothing() {
        let mut attempts = LastAttempts::default();
        attempts.add(0, 0);
        drop(attempts.begin(0, 0));
        let _next = attempts.begin(0, 0);
        tokio::time::sleep(PATIENCE / 2).await;
        drop(attempts.begin(0, 0));
        attempts.due().await;
        assert_eq!(attempts.look_after(1), []);
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_a_bound() {
        let mut attempts = LastAttempts::default();
        attempts.add(0, 0);
        let mut held = vec![attempts.begin(0, 0)];
        for _ in 0..2 * MOST {
            attempts.due().await;
            for change in attempts.look_after(1) {
                let Change::Start { queue, number } = change else {
                    panic!("{change:?}");
                };
                held.push(attempts.begin(queue, number));
            }
        }
        assert_eq!(held.len(), MOST);
    }
}
