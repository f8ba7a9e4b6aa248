//! One dead letter.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::codec::{ContentType, Encoded};
use crate::headers::{self, HeaderValue, Headers};
use crate::names::{PROTOCOL_PREFIX, UNREADABLE_HEADER};
use crate::transport::Message;
use crate::wire::Death;

/// A request in a dead-letter queue, see [`DeadLetters::list`](super::DeadLetters::list).
///
/// `Serialize` writes the values of secret headers as `"<hidden>"`: those that [`Headers`] hides in its `Debug` form.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct DeadLetter {
    /// Id of the letter: twelve hexadecimal digits, computed from its contents. The id is the same in every listing. Equal letters of a queue
    /// are numbered from the oldest: the second has the suffix `-2`, and becomes the first when the first is gone.
    pub id: String,
    /// Reason of the last death. A server writes `delivery-limit`, `at-most-once` or `not-counted`, the broker `expired`, `rejected`, `maxlen` or
    /// `delivery_limit`. `None` if the message does not tell.
    pub reason: Option<String>,
    /// The request queue that the letter came from, to which a retry returns it. `None` if the message does not tell.
    pub queue: Option<String>,
    /// Time of the last death, in whole seconds.
    pub died: Option<SystemTime>,
    /// Number of deaths; 0 if the message is no dead letter.
    pub deaths: u64,
    /// Number of deliveries to servers before the last death, if a server counted.
    pub deliveries: Option<u32>,
    /// Name of the method. `None` for a request to the default method, and `batch` for several requests in one message.
    pub method: Option<String>,
    /// Headers of the caller, without those of the protocol and of the broker.
    #[serde(serialize_with = "without_secrets")]
    pub headers: Headers,
    /// Content type of the body. `None` for JSON.
    pub content_type: Option<String>,
    /// The arguments, encoded.
    #[serde(serialize_with = "as_bytes")]
    pub body: Bytes,
    /// Correlation id of the call.
    pub correlation_id: Option<String>,
    /// `true` if the caller waited for a reply. The caller of a dead letter waits no longer.
    pub expects_reply: bool,
    /// Deadline of the call. A retry ignores it.
    pub deadline: Option<SystemTime>,
    /// Name of the caller's connection.
    pub app_id: Option<String>,
    /// User of the caller, if the message states one.
    pub user_id: Option<String>,
    /// Priority of the message.
    pub priority: Option<u8>,
    /// The reason for which some or all headers could not be read.
    pub unreadable: Option<String>,
}

impl DeadLetter {
    pub(super) fn new(id: String, message: Message) -> Self {
        let death = Death::of(&message);
        let content = *message.0;
        let text = |text: Option<smol_str::SmolStr>| text.map(String::from);
        let moment = |time| SystemTime::UNIX_EPOCH.checked_add(time);
        let unreadable = content.headers.get_as::<&str>(UNREADABLE_HEADER);
        Self {
            id,
            reason: death.reason,
            queue: death.queue,
            died: death.time.map(Duration::from_secs).and_then(moment),
            deaths: death.count,
            deliveries: death.deliveries,
            method: text(content.kind),
            unreadable: unreadable.map(str::to_owned),
            headers: content
                .headers
                .into_iter()
                .filter(|(name, _)| {
                    !name.starts_with(PROTOCOL_PREFIX) && !headers::is_brokers(name)
                })
                .collect(),
            content_type: text(content.content_type),
            body: content.body,
            correlation_id: text(content.correlation_id),
            expects_reply: content.reply_to.is_some(),
            deadline: content
                .deadline
                .and_then(|millis| u64::try_from(millis).ok())
                .map(Duration::from_millis)
                .and_then(moment),
            app_id: text(content.app_id),
            user_id: text(content.user_id),
            priority: content.priority,
        }
    }

    /// Returns the arguments, for programs without the types of the service. `None` if no format of this build reads the content type, such as
    /// that of several requests in one message.
    pub fn arguments(&self) -> Option<Encoded> {
        let content_type = ContentType::parse(self.content_type.as_deref())?;
        Some(Encoded::new(content_type, self.body.clone()))
    }

    /// Returns the length of the body and the headers, in bytes.
    pub(super) fn len(&self) -> usize {
        len(&self.body, &self.headers)
    }
}

/// Returns the length of a body and headers, in bytes.
pub(super) fn len(body: &Bytes, headers: &Headers) -> usize {
    body.len() + headers.size().map_or(0, |size| size.bytes)
}

fn as_bytes<S: Serializer>(body: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(body)
}

fn without_secrets<S: Serializer>(headers: &Headers, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    for (name, value) in headers.iter() {
        if headers::is_secret(name) {
            map.serialize_entry(name, headers::HIDDEN)?;
        } else {
            map.serialize_entry(name, &Shown(value))?;
        }
    }
    map.end()
}

/// A header's value, to be serialized.
struct Shown<'a>(&'a HeaderValue);

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            HeaderValue::Void => serializer.serialize_none(),
            HeaderValue::Bool(value) => serializer.serialize_bool(*value),
            HeaderValue::Int(value) => serializer.serialize_i64(*value),
            HeaderValue::Float(value) => serializer.serialize_f64(*value),
            HeaderValue::String(value) => serializer.serialize_str(value),
            HeaderValue::Bytes(value) => serializer.serialize_bytes(value),
            HeaderValue::Timestamp(value) => serializer.serialize_u64(*value),
            HeaderValue::List(values) => serializer.collect_seq(values.iter().map(Shown)),
            HeaderValue::Table(headers) => without_secrets(headers, serializer),
        }
    }
}
