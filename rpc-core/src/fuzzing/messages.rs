//! Messages: what servers and clients take from their queues, and what they make of it.

use bytes::Bytes;
use smol_str::SmolStr;

use crate::error::RpcError;
use crate::headers::{HeaderValue, Headers};
use crate::telemetry;
use crate::transport::amqp::fuzzing as amqp;
use crate::transport::{Content, Message};
use crate::wire::{
    Arrived, Batch, CancelNotice, History, Ran, answer_from_batch, answer_from_message,
    dead_letter, is_batch, is_expired, message_from_answer, redirected, replies_of,
    request_from_message, requests_of,
};

/// The most calls that PROTOCOL.md allows in a batch.
const MAX_CALLS: usize = 1024;

/// The longest fault, without the text that it quotes.
const MAX_WORDS: usize = 512;

/// The most bytes that one byte becomes when it is quoted and written as JSON.
const MAX_ESCAPE: usize = 12;

/// The body of a batch: requests and replies come out of it as they go into another.
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
        comes_out_as_it_goes_in(requests);
        for request in requests {
            received(request.clone());
        }
    }
    if let Ok((_, replies)) = replies_of(&body) {
        let mut count = 0;
        for reply in replies {
            assert!(body.len() >= reply.body.len() + reply.correlation_id.len());
            let _ = answer_from_batch(reply);
            count += 1;
        }
        assert!((1..=MAX_CALLS).contains(&count));
    }
}

fn comes_out_as_it_goes_in(requests: &[Message]) {
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

/// Treats a request as a server does, up to the handler.
fn received(mut request: Message) {
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
    let arrived = Arrived {
        redelivered: true,
        deliveries: history.deliveries,
        ..Arrived::default()
    };
    if let Err(error) = request_from_message("Service", "queue".into(), &mut request, arrived) {
        answered(error, request);
    }
}

/// A fault arrives as the error that it was, and is not much longer than what it is about.
fn answered(error: RpcError, about: Message) {
    let (kind, said) = (error.kind(), error.message().to_owned());
    let quoted = about.body.len() + about.content_type.as_ref().map_or(0, SmolStr::len);
    let fault = message_from_answer(Err(error), about, Ran::No, "server".into());
    assert!(
        fault.body.len() <= MAX_WORDS + MAX_ESCAPE * quoted,
        "{said}"
    );
    let again = answer_from_message(fault).expect_err("it is a fault");
    assert_eq!((again.kind(), again.message()), (kind, &said[..]));
    assert!(!again.may_have_executed());
}

/// AMQP's basic properties as they are on the wire, then the body.
pub fn properties(data: &[u8]) {
    if let Some(message) = amqp::message(data) {
        let _ = CancelNotice::from_message(&message);
        let _ = answer_from_message(message.clone());
        received(message);
    }
}

/// The body of a notice.
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

/// A reply: a byte for its type, one for its content type, one for its headers, then its body.
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
    match answer_from_message(message.clone()) {
        Ok(response) => {
            assert_eq!(response.body, message.body);
            assert_eq!(
                response.is_error(),
                message.kind.as_deref() == Some("error")
            );
            let sent =
                message_from_answer(Ok(response.clone()), message, Ran::Here, "server".into());
            let again = answer_from_message(sent).expect("it is a response");
            assert_eq!(
                (again.outcome, again.body),
                (response.outcome, response.body)
            );
        }
        Err(error) => answered(error, message),
    }
}

/// The headers `traceparent` and, after a line feed, `tracestate`.
pub fn traceparent(text: &[u8]) {
    if let Ok(text) = std::str::from_utf8(text) {
        let (parent, state) = text.split_once('\n').unwrap_or((text, ""));
        telemetry::fuzz(parent, state);
    }
}

/// The URL of a broker: what stands before the first line feed is in the user's name or password before a secret, what follows
/// it after the secret, and what follows the second line feed after the `@`. Without line feeds it is the whole URL.
pub fn url(text: &[u8]) {
    if let Ok(text) = std::str::from_utf8(text) {
        amqp::url(text);
    }
}

/// Frames from a broker, on their way to lapin: a byte for the size of the pieces in which they arrive, then for each a byte for
/// its kind, two for the length of its payload, and that.
pub fn guard(data: &[u8]) {
    amqp::frames(data);
}
