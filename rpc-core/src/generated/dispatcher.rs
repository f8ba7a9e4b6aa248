//! Implementation of generated dispatchers: from a request to a handler's method and back to a response.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use futures_util::stream;
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument, Span};

use super::emitter::{Emission, Emitter, Encoders};
use super::inputs::{Inputs, no_streams};
use super::types::SentReturn;
use crate::codec::{self, ContentType};
use crate::context::{Context, ExecutionLimit, panic_fault};
use crate::definition::{Method, Queues, Service};
use crate::error::{BoxError, ErrorKind, RpcError};
use crate::instances::ServiceInfo;
use crate::instances::description::{DescribedMethod, Side, describe};
use crate::message::{AnswerSlot, Request, Response};
use crate::queue::QueueOptions;
use crate::server::{DispatcherInfo, report_dispatcher};
use crate::service::ResponseFuture;

/// Id of the only instance in the direct form.
const DIRECT: &str = "direct";

/// Routes from requests to the methods of a handler `H`. A dispatcher implements this trait for all handlers of its service.
pub trait Route<H> {
    /// Runs the method of an invocation.
    fn route(invocation: Invocation<H>) -> ResponseFuture;

    /// Returns the types of each method, in the order of the definition.
    fn types() -> Vec<DescribedMethod>;
}

/// A handler of the service of the dispatcher `D`: a type that implements the trait, so that `D` has a [`Route`] to it.
///
/// Only the constructor requires this. A dispatcher of any other type implements `Dispatch` as well, so that the compiler reports the
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

    /// [`Route::types`] of the dispatcher.
    fn types() -> Vec<DescribedMethod>;
}

#[diagnostic::do_not_recommend]
impl<H, D: Route<H>> Handler<D> for H {
    fn route(invocation: Invocation<H>) -> ResponseFuture {
        D::route(invocation)
    }

    fn types() -> Vec<DescribedMethod> {
        D::types()
    }
}

/// Implementation of a generated dispatcher.
pub struct Dispatcher<H> {
    handler: Arc<H>,
    route: fn(Invocation<H>) -> ResponseFuture,
    types: fn() -> Vec<DescribedMethod>,
    definition: &'static Service,
    /// The version, if it is not the trait's.
    version: Option<Arc<str>>,
    queues: Queues,
    queue_options: Arc<QueueOptions>,
}

impl<H> Dispatcher<H> {
    /// Routes requests to `handler`; serves the queues that the trait names.
    pub fn new<D>(handler: impl Into<Arc<H>>, definition: &'static Service) -> Self
    where
        H: Handler<D>,
    {
        Self {
            handler: handler.into(),
            route: H::route,
            types: H::types,
            definition,
            version: None,
            queues: Queues::of(definition),
            queue_options: Arc::default(),
        }
    }

    /// Replaces the trait's queue; methods with a queue of their own keep theirs.
    #[must_use]
    pub fn with_queue(mut self, queue: impl Into<String>) -> Self {
        self.queues = self.queues.with_common(queue.into());
        self
    }

    /// Puts a prefix before the name of every queue.
    #[must_use]
    pub fn with_queue_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.queues = self.queues.with_prefix(prefix.into());
        self
    }

    /// Sets the options with which the queues are declared.
    #[must_use]
    pub fn with_queue_options(mut self, options: QueueOptions) -> Self {
        self.queue_options = Arc::new(options);
        self
    }

    /// Replaces the trait's version.
    #[must_use]
    pub fn with_version(mut self, version: impl Into<String>) -> Self {
        self.version = Some(version.into().into());
        self
    }

    /// Clones the implementation of the generated dispatcher `D`.
    #[must_use]
    pub fn clone_within<D>(&self) -> Self {
        report_dispatcher::<D>(self);
        Self {
            handler: self.handler.clone(),
            route: self.route,
            types: self.types,
            definition: self.definition,
            version: self.version.clone(),
            queues: self.queues.clone(),
            queue_options: self.queue_options.clone(),
        }
    }

    /// Runs the method that a request names, for requests from all queues of the service.
    pub fn call(&self, mut request: Request) -> ResponseFuture {
        match request.0.answers.take() {
            None => self.run(request),
            Some(slot) => answer_alone(*slot, self.run(request)),
        }
    }

