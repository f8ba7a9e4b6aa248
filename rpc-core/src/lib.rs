//! Typed remote procedure calls (RPC) over RabbitMQ. You write a trait, and the attribute [`#[rpc]`](rpc) generates a client and a server from
//! it.
//!
//! The trait is the whole contract. Every call ends by a deadline, and its error tells if the request may have run. No request is lost or run
//! twice unless its method allows it. Any AMQP client in any language can join in.
//!
//! # A service
//!
//! [`#[rpc]`](rpc) keeps the trait, for the service to implement, and generates `FibClient` and `FibDispatcher` from it:
//!
//! ```
//! use rpc_core::{Connection, Server, rpc};
//!
//! #[rpc]
//! pub trait Fib {
//!     /// Returns the n-th Fibonacci number.
//!     async fn fib(n: u64) -> u64;
//! }
//!
//! struct Calculator;
//!
//! impl Fib for Calculator {
//!     async fn fib(&self, n: u64) -> u64 {
//!         (0..n).fold((0, 1), |(a, b), _| (b, a + b)).0
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // An embedded broker. For RabbitMQ, use "amqp://guest:guest@localhost:5672/%2f".
//! let connection = Connection::open("memory:").await?;
//!
//! let server = Server::builder(&connection)
//!     .service(FibDispatcher::new(Calculator))
//!     .build()
//!     .start()
//!     .await?;
//!
//! let fib = FibClient::new(connection.client());
//! assert_eq!(fib.fib(30).await?, 832_040);
//!
//! server.shutdown().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Server and client are usually separate programs that share the crate with the trait. Any number of servers can serve the queue, which is
//! `rpc.Fib` unless the trait names another. RabbitMQ distributes the requests among them. A server program ends with
//! [`Server::run_until`] and a signal, which finishes running requests before it returns:
//!
//! ```no_run
//! # use rpc_core::{Connection, Server, rpc};
//! # #[rpc] pub trait Fib { async fn fib(n: u64) -> u64; }
//! # struct Calculator;
//! # impl Fib for Calculator { async fn fib(&self, n: u64) -> u64 { n } }
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let connection = Connection::open("amqp://guest:guest@localhost:5672/%2f").await?;
//! Server::builder(&connection)
//!     .service(FibDispatcher::new(Calculator)) // a server can have several services
//!     .prefetch(64)
//!     .build()
//!     .run_until(async { tokio::signal::ctrl_c().await.ok(); }) // service managers send SIGTERM: see examples/src/lib.rs
//!     .await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Calls
//!
//! A client's method returns a [`Call`]. Set options on the call, then await it:
//!
//! ```
//! # use std::time::Duration;
//! # use rpc_core::{RpcError, rpc};
//! # #[rpc] pub trait Fib { async fn fib(n: u64) -> u64; }
//! # struct Calculator;
//! # impl Fib for Calculator { async fn fib(&self, n: u64) -> u64 { n } }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), RpcError> {
//! # let fib = FibClient::new(FibDispatcher::new(Calculator));
//! let n = fib.fib(30).timeout(Duration::from_secs(2)).header("tenant", "a").await?;
//! # Ok(())
//! # }
//! ```
//!
//! Every call has a deadline. It comes from the call, the method, the trait or the client, in this order. The client's default is 30 seconds.
//! The request carries the deadline: a server does not run an expired request, and stops a handler when its caller is gone. [`guide::deadlines`]
//! has the details.
//!
//! Clients are cheap to clone, and any number of calls may be in flight on one client. A call is a future that does nothing before its first
//! poll. To keep many calls in flight, spawn them:
//!
//! ```
//! # use rpc_core::{RpcError, rpc};
//! # #[rpc] pub trait Fib { async fn fib(n: u64) -> u64; }
//! # struct Calculator;
//! # impl Fib for Calculator { async fn fib(&self, n: u64) -> u64 { n } }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let fib = FibClient::new(FibDispatcher::new(Calculator));
//! let mut calls = tokio::task::JoinSet::new();
//! for n in 0..10 {
//!     calls.spawn(fib.fib(n));
//! }
//! while let Some(call) = calls.join_next().await {
//!     println!("{}", call??);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Arguments and results are types that serde can serialize and deserialize. [`guide::services`] explains the best types for bulk data.
//! [`Connection::client_builder`] sets options for all calls of a client, such as headers or a priority.
//!
//! # Context
//!
//! An argument marked `#[ctx]` is not sent. It gives the handler a [`Context`], which describes the current call. Calls that a
//! handler makes to other services inherit from the context: they end by the handler's deadline, are cancelled with the handler, and carry the
//! headers marked as propagating. [`guide::deadlines`] shows an example. A handler can also set headers of the reply with
//! [`Context::set_reply_header`], and callers read them with [`Call::with_headers`].
//!
//! # Errors
//!
//! A method that returns `T` is called as `Result<T, RpcError>`. [`RpcError::kind`] names the failure, and [`RpcError::may_have_executed`] tells
//! if the request may have run. A method that returns `Result<T, E>` is called as `Result<T, CallError<E>>`, and the service's own error
//! arrives as a typed value:
//!
//! ```
//! use rpc_core::{CallError, rpc};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Debug, PartialEq, Serialize, Deserialize)]
//! pub enum TransferError {
//!     Insufficient { missing: u64 },
//! }
//!
//! #[rpc]
//! pub trait Bank {
//!     async fn withdraw(amount: u64) -> Result<u64, TransferError>;
//! }
//! # struct Vault;
//! # impl Bank for Vault {
//! #     async fn withdraw(&self, amount: u64) -> Result<u64, TransferError> {
//! #         50_u64.checked_sub(amount).ok_or(TransferError::Insufficient { missing: amount - 50 })
//! #     }
//! # }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! # let bank = BankClient::new(BankDispatcher::new(Vault));
//! match bank.withdraw(70).await {
//!     Ok(left) => println!("{left} left"),
//!     Err(CallError::App(TransferError::Insufficient { missing })) => println!("{missing} too much"),
//!     Err(CallError::Rpc(error)) if error.may_have_executed() => println!("ask the bank: {error}"),
//!     Err(CallError::Rpc(error)) => println!("nothing was withdrawn: {error}"),
//! }
//! # }
//! ```
//!
//! # Streams
//!
//! A method can return a stream, `-> impl Stream<Item = T>`, take one as an argument, or both. Awaiting the call gives a [`Streaming`], and
//! the handler reads its caller's items as [`Incoming`]. [`guide::streams`] has an example of each shape.
//!
//! # Without a broker
//!
//! A client can call a dispatcher directly. This *direct form* is enough for most unit tests:
//!
//! ```
//! # use rpc_core::{RpcError, rpc};
//! # #[rpc] pub trait Fib { async fn fib(n: u64) -> u64; }
//! # struct Calculator;
//! # impl Fib for Calculator { async fn fib(&self, n: u64) -> u64 { n } }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), RpcError> {
//! let fib = FibClient::new(FibDispatcher::new(Calculator));
//! assert_eq!(fib.fib(1).await?, 1);
//! # Ok(())
//! # }
//! ```
//!
//! The embedded broker, [`Connection::open("memory:")`](Connection::open), adds queues, acknowledgements and competing servers. It passes the
//! same tests as RabbitMQ, and [`testing`] injects failures into it. Tests can also call a handler's methods directly, with a context from
//! [`Context::builder`].
//!
//! # The guide
//!
//! The [`guide`] has one page for each topic: [services](guide::services), [errors](guide::errors),
//! [deadlines and cancellation](guide::deadlines), [streams](guide::streams), [delivery guarantees](guide::delivery),
//! [middleware](guide::middleware), [observability](guide::observability), [operating a service](guide::operating),
//! [testing](guide::testing), [evolving a contract](guide::evolution), [credentials and certificates](guide::credentials),
//! [clusters](guide::cluster), [tuning](guide::tuning) and [frequently asked questions](guide::questions).
//!
//! # Other languages
//!
//! The protocol is plain AMQP 0-9-1 with MessagePack or JSON bodies and standard properties. `PROTOCOL.md` in the repository specifies it. A
//! request without a type and a content type is JSON for the service's only method, so the client of RabbitMQ's RPC tutorial works
//! unchanged. [`ClientBuilder::plain`] calls the tutorial's server.
//!
//! Headers whose names begin with `rpc-` belong to the protocol. All of them are optional:
//!
//! | header | content |
//! |---|---|
//! | `rpc-deadline` | the caller's deadline: a signed 64-bit integer, milliseconds since the Unix epoch |
//! | `rpc-propagate` | a list of the request headers that calls of the handler carry too |
//! | `rpc-batches` | `true` if several replies may share a message |
//! | `rpc-time` | the server's clock in a `deadline_exceeded` fault, in the form of `rpc-deadline` |
//! | `rpc-instance` | the id of the instance, in its answer to a [question](guide::operating) or to a [call to all instances](Call::to_all_instances), or in its acceptance of a stream |
//! | `rpc-silence` | the longest silence of either side of a stream, in milliseconds |
//! | `rpc-items`, `rpc-bytes` | the items of a stream that its sender may send, as a number and in bytes |
//! | `rpc-sequence` | the number of items before a message of a stream |
//!
//! # Features
//!
//! | feature | default | effect |
//! |---|---|---|
//! | `amqp` | yes | `amqp://` URLs: RabbitMQ, through lapin. Without this feature only the embedded broker is available. |
//! | `json` | yes | JSON requests and replies, and the plain mode |
//! | `metrics` | no | metrics of calls through the `metrics` facade: see [`telemetry`] |
//! | `opentelemetry` | no | OpenTelemetry spans for calls, through `tracing-opentelemetry` |
//! | `schema` | no | JSON Schemas in descriptions of services, through schemars, and comparison of contracts by them: see [`guide::services`] |
//! | `tls` | yes | `amqps://` URLs if `amqp` is on, through rustls with ring and the platform's root certificates |
//!
//! A crate that only declares services depends on `rpc-core` with `default-features = false`, and on no AMQP client. The programs enable the
//! features that they need, because Cargo combines the features of all dependents.
#![cfg_attr(docsrs, feature(doc_cfg))]

