//! What a handler can know of its call, and what the calls that it makes inherit of it.

mod builder;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::futures::TaskLocalFuture;

pub use self::builder::ContextBuilder;
use crate::error::{ErrorKind, RpcError};
use crate::headers::{HeaderValue, Headers};
use crate::message::{Delivery, Request};
use crate::telemetry::TRACE_HEADERS;

tokio::task_local! {
    /// Of the call that the running code handles.
    static CURRENT: Context;
}

/// The circumstances of a call, for the handler: an argument marked `#[ctx]` receives it.
///
/// Cloning is cheap, and clones are one: a reply header set on any of them is sent. `Context::default()` is that of a call
/// without deadline or headers; [`Context::builder`] makes others, for tests that call a handler directly.
///
/// # What nested calls inherit
///
/// While a handler runs, its context is [current](Self::current), and every call it makes through a generated client
/// inherits from it, whether over a broker or direct:
///
/// - **the deadline**: the call ends at its own, or when the time for the handler is up, whichever is earlier. With no time
///   left it fails at once with [`ErrorKind::Timeout`] and nothing is sent.
/// - **the cancellation**: when the caller drops its call, the handler is dropped and its nested calls with it. Those of a
///   `blocking` handler or of a [scope](Self::scope) end with [`ErrorKind::Cancelled`].
/// - **the headers that propagate**: those that the caller marked ([`Call::propagating_header`](crate::Call::propagating_header)),
///   or the server ([`ServerBuilder::propagate_header`](crate::ServerBuilder::propagate_header)). They stay marked, so they
///   reach the end of the chain. A header of that name that the call sets itself takes the place of the value.
///
/// What a caller marks goes to services that the caller cannot reach itself. If those trust a header, remove it in a layer of
/// the server that faces untrusted callers.
///
/// A call belongs to the handler that polls it first; one that is polled where no call is handled belongs to the handler that made
/// it. So `tokio::spawn(stock.reserve(item))` inherits. **A task that makes the call itself does not**: after
/// `tokio::spawn(async move { stock.reserve(item).await })` the call has no tenant, no trace and no deadline of the handler's, and
/// no error says so. [`scope`](Self::scope) brings the context there:
///
/// ```
/// # use rpc_core::{Context, RpcError, rpc};
/// # #[rpc] pub trait Stock { async fn reserve(item: String) -> bool; }
/// #[rpc]
/// pub trait Orders {
///     async fn place(items: Vec<String>, #[ctx] cx: Context) -> bool;
/// }
///
/// # #[derive(Clone)]
/// struct Shop {
///     stock: StockClient,
/// }
///
/// impl Orders for Shop {
///     async fn place(&self, items: Vec<String>, cx: Context) -> bool {
///         let mut reservations = tokio::task::JoinSet::new();
///         for item in items {
///             let stock = self.stock.clone();
///             // Without `scope` these would go on when the caller has gone, for up to 30 seconds.
///             reservations.spawn(cx.scope(async move { stock.reserve(item).await }));
///         }
///         reservations.join_all().await.into_iter().all(|reserved| reserved.unwrap_or(false))
///     }
/// }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # struct Full;
/// # impl Stock for Full { async fn reserve(&self, _: String) -> bool { true } }
/// # let connection = rpc_core::Connection::open("memory:").await?;
/// # let _server = rpc_core::Server::builder(&connection)
/// #     .service(StockDispatcher::new(Full))
/// #     .service(OrdersDispatcher::new(Shop { stock: StockClient::new(connection.client()) }))
/// #     .build().start().await?;
/// # let orders = OrdersClient::new(connection.client());
/// # assert!(orders.place(vec!["tea".to_owned(), "milk".to_owned()]).await?);
/// # Ok(())
/// # }
/// ```
///
/// A call that is to inherit nothing is made in the scope of an empty context: `Context::default().scope(call).await`.
#[derive(Clone, Debug, Default)]
pub struct Context(Arc<Inner>);

#[derive(Default)]
struct Inner {
    service: Cow<'static, str>,
    method: Cow<'static, str>,
    deadline: Option<Instant>,
    headers: Headers,
    /// The names of those headers that nested calls send on.
    propagating: BTreeSet<String>,
    delivery: Box<Delivery>,
    reply_headers: Mutex<Headers>,
}

impl Context {
    /// Takes the metadata out of a request for a method, which its server, or its caller in this process, stops at
    /// `deadline`.
    pub(crate) fn of(
        request: &mut Request,
        method: &'static str,
        deadline: Option<tokio::time::Instant>,
    ) -> Self {
        Self(Arc::new(Inner {
            service: request.0.service.into(),
            method: method.into(),
            deadline: deadline.map(tokio::time::Instant::into_std),
            headers: std::mem::take(&mut request.0.headers),
            propagating: std::mem::take(&mut request.0.propagating),
            delivery: request.0.delivery.take().unwrap_or_default(),
            reply_headers: Mutex::default(),
        }))
    }

