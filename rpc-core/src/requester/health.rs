//! Channel health: detects channels that are open and do not work.
//!
//! When the leader of a quorum queue dies, RabbitMQ 3.10 may leave a channel that was opened at that time asking the dead node,
//! or refusing every message, for as long as the node is away. The connection works, and so does another channel.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

/// Number of calls in a row that fail on an unhealthy channel.
const MAX_FAILURES: u32 = 8;

/// Age below which a channel is not replaced: with a full queue, or a service without servers, another channel fares no better.
const MIN_AGE: Duration = Duration::from_secs(5);

/// Failures in a row of calls through one channel.
#[derive(Debug)]
pub(crate) struct ChannelHealth {
    failures: AtomicU32,
    since: Mutex<Instant>,
}

impl ChannelHealth {
    pub(super) fn new() -> Self {
        Self {
            failures: AtomicU32::new(0),
            since: Mutex::new(Instant::now()),
        }
    }

    /// Notes that the channel works: something arrived through it, or was accepted.
    pub(super) fn succeeded(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// Notes a call that was not answered, or refused.
    pub(crate) fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Starts again, for another channel.
    pub(super) fn restart(&self) {
        *self.since() = Instant::now();
        self.succeeded();
    }

    fn since(&self) -> MutexGuard<'_, Instant> {
        self.since.lock()
    }

    /// Returns `true` if another channel should be tried.
    pub(super) fn is_suspicious(&self) -> bool {
        self.failures.load(Ordering::Relaxed) >= MAX_FAILURES && self.since().elapsed() >= MIN_AGE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_failures_in_a_row_are_suspicious_after_a_while() {
        let health = ChannelHealth::new();
        for _ in 0..MAX_FAILURES {
            assert!(!health.is_suspicious());
            health.failed();
        }
        assert!(!health.is_suspicious());
        tokio::time::advance(MIN_AGE).await;
        assert!(health.is_suspicious());
        health.succeeded();
        assert!(!health.is_suspicious());
    }
}
