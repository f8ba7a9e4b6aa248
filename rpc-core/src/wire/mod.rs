//! The wire protocol, version 1: requests and replies as messages.
//!
//! Whatever changes here changes what other programs send and receive: it needs a test of the bytes and a line in the
//! changelog.

mod batch;
mod notice;
mod redelivery;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use tokio::time::Instant;
use tracing::Span;

pub(crate) use self::batch::{Batch, BatchedReply, is_batch, replies_of, requests_of};
pub(crate) use self::notice::{CancelNotice, NOTICE_PREFIX, notices_for};
pub(crate) use self::redelivery::{
    History, count_as_delivered, dead_letter, is_expired, made_to_fit, redirected,
    remove_forged_counts, revive,
};
use crate::cancellation::Cancellation;
use crate::codec::{self, ContentType};
use crate::error::{ErrorKind, RpcError};
use crate::headers::{Flaw, HeaderValue, Headers, MAX_VALUES};
use crate::message::{self, Delivery, Outcome, Request, Response};
use crate::transport::limits::max_header_bytes;
use crate::transport::{Content, Message, UNREADABLE_HEADER};

/// The names of the request's headers that its server's own calls send on: a list of texts.
const PROPAGATE_HEADER: &str = "rpc-propagate";

/// Set on a fault of a deadline that had passed: what time it was by the server's clock, in milliseconds since the Unix epoch.
const TIME_HEADER: &str = "rpc-time";

/// Set on a fault whose request had been delivered before: an earlier server may have run it.
const REDELIVERED_HEADER: &str = "rpc-redelivered";

/// Set, as `false`, on a fault whose request has not been run by anybody.
const EXECUTED_HEADER: &str = "rpc-executed";

/// What the server that answers with a fault knows of the request's runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ran {
    /// No handler has seen it.
    No,
    /// A handler has seen it, here.
    Here,
    /// It was delivered before; what was done with it then is not known.
    Earlier,
}

const RESULT: &str = "result";
const ERROR: &str = "error";
const FAULT: &str = "fault";

/// The body of a fault.
#[derive(Serialize, Deserialize)]
struct Fault {
    code: String,
    message: String,
}

/// What is said of a request by its client.
pub(crate) struct Envelope {
    pub(crate) correlation_id: SmolStr,
    /// Whether it comes back if no queue takes it.
    pub(crate) mandatory: bool,
    /// Whether it expires in the queue.
    pub(crate) expires: bool,
    /// Whether its reply may come in a batch.
    pub(crate) batches: bool,
    /// The size in bytes of the largest frame that its broker takes.
    pub(crate) frame_max: usize,
}

/// A request as its caller sends it, `deadline` being its own or the client's default; but for the addresses, which are the
/// same for all of a client's.
pub(crate) fn message_from_request(
    request: &Request,
    content_type: ContentType,
    deadline: Instant,
    envelope: Envelope,
) -> Result<Message, RpcError> {
    if let Some(problem) = request.0.headers.problem() {
        return Err(RpcError::new(ErrorKind::Encode, problem));
    }
    let remaining = deadline.saturating_duration_since(Instant::now());
    if remaining.is_zero() {
        let reason = "the deadline passed before the request could be sent";
        return Err(RpcError::new(ErrorKind::Timeout, reason).not_executed());
    }
    let mut headers = request.0.headers.clone();
    let propagating: Vec<_> = request
        .0
        .propagating
        .iter()
        .filter(|name| headers.get(name).is_some())
        .map(|name| HeaderValue::String(name.clone()))
        .collect();
    if !propagating.is_empty() {
        headers.insert(PROPAGATE_HEADER, HeaderValue::List(propagating));
    }
    check_headers("request", &headers, envelope.frame_max).map_err(RpcError::not_executed)?;
    Ok(Message::from(Content {
        correlation_id: Some(envelope.correlation_id),
        reply_to: None,
        kind: request
            .method()
            .filter(|_| content_type != ContentType::Plain)
            .map(SmolStr::from),
        content_type: content_type.as_property().map(SmolStr::new_static),
        expiration: envelope.expires.then(|| expiration(remaining)),
        deadline: Some(unix_millis_after(remaining)),
        batches: envelope.batches && content_type != ContentType::Plain,
        mandatory: envelope.mandatory,
        persistent: request.0.persistent,
        priority: request.0.priority,
        app_id: None,
        user_id: None,
        headers,
        body: request.body_as(content_type)?,
    }))
}