    /// Puts a context together by hand, for tests that call a handler directly.
    pub fn builder() -> ContextBuilder {
        ContextBuilder(Inner::default())
    }

    /// The context of the call that the running code handles: in a handler, in what it calls, and in a
    /// [scope](Self::scope). `None` elsewhere, tasks that a handler spawns included.
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Self::clone).ok()
    }

    /// Makes this the [current](Self::current) context of a future or a [`Call`](crate::Call), in whatever task it is run.
    ///
    /// Every `tokio::spawn` in a handler needs it, if the spawned code makes calls: `tokio::spawn(cx.scope(async move { … }))`.
    /// Without it, those calls silently lose the headers that propagate, such as a tenant, and the handler's trace, deadline and
    /// cancellation.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future that this returns drops the one that it was given.
    pub fn scope<F: IntoFuture>(&self, future: F) -> impl Future<Output = F::Output> + use<F> {
        CURRENT.scope(self.clone(), async move { future.await })
    }

    /// As [`scope`](Self::scope), for a future that needs not be made inside.
    pub(crate) fn scope_future<F: Future>(&self, future: F) -> TaskLocalFuture<Self, F> {
        CURRENT.scope(self.clone(), future)
    }

    /// Makes this the [current](Self::current) context while a closure runs, on a thread of the blocking pool for instance.
    pub fn sync_scope<T>(&self, run: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(self.clone(), run)
    }

    /// The service's name.
    pub fn service(&self) -> &str {
        &self.0.service
    }

    /// The method's name on the wire.
    pub fn method(&self) -> &str {
        &self.0.method
    }

    /// When the caller stops waiting. A handler that is still running then is stopped, unless it is `blocking`.
    pub fn deadline(&self) -> Option<Instant> {
        self.0.deadline
    }

    /// The time left until the deadline; zero when it has passed.
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline().map(|deadline| {
            deadline.saturating_duration_since(tokio::time::Instant::now().into_std())
        })
    }

    /// The id that the caller gave the call, in whatever form.
    pub fn correlation_id(&self) -> Option<&str> {
        self.0.delivery.correlation_id.as_deref()
    }

    /// A header that the caller set.
    pub fn header(&self, name: &str) -> Option<&HeaderValue> {
        self.0.headers.get(name)
    }

    /// A header as a `T`: `&str`, `String`, `bool`, an integer, `f64`, `Bytes`, or a type of your own that implements
    /// `TryFrom<&HeaderValue>`. `None` if there is no such header, or it is none of that type.
    pub fn header_as<'a, T: TryFrom<&'a HeaderValue>>(&'a self, name: &str) -> Option<T> {
        self.0.headers.get_as(name)
    }

    /// All headers that the caller set.
    pub fn headers(&self) -> &Headers {
        &self.0.headers
    }

    /// Whether calls that the handler makes send this header on.
    pub fn is_propagating(&self, name: &str) -> bool {
        self.0.propagating.contains(name) && self.header(name).is_some()
    }

    /// Sends a header with the reply, be it a value or the service's own error; the caller reads it through
    /// [`Call::with_headers`](crate::Call::with_headers). A later one of that name takes its place.
    ///
    /// See [`Headers`] for the limits of names and values. Beyond them the caller of a server gets the fault
    /// [`ErrorKind::BadReply`], or [`ErrorKind::TooLarge`], in place of the reply. What is set after the handler has returned is not sent, and neither are
    /// the headers of a handler that panics or is stopped.
    pub fn set_reply_header(&self, name: impl Into<String>, value: impl Into<HeaderValue>) {
        self.lock_reply_headers().insert(name, value);
    }

    /// The reply's headers, as far as they are set: for tests.
    pub fn reply_headers(&self) -> Headers {
        self.lock_reply_headers().clone()
    }

    /// Returns `true` if the request may have run already: the broker handed it out before, to a server that did not finish it, or it was
    /// moved back from a dead-letter queue.
    pub fn redelivered(&self) -> bool {
        self.0.delivery.redelivered
    }

    /// The number of deliveries before this one, to servers that did not finish it: 0 for a new one, and for one that was
    /// moved back from a dead-letter queue.
    ///
    /// What a stopping server gives back unrun does not count, but for requests that were on their way from a quorum queue of
    /// RabbitMQ 3 when the server stopped to read it.
    pub fn delivery_count(&self) -> u32 {
        self.0.delivery.deliveries
    }

    /// Whether nobody waits for the answer any more: the caller dropped the call, its deadline has passed, or the server
    /// stops without waiting longer. What a `blocking` handler asks from time to time; an `async` one is dropped then.
    ///
    /// That a caller dropped its call is told by a notice, which may come late or, when a connection is lost, not at all.
    pub fn is_cancelled(&self) -> bool {
        self.0.delivery.cancellation.is_cancelled()
            || self
                .remaining()
                .is_some_and(|remaining| remaining.is_zero())
    }

    /// Resolves when [`is_cancelled`](Self::is_cancelled) becomes true: for tasks that a handler starts.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn cancelled(&self) {
        let cancelled = self.0.delivery.cancellation.cancelled();
        match self.deadline() {
            None => cancelled.await,
            // An error is the deadline, which is one reason of the two.
            Some(deadline) => {
                let _ = tokio::time::timeout_at(deadline.into(), cancelled).await;
            }
        }
    }

    /// The name by which the caller calls itself, which is not verified.
    pub fn app_id(&self) -> Option<&str> {
        self.0.delivery.app_id.as_deref()
    }

    /// The broker's user that published the request, if the caller stated it: RabbitMQ refuses a `user_id` that is not
    /// the publisher's own (<https://www.rabbitmq.com/docs/validated-user-id>).
    ///
    /// `None` as well for a request that a server has published anew, which may state no other user: one of a classic queue that is
    /// delivered again, or one that comes from a dead-letter queue.
    pub fn user_id(&self) -> Option<&str> {
        self.0.delivery.user_id.as_deref()
    }

    pub(crate) fn take_reply_headers(&self) -> Headers {
        std::mem::take(&mut self.lock_reply_headers())
    }

    fn lock_reply_headers(&self) -> MutexGuard<'_, Headers> {
        // Nothing under the lock leaves the headers half changed.
        self.0
            .reply_headers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// What nested calls inherit.
