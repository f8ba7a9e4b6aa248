//! Errors: the service's own, and what may become of any call.
//!
//! A method that returns `T` is called as `Result<T, RpcError>`. A method that returns `Result<T, E>` is called as
//! `Result<T, CallError<E>>`: [`CallError::App`](crate::CallError::App) is the handler's own error, the value that it returned;
//! [`CallError::Rpc`](crate::CallError::Rpc) says that the call has no answer of the handler's.
//!
//! # What to do about an [`RpcError`](crate::RpcError)
//!
//! Hardly any caller needs to tell more cases than these:
//!
//! - [`may_have_executed`](crate::RpcError::may_have_executed) is `false`: certainly nothing has happened. Any method may be called
//!   again.
//! - it is `true`: a handler may have run, in part or whole. Call again if that does no harm, else find out.
//! - [`is_retryable`](crate::RpcError::is_retryable): the same call may well succeed a little later. Of `idempotent` methods
//!   the client has tried that already, for as long as the deadline allowed; the error says how often.
//! - [`is_timeout`](crate::RpcError::is_timeout): time was short, here or there.
//!
//! ```
//! use rpc_core::{CallError, Connection, ErrorKind, Server, rpc};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Debug, PartialEq, Serialize, Deserialize)]
//! pub enum TransferError {
//!     Insufficient { missing: u64 },
//! }
//!
//! #[rpc]
//! pub trait Bank {
//!     async fn withdraw(amount: u64) -> Result<u64, TransferError>;
//! }
//!
//! struct Vault;
//!
//! impl Bank for Vault {
//!     async fn withdraw(&self, amount: u64) -> Result<u64, TransferError> {
//!         assert_ne!(amount, 13, "the bank is superstitious");
//!         50_u64.checked_sub(amount).ok_or_else(|| TransferError::Insufficient { missing: amount - 50 })
//!     }
//! }
//!
//! fn told(outcome: Result<u64, CallError<TransferError>>) -> String {
//!     match outcome {
//!         Ok(left) => format!("{left} left"),
//!         Err(CallError::App(TransferError::Insufficient { missing })) => format!("{missing} too much"),
//!         Err(CallError::Rpc(error)) if error.may_have_executed() => format!("ask the bank: {error}"),
//!         Err(CallError::Rpc(error)) => format!("nothing was withdrawn: {error}"),
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let connection = Connection::open("memory:").await?;
//! let server = Server::builder(&connection).service(BankDispatcher::new(Vault)).build().start().await?;
//! let bank = BankClient::new(connection.client());
//!
//! assert_eq!(told(bank.withdraw(20).await), "30 left");
//! assert_eq!(told(bank.withdraw(70).await), "20 too much");
//! assert!(told(bank.withdraw(13).await).starts_with("ask the bank: the handler panicked"));
//!
//! let elsewhere = bank.clone().with_queue("no-such-queue");
//! let outcome = elsewhere.withdraw(20).await;
//! assert_eq!(outcome.as_ref().unwrap_err().rpc().unwrap().kind(), ErrorKind::Unroutable);
//! assert!(told(outcome).starts_with("nothing was withdrawn: there is no queue 'no-such-queue'"));
//! server.shutdown().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Kinds
//!
//! [`kind`](crate::RpcError::kind) says more, for logs and for the odd special case. What each may mean for the request:
//!
//! | kind | said by | may the request have run? |
//! |---|---|---|
//! | [`Encode`](crate::ErrorKind::Encode) | the client | no |
//! | [`Unroutable`](crate::ErrorKind::Unroutable), [`Rejected`](crate::ErrorKind::Rejected) | the broker | no |
//! | [`UnknownMethod`](crate::ErrorKind::UnknownMethod), [`BadRequest`](crate::ErrorKind::BadRequest), [`UnsupportedContentType`](crate::ErrorKind::UnsupportedContentType) | the server | no |
//! | [`PermissionDenied`](crate::ErrorKind::PermissionDenied) | a layer on either side, or the broker | no, unless the layer looks at answers, or the permission to publish was taken away meanwhile |
//! | [`Overloaded`](crate::ErrorKind::Overloaded) | a layer on either side | no, unless the layer looks at answers |
//! | [`Timeout`](crate::ErrorKind::Timeout) | the client, or a layer around it | yes, unless it was not sent |
//! | [`Disconnected`](crate::ErrorKind::Disconnected), [`Closed`](crate::ErrorKind::Closed) | the client | yes, unless it was not sent |
//! | [`TooLarge`](crate::ErrorKind::TooLarge) | the client of a request, the server of a reply | no, yes |
//! | [`DeadlineExceeded`](crate::ErrorKind::DeadlineExceeded), [`Cancelled`](crate::ErrorKind::Cancelled) | the server, a layer, or the call of which this one is part | yes, unless the server says that no handler saw it |
//! | [`Panicked`](crate::ErrorKind::Panicked) | the server | yes, unless it was one of its layers |
//! | [`BadReply`](crate::ErrorKind::BadReply) | whoever could not write or read the reply | yes |
//!
//! If an earlier attempt or an earlier delivery of the same request may have run, `may_have_executed` is `true` whatever the kind.
//!
//! # Refusals
//!
//! A refusal says what may be done about it:
//!
//! - [`PermissionDenied`](crate::ErrorKind::PermissionDenied) is final. No client repeats it. If it is the broker's, its text names
//!   the permission to grant.
//! - [`Overloaded`](crate::ErrorKind::Overloaded) may pass: clients repeat calls of `idempotent` methods that a server refused, with
//!   longer and longer pauses. For refusals of a client's own layers, [`RetryLayer`](crate::middleware::RetryLayer) does.
//! - [`Cancelled`](crate::ErrorKind::Cancelled) is no refusal: the server was told to stop, or stops, or one of its layers failed with an
//!   error that tells no kind.
//!
//! # In a handler
//!
//! Return the service's own error for what belongs to the contract: what a caller can understand and react to. A bug may
//! panic: its caller gets `Panicked`, without the panic's text, and the server goes on. A handler cannot return an `RpcError` as
//! such; a layer of the server can, see [`middleware`](super::middleware).
