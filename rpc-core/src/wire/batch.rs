//! Several calls in one message: requests for the same queue, or replies for the same client.
//!
//! A broker's work is for messages, not for bytes. What is large, or special to the broker, still goes alone.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smol_str::SmolStr;

use super::{PROPAGATE_HEADER, check_headers, unreadable};
use crate::codec;
use crate::error::{BoxError, ErrorKind, RpcError};
use crate::headers::{HeaderValue, Headers, MAX_DEPTH, MAX_VALUES, PROTOCOL_PREFIX, is_brokers};
use crate::transport::limits::{USUAL_FRAME_MAX, check_short};
use crate::transport::{Content, Message};

/// The type of a batch, for people and for tools.
const BATCH: &str = "batch";

/// The content type of a batch. A server that does not know it runs nothing, and says so.
const CONTENT_TYPE: &str = "application/vnd.rpc-batch+msgpack";

/// The longest body in a batch, and the longest headers, in bytes: of longer ones the copy costs more than a message.
const MAX_BODY: usize = 8 << 10;

/// How many calls a batch holds at most.
const MAX_CALLS: usize = 1024;

/// The most values of all headers in a batch together. Each takes far more memory than it has bytes.
const MAX_VALUES_IN_ALL: usize = 100_000;

/// The prefix of names that may mean something to brokers. Others with this prefix stay possible, in messages of their own.
const BROKER_PREFIX: &str = "x-";

/// What the rest of an entry takes at most, beside its body and its headers, and roughly.
const USUAL_LEN: usize = 128;

/// Messages of one kind, written into one.
pub(crate) struct Batch {
    body: Vec<u8>,
    calls: u16,
}

/// A call in a batch: of a request or a reply what it does not share with the others.
#[derive(Serialize)]
struct Entry<'a, H> {
    correlation_id: &'a str,
    kind: Option<&'a str>,
    content_type: Option<&'a str>,
    deadline: Option<i64>,
    headers: Option<H>,
    #[serde(serialize_with = "as_bytes")]
    body: &'a [u8],
}

/// The whole of a batch.
#[derive(Deserialize)]
struct Contents<'a>(
    /// How many requests the sender takes in one batch.
    u16,
    #[serde(borrow, deserialize_with = "entries")] Vec<Entry<'a, Headers>>,
);

/// No more than there may be: many tiny ones would become large here.
fn entries<'de: 'a, 'a, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<Entry<'a, Headers>>, D::Error> {
    struct Entries;

    impl<'de> Visitor<'de> for Entries {
        type Value = Vec<Entry<'de, Headers>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "1 to {MAX_CALLS} calls")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut entries = Vec::with_capacity(seq.size_hint().unwrap_or(0).min(MAX_CALLS));
            let mut room = Room {
                in_entry: MAX_VALUES,
                in_batch: MAX_VALUES_IN_ALL,
            };
            while let Some(entry) = seq.next_element_seed(EntrySeed(&mut room))? {
                entries.push(entry);
                if entries.len() > MAX_CALLS {
                    return Err(A::Error::invalid_length(entries.len(), &self));
                }
            }
            if entries.is_empty() {
                return Err(A::Error::invalid_length(0, &self));
            }
            Ok(entries)
        }
    }

    deserializer.deserialize_seq(Entries)
}

impl Batch {
    /// How long it becomes, in bytes and roughly, before another is begun.
    pub(crate) const MAX_LEN: usize = 64 << 10;

    /// Where its number of calls is.
    const COUNT: Range<usize> = 5..7;

    /// An empty one with room for so many usual calls, from somebody who takes so many requests in one batch.
    pub(crate) fn new(takes: u16, calls: usize) -> Self {
        let mut body = Vec::with_capacity((calls * USUAL_LEN).min(Self::MAX_LEN));
        body.push(0x92); // An array of two,
        body.push(0xcd); // a number,
        body.extend(takes.to_be_bytes());
        body.push(0xdc); // and an array of so many.
        body.extend([0, 0]);
        Self { body, calls: 0 }
    }

    /// Whether a message can be in a batch at all.
    pub(crate) fn is_for(message: &Message) -> bool {
        message.correlation_id.is_some()
            && message.priority.is_none()
            && !message.persistent
            && Self::holds(&message.body, &message.headers)
    }

