//! Warnings about handlers that run for a long time, or do not end before their server.

use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use super::instance::Instance;

/// Shortest pause between two looks at the calls, so that many calls of different ages cost little: a tenth of the limit.
fn min_pause(limit: Duration) -> Duration {
    (limit / 10).max(Duration::from_millis(1))
}

/// Most calls that are named when a server stops.
const MAX_NAMED: usize = 16;

/// Names the calls that a server drops because they did not end before it stops.
pub(super) fn report_unfinished(instance: &Instance) {
    let mut calls = Vec::new();
    if let Some(in_flight) = &instance.in_flight {
        in_flight.for_each(|call| calls.push(call.clone()));
    }
    calls.sort_by_key(|call| call.begun);
    for call in calls.into_iter().take(MAX_NAMED) {
        warn!(
            service = instance.queues[call.queue].service,
            method = call.method.name,
            age = ?call.begun.elapsed(),
            correlation_id = call.correlation_id.as_deref(),
            "a handler is dropped: it did not end within the drain timeout of the server"
        );
    }
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
