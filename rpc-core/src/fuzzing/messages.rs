//! Fuzz targets for messages that servers and clients receive.

use bytes::Bytes;
use smol_str::SmolStr;

use crate::batching::format::{Batch, requests_of};
use crate::batching::{is_batch, replies_of, unpack};
use crate::error::RpcError;
use crate::headers::{HeaderValue, Headers};
use crate::telemetry;
use crate::transport::amqp::fuzzing as amqp;
use crate::transport::{Content, Message};
use crate::wire::{
    CancelNotice, Death, DeliveryFacts, Execution, History, dead_letter, is_expired, put_back,
    redirected, reply_from_result, request_from_message, result_from_reply, retried,
};

/// The maximum number of calls in a batch, as in PROTOCOL.md.
const MAX_CALLS: usize = 1024;

/// The maximum length of a fault, without the text that it quotes.
const MAX_WORDS: usize = 512;

/// The maximum number of bytes for one byte that is quoted and written as JSON.
const MAX_ESCAPE: usize = 12;

/// Decodes the body of a batch, and checks that its requests and replies are the same after another encoding.
pub fn batch(body: &[u8]) {
    let body = Bytes::copy_from_slice(body);
    let message = Message::from(Content {
        reply_to: Some("replies".into()),
        content_type: Some("application/vnd.rpc-batch+msgpack".into()),
        deadline: Some(i64::MAX),
        body: body.clone(),
        ..Content::default()
    });
    assert!(is_batch(&message));
    let requests = requests_of(&message);
    if let Ok(requests) = &requests {
        assert!((1..=MAX_CALLS).contains(&requests.len()));
        check_round_trip(requests);
        for request in requests {
            process(request.clone());
        }
    }
    if let Ok((_, replies)) = replies_of(&body) {
        let mut count = 0;
        for reply in replies {
            assert!(body.len() >= reply.body.len() + reply.correlation_id.len());
            let _ = reply.into_result();
            count += 1;
        }
        assert!((1..=MAX_CALLS).contains(&count));
    }
}

fn check_round_trip(requests: &[Message]) {
    let (mut batch, mut sent) = (Batch::new(0, requests.len()), Vec::new());
    for request in requests {
        if Batch::is_for(request) {
            batch.push(request).expect("a batch is for it");
            sent.push(request);
        }
    }
    if sent.is_empty() {
        return;
    }
    let mut message = batch.into_message();
    message.reply_to = Some("replies".into());
    message.deadline = Some(i64::MAX);
    let received = requests_of(&message).expect("it was just written");
    assert_eq!(format!("{received:?}"), format!("{sent:?}"));
}

/// Processes a request like a server, up to the handler.
fn process(mut request: Message) {
    let history = History::of(&request, true, false);
    let _ = is_expired(&request);
    let moved = redirected(request.clone(), history.deliveries);
    assert_eq!(
        History::of(&moved, false, false).deliveries,
        history.deliveries
    );
    let letter = dead_letter(
        request.clone(),
        history.deliveries,
        "delivery-limit",
        "queue",
    );
    assert_eq!(letter.expiration, None);
    amqp::published(moved);
    amqp::published(letter);
    let facts = DeliveryFacts {
        redelivered: true,
        deliveries: history.deliveries,
        ..DeliveryFacts::default()
    };
    let read = match is_batch(&request) {
        true => unpack(&request, 1, history.deliveries).err(),
        false => request_from_message("Service", "queue".into(), &mut request, facts).err(),
    };
    if let Some(error) = read {
        check_fault(error, request);
    }
}

/// Checks that a fault is decoded as the error that was encoded, and that its length is bounded by that of the request or reply.
fn check_fault(error: RpcError, about: Message) {
    let (kind, text) = (error.kind(), error.message().to_owned());
    let quoted = about.body.len() + about.content_type.as_ref().map_or(0, SmolStr::len);
    let fault = reply_from_result(Err(error), about, Execution::NotStarted, "server".into());
    assert!(
        fault.body.len() <= MAX_WORDS + MAX_ESCAPE * quoted,
        "{text}"
    );
    let again = result_from_reply(fault).expect_err("it is a fault");
    assert_eq!((again.kind(), again.message()), (kind, &text[..]));
    assert!(!again.may_have_executed());
}

