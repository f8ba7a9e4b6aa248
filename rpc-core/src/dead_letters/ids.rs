//! Ids of dead letters: AMQP gives messages none.

use std::collections::HashMap;

use uuid::Uuid;

use crate::headers::{HeaderValue, Headers};
use crate::names::{ACQUIRED_COUNT, DELIVERY_COUNT};
use crate::transport::Message;

/// Namespace of the hashes: a random UUID.
const LETTERS: Uuid = Uuid::from_u128(0x3c1f_7a52_9d0e_4b6b_8f43_d2a7_55c0_1e96);

/// Number of hexadecimal digits of an id.
const DIGITS: usize = 12;

/// Ids of the messages of a queue, in their order. Equal messages are numbered.
#[derive(Debug, Default)]
pub(super) struct Ids(HashMap<String, u32>);

impl Ids {
    /// Returns the id of the next message of the queue.
    pub(super) fn next(&mut self, message: &Message) -> String {
        let id = hash(message);
        let equal = self.0.entry(id.clone()).or_default();
        *equal += 1;
        match *equal {
            1 => id,
            number => format!("{id}-{number}"),
        }
    }
}

/// Returns the hash of everything in a message that stays the same while it is in a queue, and that the library keeps if it is published
/// again. The message id is left out: publishers with confirms number their messages there.
pub(super) fn hash(message: &Message) -> String {
    let mut bytes = Vec::new();
    for text in [
        &message.kind,
        &message.correlation_id,
        &message.reply_to,
        &message.content_type,
        &message.app_id,
    ] {
        push(&mut bytes, text.as_deref().unwrap_or_default().as_bytes());
    }
    push(&mut bytes, format!("{:?}", message.deadline).as_bytes());
    push_headers(&mut bytes, &message.headers);
    push(&mut bytes, &message.body);
    let hash = Uuid::new_v5(&LETTERS, &bytes).simple().to_string();
    hash.chars().take(DIGITS).collect()
}

/// Adds bytes with their length, so that no two lists of values have the same bytes.
fn push(bytes: &mut Vec<u8>, value: &[u8]) {
    bytes.extend_from_slice(&(value.len() as u64).to_be_bytes());
    bytes.extend_from_slice(value);
}

fn push_headers(bytes: &mut Vec<u8>, headers: &Headers) {
    for (name, value) in headers.iter() {
        // The queue's own counts change with each delivery.
        if name != DELIVERY_COUNT && name != ACQUIRED_COUNT {
            push(bytes, name.as_bytes());
            push_value(bytes, value);
        }
    }
    bytes.push(b'.');
}

/// Adds a value. Headers are nested 32 deep at most.
fn push_value(bytes: &mut Vec<u8>, value: &HeaderValue) {
    match value {
        HeaderValue::Void => bytes.push(b'v'),
        HeaderValue::Bool(value) => bytes.extend([b'b', u8::from(*value)]),
        HeaderValue::Int(value) => push(bytes, format!("i{value}").as_bytes()),
        HeaderValue::Float(value) => push(bytes, format!("f{value}").as_bytes()),
        HeaderValue::String(value) => {
            bytes.push(b's');
            push(bytes, value.as_bytes());
        }
        HeaderValue::Bytes(value) => {
            bytes.push(b'x');
            push(bytes, value);
        }
        HeaderValue::Timestamp(value) => push(bytes, format!("t{value}").as_bytes()),
        HeaderValue::List(values) => {
            push(bytes, format!("l{}", values.len()).as_bytes());
            for value in values {
                push_value(bytes, value);
            }
        }
        HeaderValue::Table(headers) => {
            bytes.push(b'h');
            push_headers(bytes, headers);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Content;

    fn letter(name: &str, value: impl Into<HeaderValue>) -> Message {
        let mut message = Message::default();
        message.headers.insert(name, value);
        message
    }

    #[test]
    fn equal_messages_are_numbered() {
        let mut ids = Ids::default();
        let first = ids.next(&letter("a", 1));
        let other = ids.next(&letter("a", 2));
        assert_ne!(first, other);
        assert_eq!(ids.next(&letter("a", 1)), format!("{first}-2"));
        assert_eq!(ids.next(&letter("a", 1)), format!("{first}-3"));
        // Operators and scripts keep ids.
        assert_eq!(hash(&Message::default()), "31ba8ad6ac6a");
    }

    #[test]
    fn the_counts_of_the_queue_do_not_change_an_id() {
        let plain = hash(&letter("a", 1));
        let mut counted = letter("a", 1);
        counted.headers.insert(DELIVERY_COUNT, 7);
        counted.headers.insert(ACQUIRED_COUNT, 8);
        assert_eq!(hash(&counted), plain);
    }

    #[test]
    fn every_part_of_a_message_counts() {
        let other = Message::from(Content {
            kind: Some("a".into()),
            ..Content::default()
        });
        let third = Message::from(Content {
            correlation_id: Some("a".into()),
            ..Content::default()
        });
        let ids = [
            hash(&Message::default()),
            hash(&other),
            hash(&third),
            hash(&letter("a", "1")),
            hash(&letter("a", 1)),
            hash(&letter("a", HeaderValue::List(vec![1.into()]))),
        ];
        let different: std::collections::HashSet<_> = ids.iter().collect();
        assert_eq!(different.len(), ids.len());
    }
}
