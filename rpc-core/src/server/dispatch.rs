//! What a generated dispatcher is made of: from a request to a handler's method and back to a response.

use std::any::{Any, type_name};
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;

use futures_util::FutureExt;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tracing::{Span, error};

use crate::cancellation::Cancellation;
use crate::client::DEFAULT_TIMEOUT;
use crate::codec::{self, ContentType};
use crate::context::Context;
use crate::definition::{Method, Queues, Service};
use crate::error::{BoxError, ErrorKind, RpcError};
use crate::exchange::Returns;
use crate::message::{Request, Response};
use crate::queue::QueueOptions;
use crate::service::{ResponseFuture, RpcService};

/// A generated dispatcher: routes requests to the methods of a handler.
///
/// Implemented by `#[rpc]` for the dispatcher of a trait; not to be implemented by hand.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a dispatcher",
    note = "wrap the handler in the dispatcher that `#[rpc]` generates: for `trait Fib`, `FibDispatcher::new(handler)`"
)]
pub trait Dispatch:
    tower_service::Service<Request, Response = Response, Error = RpcError, Future = ResponseFuture>
    + Clone
    + Send
    + Sync
    + 'static
{
    #[doc(hidden)]
    fn dispatcher(&self) -> &dyn DispatcherInfo;
}

/// The route from a request to a method of the handler `H`. A dispatcher has one for every handler that implements its trait.
pub trait Route<H> {
    /// Runs the method.
    fn route(invocation: Invocation<H>) -> ResponseFuture;
}

/// A handler of the service of the dispatcher `D`: one that `D` has a [`Route`] to, because it implements the trait.
///
/// The constructor alone asks for this. A dispatcher of anything else is a [`Dispatch`] nevertheless, so that the compiler reports one
/// mistake once, where the handler is named.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not implement the trait of `{D}`",
    label = "not a handler of this service",
    note = "`new` takes a value whose type implements the trait that `#[rpc]` is on, as in `impl Fib for Calculator`",
    note = "`from` takes an `Arc` of such a value, which the rest of the program may keep: `FibDispatcher::from(arc)`"
)]
pub trait Handler<D>: Sized {
    /// [`Route::route`] of the dispatcher.
    fn route(invocation: Invocation<Self>) -> ResponseFuture;
}

#[diagnostic::do_not_recommend]
impl<H, D: Route<H>> Handler<D> for H {
    fn route(invocation: Invocation<H>) -> ResponseFuture {
        D::route(invocation)
    }
}

/// A dispatcher, or one with tower layers around it: what a server can serve.
///
/// The trait is implemented for every such service and is not to be implemented by hand.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be served",
    label = "not a dispatcher",
    note = "wrap the handler in the dispatcher that `#[rpc]` generates: for `trait Fib`, `FibDispatcher::new(handler)`",
    note = "with the layers around it, it has to be `Clone` and `Sync`: give one that is not, such as a rate limit, to `layered_service` with a tower `BufferLayer` around it"
)]
pub trait Serve: RpcService + Sync {}

#[diagnostic::do_not_recommend]
impl<S: RpcService + Sync> Serve for S {}

/// A dispatcher inside of a service, as a server sees it.
pub(super) struct Found {
    /// The name of the generated type.
    pub(super) type_name: &'static str,
    pub(super) definition: &'static Service,
    pub(super) queues: Vec<String>,
    pub(super) queue_options: QueueOptions,
}

thread_local! {
    /// True while a service is cloned to see which dispatchers are inside.
    static SEARCHING: Cell<bool> = const { Cell::new(false) };
    static FOUND: RefCell<Vec<Found>> = const { RefCell::new(Vec::new()) };
}

/// Finds the dispatchers inside of a service, whatever layers are around them. The types of layers are unknown here and need not let
/// a request through, but they are `Clone`, and a clone of a layer clones what it holds. Layers whose clones share one service, such
/// as `BufferLayer`, hide it.
pub(super) fn found_in(service: &impl Clone) -> Vec<Found> {
    /// Ends the search, even if the clone panics.
    struct Search;
    impl Drop for Search {
        fn drop(&mut self) {
            SEARCHING.set(false);
        }
    }
    SEARCHING.set(true);
    let search = Search;
    let clone = service.clone();
    drop(search);
    drop(clone);
    FOUND.take()
}

