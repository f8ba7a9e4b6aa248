//! Middleware: what goes around clients and servers.
//!
//! [`Client`](crate::Client) and every dispatcher are [`Service`](crate::Service)s of [`Request`](crate::Request) and
//! [`Response`](crate::Response), so tower's layers, and your own, fit around both. [`crate::middleware`] says in which order
//! they are called and what a layer may answer, and has the one for retries, which tower's cannot know enough for.
//!
//! A layer of your own is mostly a function. This one, on a server, refuses whoever has no token, with the service's own
//! error:
//!
//! ```
//! use rpc_core::{CallError, Connection, Request, Response, RpcError, Server, rpc};
//! use serde::{Deserialize, Serialize};
//! use tower::layer::layer_fn;
//! use tower::util::BoxCloneSyncService;
//! use tower::{ServiceExt, service_fn};
//!
//! #[rpc]
//! pub trait Vault {
//!     async fn open() -> Result<u64, VaultError>;
//! }
//!
//! #[derive(Debug, PartialEq, Serialize, Deserialize)]
//! pub enum VaultError {
//!     Unauthenticated,
//! }
//!
//! struct Safe;
//!
//! impl Vault for Safe {
//!     async fn open(&self) -> Result<u64, VaultError> {
//!         Ok(42)
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let connection = Connection::open("memory:").await?;
//! let server = Server::builder(&connection)
//!     .service(VaultDispatcher::new(Safe))
//!     .layer(layer_fn(|service: BoxCloneSyncService<Request, Response, RpcError>| {
//!         service_fn(move |request: Request| {
//!             let service = service.clone();
//!             async move {
//!                 if request.headers().get_as("token") != Some("sesame") {
//!                     return Response::error(request.content_type(), &VaultError::Unauthenticated);
//!                 }
//!                 service.oneshot(request).await
//!             }
//!         })
//!     }))
//!     .layer(tower::limit::ConcurrencyLimitLayer::new(8)) // inside of the first: only who is let in takes a place
//!     .build()
//!     .start()
//!     .await?;
//!
//! let vault = VaultClient::new(connection.client());
//! assert!(matches!(vault.open().await, Err(CallError::App(VaultError::Unauthenticated))));
//! assert_eq!(vault.open().header("token", "sesame").await.ok(), Some(42));
//! server.shutdown().await?;
//! # Ok(())
//! # }
//! ```
//!
//! `examples/auth.rs` is the same at full length, `examples/middleware.rs` has tower's layers on both sides.
//!
//! # Which side, and which layer
//!
//! - **Limits** belong to the server, and are mostly no layers: [`prefetch`](crate::ServerBuilder::prefetch) and
//!   [`concurrency`](crate::ServerBuilder::concurrency) leave what cannot be run in the queue, where another server finds it. A limit
//!   in a layer keeps it waiting here; with a load shed around it, it is refused.
//! - **Retries** belong to the client, which has them for `idempotent` methods. The layer is for refusals of layers further
//!   inside.
//! - **Timeouts** of calls need no layer. One around a client limits a single exchange, inside of a retry for instance.
//! - **Authentication** belongs to the server; the header with the token to [`ClientBuilder::header`](crate::ClientBuilder::header).
//! - **Traces and metrics** need no layers, see [`observability`](super::observability).
