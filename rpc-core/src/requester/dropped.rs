//! Numbers of replies and messages that no call and no stream was waiting for.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::telemetry::metrics;

/// Numbers of replies, and messages of streams, that were dropped because no call and no stream was waiting for them, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DroppedReplies {
    /// The call was over: its deadline had passed, its future was dropped, or an earlier reply had completed it. For a call to all
    /// instances also: the instance had answered before, or 4,096 instances had. For a stream: it was over, or its server had accepted the call
    /// before.
    pub late: u64,
    /// The correlation id is not one that this client makes, or the message of a stream does not have the stream's own id.
    pub foreign: u64,
    /// There is no correlation id, or the message is a batch of replies that cannot be read, or an answer to a call to all instances does
    /// not name its instance, or the message of a stream cannot be read.
    pub malformed: u64,
}

/// Counts [`DroppedReplies`] over the life of a connection.
#[derive(Debug, Default)]
pub(crate) struct DropCounter {
    late: AtomicU64,
    foreign: AtomicU64,
    malformed: AtomicU64,
}

impl DropCounter {
    pub(super) fn count_late(&self) {
        count(&self.late, "late");
    }

    pub(super) fn count_foreign(&self) {
        count(&self.foreign, "foreign");
    }

    pub(super) fn count_malformed(&self) {
        count(&self.malformed, "malformed");
    }

    pub(crate) fn read(&self) -> DroppedReplies {
        DroppedReplies {
            late: self.late.load(Ordering::Relaxed),
            foreign: self.foreign.load(Ordering::Relaxed),
            malformed: self.malformed.load(Ordering::Relaxed),
        }
    }
}

fn count(counter: &AtomicU64, reason: &'static str) {
    counter.fetch_add(1, Ordering::Relaxed);
    metrics::reply_dropped(reason);
}
