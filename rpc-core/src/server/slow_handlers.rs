//! Warnings about handlers that run for a long time.

use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use super::instance::Instance;

/// Shortest pause between two looks at the calls, so that many calls of different ages cost little: a tenth of the limit.
fn min_pause(limit: Duration) -> Duration {
    (limit / 10).max(Duration::from_millis(1))
}

/// Warns about each call that runs longer than a limit. Sleeps until the oldest call may become slow.
pub(super) async fn watch(instance: Arc<Instance>, limit: Duration) {
    let Some(in_flight) = &instance.in_flight else {
        return;
    };
    let mut pause = limit;
    loop {
        tokio::time::sleep(pause).await;
        let (slow, next) = in_flight.take_slow(limit);
        for call in slow {
            let served = &instance.queues[call.queue];
            warn!(
                service = served.service,
                method = call.method.name,
                age = ?call.begun.elapsed(),
                correlation_id = call.correlation_id.as_deref(),
                "a handler has been running for a long time; set the limit with `ServerBuilder::slow_handler`"
            );
        }
        pause = next.max(min_pause(limit));
    }
}
