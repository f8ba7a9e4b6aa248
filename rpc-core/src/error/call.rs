//! Error of a call to a method with errors of its own.

use std::error::Error as StdError;
use std::fmt;

use super::rpc::RpcError;

/// Error of a call to a method that returns `Result<T, E>`.
#[derive(Debug)]
pub enum CallError<E> {
    /// The service's own error, as the handler returned it.
    App(E),
    /// The call failed without an outcome of the handler.
    Rpc(RpcError),
}

impl<E> CallError<E> {
    /// Returns the service's own error, or `None` if the call itself failed.
    pub fn app(&self) -> Option<&E> {
        match self {
            Self::App(error) => Some(error),
            Self::Rpc(_) => None,
        }
    }

    /// Returns the call's error, or `None` if the handler returned the error.
    pub fn rpc(&self) -> Option<&RpcError> {
        match self {
            Self::App(_) => None,
            Self::Rpc(error) => Some(error),
        }
    }
}

impl<E> From<RpcError> for CallError<E> {
    fn from(error: RpcError) -> Self {
        Self::Rpc(error)
    }
}

impl<E: fmt::Display> fmt::Display for CallError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::App(error) => error.fmt(f),
            Self::Rpc(error) => error.fmt(f),
        }
    }
}

impl<E: StdError + 'static> StdError for CallError<E> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::App(error) => error.source(),
            Self::Rpc(error) => error.source(),
        }
    }
}
