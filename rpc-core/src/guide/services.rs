//! Defining services: the trait, its options, and the programs around it.
//!
//! # The contract
//!
//! A trait with [`#[rpc]`](macro@crate::rpc) is the whole contract. Put it into a crate of its own, with the types of its arguments,
//! results and errors; the server's program and the clients' programs depend on that crate, and on nothing of each other.
//!
//! ```
//! use std::time::Duration;
//! use rpc_core::{Connection, Context, Server, rpc};
//! use serde::{Deserialize, Serialize};
//!
//! /// Sends parcels.
//! #[rpc(timeout = "5s")]                               // queue "rpc.Parcels"; calls have 5 seconds
//! pub trait Parcels {
//!     /// Registers a parcel; returns its number.
//!     async fn register(parcel: Parcel, #[ctx] cx: Context) -> Result<u64, ParcelError>;
//!
//!     /// Where a parcel is.
//!     #[rpc(idempotent, timeout = "500ms")]            // may be sent twice; has less time
//!     async fn locate(number: u64) -> Option<String>;
//!
//!     /// The label, as a picture.
//!     #[rpc(blocking, queue = "rpc.Parcels.labels")]   // computes; does not hold up the others
//!     fn label(number: u64) -> String;
//!
//!     /// Somebody has seen a parcel.
//!     #[rpc(oneway)]                                   // no reply
//!     async fn seen(number: u64, place: String);
//!
//!     /// Where several parcels are. Handlers need not write this one.
//!     async fn locate_all(&self, numbers: Vec<u64>) -> Vec<Option<String>> {
//!         let mut places = Vec::new();
//!         for number in numbers {
//!             places.push(self.locate(number).await);
//!         }
//!         places
//!     }
//! }
//!
//! #[derive(Debug, Serialize, Deserialize)]
//! pub struct Parcel {
//!     pub to: String,
//! }
//!
//! #[derive(Debug, Serialize, Deserialize)]
//! pub enum ParcelError {
//!     NoSuchPlace,
//! }
//!
//! struct Office;
//!
//! impl Parcels for Office {
//!     async fn register(&self, parcel: Parcel, _cx: Context) -> Result<u64, ParcelError> {
//!         if parcel.to.is_empty() { Err(ParcelError::NoSuchPlace) } else { Ok(1) }
//!     }
//!
//!     async fn locate(&self, number: u64) -> Option<String> {
//!         (number == 1).then(|| "here".to_owned())
//!     }
//!
//!     fn label(&self, number: u64) -> String {
//!         format!("[{number}]")
//!     }
//!
//!     async fn seen(&self, _number: u64, _place: String) {}
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let connection = Connection::open("memory:").await?;
//! let server = Server::builder(&connection)
//!     .service(ParcelsDispatcher::new(Office))
//!     .build()
//!     .start()
//!     .await?;
//!
//! let parcels = ParcelsClient::new(connection.client());
//! let number = parcels.register(Parcel { to: "Ada".to_owned() }).await.map_err(|_| "refused")?;
//! assert_eq!(parcels.locate_all(vec![number, 2]).await?, [Some("here".to_owned()), None]);
//! assert_eq!(parcels.label(number).await?, "[1]");
//! parcels.seen(number, "there".to_owned()).await?;   // the broker has it; nobody says when it has run
//! server.shutdown().await?;
//! # Ok(())
//! # }
//! ```
//!
//! The documentation of [`#[rpc]`](macro@crate::rpc) lists all options, and every item that is generated.
//!
//! # Types
//!
//! Arguments and results are whatever serde can write and read, and own their data. They go as MessagePack with names, or as
//! JSON for clients built with [`ClientBuilder::json`](crate::ClientBuilder::json); a server answers in what it was asked in.
//! Bulk data is best a `bytes::Bytes` (with that crate's feature `serde`) or a `Vec<u8>` marked
//! `#[serde(with = "serde_bytes")]`: a plain `Vec<u8>` is a list of numbers to serde, slow and up to twice as large. A body may have
//! [16 MiB](crate::ConnectionBuilder::max_message_size).
//!
//! Both formats have one form of values, the one that serde calls human-readable: addresses, UUIDs and the times of chrono, time
//! and jiff are text, as other languages expect. (`time` needs its feature `serde-human-readable`.) Bytes stay bytes in MessagePack.
//!
//! Values arrive as they were sent. A few cannot, because of serde or a format:
//!
//! - NaN and infinity do not exist in JSON, nor do maps with keys such as tuples: keys are texts, numbers, `bool`s, `char`s and names
//!   of variants. A client does not send such arguments ([`Encode`](crate::ErrorKind::Encode)); in place of such an answer its caller
//!   gets [`BadReply`](crate::ErrorKind::BadReply).
//! - `Some(x)` is written as `x`, so `Some(None)` and `Some(())` arrive as `None`: where these mean something, use an enum.
//! - Integers of 128 bits cannot be read in what is `untagged`, internally tagged or flattened; neither can, in JSON, maps there whose
//!   keys are no texts.
//! - At most 127 arrays and maps are in each other, the map of all arguments included. Deeper ones are refused where they are sent from. Send a tree without such a limit as a list of
//!   nodes that name each other.
//!
//! # Queues
//!
//! A service has the queue `rpc.<name>` unless the trait names another. `with_queue` and `with_queue_prefix`, on clients and
//! dispatchers alike, choose at run time: a prefix for each deployment keeps those on one broker apart. Servers declare queues;
//! clients do not, so a call of a service that never had a server fails at once, with
//! [`Unroutable`](crate::ErrorKind::Unroutable).
//!
//! # Programs
//!
//! A client's program opens one [`Connection`](crate::Connection) and makes clients of it, which are cheap. A server's program ends
//! with [`Server::run_until`](crate::Server::run_until) and a signal. Any number of them may serve a queue; start and stop
//! them as you like. `examples/fib_server.rs` and `examples/rolling_restart.rs` show both.
