//! Running on a cluster: several nodes of RabbitMQ, and what happens when one dies.
//!
//! # Naming the nodes
//!
//! A connection is to one node at a time. Name the others, and it goes to one of them when its own is lost:
//!
//! ```no_run
//! # async fn run() -> Result<(), rpc_core::OpenError> {
//! use std::time::Duration;
//! use rpc_core::Connection;
//!
//! let connection = Connection::builder("amqp://user:password@rabbit-1/%2f")
//!     .endpoint("amqp://user:password@rabbit-2/%2f")
//!     .endpoint("amqp://user:password@rabbit-3/%2f")
//!     .wait_for_broker(Duration::from_secs(60)) // started together with the cluster
//!     .open()
//!     .await?;
//! # Ok(())
//! # }
//! ```
//!
//! Each attempt tries them in turn, the last one that worked first. Programs that all name them in the same order all go to the first one:
//! change the order, or name a load balancer.
//!
//! # What a lost connection does
//!
//! | | |
//! |---|---|
//! | calls in flight | fail at once with [`Disconnected`](crate::ErrorKind::Disconnected); those of `idempotent` methods are sent again |
//! | calls made meanwhile | wait for the connection, within their deadlines |
//! | a server's handlers | go on, but their replies cannot be sent any more: the broker gives their requests to a server again, as redeliveries |
//! | servers | take up their queues again once there is a connection, and declare them anew if they are gone |
//! | connecting | is tried for as long as it takes, with pauses from 0.1 to 1 second, lengthened at random to twice that at most |
//!
//! ```
//! use rpc_core::testing::EmbeddedBroker;
//! use rpc_core::{Connection, ConnectionState, Server, rpc};
//!
//! #[rpc]
//! pub trait Clock {
//!     #[rpc(idempotent)]
//!     async fn hour() -> u8;
//! }
//!
//! struct Stopped;
//!
//! impl Clock for Stopped {
//!     async fn hour(&self) -> u8 {
//!         12
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let broker = EmbeddedBroker::named("guide-cluster");
//! let connection = Connection::open(&broker.url()).await?;
//! let server = Server::builder(&connection).service(ClockDispatcher::new(Stopped)).build().start().await?;
//! let clock = ClockClient::new(connection.client());
//! assert_eq!(clock.hour().await?, 12);
//!
//! // The node dies, and no other is up yet.
//! broker.refuse_connections(true);
//! broker.drop_connections();
//! let mut state = connection.state();
//! while state.current() == ConnectionState::Connected {
//!     state.changed().await;
//! }
//!
//! // A call waits, within its deadline, until one is.
//! let call = tokio::spawn(clock.hour());
//! broker.refuse_connections(false);
//! assert_eq!(call.await??, 12);
//! server.shutdown().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Which queues survive
//!
//! - A **classic queue**, the default, lives on one node. While that is down, the queue is: calls of its service fail, by their
//!   deadlines at the latest, and servers wait for it to come back. Requests in it that are not `persistent` are gone.
//! - A **quorum queue** ([`QueueOptions::quorum`](crate::QueueOptions::quorum)) is replicated: as long as most of its nodes are up,
//!   it goes on, with all its requests. It costs throughput, see [`QueueOptions::quorum`](crate::QueueOptions::quorum).
//! - **Reply queues** are exclusive to their client's connection and go with it, which does no harm: the calls that wait on them
//!   have failed with the connection, and a new one has a reply queue of another name.
//!
//! Changing a queue's type takes another queue, and so does every other change of its options:
//!
//! 1. Start servers with the new options and `with_queue_prefix("v2.")`, beside the old ones. A prefix moves all queues of a service,
//!    those that methods name for themselves too; `with_queue` moves only the service's own.
//! 2. Move the clients: `with_queue_prefix("v2.")`.
//! 3. Stop the old servers once the old queues and their `.retry` are empty.
//! 4. Look at what is in the old dead-letter queues, and delete the old queues.
//!
//! ```
//! use rpc_core::{Connection, QueueOptions, Server, rpc};
//!
//! #[rpc]
//! pub trait Reports {
//!     async fn count() -> u64;
//!     #[rpc(queue = "rpc.Reports.slow")]
//!     async fn render(n: u64) -> String;
//! }
//!
//! #[derive(Clone)]
//! struct Printer;
//!
//! impl Reports for Printer {
//!     async fn count(&self) -> u64 {
//!         1
//!     }
//!
//!     async fn render(&self, n: u64) -> String {
//!         format!("report {n}")
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let connection = Connection::open("memory:").await?;
//! let old = Server::builder(&connection).service(ReportsDispatcher::new(Printer)).build().start().await?;
//! let dispatcher = ReportsDispatcher::new(Printer).with_queue_prefix("v2.").with_queue_options(QueueOptions::quorum());
//! let new = Server::builder(&connection).service(dispatcher).build().start().await?;
//!
//! let reports = ReportsClient::new(connection.client()).with_queue_prefix("v2.");
//! old.shutdown().await?;
//! assert_eq!(reports.render(1).await?, "report 1");
//! # new.shutdown().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Rolling upgrades
//!
//! Of servers: start the new one, then stop the old one with [`shutdown`](crate::ServerHandle::shutdown), or by ending the signal
//! of [`run_until`](crate::Server::run_until); no call fails, as `examples/rolling_restart.rs` shows. With one exception: a
//! quorum queue takes back what is on its way to a server at the moment when that stops to read. Requests of `at_most_once` methods are
//! then given up, and their callers are told [`Cancelled`](crate::ErrorKind::Cancelled). A stopping server reads on for a quarter of a
//! second until its prefetch is full and nothing can be on its way, so this happens only where fewer requests come than that, to those
//! that come within some hundred microseconds, or more on a busy machine. A burst at that moment, such as the backlog of another server
//! that stops, is given up as a whole: stop servers one after the other. Give the process more time to stop than its
//! [`drain_timeout`](crate::ServerBuilder::drain_timeout), which is 30 seconds. Of RabbitMQ's nodes: one after the other, with
//! quorum queues; calls in flight through a node fail once, so make methods `idempotent` where they can be.
//!
//! # Known limits
//!
//! The repository's `ARCHITECTURE.md` lists them. `SECURITY.md` states what a user who may publish to a service's queue can and cannot
//! do, and which permissions clients and servers need. [`ServerBuilder::reply_policy`](crate::ServerBuilder::reply_policy) narrows
//! where replies may go.
