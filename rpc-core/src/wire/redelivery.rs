//! Requests that were delivered before: the count of their deliveries, and the messages by which a server passes them on.

use tokio::time::Instant;

use crate::deadline::{self, expiration};
use crate::headers::{self, HeaderValue, Headers};
use crate::names::{
    ACQUIRED_COUNT, BROKER_DEATHS_HEADER, DEATH_QUEUE_HEADER, DEATH_REASON_HEADER,
    DEATH_TIME_HEADER, DELIVERIES_HEADER, DELIVERY_COUNT, DROPPED_HEADER, UNREADABLE_HEADER,
};
use crate::transport::{Message, TransportError};

const DEATH_HEADERS: [&str; 3] = [DEATH_REASON_HEADER, DEATH_QUEUE_HEADER, DEATH_TIME_HEADER];

/// Headers that a message keeps when it is republished, because the message would mean something else without them.
const KEPT: [&str; 5] = [
    UNREADABLE_HEADER,
    DELIVERIES_HEADER,
    DEATH_REASON_HEADER,
    DEATH_QUEUE_HEADER,
    DEATH_TIME_HEADER,
];

/// Most bytes of names of dropped headers. Beyond the limit, the message states only the number of dropped headers.
const MAX_DROPPED_NAMES: usize = 1024;

/// Earlier deliveries of a request, as far as they are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct History {
    /// Number of earlier deliveries.
    pub(crate) deliveries: u32,
    /// Set if the next server will see the number: quorum queues count deliveries, and before a first delivery there is nothing to count.
    /// Other queues only tell that there was an earlier delivery.
    pub(crate) recorded: bool,
}

impl History {
    /// The history of a message that cannot be delivered twice.
    pub(crate) const NONE: Self = Self {
        deliveries: 0,
        recorded: true,
    };

    /// Reads the history of a message. `queue_counts` is `true` if the queue is known to count deliveries. A count in a message of another
    /// queue, or in one that was not delivered before, was made up by its publisher.
    pub(crate) fn of(message: &Message, redelivered: bool, queue_counts: bool) -> Self {
        let number = |name: &str| {
            let number = message.headers.get(name).and_then(HeaderValue::as_int);
            number.and_then(|number| u32::try_from(number).ok())
        };
        let before_this_queue = number(DELIVERIES_HEADER).unwrap_or(0);
        let counted = match redelivered && queue_counts {
            true => {
                let is_counted = message.headers.get(ACQUIRED_COUNT).is_some();
                number(DELIVERY_COUNT).or(is_counted.then_some(0))
            }
            false => None,
        };
        Self {
            deliveries: before_this_queue
                .saturating_add(counted.unwrap_or_else(|| redelivered.into())),
            recorded: counted.is_some() || !redelivered,
        }
    }
}

/// Turns a dead letter that was moved back to a request queue into a new request, without the old deadline, expiration and count of
/// deliveries. Returns `false` if the message is no dead letter. The headers of a dead letter are removed when the request is
/// republished, so that its deliveries count from then on.
pub(crate) fn revive(message: &mut Message) -> bool {
    if !is_dead_letter(message) {
        return false;
    }
    message.deadline = None;
    message.expiration = None;
    message.headers.remove(DELIVERIES_HEADER);
    true
}

/// Returns `true` if a server gave the message up, or if the broker moved it while it had a deadline of this protocol.
fn is_dead_letter(message: &Message) -> bool {
    message.headers.iter().any(|(name, value)| {
        DEATH_HEADERS.contains(&name)
            || (name == BROKER_DEATHS_HEADER
                && message.deadline.is_some()
                && matches!(value, HeaderValue::List(deaths) if !deaths.is_empty()))
    })
}

/// Returns `true` if the caller of a request no longer waits.
pub(crate) fn is_expired(message: &Message) -> bool {
    let deadline = deadline::from_wire(message.deadline, message.expiration);
    deadline.is_some_and(|deadline| deadline <= Instant::now())
}

/// Returns a request to be republished by its server, with the number of its earlier deliveries.
pub(crate) fn redirected(mut message: Message, deliveries: u32) -> Message {
    let deadline = deadline::from_wire(message.deadline, message.expiration);
    message.mandatory = true;
    message.expiration =
        deadline.map(|deadline| expiration(deadline.saturating_duration_since(Instant::now())));
    // The broker accepts the name of a user only from that user. No name is better than a false one.
    message.user_id = None;
    remove_broker_headers(&mut message.headers);
    for name in DEATH_HEADERS {
        message.headers.remove(name);
    }
    message.headers.insert(DELIVERIES_HEADER, deliveries);
    message
}