    fn run(&self, request: Request) -> ResponseFuture {
        let definition = self.definition;
        let resolved = request.0.definition;
        let position = resolved
            .and_then(|method| definition.position(method))
            // The request was made for another trait, or the service has no such method.
            .or_else(|| definition.position_of_name(request.method()));
        match position {
            Some(position) => (self.route)(Invocation {
                handler: self.handler.clone(),
                method: definition.methods[position],
                position,
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

    fn describe(&self) -> ServiceInfo {
        self.describe_for(Side::Server)
    }

    fn describe_client(&self) -> ServiceInfo {
        self.describe_for(Side::Client)
    }
}

impl<H> Dispatcher<H> {
    fn describe_for(&self, side: Side) -> ServiceInfo {
        let version = self.version.as_deref();
        describe(
            self.definition,
            &self.queues,
            version,
            &(self.types)(),
            side,
        )
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

/// A request with its method and its handler.
pub struct Invocation<H> {
    handler: Arc<H>,
    method: &'static Method,
    /// Index of the method in the definition of the service.
    position: usize,
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
    /// Runs the route of the method; `routes` holds one for each method, in the order of the definition.
    pub fn route(self, routes: &[fn(Self) -> ResponseFuture]) -> ResponseFuture {
        match routes.get(self.position) {
            Some(route) => route(self),
            None => refuse(RpcError::new(
                ErrorKind::UnknownMethod,
                format!("method '{}' has no handler", self.method.name),
            )),
        }
    }

    /// Runs an `async` handler until its deadline.
    pub fn run<const FALLIBLE: bool, I, T, C, F>(self, call: C) -> ResponseFuture
    where
        I: Inputs,
        T: SentReturn<FALLIBLE>,
        C: FnOnce(Arc<H>, Context, I::Received) -> F + Send + 'static,
        F: Future<Output = T> + Send,
    {
        ResponseFuture::new(async move {
            let Ready {
                handler,
                context,
                arguments,
                content_type,
                limit,
            } = self.prepare::<I>()?;
            let current = context.clone();
            let handling = pin!(async {
                let returned = call(handler, context, arguments).await;
                returned.into_response(content_type)
            });
            limit.run(current, handling).await
        })
    }

    /// Runs a `blocking` handler on the blocking pool.
    ///
    /// A thread cannot be stopped, but the handler can ask its context if the call is cancelled.
    pub fn run_blocking<const FALLIBLE: bool, I, T, C>(self, call: C) -> ResponseFuture
    where
        I: Inputs,
        T: SentReturn<FALLIBLE>,
        C: FnOnce(&H, Context, I::Received) -> T + Send + 'static,
    {
        ResponseFuture::new(async move {
            let Ready {
                handler,
                context,
                arguments,
                content_type,
                limit,
            } = self.prepare::<I>()?;
            let stopped = limit.cancel_on_drop();
            let (current, span) = (context.clone(), Span::current());
            let handling = tokio::task::spawn_blocking(move || {
                let current = context.clone();
                span.in_scope(|| current.sync_scope(|| call(&handler, context, arguments)))
            });
            let joined = limit.apply_to_thread(handling).await?;
            stopped.disarm();
            match joined {
                Ok(returned) => {
                    let mut response = returned.into_response(content_type)?;
                    response.headers = current.take_reply_headers();
                    Ok(response)
                }
                Err(error) if error.is_panic() => {
                    Err(panic_fault("the handler", &*error.into_panic()))
                }
                Err(error) => Err(RpcError::new(
                    ErrorKind::Cancelled,
                    "the server's runtime is shutting down",
                )
                .with_source(error)),
            }
        })
    }

    /// Runs a handler that returns a stream, and drives the stream. `call` returns the future of both, which owns the handler.
    pub fn run_streaming<I, T, E, C, F>(self, encoders: Encoders<T, E>, call: C) -> ResponseFuture
    where
        I: Inputs,
        T: 'static,
        E: 'static,
        C: FnOnce(Arc<H>, Context, I::Received, Emitter<T, E>) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        ResponseFuture::new(async move {
            if self.request.0.streams.is_none() {
                return Err(no_streams(&self.request));
            }
            let Ready {
                handler,
                context,
                arguments,
                content_type,
                limit,
            } = self.prepare::<I>()?;
            let next = Arc::default();
            let emitter = Emitter::new(encoders, content_type, &next);
            let handling = call(handler, context.clone(), arguments, emitter);
            let emission = Emission::new(handling, next, context, &limit);
            emission.into_response(content_type, &limit).await
        })
    }

    /// Decodes the arguments and checks that the caller still waits for the response.
    fn prepare<I: Inputs>(mut self) -> Result<Ready<H, I::Received>, RpcError> {
        let content_type = self.request.0.content_type;
        let body = &self.request.0.body;
        let arguments = codec::decode_arguments(body, content_type, self.method.arguments)
            .map_err(|cause| undecodable(&self.request, self.method, &cause))?;
        let limit = ExecutionLimit::begin(&mut self.request)?;
        let arguments = I::receive(arguments, &self.request)?;
        let deadline = match self.request.0.streams {
            None => limit.deadline(),
            // The time for the first answer is no deadline.
            Some(_) => self.request.0.deadline.moment(),
        };
        Ok(Ready {
            handler: self.handler,
            context: Context::of(&mut self.request, self.method.name, deadline),
            arguments,
            content_type,
            limit,
        })
    }
}

fn undecodable(request: &Request, method: &Method, cause: &BoxError) -> RpcError {
    let (service, method) = (request.service(), method.name);
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
    limit: ExecutionLimit,
}

/// Answers a call to all instances in the direct form, with the result of the only handler. The handler runs from now on, like the handlers
/// of instances, until the answers are dropped.
fn answer_alone(slot: AnswerSlot, handling: ResponseFuture) -> ResponseFuture {
    ResponseFuture::new(async move {
        let handling = AbortOnDropHandle::new(tokio::spawn(handling.in_current_span()));
        slot.fill(Box::pin(stream::once(async move {
            let result = handling.await.unwrap_or_else(|error| {
                let reason = "the runtime is shutting down";
                Err(RpcError::new(ErrorKind::Cancelled, reason).with_source(error))
            });
            (DIRECT.to_owned(), result)
        })));
        Ok(Response::empty())
    })
}

fn refuse(error: RpcError) -> ResponseFuture {
    ResponseFuture::ready(Err(error))
}
