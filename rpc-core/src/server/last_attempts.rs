//! Last attempts of requests: one at a time for each queue, and more while an attempt is slow.
//!
//! A request that may have killed servers runs alone, so that no other request is given up because of it. A slow handler must not keep
//! other requests waiting, however. So the server takes one more request for each slow attempt, through a further consumer. The server
//! cancels the consumer once the slow attempt has ended.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

/// Time after which an attempt counts as slow, so that another request is taken.
const SLOW_AFTER: Duration = Duration::from_secs(5);

/// Limit of consumers, and so of attempts at a time, for one queue.
const MAX_CONSUMERS: usize = 16;

/// Guard of an attempt, held while the attempt is made.
pub(super) type Attempt = Arc<()>;

/// The last attempts of all queues, and the consumers through which their requests come.
#[derive(Default)]
pub(super) struct LastAttempts {
    consumers: Vec<Consumer>,
    /// Time of the next check of the consumers; `None` while no attempt runs and no further consumer exists.
    next_check: Option<Instant>,
    last_number: u32,
}

struct Consumer {
    queue: usize,
    number: u32,
    /// Start and guard of the latest attempt of the consumer.
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
    /// Registers a consumer, which is given one request at a time.
    pub(super) fn add(&mut self, queue: usize, number: u32) {
        self.remove(queue, number);
        self.consumers.push(Consumer {
            queue,
            number,
            attempt: None,
        });
    }

    /// Removes a consumer that is gone.
    pub(super) fn remove(&mut self, queue: usize, number: u32) {
        self.consumers
            .retain(|consumer| (consumer.queue, consumer.number) != (queue, number));
    }

    /// Numbers of the consumers of a queue beside its first.
    pub(super) fn further(&self, queue: usize) -> impl Iterator<Item = u32> {
        let consumers = self.consumers.iter();
        consumers
            .filter(move |consumer| consumer.queue == queue && consumer.number > 0)
            .map(|consumer| consumer.number)
    }

    /// Starts an attempt, which lasts until the guard is dropped.
    pub(super) fn begin(&mut self, queue: usize, number: u32) -> Attempt {
        let attempt = Attempt::default();
        let now = Instant::now();
        let mut consumers = self.consumers.iter_mut();
        let is_same =
            |consumer: &&mut Consumer| (consumer.queue, consumer.number) == (queue, number);
        if let Some(consumer) = consumers.find(is_same) {
            consumer.attempt = Some((now, Arc::downgrade(&attempt)));
            self.next_check.get_or_insert(now + SLOW_AFTER);
        }
        attempt
    }

    /// Waits until the next check of the consumers.
    pub(super) async fn due(&self) {
        match self.next_check {
            None => std::future::pending().await,
            Some(next) => tokio::time::sleep_until(next).await,
        }
    }

    /// Returns the changes to the consumers that are due now. They count as made.
    pub(super) fn take_changes(&mut self, queues: usize) -> Vec<Change> {
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
                        .is_some_and(|begun| begun + SLOW_AFTER <= now)
                })
                .count();
            let wanted = (1 + take_long).min(MAX_CONSUMERS);
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
            .map(|begun| begun + SLOW_AFTER)
            .filter(|next| *next > now)
            .min();
        self.next_check = (!is_quiet).then(|| next.unwrap_or(now + SLOW_AFTER));
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_slow_attempt_adds_a_consumer() {
        let mut attempts = LastAttempts::default();
        attempts.add(0, 0);
        attempts.add(1, 0);
        let first = attempts.begin(0, 0);
        attempts.due().await;
        let started = |number| vec![Change::Start { queue: 0, number }];
        assert_eq!(attempts.take_changes(2), started(1));
        let second = attempts.begin(0, 1);
        attempts.due().await;
        assert_eq!(attempts.take_changes(2), started(2));
        assert_eq!(attempts.further(0).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(attempts.further(1).count(), 0);
        drop(first);
        attempts.due().await;
        let cancelled = |number| vec![Change::Cancel { queue: 0, number }];
        assert_eq!(attempts.take_changes(2), cancelled(2));
        drop(second);
        attempts.due().await;
        assert_eq!(attempts.take_changes(2), cancelled(1));
        assert_eq!(attempts.next_check, None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_begins_after_a_check_holds_up_others_no_longer_than_the_first() {
        let mut attempts = LastAttempts::default();
        attempts.add(0, 0);
        let begun = Instant::now();
        let mut held = vec![attempts.begin(0, 0)];
        while held.len() < 4 {
            attempts.due().await;
            for change in attempts.take_changes(1) {
                let Change::Start { queue, number } = change else {
                    panic!("{change:?}");
                };
                tokio::time::sleep(Duration::from_millis(1)).await;
                held.push(attempts.begin(queue, number));
            }
        }
        assert!(
            begun.elapsed() < SLOW_AFTER * 4,
            "{:?} for three",
            begun.elapsed()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_attempt_adds_no_consumer() {
        let mut attempts = LastAttempts::default();
        attempts.add(0, 0);
        drop(attempts.begin(0, 0));
        let _next = attempts.begin(0, 0);
        tokio::time::sleep(SLOW_AFTER / 2).await;
        drop(attempts.begin(0, 0));
        attempts.due().await;
        assert_eq!(attempts.take_changes(1), []);
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_of_consumers_is_bounded() {
        let mut attempts = LastAttempts::default();
        attempts.add(0, 0);
        let mut held = vec![attempts.begin(0, 0)];
        for _ in 0..2 * MAX_CONSUMERS {
            attempts.due().await;
            for change in attempts.take_changes(1) {
                let Change::Start { queue, number } = change else {
                    panic!("{change:?}");
                };
                held.push(attempts.begin(queue, number));
            }
        }
        assert_eq!(held.len(), MAX_CONSUMERS);
    }
}
