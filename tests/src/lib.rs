//! Shared parts of the tests: private RabbitMQ nodes, programs to talk to, unique names, and waiting for events.
//!
//! Everything that needs RabbitMQ is behind the feature `broker`. With the feature on, a machine without RabbitMQ fails the
//! tests with a sentence of advice; nothing is skipped.

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

/// Returns a unique name: `prefix-`, then the process id, the time and a serial number.
///
/// Tests run in parallel, many of them on one broker, so each test has queues of its own.
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

/// Repeats `question` until it returns a value. Panics with `what` after 30 seconds, because tools such as `rabbitmqctl` take
/// seconds on a busy machine.
///
/// For conditions without an event to wait for, such as a queue's number of consumers. Prefer events.
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
