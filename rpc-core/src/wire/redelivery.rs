//! Requests that were delivered before: how often, and how a server passes them on.

use tokio::time::Instant;

use super::{deadline, expiration, since_epoch};
use crate::headers::{self, HeaderValue, Headers};
use crate::transport::{
    ACQUIRED_COUNT, DELIVERY_COUNT, Message, TransportError, UNREADABLE_HEADER,
};

/// Set on a request that a server published anew: how often it had been delivered, and not settled, before that.
pub(super) const DELIVERIES_HEADER: &str = "rpc-delivery-count";

/// Set on a request in a dead-letter queue: why, where from, and when.
const DEATH_REASON_HEADER: &str = "rpc-death-reason";
const DEATH_QUEUE_HEADER: &str = "rpc-death-queue";
const DEATH_TIME_HEADER: &str = "rpc-death-time";
const DEATH_HEADERS: [&str; 3] = [DEATH_REASON_HEADER, DEATH_QUEUE_HEADER, DEATH_TIME_HEADER];

/// Set by the broker on a message that it moved to a dead-letter queue: a list of tables
/// (<https://www.rabbitmq.com/docs/dlx#effects>).
const BROKERS_DEATHS_HEADER: &str = "x-death";

/// Set on a message from which headers were dropped to make it fit: their names, or how many they were.
const DROPPED_HEADER: &str = "rpc-headers-dropped";

/// Headers without which a message that is published anew would mean something else.
const OF_A_SERVER: [&str; 5] = [
    UNREADABLE_HEADER,
    DELIVERIES_HEADER,
    DEATH_REASON_HEADER,
    DEATH_QUEUE_HEADER,
    DEATH_TIME_HEADER,
];

/// The most bytes that the names of dropped headers take. Of more, only their number is told.
const MAX_DROPPED_NAMES: usize = 1024;

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
    /// `queue_counts` says whether the queue is known to count deliveries. What another queue's message says of that its publisher
    /// has made up, and so has that of a message which was not delivered before.
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

/// Makes a dead letter that was moved to a queue of requests a new request, and tells whether the message is one. Its deadline, its
/// expiration and the count of its deliveries belong to its first life. What marks it stays until it is published anew, so the
/// second life is its last one.
pub(crate) fn revive(message: &mut Message) -> bool {
    if !is_dead_letter(message) {
        return false;
    }
    message.deadline = None;
    message.expiration = None;
    message.headers.remove(DELIVERIES_HEADER);
    true
}

/// Tells a message that a server gave up, or that the broker moved while a deadline of this protocol was in it.
fn is_dead_letter(message: &Message) -> bool {
    message.headers.iter().any(|(name, value)| {
        DEATH_HEADERS.contains(&name)
            || (name == BROKERS_DEATHS_HEADER
                && message.deadline.is_some()
                && matches!(value, HeaderValue::List(deaths) if !deaths.is_empty()))
    })
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
    remove_those_of_the_broker(&mut message.headers);
    for name in DEATH_HEADERS {
        message.headers.remove(name);
    }
    message.headers.insert(DELIVERIES_HEADER, deliveries);
    message
}

/// Published anew, headers of the broker would be obeyed again, or taken for its own.
fn remove_those_of_the_broker(headers: &mut Headers) {
    let names = headers.iter().map(|(name, _)| name);
    let names: Vec<_> = names
        .filter(|name| headers::is_brokers(name))
        .map(str::to_owned)
        .collect();
    for name in names {
        headers.remove(&name);
    }
}

/// Removes counts that the queue has not made.
pub(crate) fn remove_forged_counts(message: &mut Message) {
    message.headers.remove(DELIVERY_COUNT);
    message.headers.remove(ACQUIRED_COUNT);
}

/// Says of a request from a batch how often the batch was delivered before.
pub(crate) fn count_as_delivered(request: &mut Message, deliveries: u32) {
    request.headers.insert(DELIVERIES_HEADER, deliveries);
}

/// A message that does not fit, without the headers that are the reason, and with one that says so; an error if it does not fit
/// without any. Those that do not fit by themselves go first, then the largest.
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
        // A stranger's header of such a name may be of any size.
        .filter(|(size, name)| *size > 512 || !OF_A_SERVER.contains(&name.as_str()))
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
        // RabbitMQ 4 does not count what was given back.
        let given_back = message(&[(ACQUIRED_COUNT, 1)]);
        assert_eq!(of(&given_back, true), history(0, true));
        let moved = redirected(counted, 2);
        assert_eq!(of(&moved, false), history(2, true));
    }

    #[test]
    fn counts_that_the_queue_has_not_made_are_not_believed() {
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
    fn counts_that_make_no_sense_are_none() {
        for absurd in [-1, i64::MIN, i64::MAX] {
            let message = message(&[(DELIVERIES_HEADER, absurd)]);
            assert_eq!(History::of(&message, false, true), history(0, true));
        }
    }

    /// A request that has had a life: its deadline has passed, and it was delivered three times.
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
    fn a_dead_letter_starts_afresh_until_it_is_published_anew() {
        for (name, value) in [
            (DEATH_REASON_HEADER, "delivery-limit".into()),
            (BROKERS_DEATHS_HEADER, death()),
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
    fn a_request_that_has_not_died_does_not_start_afresh() {
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
        // A request of somebody who knows nothing of deadlines.
        let mut plain = letter_with("x-death", death());
        plain.deadline = None;
        assert!(!revive(&mut plain));
    }

    #[test]
    fn what_the_broker_would_obey_is_not_published_anew() {
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

    /// Takes headers of at most that many bytes.
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
    fn the_largest_headers_go_and_the_copy_names_them() {
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
    fn names_that_do_not_fit_either_are_counted() {
        let names: Vec<_> = (0..100).map(|n| format!("{n:0>50}")).collect();
        let headers: Vec<_> = names.iter().map(|name| (name.as_str(), 1.into())).collect();
        let fits = made_to_fit(letter(&headers), takes(200)).unwrap();
        assert_eq!(fits.headers.get(DROPPED_HEADER), Some(&98.into()));
    }

    #[test]
    fn no_header_is_kept_whatever_its_size_because_of_its_name() {
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
    fn what_cannot_be_made_to_fit_says_why() {
        made_to_fit(letter(&[("a", 1.into())]), takes(10)).unwrap_err();
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
