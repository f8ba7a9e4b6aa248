//! Errors of calls, of opening a connection and of serving.
//!
//! [`RpcError`] is the error of one call, [`OpenError`] that of opening a connection, and [`ServeError`] that of starting or running a
//! server. A service's own errors are separate: they reach the caller whole, as [`CallError::App`].

mod call;
mod causes;
mod kind;
mod open;
mod rpc;
mod serve;

pub use self::call::CallError;
pub use self::causes::BoxError;
pub(crate) use self::causes::with_causes;
pub use self::kind::ErrorKind;
pub use self::open::OpenError;
pub(crate) use self::rpc::NO_CHANNEL;
pub use self::rpc::RpcError;
pub use self::serve::ServeError;