    /// Whether a batch has room and forms for such a body and such headers.
    fn holds(body: &[u8], headers: &Headers) -> bool {
        body.len() <= MAX_BODY
            && (headers.is_empty()
                || headers.size().is_ok_and(|size| {
                    size.values <= MAX_VALUES_IN_ALL / MAX_CALLS && size.bytes <= MAX_BODY
                }) && headers.iter().all(|(_, value)| has_form(value)))
    }

    /// The same, for a request: servers take no names in a batch of requests that mean something to brokers.
    pub(crate) fn holds_request(body: &[u8], headers: &Headers) -> bool {
        Self::holds(body, headers)
            && headers
                .iter()
                .all(|(name, _)| !name.starts_with(BROKER_PREFIX))
    }

    /// How many bytes a message takes, roughly.
    pub(crate) fn room_for(message: &Message) -> usize {
        let headers = match message.headers.is_empty() {
            true => 0,
            false => message.headers.size().map_or(0, |size| size.bytes),
        };
        message.body.len() + headers + USUAL_LEN
    }

    /// How many calls are in it.
    pub(crate) fn calls(&self) -> usize {
        self.calls.into()
    }

    /// Whether another message has to go into another batch.
    pub(crate) fn is_full(&self, next: &Message) -> bool {
        self.calls() == MAX_CALLS || self.body.len() + Self::room_for(next) > Self::MAX_LEN
    }

    /// Adds a message, of those that [can](Self::is_for) be in it.
    pub(crate) fn push(&mut self, message: &Message) -> Result<(), BoxError> {
        let len = self.body.len();
        let entry = Entry {
            correlation_id: message.correlation_id.as_deref().unwrap_or_default(),
            kind: message.kind.as_deref(),
            content_type: message.content_type.as_deref(),
            deadline: message.deadline,
            headers: (!message.headers.is_empty()).then_some(Table(&message.headers)),
            body: &message.body,
        };
        rmp_serde::encode::write(&mut self.body, &entry)
            .inspect_err(|_| self.body.truncate(len))?;
        self.calls += 1;
        Ok(())
    }

    /// The message that it becomes.
    pub(crate) fn into_message(mut self) -> Message {
        self.body[Self::COUNT].copy_from_slice(&self.calls.to_be_bytes());
        Message::from(Content {
            kind: Some(SmolStr::new_static(BATCH)),
            content_type: Some(SmolStr::new_static(CONTENT_TYPE)),
            body: self.body.into(),
            ..Content::default()
        })
    }
}

/// Whether a message is a batch.
pub(crate) fn is_batch(message: &Message) -> bool {
    message.content_type.as_deref() == Some(CONTENT_TYPE)
}

/// A reply that came in a batch.
pub(crate) struct BatchedReply<'a> {
    pub(crate) correlation_id: &'a str,
    pub(crate) kind: Option<&'a str>,
    pub(crate) content_type: Option<&'a str>,
    pub(crate) headers: Headers,
    pub(crate) body: Bytes,
}

/// The replies in a batch, and how many requests their server takes in one.
pub(crate) fn replies_of(
    batch: &Bytes,
) -> Result<(u16, impl Iterator<Item = BatchedReply<'_>>), BoxError> {
    let Contents(takes, entries) = codec::decode_own(batch)?;
    let replies = entries.into_iter().map(|entry| BatchedReply {
        correlation_id: entry.correlation_id,
        kind: entry.kind,
        content_type: entry.content_type,
        headers: entry.headers.unwrap_or_default(),
        body: batch.slice_ref(entry.body),
    });
    Ok((takes, replies))
}

/// The requests in a batch, each with what they share.
pub(crate) fn requests_of(batch: &Message) -> Result<Vec<Message>, BoxError> {
    if let Some(reason) = unreadable(&batch.headers) {
        return Err(reason.into());
    }
    let Contents(_, entries) = codec::decode_own(&batch.body)?;
    for entry in &entries {
        check_request(entry)?;
    }
    let owned = |text: Option<&str>| text.map(SmolStr::from);
    let requests = entries.into_iter().map(|entry| {
        // A batch that was a dead letter has lost its deadline, and with it those of its requests have no meaning.
        let deadline = entry.deadline.filter(|_| batch.deadline.is_some());
        Message::from(Content {
            correlation_id: Some(entry.correlation_id.into()),
            reply_to: batch.reply_to.clone(),
            kind: owned(entry.kind),
            content_type: owned(entry.content_type),
            // Of those without a deadline of their own, for which it is the only one.
            expiration: batch.expiration.filter(|_| deadline.is_none()),
            deadline,
            batches: true,
            app_id: batch.app_id.clone(),
            user_id: batch.user_id.clone(),
            headers: entry.headers.unwrap_or_default(),
            body: batch.body.slice_ref(entry.body),
            ..Content::default()
        })
    });
    Ok(requests.collect())
}

