//! Questions of the first month, and their answers.
//!
//! - [A connection in a `static`, or across tests](#a-connection-in-a-static-or-across-tests)
//! - [A program that makes one call and exits](#a-program-that-makes-one-call-and-exits)
//! - [A caller that is not async](#a-caller-that-is-not-async)
//! - [Bytes in JSON](#bytes-in-json)
//! - [A result of 50 MB](#a-result-of-50-mb)
//! - [Headers and `traceparent` taken over from HTTP](#headers-and-traceparent-taken-over-from-http)
//! - [Versions of OpenTelemetry](#versions-of-opentelemetry)
//! - [Heartbeats and paused processes](#heartbeats-and-paused-processes)
//! - [Paused time in tests](#paused-time-in-tests)
//! - [`prefetch` with `at_most_once`](#prefetch-with-at_most_once)
//! - [One generic trait, two types](#one-generic-trait-two-types)
//! - [Mocks](#mocks)
//!
//! # A connection in a `static`, or across tests
//!
//! A [`Connection`](crate::Connection) lives on the runtime that opened it: tasks there read from the broker and reconnect. Its clients
//! may be used from other runtimes as long as that one runs. Each `#[tokio::test]` has a runtime of its own, which ends with the test.
//! A connection that the first test puts into a `static` is therefore dead in the second one, and calls on it fail.
//!
//! Open one connection for each test. On `memory:` that costs nothing, on RabbitMQ a few milliseconds. Where a connection has to be
//! static, give it a runtime that is static as well:
//!
//! ```
//! use std::sync::LazyLock;
//! use rpc_core::{Connection, OpenError};
//! use tokio::runtime::{Builder, Runtime};
//! use tokio::sync::OnceCell;
//! # use rpc_core::{Server, rpc};
//! # #[rpc] pub trait Fib { async fn fib(n: u64) -> u64; }
//! # struct Calculator;
//! # impl Fib for Calculator { async fn fib(&self, n: u64) -> u64 { n } }
//!
//! static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
//!     Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a thread can be started")
//! });
//! static CONNECTION: OnceCell<Connection> = OnceCell::const_new();
//!
//! async fn connection() -> Result<&'static Connection, OpenError> {
//!     let open = || async {
//!         let opening = RUNTIME.spawn(Connection::open("memory:static"));
//!         opening.await.expect("nothing ends this runtime")
//!     };
//!     CONNECTION.get_or_try_init(open).await
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let server = RUNTIME.block_on(async {
//! #     let server = Server::builder(connection().await?).service(FibDispatcher::new(Calculator)).build();
//! #     Ok::<_, Box<dyn std::error::Error>>(server.start().await?)
//! # })?;
//! // As two tests would, each on a runtime that ends with it.
//! for n in [30, 31] {
//!     let runtime = Builder::new_current_thread().enable_all().build()?;
//!     runtime.block_on(async {
//!         let fib = FibClient::new(connection().await?.client());
//!         assert_eq!(fib.fib(n).await?, n);
//!         Ok::<_, Box<dyn std::error::Error>>(())
//!     })?;
//! }
//! # RUNTIME.block_on(server.shutdown())?;
//! # Ok(())
//! # }
//! ```
//!
//! # A program that makes one call and exits
//!
//! [`Connection::close`](crate::Connection::close) at the end tells the broker that the program leaves. Without it the socket breaks
//! off: RabbitMQ logs a warning that the client closed the connection unexpectedly, and the reply queue stays until it has noticed.
//! Awaited work is safe in either case: a call has its answer, and a `oneway` one has the broker's confirm. A call that was spawned
//! and not awaited may never have been sent.
//!
//! ```
//! use rpc_core::{Connection, Server, rpc};
//! # #[rpc] pub trait Fib { async fn fib(n: u64) -> u64; }
//! # struct Calculator;
//! # impl Fib for Calculator { async fn fib(&self, n: u64) -> u64 { n } }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let served = Connection::open("memory:one-call").await?;
//! # let server = Server::builder(&served).service(FibDispatcher::new(Calculator)).build().start().await?;
//! let connection = Connection::open("memory:one-call").await?;
//! let result = FibClient::new(connection.client()).fib(30).await;
//! connection.close().await;
//! println!("{}", result?);
//! # server.shutdown().await?;
//! # Ok(())
//! # }
//! ```
//!
//! A connection costs several round trips and a TLS handshake. A program that is started for each of many calls spends most of its time
//! on that; keep one running, or have it take a list.
//!
//! # A caller that is not async
//!
//! Keep a runtime of your own beside the connection, and wait for each call with `block_on`. Take a multi-threaded runtime with one
//! worker: one of the kind `current_thread` runs only inside `block_on`, so between two calls it would answer no heartbeats, and the
//! broker would close the connection.
//!
//! ```
//! use rpc_core::{Connection, OpenError, RpcError, rpc};
//! use tokio::runtime::{Builder, Runtime};
//! # use rpc_core::Server;
//! # struct Calculator;
//! # impl Fib for Calculator { async fn fib(&self, n: u64) -> u64 { n } }
//!
//! #[rpc]
//! pub trait Fib {
//!     async fn fib(n: u64) -> u64;
//! }
//!
//! /// The service for code that is not async.
//! struct BlockingFib {
//!     client: FibClient,
//!     runtime: Runtime,
//! }
//!
//! impl BlockingFib {
//!     fn connect(url: &str) -> Result<Self, OpenError> {
//!         let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
//!         let runtime = runtime.expect("a thread can be started");
//!         let connection = runtime.block_on(Connection::open(url))?;
//!         Ok(Self { client: FibClient::new(connection.client()), runtime })
//!     }
//!
//!     fn fib(&self, n: u64) -> Result<u64, RpcError> {
//!         self.runtime.block_on(self.client.fib(n))
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let server = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
//! # let served = server.block_on(Connection::open("memory:blocking"))?;
//! # let _server = server.block_on(Server::builder(&served).service(FibDispatcher::new(Calculator)).build().start())?;
//! let fib = BlockingFib::connect("memory:blocking")?;
//! assert_eq!(fib.fib(30)?, 30);
//! # Ok(())
//! # }
//! ```
//!
//! - `block_on` panics on a thread that runs async code. In an async program, code that is not async belongs into
//!   `tokio::task::spawn_blocking`, and calls there with `Handle::current().block_on(fib.fib(30))`.
//! - `spawn_blocking` takes a thread out of the current [`Context`](crate::Context): a call that is made there inherits neither deadline
//!   nor headers. `cx.sync_scope(|| …)` on that thread gives them back.
//! - The handler of a `blocking` method is in its context already, and calls others with `Handle::current().block_on(…)`.
//!
//! # Bytes in JSON
//!
//! JSON has no bytes: in JSON, a `Vec<u8>` is a list of numbers, `[137,80,78,71]`, three to four times as large, and so is one with
//! `serde_bytes`, which makes it binary in MessagePack. Rust clients speak MessagePack unless told otherwise, so `serde_bytes` or
//! `bytes::Bytes` is all that they need. For clients that speak JSON, send base64 text, a third larger than the bytes. The crate
//! `serde_with`, with its feature `base64`, has that for fields, arguments included:
//!
//! ```text
//! #[serde(with = "serde_with::As::<serde_with::base64::Base64>")]
//! picture: Vec<u8>,
//! ```
//!
//! It is text in MessagePack, too: an argument has one form in both formats. For a result, put the bytes into a struct with such a field.
//!
//! # A result of 50 MB
//!
//! It fails with [`TooLarge`](crate::ErrorKind::TooLarge): a body may have 16 MiB
//! ([`ConnectionBuilder::max_message_size`](crate::ConnectionBuilder::max_message_size)), RabbitMQ 4's own limit
//! (`max_message_size`, <https://www.rabbitmq.com/docs/configure>). There are reasons to keep the limit: a message is whole in the memory
//! of the server, the broker and the client, and while it is on the wire, all other calls of these connections wait behind it.
//!
//! - Put the data where files belong, such as an object store, and return its address. The handler writes, the caller reads, and the
//!   broker carries a few bytes.
//! - Or have the caller ask for one part after the other. A method that takes an offset is `idempotent`, and a lost connection costs
//!   one part:
//!
//! ```
//! use rpc_core::{RpcError, rpc};
//!
//! #[rpc]
//! pub trait Report {
//!     /// Reads at most a thousand rows from this one on; none behind the last one.
//!     #[rpc(idempotent)]
//!     async fn rows(from: usize) -> Vec<String>;
//! }
//!
//! async fn read(report: &ReportClient<impl rpc_core::RpcService>) -> Result<Vec<String>, RpcError> {
//!     let mut all = Vec::new();
//!     loop {
//!         let mut rows = report.rows(all.len()).await?;
//!         if rows.is_empty() {
//!             return Ok(all);
//!         }
//!         all.append(&mut rows);
//!     }
//! }
//!
//! struct Year(Vec<String>);
//!
//! impl Report for Year {
//!     async fn rows(&self, from: usize) -> Vec<String> {
//!         self.0.iter().skip(from).take(1_000).cloned().collect()
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), RpcError> {
//! let rows: Vec<String> = (0..2_500).map(|row| format!("row {row}")).collect();
//! let report = ReportClient::new(ReportDispatcher::new(Year(rows.clone())));
//! assert_eq!(read(&report).await?, rows);
//! # Ok(())
//! # }
//! ```
//!
//! # Headers and `traceparent` taken over from HTTP
//!
//! For one call, set them on the call: `fib.fib(30).header("traceparent", text)`. A gateway makes a context for each HTTP request
//! instead, and runs its own handler in its scope. All calls there take over the deadline, the trace, and the headers marked as
//! propagating, as calls in an RPC handler do; and the services behind hand these on in turn.
//!
//! ```
//! use std::time::Duration;
//! use rpc_core::{Context, RpcError, rpc};
//!
//! #[rpc]
//! pub trait Orders {
//!     async fn place(item: String, #[ctx] cx: Context) -> String;
//! }
//!
//! struct Shop;
//!
//! impl Orders for Shop {
//!     async fn place(&self, item: String, cx: Context) -> String {
//! #       let trace: &str = cx.header_as("traceparent").expect("it is taken over");
//! #       assert!(trace.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"), "{trace}");
//!         format!("{item} for {}", cx.header_as("tenant").unwrap_or("no tenant"))
//!     }
//! }
//!
//! # /// The headers of an HTTP request.
//! # struct HttpHeaders;
//! # impl HttpHeaders {
//! #     fn get(&self, name: &str) -> Option<&str> {
//! #         match name {
//! #             "traceparent" => Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
//! #             "x-tenant" => Some("a"),
//! #             _ => None,
//! #         }
//! #     }
//! # }
//! /// Takes over what calls are to inherit: what the caller may set, and nothing else.
//! fn context(headers: &HttpHeaders) -> Context {
//!     let mut context = Context::builder().timeout(Duration::from_secs(5));
//!     for name in ["traceparent", "tracestate"] {
//!         if let Some(value) = headers.get(name) {
//!             context = context.header(name, value);
//!         }
//!     }
//!     if let Some(tenant) = headers.get("x-tenant") {
//!         context = context.propagating_header("tenant", tenant);
//!     }
//!     context.build()
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), RpcError> {
//! # let http_headers = HttpHeaders;
//! let orders = OrdersClient::new(OrdersDispatcher::new(Shop));
//! let handling = async { orders.place("tea".to_owned()).await };
//! assert_eq!(context(&http_headers).scope(handling).await?, "tea for a");
//! # Ok(())
//! # }
//! ```
//!
//! A task that is spawned in the scope is outside of it ([`Context::scope`](crate::Context::scope)). With the feature `opentelemetry` the
//! trace comes from the current span, so there it is the HTTP server's own layer that has to take over `traceparent`, and only other
//! headers need this.
//!
//! # Versions of OpenTelemetry
//!
//! See [`observability`](super::observability).
//!
//! # Heartbeats and paused processes
//!
//! A process that is stopped (`SIGSTOP`, a debugger, a laptop that sleeps) answers no heartbeats. With the default of
//! [30 seconds](crate::ConnectionBuilder::heartbeat) RabbitMQ closes its connection within two minutes
//! (<https://www.rabbitmq.com/docs/heartbeats>). When it goes on,
//!
//! - its connection reconnects by itself, and a server takes requests again;
//! - its calls in flight fail, with `Timeout` if their deadlines have passed, else with `Disconnected`; `idempotent` ones are repeated
//!   while their deadlines allow;
//! - the requests that a stopped server had are with other servers already. A handler that was in the middle of one goes on
//!   nevertheless, so what it does may happen twice, and its reply is dropped. A method that must not run twice is `at_most_once`.
//!
//! For as long as the broker has not noticed, a stopped server keeps the requests that it was given, and their callers wait until their
//! deadlines. A shorter heartbeat shortens that time; one below 5 seconds may take a busy machine for a dead one. For a long look with a
//! debugger use `memory:`, which has no heartbeats, and calls with a long `timeout`.
//!
//! # Paused time in tests
//!
//! With tokio's feature `test-util`, `#[tokio::test(start_paused = true)]` makes time jump to the next timer whenever nothing else can
//! run. On `memory:` and in the direct form all deadlines, pauses between attempts and drain limits follow that clock, so that a test of
//! a 30 second deadline takes no time:
//!
//! ```
//! use std::time::Duration;
//! use rpc_core::{Connection, ErrorKind, Server, rpc};
//!
//! #[rpc]
//! pub trait Slow {
//!     async fn answer(after: Duration) -> u64;
//! }
//!
//! struct Sleeper;
//!
//! impl Slow for Sleeper {
//!     async fn answer(&self, after: Duration) -> u64 {
//!         tokio::time::sleep(after).await;
//!         42
//!     }
//! }
//!
//! // In a test: #[tokio::test(start_paused = true)]
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let began = std::time::Instant::now();
//! let connection = Connection::open("memory:").await?;
//! let server = Server::builder(&connection).service(SlowDispatcher::new(Sleeper)).build().start().await?;
//! let slow = SlowClient::new(connection.client());
//!
//! assert_eq!(slow.answer(Duration::from_secs(29)).await?, 42);
//! let error = slow.answer(Duration::from_secs(31)).await.unwrap_err();
//! assert_eq!(error.kind(), ErrorKind::Timeout);
//! # server.shutdown().await?;
//! # assert!(began.elapsed() < Duration::from_secs(20));
//! # Ok(())
//! # }
//! ```
//!
//! - Use `tokio::time::Instant` in handlers and tests: `std`'s goes on at its own pace.
//! - Do not pause time on RabbitMQ. While a program waits for its socket nothing else can run, so time jumps, and every deadline passes at
//!   once.
//! - While a `blocking` handler runs, time stands still and timers wait for it.
//!
//! # `prefetch` with `at_most_once`
//!
//! A request of such a method is acknowledged before it runs, so the broker hands out the next one at once: a server with `prefetch(4)`
//! holds up to eight, four that run and four that wait. [`ServerBuilder::prefetch`](crate::ServerBuilder::prefetch) and
//! [`delivery`](super::delivery) have more.
//!
//! # One generic trait, two types
//!
//! `StoreDispatcher` of a `Store<String>` and of a `Store<u64>` have the same name and the same queue: neither depends on `T`. In one server
//! that is an error when it starts. In two programs it is not noticed: each is given requests of the other's clients, and about every second
//! call fails with [`BadRequest`](crate::ErrorKind::BadRequest), or worse, is understood. Give each type a queue of its own, on both sides:
//!
//! ```
//! use rpc_core::{Connection, Server, rpc};
//! use serde::Serialize;
//! use serde::de::DeserializeOwned;
//!
//! #[rpc]
//! pub trait Store<T: Serialize + DeserializeOwned + Send + 'static> {
//!     async fn latest() -> T;
//! }
//!
//! struct Shelf;
//!
//! impl Store<String> for Shelf {
//!     async fn latest(&self) -> String {
//!         "tea".to_owned()
//!     }
//! }
//!
//! impl Store<u64> for Shelf {
//!     async fn latest(&self) -> u64 {
//!         7
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let connection = Connection::open("memory:").await?;
//! let server = Server::builder(&connection)
//!     .service(StoreDispatcher::<String, _>::new(Shelf).with_queue("rpc.Store.texts"))
//!     .service(StoreDispatcher::<u64, _>::new(Shelf).with_queue("rpc.Store.numbers"))
//!     .build()
//!     .start()
//!     .await?;
//!
//! let texts = StoreClient::<String>::new(connection.client()).with_queue("rpc.Store.texts");
//! let numbers = StoreClient::<u64>::new(connection.client()).with_queue("rpc.Store.numbers");
//! assert_eq!(texts.latest().await?, "tea");
//! assert_eq!(numbers.latest().await?, 7);
//! # server.shutdown().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Methods with a `queue` of their own keep it: use `with_queue_prefix` where a generic trait has such methods.
//!
//! # Mocks
//!
//! Any handler is a mock: write one that answers as the test wants ([`testing`](super::testing)). mockall can write it. Its attribute stands
//! below `#[rpc]`, which is expanded first then and leaves a plain trait to it:
//!
//! ```text
//! #[rpc]
//! #[cfg_attr(test, mockall::automock)]
//! pub trait Fib {
//!     async fn fib(n: u64) -> u64;
//! }
//!
//! let mut mock = MockFib::new();
//! mock.expect_fib().returning(|n| Box::pin(async move { n + 1 }));
//! let fib = FibClient::new(FibDispatcher::new(mock));
//! ```
//!
//! `#[async_trait]` is not needed on the trait or its `impl`s, and `#[rpc]` refuses it.