// The modules by layer, from the top: each names only modules of layers below its own (ARCHITECTURE.md, "Layers").

pub mod testing;

mod generated;

mod client;
pub mod dead_letters;
mod server;

mod connection;
pub mod instances;

mod requester;

mod batching;
mod streaming;

mod context;
pub mod middleware;

pub mod telemetry;

mod wire;

mod service;

mod message;
mod transport;

mod cancellation;
mod codec;
#[cfg(feature = "amqp")]
mod credentials;
mod deadline;
mod definition;

mod error;

mod queue;

mod headers;

mod backoff;
mod names;
mod task;

pub mod guide;

#[cfg(all(any(test, fuzzing), feature = "amqp"))]
#[doc(hidden)]
pub mod fuzzing;

#[doc(hidden)]
pub mod __private;

pub use futures_util::Stream;
pub use rpc_macros::rpc;
pub use tower_service::Service;

pub use crate::client::{
    Answers, Call, CallWithHeaders, Client, ClientBuilder, ContractQuery, DescriptionQuery, Gather,
    InstanceQuery, Streaming, Tap, TapQuery, UntypedClient,
};
pub use crate::codec::{ContentType, Encoded};
pub use crate::connection::{Connection, ConnectionBuilder, ConnectionState, StateWatch};
pub use crate::context::{Context, ContextBuilder};
#[cfg(feature = "amqp")]
pub use crate::credentials::{Credentials, IntoCredentials};
pub use crate::error::{BoxError, CallError, ErrorKind, OpenError, RpcError, ServeError};
pub use crate::headers::{HeaderValue, Headers, WrongHeaderType};
pub use crate::message::{Request, Response};
pub use crate::queue::{QueueOptions, QueueStatus};
pub use crate::requester::DroppedReplies;
pub use crate::server::{
    Dispatch, Health, HealthWatch, Incoming, IncomingItem, Serve, Server, ServerBuilder,
    ServerHandle,
};
pub use crate::service::{ResponseFuture, RpcService};

/// Compiles the code in this package's README and in the project's.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
#[doc = include_str!("../../README.md")]
struct Readme;