/// Refuses a request that could not have come in a message of its own, or could not be published anew.
fn check_request(entry: &Entry<'_, Headers>) -> Result<(), BoxError> {
    for (what, text) in [
        ("a correlation id", Some(entry.correlation_id)),
        ("a method's name", entry.kind),
        ("a content type", entry.content_type),
    ] {
        check_short(what, text.unwrap_or_default())?;
    }
    let Some(headers) = &entry.headers else {
        return Ok(());
    };
    for (name, _) in headers.iter() {
        let is_protocols = name.starts_with(PROTOCOL_PREFIX) && name != PROPAGATE_HEADER;
        if is_protocols || name.starts_with(BROKER_PREFIX) || is_brokers(name) {
            let reason = "headers of brokers, and names with 'rpc-' and 'x-', have no place in a batch of requests";
            return Err(reason.into());
        }
    }
    Ok(check_headers("request", headers, USUAL_FRAME_MAX)?)
}

/// Why a batch is refused as a whole.
pub(super) fn refusal(batch: &Message) -> RpcError {
    let cause = requests_of(batch).err();
    let cause = cause.unwrap_or_else(|| "batches are not nested".into());
    RpcError::new(
        ErrorKind::BadRequest,
        format!("the batch cannot be read: {cause}"),
    )
}

fn as_bytes<S: Serializer>(body: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(body)
}

/// Whether a header can be written in MessagePack's own types.
fn has_form(value: &HeaderValue) -> bool {
    match value {
        HeaderValue::Timestamp(_) => false,
        HeaderValue::List(values) => values.iter().all(has_form),
        HeaderValue::Table(headers) => headers.iter().all(|(_, value)| has_form(value)),
        _ => true,
    }
}

/// Headers as a map.
struct Table<'a>(&'a Headers);

/// A header's value.
struct Value<'a>(&'a HeaderValue);

impl Serialize for Table<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let values = self.0.iter();
        serializer.collect_map(values.map(|(name, value)| (name, Value(value))))
    }
}

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            HeaderValue::Void => serializer.serialize_unit(),
            HeaderValue::Bool(flag) => serializer.serialize_bool(*flag),
            HeaderValue::Int(number) => serializer.serialize_i64(*number),
            HeaderValue::Float(number) => serializer.serialize_f64(*number),
            HeaderValue::String(text) => serializer.serialize_str(text),
            HeaderValue::Bytes(bytes) => serializer.serialize_bytes(bytes),
            HeaderValue::List(values) => serializer.collect_seq(values.iter().map(Value)),
            HeaderValue::Table(headers) => Table(headers).serialize(serializer),
            HeaderValue::Timestamp(_) => Err(S::Error::custom("a timestamp cannot be in a batch")),
        }
    }
}

/// The number of values that may still be read.
struct Room {
    /// For the headers of one call.
    in_entry: usize,
    in_batch: usize,
}

impl Room {
    fn take<E: serde::de::Error>(&mut self) -> Result<(), E> {
        if self.in_entry == 0 || self.in_batch == 0 {
            return Err(E::custom(format!(
                "headers have at most {MAX_VALUES} values, and those of a batch {MAX_VALUES_IN_ALL}"
            )));
        }
        self.in_entry -= 1;
        self.in_batch -= 1;
        Ok(())
    }
}

/// Reads a call.
struct EntrySeed<'r>(&'r mut Room);

impl<'de> DeserializeSeed<'de> for EntrySeed<'_> {
    type Value = Entry<'de, Headers>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_tuple(6, self)
    }
}

