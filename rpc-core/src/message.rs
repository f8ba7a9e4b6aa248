//! Requests and responses as middleware sees them: method, metadata and an encoded body.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use smol_str::SmolStr;
use tokio::time::Instant;
use tracing::Span;

use crate::cancellation::Cancellation;
use crate::client::Journey;
use crate::codec::{self, ContentType};
use crate::context::Context;
use crate::definition::{Method, Service};
use crate::error::{BoxError, ErrorKind, RpcError};
use crate::headers::{HeaderValue, Headers};

/// The longest time that a deadline may lie ahead; longer timeouts are cut to it. (30 years, tokio's own horizon.)
const FAR_FUTURE: Duration = Duration::from_secs(86_400 * 365 * 30);

/// One call on its way from a client to a handler.
///
/// The stub makes it, the client's layers see it, then the transport carries it; on the other side the server's layers see
/// it and the dispatcher decodes it. Cloning is cheap: the body is shared.
#[derive(Clone)]
pub struct Request(pub(crate) Box<Inner>);

/// What is in a request: behind a pointer, because it goes through many hands.
#[derive(Clone)]
pub(crate) struct Inner {
    pub(crate) service: &'static str,
    pub(crate) queue: Arc<str>,
    pub(crate) method: Option<SmolStr>,
    pub(crate) content_type: ContentType,
    pub(crate) headers: Headers,
    /// The names of those headers that the server's own calls send on.
    pub(crate) propagating: BTreeSet<String>,
    /// Its own.
    pub(crate) deadline: Option<Instant>,
    /// Its own time, until the call is polled and it becomes the deadline.
    pub(crate) timeout: Option<Duration>,
    /// The call in whose handler it was made, if it was.
    pub(crate) parent: Option<Context>,
    pub(crate) priority: Option<u8>,
    pub(crate) persistent: bool,
    pub(crate) oneway: bool,
    pub(crate) idempotent: bool,
    pub(crate) body: Bytes,
    pub(crate) recode: Option<Recode>,
    pub(crate) delivery: Option<Box<Delivery>>,
    /// Of a call through layers.
    pub(crate) journey: Option<Journey>,
    /// The caller's, for what is only known when the request is published.
    pub(crate) span: Span,
}

type RecodeFn = fn(&[u8], ContentType, &[&str]) -> Result<Bytes, BoxError>;

/// Turns the MessagePack body of a request into another content type; knows the arguments' types.
#[derive(Clone, Copy)]
pub(crate) struct Recode {
    arguments: &'static [&'static str],
    recode: RecodeFn,
}

/// How a request reached the server, for those that came over a broker.
#[derive(Clone, Debug, Default)]
pub(crate) struct Delivery {
    pub(crate) correlation_id: Option<SmolStr>,
    pub(crate) app_id: Option<SmolStr>,
    pub(crate) user_id: Option<SmolStr>,
    pub(crate) redelivered: bool,
    /// How often it was delivered before.
    pub(crate) deliveries: u32,
    pub(crate) cancellation: Cancellation,
}

