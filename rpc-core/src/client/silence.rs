//! Channels that seem to work and do not.
//!
//! When the leader of a quorum queue dies, RabbitMQ 3.10 may leave a channel that was opened at that time asking the dead node,
//! or refusing all it is given, for as long as the node is away. The connection works, and so does another channel.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How many calls have to fail in a row.
const MANY: u32 = 8;

/// How long a channel is given before it is replaced: with a queue that is full, or a service without servers, another one
/// fares no better.
const PATIENCE: Duration = Duration::from_secs(5);

/// Failures in a row of what goes through one channel.
#[derive(Debug)]
pub(crate) struct Silence {
    failures: AtomicU32,
    since: Mutex<Instant>,
}

impl Silence {
    pub(crate) fn new() -> Self {
        Self {
            failures: AtomicU32::new(0),
            since: Mutex::new(Instant::now()),
        }
    }

    /// Something went well.
    pub(crate) fn broken(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// A call was not answered, or refused.
    pub(crate) fn goes_on(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Another channel is tried.
    pub(crate) fn restart(&self) {
        *self.since() = Instant::now();
        self.broken();
    }

    fn since(&self) -> MutexGuard<'_, Instant> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether another channel should be tried.
    pub(crate) fn is_suspicious(&self) -> bool {
        self.failures.load(Ordering::Relaxed) >= MANY && self.since().elapsed() >= PATIENCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_failures_in_a_row_are_suspicious_after_a_while() {
        let silence = Silence::new();
        for _ in 0..MANY {
            assert!(!silence.is_suspicious());
            silence.goes_on();
        }
        assert!(!silence.is_suspicious());
        tokio::time::advance(PATIENCE).await;
        assert!(silence.is_suspicious());
        silence.broken();
        assert!(!silence.is_suspicious());
    }
}
