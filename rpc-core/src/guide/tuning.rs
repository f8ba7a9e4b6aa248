//! Tuning: which settings matter, and which way to turn them.
//!
//! The defaults suit handlers that wait for something else, such as a database. `BENCHMARKS.md` in the repository says what a call and
//! each guarantee cost, and how to measure that on your machines; measure before you turn anything.
//!
//! ```
//! use std::time::Duration;
//! use rpc_core::{Connection, Server, rpc};
//! # #[rpc] pub trait Reports { #[rpc(blocking)] fn render(n: u64) -> u64; }
//! # struct Printer;
//! # impl Reports for Printer { fn render(&self, n: u64) -> u64 { n } }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let connection = Connection::open("memory:").await?;
//! let server = Server::builder(&connection)
//!     .service(ReportsDispatcher::new(Printer))
//!     .prefetch(4)      // as many as there are cores: reports compute
//!     .build()
//!     .start()
//!     .await?;
//!
//! let client = connection
//!     .client_builder()
//!     .timeout(Duration::from_secs(120)) // reports take long
//!     .max_in_flight(100)                // and nobody needs a thousand at once
//!     .build();
//! assert_eq!(ReportsClient::new(client).render(3).await?, 3);
//! server.shutdown().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # A server
//!
//! | setting | default | more | less |
//! |---|---|---|---|
//! | [`prefetch`](crate::ServerBuilder::prefetch), for each queue: how many requests the broker hands to this server, and how many handlers of that queue run at once | 64 | keeps handlers that wait busy; for those that answer at once, 256 gave 114 % of the rate | shares slow jobs out fairly: 1 for a job at a time; 16, 4 and 1 gave 78, 38 and 13 % of the rate |
//! | [`concurrency`](crate::ServerBuilder::concurrency), for the server: how many handlers run at once | no limit but the prefetch | | protects what all services share, memory or a database; the rest of the prefetch waits *here*, where no other server can take it |
//! | a `queue` of its own for a method | the service's | slow methods do not hold up fast ones | |
//! | `blocking`, for a method that computes or blocks | off | the async runtime stays free for others; each call costs a thread's wake-up | |
//!
//! Requests of `at_most_once` methods are acknowledged before they run, and take no place of the prefetch while they do: with a prefetch of 4
//! a busy server holds 8 of them, 4 that run and 4 that wait for one of those to end. What waits, another server cannot take, even if
//! that is idle. If the server stops, they go back to the queue; if it dies, they are given up: they may have run. A small prefetch keeps
//! those few.
//!
//! A handler that calls another service keeps its place meanwhile. If that service comes back to the same queue, directly or through
//! others, and the places are all taken by those who wait, nobody goes on until a deadline passes: give the inner method a queue of its
//! own, and set no `concurrency` that the waiting ones can use up.
//!
//! A handler that takes longer than RabbitMQ's `consumer_timeout`, 30 minutes unless configured, loses its channel there. Hand such
//! jobs to something else and answer at once.
//!
//! # A client
//!
//! - [`max_in_flight`](crate::ClientBuilder::max_in_flight) bounds memory, 262,144 calls unless set. Further calls wait.
//! - Clients, and clones, of one connection share its channel and its reply queue: one connection for a process is right to begin
//!   with.
//! - One call after the other waits for a round trip each. Have many in flight, with a `JoinSet`, or write a
//!   method that takes a list.
//!
//! # Calls that share messages
//!
//! Replies of a server that are ready at the same time, for the same client, travel in one message. Requests of `idempotent` methods do
//! so, too, if their client asks for it:
//!
//! ```
//! # use rpc_core::{Connection, Server, rpc};
//! # #[rpc] pub trait Fib { #[rpc(idempotent)] async fn fib(n: u64) -> u64; }
//! # struct Calculator;
//! # impl Fib for Calculator { async fn fib(&self, n: u64) -> u64 { n } }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let connection = Connection::open("memory:").await?;
//! let server = Server::builder(&connection)
//!     .service(FibDispatcher::new(Calculator))
//!     .prefetch(256)    // takes 64 calls in one message
//!     .build()
//!     .start()
//!     .await?;
//! let fib = FibClient::new(connection.client_builder().coalesce(64).build());
//! assert_eq!(fib.fib(30).await?, 30);
//! # server.shutdown().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Turn it on where one client has dozens of short calls in flight and the broker is what limits them: then it is several times as
//! fast. With a thousand of them, a limit of 256 and a prefetch of 1024 are faster still. Leave it off where handlers take long or
//! compute: calls are then shared out among servers one by one, which is fairer, and messages are not what limits them.
//! [`ClientBuilder::coalesce`](crate::ClientBuilder::coalesce) says what it changes; the metrics
//! `rpc.client.batch.size` and `rpc.server.batch.size` say whether it does anything.
//!
//! # Guarantees, and what they cost
//!
//! | | cost |
//! |---|---|
//! | [`confirms`](crate::ClientBuilder::confirms): a request that the broker refuses fails at once | about a fifth of the throughput |
//! | `persistent`, `oneway` | a confirm each; a persistent one a disk as well: a third of the throughput |
//! | [quorum queues](crate::QueueOptions::quorum) | about 40 % of the throughput |
//! | `at_most_once` | the acknowledgement is waited for before the handler runs |
//! | `idempotent` | nothing, until something fails |
//!
//! # Payloads
//!
//! - Use `bytes::Bytes` or `serde_bytes` for bulk data: see [`services`](super::services#types).
//! - MessagePack, the default, is smaller than JSON, for numbers above all.
//! - Names of fields travel with every value. In lists of thousands of small structs, short names (`#[serde(rename = "…")]`) count.
//! - Memory that programs give back to the kernel has to be cleared when they take it again, which glibc's allocator does for each body
//!   of a megabyte. With `MALLOC_TRIM_THRESHOLD_=268435456` and `MALLOC_MMAP_THRESHOLD_=33554432` in the environment it keeps the
//!   memory, which gave 1.2 times the rate.
//! - Above some megabytes, send where the data is instead of the data: a broker is no file server.