/// Removes headers of the broker. In a message that is republished, the broker would act on them again, or take them for its own.
pub(super) fn remove_broker_headers(headers: &mut Headers) {
    let names = headers.iter().map(|(name, _)| name);
    let names: Vec<_> = names
        .filter(|name| headers::is_brokers(name))
        .map(str::to_owned)
        .collect();
    for name in names {
        headers.remove(&name);
    }
}

/// Removes counts that were not made by the queue.
pub(crate) fn remove_forged_counts(message: &mut Message) {
    message.headers.remove(DELIVERY_COUNT);
    message.headers.remove(ACQUIRED_COUNT);
}

/// Makes a message pass a check: removes the headers that make it too large, and adds a header that names them. Headers that do not fit by
/// themselves are removed first, then the largest. Returns an error if the message does not fit without headers either.
pub(crate) fn made_to_fit(
    mut message: Message,
    check: impl Fn(&Message) -> Result<(), TransportError>,
) -> Result<Message, TransportError> {
    message.headers.remove(DROPPED_HEADER);
    let size = |name, value| headers::size_of(name, value).map_or(usize::MAX, |size| size.bytes);
    let mut others: Vec<_> = message
        .headers
        .iter()
        .map(|(name, value)| (size(name, value), name.to_owned()))
        // A publisher may have set a header of that name, of any size.
        .filter(|(size, name)| *size > 512 || !KEPT.contains(&name.as_str()))
        .collect();
    others.sort_unstable();
    let (mut dropped, mut names, mut bytes) = (0_u32, Vec::new(), 0);
    while let Err(unfit) = check(&message) {
        let (_, name) = others.pop().ok_or(unfit)?;
        message.headers.remove(&name);
        dropped += 1;
        bytes += name.len();
        let told = if bytes <= MAX_DROPPED_NAMES {
            names.push(name.into());
            HeaderValue::List(names.clone())
        } else {
            dropped.into()
        };
        message.headers.insert(DROPPED_HEADER, told);
    }
    Ok(message)
}

