//! Layers around clients and servers.
//!
//! [`Client`](crate::Client) and every dispatcher are [`Service`](crate::Service)s from [`Request`](crate::Request) to
//! [`Response`](crate::Response), so every `tower::Layer` fits around both: tower's own (`ConcurrencyLimitLayer`, `RateLimitLayer`,
//! `TimeoutLayer`, `LoadShedLayer`, `BufferLayer`), those of other crates, and yours. This module adds [`RetryLayer`], which considers
//! whether a method is idempotent, whether a failure is transient, and how much time the call has left. Tower has no such information.
//!
//! # On a client
//!
//! Put the layers around a client, then pass the result to a stub. In a `tower::ServiceBuilder`, **the first layer is the outermost**:
//! it sees a request first and the response last.
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
//!     .concurrency_limit(8)                // outermost: only the call's deadline bounds the wait for a permit
//!     .timeout(Duration::from_millis(500)) // inside: half a second from the permit to the response
//!     .service(connection.client());
//! let fib = FibClient::new(service);
//! assert_eq!(fib.fib(30).await?, 30);
//! # Ok(())
//! # }
//! ```
//!
//! A call ends by its deadline in any layer. The deadline is set on the call, by its method, or inherited. Only the client, below the
//! layers, knows its default timeout. This timeout also counts from the start of the call, but a call that a layer holds back
//! longer ends when the layer passes it on, or after 30 seconds. Wrap a service that is not `Clone`, such as a rate limit, in a
//! `BufferLayer` outside of it: clones of the buffer share the service.
//!
//! # On a server
//!
//! [`ServerBuilder::layer`](crate::ServerBuilder::layer) puts a layer around every service of a server. **The layer that is
//! added first is the outermost**, as above. A layer is applied once to each service, so a limit applies to the service as a whole,
//! through all its queues. The broker's prefetch applies before all layers: a request that waits in a layer is one of the `prefetch`
//! requests that the server holds at a time. The request is dropped in the layer when its deadline passes or its caller drops the call.
//!
//! [`ServerBuilder::service`](crate::ServerBuilder::service) also takes a dispatcher with layers of its own, which are inside the
//! server's layers: `.service(ServiceBuilder::new().layer(authenticate).service(AdminDispatcher::new(admin)))`.
//!
//! Each layer must produce a service that is `Clone`. Combine a layer that does not with a buffer:
//! `.layer(ServiceBuilder::new().buffer(64).rate_limit(100, second))`.
//!
//! # Outcomes of a layer
//!
//! A layer that does not pass a request on returns one of:
//!
//! - [`Response::error`](crate::Response::error): the service's own error, which reaches the caller as
//!   [`CallError::App`](crate::CallError::App). For refusals that belong to the contract.
//! - An [`RpcError`](crate::RpcError). A kind that a server can report reaches the caller with its message. Of the other kinds,
//!   [`Timeout`](crate::ErrorKind::Timeout) becomes [`DeadlineExceeded`](crate::ErrorKind::DeadlineExceeded), and the rest become
//!   [`Cancelled`](crate::ErrorKind::Cancelled). Use [`PermissionDenied`](crate::ErrorKind::PermissionDenied) for refusals that no client
//!   retries, and [`Overloaded`](crate::ErrorKind::Overloaded) for refusals after which clients retry `idempotent` methods a little later.
//! - Any other error. It becomes the [`source`](std::error::Error::source) of an `RpcError`, on the side of the layer. The first known
//!   cause determines the kind: an `RpcError` keeps its kind, tower's `Overloaded` (of a load shed) becomes `Overloaded`, and `Elapsed`
//!   of tower or tokio becomes `Timeout`. Without a known cause, the kind is `Cancelled`. The known types are those of tower 0.5.
//!
//! `examples/auth.rs` refuses callers without a token.
//!
//! A server reports with such an error whether a handler saw the request. On a client, only the layer knows:
//! [`may_have_executed`](crate::RpcError::may_have_executed) is `false` for `PermissionDenied`, `Overloaded` and the other kinds that refuse
//! a request, and for errors that a layer returns before it is ready. It is `true` for any other error, unless the layer calls
//! [`not_executed`](crate::RpcError::not_executed).
//!
//! # Circuit breaking
//!
//! This crate has no circuit breaker. The crate `tower-resilience-circuitbreaker` has a well-maintained one, a layer
//! that fits around a client like any other. Put it inside a [`RetryLayer`], so that it counts every attempt, and let it count errors for which
//! [`is_retryable`](crate::RpcError::is_retryable) or [`is_timeout`](crate::RpcError::is_timeout) returns `true`, not the mistakes of
//! callers.

mod retry;

pub(crate) use self::retry::Attempts;
pub use self::retry::{Retry, RetryLayer, RetryPolicy};