/// How a request was delivered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arrived {
    pub(crate) redelivered: bool,
    /// How often it was delivered before, as far as that is known.
    pub(crate) deliveries: u32,
    pub(crate) cancellation: Cancellation,
}

/// A request as its server receives it, taken out of a message that keeps its addresses and its content type.
pub(crate) fn request_from_message(
    service: &'static str,
    queue: Arc<str>,
    message: &mut Message,
    arrived: Arrived,
) -> Result<Request, RpcError> {
    if is_batch(message) {
        return Err(batch::refusal(message));
    }
    if let Some(reason) = unreadable(&message.headers) {
        return Err(RpcError::new(
            ErrorKind::BadRequest,
            format!("the headers of the request cannot be read: {reason}"),
        ));
    }
    let text = message.content_type.as_deref();
    let content_type = ContentType::parse(text)
        .filter(|known| known.is_supported())
        .ok_or_else(|| {
            RpcError::new(
                ErrorKind::UnsupportedContentType,
                format!(
                    "content type '{}' is not supported",
                    text.unwrap_or("text/plain")
                ),
            )
        })?;
    let mut headers = std::mem::take(&mut message.headers);
    let deadline = deadline(message.deadline, message.expiration);
    headers.remove(redelivery::DELIVERIES_HEADER);
    let propagating = propagating_names(headers.remove(PROPAGATE_HEADER), &headers);
    let method = message.kind.take().filter(|method| !method.is_empty());
    Ok(Request(Box::new(message::Inner {
        service,
        queue,
        method,
        content_type,
        headers,
        propagating,
        deadline,
        timeout: None,
        parent: None,
        priority: message.priority,
        persistent: message.persistent,
        oneway: message.reply_to.is_none(),
        idempotent: false,
        body: std::mem::take(&mut message.body),
        recode: None,
        delivery: Some(Box::new(Delivery {
            correlation_id: message.correlation_id.clone(),
            app_id: message.app_id.take(),
            user_id: message.user_id.take(),
            redelivered: arrived.redelivered || arrived.deliveries > 0,
            deliveries: arrived.deliveries,
            cancellation: arrived.cancellation,
        })),
        journey: None,
        span: Span::none(),
    })))
}

/// Refuses a body that is too large to send.
pub(crate) fn check_size(what: &str, body: &[u8], limit: usize) -> Result<(), RpcError> {
    if body.len() <= limit {
        return Ok(());
    }
    Err(RpcError::new(
        ErrorKind::TooLarge,
        format!(
            "the {what} has {} bytes; the limit of the connection is {limit}",
            body.len()
        ),
    ))
}

/// Refuses headers that the broker does not take, together or because of one of them.
fn check_headers(what: &str, headers: &Headers, frame_max: usize) -> Result<(), RpcError> {
    if headers.is_empty() {
        return Ok(());
    }
    let size = headers.size().and_then(|size| match size.values {
        0..=MAX_VALUES => Ok(size),
        _ => Err(Flaw::TooMany),
    });
    let size = size.map_err(|flaw| {
        let reason = format!("the headers of the {what} cannot be sent: {flaw}");
        RpcError::new(ErrorKind::Encode, reason)
    })?;
    let limit = max_header_bytes(frame_max);
    if size.bytes <= limit {
        return Ok(());
    }
    Err(RpcError::new(
        ErrorKind::TooLarge,
        format!(
            "the headers of the {what} have {} bytes; with the broker's frame_max of {frame_max} the limit is {limit}: send large values in the body",
            size.bytes
        ),
    ))
}

