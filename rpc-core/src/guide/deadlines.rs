//! Deadlines and cancellation: how long a call takes at most, and who stops when nobody waits any more.
//!
//! # Every call has a deadline
//!
//! It is the call's own ([`timeout`](crate::Call::timeout), [`deadline`](crate::Call::deadline)), else the method's, else the
//! trait's `timeout`, else the client's ([`ClientBuilder::timeout`](crate::ClientBuilder::timeout)), which is 30 seconds. Its time counts
//! from the `.await` and covers everything: waiting for a connection, for a place among the calls in flight, for a server, all
//! attempts. Then the call ends with [`Timeout`](crate::ErrorKind::Timeout), whatever happens.
//!
//! The request carries the deadline. In the queue it expires; a server does not run it afterwards, and stops a handler that is
//! running then: an `async` handler is dropped where it waits, a `blocking` one can only ask
//! [`Context::is_cancelled`](crate::Context::is_cancelled), and keeps its place in the server's limits until it returns. That
//! goes for `oneway` and `persistent` requests, too: give those a `timeout` that is as long as they may wait and run.
//!
//! A request of another program that comes without a deadline gets one from the server:
//! [`ServerBuilder::default_deadline`](crate::ServerBuilder::default_deadline), 15 minutes unless set.
//!
//! Deadlines travel as moments, so the clocks of clients and servers should agree; a call that a server refuses too early says so,
//! and by how much its clock is ahead.
//!
//! # Calls made in a handler
//!
//! They inherit, without a word of code, what is left of the handler's time, its cancellation, and the headers that are marked as
//! propagating. [`Context`](crate::Context) has the details, and how to bring that into spawned tasks.
//!
//! ```
//! use std::time::Duration;
//! use rpc_core::{Connection, Context, Server, rpc};
//!
//! #[rpc]
//! pub trait Prices {
//!     async fn price(item: String, #[ctx] cx: Context) -> u64;
//! }
//!
//! struct List;
//!
//! impl Prices for List {
//!     async fn price(&self, _item: String, cx: Context) -> u64 {
//!         assert!(cx.remaining() <= Some(Duration::from_secs(2)));
//!         let is_member = cx.header_as::<&str>("customer").is_some();
//!         if is_member { 90 } else { 100 }
//!     }
//! }
//!
//! #[rpc]
//! pub trait Shop {
//!     async fn total(items: Vec<String>) -> Option<u64>;
//! }
//!
//! struct Counter {
//!     prices: PricesClient,
//! }
//!
//! impl Shop for Counter {
//!     async fn total(&self, items: Vec<String>) -> Option<u64> {
//!         let mut total = 0;
//!         for item in items {
//!             total += self.prices.price(item).await.ok()?; // within what is left of the two seconds
//!         }
//!         Some(total)
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let connection = Connection::open("memory:").await?;
//! let prices = PricesClient::new(connection.client());
//! # let _server = Server::builder(&connection)
//! #     .service(PricesDispatcher::new(List))
//! #     .service(ShopDispatcher::new(Counter { prices }))
//! #     .build().start().await?;
//! let shop = ShopClient::new(connection.client());
//! let total = shop
//!     .total(vec!["tea".to_owned(), "milk".to_owned()])
//!     .timeout(Duration::from_secs(2))
//!     .propagating_header("customer", "Ada")
//!     .await?;
//! assert_eq!(total, Some(180));
//! # Ok(())
//! # }
//! ```
//!
//! A handler that wants to answer in any case gives its calls less than it has: `cx.remaining()` halved, for instance.
//! `examples/deadlines.rs` does.
//!
//! # Dropped calls
//!
//! Dropping the future of a call abandons it: in a `select!`, by aborting its task, or because a handler that was making it was
//! dropped. Servers are told, and stop its handler or do not begin it, unless
//! [`ClientBuilder::cancellation`](crate::ClientBuilder::cancellation) or
//! [`ServerBuilder::cancellation`](crate::ServerBuilder::cancellation) is off. The notice may come late, or be lost with a
//! connection; then the deadline does it. What has been done is not undone.
//!
//! So handlers, like everything that is dropped in async Rust, should not be halfway through what must be whole when they
//! wait. What must be finished goes into a task of its own (which is then no part of the call, and not of the server's
//! graceful stop).
//!
//! # Stopping a server
//!
//! A server that is told to stop takes no more requests, gives back to the queue what has not begun, and finishes what has,
//! within [`drain_timeout`](crate::ServerBuilder::drain_timeout). What still runs then is dropped, and run again by another
//! server; so is everything if the handle is just dropped.
