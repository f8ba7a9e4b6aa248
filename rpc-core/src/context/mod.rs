//! The context of the call that a handler works on, and the parts of it that nested calls inherit.

mod builder;
mod execution;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::panic::RefUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tokio::task::futures::TaskLocalFuture;

pub use self::builder::ContextBuilder;
pub(crate) use self::execution::{ExecutionLimit, catching_panics, panic_fault};
use crate::error::{ErrorKind, RpcError};
use crate::headers::{HeaderValue, Headers};
use crate::message::{DeliveryInfo, Request};
use crate::names::TRACE_HEADERS;

tokio::task_local! {
    /// Context of the call that the running code handles.
    static CURRENT: Context;
}

/// Context of a call, for the handler: an argument marked `#[ctx]` receives it.
///
/// Cloning is cheap, and clones share their state: a reply header set on any of them is sent. `Context::default()` is the context of a call
/// without deadline or headers; [`Context::builder`] makes others, for tests that call a handler directly.
///
/// # Inheritance by nested calls
///
/// While a handler runs, its context is [current](Self::current), and every call it makes through a generated client
/// inherits from it, whether over a broker or direct:
///
/// - **the deadline**: the call ends at its own deadline or at the handler's, whichever is earlier. With no time
///   left the call fails at once with [`ErrorKind::Timeout`], and nothing is sent.
/// - **the cancellation**: when the caller drops its call, the handler is dropped and its nested calls with it. Nested calls of a
///   `blocking` handler or of a [scope](Self::scope) end with [`ErrorKind::Cancelled`].
/// - **the headers that propagate**: headers that the caller marked ([`Call::propagating_header`](crate::Call::propagating_header)),
///   or the server ([`ServerBuilder::propagate_header`](crate::ServerBuilder::propagate_header)). They stay marked, so they
///   reach the end of the chain. A header that the nested call sets itself replaces an inherited one of the same name.
///
/// A header that a caller marks reaches services that the caller cannot reach itself. If those services trust a header, remove the header in a
/// layer of the server that faces untrusted callers.
///
/// A call belongs to the handler that polls it first. A call that is polled outside of a handler belongs to the handler that made
/// it, so `tokio::spawn(stock.reserve(item))` inherits. **A task that makes the call itself does not inherit**: after
/// `tokio::spawn(async move { stock.reserve(item).await })` the call has no tenant, no trace and no deadline of the handler's, and
/// no error says so. [`scope`](Self::scope) carries the context into the task:
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
///             // Without `scope` these calls would go on after the caller has gone, for up to 30 seconds.
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
/// A call in the scope of an empty context inherits nothing: `Context::default().scope(call).await`.
#[derive(Clone, Debug, Default)]
pub struct Context(Arc<Inner>);

#[derive(Default)]
struct Inner {
    service: Cow<'static, str>,
    method: Cow<'static, str>,
    deadline: Option<Instant>,
    headers: Headers,
    /// Names of the headers that nested calls send on.
    propagating: BTreeSet<String>,
    delivery: Box<DeliveryInfo>,
    reply_headers: Mutex<Headers>,
}

/// A panic leaves no headers half changed. (The lock itself does not implement this trait.)
impl RefUnwindSafe for Inner {}

impl Context {
    /// Takes the metadata out of a request for a method. The server, or the caller in this process, stops the handler at `deadline`.
    pub(crate) fn of(
        request: &mut Request,
        method: &'static str,
        deadline: Option<tokio::time::Instant>,
    ) -> Self {
        Self(Arc::new(Inner {
            service: request.0.service.clone(),
            method: method.into(),
            deadline: deadline.map(tokio::time::Instant::into_std),
            headers: std::mem::take(&mut request.0.headers),
            propagating: std::mem::take(&mut request.0.propagating),
            delivery: request.0.delivery.take().unwrap_or_default(),
            reply_headers: Mutex::default(),
        }))
    }

    /// Builds a context by hand, for tests that call a handler directly.
    pub fn builder() -> ContextBuilder {
        ContextBuilder(Inner::default())
    }