/// Returns a request for the dead-letter queue.
pub(crate) fn dead_letter(message: Message, deliveries: u32, reason: &str, queue: &str) -> Message {
    let mut message = redirected(message, deliveries);
    message.expiration = None;
    message.persistent = true;
    let now = HeaderValue::Timestamp(deadline::since_epoch().as_secs());
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
    fn a_classic_queue_reports_an_earlier_delivery_without_a_count() {
        let of = |message: &Message, redelivered| History::of(message, redelivered, false);
        assert_eq!(of(&message(&[]), false), history(0, true));
        assert_eq!(of(&message(&[]), true), history(1, false));
        let moved = redirected(message(&[]), 1);
        assert_eq!(of(&moved, false), history(1, true));
        assert_eq!(of(&moved, true), history(2, false));
    }

    #[test]
    fn a_quorum_queue_counts() {
        let of = |message: &Message, redelivered| History::of(message, redelivered, true);
        let counted = message(&[(DELIVERY_COUNT, 2), (ACQUIRED_COUNT, 3)]);
        assert_eq!(of(&counted, true), history(2, true));
        // RabbitMQ 4 does not count a requeued message.
        let given_back = message(&[(ACQUIRED_COUNT, 1)]);
        assert_eq!(of(&given_back, true), history(0, true));
        let moved = redirected(counted, 2);
        assert_eq!(of(&moved, false), history(2, true));
    }

    #[test]
    fn counts_that_were_not_made_by_the_queue_are_ignored() {
        for forged in [
            (DELIVERY_COUNT, 0),
            (ACQUIRED_COUNT, 0),
            (DELIVERY_COUNT, 9),
        ] {
            let message = message(&[forged]);
            assert_eq!(History::of(&message, true, false), history(1, false));
            assert_eq!(History::of(&message, false, true), history(0, true));
        }
    }

    #[test]
    fn absurd_counts_are_ignored() {
        for absurd in [-1, i64::MIN, i64::MAX] {
            let message = message(&[(DELIVERIES_HEADER, absurd)]);
            assert_eq!(History::of(&message, false, true), history(0, true));
        }
    }

    /// A request whose deadline has passed, and which was delivered three times.
    fn letter_with(name: &str, value: HeaderValue) -> Message {
        let mut letter = message(&[(DELIVERIES_HEADER, 3)]);
        letter.headers.insert(name, value);
        letter.deadline = Some(1);
        letter.expiration = Some(1);
        letter
    }

    fn death() -> HeaderValue {
        HeaderValue::List(vec![HeaderValue::Table(Headers::new())])
    }

    #[test]
    fn a_dead_letter_is_revived_until_it_is_republished() {
        for (name, value) in [
            (DEATH_REASON_HEADER, "delivery-limit".into()),
            (BROKER_DEATHS_HEADER, death()),
        ] {
            let mut letter = letter_with(name, value);
            assert!(is_expired(&letter));
            assert!(revive(&mut letter));
            assert!(!is_expired(&letter));
            assert_eq!(History::of(&letter, false, false), history(0, true));
            let mut moved = redirected(letter, 1);
            assert!(!revive(&mut moved));
            assert_eq!(History::of(&moved, false, false), history(1, true));
            assert_eq!((moved.deadline, moved.expiration), (None, None));
        }
    }

    #[test]
    fn a_request_that_is_no_dead_letter_is_not_revived() {
        let mut others = [
            letter_with("rpc-delivery-count", 3.into()),
            letter_with("x-death", true.into()),
            letter_with("x-death", HeaderValue::List(Vec::new())),
            letter_with("x-request-id", death()),
        ];
        for other in &mut others {
            assert!(!revive(other));
            assert!(is_expired(other));
        }
        // A request of a client that sets no deadlines.
        let mut plain = letter_with("x-death", death());
        plain.deadline = None;
        assert!(!revive(&mut plain));
    }

    #[test]
    fn headers_of_the_broker_are_not_republished() {
        let names = [
            "BCC",
            "CC",
            "x-death",
            "x-first-death-queue",
            "x-last-death-reason",
        ];
        let mut message = message(&names.map(|name| (name, 1)));
        message.headers.insert("x-request-id", 1);
        let moved = redirected(message, 1);
        let names: Vec<_> = moved.headers.iter().map(|(name, _)| name).collect();
        assert_eq!(names, [DELIVERIES_HEADER, "x-request-id"]);
    }

    /// Returns a check that accepts headers up to a number of bytes.
    fn takes(bytes: usize) -> impl Fn(&Message) -> Result<(), TransportError> {
        move |message| match message.headers.size() {
            Ok(size) if size.bytes <= bytes => Ok(()),
            _ => Err(TransportError::TooLarge("too large".to_owned())),
        }
    }

    fn letter(headers: &[(&str, HeaderValue)]) -> Message {
        let mut letter = Message::default();
        for (name, value) in headers {
            letter.headers.insert(*name, value.clone());
        }
        redirected(letter, 2)
    }

    #[test]
    fn the_largest_headers_are_dropped_and_named() {
        let text = |len| HeaderValue::from("x".repeat(len));
        let letter = letter(&[
            ("a", text(10)),
            ("b", text(500)),
            ("c", text(20)),
            ("d", text(300)),
            ("e", f64::NAN.into()),
        ]);
        let fits = made_to_fit(letter, takes(150)).unwrap();
        let names: Vec<_> = fits.headers.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["a", "c", DELIVERIES_HEADER, DROPPED_HEADER]);
        let dropped = ["e", "b", "d"].map(HeaderValue::from).to_vec();
        assert_eq!(
            fits.headers.get(DROPPED_HEADER),
            Some(&HeaderValue::List(dropped))
        );
    }

    #[test]
    fn dropped_headers_with_too_many_names_are_counted() {
        let names: Vec<_> = (0..100).map(|n| format!("{n:0>50}")).collect();
        let headers: Vec<_> = names.iter().map(|name| (name.as_str(), 1.into())).collect();
        let fits = made_to_fit(letter(&headers), takes(200)).unwrap();
        assert_eq!(fits.headers.get(DROPPED_HEADER), Some(&98.into()));
    }

    #[test]
    fn a_large_header_is_dropped_although_its_name_is_reserved() {
        let names = [
            UNREADABLE_HEADER,
            DEATH_REASON_HEADER,
            DEATH_QUEUE_HEADER,
            DROPPED_HEADER,
        ];
        let forged = names.map(|name| (name, "x".repeat(1_000).into()));
        let fits = made_to_fit(letter(&forged), takes(300)).unwrap();
        let names: Vec<_> = fits.headers.iter().map(|(name, _)| name).collect();
        assert_eq!(names, [DELIVERIES_HEADER, DROPPED_HEADER]);
    }

    #[test]
    fn a_message_that_cannot_be_made_to_fit_is_an_error() {
        made_to_fit(letter(&[("a", 1.into())]), takes(10)).unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_letter_names_its_reason_and_does_not_expire() {
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