impl Request {
    /// A request for `method` of `service`, its arguments encoded.
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
            service: service.name,
            queue,
            method: Some(SmolStr::new_static(method.name)),
            content_type: ContentType::MessagePack,
            headers: Headers::new(),
            propagating: BTreeSet::new(),
            deadline: None,
            timeout: None,
            parent: None,
            priority: method.priority,
            persistent: method.persistent,
            oneway: method.oneway,
            idempotent: method.idempotent,
            body,
            recode: Some(Recode {
                arguments: method.arguments,
                recode,
            }),
            delivery: None,
            journey: None,
            span: Span::none(),
        }))
    }

    /// The service's name, for people and for telemetry.
    pub fn service(&self) -> &str {
        self.0.service
    }

    /// The queue that the request is sent to, or came from.
    pub fn queue(&self) -> &str {
        &self.0.queue
    }

    /// The method's name on the wire; a plain request may come without one.
    pub fn method(&self) -> Option<&str> {
        self.0.method.as_deref()
    }

    /// What the body's bytes are. A client that speaks JSON re-encodes the body after the last layer has seen it.
    pub fn content_type(&self) -> ContentType {
        self.0.content_type
    }

    /// The encoded arguments.
    pub fn body(&self) -> &Bytes {
        &self.0.body
    }

    /// The user's headers.
    pub fn headers(&self) -> &Headers {
        &self.0.headers
    }

    /// The user's headers, to add to them.
    pub fn headers_mut(&mut self) -> &mut Headers {
        &mut self.0.headers
    }

    /// Marks a header as propagating: the calls that the server makes while it handles the request send it on, and so do
    /// their servers. Does nothing for a header that is not there when the request is sent or handled.
    ///
    /// For layers, of a client or a server; [`Call::propagating_header`](crate::Call::propagating_header) is for one call.
    pub fn propagate_header(&mut self, name: impl Into<String>) {
        self.0.propagating.insert(name.into());
    }

    /// When the caller stops waiting, at the latest: its own deadline, or what it inherits from the call in whose handler it
    /// was made. Without an own one the client's default may be earlier; `None` leaves it to that, or came without one.
    pub fn deadline(&self) -> Option<std::time::Instant> {
        self.latest_end().map(Instant::into_std)
    }

    pub(crate) fn latest_end(&self) -> Option<Instant> {
        let inherited = self.0.parent.as_ref().and_then(Context::deadline);
        let deadlines = self
            .0
            .deadline
            .into_iter()
            .chain(inherited.map(Instant::from));
        deadlines.min()
    }

    /// When the caller stops waiting, if it does so `default` after `now` when nobody says otherwise.
    pub(crate) fn deadline_or(&self, default: Duration, now: Instant) -> Instant {
        let own = self.0.deadline.unwrap_or_else(|| {
            let left = self
                .0
                .journey
                .as_ref()
                .map(|so_far| so_far.left_of(default, now));
            deadline_from(now, left.unwrap_or(default))
        });
        self.latest_end().map_or(own, |latest| latest.min(own))
    }

    /// Whether no reply is expected.
    pub fn is_oneway(&self) -> bool {
        self.0.oneway
    }

    /// Whether the method may run twice, as its client knows; a server does not.
    pub fn is_idempotent(&self) -> bool {
        self.0.idempotent
    }

    /// The id that the caller gave the call, in whatever form; `None` on the client's side.
    pub fn correlation_id(&self) -> Option<&str> {
        self.0.delivery.as_ref()?.correlation_id.as_deref()
    }

    /// The name by which the caller calls itself, which is not verified; `None` on the client's side.
    pub fn app_id(&self) -> Option<&str> {
        self.0.delivery.as_ref()?.app_id.as_deref()
    }

    /// The broker's user that published the request, if the caller stated it; `None` on the client's side. RabbitMQ refuses a
    /// `user_id` that is not the publisher's own (<https://www.rabbitmq.com/docs/validated-user-id>). A request that a server has published
    /// anew has none, see [`Context::user_id`](crate::Context::user_id).
    pub fn user_id(&self) -> Option<&str> {
        self.0.delivery.as_ref()?.user_id.as_deref()
    }

    /// Tells whether the broker handed the request out before, to a server that did not finish it; `false` on the client's side.
    pub fn redelivered(&self) -> bool {
        let delivery = self.0.delivery.as_ref();
        delivery.is_some_and(|delivery| delivery.redelivered)
    }

    /// Marks those of the named headers that are there.
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

    /// The body in another content type.
    pub(crate) fn body_as(&self, content_type: ContentType) -> Result<Bytes, RpcError> {
        if content_type == self.0.content_type {
            return Ok(self.0.body.clone());
        }
        let recoded = match self.0.recode {
            Some(Recode { arguments, recode }) => recode(&self.0.body, content_type, arguments),
            None => Err(format!(
                "a body of {} cannot be sent as {content_type}",
                self.0.content_type
            )
            .into()),
        };
        recoded.map_err(|cause| {
            encode_error(self.0.service, self.method().unwrap_or_default(), &cause)
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

/// The deadline that lies `timeout` ahead.
pub(crate) fn deadline_after(timeout: Duration) -> Instant {
    deadline_from(Instant::now(), timeout)
}

/// The deadline that lies `timeout` after `now`.
fn deadline_from(now: Instant, timeout: Duration) -> Instant {
    now + timeout.min(FAR_FUTURE)
}

/// Whether a handler succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The body is the method's value.
    Result,
    /// The body is the service's own error.
    Error,
}

/// A handler's answer on its way back to the caller: a value, or the service's own error.
///
/// Whatever else can happen to a call is an [`RpcError`].
#[derive(Clone)]
pub struct Response {
    pub(crate) outcome: Outcome,
    pub(crate) content_type: ContentType,
    pub(crate) headers: Headers,
    pub(crate) body: Bytes,
}

impl Response {
    pub(crate) fn new(outcome: Outcome, content_type: ContentType, body: Bytes) -> Self {
        Self {
            outcome,
            content_type,
            headers: Headers::new(),
            body,
        }
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

    /// An answer with a value, from a layer that answers in place of the handler. `content_type` is the
    /// [request's](Request::content_type), and `value` what the method returns, or for a method that returns a `Result` what
    /// is inside its `Ok`; a caller that cannot decode it gets [`ErrorKind::BadReply`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::BadReply`] if the value cannot be encoded.
    pub fn result<T: Serialize>(content_type: ContentType, value: &T) -> Result<Self, RpcError> {
        Self::encode(Outcome::Result, content_type, value)
    }

    /// An answer with the service's own error, from a layer that refuses a request: the caller gets it as
    /// [`CallError::App`](crate::CallError::App). `content_type` is the [request's](Request::content_type), and `error` of the
    /// type that the service's methods fail with. The caller of a method without one gets [`ErrorKind::BadReply`].
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

    /// Whether this is the service's own error rather than a value.
    pub fn is_error(&self) -> bool {
        self.outcome == Outcome::Error
    }

    /// What the body's bytes are.
    pub fn content_type(&self) -> ContentType {
        self.content_type
    }

    /// The encoded value or error.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The headers of the reply.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The headers of the reply, to add to them.
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
