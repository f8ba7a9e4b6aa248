//! Requests as messages.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use smol_str::SmolStr;
use tokio::time::Instant;
use tracing::Span;
use uuid::Uuid;

use super::checks::{check_headers, supported_content_type, unreadable};
use super::stream::Amount;
use crate::cancellation::Cancellation;
use crate::codec::ContentType;
use crate::deadline::{self, Deadline, FAR_FUTURE};
use crate::error::{ErrorKind, RpcError};
use crate::headers::{HeaderValue, Headers};
use crate::message::{self, DeliveryInfo, Request, StreamCall};
use crate::names::{
    BYTES_HEADER, DELIVERIES_HEADER, ITEMS_HEADER, PROPAGATE_HEADER, SILENCE_HEADER,
};
use crate::transport::{Content, Message};

/// Per-message settings of a request.
pub(crate) struct MessageSettings {
    pub(crate) correlation_id: SmolStr,
    /// Has the broker return the request if no queue takes it.
    pub(crate) mandatory: bool,
    /// Lets the request expire in the queue.
    pub(crate) expires: bool,
    /// Permits a reply in a batch.
    pub(crate) reads_batches: bool,
    /// Size in bytes of the largest frame that the broker takes.
    pub(crate) frame_max: usize,
    /// Terms of the stream that the request opens; `None` for a method without streams.
    pub(crate) stream: Option<StreamTerms>,
}

/// Terms of a stream, as its caller sets them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamTerms {
    /// The caller's window.
    pub(crate) window: Amount,
    /// The longest silence of either side.
    pub(crate) silence: Duration,
    /// Deadline of the whole stream.
    pub(crate) deadline: Option<Instant>,
}

impl StreamTerms {
    pub(super) fn insert(self, headers: &mut Headers) {
        self.window.insert(headers);
        let millis = i64::try_from(self.silence.as_millis()).unwrap_or(i64::MAX);
        headers.insert(SILENCE_HEADER, millis.max(1));
    }
}

/// Takes the terms of a stream out of the headers of a request. `None` if the caller is not ready for a stream.
pub(crate) fn take_terms(headers: &mut Headers) -> Option<Box<StreamCall>> {
    let window = Amount::take(headers)?;
    let silence = u64::try_from(headers.remove(SILENCE_HEADER)?.as_int()?).ok()?;
    Some(Box::new(StreamCall {
        silence: Some(Duration::from_millis(silence).min(FAR_FUTURE)),
        window_items: Some(window.items),
        window_bytes: Some(window.bytes),
        ..StreamCall::default()
    }))
}

/// Removes all headers but those with the terms of a stream.
pub(crate) fn keep_terms(headers: &mut Headers) {
    let mut kept = Headers::new();
    for name in [ITEMS_HEADER, BYTES_HEADER, SILENCE_HEADER] {
        if let Some(value @ HeaderValue::Int(_)) = headers.remove(name) {
            kept.insert(name, value);
        }
    }
    *headers = kept;
}

/// Returns a correlation id as it is sent: a UUID in its usual form.
pub(crate) fn correlation_id(id: Uuid) -> SmolStr {
    let mut buffer = Uuid::encode_buffer();
    SmolStr::from(&*id.hyphenated().encode_lower(&mut buffer))
}

/// Reads a correlation id that [`correlation_id`] has made; `None` for any other text.
pub(crate) fn parse_correlation_id(text: &str) -> Option<Uuid> {
    const HYPHENATED: usize = 36;
    if text.len() == HYPHENATED {
        Uuid::try_parse(text).ok()
    } else {
        None
    }
}

/// Returns a request as a message, without the addresses, which are the same for all requests of a client. `deadline` is the call's own
/// deadline, or follows from the client's timeout. For a stream it is the moment until which the caller waits for the first answer.
pub(crate) fn message_from_request(
    request: &Request,
    content_type: ContentType,
    deadline: Instant,
    settings: MessageSettings,
) -> Result<Message, RpcError> {
    if let Some(problem) = request.0.headers.problem() {
        return Err(RpcError::new(ErrorKind::Encode, problem));
    }
    let now = Instant::now();
    let remaining = deadline.saturating_duration_since(now);
    if remaining.is_zero() {
        return Err(deadline::passed_before_sending());
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
    check_headers("request", &headers, settings.frame_max).map_err(RpcError::not_executed)?;
    let mut until_deadline = Some(remaining);
    if let Some(terms) = settings.stream {
        terms.insert(&mut headers);
        let deadline = terms.deadline;
        until_deadline = deadline.map(|deadline| deadline.saturating_duration_since(now));
    }
    Ok(Message::from(Content {
        correlation_id: Some(settings.correlation_id),
        reply_to: None,
        message_id: None,
        kind: request
            .method()
            .filter(|_| content_type != ContentType::Plain)
            .map(SmolStr::from),
        content_type: content_type.as_property().map(SmolStr::new_static),
        expiration: settings.expires.then(|| deadline::expiration(remaining)),
        deadline: until_deadline.map(deadline::unix_millis_after),
        batches: settings.reads_batches
            && settings.stream.is_none()
            && content_type != ContentType::Plain,
        mandatory: settings.mandatory,
        persistent: request.0.persistent,
        priority: request.0.priority,
        app_id: None,
        user_id: None,
        headers,
        body: request.body_as(content_type)?,
        topic: None,
    }))
}

/// Facts about the delivery of a request that its message does not hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeliveryFacts {
    pub(crate) redelivered: bool,
    /// Number of earlier deliveries, as far as it is known.
    pub(crate) deliveries: u32,
    pub(crate) cancellation: Cancellation,
}

