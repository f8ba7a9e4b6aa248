//! Several calls in one message: requests for the same queue, or replies for the same client.
//!
//! A broker's work grows with the number of messages more than with their bytes. Large messages, and messages for which the broker has
//! to do something special, are still sent alone.

mod entry;

use std::ops::Range;

use bytes::Bytes;
use smol_str::SmolStr;

use self::entry::{Contents, Entry, MAX_CALLS, MAX_VALUES_IN_ALL, Table};
use crate::codec;
use crate::error::{BoxError, RpcError};
use crate::headers::{HeaderValue, Headers, is_brokers};
use crate::message::Response;
use crate::names::{BATCH, BATCH_CONTENT_TYPE, BROKER_PREFIX, PROPAGATE_HEADER, PROTOCOL_PREFIX};
use crate::transport::limits::{DEFAULT_FRAME_MAX, check_short};
use crate::transport::{Content, Message};
use crate::wire::{check_headers, result_from_parts, unreadable};

/// Longest body in a batch, and longest headers, in bytes: the copy of longer ones costs more than a message.
const MAX_BODY: usize = 8 << 10;

/// Approximate length of a call in bytes, without its body and its headers.
const USUAL_LEN: usize = 128;

/// A message under construction, with the requests or replies in it.
pub(crate) struct Batch {
    body: Vec<u8>,
    calls: u16,
}

impl Batch {
    /// Approximate length in bytes from which on another batch is begun.
    pub(crate) const MAX_LEN: usize = 64 << 10;

    /// Position of the number of calls.
    const COUNT: Range<usize> = 5..7;

    /// Returns an empty batch with room for a number of usual calls; `capacity` is the number of requests that its sender accepts in one
    /// message.
    pub(crate) fn new(capacity: u16, calls: usize) -> Self {
        let mut body = Vec::with_capacity((calls * USUAL_LEN).min(Self::MAX_LEN));
        body.push(0x92); // An array of two:
        body.push(0xcd); // a 16-bit number,
        body.extend(capacity.to_be_bytes());
        body.push(0xdc); // and an array with a 16-bit length.
        body.extend([0, 0]);
        Self { body, calls: 0 }
    }

    /// Returns `true` if a message may be in a batch.
    pub(crate) fn is_for(message: &Message) -> bool {
        message.correlation_id.is_some()
            && message.priority.is_none()
            && !message.persistent
            && Self::holds(&message.body, &message.headers)
    }

    /// Returns `true` if a batch has room for a body and headers, and can represent the headers.
    fn holds(body: &[u8], headers: &Headers) -> bool {
        body.len() <= MAX_BODY
            && (headers.is_empty()
                || headers.size().is_ok_and(|size| {
                    size.values <= MAX_VALUES_IN_ALL / MAX_CALLS && size.bytes <= MAX_BODY
                }) && headers.iter().all(|(_, value)| has_form(value)))
    }

    /// Returns `true` if a batch may hold a request. Servers refuse requests in batches whose headers may mean something to brokers.
    pub(crate) fn holds_request(body: &[u8], headers: &Headers) -> bool {
        Self::holds(body, headers)
            && headers
                .iter()
                .all(|(name, _)| !name.starts_with(BROKER_PREFIX))
    }

    /// Returns the approximate number of bytes that a message takes.
    pub(crate) fn room_for(message: &Message) -> usize {
        let headers = match message.headers.is_empty() {
            true => 0,
            false => message.headers.size().map_or(0, |size| size.bytes),
        };
        message.body.len() + headers + USUAL_LEN
    }

    /// Returns the number of calls in the batch.
    pub(crate) fn calls(&self) -> usize {
        self.calls.into()
    }

    /// Returns `true` if the next message does not fit.
    pub(crate) fn is_full(&self, next: &Message) -> bool {
        self.calls() == MAX_CALLS || self.body.len() + Self::room_for(next) > Self::MAX_LEN
    }

    /// Adds a message that [may](Self::is_for) be in a batch.
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