/// Refuses a reply that cannot be sent.
pub(crate) fn check_reply(
    response: &Response,
    limit: usize,
    frame_max: usize,
) -> Result<(), RpcError> {
    if let Some(problem) = response.headers.problem() {
        let reason = format!("the reply could not be sent: {problem}");
        return Err(RpcError::new(ErrorKind::BadReply, reason));
    }
    check_headers("reply", &response.headers, frame_max).map_err(|error| match error.kind() {
        ErrorKind::TooLarge => error,
        _ => RpcError::new(ErrorKind::BadReply, error.message()),
    })?;
    check_size("reply", &response.body, limit)
}

/// The reason why a message's headers could not be read whole, if they could not.
fn unreadable(headers: &Headers) -> Option<String> {
    let reason = headers.get(UNREADABLE_HEADER)?;
    Some(reason.as_str().unwrap_or_default().to_owned())
}

/// A reply as its server sends it, in place of the request.
pub(crate) fn message_from_answer(
    answer: Result<Response, RpcError>,
    request: Message,
    ran: Ran,
    app_id: SmolStr,
) -> Message {
    let mut reply = request;
    *reply.0 = Content {
        correlation_id: reply.correlation_id.take(),
        content_type: reply.content_type.take(),
        app_id: Some(app_id),
        ..Content::default()
    };
    match answer {
        Ok(response) => {
            reply.kind = Some(match response.outcome {
                Outcome::Result => SmolStr::new_static(RESULT),
                Outcome::Error => SmolStr::new_static(ERROR),
            });
            reply.headers = response.headers;
            reply.body = response.body;
        }
        Err(error) => {
            reply.kind = Some(SmolStr::new_static(FAULT));
            match ran {
                Ran::No => reply.headers.insert(EXECUTED_HEADER, false),
                Ran::Here => {}
                Ran::Earlier => reply.headers.insert(REDELIVERED_HEADER, true),
            }
            let code = error.kind().fault_code();
            if code == ErrorKind::DeadlineExceeded.fault_code() {
                let now = unix_millis_after(Duration::ZERO);
                reply.headers.insert(TIME_HEADER, now);
            }
            // Whoever sends what we cannot read is best told in what people can read.
            let known = ContentType::parse(reply.content_type.as_deref())
                .filter(|known| known.is_supported());
            let content_type = known.unwrap_or(if cfg!(feature = "json") {
                ContentType::Json
            } else {
                ContentType::MessagePack
            });
            if known.is_none() {
                reply.content_type = content_type.as_property().map(SmolStr::new_static);
            }
            let fault = Fault {
                code: code.to_owned(),
                message: error.message().to_owned(),
            };
            // Two strings can be written in every format.
            reply.body = codec::encode(&fault, content_type).unwrap_or_default();
        }
    }
    reply
}

/// A reply as its caller receives it.
pub(crate) fn answer_from_message(message: Message) -> Result<Response, RpcError> {
    let reply = *message.0;
    let (kind, content_type) = (reply.kind.as_deref(), reply.content_type.as_deref());
    answer(kind, content_type, reply.headers, reply.body)
}

/// The same, for one that came in a batch.
pub(crate) fn answer_from_batch(reply: BatchedReply<'_>) -> Result<Response, RpcError> {
    answer(reply.kind, reply.content_type, reply.headers, reply.body)
}