/// Decodes AMQP's basic properties in wire format, followed by the body.
pub fn properties(data: &[u8]) {
    if let Some(message) = amqp::message(data) {
        let _ = CancelNotice::from_message(&message);
        let _ = result_from_reply(message.clone());
        let death = Death::of(&message);
        let _ = put_back(retried(message.clone(), &death));
        process(message);
    }
}

/// Decodes the body of a cancel notice.
pub fn notice(body: &[u8]) {
    let message = Message::from(Content {
        kind: Some("cancel".into()),
        reply_to: Some("replies".into()),
        deadline: Some(4_102_444_800_000),
        body: Bytes::copy_from_slice(body),
        ..Content::default()
    });
    let Some(notice) = CancelNotice::from_message(&message) else {
        return;
    };
    assert!(notice.correlation_ids.len() < body.len());
    let ids = notice.correlation_ids.clone();
    let again = CancelNotice::from_message(&notice.into_message()).expect("it was just written");
    assert_eq!(again.correlation_ids, ids);
}

/// Decodes a reply: a byte for its type, one for its content type, one for its headers, then its body.
pub fn reply(data: &[u8]) {
    let Some((&[kind, content_type, headers], body)) = data.split_first_chunk() else {
        return;
    };
    let kinds = [None, Some("result"), Some("error"), Some("fault"), Some("")];
    let content_types = [
        Some("application/msgpack"),
        Some("application/json"),
        None,
        Some("text/xml"),
    ];
    let pick =
        |choices: &[Option<&'static str>], byte: u8| choices[usize::from(byte) % choices.len()];
    let mut message = Message::from(Content {
        correlation_id: Some("id".into()),
        kind: pick(&kinds, kind).map(Into::into),
        content_type: pick(&content_types, content_type).map(Into::into),
        body: Bytes::copy_from_slice(body),
        ..Content::default()
    });
    let values: [(&str, HeaderValue); 4] = [
        ("rpc-executed", false.into()),
        ("rpc-redelivered", true.into()),
        ("rpc-time", i64::MIN.into()),
        ("rpc-time", "noon".into()),
    ];
    let set = values.into_iter().enumerate();
    let set = set.filter(|(bit, _)| headers & 1 << bit != 0);
    message.headers = set
        .map(|(_, (name, value))| (name.to_owned(), value))
        .collect::<Headers>();
    match result_from_reply(message.clone()) {
        Ok(response) => {
            assert_eq!(response.body, message.body);
            assert_eq!(
                response.is_error(),
                message.kind.as_deref() == Some("error")
            );
            let sent = reply_from_result(
                Ok(response.clone()),
                message,
                Execution::Started,
                "server".into(),
            );
            let again = result_from_reply(sent).expect("it is a response");
            assert_eq!(
                (again.outcome, again.body),
                (response.outcome, response.body)
            );
        }
        Err(error) => check_fault(error, message),
    }
}

/// Parses the headers `traceparent` and, after a line feed, `tracestate`.
pub fn traceparent(text: &[u8]) {
    if let Ok(text) = std::str::from_utf8(text) {
        let (parent, state) = text.split_once('\n').unwrap_or((text, ""));
        telemetry::fuzz(parent, state);
    }
}

/// Parses the URL of a broker. The text before the first line feed goes into the user name or password before a secret, the text
/// between the line feeds after the secret, and the text after the second line feed after the `@`. Without line feeds, the text is the
/// whole URL.
pub fn url(text: &[u8]) {
    if let Ok(text) = std::str::from_utf8(text) {
        amqp::url(text);
    }
}

/// Passes frames from a broker to lapin: a byte for the size of the pieces in which they arrive, then for each frame a byte for its
/// kind, two for the length of its payload, and the payload.
pub fn guard(data: &[u8]) {
    amqp::frames(data);
}