    /// Returns the finished message.
    pub(crate) fn into_message(mut self) -> Message {
        self.body[Self::COUNT].copy_from_slice(&self.calls.to_be_bytes());
        Message::from(Content {
            kind: Some(SmolStr::new_static(BATCH)),
            content_type: Some(SmolStr::new_static(BATCH_CONTENT_TYPE)),
            body: self.body.into(),
            ..Content::default()
        })
    }
}

/// Returns `true` if a message is a batch.
pub(crate) fn is_batch(message: &Message) -> bool {
    message.content_type.as_deref() == Some(BATCH_CONTENT_TYPE)
}

/// A reply that came in a batch.
pub(crate) struct BatchedReply<'a> {
    pub(crate) correlation_id: &'a str,
    pub(crate) kind: Option<&'a str>,
    pub(crate) content_type: Option<&'a str>,
    pub(crate) headers: Headers,
    pub(crate) body: Bytes,
}

impl BatchedReply<'_> {
    /// Reads the reply.
    pub(crate) fn into_result(self) -> Result<Response, RpcError> {
        result_from_parts(self.kind, self.content_type, self.headers, self.body)
    }
}

/// Unpacks the replies of a batch. Returns them with the number of requests that their server accepts in one message.
pub(crate) fn replies_of(
    batch: &Bytes,
) -> Result<(u16, impl Iterator<Item = BatchedReply<'_>>), BoxError> {
    let Contents(capacity, entries) = codec::decode_own(batch)?;
    let replies = entries.into_iter().map(|entry| BatchedReply {
        correlation_id: entry.correlation_id,
        kind: entry.kind,
        content_type: entry.content_type,
        headers: entry.headers.unwrap_or_default(),
        body: batch.slice_ref(entry.body),
    });
    Ok((capacity, replies))
}

/// Unpacks the requests of a batch. Each gets the properties that they share.
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
        // A batch that was a dead letter has lost its deadline, so the deadlines of its requests have no meaning.
        let deadline = entry.deadline.filter(|_| batch.deadline.is_some());
        Message::from(Content {
            correlation_id: Some(entry.correlation_id.into()),
            reply_to: batch.reply_to.clone(),
            kind: owned(entry.kind),
            content_type: owned(entry.content_type),
            // A request without a deadline of its own has this one.
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

/// Refuses a request that could not have come in its own message, or could not be republished.
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
            let reason = "a batch of requests may not hold headers of brokers, or headers whose names begin with 'rpc-' or 'x-'";
            return Err(reason.into());
        }
    }
    Ok(check_headers("request", headers, DEFAULT_FRAME_MAX)?)
}

/// Returns `true` if MessagePack's own types can represent a header.
fn has_form(value: &HeaderValue) -> bool {
    match value {
        HeaderValue::Timestamp(_) => false,
        HeaderValue::List(values) => values.iter().all(has_form),
        HeaderValue::Table(headers) => headers.iter().all(|(_, value)| has_form(value)),
        _ => true,
    }
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::{MAX_DEPTH, MAX_VALUES};

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
    fn replies_are_unpacked_as_they_were_packed() {
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
        let (capacity, received) = replies_of(&message.body).unwrap();
        assert_eq!(capacity, 16);
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

    fn written(capacity: u16, messages: &[Message]) -> Bytes {
        let mut batch = Batch::new(capacity, messages.len());
        for message in messages {
            batch.push(message).unwrap();
        }
        batch.into_message().0.body
    }

    #[test]
    fn batches_match_the_examples_of_the_protocol() {
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
    fn messages_that_are_large_or_special_to_the_broker_are_sent_alone() {
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

    /// Reads a batch of this request and another one.
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
    fn requests_in_a_batch_have_the_limits_of_other_messages() {
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
                "may not hold headers",
            ),
            (
                with_header("x-delivery-count", 0.into()),
                "may not hold headers",
            ),
            (
                with_header("x-request-id", "a".into()),
                "may not hold headers",
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
    fn header_values_of_a_batch_are_limited_together() {
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
    fn requests_with_headers_that_servers_refuse_in_batches_are_sent_alone() {
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
    fn malformed_batches_are_errors() {
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
