//! Dead letters: the cause of a death, and the message by which an operator sends the request to its queue again.

use super::redelivery::remove_broker_headers;
use crate::headers::{HeaderValue, Headers};
use crate::names::{
    ACQUIRED_COUNT, BROKER_DEATHS_HEADER, DEATH_QUEUE_HEADER, DEATH_REASON_HEADER,
    DEATH_TIME_HEADER, DELIVERIES_HEADER, DELIVERY_COUNT,
};
use crate::transport::Message;

/// The last death of a message, as far as its headers tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Death {
    pub(crate) reason: Option<String>,
    /// The queue that the message came from.
    pub(crate) queue: Option<String>,
    /// Seconds since the Unix epoch.
    pub(crate) time: Option<u64>,
    /// Number of deaths, this one included.
    pub(crate) count: u64,
    /// Number of deliveries to servers before this death, if a server counted.
    pub(crate) deliveries: Option<u32>,
}

impl Death {
    /// Reads the death of a message from the headers of a server that gave the message up, and from those of the broker. The later death
    /// counts, and with equal times the server's.
    pub(crate) fn of(message: &Message) -> Self {
        let headers = &message.headers;
        let by_server = Self {
            reason: text(headers, DEATH_REASON_HEADER),
            queue: text(headers, DEATH_QUEUE_HEADER),
            time: time(headers, DEATH_TIME_HEADER),
            count: u64::from(headers.get(DEATH_REASON_HEADER).is_some()),
            deliveries: headers
                .get(DELIVERIES_HEADER)
                .and_then(HeaderValue::as_int)
                .and_then(|count| count.try_into().ok()),
        };
        let by_broker = by_broker(headers);
        let count = by_server.count.saturating_add(by_broker.count);
        let is_brokers = by_server.count == 0 || by_broker.time > by_server.time;
        let deliveries = by_server.deliveries;
        let last = if is_brokers { by_broker } else { by_server };
        Self {
            count,
            deliveries,
            ..last
        }
    }
}

/// Reads the header in which the broker lists deaths, the last one first: a table for each queue and reason.
fn by_broker(headers: &Headers) -> Death {
    let Some(HeaderValue::List(deaths)) = headers.get(BROKER_DEATHS_HEADER) else {
        return Death::default();
    };
    let deaths = deaths.iter().filter_map(|death| match death {
        HeaderValue::Table(death) => Some(death),
        _ => None,
    });
    let count = |death: &Headers| {
        let count = death.get("count").and_then(HeaderValue::as_int);
        count.and_then(|count| count.try_into().ok()).unwrap_or(1)
    };
    let Some(last) = deaths.clone().next() else {
        return Death::default();
    };
    Death {
        reason: text(last, "reason"),
        queue: text(last, "queue"),
        time: time(last, "time"),
        count: deaths.map(count).fold(0, u64::saturating_add),
        deliveries: None,
    }
}

fn text(headers: &Headers, name: &str) -> Option<String> {
    headers.get(name)?.as_str().map(str::to_owned)
}

fn time(headers: &Headers, name: &str) -> Option<u64> {
    match headers.get(name)? {
        HeaderValue::Timestamp(seconds) => Some(*seconds),
        _ => None,
    }
}

/// Returns a dead letter for its request queue. The server there takes the message for a revived request: see
/// [`revive`](super::revive). The broker's account of the death is kept in the headers of a server's, because a broker does not trust its own
/// headers in a message that is published.
pub(crate) fn retried(mut message: Message, death: &Death) -> Message {
    remove_broker_headers(&mut message.headers);
    message.topic = None;
    message.mandatory = true;
    message.persistent = true;
    message.expiration = None;
    // The broker accepts the name of a user only from that user.
    message.user_id = None;
    let reason = death.reason.as_deref().unwrap_or("unknown");
    message.headers.insert(DEATH_REASON_HEADER, reason);
    if let Some(queue) = &death.queue {
        message.headers.insert(DEATH_QUEUE_HEADER, queue.as_str());
    }
    if let Some(time) = death.time {
        let time = HeaderValue::Timestamp(time);
        message.headers.insert(DEATH_TIME_HEADER, time);
    }
    message
}

/// Returns a dead letter as it was, for the dead-letter queue that it was taken from.
pub(crate) fn put_back(mut message: Message) -> Message {
    for name in ["CC", "BCC", DELIVERY_COUNT, ACQUIRED_COUNT] {
        message.headers.remove(name);
    }
    message.topic = None;
    message.mandatory = true;
    message.persistent = true;
    message.user_id = None;
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{is_expired, revive};

    fn broker_death(reason: &str, time: u64, count: i64) -> HeaderValue {
        HeaderValue::Table(Headers::from_iter([
            ("queue".to_owned(), "rpc.Fib".into()),
            ("reason".to_owned(), reason.into()),
            ("time".to_owned(), HeaderValue::Timestamp(time)),
            ("count".to_owned(), count.into()),
        ]))
    }

    fn moved(deaths: Vec<HeaderValue>) -> Message {
        let mut message = Message::default();
        let deaths = HeaderValue::List(deaths);
        message.headers.insert(BROKER_DEATHS_HEADER, deaths);
        message
    }

    fn given_up(mut message: Message, time: u64) -> Message {
        let headers = &mut message.headers;
        headers.insert(DEATH_REASON_HEADER, "delivery-limit");
        headers.insert(DEATH_QUEUE_HEADER, "rpc.Fib");
        headers.insert(DEATH_TIME_HEADER, HeaderValue::Timestamp(time));
        headers.insert(DELIVERIES_HEADER, 3);
        message
    }

    #[test]
    fn the_last_death_counts_and_all_are_counted() {
        let deaths = vec![broker_death("expired", 7, 2), broker_death("maxlen", 5, 1)];
        let by_broker = Death::of(&moved(deaths.clone()));
        let expected = Death {
            reason: Some("expired".to_owned()),
            queue: Some("rpc.Fib".to_owned()),
            time: Some(7),
            count: 3,
            deliveries: None,
        };
        assert_eq!(by_broker, expected);
        let later = Death::of(&given_up(moved(deaths.clone()), 8));
        assert_eq!(later.reason.as_deref(), Some("delivery-limit"));
        assert_eq!((later.count, later.deliveries), (4, Some(3)));
        let earlier = Death::of(&given_up(moved(deaths), 6));
        assert_eq!(earlier.reason.as_deref(), Some("expired"));
        assert_eq!((earlier.count, earlier.deliveries), (4, Some(3)));
    }

    #[test]
    fn a_message_that_is_no_dead_letter_has_no_death() {
        assert_eq!(Death::of(&Message::default()), Death::default());
        for odd in [true.into(), HeaderValue::List(vec![true.into()])] {
            let mut message = Message::default();
            message.headers.insert(BROKER_DEATHS_HEADER, odd);
            assert_eq!(Death::of(&message), Death::default());
        }
    }

    #[test]
    fn a_retried_letter_is_revived_by_its_server() {
        let expired = moved(vec![broker_death("expired", 7, 1)]);
        for mut letter in [given_up(Message::default(), 9), expired, Message::default()] {
            letter.deadline = Some(1);
            letter.user_id = Some("guest".into());
            letter.headers.insert("CC", "rpc.Other");
            letter.headers.insert("tenant", "a");
            let mut again = retried(letter.clone(), &Death::of(&letter));
            assert!(revive(&mut again) && !is_expired(&again));
            assert!(again.mandatory && again.persistent && again.user_id.is_none());
            assert_eq!(again.headers.get("CC"), None);
            assert_eq!(again.headers.get("tenant"), Some(&"a".into()));
        }
    }
}
