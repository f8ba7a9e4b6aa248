//! Cancellation of calls that their callers drop: before they arrive, and while they run.
//!
//! A client does not know which server has its request, so it tells all servers of the queue (`wire/notice.rs`).

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::time::Instant;
use tracing::debug;

use crate::cancellation::Cancellation;
use crate::transport::Message;
use crate::wire::CancelNotice;

/// Number of dropped calls that are remembered because they may still arrive. The oldest are forgotten first, and run although no
/// caller waits for them.
const MAX_EXPECTED: usize = 262_144;

/// The calls that a server runs, and those that were dropped before they arrived.
#[derive(Clone, Debug, Default)]
pub(super) struct CallRegistry(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Has a seed of its own for each server, so that no caller can make ids with equal hashes.
    hasher: RandomState,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    running: FxHashMap<CallId, RunningCall>,
    /// Calls that were dropped before they arrived.
    expected: FxHashSet<CallId>,
    /// Deadlines of the expected calls, in the order of their notices.
    deadlines: VecDeque<(Instant, CallId)>,
}

/// Identity of a call: a hash of the reply queue and the correlation id, which each caller chooses.
type CallId = u64;

#[derive(Debug)]
struct RunningCall {
    cancellation: Cancellation,
    /// Number of runs: one, or more for a call that was delivered again while its first run goes on.
    runs: usize,
}

/// Registration of a running call. Dropping it ends the registration.
#[derive(Debug, Default)]
pub(super) struct RegisteredCall {
    pub(super) cancellation: Cancellation,
    entry: Option<(CallRegistry, CallId)>,
}

impl CallRegistry {
    /// Registers a call. A call without a reply queue or a correlation id cannot be cancelled.
    pub(super) fn register(&self, message: &Message) -> RegisteredCall {
        let (Some(reply_to), Some(correlation_id)) = (&message.reply_to, &message.correlation_id)
        else {
            return RegisteredCall::default();
        };
        let id = self.id(reply_to, correlation_id);
        let mut table = self.table();
        let is_dropped = table.expected.contains(&id);
        let running = table.running.entry(id).or_insert_with(|| RunningCall {
            cancellation: Cancellation::default(),
            runs: 0,
        });
        running.runs += 1;
        let cancellation = running.cancellation.clone();
        drop(table);
        if is_dropped {
            cancellation.cancel();
        }
        RegisteredCall {
            cancellation,
            entry: Some((self.clone(), id)),
        }
    }

    /// Stops the calls that a notice names.
    fn cancel(&self, notice: CancelNotice) {
        let CancelNotice {
            reply_to,
            correlation_ids,
            deadline,
        } = notice;
        let mut table = self.table();
        table.forget(Instant::now());
        for correlation_id in correlation_ids {
            let id = self.id(&reply_to, &correlation_id);
            match table.running.get(&id) {
                Some(running) => running.cancellation.cancel(),
                None => table.expect(id, deadline),
            }
        }
    }

    /// Stops the calls that a notice in a message names.
    pub(super) fn take_notice(&self, message: &Message) {
        match CancelNotice::from_message(message) {
            Some(notice) => self.cancel(notice),
            None => debug!("a notice that is malformed or names too many calls was ignored"),
        }
    }

    fn id(&self, reply_to: &str, correlation_id: &str) -> CallId {
        self.0.hasher.hash_one((reply_to, correlation_id))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock()
    }
}

impl Table {
    fn expect(&mut self, id: CallId, deadline: Instant) {
        if !self.expected.insert(id) {
            return;
        }
        if self.deadlines.len() >= MAX_EXPECTED
            && let Some((_, oldest)) = self.deadlines.pop_front()
        {
            self.expected.remove(&oldest);
        }
        self.deadlines.push_back((deadline, id));
    }

    /// Forgets calls whose deadlines have passed, up to the first whose deadline has not.
    fn forget(&mut self, now: Instant) {
        while let Some((deadline, id)) = self.deadlines.front()
            && *deadline <= now
        {
            self.expected.remove(id);
            self.deadlines.pop_front();
        }
    }
}

impl Drop for RegisteredCall {
    fn drop(&mut self) {
        let Some((calls, id)) = self.entry.take() else {
            return;
        };
        let mut table = calls.table();
        if let Some(running) = table.running.get_mut(&id) {
            running.runs -= 1;
            if running.runs == 0 {
                table.running.remove(&id);
            }
        }
    }
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Content;
    use std::time::Duration;

    fn message(correlation_id: &str) -> Message {
        Message::from(Content {
            reply_to: Some("replies".into()),
            correlation_id: Some(correlation_id.into()),
            ..Content::default()
        })
    }

    fn notice(reply_to: &str, correlation_id: &str, after: Duration) -> CancelNotice {
        CancelNotice {
            reply_to: reply_to.into(),
            correlation_ids: vec![correlation_id.into()],
            deadline: Instant::now() + after,
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_notice_cancels_only_the_call_that_it_names() {
        let calls = CallRegistry::default();
        let call = calls.register(&message("a"));
        let other = calls.register(&message("b"));
        calls.cancel(notice("another queue", "a", SECOND));
        assert!(!call.cancellation.is_cancelled());
        calls.cancel(notice("replies", "a", SECOND));
        assert!(call.cancellation.is_cancelled());
        assert!(!other.cancellation.is_cancelled());
        drop((call, other));
        assert!(calls.table().running.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_was_dropped_before_it_arrived_is_remembered_until_its_deadline() {
        let calls = CallRegistry::default();
        calls.cancel(notice("replies", "a", SECOND));
        assert!(calls.register(&message("a")).cancellation.is_cancelled());
        tokio::time::advance(SECOND).await;
        calls.cancel(notice("replies", "b", SECOND));
        assert!(!calls.register(&message("a")).cancellation.is_cancelled());
        assert_eq!(calls.table().deadlines.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_of_remembered_calls_is_bounded() {
        let calls = CallRegistry::default();
        for n in 0..=MAX_EXPECTED {
            calls.cancel(notice("replies", &n.to_string(), SECOND));
        }
        assert_eq!(calls.table().expected.len(), MAX_EXPECTED);
        assert!(!calls.register(&message("0")).cancellation.is_cancelled());
        assert!(calls.register(&message("1")).cancellation.is_cancelled());
        let newest = MAX_EXPECTED.to_string();
        for _ in 0..10 {
            calls.cancel(notice("replies", &newest, SECOND));
        }
        let remembered = calls.register(&message("1")).cancellation.is_cancelled();
        assert!(
            remembered,
            "a call that is named again takes no further place"
        );
    }

    #[test]
    fn a_call_that_runs_twice_is_registered_until_both_runs_end() {
        let calls = CallRegistry::default();
        let first = calls.register(&message("a"));
        let second = calls.register(&message("a"));
        drop(first);
        second.cancellation.cancel();
        assert_eq!(calls.table().running.len(), 1);
        drop(second);
        assert!(calls.table().running.is_empty());
    }
}
