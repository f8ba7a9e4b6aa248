//! Requests and responses as layers see them: method, metadata and an encoded body.

mod answer_slot;
mod streams;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use smol_str::SmolStr;
use tokio::time::Instant;
use tracing::Span;

pub(crate) use self::answer_slot::{AnswerSlot, AnswerStream};
pub(crate) use self::streams::{ItemSource, ItemStream, Slot, StreamCall, StreamError};
use crate::cancellation::Cancellation;
use crate::codec::{self, ContentType, Encoded};
use crate::deadline::Deadline;
use crate::definition::{Method, Service};
use crate::error::{BoxError, ErrorKind, RpcError};
use crate::headers::{HeaderValue, Headers};

/// One call on its way from a client to a handler.
///
/// The stub makes the request, the client's layers see it, and the transport carries it. On the other side the server's layers see the
/// request, and the dispatcher decodes it. Cloning is cheap: the body is shared.
#[derive(Clone)]
pub struct Request(pub(crate) Box<Inner>);

/// Fields of a request, behind a pointer because a request is moved often.
#[derive(Clone)]
pub(crate) struct Inner {
    pub(crate) service: Cow<'static, str>,
    pub(crate) queue: Arc<str>,
    pub(crate) method: Option<SmolStr>,
    /// The method's definition: the stub's on the client, the service's on the server. `None` if the service has no such method.
    pub(crate) definition: Option<&'static Method>,
    pub(crate) content_type: ContentType,
    pub(crate) headers: Headers,
    /// Names of the headers that the server's own calls send on.
    pub(crate) propagating: BTreeSet<String>,
    pub(crate) deadline: Deadline,
    pub(crate) priority: Option<u8>,
    pub(crate) persistent: bool,
    pub(crate) oneway: bool,
    pub(crate) idempotent: bool,
    pub(crate) body: Bytes,
    /// Conversion of the MessagePack body into another content type, by code that knows the arguments' types.
    pub(crate) recode: Option<RecodeFn>,
    /// Present on a server.
    pub(crate) delivery: Option<Box<DeliveryInfo>>,
    /// Span of the call, for fields that are known when the request is published.
    pub(crate) span: Span,
    /// Present on the client's side of a call to all instances.
    pub(crate) answers: Option<Box<AnswerSlot>>,
    /// Present on a call with streams: on a client by the method's definition, on a server if the caller is ready for streams.
    pub(crate) streams: Option<Box<StreamCall>>,
}

/// A function from a MessagePack body to one of another content type, given the names of the arguments.
pub(crate) type RecodeFn = fn(&[u8], ContentType, &[&str]) -> Result<Bytes, BoxError>;

/// Parts of a request for a method without a definition.
pub(crate) struct UntypedRequest<'a> {
    pub(crate) service: Cow<'static, str>,
    pub(crate) queue: Arc<str>,
    /// Empty for the only method or the default method.
    pub(crate) method: &'a str,
    pub(crate) arguments: Encoded,
    pub(crate) oneway: bool,
    pub(crate) idempotent: bool,
    pub(crate) persistent: bool,
    pub(crate) priority: Option<u8>,
    pub(crate) streams: Option<Box<StreamCall>>,
}

/// Delivery of a request that came over a broker.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeliveryInfo {
    pub(crate) correlation_id: Option<SmolStr>,
    pub(crate) app_id: Option<SmolStr>,
    pub(crate) user_id: Option<SmolStr>,
    pub(crate) redelivered: bool,
    /// Number of deliveries before this one.
    pub(crate) deliveries: u32,
    pub(crate) cancellation: Cancellation,
}

impl Request {
    /// Makes a request for `method` of `service` with encoded arguments.
    pub(crate) fn new<A: Serialize + DeserializeOwned>(
        service: &'static Service,
        method: &'static Method,
        queue: impl Into<Arc<str>>,
        arguments: &A,
    ) -> Result<Self, RpcError> {
        let body = codec::encode(arguments, ContentType::MessagePack)
            .map_err(|cause| encode_error(service.name, method.name, &cause))?;
        let recode = codec::recode_arguments::<A>;
        Ok(Self::with_body(service, method, queue.into(), body, recode))
    }

    fn with_body(
        service: &'static Service,
        method: &'static Method,
        queue: Arc<str>,
        body: Bytes,
        recode: RecodeFn,
    ) -> Self {
        Self(Box::new(Inner {
            service: Cow::Borrowed(service.name),
            queue,
            method: Some(SmolStr::new_static(method.name)),
            definition: Some(method),
            content_type: ContentType::MessagePack,
            headers: Headers::new(),
            propagating: BTreeSet::new(),
            deadline: Deadline::default(),
            priority: method.priority,
            persistent: method.persistent,
            oneway: method.oneway,
            idempotent: method.idempotent,
            body,
            recode: Some(recode),
            delivery: None,
            span: Span::none(),
            answers: None,
            streams: method.is_streaming().then(|| {
                Box::new(StreamCall {
                    returns_items: method.streams_items,
                    sends_items: method.stream_argument.is_some(),
                    ..StreamCall::default()
                })
            }),
        }))
    }