/// What a server asks a dispatcher.
pub trait DispatcherInfo {
    /// What the trait says.
    fn definition(&self) -> &'static Service;

    /// The queues to serve, each once.
    fn queues(&self) -> Vec<String>;

    /// How they are declared.
    fn queue_options(&self) -> &QueueOptions;
}

/// The inside of a generated dispatcher.
pub struct Dispatcher<H> {
    handler: Arc<H>,
    route: fn(Invocation<H>) -> ResponseFuture,
    definition: &'static Service,
    queues: Queues,
    queue_options: Arc<QueueOptions>,
}

impl<H> Dispatcher<H> {
    /// Routes to `handler`; serves the queues that the trait names.
    pub fn new<D>(handler: impl Into<Arc<H>>, definition: &'static Service) -> Self
    where
        H: Handler<D>,
    {
        Self {
            handler: handler.into(),
            route: H::route,
            definition,
            queues: Queues::of(definition),
            queue_options: Arc::default(),
        }
    }

    /// Serves another queue than the trait's; methods with a queue of their own keep it.
    #[must_use]
    pub fn with_queue(mut self, queue: impl Into<String>) -> Self {
        self.queues = self.queues.with_common(queue.into());
        self
    }

    /// Serves queues whose names begin with this.
    #[must_use]
    pub fn with_queue_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.queues = self.queues.with_prefix(prefix.into());
        self
    }

    /// Declares the queues with options.
    #[must_use]
    pub fn with_queue_options(mut self, options: QueueOptions) -> Self {
        self.queue_options = Arc::new(options);
        self
    }

    /// A clone, as part of one of a generated dispatcher `D`.
    #[must_use]
    pub fn clone_within<D>(&self) -> Self {
        if SEARCHING.get() {
            FOUND.with_borrow_mut(|found| {
                found.push(Found {
                    type_name: type_name::<D>(),
                    definition: self.definition,
                    queues: self.queues(),
                    queue_options: self.queue_options.as_ref().clone(),
                });
            });
        }
        Self {
            handler: self.handler.clone(),
            route: self.route,
            definition: self.definition,
            queues: self.queues.clone(),
            queue_options: self.queue_options.clone(),
        }
    }

    /// Runs the method that a request is for, whichever of the queues it came through.
    pub fn call(&self, request: Request) -> ResponseFuture {
        match self.definition.resolve(request.method()) {
            Some(method) => (self.route)(Invocation {
                handler: self.handler.clone(),
                method,
                request,
            }),
            None => refuse(self.unknown_method(&request)),
        }
    }

    fn unknown_method(&self, request: &Request) -> RpcError {
        let service = self.definition.name;
        RpcError::new(
            ErrorKind::UnknownMethod,
            match request.method() {
                Some(name) => format!("service {service} has no method '{name}'"),
                None => {
                    format!("the request names no method, and service {service} has no default one")
                }
            },
        )
    }
}

impl<H> DispatcherInfo for Dispatcher<H> {
    fn definition(&self) -> &'static Service {
        self.definition
    }

    fn queues(&self) -> Vec<String> {
        let queues = self.queues.distinct().into_iter();
        queues.map(Cow::into_owned).collect()
    }

    fn queue_options(&self) -> &QueueOptions {
        &self.queue_options
    }
}

impl<H> fmt::Debug for Dispatcher<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dispatcher")
            .field("service", &self.definition.name)
            .field("queues", &self.queues)
            .finish_non_exhaustive()
    }
}

/// A request that has found its method.
pub struct Invocation<H> {
    handler: Arc<H>,
    method: &'static Method,
    request: Request,
}

impl<H> fmt::Debug for Invocation<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invocation")
            .field("method", &self.method.name)
            .finish_non_exhaustive()
    }
}

