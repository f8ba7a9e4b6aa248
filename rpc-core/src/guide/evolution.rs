//! Evolving a contract: which changes of a trait its deployed clients and servers survive.
//!
//! Clients and servers are never replaced at one moment, so for a while those of the old contract call those of the new one, and
//! the other way round. Arguments travel by name, unknown ones are ignored, and a missing one is what its `#[serde(default)]` says, or
//! `None`. The rest follows from that, and from what serde does with a result.
//!
//! | change | old client, new server | new client, old server |
//! |---|---|---|
//! | add an argument with `#[serde(default)]`, or an `Option` | works: the default, or `None` | works: it is ignored |
//! | add any other argument | **`BadRequest`** | works: it is ignored |
//! | remove an argument that has a default or is an `Option` | works | works |
//! | remove any other argument | works | **`BadRequest`** |
//! | reorder arguments | works | works |
//! | rename an argument, with `#[serde(rename = "old name")]` | works | works |
//! | rename an argument, with `#[serde(alias = "old name")]` | works | **`BadRequest`** |
//! | rename an argument | **`BadRequest`** | **`BadRequest`** |
//! | rename a method, with `#[rpc(name = "old name")]` | works | works |
//! | rename a method | **`UnknownMethod`** | **`UnknownMethod`** |
//! | add a method (with a default body no handler has to change) | – | **`UnknownMethod`** |
//! | remove a method | **`UnknownMethod`** | – |
//! | widen an integer, or give it a sign | works; **`BadReply`** if a result does not fit | works; **`BadRequest`** if an argument does not fit |
//! | make an integer a float | **`BadReply`**; works as an argument | **`BadRequest`**; works as a result |
//! | make an argument an `Option` | works | works; **`BadRequest`** without a value |
//! | make a result an `Option` | works; **`BadReply`** without a value | works |
//! | add a field with `#[serde(default)]` to a struct that is returned | works: it is ignored, unless the old struct has `deny_unknown_fields`: **`BadReply`** | works: the default |
//! | add any other field to it | works | **`BadReply`** |
//! | add an element to a tuple that is returned | **`BadReply`** | **`BadReply`** |
//! | add a variant to an enum that is returned, or is an error | works until it is returned: **`BadReply`** | works |
//! | the same, where the old enum has a `#[serde(other)]` variant | works: that one | works |
//! | `-> T` becomes `-> Result<T, E>` | works until the handler fails: **`BadReply`** | works |
//! | `-> Result<T, E>` becomes `-> T` | works | works until the handler fails: **`BadReply`** |
//! | return something instead of nothing | **`BadReply`** | **`BadReply`** |
//! | make a method that returns nothing `oneway` | works | works |
//! | give a method a `queue` of its own | works | **`Unroutable`** |
//! | `idempotent`, `at_most_once`, `blocking`, `persistent`, `timeout`, `priority` | works | works |
//!
//! Each line but the trivial ones is a test, in both directions, on RabbitMQ and the embedded broker, in MessagePack and JSON:
//! `tests/suite/evolution.rs`. Structs and enums in *arguments* follow the same rules with the sides exchanged: there the server
//! reads what the client wrote, and what it cannot read is a `BadRequest`.
//!
//! # What follows
//!
//! - `BadRequest`, `UnknownMethod` and `Unroutable` are harmless: nothing has run
//!   ([`may_have_executed`](crate::RpcError::may_have_executed) is `false`), and a client can fall back on the old way, as below.
//! - **`BadReply` is not**: the handler has run, and its caller does not learn what it did.
//! - What works for the old client goes out with the servers first; what works for the new client, with the clients first. What works
//!   for neither gets a new method, beside the old one until nobody calls that any more.
//! - Give an enum that will grow a `#[serde(other)]` variant from the start. It is a variant without fields; that it may stand for
//!   variants with fields takes an enum with a `#[serde(tag = "…")]`.
//! - Return structs, not tuples, and `()` only if there will never be more to say.
//! - A service whose `name`, or whose trait's identifier, changes has another queue: old clients and new servers never meet. Keep `name`.
//!
//! # A new method, and servers that do not have it yet
//!
//! ```
//! use rpc_core::{Connection, ErrorKind, RpcError, Server, rpc};
//!
//! mod old {
//!     #[rpc_core::rpc]
//!     pub trait Stock {
//!         async fn count(item: String) -> u64;
//!     }
//! }
//!
//! #[rpc]
//! pub trait Stock {
//!     async fn count(item: String, warehouse: Option<String>) -> u64;
//!
//!     async fn count_all(&self, items: Vec<String>) -> u64 {
//!         let mut sum = 0;
//!         for item in items {
//!             sum += self.count(item, None).await;
//!         }
//!         sum
//!     }
//! }
//!
//! /// Asks for all at once, and a server that does not know how one after the other.
//! async fn count_all(stock: &StockClient, items: &[String]) -> Result<u64, RpcError> {
//!     match stock.count_all(items.to_vec()).await {
//!         Err(error) if error.kind() == ErrorKind::UnknownMethod => {
//!             let mut sum = 0;
//!             for item in items {
//!                 sum += stock.count(item.clone(), None).await?;
//!             }
//!             Ok(sum)
//!         }
//!         outcome => outcome,
//!     }
//! }
//!
//! struct Warehouse;
//!
//! impl old::Stock for Warehouse {
//!     async fn count(&self, _item: String) -> u64 {
//!         7
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let connection = Connection::open("memory:").await?;
//! let server = Server::builder(&connection).service(old::StockDispatcher::new(Warehouse)).build().start().await?;
//!
//! let stock = StockClient::new(connection.client());
//! assert_eq!(count_all(&stock, &["tea".to_owned(), "milk".to_owned()]).await?, 14);
//! server.shutdown().await?;
//! # Ok(())
//! # }
//! ```
