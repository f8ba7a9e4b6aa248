//! Rate limits of answers and of events, so that small questions cannot make instances send large amounts.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Answers of an instance in a second.
pub(super) const ANSWERS_PER_SECOND: u32 = 100;

/// Answers of an instance at once, after a quiet time.
pub(super) const ANSWERS_AT_ONCE: u32 = 200;

/// Bytes of an answer that the answer's own token covers. Each further piece of this length takes a token as well.
const BYTES_PER_ANSWER: usize = 64 << 10;

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
        self.take_several(1)
    }

    /// Takes several tokens. Returns `false`, and takes none, if there are not enough.
    pub(super) fn take_several(&self, tokens: u32) -> bool {
        let now = Instant::now();
        let mut full_at = self.full_at.lock();
        let after = (*full_at).max(now) + self.interval.saturating_mul(tokens);
        let is_allowed = after.duration_since(now) <= self.interval * self.burst;
        if is_allowed {
            *full_at = after;
        }
        is_allowed
    }

    /// Takes the further tokens of an answer that is long. They may not be there yet: then the next answers wait for them.
    pub(super) fn charge(&self, len: usize) {
        let further = u32::try_from(len / BYTES_PER_ANSWER).unwrap_or(u32::MAX);
        let further = self.interval.saturating_mul(further.min(self.burst));
        let mut full_at = self.full_at.lock();
        *full_at = (*full_at).max(Instant::now()) + further;
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

    #[tokio::test(start_paused = true)]
    async fn several_tokens_are_taken_together_or_not_at_all() {
        let limit = RateLimit::new(100, 10);
        assert!(!limit.take_several(11));
        assert!(limit.take_several(8));
        assert!(!limit.take_several(3));
        assert!(limit.take_several(2));
        assert!(!limit.take());
    }

    #[tokio::test(start_paused = true)]
    async fn long_answers_take_several_tokens() {
        let limit = RateLimit::new(100, 200);
        limit.charge(BYTES_PER_ANSWER - 1);
        limit.charge(50 * BYTES_PER_ANSWER);
        assert_eq!(taken(&limit), 150);
        limit.charge(10 * BYTES_PER_ANSWER);
        tokio::time::advance(Duration::from_millis(150)).await;
        assert_eq!(taken(&limit), 5);
        // One answer delays the next ones for a limited time, however long the answer is.
        limit.charge(usize::MAX);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(taken(&limit), 0);
        tokio::time::advance(Duration::from_millis(10)).await;
        assert_eq!(taken(&limit), 1);
    }
}
