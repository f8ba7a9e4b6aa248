//! Rate limit of answers, so that small questions cannot make instances send large amounts.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Answers of an instance in a second.
pub(super) const ANSWERS_PER_SECOND: u32 = 100;

/// Answers of an instance at once, after a quiet time.
pub(super) const ANSWERS_AT_ONCE: u32 = 200;

/// Token bucket: each action takes a token, and tokens come back at a steady rate.
#[derive(Debug)]
pub(super) struct RateLimit {
    /// Most tokens: the number of actions that may follow at once.
    burst: u32,
    /// Time in which one token comes back.
    interval: Duration,
    /// Moment at which the bucket will be full.
    full_at: Mutex<Instant>,
}

impl RateLimit {
    pub(super) fn new(per_second: u32, burst: u32) -> Self {
        Self {
            burst,
            interval: Duration::from_secs(1) / per_second,
            full_at: Mutex::new(Instant::now()),
        }
    }

    /// Takes a token. Returns `false` if there is none.
    pub(super) fn take(&self) -> bool {
        let now = Instant::now();
        let mut full_at = self.full_at.lock();
        let after = (*full_at).max(now) + self.interval;
        let is_allowed = after.duration_since(now) <= self.interval * self.burst;
        if is_allowed {
            *full_at = after;
        }
        is_allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(limit: &RateLimit) -> usize {
        std::iter::repeat_with(|| limit.take())
            .take(1000)
            .filter(|is_allowed| *is_allowed)
            .count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_followed_by_a_steady_rate() {
        let limit = RateLimit::new(100, 200);
        assert_eq!(taken(&limit), 200);
        tokio::time::advance(Duration::from_millis(50)).await;
        assert_eq!(taken(&limit), 5);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(taken(&limit), 100);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(taken(&limit), 200);
    }
}