    /// Makes a request with arguments that are encoded already.
    pub(crate) fn untyped(request: UntypedRequest<'_>) -> Self {
        let UntypedRequest {
            service,
            queue,
            method,
            arguments,
            oneway,
            idempotent,
            persistent,
            priority,
            streams,
        } = request;
        let content_type = match arguments.content_type() {
            // Only a plain client sends requests without a method.
            ContentType::Plain => ContentType::Json,
            other => other,
        };
        Self(Box::new(Inner {
            service,
            queue,
            method: (!method.is_empty()).then(|| SmolStr::new(method)),
            definition: None,
            content_type,
            headers: Headers::new(),
            propagating: BTreeSet::new(),
            deadline: Deadline::default(),
            priority,
            persistent,
            oneway,
            idempotent,
            body: arguments.body().clone(),
            recode: None,
            delivery: None,
            span: Span::none(),
            answers: None,
            streams,
        }))
    }

    /// Returns the service's name, for people and for telemetry.
    pub fn service(&self) -> &str {
        &self.0.service
    }

    /// Returns the queue that the request is sent to, or came from.
    pub fn queue(&self) -> &str {
        &self.0.queue
    }

    /// Returns the method's name on the wire; `None` for a plain request without one.
    pub fn method(&self) -> Option<&str> {
        self.0.method.as_deref()
    }

    /// Returns the format of the body. A client that speaks JSON re-encodes the body after the last layer has seen it.
    pub fn content_type(&self) -> ContentType {
        self.0.content_type
    }

    /// Returns the encoded arguments.
    pub fn body(&self) -> &Bytes {
        &self.0.body
    }

    /// Returns the user's headers.
    pub fn headers(&self) -> &Headers {
        &self.0.headers
    }

    /// Returns the user's headers for changes.
    pub fn headers_mut(&mut self) -> &mut Headers {
        &mut self.0.headers
    }

    /// Marks a header as propagating: the calls that the server makes while it handles the request send the header on, and so do
    /// their servers. A name without a header, when the request is sent or handled, has no effect.
    ///
    /// This method is for layers of a client or a server; [`Call::propagating_header`](crate::Call::propagating_header) is for one call.
    pub fn propagate_header(&mut self, name: impl Into<String>) {
        self.0.propagating.insert(name.into());
    }

    /// Returns the latest moment at which the caller stops waiting: the call's own deadline, or the deadline of the call in whose handler it was
    /// made, whichever is earlier. For a call without a deadline of its own, the client's default may be earlier still. `None` means the client's
    /// default, or, on a server, that the request came without a deadline.
    pub fn deadline(&self) -> Option<std::time::Instant> {
        self.0.deadline.moment().map(Instant::into_std)
    }

    /// Returns `true` if no reply is expected.
    pub fn is_oneway(&self) -> bool {
        self.0.oneway
    }

    /// Returns `true` if the method is `idempotent`; always `false` on a server, because the option is the client's.
    pub fn is_idempotent(&self) -> bool {
        self.0.idempotent
    }

    /// Returns the id that the caller gave the call, in any form; `None` on the client's side.
    pub fn correlation_id(&self) -> Option<&str> {
        self.0.delivery.as_ref()?.correlation_id.as_deref()
    }

    /// Returns the name that the caller states for itself, which is not verified; `None` on the client's side.
    pub fn app_id(&self) -> Option<&str> {
        self.0.delivery.as_ref()?.app_id.as_deref()
    }

    /// Returns the broker's user that published the request, if the caller stated the user; `None` on the client's side. RabbitMQ refuses a
    /// `user_id` that is not the publisher's own (<https://www.rabbitmq.com/docs/validated-user-id>). A request that a server has republished
    /// has no user, see [`Context::user_id`](crate::Context::user_id).
    pub fn user_id(&self) -> Option<&str> {
        self.0.delivery.as_ref()?.user_id.as_deref()
    }

    /// Returns `true` if the broker delivered the request before, to a server that did not finish it; `false` on the client's side.
    pub fn redelivered(&self) -> bool {
        let delivery = self.0.delivery.as_ref();
        delivery.is_some_and(|delivery| delivery.redelivered)
    }

    /// Marks the named headers as propagating if they are present.
    pub(crate) fn propagating(mut self, names: &[String]) -> Self {
        for name in names {
            if self.0.headers.can_send(name) {
                self.propagate_header(name);
            }
        }
        self
    }

    pub(crate) fn set_header(&mut self, name: String, value: HeaderValue) {
        self.0.headers.insert(name, value);
    }

    /// Returns the body in another content type.
    pub(crate) fn body_as(&self, content_type: ContentType) -> Result<Bytes, RpcError> {
        if content_type == self.0.content_type {
            return Ok(self.0.body.clone());
        }
        let recoded = match (self.0.recode, self.0.definition) {
            (Some(recode), Some(method)) => recode(&self.0.body, content_type, method.arguments),
            _ => codec::transcode(&self.0.body, self.0.content_type, content_type),
        };
        recoded.map_err(|cause| {
            encode_error(self.service(), self.method().unwrap_or_default(), &cause)
        })
    }
}

