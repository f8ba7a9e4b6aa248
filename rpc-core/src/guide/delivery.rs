//! Delivery guarantees: what is lost, what runs twice, what is kept.
//!
//! # The default: acknowledged after the reply
//!
//! A server acknowledges a request after it has sent its reply, on the same channel. Until then the broker keeps the request,
//! and gives it to another server if this one dies or loses its connection. So **a request may run more than once**, though it
//! rarely does; a handler for which that matters asks [`Context::redelivered`](crate::Context::redelivered), or, better, recognises
//! what it has done by an id in the arguments. The caller waits meanwhile, and gets one reply.
//!
//! ```
//! use std::collections::HashSet;
//! use std::sync::{Arc, Mutex};
//! use rpc_core::{Connection, Context, Server, rpc};
//! use tokio::sync::Notify;
//!
//! #[rpc]
//! pub trait Ledger {
//!     /// Books an amount, once for each id.
//!     async fn book(id: u64, amount: u64, #[ctx] cx: Context) -> u64;
//! }
//!
//! #[derive(Clone, Default)]
//! struct Books {
//!     booked: Arc<Mutex<(u64, HashSet<u64>)>>,
//!     is_booked: Arc<Notify>,
//! }
//!
//! impl Ledger for Books {
//!     async fn book(&self, id: u64, amount: u64, cx: Context) -> u64 {
//!         let sum = {
//!             let (sum, ids) = &mut *self.booked.lock().unwrap();
//!             if ids.insert(id) {
//!                 *sum += amount;
//!             }
//!             *sum
//!         };
//!         self.is_booked.notify_one();
//!         if !cx.redelivered() {
//!             std::future::pending::<()>().await; // The first server dies here: after the work, before the reply.
//!         }
//!         sum
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let connection = Connection::open("memory:").await?;
//! let books = Books::default();
//! let serve = || Server::builder(&connection).service(LedgerDispatcher::new(books.clone())).build().start();
//!
//! let first = serve().await?;
//! let ledger = LedgerClient::new(connection.client());
//! let call = tokio::spawn(ledger.book(1, 100));
//! books.is_booked.notified().await;
//! drop(first); // As a crash: nothing is finished.
//! let second = serve().await?;
//! assert_eq!(call.await??, 100);
//! second.shutdown().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What a method can ask for
//!
//! | option | what it changes | for |
//! |---|---|---|
//! | none | if the server dies, another runs the request; if the *client's* connection dies, the call fails with [`Disconnected`](crate::ErrorKind::Disconnected), and the request may run | most methods |
//! | `idempotent` | the client, too, sends it again within its deadline: after a lost connection, a refusal by the broker, a server that was told to stop. [`RetryPolicy`](crate::middleware::RetryPolicy) says how often | reads, and writes that say what is to be, not what is to be added |
//! | `at_most_once` | acknowledged before it runs: a crash loses it, and its caller waits until its deadline; nothing runs it twice | what must not happen twice and cannot be recognised |
//! | `persistent` | the broker writes it to disk and confirms it: it survives a restart of the broker | what is to be run whatever becomes of its caller |
//! | `oneway` | no reply: the call is done when the broker has confirmed the request | events |
//!
//! Some of them are less than they seem:
//!
//! - A request expires at its deadline, `persistent` and `oneway` ones included: after 30 seconds, unless a `timeout` says more.
//! - Reply queues go with their client's connection. A `persistent` request that outlives its broker is run, but its caller has
//!   had `Disconnected` by then, or, if the method is `idempotent`, has sent it again.
//! - Only the server's log tells what a `oneway` handler returned, that it panicked, or that a layer refused the call.
//! - A request that is not `persistent` may be lost when the broker restarts, though its queue is durable. A quorum queue keeps
//!   all.
//!
//! # Requests that kill servers
//!
//! A request is delivered at most [`delivery_limit`](crate::ServerBuilder::delivery_limit) times, three unless set, the last
//! time from the queue `<queue>.retry`, of which a server takes one at a time, or one more for each that runs for longer than five
//! seconds. Then it is moved to `<queue>.dead`, with headers
//! that say why, and its caller is told [`Panicked`](crate::ErrorKind::Panicked). (A panic itself kills nobody: it is answered and
//! acknowledged.) Nothing consumes the dead-letter queue: monitor it, and remove or replay its messages.
//!
//! To replay a message, move it back to its request queue as it is, by hand or with a shovel, or serve the dead-letter queue itself with
//! a dispatcher. It starts afresh: its old deadline and the old number of deliveries are ignored, it has the
//! [`default_deadline`](crate::ServerBuilder::default_deadline), and it is given up again if servers die of it again. The same holds
//! for requests that expired in a queue with a [`dead_letter_queue`](crate::QueueOptions::dead_letter_queue).
//! [`Context::redelivered`](crate::Context::redelivered) tells the handler that it may have run before. Its caller has long been told,
//! so the reply is dropped.
//!
//! Every delivery counts that ended with its server's death or lost connection. Where several deadly requests are about, what
//! runs beside them may be given up with them: the dead-letter queue has it, and running it again is safe as far as it ever was.
//! Requests that a server gives back when it stops do not count.
//!
//! # The queue
//!
//! [`QueueOptions`](crate::QueueOptions), given to a dispatcher, say how servers declare a service's queue:
//!
//! ```
//! # use rpc_core::{Connection, Server, rpc};
//! use std::time::Duration;
//! use rpc_core::{ErrorKind, QueueOptions};
//! # #[rpc] pub trait Jobs { #[rpc(oneway)] async fn run(n: u64); }
//! # struct Never;
//! # impl Jobs for Never { async fn run(&self, _: u64) { std::future::pending::<()>().await } }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let connection = Connection::open("memory:").await?;
//! let options = QueueOptions::classic()
//!     .max_length(1)                        // more than one waiting is refused
//!     .dead_letter_queue("jobs.given-up");  // what expired, or was delivered too often
//! let server = Server::builder(&connection)
//!     .service(JobsDispatcher::new(Never).with_queue_options(options))
//!     .prefetch(1)
//!     .drain_timeout(Duration::ZERO)
//!     .build()
//!     .start()
//!     .await?;
//!
//! let jobs = JobsClient::new(connection.client());
//! let mut refused = 0;
//! for n in 0..5 {
//!     if jobs.run(n).await.is_err_and(|error| error.kind() == ErrorKind::Rejected) {
//!         refused += 1;
//!     }
//! }
//! assert!(refused >= 3); // one runs, one waits
//! server.shutdown().await?;
//! # Ok(())
//! # }
//! ```
//!
//! A full queue tells a client only if it confirms: `oneway` and `persistent` methods do, others with
//! [`ClientBuilder::confirms`](crate::ClientBuilder::confirms). All who declare a queue have to agree on its options: changing them
//! takes [a new queue](super::cluster#which-queues-survive), or deleting the old one. A server that is to stand beside others which
//! declare the queue in their own way uses it as it is: [`QueueOptions::existing`](crate::QueueOptions::existing).
