//! Testing a service without RabbitMQ. `examples/testing.rs` is a program of such tests.
//!
//! | what is tested | how |
//! |---|---|
//! | the handler | it is an object with methods: call them. [`Context::builder`](crate::Context::builder) makes a context |
//! | the handler and its contract | `FibClient::new(FibDispatcher::new(handler))`: everything is encoded and decoded, nothing is sent |
//! | what needs queues: several servers, deadlines in queues, stopping | [`Connection::open("memory:")`](crate::Connection::open), the embedded broker, which passes the same tests as RabbitMQ |
//! | what happens when things break | [`EmbeddedBroker`](crate::testing::EmbeddedBroker): it loses messages and connections when told to |
//! | a caller of a service that somebody else writes | a handler that answers as the test wants, behind any of these; [mockall](super::questions#mocks) can write it |
//!
//! ```
//! use std::time::Duration;
//! use rpc_core::testing::{EmbeddedBroker, Fate};
//! use rpc_core::{Connection, Context, ErrorKind, RpcError, Server, rpc};
//!
//! #[rpc]
//! pub trait Greeter {
//!     async fn greet(#[ctx] cx: Context) -> String;
//! }
//!
//! struct Polite;
//!
//! impl Greeter for Polite {
//!     async fn greet(&self, cx: Context) -> String {
//!         format!("Good day, {}", cx.header_as("name").unwrap_or("stranger"))
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // The handler.
//! let cx = Context::builder().header("name", "Ada").build();
//! assert_eq!(Polite.greet(cx).await, "Good day, Ada");
//!
//! // With its contract.
//! let greeter = GreeterClient::new(GreeterDispatcher::new(Polite));
//! assert_eq!(greeter.greet().header("name", "Ada").await?, "Good day, Ada");
//!
//! // On a broker that loses replies.
//! let broker = EmbeddedBroker::named("guide-testing");
//! let connection = Connection::open(&broker.url()).await?;
//! let server = Server::builder(&connection).service(GreeterDispatcher::new(Polite)).build().start().await?;
//! broker.on_publish(|message| match message.kind {
//!     Some("result") => Fate::Lose,
//!     _ => Fate::Deliver,
//! });
//! let greeter = GreeterClient::new(connection.client());
//! let error: RpcError = greeter.greet().timeout(Duration::from_millis(50)).await.unwrap_err();
//! assert_eq!(error.kind(), ErrorKind::Timeout);
//! assert!(error.may_have_executed());
//! server.shutdown().await?;
//! # Ok(())
//! # }
//! ```
//!
//! - A handler that is called directly is in no context, whatever its argument: `cx.scope(handler.greet(cx.clone()))` has its own
//!   calls inherit, as they do on a server.
//! - Each `memory:` is a broker of its own. Tests run in parallel in one process, so give a named one a name that no other test has.
//! - Time can be paused: with `#[tokio::test(start_paused = true)]` a test of a 30 second deadline takes no time
//!   ([more](super::questions#paused-time-in-tests)).
//! - Open a connection for each test: one in a `static` ends with the first test's runtime
//!   ([more](super::questions#a-connection-in-a-static-or-across-tests)).
//! - In the direct form there is no queue, so nothing is redelivered, and [`Context::redelivered`](crate::Context::redelivered) is
//!   `false`.
//! - A client that is generic, `struct Caller<S> { fib: FibClient<S> }` with `S:` [`RpcService`](crate::RpcService), takes any of these.