fn encode_error(service: &str, method: &str, cause: &BoxError) -> RpcError {
    RpcError::new(
        ErrorKind::Encode,
        format!("the arguments of {service}.{method} could not be encoded: {cause}"),
    )
}

impl fmt::Debug for Request {
    /// Leaves out the body, which may be large or secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("service", &self.0.service)
            .field("queue", &self.0.queue)
            .field("method", &self.0.method)
            .field("content_type", &self.0.content_type)
            .field("body_len", &self.0.body.len())
            .finish_non_exhaustive()
    }
}

/// Outcome of a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The body holds the method's value.
    Result,
    /// The body holds the service's own error.
    Error,
}

/// A value, or the service's own error, on its way back to the caller.
///
/// Every other outcome of a call is an [`RpcError`].
#[derive(Clone)]
pub struct Response {
    pub(crate) outcome: Outcome,
    pub(crate) content_type: ContentType,
    pub(crate) headers: Headers,
    pub(crate) body: Bytes,
    /// Items of a method that returns a stream. The body is empty then.
    pub(crate) items: Option<Slot<ItemStream>>,
}

impl Response {
    pub(crate) fn new(outcome: Outcome, content_type: ContentType, body: Bytes) -> Self {
        Self {
            outcome,
            content_type,
            headers: Headers::new(),
            body,
            items: None,
        }
    }

    /// Returns the response of a method that returns a stream.
    pub(crate) fn streaming(content_type: ContentType, items: ItemStream) -> Self {
        Self {
            items: Some(Slot::new(items)),
            ..Self::new(Outcome::Result, content_type, Bytes::new())
        }
    }

    /// Returns the response of a call without a reply of its own: nil in MessagePack.
    pub(crate) fn empty() -> Self {
        let nil = Bytes::from_static(&[0xc0]);
        Self::new(Outcome::Result, ContentType::MessagePack, nil)
    }

    /// Encodes a handler's value or error.
    pub(crate) fn encode<T: Serialize>(
        outcome: Outcome,
        content_type: ContentType,
        value: &T,
    ) -> Result<Self, RpcError> {
        let body = codec::encode(value, content_type).map_err(|cause| {
            RpcError::new(
                ErrorKind::BadReply,
                format!("the reply could not be encoded: {cause}"),
            )
        })?;
        Ok(Self::new(outcome, content_type, body))
    }

    /// Makes a response with a value, in a layer that answers in place of the handler. `content_type` is the
    /// [request's](Request::content_type). `value` has the type that the method returns, or, for a method that returns a `Result`, the type
    /// inside its `Ok`; a caller that cannot decode the value gets [`ErrorKind::BadReply`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::BadReply`] if the value cannot be encoded.
    pub fn result<T: Serialize>(content_type: ContentType, value: &T) -> Result<Self, RpcError> {
        Self::encode(Outcome::Result, content_type, value)
    }

    /// Makes a response with the service's own error, in a layer that refuses a request: the caller gets the error as
    /// [`CallError::App`](crate::CallError::App). `content_type` is the [request's](Request::content_type). `error` has the
    /// method's error type; the caller of a method without an error type gets [`ErrorKind::BadReply`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::BadReply`] if the error cannot be encoded.
    ///
    /// # Examples
    ///
    /// ```
    /// # use rpc_core::{Request, Response, RpcError};
    /// # use serde::{Deserialize, Serialize};
    /// #[derive(Serialize, Deserialize)]
    /// enum VaultError {
    ///     NotAllowed,
    /// }
    ///
    /// fn refuse(request: &Request) -> Result<Response, RpcError> {
    ///     Response::error(request.content_type(), &VaultError::NotAllowed)
    /// }
    /// ```
    pub fn error<E: Serialize>(content_type: ContentType, error: &E) -> Result<Self, RpcError> {
        Self::encode(Outcome::Error, content_type, error)
    }

    /// Decodes the body.
    pub(crate) fn decode<T: DeserializeOwned>(&self) -> Result<T, RpcError> {
        codec::decode(&self.body, self.content_type).map_err(|cause| {
            RpcError::new(
                ErrorKind::BadReply,
                format!("the reply could not be decoded: {cause}"),
            )
        })
    }

    /// Returns `true` if the body is the service's own error, `false` if it is a value.
    pub fn is_error(&self) -> bool {
        self.outcome == Outcome::Error
    }

    /// Returns the format of the body.
    pub fn content_type(&self) -> ContentType {
        self.content_type
    }

    /// Returns the encoded value or error.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Returns the headers of the reply.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// Returns the headers of the reply for changes.
    pub fn headers_mut(&mut self) -> &mut Headers {
        &mut self.headers
    }
}

impl fmt::Debug for Response {
    /// Leaves out the body, which may be large or secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("outcome", &self.outcome)
            .field("content_type", &self.content_type)
            .field("body_len", &self.body.len())
            .finish_non_exhaustive()
    }
}