    /// Returns the context of the call that the running code handles: in a handler, in functions that the handler calls, and in a
    /// [scope](Self::scope). Returns `None` elsewhere, which includes tasks that a handler spawns.
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Self::clone).ok()
    }

    /// Makes this the [current](Self::current) context of a future or a [`Call`](crate::Call), in any task that runs it.
    ///
    /// Every `tokio::spawn` in a handler needs a scope if the spawned code makes calls: `tokio::spawn(cx.scope(async move { … }))`.
    /// Without a scope, those calls silently lose the headers that propagate, such as a tenant, and the handler's trace, deadline and
    /// cancellation.
    ///
    /// # Cancel safety
    ///
    /// Dropping the returned future drops the given one.
    pub fn scope<F: IntoFuture>(&self, future: F) -> impl Future<Output = F::Output> + use<F> {
        CURRENT.scope(self.clone(), async move { future.await })
    }

    /// Like [`scope`](Self::scope), for a value that is a future already.
    pub(crate) fn scope_future<F: Future>(&self, future: F) -> TaskLocalFuture<Self, F> {
        CURRENT.scope(self.clone(), future)
    }

    /// Makes this the [current](Self::current) context while a closure runs, for example on a thread of the blocking pool.
    pub fn sync_scope<T>(&self, run: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(self.clone(), run)
    }

    /// Returns the service's name.
    pub fn service(&self) -> &str {
        &self.0.service
    }

    /// Returns the method's name on the wire.
    pub fn method(&self) -> &str {
        &self.0.method
    }

    /// Returns the moment at which the caller stops waiting, if there is one. A handler that is still running then is stopped, unless it is
    /// `blocking`.
    pub fn deadline(&self) -> Option<Instant> {
        self.0.deadline
    }

    /// Returns the time left until the deadline, zero after the deadline; `None` without a deadline.
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline().map(|deadline| {
            deadline.saturating_duration_since(tokio::time::Instant::now().into_std())
        })
    }

    /// Returns the id that the caller gave the call, in any form.
    pub fn correlation_id(&self) -> Option<&str> {
        self.0.delivery.correlation_id.as_deref()
    }

    /// Returns a header that the caller set.
    pub fn header(&self, name: &str) -> Option<&HeaderValue> {
        self.0.headers.get(name)
    }

    /// Returns a header as a `T`: `&str`, `String`, `bool`, an integer, `f64`, `Bytes`, or a type of your own that implements
    /// `TryFrom<&HeaderValue>`. Returns `None` if there is no such header, or if its value has another type.
    pub fn header_as<'a, T: TryFrom<&'a HeaderValue>>(&'a self, name: &str) -> Option<T> {
        self.0.headers.get_as(name)
    }

    /// Returns all headers that the caller set.
    pub fn headers(&self) -> &Headers {
        &self.0.headers
    }

    /// Returns `true` if calls that the handler makes send this header on.
    pub fn is_propagating(&self, name: &str) -> bool {
        self.0.propagating.contains(name) && self.header(name).is_some()
    }

    /// Sends a header with the reply, for a value and for the service's own error. The caller reads the header through
    /// [`Call::with_headers`](crate::Call::with_headers). A later header of the same name replaces an earlier one.
    ///
    /// See [`Headers`] for the limits of names and values. If a header exceeds them, the caller gets the fault
    /// [`ErrorKind::BadReply`] or [`ErrorKind::TooLarge`] in place of the response. Headers that are set after the handler has returned are not
    /// sent; neither are the headers of a handler that panics or is stopped.
    pub fn set_reply_header(&self, name: impl Into<String>, value: impl Into<HeaderValue>) {
        self.lock_reply_headers().insert(name, value);
    }

    /// Returns the reply headers that have been set, for tests.
    pub fn reply_headers(&self) -> Headers {
        self.lock_reply_headers().clone()
    }

    /// Returns `true` if the request may have run already: the broker delivered it before, to a server that did not finish it, or it was moved
    /// back from a dead-letter queue.
    pub fn redelivered(&self) -> bool {
        self.0.delivery.redelivered
    }

    /// Returns the number of deliveries before this one, to servers that did not finish the request: 0 for a new request, and for a request that
    /// was moved back from a dead-letter queue.
    ///
    /// A request that a stopping server requeues without running it is not counted, unless the request was on its way from a quorum
    /// queue of RabbitMQ 3 when the server stopped reading the queue.
    pub fn delivery_count(&self) -> u32 {
        self.0.delivery.deliveries
    }

    /// Returns `true` if the result is no longer wanted: the caller dropped the call, its deadline has passed, or the server
    /// stops without waiting longer. A `blocking` handler should check this from time to time. An `async` handler is dropped
    /// at that moment.
    ///
    /// A notice tells the server that a caller dropped its call. The notice may come late or, when a connection is lost, not at all.
    pub fn is_cancelled(&self) -> bool {
        self.0.delivery.cancellation.is_cancelled()
            || self
                .remaining()
                .is_some_and(|remaining| remaining.is_zero())
    }

    /// Resolves when [`is_cancelled`](Self::is_cancelled) becomes true, for tasks that a handler starts.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn cancelled(&self) {
        let cancelled = self.0.delivery.cancellation.cancelled();
        match self.deadline() {
            None => cancelled.await,
            // An error is the deadline, one of the two reasons to resolve.
            Some(deadline) => {
                let _ = tokio::time::timeout_at(deadline.into(), cancelled).await;
            }
        }
    }

    /// Returns the name that the caller states for itself, which is not verified.
    pub fn app_id(&self) -> Option<&str> {
        self.0.delivery.app_id.as_deref()
    }

    /// Returns the broker's user that published the request, if the caller stated the user: RabbitMQ refuses a `user_id` that is not
    /// the publisher's own (<https://www.rabbitmq.com/docs/validated-user-id>).
    ///
    /// Returns `None` as well for a request that a server has republished, because a server may not state another user: a redelivered request
    /// of a classic queue, or a request from a dead-letter queue.
    pub fn user_id(&self) -> Option<&str> {
        self.0.delivery.user_id.as_deref()
    }

    pub(crate) fn take_reply_headers(&self) -> Headers {
        std::mem::take(&mut self.lock_reply_headers())
    }

    fn lock_reply_headers(&self) -> MutexGuard<'_, Headers> {
        self.0.reply_headers.lock()
    }
}