fn answer(
    kind: Option<&str>,
    content_type: Option<&str>,
    headers: Headers,
    body: Bytes,
) -> Result<Response, RpcError> {
    let content_type = ContentType::parse(content_type).ok_or_else(|| {
        bad_reply(format!(
            "the reply has content type '{}'",
            content_type.unwrap_or_default()
        ))
    })?;
    if let Some(reason) = unreadable(&headers) {
        return Err(bad_reply(format!(
            "the headers of the reply cannot be read: {reason}"
        )));
    }
    let mut response = Response::new(Outcome::Result, content_type, body);
    response.headers = headers;
    match kind {
        // A server of the RPC tutorial sets no type.
        None | Some("" | RESULT) => Ok(response),
        Some(ERROR) => {
            response.outcome = Outcome::Error;
            Ok(response)
        }
        Some(FAULT) => {
            let fault: Fault = response.decode()?;
            Err(error_of(fault, &response.headers))
        }
        Some(kind) => Err(bad_reply(format!("the reply has type '{kind}'"))),
    }
}

/// A fault as its caller sees it. A code of a later version is one more answer that this client cannot read.
fn error_of(fault: Fault, headers: &Headers) -> RpcError {
    let Fault { code, message } = fault;
    let mut error = match ErrorKind::from_fault_code(&code) {
        // These say nothing of themselves: a layer may refuse what a handler has answered.
        Some(kind @ (ErrorKind::PermissionDenied | ErrorKind::Overloaded)) => {
            RpcError::new(kind, message).executed_if(true)
        }
        Some(kind) => RpcError::new(kind, message),
        None => bad_reply(format!(
            "the server reports an unknown fault '{code}': {message}"
        )),
    };
    if headers.get_as(EXECUTED_HEADER) == Some(false) {
        error = error.not_executed();
    }
    error = error.executed_if(headers.get(REDELIVERED_HEADER).is_some());
    match headers.get_as(TIME_HEADER) {
        Some(time) => error.with_source(ServerClock::read(time)),
        None => error,
    }
}

/// How a server's clock stood when it found a deadline to have passed.
#[derive(Debug, thiserror::Error)]
#[error("the server's clock was {ahead_millis} ms ahead of this machine's")]
pub(crate) struct ServerClock {
    /// Less the time that the reply took.
    pub(crate) ahead_millis: i64,
}

impl ServerClock {
    fn read(time: i64) -> Self {
        Self {
            ahead_millis: time.saturating_sub(unix_millis_after(Duration::ZERO)),
        }
    }
}

fn bad_reply(reason: String) -> RpcError {
    RpcError::new(ErrorKind::BadReply, reason)
}

/// The time left as RabbitMQ takes it: at least 1 ms, at most 32 bits (<https://www.rabbitmq.com/docs/ttl>).
fn expiration(remaining: Duration) -> u32 {
    u32::try_from(remaining.as_millis())
        .unwrap_or(u32::MAX)
        .max(1)
}

/// The server's view of a deadline: the one in the header, or what a request without it may have waited in the queue.
/// A header that makes no sense is no deadline.
fn deadline(header: Option<i64>, expiration: Option<u32>) -> Option<Instant> {
    let remaining = match header {
        Some(deadline) => {
            let remaining = deadline.saturating_sub(unix_millis_after(Duration::ZERO));
            Duration::from_millis(u64::try_from(remaining).unwrap_or(0))
        }
        None => Duration::from_millis(expiration?.into()),
    };
    Some(message::deadline_after(remaining))
}

/// How long a request has been under way, by this machine's clock against its sender's: what was left of its time when it was
/// published is its expiration.
#[cfg(any(test, feature = "metrics"))]
pub(crate) fn waited(message: &Message) -> Option<Duration> {
    let deadline = message.deadline?;
    // The longest stands for everything longer.
    let remaining = message.expiration.filter(|millis| *millis < u32::MAX)?;
    let published = deadline.saturating_sub(remaining.into());
    let waited = unix_millis_after(Duration::ZERO).saturating_sub(published);
    Some(Duration::from_millis(u64::try_from(waited).unwrap_or(0)))
}

