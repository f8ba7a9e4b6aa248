//! Several calls in one message: requests for the same queue, or replies for the same client.
//!
//! A broker's work is for messages, not for bytes. What is large, or special to the broker, still goes alone.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smol_str::SmolStr;

use crate::codec;
use crate::error::{BoxError, ErrorKind, RpcError};
use crate::headers::{HeaderValue, Headers};
use crate::transport::{ACQUIRED_COUNT, Content, DELIVERY_COUNT, Message};

/// The type of a batch, for people and for tools.
const BATCH: &str = "batch";

/// The content type of a batch. A server that does not know it runs nothing, and says so.
const CONTENT_TYPE: &str = "application/vnd.rpc-batch+msgpack";

/// The longest body in a batch, in bytes: of a longer one the copy costs more than a message.
const MAX_BODY: usize = 8 << 10;

/// How many calls a batch holds at most.
const MAX_CALLS: usize = 1024;

/// What the rest of an entry takes at most, beside its body and its headers, and roughly.
const USUAL_LEN: usize = 128;

/// Messages of one kind, written into one.
pub(crate) struct Batch {
    body: Vec<u8>,
    calls: u16,
}

/// A call in a batch: of a request or a reply what it does not share with the others.
#[derive(Serialize, Deserialize)]
struct Entry<'a> {
    correlation_id: &'a str,
    kind: Option<&'a str>,
    content_type: Option<&'a str>,
    deadline: Option<i64>,
    #[serde(borrow)]
    headers: Option<Table<'a>>,
    #[serde(serialize_with = "as_bytes")]
    body: &'a [u8],
}

/// The whole of a batch.
#[derive(Deserialize)]
struct Contents<'a>(
    /// How many requests the sender takes in one batch.
    u16,
    #[serde(borrow, deserialize_with = "entries")] Vec<Entry<'a>>,
);

/// No more than there may be: many tiny ones would become large here.
fn entries<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Entry<'a>>, D::Error> {
    struct Entries;

    impl<'de> Visitor<'de> for Entries {
        type Value = Vec<Entry<'de>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "1 to {MAX_CALLS} calls")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut entries = Vec::with_capacity(seq.size_hint().unwrap_or(0).min(MAX_CALLS));
            while let Some(entry) = seq.next_element()? {
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
    pub(crate) fn holds(body: &[u8], headers: &Headers) -> bool {
        body.len() <= MAX_BODY && headers.iter().all(|(_, value)| has_form(value))
    }

    /// How many bytes a message takes, roughly.
    pub(crate) fn room_for(message: &Message) -> usize {
        message.body.len() + USUAL_LEN
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
            headers: (!message.headers.is_empty()).then(|| Table(Cow::Borrowed(&message.headers))),
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
    let Contents(takes, entries) = codec::decode_message_pack(batch)?;
    let replies = entries.into_iter().map(|entry| BatchedReply {
        correlation_id: entry.correlation_id,
        kind: entry.kind,
        content_type: entry.content_type,
        headers: entry.headers.map(Table::into_headers).unwrap_or_default(),
        body: batch.slice_ref(entry.body),
    });
    Ok((takes, replies))
}

/// The requests in a batch, each with what they share.
pub(crate) fn requests_of(batch: &Message) -> Result<Vec<Message>, BoxError> {
    let Contents(_, entries) = codec::decode_message_pack(&batch.body)?;
    let owned = |text: Option<&str>| text.map(SmolStr::from);
    let requests = entries.into_iter().map(|entry| {
        let mut headers = entry.headers.map(Table::into_headers).unwrap_or_default();
        // How often the batch was delivered.
        for name in [DELIVERY_COUNT, ACQUIRED_COUNT] {
            if let Some(count) = batch.headers.get(name) {
                headers.insert(name, count.clone());
            }
        }
        Message::from(Content {
            correlation_id: Some(entry.correlation_id.into()),
            reply_to: batch.reply_to.clone(),
            kind: owned(entry.kind),
            content_type: owned(entry.content_type),
            // Of those without a deadline of their own, for which it is the only one.
            expiration: batch.expiration.filter(|_| entry.deadline.is_none()),
            deadline: entry.deadline,
            batches: true,
            app_id: batch.app_id.clone(),
            user_id: batch.user_id.clone(),
            headers,
            body: batch.body.slice_ref(entry.body),
            ..Content::default()
        })
    });
    Ok(requests.collect())
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
struct Table<'a>(Cow<'a, Headers>);

/// A header's value.
struct Value<'a>(Cow<'a, HeaderValue>);

impl Table<'_> {
    fn into_headers(self) -> Headers {
        self.0.into_owned()
    }
}

impl Serialize for Table<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let values = self.0.iter();
        serializer.collect_map(values.map(|(name, value)| (name, Value(Cow::Borrowed(value)))))
    }
}

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &*self.0 {
            HeaderValue::Void => serializer.serialize_unit(),
            HeaderValue::Bool(flag) => serializer.serialize_bool(*flag),
            HeaderValue::Int(number) => serializer.serialize_i64(*number),
            HeaderValue::Float(number) => serializer.serialize_f64(*number),
            HeaderValue::String(text) => serializer.serialize_str(text),
            HeaderValue::Bytes(bytes) => serializer.serialize_bytes(bytes),
            HeaderValue::List(values) => {
                serializer.collect_seq(values.iter().map(|value| Value(Cow::Borrowed(value))))
            }
            HeaderValue::Table(headers) => Table(Cow::Borrowed(headers)).serialize(serializer),
            HeaderValue::Timestamp(_) => Err(S::Error::custom("a timestamp cannot be in a batch")),
        }
    }
}

impl<'de> Deserialize<'de> for Table<'_> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)?.0.into_owned() {
            HeaderValue::Table(headers) => Ok(Self(Cow::Owned(headers))),
            _ => Err(D::Error::custom("headers are a map")),
        }
    }
}

impl<'de> Deserialize<'de> for Value<'_> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = deserializer.deserialize_any(ValueVisitor)?;
        Ok(Self(Cow::Owned(value)))
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
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
        let mut values = Vec::new();
        while let Some(Value(value)) = seq.next_element()? {
            values.push(value.into_owned());
        }
        Ok(HeaderValue::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<HeaderValue, A::Error> {
        let mut headers = Headers::new();
        while let Some((name, Value(value))) = map.next_entry::<String, Value<'_>>()? {
            headers.insert(name, value.into_owned());
        }
        Ok(HeaderValue::Table(headers))
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