impl<H: Send + Sync + 'static> Invocation<H> {
    /// The method's name on the wire.
    pub fn method(&self) -> &'static str {
        self.method.name
    }

    /// Runs an `async` handler, until the deadline at most.
    pub fn run<const FALLIBLE: bool, A, T, C, F>(self, call: C) -> ResponseFuture
    where
        A: DeserializeOwned + Send + 'static,
        T: Returns<FALLIBLE>,
        C: FnOnce(Arc<H>, Context, A) -> F + Send + 'static,
        F: Future<Output = T> + Send,
    {
        ResponseFuture::new(async move {
            let Ready {
                handler,
                context,
                arguments,
                content_type,
                limit,
            } = self.prepare::<A>()?;
            let current = context.clone();
            let handling = pin!(async {
                let answer = call(handler, context, arguments).await;
                answer.into_response(content_type)
            });
            limit.run(current, handling).await
        })
    }

    /// Runs a `blocking` handler on the blocking pool.
    ///
    /// A thread cannot be stopped, but it can ask its context. For a request from a broker this waits beyond the deadline, so
    /// that the server's concurrency limit stays true; the caller has given up by then, which its own client told it.
    pub fn run_blocking<const FALLIBLE: bool, A, T, C>(self, call: C) -> ResponseFuture
    where
        A: DeserializeOwned + Send + 'static,
        T: Returns<FALLIBLE>,
        C: FnOnce(&H, Context, A) -> T + Send + 'static,
    {
        ResponseFuture::new(async move {
            let Ready {
                handler,
                context,
                arguments,
                content_type,
                limit,
            } = self.prepare::<A>()?;
            let stopped = limit.cancellation.on_drop();
            let (current, span) = (context.clone(), Span::current());
            let handling = tokio::task::spawn_blocking(move || {
                let current = context.clone();
                span.in_scope(|| current.sync_scope(|| call(&handler, context, arguments)))
            });
            let joined = match limit.origin {
                Origin::Direct => limit.apply(handling).await?,
                Origin::Broker => handling.await,
            };
            stopped.finish();
            match joined {
                Ok(value) => {
                    let mut response = value.into_response(content_type)?;
                    response.headers = current.take_reply_headers();
                    Ok(response)
                }
                Err(error) if error.is_panic() => {
                    Err(panicked("the handler", &*error.into_panic()))
                }
                Err(error) => Err(RpcError::new(
                    ErrorKind::Cancelled,
                    "the server's runtime is shutting down",
                )
                .with_source(error)),
            }
        })
    }

    /// Refuses a method that the definition has and the generated code does not, which the macro rules out.
    pub fn unknown_method(self) -> ResponseFuture {
        refuse(RpcError::new(
            ErrorKind::UnknownMethod,
            format!("method '{}' has no handler", self.method.name),
        ))
    }

    /// Decodes the arguments and checks that somebody still waits for the answer.
    fn prepare<A: DeserializeOwned>(mut self) -> Result<Ready<H, A>, RpcError> {
        let content_type = self.request.0.content_type;
        let body = &self.request.0.body;
        let arguments = codec::decode_arguments(body, content_type, self.method.arguments)
            .map_err(|cause| undecodable(&self.request, self.method, &cause))?;
        let limit = Limit::begin(&mut self.request)?;
        Ok(Ready {
            handler: self.handler,
            context: Context::of(&mut self.request, self.method.name, limit.deadline),
            arguments,
            content_type,
            limit,
        })
    }
}

fn undecodable(request: &Request, method: &Method, cause: &BoxError) -> RpcError {
    let (service, method) = (request.0.service, method.name);
    RpcError::new(
        ErrorKind::BadRequest,
        format!("the arguments of {service}.{method} could not be decoded: {cause}"),
    )
}

/// A request that is ready to run.
struct Ready<H, A> {
    handler: Arc<H>,
    context: Context,
    arguments: A,
    content_type: ContentType,
    limit: Limit,
}

type Answer = Result<Response, RpcError>;

/// A handler that runs, and encodes what it returns.
type Handling<'a> = dyn Future<Output = Answer> + Send + 'a;

/// How long a handler may run, and who says so.
pub(super) struct Limit {
    deadline: Option<Instant>,
    cancellation: Cancellation,
    origin: Origin,
}

