//! Numbers of a queue.

use serde::Serialize;

/// Numbers of a queue at one moment, see [`Connection::queue_status`](crate::Connection::queue_status).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct QueueStatus {
    /// Number of messages that are ready for delivery. Messages that were delivered and are not settled yet do not count.
    pub messages: u32,
    /// Number of consumers. A server has one consumer on each of its request queues.
    pub consumers: u32,
}

impl QueueStatus {
    pub(crate) fn new(messages: u32, consumers: u32) -> Self {
        Self {
            messages,
            consumers,
        }
    }
}
