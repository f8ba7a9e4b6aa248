//! Middleware: what goes around clients and servers.
//!
//! [`Client`](crate::Client) and every dispatcher are [`Service`](crate::Service)s of [`Request`](crate::Request) and
//! [`Response`](crate::Response), so tower's layers, and your own, fit around both. [`crate::middleware`] says in which order
//! they are called and what a layer may answer, and has the one for retries, which tower's cannot know enough for.
//!
//! A layer of your own is mostly a function. This one, around one service of a server, refuses callers without a token:
//!
//! ```
//! use rpc_core::{Connection, ErrorKind, Request, RpcError, Server, rpc};
//! use tower::ServiceBuilder;
//!
//! #[rpc]
//! pub trait Vault {
//!     async fn open() -> u64;
//! }
//!
//! struct Safe;
//!
//! impl Vault for Safe {
//!     async fn open(&self) -> u64 {
//!         42
//!     }
//! }
//!
//! fn authenticate(request: Request) -> Result<Request, RpcError> {
//!     match request.headers().get_as("token") {
//!         Some("sesame") => Ok(request),
//!         _ => Err(RpcError::new(ErrorKind::PermissionDenied, "the token is not known")),
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let connection = Connection::open("memory:").await?;
//! let guarded = ServiceBuilder::new()
//!     .filter(authenticate)
//!     .concurrency_limit(8) // inside of the first: only who is let in takes a place
//!     .service(VaultDispatcher::new(Safe));
//! let server = Server::builder(&connection).service(guarded).build().start().await?;
//!
//! let vault = VaultClient::new(connection.client());
//! let error = vault.open().await.unwrap_err();
//! assert_eq!((error.kind(), error.may_have_executed()), (ErrorKind::PermissionDenied, false));
//! assert_eq!(vault.open().header("token", "sesame").await?, 42);
//! server.shutdown().await?;
//! # Ok(())
//! # }
//! ```
//!
//! [`ServerBuilder::layer`](crate::ServerBuilder::layer) puts a layer around all services of a server.
//!
//! `examples/auth.rs` is a longer one, `examples/middleware.rs` has tower's layers on both sides.
//!
//! # Which side, and which layer
//!
//! - **Limits** belong to the server, and are mostly no layers: [`prefetch`](crate::ServerBuilder::prefetch) and
//!   [`concurrency`](crate::ServerBuilder::concurrency) leave what cannot be run in the queue, where another server finds it. A limit
//!   in a layer keeps it waiting here; with a load shed around it, it is refused as
//!   [`Overloaded`](crate::ErrorKind::Overloaded).
//! - **Retries** belong to the client, which has them for `idempotent` methods. The layer is for refusals of layers further
//!   inside.
//! - **Timeouts** of calls need no layer. One around a client limits a single exchange, inside of a retry for instance.
//! - **Authentication** belongs to the server. [`Request`](crate::Request) has the headers and the user whom the broker vouches for
//!   (`user_id`); the answer to strangers is [`PermissionDenied`](crate::ErrorKind::PermissionDenied). A client sends a token with all its calls by
//!   [`ClientBuilder::header`](crate::ClientBuilder::header). On a classic queue, a request that is delivered again has
//!   [lost the user](crate::Context::user_id): use a quorum queue, or a token, where those are to be let in.
//! - **Traces and metrics** need no layers, see [`observability`](super::observability).