/// Which of the headers are to be sent on; a list that makes no sense names none.
fn propagating_names(list: Option<HeaderValue>, headers: &Headers) -> BTreeSet<String> {
    let Some(HeaderValue::List(names)) = list else {
        return BTreeSet::new();
    };
    let names = names.into_iter().filter_map(|name| match name {
        // What cannot be sent on must not fail the calls that would have to.
        HeaderValue::String(name) if headers.can_send(&name) => Some(name),
        _ => None,
    });
    names.collect()
}

fn unix_millis_after(remaining: Duration) -> i64 {
    i64::try_from((since_epoch() + remaining).as_millis()).unwrap_or(i64::MAX)
}

fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition::{Method, Service};

    #[derive(Serialize, Deserialize)]
    struct FibArguments {
        n: u64,
    }

    const FIB: &Method = &Method::new("fib", &["n"]);
    const SERVICE: &Service = &Service::new("Fib", "rpc.Fib", &[FIB]);

    fn sent(content_type: ContentType) -> Message {
        let mut request = Request::new(SERVICE, FIB, "rpc.Fib", &FibArguments { n: 30 }).unwrap();
        request.0.headers.insert("tenant", "a");
        let deadline = Instant::now() + Duration::from_secs(5);
        message_from_request(&request, content_type, deadline, envelope()).unwrap()
    }

    fn envelope() -> Envelope {
        Envelope {
            frame_max: crate::transport::limits::USUAL_FRAME_MAX,
            correlation_id: "id".into(),
            mandatory: true,
            expires: true,
            batches: true,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_carries_what_the_protocol_says() {
        let message = sent(ContentType::MessagePack);
        assert_eq!(message.correlation_id.as_deref(), Some("id"));
        assert_eq!(message.kind.as_deref(), Some("fib"));
        assert_eq!(message.content_type.as_deref(), Some("application/msgpack"));
        assert_eq!(message.expiration, Some(5000));
        assert_eq!(message.headers.get("tenant"), Some(&"a".into()));
        let deadline = message.deadline.unwrap();
        let ahead = deadline - unix_millis_after(Duration::ZERO);
        assert!((4900..=5000).contains(&ahead), "{ahead}");
        assert_eq!(&message.body[..], b"\x81\xa1n\x1e");
    }

    #[tokio::test(start_paused = true)]
    async fn propagating_headers_are_listed_by_name() {
        let mut request = Request::new(SERVICE, FIB, "rpc.Fib", &FibArguments { n: 30 }).unwrap();
        request.0.headers.insert("tenant", "a");
        request.0.headers.insert("local", "b");
        request.propagate_header("tenant");
        request.propagate_header("not there");
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut message =
            message_from_request(&request, ContentType::MessagePack, deadline, envelope()).unwrap();
        assert_eq!(
            message.headers.get("rpc-propagate"),
            Some(&HeaderValue::List(vec!["tenant".into()]))
        );
        let request =
            request_from_message("Fib", "rpc.Fib".into(), &mut message, Arrived::default())
                .unwrap();
        assert_eq!(Vec::from_iter(request.0.propagating), ["tenant"]);
        assert_eq!(request.0.headers.iter().count(), 2);
    }

    #[test]
    fn what_cannot_be_sent_on_is_not() {
        let headers: Headers = [
            ("rpc-mine".to_owned(), 1.into()),
            ("a".to_owned(), 1.into()),
        ]
        .into_iter()
        .collect();
        let names = |list: HeaderValue| propagating_names(Some(list), &headers).len();
        let list = ["rpc-mine", "missing", "endless"]
            .map(HeaderValue::from)
            .to_vec();
        assert_eq!(names(HeaderValue::List(list)), 0);
        let list = vec![HeaderValue::Void, 1.into(), "a".into(), "a".into()];
        assert_eq!(names(HeaderValue::List(list)), 1);
        assert_eq!(names("a".into()), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_without_time_is_not_sent() {
        let request = Request::new(SERVICE, FIB, "rpc.Fib", &FibArguments { n: 30 }).unwrap();
        let now = Instant::now();
        let error = message_from_request(&request, ContentType::MessagePack, now, envelope())
            .expect_err("no time left");
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(!error.may_have_executed());
    }

    #[cfg(feature = "json")]
    #[tokio::test(start_paused = true)]
    async fn a_plain_request_is_what_the_tutorial_sends() {
        let message = sent(ContentType::Plain);
        assert_eq!(message.kind, None);
        assert_eq!(message.content_type, None);
        assert_eq!(&message.body[..], b"30");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_arrives_as_it_was_sent() {
        let arrived = Arrived {
            redelivered: true,
            ..Arrived::default()
        };
        let mut sent = sent(ContentType::MessagePack);
        let request = request_from_message("Fib", "rpc.Fib".into(), &mut sent, arrived).unwrap();
        assert_eq!(request.method(), Some("fib"));
        assert_eq!(request.0.headers.iter().count(), 1);
        assert!(request.0.delivery.as_ref().unwrap().redelivered);
        let remaining = request.0.deadline.unwrap() - Instant::now();
        assert!(
            (4900..=5000).contains(&remaining.as_millis()),
            "{remaining:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn absurd_deadlines_are_survived() {
        for millis in [i64::MIN, -1, 0] {
            assert_eq!(deadline(Some(millis), None), Some(Instant::now()));
        }
        assert!(deadline(Some(i64::MAX), None).unwrap() > Instant::now());
        assert_eq!(
            deadline(None, Some(7)),
            Some(Instant::now() + Duration::from_millis(7))
        );
        assert_eq!(expiration(Duration::ZERO), 1);
        assert_eq!(expiration(Duration::MAX), u32::MAX);
    }

    #[test]
    fn the_time_of_publishing_follows_from_deadline_and_expiration() {
        let sent_before = |ago: i64, expiration| {
            let mut message = Message::from(Content {
                expiration: Some(expiration),
                ..Content::default()
            });
            let deadline = unix_millis_after(Duration::ZERO) - ago + i64::from(expiration);
            message.deadline = Some(deadline);
            waited(&message).map(|waited| waited.as_millis())
        };
        let waited_for = sent_before(300, 5000).unwrap();
        assert!((300..400).contains(&waited_for), "{waited_for}");
        assert_eq!(sent_before(-300, 5000), Some(0)); // The sender's clock is ahead.
        assert_eq!(sent_before(300, u32::MAX), None);
        assert_eq!(waited(&Message::default()), None);
        assert_eq!(
            waited(&sent(ContentType::MessagePack)).unwrap().as_secs(),
            0
        );
    }

    fn answered(answer: Result<Response, RpcError>, ran: Ran) -> Message {
        let request = Message::from(Content {
            correlation_id: Some("id".into()),
            content_type: Some("application/msgpack".into()),
            body: Bytes::from_static(b"of the request"),
            deadline: Some(1),
            batches: true,
            ..Content::default()
        });
        message_from_answer(answer, request, ran, "server".into())
    }

    #[test]
    fn replies_have_the_types_of_the_protocol() {
        for (outcome, kind) in [(Outcome::Result, "result"), (Outcome::Error, "error")] {
            let response = Response::new(
                outcome,
                ContentType::MessagePack,
                Bytes::from_static(b"\x01"),
            );
            let message = answered(Ok(response), Ran::Here);
            assert_eq!(message.kind.as_deref(), Some(kind));
            assert_eq!(message.correlation_id.as_deref(), Some("id"));
            assert_eq!(answer_from_message(message).unwrap().outcome, outcome);
        }
    }

    #[test]
    fn a_fault_says_whether_its_request_may_have_run() {
        for (ran, may_have_executed) in [(Ran::No, false), (Ran::Here, true), (Ran::Earlier, true)]
        {
            for kind in [
                ErrorKind::Cancelled,
                ErrorKind::DeadlineExceeded,
                ErrorKind::PermissionDenied,
                ErrorKind::Overloaded,
            ] {
                let fault = RpcError::new(kind, "no");
                let message = answered(Err(fault), ran);
                let error = answer_from_message(message).unwrap_err();
                assert_eq!(error.may_have_executed(), may_have_executed, "{ran:?}");
            }
        }
    }

    #[test]
    fn a_fault_is_a_code_and_a_message() {
        let error = RpcError::new(ErrorKind::UnknownMethod, "no");
        let message = answered(Err(error), Ran::Here);
        assert_eq!(
            &message.body[..],
            b"\x82\xa4code\xaeunknown_method\xa7message\xa2no"
        );
        let error = answer_from_message(message).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnknownMethod);
        assert_eq!(error.to_string(), "no");
    }

    #[test]
    fn a_fault_of_a_later_version_is_a_reply_that_cannot_be_read() {
        for (ran, may_have_executed) in [(Ran::No, false), (Ran::Here, true)] {
            let mut message = answered(Err(RpcError::new(ErrorKind::Panicked, "no")), ran);
            let body = b"\x82\xa4code\xa5later\xa7message\xa2no";
            message.body = Bytes::from_static(body);
            let error = answer_from_message(message).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BadReply);
            assert_eq!(
                error.to_string(),
                "the server reports an unknown fault 'later': no"
            );
            assert_eq!(error.may_have_executed(), may_have_executed);
        }
    }

    #[test]
    fn a_fault_of_a_passed_deadline_tells_the_servers_time() {
        let error = RpcError::new(ErrorKind::DeadlineExceeded, "late");
        let mut message = answered(Err(error), Ran::Here);
        let time = message.headers.get_as::<i64>("rpc-time").unwrap();
        let now = unix_millis_after(Duration::ZERO);
        assert!((now - 5000..=now).contains(&time), "{time} at {now}");
        message.headers.insert("rpc-time", time + 60_000);
        let mut error = answer_from_message(message).unwrap_err();
        let ServerClock { ahead_millis } = error.take_source().unwrap();
        assert!((55_000..=60_000).contains(&ahead_millis), "{ahead_millis}");
    }

    #[cfg(feature = "json")]
    #[test]
    fn whoever_sends_an_unknown_content_type_is_answered_in_json() {
        let error = RpcError::new(ErrorKind::UnsupportedContentType, "no");
        let request = Message::from(Content {
            content_type: Some("text/xml".into()),
            ..Content::default()
        });
        let message = message_from_answer(Err(error), request, Ran::Here, "server".into());
        assert_eq!(message.content_type.as_deref(), Some("application/json"));
        assert_eq!(
            &message.body[..],
            br#"{"code":"unsupported_content_type","message":"no"}"#
        );
    }

    #[cfg(feature = "json")]
    #[test]
    fn a_reply_of_the_tutorials_server_is_a_result() {
        let message = Message::from(Content {
            body: Bytes::from_static(b"832040"),
            ..Content::default()
        });
        assert_eq!(
            answer_from_message(message)
                .unwrap()
                .decode::<u64>()
                .unwrap(),
            832_040
        );
    }

    #[test]
    fn replies_that_make_no_sense_are_bad_replies() {
        let kind = Message::from(Content {
            kind: Some("maybe".into()),
            ..Content::default()
        });
        let content_type = Message::from(Content {
            content_type: Some("text/xml".into()),
            ..Content::default()
        });
        let fault = Message::from(Content {
            kind: Some("fault".into()),
            body: Bytes::from_static(b"?"),
            ..Content::default()
        });
        for message in [kind, content_type, fault] {
            assert_eq!(
                answer_from_message(message).unwrap_err().kind(),
                ErrorKind::BadReply
            );
        }
    }
}