impl<'de> Visitor<'de> for EntrySeed<'_> {
    type Value = Entry<'de, Headers>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a call: an array of six")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let Self(room) = self;
        room.in_entry = MAX_VALUES;
        let entry = Entry {
            correlation_id: next(&mut seq)?,
            kind: next(&mut seq)?,
            content_type: next(&mut seq)?,
            deadline: next(&mut seq)?,
            headers: seq
                .next_element_seed(HeadersSeed(room))?
                .ok_or_else(too_short)?,
            body: next(&mut seq)?,
        };
        match seq.next_element::<serde::de::IgnoredAny>()? {
            None => Ok(entry),
            Some(_) => Err(A::Error::custom("a call has more than six parts")),
        }
    }
}

/// Reads a part of a call.
fn next<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(seq: &mut A) -> Result<T, A::Error> {
    seq.next_element()?.ok_or_else(too_short)
}

fn too_short<E: serde::de::Error>() -> E {
    E::custom("a call has fewer than six parts")
}

/// Reads the headers of a call, if there are some.
struct HeadersSeed<'r>(&'r mut Room);

impl<'de> DeserializeSeed<'de> for HeadersSeed<'_> {
    type Value = Option<Headers>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for HeadersSeed<'_> {
    type Value = Option<Headers>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("headers: a map, or nil")
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        read_table(map, self.0, 0).map(Some)
    }
}

/// Reads a header's value, which is that deep in the headers.
struct ValueSeed<'r> {
    room: &'r mut Room,
    depth: usize,
}

impl ValueSeed<'_> {
    fn inside<E: serde::de::Error>(&self) -> Result<usize, E> {
        match self.depth < MAX_DEPTH {
            true => Ok(self.depth + 1),
            false => Err(E::custom(format!(
                "headers are nested more than {MAX_DEPTH} deep"
            ))),
        }
    }
}

