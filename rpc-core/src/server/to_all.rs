//! Calls to all instances, on their way from the private queue to the delivery loop.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use parking_lot::Mutex;
use rustc_hash::FxHashSet;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::Instant;

use crate::transport::Message;

/// Number of calls that may wait for the delivery loop, and number of calls that may wait for a handler.
pub(super) const MAX_WAITING: usize = 64;

/// Time for which a call is remembered. While a connection is handed over, two private queues get the call, and their listeners take
/// both copies within moments. A caller may use its correlation ids again later.
const REMEMBERED: Duration = Duration::from_secs(10);

/// Number of calls that are remembered. The oldest are forgotten first.
const MAX_REMEMBERED: usize = 4096;

/// A call to all instances that has arrived.
#[derive(Debug)]
pub(super) struct CallToAll {
    /// Index of the queue in the instance.
    pub(super) queue: usize,
    pub(super) message: Message,
}

/// The calls to all instances that an instance has taken. All private queues of an instance share them, because two queues may exist at a
/// time.
#[derive(Debug)]
pub(super) struct CallsToAll {
    sender: mpsc::Sender<CallToAll>,
    /// Has a seed of its own for each server, so that no caller can make ids with equal hashes.
    hasher: RandomState,
    recent: Mutex<Recent>,
}

/// Calls that were taken a short time ago, by the hash of the reply queue and the correlation id.
#[derive(Debug, Default)]
struct Recent {
    ids: FxHashSet<u64>,
    /// The same ids in the order of their calls.
    order: VecDeque<(Instant, u64)>,
}

/// Fate of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Yes,
    /// The call lacks a reply queue or a correlation id, so the instance could not tell a second copy from another call.
    Anonymous,
    /// Another copy of the call was taken before.
    Repeated,
    /// Too many calls wait.
    Full,
    /// The server starts no more calls.
    Stopping,
}

impl CallsToAll {
    pub(super) fn new() -> (Self, mpsc::Receiver<CallToAll>) {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        let calls = Self {
            sender,
            hasher: RandomState::new(),
            recent: Mutex::default(),
        };
        (calls, receiver)
    }

    /// Passes a call to the delivery loop, once for each call.
    pub(super) fn take(&self, call: CallToAll) -> Taken {
        let (Some(reply_to), Some(correlation_id)) =
            (&call.message.reply_to, &call.message.correlation_id)
        else {
            return Taken::Anonymous;
        };
        let id = self.hasher.hash_one((reply_to, correlation_id));
        let mut recent = self.recent.lock();
        let now = Instant::now();
        recent.forget(now);
        if recent.ids.contains(&id) {
            return Taken::Repeated;
        }
        match self.sender.try_send(call) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Taken::Full,
            Err(TrySendError::Closed(_)) => return Taken::Stopping,
        }
        recent.ids.insert(id);
        recent.order.push_back((now, id));
        Taken::Yes
    }
}

impl Recent {
    /// Forgets calls that are old or too many.
    fn forget(&mut self, now: Instant) {
        while let Some((taken, id)) = self.order.front()
            && (self.order.len() >= MAX_REMEMBERED || *taken + REMEMBERED <= now)
        {
            self.ids.remove(id);
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Content;

    fn call(reply_to: Option<&str>, correlation_id: Option<&str>) -> CallToAll {
        let message = Message::from(Content {
            reply_to: reply_to.map(Into::into),
            correlation_id: correlation_id.map(Into::into),
            ..Content::default()
        });
        CallToAll { queue: 0, message }
    }

    fn numbered(number: usize) -> CallToAll {
        call(Some("replies"), Some(&number.to_string()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_copy_of_a_call_is_not_taken() {
        let (calls, _receiver) = CallsToAll::new();
        assert_eq!(calls.take(numbered(1)), Taken::Yes);
        assert_eq!(calls.take(numbered(1)), Taken::Repeated);
        assert_eq!(calls.take(call(Some("others"), Some("1"))), Taken::Yes);
        tokio::time::advance(REMEMBERED / 2).await;
        assert_eq!(calls.take(numbered(1)), Taken::Repeated);
        tokio::time::advance(REMEMBERED / 2).await;
        assert_eq!(calls.take(numbered(1)), Taken::Yes);
    }

    #[test]
    fn a_call_that_cannot_be_recognised_is_not_taken() {
        let (calls, _receiver) = CallsToAll::new();
        for anonymous in [call(None, Some("1")), call(Some("replies"), None)] {
            assert_eq!(calls.take(anonymous), Taken::Anonymous);
        }
    }

    #[tokio::test]
    async fn calls_that_wait_are_limited_and_a_refused_one_may_come_again() {
        let (calls, mut receiver) = CallsToAll::new();
        for number in 0..MAX_WAITING {
            assert_eq!(calls.take(numbered(number)), Taken::Yes);
        }
        assert_eq!(calls.take(numbered(MAX_WAITING)), Taken::Full);
        receiver.recv().await.unwrap();
        assert_eq!(calls.take(numbered(MAX_WAITING)), Taken::Yes);
        drop(receiver);
        assert_eq!(calls.take(numbered(MAX_WAITING + 1)), Taken::Stopping);
    }

    #[tokio::test]
    async fn the_calls_that_are_remembered_are_limited() {
        let (calls, mut receiver) = CallsToAll::new();
        for number in 0..=MAX_REMEMBERED {
            assert_eq!(calls.take(numbered(number)), Taken::Yes);
            receiver.recv().await.unwrap();
        }
        let recent = calls.recent.lock();
        assert_eq!(
            (recent.ids.len(), recent.order.len()),
            (MAX_REMEMBERED, MAX_REMEMBERED)
        );
    }
}
