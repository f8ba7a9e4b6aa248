//! Layers: what goes around a client or a server.
//!
//! [`Client`](crate::Client) and every dispatcher are [`Service`](crate::Service)s of [`Request`](crate::Request) and
//! [`Response`](crate::Response), so every `tower::Layer` fits around both: those that come with tower
//! (`ConcurrencyLimitLayer`, `RateLimitLayer`, `TimeoutLayer`, `LoadShedLayer`, `BufferLayer`), those of other crates, and
//! your own. This module has what tower cannot know: [`RetryLayer`], which knows which methods are idempotent, which failures
//! may pass and how much time a call has left.
//!
//! # On a client
//!
//! Put the layers around a client, then give it to a generated client. Of a `tower::ServiceBuilder` **the first layer is the
//! outermost**: it sees a call first and its answer last.
//!
//! ```
//! # use std::time::Duration;
//! # use rpc_core::{Connection, Server, rpc};
//! # #[rpc] pub trait Fib { async fn fib(n: u64) -> u64; }
//! # struct Calculator;
//! # impl Fib for Calculator { async fn fib(&self, n: u64) -> u64 { n } }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let connection = Connection::open("memory:").await?;
//! # let _server = Server::builder(&connection).service(FibDispatcher::new(Calculator)).build().start().await?;
//! let service = tower::ServiceBuilder::new()
//!     .concurrency_limit(8)                // first: waiting for a place counts for nobody but the call's deadline
//!     .timeout(Duration::from_millis(500)) // then: half a second for the exchange itself
//!     .service(connection.client());
//! let fib = FibClient::new(service);
//! assert_eq!(fib.fib(30).await?, 30);
//! # Ok(())
//! # }
//! ```
//!
//! Whatever the layers do, the call ends by its deadline: its own, its method's, or one that it inherits. The client's own default
//! is known to the client alone: it counts from the beginning of the call, too, but what a layer holds back longer only ends when
//! it is let through, or after 30 seconds. A service that is not `Clone`, such as a rate limit, goes into a `BufferLayer` (outside
//! of it), which makes it one: its clones share it.
//!
//! # On a server
//!
//! [`ServerBuilder::layer`](crate::ServerBuilder::layer) puts a layer around every service of a server. **The layer that is
//! added first is the outermost**, as above. A layer is made once for each service, so that a limit is the service's,
//! whichever queue a request came through. The broker's prefetch comes before all layers: what waits in a layer is one of the
//! `prefetch` requests that the server has at a time. It is let go there when its deadline passes or its caller drops the call.
//!
//! [`ServerBuilder::service`](crate::ServerBuilder::service) takes a dispatcher with layers of its own, inside of those:
//! `.service(ServiceBuilder::new().layer(authenticate).service(AdminDispatcher::new(admin)))`.
//!
//! Each layer that is added has to make something that is `Clone`. One that does not is put together with a buffer before it is
//! added: `.layer(ServiceBuilder::new().buffer(64).rate_limit(100, second))`.
//!
//! # What a layer may answer
//!
//! A layer that does not pass a request on answers with one of:
//!
//! - [`Response::error`](crate::Response::error): the service's own error, which reaches the caller as
//!   [`CallError::App`](crate::CallError::App), for refusals that belong to the contract;
//! - an [`RpcError`](crate::RpcError): of a kind that a server can have, it reaches the caller with that kind and its text. Of the other
//!   kinds, [`Timeout`](crate::ErrorKind::Timeout) becomes [`DeadlineExceeded`](crate::ErrorKind::DeadlineExceeded), and the rest
//!   [`Cancelled`](crate::ErrorKind::Cancelled). For refusals there are two:
//!   [`PermissionDenied`](crate::ErrorKind::PermissionDenied), which no client repeats, and
//!   [`Overloaded`](crate::ErrorKind::Overloaded), after which calls of `idempotent` methods are repeated a little later;
//! - any other error: an `RpcError` whose [`source`](std::error::Error::source) it is on the side of the layer. The first of its causes that
//!   is known decides about the kind: an `RpcError`, tower's `Overloaded` (of a load shed), `Elapsed` of tower or tokio (a
//!   `Timeout`). Without one it is `Cancelled`. Only errors of tower 0.5 are known.
//!
//! `examples/auth.rs` refuses callers without a token.
//!
//! From a server such an error comes with the knowledge whether a handler saw the request. On a client only the layer knows that:
//! `PermissionDenied`, `Overloaded` and the other kinds that refuse a request count as not executed, and so does what a layer
//! says before it is ready. Any other error counts as if the request may have run, unless the layer says
//! [`not_executed`](crate::RpcError::not_executed).
//!
//! # Circuit breaking
//!
//! `tower-resilience-circuitbreaker` has a well-kept circuit breaker as a layer, which fits around a client like the others;
//! there is none here. Put it inside of a [`RetryLayer`], so that every attempt counts, and have it count what
//! [`is_retryable`](crate::RpcError::is_retryable) or [`is_timeout`](crate::RpcError::is_timeout) says, not a caller's mistakes.

mod retry;

pub(crate) use self::retry::Attempts;
pub use self::retry::{Retry, RetryLayer, RetryPolicy};
