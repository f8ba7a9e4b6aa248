//! Requests that were delivered before: how often, and how a server passes them on.

use tokio::time::Instant;

use super::{deadline, expiration, since_epoch};
use crate::headers::HeaderValue;
use crate::transport::{ACQUIRED_COUNT, DELIVERY_COUNT, Message};

/// Set on a request that a server published anew: how often it had been delivered, and not settled, before that.
pub(super) const DELIVERIES_HEADER: &str = "rpc-delivery-count";

/// Set on a request in a dead-letter queue: why, where from, and when.
const DEATH_REASON_HEADER: &str = "rpc-death-reason";
const DEATH_QUEUE_HEADER: &str = "rpc-death-queue";
const DEATH_TIME_HEADER: &str = "rpc-death-time";

/// What is known of a request's earlier deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct History {
    /// How many there were.
    pub(crate) deliveries: u32,
    /// Whether the next server will know of this one: quorum queues count, and what was never delivered has nothing to count.
    /// Other queues only tell that there was one.
    pub(crate) recorded: bool,
}

impl History {
    pub(crate) fn of(message: &Message, redelivered: bool) -> Self {
        let number = |name: &str| {
            let number = message.headers.get(name).and_then(HeaderValue::as_int);
            number.and_then(|number| u32::try_from(number).ok())
        };
        let before_this_queue = number(DELIVERIES_HEADER).unwrap_or(0);
        let is_counted = message.headers.get(ACQUIRED_COUNT).is_some();
        let counted = number(DELIVERY_COUNT).or(is_counted.then_some(0));
        Self {
            deliveries: before_this_queue
                .saturating_add(counted.unwrap_or_else(|| redelivered.into())),
            recorded: counted.is_some() || !redelivered,
        }
    }
}

/// Whether nobody waits for the request any more.
pub(crate) fn is_expired(message: &Message) -> bool {
    let deadline = deadline(message.deadline, message.expiration);
    deadline.is_some_and(|deadline| deadline <= Instant::now())
}

/// A request to be published anew by its server, which was delivered that often before.
pub(crate) fn redirected(mut message: Message, deliveries: u32) -> Message {
    let deadline = deadline(message.deadline, message.expiration);
    message.mandatory = true;
    message.expiration =
        deadline.map(|deadline| expiration(deadline.saturating_duration_since(Instant::now())));
    // Only the user itself may state it; that the request loses its author's name is better than that it is believed a false one.
    message.user_id = None;
    message.headers.remove(DELIVERY_COUNT);
    message.headers.remove(ACQUIRED_COUNT);
    message.headers.insert(DELIVERIES_HEADER, deliveries);
    message
}

/// A request for the dead-letter queue.
pub(crate) fn dead_letter(message: Message, deliveries: u32, reason: &str, queue: &str) -> Message {
    let mut message = redirected(message, deliveries);
    message.expiration = None;
    message.persistent = true;
    let now = HeaderValue::Timestamp(since_epoch().as_secs());
    message.headers.insert(DEATH_REASON_HEADER, reason);
    message.headers.insert(DEATH_QUEUE_HEADER, queue);
    message.headers.insert(DEATH_TIME_HEADER, now);
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::Headers;
    use crate::transport::Content;

    fn message(headers: &[(&str, i64)]) -> Message {
        let headers = headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).into()));
        Message::from(Content {
            headers: headers.collect::<Headers>(),
            ..Content::default()
        })
    }

    fn history(deliveries: u32, recorded: bool) -> History {
        History {
            deliveries,
            recorded,
        }
    }

    #[test]
    fn a_classic_queue_tells_that_a_request_was_delivered_and_not_how_often() {
        assert_eq!(History::of(&message(&[]), false), history(0, true));
        assert_eq!(History::of(&message(&[]), true), history(1, false));
        let moved = redirected(message(&[]), 1);
        assert_eq!(History::of(&moved, false), history(1, true));
        assert_eq!(History::of(&moved, true), history(2, false));
    }

    #[test]
    fn a_quorum_queue_counts() {
        let counted = message(&[(DELIVERY_COUNT, 2), (ACQUIRED_COUNT, 3)]);
        assert_eq!(History::of(&counted, true), history(2, true));
        // RabbitMQ 4 does not count what was given back.
        let given_back = message(&[(ACQUIRED_COUNT, 1)]);
        assert_eq!(History::of(&given_back, true), history(0, true));
        let moved = redirected(counted, 2);
        assert_eq!(History::of(&moved, false), history(2, true));
    }

    #[test]
    fn counts_that_make_no_sense_are_none() {
        for absurd in [-1, i64::MIN, i64::MAX] {
            let message = message(&[(DELIVERIES_HEADER, absurd)]);
            assert_eq!(History::of(&message, false), history(0, true));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_letter_says_why_it_is_one_and_does_not_expire() {
        let request = Message::from(Content {
            expiration: Some(5),
            user_id: Some("guest".into()),
            correlation_id: Some("id".into()),
            ..*message(&[]).0
        });
        let letter = dead_letter(request, 3, "delivery-limit", "rpc.Fib");
        assert_eq!(letter.expiration, None);
        assert_eq!(letter.user_id, None);
        assert!(letter.persistent);
        assert_eq!(letter.correlation_id.as_deref(), Some("id"));
        let header = |name| letter.headers.get(name).cloned();
        assert_eq!(header("rpc-death-reason"), Some("delivery-limit".into()));
        assert_eq!(header("rpc-death-queue"), Some("rpc.Fib".into()));
        assert_eq!(header("rpc-delivery-count"), Some(3.into()));
        assert!(header("rpc-death-time").is_some());
    }
}