impl Context {
    /// Gives a request what it inherits.
    pub(crate) fn hand_on(&self, request: &mut Request) {
        for name in &self.0.propagating {
            if let Some(value) = self.0.headers.get(name) {
                if request.0.headers.get(name).is_none() {
                    request.0.headers.insert(name.clone(), value.clone());
                }
                request.0.propagating.insert(name.clone());
            }
        }
        // Both or none: a state belongs to its trace.
        if request.0.headers.get(TRACE_HEADERS[0]).is_none() {
            for name in TRACE_HEADERS {
                if let Some(value) = self.0.headers.get(name) {
                    request.0.headers.insert(name, value.clone());
                }
            }
        }
        request.0.parent = Some(self.clone());
    }

    /// Runs a nested call, whose own deadline is given, for as long as somebody waits for what it is part of.
    pub(crate) async fn within<T>(
        &self,
        own: Option<tokio::time::Instant>,
        call: impl Future<Output = Result<T, RpcError>>,
    ) -> Result<T, RpcError> {
        if self.0.delivery.cancellation.is_cancelled() && !self.has_passed() {
            return Err(self.abandoned().not_executed());
        }
        tokio::select! {
            biased;
            answer = call => answer.map_err(|error| self.explained(own, error)),
            () = self.dropped() => Err(self.abandoned()),
        }
    }

    fn has_passed(&self) -> bool {
        self.remaining()
            .is_some_and(|remaining| remaining.is_zero())
    }

    /// Resolves when the caller has dropped the call. When the deadline has passed, nested calls see that for themselves.
    async fn dropped(&self) {
        self.0.delivery.cancellation.cancelled().await;
        if self.has_passed() {
            std::future::pending::<()>().await;
        }
    }

    /// The error of a nested call when the caller of this one has gone.
    fn abandoned(&self) -> RpcError {
        RpcError::new(
            ErrorKind::Cancelled,
            format!(
                "the call{} of which this one is part was cancelled",
                self.shown()
            ),
        )
    }

    /// The error of a nested call; says so if the inherited deadline ended it and not its own.
    fn explained(&self, own: Option<tokio::time::Instant>, error: RpcError) -> RpcError {
        let is_inherited = self
            .deadline()
            .is_some_and(|inherited| own.is_none_or(|own| inherited < own.into_std()));
        if error.kind() == ErrorKind::Timeout && is_inherited && self.has_passed() {
            error.with_note(&format!(
                " (the deadline is that of the call{} of which this one is part)",
                self.shown()
            ))
        } else {
            error
        }
    }

    /// The name of the method, behind a space, if it is known.
    fn shown(&self) -> String {
        if self.method().is_empty() {
            String::new()
        } else {
            format!(" of {}.{}", self.service(), self.method())
        }
    }
}

impl fmt::Debug for Inner {
    /// Leaves out the values of headers, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("Inner")
            .field("service", &self.service)
            .field("method", &self.method)
            .field("deadline", &self.deadline)
            .field("headers", &names)
            .field("propagating", &self.propagating)
            .field("delivery", &self.delivery)
            .finish_non_exhaustive()
    }
}