fn read_table<'de, A: MapAccess<'de>>(
    mut map: A,
    room: &mut Room,
    depth: usize,
) -> Result<Headers, A::Error> {
    let mut headers = Headers::new();
    while let Some(name) = map.next_key::<&str>()? {
        let room = &mut *room;
        headers.insert(name, map.next_value_seed(ValueSeed { room, depth })?);
    }
    Ok(headers)
}

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = HeaderValue;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<HeaderValue, D::Error> {
        self.room.take()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_> {
    type Value = HeaderValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a header's value")
    }

    fn visit_unit<E>(self) -> Result<HeaderValue, E> {
        Ok(HeaderValue::Void)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<HeaderValue, E> {
        Ok(HeaderValue::Bool(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<HeaderValue, E> {
        Ok(HeaderValue::Int(number))
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<HeaderValue, E> {
        let number = i64::try_from(number).map_err(|_| E::custom("a number beyond 63 bits"))?;
        Ok(HeaderValue::Int(number))
    }

    fn visit_f64<E>(self, number: f64) -> Result<HeaderValue, E> {
        Ok(HeaderValue::Float(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<HeaderValue, E> {
        Ok(HeaderValue::String(text.to_owned()))
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<HeaderValue, E> {
        Ok(HeaderValue::Bytes(Bytes::copy_from_slice(bytes)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<HeaderValue, A::Error> {
        let (depth, room) = (self.inside()?, self.room);
        let mut values = Vec::new();
        while let Some(value) = seq.next_element_seed(ValueSeed {
            room: &mut *room,
            depth,
        })? {
            values.push(value);
        }
        Ok(HeaderValue::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<HeaderValue, A::Error> {
        let depth = self.inside()?;
        read_table(map, self.room, depth).map(HeaderValue::Table)
    }
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(correlation_id: &str, body: &'static [u8]) -> Message {
        Message::from(Content {
            correlation_id: Some(correlation_id.into()),
            kind: Some("result".into()),
            content_type: Some("application/msgpack".into()),
            body: body.into(),
            ..Content::default()
        })
    }

    fn batch(replies: &[Message]) -> Message {
        let mut batch = Batch::new(16, replies.len());
        for reply in replies {
            assert!(Batch::is_for(reply));
            batch.push(reply).unwrap();
        }
        batch.into_message()
    }

    #[test]
    fn replies_come_out_of_a_batch_as_they_went_in() {
        let mut with_headers = reply("b", b"two");
        let nested: Headers = [("inner".to_owned(), true.into())].into_iter().collect();
        let headers = [
            ("void".to_owned(), HeaderValue::Void),
            ("int".to_owned(), i64::MIN.into()),
            ("large".to_owned(), i64::MAX.into()),
            ("float".to_owned(), 0.5.into()),
            ("text".to_owned(), "a".into()),
            ("bytes".to_owned(), vec![0xff_u8].into()),
            (
                "list".to_owned(),
                HeaderValue::List(vec![1.into(), "b".into()]),
            ),
            ("table".to_owned(), HeaderValue::Table(nested)),
        ];
        with_headers.headers = headers.into_iter().collect();
        let sent = [reply("a", b"one"), with_headers];
        let message = batch(&sent);
        assert!(is_batch(&message));
        let (takes, received) = replies_of(&message.body).unwrap();
        assert_eq!(takes, 16);
        let received: Vec<_> = received.collect();
        assert_eq!(received.len(), sent.len());
        for (received, sent) in received.iter().zip(sent) {
            assert_eq!(
                Some(received.correlation_id),
                sent.correlation_id.as_deref()
            );
            assert_eq!(received.kind, sent.kind.as_deref());
            assert_eq!(received.content_type, sent.content_type.as_deref());
            assert_eq!(received.headers, sent.headers);
            assert_eq!(received.body, sent.body);
        }
    }

    /// An example of PROTOCOL.md, as bytes.
    fn example(title: &str) -> Bytes {
        let document = include_str!("../../../PROTOCOL.md");
        let (_, example) = document
            .split_once(&format!("```message\n{title}\n"))
            .unwrap();
        let (_, bytes) = example.split_once("bytes: ").unwrap();
        let bytes = bytes.lines().next().unwrap().split(' ');
        let bytes = bytes.map(|byte| u8::from_str_radix(byte, 16).unwrap());
        bytes.collect()
    }

    fn written(takes: u16, messages: &[Message]) -> Bytes {
        let mut batch = Batch::new(takes, messages.len());
        for message in messages {
            batch.push(message).unwrap();
        }
        batch.into_message().0.body
    }

    #[test]
    fn batches_are_those_of_the_protocol() {
        let json: Option<SmolStr> = Some("application/json".into());
        let fault =
            br#"{"code":"unknown_method","message":"service Adder has no method 'subtract'"}"#;
        let mut unknown = Message::from(Content {
            kind: Some("fault".into()),
            content_type: json.clone(),
            ..*reply("b", fault).0
        });
        unknown.headers.insert("rpc-executed", false);
        let bytes = example("reply batch");
        assert_eq!(written(16, &[reply("a", b"\x03"), unknown]), bytes);
        assert_eq!(replies_of(&bytes).unwrap().1.count(), 2);

        let batch = Message::from(Content {
            body: example("request batch"),
            reply_to: Some("replies".into()),
            deadline: Some(4_102_444_800_000),
            ..Content::default()
        });
        let requests = requests_of(&batch).unwrap();
        assert_eq!(written(0, &requests), batch.body);
        let [add, subtract] = <[Message; 2]>::try_from(requests).unwrap();
        assert_eq!(add.reply_to, batch.reply_to);
        assert_eq!(add.deadline, Some(4_102_444_800_000));
        assert_eq!(&add.body[..], b"\x82\xa1a\x01\xa1b\x02");
        assert_eq!(subtract.kind.as_deref(), Some("subtract"));
        assert_eq!(subtract.content_type, json);
        assert_eq!(subtract.deadline, None);

        let mut of_a_dead_letter = batch;
        of_a_dead_letter.deadline = None;
        let requests = requests_of(&of_a_dead_letter).unwrap();
        assert!(requests.iter().all(|request| request.deadline.is_none()));
    }

    #[test]
    fn what_is_large_or_special_to_the_broker_goes_alone() {
        let long = Message::from(Content {
            body: vec![0; MAX_BODY + 1].into(),
            ..*reply("a", b"").0
        });
        let nameless = Message::from(Content {
            correlation_id: None,
            ..*reply("a", b"").0
        });
        let urgent = Message::from(Content {
            priority: Some(1),
            ..*reply("a", b"").0
        });
        let kept = Message::from(Content {
            persistent: true,
            ..*reply("a", b"").0
        });
        let mut dated = reply("a", b"");
        let times = HeaderValue::List(vec![HeaderValue::Timestamp(1)]);
        dated.headers.insert("times", times);
        for message in [long, nameless, urgent, kept, dated] {
            assert!(!Batch::is_for(&message), "{message:?}");
        }
    }

    fn with_header(name: &str, value: HeaderValue) -> Message {
        let mut request = reply("a", b"one");
        request.headers.insert(name, value);
        request
    }

    /// Reads a batch of requests with this one.
    fn read(request: &Message) -> Result<usize, String> {
        let mut batch = Batch::new(0, 2);
        batch.push(&reply("b", b"two")).unwrap();
        batch.push(request).unwrap();
        let requests = requests_of(&batch.into_message());
        requests
            .map(|requests| requests.len())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn requests_in_a_batch_keep_to_the_limits_of_other_messages() {
        let long = "x".repeat(256);
        let text = |text: &str| Some(SmolStr::from(text));
        let many = HeaderValue::List(vec![HeaderValue::Void; MAX_VALUES]);
        let deep = HeaderValue::Void;
        let deep = (0..=MAX_DEPTH).fold(deep, |inner, _| HeaderValue::List(vec![inner]));
        for (request, reason) in [
            (
                with_header("number", f64::NAN.into()),
                "infinite or not a number",
            ),
            (
                with_header("large", vec![0; 200_000].into()),
                "200011 bytes",
            ),
            (with_header("many", many), "at most 1000 values"),
            (with_header("deep", deep), "more than 32 deep"),
            (with_header(&long, 1.into()), "more than 255 bytes"),
            (
                with_header("rpc-delivery-count", 2.into()),
                "no place in a batch",
            ),
            (
                with_header("x-delivery-count", 0.into()),
                "no place in a batch",
            ),
            (
                with_header("x-request-id", "a".into()),
                "no place in a batch",
            ),
            (
                Message::from(Content {
                    kind: text(&long),
                    ..*reply("a", b"").0
                }),
                "longer than 255",
            ),
            (reply(&long, b""), "longer than 255"),
            (
                Message::from(Content {
                    content_type: text(&long),
                    ..*reply("a", b"").0
                }),
                "longer than 255",
            ),
        ] {
            let error = read(&request).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
        let names = HeaderValue::List(vec!["tenant".into()]);
        for request in [
            with_header(PROPAGATE_HEADER, names),
            with_header("tenant", "a".into()),
        ] {
            assert_eq!(read(&request), Ok(2));
        }
    }

    #[test]
    fn the_values_in_a_batch_are_limited_together() {
        let list = HeaderValue::List(vec![HeaderValue::Void; 499]);
        let request = with_header("list", list);
        let of = |calls| {
            let mut batch = Batch::new(0, calls);
            (0..calls).for_each(|_| batch.push(&request).unwrap());
            requests_of(&batch.into_message()).map(|requests| requests.len())
        };
        assert_eq!(of(200).unwrap(), 200);
        let error = of(201).unwrap_err().to_string();
        assert!(error.contains("those of a batch 100000"), "{error}");
    }

    #[test]
    fn requests_with_headers_that_servers_take_alone_go_alone() {
        let alone = [
            ("x-request-id", 1.into()),
            ("many", HeaderValue::List(vec![1.into(); 100])),
            ("large", vec![0; MAX_BODY].into()),
        ];
        for (name, value) in alone {
            let headers = with_header(name, value).0.headers;
            assert!(!Batch::holds_request(b"", &headers), "{name}");
        }
        let headers = with_header("tenant", "a".into()).0.headers;
        assert!(Batch::holds_request(b"", &headers));
    }

    #[test]
    fn what_is_no_batch_is_an_error() {
        let whole = batch(&[reply("a", b"one"), reply("b", b"two")]).0.body;
        for len in 0..whole.len() {
            assert!(replies_of(&whole.slice(..len)).is_err(), "{len}");
        }
        for body in [
            &b"\x92\x01\x91\xa1a"[..],
            b"\xc0",
            b"\x92\x01\x90",
            b"\x92\x01\xdd\xff\xff\xff\xff",
        ] {
            assert!(replies_of(&body.into()).is_err(), "{body:?}");
        }
        let tiny = b"\x96\xa1a\xc0\xc0\xc0\xc0\xc4\x00";
        let head = b"\x92\x01\xdd\x00\x00\x04\x01";
        let many = [head, &tiny.repeat(MAX_CALLS + 1)[..]].concat();
        assert!(replies_of(&many.into()).is_err());
        let mut deep = b"\x92\x01\x91\x96\xa1a\xc0\xc0\xc0\x81\xa1h".to_vec();
        deep.extend([0x91; 100_000]);
        assert!(replies_of(&deep.into()).is_err());
    }
}