/// Where a request came from.
#[derive(Clone, Copy)]
enum Origin {
    /// From a generated client in this process: this is also the caller's side, whose calls always end.
    Direct,
    /// From a broker: the caller has a clock of its own.
    Broker,
}

impl Limit {
    /// The limit of a request whose handler is about to run, if somebody still waits for that.
    fn begin(request: &mut Request) -> Result<Self, RpcError> {
        let limit = Self::of(request);
        if limit
            .deadline
            .is_some_and(|deadline| deadline <= Instant::now())
        {
            return Err(limit.passed().not_executed());
        }
        if limit.cancellation.is_cancelled() {
            return Err(dropped().not_executed());
        }
        limit.cancellation.begin();
        Ok(limit)
    }

    fn of(request: &mut Request) -> Self {
        let (origin, deadline) = match &request.0.delivery {
            Some(_) => (Origin::Broker, request.0.deadline),
            None => {
                let deadline = request.deadline_or(DEFAULT_TIMEOUT, Instant::now());
                if let Some(journey) = &request.0.journey {
                    journey.arrived(deadline);
                }
                (Origin::Direct, Some(deadline))
            }
        };
        let delivery = request.0.delivery.get_or_insert_default();
        Self {
            deadline,
            cancellation: delivery.cancellation.clone(),
            origin,
        }
    }

    /// That of a request from a broker.
    pub(super) fn of_broker(request: &Request, cancellation: Cancellation) -> Self {
        Self {
            deadline: request.0.deadline,
            cancellation,
            origin: Origin::Broker,
        }
    }

    /// Runs the layers around a handler, which may hold a request back, until nobody waits for it. What the handler has begun
    /// it ends itself.
    pub(super) async fn apply_until_begun<F: Future>(
        &self,
        work: F,
    ) -> Result<F::Output, RpcError> {
        let mut work = pin!(work);
        match self.apply(&mut work).await {
            Ok(output) => Ok(output),
            Err(_) if self.cancellation.has_begun() => Ok(work.await),
            Err(error) => Err(error.not_executed()),
        }
    }

    /// Runs an `async` handler in its context. One for all methods: what is generic is compiled for each.
    async fn run(&self, context: Context, handling: Pin<&mut Handling<'_>>) -> Answer {
        let stopped = self.cancellation.on_drop();
        let handling = context.scope_future(handling);
        let answer = self
            .apply(AssertUnwindSafe(handling).catch_unwind())
            .await?;
        stopped.finish();
        let mut response = answer.map_err(|panic| panicked("the handler", &*panic))??;
        response.headers = context.take_reply_headers();
        Ok(response)
    }

    /// Runs a handler until it ends, its deadline passes or its caller drops the call.
    async fn apply<F: Future>(&self, handling: F) -> Result<F::Output, RpcError> {
        let deadline = async {
            match self.deadline {
                None => std::future::pending().await,
                Some(deadline) => tokio::time::sleep_until(deadline).await,
            }
        };
        tokio::select! {
            biased;
            output = handling => Ok(output),
            () = deadline => Err(self.passed()),
            () = self.cancellation.cancelled() => Err(dropped()),
        }
    }

    fn passed(&self) -> RpcError {
        match self.origin {
            Origin::Direct => RpcError::new(ErrorKind::Timeout, "no answer before the deadline"),
            Origin::Broker => RpcError::new(
                ErrorKind::DeadlineExceeded,
                "the request's deadline had passed by the server's clock",
            ),
        }
    }
}

fn refuse(error: RpcError) -> ResponseFuture {
    ResponseFuture::ready(Err(error))
}

/// The fault of a call that its caller has dropped, which therefore hardly anybody receives.
fn dropped() -> RpcError {
    RpcError::new(ErrorKind::Cancelled, "the caller has dropped the call")
}

/// A panic as a fault. What the panic said stays on the server, in its log, within the span of the request.
pub(crate) fn panicked(who: &str, panic: &(dyn Any + Send)) -> RpcError {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    error!(panic = text, "{who} panicked");
    RpcError::new(
        ErrorKind::Panicked,
        format!("{who} panicked; the server's log says why"),
    )
}