/// Inheritance by nested calls.
impl Context {
    /// Gives the request of a nested call the inherited headers, trace and deadline.
    pub(crate) fn hand_on(&self, request: &mut Request) {
        for name in &self.0.propagating {
            if let Some(value) = self.0.headers.get(name) {
                if request.0.headers.get(name).is_none() {
                    request.0.headers.insert(name.clone(), value.clone());
                }
                request.0.propagating.insert(name.clone());
            }
        }
        // The two headers are inherited together: a `tracestate` belongs to its `traceparent`.
        if request.0.headers.get(TRACE_HEADERS[0]).is_none() {
            for name in TRACE_HEADERS {
                if let Some(value) = self.0.headers.get(name) {
                    request.0.headers.insert(name, value.clone());
                }
            }
        }
        let deadline = self.0.deadline.map(tokio::time::Instant::from);
        request.0.deadline.inherit(deadline);
    }

    /// Runs a nested call until the caller drops this call. `inherited` is true if the nested call ends by this call's deadline.
    pub(crate) async fn within<T>(
        &self,
        inherited: bool,
        call: impl Future<Output = Result<T, RpcError>>,
    ) -> Result<T, RpcError> {
        if self.0.delivery.cancellation.is_cancelled() && !self.has_passed() {
            return Err(self.abandoned().not_executed());
        }
        tokio::select! {
            biased;
            answer = call => answer.map_err(|error| self.explained(inherited, error)),
            () = self.dropped() => Err(self.abandoned()),
        }
    }

    /// Waits until the caller has dropped this call, and returns the error of a nested call.
    pub(crate) async fn until_abandoned(self) -> RpcError {
        self.dropped().await;
        self.abandoned()
    }

    fn has_passed(&self) -> bool {
        self.remaining()
            .is_some_and(|remaining| remaining.is_zero())
    }

    /// Resolves when the caller has dropped the call. Nested calls end at the deadline by themselves.
    async fn dropped(&self) {
        self.0.delivery.cancellation.cancelled().await;
        if self.has_passed() {
            std::future::pending::<()>().await;
        }
    }

    /// Error of a nested call after the caller has dropped this call.
    fn abandoned(&self) -> RpcError {
        RpcError::new(
            ErrorKind::Cancelled,
            format!("the call{} that made this one was cancelled", self.shown()),
        )
    }

    /// Explains the error of a nested call that the inherited deadline ended.
    pub(crate) fn explained(&self, inherited: bool, error: RpcError) -> RpcError {
        if error.kind() == ErrorKind::Timeout && inherited && self.has_passed() {
            error.with_note(&format!(
                " (the deadline is inherited from the call{} that made this one)",
                self.shown()
            ))
        } else {
            error
        }
    }

    /// Shows the name of the method, if it is known, for the middle of a sentence.
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
