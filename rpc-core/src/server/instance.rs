//! A running server: the state that its sessions and its requests share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::cancellation::CallRegistry;
use super::options::ServerOptions;
use super::served::ServedQueue;
use crate::connection::Connection;

/// A running server. It outlives the loss of its connection.
pub(super) struct Instance {
    /// Id of the instance: a UUID.
    pub(super) id: Arc<str>,
    pub(super) connection: Connection,
    pub(super) queues: Vec<ServedQueue>,
    pub(super) options: ServerOptions,
    /// The calls that can be cancelled; `None` if the server does not listen for dropped calls.
    pub(super) calls: Option<CallRegistry>,
    /// Number of refused requests, which the handle of the server reads.
    pub(super) refused: Arc<AtomicU64>,
}

impl Instance {
    /// Returns `true` if replies to a queue are allowed.
    pub(super) fn may_reply_to(&self, queue: &str) -> bool {
        // A reply to one of the server's own queues would come back as a request.
        !self.queues.iter().any(|served| served.owns(queue)) && (self.options.reply_policy)(queue)
    }

    pub(super) fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }
}
