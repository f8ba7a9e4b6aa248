//! The tower service of requests: the interface that clients, dispatchers and the layers around them share.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tower_service::Service;

use crate::error::{BoxError, RpcError};
use crate::message::{Request, Response};

/// A service that a generated client can call through: a [`Client`](crate::Client), a dispatcher, or either with tower layers
/// around it.
///
/// A blanket implementation covers all such services; there is no need to implement the trait by hand. Generic code that calls a
/// generated client, or spawns such calls, needs no other bound.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot carry RPC calls",
    label = "not a cloneable service of `rpc_core::Request`",
    note = "use `connection.client()`, a generated dispatcher, or one of them with tower layers around it",
    note = "a service with layers has to be `Clone`: put a tower `BufferLayer` around a layer that is not, such as a rate limit, \
            as in `ServiceBuilder::new().buffer(100).rate_limit(5, Duration::from_secs(1))`",
    note = "the service that a layer of your own makes must implement `Service<Request, Response = Response>`, with an error that converts into `BoxError` and a future that is `Send`"
)]
pub trait RpcService:
    Service<Request, Response = Response, Error: Into<BoxError>, Future: Send + 'static>
    + Clone
    + Send
    + 'static
{
}

#[diagnostic::do_not_recommend]
impl<S> RpcService for S where
    S: Service<Request, Response = Response, Error: Into<BoxError>, Future: Send + 'static>
        + Clone
        + Send
        + 'static
{
}

/// The future of a client or a dispatcher.
pub struct ResponseFuture(Pin<Box<dyn Future<Output = Result<Response, RpcError>> + Send>>);

impl ResponseFuture {
    pub(crate) fn new(
        future: impl Future<Output = Result<Response, RpcError>> + Send + 'static,
    ) -> Self {
        Self(Box::pin(future))
    }

    /// Boxes the future of any service. A future of this type is returned as it is.
    pub(crate) fn of<E: Into<BoxError>>(
        future: impl Future<Output = Result<Response, E>> + Send + 'static,
    ) -> Self {
        let mut future = Some(future);
        let same = (&mut future as &mut dyn Any).downcast_mut::<Option<Self>>();
        match same.and_then(Option::take) {
            Some(same) => same,
            None => Self::new(async move {
                match future {
                    Some(future) => future.await.map_err(RpcError::from_layer),
                    None => std::future::pending().await, // The future was taken above.
                }
            }),
        }
    }

    pub(crate) fn ready(result: Result<Response, RpcError>) -> Self {
        Self::new(std::future::ready(result))
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response, RpcError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResponseFuture")
    }
}

/// Waits until the service is ready, then calls it, as tower requires.
pub(crate) async fn call<S: RpcService>(
    mut service: S,
    request: Request,
) -> Result<Response, RpcError> {
    ready(&mut service).await?;
    service.call(request).await.map_err(RpcError::from_layer)
}

/// Waits until the service is ready. A service that fails here has not received the request.
pub(crate) async fn ready<S: RpcService>(service: &mut S) -> Result<(), RpcError> {
    std::future::poll_fn(|cx| service.poll_ready(cx))
        .await
        .map_err(|error| RpcError::from_layer(error).not_executed())
}
