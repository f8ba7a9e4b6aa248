//! What the tests share: private RabbitMQ nodes, programs to talk to, unique names, and waiting for events.
//!
//! Everything that needs RabbitMQ is behind the feature `broker`. With it on, a machine without RabbitMQ fails the
//! tests with one sentence that says what to do; nothing is skipped.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[cfg(feature = "broker")]
pub mod broker;
#[cfg(feature = "broker")]
pub mod hostile;
#[cfg(feature = "broker")]
pub mod program;
#[cfg(feature = "broker")]
pub mod raw;
// pub mod suite;

/// A name nobody else has, on this machine and in this run: `prefix-` and some digits.
///
/// Tests run in parallel, many of them on one broker, so each has queues of its own.
#[must_use]
pub fn unique_queue(prefix: &str) -> String {
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    format!(
        "{prefix}-{:x}-{:x}-{serial}",
        std::process::id(),
        since_epoch.as_nanos()
    )
}

/// Asks `question` again and again until it has an answer, and panics with `what` when it has none for 30 seconds: tools such as
/// `rabbitmqctl` take seconds to answer on a machine that is busy.
///
/// For the few things that only asking reveals, such as a queue's number of consumers. What can be awaited should be.
pub async fn eventually<T>(what: &str, mut question: impl AsyncFnMut() -> Option<T>) -> T {
    const LIMIT: Duration = Duration::from_secs(30);
    let answer = tokio::time::timeout(LIMIT, async {
        loop {
            if let Some(answer) = question().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    answer
        .await
        .unwrap_or_else(|_| panic!("did not happen within {LIMIT:?}: {what}"))
}
