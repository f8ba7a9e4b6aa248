//! Typed RPC over RabbitMQ: write a trait, and an attribute turns it into a client and a server.
//!
//! The trait is the whole contract. A call never hangs and never lies about what happened; nothing is lost or silently run
//! twice that its author did not allow to be; and any AMQP client in any language can join in.
//!
//! # A service
//!
//! [`#[rpc]`](rpc) keeps the trait, for the service to implement, and makes `FibClient` and `FibDispatcher` from it:
//!
//! ```
//! use rpc_core::{Connection, Server, rpc};
//!
//! #[rpc]
//! pub trait Fib {
//!     /// The n-th Fibonacci number.
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
//! // With RabbitMQ it is `Connection::open("amqp://guest:guest@localhost:5672/%2f")`. "memory:" is a broker in this process.
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
//! Server and client usually are programs of their own that share the crate with the trait. Any number of servers may serve
//! the queue (`rpc.Fib` unless the trait says otherwise): RabbitMQ shares the requests out among them. A server program
//! ends with [`Server::run_until`] and a signal, which finishes what runs before it returns:
//!
//! ```no_run
//! # use rpc_core::{Connection, Server, rpc};
//! # #[rpc] pub trait Fib { async fn fib(n: u64) -> u64; }
//! # struct Calculator;
//! # impl Fib for Calculator { async fn fib(&self, n: u64) -> u64 { n } }
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let connection = Connection::open("amqp://guest:guest@localhost:5672/%2f").await?;
//! Server::builder(&connection)
//!     .service(FibDispatcher::new(Calculator)) // several services may share a server
//!     .prefetch(64)
//!     .build()
//!     .run_until(async { tokio::signal::ctrl_c().await.ok(); }) // a service manager sends SIGTERM: see examples/fib_server.rs
//!     .await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Calls
//!
//! A method of a client returns a [`Call`]. Say what is special about it, then await it:
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
//! Every call has a deadline: its own, else the method's or the trait's `timeout`, else the client's, which is 30 seconds.
//! The request carries it: a request that nobody waits for any more is not run, and a handler is stopped when its caller has
//! gone. Clients are cheap to clone; any number of calls may be in flight on one.
//!
//! A call is a future that does nothing before its first poll. Await it, or hand it to what takes futures, to have many in flight at
//! once:
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
//! Arguments and results are whatever serde can write and read; [`guide::services`] says what is best for bulk data.
//!
//! What all calls of a program say, a header or a priority, can be said once, with [`Connection::client_builder`].
//!
//! # Context
//!
//! An argument marked `#[ctx]` is not sent: it tells the handler of its call, as a [`Context`]. A handler that calls other
//! services need not pass anything on: its calls end with its own deadline, are cancelled with it, and carry the headers that
//! are marked as propagating. [`guide::deadlines`] shows it. Headers go the other way, too: [`Context::set_reply_header`] and
//! [`Call::with_headers`].
//!
//! # Errors
//!
//! A method that returns `T` is called as `Result<T, RpcError>`; its [`kind`](RpcError::kind) says what became of the call
//! and [`may_have_executed`](RpcError::may_have_executed) whether the request may have run. A method that returns
//! `Result<T, E>` is called as `Result<T, CallError<E>>`: the service's own error arrives as the value that it is.
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
//! # Without a broker
//!
//! A dispatcher can be called directly, which is all that most unit tests need (and a handler is an object with methods, which
//! [`Context::builder`] gives a context):
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
//! The embedded broker, [`Connection::open("memory:")`](Connection::open), adds queues, acknowledgements and competing
//! servers; it passes the same tests as RabbitMQ. [`testing`] breaks it for you.
//!
//! # The guide
//!
//! A page for each thing beyond that:
//!
//! - [`guide::services`]: traits, types, queues, programs
//! - [`guide::errors`]: what a caller can do about a call that failed
//! - [`guide::deadlines`]: how long calls take at most, and who stops when nobody waits any more
//! - [`guide::delivery`]: what is lost, what runs twice, what is kept
//! - [`guide::middleware`]: tower's layers, and your own, around clients and servers
//! - [`guide::observability`]: logs, traces and metrics
//! - [`guide::testing`]: a service without RabbitMQ
//! - [`guide::evolution`]: which changes of a trait its deployed clients and servers survive
//! - [`guide::credentials`]: passwords that change, tokens that expire, certificates
//! - [`guide::cluster`]: several nodes, and what happens when one dies
//! - [`guide::tuning`]: which settings matter
//! - [`guide::questions`]: answers to the questions of the first month
//!
//! # Other languages
//!
//! The wire is plain AMQP 0-9-1: MessagePack or JSON bodies, standard properties. A request without a type and a content
//! type is JSON for the service's only method, so the client of RabbitMQ's RPC tutorial works as it is;
//! [`ClientBuilder::plain`] speaks to the tutorial's server.
//!
//! Headers whose names begin with `rpc-` are the protocol's; none is needed. `rpc-deadline` (a signed 64-bit integer,
//! milliseconds since the Unix epoch) says when the caller stops waiting; `rpc-propagate` (a list of texts) names the
//! request's headers that the handler's own calls send on; `rpc-batches` (a boolean), that replies may share a message; `rpc-time`, in a fault `deadline_exceeded`, is the server's
//! clock, as `rpc-deadline` is written.
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `amqp` | yes | `amqp://` URLs: RabbitMQ, through lapin. Without it there is the embedded broker alone |
//! | `json` | yes | JSON requests and replies, and the plain mode |
//! | `metrics` | no | numbers of calls through the `metrics` facade: see [`telemetry`] |
//! | `opentelemetry` | no | the spans of calls become OpenTelemetry's, through `tracing-opentelemetry` |
//! | `tls` | yes | `amqps://` URLs where `amqp` is on, through rustls with ring and the platform's root certificates |
//!
//! A crate that only declares services, for their callers and servers to share, depends on `rpc-core` with `default-features = false`, and
//! on nothing that talks to a broker. The programs turn on what they need: features add up.

mod arguments;
mod backoff;
mod cancellation;
mod client;
mod codec;
mod connection;
mod context;
#[cfg(feature = "amqp")]
mod credentials;
mod definition;
mod error;
mod exchange;
mod fast_hash;
#[cfg(all(any(test, fuzzing), feature = "amqp"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod guide;
mod headers;
mod message;
pub mod middleware;
mod queue;
mod random_keys;
mod server;
mod service;
mod task;
pub mod telemetry;
pub mod testing;
mod transport;
mod wire;

#[doc(hidden)]
pub mod __private;

pub use rpc_macros::rpc;
pub use tower_service::Service;

pub use crate::client::{Call, CallWithHeaders, Client, ClientBuilder, DroppedReplies};
pub use crate::codec::ContentType;
pub use crate::connection::{Connection, ConnectionBuilder, ConnectionState, StateWatch};
pub use crate::context::{Context, ContextBuilder};
#[cfg(feature = "amqp")]
pub use crate::credentials::{Credentials, IntoCredentials};
pub use crate::error::{BoxError, CallError, ErrorKind, OpenError, RpcError, ServeError};
pub use crate::headers::{HeaderValue, Headers, WrongHeaderType};
pub use crate::message::{Request, Response};
pub use crate::queue::QueueOptions;
pub use crate::server::{Dispatch, Serve, Server, ServerBuilder, ServerHandle};
pub use crate::service::{ResponseFuture, RpcService};

/// Compiles the code in the README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