/// Takes a request out of a message, which keeps its addresses and its content type.
pub(crate) fn request_from_message(
    service: &'static str,
    queue: Arc<str>,
    message: &mut Message,
    facts: DeliveryFacts,
) -> Result<Request, RpcError> {
    if let Some(reason) = unreadable(&message.headers) {
        return Err(RpcError::new(
            ErrorKind::BadRequest,
            format!("the headers of the request cannot be read: {reason}"),
        ));
    }
    let content_type = supported_content_type(message)?;
    let mut headers = std::mem::take(&mut message.headers);
    let streams = take_terms(&mut headers);
    let deadline = match &streams {
        // The expiration limits the wait for the first answer only.
        Some(_) => deadline::from_wire(message.deadline, None),
        None => deadline::from_wire(message.deadline, message.expiration),
    };
    headers.remove(DELIVERIES_HEADER);
    let propagating = propagating_names(headers.remove(PROPAGATE_HEADER), &headers);
    let method = message.kind.take().filter(|method| !method.is_empty());
    Ok(Request(Box::new(message::Inner {
        service: service.into(),
        queue,
        method,
        definition: None,
        content_type,
        headers,
        propagating,
        deadline: Deadline::received(deadline),
        priority: message.priority,
        persistent: message.persistent,
        oneway: message.reply_to.is_none(),
        idempotent: false,
        body: std::mem::take(&mut message.body),
        recode: None,
        delivery: Some(Box::new(DeliveryInfo {
            correlation_id: message.correlation_id.clone(),
            app_id: message.app_id.take(),
            user_id: message.user_id.take(),
            redelivered: facts.redelivered || facts.deliveries > 0,
            deliveries: facts.deliveries,
            cancellation: facts.cancellation,
        })),
        span: Span::none(),
        answers: None,
        streams,
    })))
}

/// Returns the names of headers that propagate; none for a malformed list.
fn propagating_names(list: Option<HeaderValue>, headers: &Headers) -> BTreeSet<String> {
    let Some(HeaderValue::List(names)) = list else {
        return BTreeSet::new();
    };
    let names = names.into_iter().filter_map(|name| match name {
        // A header that cannot be sent would make nested calls fail.
        HeaderValue::String(name) if headers.can_send(&name) => Some(name),
        _ => None,
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde::{Deserialize, Serialize};

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
        message_from_request(&request, content_type, deadline, settings()).unwrap()
    }

    fn settings() -> MessageSettings {
        MessageSettings {
            frame_max: crate::transport::limits::DEFAULT_FRAME_MAX,
            correlation_id: "id".into(),
            mandatory: true,
            expires: true,
            reads_batches: true,
            stream: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_has_the_properties_of_the_protocol() {
        let message = sent(ContentType::MessagePack);
        assert_eq!(message.correlation_id.as_deref(), Some("id"));
        assert_eq!(message.kind.as_deref(), Some("fib"));
        assert_eq!(message.content_type.as_deref(), Some("application/msgpack"));
        assert_eq!(message.expiration, Some(5000));
        assert_eq!(message.headers.get("tenant"), Some(&"a".into()));
        let deadline = message.deadline.unwrap();
        let ahead = deadline - deadline::unix_millis_after(Duration::ZERO);
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
            message_from_request(&request, ContentType::MessagePack, deadline, settings()).unwrap();
        assert_eq!(
            message.headers.get("rpc-propagate"),
            Some(&HeaderValue::List(vec!["tenant".into()]))
        );
        let request = request_from_message(
            "Fib",
            "rpc.Fib".into(),
            &mut message,
            DeliveryFacts::default(),
        )
        .unwrap();
        assert_eq!(Vec::from_iter(request.0.propagating), ["tenant"]);
        assert_eq!(request.0.headers.iter().count(), 2);
    }

    #[test]
    fn headers_that_cannot_be_sent_on_do_not_propagate() {
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
    async fn a_request_without_time_left_is_not_sent() {
        let request = Request::new(SERVICE, FIB, "rpc.Fib", &FibArguments { n: 30 }).unwrap();
        let now = Instant::now();
        let error = message_from_request(&request, ContentType::MessagePack, now, settings())
            .expect_err("no time left");
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(!error.may_have_executed());
    }

    #[cfg(feature = "json")]
    #[tokio::test(start_paused = true)]
    async fn a_plain_request_looks_like_the_tutorials() {
        let message = sent(ContentType::Plain);
        assert_eq!(message.kind, None);
        assert_eq!(message.content_type, None);
        assert_eq!(&message.body[..], b"30");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_read_as_it_was_written() {
        let facts = DeliveryFacts {
            redelivered: true,
            ..DeliveryFacts::default()
        };
        let mut sent = sent(ContentType::MessagePack);
        let request = request_from_message("Fib", "rpc.Fib".into(), &mut sent, facts).unwrap();
        assert_eq!(request.method(), Some("fib"));
        assert_eq!(request.0.headers.iter().count(), 1);
        assert!(request.0.delivery.as_ref().unwrap().redelivered);
        let remaining = request.0.deadline.moment().unwrap() - Instant::now();
        assert!(
            (4900..=5000).contains(&remaining.as_millis()),
            "{remaining:?}"
        );
    }
}
